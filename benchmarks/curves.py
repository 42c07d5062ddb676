"""Curves of docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

matplotlib.use("svg")
from matplotlib import pyplot as plt  # the backend is chosen first

from .model import CostModel
from .record import Row

# The same figures give the same file, with text as text.
_STYLE = {"svg.hashsalt": "scoretomo", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}


def projection(path: Path, rows: Sequence[Row]) -> None:
    """Speed of every method against the side, for the least and the greatest number of views."""
    views = sorted({row["views"] for row in rows})
    panels = [(operation, count) for operation in ("project", "back project") for count in (views[0], views[-1])]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(11, 3), sharey=True, layout="constrained")
        for axis, (operation, count) in zip(axes, panels, strict=True):
            for name in dict.fromkeys(row["method"] for row in rows):
                chosen = [
                    row for row in rows if (row["operation"], row["views"], row["method"]) == (operation, count, name)
                ]
                axis.loglog(
                    [row["side"] for row in chosen],
                    [row["voxels_per_second"] / 1e6 for row in chosen],
                    marker="o",
                    markersize=3,
                    label=name,
                )
            _plain_ticks(axis, sorted({row["side"] for row in rows}))
            axis.set(title=f"{operation}, {count} view{'s' * (count > 1)} a volume", xlabel="side (voxels)")
        axes[0].set_ylabel("million voxels a second")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
        _save(figure, path)


def scaling(path: Path, rows: Sequence[Row], model: CostModel) -> None:
    """Milliseconds of a volume's step against side, volumes and views, and what the model makes of them."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
        for axis, sweep in zip(axes, ("side", "volumes", "views"), strict=True):
            chosen = [row for row in rows if row["task"] == "reconstruction" and row["sweep"] == sweep]
            sizes = [row[sweep] for row in chosen]
            axis.loglog(sizes, [row["milliseconds"] for row in chosen], "o", markersize=4, label="measured")
            foreseen = [_foreseen(model, row) for row in chosen]
            axis.loglog(sizes, foreseen, label="model")
            axis.set(xlabel={"side": "side (voxels)", "volumes": "volumes at once", "views": "views M"}[sweep])
            _plain_ticks(axis, sizes)
        axes[0].set_ylabel("milliseconds for a volume and step")
        axes[0].legend(fontsize=7)
        _save(figure, path)


def accuracy(path: Path, rows: Sequence[Row]) -> None:
    """FSC-AUC against time: median, with the range over the volumes for each side's first run."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
        for method, colour in (("listing", "C3"), ("ours", "C0")):
            for seed in sorted({row["seed"] for row in rows if row["method"] == method}):
                run = [row for row in rows if row["method"] == method and row["seed"] == seed]
                seconds = [row["seconds"] for row in run]
                label = f"{method}, seed {seed}" if method == "ours" else "the paper's listing"
                axis.semilogx(
                    seconds,
                    [row["median_fsc_auc"] for row in run],
                    color=colour,
                    alpha=1.0 if seed == 0 else 0.5,
                    marker="o",
                    markersize=3,
                    label=label,
                )
                if seed == 0:
                    lowest, highest = [row["lowest"] for row in run], [row["highest"] for row in run]
                    axis.fill_between(seconds, lowest, highest, color=colour, alpha=0.1, linewidth=0)
        axis.set(xlabel="seconds for all volumes", ylabel="FSC-AUC, median and range")
        axis.legend(fontsize=7)
        _save(figure, path)


def _foreseen(model: CostModel, row: Row) -> float:
    return model.milliseconds(row["side"], row["volumes"], row["views"] - 1, row["views"] - 1)


def _plain_ticks(axis: Any, sizes: Sequence[int]) -> None:
    """Ticks at the sizes, and at 1, 2 and 5 of every decade of the other axis, as plain numbers."""
    axis.xaxis.set(major_locator=FixedLocator(sizes), minor_locator=NullLocator())
    axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator())
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
