"""Pictures of a run: images and volumes at a glance, Fourier shell correlations, the course of the training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..evaluation.comparison import Comparison
from ..io.files import replacing
from .isosurface import surface, tilted

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRUTH_COLOUR = (0.85, 0.62, 0.35)


def overview(
    path: Path,
    images: Float[Tensor, "k m m"],
    volumes: Float[Tensor, "k n n n"],
    labels: Sequence[str],
    *,
    truth: Float[Tensor, "k n n n"] | None = None,
    views: Float[Tensor, "k 3 3"] | None = None,
) -> None:
    """Draw class averages, surfaces of their volumes and central slices, a column each.

    Parameters
    ----------
    path
        The picture, ``.png``.
    images
        ``(k, m, m)`` class averages.
    volumes
        ``(k, n, n, n)``, each in the frame of its class average.
    labels
        ``k`` titles of the columns.
    truth
        ``(k, n, n, n)``, drawn below, in the same frames.
    views
        ``(k, 3, 3)``, how each volume is turned before it is drawn. None draws it twice: as its class average sees
        it, and from the side.
    """
    straight = torch.eye(3).expand(len(volumes), 3, 3)
    rows: dict[str, list[Any]] = {"class average": list(images)}
    if views is None:
        side = tilted(0.0, 90.0)
        rows["volume"] = [surface(volume, turn) for volume, turn in zip(volumes, straight, strict=True)]
        rows["from the side"] = [surface(volume, side) for volume in volumes]
    else:
        rows["volume"] = [surface(volume, turn) for volume, turn in zip(volumes, views, strict=True)]
    if truth is not None:
        turns = straight if views is None else views
        rows["truth"] = [surface(v, turn, colour=_TRUTH_COLOUR) for v, turn in zip(truth, turns, strict=True)]
    rows["central slice"] = [volume[len(volume) // 2] for volume in volumes]
    if truth is not None:
        rows["true slice"] = [volume[len(volume) // 2] for volume in truth]
    _draw_rows(path, rows, labels)


def fsc_curves(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Draw the Fourier shell correlation of each volume with its reference, and their median."""
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    curves = [comparison.fsc.numpy() for comparison in comparisons]
    grids = [np.linspace(0, 0.5, len(curve)) for curve in curves]
    for grid, curve in zip(grids, curves, strict=True):
        axes.plot(grid, curve, color="tab:blue", alpha=0.35, linewidth=1)
    common = np.linspace(0, 0.5, max(map(len, curves)))
    middle = np.median([np.interp(common, grid, curve) for grid, curve in zip(grids, curves, strict=True)], axis=0)
    axes.plot(common, middle, color="black", linewidth=2, label=f"median of {len(curves)}")
    axes.axhline(0.5, color="grey", linestyle="--", linewidth=1)
    axes.set(
        xlim=(0, 0.5),
        ylim=(-0.1, 1.02),
        xlabel="spatial frequency (cycles/pixel)",
        ylabel="Fourier shell correlation with the reference",
    )
    axes.legend(frameon=False)
    save_figure(figure, path)


def training_curves(path: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss and, if images were held out, the errors of denoising them against the images seen."""
    lines = [line for line in metrics if line["phase"] == "train"]
    if not lines:
        return
    prefix = "held_out_error_sigma_"
    levels = [name for name in lines[-1] if name.startswith(prefix)]
    figure = new_figure(10.0 if levels else 5.0, 4.0)
    panels = figure.subplots(1, 2 if levels else 1, squeeze=False)[0]
    _curve(panels[0], lines, "loss", "loss")
    panels[0].set(xlabel="images seen", ylabel="training loss", yscale="log")
    if levels:
        for name in levels:
            _curve(panels[1], lines, name, f"noise level {name.removeprefix(prefix)}")
        panels[1].set(xlabel="images seen", ylabel="mean squared error, held-out images", yscale="log")
        panels[1].legend(frameon=False)
    save_figure(figure, path)


def _draw_rows(path: Path, rows: Mapping[str, list[Any]], labels: Sequence[str]) -> None:
    """Draw rows of pictures that all show the same field of view, cut to what the surfaces fill."""
    extent = max(_extent(picture) for pictures in rows.values() for picture in pictures if picture.ndim == 3)
    figure = new_figure(1.3 * len(labels) + 0.4, 1.3 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for row, (name, pictures) in zip(grid, rows.items(), strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture.numpy(), cmap="gray", origin="lower", interpolation="bicubic", extent=(-1, 1, -1, 1))
            axes.set(xticks=[], yticks=[], xlim=(-extent, extent), ylim=(-extent, extent))
            axes.spines[:].set_visible(False)
    for axes, label in zip(grid[0], labels, strict=True):
        axes.set_title(label, fontsize=9)
    save_figure(figure, path)


def _extent(picture: Float[Tensor, "y x 4"]) -> float:
    """Half the width of what a picture of a surface shows, as a part of the picture's; with a margin."""
    side = len(picture)
    shown = (picture[..., 3] > 0).nonzero() - side // 2
    return min(1.0, 1.08 * shown.abs().max().item() / (side / 2)) if len(shown) else 1.0


def _curve(axes: "Axes", lines: Sequence[Mapping[str, Any]], name: str, label: str) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    axes.plot(*zip(*points, strict=True), marker=".", label=label)


def new_figure(width: float, height: float) -> "Figure":
    """Begin a picture, of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture, complete or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
