"""Branch and bound finds what exhaustive search would, from a small part of its poses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.geometry.grids import so3_grid
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import (
    SliceFn,
    image_coefficients,
    slice_coefficients,
    translate_coefficients,
    voxel_slices,
)
from scoretomo.methods import branch_and_bound as module
from scoretomo.methods.branch_and_bound import BranchAndBoundConfig, branch_and_bound
from scoretomo.methods.pose_search import PoseSearchConfig, band, find_poses, normalise

SIDE, COUNT = 32, 8
GRID = PoseSearchConfig(
    base_order=1, refinements=4, kept=1, low_radius=8.0, high_radius=15.0, shift_extent_pixels=3.0, shift_count=4
)
QUICK = BranchAndBoundConfig(GRID)


@pytest.fixture(scope="module")
def rotations() -> Tensor:
    return random_rotations(COUNT, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def shifts() -> Tensor:
    return 6 * torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(2)) - 3


@pytest.fixture(scope="module")
def images(volume: Tensor, rotations: Tensor, shifts: Tensor) -> Tensor:
    return translate(project(volume[None], rotations[None])[0], shifts)


def _noisy(images: Tensor, signal_to_noise: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    return images + noise * (images.var(dim=(1, 2), keepdim=True) / signal_to_noise).sqrt()


def _counted(slice_fn: SliceFn) -> tuple[SliceFn, list[int]]:
    points: list[int] = []

    def counting(coordinates: Tensor) -> Tensor:
        points.append(coordinates[..., 0].numel())
        return slice_fn(coordinates)

    return counting, points


def test_finds_rotations_and_shifts_of_clean_projections(
    volume: Tensor, images: Tensor, rotations: Tensor, shifts: Tensor
) -> None:
    found = branch_and_bound(images, voxel_slices(volume), QUICK)
    assert found.rotations.shape == (COUNT, 1, 3, 3)
    errors, distances = (
        angle_between(found.rotations[:, 0], rotations),
        (found.shifts_pixels[:, 0] - shifts).norm(dim=1),
    )
    assert errors.median() < 1.5 and errors.max() < 8
    assert distances.median() < 0.1 and distances.max() < 0.3
    assert found.scores.min() > 0.99
    # shifts are centres of the cells that tile the square
    cells = (found.shifts_pixels + GRID.shift_extent_pixels) / GRID.shift_spacing(GRID.refinements)
    torch.testing.assert_close(cells, cells.floor() + 0.5, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("signal_to_noise", "astray_degrees"), [(math.inf, 0), (1.0, 1), (0.5, 6)])
def test_the_cell_of_the_true_pose_is_never_discarded(
    volume: Tensor,
    images: Tensor,
    rotations: Tensor,
    signal_to_noise: float,
    astray_degrees: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every level, the survivors of an image hold a rotation whose cell has the truth.

    A cell reaches 0.87 of the spacing from its centre if it is a cube. Noise moves the best pose away from the truth.
    """
    prune, worst = module._that_may_win, []

    def watched(poses, targets, inside, slice_fn, config, level):  # type: ignore[no-untyped-def]
        kept = prune(poses, targets, inside, slice_fn, config, level)
        image = poses.image[kept]
        away = angle_between(so3_grid(1 + level, poses.cell[kept]), rotations[image])
        nearest = torch.full((COUNT,), 180.0).scatter_reduce(0, image, away, "amin")
        worst.append(float(nearest.max()) - 0.9 * math.degrees(config.grid.rotation_spacing(level)))
        return kept

    monkeypatch.setattr(module, "_that_may_win", watched)
    branch_and_bound(_noisy(images, signal_to_noise), voxel_slices(volume), QUICK)
    assert len(worst) == 4
    assert max(worst) < astray_degrees


def test_noise_keeps_more_poses_alive(volume: Tensor, images: Tensor) -> None:
    points = []
    for targets in (images, _noisy(images, 0.5)):
        slice_fn, calls = _counted(voxel_slices(volume))
        branch_and_bound(targets, slice_fn, BranchAndBoundConfig(GRID, most_poses=600))
        points.append(sum(calls))
    assert points[1] > 2 * points[0]


