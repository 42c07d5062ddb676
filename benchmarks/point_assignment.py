"""Exact assignment of point clouds to observations along a sampling, beside SciPy and lapx.

A sampling is imitated: the truth is a chain of points in the cube from -1 to 1, and the clouds are estimates of it by
the optimal linear denoiser at the paper's 40 noise levels, of which each renews a part of the noise. So a cloud begins
as a small ball and ends as the truth. SciPy and lapx get the matrix of squared distances, with observed points
repeated as the paper does; making it is not counted. All sides work on one thread and take turns; what counts is the
time of the processor, since other programs may run beside. Their costs must be equal.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scoretomo.geometry.assignment import Assignment, PartialAssignment, assign_points
from scoretomo.methods.point_energies import redraw

from .record import Row
from .timing import three_digits

try:
    from lap import lapjv
except ImportError:  # not a dependency: pip install lapx
    lapjv = None

_MOST, _LEAST, _RHO = 10.0, 0.01, 3  # noise levels, as in 002
_RENEWED = 0.3  # share of the noise that is new at each level


@dataclass(frozen=True)
class Settings:
    """What to assign. The defaults take some minutes, nearly all of them in SciPy and lapx."""

    device: Literal["cpu"] = "cpu"
    """Assignments are computed on the CPU."""
    points: tuple[int, ...] = (256, 1024)
    """Points of a cloud."""
    steps: int = 40
    """Noise levels."""
    compared: int = 5
    """Of them those at which the others are measured too, evenly spread."""


@dataclass(frozen=True)
class Problem:
    """An observation, and ways to assign clouds to it."""

    name: str
    axes: int
    new: Callable[[], Callable[[Tensor], Tensor]]
    """An assignment that knows of no call before."""
    observed: Float[Tensor, "m d"]
    targets: Float[Tensor, "k d"]
    """What the others assign: observed points as often as they are to be taken."""
    partial: bool = False
    """Whether the assignment gives the cloud's point of each observed one, or the other way round."""


def measure(settings: Settings) -> Iterator[Row]:
    """One row for each kind of observation and number of points."""
    torch.set_num_threads(1)
    for count in settings.points:
        generator = torch.Generator().manual_seed(count)
        truth = _chain(count, generator)
        clouds = _estimates(truth, settings.steps, generator)
        for problem in _problems(truth, generator):
            yield _row(problem, clouds[..., : problem.axes], settings.compared)


def _chain(count: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    points = torch.zeros(count, 3)
    for k in range(1, count):  # a walk that is drawn back to the middle
        points[k] = 0.98 * points[k - 1] + torch.randn(3, generator=generator)
    points -= points.mean(0)
    return points / points.abs().max()


def _estimates(truth: Tensor, steps: int, generator: torch.Generator) -> Float[Tensor, "steps n 3"]:
    levels = torch.linspace(_MOST ** (1 / _RHO), _LEAST ** (1 / _RHO), steps) ** _RHO
    noise = torch.randn(truth.shape, generator=generator)
    estimates = []
    for level in levels:
        noise = (1 - _RENEWED**2) ** 0.5 * noise + _RENEWED * torch.randn(truth.shape, generator=generator)
        estimates.append((truth + level * noise) / (1 + (level / truth.std()) ** 2))
    return torch.stack(estimates)


def _problems(truth: Float[Tensor, "n 3"], generator: torch.Generator) -> Iterator[Problem]:
    count = len(truth)
    shuffled = truth[torch.randperm(count, generator=generator)]
    for axes, observed, name in ((2, 200, "projection"), (3, 30, "coarse model")):
        points, capacities = shuffled[:observed, :axes], redraw(observed, count, generator)
        repeated = points.repeat_interleave(capacities, dim=0)
        new = lambda points=points, capacities=capacities: Assignment(points, capacities)  # noqa: E731
        yield Problem(f"{name}, {observed} points", axes, new, points, repeated)
    part = truth[(truth - truth[0]).norm(dim=1).argsort()[: count // 4]]
    yield Problem("subunit, a quarter", 3, lambda: PartialAssignment(part), part, part, partial=True)
    pairs = lambda: lambda clouds: assign_points(clouds, shuffled[None].expand_as(clouds))  # noqa: E731
    yield Problem("another cloud, one to one", 3, pairs, shuffled, shuffled)


def _row(problem: Problem, clouds: Float[Tensor, "steps n d"], compared: int) -> Row:
    steps = len(clouds)
    problem.new()(clouds[:1])  # compiled
    assignment, times = problem.new(), {"warm": [], "cold": [], "scipy": [], "lapx": []}
    at = {round(k * (steps - 1) / (compared - 1)) for k in range(compared)}
    for step, cloud in enumerate(clouds):
        seconds, found = _timed(assignment, cloud[None])
        if step:
            times["warm"].append(seconds)
        if step not in at:
            continue
        times["cold"].append(_timed(problem.new(), cloud[None])[0])
        costs = torch.cdist(problem.targets.double(), cloud.double(), compute_mode="donot_use_mm_for_euclid_dist")
        costs = costs.square().numpy()
        seconds, pairs = _timed(linear_sum_assignment, costs)
        times["scipy"].append(seconds)
        _check_equal(problem, cloud, found[0], float(costs[pairs].sum()))
        if lapjv is not None:
            times["lapx"].append(_timed(lambda costs=costs: lapjv(costs, extend_cost=True))[0])
    means = {name: sum(each) / len(each) * 1e3 for name, each in times.items() if each}
    return {
        "observation": problem.name,
        "points": clouds.shape[1],
        "warm_ms": three_digits(means["warm"]),
        "cold_ms": three_digits(means["cold"]),
        "scipy_ms": three_digits(means["scipy"]),
        "lapx_ms": three_digits(means["lapx"]) if "lapx" in means else None,
        "times_scipy": three_digits(means["scipy"] / means["warm"]),
    }


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = time.process_time()
    result = work(*arguments)
    return time.process_time() - began, result


def _check_equal(problem: Problem, cloud: Tensor, found: Tensor, least: float) -> None:
    cloud = cloud.double()
    first, second = (cloud[found], problem.observed) if problem.partial else (cloud, problem.observed[found])
    cost = float((first - second.double()).square().sum())
    if abs(cost - least) > 1e-9 * max(least, 1):
        raise AssertionError(f"{problem.name}: costs {cost}, the least is {least}")
