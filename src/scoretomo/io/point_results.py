"""``reconstruction.json`` of ``points reconstruct``: what it says of its models, written last."""

from pathlib import Path
from typing import TypedDict

from .records import read_json

FINISHED = "reconstruction.json"
"""Its name."""


class View(TypedDict):
    """An observation: the number of its image."""

    image: int


class Agreement(TypedDict):
    """How models, or something in their place, agree with the volume; None where they do not, or it is not defined."""

    fsc_auc: float
    resolution_angstrom: float | None
    rmsd_angstrom: float
    rmsd_deviation_angstrom: float | None
    frequency_per_angstrom: list[float]
    fsc: list[float]


class Finished(TypedDict):
    """What is read again; the file has more for people."""

    made_of: str
    models: int
    points: int
    spread_angstrom: float | None
    volume: str
    views: list[View]
    against_volume: dict[str, Agreement] | None


def read_finished(folder: Path) -> Finished | None:
    """Read what a finished reconstruction says of itself; None where there is none.

    Raises
    ------
    InputError
        The file cannot be understood.
    """
    path = folder / FINISHED
    advice = "delete the folder; `scoretomo points reconstruct` makes it anew"
    return read_json(path, Finished, advice) if path.exists() else None
