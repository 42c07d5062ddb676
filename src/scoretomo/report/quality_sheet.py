"""All class averages of a set on one sheet, with the verdicts of the quality check."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.quality import VERDICTS, Verdict
from .figures import new_figure, save_figure

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

_COLOURS: dict[Verdict, str] = {"good": "tab:green", "doubtful": "tab:orange", "junk": "tab:red"}
_COLUMNS = 12
# Brightest part of an image that may be shown too bright, so that a spot does not darken the rest.
_GLARE = 0.002
# Between images, and above each for its number, as parts of their side.
_GAP = 0.1
_HEADING = 0.25


def quality_sheet(
    path: Path,
    images: Float[Tensor, "n side side"],
    verdicts: Sequence[Verdict],
    *,
    order: Sequence[int] | None = None,
    used: Collection[int] | None = None,
) -> None:
    """Draw images with their numbers in frames of the colour of their verdicts: the good, the doubtful, the junk.

    Parameters
    ----------
    path
        The picture, ``.png``.
    images
        ``(n, side, side)``, protein bright.
    verdicts
        Of each image.
    order
        Indices as they are to be shown within each verdict; rising if None.
    used
        Images that are used; the others are struck out. None strikes out none.
    """
    places = {index: place for place, index in enumerate(order or range(len(images)))}
    shown = sorted(range(len(images)), key=lambda index: (VERDICTS.index(verdicts[index]), places[index]))
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    side, heading = images.shape[-1], round(_HEADING * images.shape[-1])
    wide, high = side + max(1, round(_GAP * side)), side + heading
    # One picture of all of them: hundreds of panels take ten seconds to lay out.
    sheet = torch.ones(rows * high, columns * wide)
    width, height = columns + 0.2, rows * high / wide + 0.4  # inches, with margins and room for the title
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.1 / width, 0.1 / height, 1 - 0.2 / width, 1 - 0.4 / height))
    axes.axis("off")
    for place, index in enumerate(shown):
        top, left = heading + high * (place // columns), wide * (place % columns)
        sheet[top : top + side, left : left + side] = _grey(images[index]).flip(0)
        _draw_frame(axes, left - 0.5, top - 0.5, side, index, _COLOURS[verdicts[index]])
        if used is not None and index not in used:
            _strike_out(axes, left - 0.5, top - 0.5, side, _COLOURS[verdicts[index]])
    axes.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    counts = ", ".join(f"{sum(found == name for found in verdicts)} {name}" for name in VERDICTS)
    note = "" if used is None else f"; the {len(images) - len(used)} struck out are left out"
    figure.text(0.5, 1 - 0.15 / height, f"{counts}{note}", fontsize=10, ha="center", va="center")
    save_figure(figure, path)


def _draw_frame(axes: "Axes", left: float, top: float, side: int, index: int, colour: str) -> None:
    """Draw a frame around an image, with its number above."""
    right, bottom = left + side, top + side
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, clip_on=False)
    axes.text(left + side / 2, top - 0.04 * side, str(index), fontsize=8, color=colour, ha="center", va="bottom")


def _strike_out(axes: "Axes", left: float, top: float, side: int, colour: str) -> None:
    axes.plot([left, left + side], [top + side, top], color=colour, linewidth=1)


def _grey(image: Float[Tensor, "side side"]) -> Float[Tensor, "side side"]:
    """Brightness from 0 to 1."""
    low, high = image.min(), torch.quantile(image, 1 - _GLARE)
    return ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
