"""Where volumes are seen, and how sharp they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.matches import match, sharpness
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.projection import project
from scoretomo.methods.pose_search import PoseSearchConfig

MATCHING = PoseSearchConfig(base_order=2, refinements=2, kept=1, low_radius=5.0, high_radius=7.0)

Phantom = Callable[[], Tensor]
ImagesOf = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def test_every_volume_is_found_in_its_own_images(phantom: Phantom, images_of: ImagesOf) -> None:
    """Of two volumes that matches best of which an image is a projection, in the pose in which it is one."""
    volumes = torch.stack([phantom(), phantom()])
    images = torch.cat([images_of(volume, 3)[0] for volume in volumes])
    matches = match(volumes, images, MATCHING)
    assert matches.scores.argmax(0).tolist() == [0, 0, 0, 1, 1, 1]
    best = matches.rotations[matches.scores.argmax(0), torch.arange(6)]
    projections = project(volumes.repeat_interleave(3, 0), best[:, None])[:, 0]
    assert torch.nn.functional.cosine_similarity(projections.flatten(1), images.flatten(1)).min() > 0.95


def test_sharpness_puts_the_locked_volume_before_the_blob(phantom: Phantom) -> None:
    volume = phantom()
    spectrum = torch.fft.fftshift(torch.fft.fftn(volume))
    blurred = torch.fft.ifftn(torch.fft.ifftshift(spectrum * torch.exp(-((radius_grid(16, 3) / 1.5) ** 2)))).real
    sharp, blob, scaled, poisoned = sharpness(torch.stack([volume, blurred, 7 * volume + 1, volume * torch.nan]))
    assert sharp > 2 * blob
    assert scaled == pytest.approx(sharp.item(), rel=1e-3)  # neither scale nor background counts
    assert poisoned == -1
    assert sharpness(torch.zeros(1, 4, 4, 4)).item() == 0
