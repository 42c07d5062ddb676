"""``metrics.jsonl``: one JSON object a line, appended while a run goes on; TensorBoard too where it is installed."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from ..datatypes import InputError
from .files import write_text
from .records import parse_json, understood

_ADVICE = "delete it, or the line; it is what curves are drawn of, and nothing else needs it"


class Line(TypedDict):
    """What every line has; the other values are numbers, or null where there was none that is finite."""

    phase: str
    step: int


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all lines; what a killed process has left of a last one is dropped.

    Raises
    ------
    InputError
        Another line that cannot be understood.
    """
    if not path.exists():
        return []
    with understood(path, _ADVICE):
        *lines, last = path.read_bytes().split(b"\n")
        read = [_read(line) for line in lines]
    with suppress(KeyError, TypeError, ValueError):  # nothing, or its end is missing
        read.append(_read(last))
    return read


class Metrics:
    """Appends to ``metrics.jsonl`` of a run folder.

    Parameters
    ----------
    folder
        The run folder.
    phase
        What every line says of itself, such as ``train``.
    resumed_at
        Lines of the phase whose ``step`` is beyond this are dropped: they will be made again. None keeps them all.
    """

    def __init__(self, folder: Path, phase: str, resumed_at: int | None) -> None:
        self.path = folder / "metrics.jsonl"
        self.phase = phase
        last = math.inf if resumed_at is None else resumed_at
        kept = [line for line in read_metrics(self.path) if line["phase"] != phase or line["step"] <= last]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.writer = _tensorboard(folder / "tensorboard")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null, since JSON has no word for them."""
        line = {"phase": self.phase, "step": step, **values}
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self.writer is not None:
            for name, value in values.items():
                if isinstance(value, float | int):
                    self.writer.add_scalar(f"{self.phase}/{name}", value, step)

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        if self.writer is not None:
            self.writer.close()


def _read(line: bytes) -> dict[str, Any]:
    values = dict(parse_json(line.decode("utf-8"), Line))
    for name, value in values.items():
        if name != "phase" and (isinstance(value, bool) or not isinstance(value, int | float | None)):
            raise TypeError(f"{name} must be a number")
    return values


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an optional extra
        return None
    return SummaryWriter(folder)
