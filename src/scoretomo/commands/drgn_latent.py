"""The latent variables of particles: principal components, clusters, and maps of where they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..ensemble.states import StatesConfig, diffusion_map
from ..io.tables import read_table, write_table
from .drgn_folder import TRAIN_AGAIN
from .progress import say

# Particles that the diffusion map is made of; the others follow by its extension.
_ANCHORS = 1000
# Particles that follow at once: some 400 MB of distances from the anchors.
_PARTICLES_AT_ONCE = 20_000
# Fewer particles than this have no neighbourhoods to walk between.
FEWEST_FOR_A_MAP = 30
# Part of them that are neighbours: posteriors overlap, so that the walk must reach beyond the nearest.
_NEIGHBOURS = 0.03
# Traversals go from this quantile of the particles to its mirror image.
_QUANTILE = 0.05
# Squares of larger numbers are not finite.
_LARGEST_Z = 1e15


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

    @property
    def populations(self) -> list[int]:
        """Particles of each cluster."""
        counts: list[int] = self.labels.bincount(minlength=len(self.medoids)).tolist()
        return counts

    def reach(self, component: int) -> tuple[float, float]:
        """How far along a component particles go."""
        first, last = self.components[:, component].quantile(torch.tensor([_QUANTILE, 1 - _QUANTILE])).tolist()
        return first, last

    def along(self, component: int, frames: int) -> Float[Tensor, "frames d"]:
        """Evenly spaced z along a component, as far as particles go."""
        return self.mean + torch.linspace(*self.reach(component), frames)[:, None] * self.axes[component]


def read_latent(path: Path, dimensions: int, clusters: int, seed: int) -> Latent:
    """Read z, and find principal components and clusters.

    Raises
    ------
    InputError
        No table, or one that has not the columns.
    """
    names = [f"z_{number}" for number in range(1, dimensions + 1)]
    table = read_table(path, whole=["row"], numbers=names, advice=TRAIN_AGAIN)
    if len(table) < 2:
        raise InputError(f"{path}: has {len(table)} particles; {TRAIN_AGAIN}")
    rows = torch.tensor([int(line["row"]) for line in table])
    z = torch.tensor([[float(line[name]) for name in names] for line in table])
    if not bool((z.abs() < _LARGEST_Z).all()):
        raise InputError(f"{path}: has numbers beyond {_LARGEST_Z:g}, which no z has; {TRAIN_AGAIN}")
    mean = z.mean(0)
    _, deviations, axes = torch.linalg.svd(z - mean, full_matrices=False)
    # signs are arbitrary: the largest entry of an axis is positive
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    shares = deviations.square() / deviations.square().sum().clamp(min=torch.finfo(z.dtype).tiny)
    labels, medoids = _clusters(z, (z - mean) @ axes[0], min(clusters, len(z)), seed)
    return Latent(rows, z, mean, axes, shares, labels, medoids)


def _clusters(
    z: Float[Tensor, "n d"], order_by: Float[Tensor, " n"], clusters: int, seed: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " k"]]:
    # here, since it takes a second to load
    from sklearn.cluster import KMeans

    fitted = KMeans(clusters, n_init=3, random_state=seed).fit(z.numpy())
    centres = torch.from_numpy(fitted.cluster_centers_).to(z)
    labels = torch.from_numpy(fitted.labels_).long()
    places = torch.stack([order_by[labels == label].mean() for label in range(clusters)])
    order = places.argsort()
    labels = order.argsort()[labels]
    distances = (z - centres[order][labels]).norm(dim=1)
    medoids = [torch.where(labels == label, distances, torch.inf).argmin() for label in range(clusters)]
    return labels, torch.stack(medoids)


def diffusion_coordinates(z: Float[Tensor, "n d"]) -> Float[Tensor, "n m"] | None:
    """Slowest coordinates of a random walk between neighbours, the first of which orders a motion of one parameter."""
    if z.shape[1] < 2:  # it is in order already
        return None
    if len(z) < FEWEST_FOR_A_MAP:
        say(f"no diffusion map and no UMAP: {len(z)} particles are too few")
        return None
    count = min(_ANCHORS, len(z))
    anchors = z[torch.linspace(0, len(z) - 1, count, dtype=torch.float64).long()]
    config = StatesConfig(neighbours=max(5, round(_NEIGHBOURS * count)))
    parts = []
    for part in z.split(_PARTICLES_AT_ONCE):
        reliable = torch.arange(count + len(part)) < count
        parts.append(diffusion_map(torch.cat([anchors, part]), reliable, config)[count:])
    return torch.cat(parts)


def ends_of(z: Float[Tensor, "n d"], coordinate: Float[Tensor, " n"]) -> Int[Tensor, " 2"]:
    """Typical particles of both ends of a coordinate: of the outermost 5 % those nearest to their mean."""
    low, high = coordinate.quantile(torch.tensor([_QUANTILE, 1 - _QUANTILE]))
    tails = [(coordinate <= low).nonzero().flatten(), (coordinate >= high).nonzero().flatten()]
    return torch.stack([tail[(z[tail] - z[tail].mean(0)).norm(dim=1).argmin()] for tail in tails])


def latent_columns(latent: Latent, maps: Mapping[str, Float[Tensor, "n m"]]) -> dict[str, Tensor]:
    """Columns of ``latent.csv`` by name: row, z, components, maps and cluster."""
    columns = {"row": latent.rows}
    for name, values in {"z": latent.z, "pc": latent.components, **maps}.items():
        columns |= {f"{name}_{i + 1}": column for i, column in enumerate(values.T)}
    return {**columns, "cluster": latent.labels}


def write_tables(folder: Path, latent: Latent, columns: Mapping[str, Tensor]) -> None:
    """Write ``latent.csv``, a line for each particle, and ``clusters.csv``."""
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_table(folder / "latent.csv", [dict(zip(columns, line, strict=True)) for line in lines])
    central = latent.rows[latent.medoids].tolist()
    counts = zip(latent.populations, central, strict=True)
    write_table(
        folder / "clusters.csv",
        [{"cluster": k, "particles": count, "central_row": row} for k, (count, row) in enumerate(counts)],
    )
