"""Objects whose images and volumes in any state are sums of pieces, each the Fourier transform of one density.

The pieces of a jointed object are its rigid parts, which turn about their hinges. Those of a continuous shape are the
shape in some states, mixed so that what lies between two of them is interpolated linearly; none is turned.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import Volume
from ..imaging.slices import SliceFn, slice_coefficients, translate_coefficients
from .motions import RigidPart, part_slices, place
from .phantoms import (
    BOX_LID_REACH,
    CAPSID_ARM_TRAVEL,
    SignedDistance,
    box_distance,
    capsid_distance,
    sample,
)

# Field of view of the phantoms, which have no size of their own: 88 pixels of 4 Angstrom, for 001's images.
_PHANTOM_WIDTH_ANGSTROM = 352.0
# Between neighbouring states that are mixed, no point of a shape moves further than this; its edge is 2 pixels wide.
_STEP_PIXELS = 0.75


@dataclass(frozen=True)
class Placed:
    """How much of a piece there is in each of n states, and where.

    Attributes
    ----------
    amounts
        ``(n,)``: what its density is multiplied by.
    rotations
        ``(n, 3, 3)``, active, from the piece as it is stored to the object.
    centres_angstrom
        ``(n, 3)``, xyz: where its centre comes to lie in the object.
    """

    amounts: Float[Tensor, " n"]
    rotations: Float[Tensor, "n 3 3"]
    centres_angstrom: Float[Tensor, "n 3"]


@dataclass(frozen=True)
class Piece:
    """One of the densities whose sum is an object.

    Attributes
    ----------
    slices
        Makes its transform, which takes time and memory: one piece at a time needs to have it.
    place
        ``(states (n, k)) -> Placed``.
    """

    slices: Callable[[], SliceFn]
    place: Callable[[Tensor], Placed]


@dataclass(frozen=True)
class MovingObject:
    """An object in all of its states.

    Attributes
    ----------
    side, pixel_size_angstrom
        Of its images and volumes; the object's origin is index ``side // 2``.
    names
        What the ``k`` parameters of a state are, with their unit; none if the object is rigid.
    widest
        ``(k,)``: each parameter goes from 0 to this.
    pieces
        What its volumes are the sums of.
    """

    side: int
    pixel_size_angstrom: float
    names: tuple[str, ...]
    widest: Float[Tensor, " k"]
    pieces: Sequence[Piece]


def piece_coefficients(
    slice_fn: SliceFn,
    placed: Placed,
    chosen: Int[Tensor, " n"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_angstrom: Float[Tensor, "n d"],
    frequencies: Float[Tensor, "p d"],
    pixel_size_angstrom: float,
) -> Float[Tensor, "n p"]:
    """Hartley coefficients of what a piece adds to images, or to turned volumes if ``d`` is 3.

    Parameters
    ----------
    slice_fn, placed
        The piece, and where it is in some states.
    chosen
        Which of these states each image has.
    rotations, shifts_angstrom
        From the object's frame to that of each image; ``[x, y]``, or ``[x, y, z]`` of volumes.
    frequencies
        Rows of :func:`scoretomo.imaging.slices.disc_frequencies` or ``ball_frequencies``.
    pixel_size_angstrom
        Of images and object.
    """
    coefficients = slice_coefficients(slice_fn, rotations @ placed.rotations[chosen], frequencies)
    coefficients = placed.amounts[chosen, None] * coefficients
    across = (rotations @ placed.centres_angstrom[chosen, :, None])[:, : frequencies.shape[1], 0] + shifts_angstrom
    if not across.any():
        return coefficients
    return translate_coefficients(coefficients, frequencies, across / pixel_size_angstrom)


def jointed_object(parts: Sequence[RigidPart], widest_angle_degrees: float) -> MovingObject:
    """Rigid parts, of which those with a hinge turn, each by an angle of its own, about a centre of mass that stays.

    Class averages are centred on their density. So the object is moved in every state until the centre of mass of its
    parts, which weigh what their densities add up to, is at the origin.

    Parameters
    ----------
    parts
        All of one side and pixel size.
    widest_angle_degrees
        Each angle goes from 0 to this.
    """
    columns = _columns(parts)
    masses = torch.stack([part.density.voxels.sum() for part in parts])
    shares = masses / masses.sum()

    def where(number: int, states: Float[Tensor, "n k"]) -> Placed:
        radians = torch.deg2rad(torch.nn.functional.pad(states, (0, 1)))  # a last column of 0 for parts that stay
        turned = [place(part, radians[:, column]) for part, column in zip(parts, columns, strict=True)]
        middle = sum(share * centres for share, (_, centres) in zip(shares, turned, strict=True))
        rotations, centres = turned[number]
        return Placed(torch.ones(len(states)), rotations, centres - middle)

    def piece(number: int) -> Piece:
        return Piece(lambda: part_slices(parts[number]), lambda states: where(number, states))

    count = sum(part.hinge is not None for part in parts)
    names = ("angle_degrees",) if count == 1 else tuple(f"angle_{i + 1}_degrees" for i in range(count))
    density = parts[0].density
    widest = torch.full((count,), float(widest_angle_degrees))
    pieces = [piece(number) for number in range(len(parts))]
    return MovingObject(density.side, density.pixel_size_angstrom, names, widest, pieces)


def _columns(parts: Sequence[RigidPart]) -> list[int]:
    """Which parameter turns each part; -1 for those that stay."""
    columns, found = [], 0
    for part in parts:
        columns.append(-1 if part.hinge is None else found)
        found += part.hinge is not None
    return columns


def moving_box(side: int, pixel_size_angstrom: float | None, widest_angle_degrees: float) -> MovingObject:
    """Box with moving lids (001, section 4.1), whose densities add up where closed lids touch each other."""
    widest = torch.full((2,), math.radians(widest_angle_degrees))
    names = ("lid_1_radians", "lid_2_radians")
    return _shape(box_distance, names, widest, BOX_LID_REACH * widest, side, pixel_size_angstrom)


def moving_capsid(side: int, pixel_size_angstrom: float | None) -> MovingObject:
    """Capsid with moving arms (001, section 4.1)."""
    travel = torch.tensor([CAPSID_ARM_TRAVEL])
    return _shape(capsid_distance, ("opening",), torch.ones(1), travel, side, pixel_size_angstrom)


def _shape(
    shape: SignedDistance,
    names: tuple[str, ...],
    widest: Float[Tensor, " k"],
    travel: Float[Tensor, " k"],
    side: int,
    pixel_size_angstrom: float | None,
) -> MovingObject:
    """Shape whose parameters move different parts of it, the furthest by ``travel``, in fractions of the field of view.

    With D(state) the sampled density and ``w`` the state of widest parameters, in which its parts are apart, the object
    is ``D(w) + sum_j (D(w with parameter j as it is) - D(w))``.
    """
    pixel_size = pixel_size_angstrom or _PHANTOM_WIDTH_ANGSTROM / side
    apart = sample(shape, widest[None], side)[0]
    counted_twice = (1 - 1 / len(widest)) * apart
    pieces = []
    for column in range(len(widest)):
        nodes = _nodes(float(widest[column]), float(travel[column]) * side)
        for number in range(len(nodes)):
            state = widest.clone()
            state[column] = nodes[number]
            pieces.append(_shape_piece(shape, state, counted_twice, pixel_size, (column, number, nodes)))
    return MovingObject(side, pixel_size, names, widest, pieces)


def _nodes(widest: float, travel_pixels: float) -> Float[Tensor, " n"]:
    """Evenly spaced values of a parameter whose states are mixed; one if it does not move."""
    return torch.linspace(0, widest, 1 + math.ceil(travel_pixels / _STEP_PIXELS)) if widest else torch.zeros(1)


def _shape_piece(
    shape: SignedDistance,
    state: Float[Tensor, " k"],
    counted_twice: Float[Tensor, "n n n"],
    pixel_size_angstrom: float,
    node: tuple[int, int, Float[Tensor, " m"]],
) -> Piece:
    """Shape in one state, which falls off linearly to the neighbouring nodes of a parameter."""
    column, number, nodes = node

    def slices() -> SliceFn:
        density = sample(shape, state[None], len(counted_twice))[0] - counted_twice
        return part_slices(RigidPart(Volume(density, pixel_size_angstrom), torch.zeros(3)))

    def where(states: Float[Tensor, "n k"]) -> Placed:
        count = len(states)
        # without motion there is one node, and all of it
        step = nodes[1] if len(nodes) > 1 else torch.inf
        amounts = (1 - (states[:, column] - nodes[number]).abs() / step).clamp(min=0)
        return Placed(amounts, torch.eye(3).expand(count, 3, 3), torch.zeros(count, 3))

    return Piece(slices, where)
