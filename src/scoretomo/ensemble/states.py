"""States and paths in a landscape: diffusion map, clusters, the order along the main path, paths between states.

Everything works on places ``(n, d)`` of volumes, of which those that are not reliable shape nothing and are only
placed; see :attr:`scoretomo.ensemble.landscape.Landscape.positions`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree
from torch import Tensor

from ..datatypes import InputError
from ..limits import check_limits


@dataclass(frozen=True)
class StatesConfig:
    """What is computed.

    Attributes
    ----------
    neighbours
        Nearest neighbours that a volume is joined to, and whose distance is the width of its diffusion kernel.
    map_dimensions
        Coordinates of the diffusion map.
    most_clusters
        Largest number of clusters that is tried.
    cluster_dimensions
        Leading dimensions of the places that clusters are found in.
    path_steps
        Places along a path at which volumes are averaged.
    curve_width
        Width of the smoothing of the main path, as a part of its length.
    """

    neighbours: int = 4
    map_dimensions: int = 2
    most_clusters: int = 8
    cluster_dimensions: int = 4
    path_steps: int = 11
    curve_width: float = 0.15

    def __post_init__(self) -> None:
        check_limits(
            self,
            neighbours=(1, 10**6),
            map_dimensions=(1, 100),
            most_clusters=(1, 1000),
            cluster_dimensions=(1, 1000),
            path_steps=(2, 10**4),
            curve_width=(1e-3, 10.0),
        )


@dataclass(frozen=True)
class Clusters:
    """Groups of volumes, the most populated first.

    Attributes
    ----------
    labels
        ``(n,)``, cluster of each volume, 0 to ``k - 1``; of unreliable volumes that which would hold them.
    certainty
        ``(n,)``, probability of that cluster under the mixture; low between clusters that cut a continuum.
    populations
        ``(k,)``, reliable volumes in each.
    representatives
        ``(k,)``, the medoids: indices of the reliable volumes with the least summed distance to their cluster.
    criterion
        Bayesian information criterion of 1, 2, ... clusters; the least was taken.
    """

    labels: Int[Tensor, " n"]
    certainty: Float[Tensor, " n"]
    populations: Int[Tensor, " k"]
    representatives: Int[Tensor, " k"]
    criterion: tuple[float, ...]


@dataclass(frozen=True)
class StatePath:
    """A curve through the landscape with the volumes that are averaged along it.

    Attributes
    ----------
    curve
        ``(m, d)``, places at even distances along the path.
    weights
        ``(m, n)``, weight of every volume at each of them; rows sum to 1, unreliable volumes have none.
    members
        Indices of the volumes it goes through, in order.
    """

    curve: Float[Tensor, "m d"]
    weights: Float[Tensor, "m n"]
    members: Int[Tensor, " j"]


@dataclass(frozen=True)
class MainPath:
    """The principal curve of a landscape and where every volume lies along it.

    Attributes
    ----------
    path
        The curve; its members are all reliable volumes in order.
    phase
        ``(n,)``, place along the curve: 0 and 1 are the first and last reliable volume.
    distance
        ``(n,)``, from the curve.
    share
        Part of the reliable volumes' variance that the curve explains: near 1 for a motion with one parameter.
    """

    path: StatePath
    phase: Float[Tensor, " n"]
    distance: Float[Tensor, " n"]
    share: float


def diffusion_map(
    places: Float[Tensor, "n d"], reliable: Bool[Tensor, " n"], config: StatesConfig = StatesConfig()
) -> Float[Tensor, "n m"]:
    """Diffusion coordinates (Coifman and Lafon 2006) of all volumes; for a motion with one parameter the first orders.

    The kernel's width is set at each volume by its neighbours (Zelnik-Manor and Perona 2004), so that no volume is cut
    off; the coordinates then count volumes rather than distances. Unreliable volumes follow by the Nystroem extension.

    Returns
    -------
    Tensor
        ``(n, m)``, eigenvectors of the random walk with unit variance over the reliable volumes, slowest first; the
        volume farthest out is on the positive side.
    """
    anchors = places[reliable].double()
    widths = _neighbour_distance(anchors, anchors, config.neighbours + 1)  # the nearest is the volume itself
    kernel = _kernel(anchors, widths, anchors, widths)
    degree = kernel.sum(1)
    values, vectors = torch.linalg.eigh(kernel / (degree[:, None] * degree).sqrt())
    count = min(config.map_dimensions, len(anchors) - 1)
    values, vectors = values.flip(0)[1 : count + 1], vectors.flip(1)[:, 1 : count + 1]
    walk = vectors / degree.sqrt()[:, None]
    walk = walk / walk.square().mean(0).sqrt() * walk.gather(0, walk.abs().argmax(0, keepdim=True)).sign()
    others = places.double()
    reach = _kernel(others, _neighbour_distance(others, anchors, config.neighbours + 1), anchors, widths)
    extended = reach @ walk / reach.sum(1, keepdim=True) / values
    extended[reliable] = walk
    coordinates: Tensor = extended.to(places.dtype)
    return coordinates


def find_clusters(
    places: Float[Tensor, "n d"], reliable: Bool[Tensor, " n"], config: StatesConfig = StatesConfig(), *, seed: int = 0
) -> Clusters:
    """Gaussian mixture of the reliable places, with the number of clusters that has the least BIC (Schwarz 1978)."""
    # here, since it loads pandas, which no other algorithm needs
    from sklearn.mixture import GaussianMixture

    points = places[:, : config.cluster_dimensions].double().cpu().numpy()
    fitted = points[reliable.cpu().numpy()]
    floor = 1e-3 * float(fitted.var(0).sum())  # a cluster of two volumes would have no width
    most = min(config.most_clusters, max(1, len(fitted) // (2 * points.shape[1] + 2)))
    mixtures = [
        GaussianMixture(count, n_init=5, reg_covar=floor, max_iter=500, random_state=seed).fit(fitted)
        for count in range(1, most + 1)
    ]
    criterion = [float(mixture.bic(fitted)) for mixture in mixtures]
    probabilities = torch.from_numpy(mixtures[criterion.index(min(criterion))].predict_proba(points)).to(places)
    certainty, labels = probabilities.max(1)
    counts = labels[reliable].bincount(minlength=probabilities.shape[1])
    order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    rank = torch.full_like(counts, len(order) - 1)
    rank[order] = torch.arange(len(order), device=rank.device)
    labels = rank[labels]
    medoids = [_medoid(places, reliable & (labels == label)) for label in range(len(order))]
    return Clusters(labels, certainty, counts[order], torch.tensor(medoids, device=labels.device), tuple(criterion))


def find_main_path(
    places: Float[Tensor, "n d"],
    reliable: Bool[Tensor, " n"],
    config: StatesConfig = StatesConfig(),
) -> MainPath:
    """Order volumes along the principal curve of the reliable ones (Hastie and Stuetzle 1989).

    The curve starts from the order along the first diffusion coordinate, so that an arc that bends back in the plane of
    the first components is followed. Which end is 0 the data cannot say: it is the coordinate's negative side.
    """
    points = places[reliable].double()
    start = diffusion_map(places, reliable, config)[reliable, 0].double()
    phase = start.argsort().argsort().to(points) / (len(points) - 1)
    nodes = torch.linspace(0, 1, 51).to(points)
    curve = points[:1]
    for _ in range(10):
        curve = _smooth(points, phase, nodes, config.curve_width)
        along, _ = _project(points, curve)
        phase = (along - along.min()) / (along.max() - along.min()).clamp(min=torch.finfo(along.dtype).tiny)
    first, last = along.min(), along.max()
    everywhere, distance = _project(places.double(), curve)
    everywhere = (everywhere - first) / (last - first).clamp(min=torch.finfo(along.dtype).tiny)
    members = reliable.nonzero().flatten()[phase.argsort()]
    variance = (points - points.mean(0)).square().sum(1).mean()
    share = 1 - distance[reliable].square().mean() / variance.clamp(min=torch.finfo(variance.dtype).tiny)
    sampled, _ = _sample_evenly(curve, config.path_steps)
    # by the phase, not the distance, since the ends of a path may come near each other
    offsets = (everywhere[reliable] - torch.linspace(0, 1, config.path_steps).to(phase)[:, None]).abs()
    weights = _weights(offsets, reliable, 1 / (config.path_steps - 1))
    path = StatePath(sampled.to(places), weights.to(places), members)
    return MainPath(path, everywhere.to(places), distance.to(places), share.item())


def path_between(
    places: Float[Tensor, "n d"],
    reliable: Bool[Tensor, " n"],
    first: int,
    last: int,
    config: StatesConfig = StatesConfig(),
) -> StatePath:
    """Shortest path between two volumes over the graph of nearest neighbours among the reliable ones.

    An edge costs its squared length: many short steps through volumes that were seen are cheaper than a long one.

    Parameters
    ----------
    places, reliable
        Of all volumes; which of them the path may use.
    first, last
        Indices of its ends, both reliable; for clusters their representatives.

    Raises
    ------
    InputError
        An end that is not reliable or not there, or twice the same.
    """
    for end in (first, last):
        if not 0 <= end < len(places) or not reliable[end]:
            raise InputError(f"a path cannot end at volume {end}, which is not a reliable one; choose another")
    if first == last:
        raise InputError(f"a path needs two volumes, not {first} twice")
    members = reliable.nonzero().flatten()
    distances = torch.cdist(places[reliable].double(), places[reliable].double()).cpu()
    nearest = distances.topk(min(config.neighbours + 1, len(members)), largest=False).indices
    edges = torch.zeros_like(distances).scatter_(1, nearest, 1.0)
    # the tree joins groups that no neighbour joins; scipy takes what is nearly 0 for no edge, whatever the units
    costs = (distances.square() / distances.square().max().clamp(min=torch.finfo(distances.dtype).tiny)).clamp(min=1e-6)
    tree = torch.from_numpy(minimum_spanning_tree(costs.fill_diagonal_(0).numpy()).toarray())
    joined = (edges + edges.T + tree + tree.T) > 0
    ends = [int((members == end).nonzero()) for end in (first, last)]
    before = dijkstra((costs * joined).numpy(), directed=False, indices=ends[0], return_predecessors=True)[1]
    chain = [ends[1]]
    while chain[-1] != ends[0]:
        chain.append(int(before[chain[-1]]))
    visited = members[torch.tensor(chain[::-1], device=members.device)]
    curve, step = _sample_evenly(places[visited], config.path_steps)
    return StatePath(curve, _weights(torch.cdist(curve, places[reliable]), reliable, step), visited)


def volumes_along(
    path: StatePath, volumes: Float[Tensor, "n s s s"], usable: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "m s s s"]:
    """Averages of real volumes along a path, with its weights; ``usable`` leaves some out."""
    weights = path.weights if usable is None else path.weights * usable
    return torch.einsum("mn,nzyx->mzyx", weights / weights.sum(1, keepdim=True), volumes)


def deviation_along(
    path: StatePath,
    volumes: Float[Tensor, "n s s s"],
    seeds: Float[Tensor, "k n s s s"],
    seeds_reliable: Bool[Tensor, "k n"],
) -> Float[Tensor, "m s s s"]:
    """Compare averages of independent seeds along a path: the standard deviation of each voxel of one of them."""
    averages = [volumes_along(path, volumes)]
    averages += [volumes_along(path, own, usable) for own, usable in zip(seeds, seeds_reliable, strict=True)]
    return torch.stack(averages).std(0)


def spread_along(path: StatePath, spread: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
    """Average the uncertainty of places (``Landscape.spread``) along a path, with its weights; NaN: none is known."""
    known = ~spread.isnan()
    weights = path.weights[:, known]
    return (weights @ spread[known].square() / weights.sum(1)).sqrt()


def _neighbour_distance(points: Tensor, anchors: Tensor, rank: int) -> Float[Tensor, " n"]:
    nearest = torch.cdist(points, anchors).topk(min(rank, len(anchors)), largest=False).values
    return nearest[:, -1].clamp(min=torch.finfo(points.dtype).eps)


def _kernel(points: Tensor, widths: Tensor, anchors: Tensor, anchor_widths: Tensor) -> Float[Tensor, "n a"]:
    return torch.exp(-torch.cdist(points, anchors).square() / (widths[:, None] * anchor_widths))


def _medoid(places: Float[Tensor, "n d"], members: Bool[Tensor, " n"]) -> int:
    indices = members.nonzero().flatten()
    return int(indices[torch.cdist(places[members], places[members]).sum(1).argmin()])


def _smooth(
    points: Float[Tensor, "n d"], phase: Float[Tensor, " n"], nodes: Float[Tensor, " m"], width: float
) -> Float[Tensor, "m d"]:
    """Local linear regression of the points on their phase; linear, since a local mean would shorten the ends.

    The slope is damped where the points about a node say little about it, so that no end runs out of the data.
    """
    offset = phase - nodes[:, None]  # (m, n)
    weights = torch.exp(-0.5 * (offset / width) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    centre = (weights * offset).sum(1, keepdim=True)
    values = weights @ points
    lever = (weights * (offset - centre) ** 2).sum(1, keepdim=True)
    slopes = (weights * (offset - centre)) @ points / (lever + (width / 3) ** 2)
    return values - centre * slopes


def _project(
    points: Float[Tensor, "n d"], curve: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Arc length of the nearest point of a polyline, and the distance from it; its ends are prolonged."""
    steps = curve[1:] - curve[:-1]
    lengths = steps.norm(dim=1).clamp(min=torch.finfo(curve.dtype).tiny)
    along = ((points[:, None] - curve[:-1]) * steps / lengths[:, None]).sum(-1)  # (n, segment)
    low, high = torch.zeros_like(lengths), lengths.clone()
    low[0], high[-1] = -torch.inf, torch.inf
    along = torch.minimum(torch.maximum(along, low), high)
    nearest = curve[:-1] + along[..., None] * (steps / lengths[:, None])
    distance, segment = (points[:, None] - nearest).norm(dim=-1).min(1)
    start = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])[segment]
    return start + along.gather(1, segment[:, None])[:, 0], distance


