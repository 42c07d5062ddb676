"""Images are found among the slices of volumes, and volumes are built from images whose poses are known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, recentre_crop, resize, translate
from scoretomo.imaging.polar import PolarPlanes, polar_planes
from scoretomo.imaging.projection import project
from scoretomo.methods import polar_matching
from scoretomo.methods.polar_matching import (
    RingImages,
    RingPoses,
    box_of,
    find_shifts,
    match,
    rebuild,
    ring_images,
    rings_of,
    spread,
)
from scoretomo.methods.pose_search import TransferFn

SIDE, RADIUS, RINGS, COUNT = 24, 8.0, 8, 100


def _blobs(seed: int) -> Tensor:
    """Fourteen Gaussian blobs with no symmetry, within the radius."""
    draw = torch.Generator().manual_seed(seed)
    centres = 2.6 * torch.randn(14, 3, generator=draw).clamp(-1.6, 1.6)
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    blobs = [torch.exp(-(points - centre).square().sum(-1) / (2 * 1.1**2)) for centre in centres - centres.mean(0)]
    return torch.stack(blobs).sum(0)


def _transfer(rows: Tensor, frequencies: Tensor) -> Tensor:
    """Changes its sign near a quarter of a cycle per pixel, for each image elsewhere."""
    return torch.cos((22 + 0.1 * rows[:, None]) * frequencies.square().sum(-1))


def _under(transfer: TransferFn | None, images: Tensor) -> Tensor:
    if transfer is None:
        return images
    axis = (torch.arange(SIDE) - SIDE // 2) / SIDE
    frequencies = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1).flatten(0, 1)
    contrast = transfer(torch.arange(len(images)), frequencies).view(-1, SIDE, SIDE)
    return centred_inverse_fft(centred_fft(images, 2) * contrast, 2)


def _coarse(volume: Tensor, images: RingImages) -> Tensor:
    return resize(recentre_crop(volume, images.box, 3), images.side, 3)


def _weights(images: RingImages) -> Tensor:
    return torch.arange(1, images.rings + 1) / images.power.mean(0)


def _planes(images: RingImages, order: int = 2) -> PolarPlanes:
    return polar_planes(order, images.rings, images.angles, images.side)


def _poses(planes: PolarPlanes, count: int = COUNT) -> RingPoses:
    """Poses of the grid, at random, of both sides of the planes."""
    draw = torch.Generator().manual_seed(4)
    shape = (1, count, 1)
    return RingPoses(
        rows=torch.arange(count)[None],
        plane=torch.randint(len(planes), shape, generator=draw),
        facing=torch.rand(shape, generator=draw) < 0.5,
        in_plane=torch.randint(planes.angles, shape, generator=draw) * (2 * math.pi / planes.angles),
        weights=torch.ones(shape),
        scores=torch.ones(shape[:2]),
        shifts=torch.zeros(1, count, 2),
    )


def _rotations(planes: PolarPlanes, poses: RingPoses) -> Tensor:
    return planes.rotations(poses.plane[0, :, 0], poses.facing[0, :, 0], poses.in_plane[0, :, 0])


def _match(
    images: RingImages, planes: PolarPlanes, volumes: Tensor, shifts: Tensor | None = None, temperature: float = 0.1
) -> RingPoses:
    rows = torch.arange(len(images)).expand(len(volumes), -1)
    shifts = torch.zeros(*rows.shape, 2) if shifts is None else shifts
    return match(images, planes, volumes, rows, _weights(images), temperature=temperature, candidates=5, shifts=shifts)


@pytest.fixture(scope="module")
def volume() -> Tensor:
    return _blobs(0)


@pytest.fixture(scope="module")
def planes() -> PolarPlanes:
    return _planes(ring_images(torch.zeros(1, SIDE, SIDE), RADIUS, RINGS))


@pytest.fixture(scope="module")
def truth(planes: PolarPlanes) -> RingPoses:
    return _poses(planes)


@pytest.fixture(scope="module")
def clean(volume: Tensor, planes: PolarPlanes, truth: RingPoses) -> Tensor:
    return project(volume[None], _rotations(planes, truth)[None])[0]


def test_the_box_holds_the_molecule_and_rings_stay_within_the_images() -> None:
    assert box_of(8.0) == 22 and box_of(8.2) % 2 == 0  # whole voxels about the origin
    assert rings_of(4.0, 8.0, 100) == math.ceil(4.0 * 22 / 16)
    for side in (16, 17, 24, 25):
        rings = rings_of(50.0, 8.0, side)
        assert rings / box_of(8.0) < 0.5 and rings / box_of(8.0) <= (side - 1) / 2 / side
    assert rings_of(0.1, 8.0, 24) == 2


@pytest.mark.parametrize("transfer", [None, _transfer])
def test_poses_of_the_grid_are_found_exactly(
    transfer: TransferFn | None, volume: Tensor, clean: Tensor, planes: PolarPlanes, truth: RingPoses
) -> None:
    images = ring_images(_under(transfer, clean), RADIUS, RINGS, transfer)
    found = _match(images, planes, _coarse(volume, images)[None])
    assert found.plane[..., :1].equal(truth.plane)
    assert found.facing[..., :1].equal(truth.facing)
    torch.testing.assert_close(found.in_plane[..., :1], truth.in_plane)
    assert found.scores.min() > 0.93 and found.scores.max() <= 1
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(1, COUNT))
    assert (found.weights.diff(dim=-1) <= 0).all()
    assert found.rows.equal(truth.rows)


def test_a_contrast_transfer_that_is_not_told_is_missed(volume: Tensor, clean: Tensor, planes: PolarPlanes) -> None:
    filtered = _under(_transfer, clean)
    told, untold = (ring_images(filtered, RADIUS, RINGS, transfer) for transfer in (_transfer, None))
    scores = [_match(images, planes, _coarse(volume, images)[None]).scores for images in (told, untold)]
    assert scores[0].median() > scores[1].median() + 0.2


def test_any_pose_is_found_to_within_the_grid(volume: Tensor) -> None:
    rotations = random_rotations(60, generator=torch.Generator().manual_seed(1))
    images = ring_images(project(volume[None], rotations[None])[0], RADIUS, RINGS)
    planes = _planes(images, 2)
    found = _match(images, planes, _coarse(volume, images)[None])
    degrees = angle_between(_rotations(planes, found), rotations)
    # planes lie 15 degrees apart, angles 7.5
    assert degrees.max() < 14
    assert degrees.median() < 7


def test_scores_tell_the_volume_from_another_and_from_its_negative(
    volume: Tensor, clean: Tensor, planes: PolarPlanes
) -> None:
    images = ring_images(clean, RADIUS, RINGS)
    volumes = torch.stack([_coarse(each, images) for each in (volume, _blobs(7), -volume)])
    scores = _match(images, planes, volumes).scores
    assert scores.abs().max() <= 1
    assert scores[0].min() > scores[1].max()
    assert scores[1].mean() > scores[2].mean()


def test_several_volumes_are_matched_and_built_as_each_is_alone(
    volume: Tensor, clean: Tensor, planes: PolarPlanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ring_images(clean[:20], RADIUS, RINGS)
    volumes = torch.stack([_coarse(_blobs(seed), images) for seed in range(3)])
    together = _match(images, planes, volumes)
    weights = torch.linspace(0.2, 1, 60).view(3, 20)
    built = rebuild(images, planes, together, RINGS, weights, 0.3)
    monkeypatch.setattr(polar_matching, "_CORRELATIONS_AT_ONCE", 1)  # and images in parts as all at once
    for which in range(3):
        alone = _match(images, planes, volumes[which : which + 1])
        assert alone.plane[0, :, 0].equal(together.plane[which, :, 0])
        assert alone.facing[0, :, 0].equal(together.facing[which, :, 0])
        for name in ("scores", "weights", "in_plane"):
            mine, theirs = getattr(alone, name)[0], getattr(together, name)[which]
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(vars(together.of(torch.tensor([which])))["scores"], together.scores[which][None])
        again = rebuild(images, planes, alone, RINGS, weights[which : which + 1], 0.3)[0]
        assert (again - built[which]).norm() < 1e-2 * built[which].norm()


def test_cold_weights_are_on_the_best_pose(volume: Tensor, clean: Tensor, planes: PolarPlanes) -> None:
    images = ring_images(clean, RADIUS, RINGS)
    cold, hot = (_match(images, planes, _coarse(volume, images)[None], temperature=t) for t in (0.01, 10.0))
    assert cold.weights[..., 0].min() > 0.9
    assert hot.weights.max() < 0.3  # five candidates that hardly differ


def test_images_are_spread_over_the_planes_of_each_start() -> None:
    crowded = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4]])
    apart = torch.tensor([[5, 1], [6, 2], [7, 3], [8, 4]])
    sure, open_ = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    weights = torch.stack([open_, open_, open_, sure]).expand(2, 4, 2)
    none = torch.zeros(2, 4, 2)
    poses = RingPoses(
        torch.arange(4).expand(2, 4), torch.stack([crowded, apart]), none.bool(), none, weights, none[..., 0], none
    )
    found = spread(poses, 9).weights
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4))  # an image counts as much as before
    torch.testing.assert_close(found[:, 3], weights[:, 3])  # one that can lie nowhere else stays
    assert (found[0, :3, 1] > 2 * found[0, :3, 0]).all()
    torch.testing.assert_close(found[1, :3], weights[1, :3])  # what another start does is nothing to this one


@pytest.mark.parametrize(("transfer", "least"), [(None, 0.98), (_transfer, 0.95)])
def test_images_at_their_poses_make_the_volume(
    transfer: TransferFn | None, least: float, volume: Tensor, clean: Tensor, planes: PolarPlanes, truth: RingPoses
) -> None:
    images = ring_images(_under(transfer, clean), RADIUS, RINGS, transfer)
    built = rebuild(images, planes, truth, RINGS, torch.ones(1, COUNT), 0.1)[0]
    expected = _coarse(volume, images)
    assert torch.nn.functional.cosine_similarity(built.flatten(), expected.flatten(), dim=0) > least
    assert built.min() >= 0
    outside = images.support == 0
    assert outside.any() and not built[outside].any()
    for wrong in (
        replace(truth, facing=~truth.facing),
        replace(truth, in_plane=-truth.in_plane),
        replace(truth, plane=truth.plane.roll(1, 1)),
    ):
        made = rebuild(images, planes, wrong, RINGS, torch.ones(1, COUNT), 0.1)[0]
        assert torch.nn.functional.cosine_similarity(made.flatten(), expected.flatten(), dim=0) < least - 0.1


def test_images_without_weight_and_moved_images_do_no_harm(
    volume: Tensor, clean: Tensor, planes: PolarPlanes, truth: RingPoses, generator: torch.Generator
) -> None:
    expected = rebuild(ring_images(clean, RADIUS, RINGS), planes, truth, RINGS, torch.ones(1, COUNT), 0.1)
    pixels = 3 * torch.rand(COUNT, 2, generator=generator) - 1.5
    spoiled = translate(clean, pixels)
    spoiled[::10] = 100 * torch.randn(10, SIDE, SIDE, generator=generator)
    images = ring_images(spoiled, RADIUS, RINGS)
    moved = replace(truth, shifts=pixels[None] / images.box)
    weights = torch.ones(1, COUNT)
    weights[:, ::10] = 0
    built = rebuild(images, planes, moved, RINGS, weights, 0.1)
    assert torch.nn.functional.cosine_similarity(built.flatten(), expected.flatten(), dim=0) > 0.97
    astray = rebuild(images, planes, replace(moved, shifts=-moved.shifts), RINGS, weights, 0.1)
    assert torch.nn.functional.cosine_similarity(astray.flatten(), expected.flatten(), dim=0) < 0.9


def test_detail_beyond_the_rings_that_count_is_left_out(clean: Tensor, planes: PolarPlanes, truth: RingPoses) -> None:
    images = ring_images(clean, RADIUS, RINGS)
    coarse, fine = (rebuild(images, planes, truth, rings, torch.ones(1, COUNT), 0.1) for rings in (3, RINGS))
    assert coarse.max() < 0.7 * fine.max()


@pytest.mark.parametrize("transfer", [None, _transfer])
def test_shifts_of_pixels_are_found_and_undone(
    transfer: TransferFn | None, volume: Tensor, clean: Tensor, planes: PolarPlanes, truth: RingPoses
) -> None:
    draw = torch.Generator().manual_seed(6)
    pixels = (1 + torch.rand(COUNT, 2, generator=draw)) * torch.tensor([1.0, -1.0])
    images = ring_images(_under(transfer, translate(clean, pixels)), RADIUS, RINGS, transfer)
    axis = torch.arange(-12, 13) * 0.25 / images.box  # to 3 pixels
    grid, volumes = torch.cartesian_prod(axis, axis), _coarse(volume, images)[None]
    found = find_shifts(images, planes, volumes, truth, _weights(images), grid, 3 / images.box)
    assert (found.shifts[0] * images.box - pixels).abs().max() < 0.4
    # shifts that are known already stay where they are, and poses are then found as without
    again = find_shifts(images, planes, volumes, found, _weights(images), grid, 3 / images.box)
    torch.testing.assert_close(again.shifts, found.shifts)
    matched = _match(images, planes, volumes, found.shifts)
    assert matched.plane[..., :1].equal(truth.plane) and matched.facing[..., :1].equal(truth.facing)
    assert matched.shifts.equal(found.shifts)
    held = find_shifts(images, planes, volumes, truth, _weights(images), grid, 0.5 / images.box)
    assert held.shifts.abs().max() * images.box == pytest.approx(0.5)
