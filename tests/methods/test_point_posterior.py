"""Posterior sampling against priors whose posterior is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.geometry.rotations import random_rotations
from scoretomo.methods.point_energies import projection_energy
from scoretomo.methods.point_posterior import (
    SamplingConfig,
    most_likely_progressive,
    posterior_score,
    sample_progressive,
)

Denoise = Callable[[Tensor, Tensor], Tensor]


def gaussian(spread: float) -> Denoise:
    """Exact denoiser of independent normal coordinates."""
    return lambda noisy, sigma: noisy * spread**2 / (spread**2 + sigma[:, None, None] ** 2)


def last(items: object) -> Tensor:
    *_, final = items  # type: ignore[misc]
    assert isinstance(final, Tensor)
    return final


def to_target(target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda points: (points - target).square().sum(2).mean(1)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("correction", [True, False])
def test_samples_of_a_normal_prior_have_its_spread(noise: float, correction: bool) -> None:
    config = SamplingConfig(steps=100, largest=20.0, smallest=0.005, noise=noise, correction=correction)
    drawn = last(sample_progressive(gaussian(0.3), None, 20, 200, config, generator=torch.Generator().manual_seed(0)))
    # Euler's method shrinks by some percent, second order does not
    assert drawn.std().item() == pytest.approx(0.3, rel=0.02 if correction else 0.08)
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)


def test_a_prior_of_two_clouds_gives_each_half_of_the_time() -> None:
    two = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(1)) * 0.4
    config = SamplingConfig(steps=40, largest=20.0, smallest=0.01)
    drawn = last(
        sample_progressive(IdealDenoiser(two), None, 100, 12, config, generator=torch.Generator().manual_seed(0))
    )
    distance = (drawn[:, None] - two).flatten(2).norm(dim=2)
    assert distance.min(1).values.max() < 0.1
    assert 30 <= int(distance.argmin(1).sum()) <= 70


@pytest.mark.parametrize("through", [True, False])
def test_an_observation_chooses_among_the_clouds_of_the_prior(through: bool) -> None:
    """Only a part is observed, badly; the prior supplies the rest."""
    two = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(1)) * 0.4
    seen = two[1, :3, :2] + 0.1

    def energy(points: Tensor) -> Tensor:
        return (points[:, :3, :2] - seen).square().sum(2).sum(1) / 12

    drawn = last(
        sample_progressive(
            IdealDenoiser(two),
            energy,
            20,
            12,
            SamplingConfig(steps=60, largest=20.0, guidance=4.0, guidance_power=0.0, through_network=through),
            generator=torch.Generator().manual_seed(0),
        )
    )
    right = (drawn - two[1]).flatten(1).norm(dim=1) < (drawn - two[0]).flatten(1).norm(dim=1)
    # without an observation half of them would be; in a prior of two points early noise may decide for good
    assert right.sum() >= 18
    assert (drawn[right] - two[1]).square().mean().sqrt() < 0.05


@pytest.mark.parametrize(("power", "strength"), [(0.0, 3.0), (1.0, 6.0)])
def test_the_score_is_the_prior_s_and_a_pull_that_does_not_fade_near_the_observation(
    power: float, strength: float
) -> None:
    """With D = x / 2 and E the mean squared distance d**2 to a point, the pull on each of n points is alpha."""
    target, points = torch.zeros(3), torch.zeros(1, 7, 3)
    points[..., 0] = torch.tensor(0.02)
    half = lambda noisy, sigma: noisy / 2  # noqa: E731
    sigma = 0.5
    for through in (True, False):  # at this level EDM's scale of the noisy cloud is the half that the denoiser has
        config = SamplingConfig(guidance=3.0, guidance_power=power, through_network=through)
        score = posterior_score(half, to_target(target), points, sigma, config)
        prior = posterior_score(half, None, points, sigma, config)
        assert torch.allclose(prior, -points / 2 / sigma**2)
        # sqrt(E) = 0.01; d sqrt(E) / dx of each point is 1/2 of 1/n, and the pull 2 alpha n times that
        assert torch.allclose((score - prior)[..., 0], torch.tensor(-strength), rtol=1e-4)
        assert not (score - prior)[..., 1:].any()


def test_the_score_agrees_with_finite_differences_through_the_denoiser() -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    denoiser, energy = IdealDenoiser(clouds), to_target(torch.ones(3, dtype=torch.float64))
    x = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
    sigma, alpha, tiny = 1.5, 2.0, 1e-6
    config = SamplingConfig(guidance=alpha, guidance_power=0.0, through_network=True)
    pull = posterior_score(denoiser, energy, x, sigma, config) - posterior_score(denoiser, None, x, sigma, config)

    def root(moved: Tensor) -> Tensor:
        return energy(denoiser(moved, moved.new_full((1,), sigma))).sqrt()

    expected = torch.zeros_like(x)
    for index in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=torch.float64)
        step[index] = tiny
        slope = (root(x + step.view_as(x)) - root(x - step.view_as(x))) / (2 * tiny)
        expected.view(-1)[index] = -2 * alpha * 5 * slope[0]
    assert torch.allclose(pull, expected, rtol=1e-5, atol=1e-8)


def test_a_seed_gives_the_same_samples_and_another_seed_others() -> None:
    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        config = SamplingConfig(steps=5)
        return last(sample_progressive(gaussian(0.4), to_target(torch.zeros(3)), 2, 6, config, generator=generator))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.allclose(drawn(1), drawn(2))


def test_turning_what_is_observed_turns_the_samples() -> None:
    """With a prior that knows no direction, in distribution: compared by second moments about the axes."""
    generator = torch.Generator().manual_seed(0)
    orientation, turn = random_rotations(2, generator=generator)
    observed = torch.randn(10, 2, generator=generator) * torch.tensor([0.6, 0.2])

    def moments(orientation: Tensor) -> Tensor:
        energy = projection_energy(observed, orientation, 10)
        config = SamplingConfig(steps=20, guidance=1.0)
        drawn = last(sample_progressive(gaussian(0.4), energy, 300, 10, config, generator=generator))
        return torch.einsum("bni,bnj->bij", drawn, drawn) / 10

    as_it_is, turned = moments(orientation), moments(orientation @ turn.T)
    expected = turn @ as_it_is @ turn.T
    error = ((turned.var(0) + expected.var(0)) / len(turned)).sqrt()
    assert ((turned.mean(0) - expected.mean(0)).abs() < 4 * error).all()
    # they are far from alike in all directions, so that the test would see a wrong turn
    assert ((turned.mean(0) - as_it_is.mean(0)).abs() > 8 * error).any()


@pytest.mark.parametrize(("correction", "count"), [(True, 79), (False, 40)])
def test_evaluations_are_as_many_as_said(correction: bool, count: int) -> None:
    asked = [0]

    def counted(noisy: Tensor, sigma: Tensor) -> Tensor:
        asked[0] += 1
        return gaussian(0.4)(noisy, sigma)

    config = SamplingConfig(correction=correction)
    last(sample_progressive(counted, None, 1, 4, config, generator=torch.Generator().manual_seed(0)))
    assert asked[0] == count == config.evaluations


def test_noise_ends_below_its_level_and_is_never_more_than_allowed() -> None:
    config = SamplingConfig(noise_above=0.15, noise_at_most=5.0)
    assert [config.beta(sigma) for sigma in (1.0, 0.5, 0.16, 0.15, 0.1)] == [1.0, 2.0, 5.0, 0.0, 0.0]


def test_most_likely_clouds_go_to_what_was_observed() -> None:
    *_, final = most_likely_progressive(
        to_target(torch.tensor([0.2, 0.1, -0.3])), 2, 5, steps=400, generator=torch.Generator().manual_seed(0)
    )
    assert torch.allclose(final, torch.tensor([0.2, 0.1, -0.3]), atol=0.05)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="2 steps or more"):
        SamplingConfig(steps=1)
    with pytest.raises(InputError, match="negative"):
        SamplingConfig(guidance=-1.0)
