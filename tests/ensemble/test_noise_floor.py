"""The variance that noise would give a first component."""

import torch

from scoretomo.ensemble.noise_floor import correlation_spectrum, noise_floor
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, radius_grid
from scoretomo.imaging.masks import ball

SIDE = 12


def correlated_noise(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a Gaussian spectrum inside a ball, and that spectrum."""
    spectrum = torch.exp(-((radius_grid(SIDE, 3) / 2.5) ** 2))
    white = torch.randn(count, SIDE, SIDE, SIDE, generator=generator)
    noise = centred_inverse_fft(centred_fft(white, 3) * spectrum.sqrt(), 3)
    return (noise * ball(SIDE, 3, SIDE / 2 - 1)).flatten(1), spectrum / spectrum.mean()


def test_the_spectrum_is_that_of_the_noise_before_the_mask(generator: torch.Generator) -> None:
    vectors, truth = correlated_noise(200, generator)
    found = correlation_spectrum(vectors, vectors.square().mean(0).sqrt())
    low = radius_grid(SIDE, 3) <= 3
    assert torch.allclose(found.mean(), torch.tensor(1.0))
    # the taper of the long lags blurs it a little
    assert ((found - truth)[low].abs().mean() / truth[low].mean()) < 0.2


def test_noise_stays_about_below_the_floor(generator: torch.Generator) -> None:
    """In 12 sets of noise the largest eigenvalue exceeds the floor of 95 % less than once on average."""
    above = 0
    for _ in range(12):
        vectors, _ = correlated_noise(15, generator)
        vectors = vectors - vectors.mean(0)
        largest = torch.linalg.eigvalsh(vectors @ vectors.T / 15).flip(0)[:1]
        above += bool(largest > noise_floor(vectors, largest, surrogates=20, quantile=0.95, generator=generator))
    assert above <= 3


def test_a_common_direction_is_above_and_leaves_the_next_a_lower_floor(generator: torch.Generator) -> None:
    vectors, _ = correlated_noise(15, generator)
    direction, _ = correlated_noise(1, generator)
    vectors = vectors + 1.5 * torch.randn(15, 1, generator=generator) * direction
    vectors = vectors - vectors.mean(0)
    values = torch.linalg.eigvalsh(vectors @ vectors.T / 15).flip(0)[:3]
    floor = noise_floor(vectors, values, surrogates=20, quantile=0.95, generator=generator)
    assert values[0] > floor[0]
    left = 1 - values[0] / (vectors.square().sum() / 15)
    assert torch.allclose(floor[1] / floor[0], left)
    assert (values[1:] < floor[1:]).all()
