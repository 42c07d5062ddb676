"""Poses that are some degrees and pixels off are found by turns of back projection and search, without a network."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, translate
from scoretomo.imaging.projection import project
from scoretomo.methods.abinitio import ParticleImages
from scoretomo.methods.abinitio_schedule import PoseMethod, SearchGridConfig
from scoretomo.methods.posed_march import MarchStep, march_progressive

_SIDE, _RADIUS, _COUNT = 24, 8.0, 80
_SEARCH = SearchGridConfig(base_order=1, refinements=4, kept=4, shift_extent=0.1, shift_count=4)


def _molecule() -> Tensor:
    draw = torch.Generator().manual_seed(2)
    centres = 2.6 * torch.randn(14, 3, generator=draw).clamp(-1.6, 1.6)
    axis = torch.arange(_SIDE, dtype=torch.float32) - _SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    blobs = [torch.exp(-(points - centre).square().sum(-1) / (2 * 1.1**2)) for centre in centres - centres.mean(0)]
    return torch.stack(blobs).sum(0)


@pytest.fixture(scope="module")
def truth() -> tuple[Tensor, Tensor]:
    """Poses of the images: rotations, and shifts of up to two pixels."""
    draw = torch.Generator().manual_seed(1)
    return random_rotations(_COUNT, generator=draw), torch.randn(_COUNT, 2, generator=draw).clamp(-2, 2)


@pytest.fixture(scope="module")
def images(truth: tuple[Tensor, Tensor]) -> Tensor:
    return translate(project(_molecule()[None], truth[0][None])[0], truth[1])


@pytest.fixture(scope="module")
def rough(truth: tuple[Tensor, Tensor]) -> Tensor:
    """Rotations that are 10 degrees off."""
    axes = torch.nn.functional.normalize(torch.randn(_COUNT, 3, generator=torch.Generator().manual_seed(3)), dim=1)
    turned: Tensor = from_rotation_vectors(torch.deg2rad(torch.tensor(10.0)) * axes) @ truth[0]
    return turned


def _march(particles: ParticleImages, rough: Tensor, method: PoseMethod = "search") -> Iterator[MarchStep]:
    return march_progressive(particles, rough, torch.zeros(_COUNT, 2), _RADIUS, _SEARCH, method)


def _modulated(images: Tensor, weakest: float, strongest: float) -> tuple[Tensor, ParticleImages]:
    """Images of which each has a contrast transfer with a zero and a reversal of its own, and no value at the mean."""
    strengths = torch.linspace(weakest, strongest, _COUNT)

    def transfer(rows: Tensor, frequencies: Tensor) -> Tensor:
        return (strengths[rows, None] * frequencies.norm(dim=-1)).cos()

    axis = (torch.arange(_SIDE) - _SIDE // 2) / _SIDE
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    ctf = transfer(torch.arange(_COUNT), grid).reshape(_COUNT, _SIDE, _SIDE)
    seen = centred_inverse_fft(centred_fft(images, 2) * ctf, 2).real
    return seen, ParticleImages(seen, transfer)


@pytest.mark.parametrize("ctf", [False, True])
def test_poses_that_are_10_degrees_off_are_found_with_their_shifts(
    ctf: bool, images: Tensor, truth: tuple[Tensor, Tensor], rough: Tensor
) -> None:
    particles = _modulated(images, 3.0, 5.0)[1] if ctf else ParticleImages(images)
    *_, last = _march(particles, rough)
    assert angle_between(rough, truth[0]).min() > 9
    errors = pose_errors(last.rotations, truth[0]).degrees
    assert errors.median() < 2 and (errors < 6).float().mean() > 0.9
    # the origin of the map is that of the rough poses, which no image fixes: its shift is that of all images
    wrong = last.shifts_pixels - truth[1]
    design = last.rotations[:, :2].reshape(-1, 3)
    origin = torch.linalg.lstsq(design, wrong.reshape(-1, 1)).solution
    left = (wrong - (last.rotations[:, :2] @ origin)[..., 0]).norm(dim=1)
    assert left.median() < 0.4 and origin.norm() < 1


def test_a_transfer_that_is_not_told_leaves_poses_worse(
    images: Tensor, truth: tuple[Tensor, Tensor], rough: Tensor
) -> None:
    """So that it is of use."""
    seen, told = _modulated(images, 8.0, 16.0)
    *_, right = _march(told, rough)
    *_, wrong = _march(ParticleImages(seen), rough)
    right_error, wrong_error = (pose_errors(each.rotations, truth[0]).degrees.median() for each in (right, wrong))
    assert wrong_error > 2 * right_error


def test_the_disc_grows_and_progress_is_told(images: Tensor, rough: Tensor) -> None:
    steps = list(_march(ParticleImages(images), rough))
    done = [step.done for step in steps]
    assert done == sorted(done) and done[0] > 0 and done[-1] == 1 and max(done[:-1]) < 1
    discs = [step.disc for step in steps]
    assert discs == sorted(discs) and discs[0] < discs[-1] == _SIDE / 2
    # poses are those of the last whole turn
    assert torch.equal(steps[0].rotations, rough)
    changed = [not torch.equal(a.rotations, b.rotations) for a, b in pairwise(steps)]
    assert sum(changed) == len(set(discs))


def test_parts_of_the_images_decide_nothing(images: Tensor, rough: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, whole = _march(ParticleImages(images), rough)
    monkeypatch.setattr("scoretomo.methods.posed_march._IMAGES_AT_ONCE", 27)
    *_, parts = _march(ParticleImages(images), rough)
    assert angle_between(parts.rotations, whole.rotations).median() < 0.1
    assert (parts.shifts_pixels - whole.shifts_pixels).abs().median() < 0.01


def test_branch_and_bound_begins_the_march_too(images: Tensor, truth: tuple[Tensor, Tensor], rough: Tensor) -> None:
    *_, last = _march(ParticleImages(images), rough, "branch-and-bound")
    assert pose_errors(last.rotations, truth[0]).degrees.median() < 2
