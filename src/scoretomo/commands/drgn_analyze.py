"""``scoretomo drgn analyze``: what the latent variables of a run say about how the molecule moves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..ensemble.states import StatesConfig, diffusion_map
from ..io.files import replacing_folder
from ..io.mrc import write_volume
from ..io.tables import read_table, write_table
from ..methods.latent_vae import LatentVAE, decode_volumes
from ..run_lock import locked
from .drgn_folder import DrgnRun, open_run, trained_model
from .drgn_images import Preparation
from .drgn_pictures import draw_latent, draw_volumes
from .progress import Report, interruptible, progress, say
from .train import Device, choose_device

# Particles that the diffusion map is made of; the others follow by its extension.
_ANCHORS = 1000
# Fewer particles than this have no neighbourhoods to walk between.
_FEWEST_FOR_A_MAP = 30
# Part of them that are neighbours: posteriors overlap, so that the walk must reach beyond the nearest.
_NEIGHBOURS = 0.03
# Traversals go from this quantile of the particles to its mirror image.
_QUANTILE = 0.05


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
    """Volumes along each of them, from the quantile of 5 % of the particles to that of 95 %."""
    at: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Volumes at these values of z too: a text file with the numbers of one z in each line."""
    seed: int = 0
    """Of the clustering."""

    def __post_init__(self) -> None:
        if self.clusters < 1 or self.components < 0 or self.frames < 2:
            counts = f"{self.clusters}, {self.components} and {self.frames}"
            raise InputError(f"clusters must be 1 or more, components 0 or more and frames 2 or more, not {counts}")


_DEFAULT = AnalysisConfig()


@dataclass(frozen=True)
class Latent:
    """Where particles are in the space of the latent variables.

    Attributes
    ----------
    rows
        ``(n,)`` rows of the particle file.
    z
        ``(n, d)``.
    mean, axes, shares
        ``(d,)``, ``(c, d)`` unit vectors, and ``(c,)`` parts of the variance: principal components.
    labels, medoids
        ``(n,)`` cluster of each particle, in the order of the first component, and ``(k,)`` the most central particle
        of each.
    """

    rows: Int[Tensor, " n"]
    z: Float[Tensor, "n d"]
    mean: Float[Tensor, " d"]
    axes: Float[Tensor, "c d"]
    shares: Float[Tensor, " c"]
    labels: Int[Tensor, " n"]
    medoids: Int[Tensor, " k"]

    @property
    def components(self) -> Float[Tensor, "n c"]:
        """Places along the principal components."""
        return (self.z - self.mean) @ self.axes.T

    def along(self, component: int, frames: int) -> Float[Tensor, "frames d"]:
        """Evenly spaced z along a component, as far as particles go."""
        places = self.components[:, component]
        first, last = places.quantile(torch.tensor([_QUANTILE, 1 - _QUANTILE])).tolist()
        return self.mean + torch.linspace(first, last, frames)[:, None] * self.axes[component]


def analyze(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    config: Annotated[AnalysisConfig, tyro.conf.arg(name="")] = _DEFAULT,
    device: Device = "auto",
) -> None:
    """Make volumes and pictures of what a heterogeneous run has learned.

    Results are in RUN/analysis, which is made anew each time: latent.csv (principal components, cluster and diffusion
    map of every particle), volumes of clusters and along components, and two pictures. `scoretomo drgn select` then
    writes the particles of chosen clusters.

    Parameters
    ----------
    run
        Folder that `scoretomo drgn train` has made.
    config
        What is made.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """
    opened, where = open_run(run), choose_device(device)
    with locked(run):
        if opened.config.model.latent_dimensions == 0:
            raise InputError(f"{run}: has one volume for all particles, {run / 'volume.mrc'}, and nothing to analyze")
        model, record = trained_model(opened, where)
        latent = _latent(opened, config)
        further = None if config.at is None else _read_places(config.at, latent.z.shape[1])
        with replacing_folder(opened.analysis) as folder, interruptible() as check, progress("analyze") as report:
            _write(folder, model, record, latent, config, further, _checked(report, check))
    print(f"analysis: {opened.analysis}")


def _checked(report: Report, check: Any) -> Report:
    def both(part: float, note: str) -> None:
        report(part, note)
        check()

    return both


def _latent(run: DrgnRun, config: AnalysisConfig) -> Latent:
    """Read z, and find principal components and clusters."""
    table = read_table(run.folder / "z.csv", ["row", "z_1"])
    names = [name for name in table[0] if name != "row"]
    rows = torch.tensor([int(line["row"]) for line in table])
    z = torch.tensor([[float(line[name]) for name in names] for line in table])
    if config.clusters > len(z):
        raise InputError(f"--clusters {config.clusters}: there are {len(z)} particles only")
    mean = z.mean(0)
    _, deviations, axes = torch.linalg.svd(z - mean, full_matrices=False)
    # signs are arbitrary: the largest entry of an axis is positive
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    shares = deviations.square() / deviations.square().sum().clamp(min=torch.finfo(z.dtype).tiny)
    labels, medoids = _clusters(z, (z - mean) @ axes[0], config)
    return Latent(rows, z, mean, axes, shares, labels, medoids)


