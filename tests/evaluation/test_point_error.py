"""Distances between point clouds: what moving, adding and permuting points costs."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from scoretomo.datatypes import InputError
from scoretomo.evaluation.point_error import (
    chamfer_distance,
    chamfer_distances,
    earth_movers_distance,
    rmsd_to_atoms,
    rmsd_to_points,
)
from scoretomo.geometry.rotations import random_rotations


@pytest.fixture
def clouds(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(3, 40, 3, generator=generator)


def permuted(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return points[:, torch.randperm(points.shape[1], generator=generator)]


def test_a_cloud_moved_by_d_is_at_earth_movers_distance_d(clouds: torch.Tensor, generator: torch.Generator) -> None:
    for length in (0.01, 0.7, 30.0):  # short and long against the distance between neighbours
        step = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0) * length
        moved = permuted(clouds + step, generator)
        assert earth_movers_distance(moved, clouds).tolist() == pytest.approx([length] * 3, rel=1e-4)
        assert chamfer_distance(moved, clouds).max() <= 2 * length * 1.001


def test_distances_are_zero_for_the_same_set_of_points_only(clouds: torch.Tensor, generator: torch.Generator) -> None:
    same = permuted(clouds, generator)
    assert chamfer_distance(same, clouds).max() == 0
    assert earth_movers_distance(same, clouds).max() == 0
    assert rmsd_to_points(same[:1], clouds[0]).item() == 0
    subset = clouds[:, :20]
    # every point of a subset is there: only the other direction sees what is missing
    missing = torch.cdist(clouds[:, 20:], subset).amin(2).sum(1) / 40
    torch.testing.assert_close(chamfer_distance(subset, clouds), missing, rtol=1e-4, atol=0)
    torch.testing.assert_close(chamfer_distance(clouds, subset), missing, rtol=1e-4, atol=0)


def test_chamfer_distance_is_not_squared_and_sums_both_directions() -> None:
    one, other = torch.zeros(1, 1, 3), torch.tensor([[[3.0, 0, 0], [0, 4.0, 0]]])
    assert chamfer_distance(one, other).item() == pytest.approx(3 + 3.5)
    scaled = chamfer_distance(10 * one, 10 * other)
    assert scaled.item() == pytest.approx(65)


def test_chamfer_matrix_holds_the_distances_of_all_pairs(clouds: torch.Tensor, generator: torch.Generator) -> None:
    others = torch.randn(2, 25, 3, generator=generator)
    matrix = chamfer_distances(clouds, others)
    pairs = [[chamfer_distance(one[None], other[None]).item() for other in others] for one in clouds]
    torch.testing.assert_close(matrix, torch.tensor(pairs))
    within = chamfer_distances(clouds)
    torch.testing.assert_close(within, chamfer_distances(clouds, clouds))
    assert within.diagonal().max() == 0


def test_earth_movers_plan_minimises_the_distance_itself(generator: torch.Generator) -> None:
    # on a line, one long step and two short ones cost the same; squared, the long one is dearer
    one = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]])
    other = torch.tensor([[[1.0, 0, 0], [2.0, 0.5, 0], [5.5, 0, 0]]])
    distances = torch.cdist(one, other)[0]
    plan = linear_sum_assignment(distances.square())
    assert earth_movers_distance(one, other).item() < distances[plan].mean() - 1e-3
    cloud = torch.randn(2, 30, 3, generator=generator)
    rows, columns = linear_sum_assignment(torch.cdist(cloud[0], cloud[1]))
    best = torch.cdist(cloud[0], cloud[1])[rows, columns].mean().item()
    assert earth_movers_distance(cloud[:1], cloud[1:]).item() == pytest.approx(best, rel=1e-5)


def test_distances_do_not_see_the_frame(clouds: torch.Tensor, generator: torch.Generator) -> None:
    turn, step = random_rotations(generator=generator), torch.tensor([100.0, -50.0, 20.0])
    one, other = clouds[:1], clouds[1:2]
    for distance in (chamfer_distance, earth_movers_distance):
        there = distance(one @ turn.mT + step, other @ turn.mT + step)
        torch.testing.assert_close(there, distance(one, other), rtol=1e-4, atol=0)


def test_rmsd_to_atoms_looks_from_every_atom_to_the_nearest_point() -> None:
    atoms = torch.tensor([[0.0, 0, 0], [2, 0, 0], [10, 0, 0], [13, 4, 0]])
    points = torch.tensor([[[1.0, 0, 0], [10, 0, 0], [500, 0, 0]]])  # one point with no atoms near costs nothing
    assert rmsd_to_atoms(points, atoms).item() == pytest.approx(math.sqrt((1 + 1 + 0 + 25) / 4))


def test_rmsd_to_points_is_that_of_the_best_pairing(clouds: torch.Tensor, generator: torch.Generator) -> None:
    noisy = clouds + 1e-3 * torch.randn(clouds.shape, generator=generator)
    expected = (noisy - clouds).square().sum(-1).mean(-1).sqrt()
    shuffled = permuted(noisy, generator)
    for model, reference, rmsd in zip(shuffled, clouds, expected, strict=True):
        assert rmsd_to_points(model[None], reference).item() == pytest.approx(rmsd.item(), rel=1e-4)
        far = torch.tensor([300.0, 200, -500])  # where Angstrom coordinates of a large complex are
        found = rmsd_to_points((model.double() + far)[None], reference.double() + far)
        assert found.item() == pytest.approx(rmsd.item(), rel=1e-3)
    other = rmsd_to_points(clouds[:1], clouds[1])
    assert other.item() >= earth_movers_distance(clouds[:1], clouds[1:2]).item()


def test_what_cannot_be_compared_is_refused(clouds: torch.Tensor) -> None:
    with pytest.raises(InputError, match="not 39 and 40"):
        earth_movers_distance(clouds[:, 1:], clouds)
    with pytest.raises(InputError, match="not 39 and 40"):
        rmsd_to_points(clouds[:, 1:], clouds[0])
    with pytest.raises(InputError, match="empty"):
        chamfer_distance(clouds[:, :0], clouds)
    with pytest.raises(InputError, match="NaN"):
        rmsd_to_atoms(clouds, torch.full((1, 3), math.nan))
