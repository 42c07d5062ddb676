"""What `points reconstruct` writes: models, densities, how uncertain they are, and how they agree with the volume."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from .. import __version__
from ..datatypes import InputError, Volume
from ..evaluation.fsc import area_under_curve, fourier_shell_correlation, resolution_pixels
from ..evaluation.point_error import earth_movers_distance, rmsd_to_points
from ..geometry.assignment import assign_points
from ..imaging.point_images import MOLMAP_WIDTH, draw_points
from ..io.files import write_json
from ..io.mrc import LoadedVolume, write_volume
from ..io.point_files import write_pseudo_atoms
from ..io.point_results import FINISHED, Agreement, Finished
from ..report.pictures import draw_shell_correlations
from ..report.point_page import DrawnView, agreement_curves, draw_models, draw_slices, draw_views
from .points_observations import Observed

# A density of points at distances d from their neighbours shows nothing finer than a few d.
_RESOLUTION_PER_SPACING = 2.5
# Voxels of a grid that no volume gives: so many to the resolution; and the margin around the models.
_VOXELS_PER_RESOLUTION, _MARGIN = 4.0, 1.3
# Models beside the one in the middle in the picture.
_OTHERS_SHOWN = 4


@dataclass(frozen=True)
class Grid:
    """Where densities are drawn: side in voxels, and their edge."""

    side: int
    pixel_size_angstrom: float


@dataclass(frozen=True)
class Reconstruction:
    """Models and the observations they are made of; all coordinates in Angstrom.

    Attributes
    ----------
    observed
        What was known.
    names
        Of the observations that have energies.
    clouds, energies
        ``(s, n, 3)`` and ``(s, k)``, the latter in the cube of the prior.
    baseline, baseline_energies
        The same without the prior, or None.
    volume_energies
        ``(1, k)``, those of the points of the volume, if there is one.
    """

    observed: Observed
    names: Sequence[str]
    clouds: Float[Tensor, "s n 3"]
    energies: Float[Tensor, "s k"]
    baseline: Float[Tensor, "s n 3"] | None = None
    baseline_energies: Float[Tensor, "s k"] | None = None
    volume_energies: Float[Tensor, "1 k"] | None = None


def refuse_other_files(folder: Path) -> None:
    """Keep out of folders that hold something else than a reconstruction, done or begun.

    Raises
    ------
    InputError
        There are other files, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give the name of a folder")
    if not folder.exists() or (folder / FINISHED).exists() or (folder / "checkpoint.pt").exists():
        return
    others = sorted(each.name for each in folder.iterdir() if each.name != ".lock")
    if others:
        raise InputError(f"{folder}: holds other files ({others[0]}); give an empty or a new folder")


