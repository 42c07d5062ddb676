"""Near-symmetries of a volume, where the molecule is not in the middle too, and the poses that they make alike."""

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.near_symmetry import copies_of, poses_of_copies
from scoretomo.evaluation.self_correlation import peaks, prepare
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import resize, translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import rotate_volumes

SIDE = 28
AWAY = torch.tensor([1.8, -1.2, 0.9])


def _spots(group: str, frame: Tensor, mark: float = 0.0, moved: float = 0.0, seed: int = 1) -> Tensor:
    """Five spots of each asymmetric unit, away from the origin; a mark, and movements of all, break the symmetry."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=draw), dim=-1)
    own = directions * (0.12 + 0.17 * torch.rand(5, 1, generator=draw))
    centres = ((frame @ symmetry_group(group) @ frame.mT) @ own.T).mT.flatten(0, 1)
    centres = centres + moved * torch.randn(centres.shape, generator=draw)
    centres = torch.cat([centres, (frame @ torch.tensor([0.15, 0.1, 0.2]))[None]]) + AWAY / SIDE
    axis = (torch.arange(SIDE) - SIDE // 2) / SIDE
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1).flatten(0, 2)
    heights = torch.tensor([1.0] * (len(centres) - 1) + [mark])
    return (torch.exp(-(torch.cdist(points, centres) ** 2) / (2 * 0.045**2)) @ heights).view(SIDE, SIDE, SIDE)


def _nearest(rotations: Tensor, among: Tensor) -> Tensor:
    """Degrees from each rotation to the nearest of others."""
    pairs = rotations[:, None].expand(-1, len(among), -1, -1)
    return angle_between(pairs, among.expand_as(pairs)).amin(1)


@pytest.mark.parametrize("mark", [0.0, 0.6])
@pytest.mark.parametrize("group", ["C3", "D2", "C4"])
def test_copies_are_the_group_and_what_a_small_mark_breaks(group: str, mark: float, generator: torch.Generator) -> None:
    frame = random_rotations(1, generator=generator)[0]
    rotations, shifts = copies_of(_spots(group, frame, mark))
    expected = frame @ symmetry_group(group) @ frame.mT
    assert rotations[0].equal(torch.eye(3)) and not shifts[0].any()
    assert _nearest(expected, rotations).max() < 3
    assert len(rotations) == len(expected)


def test_moves_take_a_volume_away_from_the_origin_onto_itself(generator: torch.Generator) -> None:
    volume = _spots("C3", random_rotations(1, generator=generator)[0])
    rotations, shifts = copies_of(volume)
    assert shifts.norm(dim=1).max() > 1

    def likeness(moves: Tensor) -> Tensor:
        turned = rotate_volumes(resize(volume[None], 2 * SIDE, 3).expand(len(rotations), -1, -1, -1), rotations)
        moved = translate(resize(turned, SIDE, 3), moves)
        return torch.nn.functional.cosine_similarity(moved.flatten(1), volume.flatten()[None])

    assert likeness(shifts).min() > 0.97
    assert likeness(-shifts)[1:].max() < 0.9


def test_copies_are_a_group(generator: torch.Generator) -> None:
    rotations, _ = copies_of(_spots("O", random_rotations(1, generator=generator)[0], 0.6))
    assert len(rotations) == 24
    products = (rotations[:, None] @ rotations).flatten(0, 1)
    assert _nearest(products, rotations).max() < 5


@pytest.mark.parametrize(("group", "seed", "orientation"), [("O", 4, 0), ("T", 4, 0), ("T", 6, 0)])
def test_a_group_that_shares_rotations_with_an_icosahedron_is_none(group: str, seed: int, orientation: int) -> None:
    frame = random_rotations(1, generator=torch.Generator().manual_seed(orientation))[0]
    copies, _ = copies_of(_spots(group, frame, seed=seed))
    assert len(copies) == len(symmetry_group(group))
    assert _nearest(frame @ symmetry_group(group) @ frame.mT, copies).max() < 4


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_capsid_whose_parts_have_moved_is_an_icosahedron(mirrored: bool, generator: torch.Generator) -> None:
    frame = random_rotations(1, generator=generator)[0]
    volume = _spots("I", frame, moved=0.015)
    subject = prepare(volume)
    assert peaks(subject, 24, mirrored=False)[2].median() < 0.5  # most rotations alone are nothing
    copies, shifts = copies_of(volume, mirrored=mirrored)
    proper = torch.linalg.det(copies) > 0
    assert proper.sum() == 60
    assert _nearest(frame @ symmetry_group("I") @ frame.mT, copies[proper]).max() < 4
    assert copies[0].equal(torch.eye(3))
    fixed = torch.linalg.lstsq((torch.eye(3) - copies[1:3]).flatten(0, 1), shifts[1:3].flatten()[:, None]).solution
    torch.testing.assert_close(fixed[:, 0], AWAY, rtol=0, atol=0.4)


def _blobs() -> Tensor:
    """Nothing that is symmetric."""
    centres = 3.2 * torch.randn(14, 3, generator=torch.Generator().manual_seed(0)).clamp(-1.6, 1.6)
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).flatten(0, 2)
    return torch.exp(-(torch.cdist(points, centres) ** 2) / (2 * 1.33**2)).sum(1).view(SIDE, SIDE, SIDE)


def test_mirrorings_are_found_where_they_are_asked_for() -> None:
    both = _blobs() + _blobs().flip(0)  # its plane lies a half voxel from the origin
    assert len(copies_of(both)[0]) == 1
    matrices, shifts = copies_of(both, mirrored=True)
    torch.testing.assert_close(matrices[1:], torch.diag(torch.tensor([1.0, 1.0, -1.0]))[None], rtol=0, atol=0.05)
    torch.testing.assert_close(shifts[1], torch.tensor([0.0, 0.0, -1.0]), rtol=0, atol=0.2)


def test_poses_of_copies_have_the_same_projection(generator: torch.Generator) -> None:
    volume = _spots("C2", random_rotations(1, generator=generator)[0])
    volume = volume + volume.flip(0)
    copies = copies_of(volume, mirrored=True)
    assert (torch.linalg.det(copies[0]) < 0).any()
    rotations = random_rotations(3, generator=generator)
    turned, shifts = poses_of_copies(rotations, torch.zeros(3, 2), copies)
    projections = project(volume[None], turned.flatten(0, 1)[None])[0]
    moved = translate(projections, shifts.flatten(0, 1)).unflatten(0, turned.shape[:2])
    expected = project(volume[None], rotations[None])[0][:, None]
    likeness = torch.nn.functional.cosine_similarity(moved.flatten(2), expected.flatten(2), dim=-1)
    assert likeness.min() > 0.98


def test_a_volume_without_symmetry_has_no_copy_but_itself() -> None:
    for volume in (_blobs(), torch.zeros(16, 16, 16)):
        matrices, shifts = copies_of(volume, mirrored=True)
        assert matrices.tolist() == [torch.eye(3).tolist()] and shifts.tolist() == [[0, 0, 0]]
