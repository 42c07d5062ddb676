"""What the page shows of the volumes: cards, 3D views, the map of states, the motion, the consensus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.preprocess import working_volume
from ..io.found import Reliability
from ..io.mrc import read_volume
from ..io.records import understood
from .density import PageGrid, choose_grid, encode_volume
from .headline import clusters, population
from .motion import motion_section, read_voxels
from .page import Blocks, Report
from .summary import RunSummary, VolumeSummary

# Volumes that decide how large the box of all of them is.
_MEASURED = 12
_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class ProjectedVolumes:
    """Class averages beside the projections of their volumes.

    Attributes
    ----------
    pictures
        ``(n, 2, side, side)``, in the order of the summary's volumes.
    correlations
        Of each pair, over the images' pixels.
    """

    pictures: Float[Tensor, "n 2 side side"]
    correlations: list[float]


def project_volumes(run: RunSummary, images: Float[Tensor, "k side side"], track: Report) -> ProjectedVolumes:
    """Project every volume along z in the frame of its class average."""
    pairs, correlations = [], []
    for done, volume in enumerate(run.volumes):
        voxels = read_volume(volume.path).volume.voxels
        with understood(volume.path, "delete it, and `scoretomo reconstruct` makes it anew"):
            voxels = working_volume(voxels, run.preprocessing)
        image, projected = images[volume.index], voxels.sum(0)
        pairs.append(torch.stack([image, projected]))
        correlations.append(
            torch.corrcoef(torch.stack([image.flatten(), projected.flatten()]))[0, 1].nan_to_num().item()
        )
        track(done / len(run.volumes), "projections")
    side = images.shape[-1]
    return ProjectedVolumes(torch.stack(pairs) if pairs else images.new_zeros(0, 2, side, side), correlations)


def volume_sections(blocks: Blocks, run: RunSummary, projected: ProjectedVolumes, track: Report) -> dict[str, Any]:
    """Fill the cards, the 3D views, the map and the motion; all volumes on one grid."""
    if not run.volumes:
        return {
            "volumes": [],
            "states": [],
            "choices": [],
            "side_by_side": [],
            "axes": [],
            "axis_pairs": [],
            "motion": None,
            "view_directions": [],
        }
    grid = _grid(run)
    numbers = sorted(
        {volume.cluster for volume in run.volumes if volume.cluster is not None} | {c["number"] for c in clusters(run)}
    )
    states = {number: place for place, number in enumerate(numbers)}
    views = _view_excess(run)
    blocks.add_pictures("volumes", projected.pictures)
    volumes = []
    for place, volume in enumerate(run.volumes):
        voxels = read_volume(volume.aligned or volume.path).volume.voxels
        blocks.add_density(f"volume-{volume.index}", encode_volume(voxels, grid), grid)
        volumes.append(_volume(run, volume, place, projected.correlations[place], states, views))
        track(place / len(run.volumes), "volumes of the page")
    described = [_state(run, number) for number in numbers]
    choices = _choices(blocks, run, grid, described, states)
    axes, pairs = _axes(run)
    return {
        "volumes": volumes,
        "states": described,
        "choices": choices,
        "side_by_side": _side_by_side(run, choices),
        "axes": axes,
        "axis_pairs": pairs,
        "motion": motion_section(blocks, run, grid),
        "view_directions": (run.reliability or Reliability()).get("view_directions", []),
    }


def left_out_section(blocks: Blocks, run: RunSummary, images: Float[Tensor, "k side side"]) -> list[dict[str, Any]]:
    """Show the class averages that were not used, each in its own range of grey."""
    if run.left_out:
        blocks.add_pictures("left-out", images[[image.index for image in run.left_out]][:, None])
    return [{"index": image.index, "reasons": list(image.reasons)} for image in run.left_out]


def consensus_density(blocks: Blocks, run: RunSummary) -> str | None:
    """Take in the consensus map on a grid of its own; returns its name."""
    path = run.folder / "consensus" / "consensus.mrc"
    if not path.exists():
        return None
    volume = read_volume(path).volume
    grid = choose_grid([volume.voxels], 1, volume.pixel_size_angstrom)
    return blocks.add_density("consensus", encode_volume(volume.voxels, grid), grid)


def _grid(run: RunSummary) -> PageGrid:
    """Choose the grid by some trusted volumes, spread over the set; all are of one size."""
    trusted = [volume for volume in run.volumes if volume.trusted] or list(run.volumes)
    chosen = trusted[:: max(1, len(trusted) // _MEASURED)][:_MEASURED]
    loaded = [read_volume(volume.aligned or volume.path).volume for volume in chosen]
    series = [*run.series("clusters/cluster_*.mrc"), *run.series("path/path_*.mrc"), *run.series("component_*.mrc")]
    count = len(run.volumes) + len(series) + 2
    return choose_grid([volume.voxels for volume in loaded], count, loaded[0].pixel_size_angstrom)


def _volume(
    run: RunSummary,
    volume: VolumeSummary,
    place: int,
    correlation: float,
    states: dict[int, int],
    views: dict[tuple[int, int], list[float | None]],
) -> dict[str, Any]:
    files = [volume.path] if volume.aligned is None else [volume.path, volume.aligned]
    # from the common frame back to the class average's: the transpose; a mirror leaves the projection as it is
    view = (
        None
        if volume.rotation is None
        else [volume.rotation[3 * column + row] for row in range(3) for column in range(3)]
    )
    return {
        "index": volume.index,
        "picture": place,
        "verdict": volume.verdict,
        "probability": volume.probability,
        "reasons": list(volume.reasons),
        "trusted": volume.trusted,
        "parts": dict(volume.parts),
        "state": None if volume.cluster is None or not volume.trusted else states[volume.cluster],
        "coordinates": dict(volume.coordinates),
        "spread": volume.spread,
        "correlation": correlation,
        "image_verdict": volume.image_verdict,
        "image_reasons": list(volume.image_reasons),
        "view": view if volume.aligned is not None else None,
        "density": f"volume-{volume.index}",
        "views": views.get((volume.index, volume.seed)),
        "files": [str(path.relative_to(run.folder)) for path in files],
    }


def _view_excess(run: RunSummary) -> dict[tuple[int, int], list[float | None]]:
    """By index and seed, how unlike class averages a volume's projections are from each direction."""
    judged = (run.reliability or Reliability()).get("volumes", [])
    return {(row["index"], row.get("seed", 0)): seen for row in judged if (seen := row.get("view_excess"))}


