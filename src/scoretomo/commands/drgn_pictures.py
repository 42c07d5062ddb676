"""Pictures of a latent space and of the volumes in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ..report.figures import new_figure, save_figure

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

# More columns of volumes would be too small to see; evenly spaced ones are shown.
_MOST_COLUMNS = 12


def draw_latent(
    path: Path,
    panels: Sequence[tuple[Sequence[str], Float[Tensor, "n c"]]],
    labels: Int[Tensor, " n"],
    medoids: Int[Tensor, " k"],
    walk: Int[Tensor, " j"],
) -> None:
    """Draw maps of the particles, coloured by cluster.

    Parameters
    ----------
    path
        The picture, ``.png``.
    panels
        Names of the axes, and places ``(n, 1 or 2)``.
    labels, medoids
        ``(n,)`` cluster of each particle and ``(k,)`` the most central particle of each, which gets its number.
    walk
        Particles that a line goes through.
    """
    figure = new_figure(5.0 * len(panels), 4.5)
    for axes, (names, places) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _scatter(axes, places, labels, medoids, names)
        if places.shape[1] == 2:
            axes.plot(*places[walk].T.numpy(), color="black", linewidth=1.0, alpha=0.7)
    save_figure(figure, path)


def _scatter(
    axes: "Axes",
    places: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    medoids: Int[Tensor, " k"],
    names: Sequence[str],
) -> None:
    """Particles as points in a plane, or as a histogram where there is one coordinate only."""
    axes.set_xlabel(names[0])
    if places.shape[1] == 1:
        axes.hist(places[:, 0].numpy(), bins=50, color="tab:blue")
        axes.set_ylabel("particles")
        for number, place in enumerate(places[medoids, 0].tolist()):
            axes.axvline(place, color="black", linewidth=0.5)
            axes.annotate(str(number), (place, 0.97), xycoords=("data", "axes fraction"), fontsize=8)
        return
    size = max(0.5, min(12.0, 20_000 / len(places)))
    x, y = places.T.numpy()
    colours = np.array(cluster_colours(len(medoids)))[labels.numpy()]
    axes.scatter(x, y, c=colours, s=size, alpha=0.6, linewidths=0)
    axes.set_ylabel(names[1])
    for number, place in enumerate(places[medoids].tolist()):
        axes.annotate(str(number), place, fontsize=9, weight="bold")


def cluster_colours(count: int) -> list[str]:
    """Colours of clusters, which are numbered along the first component: the rainbow, so that near ones look alike."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["turbo"](place)) for place in np.linspace(0.05, 0.95, count)]


def draw_volumes(path: Path, series: Mapping[str, Sequence[Float[Tensor, "n n n"]]]) -> None:
    """Draw the central slices of volumes, a row for each series, on one scale of grey."""
    shown = {name: _some(volumes) for name, volumes in series.items()}
    columns = max(len(volumes) for volumes in shown.values())
    slices = {name: [(i, volume[len(volume) // 2]) for i, volume in volumes] for name, volumes in shown.items()}
    values = [image for row in slices.values() for _, image in row]
    low, high = min(image.min().item() for image in values), max(image.max().item() for image in values)
    figure = new_figure(1.3 * columns + 0.4, 1.5 * len(slices) + 0.2)
    grid = figure.subplots(len(slices), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, (name, images) in zip(grid, slices.items(), strict=True):
        row[0].set_ylabel(name.replace("_", " "), fontsize=9)
        for axes, (index, image) in zip(row, images, strict=False):
            axes.imshow(image.numpy(), cmap="gray", origin="lower", interpolation="bicubic", vmin=low, vmax=high)
            axes.set_title(str(index), fontsize=8)
    save_figure(figure, path)


def _some(volumes: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
    """Evenly spaced ones with their numbers, first and last among them."""
    count = min(len(volumes), _MOST_COLUMNS)
    chosen = [round(i * (len(volumes) - 1) / max(1, count - 1)) for i in range(count)]
    return [(index, volumes[index]) for index in chosen]
