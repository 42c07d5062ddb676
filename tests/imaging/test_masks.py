"""Discs and balls about the origin."""

import math

import pytest
import torch

from scoretomo.imaging.masks import ball, soft_ball


@pytest.mark.parametrize("side", [40, 41])
def test_balls_have_the_area_and_volume_of_circles_and_spheres(side: int) -> None:
    assert ball(side, 2, 15.0).sum() == pytest.approx(math.pi * 15**2, rel=0.02)
    assert ball(side, 3, 15.0).sum() == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.02)


@pytest.mark.parametrize("side", [10, 11])
def test_the_rim_belongs_to_the_ball_and_the_origin_is_its_centre(side: int) -> None:
    disc, centre = ball(side, 2, 3.0), side // 2
    assert disc[centre].tolist() == [1.0 if abs(x - centre) <= 3 else 0.0 for x in range(side)]
    about_centre = disc[centre - 4 : centre + 5, centre - 4 : centre + 5]
    assert torch.equal(about_centre, about_centre.flip(0, 1))
    assert torch.equal(about_centre, about_centre.T)


def test_the_soft_edge_falls_from_one_to_zero_as_a_raised_cosine() -> None:
    profile = soft_ball(41, 2, radius=10.0, edge=4.0)[20, 20:]
    assert (profile[:11] == 1).all()
    torch.testing.assert_close(profile[10:15], torch.tensor([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0]))
    assert profile[14:].abs().max() < 1e-6
    volume = soft_ball(41, 3, radius=10.0, edge=4.0)
    torch.testing.assert_close(volume[20, 20, 20:], profile)
    assert volume.min() >= 0 and volume.max() == 1
