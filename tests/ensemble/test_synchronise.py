"""Volumes of a moving object come into one frame and one hand; what cannot be known is not claimed."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.ensemble.synchronise import (
    Synchronisation,
    SynchronisationConfig,
    VolumePoses,
    synchronise,
    synchronise_progressive,
)
from scoretomo.evaluation.alignment import apply_alignment
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.resampling import mirror_z
from scoretomo.simulation.phantoms import box

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
SIDE = 20


def moving_blobs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A chiral object of twelve blobs, two of which move; rotations and hands at random. Beside it, the matrices."""
    centres = torch.randn(12, 3, generator=generator)
    centres = centres / centres.norm(dim=-1, keepdim=True) * torch.rand(12, 1, generator=generator).sqrt() * 0.3
    moved = centres.repeat(count, 1, 1)
    moved[:, :2] += torch.linspace(-0.1, 0.1, count)[:, None, None] * torch.tensor([1.0, 0.5, 0.0])
    matrices = random_rotations(count, generator=generator)
    mirrored = torch.arange(count) % 3 == 1
    matrices = torch.where(mirrored[:, None, None], MIRROR @ matrices, matrices)
    axis = (torch.arange(SIDE) - SIDE // 2) / SIDE
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).view(-1, 3)
    distances = torch.cdist(points.expand(count, -1, -1), (matrices @ moved.mT).mT)
    volumes = torch.exp(-distances.square() / (2 * 0.05**2)) @ torch.linspace(0.5, 1.5, 12)
    return volumes.view(count, SIDE, SIDE, SIDE), matrices


