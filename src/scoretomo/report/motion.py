"""How the molecule moves, for the page: averages along the main path, the average deformed, and the motion model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..io.found import Landscape, MainPath
from ..io.mrc import read_volume
from .density import PageGrid, encode_difference, encode_volume
from .headline import explained_shares
from .page import Blocks
from .summary import RunSummary, in_order

_COMPONENTS = 3
# Along a component the average is deformed as far as the volumes go, but no further than this, in standard deviations.
_FARTHEST = 2.5
# Volumes that are shown along a component of the motion model.
_PLACES = 7


def motion_section(blocks: Blocks, run: RunSummary, grid: PageGrid) -> dict[str, Any] | None:
    """Collect what can be played; None where there is nothing. The average, if any, is in ``blocks`` as ``mean``."""
    has_mean = "mean" in blocks.densities
    ways = [*_path(blocks, run, grid), *(_components(blocks, run, grid) if has_mean else [])]
    ways += [] if run.rigid else _motion_model(blocks, run, grid)
    if not ways:
        return None
    variance = None
    if (path := run.ensemble / "variance.mrc").exists():
        variance = blocks.add_density("variance", encode_difference(read_voxels(path).clamp(min=0).sqrt(), grid), grid)
    return {
        "mean": "mean" if has_mean else None,
        "variance": variance,
        "ways": ways,
        "explained": explained_shares(run.landscape or Landscape()),
    }


def read_voxels(path: Path) -> Float[Tensor, "n n n"]:
    """Read a volume of the run folder."""
    voxels: Tensor = read_volume(path).volume.voxels
    return voxels


def _path(blocks: Blocks, run: RunSummary, grid: PageGrid) -> list[dict[str, Any]]:
    """Take in the main path; points lie along it by their phase."""
    share = (run.landscape or Landscape()).get("main_path", MainPath()).get("share")
    note = "Averages of the volumes near each place of the path: what was seen, nothing extrapolated."
    label = "main path" + ("" if share is None else f" ({share:.0%})")
    return _along(blocks, grid, run.series("path/path_*.mrc"), "phase", label, note)


def _along(
    blocks: Blocks, grid: PageGrid, files: Sequence[Path], name: str, label: str, note: str
) -> list[dict[str, Any]]:
    """Take in the maps along a path; points lie along it by the coordinate of this name, from 0 to 1."""
    frames = [
        blocks.add_density(f"{name}-{place}", encode_volume(read_voxels(path), grid), grid)
        for place, path in enumerate(files)
    ]
    if len(frames) < 2:
        return []
    way = {"name": name, "label": label, "frames": frames, "range": [0.0, 1.0], "axis": "place along the path"}
    return [{**way, "note": note}]


def _components(blocks: Blocks, run: RunSummary, grid: PageGrid) -> list[dict[str, Any]]:
    landscape = run.landscape or Landscape()
    shares, significant = explained_shares(landscape), landscape.get("significant")
    found = []
    for path in run.series("component_*.mrc")[:_COMPONENTS]:
        number = int(path.stem.split("_")[-1])
        name = f"component_{number}"
        share = shares[number - 1] if number <= len(shares) else None
        noise = significant is not None and number <= len(significant) and not significant[number - 1]
        note = "The average plus so many standard deviations of this component, a straight line in density."
        found.append(
            {
                "name": name,
                "label": f"component {number}" + ("" if share is None else f" ({share:.0%})"),
                "density": blocks.add_density(f"component-{number}", encode_difference(read_voxels(path), grid), grid),
                "range": _range(run, name),
                "axis": "standard deviations",
                "note": f"{note} It is no more than noise would give." if noise else note,
            }
        )
    return found


def _motion_model(blocks: Blocks, run: RunSummary, grid: PageGrid) -> list[dict[str, Any]]:
    """Take in the motion model: volumes along its main path, its mean, and what is added to it along each component."""
    folder = run.folder / "motion"
    paths = in_order(folder.glob("component_*.mrc"))[:_COMPONENTS]
    if not paths:
        return []
    note = "Volumes at places of the motion model, each brought nearer to the class averages about it."
    found = _along(blocks, grid, in_order(folder.glob("path/path_*.mrc")), "path", "path of the motion model", note)
    mean = read_voxels(folder / "mean.mrc")
    for number, path in enumerate(paths, 1):
        component, name = read_voxels(path), f"z_{number}"
        low, high = _range(run, name)
        frames = [
            blocks.add_density(f"{name}-{place}", encode_volume(mean + z * component, grid), grid)
            for place, z in enumerate(torch.linspace(low, high, _PLACES).tolist())
        ]
        found.append(
            {
                "name": name,
                "label": f"motion model {number}",
                "frames": frames,
                "range": [low, high],
                "axis": "standard deviations",
                "note": "A straight line through the mean, fitted to all class averages at once, in the frame of the "
                "consensus; points are the coordinates of the class averages.",
            }
        )
    return found


def _range(run: RunSummary, name: str) -> list[float]:
    places = [volume.coordinates[name] for volume in run.volumes if volume.trusted and name in volume.coordinates]
    low, high = max(-_FARTHEST, min(places, default=0.0)), min(_FARTHEST, max(places, default=0.0))
    return [low, high] if low < high else [-2.0, 2.0]