def _state(run: RunSummary, number: int) -> dict[str, Any]:
    """Describe a state; where landscape.json does not, its population is counted."""
    described = clusters(run)
    found = next((each for each in described if each["number"] == number), None)
    members = [volume.index for volume in run.volumes if volume.cluster == number and volume.trusted]
    trusted = sum(volume.trusted and volume.cluster is not None for volume in run.volumes)
    share = population(found, described) if found is not None else len(members) / max(1, trusted)
    first = members[0] if members else None
    return {
        "number": number,
        "label": f"state {number}",
        "share": share,
        "representative": first if found is None else found.get("representative", first),
    }


def _choices(
    blocks: Blocks, run: RunSummary, grid: PageGrid, described: list[dict[str, Any]], states: dict[int, int]
) -> list[dict[str, Any]]:
    """List what can be shown side by side: states, what all have in common, volumes."""
    groups = []
    shown = []
    for path in run.series("clusters/cluster_*.mrc"):
        number = int(path.stem.split("_")[-1])
        name = blocks.add_density(f"state-{number}", encode_volume(read_voxels(path), grid), grid)
        label = next((each["label"] for each in described if each["number"] == number), path.stem)
        shown.append({"density": name, "label": label, "state": states.get(number)})
    if shown:
        groups.append({"name": "states", "items": shown})
    together = []
    if (path := run.ensemble / "mean.mrc").exists():
        name = blocks.add_density("mean", encode_volume(read_voxels(path), grid), grid)
        together.append({"density": name, "label": "average of the reliable", "state": None})
    if (name_of_consensus := consensus_density(blocks, run)) is not None:
        together.append({"density": name_of_consensus, "label": "consensus", "state": None})
    if together:
        groups.append({"name": "all together", "items": together})
    volumes = [
        {
            "density": f"volume-{volume.index}",
            "label": f"volume {volume.index}" + ("" if volume.trusted else f" ({volume.verdict})"),
            "state": None if volume.cluster is None or not volume.trusted else states[volume.cluster],
        }
        for volume in run.volumes
    ]
    return [*groups, {"name": "volumes", "items": volumes}]


def _side_by_side(run: RunSummary, choices: list[dict[str, Any]]) -> list[str]:
    """Choose what is shown at first: states, then volumes that are trusted."""
    states = [item["density"] for group in choices if group["name"] == "states" for item in group["items"]]
    trusted = [f"volume-{volume.index}" for volume in run.volumes if volume.trusted] or [
        f"volume-{volume.index}" for volume in run.volumes
    ]
    room = _SIDE_BY_SIDE - min(len(states), _SIDE_BY_SIDE)
    step = max(1, len(trusted) // max(room, 1))
    return [*states[:_SIDE_BY_SIDE], *trusted[::step][:room]]


def _axes(run: RunSummary) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Name the coordinates that there are, and pairs of them to draw; a single one is drawn against itself."""
    names = list(dict.fromkeys(name for volume in run.volumes for name in volume.coordinates))
    axes = [(name, _axis(name)) for name in names]
    pairs = []
    for kind in ("map", "component", "z"):
        of_kind = [name for name in names if name.startswith(f"{kind}_")]
        pairs += list(
            zip(
                of_kind[:-1:2] if kind == "map" else of_kind[:2],
                of_kind[1::2] if kind == "map" else of_kind[1:3],
                strict=False,
            )
        )
    return axes, pairs


def _axis(name: str) -> str:
    along = {"phase": "place along the main path", "path": "place along the path of the motion model"}
    return along.get(name) or name.replace("z_", "motion model ").replace("_", " ")


def volume_table(run: RunSummary, correlations: Sequence[float]) -> list[dict[str, Any]]:
    """One row for each volume: all that the report says of it, as plain values."""
    return [
        {
            "index": volume.index,
            "seed": volume.seed,
            "verdict": volume.verdict,
            "probability": volume.probability,
            "reasons": "; ".join(volume.reasons),
            "state": volume.cluster,
            "correlation": round(correlation, 4),
            "image_verdict": volume.image_verdict,
            "file": str(volume.path.relative_to(run.folder)),
            "aligned_file": None if volume.aligned is None else str(volume.aligned.relative_to(run.folder)),
        }
        for volume, correlation in zip(run.volumes, correlations, strict=True)
    ]
