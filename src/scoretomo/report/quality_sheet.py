"""All class averages of a set on one sheet, with the verdicts of the quality check."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.quality import VERDICTS, Verdict
from .figures import new_figure, save_figure

_COLOURS: dict[Verdict, str] = {"good": "tab:green", "doubtful": "tab:orange", "junk": "tab:red"}
_COLUMNS = 12
# Brightest part of an image that may be shown too bright, so that a spot does not darken the rest.
_GLARE = 0.002


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
    figure = new_figure(1.0 * columns + 0.2, 1.15 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    for axes, index in zip(grid.flat, shown, strict=False):
        image, colour = images[index], _COLOURS[verdicts[index]]
        low, high = image.min().item(), torch.quantile(image, 1 - _GLARE).item()
        axes.imshow(image.numpy(), cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-6))
        axes.set(xticks=[], yticks=[])
        axes.set_title(str(index), fontsize=8, color=colour, pad=2)
        axes.spines[:].set(color=colour, linewidth=2)
        if used is not None and index not in used:
            axes.plot([0, 1], [0, 1], color=colour, linewidth=1, transform=axes.transAxes, scalex=False, scaley=False)
    counts = ", ".join(f"{sum(found == name for found in verdicts)} {name}" for name in VERDICTS)
    note = "" if used is None else f"; the {len(images) - len(used)} struck out are left out"
    figure.suptitle(f"{counts}{note}", fontsize=10)
    save_figure(figure, path)
