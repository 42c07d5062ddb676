"""Objects in rigid parts, one of which turns about a hinge: continuous motions with one parameter (004, section 5.3).

A part's density is stored about its own centre and never interpolated in real space: where it is after turning, its
Fourier transform is read off along turned frequencies. So images and volumes at any angle come from two densities.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from ..datatypes import Volume
from ..geometry.rotations import from_rotation_vectors
from ..imaging.slices import (
    SliceFn,
    ball_frequencies,
    from_coefficients,
    slice_coefficients,
    translate_coefficients,
    voxel_slices,
)
from .phantoms import THUMB_HINGE, sample, thumb_axis, thumb_distance, thumb_middle, thumbless_distance

# Atoms of two parts touch within this distance; half of it and more lies between atoms that are bonded.
_CONTACT_ANGSTROM = 5.0
# Sine below which the parts and their hinge count as lying on one line, so that they span no plane to turn in.
_ONE_LINE = 0.2
# Samples of a part's padded transform along each axis: 3 times the part's, as long as that takes no gigabytes.
_LARGEST_TRANSFORM = 480


@dataclass(frozen=True)
class Hinge:
    """What a part turns about.

    Attributes
    ----------
    point_angstrom
        ``(3,)``, xyz from the object's origin.
    axis
        ``(3,)`` unit vector, xyz; angles are positive counterclockwise seen against it.
    """

    point_angstrom: Float[Tensor, " 3"]
    axis: Float[Tensor, " 3"]


@dataclass(frozen=True)
class RigidPart:
    """A part of an object, which stays, or turns about a hinge.

    Attributes
    ----------
    density
        The part about its own centre, index ``side // 2``; all parts of an object have one side and pixel size.
    centre_angstrom
        ``(3,)``, xyz: where that centre lies in the object at angle 0.
    hinge
        What the part turns about; None: it stays.
    """

    density: Volume
    centre_angstrom: Float[Tensor, " 3"]
    hinge: Hinge | None = None


def place(part: RigidPart, angles: Float[Tensor, " n"]) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
    """Turn a part about its hinge by ``angles`` in radians.

    Returns
    -------
    rotations
        ``(n, 3, 3)``, active: from the part as it is stored to the object.
    centres
        ``(n, 3)``, xyz in Angstrom: where the part's centre comes to lie.
    """
    centre = part.centre_angstrom.to(angles)
    if part.hinge is None:
        return torch.eye(3).to(angles).expand(len(angles), 3, 3), centre.expand(len(angles), 3)
    point = part.hinge.point_angstrom.to(angles)
    rotations = from_rotation_vectors(angles[:, None] * part.hinge.axis.to(angles))
    return rotations, rotations @ (centre - point) + point


def part_slices(part: RigidPart) -> SliceFn:
    """Make the Hartley transform of a part about its own centre a function of frequency."""
    return voxel_slices(part.density.voxels, padding=max(2, min(3, _LARGEST_TRANSFORM // part.density.side)))


def assemble(parts: Sequence[RigidPart], angles: Sequence[float]) -> Iterator[Volume]:
    """Yield the volume of the whole object with its moving part at each of ``angles``, in radians.

    Within the sphere of Nyquist's frequency, as the images of
    :func:`scoretomo.simulation.single_particles.noisy_images` are within its disc: they are its projections.
    """
    density = parts[0].density
    frequencies = ball_frequencies(density.side, density.voxels.device)
    slices = [part_slices(part) for part in parts]
    for angle in angles:
        total = frequencies.new_zeros(1, len(frequencies))
        for part, slice_fn in zip(parts, slices, strict=True):
            rotations, centres = place(part, frequencies.new_tensor([angle]))
            turned = slice_coefficients(slice_fn, rotations, frequencies)
            total += translate_coefficients(turned, frequencies, centres / density.pixel_size_angstrom)
        yield Volume(from_coefficients(total, frequencies, density.side)[0], density.pixel_size_angstrom)


def hand_parts(side: int, pixel_size_angstrom: float) -> tuple[RigidPart, RigidPart]:
    """Hand with a moving thumb, after 003, Fig. S2: density 1 inside, edges as of the box; its size goes with the box.

    Angles of 0 to 90 degrees turn the thumb from the plane of the palm to in front of it.
    """
    width = side * pixel_size_angstrom
    middle = thumb_middle()
    hinge = Hinge(torch.tensor(THUMB_HINGE) * width, thumb_axis())
    rest = sample(lambda points, _: thumbless_distance(points), torch.zeros(1, 0), side)
    thumb = sample(lambda points, _: thumb_distance(points + middle), torch.zeros(1, 0), side)
    return (
        RigidPart(Volume(rest[0], pixel_size_angstrom), torch.zeros(3)),
        RigidPart(Volume(thumb[0], pixel_size_angstrom), middle * width, hinge),
    )


def beyond_the_middle(coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Which atoms lie beyond the centre of mass along the longest principal axis: a part to move where none is chosen.

    Of the axis' two ends it is the one with more of the coordinate that the axis is closest to.
    """
    return _along_the_longest(coordinates, weights) > 0


