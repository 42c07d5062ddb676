"""Maps, clusters, orders and paths of places whose truth is known."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.ensemble.landscape import LandscapeConfig, analyse_landscape
from scoretomo.ensemble.states import (
    StatesConfig,
    deviation_along,
    diffusion_map,
    find_clusters,
    find_main_path,
    path_between,
    spread_along,
    volumes_along,
)
from scoretomo.simulation.phantoms import box


def rank_correlation(first: Tensor, second: Tensor) -> float:
    return abs(float(spearmanr(first, second).statistic))


def arc(parameter: Tensor, generator: torch.Generator, noise: float = 0.03) -> Tensor:
    """Places on three quarters of a circle: no straight line orders them."""
    angle = 1.5 * math.pi * parameter
    return torch.stack([angle.cos(), angle.sin()], 1) + noise * torch.randn(len(parameter), 2, generator=generator)


def everyone(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def test_a_lid_that_swings_is_ordered_by_the_main_path(generator: torch.Generator) -> None:
    """The issue's figure for a motion that is an arc: the first component alone folds its ends over."""
    parameter = torch.rand(36, generator=generator)
    angles = torch.stack([parameter * math.radians(150), torch.ones(36)], 1)
    volumes = box(angles, 16, oversampling=1)
    noisy = volumes + 0.5 * volumes.std() * torch.randn(volumes.shape, generator=generator)
    config = LandscapeConfig(components=6, surrogates=8)
    found = analyse_landscape(noisy, everyone(36), config, generator=generator)
    path = find_main_path(found.positions, everyone(36))
    assert rank_correlation(path.phase, parameter) > 0.95
    assert rank_correlation(diffusion_map(found.positions, everyone(36))[:, 0], parameter) > 0.95
    assert path.share > 0.9
    # along the path the real volumes' averages are nearer to the truth there than the mean is
    there = path.path.weights @ parameter
    truth = box(torch.stack([there * math.radians(150), torch.ones(len(there))], 1), 16, oversampling=1)
    along = volumes_along(path.path, volumes)
    error, of_mean = ((each - truth).square().sum((1, 2, 3)) for each in (along, volumes.mean(0)))
    assert (error < 0.35 * of_mean).all()


def test_the_order_does_not_depend_on_how_densely_states_are_populated(generator: torch.Generator) -> None:
    parameter = torch.rand(60, generator=generator) ** 2  # most at one end
    phase = find_main_path(arc(parameter, generator), everyone(60)).phase
    assert rank_correlation(phase, parameter) > 0.98
    straight = torch.corrcoef(torch.stack([phase, parameter]))[0, 1].abs()
    assert straight > 0.98  # the phase is a length along the arc, not a rank


def test_the_diffusion_map_counts_volumes() -> None:
    """On a line the slowest coordinate is a cosine of the rank, wherever most volumes are."""
    parameter = torch.linspace(0, 1, 60) ** 2
    first, second = diffusion_map(parameter[:, None], everyone(60)).T
    rank = torch.linspace(0, 1, 60)
    assert abs(torch.corrcoef(torch.stack([first, (math.pi * rank).cos()]))[0, 1]) > 0.99
    assert abs(torch.corrcoef(torch.stack([second, (2 * math.pi * rank).cos()]))[0, 1]) > 0.95


def test_volumes_that_are_only_placed_fall_on_their_likes(generator: torch.Generator) -> None:
    parameter = torch.rand(40, generator=generator)
    places = arc(parameter, generator)
    twice = torch.cat([places, places])
    found = diffusion_map(twice, torch.arange(80) < 40)
    assert torch.allclose(found[:40], found[40:], atol=0.02)


def test_ends_of_the_main_path_keep_their_order() -> None:
    """What lies beyond the smoothed curve's end is not all at the same phase."""
    parameter = torch.linspace(0, 1, 30)
    beyond = torch.tensor([[1.2, 0.0], [1.3, 0.0]])
    places = torch.cat([torch.stack([parameter, torch.zeros(30)], 1), beyond])
    phase = find_main_path(places, torch.arange(32) < 30).phase
    order = phase if phase[0] < phase[-1] else 1 - phase
    assert (order.diff() > 1e-4).all()
    assert torch.allclose(order[:30], parameter, atol=0.02) and order[30] > 1.1


def test_a_path_prefers_many_short_steps(generator: torch.Generator) -> None:
    """With every volume a neighbour of every other, the straight jump is shorter but no volume was seen on it."""
    path = path_between(arc(torch.linspace(0, 1, 21), generator, 0.0), everyone(21), 0, 20, StatesConfig(neighbours=20))
    assert path.members.tolist() == list(range(21))


