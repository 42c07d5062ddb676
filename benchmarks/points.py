"""Point clouds from sparse observations: posterior sampling and maximum likelihood (002, Tables 1 and 2, Figure 6).

Two families, each with a prior that `scoretomo points train` has made and the set that it was trained on; held-out
clouds are the truth, turned at random. The same observations and energies for every method. Distances are in units of
the cube from -1 to 1 and not squared, 100 times; the energy is a mean over points and observations, 1000 times; mean
and standard deviation over all samples of all shapes, as the paper prints them. "Shapes won": the share of shapes of
which the samples are nearer to the truth than those of maximum likelihood by both distances.

What is done lies in --output and is not done again, unless files of the prior or the set, or the sampling, change.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Literal

import numpy as np

from scoretomo.methods.point_posterior import SamplingConfig

from .points_pictures import draw_examples, draw_steps
from .points_problems import Family, Problem, Scenario, Solution, families, solve
from .record import Row
from .timing import three_digits

Part = Literal["table1", "table2", "figure6"]

# Of Table 2, and of both panels of Figure 6.
_COMPARED = "subunit"
_PANELS = ("projections", "subunit")
_STEPS = (5, 10, 20, 40, 80)
# Shapes of each scenario in the picture.
_PICTURED = 2


@dataclass(frozen=True)
class Settings:
    """Which priors, and how much is drawn."""

    priors: tuple[Path, ...]
    """Folders of trained priors: one of furniture, one of traces of molecules, or both."""
    clouds: tuple[Path, ...]
    """The set of each prior (.npz)."""
    output: Path = Path("points")
    """Folder for what is drawn."""
    figures: Path = Path("docs/images")
    """Folder for the pictures."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    shapes: int = 20
    """Held-out shapes of Table 1."""
    table2_shapes: int = 20
    """Those of Table 2."""
    figure6_shapes: int = 5
    """Those of Figure 6."""
    samples: int = 10
    """Clouds for each shape and method."""
    parts: tuple[Part, ...] = ("table1", "table2", "figure6")
    """What to do."""
    rows: tuple[str, ...] = ()
    """Scenarios of Table 1: projections, coarse, subunit, all. None: every one."""
    seed: int = 0
    """Of the observations and of the samples."""


def measure(settings: Settings) -> Iterator[Row]:
    """Solve every problem by every method; pictures follow."""
    steps: dict[tuple[str, str], dict[int, list[Solution]]] = {}
    for family in families(settings.priors, settings.clouds, settings.device):
        for part in settings.parts:
            yield from _PARTS[part](family, settings)
        settings.figures.mkdir(parents=True, exist_ok=True)
        if "table1" in settings.parts:
            draw_examples(settings.figures / f"points_{family.name}.png", _examples(family, settings))
        if "figure6" in settings.parts:
            for scenario in family.scenarios(_PANELS):
                title = (family.name, scenario.words(family.points))
                steps[title] = dict(_by_steps(family, scenario, settings))
    if steps:
        draw_steps(settings.figures / "points_steps.png", steps)


def table1(family: Family, settings: Settings) -> Iterator[Row]:
    """Posterior sampling beside maximum likelihood, for every kind of observations."""
    for scenario in family.scenarios(settings.rows):
        drawn = _solutions(family, scenario, scenario.sampling, settings, settings.shapes)
        fitted = _solutions(family, scenario, None, settings, settings.shapes)
        yield row("Table 1", family, scenario, scenario.sampling, drawn, fitted)
        yield row("Table 1", family, scenario, None, fitted)


def table2(family: Family, settings: Settings) -> Iterator[Row]:
    """What fresh noise and the correction step bring, at equal numbers of evaluations."""
    (scenario,) = family.scenarios([_COMPARED])
    corrected = scenario.sampling
    noisy = replace(corrected, steps=corrected.evaluations, correction=False)
    for words, sampling in (("Euler", replace(noisy, noise=0.0)), ("+ noise", noisy), ("+ correction", corrected)):
        solutions = _solutions(family, scenario, sampling, settings, settings.table2_shapes)
        yield row("Table 2", family, scenario, sampling, solutions) | {"method": words}


def figure6(family: Family, settings: Settings) -> Iterator[Row]:
    """Error against the number of time steps."""
    for scenario in family.scenarios(_PANELS):
        for count, solutions in _by_steps(family, scenario, settings):
            yield row("Figure 6", family, scenario, replace(scenario.sampling, steps=count), solutions)


_PARTS: dict[Part, Callable[[Family, Settings], Iterator[Row]]] = {
    "table1": table1,
    "table2": table2,
    "figure6": figure6,
}


def row(
    part: str,
    family: Family,
    scenario: Scenario,
    sampling: SamplingConfig | None,
    solutions: Sequence[Solution],
    others: Sequence[Solution] = (),
) -> Row:
    """Line of the table; ``others`` are those of maximum likelihood, shape by shape."""
    columns: Row = {
        "part": part,
        "family": family.name,
        "observed": scenario.words(family.points),
        "method": "maximum likelihood" if sampling is None else "posterior",
        "guidance": sampling and sampling.guidance,
        "evaluations": 100 if sampling is None else sampling.evaluations,
        "samples": sum(len(each.clouds) for each in solutions),
    }
    for name, key, factor in (("cd", "chamfer", 100), ("emd", "earth_movers", 100), ("e", "energy", 1000)):
        values = factor * np.concatenate([getattr(each, key) for each in solutions])
        columns |= {f"{name}_x{factor}": three_digits(values.mean()), f"{name}_std": three_digits(values.std())}
    won = [_nearer(one, other) for one, other in zip(solutions, others, strict=True)] if others else []
    seconds = sum(each.seconds for each in solutions) / columns["samples"]
    return columns | {
        "shapes_won": three_digits(mean(won)) if won else None,
        "seconds_a_sample": three_digits(seconds),
    }


def _nearer(one: Solution, other: Solution) -> bool:
    nearer: bool = one.chamfer.mean() < other.chamfer.mean() and one.earth_movers.mean() < other.earth_movers.mean()
    return bool(nearer)


def _solutions(
    family: Family, scenario: Scenario, sampling: SamplingConfig | None, settings: Settings, shapes: int
) -> list[Solution]:
    held_out, _ = family.shapes
    return [
        solve(
            family, scenario, shape, sampling, samples=settings.samples, seed=settings.seed, folder=settings.output
        )
        for shape in held_out[:shapes]
    ]  # fmt: skip


def _by_steps(family: Family, scenario: Scenario, settings: Settings) -> Iterator[tuple[int, list[Solution]]]:
    for count in _STEPS:
        sampling = replace(scenario.sampling, steps=count)
        yield count, _solutions(family, scenario, sampling, settings, settings.figure6_shapes)


def _examples(family: Family, settings: Settings) -> list[tuple[str, Problem, Solution, Solution]]:
    """The first held-out shapes, others for every scenario: what was observed, drawn and fitted."""
    examples = []
    held_out, _ = family.shapes
    for number, scenario in enumerate(family.scenarios(settings.rows)):
        drawn = _solutions(family, scenario, scenario.sampling, settings, settings.shapes)
        fitted = _solutions(family, scenario, None, settings, settings.shapes)
        for place in range(_PICTURED * number, min(_PICTURED * (number + 1), len(drawn))):
            problem = family.problem(scenario, held_out[place], settings.seed)
            examples.append((scenario.words(family.points), problem, drawn[place], fitted[place]))
    return examples
