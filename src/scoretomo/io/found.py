"""What commands have found, as they leave it in JSON files of a run folder for later ones and for the report.

The files have more, for people; here is what is read again.
"""

from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

from ..datatypes import InputError
from .records import read_json, understood

Found = TypeVar("Found")


class Copies(TypedDict):
    """What was found of copies of the core."""

    reason: str


class Motion(TypedDict):
    """Of ``motion/motion.json``: whether the molecule moves, and how."""

    moves: bool | None
    reason: NotRequired[str]
    components_fitted: NotRequired[int]
    copies: NotRequired[Copies | None]
    angular_spread_degrees: NotRequired[float | None]


class Initial(TypedDict):
    """Of ``initial/initial.json``: what speaks for the initial model."""

    answer: str
    reason: str
    refined: NotRequired[bool]


class Consensus(TypedDict):
    """Of ``consensus/consensus.json``."""

    images_used: int | list[int]
    symmetry: NotRequired[str]
    resolution_angstrom: NotRequired[float | None]
    angular_spread_degrees: NotRequired[float | None]


class Symmetry(TypedDict):
    """Of ``ensemble/symmetry.json``."""

    group: str
    correlation: float | None
    words: NotRequired[str]


class State(TypedDict):
    """A state of the molecule."""

    number: int
    population: float
    representative: NotRequired[int | None]


class MainPath(TypedDict):
    """The main path between states."""

    share: NotRequired[float | None]


class Landscape(TypedDict):
    """Of ``ensemble/landscape.json``; what is not finite is null."""

    explained_share: NotRequired[list[float | None]]
    significant: NotRequired[list[bool]]
    clusters: NotRequired[list[State]]
    main_path: NotRequired[MainPath]


class JudgedVolume(TypedDict):
    """How a volume is seen from every direction."""

    index: int
    seed: NotRequired[int]
    view_excess: NotRequired[list[float | None] | None]


class SeedCurves(TypedDict):
    """FSC between the repeats of each volume, by its number."""

    frequency_per_angstrom: list[float]
    curves: dict[str, list[float | None]]


class Reliability(TypedDict):
    """Of ``ensemble/reliability.json``."""

    volumes: NotRequired[list[JudgedVolume]]
    view_directions: NotRequired[list[list[float | None]]]
    seed_fsc: NotRequired[SeedCurves | None]


def read_found(folder: Path, name: str, kind: type[Found], command: str) -> Found | None:
    """Read one of these files; None where there is none.

    Parameters
    ----------
    folder, name, kind
        The run folder, the file in it, such as ``motion/motion.json``, and what it holds.
    command
        The verb that makes it.

    Raises
    ------
    InputError
        It cannot be understood.
    """
    path = folder / name
    return read_json(path, kind, _advice(path, command)) if path.exists() else None


def read_motion(folder: Path) -> Motion | None:
    """Read whether the molecule of a run moves; None where that was not looked for."""
    return read_found(folder, "motion/motion.json", Motion, "motion")


def read_reliability(folder: Path) -> Reliability | None:
    """Read what the verdicts on volumes rest on; None where there are none."""
    found = read_found(folder, "ensemble/reliability.json", Reliability, "ensemble")
    if found is not None and (seeds := found.get("seed_fsc")):
        path = folder / "ensemble" / "reliability.json"
        with understood(path, _advice(path, "ensemble")):
            _check_curves(seeds["frequency_per_angstrom"], seeds["curves"])
    return found


def _check_curves(frequency: list[float], curves: dict[str, list[Any]]) -> None:
    if not frequency or not frequency[-1] > 0:
        raise InputError("its curves have no frequencies")
    for number, curve in curves.items():
        if not number.isdecimal() or len(curve) != len(frequency):
            raise InputError(f"its curve {number[:20]!a} is none of a volume")


def _advice(path: Path, command: str) -> str:
    return f"delete {path.parent.name}/, which `scoretomo {command}` makes anew"
