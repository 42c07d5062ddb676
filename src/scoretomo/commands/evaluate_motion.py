"""What ``scoretomo evaluate`` says of motion, where every volume has a truth of its own."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Volume
from ..evaluation.comparison import Comparison, to_grid
from ..evaluation.motion_measures import MotionMeasures, motion_measures, rank_correlations
from ..evaluation.moving_truths import FEWEST_TRUTHS, MovingTruths, moving_truths
from ..io.mrc import read_volume
from ..io.star import read_poses
from ..io.tables import read_table
from .progress import progress, say

# Digits of the matrices in evaluation.json: three hundred volumes have 90 000 numbers.
_DIGITS = 4


@dataclass(frozen=True)
class MotionFiles:
    """What is known beside volumes and truths; None where there is no such file.

    Attributes
    ----------
    rigid
        One map to compare with. None: the mean of the truths.
    coordinates
        Table with the columns index, z_1, z_2 and so on.
    parameters
        Table with the columns image and true parameters.
    poses
        STAR file whose row i is the pose of truth i.
    """

    rigid: Path | None = None
    coordinates: Path | None = None
    parameters: Path | None = None
    poses: Path | None = None


@dataclass(frozen=True)
class Columns:
    """Numbers of a table, by volume.

    Attributes
    ----------
    names
        Of the ``k`` columns.
    values
        ``(n, k)``.
    """

    names: tuple[str, ...]
    values: Float[Tensor, "n k"]


@dataclass(frozen=True)
class MotionInputs:
    """The contents of :class:`MotionFiles` for ``n`` volumes.

    Attributes
    ----------
    rigid, rigid_name
        The map to compare with, and its file's name.
    coordinates, parameters
        Of the volumes; both or neither.
    rotations
        ``(n, 3, 3)``, from the frame of the poses to that of each truth.
    """

    rigid: Volume | None
    rigid_name: str
    coordinates: Columns | None
    parameters: Columns | None
    rotations: Float[Tensor, "n 3 3"] | None


def enough(references: Sequence[Path]) -> bool:
    """Whether there are truths enough to tell motion; says so if not."""
    count = len(set(references))
    if count < FEWEST_TRUTHS:
        say(f"motion is not measured: that takes volumes of {FEWEST_TRUTHS} truths, not {count}")
    return count >= FEWEST_TRUTHS


def find_motion_files(folder: Path | None, truth: Path, given: MotionFiles) -> MotionFiles:
    """Add to the files that are given those of a run folder and those beside the truth.

    Parameters
    ----------
    folder
        The run folder, or a folder of volumes in it or in its folder of the motion.
    truth
        Folder of the true volumes.
    given
        Files that the user has named.
    """
    places = [] if folder is None else [folder, folder.parent, folder.parent.parent]
    run = next((place for place in places if (place / "config.toml").exists()), None)
    names = {path.name for path in truth.glob("volume_*.mrc")}
    in_rows = names == {f"volume_{row:04d}.mrc" for row in range(len(names))}
    # truths of a set of particles are of angles, and not of images
    beside = None if (truth / "volumes.csv").exists() else truth.parent
    parameters, poses = _there(beside, "truth.csv"), _there(beside, "particles.star")
    return MotionFiles(
        given.rigid or _there(run, "consensus/consensus.mrc"),
        given.coordinates or _there(run, "motion/coordinates.csv"),
        given.parameters or (parameters if parameters and len(read_table(parameters)) == len(names) else None),
        given.poses or (poses if poses and in_rows and len(read_poses(poses)) == len(names) else None),
    )


def read_motion_inputs(files: MotionFiles, indices: Sequence[int], pixel_size_angstrom: float | None) -> MotionInputs:
    """Read what belongs to volumes, before anything long is done.

    Parameters
    ----------
    files
        As :func:`find_motion_files` finds them.
    indices
        Numbers of the volumes.
    pixel_size_angstrom
        Of the rigid map, where its file says none.

    Raises
    ------
    InputError
        A table without a needed column, with something that is no number, or without a row for a volume.
    """
    parameters = read_columns(files.parameters, "image", "", indices) if files.parameters else None
    coordinates = read_columns(files.coordinates, "index", "z_", indices) if files.coordinates else None
    if parameters is None or coordinates is None or not parameters.names:  # a rigid set has no parameters
        parameters = coordinates = None
    rigid = read_volume(files.rigid, pixel_size_angstrom).volume if files.rigid else None
    rotations = read_poses(files.poses).rotations[list(indices)] if files.poses else None
    return MotionInputs(rigid, files.rigid.name if files.rigid else "", coordinates, parameters, rotations)


def read_columns(path: Path, key: str, prefix: str, indices: Sequence[int]) -> Columns:
    """Read the columns of a table whose names begin with a prefix, in the rows of the volumes.

    Raises
    ------
    InputError
        No such columns, something that is no number, or no row for a volume.
    """
    rows = read_table(path, [key])
    names = tuple(name for name in (rows[0] if rows else {}) if name != key and name.startswith(prefix))
    if prefix and not names:
        raise InputError(f"{path}: has no column {prefix}1")
    try:
        found = {int(row[key]): [float(row[name]) for name in names] for row in rows}
    except ValueError as error:
        raise InputError(f"{path}: has something that is no number in {', '.join((key, *names))}") from error
    missing = [index for index in indices if index not in found]
    if missing:
        raise InputError(f"{path}: has no row for volume {missing[0]} (column {key})")
    values = torch.tensor([found[index] for index in indices]).view(len(indices), len(names))
    if not torch.isfinite(values).all():
        raise InputError(f"{path}: has numbers that are not finite in {', '.join(names)}")
    return Columns(names, values)


def measure_motion(
    comparisons: Sequence[Comparison], truths: Sequence[Volume], inputs: MotionInputs
) -> dict[str, Any] | None:
    """Make what ``evaluation.json`` has of motion; None, and a word, where there is nothing to measure.

    Parameters
    ----------
    comparisons
        Of the volumes with their truths.
    truths
        Truth of each, on the grid on which it was compared.
    inputs
        What else is known of the volumes.

    Returns
    -------
    dict
        ``motion``, of the set, and ``volumes``, of each volume.
    """
    voxels = [truth.voxels for truth in truths]
    if len({truth.shape for truth in voxels}) > 1:
        say("motion is not measured: the volumes are of several sizes")
        return None
    moving = moving_truths(torch.stack(voxels), inputs.rotations)
    if not moving.move:
        say("the truths do not move")
        return None
    pixel_size = truths[0].pixel_size_angstrom
    rigid = None if inputs.rigid is None else to_grid(inputs.rigid, len(voxels[0]), pixel_size)
    with progress("measure motion") as report:
        measures = motion_measures([each.aligned for each in comparisons], moving, rigid)
        report(1.0, "")
    mirrored = sum(each.mirrored for each in comparisons) / len(comparisons)
    margin = statistics.median(each.hand_margin for each in comparisons)
    return {
        "motion": {
            "rigid_map": inputs.rigid_name or "mean of the truths",
            "frame": "true poses" if inputs.rotations is not None else "truths aligned to the first",
            "same_hand_share": max(mirrored, 1 - mirrored),
            "median_hand_margin": margin,
            **_of_the_set(measures, moving),
            **_of_the_coordinates(inputs),
            "similarity": _rounded(measures.volumes.similarity),
        },
        "volumes": _of_each(measures),
    }


def motion_words(motion: dict[str, Any]) -> str:
    """Say it in a few lines, for people."""
    name, count = motion["rigid_map"], len(motion["similarity"])
    lines = [
        f"motion, beside one rigid map ({name}), medians:",
        f"  gain over the rigid map: {motion['median_gain_over_rigid']:+.3f} FSC-AUC "
        f"({motion['median_fsc_auc']:.3f}, rigid {motion['median_rigid_fsc_auc']:.3f})",
        f"  own difference: {motion['median_own_difference']:.3f} (rigid {motion['median_rigid_own_difference']:.3f})",
        f"  where the truths differ: FSC-AUC {motion['median_moving_fsc_auc']:.3f} "
        f"(rigid {motion['median_rigid_moving_fsc_auc']:.3f}), correlation {motion['median_moving_correlation']:.3f} "
        f"(rigid {motion['median_rigid_moving_correlation']:.3f})",
        f"  nearer to its own truth than to any other: {motion['nearest_share']:.0%} of {count}; "
        f"nearer others, median: {motion['median_rank_of_own_truth']:.1%} (chance 50%)",
    ]
    ranks = motion.get("rank_correlation")
    if ranks is not None:
        each = ", ".join(f"{parameter} {best:.3f}" for parameter, best in ranks["each_parameter"].items())
        lines.append(f"  Spearman: first coordinate {ranks['first_coordinate']:.3f}; {each}")
    if motion["same_hand_share"] < 1:
        lines.append(
            f"  hand: the same in {motion['same_hand_share']:.0%} of the volumes, each aligned in its better one "
            f"(median margin {motion['median_hand_margin']:.3f}; near 0 none is better)"
        )
    return "\n".join(lines)


def _there(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).exists() else None


def _of_the_set(measures: MotionMeasures, truths: MovingTruths) -> dict[str, float]:
    """Medians over the volumes, and how much the truths move."""
    gain = measures.gain_over_rigid
    medians = {f"median_{name}": _median(values) for name, values in _scores(measures).items()}
    return {
        "truths_differ_by": truths.unlike,
        "moving_part_of_box": float(truths.mask.mean()),
        "median_gain_over_rigid": _median(gain),
        "volumes_with_gain_share": float((gain > 0).float().mean()),
        **medians,
        "nearest_share": float(measures.volumes.nearest.float().mean()),
        "median_rank_of_own_truth": _median(measures.volumes.rank),
    }


def _of_each(measures: MotionMeasures) -> list[dict[str, Any]]:
    """Columns of each volume, beside those that it has already."""
    columns: dict[str, list[Any]] = {"gain_over_rigid": measures.gain_over_rigid.tolist()}
    columns |= {name: values.tolist() for name, values in _scores(measures).items() if name != "fsc_auc"}
    columns |= {"rank_of_own_truth": measures.volumes.rank.tolist(), "nearest": measures.volumes.nearest.tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _scores(measures: MotionMeasures) -> dict[str, Float[Tensor, " n"]]:
    """Each score of the volumes, followed by that of the rigid map."""
    names = ("fsc_auc", "own_difference", "moving_fsc_auc", "moving_correlation")
    sides = (("", measures.volumes), ("rigid_", measures.rigid))
    return {f"{prefix}{name}": getattr(scores, name) for name in names for prefix, scores in sides}


def _of_the_coordinates(inputs: MotionInputs) -> dict[str, Any]:
    """Rank correlations of coordinates and true parameters, if both are known."""
    if inputs.parameters is None or inputs.coordinates is None:
        return {}
    ranks = rank_correlations(inputs.parameters.values, inputs.coordinates.values)
    best = dict(zip(inputs.parameters.names, ranks.amax(1).tolist(), strict=True))
    found = {
        "parameters": list(inputs.parameters.names),
        "coordinates": list(inputs.coordinates.names),
        "matrix": _rounded(ranks),
        "first_coordinate": float(ranks[:, 0].max()),
        "each_parameter": best,
    }
    return {"rank_correlation": found}


def _median(values: Float[Tensor, " n"]) -> float:
    return float(values.quantile(0.5))


def _rounded(matrix: Float[Tensor, "n m"]) -> list[list[float]]:
    return [[round(value, _DIGITS) for value in row] for row in matrix.tolist()]
