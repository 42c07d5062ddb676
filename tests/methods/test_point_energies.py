"""Energies are zero for what explains an observation, grow with the distance from it, and have the right slope."""

import math
from functools import partial

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.methods.point_energies import (
    Energy,
    coarse_energy,
    projection_energy,
    redraw,
    subunit_energy,
    weighted_energy,
)

COUNT = 24


@pytest.fixture
def clouds(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(2, COUNT, 3, dtype=torch.float64, generator=generator) * 2 - 1


@pytest.fixture
def orientation(generator: torch.Generator) -> torch.Tensor:
    """Not a rotation: orthogonal matrices may mirror."""
    return -random_rotations(generator=generator).double()


def _energies(clouds: torch.Tensor, orientation: torch.Tensor, generator: torch.Generator) -> dict[str, Energy]:
    """Of observations of other points than those of the clouds."""
    other = torch.rand(COUNT, 3, dtype=torch.float64, generator=generator)
    both = projection_energy(other[:10, :2], orientation, COUNT, generator), subunit_energy(other[:5], COUNT)
    return {
        "projection": both[0],
        "coarse": coarse_energy(other[:7], COUNT, generator),
        "subunit": both[1],
        "weighted": weighted_energy(both, (0.3, 2.0)),
    }


def test_permuted_points_explain_everything(
    clouds: torch.Tensor, orientation: torch.Tensor, generator: torch.Generator
) -> None:
    permuted = clouds[:1, torch.randperm(COUNT, generator=generator)]
    seen = torch.einsum("ij,kj->ki", orientation, clouds[0])[:, :2]  # x_image = R x_object
    assert projection_energy(seen, orientation, COUNT)(permuted).item() == pytest.approx(0, abs=1e-25)
    assert coarse_energy(clouds[0], COUNT)(permuted).item() == pytest.approx(0, abs=1e-25)
    assert subunit_energy(clouds[0, :9], COUNT)(permuted).item() == pytest.approx(0, abs=1e-25)
    wrong = orientation.mT.contiguous()
    assert projection_energy(seen, wrong, COUNT)(permuted).item() > 1e-3


@pytest.mark.parametrize("name", ["projection", "coarse", "subunit", "weighted"])
def test_gradient_agrees_with_finite_differences(
    name: str, clouds: torch.Tensor, orientation: torch.Tensor, generator: torch.Generator
) -> None:
    energy = _energies(clouds, orientation, generator)[name]
    clouds.requires_grad_()
    assert torch.autograd.gradcheck(energy, (clouds,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["projection", "coarse", "subunit", "weighted"])
def test_order_of_the_cloud_does_not_matter(
    name: str, clouds: torch.Tensor, orientation: torch.Tensor, generator: torch.Generator
) -> None:
    energy = _energies(clouds, orientation, generator)[name]
    permuted = clouds[:, torch.randperm(COUNT, generator=generator)]
    torch.testing.assert_close(energy(permuted), energy(clouds), rtol=1e-12, atol=0)


def test_is_a_mean_over_the_points_of_the_cloud() -> None:
    shift = torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)  # much less than the points are apart
    lattice = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)
    moved = (lattice + shift)[None]
    plane = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 2)
    in_plane, in_space = float(shift[:2].square().sum()), float(shift.square().sum())
    assert projection_energy(plane, torch.eye(3), 27)(moved).item() == pytest.approx(in_plane)
    assert coarse_energy(lattice, 27)(moved).item() == pytest.approx(in_space)
    assert subunit_energy(lattice[:9], 27)(moved).item() == pytest.approx(in_space * 9 / 27)


def test_subunit_and_whole_pull_a_point_equally_hard() -> None:
    lattice = torch.cartesian_prod(*[torch.arange(3.0)] * 3)
    pulls = []
    for energy in (coarse_energy(lattice, 27), subunit_energy(lattice[:9], 27)):
        moved = (lattice + 0.1)[None].requires_grad_()
        pulls.append(torch.autograd.grad(energy(moved).sum(), moved)[0][0])
    torch.testing.assert_close(pulls[1][:9], pulls[0][:9])
    assert not pulls[1][9:].any()


def test_weighted_energy_is_the_sum(
    clouds: torch.Tensor, orientation: torch.Tensor, generator: torch.Generator
) -> None:
    parts = _energies(clouds, orientation, generator)
    chosen = [parts["projection"], parts["coarse"], parts["subunit"]]
    values = torch.stack([energy(clouds) for energy in chosen])
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(weighted_energy(chosen, weights.tolist())(clouds), weights @ values)
    torch.testing.assert_close(weighted_energy(chosen)(clouds), values.mean(0))


def test_dtype_follows_the_clouds(clouds: torch.Tensor, orientation: torch.Tensor, generator: torch.Generator) -> None:
    for energy in _energies(clouds, orientation, generator).values():
        assert energy(clouds.float()).dtype == torch.float32
        torch.testing.assert_close(energy(clouds.float()).double(), energy(clouds), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("observed", "count"), [(10, 35), (10, 30), (35, 10), (1, 5)])
def test_redraws_evenly(observed: int, count: int, generator: torch.Generator) -> None:
    drawn = torch.stack([redraw(observed, count, generator) for _ in range(300)])
    assert (drawn.sum(1) == count).all()
    assert ((drawn == count // observed) | (drawn == math.ceil(count / observed))).all()
    torch.testing.assert_close(
        drawn.double().mean(0), torch.full((observed,), count / observed).double(), atol=0.15, rtol=0
    )


def test_redraws_by_weight(generator: torch.Generator) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 6.5])
    drawn = torch.stack([redraw(4, 13, generator, weights) for _ in range(300)]).double()
    assert (drawn.sum(1) == 13).all()
    torch.testing.assert_close(drawn.mean(0), 1.3 * weights.double(), atol=0.1, rtol=0)
    assert (drawn.std(0) < 0.51).all()


def test_redraws_by_the_generator() -> None:
    first, again, other = (redraw(40, 60, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_refuses_what_cannot_be_used() -> None:
    plane, space, turn = torch.rand(4, 2), torch.rand(4, 3), torch.eye(3)
    refused = {
        r"\(m, 2\)": partial(projection_energy, space, turn, 8),
        r"\(m, 3\)": partial(coarse_energy, plane, 8),
        r"not shape \(12,\)": partial(coarse_energy, space.flatten(), 8),
        "not orthogonal": partial(projection_energy, plane, 1.01 * turn, 8),
        r"\(3, 3\)": partial(projection_energy, plane, turn[:2], 8),
        "no points": partial(subunit_energy, space[:0], 8),
        "subunit of 4 points .* 3 points": partial(subunit_energy, space, 3),
        "NaN": partial(coarse_energy, space * torch.nan, 8),
        "1 point or more": partial(coarse_energy, space, 0),
        "as many weights, positive": partial(coarse_energy, space, 8, None, torch.zeros(4)),
        "4 observed points": partial(coarse_energy, space, 8, None, torch.ones(3)),
        "no observations": partial(weighted_energy, []),
        "2 observations": partial(weighted_energy, [coarse_energy(space, 8)] * 2, [1.0]),
        r"\(b, 8, 3\)": partial(coarse_energy(space, 8), torch.rand(1, 7, 3)),
        "points hold NaN": partial(coarse_energy(space, 8), torch.full((1, 8, 3), torch.nan)),
    }
    for message, work in refused.items():
        with pytest.raises(InputError, match=message):
            work()