def noisy(volumes: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return volumes + share * volumes.std() * torch.randn(volumes.shape, generator=generator)


def to_common(found: Synchronisation, truth: Tensor) -> Tensor:
    """From the object's frame to the common one, as each volume has it: equal for all, if all is right."""
    mirrored = found.alignment.mirrored[:, None, None]
    return torch.where(mirrored, found.alignment.rotations @ MIRROR, found.alignment.rotations) @ truth


def furthest(matrices: Tensor, group: Tensor) -> float:
    """Largest difference in degrees from the first, up to the object's group; 180 for another hand."""
    relative = (matrices[0].mT @ matrices)[:, None].expand(-1, len(group), -1, -1)
    same_hand = torch.linalg.det(relative) * torch.linalg.det(group) > 0
    degrees = torch.where(same_hand, angle_between(relative, group.expand_as(relative)), 180.0)
    return float(degrees.amin(1).max())


def test_chiral_volumes_come_into_one_frame_and_hand(generator: torch.Generator) -> None:
    volumes, truth = moving_blobs(7, generator)
    volumes = noisy(volumes, 1.0, generator)
    volumes[4] = torch.randn(SIDE, SIDE, SIDE, generator=generator)  # nothing
    found = synchronise(volumes)
    right = torch.arange(7) != 4
    assert furthest(to_common(found, truth)[right], torch.eye(3)[None]) < 5
    assert found.hand_certain[right].all()
    assert not found.hand_certain[4]
    assert found.weights[4] < 0.1
    assert found.weights[right].median() > 0.5
    assert found.symmetry.group == "C1"
    assert found.alignment.mirrored[right].sum() <= 3  # the common hand is that of most
    aligned = apply_alignment(volumes, found.alignment)[right].flatten(1)
    assert torch.corrcoef(aligned)[0].median() > 0.4  # of noise as strong as the signal a half is left


def test_a_box_has_no_hand_and_its_frame_is_known_up_to_its_core(generator: torch.Generator) -> None:
    rotations = random_rotations(10, generator=generator)
    volumes = box(torch.rand(10, 2, generator=generator) * math.pi, SIDE, rotations)
    volumes[::2] = mirror_z(volumes[::2])
    truth = torch.where((torch.arange(10) % 2 == 0)[:, None, None], MIRROR @ rotations, rotations)
    found = synchronise(noisy(volumes, 0.5, generator))
    assert found.symmetry.group == "D4"
    group = symmetry_group("D4")
    assert furthest(to_common(found, truth), torch.cat([group, -group])) < 5
    assert not found.hand_certain.any()
    assert not found.alignment.mirrored.any()
    # the four-fold axis of the core stands along z: the box's z goes to z
    assert to_common(found, truth)[:, 2, 2].abs().min() > math.cos(math.radians(5))
    # the walls are rigid, the lids are not
    assert found.core[SIDE // 2, SIDE // 2, SIDE // 2 + 3] > 0.5


def test_known_poses_are_the_frame(generator: torch.Generator) -> None:
    """Volumes that lie where their poses say come into one frame, moving parts with them, whatever the core."""
    rotations = random_rotations(8, generator=generator)
    shifts = torch.randn(8, 2, generator=generator)
    volumes = box(torch.rand(8, 2, generator=generator) * math.pi, SIDE, rotations)
    volumes = translate(volumes, torch.nn.functional.pad(shifts, (0, 1)))
    found = synchronise(
        noisy(volumes, 0.5, generator), SynchronisationConfig(side=16), poses=VolumePoses(rotations, shifts)
    )
    assert found.symmetry.group == "D4"
    assert furthest(to_common(found, rotations), torch.eye(3)[None]) < 4  # one frame, and not one up to the copies
    still = (found.alignment.rotations @ torch.nn.functional.pad(shifts, (0, 1))[..., None])[..., 0]
    assert (still + found.alignment.shifts_pixels).norm(dim=1).max() < 0.5  # shifts are taken back
    assert not found.alignment.mirrored.any()
    # the four-fold axis of the core stands along z
    assert to_common(found, rotations)[:, 2, 2].abs().min() > math.cos(math.radians(5))


def test_a_wrong_pose_does_not_count_nor_mirror(generator: torch.Generator) -> None:
    """Poses decide on hands too: a volume in the other hand stays as it is, and its hand is not called certain."""
    volumes, matrices = moving_blobs(8, generator)
    proper = torch.where((torch.linalg.det(matrices) < 0)[:, None, None], MIRROR @ matrices, matrices)
    volumes = torch.where((torch.arange(8) % 3 == 1)[:, None, None, None], mirror_z(volumes), volumes)
    wrong = volumes.clone()
    wrong[4] = mirror_z(volumes[4])
    found = synchronise(wrong, poses=VolumePoses(proper, torch.zeros(8, 2)))
    right = torch.arange(8) != 4
    assert furthest(to_common(found, proper)[right], torch.eye(3)[None]) < 5
    assert not found.alignment.mirrored.any()
    assert found.hand_certain.tolist() == right.tolist()
    assert found.weights[4] < found.weights[right].min()


def test_unreliable_volumes_are_aligned_but_do_not_count(generator: torch.Generator) -> None:
    volumes, truth = moving_blobs(6, generator)
    reliable = torch.tensor([True, True, True, True, False, False])
    volumes[5] = torch.nan
    found = synchronise(volumes, reliable=reliable)
    assert (found.weights[4:] == 0).all()
    assert furthest(to_common(found, truth)[:5], torch.eye(3)[None]) < 5
    assert torch.isfinite(found.alignment.rotations).all()


def test_progress_ends_with_the_result_and_repeats(generator: torch.Generator) -> None:
    volumes, _ = moving_blobs(3, generator)
    steps = list(synchronise_progressive(volumes))
    assert all(step.result is None and 0 < step.done <= step.total for step in steps[:-1])
    assert steps[0].stage == "pairs"
    assert steps[-1].result is not None
    again = synchronise(volumes)
    torch.testing.assert_close(again.alignment.rotations, steps[-1].result.alignment.rotations)


def test_one_reliable_volume_is_no_set() -> None:
    with pytest.raises(InputError, match="two reliable volumes or more, not 1"):
        synchronise(torch.rand(3, 12, 12, 12), reliable=torch.tensor([True, False, False]))