def test_evaluates_a_small_part_of_the_finest_grid(
    volume: Tensor, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pose is a rotation at a shift."""
    subdivide, poses = module._subdivide, [576 * 16 * COUNT]

    def counted(*arguments):  # type: ignore[no-untyped-def]
        children = subdivide(*arguments)
        poses.append(len(children.image))
        return children

    monkeypatch.setattr(module, "_subdivide", counted)
    branch_and_bound(images, voxel_slices(volume), QUICK)
    finest = 576 * 8**4 * 16 * 4**4
    assert sum(poses) / COUNT < 1e-5 * finest


def test_agrees_with_the_hierarchical_search(volume: Tensor, images: Tensor) -> None:
    noisy = _noisy(images, 1.0)
    config = PoseSearchConfig(
        refinements=3, kept=8, low_radius=8.0, high_radius=15.0, shift_extent_pixels=3.0, shift_count=4
    )
    ours, other = branch_and_bound(noisy, voxel_slices(volume), QUICK), find_poses(noisy, voxel_slices(volume), config)
    assert angle_between(ours.rotations[:, 0], other.rotations[:, 0]).median() < 3
    assert (ours.shifts_pixels[:, 0] - other.shifts_pixels[:, 0]).norm(dim=-1).median() < 0.3
    assert (ours.scores[:, 0] > other.scores[:, 0] - 0.01).all()  # the same quantity, and as high


def _transfer(images: Tensor, frequencies: Tensor) -> Tensor:
    """Oscillate along the radius, and change sign, at another pace for each image."""
    pace = 60 + 4.0 * images[:, None]
    return -(pace * frequencies.square().sum(-1) + 0.1).sin()


@pytest.fixture(scope="module")
def blurred(images: Tensor) -> Tensor:
    axis = torch.arange(SIDE) / SIDE - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    values = _transfer(torch.arange(COUNT), points).view(-1, SIDE, SIDE)
    return centred_inverse_fft(centred_fft(images, 2) * values, 2)


def test_finds_poses_under_a_contrast_transfer_of_each_image(
    volume: Tensor, blurred: Tensor, rotations: Tensor, shifts: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoretomo.methods.pose_search._VALUES_AT_ONCE", 4 * 4 * 576 * 16)
    found = branch_and_bound(blurred, voxel_slices(volume), QUICK, transfer=_transfer)
    assert angle_between(found.rotations[:, 0], rotations).median() < 2
    assert (found.shifts_pixels[:, 0] - shifts).norm(dim=-1).max() < 0.5
    assert found.scores.min() > 0.98


@pytest.mark.parametrize(("level", "low_radius"), [(0, 4.0), (0, 8.0), (1, 8.0), (2, 8.0)])
def test_the_bound_of_a_cell_is_above_the_correlation_of_the_pose_in_it(
    volume: Tensor, blurred: Tensor, rotations: Tensor, shifts: Tensor, level: int, low_radius: float
) -> None:
    """Of the pose that made the image, from the score of a pose anywhere in a cell around it."""
    grid = replace(GRID, low_radius=low_radius)
    frequencies = band(blurred, 15.0)
    targets = module._Targets(
        normalise(image_coefficients(blurred, frequencies)), _transfer(torch.arange(COUNT), frequencies), frequencies
    )
    inside = module._inside(blurred, frequencies, grid, level)
    draw = torch.rand(COUNT, 100, 5, generator=torch.Generator().manual_seed(6)) - 0.5
    turns = from_rotation_vectors(draw[..., :3] * grid.rotation_spacing(level))
    centres = slice_coefficients(voxel_slices(volume), turns @ rotations[:, None], frequencies)[..., inside]
    centres = normalise(centres * targets.contrast[:, None, inside])
    moved = shifts[:, None] + draw[..., 3:] * grid.shift_spacing(level)
    images = translate_coefficients(targets.coefficients[:, None, inside], frequencies[inside], -moved)
    scores = (centres * images).sum(-1).sort(descending=True).values
    scores = torch.cat([scores, 0.6 * scores], dim=1)
    config = BranchAndBoundConfig(grid)
    bounds, of_others = module._bound(scores, targets, inside, voxel_slices(volume), config, level).chunk(2, dim=1)
    assert (bounds > 0.995).float().mean() > 0.9  # the correlation of the true pose is 1; lost_cells is 0.05
    assert (of_others < 0.95).float().mean() > 0.9


def test_the_best_pose_is_judged_under_its_contrast_transfer(
    volume: Tensor, blurred: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would not reach the bounds of poses that are far from the image."""
    prune, kept = module._that_may_win, []

    def watched(*arguments):  # type: ignore[no-untyped-def]
        rows = prune(*arguments)
        kept.append(len(rows) / COUNT)
        return rows

    monkeypatch.setattr(module, "_that_may_win", watched)
    branch_and_bound(blurred, voxel_slices(volume), QUICK, transfer=_transfer)
    assert max(kept[1:]) < 150


def test_kept_poses_are_sorted_and_separate_without_a_search_of_shifts(volume: Tensor, rotations: Tensor) -> None:
    views = project(volume[None], rotations[None])[0]
    grid = PoseSearchConfig(
        base_order=1, refinements=2, kept=3, low_radius=8.0, high_radius=12.0, separation_degrees=25.0
    )
    found = branch_and_bound(views, voxel_slices(volume), BranchAndBoundConfig(grid))
    assert not found.shifts_pixels.any()
    assert (found.scores.diff(dim=-1) <= 0).all()
    assert angle_between(found.rotations[:, 0], rotations).median() < 5
    assert angle_between(found.rotations[:, 0], found.rotations[:, 1]).min() > 0.1


def test_an_empty_image_has_no_correlation(volume: Tensor) -> None:
    found = branch_and_bound(torch.zeros(1, SIDE, SIDE), voxel_slices(volume), QUICK)
    assert not found.scores.any()


def test_defaults_end_at_the_resolution_of_cryodrgn() -> None:
    grid = BranchAndBoundConfig().grid
    assert len(so3_grid(grid.base_order)) == 576
    assert math.degrees(grid.rotation_spacing(5)) == pytest.approx(0.94, abs=0.005)
    assert grid.shift_spacing(5) == pytest.approx(0.089, abs=0.001)
    assert grid.radius(0) == 12 and grid.radius(5) == 64


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"deviations": -1.0}, "deviations"),
        ({"lost_cells": 1.5}, "lost_cells"),
        ({"most_poses": 0}, "most_poses"),
        ({"grid": PoseSearchConfig(kept=9)}, "keeps 8"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        BranchAndBoundConfig(**settings)
