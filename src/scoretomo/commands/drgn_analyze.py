"""``scoretomo drgn analyze``: what the latent variables of a run say about how the molecule moves."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..io.chimerax import MapSeries, enclosed_volume_angstrom3, write_chimerax_script
from ..io.files import replacing_folder
from ..io.image_table import read_image_table
from ..io.mrc import write_volume
from ..io.tables import write_table
from ..limits import SEEDS, check_limits
from ..methods.latent_vae import LatentVAE, decode_volumes
from ..report.isosurface import surface_level
from ..run_lock import locked
from .drgn_folder import DrgnRun, open_run, trained_model
from .drgn_graph import distances_along, graph_path, neighbour_graph, spread_evenly, umap_coordinates
from .drgn_images import Preparation
from .drgn_latent import Latent, diffusion_coordinates, ends_of, latent_columns, read_latent, write_tables
from .drgn_pictures import draw_latent, draw_volumes
from .drgn_report import particle_map, write_report
from .progress import Report, interruptible, progress
from .train import Device, choose_device


@dataclass(frozen=True)
class AnalysisConfig:
    """What is made.

    Raises
    ------
    InputError
        Nothing to make.
    """

    clusters: int = 10
    """Clusters of particles (k-means), each with the volume of its most central particle."""
    components: int = 2
    """Principal components that are followed from end to end."""
    frames: int = 10
    """Volumes along each of them, from the quantile of 5 % of the particles to that of 95 %, and along the path."""
    path: Annotated[tuple[int, ...], tyro.conf.arg(metavar="CLUSTER ...")] = ()
    """The path from particle to near particle goes from the most central one of this cluster to those of the others,
    in this order. If none is given, from one end of the diffusion map's first coordinate to the other."""
    path_rows: Annotated[tuple[int, ...], tyro.conf.arg(metavar="ROW ...")] = ()
    """The path goes through these particles, in place of clusters: rows of the particle file, counted from 0."""
    at: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Volumes at these values of z too: a text file with the numbers of one z in each line."""
    umap: bool = True
    """Make a UMAP of the particles."""
    seed: int = 0
    """Of the clustering and of UMAP."""

    def __post_init__(self) -> None:
        if self.clusters < 1 or self.components < 0 or self.frames < 2:
            counts = f"{self.clusters}, {self.components} and {self.frames}"
            raise InputError(f"clusters must be 1 or more, components 0 or more and frames 2 or more, not {counts}")
        if self.path and self.path_rows:
            raise InputError("a path goes through clusters or through particles: give --path or --path-rows")
        for option, stops in (("--path", self.path), ("--path-rows", self.path_rows)):
            if len(stops) == 1 or any(a == b for a, b in pairwise(stops)):
                raise InputError(f"{option} {' '.join(map(str, stops))}: a path goes from one to another; give both")
        check_limits(self, clusters=(1, 10**6), components=(0, 10**4), frames=(2, 10**4), seed=SEEDS)


_DEFAULT = AnalysisConfig()
_MAPS = {"umap": "UMAP", "map": "diffusion map"}


def analyze(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    config: Annotated[AnalysisConfig, tyro.conf.arg(name="")] = _DEFAULT,
    device: Device = "auto",
) -> None:
    """Make volumes, pictures and a report of what a run has learned.

    Results are in RUN/analysis, which is made anew each time: report.html, a page that opens anywhere; latent.csv
    (principal components, cluster, diffusion map and UMAP of every particle); volumes of clusters, along components and
    along a path from particle to particle (path.csv says which), view.cxc, which opens them in ChimeraX, and two
    pictures. `scoretomo drgn select` then writes the particles of clusters or of a region.

    Of a run that `scoretomo drgn convert` has taken over from cryoDRGN there are no volumes. For each series of them a
    text file has the values of z, from which cryoDRGN's eval_vol makes them; the report says how.

    Parameters
    ----------
    run
        Folder that `scoretomo drgn train` or `scoretomo drgn convert` has made.
    config
        What is made.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """
    opened, where = open_run(run), choose_device(device)
    with locked(run):
        if opened.converted and config.at is not None:
            raise InputError(f"--at {config.at}: {run} has no weights; give the file to `cryodrgn eval_vol --zfile`")
        decoder = None if opened.converted else _Decoder(*trained_model(opened, where))
        if decoder is not None and opened.config.model.latent_dimensions == 0:
            if config != _DEFAULT:
                raise InputError(f"{run}: has one volume for all particles, volume.mrc; there is nothing to choose")
            with replacing_folder(opened.analysis) as folder:
                _write_single(folder, opened, decoder)
        else:
            latent = _latent(opened, config)
            further = None if config.at is None else _read_places(config.at, latent.z.shape[1])
            with replacing_folder(opened.analysis) as folder, interruptible() as check, progress("analyze") as report:

                def track(part: float, note: str) -> None:
                    report(part, note)
                    check()

                _write(folder, opened, decoder, latent, config, further, track)
    print(f"analysis: {opened.analysis}\nreport: {opened.analysis / 'report.html'}")


def _latent(run: DrgnRun, config: AnalysisConfig) -> Latent:
    latent = read_latent(run.folder / "z.csv", run.config.model.latent_dimensions, config.clusters, config.seed)
    if config.clusters > len(latent.z):
        raise InputError(f"--clusters {config.clusters}: there are {len(latent.z)} particles only")
    if wrong := [number for number in config.path if not 0 <= number < config.clusters]:
        raise InputError(f"--path: there is no cluster {wrong[0]}, only 0 to {config.clusters - 1}")
    rows = set(latent.rows.tolist())
    if wrong := [row for row in config.path_rows if row not in rows]:
        raise InputError(f"--path-rows: no particle of the run is in row {wrong[0]}")
    return latent


def _read_places(path: Path, dimensions: int) -> Float[Tensor, "v d"]:
    try:
        if not path.read_text(encoding="utf-8").strip():
            raise InputError(f"{path}: holds nothing; give {dimensions} numbers in each line, as z has")
        places = np.loadtxt(path, dtype=np.float32, delimiter="," if path.suffix.lower() == ".csv" else None, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as numbers: {error}") from error
    if places.shape[1] != dimensions or not len(places) or not np.isfinite(places).all():
        raise InputError(f"{path}: must have {dimensions} numbers in each line, as z has, not {places.shape[1]}")
    return torch.from_numpy(places)


@dataclass(frozen=True)
class _Decoder:
    """From z to volumes, of the working images or in units of the input."""

    model: LatentVAE
    record: Preparation

    def voxels(self, z: Float[Tensor, " d"] | None = None) -> Float[Tensor, "n n n"]:
        there = None if z is None else z[None].to(self.model.frequencies.device)
        return decode_volumes(self.model, there)[0]


def _write_single(folder: Path, run: DrgnRun, decoder: _Decoder) -> None:
    """Write the report of one volume for all particles."""
    count = len(read_image_table(run.folder / "poses.star"))
    volumes = {"volume": [decoder.voxels().cpu()]}
    write_report(folder / "report.html", run, count, volumes, None)


def _write(
    folder: Path,
    run: DrgnRun,
    decoder: _Decoder | None,
    latent: Latent,
    config: AnalysisConfig,
    further: Float[Tensor, "v d"] | None,
    track: Report,
) -> None:
    """Write tables, volumes and pictures; without a decoder only the z of the volumes."""
    track(0.0, "maps of the particles")
    maps, path = _maps(latent, config)
    columns = latent_columns(latent, maps)
    write_tables(folder, latent, columns)
    chosen = path[spread_evenly(latent.z[path], config.frames)]
    series = _series(latent, chosen, config, further)
    pictured: dict[str, list[Tensor]] = {}
    if decoder is None:
        _write_path(folder / "path.csv", latent, path, chosen[:0])
        for name, places in series.items():
            np.savetxt(_places_file(folder, name), places.numpy(), fmt="%.6g")
    else:
        _write_path(folder / "path.csv", latent, path, chosen)
        pictured = _write_volumes(folder, decoder, series, lambda part, note: track(0.1 + 0.8 * part, note))
        _write_view(folder, decoder.record, latent, pictured)
        draw_volumes(folder / "volumes.png", pictured)
    names = _names(latent)
    _draw_maps(folder / "latent.png", latent, columns, names, path)
    track(0.95, "report")
    found = particle_map(latent, columns, names, path)
    missing = [(f"volumes: {name.replace('_', ' ')}", _eval_vol(run, name)) for name in series if decoder is None]
    write_report(folder / "report.html", run, len(latent.z), pictured, found, missing)
    track(1.0, "done")


def _series(
    latent: Latent, chosen: Int[Tensor, " f"], config: AnalysisConfig, further: Float[Tensor, "v d"] | None
) -> dict[str, Float[Tensor, "v d"]]:
    """Find where volumes are wanted, by series: ``chosen`` are particles along the path, ``further`` other places."""
    series = {"clusters": latent.z[latent.medoids]}
    for component in range(min(config.components, len(latent.axes))):
        series[f"component_{component + 1}"] = latent.along(component, config.frames)
    series["path"] = latent.z[chosen]
    return series if further is None else {**series, "at": further}


def _draw_maps(
    path: Path, latent: Latent, columns: Mapping[str, Tensor], names: Mapping[str, str], walk: Int[Tensor, " j"]
) -> None:
    """Draw the particles along components, and on the maps that there are."""
    kinds = [kind for kind in ("pc", "umap", "map") if f"{kind}_1" in columns]
    pairs = [[name for name in (f"{kind}_1", f"{kind}_2") if name in columns] for kind in kinds]
    panels = [([names[name] for name in pair], torch.stack([columns[name] for name in pair], 1)) for pair in pairs]
    draw_latent(path, panels, latent.labels, latent.medoids, walk)


def _places_file(folder: Path, name: str) -> Path:
    return folder / f"z_{name}.txt"


def _eval_vol(run: DrgnRun, name: str) -> str:
    """Say how cryoDRGN makes a series of volumes."""
    assert run.converted is not None
    theirs = Path(run.converted["folder"])
    weights = theirs / ("weights" + run.converted["z"].removeprefix("z"))
    configs = [path for path in (theirs / "config.yaml", theirs / "config.pkl") if path.exists()]
    places, output = _places_file(run.analysis, name), run.analysis / name
    words = ["cryodrgn", "eval_vol", weights, *(["-c", configs[0]] if configs else []), "--zfile", places, "-o", output]
    return shlex.join(map(str, words))


def _names(latent: Latent) -> dict[str, str]:
    """Words for the coordinates of particles."""
    components = [f"component {i} ({share:.0%} of the variance)" for i, share in enumerate(latent.shares.tolist(), 1)]
    names = {f"pc_{i}": words for i, words in enumerate(components[:3], 1)}
    return {**names, **{f"{name}_{i}": f"{words} {i}" for name, words in _MAPS.items() for i in (1, 2)}}


def _maps(latent: Latent, config: AnalysisConfig) -> tuple[dict[str, Float[Tensor, "n m"]], Int[Tensor, " j"]]:
    """Find maps of the particles, by name, and the path between them."""
    maps = {}
    diffusion = diffusion_coordinates(latent.z)
    order = latent.components[:, 0] if diffusion is None else diffusion[:, 0]
    if config.path:
        stops = latent.medoids[torch.tensor(config.path)]
    elif config.path_rows:
        at = {row: particle for particle, row in enumerate(latent.rows.tolist())}
        stops = torch.tensor([at[row] for row in config.path_rows])
    else:
        stops = ends_of(latent.z, order)
    graph = neighbour_graph(latent.z, stops)
    if diffusion is not None:
        if config.umap:
            maps["umap"] = umap_coordinates(latent.z, graph, config.seed)
        maps["map"] = diffusion
    return maps, graph_path(latent.z, graph, stops)


def _write_path(path: Path, latent: Latent, members: Int[Tensor, " j"], chosen: Int[Tensor, " f"]) -> None:
    """Write which particle each volume along the path belongs to, and those between: they have no volume."""
    numbers = {particle: number for number, particle in enumerate(chosen.tolist())}
    reached = distances_along(latent.z[members]).tolist()
    rows = []
    for particle, distance in zip(members.tolist(), reached, strict=True):
        number = numbers.pop(particle, None)
        rows.append(
            {
                "volume": None if number is None else f"volume_{number:04d}.mrc",
                "row": latent.rows[particle].item(),
                "cluster": latent.labels[particle].item(),
                "distance": distance,
                **{f"z_{i + 1}": value for i, value in enumerate(latent.z[particle].tolist())},
            }
        )
    write_table(path, rows)


def _write_volumes(
    folder: Path, decoder: _Decoder, series: Mapping[str, Float[Tensor, "v d"]], track: Report
) -> dict[str, list[Tensor]]:
    """Write a folder of volumes for each series; returns them at the sampling of the working images."""
    total = sum(map(len, series.values()))
    written: dict[str, list[Tensor]] = {}
    for name, places in series.items():
        (folder / name).mkdir()
        written[name] = []
        for index, place in enumerate(places):
            voxels = decoder.voxels(place)
            write_volume(_file(folder, name, index), decoder.record.restore(voxels))
            written[name].append(voxels.cpu())
            done = sum(map(len, written.values()))
            track(done / total, f"{done} of {total} volumes")
    return written


def _file(folder: Path, name: str, index: int) -> Path:
    return folder / name / f"volume_{index:04d}.mrc"


def _write_view(folder: Path, record: Preparation, latent: Latent, volumes: Mapping[str, list[Tensor]]) -> None:
    """Write a script for ChimeraX: clusters side by side, motions as series, all surfaces around as much density."""
    parts = torch.tensor(latent.populations) / len(latent.z)
    mean = record.restore(torch.einsum("k,kzyx->zyx", parts, torch.stack(volumes["clusters"])))
    enclosed = enclosed_volume_angstrom3(mean, surface_level(mean.voxels))
    # a path has one particle only where all are in one place
    names = [name for name in volumes if name not in ("clusters", "at") and len(volumes[name]) > 1]
    write_chimerax_script(
        folder / "view.cxc",
        [(f"cluster {k}", _file(folder, "clusters", k)) for k in range(len(parts))],
        [
            MapSeries(name.replace("_", " "), tuple(_file(folder, name, k) for k in range(len(volumes[name]))))
            for name in sorted(names, reverse=True)
        ],
        enclosed_volume_angstrom3=enclosed,
    )
