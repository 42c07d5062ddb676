"""The report of a run on particles: where they are in the latent space, what is there, and how it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .density import PageGrid, choose_grid, encode_difference, encode_volume
from .page import PARTICLES, Blocks, render

# Particles that the page shows: more take long to draw and look the same.
_MOST_POINTS = 20_000
_SIDE_BY_SIDE = 8
# Volumes that decide how large the box of all of them is.
_MEASURED = 12
_BINS = 40
_COMPONENTS = 3


@dataclass(frozen=True)
class ParticleMap:
    """Where particles are.

    Attributes
    ----------
    columns
        ``(n,)`` each, by name: ``row``, ``pc_1``, ..., ``umap_1``, ..., ``map_1``, ..., ``cluster``.
    names
        Words for the coordinates that are shown.
    shares
        ``(c,)`` parts of the variance along the principal components.
    medoids, colours
        ``(k,)`` most central particle of each cluster, and its colour.
    path
        ``(j,)`` particles along the path.
    distances
        ``(n,)``, how far along the path the nearest particle on it is.
    """

    columns: Mapping[str, Tensor]
    names: Mapping[str, str]
    shares: Float[Tensor, " c"]
    medoids: Int[Tensor, " k"]
    colours: Sequence[str]
    path: Int[Tensor, " j"]
    distances: Float[Tensor, " n"]


@dataclass(frozen=True)
class ParticleAnalysis:
    """What a page is made of.

    Attributes
    ----------
    name, suffix
        Of the run folder, and of the particle file.
    count, latent_dimensions
        Particles, and the length of z.
    pixel_size_angstrom
        Of the volumes.
    volumes
        By series: ``clusters``, ``component_1``, ..., ``path``, ``at``; or ``volume``, of one for all particles.
    map
        None where there is one volume for all particles.
    metrics
        Lines of ``metrics.jsonl``.
    provenance
        Name and value of what it was made of and with; the third says whether it is code.
    settings
        TOML.
    missing
        What is left out, and the command that makes it.
    """

    name: str
    suffix: str
    count: int
    latent_dimensions: int
    pixel_size_angstrom: float
    volumes: Mapping[str, Sequence[Float[Tensor, "side side side"]]]
    map: ParticleMap | None
    metrics: Sequence[Mapping[str, Any]]
    provenance: Sequence[tuple[str, str, bool]]
    settings: str
    missing: Sequence[tuple[str, str]] = ()


def build_particle_page(analysis: ParticleAnalysis) -> str:
    """Make the report: HTML that needs no other file and no network."""
    blocks = Blocks({}, {}, {})
    grid = _grid(analysis)
    densities = {
        series: [
            blocks.add_density(f"{series}-{number}", encode_volume(voxels, grid), grid)
            for number, voxels in enumerate(volumes)
        ]
        for series, volumes in analysis.volumes.items()
        if grid is not None
    }
    choices = _choices(analysis, densities)
    first = choices[0]["items"] if choices else []
    shown = torch.linspace(0, len(first) - 1, min(len(first), _SIDE_BY_SIDE)).round().long().tolist()
    content = {
        "name": f"{analysis.name} · {analysis.count} particles",
        "facts": _facts(analysis),
        "findings": _findings(analysis),
        "common_frame": True,
        "volumes": [],
        "states": [],
        "landscape": None if analysis.map is None else _landscape(analysis, analysis.map, densities),
        "choices": choices,
        "side_by_side": [first[place]["density"] for place in shown],
        "motion": None if analysis.map is None else _motion(blocks, analysis, analysis.map, densities, grid),
        "training": _training(analysis),
        "provenance": list(analysis.provenance),
        "settings": analysis.settings,
        "missing": list(analysis.missing),
    }
    return render(f"{analysis.name}: scoretomo report", _headline(analysis), content, blocks, PARTICLES)


def _grid(analysis: ParticleAnalysis) -> PageGrid | None:
    volumes = [voxels for series in analysis.volumes.values() for voxels in series]
    if not volumes:
        return None
    measured = volumes[:: max(1, len(volumes) // _MEASURED)]
    return choose_grid(measured, len(volumes) + 1, analysis.pixel_size_angstrom)


def _choices(analysis: ParticleAnalysis, densities: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """List what can be shown side by side: clusters first."""
    groups = []
    for series, names in densities.items():
        colours = analysis.map.colours if analysis.map is not None and series == "clusters" else [None] * len(names)
        word = "cluster" if series == "clusters" else series.replace("_", " ")
        items = [
            {"density": name, "label": f"{word} {number}" if len(names) > 1 else word, "state": None, "colour": colour}
            for number, (name, colour) in enumerate(zip(names, colours, strict=True))
        ]
        groups.append({"name": series.replace("_", " "), "items": items})
    return groups


def _landscape(
    analysis: ParticleAnalysis, found: ParticleMap, densities: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Coordinates of some particles, of the central ones and of those along the path."""
    labels, rows = found.columns["cluster"], found.columns["row"]
    some = torch.linspace(0, analysis.count - 1, min(analysis.count, _MOST_POINTS), dtype=torch.float64).long()
    columns = {name: found.columns[name] for name in found.names}
    names = dict(found.names)
    pairs = _pairs(columns)
    if not pairs:  # a single coordinate: particles are spread across it, so that they do not hide each other
        columns["jitter"] = (torch.arange(analysis.count) * 0.618034) % 1
        names["jitter"] = ""
        pairs = [(name, "jitter", words) for name, words in found.names.items()]
    counts = labels.bincount(minlength=len(found.medoids)).tolist()
    volumes = densities.get("clusters", [None] * len(counts))
    clusters = [
        {
            "number": k,
            "count": counts[k],
            "share": counts[k] / analysis.count,
            "row": rows[found.medoids[k]].item(),
            "colour": found.colours[k],
            "density": volumes[k],
            "command": f"scoretomo drgn select {analysis.name} --clusters {k} -o cluster_{k}{analysis.suffix}",
        }
        for k in range(len(counts))
    ]
    way = found.path[:0] if "jitter" in columns else found.path  # across a single coordinate there is none to draw
    note = "" if len(some) == analysis.count else f"{len(some)} of {analysis.count} particles are drawn."
    return {
        "columns": {name: _short(values[some]) for name, values in columns.items()},
        "central": {name: _short(values[found.medoids]) for name, values in columns.items()},
        "path": {name: _short(values[way]) for name, values in columns.items()},
        "rows": rows[some].tolist(),
        "labels": labels[some].tolist(),
        "names": names,
        "pairs": pairs,
        "colourings": list(found.names.items()),
        "clusters": clusters,
        "note": note,
        "click": f"Click a point to see {'the volume of ' if 'clusters' in densities else ''}its cluster.",
    }


