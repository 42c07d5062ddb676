"""Legs, frames, backs and rests: the parts of which furniture is built, with random proportions.

Lengths are in metres, z points up, x to the side; who sits looks along y. A place to stand on begins at ``height`` and
ends at the floor, z = 0.
"""

import math
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch

from .surfaces import Part, Vector

_Choice = TypeVar("_Choice")


class Draw:
    """Random choices."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        """Draw a number, uniformly."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """Draw whether something happens."""
        return self.between(0.0, 1.0) < probability

    def whole(self, low: int, high: int) -> int:
        """Draw one of the numbers from ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one_of(self, *choices: _Choice) -> _Choice:
        """Draw one of several things."""
        return choices[self.whole(0, len(choices) - 1)]


def slab(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Part:
    """Make a box between two values of each coordinate."""
    middle_x, middle_y = sum(x) / 2, sum(y) / 2
    return Part((middle_x, middle_y, z[0]), (middle_x, middle_y, z[1]), (x[1] - x[0]) / 2, (y[1] - y[0]) / 2)


def board(width: float, depth: float, bottom: float, top: float) -> Part:
    """Make a rectangular slab around the axis."""
    return slab((-width / 2, width / 2), (-depth / 2, depth / 2), (bottom, top))


def disc(width: float, depth: float, bottom: float, top: float) -> Part:
    """Make an elliptical slab around the axis."""
    return Part((0.0, 0.0, bottom), (0.0, 0.0, top), width / 2, depth / 2, round=True)


def moved(part: Part, x: float) -> Part:
    """Move a part to the side."""
    start, end = ((place[0] + x, place[1], place[2]) for place in (part.start, part.end))
    return replace(part, start=start, end=end)


def bar(start: Vector, end: Vector, radius: float, *, round: bool, taper: float = 1.0) -> Part:
    """Make a thin bar; its cross-section is turned so that sides face along x or y."""
    upright = abs(end[2] - start[2]) > max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    side = (1.0, 0.0, 0.0) if upright else (0.0, 0.0, 1.0)
    return Part(start, end, radius, radius, side, round, taper)


def _between(start: Vector, end: Vector, part: float) -> Vector:
    x, y, z = (a + (b - a) * part for a, b in zip(start, end, strict=True))
    return (x, y, z)


def legs(draw: Draw, width: float, depth: float, height: float, *, corners: int = 4) -> list[Part]:
    """Stand on legs from the corners of a rectangle (4) or a triangle (3), perhaps with rungs between them."""
    radius = draw.between(0.012, 0.035)
    is_round, taper = draw.chance(0.5), draw.between(0.5, 1.0) if draw.chance(0.5) else 1.0
    splay = draw.between(0.0, 0.25) if draw.chance(0.4) else 0.0
    inset = draw.between(0.0, 0.12) if draw.chance(0.5) else 0.0
    if corners == 4:
        places = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    else:
        places = [(math.sin(2 * math.pi * i / 3), math.cos(2 * math.pi * i / 3)) for i in range(3)]
    half_x, half_y = (0.5 - inset) * width - radius, (0.5 - inset) * depth - radius
    out = splay * min(height, 0.5)
    tops = [(x * half_x, y * half_y, height) for x, y in places]
    feet = [(x * (half_x + out), y * (half_y + out), 0.0) for x, y in places]
    parts = [bar(top, foot, radius, round=is_round, taper=taper) for top, foot in zip(tops, feet, strict=True)]
    if draw.chance(0.4):
        parts += _rungs(draw, tops, feet, radius * 0.6)
    return parts


def _rungs(draw: Draw, tops: list[Vector], feet: list[Vector], radius: float) -> list[Part]:
    """Join neighbouring legs: all around, or two and one across their middles (an H)."""
    level, is_round = draw.between(0.3, 0.85), draw.chance(0.5)
    points = [_between(top, foot, level) for top, foot in zip(tops, feet, strict=True)]
    if len(points) == 4 and draw.chance(0.5):
        left, right = _between(points[0], points[3], 0.5), _between(points[1], points[2], 0.5)
        pairs = [(points[0], points[3]), (points[1], points[2]), (left, right)]
    else:
        pairs = list(zip(points, points[1:] + points[:1], strict=True))
    return [bar(start, end, radius, round=is_round) for start, end in pairs]


def pedestal(draw: Draw, reach: float, height: float) -> list[Part]:
    """Stand on one column, on a disc or a star of feet."""
    radius, spread = draw.between(0.015, 0.05), reach * draw.between(0.35, 0.5)
    thick = draw.between(0.015, 0.04)
    column = bar((0.0, 0.0, height), (0.0, 0.0, thick), radius, round=True)
    if draw.chance(0.5):
        return [column, disc(2 * spread, 2 * spread, 0.0, thick)]
    feet, rise = draw.whole(3, 5), draw.between(0.0, 0.15) * height
    angles = [2 * math.pi * (i + 0.25) / feet for i in range(feet)]
    tips = [(spread * math.cos(angle), spread * math.sin(angle), thick / 2) for angle in angles]
    return [column, *(bar((0.0, 0.0, thick / 2 + rise), tip, thick / 2, round=False, taper=0.7) for tip in tips)]


def frames(draw: Draw, width: float, depth: float, height: float) -> list[Part]:
    """Stand on a closed frame at either side (sled), or on one without its rear upright (cantilever)."""
    radius = draw.between(0.01, 0.02)
    cantilever = draw.chance(0.4)
    parts = []
    for x in (-width / 2 + radius, width / 2 - radius):
        front, rear = depth / 2 - radius, -depth / 2 + radius
        corners = [(x, rear, height - radius), (x, front, height - radius), (x, front, radius), (x, rear, radius)]
        parts += [bar(a, b, radius, round=True) for a, b in pairwise(corners)]
        if not cantilever:
            parts.append(bar(corners[3], corners[0], radius, round=True))
    ends = ((-width / 2 + radius, -depth / 2 + radius, radius), (width / 2 - radius, -depth / 2 + radius, radius))
    return [*parts, bar(*ends, radius, round=True)]


def panels(draw: Draw, width: float, depth: float, height: float) -> list[Part]:
    """Stand on an upright board at either side."""
    thick, inset = draw.between(0.02, 0.06), draw.between(0.0, 0.15) * width
    half = draw.between(0.3, 0.5) * depth
    left = slab((-width / 2 + inset, -width / 2 + inset + thick), (-half, half), (0.0, height))
    right = slab((width / 2 - inset - thick, width / 2 - inset), (-half, half), (0.0, height))
    return [left, right]


def apron(draw: Draw, width: float, depth: float, top: float) -> list[Part]:
    """Put upright boards below the edges of a top."""
    bottom, x, y = top - draw.between(0.05, 0.14), 0.45 * width, 0.45 * depth
    long = [slab((-x, x), (at - 0.01, at + 0.01), (bottom, top)) for at in (-y, y)]
    return long + [slab((at - 0.01, at + 0.01), (-y, y), (bottom, top)) for at in (-x, x)]


def trestles(draw: Draw, width: float, depth: float, height: float) -> list[Part]:
    """Stand on an X or an A at either side, with a rail between them."""
    radius, x, half = draw.between(0.015, 0.035), draw.between(0.28, 0.45) * width, draw.between(0.3, 0.48) * depth
    crossed = draw.chance(0.5)
    at_top = -half if crossed else 0.15 * half
    slanted = [
        bar((side, sign * at_top, height), (side, sign * half, 0.0), radius, round=False)
        for side in (-x, x)
        for sign in (-1, 1)
    ]
    level = (0.5 if crossed else draw.between(0.3, 0.7)) * height
    return [*slanted, bar((-x, 0.0, level), (x, 0.0, level), radius, round=False)]


class _BackPlane:
    """Where the back of a seat is: tilted backwards and perhaps bowed."""

    def __init__(self, draw: Draw, width: float, rear: float, seat: float) -> None:
        tilt = math.radians(draw.between(0.0, 18.0))
        self.half, self.rear, self.seat = width / 2, rear, seat
        self.slope, self.rise = math.sin(tilt), math.cos(tilt)
        self.bow = draw.between(0.05, 0.3) * width if draw.chance(0.35) else 0.0

    def at(self, across: float, up: float) -> Vector:
        """Place at ``across``, -1 to 1 of the half width, and a length ``up`` from the seat."""
        x = across * self.half
        y = self.rear - up * self.slope - self.bow * (1 - across**2)
        return (x, y, self.seat + up * self.rise)

    def rail(self, up: float, height: float, thick: float) -> list[Part]:
        """Make a board across the whole back, its middle line at ``up``."""
        pieces = 6 if self.bow else 1
        places = [self.at(2 * i / pieces - 1, up) for i in range(pieces + 1)]
        upwards = (0.0, -self.slope, self.rise)
        return [Part(a, b, height / 2, thick / 2, upwards) for a, b in pairwise(places)]

    def upright(self, across: float, low: float, high: float, width: float, thick: float) -> Part:
        """Make a board from ``low`` to ``high``."""
        return Part(self.at(across, low), self.at(across, high), width / 2, thick / 2)


def back(draw: Draw, width: float, rear: float, seat: float, *, tallest: float = 0.7) -> list[Part]:
    """Make a panel, upright slats, level slats, a broad splat or a hoop with spindles."""
    height, thick = draw.between(0.4, 1.0) * tallest, draw.between(0.015, 0.05)
    plane = _BackPlane(draw, width, rear + thick / 2, seat)
    if draw.chance(0.35):
        gap = draw.between(0.0, 0.4) * height if draw.chance(0.5) else 0.0
        posts = [plane.upright(x, 0.0, height, thick, thick) for x in (-0.8, 0.8)] if gap else []
        return [*posts, *plane.rail((gap + height) / 2, height - gap, thick)]
    if draw.chance(0.2):
        return _hoop(draw, plane, height)
    posts = [plane.upright(x, 0.0, height, thick, thick) for x in (-0.95, 0.95)]
    broad = draw.between(0.03, 0.12)
    inside = draw.one_of(_upright_slats, _level_slats, _splat)(draw, plane, height - broad)
    return [*posts, *plane.rail(height - broad / 2, broad, 0.7 * thick), *inside]


def _upright_slats(draw: Draw, plane: _BackPlane, height: float) -> list[Part]:
    count = draw.whole(2, 4 + round(6 * plane.half))
    wide = draw.between(0.15, 0.6) * 2 * plane.half / (count + 1)
    places = [1.9 * (i + 1) / (count + 1) - 0.95 for i in range(count)]
    return [plane.upright(x, 0.0, height, wide, min(wide, 0.015)) for x in places]


def _level_slats(draw: Draw, plane: _BackPlane, height: float) -> list[Part]:
    count = draw.whole(1, 4)
    pitch = height / (count + 0.5)
    high = draw.between(0.2, 0.7) * pitch
    return [part for i in range(count) for part in plane.rail((i + 0.75) * pitch, high, 0.015)]


def _splat(draw: Draw, plane: _BackPlane, height: float) -> list[Part]:
    return [plane.upright(0.0, 0.0, height, draw.between(0.25, 0.6) * 2 * plane.half, 0.015)]


def _hoop(draw: Draw, plane: _BackPlane, height: float) -> list[Part]:
    radius, spindles = draw.between(0.01, 0.02), draw.whole(0, 7)
    angles = [math.pi * i / 10 for i in range(11)]
    rim = [plane.at(math.cos(angle), height * math.sin(angle)) for angle in angles]
    parts = [bar(a, b, radius, round=True) for a, b in pairwise(rim)]
    places = [2 * (i + 1) / (spindles + 1) - 1 for i in range(spindles)]
    return parts + [plane.upright(x, 0.0, height * math.sqrt(1 - x**2), radius, radius) for x in places]


def arms(draw: Draw, width: float, depth: float, seat: float) -> list[Part]:
    """Make rests at both sides, each on an upright at its front or on a board."""
    height, thick, wide = draw.between(0.15, 0.28), draw.between(0.01, 0.025), draw.between(0.02, 0.05)
    front = draw.between(0.05, 0.5) * depth
    boarded = draw.chance(0.25)
    parts = []
    for x in (-width / 2, width / 2):
        parts.append(Part((x, -depth / 2, seat + height), (x, front, seat + height), wide, thick))
        if boarded:
            parts.append(slab((x - thick, x + thick), (-depth / 2, front), (seat, seat + height)))
        else:
            parts.append(bar((x, front - thick, seat + height), (x, front - thick, seat - 0.02), thick, round=False))
    return parts
