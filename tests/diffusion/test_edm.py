"""EDM: preconditioning, loss and noise levels (Karras et al. 2022)."""

import math

import pytest
import torch
from torch import Tensor, nn

from scoretomo.diffusion.edm import EDMDenoiser, denoising_error, lognormal_sigmas, loss_weight
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser


class _Constant(nn.Module):
    """A network that answers the same whatever it sees, and remembers what it saw."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, scaled: Tensor, label: Tensor) -> Tensor:
        self.scaled, self.label = scaled, label
        return torch.full_like(scaled, self.value)


@pytest.mark.parametrize("shape", [(7,), (6, 6), (4, 4, 4)])
def test_without_noise_the_input_comes_back_whatever_the_network_says(
    shape: tuple[int, ...], generator: torch.Generator
) -> None:
    noisy = torch.randn(3, *shape, generator=generator)
    clean = EDMDenoiser(_Constant(5.0))(noisy, torch.full((3,), 1e-6))
    torch.testing.assert_close(clean, noisy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_a_silent_network_is_the_wiener_filter(sigma_data: float, generator: torch.Generator) -> None:
    """The best linear denoiser of white data: x / (1 + sigma^2 / sigma_data^2), each item with its own sigma."""
    noisy, sigma = torch.randn(4, 6, 6, generator=generator), torch.tensor([0.1, 0.5, 2.0, 80.0])
    shrunk = noisy / (1 + sigma**2 / sigma_data**2)[:, None, None]
    torch.testing.assert_close(EDMDenoiser(_Constant(0.0), sigma_data)(noisy, sigma), shrunk)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_at_much_noise_the_network_gives_the_image_in_units_of_the_data(sigma_data: float) -> None:
    clean = EDMDenoiser(_Constant(1.0), sigma_data)(torch.zeros(1, 5), torch.tensor([1e4]))
    torch.testing.assert_close(clean, torch.full((1, 5), sigma_data))


def test_the_network_sees_unit_variance_and_a_quarter_of_the_log_of_the_noise_level(
    generator: torch.Generator,
) -> None:
    network, sigma = _Constant(0.0), torch.tensor([0.01, 0.3, 1.0, 50.0])
    clean = 0.5 * torch.randn(4, 100, 100, generator=generator)
    noise = sigma[:, None, None] * torch.randn(4, 100, 100, generator=generator)
    EDMDenoiser(network, sigma_data=0.5)(clean + noise, sigma)
    torch.testing.assert_close(network.scaled.std((1, 2)), torch.ones(4), rtol=0.03, atol=0)
    torch.testing.assert_close(network.label, torch.tensor([math.log(s) / 4 for s in sigma.tolist()]))


def test_bfloat16_is_for_the_network_alone(generator: torch.Generator) -> None:
    class Linear(nn.Linear):
        def forward(self, scaled: Tensor, label: Tensor | None = None) -> Tensor:
            result = super().forward(scaled)
            self.result_dtype = result.dtype
            return result

    network, noisy = Linear(8, 8), torch.randn(3, 8, generator=generator)
    clean = EDMDenoiser(network, bfloat16=True)(noisy, torch.full((3,), 0.5))
    assert network.result_dtype == torch.bfloat16 and clean.dtype == torch.float32
    exact = EDMDenoiser(network)(noisy, torch.full((3,), 0.5))
    assert network.result_dtype == torch.float32
    torch.testing.assert_close(clean, exact, rtol=0, atol=0.02)


def test_an_untrained_network_has_the_same_weighted_loss_at_all_noise_levels(generator: torch.Generator) -> None:
    """Zero output on data of unit variance: the expected loss is 1 from sigma 0.01 to 100."""
    sigma = torch.logspace(-2, 2, 9)
    for sigma_data in (1.0, 0.5):
        clean = sigma_data * torch.randn(9, 100, 100, generator=generator)
        error = denoising_error(EDMDenoiser(_Constant(0.0), sigma_data), clean, sigma, generator=generator)
        torch.testing.assert_close(loss_weight(sigma, sigma_data) * error, torch.ones(9), rtol=0.06, atol=0)


def test_the_error_of_a_perfect_denoiser_is_zero_and_of_none_the_variance_of_the_noise(
    generator: torch.Generator,
) -> None:
    clean, sigma = torch.randn(3, 80, 80, generator=generator), torch.tensor([0.1, 1.0, 4.0])
    assert torch.equal(denoising_error(lambda noisy, sigma: clean, clean, sigma, generator=generator), torch.zeros(3))
    untouched = denoising_error(lambda noisy, sigma: noisy, clean, sigma, generator=generator)
    torch.testing.assert_close(untouched, sigma**2, rtol=0.06, atol=0)


def test_the_ideal_denoiser_beats_the_wiener_filter(generator: torch.Generator) -> None:
    templates = torch.randn(10, 12, 12, generator=generator)
    sigma = torch.full((10,), 1.0)
    errors = [
        denoising_error(denoiser, templates, sigma, generator=generator).mean()
        for denoiser in (IdealDenoiser(templates), EDMDenoiser(_Constant(0.0)))
    ]
    assert errors[0] < 0.01 < 0.4 < errors[1]


def test_noise_levels_are_lognormal_about_their_median() -> None:
    levels = lognormal_sigmas(20_000, 0.3, 1.2, generator=torch.Generator().manual_seed(1))
    assert levels.log().mean() == pytest.approx(math.log(0.3), abs=5 * 1.2 / math.sqrt(20_000))
    assert levels.log().std() == pytest.approx(1.2, rel=0.03)
    assert torch.equal(levels, lognormal_sigmas(20_000, 0.3, 1.2, generator=torch.Generator().manual_seed(1)))
