"""Point clouds that are observed in part: the rows of 002, Table 1, at a quarter of its points, and their solutions."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from scoretomo.commands.points_folder import load_prior
from scoretomo.datatypes import InputError, PointClouds
from scoretomo.diffusion.edm import Denoiser
from scoretomo.evaluation.point_error import chamfer_distance, earth_movers_distance
from scoretomo.geometry.point_clouds import mixture_means, random_orthogonal_matrices, random_subsets, subunit
from scoretomo.io.files import replacing
from scoretomo.io.point_sets import read_point_set
from scoretomo.methods.point_energies import (
    Energy,
    coarse_energy,
    projection_energy,
    subunit_energy,
    weighted_energy,
)
from scoretomo.methods.point_posterior import SamplingConfig, most_likely_progressive, sample_progressive

from .timing import wait

_SAMPLING = SamplingConfig()
# A coarse model is a crude observation, every point of which stands for many: following it closely clumps the cloud.
_WITH_COARSE = SamplingConfig(guidance=15.0, guidance_power=0.0)
_ALL = SamplingConfig(guidance=1.5)


@dataclass(frozen=True)
class Scenario:
    """What is observed of a shape, and how its posterior is sampled.

    Attributes
    ----------
    name
        In options and file names.
    projections, projection_points
        Projections in random orientations, and the points of each.
    coarse
        Points of a coarse model; 0: there is none.
    clusters
        One cluster of so many, found by k-means, is a known subunit; 0: there is none.
    sampling
        How its posterior is sampled; strengths were chosen on shapes that are not held out.
    """

    name: str
    projections: int
    projection_points: int
    coarse: int = 0
    clusters: int = 0
    sampling: SamplingConfig = _SAMPLING

    def words(self, points: int) -> str:
        """What is observed of a cloud of so many points: projections and their points, and other parts."""
        words = f"{self.projections} view{'s' * (self.projections > 1)} of {self.projection_points}"
        words += f", coarse {self.coarse}" if self.coarse else ""
        return words + (f", subunit {points // self.clusters}" if self.clusters else "")


SCENARIOS: Mapping[str, tuple[Scenario, ...]] = {
    "furniture": (
        Scenario("projections", 5, 100),
        Scenario("coarse", 1, 100, coarse=30, sampling=_WITH_COARSE),
        Scenario("subunit", 2, 100, clusters=4),
        Scenario("all", 2, 100, coarse=30, clusters=8, sampling=_ALL),
    ),
    "traces": (
        Scenario("projections", 4, 256),
        Scenario("coarse", 1, 256, coarse=40, sampling=_WITH_COARSE),
        Scenario("subunit", 2, 256, clusters=4),
        Scenario("all", 2, 256, coarse=40, clusters=8, sampling=_ALL),
    ),
}
"""By family, in the order of the table. 100 of 256 points are as sparse as the paper's 400 of 1024."""


@dataclass(frozen=True)
class Problem:
    """Observations of a shape, and the truth.

    Attributes
    ----------
    truth
        ``(n, 3)``, in a random orientation.
    turn
        ``(3, 3)``: ``truth @ turn`` is in the orientation of the set.
    projections
        ``(k, m, 2)``.
    orientations
        ``(k, 3, 3)``, from the object to the projection.
    coarse
        ``(c, 3)`` coarse model, or None.
    part
        ``(l, 3)`` known subunit, or None.
    seed
        Of the random choices that the energies make.
    """

    truth: Float[Tensor, "n 3"]
    turn: Float[Tensor, "3 3"]
    projections: Float[Tensor, "k m 2"]
    orientations: Float[Tensor, "k 3 3"]
    coarse: Float[Tensor, "c 3"] | None
    part: Float[Tensor, "l 3"] | None
    seed: int

    def energy(self) -> Energy:
        """Mean energy of the observations (002, Eq. 14): a new one for each course of sampling, always the same."""
        count, source = len(self.truth), torch.Generator().manual_seed(self.seed)
        views = zip(self.projections, self.orientations, strict=True)
        energies = [projection_energy(observed, turn, count, source) for observed, turn in views]
        if self.coarse is not None:
            energies.append(coarse_energy(self.coarse, count, source))
        if self.part is not None:
            energies.append(subunit_energy(self.part, count))
        return weighted_energy(energies)


def observe(cloud: Float[Tensor, "N 3"], points: int, scenario: Scenario, *, handed: bool, seed: int) -> Problem:
    """Turn a shape at random, and observe it.

    Where the cloud has more than ``points`` points, the truth is a random subset of them, and so is the subunit;
    projections and coarse model are of all.

    Raises
    ------
    InputError
        The cloud has too few points.
    """
    source = torch.Generator().manual_seed(seed)
    turn, *views = random_orthogonal_matrices(1 + scenario.projections, handed=handed, generator=source)
    full, orientations = cloud @ turn.T, torch.stack(views)
    truth = random_subsets(full, points, generator=source)
    chosen = random_subsets(full.expand(len(views), -1, -1), scenario.projection_points, generator=source)
    coarse = mixture_means(full, scenario.coarse, generator=source) if scenario.coarse else None
    part = truth[subunit(truth, scenario.clusters, generator=source)] if scenario.clusters else None
    return Problem(truth, turn, (chosen @ orientations.mT)[..., :2], orientations, coarse, part, seed)


