"""Assignments are the best ones, whatever came before and however many of them are equally good."""

import pytest
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.geometry import transport
from scoretomo.geometry.assignment import Assignment, PartialAssignment, assign_points


def _least_cost(cloud: Float[Tensor, "n d"], targets: Float[Tensor, "m d"]) -> float:
    """By SciPy, of the smaller of the two sets in the larger one."""
    costs = (cloud.double()[:, None] - targets.double()).square().sum(-1).numpy()
    return float(costs[linear_sum_assignment(costs)].sum())


def _cost(cloud: Float[Tensor, "n d"], targets: Float[Tensor, "n d"]) -> float:
    return float((cloud.double() - targets.double()).square().sum())


def _assert_best(
    clouds: Float[Tensor, "b n d"],
    observed: Float[Tensor, "m d"],
    capacities: Int[Tensor, " m"],
    found: Int[Tensor, "b n"],
) -> None:
    for cloud, columns in zip(clouds, found, strict=True):
        assert torch.equal(columns.bincount(minlength=len(observed)), capacities)
        least = _least_cost(cloud, observed.repeat_interleave(capacities, dim=0))
        assert _cost(cloud, observed[columns]) == pytest.approx(least, rel=1e-9, abs=1e-9)


def _problem(kind: str, n: int, m: int, axes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    cloud, observed = torch.randn(2, n, axes, generator=generator), torch.randn(m, axes, generator=generator)
    if kind == "clustered":
        cloud, observed = (
            0.01 * cloud + (torch.arange(n) % 3)[:, None],
            0.01 * observed + (torch.arange(m) < 3)[:, None],
        )
    if kind == "lattice":  # a great number of assignments is equally good
        cloud, observed = cloud.round(), observed.round()
    if kind == "on a line":
        cloud, observed = cloud[..., :1].expand(-1, -1, axes).clone(), observed[:, :1].expand(-1, axes).clone()
    if kind == "collapsed":
        cloud = torch.zeros_like(cloud)
    if kind == "far away":
        cloud = cloud + 1000
    return cloud, observed


KINDS = ["random", "clustered", "lattice", "on a line", "collapsed", "far away"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "axes"), [(60, 60, 3), (60, 37, 2), (60, 7, 3), (3, 1, 2)])
def test_finds_the_least_cost_within_the_capacities(
    kind: str, n: int, m: int, axes: int, generator: torch.Generator
) -> None:
    clouds, observed = _problem(kind, n, m, axes, generator)
    capacities = torch.randint(m, (n,), generator=generator).bincount(minlength=m)  # some are 0
    _assert_best(clouds, observed, capacities, Assignment(observed, capacities)(clouds))


