"""Pose errors: blind to the object frame and hand, and to nothing else."""

import math

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.evaluation.pose_error import align_rotations, pose_errors
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))


def test_mirrored_object_has_the_same_projections_under_mirrored_poses(generator: torch.Generator) -> None:
    volume = torch.zeros(1, 15, 15, 15)
    volume[:, 4:11, 4:11, 4:11] = torch.randn(1, 7, 7, 7, generator=generator)
    rotations = random_rotations(1, 5, generator=generator)
    images = project(volume, rotations)
    torch.testing.assert_close(project(mirror_z(volume), MIRROR @ rotations @ MIRROR), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_change_of_frame_and_hand_is_no_error(mirrored: bool, generator: torch.Generator) -> None:
    reference = random_rotations(40, generator=generator)
    frame = random_rotations(generator=generator)
    predicted = reference @ frame
    if mirrored:
        predicted = MIRROR @ predicted @ MIRROR
    errors = pose_errors(predicted, reference)
    assert errors.mirrored is mirrored
    assert errors.degrees.max() < 0.1
    assert errors.frobenius_squared.max() < 1e-5


def test_outliers_do_not_move_the_frame(generator: torch.Generator) -> None:
    reference = random_rotations(60, generator=generator)
    predicted = reference @ random_rotations(generator=generator)
    predicted[::3] = random_rotations(20, generator=generator)
    degrees = pose_errors(predicted, reference).degrees
    assert degrees.reshape(20, 3)[:, 1:].max() < 0.1
    assert degrees[::3].median() > 60


def test_noise_is_measured_and_the_frame_is_better_than_any_one_image(generator: torch.Generator) -> None:
    reference = random_rotations(400, generator=generator)
    frame = random_rotations(generator=generator)
    noise = torch.randn(400, 3, generator=generator) * math.radians(5)
    predicted = reference @ frame @ from_rotation_vectors(noise)
    aligned, mirrored = align_rotations(predicted, reference)
    assert not mirrored
    angles = torch.rad2deg(noise.norm(dim=-1))
    assert angle_between(aligned, reference).median().item() == pytest.approx(angles.median().item(), abs=0.5)
    found = (predicted.mT @ aligned)[0]
    assert angle_between(found, frame.mT) < 1.5


def test_squared_frobenius_norm_is_eight_at_a_half_turn(generator: torch.Generator) -> None:
    reference = random_rotations(9, generator=generator)
    predicted = reference.clone()
    predicted[0] = reference[0] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    errors = pose_errors(predicted, reference)
    assert errors.frobenius_squared[0].item() == pytest.approx(8, abs=1e-3)
    assert errors.degrees[0].item() == pytest.approx(180, abs=0.5)
    # the two measures are one: |A - B|^2 = 8 sin^2(angle / 2)
    half = torch.deg2rad(errors.degrees) / 2
    torch.testing.assert_close(errors.frobenius_squared, 8 * half.sin() ** 2, atol=1e-4, rtol=0)


def test_a_single_image_has_no_error_and_none_is_refused(generator: torch.Generator) -> None:
    first, second = random_rotations(2, 1, generator=generator)
    assert pose_errors(first, second).degrees.item() < 0.1
    with pytest.raises(InputError, match="one per image"):
        pose_errors(first, random_rotations(2, generator=generator))
    with pytest.raises(InputError, match="0 rotations"):
        pose_errors(first[:0], second[:0])
