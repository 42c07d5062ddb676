"""Initial models of scoretomo, RELION and ASPIRE of the same images against the truth: one command, table and picture.

    python -m benchmarks.peers.initial_models OUT --aspire-python peers-aspire/bin/python

Runs in scoretomo's environment and calls the peers in theirs. All get one stack, prepared as scoretomo prepares images:
protein bright, background 0. Every map is aligned to the truth over rotations, shifts and both hands, under one soft
spherical mask and in its whole box. Of several runs of a peer the table has the one nearest to the truth, which no user
could choose: it favours the peers, since scoretomo is run once. Beside it stand the resolutions of all runs. Rows are
kept in OUT/initial_models.json as they come; the same command again makes those that are missing.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scoretomo.datatypes import ImageStack, Volume
from scoretomo.evaluation.comparison import compare
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.preprocess import PreprocessConfig, preprocess
from scoretomo.imaging.starting_model import resample
from scoretomo.io.files import write_json
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import read_volume, write_images, write_volume
from scoretomo.simulation.particles import SimulationConfig, simulate_map

from ..initial_model import _REAL, _SEED, _clean, _data, _reference, _simulate
from .picture import draw_beside

_HERE = Path(__file__).parent
_EDGE_PIXELS = 3.0
# Estimator, largest shift as a part of the box, and conjugate gradient steps of the volume.
_ASPIRE = (("voting", 0.05, 10), ("voting", 0.05, 50), ("voting", 0.15, 10), ("voting", 0.15, 50), ("sync3n", 0.05, 10))

Row = dict[str, Any]


@dataclass(frozen=True)
class ImageSet:
    """Images with a truth, and what the peers are told of them.

    Attributes
    ----------
    name, make
        What it is called, and how images and truth are made, on one grid.
    mask_angstrom
        Radius of the mask under which all maps are compared; a tenth more is the radius that RELION is told.
    shift_pixels
        Extent of RELION's search of shifts; simulated images have none.
    subsets
        Images that RELION takes for a step; each is tried with every seed.
    symmetry
        Point group that peers are told of in runs of their own.
    """

    name: str
    make: Callable[[], tuple[ImageStack, Volume]]
    mask_angstrom: float
    shift_pixels: int
    subsets: tuple[int, ...] = (12,)
    symmetry: str = ""


@dataclass(frozen=True)
class Job:
    """A call of a program: its setting, and the maps that it writes, by the name of the table."""

    setting: str
    command: list[str]
    maps: dict[str, Path]


def real(name: str) -> tuple[ImageStack, Volume]:
    """Real class averages and their reference on the working grid, as ``benchmarks/initial_model.py`` has them."""
    file, reference, side, pixel_size = _REAL[name]
    stack = read_image_stack(_data() / "class_averages" / f"{file}.mrcs", pixel_size).stack
    images, record = preprocess(stack, PreprocessConfig(side=side), multiple=1)
    volume, pixel = read_volume(_data() / "volumes" / f"{reference}.mrc").volume, record.working_pixel_size_angstrom
    levelled = Volume(volume.voxels - volume.voxels.median(), volume.pixel_size_angstrom)
    return ImageStack(images, pixel), resample(levelled, pixel, side)


def clean() -> tuple[ImageStack, Volume]:
    """100 projections without noise."""
    simulation = _simulate("4v4r_50S", 100)
    each, pixel = _clean("", simulation, 100), simulation.stack.pixel_size_angstrom
    assert each.reference is not None
    return ImageStack(each.images, pixel), Volume(each.reference, pixel)


def noisy() -> tuple[ImageStack, Volume]:
    """50 smaller ones under white noise of their own variance."""
    volume = read_volume(_data() / "volumes" / "4v4r_50S_5A.mrc").volume
    simulation = simulate_map(volume, SimulationConfig(count=50, side=32, seed=_SEED))
    images, pixel = simulation.stack.images, simulation.stack.pixel_size_angstrom
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(_SEED + 1))
    stack = ImageStack(images + images.std() * noise, pixel)
    prepared, _ = preprocess(stack, PreprocessConfig(side=32, contrast="bright"), multiple=1)
    return ImageStack(prepared, pixel), Volume(_reference(simulation), pixel)


SETS = (
    ImageSet("50S, SNR 1", noisy, 150, 0),
    ImageSet("50S, clean", clean, 150, 0),
    ImageSet("80S averages", lambda: real("80S averages"), 170, 2),
    ImageSet("80S points", lambda: real("80S points"), 170, 2),
    ImageSet("beta-galactosidase", lambda: real("beta-galactosidase"), 100, 2, (8,), "D2"),
)


def jobs(chosen: ImageSet, folder: Path, aspire: Path, seeds: int) -> Iterator[Job]:
    """All that is run on a set."""
    images, python = str(folder / "images.mrcs"), sys.executable
    for name, option in (("scoretomo", "--refine"), ("scoretomo, not refined", "--no-refine")):
        run = folder / f"scoretomo{option}"
        call = [python, "-m", "scoretomo", "initial", images, "-o", str(run), "--contrast", "bright", "--device", "cpu"]
        yield Job("seed 0", [*call, option], {name: run / "initial" / "initial.mrc"})
    for estimator, shift, steps in _ASPIRE:
        output = folder / f"aspire_{estimator}_{shift:g}_{steps}.mrc"
        call = [str(aspire), str(_HERE / "abinitio_aspire.py"), images, str(output), "--estimator", estimator]
        call += ["--max-shift", str(shift), "--maxiter", str(steps)]
        yield Job(f"{estimator}, shifts to {shift:g}, {steps} steps", call, {"ASPIRE": output})
    for size in (48, 36) if chosen.symmetry == "D2" else ():
        output = folder / f"aspire_d2_{size}.mrc"
        call = [str(aspire), str(_HERE / "aspire_betagal.py"), str(output), "--images", images, "--estimator", "d2"]
        call += ["--size", str(size), "--crop", "48", "--max-shift", "0.05", "--maxiter", "10"]
        yield Job(f"d2, {size} pixels, shifts to 0.05, 10 steps", call, {"ASPIRE, told D2": output})
    for symmetry in filter(None, ("C1", chosen.symmetry)):
        for subset in chosen.subsets:
            for seed in range(1, seeds + 1):
                output = folder / f"relion_{symmetry}_{subset}_{seed}.mrc"
                call = [python, str(_HERE / "abinitio_relion.py"), images, str(output), "--symmetry", symmetry]
                call += ["--diameter", f"{2.2 * chosen.mask_angstrom:.0f}", "--offset-range", str(chosen.shift_pixels)]
                call += ["--iterations", "50", "200", "50", "--subset", str(subset), str(subset)]
                call += ["--refine-pad", "2", "--seed", str(seed)]
                name = "RELION" if symmetry == "C1" else f"RELION, told {symmetry}"
                maps = {name: output.with_suffix("") / "sgd.mrc", f"{name}, then refined": output}
                yield Job(f"seed {seed}, {subset} images a step", call, maps)


def finished(job: Job, log: Path) -> float:
    """Run a job, and count the seconds that its processes have computed, on all cores."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with log.open("a") as file:
        print(*job.command, file=file, flush=True)
        subprocess.run(job.command, check=True, stdout=file, stderr=subprocess.STDOUT)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def judged(path: Path, truth: Volume, mask_angstrom: float) -> Row:
    """Figures of a map; beside it, what was compared is written, in the frame and hand of the truth."""
    pixel, side = truth.pixel_size_angstrom, truth.side
    volume = read_volume(path).volume
    voxels = volume.voxels if volume.side == side else resample(volume, pixel, side).voxels
    mask = soft_ball(side, 3, mask_angstrom / pixel, _EDGE_PIXELS)
    masked, whole = (compare((voxels * each)[None], truth.voxels[None], pixel, [0])[0] for each in (mask, 1))
    write_volume(path.with_suffix(".aligned.mrc"), Volume(masked.aligned, pixel))
    return {
        "angstrom": _finite(masked.resolution_angstrom),
        "area": masked.fsc_auc,
        "hand_margin": masked.hand_margin,
        "whole_angstrom": _finite(whole.resolution_angstrom),
        "whole_area": whole.fsc_auc,
    }


