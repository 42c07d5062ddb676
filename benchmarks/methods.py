"""One volume for each class average: cryoDRGN2 against score-based tomography on simulated sets (001, Figs. 4 and 5).

Each folder holds a simulated set: `scoretomo simulate` in FOLDER/sim, `scoretomo run` in FOLDER/run and `scoretomo run
--method drgn` in FOLDER/drgn. What is missing is made, in --output. Both methods are compared on the volumes and seeds
that they both have. The figure shows, for each set, the first volumes from the side, and the FSC of every volume with
its truth, median and quartiles over the volumes; it is of the first seed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import split
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from scoretomo.commands.evaluate import common_pair, compare_files
from scoretomo.datatypes import InputError
from scoretomo.evaluation.comparison import Comparison
from scoretomo.evaluation.motion_measures import motion_measures
from scoretomo.evaluation.moving_truths import FEWEST_TRUTHS, moving_truths
from scoretomo.io.mrc import read_volume
from scoretomo.io.star import read_poses
from scoretomo.report.figures import new_figure, save_figure
from scoretomo.report.isosurface import surface, tilted

from .commands import scoretomo
from .record import Row
from .timing import three_digits

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Array = NDArray[np.float32]

# Folder in that of a set, words, colour of the curves and of the surfaces.
METHODS = {
    "run": ("score-based tomography", "tab:green", (0.35, 0.70, 0.40)),
    "drgn": ("cryoDRGN2", "tab:red", (0.85, 0.40, 0.38)),
}
_TRUTH_COLOUR = (0.85, 0.62, 0.35)
_NAME = re.compile(r"volume_(\d+)(?:_seed(\d+))?\.mrc")
_SHOWN = 5
_SIDE_VIEW = tilted(0.0, 90.0)


@dataclass(frozen=True)
class Settings:
    """Which sets, and how the volumes are made where they are not there."""

    folders: tuple[Path, ...] = ()
    """Simulated sets. None: box_a and capsid_a, made in --output."""
    output: Path = Path("methods")
    """Folder for what is made here."""
    figure: Path = Path("docs/images/methods.png")
    """The figure."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    side: int = 32
    """Side of the images of sets that are made here."""
    count: int = 300
    """Images of sets that are made here."""
    every: int = 5
    """Volumes are made of every n-th image, of the sets that have none yet."""
    score: str = "--preset demo --budget 20000 --minutes None --seed 11"
    """Options of `scoretomo run`, in one string."""
    drgn: str = "--preset demo --seed 11"
    """Options of `scoretomo run --method drgn`, in one string."""


@dataclass(frozen=True)
class Compared:
    """Volumes of one method beside their truth, by seed and image.

    Attributes
    ----------
    curves
        FSC at frequencies from 0 to 0.5 cycles per pixel.
    areas
        FSC-AUC.
    resolutions
        Where the FSC falls below 0.5, in pixels; infinite if it never reaches it.
    gains, own_differences
        What each gains over one rigid map, and how well it moves as its truth does; NaN where the truths do not move.
    shown
        The first volumes of the first seed, in the frames of their truth.
    """

    curves: Mapping[tuple[int, int], Array]
    areas: Mapping[tuple[int, int], float]
    resolutions: Mapping[tuple[int, int], float]
    gains: Mapping[tuple[int, int], float]
    own_differences: Mapping[tuple[int, int], float]
    shown: Array

    def of_seed(self, seed: int) -> Array:
        """FSC-AUC of the volumes of a seed, in the order of the images."""
        return np.array([area for key, area in sorted(self.areas.items()) if key[0] == seed], dtype=np.float32)


