"""``reconstruction.toml`` of a run folder: what its volumes were made with."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import tomli_w

from .files import write_text
from .records import read_toml

_NAME = "reconstruction.toml"


class Chosen(TypedDict):
    """Which kind of volumes was chosen, and why."""

    chosen: str
    reason: str


class MadeWith(TypedDict):
    """All that decides what volumes become: the denoiser, the settings, the motion model if there is one."""

    denoiser_sha256: str
    growth: dict[str, Any]
    motion_sha256: NotRequired[str]
    volumes: NotRequired[Chosen]


def read_made_with(folder: Path) -> MadeWith | None:
    """Read what the volumes of a run folder were made with; None where there are none.

    Raises
    ------
    InputError
        The file cannot be understood.
    """
    path = folder / _NAME
    advice = "delete it, and with it the folder volumes, and give the same `run` or `reconstruct` command again"
    return read_toml(path, MadeWith, advice) if path.exists() else None


def write_made_with(folder: Path, made_with: MadeWith) -> None:
    """Write it, complete or not at all."""
    write_text(folder / _NAME, tomli_w.dumps(made_with))
