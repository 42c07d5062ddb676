"""``scoretomo evaluate``: volumes against the truth."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..datatypes import InputError, Volume
from ..evaluation.comparison import Comparison, compare, summary, to_common_grid
from ..io.files import write_json
from ..io.mrc import LoadedVolume, read_volume
from ..io.tables import write_table
from ..report.figures import fsc_curves
from ..run_lock import written_to
from .evaluate_motion import (
    MotionFiles,
    MotionInputs,
    enough,
    find_motion_files,
    measure_motion,
    motion_words,
    read_motion_inputs,
)
from .progress import progress, say

# FSC-AUC from which two maps are of one molecule; below it, the negative of the first is tried.
_FITS = 0.3
# Pixel sizes of two maps that differ by more are not the same.
_PLACEHOLDER_DIFFERS = 0.1

_NAME = re.compile(r"volume_(\d+)(?:_seed\d+)?\.mrc")


def evaluate(
    volumes: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="VOLUMES")],
    reference: Annotated[Path, tyro.conf.arg(metavar="TRUTH")],
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None,
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    reference_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    rigid: Annotated[Path | None, tyro.conf.arg(metavar="MAP")] = None,
    coordinates: Annotated[Path | None, tyro.conf.arg(metavar="CSV")] = None,
    true_parameters: Annotated[Path | None, tyro.conf.arg(metavar="CSV")] = None,
) -> None:
    """Compare volumes with a reference by Fourier shell correlation (FSC), and with the motion of the truth.

    Volumes are first aligned over rotations, shifts and both hands. Writes evaluation.json, evaluation.csv and
    fsc.png, and prints a table: FSC-AUC is the area under the FSC (1 is perfect), the resolution is where the FSC falls
    below 0.5.

    The FSC hides motion, since most of a molecule stands still. Of a folder of truths that move it is also said what
    the volumes gain over one rigid map, how well what each is beyond the mean of the truths correlates with what its
    own truth is beyond it (own difference; 1 is perfect), how they do where the truths differ, how many are nearer to
    their own truth than to any other, and how coordinates order the class averages beside the true parameters. The true
    poses are taken from particles.star beside the folder; without it the truths are aligned to the first.

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
    rigid
        The map to gain over. None: consensus/consensus.mrc of a run folder, or the mean of the truths.
    coordinates
        Table with the columns index, z_1, z_2 and so on. None: motion/coordinates.csv of a run folder.
    true_parameters
        Table with the column image and one for each parameter. None: truth.csv beside the folder of truths.
    """
    paths = _find(volumes)
    references = _references(reference, paths)
    place = volumes[0] if volumes[0].is_dir() else volumes[0].parent
    folder = output or place
    with written_to(folder):
        inputs = _motion_inputs(
            place, reference, paths, references, MotionFiles(rigid, coordinates, true_parameters), pixel_size
        )
        comparisons = compare_files(paths, references, pixel_size, reference_pixel_size)
        motion = None
        if inputs is not None:
            truths = [
                common_pair(*pair, pixel_size, reference_pixel_size)[1] for pair in zip(paths, references, strict=True)
            ]
            motion = measure_motion(comparisons, truths, inputs)
        write_evaluation(folder, paths, comparisons, motion)
    print(table(comparisons))
    if motion is not None:
        print(motion_words(motion["motion"]))
    print(f"results: {folder / 'evaluation.json'}, {folder / 'evaluation.csv'}, {folder / 'fsc.png'}")


def compare_files(
    paths: Sequence[Path],
    references: Sequence[Path],
    pixel_size_angstrom: float | None = None,
    reference_pixel_size_angstrom: float | None = None,
) -> list[Comparison]:
    """Compare each volume with its reference on a grid that they have in common."""
    comparisons: list[Comparison] = []
    notes: dict[str, str] = {}
    with progress("evaluate") as report:
        for done, (path, reference) in enumerate(zip(paths, references, strict=True)):
            loaded = _read_pair(path, reference, pixel_size_angstrom, reference_pixel_size_angstrom)
            for file, each in zip((path, reference), loaded, strict=True):
                for note in each.notes:
                    notes.setdefault(note, f"{file.name}: {note}")
            volume, truth = to_common_grid(loaded[0].volume, loaded[1].volume)
            comparisons += compare(
                volume.voxels[None], truth.voxels[None], truth.pixel_size_angstrom, [_number(path, done)]
            )
            if done == 0 and _is_inverted(volume, truth, comparisons[0]):
                notes["inverted"] = (
                    f"{path.name} and {reference.name} look like one map with contrast of opposite signs"
                )
            report((done + 1) / len(paths), path.name)
    for note in notes.values():
        say(f"note: {note}")
    return comparisons


def _is_inverted(volume: Volume, truth: Volume, found: Comparison) -> bool:
    """Whether the negative of a volume fits where it does not itself."""
    if found.fsc_auc >= _FITS:
        return False
    (negative,) = compare(-volume.voxels[None], truth.voxels[None], truth.pixel_size_angstrom, [0])
    return negative.fsc_auc >= _FITS and negative.fsc_auc > 2 * found.fsc_auc


def common_pair(
    path: Path,
    reference: Path,
    pixel_size_angstrom: float | None = None,
    reference_pixel_size_angstrom: float | None = None,
) -> tuple[Volume, Volume]:
    """Read a volume and its reference on a grid that they have in common."""
    own, truth = _read_pair(path, reference, pixel_size_angstrom, reference_pixel_size_angstrom)
    return to_common_grid(own.volume, truth.volume)


def _read_pair(
    path: Path, reference: Path, pixel_size: float | None, reference_pixel_size: float | None
) -> tuple[LoadedVolume, LoadedVolume]:
    """Read a volume and its reference; where one alone says the placeholder of 1 A, its size must be given."""
    pair = read_volume(path, pixel_size), read_volume(reference, reference_pixel_size)
    sizes = [each.volume.pixel_size_angstrom for each in pair]
    given = (pixel_size, reference_pixel_size)
    options = ("--pixel-size", "--reference-pixel-size")
    if abs(sizes[0] / sizes[1] - 1) > _PLACEHOLDER_DIFFERS:
        for file, size, own, option in zip((path, reference), sizes, given, options, strict=True):
            if size == 1 and own is None:
                raise InputError(
                    f"{file}: the header's pixel size of exactly 1 A is a placeholder in many files, and the other map "
                    f"has {max(sizes):.5g} A; give the true one with {option} ANGSTROM, even if it is 1.0"
                )
    return pair


def write_evaluation(
    folder: Path, paths: Sequence[Path], comparisons: Sequence[Comparison], motion: dict[str, Any] | None = None
) -> None:
    """Write ``evaluation.json``, ``evaluation.csv`` and ``fsc.png``, with what :func:`measure_motion` makes."""
    folder.mkdir(parents=True, exist_ok=True)
    results = summary(comparisons)
    if motion is not None:
        volumes = [{**row, **more} for row, more in zip(results["volumes"], motion["volumes"], strict=True)]
        results = {**results, "motion": motion["motion"], "volumes": volumes}
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
        hand = "unknown" if row["mirrored"] is None else "mirrored" if row["mirrored"] else "same"
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


def _motion_inputs(
    folder: Path,
    reference: Path,
    paths: Sequence[Path],
    references: Sequence[Path],
    given: MotionFiles,
    pixel_size: float | None,
) -> MotionInputs | None:
    """Find and read what motion is measured with; None where the reference is one map, or its truths too few."""
    wanted = [path for path in (given.rigid, given.coordinates, given.parameters) if path is not None]
    if not reference.is_dir():
        if wanted:
            raise InputError(f"{wanted[0]}: tells nothing beside one reference; give a folder of truths")
        return None
    if not enough(references):
        return None
    files = find_motion_files(folder, reference, given)
    if given.coordinates and files.parameters is None:
        raise InputError(f"{given.coordinates}: has no truth to be compared with; give --true-parameters")
    if given.parameters and files.coordinates is None:
        raise InputError(f"{given.parameters}: has no coordinates to be compared with; give --coordinates")
    return read_motion_inputs(files, [_number(path, row) for row, path in enumerate(paths)], pixel_size)


def _number(path: Path, otherwise: int) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else otherwise
