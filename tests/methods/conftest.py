"""The volume in which poses are searched."""

import pytest
import torch
from torch import Tensor

SIDE = 32


@pytest.fixture(scope="module")
def volume() -> Tensor:
    """Twelve Gaussian blobs with no symmetry."""
    draw = torch.Generator().manual_seed(0)
    centres, heights = 4 * torch.randn(12, 3, generator=draw), torch.rand(12, generator=draw) + 0.5
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    blobs = torch.zeros(SIDE, SIDE, SIDE)
    for (cx, cy, cz), height in zip(centres, heights, strict=True):
        blobs += height * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * 1.5**2))
    return blobs