def write_reconstruction(folder: Path, found: Reconstruction, record: Mapping[str, Any]) -> None:
    """Write the results of a reconstruction, and last that it is finished."""
    observed, centre = found.observed, medoid(found.clouds)
    spread = spread_of_points(found.clouds, centre)
    resolution = density_resolution(found.clouds[centre])
    grid = _grid(observed, resolution)
    mean, deviation = mean_density(found.clouds, grid, resolution, _mass(observed.volume))
    # models where viewers show the volume, and maps around them
    middle = observed.middle
    x, y, z = (middle - grid.side // 2 * grid.pixel_size_angstrom).tolist()
    write_pseudo_atoms(folder / "models.pdb", found.clouds + middle)
    write_pseudo_atoms(folder / "model.pdb", found.clouds[centre] + middle, spread)
    write_volume(folder / "density.mrc", Volume(mean, grid.pixel_size_angstrom), corner_angstrom=(x, y, z))
    write_volume(folder / "spread.mrc", Volume(deviation, grid.pixel_size_angstrom), corner_angstrom=(x, y, z))
    if found.baseline is not None:
        write_pseudo_atoms(folder / "baseline.pdb", found.baseline + middle)
    against = _against_volume(found, grid, resolution)
    _draw(folder, found, centre, {"density of the models": mean, "their spread": deviation}, against)
    energies = {"models": found.energies, "baseline": found.baseline_energies, "volume": found.volume_energies}
    results = {
        "scoretomo": __version__,
        "command": " ".join(sys.argv),
        **record,
        "volume": observed.source,
        "unit_angstrom": observed.unit,
        "centre_angstrom": observed.centre.tolist(),
        "points": found.clouds.shape[1],
        "models": len(found.clouds),
        "model": centre,
        "views": _views(observed),
        "energies": {kind: _energies(found.names, each) for kind, each in energies.items() if each is not None},
        "spread_angstrom": float(spread.square().mean().sqrt()) if len(found.clouds) > 1 else None,
        "density_resolution_angstrom": resolution,
        "against_volume": against or None,
    }
    write_json(folder / FINISHED, results)


def summary_words(finished: Finished) -> str:
    """Say in a line or two what came out."""
    views = ", ".join(str(view["image"]) for view in finished["views"])
    words = f"{finished['models']} models of {finished['points']} points from views {views}"
    if finished["spread_angstrom"] is not None:
        words += f"; they differ by {finished['spread_angstrom']:.1f} A (rms)"
    if not finished["against_volume"]:
        return words
    for name, found in finished["against_volume"].items():
        resolution = found["resolution_angstrom"]
        agree = "do not agree" if resolution is None else f"agree to {resolution:.1f} A (FSC 0.5)"
        words += f"\n{name} and {finished['volume']} {agree}, area under the curve {found['fsc_auc']:.3f}"
        words += f", RMSD of the points {found['rmsd_angstrom']:.1f} A" if found["rmsd_angstrom"] else ""
    return words


def medoid(clouds: Float[Tensor, "s n 3"]) -> int:
    """Index of the model with the least sum of earth mover's distances to the others."""
    totals = torch.zeros(len(clouds))
    for first in range(len(clouds) - 1):
        others = clouds[first + 1 :]
        distances = earth_movers_distance(clouds[first].expand_as(others), others)
        totals[first] += distances.sum()
        totals[first + 1 :] += distances
    return int(totals.argmin())


def spread_of_points(clouds: Float[Tensor, "s n 3"], centre: int) -> Float[Tensor, " n"]:
    """Root mean square distance of each point of a model from its partners in the other models; 0 if it is alone."""
    others = torch.cat([clouds[:centre], clouds[centre + 1 :]])
    model = clouds[centre]
    if not len(others):
        return model.new_zeros(len(model))
    partners = assign_points(model.expand_as(others).contiguous(), others)
    paired = others.gather(1, partners[..., None].expand(-1, -1, 3))
    return (paired - model).square().sum(-1).mean(0).sqrt()


def density_resolution(points: Float[Tensor, "n 3"]) -> float:
    """Finest detail that a density of the points can show, from their distances to their nearest neighbours."""
    spacing = cKDTree(points.numpy()).query(points.numpy(), k=2)[0][:, 1].mean()
    return _RESOLUTION_PER_SPACING * float(spacing)


def mean_density(
    clouds: Float[Tensor, "s n 3"], grid: Grid, resolution: float, mass: float
) -> tuple[Float[Tensor, "side side side"], Float[Tensor, "side side side"]]:
    """Mean of the densities of models, and their standard deviation, in which each has the same mass."""
    pixel = grid.pixel_size_angstrom
    total = clouds.new_zeros(grid.side, grid.side, grid.side)
    squares = total.clone()
    for cloud in clouds:
        drawn = mass * draw_points(cloud / pixel, grid.side, MOLMAP_WIDTH * resolution / pixel)
        total += drawn
        squares += drawn.square()
    mean = total / len(clouds)
    return mean, (squares / len(clouds) - mean.square()).clamp(min=0).sqrt()


def _mass(volume: LoadedVolume | None) -> float:
    return 1.0 if volume is None else float(volume.volume.voxels.clamp(min=0).sum())


def _grid(observed: Observed, resolution: float) -> Grid:
    """Take the grid of the volume, or one in which everything fits."""
    if observed.volume is not None:
        return Grid(observed.volume.volume.side, observed.volume.volume.pixel_size_angstrom)
    pixel = resolution / _VOXELS_PER_RESOLUTION
    reach = _MARGIN * math.sqrt(3) * observed.unit + float(observed.centre.norm())
    return Grid(2 * math.ceil(reach / pixel), pixel)


def _against_volume(found: Reconstruction, grid: Grid, resolution: float) -> dict[str, Agreement]:
    """Compare models with the volume, and with them what its own points reach; empty if there is no volume."""
    volume, reference = found.observed.volume, found.observed.volume_points
    if volume is None or reference is None:
        return {}
    kinds = {"models": found.clouds, "baseline": found.baseline, "points of the volume": reference[None]}
    frequency = [shell / (grid.side * grid.pixel_size_angstrom) for shell in range(grid.side // 2 + 1)]
    compared: dict[str, Agreement] = {}
    for kind, clouds in kinds.items():
        if clouds is None:
            continue
        curve = fourier_shell_correlation(mean_density(clouds, grid, resolution, 1.0)[0], volume.volume.voxels)
        finest = float(resolution_pixels(curve, 0.5, grid.side)) * grid.pixel_size_angstrom
        deviations = rmsd_to_points(clouds, reference)
        compared[kind] = {
            "fsc_auc": float(area_under_curve(curve)),
            "resolution_angstrom": finest if math.isfinite(finest) else None,
            "rmsd_angstrom": float(deviations.mean()),
            "rmsd_deviation_angstrom": float(deviations.std()) if len(deviations) > 1 else None,
            "frequency_per_angstrom": frequency,
            "fsc": curve.tolist(),
        }
    return compared


def _views(observed: Observed) -> list[dict[str, Any]]:
    directions = torch.stack([view.rotation[2] for view in observed.views])
    between = torch.rad2deg((directions @ directions.T).abs().clamp(max=1).acos())
    between.fill_diagonal_(90.0)
    return [
        {
            "image": view.index,
            "correlation": view.correlation,
            "rotation": view.rotation.tolist(),
            "shift_angstrom": view.shift.tolist(),
            "degrees_to_nearest_view": float(nearest),
        }
        for view, nearest in zip(observed.views, between.amin(1), strict=True)
    ]


def _energies(names: Sequence[str], energies: Float[Tensor, "s k"]) -> dict[str, float]:
    """Mean over the models, in the cube of the prior."""
    return {name: float(mean) for name, mean in zip(names, energies.mean(0), strict=True)}


def _draw(
    folder: Path,
    found: Reconstruction,
    centre: int,
    maps: Mapping[str, Float[Tensor, "side side side"]],
    against: Mapping[str, Agreement],
) -> None:
    observed, model = found.observed, found.clouds[centre]
    drawn = []
    for view in observed.views:
        seen = (model - observed.centre) @ view.rotation[:2].T
        middle, pixel = view.centre + view.shift, view.pixel_size_angstrom
        title = f"{view.index}" if view.correlation is None else f"{view.index}, correlation {view.correlation:.2f}"
        drawn.append(DrawnView(title, view.picture, (view.points + middle) / pixel, (seen + middle) / pixel))
    draw_views(folder / "views.png", drawn)
    columns = {"model": model}
    others = [cloud for number, cloud in enumerate(found.clouds) if number != centre]
    columns |= {f"another, {number}": cloud for number, cloud in enumerate(others[:_OTHERS_SHOWN], 1)}
    if found.baseline is not None:
        columns["without prior"] = found.baseline[0]
    if observed.volume is not None and observed.volume_points is not None:
        columns["volume"] = observed.volume_points
        maps = {"volume": observed.volume.volume.voxels, **maps}
        draw_shell_correlations(folder / "fsc.png", agreement_curves(against), 0.5)
    draw_models(folder / "models.png", {k: (v - observed.centre) / observed.unit for k, v in columns.items()})
    draw_slices(folder / "slices.png", maps)
