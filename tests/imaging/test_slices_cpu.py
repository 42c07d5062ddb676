"""Compiled slices, and sums of them, are what torch gives: inside, at the rim and outside, on any number of threads."""

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.slices import (
    back_project_slices,
    disc_frequencies,
    lattice_slices,
    slice_coefficients,
    sum_slices,
    voxel_slices,
)


@pytest.fixture
def volumes(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 12, 12, 12, generator=generator)


def _corner_to_corner() -> Tensor:
    """Frequencies of a square: its corners lie beyond the edge of the lattice in most directions."""
    axis = torch.linspace(-0.55, 0.55, 23)
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize("batch", [(5,), (2, 3), (1, 4, 2)])
def test_slices_are_those_of_double_precision(volumes: Tensor, batch: tuple[int, ...]) -> None:
    rotations, frequencies = random_rotations(*batch), _corner_to_corner()
    found = slice_coefficients(voxel_slices(volumes[0]), rotations, frequencies)
    exact = slice_coefficients(voxel_slices(volumes[0].double()), rotations.double(), frequencies.double())
    assert found.shape == (*batch, len(frequencies))
    torch.testing.assert_close(found, exact.float(), rtol=1e-3, atol=1e-3)
    assert (found[..., [0, -1]] == 0).any() and found.abs().max() > 10


def test_every_volume_is_sliced_in_its_own_directions(volumes: Tensor) -> None:
    rotations, frequencies = random_rotations(2, 3), disc_frequencies(12, 6.0)
    together = slice_coefficients(voxel_slices(volumes), rotations, frequencies)
    for volume, own, found in zip(volumes, rotations, together, strict=True):
        torch.testing.assert_close(found, slice_coefficients(voxel_slices(volume), own, frequencies))
    same = slice_coefficients(voxel_slices(volumes), rotations[:1], frequencies)
    torch.testing.assert_close(same[1], slice_coefficients(voxel_slices(volumes[1]), rotations[0], frequencies))


def test_a_gradient_is_that_of_the_interpolation(volumes: Tensor) -> None:
    """Compiled slices have none; where one is wanted the values are the same."""
    rotations, frequencies = random_rotations(4), disc_frequencies(12, 6.0)
    leaf = volumes[0].clone().requires_grad_()
    values = slice_coefficients(voxel_slices(leaf), rotations, frequencies)
    assert values.requires_grad
    compiled = slice_coefficients(voxel_slices(volumes[0]), rotations, frequencies)
    torch.testing.assert_close(values.detach(), compiled, rtol=1e-3, atol=1e-3)
    turned = rotations.clone().requires_grad_()
    assert slice_coefficients(voxel_slices(volumes[0]), turned, frequencies).requires_grad


def test_threads_and_what_is_not_a_number(volumes: Tensor) -> None:
    slices, frequencies = lattice_slices(voxel_slices(volumes[0]), 12, 6.0), disc_frequencies(12, 6.0)
    rotations = random_rotations(900)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(slice_coefficients(slices, rotations, frequencies))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=0, atol=0)
    rotations[1] = torch.nan
    broken = slice_coefficients(slices, rotations, frequencies)
    assert not broken[1].any()
    torch.testing.assert_close(broken[2:], results[0][2:], rtol=0, atol=0)


@pytest.mark.parametrize("side", [11, 12])
def test_back_projection_is_the_adjoint_of_slices(side: int, generator: torch.Generator) -> None:
    """``<S v, y> = <v, S* y>`` for all v and y, up to the edge of the disc."""
    volume = torch.randn(side, side, side, generator=generator)
    rotations, frequencies = random_rotations(7, generator=generator), disc_frequencies(side, side / 2)
    values = torch.randn(7, len(frequencies), generator=generator)
    forward = slice_coefficients(voxel_slices(volume), rotations, frequencies)
    backward = back_project_slices(values, rotations, frequencies, side)
    size = float(forward.norm() * values.norm())
    assert abs(float((forward * values).sum() - (volume * backward).sum())) < 1e-5 * size


@pytest.mark.parametrize("size", [24, 13])
def test_sums_are_those_of_double_precision(size: int, generator: torch.Generator) -> None:
    """What falls beyond the lattice is lost in both ways, and every column is summed up alone."""
    rotations, frequencies = random_rotations(6, generator=generator), _corner_to_corner()
    values = torch.randn(6, len(frequencies), 3, generator=generator)
    found = sum_slices(values, rotations, frequencies, 24.0, size)
    exact = sum_slices(values.double(), rotations.double(), frequencies.double(), 24.0, size)
    assert found.shape == (size, size, size, 3)
    # a point on the rim falls to this or that side by rounding, of one sample in a thousand at most
    wrong = ((found - exact.float()).abs() > 1e-3).float().mean()
    assert wrong < 1e-3 and found.abs().max() > 1
    alone = sum_slices(values[..., 1:2], rotations, frequencies, 24.0, size)
    torch.testing.assert_close(found[..., 1:2], alone)


def test_sums_do_not_depend_on_the_number_of_threads(generator: torch.Generator) -> None:
    rotations, frequencies = random_rotations(400, generator=generator), disc_frequencies(24, 12.0)
    values = torch.randn(400, len(frequencies), 1, generator=generator)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(sum_slices(values, rotations, frequencies, 48.0, 48))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
