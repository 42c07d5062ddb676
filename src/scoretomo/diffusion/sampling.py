"""Samplers of a diffusion model: Heun's second-order steps (Karras et al. 2022), for data of any shape."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from .edm import Denoiser


@dataclass(frozen=True)
class Churn:
    """How much fresh noise a stochastic sampler takes in on its way (Karras et al. 2022, section 4).

    Attributes
    ----------
    amount
        Noise of all steps together (the paper's S_churn); each step multiplies sigma by ``1 + amount / steps``,
        by the square root of 2 at the most.
    smallest, largest
        Only between these noise levels (S_tmin, S_tmax).
    inflation
        Standard deviation of the fresh noise (S_noise): a little above 1 makes up for detail that networks remove.
    """

    amount: float = 40.0
    smallest: float = 0.05
    largest: float = 50.0
    inflation: float = 1.003


def karras_sigmas(steps: int, smallest: float, largest: float, rho: float = 7.0) -> Float[Tensor, " k"]:
    """Noise levels of ``steps`` steps, falling, and a last one of 0 (Karras et al. 2022, Eq. 5).

    Raises
    ------
    InputError
        Fewer than two steps, or levels that are not positive and falling.
    """
    if steps < 2 or not 0 < smallest < largest:
        raise InputError(
            f"sampling needs 2 steps or more between falling noise levels, not {steps}: {largest, smallest}"
        )
    ramp = torch.linspace(1, 0, steps, dtype=torch.float64)
    levels = (smallest ** (1 / rho) + ramp * (largest ** (1 / rho) - smallest ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def heun_progressive(
    denoiser: Denoiser, noisy: Float[Tensor, " b *shape"], sigmas: Float[Tensor, " k"]
) -> Iterator[Float[Tensor, " b *shape"]]:
    """Follow the probability flow from noise to data, deterministically (Karras et al. 2022, Algorithm 1).

    Parameters
    ----------
    denoiser
        ``(noisy (b, ...), sigma (b,)) -> clean (b, ...)``.
    noisy
        ``(b, ...)``, data plus noise of level ``sigmas[0]``; where that is far above the data, noise alone.
    sigmas
        ``(k,)`` falling noise levels, the last of them 0, such as :func:`karras_sigmas` makes.

    Yields
    ------
    Tensor
        ``(b, ...)`` after every step, of noise level ``sigmas[1]``, ``sigmas[2]``, ...
    """
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        noisy = _heun_step(denoiser, noisy, sigma, following)
        yield noisy


def heun(
    denoiser: Denoiser, noisy: Float[Tensor, " b *shape"], sigmas: Float[Tensor, " k"]
) -> Float[Tensor, " b *shape"]:
    """Return the last value of :func:`heun_progressive`: the samples."""
    samples = noisy
    for samples in heun_progressive(denoiser, noisy, sigmas):  # noqa: B007
        pass
    return samples


def stochastic_heun_progressive(
    denoiser: Denoiser,
    noisy: Float[Tensor, " b *shape"],
    sigmas: Float[Tensor, " k"],
    churn: Churn,
    *,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, " b *shape"]]:
    """As :func:`heun_progressive`, with fresh noise before every step to heal errors of earlier ones (Algorithm 2)."""
    steps = len(sigmas) - 1
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        within = churn.smallest <= sigma <= churn.largest
        raised = sigma * (1 + min(churn.amount / steps, 2**0.5 - 1)) if within else sigma
        noise = torch.randn(noisy.shape, generator=generator, device=generator.device).to(noisy)
        noisy = noisy + churn.inflation * (raised**2 - sigma**2) ** 0.5 * noise
        noisy = _heun_step(denoiser, noisy, raised, following)
        yield noisy


def stochastic_heun(
    denoiser: Denoiser,
    noisy: Float[Tensor, " b *shape"],
    sigmas: Float[Tensor, " k"],
    churn: Churn,
    *,
    generator: torch.Generator,
) -> Float[Tensor, " b *shape"]:
    """Return the last value of :func:`stochastic_heun_progressive`: the samples."""
    samples = noisy
    for samples in stochastic_heun_progressive(denoiser, noisy, sigmas, churn, generator=generator):  # noqa: B007
        pass
    return samples


def _heun_step(
    denoiser: Denoiser, noisy: Float[Tensor, " b *shape"], sigma: float, following: float
) -> Float[Tensor, " b *shape"]:
    """From noise level ``sigma`` to ``following``: the slope at both ends, averaged; Euler's step down to 0."""
    slope = (noisy - denoiser(noisy, noisy.new_full((len(noisy),), sigma))) / sigma
    ahead = noisy + (following - sigma) * slope
    if following == 0:
        return ahead
    other = (ahead - denoiser(ahead, ahead.new_full((len(ahead),), following))) / following
    return noisy + (following - sigma) * (slope + other) / 2
