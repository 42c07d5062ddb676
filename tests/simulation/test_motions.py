import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from scoretomo.datatypes import Volume
from scoretomo.imaging.fourier import radius_grid, translate
from scoretomo.io.atoms import density_of_atoms
from scoretomo.simulation.motions import (
    Hinge,
    RigidPart,
    assemble,
    beyond_the_middle,
    centre_of_mass,
    hand_parts,
    hinge_between,
    outer_thirds,
    place,
    reach,
)
from scoretomo.simulation.phantoms import THUMB_HINGE, thumb_axis, thumb_distance, thumbless_distance

SIDE, PIXEL = 32, 3.0


def rodrigues(points: Tensor, hinge: Hinge, angle: float) -> Tensor:
    """Turn points about a hinge: the oracle, by scipy."""
    turn = torch.from_numpy(Rotation.from_rotvec(angle * hinge.axis.double().numpy()).as_matrix()).float()
    return (points - hinge.point_angstrom) @ turn.T + hinge.point_angstrom


@pytest.fixture
def atoms(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two clouds of atoms about the origin, of which the second moves."""
    here = torch.randn(60, 3, generator=generator) * torch.tensor([8.0, 5.0, 3.0]) + torch.tensor([-12.0, 0.0, 0.0])
    there = torch.randn(40, 3, generator=generator) * torch.tensor([3.0, 6.0, 2.0]) + torch.tensor([12.0, 6.0, 2.0])
    weights = torch.rand(100, generator=generator) + 6
    coordinates = torch.cat([here, there])
    return coordinates - centre_of_mass(coordinates, weights), weights, torch.arange(100) >= 60


def two_parts(coordinates: Tensor, weights: Tensor, moving: Tensor, hinge: Hinge) -> list[RigidPart]:
    return [
        RigidPart(
            density_of_atoms(coordinates[chosen], weights[chosen], PIXEL, resolution_angstrom=12.0, side=SIDE),
            centre_of_mass(coordinates[chosen], weights[chosen]),
            turns_about,
        )
        for chosen, turns_about in ((~moving, None), (moving, hinge))
    ]


@pytest.mark.parametrize("degrees", [0.0, 35.0, 120.0])
def test_assembled_volume_is_the_density_of_turned_atoms(atoms: tuple[Tensor, Tensor, Tensor], degrees: float) -> None:
    coordinates, weights, moving = atoms
    hinge = Hinge(torch.tensor([3.0, 2.0, -1.0]), torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 2.0]), dim=0))
    (volume,) = assemble(two_parts(coordinates, weights, moving, hinge), [math.radians(degrees)])
    turned = torch.where(moving[:, None], rodrigues(coordinates, hinge, math.radians(degrees)), coordinates)
    expected = density_of_atoms(turned, weights, PIXEL, resolution_angstrom=12.0, side=SIDE).voxels
    expected = translate(expected[None], centre_of_mass(turned, weights)[None] / PIXEL)[0]
    assert volume.pixel_size_angstrom == PIXEL
    assert (volume.voxels - expected).norm() / expected.norm() < 0.03


def test_a_part_on_its_hinge_turns_on_the_spot_and_one_without_stays() -> None:
    density = Volume(torch.ones(8, 8, 8), 1.0)
    axis = torch.tensor([0.0, 0.6, 0.8])
    on_axis = RigidPart(density, torch.tensor([1.0, 2.0, 3.0]) + 5 * axis, Hinge(torch.tensor([1.0, 2.0, 3.0]), axis))
    angles = torch.tensor([0.0, 1.0, 2.5])
    rotations, centres = place(on_axis, angles)
    torch.testing.assert_close(centres, on_axis.centre_angstrom.expand(3, 3))
    expected = torch.from_numpy(Rotation.from_rotvec(2.5 * axis.numpy()).as_matrix()).float()
    torch.testing.assert_close(rotations[2], expected)
    rotations, centres = place(RigidPart(density, torch.tensor([1.0, 2.0, 3.0])), angles)
    assert torch.equal(rotations, torch.eye(3).expand(3, 3, 3))
    assert torch.equal(centres, torch.tensor([1.0, 2.0, 3.0]).expand(3, 3))


@pytest.mark.parametrize("degrees", [0.0, 30.0, 60.0, 90.0])
def test_thumb_fits_the_hand_at_every_angle(degrees: float) -> None:
    axis = (torch.arange(80) - 39.5) / 80
    points = torch.cartesian_prod(axis, axis, axis)
    hinge = torch.tensor(THUMB_HINGE)
    turn = torch.from_numpy(Rotation.from_rotvec(math.radians(degrees) * thumb_axis().numpy()).as_matrix()).float()
    thumb, rest = thumb_distance((points - hinge) @ turn + hinge), thumbless_distance(points)  # x_part = R^T x
    assert not ((thumb < 0) & (rest < 0)).any()
    between = ((points - hinge).norm(dim=1) - 0.058).abs() < 0.004  # about the joint's surface
    along = (points - hinge) @ (turn @ torch.tensor([0.8, 0.6, 0.0])) / (points - hinge).norm(dim=1)
    assert (torch.minimum(thumb, rest)[between & (along > 0.95)] <= 0.001).all()
    assert points[torch.minimum(thumb, rest) < 0].norm(dim=1).max() < 0.4


def test_only_the_thumb_moves_and_it_folds_in_front_of_the_palm() -> None:
    parts = hand_parts(SIDE, 6.0)
    stretched, folded = (volume.voxels for volume in assemble(parts, [0.0, math.pi / 2]))
    assert stretched.sum() == pytest.approx(folded.sum().item(), rel=1e-3)
    z, _, x = torch.meshgrid(*[torch.arange(SIDE) - SIDE // 2] * 3, indexing="ij")
    # fingers and the other half of the palm
    assert (stretched - folded)[x < 0].abs().max() < 0.1
    appears = folded - stretched > 0.5
    assert appears.any() and (z[appears] > 0).all()
    middle = hand_parts(SIDE, 6.0)[1]
    _, centres = place(middle, torch.tensor([math.pi / 2]))
    folded_direction = (centres[0] / 6 - torch.tensor(THUMB_HINGE) * SIDE) / SIDE
    assert folded_direction[2] == pytest.approx(0.0954, abs=1e-3)


def test_hinge_opens_the_angle_between_two_rods() -> None:
    steps = torch.linspace(3, 40, 38)
    one, other = torch.zeros(38, 3), torch.zeros(38, 3)
    one[:, 1], other[:, 0] = steps, steps  # along y, and along x, which moves
    coordinates, moving = torch.cat([one, other]), torch.arange(76) >= 38
    hinge = hinge_between(coordinates, torch.ones(76), moving)
    assert hinge.point_angstrom.norm() < 5
    torch.testing.assert_close(hinge.axis, torch.tensor([0.0, 0.0, -1.0]), atol=1e-5, rtol=0)
    turned = rodrigues(coordinates[moving], hinge, 0.3)
    assert (turned.mean(0) - one.mean(0)).norm() > (other.mean(0) - one.mean(0)).norm() + 3


def test_parts_in_one_line_bend_about_the_shortest_axis(generator: torch.Generator) -> None:
    rod = (torch.rand(500, 3, generator=generator) - 0.5) * torch.tensor([100.0, 10.0, 30.0])
    moving = beyond_the_middle(rod, torch.ones(500))
    assert torch.equal(moving, rod[:, 0] > rod[:, 0].mean()) or (moving == (rod[:, 0] > rod[:, 0].mean())).sum() > 490
    hinge = hinge_between(rod, torch.ones(500), moving)
    assert hinge.axis[1].abs() > 0.99
    assert hinge.point_angstrom[0].abs() < 8
    assert hinge.axis.norm() == pytest.approx(1)


def test_outer_thirds_hold_a_third_of_the_mass_each(generator: torch.Generator) -> None:
    rod = (torch.rand(600, 3, generator=generator) - 0.5) * torch.tensor([10.0, 100.0, 30.0])
    weights = torch.where(rod[:, 1] > 0, 3.0, 1.0)  # the heavy end has its third in fewer atoms
    first, second = outer_thirds(rod, weights)
    assert not (first & second).any()
    assert weights[first].sum() / weights.sum() == pytest.approx(1 / 3, abs=0.01)
    assert weights[second].sum() / weights.sum() == pytest.approx(1 / 3, abs=0.01)
    assert rod[first][:, 1].min() > rod[~first & ~second][:, 1].max() - 5 and first.sum() < 0.5 * second.sum()
    assert (first & beyond_the_middle(rod, weights)).sum() == first.sum()


def test_reach_is_the_radius_of_the_sphere_that_the_motion_needs() -> None:
    coordinates = torch.tensor([[0.0, 0.0, 0.0], [10.0, 5.0, 0.0]])
    hinge = Hinge(torch.tensor([10.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    moving = torch.tensor([False, True])
    turning = [(moving, hinge)]
    assert reach(coordinates, turning, 0.0) == pytest.approx(math.hypot(10, 5))
    assert reach(coordinates, turning, -math.pi / 2) == pytest.approx(15)
    assert reach(coordinates, turning, -math.pi) == pytest.approx(15, rel=4e-3)
    assert reach(coordinates, [], 3.0) == pytest.approx(math.hypot(10, 5))
    # from the middle between the two atoms, wherever the second one is
    assert reach(coordinates, turning, -math.pi / 2, torch.ones(2)) == pytest.approx(7.5)


def test_odd_sides_have_the_same_hand() -> None:
    mass = [next(assemble(hand_parts(side, 192 / side), [0.5])).voxels for side in (31, 32)]
    radii = [((v * radius_grid(len(v), 3) ** 2).sum() / v.sum()).sqrt() / len(v) for v in mass]
    assert radii[0] == pytest.approx(radii[1].item(), rel=0.01)
