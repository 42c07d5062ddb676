"""What a run folder holds, read once for the report: tables as small dataclasses, volumes as paths."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging.preprocess import Preprocessing
from ..io.found import (
    Consensus,
    Initial,
    Landscape,
    Motion,
    Reliability,
    Symmetry,
    read_found,
    read_motion,
    read_reliability,
)
from ..io.made_with import read_made_with
from ..io.metrics import read_metrics
from ..io.preparation import read_preprocessing
from ..io.run_settings import SETTINGS
from ..io.settings_file import Made
from ..io.tables import read_table

# Columns of ensemble/reliability.csv that are no part of the verdict.
_OF_THE_VERDICT = ("index", "seed", "probability", "verdict", "reasons")
_ROTATION = tuple(f"rotation_{row}{column}" for row in "xyz" for column in "xyz")
_NAME = re.compile(r"volume_(\d+)\.mrc")


@dataclass(frozen=True)
class VolumeSummary:
    """All that is known of the volume of one class average.

    Attributes
    ----------
    index, seed
        Number of the class average, and of the repeat that was kept.
    path
        The volume in the frame of its class average.
    aligned
        The volume in the common frame and hand, where there is one.
    verdict, probability, reasons
        ``reliable``, ``doubtful`` or ``wrong``, how likely the volume is right, and why in words; None where nobody
        has judged it.
    parts
        The figures behind the verdict, by their column.
    rotation
        Nine numbers, rows first: from the frame of the class average to the common frame, after the mirror.
    mirrored, hand_certain
        Whether the hand was changed, and whether the decision is sure.
    cluster
        Number of its state; None for volumes that belong to none.
    coordinates
        ``map_1``, ``component_1``, ... in standard units, and ``phase``, from 0 to 1 along the main path; of the motion
        model ``z_1``, ... and ``path``, likewise.
    spread
        Uncertainty of the coordinates, from the repeats.
    image_verdict, image_reasons
        What the quality check says of the class average itself.
    """

    index: int
    seed: int
    path: Path
    aligned: Path | None
    verdict: str | None
    probability: float | None
    reasons: tuple[str, ...]
    parts: Mapping[str, float]
    rotation: tuple[float, ...] | None
    mirrored: bool
    hand_certain: bool | None
    cluster: int | None
    coordinates: Mapping[str, float]
    spread: float | None
    image_verdict: str | None
    image_reasons: tuple[str, ...]

    @property
    def trusted(self) -> bool:
        """Reliable, or not judged at all."""
        return self.verdict in (None, "reliable")


@dataclass(frozen=True)
class LeftOut:
    """A class average that was not used, and why."""

    index: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class RunSummary:
    """A run folder as the report sees it; what is not there is None or empty.

    Attributes
    ----------
    folder
        The run folder.
    table
        ``config.toml``.
    preprocessing
        How the images were prepared.
    volumes
        In the order of their class averages.
    left_out
        Class averages that were not used.
    reliability, symmetry, landscape
        ``reliability.json``, ``symmetry.json`` and ``landscape.json`` of ``ensemble/``.
    initial, motion
        ``initial.json``, what speaks for the initial model, and ``motion.json``, whether the molecule moves.
    consensus, consensus_fsc
        ``consensus.json``, and ``fsc.csv`` by columns.
    metrics
        Lines of ``metrics.jsonl``.
    """

    folder: Path
    table: Made
    preprocessing: Preprocessing
    volumes: tuple[VolumeSummary, ...]
    left_out: tuple[LeftOut, ...]
    reliability: Reliability | None
    symmetry: Symmetry | None
    landscape: Landscape | None
    initial: Initial | None
    motion: Motion | None
    consensus: Consensus | None
    consensus_fsc: Mapping[str, Sequence[float | None]]
    metrics: Sequence[Mapping[str, Any]]

    @property
    def rigid(self) -> bool:
        """Whether the molecule is taken to keep its shape, as the settings say or as was found."""
        said = self.table["settings"].get("rigid")
        return bool(said) if said is not None else (self.motion is not None and self.motion["moves"] is False)

    @property
    def ensemble(self) -> Path:
        """Folder of what the volumes have in common."""
        return self.folder / "ensemble"

    @property
    def choice(self) -> str | None:
        """Why these volumes were chosen, of the motion model, the score model or both; None if that is not known."""
        made_with = read_made_with(self.folder)
        return made_with["volumes"]["reason"] if made_with and "volumes" in made_with else None

    def series(self, pattern: str) -> list[Path]:
        """Files of ``ensemble/`` that fit a pattern, in the order of their numbers."""
        return in_order(self.ensemble.glob(pattern))


def read_summary(folder: Path) -> RunSummary:
    """Read a run folder.

    Raises
    ------
    InputError
        Not a run folder, or a table in it that cannot be read.
    """
    table = SETTINGS.read(folder)
    return RunSummary(
        folder,
        table,
        read_preprocessing(folder),
        _volumes(folder, table["input"]["images"]),
        _left_out(folder, table["input"].get("left_out", ())),
        read_reliability(folder),
        read_found(folder, "ensemble/symmetry.json", Symmetry, "ensemble"),
        read_found(folder, "ensemble/landscape.json", Landscape, "ensemble"),
        read_found(folder, "initial/initial.json", Initial, "initial"),
        read_motion(folder),
        read_found(folder, "consensus/consensus.json", Consensus, "consensus"),
        _columns(folder / "consensus" / "fsc.csv"),
        read_metrics(folder / "metrics.jsonl"),
    )


def _volumes(folder: Path, images: int) -> tuple[VolumeSummary, ...]:
    """Join the tables that have a row for each volume; without any, take the volumes of the images that are there."""
    ensemble = folder / "ensemble"
    judged, placed, mapped, checked, moved = (
        {int(row["index"]): row for row in rows}
        for rows in (
            _rows(ensemble / "reliability.csv", "ensemble", whole=["seed"]),
            _rows(ensemble / "transforms.csv", "ensemble", whole=["seed"], numbers=_ROTATION),
            _rows(ensemble / "landscape.csv", "ensemble"),
            _rows(folder / "quality.csv", "train"),
            _rows(folder / "motion" / "coordinates.csv", "motion"),
        )
    )
    there = {int(match[1]) for path in folder.glob("volumes/*.mrc") if (match := _NAME.fullmatch(path.name))}
    there &= set(range(images))
    indices = sorted(set(judged) & there if judged else there)
    return tuple(
        _volume(
            folder,
            i,
            judged.get(i, {}),
            placed.get(i, {}),
            {**mapped.get(i, {}), **moved.get(i, {})},
            checked.get(i, {}),
        )
        for i in indices
    )


def _volume(
    folder: Path,
    index: int,
    judged: Mapping[str, str],
    placed: Mapping[str, str],
    mapped: Mapping[str, str],
    checked: Mapping[str, str],
) -> VolumeSummary:
    seed = int(judged.get("seed") or placed.get("seed") or 0)
    aligned = folder / "ensemble" / "volumes" / f"volume_{index:04d}.mrc"
    rotation = tuple(float(placed[name]) for name in _ROTATION) if placed else None
    cluster = _number(mapped.get("cluster"))
    return VolumeSummary(
        index,
        seed,
        folder / "volumes" / (f"volume_{index:04d}.mrc" if seed == 0 else f"volume_{index:04d}_seed{seed}.mrc"),
        aligned if aligned.exists() else None,
        judged.get("verdict"),
        _number(judged.get("probability")),
        _words(judged.get("reasons")),
        {
            name: value
            for name, text in judged.items()
            if name not in _OF_THE_VERDICT and (value := _number(text)) is not None
        },
        rotation,
        _truth(placed.get("mirrored")) or False,
        _truth(placed.get("hand_certain")),
        None if cluster is None or cluster < 0 else int(cluster),
        {
            name: value
            for name, text in mapped.items()
            if name.startswith(("map_", "component_", "phase", "z_", "path")) and (value := _number(text)) is not None
        },
        _number(mapped.get("spread")),
        checked.get("verdict"),
        _words(checked.get("reasons")),
    )


def _left_out(folder: Path, indices: Sequence[int]) -> tuple[LeftOut, ...]:
    checked = {int(row["index"]): row for row in _rows(folder / "quality.csv", "train")}
    asked = ("left out as asked",)
    found = []
    for index in indices:
        row = checked.get(index, {})
        found.append(LeftOut(index, _words(row.get("reasons")) if row.get("verdict") == "junk" else asked))
    return tuple(found)


def _rows(path: Path, command: str, *, whole: Sequence[str] = (), numbers: Sequence[str] = ()) -> list[dict[str, str]]:
    if not path.exists():
        return []
    advice = f"delete {path.parent.name}/, which `scoretomo {command}` makes anew"
    return read_table(path, whole=["index", *whole], numbers=numbers, advice=advice)


def _columns(path: Path) -> dict[str, list[float | None]]:
    rows = read_table(path) if path.exists() else []
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _number(text: str | None) -> float | None:
    """Read the number in a cell; None where it is empty, no number or not finite."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _truth(text: str | None) -> bool | None:
    return None if not text else text.strip().lower() in ("true", "1", "yes")


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(";") if part.strip())


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort files by the numbers in their names."""
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])