def outer_thirds(
    coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"]
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which atoms are a third of the mass at either end of the longest principal axis: two parts to move.

    The first is that of the end which :func:`beyond_the_middle` takes.
    """
    along = _along_the_longest(coordinates, weights)
    order = along.argsort()
    below = torch.empty_like(weights)
    below[order] = (weights[order].cumsum(0) - weights[order] / 2) / weights.sum()
    return below > 2 / 3, below < 1 / 3


def _along_the_longest(coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Place of each atom along the longest principal axis, from the centre of mass."""
    centred = coordinates - centre_of_mass(coordinates, weights)
    longest = _principal_axes(centred, weights)[:, -1]
    along: Tensor = centred @ (longest * longest[longest.abs().argmax()].sign())
    return along


def hinge_between(coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"], moving: Bool[Tensor, " n"]) -> Hinge:
    """Hinge about which the moving atoms open away from the others.

    It is the middle of the contacts between the two, all pairs of a moving atom and the nearest other one within 5
    Angstrom, or the closest pair. The axis is at right angles to the plane through the hinge and the centres of mass
    of the two, and where these are on one line, along the whole's shortest principal axis instead, as far as that is
    at right angles to the line. At small positive angles the moving part's centre goes away from the other's.
    """
    there, here = coordinates[moving], coordinates[~moving]
    distances, nearest = KDTree(here.numpy()).query(there.numpy())
    touching = torch.from_numpy(distances <= max(distances.min(), _CONTACT_ANGSTROM))
    point = (there[touching] + here[torch.from_numpy(nearest)[touching]]).mean(0) / 2
    to_moving = torch.nn.functional.normalize(centre_of_mass(there, weights[moving]) - point, dim=0)
    to_fixed = torch.nn.functional.normalize(centre_of_mass(here, weights[~moving]) - point, dim=0)
    axis = torch.linalg.cross(to_fixed, to_moving)
    if axis.norm() < _ONE_LINE:
        shortest = _principal_axes(coordinates - centre_of_mass(coordinates, weights), weights)[:, 0]
        axis = shortest - (shortest @ to_moving) * to_moving
    return Hinge(point, torch.nn.functional.normalize(axis, dim=0))


def reach(
    coordinates: Float[Tensor, "n 3"],
    turning: Sequence[tuple[Bool[Tensor, " n"], Hinge]],
    widest_angle: float,
    weights: Float[Tensor, " n"] | None = None,
) -> float:
    """Largest distance of an atom from the origin while parts turn about their hinges, from 0 to an angle in radians.

    With ``weights`` the distance is from the centre of mass, wherever that comes to lie.
    """
    furthest = 0.0
    # every 10 degrees: between them an atom at distance r from the hinge is at most 0.004 r further out
    angles = torch.linspace(0, widest_angle, 2 + int(abs(widest_angle) / math.radians(10)))
    for state in product(angles, repeat=len(turning)):
        placed = coordinates.clone()
        for (moving, hinge), angle in zip(turning, state, strict=True):
            rotation = from_rotation_vectors(angle * hinge.axis)
            placed[moving] = (coordinates[moving] - hinge.point_angstrom) @ rotation.T + hinge.point_angstrom
        if weights is not None:
            placed -= centre_of_mass(placed, weights)
        furthest = max(furthest, float(placed.norm(dim=1).max()))
    return furthest


def centre_of_mass(coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"]) -> Float[Tensor, " 3"]:
    """Weighted mean of coordinates."""
    return (weights[:, None] * coordinates).sum(0) / weights.sum()


def _principal_axes(centred: Float[Tensor, "n 3"], weights: Float[Tensor, " n"]) -> Float[Tensor, "3 3"]:
    """Columns: unit vectors along the principal axes, the shortest first."""
    axes: Tensor = torch.linalg.eigh((weights[:, None] * centred).T @ centred).eigenvectors
    return axes
