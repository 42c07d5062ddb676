"""Neighbours, paths and UMAP of particles: arcs are followed, groups are joined, large sets are thinned out."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.commands import drgn_graph
from scoretomo.commands.drgn_graph import (
    distances_along,
    graph_path,
    neighbour_graph,
    spread_evenly,
    umap_coordinates,
)


def _arc(count: int, turn: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Angles in order, and places near a circle of radius 1."""
    angles = turn * torch.rand(count, generator=generator).sort().values
    places = torch.stack([angles.cos(), angles.sin()], 1)
    return angles, places + 0.02 * torch.randn(count, 2, generator=generator)


def test_path_follows_the_arc_that_particles_lie_on(generator: torch.Generator) -> None:
    angles, z = _arc(600, 0.75 * 2 * math.pi, generator)
    stops = torch.tensor([0, 599])
    path = graph_path(z, neighbour_graph(z, stops), stops)
    assert path[0] == 0 and path[-1] == 599 and len(path) > 20
    assert (angles[path].diff() > -0.1).all()
    # straight across it would be the square root of 2
    assert 4.5 < distances_along(z[path])[-1] < 6.5


def test_path_prefers_populated_places_to_the_shortest_way(generator: torch.Generator) -> None:
    """An arc of many particles, and a chord of few, far apart but each among the other's neighbours."""
    _, arc = _arc(400, math.pi, generator)
    chord = torch.stack([torch.linspace(0.9, -0.9, 7), torch.zeros(7)], 1)
    z, stops = torch.cat([arc, chord]), torch.tensor([0, 399])
    assert graph_path(z, neighbour_graph(z, stops), stops).max() < 400


def test_path_crosses_between_groups_where_they_are_nearest(generator: torch.Generator) -> None:
    line = torch.stack([torch.linspace(0, 1, 60), torch.zeros(60)], 1)
    z = torch.cat([line, line + torch.tensor([1.5, 0.0])])
    path = graph_path(z, neighbour_graph(z, torch.tensor([0, 119])), torch.tensor([0, 119]))
    steps = [(a, b) for a, b in zip(path.tolist(), path[1:].tolist(), strict=False) if (a < 60) != (b < 60)]
    assert steps == [(59, 60)]


def test_members_are_chosen_at_even_distances() -> None:
    z = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.9, 2.1, 3.0])[:, None]
    assert spread_evenly(z, 4).tolist() == [0, 3, 4, 6]
    assert spread_evenly(z[:2], 5).tolist() == [0, 1]


def test_particles_beyond_the_most_are_placed_by_their_neighbours(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.cat([0.2 * torch.randn(100, 3, generator=generator) + centre for centre in (0.0, 8.0)])
    monkeypatch.setattr(drgn_graph, "_MOST_NODES", 80)
    graph = neighbour_graph(z, torch.tensor([3, 150]))
    assert len(graph.nodes) <= 82 and {0, 3, 150, 199} <= set(graph.nodes.tolist())
    coordinates = umap_coordinates(z, graph, seed=1)
    first, second = coordinates.split(100)
    assert torch.cdist(first, second).min() > torch.stack([torch.pdist(first).max(), torch.pdist(second).max()]).max()
    assert torch.equal(coordinates, umap_coordinates(z, graph, seed=1))
