"""Straight parts, bars and slabs, and points that are uniform over their surfaces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Vector = tuple[float, float, float]
"""A place or direction, xyz."""


@dataclass(frozen=True)
class Part:
    """A straight bar or slab, closed at both ends.

    Attributes
    ----------
    start, end
        Centres of the two ends.
    half_width, half_depth
        Half of its extent along ``side``, and across both that and its length.
    side
        Direction of the width; what of it is along the part is ignored.
    round
        Elliptical cross-section; otherwise rectangular.
    taper
        Width and depth at the end relative to those at the start, 0 to 1.
    """

    start: Vector
    end: Vector
    half_width: float
    half_depth: float
    side: Vector = (1.0, 0.0, 0.0)
    round: bool = False
    taper: float = 1.0


def surface_points(parts: Sequence[Part], count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    """Draw points, independent and uniform over all surfaces, also those where parts touch or enter each other.

    On an elliptical part they are denser where it is more curved, since angles are drawn evenly.
    """
    start, end, side = (torch.tensor([getattr(part, name) for part in parts]) for name in ("start", "end", "side"))
    length = (end - start).norm(dim=1)
    axis = (end - start) / length[:, None]
    side = torch.nn.functional.normalize(side - (side * axis).sum(1, keepdim=True) * axis, dim=1)
    other = torch.linalg.cross(axis, side)
    half = torch.tensor([(part.half_width, part.half_depth) for part in parts])
    is_round = torch.tensor([part.round for part in parts])
    taper = torch.tensor([part.taper for part in parts])

    surfaces = _areas(length, half, is_round, taper)
    drawn = torch.multinomial(surfaces.flatten(), count, replacement=True, generator=generator)
    part, where = drawn // 3, drawn % 3  # 0: around, 1: at the start, 2: at the end
    taper = taper[part]
    uniform = torch.rand(5, count, generator=generator)
    size = (1 - (1 - taper**2) * uniform[0]).sqrt()  # wider places of a tapered part have more area
    along = torch.where(where == 0, (1 + taper) * uniform[0] / (1 + size), (where == 2).float())
    size = torch.where(where == 0, size, torch.where(where == 2, taper, 1.0))
    across = _across(uniform[1:], where == 0, half[part], is_round[part]) * size[:, None] * half[part]
    centre = start[part] + (along * length[part])[:, None] * axis[part]
    points: Tensor = centre + across[:, :1] * side[part] + across[:, 1:] * other[part]
    return points


def _areas(
    length: Float[Tensor, " k"], half: Float[Tensor, "k 2"], is_round: Bool[Tensor, " k"], taper: Float[Tensor, " k"]
) -> Float[Tensor, "k 3"]:
    """Areas of each part: around it, at its start, at its end."""
    # twice pi times the quadratic mean of its half axes is near enough to the circumference of an ellipse
    around = torch.where(is_round, math.pi * math.sqrt(2) * half.norm(dim=1), 4 * half.sum(1))
    cap = torch.where(is_round, math.pi, 4.0) * half.prod(1)
    return torch.stack([around * length * (1 + taper) / 2, cap, cap * taper**2], 1)


def _across(
    uniform: Float[Tensor, "4 n"], on_rim: Bool[Tensor, " n"], half: Float[Tensor, "n 2"], is_round: Bool[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """Places in a cross-section, in units of its half axes: on its rim or anywhere within."""
    angle = 2 * math.pi * uniform[0]
    radius = torch.where(on_rim, 1.0, uniform[1].sqrt())
    disc = torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None]
    square = 2 * uniform[:2].T - 1
    # of a rectangle's rim, one of two pairs of sides by their lengths, and the side of the pair
    width, depth = half.unbind(1)
    faces_width = uniform[2] * (width + depth) < depth
    edge = torch.where(uniform[3] < 0.5, -1.0, 1.0)[:, None]
    rim = torch.where(torch.stack([faces_width, ~faces_width], 1), edge, square)
    return torch.where(is_round[:, None], disc, torch.where(on_rim[:, None], rim, square))
