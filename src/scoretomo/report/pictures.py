"""The report's figures as PNG files, for slides and papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from . import course
from .denoiser_checks import DenoiserChecks
from .figures import new_figure, save_figure, training_curves
from .isosurface import UPRIGHT, surface, surface_level, tilted
from .motion import read_voxels
from .sections import ProjectedVolumes
from .summary import RunSummary

# The colours of states and verdicts in the page, those of light mode.
STATE_COLOURS = ("#4f8fd6", "#e0912f", "#2fa37c", "#c96a9b", "#c9b02b", "#7a6fd0", "#d1603d", "#53b6d1")
_VERDICT_COLOURS = {"reliable": "#1f7a55", "doubtful": "#a86a08", "wrong": "#b3362f", "unjudged": "#6b7686"}
_COLUMNS = 12
_MOST_VOLUMES = 72
_PLACES = (-2.0, -1.0, 0.0, 1.0, 2.0)
_VIEW = tilted(25.0, 35.0) @ UPRIGHT


def draw_pictures(run: RunSummary, folder: Path, projected: ProjectedVolumes, checks: DenoiserChecks | None) -> None:
    """Draw every figure of the report that the run has something for.

    Parameters
    ----------
    run
        What the run folder holds.
    folder
        Where the pictures go: ``volumes.png``, ``states.png``, ``map_of_states.png``, ``motion.png``,
        ``seed_agreement.png``, ``consensus_fsc.png``, ``training.png``, ``samples.png``.
    projected
        Class averages beside the projections of their volumes.
    checks
        Samples of the denoiser.
    """
    if run.volumes:
        _volumes(folder / "volumes.png", run, projected)
    if clusters := run.series("clusters/cluster_*.mrc"):
        _states(folder / "states.png", clusters)
    _map_of_states(folder / "map_of_states.png", run)
    if (run.ensemble / "mean.mrc").exists() and (run.ensemble / "component_1.mrc").exists():
        _motion(folder / "motion.png", run)
    if (found := course.agreement(run)) is not None:
        thin = [{**curve, "colour": _VERDICT_COLOURS[curve["verdict"]], "thin": True} for curve in found["curves"]]
        thick = [{**curve, "colour": _VERDICT_COLOURS[curve["verdict"]]} for curve in found["median"]]
        draw_shell_correlations(folder / "seed_agreement.png", [*thin, *thick], 0.5)
    if (found := course.consensus(run, None)) is not None and found["fsc"]:
        draw_shell_correlations(folder / "consensus_fsc.png", found["fsc"], 0.143)
    training_curves(folder / "training.png", run.metrics)
    if checks is not None:
        _samples(folder / "samples.png", checks)


def _volumes(path: Path, run: RunSummary, projected: ProjectedVolumes) -> None:
    """Draw class averages above projections, with verdicts."""
    shown = list(zip(run.volumes, projected.pictures, strict=True))[:_MOST_VOLUMES]
    rows = -(-len(shown) // _COLUMNS)
    columns = min(_COLUMNS, len(shown))
    figure = new_figure(0.95 * columns + 0.2, 2.15 * rows + 0.2)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (volume, pair) in enumerate(shown):
        row, column = divmod(place, columns)
        low, high = pair[0].quantile(0.002).item(), pair[0].quantile(0.998).item()
        for below, picture in enumerate(pair):
            grid[2 * row + below][column].imshow(picture.numpy(), cmap="gray", origin="lower", vmin=low, vmax=high)
        verdict = volume.verdict or "unjudged"
        title = str(volume.index) if volume.verdict is None else f"{volume.index} {volume.verdict}"
        grid[2 * row][column].set_title(title, fontsize=7, color=_VERDICT_COLOURS[verdict], pad=2)
    save_figure(figure, path)


def _states(path: Path, files: Sequence[Path]) -> None:
    pictures = []
    for place, file in enumerate(files):
        colour = _rgb(STATE_COLOURS[place % len(STATE_COLOURS)])
        pictures.append(
            (f"state {file.stem.split('_')[-1]}", surface(read_voxels(file), _VIEW, colour=colour, pixels=160))
        )
    _surfaces(path, pictures)


def _motion(path: Path, run: RunSummary) -> None:
    """Draw the average, deformed along the first component, all at one level."""
    mean, component = read_voxels(run.ensemble / "mean.mrc"), read_voxels(run.ensemble / "component_1.mrc")
    level = surface_level(mean)
    _surfaces(path, [(f"{c:+.0f} sd", surface(mean + c * component, _VIEW, level=level, pixels=160)) for c in _PLACES])


def _map_of_states(path: Path, run: RunSummary) -> None:
    """Draw the first two coordinates of every volume that has them."""
    names = list(dict.fromkeys(name for volume in run.volumes for name in volume.coordinates))
    pair = [name for name in names if name.startswith("map_")][:2] or names[:2]
    placed = [volume for volume in run.volumes if len(pair) == 2 and all(name in volume.coordinates for name in pair)]
    if not placed:
        return
    numbers = sorted({volume.cluster for volume in placed if volume.cluster is not None})
    figure = new_figure(6.0, 5.0)
    axes = figure.add_subplot()
    for number in (*numbers, None):
        members = [volume for volume in placed if volume.trusted and volume.cluster == number]
        colour = "#8d98a8" if number is None else STATE_COLOURS[numbers.index(number) % len(STATE_COLOURS)]
        if members:
            x, y = ([volume.coordinates[name] for volume in members] for name in pair)
            axes.scatter(x, y, s=36, color=colour, label="no state" if number is None else f"state {number}")
    others = [volume for volume in placed if not volume.trusted]
    if others:
        x, y = ([volume.coordinates[name] for volume in others] for name in pair)
        axes.scatter(x, y, s=30, marker="x", color="#8b95a5", label="not reliable")
    axes.set(xlabel=pair[0].replace("_", " "), ylabel=pair[1].replace("_", " "))
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_shell_correlations(path: Path, curves: Sequence[Mapping[str, Any]], threshold: float) -> None:
    """Draw correlations ``y`` at frequencies ``x`` (1/A); curves may have a ``name``, a ``colour``, and be ``thin``."""
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    for curve in curves:
        thin = curve.get("thin", False)
        points = [(x, y) for x, y in zip(curve["x"], curve["y"], strict=True) if y is not None]
        axes.plot(
            *zip(*points, strict=True),
            color=curve.get("colour"),
            alpha=0.3 if thin else 1.0,
            linewidth=1 if thin else 2,
            label=curve.get("name"),
        )
    axes.axhline(threshold, color="grey", linestyle="--", linewidth=1)
    axes.set(ylim=(-0.1, 1.02), xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation")
    axes.legend(frameon=False)
    save_figure(figure, path)


def _samples(path: Path, checks: DenoiserChecks) -> None:
    count = len(checks.samples)
    figure = new_figure(1.1 * count + 0.4, 2.5)
    grid = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        for axes, picture in zip(grid[:, column], (checks.samples[column], checks.nearest[column]), strict=True):
            axes.imshow(picture.numpy(), cmap="gray", origin="lower")
            axes.set(xticks=[], yticks=[])
        grid[1][column].set_xlabel(f"{checks.correlation[column]:.2f}", fontsize=8)
    grid[0][0].set_ylabel("made up", fontsize=8)
    grid[1][0].set_ylabel("nearest", fontsize=8)
    save_figure(figure, path)


def _surfaces(path: Path, pictures: Sequence[tuple[str, Float[Tensor, "n n 4"]]]) -> None:
    figure = new_figure(2.0 * len(pictures), 2.2)
    grid = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (title, picture) in zip(grid, pictures, strict=True):
        axes.imshow(picture.numpy(), origin="lower", interpolation="bicubic")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    save_figure(figure, path)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