@dataclass(frozen=True)
class Family:
    """A set of clouds and the prior that was trained on it.

    Attributes
    ----------
    denoiser
        Of the prior.
    points
        Of the prior's clouds.
    clouds
        The whole set.
    fingerprint
        Of the files of both.
    device
        Where the denoiser is.
    """

    denoiser: Denoiser
    points: int
    clouds: PointClouds
    fingerprint: str
    device: str

    @property
    def name(self) -> str:
        """The one of the two families whose mirror images are other objects is that of molecules."""
        return "traces" if self.clouds.handed else "furniture"

    @cached_property
    def shapes(self) -> tuple[list[int], list[int]]:
        """Indices of what was held out and of what was trained on, each in random order."""
        order = torch.randperm(len(self.clouds), generator=torch.Generator().manual_seed(0))
        held_out = self.clouds.held_out[order]
        return order[held_out].tolist(), order[~held_out].tolist()

    def scenarios(self, names: Iterable[str]) -> list[Scenario]:
        """Scenarios by name, in the order of the table; all if no name is given."""
        wanted, every = set(names), SCENARIOS[self.name]
        unknown = wanted - {scenario.name for scenario in every}
        if unknown:
            raise InputError(f"--rows {min(unknown)}: the rows are {', '.join(scenario.name for scenario in every)}")
        return [scenario for scenario in every if not wanted or scenario.name in wanted]

    def problem(self, scenario: Scenario, shape: int, seed: int) -> Problem:
        """Observe a shape; the same seed gives the same observations."""
        cloud = self.clouds.points[shape]
        return observe(cloud, self.points, scenario, handed=self.clouds.handed, seed=10_000 * seed + shape)


def families(priors: Iterable[Path], sets: Iterable[Path], device: str) -> Iterator[Family]:
    """Read sets and their priors, in pairs.

    Raises
    ------
    InputError
        Not as many priors as sets, a prior of the other family, or what reading them raises.
    """
    priors, sets = list(priors), list(sets)
    if not priors or len(priors) != len(sets):
        raise InputError(f"{len(priors)} priors and {len(sets)} sets; give the set of every prior, in their order")
    for folder, path in zip(priors, sets, strict=True):
        prior, denoiser = load_prior(folder, torch.device(device))
        clouds = read_point_set(path)
        if clouds.handed != prior.handed:
            raise InputError(f"{folder}: was trained on clouds of another family than those of {path}")
        content = hashlib.sha256(prior.weights.read_bytes() + path.read_bytes())
        yield Family(denoiser, prior.points, clouds, content.hexdigest(), device)


@dataclass(frozen=True)
class Solution:
    """Clouds that one method has made of one problem.

    Attributes
    ----------
    clouds
        ``(k, n, 3)``.
    chamfer, earth_movers, energy
        ``(k,)``: distances from the truth, not squared, and the energy of the observations.
    seconds
        For all of them.
    """

    clouds: NDArray[np.float32]
    chamfer: NDArray[np.float64]
    earth_movers: NDArray[np.float64]
    energy: NDArray[np.float64]
    seconds: float


def solve(
    family: Family,
    scenario: Scenario,
    shape: int,
    sampling: SamplingConfig | None,
    *,
    samples: int,
    seed: int,
    folder: Path,
) -> Solution:
    """Draw ``samples`` clouds from the posterior, or fit them where ``sampling`` is None; or take what was found."""
    what = (family.fingerprint, family.device, scenario.words(family.points), sampling, samples, seed, shape)
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:12]
    path = folder / f"{family.name}_{scenario.name}_{shape:05d}_{digest}.npz"
    if path.exists():
        with np.load(path) as found:
            saved: dict[str, Any] = dict(found)
        return Solution(**saved | {"seconds": float(saved["seconds"])})
    problem = family.problem(scenario, shape, seed)
    began = time.perf_counter()
    clouds = draw(family, problem.energy(), sampling, samples=samples, seed=problem.seed)
    wait(family.device)
    seconds = time.perf_counter() - began
    solution = judge(clouds.cpu(), problem, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.savez(temporary, **vars(solution))
    return solution


def draw(
    family: Family, energy: Energy, sampling: SamplingConfig | None, *, samples: int, seed: int
) -> Float[Tensor, "samples n 3"]:
    """Draw clouds from the posterior, or fit them by maximum likelihood where ``sampling`` is None."""
    source = torch.Generator(family.device).manual_seed(seed)
    steps = (
        most_likely_progressive(energy, samples, family.points, generator=source)
        if sampling is None
        else sample_progressive(family.denoiser, energy, samples, family.points, sampling, generator=source)
    )
    *_, clouds = steps
    return clouds


def judge(clouds: Float[Tensor, "k n 3"], problem: Problem, seconds: float) -> Solution:
    """Compare clouds with the truth and with the observations."""
    truth = problem.truth.expand(len(clouds), -1, -1)
    chamfer, earth_movers = chamfer_distance(clouds, truth), earth_movers_distance(clouds, truth)
    energy = problem.energy()(clouds)
    return Solution(
        clouds.numpy(), chamfer.double().numpy(), earth_movers.double().numpy(), energy.double().numpy(), seconds
    )