def _pairs(columns: Mapping[str, Tensor]) -> list[tuple[str, str, str]]:
    """Pairs of coordinates to draw, with words."""
    wanted = [("umap_1", "umap_2", "UMAP"), ("map_1", "map_2", "diffusion map")]
    wanted += [(f"pc_{i}", f"pc_{j}", f"components {i} and {j}") for i, j in ((1, 2), (1, 3), (2, 3))]
    return [pair for pair in wanted if pair[0] in columns and pair[1] in columns]


def _short(values: Tensor) -> list[float]:
    """Four digits, which are more than can be seen."""
    return [float(f"{value:.4g}") for value in values.tolist()]


def _motion(
    blocks: Blocks,
    analysis: ParticleAnalysis,
    found: ParticleMap,
    densities: Mapping[str, Sequence[str]],
    grid: PageGrid | None,
) -> dict[str, Any] | None:
    """Series of volumes that can be played, with the particles along them."""
    ways = []
    if len(densities.get("path", ())) > 1 and found.distances.max() > 0:
        note = (
            f"The path goes through {len(found.path)} particles, each among the nearest of the last one; volumes are "
        )
        note += "those of some of them, at about even distances. The bars say how far along particles are."
        ways.append(
            _way("path", "path", densities["path"], found.distances, "place along the path", note, len(found.path))
        )
    for number in range(1, _COMPONENTS + 1):
        names = densities.get(f"component_{number}", ())
        places = found.columns.get(f"pc_{number}")
        if len(names) > 1 and places is not None and places.max() > places.min():
            note = "A straight line through z, from the quantile of 5 % of the particles to that of 95 %."
            label = f"component {number} ({found.shares[number - 1]:.0%})"
            low, high = places.quantile(torch.tensor([0.05, 0.95]))
            ways.append(_way(f"component_{number}", label, names, places.clamp(low, high), f"component {number}", note))
    if not ways or grid is None:
        return None
    clusters = torch.stack(list(analysis.volumes["clusters"]))
    parts = found.columns["cluster"].bincount(minlength=len(clusters)) / analysis.count
    mean = torch.einsum("k,kzyx->zyx", parts, clusters)
    deviation = torch.einsum("k,kzyx->zyx", parts, (clusters - mean).square()).sqrt()
    variance = blocks.add_density("variance", encode_difference(deviation, grid), grid)
    return {"mean": None, "variance": variance, "ways": ways, "explained": found.shares.tolist()}


