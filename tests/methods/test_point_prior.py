"""Training of the prior: noise levels of the two phases, and what the loss is zero for."""

import math

import pytest
import torch
from torch import nn

from scoretomo.datatypes import InputError
from scoretomo.methods.point_prior import PointNoiseConfig, prior_loss


@pytest.mark.parametrize(("done", "median", "spread", "largest"), [(0.0, -2.8, 0.9, 1.0), (0.95, -1.2, 1.2, 80.0)])
def test_noise_levels_are_those_of_the_phase(done: float, median: float, spread: float, largest: float) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = PointNoiseConfig().draw(40_000, done, generator=generator, device=torch.device("cpu"))
    inside = levels.log()[levels < largest]
    assert levels.max() <= largest
    assert levels.log().median().item() == pytest.approx(median, abs=0.03)
    # the normal distribution is cut a little at the largest level
    assert inside.std().item() == pytest.approx(spread, rel=0.05)


def test_phases_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="noise levels"):
        PointNoiseConfig(first_part=1.5)


class _Knows(nn.Module):
    """Gives the cloud in the orientation in which it best fits the noisy one, if it may be turned so."""

    def __init__(self, cloud: torch.Tensor, *, proper: bool) -> None:
        super().__init__()
        self.cloud, self.proper = cloud, proper

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        u, _, vh = torch.linalg.svd(self.cloud.T @ noisy)
        if self.proper:
            u = torch.cat([u[..., :2], u[..., 2:] * torch.linalg.det(u @ vh)[:, None, None]], 2)
        return self.cloud @ (u @ vh)


@pytest.mark.parametrize("handed", [True, False])
def test_molecules_are_never_mirrored_and_other_shapes_half_the_time(handed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(40, 3, generator=generator)
    quiet = PointNoiseConfig(first_log_mean=math.log(1e-3), first_log_std=0.0)

    def loss(proper: bool) -> float:
        known = _Knows(cloud, proper=proper)
        value = prior_loss(cloud[None], 40, quiet, lambda: 0.0, known, 64, generator, handed=handed)
        return value.item()

    assert loss(proper=False) < 10  # of order 1: what remains is the rotation's share of the noise
    assert (loss(proper=True) > 1e3) is not handed


def test_processes_that_share_a_batch_have_its_loss_together() -> None:
    clouds = torch.randn(5, 30, 3)
    known = _Knows(clouds[0], proper=True)

    def loss(part: slice) -> float:
        generator = torch.Generator().manual_seed(3)
        return prior_loss(
            clouds, 30, PointNoiseConfig(), lambda: 0.0, known, 8, generator, handed=True, part=part
        ).item()

    assert loss(slice(0, None, 2)) + loss(slice(1, None, 2)) == pytest.approx(loss(slice(None)), rel=1e-4)


def test_large_clouds_are_thinned_anew_each_time() -> None:
    seen: list[torch.Tensor] = []

    class Remembers(nn.Module):
        def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            seen.append(noisy)
            return noisy.detach()

    quiet = PointNoiseConfig(first_log_mean=math.log(1e-6), first_log_std=0.0)
    cloud = torch.randn(1, 100, 3)
    prior_loss(cloud, 20, quiet, lambda: 0.0, Remembers(), 2, torch.Generator().manual_seed(0), handed=True)
    radii = cloud[0].norm(dim=1)
    found = (seen[0].norm(dim=2)[..., None] - radii).abs().min(2)
    assert found.values.max() < 1e-4
    first, second = found.indices
    assert len(first.unique()) == len(second.unique()) == 20
    assert set(first.tolist()) != set(second.tolist())
