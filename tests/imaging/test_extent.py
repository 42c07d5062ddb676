"""The radius of a molecule is read off its images, in noise as without."""

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.extent import molecule_radius
from scoretomo.imaging.masks import ball
from scoretomo.imaging.projection import project

SIDE = 40


def _projections(volume: Tensor, count: int = 60) -> Tensor:
    return project(volume[None], random_rotations(1, count, generator=torch.Generator().manual_seed(0)))[0]


@pytest.mark.parametrize("radius", [5.0, 8.0, 12.0])
def test_the_radius_of_a_ball_with_a_margin(radius: float) -> None:
    found = molecule_radius(_projections(ball(SIDE, 3, radius)))
    # 98 % of its mass lie within 0.96 of the radius: a tenth and a pixel make up for it
    assert radius <= found <= 1.15 * radius + 2


def test_it_does_not_depend_on_the_scale_of_the_images() -> None:
    images = _projections(ball(SIDE, 3, 8.0))
    assert molecule_radius(1e-3 * images) == molecule_radius(images)


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_does_not_widen_it(strength: float, seed: int) -> None:
    clean = _projections(ball(SIDE, 3, 8.0))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    noisy = molecule_radius(clean + strength * clean.std() * noise)
    assert abs(noisy - molecule_radius(clean)) < 2.5


def test_a_long_molecule_reaches_to_near_its_ends() -> None:
    volume = torch.zeros(SIDE, SIDE, SIDE)
    volume[SIDE // 2 - 12 : SIDE // 2 + 13, SIDE // 2 - 2 : SIDE // 2 + 3, SIDE // 2 - 2 : SIDE // 2 + 3] = 1
    assert 11 <= molecule_radius(_projections(volume)) <= 15


def test_it_is_half_the_side_at_most(generator: torch.Generator) -> None:
    assert molecule_radius(torch.ones(5, 16, 16)) == 8
    assert molecule_radius(torch.ones(5, 17, 17)) == 8
    assert molecule_radius(_projections(ball(20, 3, 10.0))) == 10
    # nothing but noise has some radius, within the image
    assert 0 < molecule_radius(torch.randn(5, 16, 16, generator=generator)) <= 8


def test_a_lone_image_has_a_radius() -> None:
    volume = ball(SIDE, 3, 8.0)
    assert molecule_radius(volume.sum(0)[None]) == pytest.approx(molecule_radius(_projections(volume)), abs=1.5)
