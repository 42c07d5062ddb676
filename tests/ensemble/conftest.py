"""A small phantom and its images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.resampling import rotate_volumes

_SIDE = 16


@pytest.fixture
def phantom(generator: torch.Generator) -> Callable[[], Tensor]:
    """Blobs without symmetry in a box of 16 voxels; others at every call."""
    axis = torch.arange(_SIDE) - _SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).float()

    def make() -> Tensor:
        centres = (torch.rand(5, 3, generator=generator) - 0.5) * _SIDE * 0.5
        return sum(torch.exp(-(points - centre).square().sum(-1) / (2 * 1.3**2)) for centre in centres)

    return make


@pytest.fixture
def images_of(generator: torch.Generator) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Projections under random rotations, and the volume turned into the frame of each."""

    def make(volume: Tensor, count: int) -> tuple[Tensor, Tensor]:
        rotations = random_rotations(count, generator=generator)
        frames = rotate_volumes(volume.expand(count, -1, -1, -1), rotations)
        return frames.sum(1), frames

    return make


@pytest.fixture
def correlation() -> Callable[[Tensor, Tensor], Tensor]:
    def correlate(first: Tensor, second: Tensor) -> Tensor:
        first, second = first.flatten(1), second.flatten(1)
        return torch.nn.functional.cosine_similarity(first - first.mean(1, True), second - second.mean(1, True))

    return correlate
