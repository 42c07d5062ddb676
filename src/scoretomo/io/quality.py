"""The quality check of a file of class averages, and its table."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..datatypes import ImageStack, InputError
from ..imaging.preprocess import PreprocessConfig, preprocess
from ..imaging.quality import EMPTY, VERDICTS, Quality, Verdict, assess
from .star import read_class_figures
from .tables import read_table, write_table


@dataclass(frozen=True)
class Judgement:
    """A row of the table: what an image is worth, whether it is used, and why it is not good (empty if it is)."""

    index: int
    verdict: Verdict
    used: bool
    reasons: str


def check_images(
    path: Path, stack: ImageStack, config: PreprocessConfig
) -> tuple[Quality, Float[Tensor, "n side side"]]:
    """Judge class averages as training would see them, at the pixel size of the input.

    Parameters
    ----------
    path
        The file that they come from; a STAR file may say how many particles and what resolution a class has.
    stack
        The images.
    config
        How they are prepared for training; its side does not matter.

    Returns
    -------
    Quality, Tensor
        And the images ``(n, side, side)`` that were judged: protein bright, background 0.

    Raises
    ------
    InputError
        Images that hold nothing at all, or classes that are not as many as the images.
    """
    try:
        images, record = preprocess(stack, replace(config, side=None), multiple=1)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    figures = read_class_figures(path) if path.suffix.lower() == ".star" else {}
    return assess(images, record.working_pixel_size_angstrom, **figures), images


def choose_left_out(
    path: Path,
    quality: Quality,
    *,
    check: bool | None = None,
    keep: Sequence[int] | None = None,
    exclude: Sequence[int] | None = None,
) -> list[int]:
    """Decide which images not to use: junk, unless ``check`` is False, but not what to ``keep``, and what to exclude.

    Raises
    ------
    InputError
        Indices of images that there are not, or too few images left, or images to use that hold nothing.
    """
    count, kept, unwanted = len(quality.verdicts), set(keep or ()), set(exclude or ())
    wrong = sorted(index for index in kept | unwanted if not 0 <= index < count)
    if wrong:
        raise InputError(f"{path}: has images 0 to {count - 1}; --keep or --exclude names {_listed(wrong)}")
    junk = set() if check is False else set(quality.which("junk"))
    left_out = sorted((junk - kept) | unwanted)
    if count - len(left_out) < 2:
        raise InputError(
            f"{path}: {len(left_out)} of {count} images are left out, and views from several directions are needed; "
            "look at them with `scoretomo check`, and use what is good with --keep, or all with --check False"
        )
    empty = [i for i, reasons in enumerate(quality.reasons) if EMPTY in reasons and i not in left_out]
    if empty:
        raise InputError(f"{path}: {len(empty)} images to use are constant (index {_listed(empty)}); --exclude them")
    return left_out


def write_quality(path: Path, quality: Quality, used: Collection[int]) -> None:
    """Write a row for each image: verdict, whether it is used, reasons, parts; what is not known stays empty."""
    rows = []
    for index, (verdict, reasons) in enumerate(zip(quality.verdicts, quality.reasons, strict=True)):
        parts = {name: values[index].item() for name, values in quality.parts.items()}
        rows.append(
            {
                "index": index,
                "verdict": verdict,
                "used": int(index in used),
                "reasons": "; ".join(reasons),
                **{name: None if value != value else _short(name, value) for name, value in parts.items()},
            }
        )
    write_table(path, rows)


def read_quality(path: Path) -> list[Judgement]:
    """Read the verdicts of :func:`write_quality`.

    Raises
    ------
    InputError
        A table that cannot be read.
    """
    verdicts: dict[str, Verdict] = {name: name for name in VERDICTS}
    try:
        return [
            Judgement(int(row["index"]), verdicts[row["verdict"]], row["used"] == "1", row["reasons"])
            for row in read_table(path, ("index", "verdict", "used", "reasons"))
        ]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: cannot be understood ({error})") from error


def add_column(path: Path, name: str, values: Sequence[float]) -> None:
    """Write a figure of every image into the table, in place of an earlier one of that name."""
    rows = read_table(path)
    write_table(path, [{**row, name: f"{value:.4g}"} for row, value in zip(rows, values, strict=True)])


def _short(name: str, value: float) -> str:
    return str(round(value)) if name == "nearest" else f"{value:.4g}"


def _listed(indices: Sequence[int], most: int = 5) -> str:
    return ", ".join(map(str, indices[:most])) + (" ..." if len(indices) > most else "")
