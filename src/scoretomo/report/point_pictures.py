"""Point clouds at a glance: points as spheres, near ones large and bright, in rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from .figures import new_figure, save_figure
from .isosurface import tilted

# Seen from a little above and from the side, so that seats, legs and rings show.
_VIEW = tilted(20.0, 35.0)
_INCHES = 1.6
_EDGE = 1.25


def draw_clouds(
    path: Path,
    rows: Mapping[str, Float[Tensor, "k n 3"] | Sequence[Float[Tensor, "n 3"]]],
    *,
    titles: Sequence[str] | None = None,
    view: Float[Tensor, "3 3"] = _VIEW,
) -> None:
    """Draw rows of clouds, each in the cube from -1 to 1, y upwards.

    Parameters
    ----------
    path
        The picture, ``.png``.
    rows
        Clouds ``(n, 3)`` of each row by its name; where there are fewer than in the longest row, places stay empty.
    titles
        Of the columns.
    view
        ``(3, 3)``, how clouds are turned before they are drawn.
    """
    columns = max(len(clouds) for clouds in rows.values())
    figure = new_figure(_INCHES * columns + 0.9, _INCHES * len(rows) + 0.3)
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, clouds) in zip(all_axes, rows.items(), strict=True):
        for column, place in enumerate(axes):
            place.set_axis_off()
            if column >= len(clouds):
                continue
            x, y, depth = (clouds[column].cpu() @ view.T).unbind(1)
            near = (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=1e-6)
            order = near.argsort()
            place.scatter(
                x[order], y[order], s=(3 + 9 * near[order]) * (256 / len(x)) ** 0.5, c=near[order], cmap="viridis",
                linewidths=0, vmin=-0.2, vmax=1.1,
            )  # fmt: skip
            place.set(xlim=(-_EDGE, _EDGE), ylim=(-_EDGE, _EDGE), aspect="equal")
            if titles is not None and place.get_subplotspec().is_first_row() and column < len(titles):
                place.set_title(titles[column], fontsize=8)
        axes[0].text(-0.02, 0.5, name, transform=axes[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    save_figure(figure, path)
