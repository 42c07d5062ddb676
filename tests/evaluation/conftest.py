"""Fixtures of the tests of evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations

SIDE = 20
WIDTH = 1.4


@dataclass(frozen=True)
class MovingSet:
    """Gaussian blobs of which one travels on a line, sampled in any frame without interpolation.

    ``rotations`` are ``(n, 3, 3)``; ``travel`` ``(n,)`` says how far the last blob is from its middle, in pixels.
    """

    rotations: Tensor
    travel: Tensor

    @property
    def truths(self) -> Tensor:
        return torch.stack([self.volume(i, rotation) for i, rotation in enumerate(self.rotations)])

    def volume(self, index: int, rotation: Tensor | None = None) -> Tensor:
        """The object of an image, in a frame or in its own."""
        return blobs(self.travel[index], torch.eye(3) if rotation is None else rotation)


def blobs(travel: Tensor, rotation: Tensor) -> Tensor:
    still = torch.tensor([[0.0, 0, 0], [-3, 1, 2], [2, -3, 0], [0, 3, -3], [-1, -2, -3]])
    centres = torch.cat([still, torch.tensor([[3.0, 3, 2]]) + travel * torch.tensor([0.6, -0.8, 0])])
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    away = (points - (centres @ rotation.T)[:, None, None, None]).square().sum(-1)
    heights = torch.linspace(0.7, 1.3, len(centres))[:, None, None, None]
    return (heights * torch.exp(-away / (2 * WIDTH**2))).sum(0)


@pytest.fixture
def make_moving() -> Callable[..., MovingSet]:
    def make(count: int, widest: float = 3.0) -> MovingSet:
        generator = torch.Generator().manual_seed(2)
        travel = widest * (2 * torch.rand(count, generator=generator) - 1)
        return MovingSet(random_rotations(count, generator=generator), travel)

    return make
