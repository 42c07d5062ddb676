"""Alignment: known rotations, shifts and mirrors are found again, on phantoms and on real maps of any symmetry."""

import math
from pathlib import Path

import mrcfile
import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.alignment import Alignment, align, apply_alignment
from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.geometry.rotations import about_z, angle_between, random_rotations
from scoretomo.imaging.fourier import radius_grid, resize
from scoretomo.imaging.resampling import mirror_z

# order of the map's axis, and whether twofold axes stand across it
MAPS = {
    "3cf3_5A": (6, False),
    "3j9i_5A": (7, True),
    "4v4r_50S_5A": (1, False),
    "4v7r_5A": (1, False),
    "5gjv_5A": (1, False),
    "6rd4_5A": (2, False),
    "betagal_100px_3.54A": (2, True),
    "ribosome70S_65px": (1, False),
}


def blobs(side: int, generator: torch.Generator, count: int = 12) -> Tensor:
    """An asymmetric, chiral sum of Gaussians within 0.28 of the box from its centre."""
    centres = torch.randn(count, 3, generator=generator)
    centres = centres / centres.norm(dim=-1, keepdim=True) * torch.rand(count, 1, generator=generator).sqrt() * 0.28
    axis = (torch.arange(side) - side // 2) / side
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distances = (torch.stack([x, y, z], dim=-1)[..., None, :] - centres).square().sum(-1)
    return (torch.exp(-distances / (2 * 0.04**2)) * torch.linspace(0.5, 1.5, count)).sum(-1)


def moved(volumes: Tensor, rotations: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
    unused = shifts[:, 0]
    return apply_alignment(volumes, Alignment(rotations, shifts, mirrored, unused, unused))


def random_move(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    shifts = (torch.rand(count, 3, generator=generator) - 0.5) * 0.16 * side
    return random_rotations(count, generator=generator), shifts, torch.rand(count, generator=generator) < 0.5


def load(data: Path, name: str, side: int | None) -> Tensor:
    voxels = torch.from_numpy(mrcfile.read(data / "volumes" / f"{name}.mrc").copy())
    voxels = voxels / voxels.std()
    return voxels if side is None else resize(voxels, side, 3)


@pytest.mark.parametrize("side", [24, 25])
def test_rotation_shift_and_mirror_are_found_again(side: int, generator: torch.Generator) -> None:
    volumes = torch.stack([blobs(side, generator) for _ in range(4)])
    rotations, shifts, _ = random_move(4, side, generator)
    mirrored = torch.tensor([False, True, False, True])
    references = moved(volumes, rotations, shifts, mirrored)
    found = align(volumes, references)
    assert found.mirrored.tolist() == mirrored.tolist()
    assert angle_between(found.rotations, rotations).max() < 0.5
    assert (found.shifts_pixels - shifts).norm(dim=-1).max() < 0.05
    assert found.correlation.min() > 0.98
    assert found.hand_margin.min() > 0.1
    assert area_under_curve(fourier_shell_correlation(apply_alignment(volumes, found), references)).min() > 0.99


@pytest.mark.parametrize("side", [24, 25])
def test_apply_is_mirror_then_rotation_then_shift_about_the_centre(side: int) -> None:
    volume = torch.zeros(1, side, side, side)
    centre = side // 2
    axis = torch.arange(side) - centre
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume[0] = torch.exp(-((x - 5) ** 2 + (y + 1) ** 2 + (z - 3) ** 2) / 4)  # a spot at xyz = (5, -1, 3)
    # mirror: (5, -1, -3); x towards y by 90 degrees: (1, 5, -3); shift: (3, 5, -4)
    quarter = about_z(torch.tensor([math.pi / 2]))
    result = moved(volume, quarter, torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([True]))
    index = int(result.argmax())
    assert (index % side - centre, index // side % side - centre, index // side**2 - centre) == (3, 5, -4)
    assert result.max() > 0.97


def test_rotated_and_back_keeps_its_shells(generator: torch.Generator) -> None:
    volume = blobs(32, generator)[None] + 0.05 * torch.randn(1, 32, 32, 32, generator=generator)
    volume = volume * (radius_grid(32, 3) < 13)  # noise: every shell has power up to Nyquist
    rotation = random_rotations(1, generator=generator)
    still, straight = torch.zeros(1, 3), torch.tensor([False])
    back = moved(moved(volume, rotation, still, straight), rotation.mT, still, straight)
    assert fourier_shell_correlation(volume, back)[0, :15].min() > 0.97


def test_alignment_back_is_the_inverse(generator: torch.Generator) -> None:
    first = blobs(24, generator)[None]
    second = moved(first, *random_move(1, 24, generator))
    there, back = align(first, second), align(second, first)
    mirror = torch.where(there.mirrored[:, None, None], torch.diag(torch.tensor([1.0, 1, -1])), torch.eye(3))
    matrix_there, matrix_back = there.rotations @ mirror, back.rotations @ mirror
    assert there.mirrored.tolist() == back.mirrored.tolist()
    torch.testing.assert_close(matrix_back @ matrix_there, torch.eye(3)[None], atol=0.01, rtol=0)
    returned = (matrix_back @ there.shifts_pixels[..., None])[..., 0] + back.shifts_pixels
    assert returned.norm() < 0.1


def test_batch_equals_individual_and_shares_a_reference(generator: torch.Generator) -> None:
    reference = blobs(20, generator)[None]
    volumes = moved(reference.expand(3, -1, -1, -1), *random_move(3, 20, generator))
    batched = align(volumes, reference)
    individual = [align(volume[None], reference) for volume in volumes]
    paired = align(volumes, reference.expand(3, -1, -1, -1))
    torch.testing.assert_close(batched.rotations, torch.cat([each.rotations for each in individual]), atol=1e-3, rtol=0)
    torch.testing.assert_close(batched.rotations, paired.rotations, atol=1e-3, rtol=0)
    torch.testing.assert_close(batched.shifts_pixels, paired.shifts_pixels, atol=1e-2, rtol=0)
    torch.testing.assert_close(batched.hand_margin, paired.hand_margin, atol=1e-3, rtol=0)


def test_noise_and_background_do_not_mislead(generator: torch.Generator) -> None:
    volume = blobs(32, generator)[None]
    rotations, shifts, mirrored = random_move(1, 32, generator)
    reference = moved(volume, rotations, shifts, mirrored)
    noisy = 0.3 + volume + 2 * volume.std() * torch.randn(volume.shape, generator=generator)
    found = align(noisy, reference)
    assert found.mirrored.tolist() == mirrored.tolist()
    assert angle_between(found.rotations, rotations).max() < 4
    assert (found.shifts_pixels - shifts).norm() < 0.5


def test_an_achiral_volume_has_no_margin(generator: torch.Generator) -> None:
    chiral = blobs(24, generator, count=6)
    achiral = (chiral + mirror_z(chiral))[None]
    found = align(moved(achiral, *random_move(1, 24, generator)), achiral)
    assert found.correlation.item() > 0.98
    assert found.hand_margin.item() < 0.01


def test_empty_and_constant_volumes_correlate_with_nothing(generator: torch.Generator) -> None:
    reference = blobs(20, generator)[None]
    empty = torch.stack([torch.zeros(20, 20, 20), reference[0]])
    found = align(empty, reference)
    assert found.correlation[0] == 0
    assert found.hand_margin[0] == 0
    assert found.correlation[1] > 0.98  # its neighbour in the batch is not harmed
    assert torch.isfinite(apply_alignment(empty, found)).all()
    assert align(reference, torch.zeros_like(reference)).correlation.item() == 0
    assert torch.isfinite(align(torch.ones_like(reference), reference).correlation).all()


def check_map(volume: Tensor, group: tuple[int, bool], generator: torch.Generator) -> None:
    side = volume.shape[-1]
    rotations, shifts, mirrored = random_move(1, side, generator)
    reference = moved(volume[None], rotations, shifts, mirrored)
    found = align(volume[None], reference)
    assert found.mirrored.tolist() == mirrored.tolist()
    assert found.hand_margin.item() > 0.05
    # done and undone is a rotation of the map onto itself, an element of its point group
    element = rotations[0].mT @ found.rotations[0]
    angle = angle_between(element, torch.eye(3)).item()
    order, dihedral = group
    allowed = [360 * turn / order for turn in range(order // 2 + 1)] + [180.0] * dihedral
    assert min(abs(angle - each) for each in allowed) < 2
    same = angle < 2
    if same:  # a symmetry axis beside the centre also asks for a shift
        assert (found.shifts_pixels - shifts).norm() < 0.5
    # near Nyquist the maps as sampled are less symmetric than the molecules: 0.94 for 3j9i
    area = area_under_curve(fourier_shell_correlation(apply_alignment(volume[None], found), reference))
    assert area.item() > (0.99 if same else 0.92)


@pytest.mark.parametrize("name", MAPS)
def test_shipped_maps_are_recovered(name: str, data: Path, generator: torch.Generator) -> None:
    check_map(load(data, name, 48), MAPS[name], generator)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_shipped_maps_are_recovered_at_full_size(name: str, data: Path, generator: torch.Generator) -> None:
    check_map(load(data, name, None), MAPS[name], generator)
