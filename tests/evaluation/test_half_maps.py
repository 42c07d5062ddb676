"""Half maps: the mask's own correlation is taken off, and the filter keeps what is known."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.evaluation.half_maps import (
    compare_halves,
    filter_to_resolution,
    randomise_phases,
)
from scoretomo.imaging.fourier import centred_fft, shell_index
from scoretomo.imaging.masks import ball, soft_ball
from scoretomo.imaging.starting_model import low_pass

SIDE = 32


def _noise(seed: int) -> Tensor:
    return torch.randn(SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def halves() -> tuple[Tensor, Tensor]:
    """A molecule known to shell 8, and independent noise in all the box, stronger than it beyond."""
    molecule = low_pass(_noise(0) * soft_ball(SIDE, 3, 6.0, 2.0), 1.0, SIDE / 8)
    return molecule + 0.1 * _noise(1), molecule + 0.1 * _noise(2)


def test_a_mask_raises_the_correlation_where_there_is_signal(halves: tuple[Tensor, Tensor]) -> None:
    result = compare_halves(*halves, soft_ball(SIDE, 3, 7.0, 4.0), generator=torch.Generator().manual_seed(3))
    assert result.masked[3:7].mean() > result.unmasked[3:7].mean() + 0.05
    # the pass band ends at shell 8
    assert 6.5 < SIDE / result.resolution_pixels < 10
    assert torch.equal(result.unmasked, fourier_shell_correlation(*halves))


def test_what_a_tight_mask_makes_up_is_taken_off() -> None:
    """Noise alone under a mask of its own shape correlates; the corrected curve must not."""
    shape = ball(SIDE, 3, 4.0)
    first, second = _noise(4) + 3, _noise(5) + 3  # a constant, which the mask turns into its own spectrum
    result = compare_halves(first, second, shape, generator=torch.Generator().manual_seed(6))
    beyond = slice(result.randomised_from + 2, None)
    assert result.masked[beyond].max() > 0.5
    assert result.corrected[beyond].abs().mean() < 0.25 * result.masked[beyond].abs().mean()


def test_identical_halves_have_no_limit() -> None:
    volume = _noise(7)
    result = compare_halves(volume, volume, torch.ones_like(volume))
    assert result.corrected.min() > 0.999
    assert result.resolution_pixels == 2.0


def test_random_phases_keep_amplitudes_and_low_shells() -> None:
    volume = _noise(8)
    random = randomise_phases(volume, 5, generator=torch.Generator().manual_seed(9))
    before, after = centred_fft(volume, 3), centred_fft(random, 3)
    shells = shell_index(SIDE, 3)
    assert torch.allclose(before[shells < 5], after[shells < 5], atol=1e-3)
    inner = slice(1, None)  # planes at -n/2 have no partner
    assert torch.allclose(before.abs()[inner, inner, inner], after.abs()[inner, inner, inner], rtol=1e-2, atol=1e-2)
    assert fourier_shell_correlation(volume, random)[6:].abs().max() < 0.2


def test_the_filter_weighs_by_what_is_known() -> None:
    volume, pixel_size = _noise(11), 2.0
    fsc = torch.zeros(SIDE // 2 + 1)
    fsc[:5], fsc[5:8] = 1.0, 0.6
    fsc[12] = 0.9  # beyond the first fall nothing counts
    ratio = centred_fft(filter_to_resolution(volume, fsc, pixel_size), 3).abs() / centred_fft(volume, 3).abs()
    shells = shell_index(SIDE, 3)
    assert torch.allclose(ratio[shells < 5], torch.tensor(1.0), atol=1e-4)
    assert torch.allclose(ratio[shells == 6], torch.tensor(math.sqrt(1.2 / 1.6)), atol=1e-4)
    assert ratio[shells >= 8].max() < 1e-4
    sharper = centred_fft(filter_to_resolution(volume, fsc, pixel_size, b_factor_angstrom2=-100.0), 3).abs()
    gain = math.exp(25 * (4 / (SIDE * pixel_size)) ** 2)
    assert torch.allclose(
        sharper[shells == 4] / centred_fft(volume, 3).abs()[shells == 4], torch.tensor(gain), rtol=1e-3
    )