def _sample_evenly(polyline: Float[Tensor, "v d"], count: int) -> tuple[Float[Tensor, "m d"], float]:
    """Points at even distances along a polyline, and the distance."""
    lengths = (polyline[1:] - polyline[:-1]).norm(dim=1)
    reached = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = torch.linspace(0, 1, count).to(polyline) * reached[-1]
    segment = (torch.searchsorted(reached, wanted, right=True) - 1).clamp(0, len(lengths) - 1)
    part = (wanted - reached[segment]) / lengths[segment].clamp(min=torch.finfo(lengths.dtype).tiny)
    return torch.lerp(polyline[segment], polyline[segment + 1], part[:, None]), float(reached[-1]) / (count - 1)


def _weights(distances: Float[Tensor, "m r"], reliable: Bool[Tensor, " n"], step: float) -> Float[Tensor, "m n"]:
    """Weigh the reliable volumes by their distance from each place on a path: half a step wide."""
    two = distances.topk(2, largest=False).values
    # where volumes are sparse the kernel reaches the second nearest, so that no average is of one volume alone
    width = two[:, 1:].clamp(min=step / 2).clamp(min=torch.finfo(distances.dtype).tiny)
    weights = distances.new_zeros(len(distances), len(reliable))
    # ratios first: the square of a tiny width would underflow
    exponents = -0.5 * (distances / width).square()
    weights[:, reliable] = exponents.softmax(1)
    return weights
