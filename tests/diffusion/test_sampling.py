import itertools

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.diffusion.edm import Denoiser
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.diffusion.sampling import (
    Churn,
    heun,
    heun_progressive,
    karras_sigmas,
    stochastic_heun,
    stochastic_heun_progressive,
)


def _gaussian(deviation: float) -> Denoiser:
    """The denoiser of data that are normal with mean 0: the posterior mean is a shrinkage."""

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma.view(-1, *[1] * (noisy.ndim - 1)) ** 2
        return noisy * deviation**2 / (deviation**2 + variance)

    return denoise


def test_noise_levels_fall_from_the_largest_to_zero() -> None:
    sigmas = karras_sigmas(10, 0.02, 5.0)
    assert len(sigmas) == 11
    torch.testing.assert_close(sigmas[[0, -2, -1]], torch.tensor([5.0, 0.02, 0.0]))
    assert all(before > after for before, after in itertools.pairwise(sigmas.tolist()))
    # rho = 1 is evenly spaced; larger ones put more steps where there is little noise
    torch.testing.assert_close(karras_sigmas(3, 1.0, 3.0, rho=1.0), torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert sigmas[5] < karras_sigmas(10, 0.02, 5.0, rho=1.0)[5]


@pytest.mark.parametrize("steps, smallest, largest", [(1, 0.1, 1.0), (5, 0.0, 1.0), (5, 2.0, 1.0)])
def test_impossible_noise_levels_are_refused(steps: int, smallest: float, largest: float) -> None:
    with pytest.raises(InputError, match="falling"):
        karras_sigmas(steps, smallest, largest)


def test_the_flow_of_normal_data_is_followed_to_second_order(generator: torch.Generator) -> None:
    """For these data the flow has a solution in closed form: x is proportional to sqrt(s^2 + sigma^2)."""
    deviation, largest = 0.5, 4.0
    start = torch.randn(6, 3, 5, generator=generator).double() * (deviation**2 + largest**2) ** 0.5
    exact = start * deviation / (deviation**2 + largest**2) ** 0.5
    errors = []
    for steps in (16, 32, 64):
        sigmas = karras_sigmas(steps, 1e-3, largest).double()
        *_, last = (x for x in heun_progressive(_gaussian(deviation), start, sigmas))
        errors.append((last - exact).abs().max().item())
    assert errors[-1] < 5e-3
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3  # Euler's method would halve them


def test_samples_of_a_finite_set_are_its_members(generator: torch.Generator) -> None:
    templates = torch.randn(5, 8, 8, generator=generator)
    sigmas = karras_sigmas(24, 0.01, 20.0)
    noise = 20 * torch.randn(40, 8, 8, generator=generator)
    ideal = IdealDenoiser(templates)
    for samples in (
        heun(ideal, noise, sigmas),
        stochastic_heun(ideal, noise, sigmas, Churn(amount=10.0, inflation=1.0), generator=generator),
    ):
        distance = torch.cdist(samples.flatten(1), templates.flatten(1))
        assert distance.amin(1).max() < 0.1
        assert len(distance.argmin(1).unique()) == 5  # all of them are found


def test_fresh_noise_leaves_the_spread_of_the_data_and_no_churn_changes_nothing(generator: torch.Generator) -> None:
    deviation = 0.7
    sigmas = karras_sigmas(32, 1e-3, 5.0)
    start = torch.randn(20_000, 1, generator=generator) * (deviation**2 + 25) ** 0.5
    churn = Churn(amount=20.0, inflation=1.0)
    samples = stochastic_heun(_gaussian(deviation), start, sigmas, churn, generator=generator)
    assert abs(samples.std().item() / deviation - 1) < 0.05
    plain = heun(_gaussian(deviation), start, sigmas)
    correlation = torch.corrcoef(torch.stack([samples[:, 0], plain[:, 0]]))[0, 1]
    assert correlation < 0.9  # new noise has come in
    still = stochastic_heun(_gaussian(deviation), start, sigmas, Churn(amount=0.0), generator=generator)
    torch.testing.assert_close(still, plain)


def test_noise_comes_in_only_within_the_limits(generator: torch.Generator) -> None:
    start = torch.randn(4, 3, generator=generator)
    sigmas = karras_sigmas(6, 0.1, 1.0)
    plain = list(heun_progressive(_gaussian(1.0), start, sigmas))
    churn = Churn(amount=3.0, smallest=0.05, largest=float(sigmas[3]))
    noised = list(stochastic_heun_progressive(_gaussian(1.0), start, sigmas, churn, generator=generator))
    torch.testing.assert_close(noised[2], plain[2])
    assert not torch.allclose(noised[3], plain[3])