def test_unreliable_volumes_are_placed_but_shape_nothing(generator: torch.Generator) -> None:
    parameter = torch.rand(50, generator=generator)
    places = arc(parameter, generator)
    reliable = torch.arange(50) >= 10
    elsewhere = places.clone()
    elsewhere[:5] = 30.0
    first, second = (find_main_path(these, reliable) for these in (places, elsewhere))
    assert torch.equal(first.phase[5:], second.phase[5:])
    assert (second.distance[:5] > 10).all() and first.distance.max() < 1
    assert rank_correlation(first.phase[:10], parameter[:10]) > 0.95
    maps = [diffusion_map(these, reliable) for these in (places, elsewhere)]
    assert torch.equal(maps[0][5:], maps[1][5:])
    assert maps[0].isfinite().all() and maps[1].isfinite().all()
    # those left out fall between their neighbours
    assert rank_correlation(maps[0][:10, 0], parameter[:10]) > 0.95
    clusters = [find_clusters(these, reliable) for these in (places, elsewhere)]
    assert torch.equal(clusters[0].labels[5:], clusters[1].labels[5:])
    assert clusters[0].populations.sum() == 40


def test_clusters_are_the_groups_there_are(generator: torch.Generator) -> None:
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    truth = torch.tensor([0] * 12 + [1] * 20 + [2] * 8)
    places = centres[truth] + 0.5 * torch.randn(40, 2, generator=generator)
    found = find_clusters(places, everyone(40))
    assert found.populations.tolist() == [20, 12, 8]  # the most populated first
    assert torch.equal(found.labels, torch.tensor([1, 0, 2])[truth])
    assert found.criterion.index(min(found.criterion)) == 2
    assert found.certainty.min() > 0.9
    for label, index in enumerate(found.representatives.tolist()):
        members = places[found.labels == label]
        assert found.labels[index] == label
        assert (places[index] - members.mean(0)).norm() < 0.5


def test_one_group_is_one_cluster(generator: torch.Generator) -> None:
    found = find_clusters(torch.randn(40, 3, generator=generator), everyone(40))
    assert found.populations.tolist() == [40]
    assert find_clusters(torch.randn(5, 3, generator=generator), everyone(5)).populations.tolist() == [5]


def test_a_path_goes_where_volumes_are(generator: torch.Generator) -> None:
    """Between the ends of an arc: along it, never across, in even steps."""
    parameter = torch.linspace(0, 1, 41)
    places = arc(parameter, generator, noise=0.02)
    path = path_between(places, everyone(41), 0, 40)
    assert path.members[0] == 0 and path.members[-1] == 40
    assert (parameter[path.members].diff() > 0).all()
    assert (path.curve.norm(dim=1) > 0.8).all()
    steps = path.curve.diff(dim=0).norm(dim=1)
    assert steps.std() < 0.15 * steps.mean()
    along = path.weights @ parameter
    assert torch.allclose(path.weights.sum(1), torch.ones(11), atol=1e-5)
    assert (along.diff() > 0).all() and along[0] < 0.06 and along[-1] > 0.94
    assert torch.equal(path_between(places, everyone(41), 40, 0).members, path.members.flip(0))
    assert torch.equal(path_between(1e-5 * places, everyone(41), 0, 40).members, path.members)  # units of density


def test_a_path_avoids_unreliable_volumes_and_crosses_gaps(generator: torch.Generator) -> None:
    parameter = torch.linspace(0, 1, 41)
    places = arc(parameter, generator, noise=0.0)
    gap = (parameter < 0.4) | (parameter > 0.6)
    path = path_between(places, gap, 0, 40, StatesConfig(neighbours=2))
    assert set(path.members.tolist()) <= set(gap.nonzero().flatten().tolist())
    assert (path.weights[:, ~gap] == 0).all()
    assert len(path.members) > 20


def test_a_path_between_volumes_in_one_place() -> None:
    """An edge that costs nothing must not be taken for no edge."""
    path = path_between(torch.ones(6, 2), everyone(6), 0, 5)
    assert path.members[0] == 0 and path.members[-1] == 5
    assert torch.allclose(path.weights, torch.full((11, 6), 1 / 6))


@pytest.mark.parametrize(("first", "last", "match"), [(0, 0, "twice"), (0, 1, "volume 1"), (9, 0, "volume 9")])
def test_ends_of_paths_are_checked(first: int, last: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        path_between(torch.rand(5, 2), torch.tensor([True, False, True, True, True]), first, last)


def test_uncertainty_along_a_path_is_that_of_the_seeds_there(generator: torch.Generator) -> None:
    """Seeds differ by noise in the second half of the path only; an unusable seed has no part."""
    parameter = torch.linspace(0, 1, 31)
    path = path_between(torch.stack([parameter, torch.zeros(31)], 1), everyone(31), 0, 30)
    volumes = parameter[:, None, None, None].expand(31, 4, 4, 4)
    noise = torch.randn(2, 31, 4, 4, 4, generator=generator) * (parameter > 0.5)[:, None, None, None]
    usable = torch.ones(2, 31, dtype=torch.bool)
    noise[0, 30], usable[0, 30] = 1000.0, False
    deviation = deviation_along(path, volumes, volumes + noise, usable)
    assert deviation.shape == (11, 4, 4, 4)
    assert deviation[:3].max() < 0.05 and 0.1 < deviation[7:].mean() < 1
    spread = torch.where(parameter > 0.5, 0.5, 0.1)
    spread[3] = torch.nan
    along = spread_along(path, spread)
    assert torch.allclose(along[[1, -2]], torch.tensor([0.1, 0.5]), atol=0.01)
    assert spread_along(path, torch.full((31,), torch.nan)).isnan().all()
