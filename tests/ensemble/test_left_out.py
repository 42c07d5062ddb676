"""What is no fault of a volume does not count against it; what is, does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.left_out import prediction_errors
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, translate
from scoretomo.imaging.slices import voxel_slices
from scoretomo.methods.motion_model import motion_model
from scoretomo.methods.posed_images import PosedImages

BAND, COUNT = 9, 40


@pytest.fixture(scope="module")
def blobs(make_blobs: Callable[..., Any]) -> Any:
    return make_blobs(COUNT, 0.0)


@pytest.fixture(scope="module")
def volume(blobs: Any) -> Tensor:
    return motion_model(
        blobs.images, blobs.rotations, torch.zeros(COUNT, 2), 0, radius=blobs.RADIUS, band=BAND, seed=0
    ).volumes[0]


def _error(
    blobs: Any, volume: Tensor, images: Tensor, rotations: Tensor | None = None, component: Tensor | None = None
) -> float:
    """Of the median image, for a noise of a tenth of the power."""
    rotations = blobs.rotations if rotations is None else rotations
    posed = PosedImages.of(images, BAND, blobs.RADIUS)
    slice_fn = voxel_slices(posed.grid.coarse(volume))
    own = None if component is None else posed.slices(voxel_slices(posed.grid.coarse(component)), rotations)
    errors = prediction_errors(
        posed,
        posed.targets(torch.arange(COUNT), torch.zeros(COUNT, 2)),
        posed.slices(slice_fn, rotations)[0],
        lambda turned: posed.slices(slice_fn, turned)[0],
        rotations,
        0.01 * posed.power,
        own,
    )
    assert errors.shape == (COUNT,) and bool((errors >= 0).all())
    return float(errors.median())


def test_errors_of_pose_and_shift_blur_and_strength_are_free(blobs: Any, volume: Tensor) -> None:
    right = _error(blobs, volume, blobs.images)
    other = _error(blobs, volume.flip(0), blobs.images)
    assert other > 10 * right
    turned = from_rotation_vectors(torch.tensor([0.03, -0.02, 0.04])) @ blobs.rotations
    assert _error(blobs, volume, blobs.images, turned) < right + 0.1 * (other - right)
    moved = translate(blobs.images, torch.tensor([[0.3, -0.2]]).expand(COUNT, 2))
    assert _error(blobs, volume, moved) < right + 0.1 * (other - right)
    smooth = torch.exp(-((radius_grid(blobs.SIDE, 2) / 10) ** 2))
    blurred = 0.9 * centred_inverse_fft(centred_fft(blobs.images, 2) * smooth, 2)
    assert _error(blobs, volume, blurred) < right + 0.1 * (other - right)


def test_a_component_predicts_one_half_of_an_image_from_the_other(blobs: Any, volume: Tensor) -> None:
    """What is added along it is explained with it, and is an error without it."""
    component = volume.roll(2, 0) - volume
    posed = PosedImages.of(blobs.images, BAND, blobs.RADIUS)
    z = torch.randn(COUNT, generator=torch.Generator().manual_seed(1))
    slices = posed.slices(voxel_slices(posed.grid.coarse(component)), blobs.rotations)[0]
    from scoretomo.imaging.projection import project

    images = blobs.images + z[:, None, None] * project(component[None], blobs.rotations[None])[0]
    assert slices.std() > 0
    without = _error(blobs, volume, images)
    assert _error(blobs, volume, images, component=component[None]) < 0.3 * without