def _clusters(
    z: Float[Tensor, "n d"], order_by: Float[Tensor, " n"], config: AnalysisConfig
) -> tuple[Int[Tensor, " n"], Int[Tensor, " k"]]:
    # here, since it takes a second to load
    from sklearn.cluster import KMeans

    fitted = KMeans(config.clusters, n_init=3, random_state=config.seed).fit(z.numpy())
    centres = torch.from_numpy(fitted.cluster_centers_).to(z)
    labels = torch.from_numpy(fitted.labels_).long()
    places = torch.stack([order_by[labels == label].mean() for label in range(config.clusters)])
    order = places.argsort()
    labels = order.argsort()[labels]
    distances = (z - centres[order][labels]).norm(dim=1)
    medoids = [torch.where(labels == label, distances, torch.inf).argmin() for label in range(config.clusters)]
    return labels, torch.stack(medoids)


def _read_places(path: Path, dimensions: int) -> Float[Tensor, "v d"]:
    try:
        places = np.loadtxt(path, dtype=np.float32, delimiter="," if path.suffix.lower() == ".csv" else None, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as numbers: {error}") from error
    if places.shape[1] != dimensions or not len(places) or not np.isfinite(places).all():
        raise InputError(f"{path}: must have {dimensions} numbers in each line, as z has, not {places.shape[1]}")
    return torch.from_numpy(places)


def _write(
    folder: Path,
    model: LatentVAE,
    record: Preparation,
    latent: Latent,
    config: AnalysisConfig,
    further: Float[Tensor, "v d"] | None,
    report: Report,
) -> None:
    """Write tables, volumes and pictures."""
    series = {"clusters": latent.z[latent.medoids]}
    for component in range(min(config.components, len(latent.axes))):
        series[f"component_{component + 1}"] = latent.along(component, config.frames)
    if further is not None:
        series["at"] = further
    diffusion = _diffusion(latent.z)
    _write_tables(folder, latent, diffusion)
    total, done = sum(map(len, series.values())), 0
    pictured: dict[str, list[Tensor]] = {}
    for name, places in series.items():
        (folder / name).mkdir()
        pictured[name] = []
        for index, place in enumerate(places):
            voxels = decode_volumes(model, place[None].to(model.frequencies.device))[0]
            write_volume(folder / name / f"volume_{index:04d}.mrc", record.restore(voxels))
            pictured[name].append(voxels.cpu())
            done += 1
            report(done / total, f"{done} of {total} volumes")
    draw_latent(folder / "latent.png", latent.components, latent.shares, latent.labels, latent.medoids, diffusion)
    draw_volumes(folder / "volumes.png", pictured)


def _diffusion(z: Float[Tensor, "n d"]) -> Float[Tensor, "n m"] | None:
    """Slowest coordinates of a random walk between neighbours, the first of which orders a motion of one parameter."""
    if z.shape[1] < 2:  # it is in order already
        return None
    if len(z) < _FEWEST_FOR_A_MAP:
        say(f"no diffusion map: {len(z)} particles are too few")
        return None
    count = min(_ANCHORS, len(z))
    anchors = torch.zeros(len(z), dtype=torch.bool)
    anchors[torch.linspace(0, len(z) - 1, count).long()] = True
    return diffusion_map(z, anchors, StatesConfig(neighbours=max(5, round(_NEIGHBOURS * count))))


def _write_tables(folder: Path, latent: Latent, diffusion: Float[Tensor, "n m"] | None) -> None:
    columns: dict[str, list[Any]] = {"row": latent.rows.tolist()}
    columns |= {f"z_{i + 1}": values.tolist() for i, values in enumerate(latent.z.T)}
    columns |= {f"pc_{i + 1}": values.tolist() for i, values in enumerate(latent.components.T)}
    if diffusion is not None:
        columns |= {f"map_{i + 1}": values.tolist() for i, values in enumerate(diffusion.T)}
    columns["cluster"] = latent.labels.tolist()
    lines = zip(*columns.values(), strict=True)
    write_table(folder / "latent.csv", [dict(zip(columns, line, strict=True)) for line in lines])
    counts = latent.labels.bincount().tolist()
    central = latent.rows[latent.medoids].tolist()
    write_table(
        folder / "clusters.csv",
        [{"cluster": k, "particles": counts[k], "central_row": row} for k, row in enumerate(central)],
    )
