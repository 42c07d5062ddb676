"""Pose search finds the poses that made the images, in the package's one convention."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z
from scoretomo.imaging.slices import lattice_slices, voxel_slices
from scoretomo.methods.pose_search import (
    PoseSearchConfig,
    TransferFn,
    find_poses,
    refine_poses,
    search_grid,
)

SIDE = 32
QUICK = PoseSearchConfig(refinements=3, kept=4, low_radius=10.0, high_radius=14.0)


@pytest.fixture(scope="module")
def rotations() -> Tensor:
    return random_rotations(30, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def images(volume: Tensor, rotations: Tensor) -> Tensor:
    return project(volume[None], rotations[None])[0]


def _move(images: Tensor, shifts: Tensor) -> Tensor:
    axis = torch.arange(SIDE) / SIDE - 0.5
    turns = shifts[:, 0, None, None] * axis + shifts[:, 1, None, None] * axis[:, None]
    return centred_inverse_fft(centred_fft(images, 2) * torch.exp(-2j * math.pi * turns), 2)


def _transfer(images: Tensor, frequencies: Tensor) -> Tensor:
    """Oscillate along the radius, and change sign, at another pace for each image."""
    pace = 60 + 4.0 * images[:, None]
    return -(pace * frequencies.square().sum(-1) + 0.1).sin()


def test_finds_the_rotations_of_clean_projections(volume: Tensor, images: Tensor, rotations: Tensor) -> None:
    found = find_poses(images, voxel_slices(volume), QUICK)
    errors = angle_between(found.rotations[:, 0], rotations)
    assert errors.median() < 1.5
    assert errors.max() < 8  # no image on a false peak
    assert not found.shifts_pixels.any()
    assert found.scores[:, 0].min() > 0.98
    # the transpose is the other convention, and wrong
    assert angle_between(found.rotations[:, 0], rotations.mT).median() > 45


def test_finds_rotations_and_shifts_together(volume: Tensor, images: Tensor, rotations: Tensor) -> None:
    shifts = 6 * torch.rand(len(images), 2, generator=torch.Generator().manual_seed(2)) - 3
    config = PoseSearchConfig(
        refinements=3, kept=4, low_radius=10.0, high_radius=14.0, shift_extent_pixels=3.0, shift_count=6
    )
    found = find_poses(_move(images, shifts), voxel_slices(volume), config)
    assert angle_between(found.rotations[:, 0], rotations).median() < 2
    distances = (found.shifts_pixels[:, 0] - shifts).norm(dim=-1)
    assert distances.median() < 0.15
    assert distances.max() < 0.5


def test_finds_poses_in_noise_of_the_images_own_power(volume: Tensor, images: Tensor, rotations: Tensor) -> None:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    found = find_poses(images + images.std() * noise, voxel_slices(volume), QUICK)
    assert angle_between(found.rotations[:, 0], rotations).median() < 4


def test_candidates_are_sorted_and_separate(volume: Tensor, images: Tensor) -> None:
    found = find_poses(images, voxel_slices(volume), QUICK)
    assert found.rotations.shape == (30, 4, 3, 3)
    assert (found.scores.diff(dim=-1) <= 0).all()
    angles = angle_between(
        found.rotations[:, :, None].expand(-1, -1, 4, 3, 3), found.rotations[:, None]
    ) + 180 * torch.eye(4)
    assert angles.min() > QUICK.separation_degrees - 0.1


def test_a_score_is_the_correlation_of_the_image_with_the_projection_it_names(volume: Tensor, images: Tensor) -> None:
    config = PoseSearchConfig(refinements=1, kept=3, low_radius=12.0, high_radius=16.0)
    found = find_poses(images, voxel_slices(volume), config)
    views = project(volume[None].expand(30, -1, -1, -1), found.rotations)
    pairs = torch.stack([images[:, None].expand_as(views), views]).flatten(-2)
    first, second = pairs - pairs.mean(-1, keepdim=True)  # the disc is without the origin of frequencies
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(first, second, dim=-1), found.scores, rtol=0, atol=0.01
    )


@pytest.mark.parametrize("transfer", [None, _transfer])
def test_batches_do_not_change_the_result(
    volume: Tensor, images: Tensor, transfer: TransferFn | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PoseSearchConfig(
        base_order=1, refinements=1, kept=2, low_radius=6.0, high_radius=8.0, shift_extent_pixels=2.0, shift_count=2
    )
    together = find_poses(images, voxel_slices(volume), config, transfer=transfer)
    monkeypatch.setattr("scoretomo.methods.pose_search._VALUES_AT_ONCE", 7 * 576 * 4)
    apart = find_poses(images, voxel_slices(volume), config, transfer=transfer)
    torch.testing.assert_close(apart.scores, together.scores)
    torch.testing.assert_close(apart.rotations[:, 0], together.rotations[:, 0])
    torch.testing.assert_close(apart.shifts_pixels[:, 0], together.shifts_pixels[:, 0])


def test_scale_and_background_of_an_image_do_not_matter(volume: Tensor, images: Tensor) -> None:
    config = PoseSearchConfig(base_order=1, refinements=1, kept=2, low_radius=6.0, high_radius=8.0)
    plain = find_poses(images, voxel_slices(volume), config)
    changed = find_poses(7 * images - 3, voxel_slices(volume), config)
    torch.testing.assert_close(changed.scores, plain.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(changed.rotations[:, 0], plain.rotations[:, 0])


def test_the_other_hand_explains_an_image_equally_well_under_the_mirrored_rotation(
    volume: Tensor, images: Tensor
) -> None:
    found = find_poses(images, voxel_slices(volume), QUICK)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    views = project(volume[None], found.rotations[None, :, 0])
    of_the_other_hand = project(mirror_z(volume)[None], (mirror @ found.rotations[:, 0] @ mirror)[None])
    torch.testing.assert_close(of_the_other_hand, views, rtol=1e-3, atol=1e-3)


def test_refinement_leaves_the_cell_of_a_candidate_that_is_one_step_off(
    volume: Tensor, images: Tensor, rotations: Tensor
) -> None:
    grid = search_grid(images, voxel_slices(volume), QUICK)
    refined = grid
    for level in (1, 2, 3):
        refined = refine_poses(images, voxel_slices(volume), refined, QUICK, level)
        assert (refined.scores[:, 0] > 0.9).all()
    before, after = (angle_between(poses.rotations[:, 0], rotations) for poses in (grid, refined))
    assert 3 < before.median() < 12
    assert after.median() < before.median() / 4


def test_many_poses_at_first_and_few_at_last_lose_fewer_peaks(volume: Tensor, rotations: Tensor) -> None:
    """An object that is nearly the same after half a turn: on the coarse grid the wrong of two peaks may be higher."""
    volume = volume + 0.75 * volume.flip(1, 2).roll((1, 1), (1, 2))
    images = project(volume[None], rotations[None])[0]
    plain = replace(QUICK, kept=1)
    tapered = replace(plain, tapered=True)
    assert [replace(tapered, kept=8).kept_at(level) for level in range(5)] == [24, 12, 6, 3, 2]
    best, better = (find_poses(images, voxel_slices(volume), each).scores for each in (plain, tapered))
    assert best.shape == better.shape == (len(images), 1)
    assert (better >= best - 1e-3).all() and (better > best + 0.005).any()  # another peak


def test_an_empty_image_has_no_correlation(volume: Tensor) -> None:
    config = PoseSearchConfig(base_order=1, refinements=1, low_radius=6.0, high_radius=8.0)
    found = find_poses(torch.zeros(1, SIDE, SIDE), voxel_slices(volume), config)
    assert not found.scores.any()


def test_defaults_end_at_the_resolution_of_cryodrgn2() -> None:
    config = PoseSearchConfig(shift_extent_pixels=20.0)
    assert math.degrees(config.rotation_spacing(0)) == pytest.approx(15)
    assert math.degrees(config.rotation_spacing(4)) == pytest.approx(0.94, abs=0.005)
    assert config.shift_spacing(4) == pytest.approx(0.18, abs=0.005)
    assert [config.radius(level) for level in range(5)] == [12, 21, 30, 39, 48]


@pytest.fixture(scope="module")
def blurred(images: Tensor) -> Tensor:
    """Images as the microscope would make them, by a Fourier transform in the place of a Hartley transform."""
    axis = torch.arange(SIDE) / SIDE - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    values = _transfer(torch.arange(len(images)), points).view(-1, SIDE, SIDE)
    return centred_inverse_fft(centred_fft(images, 2) * values, 2)


def test_finds_rotations_and_shifts_under_a_contrast_transfer_of_each_image(
    volume: Tensor, blurred: Tensor, rotations: Tensor
) -> None:
    shifts = 4 * torch.rand(len(blurred), 2, generator=torch.Generator().manual_seed(2)) - 2
    config = PoseSearchConfig(
        refinements=3, kept=4, low_radius=10.0, high_radius=14.0, shift_extent_pixels=2.0, shift_count=4
    )
    found = find_poses(_move(blurred, shifts), voxel_slices(volume), config, transfer=_transfer)
    assert angle_between(found.rotations[:, 0], rotations).median() < 2
    assert angle_between(found.rotations[:, 0], rotations).max() < 8
    assert (found.shifts_pixels[:, 0] - shifts).norm(dim=-1).median() < 0.15
    assert found.scores[:, 0].min() > 0.95
    ignored = find_poses(_move(blurred, shifts), voxel_slices(volume), config)
    assert ignored.scores[:, 0].max() < 0.9


@pytest.mark.parametrize("refinements", [0, 1])
def test_a_score_is_the_correlation_with_the_blurred_projection(
    volume: Tensor, blurred: Tensor, refinements: int
) -> None:
    """Of the exhaustive level, whose correlations are two matrix products, and of a refinement, where they are not."""
    config = PoseSearchConfig(
        base_order=1, refinements=refinements, kept=2, low_radius=15.9, high_radius=15.9, shift_extent_pixels=1.0
    )
    noise = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(4))
    noise = centred_inverse_fft(centred_fft(noise, 2) * (_radius() <= 15.9), 2)
    images = (blurred + 0.5 * blurred.std() * noise)[:5]
    found = find_poses(images, voxel_slices(volume), config, transfer=_transfer)
    views = project(volume[None].expand(5, -1, -1, -1), found.rotations)
    axis = torch.arange(SIDE) / SIDE - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    values = _transfer(torch.arange(5), points).view(-1, 1, SIDE, SIDE) * (_radius() <= 15.9)
    views = centred_inverse_fft(centred_fft(views, 2) * values, 2)
    views = _move(views.flatten(0, 1), found.shifts_pixels.flatten(0, 1)).flatten(1)
    first, second = views, images.repeat_interleave(2, dim=0).flatten(1)
    first, second = first - first.mean(-1, keepdim=True), second - second.mean(-1, keepdim=True)
    correlations = torch.nn.functional.cosine_similarity(first, second, dim=-1)
    torch.testing.assert_close(correlations, found.scores.flatten(), rtol=0, atol=0.01)


def _radius() -> Tensor:
    axis = torch.arange(SIDE) - SIDE // 2
    return (axis[:, None] ** 2 + axis**2).sqrt()


def test_a_transfer_of_one_changes_nothing(volume: Tensor, images: Tensor) -> None:
    config = PoseSearchConfig(base_order=1, refinements=1, kept=2, low_radius=6.0, high_radius=8.0)
    plain = find_poses(images, voxel_slices(volume), config)
    same = find_poses(images, voxel_slices(volume), config, transfer=lambda which, k: torch.ones(len(which), len(k)))
    torch.testing.assert_close(same.scores, plain.scores)
    torch.testing.assert_close(same.rotations[:, 0], plain.rotations[:, 0])


def test_the_exhaustive_search_slices_a_volume_once_whatever_the_number_of_images(
    volume: Tensor, blurred: Tensor
) -> None:
    calls = []

    def slice_fn(points: Tensor) -> Tensor:
        calls.append(points[..., 0].numel())
        return voxel_slices(volume)(points)

    config = PoseSearchConfig(base_order=1, low_radius=6.0, shift_extent_pixels=2.0)
    search_grid(blurred, slice_fn, config, transfer=_transfer)
    assert sum(calls) == 576 * 112  # rotations times points of the disc, without its origin


def test_a_lattice_of_values_serves_as_well_as_the_volume(volume: Tensor, images: Tensor, rotations: Tensor) -> None:
    lattice = lattice_slices(voxel_slices(volume, padding=3), SIDE, QUICK.high_radius)
    found = find_poses(images, lattice, QUICK)
    assert angle_between(found.rotations[:, 0], rotations).median() < 1.5
    assert found.scores[:, 0].min() > 0.98


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kept": 0}, "kept"),
        ({"low_radius": 20.0, "high_radius": 10.0}, "low_radius"),
        ({"shift_extent_pixels": -1.0}, "shift_extent_pixels"),
        ({"separation_degrees": 0.0}, "separation_degrees"),
        ({"refinements": -1}, "refinements"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        PoseSearchConfig(**settings)
