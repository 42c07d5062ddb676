"""Rotated and mirrored volumes keep to the package's one convention."""

import math

import pytest
import torch

from scoretomo.geometry.rotations import about_y, about_z, from_rotation_vectors, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z, rigid_moves, rotate_volumes, symmetrise


@pytest.mark.parametrize("side", [12, 13])
def test_sum_over_z_of_the_rotated_object_is_its_projection(side: int, generator: torch.Generator) -> None:
    volumes = torch.rand(3, side, side, side, generator=generator)
    rotations = random_rotations(3, generator=generator)
    projections = project(volumes, rotations[:, None])[:, 0]
    torch.testing.assert_close(rotate_volumes(volumes, rotations).sum(1), projections, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [12, 13])
def test_a_quarter_turn_about_z_moves_a_voxel_from_x_to_y(side: int) -> None:
    centre = side // 2
    volume = torch.zeros(1, side, side, side)
    volume[0, centre, centre, centre + 3] = 1
    rotated = rotate_volumes(volume, about_z(torch.tensor([math.pi / 2])))
    assert rotated[0, centre, centre + 3, centre] == pytest.approx(1, abs=1e-4)
    assert rotated.sum() == pytest.approx(1, abs=1e-4)


def test_volumes_of_several_chunks_each_get_their_own_rotation(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, rotations = torch.rand(5, 8, 8, 8, generator=generator), random_rotations(5, generator=generator)
    together = rotate_volumes(volumes, rotations)
    monkeypatch.setattr("scoretomo.imaging.resampling._SAMPLES_AT_ONCE", 2 * 8**3)
    torch.testing.assert_close(rotate_volumes(volumes, rotations), together)


@pytest.mark.parametrize("side", [8, 9])
def test_mirror_keeps_the_origin_and_swaps_the_sign_of_z(side: int) -> None:
    centre = side // 2
    volume = torch.zeros(2, side, side, side)
    volume[0, centre, centre, centre] = 1
    volume[1, centre + 2, centre + 1, centre] = 1
    mirrored = mirror_z(volume)
    assert mirrored[0, centre, centre, centre] == 1
    assert mirrored[1, centre - 2, centre + 1, centre] == 1
    torch.testing.assert_close(mirror_z(mirrored), volume)


def test_mirror_commutes_with_projection_as_geometry_says(generator: torch.Generator) -> None:
    """The mirrored object seen from behind shows the reflected image: no image tells the hand."""
    volume = torch.rand(1, 11, 11, 11, generator=generator)
    behind = about_y(torch.tensor([[math.pi]]))
    image, from_behind = project(volume, torch.eye(3)[None, None]), project(mirror_z(volume), behind)
    torch.testing.assert_close(from_behind, image.flip(-1), rtol=1e-4, atol=1e-4)


def test_a_symmetrised_volume_is_its_turned_copies_and_symmetric_itself() -> None:
    axis = torch.arange(16) - 8
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")

    def spot(*centre: float) -> torch.Tensor:
        return torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / 4)

    result = symmetrise(spot(3, 1, 2), symmetry_group("D2"))
    expected = (spot(3, 1, 2) + spot(-3, -1, 2) + spot(3, -1, -2) + spot(-3, 1, -2)) / 4
    assert (result - expected).abs().max() < 0.02 * expected.max()


def test_rigid_moves_are_what_a_little_turn_and_shift_change() -> None:
    axis = torch.arange(20.0) - 10
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - 4) ** 2 / 6 + (y + 1) ** 2 / 8 + (z - 2) ** 2 / 10))
    moves = rigid_moves(volume)
    turned = rotate_volumes(volume[None], from_rotation_vectors(torch.tensor([[0.0, 0.1, 0.0]])))[0]
    shifted = translate(volume[None], torch.tensor([[0.0, 0.0, 0.1]]))[0]
    for change, move in ((turned - volume, moves[1]), (shifted - volume, moves[5])):
        assert torch.cosine_similarity(change.flatten(), move.flatten(), dim=0) > 0.9