def measure(settings: Settings) -> Iterator[Row]:
    """Compare both methods on every set, seed by seed; the figure follows."""
    sets: dict[str, dict[str, Compared]] = {}
    truth: dict[str, list[Path]] = {}
    for given in settings.folders or (Path("box_a"), Path("capsid_a")):
        places = complete(given, settings)
        files = {method: _volumes(places[method]) for method in METHODS}
        common = sorted(set(files["run"]) & set(files["drgn"]))
        if not common:
            raise InputError(f"{given}: run and drgn have no volume of the same image and seed")
        truth[given.name] = [places["sim"] / "truth" / f"volume_{image:04d}.mrc" for _, image in common]
        cache = settings.output / given.name
        sets[given.name] = {
            method: _compare(
                {key: files[method][key] for key in common},
                truth[given.name],
                places["sim"] / "particles.star",
                cache / f"{method}.npz",
            )
            for method in METHODS
        }
        yield from rows(given.name, sets[given.name])
    settings.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(settings.figure, sets, {name: _first(files) for name, files in truth.items()})


def rows(name: str, compared: Mapping[str, Compared]) -> Iterator[Row]:
    """Lines of the table: each method and seed of a set."""
    for method, each in compared.items():
        (other,) = (found for key, found in compared.items() if key != method)
        for seed in sorted({seed for seed, _ in each.areas}):
            areas = each.of_seed(seed)
            low, middle, high = np.quantile(areas, [0.25, 0.5, 0.75])
            resolution, gain, own = (
                np.median([value for key, value in values.items() if key[0] == seed])
                for values in (each.resolutions, each.gains, each.own_differences)
            )
            yield {
                "set": name,
                "method": METHODS[method][0],
                "seed": seed,
                "volumes": len(areas),
                "median_fsc_auc": three_digits(float(middle)),
                "lower_quartile": three_digits(float(low)),
                "upper_quartile": three_digits(float(high)),
                "median_resolution_pixels": _digits(resolution),
                "gain_over_rigid": _digits(gain),
                "own_difference": _digits(own),
                "better_than_the_other": three_digits(float((areas > other.of_seed(seed)).mean())),
            }


def _digits(value: np.floating[Any]) -> float | None:
    return three_digits(float(value)) if np.isfinite(value) else None


def complete(given: Path, settings: Settings) -> dict[str, Path]:
    """Find simulation and runs of a set; make what is missing, by the package's own commands."""
    places = {}
    for name, contents in (("sim", "images.mrcs"), *((method, "volumes") for method in METHODS)):
        there = (given / name / contents).exists()
        places[name] = (given if there else settings.output / given.name) / name
    images = places["sim"] / "images.mrcs"
    if not images.exists():
        kind, size = given.name.partition("_")[0], ["--count", str(settings.count), "--side", str(settings.side)]
        scoretomo("simulate", kind, "-o", str(places["sim"]), *size)
    chosen = list(range(0, settings.count, settings.every))
    for method, options in (("run", settings.score), ("drgn", settings.drgn)):
        if not (given / method / "volumes").exists():  # the same command again goes on, or does nothing
            words = ["--method", "drgn"] if method == "drgn" else []
            where = ["-o", str(places[method]), "--device", settings.device, "--images", *map(str, chosen)]
            scoretomo("run", str(images), *words, *where, *split(options))
        chosen = sorted({image for _, image in _volumes(places[method])})
    return places


def _volumes(run: Path) -> dict[tuple[int, int], Path]:
    """Files by seed and image."""
    found = ((path, _NAME.fullmatch(path.name)) for path in (run / "volumes").glob("*.mrc"))
    return {(int(match[2] or 0), int(match[1])): path for path, match in found if match}


def _first(truth: list[Path]) -> Array:
    return np.stack([read_volume(path).volume.voxels.numpy() for path in truth[:_SHOWN]])


