"""A motion is found where there is one, and not where class averages differ in other ways."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.motion_evidence import MotionEvidence, weigh_motion
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, translate

BAND = 9


def _weigh(blobs: Any, images: Tensor, rotations: Tensor | None = None) -> MotionEvidence:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(8))
    poses = blobs.rotations if rotations is None else rotations, torch.zeros(len(images), 2)
    return weigh_motion(images + 0.1 * images.std() * noise, *poses, radius=blobs.RADIUS, band=BAND, seed=0)


def test_a_motion_is_found(make_blobs: Callable[..., Any]) -> None:
    blobs = make_blobs(100, 2.0)
    evidence = _weigh(blobs, blobs.images)
    assert evidence.moves and evidence.gains[evidence.components - 1] > 5 * evidence.errors[evidence.components - 1]
    assert "explained better by a motion" in evidence.reason
    # more components are tried as long as they are better
    *rising, last = evidence.gains
    assert rising == sorted(rising) and (last < rising[-1] or len(evidence.gains) == 5)


@pytest.mark.parametrize("count", [24, 60])
def test_a_rigid_molecule_does_not_move(count: int, make_blobs: Callable[..., Any]) -> None:
    blobs = make_blobs(count, 0.0)
    evidence = _weigh(blobs, blobs.images)
    assert not evidence.moves and evidence.components == 0
    assert 2 <= len(evidence.gains) == len(evidence.errors) == len(evidence.shares)
    assert evidence.reason.startswith("One map explains class averages")


def test_blur_strength_and_wrong_poses_are_no_motion(make_blobs: Callable[..., Any]) -> None:
    """Class averages differ in them, and all of them are the same from one half of the images to the other."""
    blobs, draw = make_blobs(60, 0.0), torch.Generator().manual_seed(9)
    smooth = torch.exp(-((radius_grid(blobs.SIDE, 2) / 5) ** 2))
    blurred = centred_inverse_fft(centred_fft(blobs.images, 2) * smooth, 2)
    part = torch.rand(60, 1, 1, generator=draw)
    images = (0.7 + 0.6 * part) * (part * blurred + (1 - part) * blobs.images)
    images = translate(images, 0.3 * torch.randn(60, 2, generator=draw))
    wrong = from_rotation_vectors(0.04 * torch.randn(60, 3, generator=draw)) @ blobs.rotations
    assert not _weigh(blobs, images, wrong).moves


def test_few_class_averages_say_nothing(make_blobs: Callable[..., Any]) -> None:
    blobs = make_blobs(6, 2.0)
    evidence = _weigh(blobs, blobs.images)
    assert not evidence.moves and evidence.gains == ()
    assert evidence.reason == "6 class averages are too few to tell a motion."
