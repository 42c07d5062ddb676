"""Rings of frequencies hold what the discs hold, and planes are the slices of projections, seen from both sides."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import angle_between
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.polar import polar_coefficients, polar_planes, ring_points, shift_polar
from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import image_coefficients, voxel_slices

ANGLES = 24


def _blobs(side: int) -> Tensor:
    """Eight Gaussian blobs with no symmetry, about the centre."""
    draw = torch.Generator().manual_seed(3)
    centres, heights = (
        side / 8 * torch.randn(8, 3, generator=draw).clamp(-1.5, 1.5),
        torch.rand(8, generator=draw) + 0.5,
    )
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    blobs = [torch.exp(-(points - centre).square().sum(-1) / (2 * 1.5**2)) for centre in centres]
    return (torch.stack(blobs) * heights[:, None, None, None]).sum(0)


def _likeness(first: Tensor, second: Tensor) -> Tensor:
    """Correlation on each ring of each plane."""
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


@pytest.mark.parametrize("side", [16, 17])
def test_rings_meet_the_samples_of_the_disc_on_the_axes(side: int, generator: torch.Generator) -> None:
    images, rings = torch.rand(3, side, side, generator=generator), 7
    on_rings = polar_coefficients(images, rings, ANGLES)
    radius = torch.arange(1, rings + 1) / side
    zero = torch.zeros_like(radius)
    quarters = [(radius, zero), (zero, radius), (-radius, zero), (zero, -radius)]  # angles run from x towards y
    for quarter, points in enumerate(quarters):
        expected = image_coefficients(images, torch.stack(points, -1))
        torch.testing.assert_close(on_rings[..., quarter * ANGLES // 4], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [12, 13])
def test_the_transform_of_a_pixel_is_a_wave_on_every_ring(side: int) -> None:
    image, place = torch.zeros(1, side, side), torch.tensor([3, -2])
    image[0, side // 2 - 2, side // 2 + 3] = 1  # x 3, y -2
    points = torch.stack(ring_points(5, ANGLES, image), -1)
    turns = 2 * math.pi / side * (points @ place.float())
    expected = (turns.cos() + turns.sin()).view(1, 5, ANGLES)
    torch.testing.assert_close(polar_coefficients(image, 5, ANGLES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [16, 17])
def test_a_shift_on_rings_is_a_shift_of_the_image(side: int, generator: torch.Generator) -> None:
    images = torch.rand(3, side, side, generator=generator)
    pixels = torch.tensor([[2.0, 0.0], [0.0, -3.0], [-1.0, 4.0]])
    moved = torch.stack([image.roll((int(y), int(x)), (0, 1)) for image, (x, y) in zip(images, pixels, strict=True)])
    rings = (side - 1) // 2
    shifted = shift_polar(polar_coefficients(images, rings, ANGLES), pixels / side)
    # pixels that come in on the other side have other waves between the samples of the disc: on its axes they do not
    axes = slice(0, None, ANGLES // 4)
    expected = polar_coefficients(moved, rings, ANGLES)[..., axes]
    torch.testing.assert_close(shifted[..., axes], expected, rtol=1e-4, atol=1e-3)


def test_a_shift_of_fractions_of_a_pixel_moves_a_compact_image_on_all_rings() -> None:
    side, rings = 24, 9
    images = project(_blobs(side)[None], torch.eye(3).expand(1, 2, 3, 3))[0]
    pixels = torch.tensor([[1.3, -0.4], [-0.7, 2.2]])
    expected = polar_coefficients(translate(images, pixels), rings, ANGLES)
    shifted = shift_polar(polar_coefficients(images, rings, ANGLES), pixels / side)
    assert (shifted - expected).norm() < 0.02 * expected.norm()
    still = polar_coefficients(images, rings, ANGLES)
    assert (still - expected).norm() > 0.2 * expected.norm()


def test_shifts_add_up_and_the_opposite_moves_back(generator: torch.Generator) -> None:
    values = torch.randn(2, 3, 5, ANGLES, generator=generator)
    first, second = 0.1 * torch.randn(2, 2, 3, 2, generator=generator)
    twice = shift_polar(shift_polar(values, first), second)
    torch.testing.assert_close(twice, shift_polar(values, first + second), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shift_polar(shift_polar(values, first), -first), values, rtol=1e-4, atol=1e-4)


def test_planes_are_the_slices_of_the_voxel_grid(generator: torch.Generator) -> None:
    """Their lattice is that of a volume padded to twice its side, so that they are equal to rounding."""
    side, rings = 14, 6
    volumes, planes = torch.rand(2, side, side, side, generator=generator), polar_planes(1, rings, ANGLES, side)
    points = torch.stack(ring_points(rings, ANGLES, volumes), -1) / side
    expected = voxel_slices(volumes)((points @ planes.directions[:, :2])[None]).view(2, len(planes), rings, ANGLES)
    expected = expected.transpose(1, 2)
    tolerance = 1e-4 * expected.abs().max().item()
    torch.testing.assert_close(planes.slices(volumes, rings), expected, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(planes.slices(volumes, 3), expected[:, :3], rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("side", [12, 13])
def test_insertion_is_the_exact_adjoint_of_slicing(side: int, generator: torch.Generator) -> None:
    rings = 5
    planes = polar_planes(1, rings, ANGLES, side)
    volumes = torch.randn(2, side, side, side, generator=generator)
    values = torch.randn(2, rings, len(planes), ANGLES, generator=generator)
    inserted = planes.volumes(planes.insert(values))
    # waves back to the voxels are scaled by the number of cells, 2 to the Fourier pixel on each axis
    forwards = (planes.slices(volumes, rings) * values).sum((1, 2, 3))
    backwards = (volumes * inserted).sum((1, 2, 3)) * (2 * side) ** 3
    scale = values.flatten(1).norm(dim=1) * planes.slices(volumes, rings).flatten(1).norm(dim=1)
    assert ((forwards - backwards).abs() / scale).max() < 1e-5
    assert (forwards.abs() / scale).min() > 1e-4  # the product is not so small that anything passes


@pytest.mark.parametrize("facing", [False, True])
@pytest.mark.parametrize("turn", [0, 1, 5, 12, 19])
def test_a_plane_is_the_slice_of_the_projection_from_its_direction_or_the_one_that_faces_it(
    facing: bool, turn: int
) -> None:
    side, rings = 24, 6
    volume, planes = _blobs(side), polar_planes(1, rings, ANGLES, side)
    count = len(planes)
    rotations = planes.rotations(
        torch.arange(count), torch.full((count,), facing), torch.full((count,), turn * 2 * math.pi / ANGLES)
    )
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(count))
    expected = polar_coefficients(project(volume[None], rotations[None])[0], rings, ANGLES).transpose(0, 1)
    slices = planes.slices(volume[None], rings)[0]
    if facing:
        slices = slices.flip(-1).roll(1, -1)  # read backwards, from angle 0
    slices = slices.roll(turn, -1)
    assert _likeness(slices, expected).min() > 0.98
    assert (slices * expected).sum() / expected.square().sum() == pytest.approx(1, abs=0.02)
    # the phantom tells the other side, and turns the other way where these differ
    fine = slice(2, None)
    assert _likeness(slices.flip(-1), expected)[fine].median() < 0.7
    assert _likeness(slices.roll(-2 * turn, -1), expected)[fine].median() < 0.7 or turn in (0, ANGLES // 2)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_directions_are_half_of_the_sphere(order: int) -> None:
    planes = polar_planes(order, 4, ANGLES, 12)
    assert len(planes) == 6 * 4**order
    views = planes.directions[:, 2]
    both = views @ views.T
    both.fill_diagonal_(0)
    spacing = math.sqrt(4 * math.pi / (12 * 4**order))
    assert both.abs().max() < math.cos(0.6 * spacing)  # none is another's, none faces another
    # both sides together leave no direction of the sphere far from one
    anywhere = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert (anywhere @ views.T).abs().amax(1).min() > math.cos(spacing)


def test_facing_rotations_see_the_plane_from_behind() -> None:
    planes = polar_planes(1, 4, ANGLES, 12)
    every, angle = torch.arange(len(planes)), torch.linspace(0, 6, len(planes))
    front, back = (planes.rotations(every, torch.full_like(every, side, dtype=torch.bool), angle) for side in (0, 1))
    torch.testing.assert_close(back[:, 2], -front[:, 2])
    torch.testing.assert_close(angle_between(front, back), torch.full((len(planes),), 180.0), atol=0.1, rtol=0)


def test_planes_are_made_once() -> None:
    assert polar_planes(1, 4, ANGLES, 12) is polar_planes(1, 4, ANGLES, 12)
    assert polar_planes(1, 4, ANGLES, 12) is not polar_planes(1, 4, ANGLES, 13)
