"""Seconds that commands take on a machine of their own and beside other busy processes, and how many times as long.

Each command is run as a user gives it, with as many threads as it takes by itself, alone and beside each load by
turns. A load is a process of one thread that only computes, or one that multiplies matrices on all cores, whose threads
wait for each other by spinning, as those of most programs do. With as many busy threads as cores a command gets half of
the machine at least, and so should take twice as long; threads that wait for one another take ten times as long.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from scoretomo.datatypes import InputError

from .record import Row
from .timing import three_digits

_LOADS = {
    "one thread": "while True: pass",
    "all cores": "import torch\nmatrix = torch.randn(1000, 1000)\nwhile True: matrix @ matrix",
}
_SCORETOMO = (sys.executable, "-m", "scoretomo")
_TINY = ("--unet.channels", "32", "64", "--unet.layers-per-block", "1")


@dataclass(frozen=True)
class Settings:
    """What to run. The defaults take half an hour."""

    device: Literal["cpu"] = "cpu"
    """Where to compute."""
    output: Path = Path("busy")
    """Folder for all that is made."""
    loads: tuple[str, ...] = tuple(_LOADS)
    """What runs beside."""
    count: int = 100
    """Class averages of the simulated box."""
    side: int = 32
    """Their side."""
    images: int = 1500
    """Images that a denoiser is trained on."""
    tests: tuple[str, ...] = ("tests/imaging", "tests/methods/test_polar_matching.py")
    """Tests that are run."""
    repeats: int = 1
    """Times that each is run."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.loads) - set(_LOADS))
        if unknown:
            raise InputError(f"--loads: there is no {unknown[0]!r}; there are: {', '.join(_LOADS)}")


def measure(settings: Settings) -> Iterator[Row]:
    """Run every command alone and beside each load."""
    settings.output.mkdir(parents=True, exist_ok=True)
    simulated, run = settings.output / f"simulated_{settings.count}_{settings.side}", settings.output / "run"
    box = ("simulate", "box", "--count", str(settings.count), "--side", str(settings.side), "-o", str(simulated))
    if not (simulated / "images.mrcs").exists():  # it is written last
        _seconds(_SCORETOMO + box)
    budget = ("--budget", str(settings.images))
    images, device = str(simulated / "images.mrcs"), ("--device", settings.device)
    commands = {
        "initial": (*_SCORETOMO, "initial", images, "-o", str(run), *device),
        "motion": (*_SCORETOMO, "motion", str(run), *device),
        "train": (*_SCORETOMO, "train", images, "-o", str(settings.output / "trained"), *_TINY, *budget, *device),
        "tests": (sys.executable, "-m", "pytest", "-q", *settings.tests),
    }
    for name, words in commands.items():
        times: dict[str, list[float]] = {load: [] for load in ("alone", *settings.loads)}
        for _ in range(settings.repeats):
            for load, seconds in times.items():
                _begin_anew(name, settings.output)
                with _beside(load):
                    seconds.append(_seconds(words))
        yield {"command": name, "load": "alone", "seconds": three_digits(median(times["alone"])), "times": None}
        for load in settings.loads:
            ratios = [own / alone for own, alone in zip(times[load], times["alone"], strict=True)]
            seconds_beside = three_digits(median(times[load]))
            yield {"command": name, "load": load, "seconds": seconds_beside, "times": three_digits(median(ratios))}


def _begin_anew(name: str, output: Path) -> None:
    """Take away what a command has made: it would go on from there."""
    made = {"initial": ["run"], "motion": ["run/motion"], "train": ["trained"]}.get(name, [])
    if name == "motion":  # all but the initial model
        made += [str(path.relative_to(output)) for path in (output / "run" / "checkpoint").glob("[!i]*.pt")]
    for each in made:
        path = output / each
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _beside(load: str) -> Iterator[None]:
    """Keep the machine busy meanwhile."""
    if load == "alone":
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _LOADS[load]])
    try:
        time.sleep(5)  # it has begun to compute
        yield
    finally:
        process.kill()
        process.wait()


def _seconds(words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - began
