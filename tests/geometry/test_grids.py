"""HEALPix by its published properties (Gorski et al. 2005), and grids on SO(3) by their spacing and coverage."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.grids import healpix_angles, so3_children, so3_grid
from scoretomo.geometry.rotations import angle_between, random_rotations


def _directions(order: int) -> Tensor:
    polar, longitude = healpix_angles(order).double().unbind(-1)
    return torch.stack([polar.sin() * longitude.cos(), polar.sin() * longitude.sin(), polar.cos()], dim=-1)


@pytest.mark.parametrize(
    ("order", "pixel", "height", "longitude_degrees"),
    [
        (0, 0, 2 / 3, 45),
        (0, 3, 2 / 3, 315),
        (0, 4, 0, 0),
        (0, 5, 0, 90),
        (0, 8, -2 / 3, 45),
        (1, 0, 1 / 3, 45),  # the southern corner of base pixel 0
        (1, 1, 2 / 3, 67.5),  # the eastern
        (1, 2, 2 / 3, 22.5),  # the western
        (1, 3, 11 / 12, 45),  # the northern, in the ring of four at the pole
        (1, 18, 0, 337.5),
        (1, 47, -1 / 3, 315),
    ],
)
def test_known_pixel_centres(order: int, pixel: int, height: float, longitude_degrees: float) -> None:
    polar, longitude = healpix_angles(order)[pixel].tolist()
    assert math.cos(polar) == pytest.approx(height, abs=1e-6)
    assert math.degrees(longitude) == pytest.approx(longitude_degrees, abs=1e-4)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_rings_have_the_published_heights_and_numbers_of_pixels(order: int) -> None:
    """4 i pixels in ring i of a cap, 4 N_side in each ring of the belt; this is what makes the areas equal."""
    side = 2**order
    rings = {}
    for ring in range(1, 4 * side):
        if ring < side:
            height, pixels = 1 - ring**2 / (3 * side**2), 4 * ring
        elif ring <= 3 * side:
            height, pixels = 4 / 3 - 2 * ring / (3 * side), 4 * side
        else:
            height, pixels = (4 * side - ring) ** 2 / (3 * side**2) - 1, 4 * (4 * side - ring)
        rings[round(height, 4)] = pixels
    heights, counts = torch.unique((_directions(order)[:, 2] * 1e4).round(), return_counts=True)
    assert {round(h / 1e4, 4): n for h, n in zip(heights.tolist(), counts.tolist(), strict=True)} == rings
    assert sum(rings.values()) == 12 * 4**order == len(healpix_angles(order))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_directions_are_evenly_spread_and_antipodal(order: int) -> None:
    directions = _directions(order)
    assert directions.mean(0).abs().max() < 1e-6
    # the quadrupole of equal areas vanishes: mean of n n^T is 1/3, better with every order
    quadrupole = directions.T @ directions / len(directions) - torch.eye(3) / 3
    assert quadrupole.abs().max() < 0.04 / 4**order
    nearest_to_antipode = (-directions @ directions.T).amax(1)
    assert nearest_to_antipode.min() > 1 - 1e-9
    separation = torch.rad2deg(torch.acos((directions @ directions.T).fill_diagonal_(-1).clamp(-1, 1).amax(1)))
    spacing = math.degrees(math.sqrt(4 * math.pi / len(directions)))
    assert separation.min() > 0.65 * spacing and separation.max() < 1.25 * spacing


@pytest.mark.parametrize("order", [0, 1, 2])
def test_children_lie_about_their_parent(order: int) -> None:
    parents, children = _directions(order), _directions(order + 1).view(-1, 4, 3)
    spacing = math.sqrt(4 * math.pi / len(parents))
    away = torch.acos((children * parents[:, None]).sum(-1).clamp(-1, 1))
    assert away.max() < 0.6 * spacing
    centre = torch.nn.functional.normalize(children.mean(1), dim=1)
    assert torch.acos((centre * parents).sum(-1).clamp(-1, 1)).max() < 0.12 * spacing


def test_chosen_pixels_are_rows_of_the_whole() -> None:
    pixels = torch.tensor([[700, 3], [12, 0]])
    assert torch.equal(healpix_angles(3, pixels), healpix_angles(3)[pixels])


@pytest.mark.parametrize(
    ("order", "size", "spacing", "nearest", "coverage"),
    [(0, 72, 60, 59.9, 52), (1, 576, 30, 29.5, 25), (2, 4608, 15, 13, 12.5), (3, 36864, 7.5, 6.1, 6.2)],
)
def test_rotation_grids_have_the_stated_size_spacing_and_coverage(
    order: int, size: int, spacing: float, nearest: float, coverage: float, generator: torch.Generator
) -> None:
    """In-plane neighbours are ``spacing`` apart; no two are closer than ``nearest``, none is beyond ``coverage``."""
    grid = so3_grid(order)
    assert grid.shape == (size, 3, 3)
    some = torch.randperm(size, generator=generator)[:200]
    cosines = (grid[some].flatten(1) @ grid.flatten(1).T - 1) / 2
    cosines[torch.arange(len(some)), some] = -1
    neighbours = torch.rad2deg(torch.acos(cosines.amax(1).clamp(-1, 1)))
    assert neighbours.min() > nearest and neighbours.max() < spacing + 0.01
    anywhere = random_rotations(1000, generator=generator)
    cosines = (anywhere.flatten(1) @ grid.flatten(1).T - 1) / 2
    assert torch.rad2deg(torch.acos(cosines.amax(1).clamp(-1, 1))).max() < coverage


def test_consecutive_rotations_share_a_viewing_direction_and_turn_the_image() -> None:
    grid, in_plane = so3_grid(1), 12
    # the viewing direction is what the rotation takes onto z: its last row
    expected = _directions(1).float().repeat_interleave(in_plane, 0)
    torch.testing.assert_close(grid[:, 2], expected, rtol=0, atol=1e-6)
    turned = grid.view(-1, in_plane, 3, 3)
    step = turned[:, 1:] @ turned[:, :-1].mT
    torch.testing.assert_close(step[..., 2, 2], torch.ones_like(step[..., 2, 2]))
    torch.testing.assert_close(angle_between(turned[:, 1:], turned[:, :-1]), torch.full((48, 11), 30.0))
    assert (step[..., 1, 0] > 0).all()  # x towards y


def test_chosen_cells_are_rows_of_the_whole() -> None:
    cells = torch.tensor([[4607, 3], [100, 0]])
    assert torch.equal(so3_grid(2, cells), so3_grid(2)[cells])


@pytest.mark.parametrize("order", [0, 1])
def test_the_cells_of_a_grid_are_subdivided_into_those_of_the_next(order: int) -> None:
    parents = torch.arange(len(so3_grid(order)))
    children = so3_children(order, parents)
    assert torch.equal(children.flatten().sort().values, torch.arange(len(so3_grid(order + 1))))
    away = angle_between(so3_grid(order + 1, children), so3_grid(order)[:, None])
    # the centres of the eighths of a cube are at a quarter of its edge along each axis
    assert away.mean() == pytest.approx(60 / 2**order * math.sqrt(3) / 4, rel=0.05)
    assert away.max() < 60 / 2**order * 0.65
