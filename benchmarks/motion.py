"""Volumes that move against one rigid map, on clean projections and on realistic averages with a truth.

Each set is simulated, and goes through `scoretomo initial`, `motion`, `consensus` (the rigid map, made of the same
averages) and `evaluate`; with --score-minutes also through `scoretomo run`, whose volumes are those of the motion
model, of the score model, or their mean, as class averages say that were left out. What is there already is not made
again. Settings of the methods were chosen on the box, the capsid, hinge 400, and the static molecules 438, 450, 471 and
481 (seeds 0, 5 and 12, mostly by code of their own); the ten assemblies were drawn at random, nothing was chosen on
them, and each is of the first seed only: they are ten molecules already.
"""

import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import split
from typing import Any, Literal

from scoretomo.datatypes import InputError
from scoretomo.io.files import write_json

from .commands import scoretomo
from .record import Row
from .timing import three_digits

DATA = Path(os.environ.get("SCORETOMO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

_CLEAN = "--particles-per-class 2 --angle-std-degrees 0 --shift-std-pixels 0 --state-std 0 --centre-std-pixels 0"
_CLEAN += " --defocus-micrometers None --snr None"
# Drawn once: random.Random(2026).sample(range(553), 10).
ASSEMBLIES = (121, 327, 514, 524, 105, 228, 430, 502, 451, 245)

SETS = {
    "box": "box --count 300",
    "capsid": "capsid --count 200",
    "box, averages": "averages box --count 300",
    "capsid, averages": "averages capsid --count 200",
    "hinge": f"averages TRACES:400 --motions 1 --count 200 {_CLEAN}",
    "hinge, averages": "averages TRACES:400 --motions 1 --count 120",
    "two hinges, averages": "averages TRACES:400 --motions 2 --count 300",
    "static, 42 averages": "averages TRACES:450 --count 42",
    "static, 100 averages": "averages TRACES:471 --count 100",
    **{f"assembly {k}, averages": f"averages TRACES:{k} --motions 1 --count 120" for k in ASSEMBLIES},
}
"""What `scoretomo simulate` is told for each set; TRACES is pdb_assembly_traces.npz of the data."""


@dataclass(frozen=True)
class Settings:
    """Which sets, and how far to go."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    output: Path = Path("motion")
    """Folder for all that is made."""
    sets: tuple[str, ...] = ()
    """Names of sets. None: all."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the simulations, and of the search; assemblies have the first."""
    side: int = 32
    """Side of the images."""
    volumes: int = 20
    """Volumes that are compared with their truths, evenly spaced."""
    score_minutes: float = 0.0
    """Minutes of training of the score model; 0: none."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.sets) - set(SETS))
        if unknown:
            raise InputError(f"--sets: there is no {unknown[0]!r}; there are: {', '.join(SETS)}")


def measure(settings: Settings) -> Iterator[Row]:
    """Take every set and seed through all commands."""
    for name in settings.sets or tuple(SETS):
        for seed in settings.seeds[:1] if name.startswith("assembly") else settings.seeds:
            yield from _set(name, seed, settings)


def _set(name: str, seed: int, settings: Settings) -> Iterator[Row]:
    folder = settings.output / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}"
    simulated, run = folder / "sim", folder / "run"
    device = ("--device", settings.device)
    spent = _Spent(folder / "cpu_seconds.json")
    if not (simulated / "images.mrcs").exists():
        traces = str(DATA / "atoms" / "pdb_assembly_traces.npz")
        words = [word.replace("TRACES", traces) for word in split(SETS[name])]
        scoretomo("simulate", *words, "--side", str(settings.side), "--seed", str(seed), "-o", str(simulated))
    images, seeds = str(simulated / "images.mrcs"), ("--seed", str(seed))
    spent.run("initial", images, "-o", str(run), *seeds, *device, "--no-refine", made=run / "initial")
    spent.run("motion", str(run), *device, made=run / "motion")
    spent.run("consensus", str(run), *device, made=run / "consensus")  # refined already, on the way to the motion
    found = json.loads((run / "motion" / "motion.json").read_text(encoding="utf-8"))
    row = {"set": name, "seed": seed, "moves": found["moves"], "components": found["components"]}
    volumes = _compared(run / "motion" / "volumes", simulated, folder / "motion", settings.volumes)
    yield {**row, "method": "motion model", **volumes, "cpu_seconds": spent.by("initial", "motion")}
    if settings.score_minutes:
        words = ["--minutes", str(settings.score_minutes), "--rigid", "False"]
        spent.run("run", images, "-o", str(run), *seeds, *device, *words, made=run / "report.html")
        volumes = _compared(run / "volumes", simulated, folder / "score", settings.volumes)
        yield {**row, "method": "run", **volumes, "cpu_seconds": spent.by("run")}


class _Spent:
    """Runs the commands of a set that have not been run, and keeps the CPU seconds of each in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def run(self, *words: str, made: Path) -> None:
        """Run a command unless it has made its folder."""
        if made.exists():
            return
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        scoretomo(*words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{words[0]}: {time.monotonic() - started:.0f} s", flush=True)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self._seconds[words[0]] = seconds
        write_json(self._path, self._seconds)

    def by(self, *commands: str) -> float | None:
        """CPU seconds of commands together; None where one was run by hand."""
        if not set(commands) <= set(self._seconds):
            return None
        return three_digits(sum(self._seconds[name] for name in commands))


def _compared(volumes: Path, simulated: Path, output: Path, count: int) -> Row:
    """Compare some of the volumes with their truths, and with one rigid map."""
    files = sorted(volumes.glob("volume_*.mrc"))
    there = [path for path in files if (simulated / "truth" / path.name).exists()]  # junk has no truth
    chosen = there[:: max(1, len(there) // count)][:count]
    run = next(place for place in volumes.parents if (place / "config.toml").exists())
    words = [*map(str, chosen), "--reference", str(simulated / "truth"), "-o", str(output)]
    words += ["--rigid", str(run / "consensus" / "consensus.mrc")]
    compared = output / "evaluation.json"
    if not compared.exists():
        scoretomo("evaluate", *words, "--coordinates", str(run / "motion" / "coordinates.csv"))
    found = json.loads(compared.read_text(encoding="utf-8"))
    return {"fsc_auc": three_digits(found["median_fsc_auc"]), **_of_motion(found.get("motion"))}


def _of_motion(found: dict[str, Any] | None) -> Row:
    """Columns of what `scoretomo evaluate` measures of motion; none where the truths do not move."""
    if found is None:
        return {"rigid": None, "gain": None, "own_difference": None, "rank": None, "spearman": None, "each": None}
    ranks = found.get("rank_correlation") or {}
    numbers = {
        "rigid": found["median_rigid_fsc_auc"],
        "gain": found["median_gain_over_rigid"],
        "own_difference": found["median_own_difference"],
        "rank": found["median_rank_of_own_truth"],
        "spearman": ranks.get("first_coordinate"),
    }
    each = " ".join(f"{value:.2f}" for value in (ranks.get("each_parameter") or {}).values())
    rounded = {name: None if value is None else three_digits(value) for name, value in numbers.items()}
    return {**rounded, "each": each or None}
