"""Point clouds from sparse observations: time of a sample, in the network and in the assignment, and beside SciPy's.

The full course of sampling with the settings of 002 (40 steps, 79 evaluations) on projections alone. Time of the
assignment is that of the energies; the rest, the network forwards and backwards nearly all of it, is that of the
network. "scipy" solves every cloud and every view by its `linear_sum_assignment`, as the paper does; both take turns,
and the ratios, of all time and of the assignment alone, are medians over them. Chamfer and earth mover's distance, mean
over the samples, 100 times, tell that nothing else differs.

002 needs 1.2 minutes a sample: 6 projections of 200 points, clouds of 1024 points, 10 at once, 24 layers of width 512,
on an A100.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.methods.point_energies import Energy, redraw, weighted_energy
from scoretomo.methods.point_posterior import SamplingConfig

from .points_problems import Family, Problem, Scenario, draw, families, judge
from .record import Row
from .timing import duration, three_digits, wait

_SAMPLING = SamplingConfig()


@dataclass(frozen=True)
class Settings:
    """Which prior, and the sizes."""

    prior: Path
    """Folder of a trained prior; its network takes clouds of any size."""
    clouds: Path
    """Its set (.npz); sizes beyond that of its clouds are left out."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute; assignments are solved on the CPU."""
    points: tuple[int, ...] = (128, 256, 512, 1024)
    """Points of a cloud."""
    views: tuple[int, ...] = (1, 2, 4, 6)
    """Projections."""
    batches: tuple[int, ...] = (1, 10, 20)
    """Clouds at once."""
    compared: tuple[tuple[int, int], ...] = ((256, 100), (256, 256), (1024, 200), (1024, 1024))
    """Points of a cloud and of a projection, of the comparison with SciPy; 002 has the last two. Empty: none."""
    repeats: int = 2
    """Turns of the comparison."""


@dataclass(frozen=True)
class Size:
    """What is sampled: points of a cloud and of a projection, projections, clouds at once."""

    points: int = 256
    observed: int = 100
    views: int = 4
    batch: int = 10


def measure(settings: Settings) -> Iterator[Row]:
    """Change points, views and batch one at a time, then compare with SciPy."""
    (family,) = families([settings.prior], [settings.clouds], settings.device)
    most = family.clouds.points.shape[1]
    sizes = [Size(points=count, observed=round(0.39 * count)) for count in settings.points]
    sizes += [Size(views=count) for count in settings.views] + [Size(batch=count) for count in settings.batches]
    for size in dict.fromkeys(sizes):
        if size.points <= most:
            yield line(size, "ours", [sample(family, size, exact_energy)])
    for points, observed in settings.compared:
        if points <= most:
            yield from compare(family, Size(points, observed, views=6, batch=1), settings.repeats)


def compare(family: Family, size: Size, repeats: int) -> Iterator[Row]:
    """Sample with our assignment and with SciPy's in turn."""
    turns = [(sample(family, size, exact_energy), sample(family, size, plain_energy)) for _ in range(repeats)]
    ours, plain = zip(*turns, strict=True)
    ratios = {
        "times_scipy": three_digits(median(other.seconds / one.seconds for one, other in turns)),
        "times_scipy_assignment": three_digits(median(other.assignment / one.assignment for one, other in turns)),
    }
    yield line(size, "ours", ours) | ratios
    yield line(size, "scipy", plain)


@dataclass(frozen=True)
class Course:
    """A course of sampling: seconds in all and in the energy, and mean distances from the truth."""

    seconds: float
    assignment: float
    chamfer: float
    earth_movers: float


def sample(family: Family, size: Size, energy_of: Callable[[Problem], Energy]) -> Course:
    """Sample the posterior of the first held-out shape once, after a few warm steps."""
    scenario = Scenario("projections", size.views, size.observed, sampling=_SAMPLING)
    sized = replace(family, points=size.points)
    problem = sized.problem(scenario, sized.shapes[0][0], 0)
    draw(sized, energy_of(problem), replace(_SAMPLING, steps=2), samples=size.batch, seed=0)
    timed = _TimedEnergy(energy_of(problem), family.device)
    clouds: list[Tensor] = []
    seconds = duration(lambda: clouds.append(draw(sized, timed, _SAMPLING, samples=size.batch, seed=0)), family.device)
    solution = judge(clouds[0].cpu(), problem, seconds)
    return Course(seconds, timed.seconds, float(solution.chamfer.mean()), float(solution.earth_movers.mean()))


class _TimedEnergy:
    """Adds up the time that an energy takes."""

    def __init__(self, energy: Energy, device: str) -> None:
        self.energy, self.device, self.seconds = energy, device, 0.0

    def __call__(self, points: Tensor) -> Tensor:
        wait(self.device)  # the network comes first
        found: list[Tensor] = []
        self.seconds += duration(lambda: found.append(self.energy(points)), self.device)
        return found[0]


def exact_energy(problem: Problem) -> Energy:
    """Energy of the package."""
    return problem.energy()


def plain_energy(problem: Problem) -> Energy:
    """Energy of the projections of a problem by SciPy, one cloud and one view at a time; the same random choices.

    Raises
    ------
    InputError
        Something else than projections was observed.
    """
    if problem.coarse is not None or problem.part is not None:
        raise InputError("SciPy is compared on projections only")
    count, source = len(problem.truth), torch.Generator().manual_seed(problem.seed)
    views = [
        _plain_view(observed.repeat_interleave(redraw(len(observed), count, source), 0), turn)
        for observed, turn in zip(problem.projections, problem.orientations, strict=True)
    ]
    return weighted_energy(views)


def _plain_view(upsampled: Tensor, orientation: Tensor) -> Energy:
    def energy(points: Tensor) -> Tensor:
        seen = points @ orientation[:2].to(points).mT
        targets = torch.stack([_partners(cloud, upsampled) for cloud in seen.detach().cpu()])
        return (seen - targets.to(seen)).square().sum((1, 2)) / len(upsampled)

    return energy


def _partners(cloud: Tensor, upsampled: Tensor) -> Tensor:
    rows, columns = linear_sum_assignment(cdist(cloud.numpy(), upsampled.numpy(), "sqeuclidean"))
    return upsampled[torch.from_numpy(columns[rows.argsort()])]


def line(size: Size, solver: str, courses: Sequence[Course]) -> Row:
    """Line of the table: medians of the times."""
    total = median(course.seconds for course in courses) / size.batch
    assignment = median(course.assignment for course in courses) / size.batch
    return {
        "solver": solver,
        "points": size.points,
        "observed": size.observed,
        "views": size.views,
        "batch": size.batch,
        "seconds_a_sample": three_digits(total),
        "network": three_digits(total - assignment),
        "assignment": three_digits(assignment),
        "ms_per_assignment": three_digits(1000 * assignment / (_SAMPLING.evaluations * size.views)),
        "cd_x100": round(100 * courses[0].chamfer, 4),
        "emd_x100": round(100 * courses[0].earth_movers, 4),
        "times_scipy": None,
        "times_scipy_assignment": None,
    }