def relion_says(path: Path) -> Row:
    """Seconds of the descent alone, and the program's own likelihood of the map that is refined last."""
    folder = path.parent if path.name == "sgd.mrc" else path.with_suffix("")
    seconds = json.loads((folder / "seconds.json").read_text())["sgd" if path.name == "sgd.mrc" else "all"]
    model = sorted(folder.glob("sgd_it*_model.star" if path.name == "sgd.mrc" else "local_it*_model.star"))[-1]
    lines = [line.split() for line in model.read_text().splitlines() if line.startswith("_rlnLogLikelihood ")]
    return {"cpu_seconds": seconds, "log_likelihood": float(lines[0][1])}


def run_set(chosen: ImageSet, arguments: argparse.Namespace, rows: list[Row]) -> None:
    """Add the rows of a set that are missing."""
    folder = arguments.output / chosen.name.replace(", ", "_").replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    stack, truth = chosen.make()
    write_images(folder / "images.mrcs", stack)
    write_volume(folder / "truth.mrc", truth)
    for job in jobs(chosen, folder, arguments.aspire_python, arguments.seeds):
        done = {(row["set"], row["program"], row["setting"]) for row in rows}
        if all((chosen.name, program, job.setting) in done for program in job.maps):
            continue
        seconds = finished(job, folder / "log.txt")
        for program, path in job.maps.items():
            row: Row = {"set": chosen.name, "program": program, "setting": job.setting, "cpu_seconds": seconds}
            row |= judged(path, truth, chosen.mask_angstrom)
            row |= relion_says(path) if program.startswith("RELION") else {}
            rows.append(row | {"map": str(path.relative_to(arguments.output))})
            print(row, flush=True)
        write_json(arguments.output / "initial_models.json", {"rows": rows})


