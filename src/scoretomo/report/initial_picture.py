"""The picture of an initial model: the map, its projections beside class averages, the views, and how starts ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import Poses
from ..ensemble.initial_evidence import InitialEvidence
from ..imaging.fourier import translate
from ..imaging.projection import project
from .figures import new_figure, save_figure
from .isosurface import surface, tilted

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

_COLUMNS = 8
_SURFACE_PIXELS = 96  # as fine as a panel of the picture
_ANSWERS = {
    None: "whether to trust it is being looked at",
    "right": "the starts and the halves agree on this map",
    "perhaps": "this map may be right",
    "unknown": "these averages do not tell a map",
}


@dataclass(frozen=True)
class InitialPicture:
    """What is drawn.

    Attributes
    ----------
    volume
        ``(n, n, n)``.
    images
        ``(k, n, n)``, class averages.
    poses
        Theirs; shifts in pixels.
    numbers
        Of the images in the input.
    scores
        ``(k,)``, correlation of each with the map.
    starts
        Score after the first stage, and last stage, of each start, the winner first.
    evidence
        What speaks for the map; None where it has not been weighed yet.
    """

    volume: Float[Tensor, "n n n"]
    images: Float[Tensor, "k n n"]
    poses: Poses
    numbers: Sequence[int]
    scores: Float[Tensor, " k"]
    starts: Sequence[tuple[float, int]]
    evidence: InitialEvidence | None


def draw_initial(path: Path, found: InitialPicture) -> None:
    """Draw surfaces and slices, projections beside class averages, the map of views and the scores of the starts."""
    figure = new_figure(1.35 * _COLUMNS, 8.4)
    figure.suptitle(
        f"Initial model: {_ANSWERS[None if found.evidence is None else found.evidence.answer]}", fontsize=12
    )
    parts = figure.add_gridspec(2, 1, height_ratios=(4, 2))
    above, below = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    shown = _spread(found.scores)
    rotations, shifts = found.poses.rotations[shown], found.poses.shifts_angstrom[shown]
    heights = _heights(found.volume)
    turns = [tilted(20.0, 360 * k / _COLUMNS) for k in range(_COLUMNS)]
    rows: dict[str, tuple[list[Tensor], list[str]]] = {
        "map": (
            [surface(found.volume, turn, pixels=_SURFACE_PIXELS) for turn in turns],
            [f"{360 * k // _COLUMNS}°" for k in range(_COLUMNS)],
        ),
        "slices": (
            [found.volume[z] for z in heights],
            [f"z {z - found.volume.shape[-1] // 2:+d}" for z in heights],
        ),
        "class average": (
            list(found.images[shown]),
            [f"{found.numbers[place]}: {float(found.scores[place]):.2f}" for place in shown],
        ),
        "projection": (list(translate(project(found.volume[None], rotations[None])[0], shifts)), [""] * len(shown)),
    }
    grid = above.subplots(len(rows), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for line, (name, (pictures, titles)) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        limits = {"vmin": 0.0, "vmax": float(found.volume.max())} if name == "slices" else {}
        for axes, picture, title in zip(line, pictures, titles, strict=False):
            axes.imshow(picture.numpy(), cmap="gray", origin="lower", interpolation="bicubic", **limits)
            axes.set_title(title, fontsize=8)
    _draw_views(below.add_subplot(1, 2, 1, projection="mollweide"), found)
    _draw_starts(below.add_subplot(1, 2, 2), found)
    save_figure(figure, path)


def _heights(volume: Float[Tensor, "n n n"]) -> list[int]:
    """Sections along z through what holds density, evenly."""
    profile = volume.clamp(min=0).sum((1, 2))
    dense = (profile > 0.05 * profile.max()).nonzero().flatten()
    ends = (int(dense[0]), int(dense[-1])) if len(dense) else (0, len(profile) - 1)
    places: list[int] = torch.linspace(*ends, _COLUMNS + 2)[1:-1].round().long().tolist()
    return places


def _spread(scores: Float[Tensor, " k"]) -> list[int]:
    """Class averages from the best to the worst, evenly."""
    order = scores.argsort(descending=True)
    places: list[int] = torch.linspace(0, len(order) - 1, min(_COLUMNS, len(order))).round().long().tolist()
    return [int(order[place]) for place in places]


def _draw_views(axes: "Axes", found: InitialPicture) -> None:
    """Draw viewing directions, each with the one that faces it, which has the mirrored image."""
    directions = found.poses.rotations[:, 2]
    both = torch.cat([directions, -directions])
    longitude, latitude = torch.atan2(both[:, 1], both[:, 0]), torch.asin(both[:, 2].clamp(-1, 1))
    axes.scatter(longitude.numpy(), latitude.numpy(), s=9, color="tab:blue", alpha=0.7)
    axes.grid(alpha=0.3)
    axes.set(xticklabels=[], yticklabels=[])
    gap = "" if found.evidence is None else f"; widest gap {found.evidence.widest_gap_degrees:.0f}°"
    axes.set_title(f"views of {len(directions)} class averages{gap}", fontsize=9)


def _draw_starts(axes: "Axes", found: InitialPicture) -> None:
    """Draw the score of every start, the winner first."""
    heights = [score for score, _ in found.starts]
    colours = ["tab:orange" if k == 0 else "tab:blue" for k in range(len(heights))]
    axes.bar(range(len(heights)), heights, color=colours)
    low = min(heights) - 0.3 * (max(heights) - min(heights)) - 1e-3
    axes.set(xticks=[], ylim=(max(0.0, low), max(heights) + 0.1 * (max(heights) - low)))
    axes.set_xlabel("starts", fontsize=9)
    axes.set_ylabel("mean correlation", fontsize=9)
    if (evidence := found.evidence) is not None:
        apart = "" if evidence.half_degrees is None else f"; halves see averages {evidence.half_degrees:.0f}° apart"
        axes.set_title(f"{evidence.agreeing} of {evidence.starts} starts agree{apart}", fontsize=9)
