"""Truths in one frame: turned the right way, moving or not, and different where they move."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import Volume
from scoretomo.evaluation.alignment import apply_alignment
from scoretomo.evaluation.moving_truths import MOVING_PART, back, moving_truths, turn
from scoretomo.geometry.rotations import from_rotation_vectors, random_rotations
from scoretomo.imaging.fourier import translate
from scoretomo.simulation.particles import SimulationConfig, simulate_map

from .conftest import SIDE, MovingSet

Make = Callable[..., MovingSet]


def test_truths_are_turned_into_the_frame_of_the_poses(make_moving: Make) -> None:
    moving = make_moving(4)
    found = moving_truths(moving.truths, moving.rotations)
    for index, volume in enumerate(found.common):
        torch.testing.assert_close(volume, moving.volume(index), atol=0.05, rtol=0)
    torch.testing.assert_close(found.mean, torch.stack([moving.volume(i) for i in range(4)]).mean(0), atol=0.04, rtol=0)


def test_what_comes_back_from_the_common_frame_lies_as_the_truth(make_moving: Make) -> None:
    moving = make_moving(3)
    truths = torch.cat([moving.truths[:2], translate(moving.truths[2:], torch.tensor([[1.0, -0.5, 0.7]]))])
    for rotations in (moving.rotations, None):  # None: the frame of the first, and shifts
        found = moving_truths(truths if rotations is None else moving.truths, rotations)
        for index, truth in enumerate(found.truths):
            rotation, shift = back(found.frames, index)
            there = apply_alignment(found.common[index][None], turn(rotation[None], shift[None]))[0]
            assert (there - truth).norm() < 0.05 * truth.norm()


def test_only_truths_that_move_differ(make_moving: Make) -> None:
    rigid, moving = make_moving(5, widest=0.0), make_moving(5)
    still = moving_truths(rigid.truths, rigid.rotations)
    found = moving_truths(moving.truths, moving.rotations)
    volumes = torch.stack([moving.volume(i) for i in range(5)])
    expected = float(volumes.var(0).sum() / volumes.flatten(1).var(1).mean() / SIDE**3)
    assert not still.move
    assert found.move
    assert found.unlike == pytest.approx(expected, rel=0.03)
    assert found.unlike > 20 * found.interpolation
    assert not moving_truths(moving.truths, moving.rotations.mT).unlike < 3 * found.unlike  # the wrong way


def test_images_of_one_map_do_not_move(generator: torch.Generator) -> None:
    """Sharp density is what interpolation harms most."""
    rough = torch.randn(24, 24, 24, generator=generator)
    axis = torch.arange(24) - 12
    inside = (axis**2 + axis[:, None] ** 2 + axis[:, None, None] ** 2) < 8**2
    simulated = simulate_map(Volume(rough * inside, 4.0), SimulationConfig(count=5, side=24))
    found = moving_truths(simulated.truth, simulated.poses.rotations)
    assert not found.move
    assert found.interpolation > 1e-3


def test_the_mask_is_where_the_blob_travels(make_moving: Make) -> None:
    moving = make_moving(8)
    mask = moving_truths(moving.truths, moving.rotations).mask
    spread = torch.stack([moving.volume(i) for i in range(8)]).std(0)
    assert mask[spread > 1.1 * MOVING_PART * spread.max()].min() > 0.95
    middle = SIDE // 2
    for travel in (-2.0, 0.0, 2.0):
        x, y, z = (torch.tensor([3.0, 3, 2]) + travel * torch.tensor([0.6, -0.8, 0])).round().int().tolist()
        assert mask[middle + z, middle + y, middle + x] > 0.9
    assert mask[middle - 3, middle - 2, middle - 1] < 0.02  # a blob that stands still
    assert mask[0, 0, 0] == pytest.approx(0, abs=1e-4)
    assert ((mask > 0.05) & (mask < 0.95)).sum() > 100  # soft


def test_without_poses_the_truths_are_aligned_to_the_first(make_moving: Make) -> None:
    moving = make_moving(4)
    shifts = torch.tensor([[0.0, 0, 0], [1.2, 0, -0.6], [0, 0.8, 0], [-1, 1, 0.5]])
    found = moving_truths(translate(moving.truths, shifts))
    posed = moving_truths(moving.truths, moving.rotations)
    torch.testing.assert_close(found.common[0], moving.truths[0], atol=0.05, rtol=0)
    assert found.move
    assert 0.2 * posed.unlike < found.unlike < posed.unlike  # some of the motion is taken for a shift
    assert not found.frames.mirrored.any()


def test_a_deviation_has_no_unit_background_or_place(make_moving: Make) -> None:
    moving = make_moving(6)
    found = moving_truths(moving.truths, moving.rotations)
    mean, scale = found.mean, found.mean.norm()
    assert found.deviation(2.5 * mean + 0.3).norm() < 1e-5 * scale
    little = from_rotation_vectors(torch.tensor([[0.02, -0.01, 0.015]]))
    placed = apply_alignment(mean[None], turn(little, torch.tensor([[0.05, 0.1, -0.1]])))[0]
    assert (placed - mean).norm() > 0.07 * scale
    assert found.deviation(placed).norm() < 0.02 * scale
    of_one = found.deviation(found.common[0])
    assert of_one.norm() > 0.03 * scale
    assert abs(float(of_one @ mean.flatten().double())) < 1e-5 * float(of_one.norm() * scale)


def test_masked_volumes_do_not_hold_the_mask(make_moving: Make, generator: torch.Generator) -> None:
    moving = make_moving(4)
    found = moving_truths(moving.truths, moving.rotations)
    volume: Tensor = torch.randn(SIDE, SIDE, SIDE, generator=generator)
    torch.testing.assert_close(found.masked(volume + 5), found.masked(volume), atol=1e-4, rtol=0)
    assert found.masked(torch.ones_like(volume)).abs().max() < 1e-5
    assert (found.masked(volume)[found.mask == 0] == 0).all()


def test_poses_may_start_from_any_frame(make_moving: Make, generator: torch.Generator) -> None:
    moving = make_moving(4)
    frame = random_rotations(1, generator=generator)
    first = moving_truths(moving.truths, moving.rotations)
    other = moving_truths(moving.truths, moving.rotations @ frame)
    assert other.unlike == pytest.approx(first.unlike, rel=0.02)
