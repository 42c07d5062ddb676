"""``scoretomo evaluate``: volumes against the truth."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ..datatypes import InputError
from ..evaluation.comparison import Comparison, compare, summary, to_common_grid
from ..io.files import write_json
from ..io.mrc import read_volume
from ..io.tables import write_table
from ..report.figures import fsc_curves
from .progress import progress

_NAME = re.compile(r"volume_(\d+)(?:_seed\d+)?\.mrc")


def evaluate(
    volumes: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="VOLUMES")],
    reference: Annotated[Path, tyro.conf.arg(metavar="TRUTH")],
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None,
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    reference_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
) -> None:
    """Compare volumes with a reference by Fourier shell correlation (FSC).

    Volumes are first aligned over rotations, shifts and both hands. Writes evaluation.json, evaluation.csv and
    fsc.png, and prints a table: FSC-AUC is the area under the FSC (1 is perfect), the resolution is where the FSC falls
    below 0.5.

    Parameters
    ----------
    volumes
        What to evaluate: a run folder, a folder of volumes, or .mrc files.
    reference
        One .mrc for all, or a folder of volume_NNNN.mrc with the same numbers as the volumes.
    output
        Folder for the results. None: the folder of the volumes, or the run folder.
    pixel_size
        Pixel size of the volumes in Angstrom, where their files say none.
    reference_pixel_size
        Pixel size of the reference in Angstrom, where its file says none.
    """
    paths = _find(volumes)
    references = _references(reference, paths)
    comparisons = compare_files(paths, references, pixel_size, reference_pixel_size)
    folder = output or (volumes[0] if volumes[0].is_dir() else volumes[0].parent)
    write_evaluation(folder, paths, comparisons)
    print(table(comparisons))
    print(f"results: {folder / 'evaluation.json'}, {folder / 'evaluation.csv'}, {folder / 'fsc.png'}")


def compare_files(
    paths: Sequence[Path],
    references: Sequence[Path],
    pixel_size_angstrom: float | None = None,
    reference_pixel_size_angstrom: float | None = None,
) -> list[Comparison]:
    """Compare each volume with its reference on a grid that they have in common."""
    comparisons = []
    with progress("evaluate") as report:
        for done, (path, reference) in enumerate(zip(paths, references, strict=True)):
            own = read_volume(path, pixel_size_angstrom).volume
            volume, truth = to_common_grid(own, read_volume(reference, reference_pixel_size_angstrom).volume)
            comparisons += compare(
                volume.voxels[None], truth.voxels[None], truth.pixel_size_angstrom, [_number(path, done)]
            )
            report((done + 1) / len(paths), path.name)
    return comparisons


def write_evaluation(folder: Path, paths: Sequence[Path], comparisons: Sequence[Comparison]) -> None:
    """Write ``evaluation.json``, ``evaluation.csv`` and ``fsc.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    results = summary(comparisons)
    write_json(folder / "evaluation.json", results)
    rows = [{"file": path.name, **row} for path, row in zip(paths, results["volumes"], strict=True)]
    write_table(folder / "evaluation.csv", rows)
    fsc_curves(folder / "fsc.png", comparisons)


def table(comparisons: Sequence[Comparison]) -> str:
    """Say a line for each volume and their medians, for people."""
    results = summary(comparisons)
    lines = ["volume  FSC-AUC  resolution (pixels)  resolution (A)  hand"]
    for row in results["volumes"]:
        pixels, angstrom = row["resolution_pixels"], row["resolution_angstrom"]
        resolution = f"{pixels:19.1f}  {angstrom:14.1f}" if pixels is not None else f"{'none':>19}  {'none':>14}"
        hand = "mirrored" if row["mirrored"] else "same"
        lines.append(f"{row['index']:6d}  {row['fsc_auc']:7.3f}  {resolution}  {hand}")
    median = results["median_resolution_pixels"]
    resolution = f"{median:19.1f}" if median is not None else f"{'none':>19}"
    return "\n".join([*lines, f"median  {results['median_fsc_auc']:7.3f}  {resolution}"])


def _find(given: Sequence[Path]) -> list[Path]:
    """Files of volumes: those given, or those of a folder or a run folder."""
    if not given:
        raise InputError("evaluate: give a run folder, a folder of volumes or .mrc files")
    if len(given) == 1 and given[0].is_dir():
        folder = given[0] / "volumes" if (given[0] / "volumes").is_dir() else given[0]
        found = sorted(path for path in folder.glob("*.mrc") if not path.name.startswith("."))
        if not found:
            raise InputError(f"{folder}: holds no .mrc volumes")
        return found
    return list(given)


def _references(reference: Path, paths: Sequence[Path]) -> list[Path]:
    """Find the reference of each volume."""
    if not reference.exists():
        raise InputError(f"{reference}: no such file or folder")
    if not reference.is_dir():
        return [reference] * len(paths)
    found = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path}: is not named volume_NNNN.mrc, so its truth in {reference} is not known")
        truth = reference / f"volume_{match[1]}.mrc"
        if not truth.exists():
            raise InputError(f"{reference}: has no {truth.name}, the truth of {path}")
        found.append(truth)
    return found


def _number(path: Path, otherwise: int) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else otherwise
