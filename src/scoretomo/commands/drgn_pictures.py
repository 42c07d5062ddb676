"""Pictures of a latent space and of the volumes in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from ..report.figures import new_figure, save_figure

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

# More columns of volumes would be too small to see; evenly spaced ones are shown.
_MOST_COLUMNS = 12


def draw_latent(
    path: Path,
    components: Float[Tensor, "n c"],
    shares: Float[Tensor, " c"],
    labels: Int[Tensor, " n"],
    medoids: Int[Tensor, " k"],
    diffusion: Float[Tensor, "n m"] | None,
) -> None:
    """Draw particles along the first principal components and in the diffusion map, coloured by cluster."""
    figure = new_figure(10.0 if diffusion is not None else 5.0, 4.5)
    panels = figure.subplots(1, 1 if diffusion is None else 2, squeeze=False)[0]
    names = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares.tolist())]
    _scatter(panels[0], components, labels, medoids, names)
    if diffusion is not None:
        _scatter(panels[1], diffusion, labels, medoids, [f"diffusion map {i + 1}" for i in range(diffusion.shape[1])])
    save_figure(figure, path)


def _scatter(
    axes: "Axes", places: Float[Tensor, "n c"], labels: Int[Tensor, " n"], medoids: Int[Tensor, " k"], names: list[str]
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
    x, y = places[:, :2].T.numpy()
    axes.scatter(x, y, c=labels.numpy(), s=size, cmap="turbo", alpha=0.6, linewidths=0)
    axes.set_ylabel(names[1])
    for number, place in enumerate(places[medoids, :2].tolist()):
        axes.annotate(str(number), place, fontsize=9, weight="bold")


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