def _way(
    name: str, label: str, frames: Sequence[str], places: Tensor, axis: str, note: str, bins: int = _BINS
) -> dict[str, Any]:
    low, high = places.min().item(), places.max().item()
    return {
        "name": name,
        "label": label,
        "frames": list(frames),
        "range": [low, high],
        "histogram": places.histc(min(bins, _BINS), low, high).tolist(),
        "axis": axis,
        "note": note,
    }


def _training(analysis: ParticleAnalysis) -> dict[str, Any] | None:
    """Loss and changes of the poses against the images seen; None before the second line."""
    lines = [line for line in analysis.metrics if line.get("loss") is not None]
    if len(lines) < 2:
        return None
    searched = [line for line in lines if line.get("median_turned_degrees") is not None]
    poses = None
    if len(searched) > 1:
        names = ("median_turned_degrees", "mean_turned_degrees", "median_moved_pixels", "mean_score")
        median, mean, moved, score = ([line[name] for line in searched] for name in names)
        images = [line["step"] for line in searched]
        poses = {"x": images, "median": median, "mean": mean, "moved": moved, "score": score}
    words = "Poses were given and stay as they are."
    if poses is not None:
        words = "Between epochs the poses are searched anew; the training has settled when they no longer change."
    loss = {"x": [line["step"] for line in lines], "y": [line["loss"] for line in lines]}
    return {"words": words, "loss": loss, "poses": poses}


def _headline(analysis: ParticleAnalysis) -> str:
    if analysis.map is None:
        return f"{analysis.count} particles, one volume."
    shares = analysis.map.shares
    along = f"{shares[0]:.0%} of what differs between them lies along the first of {len(shares)} components"
    return f"{analysis.count} particles; {along}." if len(shares) > 1 else f"{analysis.count} particles along one line."


def _facts(analysis: ParticleAnalysis) -> list[dict[str, str]]:
    """Figures to put side by side: value, label, note."""
    facts = [{"value": str(analysis.count), "label": "particles", "note": ""}]
    if analysis.map is not None:
        counts = analysis.map.columns["cluster"].bincount()
        facts.append({"value": str(analysis.latent_dimensions), "label": "latent dimensions", "note": ""})
        note = f"of {counts.min()} to {counts.max()} particles"
        facts.append({"value": str(len(counts)), "label": "clusters", "note": note})
    if analysis.volumes:
        pixel = analysis.pixel_size_angstrom
        note = f"{2 * pixel:.3g} Å is the finest detail possible"
        facts.append({"value": f"{pixel:.3g} Å", "label": "pixel size of the training", "note": note})
    lines = [line for line in analysis.metrics if line.get("median_turned_degrees") is not None]
    if lines:
        facts.append(
            {"value": f"{lines[-1]['median_turned_degrees']:.2g}°", "label": "last change of poses", "note": ""}
        )
    return facts


def _findings(analysis: ParticleAnalysis) -> list[str]:
    said = []
    if analysis.map is not None:
        said.append(
            "Clusters are parts of the latent space (k-means). Where particles lie between them too, they cut "
            "a continuous motion into pieces; then the path and the components show more."
        )
        if "umap_1" in analysis.map.columns:
            said.append(
                "Neighbours in UMAP are neighbours in the latent space; distances between its groups mean little."
            )
    lines = [line for line in analysis.metrics if line.get("median_turned_degrees") is not None]
    if lines:
        turned, moved = lines[-1]["median_turned_degrees"], lines[-1]["median_moved_pixels"]
        said.append(
            f"In the last search of the poses half of the particles turned by less than {turned:.2g} degrees and "
            f"moved by less than {moved:.2g} pixels."
        )
    return said
