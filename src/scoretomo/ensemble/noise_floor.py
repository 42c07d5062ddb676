"""Parallel analysis: how much variance noise without a common direction would give the first principal component."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import centred_fft, centred_inverse_fft, recentre_crop
from ..imaging.masks import soft_ball


def noise_floor(
    vectors: Float[Tensor, "n p3"],
    eigenvalues: Float[Tensor, " c"],
    *,
    surrogates: int,
    quantile: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " c"]:
    """Variance of each next component if what the earlier ones leave were noise.

    Parallel analysis (Horn 1965), deflated as in Dobriban and Owen 2019: the largest eigenvalue of noise with the
    variance map and the correlation between voxels of the vectors, as a share of its whole variance, times the variance
    that the earlier components leave.

    Parameters
    ----------
    vectors
        ``(n, p^3)``, cubes about their mean, flattened.
    eigenvalues
        ``(c,)``, variances of their leading principal components.
    surrogates
        Sets of noise that are drawn.
    quantile
        Of their largest shares.
    generator
        Of the noise.
    """
    deviation = vectors.square().mean(0).sqrt()
    amplitude = correlation_spectrum(vectors, deviation).sqrt()
    shares = []
    for _ in range(surrogates):
        noise = _draw(amplitude, len(vectors), generator) * deviation
        noise -= noise.mean(0)
        gram = noise @ noise.T
        shares.append(torch.linalg.eigvalsh(gram)[-1] / gram.trace())
    total = vectors.square().sum() / len(vectors)
    left = total - torch.cat([eigenvalues.new_zeros(1), eigenvalues.cumsum(0)[:-1]])
    return torch.stack(shares).quantile(quantile) * left.clamp(min=0)


def correlation_spectrum(vectors: Float[Tensor, "n p3"], deviation: Float[Tensor, " p3"]) -> Float[Tensor, "p p p"]:
    """Power spectrum, of mean 1, of the vectors once every voxel has the same variance.

    By the autocorrelation over pairs of voxels that both vary, so that the edge of what varies does not make the
    noise rougher than it is (Wiener-Khinchin theorem).
    """
    side = round(len(deviation) ** (1 / 3))
    varies = deviation > 0.1 * deviation.max()
    level = torch.where(varies, deviation, torch.inf)
    products = vectors.new_zeros(2 * side, 2 * side, 2 * side)
    for vector in vectors:
        products += _autocorrelation((vector / level).view(side, side, side))
    pairs = _autocorrelation(varies.to(vectors).view(side, side, side))
    # at long lags few pairs are left
    kept = recentre_crop(products / len(vectors) / pairs.clamp(min=1), side, 3) * soft_ball(side, 3, side / 4, side / 4)
    spectrum = centred_fft(kept, 3).real.clamp(min=0)
    return spectrum / spectrum.mean()


def _autocorrelation(cube: Float[Tensor, "p p p"]) -> Float[Tensor, "q q q"]:
    """Sum over pairs of voxels at each lag; the cube is padded, so that none are paired around the edge."""
    spectrum = centred_fft(recentre_crop(cube, 2 * cube.shape[-1], 3), 3)
    return centred_inverse_fft(spectrum * spectrum.conj(), 3)


def _draw(
    amplitude: Float[Tensor, "p p p"], count: int, generator: torch.Generator | None
) -> Float[Tensor, "count p3"]:
    """Noise with a spectrum, of variance 1 for an amplitude of mean square 1."""
    source = generator.device if generator is not None else amplitude.device
    noise = amplitude.new_empty(count, amplitude.numel())
    for own in noise:
        # the real part of complex noise is real noise: one transform instead of two
        real, imaginary = torch.randn(2, *amplitude.shape, generator=generator, device=source).to(amplitude)
        own.copy_(centred_inverse_fft(torch.complex(real, imaginary) * amplitude, 3).flatten())
    noise *= amplitude.numel() ** 0.5
    return noise
