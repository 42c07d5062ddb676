"""Point models and what they are made of, in pictures, and as a section of the report of a run."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..io.mrc import read_volume
from ..io.point_results import Agreement, Finished, read_finished
from .density import choose_grid, encode_volume
from .figures import new_figure, save_figure
from .isosurface import tilted
from .page import Blocks
from .point_pictures import draw_clouds

_OBSERVED_COLOUR, _MODEL_COLOUR = "#4f8fd6", "#e0912f"
_CURVES = {
    "models": "models",
    "baseline": "fitted without the prior",
    "points of the volume": "the volume as so many points",
}
_PICTURES = (
    ("views.png", "Projections with the points they are reduced to (blue) and those of the model (orange)"),
    ("models.png", "The model, others that fit as well, and the volume as points, from three sides"),
    ("slices.png", "Slices through the middle"),
)


@dataclass(frozen=True)
class DrawnView:
    """A projection with points over it, xy in pixels from the origin ``side // 2``.

    Attributes
    ----------
    title
        Above it.
    picture
        ``(side, side)``.
    observed, model
        ``(m, 2)`` and ``(n, 2)``.
    """

    title: str
    picture: Float[Tensor, "side side"]
    observed: Float[Tensor, "m 2"]
    model: Float[Tensor, "n 2"]


def draw_views(path: Path, views: Sequence[DrawnView]) -> None:
    """Draw projections alone, with the points they were reduced to, and with those of the model; y upwards."""
    figure = new_figure(1.9 * len(views) + 0.3, 5.9)
    rows = figure.subplots(3, len(views), squeeze=False)
    for column, view in enumerate(views):
        origin, side = view.picture.shape[-1] // 2, view.picture.shape[-1]
        over = ((None, ""), (view.observed, _OBSERVED_COLOUR), (view.model, _MODEL_COLOUR))
        for axes, (points, colour) in zip(rows[:, column], over, strict=True):
            axes.imshow(view.picture.numpy(), cmap="gray", origin="lower", interpolation="bicubic")
            if points is not None:
                size = 2.5 * (256 / len(points)) ** 0.5
                axes.scatter(points[:, 0] + origin, points[:, 1] + origin, s=size, color=colour, linewidths=0)
            axes.set(xticks=[], yticks=[], xlim=(-0.5, side - 0.5), ylim=(-0.5, side - 0.5))
        rows[0][column].set_title(view.title, fontsize=8)
    for row, name in enumerate(("projection", "observed points", "model")):
        rows[row][0].set_ylabel(name, fontsize=8)
    save_figure(figure, path)


def draw_models(path: Path, clouds: Mapping[str, Float[Tensor, "n 3"]]) -> None:
    """Draw clouds in the cube from -1 to 1 from the front, the side and the top, a column each."""
    sides = {"front": torch.eye(3), "side": tilted(0.0, 90.0), "top": tilted(90.0, 0.0)}
    rows = {name: [cloud @ turn.T for cloud in clouds.values()] for name, turn in sides.items()}
    draw_clouds(path, rows, titles=list(clouds), view=torch.eye(3))


def draw_slices(path: Path, maps: Mapping[str, Float[Tensor, "n n n"]]) -> None:
    """Draw slices through the middle of maps, across each axis, each map in its own range of grey."""
    figure = new_figure(6.0, 2.0 * len(maps) + 0.3)
    grid = figure.subplots(len(maps), 3, squeeze=False)
    for row, (name, voxels) in zip(grid, maps.items(), strict=True):
        high = max(float(voxels.flatten().sort().values[-max(1, voxels.numel() // 2000)]), 1e-12)
        for axis, axes in enumerate(row):
            section = voxels.select(axis, voxels.shape[axis] // 2).numpy()
            axes.imshow(section, cmap="gray", origin="lower", vmin=0, vmax=high, interpolation="bilinear")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    for axes, title in zip(grid[0], ("across z (x, y)", "across y (x, z)", "across x (y, z)"), strict=True):
        axes.set_title(title, fontsize=8)
    save_figure(figure, path)


def agreement_curves(against: Mapping[str, Agreement]) -> list[dict[str, Any]]:
    """Fourier shell correlations with the volume, named for people."""
    return [
        {"name": _CURVES[name], "x": each["frequency_per_angstrom"], "y": each["fsc"]}
        for name, each in against.items()
        if name in _CURVES
    ]


def read_point_models(folder: Path) -> Finished | None:
    """Read what ``points reconstruct`` has found for a run; None where it has not been there."""
    found = read_finished(folder / "points")
    return found if found is not None and "models" in (found["against_volume"] or {}) else None


def point_section(blocks: Blocks, folder: Path) -> dict[str, Any] | None:
    """Fill the section of the point models of a run: densities in 3D, their agreement with the volume, pictures."""
    found = read_point_models(folder)
    path = folder / "points" / "density.mrc"
    if found is None or not path.exists():
        return None
    density = read_volume(path).volume
    grid = choose_grid([density.voxels], 1, density.pixel_size_angstrom)
    pictures = [
        {"words": words, "image": base64.b64encode(picture.read_bytes()).decode("ascii")}
        for name, words in _PICTURES
        if (picture := path.with_name(name)).exists()
    ]
    return {
        "words": point_words(found),
        "density": blocks.add_density("points", encode_volume(density.voxels, grid), grid),
        "fsc": agreement_curves(found["against_volume"] or {}),
        "pictures": pictures,
    }


def point_words(found: Finished) -> str:
    """Say what came out, in words that need no knowledge of the method."""
    assert found["against_volume"] is not None  # without it nothing is shown
    against = found["against_volume"]["models"]
    views = ", ".join(str(view["image"]) for view in found["views"])
    words = (
        f"{found['models']} models of {found['points']} points each, made of {len(found['views'])} class averages "
        f"({views}) that {found['volume']} explains from directions far apart, and of what a prior knows of such "
        "objects. "
    )
    if found["spread_angstrom"] is not None:
        words += f"The models differ by {found['spread_angstrom']:.1f} Å (root mean square). "
    if against["resolution_angstrom"] is None:
        words += "Their density and the volume do not agree; "
    else:
        words += f"Their density and the volume agree to {against['resolution_angstrom']:.1f} Å (FSC 0.5); "
    return (
        f"{words}the points lie {against['rmsd_angstrom']:.1f} Å (root mean square) from those of the volume. The "
        "models are in the frame and the hand of the volume; projections do not tell the hand."
    )
