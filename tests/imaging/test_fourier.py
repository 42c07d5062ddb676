"""Fourier transforms with the origin at ``side // 2``, and what follows from it for crops, resampling and shells."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.imaging.fourier import (
    centred_fft,
    centred_inverse_fft,
    filter_by_radius,
    hartley,
    radius_grid,
    recentre_crop,
    resize,
    shell_index,
    shell_sum,
)


def _delta(side: int, dimensions: int, *offset: int) -> Tensor:
    array = torch.zeros([side] * dimensions)
    array[tuple(side // 2 + step for step in offset)] = 1
    return array


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("side", [8, 9])
def test_the_transform_of_the_origin_is_one_everywhere(side: int, dimensions: int) -> None:
    spectrum = centred_fft(_delta(side, dimensions, *[0] * dimensions), dimensions)
    torch.testing.assert_close(spectrum, torch.ones_like(spectrum))


@pytest.mark.parametrize("side", [8, 9])
def test_the_zero_frequency_is_at_the_origin_and_holds_the_sum(side: int, generator: torch.Generator) -> None:
    image = torch.rand(side, side, generator=generator)
    assert centred_fft(image, 2)[side // 2, side // 2].real == pytest.approx(image.sum().item(), rel=1e-5)
    constant = centred_fft(torch.ones(side, side), 2).abs()
    torch.testing.assert_close(constant, side**2 * _delta(side, 2, 0, 0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [8, 9])
def test_a_move_to_larger_index_turns_the_phase_backwards(side: int) -> None:
    """F(k) = exp(-2 pi i k.x), frequencies in the order of the axes."""
    frequency = (torch.arange(side) - side // 2) / side
    expected = torch.exp(-2j * math.pi * (2 * frequency[:, None] - 3 * frequency))
    torch.testing.assert_close(centred_fft(_delta(side, 2, 2, -3), 2), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [8, 9])
def test_the_inverse_brings_arrays_back_and_leaves_the_batch_alone(side: int, generator: torch.Generator) -> None:
    arrays = torch.rand(2, 3, side, side, generator=generator)
    torch.testing.assert_close(centred_inverse_fft(centred_fft(arrays, 2), 2), arrays)
    torch.testing.assert_close(centred_fft(arrays, 2)[1, 2], centred_fft(arrays[1, 2], 2))


@pytest.mark.parametrize("side", [8, 9])
def test_hartley_is_the_sum_with_cos_plus_sin_and_its_own_inverse(side: int, generator: torch.Generator) -> None:
    image = torch.rand(side, side, generator=generator)
    offset = torch.arange(side) - side // 2
    phase = 2 * math.pi / side * (offset[:, None] * 2 + offset * -3)
    direct = (image * (phase.cos() + phase.sin())).sum()
    transform = hartley(image, 2)
    torch.testing.assert_close(transform[side // 2 + 2, side // 2 - 3], direct)
    torch.testing.assert_close(hartley(transform, 2) / side**2, image)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("side", [8, 9])
def test_hartley_is_the_real_less_the_imaginary_part(side: int, dimensions: int, generator: torch.Generator) -> None:
    arrays = torch.rand(2, *[side] * dimensions, generator=generator)
    spectra = centred_fft(arrays, dimensions)
    torch.testing.assert_close(hartley(arrays, dimensions), spectra.real - spectra.imag, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [8, 9])
def test_a_filter_by_radius_multiplies_the_spectrum(side: int, generator: torch.Generator) -> None:
    volumes = torch.rand(2, side, side, side, generator=generator)
    factors = 1 / (1 + radius_grid(side, 3))
    filtered = filter_by_radius(volumes, factors)
    torch.testing.assert_close(filtered, centred_inverse_fft(centred_fft(volumes, 3) * factors, 3))


@pytest.mark.parametrize(
    ("old", "new"), [(16, 24), (16, 25), (17, 24), (17, 33), (24, 16), (24, 15), (25, 16), (33, 17)]
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_resizing_samples_the_same_band_limited_function(old: int, new: int, dimensions: int) -> None:
    """Values and field of view are kept, and the origin stays at side // 2."""

    def sampled(side: int) -> Tensor:
        axis = (torch.arange(side) - side // 2) / side * 2 * math.pi  # one turn is the field of view
        total = 0.5 + torch.cos(2 * axis + 0.3)
        for k in range(1, dimensions):
            total = total[..., None] * torch.sin((k + 1) * axis + 0.7) + torch.cos(3 * axis - 1)
        return total

    torch.testing.assert_close(resize(sampled(old), new, dimensions), sampled(new), rtol=0, atol=2e-5)


def test_resizing_to_the_same_side_changes_nothing(generator: torch.Generator) -> None:
    image = torch.rand(3, 10, 10, generator=generator)
    assert torch.equal(resize(image, 10, 2), image)


@pytest.mark.parametrize("old", [8, 9, 12])
@pytest.mark.parametrize("new", [7, 8, 9, 12, 13])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_crops_and_padding_keep_the_origin(old: int, new: int, dimensions: int, generator: torch.Generator) -> None:
    arrays = torch.rand(2, *[old] * dimensions, generator=generator)
    changed = recentre_crop(arrays, new, dimensions)
    first, stop = max(-(old // 2), -(new // 2)), min(old - old // 2, new - new // 2)  # offsets that both have
    expected = torch.zeros(2, *[new] * dimensions)
    kept = [slice(new // 2 + first, new // 2 + stop)] * dimensions
    expected[(..., *kept)] = arrays[(..., *[slice(old // 2 + first, old // 2 + stop)] * dimensions)]
    assert torch.equal(changed, expected)


def test_cropping_undoes_padding_for_any_dtype() -> None:
    numbers = torch.arange(81).view(9, 9)
    for array in (numbers, numbers.float(), numbers + 1j):
        assert torch.equal(recentre_crop(recentre_crop(array, 14, 2), 9, 2), array)


@pytest.mark.parametrize("side", [6, 7])
def test_radii_count_from_the_origin(side: int) -> None:
    radius = radius_grid(side, 3)
    assert radius.shape == (side, side, side)
    assert radius[side // 2, side // 2, side // 2] == 0
    assert radius[0, side // 2, side // 2] == side // 2
    assert radius[side // 2 + 1, side // 2 - 2, side // 2 + 2] == 3


def test_shells_are_rounded_radii_and_the_corners_share_one() -> None:
    shells = shell_index(8, 2)
    assert torch.bincount(shells.flatten())[:2].tolist() == [1, 8]  # the origin; its eight neighbours, up to sqrt(2)
    assert shells[4, 0] == 4
    assert shells[6, 6] == 3  # sqrt(8) = 2.8
    assert shells[0, 0] == shells[1, 0] == 5 == shells.max()


@pytest.mark.parametrize("count", [3, 5, 9])
def test_shell_sums_add_each_sample_to_its_shell(count: int, generator: torch.Generator) -> None:
    values, shells = torch.rand(2, 3, 64, generator=generator), shell_index(8, 2).flatten()
    sums = shell_sum(values, shells, count)
    expected = torch.stack([values[..., shells == k].sum(-1) for k in range(count)], dim=-1)
    assert sums.shape == (2, 3, count)
    torch.testing.assert_close(sums, expected)
