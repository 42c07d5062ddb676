"""Chairs, tables, stools and benches with random proportions, as points on their surfaces.

A stand-in for the furniture of ShapeNet, on which 002 trains, that needs no download. Everything is built of straight
parts: legs, rails and slats are thin ones, seats and tops are flat ones, a curved back is a row of them. Lengths are in
metres, z points up, x to the side, and a sitter looks along y.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from .furniture_parts import Draw, apron, arms, back, board, disc, frames, legs, moved, panels, pedestal, slab, trestles
from .surfaces import Part, surface_points


@dataclass(frozen=True)
class FurnitureConfig:
    """How often each kind is drawn, relative to the others.

    Attributes
    ----------
    chairs, armchairs, tables, desks, stools, benches
        Not negative, not all 0.
    """

    chairs: float = 0.4
    armchairs: float = 0.1
    tables: float = 0.25
    desks: float = 0.05
    stools: float = 0.1
    benches: float = 0.1

    def __post_init__(self) -> None:
        shares = [getattr(self, each.name) for each in fields(self)]
        if not all(0 <= share < math.inf for share in shares) or not sum(shares):
            raise InputError(f"how often each kind of furniture is drawn must be positive numbers, not {shares}")


def furniture(
    count: int, points: int, generator: torch.Generator, config: FurnitureConfig | None = None
) -> tuple[Float[Tensor, "count points 3"], tuple[str, ...]]:
    """Draw pieces of furniture and points on them, uniform over the surfaces of their parts.

    Parameters
    ----------
    count, points
        Number of pieces, and of points on each.
    generator
        Source of all that is random; the first pieces of a larger ``count`` are the same.
    config
        How often each kind is drawn.

    Returns
    -------
    clouds
        ``(count, points, 3)``, xyz in metres, z up; neither centred nor scaled.
    kinds
        ``chair``, ``armchair``, ``table``, ``desk``, ``stool`` or ``bench`` for each.

    Raises
    ------
    InputError
        A count or a number of points below 1.
    """
    if count < 1 or points < 1:
        raise InputError(f"furniture needs 1 piece and 1 point on each or more, not {count} and {points}")
    settings = config or FurnitureConfig()
    shares = torch.tensor([getattr(settings, f"{kind}{'es' if kind == 'bench' else 's'}") for kind in _BUILD])
    clouds, kinds = [], []
    for _ in range(count):
        kind = list(_BUILD)[int(torch.multinomial(shares, 1, generator=generator))]
        clouds.append(surface_points(_BUILD[kind](Draw(generator)), points, generator))
        kinds.append(kind)
    return torch.stack(clouds), tuple(kinds)


def _chair(draw: Draw) -> list[Part]:
    width, depth, seat = draw.between(0.36, 0.58), draw.between(0.36, 0.58), draw.between(0.36, 0.52)
    thick = draw.between(0.02, 0.1)
    under = seat - thick
    rounded = draw.chance(0.15)
    parts = [disc(width, depth, under, seat) if rounded else board(width, depth, under, seat)]
    base = draw.between(0.0, 1.0)
    if base < 0.7:
        parts += legs(draw, *((0.8 * width, 0.8 * depth) if rounded else (width, depth)), under)
    elif base < 0.82:
        parts += pedestal(draw, 1.2 * max(width, depth), under)
    elif base < 0.93:
        parts += frames(draw, width, depth, under)
    else:
        parts += panels(draw, width, depth, under)
    parts += back(draw, width * (0.85 if rounded else 1.0), -depth / 2, seat)
    if draw.chance(0.35):
        parts += arms(draw, width, depth, seat)
    return parts


def _armchair(draw: Draw) -> list[Part]:
    """Make one of blocks, as if upholstered, for one, two or three sitters."""
    arm, thick = draw.between(0.06, 0.22), draw.between(0.1, 0.25)
    width = draw.whole(1, 3) * draw.between(0.45, 0.65) + 2 * arm
    depth, seat = draw.between(0.6, 0.95), draw.between(0.32, 0.48)
    floor = draw.between(0.04, 0.18) if draw.chance(0.7) else 0.0
    top, rest = seat + draw.between(0.25, 0.6), seat + draw.between(0.1, 0.25)
    half, rear = width / 2, -depth / 2
    parts = [
        slab((-half + arm, half - arm), (rear + thick, depth / 2), (floor, seat)),
        slab((-half + arm, half - arm), (rear, rear + thick), (floor, top)),
    ]
    if draw.chance(0.85):
        front = depth / 2 - draw.between(0.0, 0.3) * depth
        parts += [slab(x, (rear, front), (floor, rest)) for x in ((-half, -half + arm), (half - arm, half))]
    if floor:
        parts += legs(draw, width - 2 * arm, depth, floor)
    return parts


def _table(draw: Draw) -> list[Part]:
    low = draw.chance(0.3)
    height = draw.between(0.3, 0.5) if low else draw.between(0.68, 0.8)
    depth = draw.between(0.45, 1.0)
    width, thick = depth * draw.between(1.0, 2.4), draw.between(0.015, 0.07)
    under = height - thick
    shape = draw.between(0.0, 1.0)
    if shape < 0.2:
        width = depth
    rounded = shape < 0.35
    parts = [disc(width, depth, under, height) if rounded else board(width, depth, under, height)]
    width, depth = (0.7 * width, 0.7 * depth) if rounded else (width, depth)
    base = draw.between(0.0, 1.0)
    if base < 0.55:
        parts += legs(draw, width, depth, under)
        if draw.chance(0.5):
            parts += apron(draw, width, depth, under)
    elif base < 0.75:
        apart = 0.28 * width if width > 1.5 * depth else 0.0
        column = pedestal(draw, depth, under)
        parts += [moved(part, x) for part in column for x in ({-apart, apart})]
    elif base < 0.85:
        parts += panels(draw, width, depth, under)
    else:
        parts += trestles(draw, width, depth, under)
    if draw.chance(0.25):
        shelf = draw.between(0.15, 0.5) * height
        parts.append(board(0.85 * width, 0.85 * depth, shelf, shelf + 0.02))
    return parts


def _desk(draw: Draw) -> list[Part]:
    """Make a table with drawers at one side or both."""
    width, depth, height = draw.between(1.0, 1.7), draw.between(0.5, 0.8), draw.between(0.7, 0.78)
    under = height - draw.between(0.02, 0.05)
    box, floor = draw.between(0.2, 0.32) * width, draw.between(0.0, 0.2) if draw.chance(0.6) else under - 0.2
    half = width / 2
    sides = [(-half, -half + box), (half - box, half)][: draw.whole(1, 2)]
    drawers = [slab(x, (-depth / 2, depth / 2), (floor, under)) for x in sides]
    stand = legs(draw, width, depth, under) if floor or len(sides) == 1 else []
    rear = [slab((-half, half), (-depth / 2, -depth / 2 + 0.02), (0.3, under))] if draw.chance(0.4) else []
    return [board(width, depth, under, height), *drawers, *stand, *rear]


def _stool(draw: Draw) -> list[Part]:
    width, height, thick = draw.between(0.28, 0.45), draw.between(0.4, 0.8), draw.between(0.02, 0.1)
    under = height - thick
    if draw.chance(0.6):
        parts, reach = [disc(width, width, under, height)], 0.72 * width
    else:
        parts, reach = [board(width, width, under, height)], width
    if draw.chance(0.25):
        parts += pedestal(draw, 1.1 * width, under)
    else:
        parts += legs(draw, reach, reach, under, corners=draw.whole(3, 4))
    if draw.chance(0.25):
        parts += back(draw, reach, -reach / 2, height, tallest=0.3)
    return parts


def _bench(draw: Draw) -> list[Part]:
    width, depth, seat = draw.between(0.9, 1.9), draw.between(0.3, 0.5), draw.between(0.38, 0.5)
    under = seat - draw.between(0.02, 0.06)
    boards = draw.whole(1, 4)
    pitch = depth / boards
    gap = 0.15 * pitch if boards > 1 else 0.0
    starts = [-depth / 2 + i * pitch for i in range(boards)]
    parts = [slab((-width / 2, width / 2), (y, y + pitch - gap), (under, seat)) for y in starts]
    parts += draw.one_of(legs, frames, panels)(draw, width, depth, under)
    if draw.chance(0.5):
        parts += back(draw, width, -depth / 2, seat)
        if draw.chance(0.5):
            parts += arms(draw, width, depth, seat)
    return parts


_BUILD: dict[str, Callable[[Draw], list[Part]]] = {
    "chair": _chair,
    "armchair": _armchair,
    "table": _table,
    "desk": _desk,
    "stool": _stool,
    "bench": _bench,
}
