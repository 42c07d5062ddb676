"""Pictures of point clouds that were made from sparse observations, and their errors against the number of steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.report.figures import new_figure, save_figure
from scoretomo.report.isosurface import tilted

from .points_problems import Problem, Solution

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

# Furniture has z up and its front towards +y.
_VIEW = tilted(20.0, 35.0) @ torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
_TITLES = ("truth", "a projection", "known in 3D", "posterior samples", "", "", "maximum likelihood")
_SAMPLES = 3
_INCHES, _EDGE = 1.05, 1.2


def draw_examples(path: Path, examples: Sequence[tuple[str, Problem, Solution, Solution]]) -> None:
    """Draw truth, observations, the first samples and a fit in a row, all in the orientation of the set."""
    figure = new_figure(_INCHES * len(_TITLES) + 0.5, _INCHES * len(examples) + 0.3)
    grid = figure.subplots(len(examples), len(_TITLES), squeeze=False)
    for axes, (words, problem, drawn, fitted) in zip(grid, examples, strict=True):
        clouds = [problem.truth, *torch.from_numpy(drawn.clouds[:_SAMPLES])]
        truth, *samples = (cloud @ problem.turn for cloud in clouds)
        known = [part for part in (problem.coarse, problem.part) if part is not None]
        _draw(axes[0], truth)
        _draw(axes[1], torch.nn.functional.pad(problem.projections[0], (0, 1)) @ _VIEW, "Greys")
        if known:
            _draw(axes[2], torch.cat(known) @ problem.turn, "Greys")
        for place, sample in zip(axes[3:], samples, strict=False):
            _draw(place, sample)
        _draw(axes[-1], torch.from_numpy(fitted.clouds[0]) @ problem.turn, "magma")
        for place in axes:
            place.set(xlim=(-_EDGE, _EDGE), ylim=(-_EDGE, _EDGE), aspect="equal")
            place.set_axis_off()
        axes[0].text(
            -0.05, 0.5, words.replace(", ", ",\n"), transform=axes[0].transAxes, rotation=90, ha="right", va="center",
            fontsize=6,
        )  # fmt: skip
    for place, title in zip(grid[0], _TITLES, strict=True):
        place.set_title(title, fontsize=7)
    save_figure(figure, path)


def _draw(axes: "Axes", cloud: Float[Tensor, "n 3"], colours: str = "viridis") -> None:
    """Draw a cloud, near points large and bright; flat ones in one colour."""
    x, y, depth = (cloud @ _VIEW.T).unbind(1)
    near = (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=0.1)
    order = near.argsort()
    x, y, near = x[order], y[order], near[order]
    shade = 1 - near if colours == "Greys" else near
    axes.scatter(
        x, y, s=(2 + 5 * near) * (256 / len(x)) ** 0.5, c=shade, cmap=colours, linewidths=0, vmin=-0.6, vmax=1.1
    )


def draw_steps(path: Path, panels: Mapping[tuple[str, str], Mapping[int, Sequence[Solution]]]) -> None:
    """Draw both distances against the number of steps, mean and standard error over the shapes."""
    figure = new_figure(2.7 * len(panels), 2.6)
    for axes, ((family, observed), by_steps) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for key, label in (("chamfer", "Chamfer"), ("earth_movers", "earth mover's")):
            shapes = 100 * np.array([[getattr(each, key).mean() for each in found] for found in by_steps.values()])
            error = shapes.std(1) / max(1, shapes.shape[1]) ** 0.5
            axes.errorbar(list(by_steps), shapes.mean(1), error, marker="o", markersize=3, capsize=2, label=label)
        axes.set_xscale("log")
        axes.set_xticks(list(by_steps), [str(count) for count in by_steps])
        axes.minorticks_off()
        axes.set(xlabel="time steps", ylim=(0, None))
        axes.set_title(f"{family}: {observed}".replace(", ", ",\n"), fontsize=7)
    figure.axes[0].set_ylabel("distance from the truth (x 100)")
    figure.axes[0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)
