"""Discs and balls about the origin ``side // 2``, hard and with a soft edge."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .fourier import radius_grid


def ball(side: int, dimensions: int, radius: float, device: torch.device | str = "cpu") -> Float[Tensor, "..."]:
    """One within ``radius`` samples of the origin, zero elsewhere: a disc (2) or a sphere (3 dimensions)."""
    return (radius_grid(side, dimensions, device) <= radius).float()


def soft_ball(
    side: int, dimensions: int, radius: float, edge: float, device: torch.device | str = "cpu"
) -> Float[Tensor, "..."]:
    """One within ``radius``, falling as a raised cosine to zero at ``radius + edge`` samples."""
    beyond = (radius_grid(side, dimensions, device) - radius) / edge
    return 0.5 + 0.5 * torch.cos(math.pi * beyond.clamp(0, 1))
