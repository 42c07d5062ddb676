"""Fourier shell correlation: what it must be one for, what it must not see, and what it says about resolution."""

import math

import pytest
import torch

from scoretomo.evaluation.fsc import (
    area_under_curve,
    fourier_ring_correlation,
    fourier_shell_correlation,
    resolution_pixels,
)
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, radius_grid


@pytest.mark.parametrize("side", [16, 17])
def test_a_volume_correlates_fully_with_itself_at_any_scale_and_sign(side: int, generator: torch.Generator) -> None:
    volume = torch.randn(side, side, side, generator=generator)
    ones = torch.ones(side // 2 + 1)
    torch.testing.assert_close(fourier_shell_correlation(volume, volume), ones)
    torch.testing.assert_close(fourier_shell_correlation(volume, 1e-6 * volume), ones)
    torch.testing.assert_close(fourier_shell_correlation(volume, -3 * volume), -ones)


def test_a_radial_filter_leaves_it_at_one(generator: torch.Generator) -> None:
    volume = torch.randn(24, 24, 24, generator=generator)
    falloff = torch.exp(-(radius_grid(24, 3) ** 2) / 50)
    # only inside shells whose filter is nearly constant; the filter varies over a shell's width
    filtered = centred_inverse_fft(centred_fft(volume, 3) * falloff, 3)
    assert fourier_shell_correlation(volume, filtered)[:13].min() > 0.97


def test_shells_are_independent_of_each_other(generator: torch.Generator) -> None:
    first, second = torch.randn(2, 24, 24, 24, generator=generator)
    low = radius_grid(24, 3).round() <= 5
    mixed = centred_inverse_fft(torch.where(low, centred_fft(first, 3), centred_fft(second, 3)), 3)
    fsc = fourier_shell_correlation(first, mixed)
    torch.testing.assert_close(fsc[:6], torch.ones(6))
    torch.testing.assert_close(fsc[6:], fourier_shell_correlation(first, second)[6:])


def test_independent_noise_has_the_correlation_that_chance_gives(generator: torch.Generator) -> None:
    first, second = torch.randn(2, 32, 32, 32, generator=generator)
    shell = torch.arange(4, 17)
    expected = 1 / (2 * math.pi * shell**2).sqrt()  # half of the samples of a shell are independent
    assert (fourier_shell_correlation(first, second)[4:].abs() < 4 * expected).all()


def test_signal_and_noise_give_the_expected_correlation(generator: torch.Generator) -> None:
    signal, noise = torch.randn(2, 32, 32, 32, generator=generator)
    fsc = fourier_shell_correlation(signal, signal + noise)  # equal power: 1 / sqrt(2)
    assert fsc[8:].mean().item() == pytest.approx(math.sqrt(0.5), abs=0.01)


def test_batch_equals_individual_and_broadcasts(generator: torch.Generator) -> None:
    volumes = torch.randn(3, 12, 12, 12, generator=generator)
    batched = fourier_shell_correlation(volumes, volumes[:1])
    individual = torch.stack([fourier_shell_correlation(volume, volumes[0]) for volume in volumes])
    torch.testing.assert_close(batched, individual)


def test_an_empty_volume_correlates_with_nothing(generator: torch.Generator) -> None:
    volume = torch.randn(12, 12, 12, generator=generator)
    fsc = fourier_shell_correlation(torch.zeros_like(volume), volume)
    torch.testing.assert_close(fsc, torch.zeros(7))
    assert resolution_pixels(fsc).isinf()


def test_area_is_one_for_perfect_and_a_half_for_a_straight_fall() -> None:
    curves = torch.stack([torch.ones(17), torch.linspace(1, 0, 17), torch.zeros(17)])
    torch.testing.assert_close(area_under_curve(curves), torch.tensor([1.0, 0.5, 0.0]))


def test_resolution_is_the_period_of_the_first_crossing() -> None:
    fsc = torch.tensor([1.0, 1.0, 0.8, 0.4, 0.9, 0.1, 0.1, 0.1, 0.1])
    # 0.5 lies three quarters of the way from shell 2 to 3 of a box of 16
    assert resolution_pixels(fsc).item() == pytest.approx(16 / 2.75)
    assert resolution_pixels(fsc, threshold=0.85).item() == pytest.approx(16 / 1.75)
    assert resolution_pixels(fsc, side=17).item() == pytest.approx(17 / 2.75)


def test_resolution_ends_at_nyquist_and_is_infinite_without_signal() -> None:
    curves = torch.stack([torch.ones(9), torch.cat([torch.ones(1), torch.full((8,), 0.4)])])
    assert resolution_pixels(curves).tolist() == [2, math.inf]
    assert resolution_pixels(curves, side=17).tolist() == [17 / 8, math.inf]


def test_rings_correlate_as_shells_do(generator: torch.Generator) -> None:
    image = torch.randn(5, 20, 20, generator=generator)
    torch.testing.assert_close(fourier_ring_correlation(image, image), torch.ones(5, 11))
    torch.testing.assert_close(fourier_ring_correlation(image, -image)[:, 1:], -torch.ones(5, 10))
    noisy = image + torch.randn(5, 20, 20, generator=generator)
    assert fourier_ring_correlation(image, noisy)[:, 5:].mean() == pytest.approx(math.sqrt(0.5), abs=0.05)
    low = centred_inverse_fft(centred_fft(image, 2) * (radius_grid(20, 2) <= 4.5), 2)
    found = fourier_ring_correlation(image, 2 * low - image)  # what is beyond has its sign changed
    torch.testing.assert_close(found, torch.tensor([1.0] * 5 + [-1.0] * 6).expand(5, 11))
