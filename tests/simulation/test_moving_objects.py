import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from scoretomo.geometry.rotations import angle_between, from_rotation_vectors
from scoretomo.imaging.slices import ball_frequencies, from_coefficients
from scoretomo.io.atoms import density_of_atoms
from scoretomo.simulation.motions import Hinge, RigidPart, centre_of_mass
from scoretomo.simulation.moving_objects import (
    MovingObject,
    jointed_object,
    moving_box,
    moving_capsid,
    piece_coefficients,
)
from scoretomo.simulation.phantoms import box, capsid

SIDE, PIXEL = 32, 3.0


# Any but one that maps the lattice to itself, where interpolation damps nothing and its correction is too much.
VIEW = from_rotation_vectors(torch.tensor([[0.7, -0.4, 1.1]]))


def volume(found: MovingObject, *state: float) -> Tensor:
    """The object, turned."""
    frequencies = ball_frequencies(found.side)
    total = torch.zeros(1, len(frequencies))
    for piece in found.pieces:
        total += piece_coefficients(
            piece.slices(),
            piece.place(torch.tensor([state])),
            torch.tensor([0]),
            VIEW,
            torch.zeros(1, 3),
            frequencies,
            found.pixel_size_angstrom,
        )
    return from_coefficients(total, frequencies, found.side)[0]


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.fixture
def atoms(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A middle and two arms, at 0, 1 and 2 of the second tensor."""
    clouds = [
        torch.randn(30, 3, generator=generator) * 4 + torch.tensor(centre)
        for centre in ([0.0, 0.0, 0.0], [14.0, 2.0, 0.0], [-13.0, 0.0, 3.0])
    ]
    coordinates = torch.cat(clouds)
    return coordinates - coordinates.mean(0), torch.arange(90) // 30


def hinges() -> list[Hinge]:
    axes = torch.nn.functional.normalize(torch.tensor([[0.0, 1.0, 1.0], [1.0, 2.0, -1.0]]), dim=1)
    return [Hinge(torch.tensor([7.0, 1.0, 0.0]), axes[0]), Hinge(torch.tensor([-6.0, 0.0, 1.0]), axes[1])]


def three_parts(coordinates: Tensor, belongs: Tensor) -> list[RigidPart]:
    ones = torch.ones(30)
    return [
        RigidPart(
            density_of_atoms(coordinates[belongs == number], ones, PIXEL, resolution_angstrom=12.0, side=SIDE),
            coordinates[belongs == number].mean(0),
            hinge,
        )
        for number, hinge in enumerate([None, *hinges()])
    ]


def test_two_parts_turn_each_by_its_own_angle_and_the_whole_stays_centred(atoms: tuple[Tensor, Tensor]) -> None:
    coordinates, belongs = atoms
    found = jointed_object(three_parts(*atoms), 60.0)
    assert found.names == ("angle_1_degrees", "angle_2_degrees") and found.widest.tolist() == [60.0, 60.0]
    for state in ((0.0, 0.0), (60.0, 10.0), (20.0, 50.0)):
        turned = coordinates.clone()
        for number, (hinge, degrees) in enumerate(zip(hinges(), state, strict=True), 1):
            turn = Rotation.from_rotvec(math.radians(degrees) * hinge.axis.numpy()).as_matrix()
            arm = coordinates[belongs == number] - hinge.point_angstrom
            turned[belongs == number] = arm @ torch.from_numpy(turn).float().T + hinge.point_angstrom
        # this density is about the centre of mass
        expected = density_of_atoms(
            turned @ VIEW[0].T, torch.ones(90), PIXEL, resolution_angstrom=12.0, side=SIDE
        ).voxels
        assert (volume(found, *state) - expected).norm() / expected.norm() < 0.03


def test_centre_of_mass_of_the_parts_is_at_the_origin_in_every_state(atoms: tuple[Tensor, Tensor]) -> None:
    found = jointed_object(three_parts(*atoms), 90.0)
    states = 90 * torch.rand(20, 2, generator=torch.Generator().manual_seed(1))
    centres = torch.stack([piece.place(states).centres_angstrom for piece in found.pieces])
    assert centres.mean(0).abs().max() < 1e-2  # of three equal masses
    turns = [piece.place(states).rotations for piece in found.pieces]
    assert torch.equal(turns[0], torch.eye(3).expand(20, 3, 3))
    for turn, degrees in zip(turns[1:], states.T, strict=True):
        torch.testing.assert_close(angle_between(turn, torch.eye(3).expand(20, 3, 3)), degrees, atol=0.01, rtol=0)


def test_one_hinge_and_none() -> None:
    coordinates = torch.tensor([[5.0, 0.0, 0.0], [-5.0, 0.0, 0.0]])
    density = density_of_atoms(coordinates, torch.ones(2), PIXEL, resolution_angstrom=12.0, side=SIDE)
    stays = RigidPart(density, torch.zeros(3))
    assert jointed_object([stays], 0.0).names == ()
    turns = RigidPart(density, torch.tensor([9.0, 0.0, 0.0]), hinges()[0])
    assert jointed_object([stays, turns], 30.0).names == ("angle_degrees",)
    placed = jointed_object([stays], 0.0).pieces[0].place(torch.zeros(3, 0))
    assert (
        torch.equal(placed.amounts, torch.ones(3))
        and centre_of_mass(placed.centres_angstrom, placed.amounts).norm() == 0
    )


@pytest.mark.parametrize("state", [(0.0, 0.0), (0.3, 2.1), (1.0, 0.05), (2.5, 2.6)])
def test_box_between_its_nodes_is_the_sampled_box(state: tuple[float, float]) -> None:
    found = moving_box(24, None, 150.0)
    exact = box(torch.tensor([state]), 24, VIEW)[0]
    mixed = volume(found, *state)
    assert correlation(mixed, exact) > 0.99
    assert (mixed * exact).sum() / exact.square().sum() == pytest.approx(1, abs=0.02)  # closed lids have no seam
    assert found.pixel_size_angstrom == pytest.approx(352 / 24)
    assert found.widest.tolist() == pytest.approx([math.radians(150)] * 2)


def test_capsid_between_its_nodes_is_the_sampled_capsid() -> None:
    found = moving_capsid(24, 5.0)
    for opening in (0.0, 0.37):
        assert correlation(volume(found, opening), capsid(torch.tensor([opening]), 24, VIEW)[0]) > 0.995
    assert found.pixel_size_angstrom == 5.0 and found.names == ("opening",)


def test_finer_images_have_more_nodes_and_what_is_rigid_has_one() -> None:
    assert len(moving_capsid(64, None).pieces) == pytest.approx(2 * len(moving_capsid(32, None).pieces), abs=2)
    rigid = moving_box(24, None, 0.0)
    assert len(rigid.pieces) == 2  # half a box for each pair of lids
    assert correlation(volume(rigid, 0.0, 0.0), box(torch.zeros(1, 2), 24, VIEW)[0]) > 0.998
