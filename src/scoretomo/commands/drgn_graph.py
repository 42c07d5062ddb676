"""Particles and their nearest neighbours in the latent space: UMAP, and paths from particle to particle."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Nearest neighbours of a particle, itself the first: what UMAP recommends.
_NEIGHBOURS = 15
# Particles in the graph, whose time grows faster than their number; the others are placed by it.
_MOST_NODES = 50_000
# Particles whose spanning tree joins groups that no neighbours join.
_MOST_ANCHORS = 1000
# Neighbours that place a particle which is not in the graph.
_PLACED_BY = 5


@dataclass(frozen=True)
class NeighbourGraph:
    """Nearest neighbours among particles.

    Attributes
    ----------
    nodes
        ``(m,)`` particles that are in it.
    indices, distances
        ``(m, k)`` neighbours of each as places in ``nodes``, the nearest first, which is itself.
    """

    nodes: Int[Tensor, " m"]
    indices: Int[Tensor, "m k"]
    distances: Float[Tensor, "m k"]


def neighbour_graph(z: Float[Tensor, "n d"], wanted: Int[Tensor, " w"]) -> NeighbourGraph:
    """Find the nearest neighbours of particles, or of evenly chosen ones where there are very many.

    Parameters
    ----------
    z
        ``(n, d)``.
    wanted
        Particles that must be in the graph.
    """
    nodes = torch.cat([_evenly(len(z), _MOST_NODES), wanted]).unique()
    distances, indices = _nearest(z[nodes], z[nodes], _NEIGHBOURS)
    return NeighbourGraph(nodes, indices, distances)


def umap_coordinates(z: Float[Tensor, "n d"], graph: NeighbourGraph, seed: int) -> Float[Tensor, "n 2"]:
    """UMAP (McInnes, Healy and Melville 2018) of the particles in a graph; others are put between their neighbours."""
    with warnings.catch_warnings():
        # of TensorFlow, which it does not need here, and of what it cannot do with neighbours that are given
        warnings.simplefilter("ignore")
        # here, since it takes seconds to load
        from umap import UMAP

        neighbours = (graph.indices.numpy(), graph.distances.numpy())
        fitted = UMAP(len(graph.indices[0]), random_state=seed, n_jobs=1, precomputed_knn=neighbours)
        placed = torch.from_numpy(np.asarray(fitted.fit_transform(z[graph.nodes].numpy()))).to(z)
    coordinates = torch.empty(len(z), 2)
    coordinates[graph.nodes] = placed
    others = torch.ones(len(z), dtype=torch.bool).index_fill(0, graph.nodes, False)
    if others.any():
        distances, indices = _nearest(z[others], z[graph.nodes], _PLACED_BY)
        weights = 1 / distances.clamp(min=torch.finfo(distances.dtype).tiny ** 0.5)
        coordinates[others] = torch.einsum("nk,nkc->nc", weights / weights.sum(1, keepdim=True), placed[indices])
    return coordinates


def graph_path(z: Float[Tensor, "n d"], graph: NeighbourGraph, stops: Int[Tensor, " s"]) -> Int[Tensor, " j"]:
    """Shortest path over the graph through particles in this order; returns all that it goes through.

    An edge costs its squared length, so that many short steps through populated places are cheaper than a long one, as
    in :func:`scoretomo.ensemble.states.path_between`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree

    places, count = z[graph.nodes].double(), len(graph.nodes)
    at = torch.searchsorted(graph.nodes, stops)
    anchors = torch.cat([_evenly(count, _MOST_ANCHORS), at]).unique()
    # an edge of no length would count as none
    tree = minimum_spanning_tree(_cost(torch.cdist(places[anchors], places[anchors])).fill_diagonal_(0).numpy()).tocoo()
    first = torch.cat([torch.arange(count).repeat_interleave(graph.indices.shape[1]), anchors[torch.tensor(tree.row)]])
    second = torch.cat([graph.indices.flatten(), anchors[torch.tensor(tree.col)]])
    costs = torch.cat([_cost(graph.distances.double().flatten()), torch.tensor(tree.data)])
    edges, kept = torch.stack([first, second]).sort(0).values.unique(dim=1, return_inverse=True)
    cheapest = torch.full((edges.shape[1],), torch.inf, dtype=costs.dtype).scatter_reduce(0, kept, costs, "amin")
    matrix = coo_array((cheapest.numpy(), tuple(edges.numpy())), shape=(count, count)).tocsr()
    chain = [int(at[0])]
    for start, end in zip(at[:-1].tolist(), at[1:].tolist(), strict=True):
        before = dijkstra(matrix, directed=False, indices=start, return_predecessors=True)[1]
        part = [end]
        while part[-1] != start:
            part.append(int(before[part[-1]]))
        chain += part[-2::-1]
    return graph.nodes[torch.tensor(chain)]


def spread_evenly(z: Float[Tensor, "j d"], count: int) -> Int[Tensor, " f"]:
    """Choose members of a path at about even distances along it, both ends among them; all where there are fewer."""
    reached = distances_along(z)
    wanted = torch.linspace(0, 1, count).to(reached) * reached[-1]
    chosen = (reached - wanted[:, None]).abs().argmin(1)
    chosen[-1] = len(z) - 1
    members: Tensor = chosen.unique()
    return members


def distances_along(z: Float[Tensor, "j d"]) -> Float[Tensor, " j"]:
    """Length of a path up to each of its members."""
    return torch.cat([z.new_zeros(1), (z[1:] - z[:-1]).norm(dim=1).cumsum(0)])


def _cost(distances: Tensor) -> Tensor:
    return distances.square().clamp(min=1e-12)


def _evenly(count: int, most: int) -> Int[Tensor, " m"]:
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).long()


def _nearest(
    places: Float[Tensor, "n d"], among: Float[Tensor, "m d"], count: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    # here, since it takes a second to load
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(count, len(among)), n_jobs=torch.get_num_threads()).fit(among.numpy())
    distances, indices = search.kneighbors(places.numpy())
    return torch.from_numpy(distances).to(places), torch.from_numpy(indices).long()
