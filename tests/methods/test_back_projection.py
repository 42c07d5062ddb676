"""A volume from slices that are summed up: what went in comes out, divided by its contrast transfer."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import hartley
from scoretomo.methods.back_projection import BackProjection, weighted_volume

SIDE = 24


@pytest.fixture
def centres(generator: torch.Generator) -> Tensor:
    """Of blobs of 1.5 voxels, within a quarter of the box from its centre."""
    return 3 * torch.randn(8, 3, generator=generator).clamp(-1.5, 1.5)


@pytest.fixture
def volume(centres: Tensor) -> Tensor:
    x, y, z = (waves(centres[:, i]) for i in range(3))
    return torch.einsum("bz,by,bx->zyx", z, y, x)


def waves(places: Tensor) -> Tensor:
    return (-((torch.arange(SIDE) - SIDE // 2 - places[..., None]) ** 2) / (2 * 1.5**2)).exp()


def views(centres: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images, rotations and shifts; projections of blobs are known exactly."""
    rotations, shifts = random_rotations(count, generator=generator), torch.randn(count, 2, generator=generator)
    places = (centres @ rotations.mT)[..., :2] + shifts[:, None]
    depth = 1.5 * math.sqrt(2 * math.pi)
    return depth * torch.einsum("nby,nbx->nyx", waves(places[..., 1]), waves(places[..., 0])), rotations, shifts


def made(images: Tensor, rotations: Tensor, shifts: Tensor, transfer: Tensor | None = None) -> BackProjection:
    sums = BackProjection(SIDE)
    for rows in torch.arange(len(rotations)).split(50):
        sums.add(images[rows], rotations[rows], shifts[rows], None if transfer is None else transfer[rows])
    return sums


def error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def test_views_from_all_sides_give_the_volume_with_its_density(
    centres: Tensor, volume: Tensor, generator: torch.Generator
) -> None:
    assert error(made(*views(centres, 1000, generator)).volume(), volume) < 0.03


def test_contrast_transfer_is_divided_out(centres: Tensor, volume: Tensor, generator: torch.Generator) -> None:
    """Each image lacks other frequencies, and has some with the other sign."""
    images, rotations, shifts = views(centres, 1000, generator)
    strength = 3 + 5 * torch.rand(1000, 1, generator=generator)

    def transfer(frequencies: Tensor) -> Tensor:
        return torch.sin((frequencies * SIDE).square().sum(-1) / strength + 0.3)

    axis = (torch.arange(SIDE) - SIDE // 2) / SIDE
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    seen = hartley(transfer(grid).view(-1, SIDE, SIDE) * hartley(images, 2), 2) / SIDE**2
    sums = BackProjection(SIDE)
    assert error(made(seen, rotations, shifts, transfer(sums.frequencies)).volume(), volume) < 0.15
    assert error(made(seen, rotations, shifts).volume(), volume) > 0.5


def test_shells_without_signal_are_taken_out(centres: Tensor, volume: Tensor, generator: torch.Generator) -> None:
    images, rotations, shifts = views(centres, 400, generator)
    images = images + images.std() * torch.randn(images.shape, generator=generator)
    first = made(images[:200], rotations[:200], shifts[:200])
    second = made(images[200:], rotations[200:], shifts[200:])
    halves, plain = (first.volume(), second.volume()), (first + second).volume()
    weighted = weighted_volume(first, second, fourier_shell_correlation(*halves))
    assert error(weighted, volume) < 0.6 * error(plain, volume)
    assert error(halves[0], volume) > 1.2 * error(plain, volume)
    # where halves have nothing in common nothing is left
    assert weighted_volume(first, second, torch.zeros(SIDE // 2 + 1)).norm() < 0.01 * plain.norm()