def _compare(files: Mapping[tuple[int, int], Path], truth: list[Path], poses: Path, cache: Path) -> Compared:
    """Align and score, or take what was found of the same files."""
    key = repr([(str(path), path.stat().st_mtime_ns) for path in files.values()])
    saved = dict(np.load(cache)) if cache.exists() else {}
    if str(saved.get("key")) != key or "gains" not in saved:  # or an earlier version's
        found = compare_files(list(files.values()), truth)
        gains, own_differences = _motion(files, truth, poses, found)
        saved = {
            "key": np.array(key),
            "curves": np.stack([each.fsc.numpy() for each in found]),
            "areas": np.array([each.fsc_auc for each in found]),
            "resolutions": np.array([each.resolution_pixels for each in found]),
            "gains": gains,
            "own_differences": own_differences,
            "shown": np.stack([each.aligned.numpy() for each in found[:_SHOWN]]),
        }
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **saved)
    curves, areas, resolutions, gains, own_differences = (
        dict(zip(files, saved[name], strict=True))
        for name in ("curves", "areas", "resolutions", "gains", "own_differences")
    )
    return Compared(curves, areas, resolutions, gains, own_differences, saved["shown"])


def _motion(
    files: Mapping[tuple[int, int], Path], truth: list[Path], poses: Path, found: list[Comparison]
) -> tuple[Array, Array]:
    """Gain over one rigid map and own difference of each; NaN where there are no truths that move."""
    unknown = np.full(len(found), np.nan, dtype=np.float32)
    if len(set(truth)) < FEWEST_TRUTHS:
        return unknown, unknown
    images = [image for _, image in files]
    rotations = read_poses(poses).rotations[images] if poses.exists() else None
    pairs = zip(files.values(), truth, strict=True)
    truths = moving_truths(torch.stack([common_pair(*pair)[1].voxels for pair in pairs]), rotations)
    if not truths.move:
        return unknown, unknown
    measures = motion_measures((each.aligned for each in found), truths)
    return measures.gain_over_rigid.numpy(), measures.volumes.own_difference.numpy()


def draw(path: Path, sets: Mapping[str, Mapping[str, Compared]], truth: Mapping[str, Array]) -> None:
    """Surfaces of the first volumes and their truth from the side, and the FSC of all volumes; a row for each set."""
    figure = new_figure(11.0, 3.6 * len(sets))
    parts = figure.subfigures(len(sets), 1, squeeze=False)[:, 0]
    for part, (name, compared) in zip(parts, sets.items(), strict=True):
        left, right = part.subfigures(1, 2, width_ratios=[1.5, 1.0])
        part.suptitle(name)
        _surfaces(left, compared, truth[name])
        axes = right.subplots()
        for method, each in compared.items():
            _curves(axes, method, each)
        axes.axhline(0.5, color="grey", linestyle="--", linewidth=1)
        axes.set(xlim=(0, 0.5), ylim=(-0.1, 1.02), xlabel="spatial frequency (cycles/pixel)", ylabel="FSC with truth")
        axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _surfaces(figure: "SubFigure", compared: Mapping[str, Compared], truth: Array) -> None:
    pictured: list[tuple[str, Array, Any]] = [("truth", truth, _TRUTH_COLOUR)]
    pictured += [(METHODS[method][0], each.shown, METHODS[method][2]) for method, each in compared.items()]
    grid = figure.subplots(len(pictured), len(truth), squeeze=False)
    for axes_of_row, (words, volumes, colour) in zip(grid, pictured, strict=True):
        axes_of_row[0].set_ylabel(words, fontsize=8)
        for axes, volume in zip(axes_of_row, volumes, strict=True):
            axes.imshow(surface(torch.from_numpy(volume), _SIDE_VIEW, colour=colour).numpy(), origin="lower")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)


def _curves(axes: "Axes", method: str, compared: Compared) -> None:
    """Curves of the first seed, their median and quartiles."""
    words, colour, _ = METHODS[method]
    seed = min(seed for seed, _ in compared.curves)
    curves = np.stack([curve for key, curve in sorted(compared.curves.items()) if key[0] == seed])
    frequencies = np.linspace(0, 0.5, curves.shape[1])
    axes.plot(frequencies, curves.T, color=colour, alpha=0.12, linewidth=0.7)
    low, middle, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
    axes.fill_between(frequencies, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(frequencies, middle, color=colour, linewidth=2, label=f"{words}, median of {len(curves)}")