def chosen_rows(rows: list[Row]) -> list[Row]:
    """One row of each program and set: the first of ours, of a peer's the one with the largest area."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["program"]), []).append(row)
    best = []
    for (_, program), group in groups.items():
        first = group[0] if program.startswith("scoretomo") else max(group, key=lambda row: row["area"])
        best.append(first | {"runs": ", ".join(_angstrom(row["angstrom"]) for row in group)})
    return best


def table(best: list[Row]) -> str:
    """All in Markdown."""
    columns = ("set", "program", "best run", "FSC 0.5 (A)", "FSC-AUC", "whole box: FSC 0.5 (A)", "FSC-AUC", "CPU (s)")
    columns += ("FSC 0.5 of all its runs (A)",)
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in best:
        cells = [row["set"], row["program"], row["setting"]]
        cells += [_angstrom(row["angstrom"]), f"{row['area']:.3f}"]
        cells += [_angstrom(row["whole_angstrom"]), f"{row['whole_area']:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {row['cpu_seconds']:.0f} | {row['runs']} |")
    return "\n".join(lines)


def picture(best: list[Row], output: Path) -> None:
    """Central slices of the maps of the table, a row for each set, the truth first."""
    panels: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for row in best:
        path = output / row["map"]
        own = panels.setdefault(row["set"], [])
        if not own:
            folder = output / Path(row["map"]).parts[0]
            own.append((f"{row['set']}: truth", read_volume(folder / "truth.mrc").volume.voxels))
        title = f"{row['program']}: {_angstrom(row['angstrom'])} A"
        own.append((title, read_volume(path.with_suffix(".aligned.mrc")).volume.voxels))
    draw_beside(output / "initial_models.png", list(panels.values()))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _angstrom(number: float | None) -> str:
    return "never" if number is None else f"{number:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for all that is made")
    parser.add_argument("--aspire-python", type=Path, required=True, help="Python of ASPIRE's environment")
    parser.add_argument("--only", nargs="*", default=[], help="sets whose names begin so; all if none is given")
    parser.add_argument("--seeds", type=int, default=3, help="runs of RELION with each setting")
    arguments = parser.parse_args()
    arguments.output, arguments.aspire_python = arguments.output.resolve(), arguments.aspire_python.absolute()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that are called
    record = arguments.output / "initial_models.json"
    rows: list[Row] = json.loads(record.read_text())["rows"] if record.exists() else []
    for each in SETS:
        if not arguments.only or each.name.startswith(tuple(arguments.only)):
            run_set(each, arguments, rows)
    best = chosen_rows(rows)
    print(table(best))
    picture(best, arguments.output)


if __name__ == "__main__":
    main()