@pytest.mark.parametrize("listed", [2, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_cheap_columns_change_nothing(
    kind: str, listed: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are too short for the shortest path, as 2 columns often are, all columns are looked at."""
    monkeypatch.setattr(transport, "_MANY", 1)
    monkeypatch.setattr(transport, "_LISTED", listed)
    clouds, observed = _problem(kind, 60, 37, 2, generator)
    capacities = torch.full((37,), 60 // 37)
    capacities[: 60 - 37] += 1
    assignment = Assignment(observed, capacities)
    for batch in (clouds, clouds + 0.1 * torch.randn(clouds.shape, generator=generator)):
        _assert_best(batch, observed, capacities, assignment(batch))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "wanted"), [(60, 60), (60, 59), (60, 20), (60, 1)])
def test_partial_finds_the_least_cost(kind: str, n: int, wanted: int, generator: torch.Generator) -> None:
    clouds, observed = _problem(kind, n, wanted, 3, generator)
    for cloud, rows in zip(clouds, PartialAssignment(observed)(clouds), strict=True):
        assert len(rows.unique()) == wanted
        assert _cost(cloud[rows], observed) == pytest.approx(_least_cost(cloud, observed), rel=1e-9, abs=1e-9)


def test_remains_exact_while_clouds_move_jump_grow_and_change_in_number(generator: torch.Generator) -> None:
    observed, capacities = torch.randn(12, 3, generator=generator), torch.tensor([1, 2, 9, 4] * 3)
    both = Assignment(observed, capacities), PartialAssignment(observed)
    clouds = torch.randn(3, 48, 3, generator=generator)
    sequence = [
        clouds,
        clouds + 0.02 * torch.randn(3, 48, 3, generator=generator),
        1e-3 * clouds,
        50 * clouds,
        clouds[:1],
        -clouds.flip(0),
        torch.zeros_like(clouds),
        clouds,
    ]
    for batch in sequence:
        _assert_best(batch, observed, capacities, both[0](batch))
        for cloud, rows in zip(batch, both[1](batch), strict=True):
            assert _cost(cloud[rows], observed) == pytest.approx(_least_cost(cloud, observed), rel=1e-9, abs=1e-9)


def test_order_of_the_cloud_does_not_matter(generator: torch.Generator) -> None:
    clouds, observed = torch.randn(1, 50, 2, generator=generator), torch.randn(20, 2, generator=generator)
    capacities, order = torch.tensor([2, 3] * 10), torch.randperm(50, generator=generator)
    found = Assignment(observed, capacities)(clouds)
    assert torch.equal(Assignment(observed, capacities)(clouds[:, order]), found[:, order])
    rows = PartialAssignment(observed)(clouds)
    assert torch.equal(order[PartialAssignment(observed)(clouds[:, order])], rows)


def test_pairs_clouds_with_their_permutation(generator: torch.Generator) -> None:
    clouds = torch.randn(3, 40, 3, generator=generator)
    orders = torch.stack([torch.randperm(40, generator=generator) for _ in range(3)])
    permuted = torch.stack([cloud[order] for cloud, order in zip(clouds, orders, strict=True)])
    assert torch.equal(assign_points(permuted, clouds), orders)


def test_pairs_different_clouds_at_the_least_cost(generator: torch.Generator) -> None:
    first, second = torch.randn(3, 40, 3, generator=generator), 1 + 2 * torch.randn(3, 40, 3, generator=generator)
    for one, other, columns in zip(first, second, assign_points(first, second), strict=True):
        assert _cost(one, other[columns]) == pytest.approx(_least_cost(one, other), rel=1e-9)


def test_threads_find_what_one_finds(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.randn(2, 8, 128, 3, generator=generator)
    alone = assign_points(first, second)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(assign_points(first, second), alone)


def test_prices_of_the_last_call_save_work(generator: torch.Generator) -> None:
    """Once the prices are right for a cloud, every row has what it wants at once."""
    observed = torch.randn(30, 2, generator=generator)
    assignment = Assignment(observed, torch.full((30,), 4))
    clouds = torch.rand(1, 120, 2, generator=generator) ** 3
    found = assignment(clouds)
    assert assignment._last is not None
    prices = torch.from_numpy(assignment._last[0])
    centred = clouds.double() - clouds.double().mean(1, keepdim=True)
    costs = prices[:, None] - 2 * centred @ (observed.double() - observed.double().mean(0)).mT
    paid = costs.gather(2, found[..., None])[..., 0]
    torch.testing.assert_close(paid, costs.amin(2), rtol=0, atol=1e-9)


def test_refuses_what_it_cannot_assign() -> None:
    observed, capacities = torch.rand(3, 2), torch.tensor([1, 2, 1])
    assignment = Assignment(observed, capacities)
    with pytest.raises(InputError, match="5 points"):
        assignment(torch.rand(1, 5, 2))
    with pytest.raises(InputError, match="NaN"):
        assignment(torch.full((1, 4, 2), torch.nan))
    with pytest.raises(InputError, match="NaN"):
        assign_points(torch.rand(1, 4, 2), torch.full((1, 4, 2), torch.inf))
    with pytest.raises(InputError, match="negative"):
        Assignment(observed, torch.tensor([1, 2, -1]))
    with pytest.raises(InputError, match="positive"):
        Assignment(observed, torch.tensor([0, 0, 0]))
    with pytest.raises(InputError, match="no observed points"):
        PartialAssignment(torch.rand(0, 3))
    with pytest.raises(InputError, match="fewer than"):
        PartialAssignment(observed)(torch.rand(1, 2, 2))
