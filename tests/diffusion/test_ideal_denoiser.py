"""The closed-form denoiser against the definition of the posterior mean."""

import torch

from scoretomo.diffusion.ideal_denoiser import IdealDenoiser


def test_little_noise_leaves_a_template_unchanged(generator: torch.Generator) -> None:
    templates = torch.randn(20, 5, 5, generator=generator)
    sigma = torch.full((20,), 0.05)
    noisy = templates + 0.05 * torch.randn(20, 5, 5, generator=generator)
    assert torch.allclose(IdealDenoiser(templates)(noisy, sigma), templates, atol=1e-5)


def test_much_noise_gives_the_mean(generator: torch.Generator) -> None:
    templates = torch.randn(20, 5, 5, generator=generator)
    clean = IdealDenoiser(templates)(torch.zeros(1, 5, 5), torch.tensor([1e4]))
    assert torch.allclose(clean[0], templates.mean(0), atol=1e-4)


def test_two_templates_follow_bayes() -> None:
    """Halfway and a little: the log odds are the difference of squared distances over twice the variance."""
    templates = torch.tensor([[0.0], [1.0]])
    clean = IdealDenoiser(templates)(torch.tensor([[0.6], [0.6]]), torch.tensor([0.5, 0.25]))
    odds = torch.tensor([(0.36 - 0.16) / (2 * 0.25), (0.36 - 0.16) / (2 * 0.0625)])
    assert torch.allclose(clean[:, 0], torch.sigmoid(odds))


def test_is_the_score_of_the_noised_distribution(generator: torch.Generator) -> None:
    """Tweedie's formula: D(x) - x = sigma^2 grad log p_sigma(x)."""
    templates = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    noisy = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    sigma = torch.full((4,), 0.7, dtype=torch.float64)
    square = (noisy[:, None] - templates).square().sum(-1)
    (score,) = torch.autograd.grad(torch.logsumexp(-square / (2 * 0.7**2), dim=1).sum(), noisy)
    clean = IdealDenoiser(templates)(noisy, sigma)
    assert torch.allclose(clean - noisy, 0.7**2 * score)
