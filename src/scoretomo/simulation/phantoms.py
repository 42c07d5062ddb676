"""Objects that move, as continuous shapes that are evaluated on any grid in any orientation.

The box and the capsid are those of 001, Fig. 3. The hand stands for the one of 003, Fig. S2, which is not described
there beyond that picture; its thumb moves.

A shape is a signed distance: negative inside, positive outside, zero on its surface. Lengths are fractions of the
image's field of view, so that the same object is sampled whatever the number of pixels; points are xyz from its centre.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

SignedDistance = Callable[[Float[Tensor, "n 3"], Float[Tensor, " k"]], Float[Tensor, " n"]]
"""``(points (n, 3), conformation (k,)) -> distances (n,)``, all in fractions of the field of view."""

# Every conformation stays within 0.413 of the field of view, which leaves room for the smooth edge inside the
# sphere of radius ``side / 2 - 1`` from 32 pixels on; there the walls and lids are 2.6 voxels thick.
_BOX_HALF_WIDTH = 0.178
_BOX_HALF_HEIGHT = 0.224
_BOX_WALL = 0.08
BOX_LID_REACH = 0.144
"""Furthest point of a lid from its hinge, fractions of the field of view."""

_CAPSID_VERTEX = 0.25  # radius of the shell's vertices
_CAPSID_WALL = 0.07
_ARM_LENGTH = 0.125
_ARM_RADIUS = 0.04
# Angle between a closed arm and the outward normal. The edge it comes to lie along leaves the vertex at 122 degrees.
_CLOSED_ARM = math.radians(105)
CAPSID_ARM_TRAVEL = _CLOSED_ARM * (_ARM_LENGTH + _ARM_RADIUS)
"""How far the tip of an arm goes from closed to open, fractions of the field of view."""
# The neighbouring vertex that each vertex's arm folds towards. Of the 120 symmetry operations of the icosahedron only
# the identity keeps more than 6 of these arrows, and no two arms fold onto the same edge.
_FOLDS_TOWARDS = [4, 4, 5, 1, 10, 7, 9, 2, 0, 2, 3, 1]

_PALM_CENTRE, _PALM_HALF_WIDTHS = (0.0, -0.09, 0.0), (0.14, 0.13, 0.042)
_PALM_ROUNDING = 0.03
# Base and tip of each finger. They curl towards positive z by different amounts: without the thumb the hand has no
# symmetry and no mirror plane either.
_FINGERS = (
    ((-0.108, 0.02, 0.0), (-0.156, 0.21, 0.048)),
    ((-0.036, 0.02, 0.0), (-0.054, 0.262, 0.085)),
    ((0.036, 0.02, 0.0), (0.054, 0.28, 0.062)),
    ((0.108, 0.02, 0.0), (0.158, 0.235, 0.02)),
)
_FINGER_RADIUS = 0.036
# The thumb turns about a ball joint at the edge of the palm, from a direction in the plane of the palm to one in
# front of it. The ball belongs to the palm, and what the thumb would share with it is cut off the thumb: the same cut
# at all angles, so that the two fit together without a gap or an overlap. Beyond 90 degrees the thumb enters the palm.
THUMB_HINGE = (0.16, -0.12, 0.03)
"""Centre of the hand's ball joint, xyz, fractions of the field of view."""
_BALL_RADIUS = 0.058
_THUMB_STRETCHED, _THUMB_FOLDED = (0.8, 0.6, 0.0), (-0.18, 0.24, 0.9539392)
_THUMB_LENGTH, _THUMB_RADIUS = 0.2, 0.04
WIDEST_THUMB_DEGREES = 90.0
"""To which angle the thumb turns without entering the palm."""

# Points that are evaluated at once: the temporary arrays of one chunk stay near the processor.
_POINTS_AT_ONCE = 2**16


def box(
    angles: Float[Tensor, "b 2"], side: int, rotations: Float[Tensor, "b 3 3"] | None = None, *, oversampling: int = 2
) -> Float[Tensor, "b side side side"]:
    """Box with four lids: density 1 in the walls and lids, 0 elsewhere (001, Fig. 3 left).

    The core is a square prism along z, open at both ends (symmetry D4h). At the top two lids are hinged to the two
    edges that face along x, and each covers half of the opening; the lids at the bottom are their mirror images.

    Parameters
    ----------
    angles
        ``(b, 2)`` radians: of the lids on the side of positive and of negative x. 0 is closed, pi / 2 prolongs
        the wall, pi lies flat outside.
    side
        Edge of the volumes in voxels; their centre is index ``side // 2``.
    rotations
        ``(b, 3, 3)``: each box is turned by its rotation before it is sampled, without interpolation.
    oversampling
        Samples per voxel and axis, of which the mean is taken.

    Returns
    -------
    Tensor
        ``(b, side, side, side)``, axes ``[z, y, x]``.
    """
    return sample(box_distance, angles, side, rotations, oversampling=oversampling)


def capsid(
    opening: Float[Tensor, " b"], side: int, rotations: Float[Tensor, "b 3 3"] | None = None, *, oversampling: int = 2
) -> Float[Tensor, "b side side side"]:
    """Virus-like shell with twelve arms outside: density 1 in the shell and arms, 0 elsewhere (001, Fig. 3 right).

    The core is a hollow icosahedron with two-fold axes along x, y and z; an arm is hinged to each of its vertices. All
    arms move together: open, they point straight outwards and share the symmetry of the core; to close, each folds
    down towards one neighbouring vertex, which is another direction for each, so that the whole has no symmetry.

    Parameters
    ----------
    opening
        ``(b,)``: 0 is closed, 1 is open; the angle of the arms is linear in it.
    side, rotations, oversampling
        As for :func:`box`.

    Returns
    -------
    Tensor
        ``(b, side, side, side)``, axes ``[z, y, x]``.
    """
    return sample(capsid_distance, opening[:, None], side, rotations, oversampling=oversampling)


def sample(
    shape: SignedDistance,
    conformations: Float[Tensor, "b k"],
    side: int,
    rotations: Float[Tensor, "b 3 3"] | None = None,
    *,
    oversampling: int = 2,
) -> Float[Tensor, "b side side side"]:
    """Volumes of a shape in each of its conformations, turned by ``rotations`` about index ``side // 2``.

    The density falls linearly from 1 to 0 between one voxel inside and one voxel outside the surface. With this edge a
    volume that is turned by trilinear interpolation agrees with one sampled in its turned frame; with a sharper one
    it does not. Each voxel is the mean of ``oversampling`` samples per axis.
    """
    if rotations is None:
        rotations = torch.eye(3, dtype=conformations.dtype, device=conformations.device).expand(
            len(conformations), 3, 3
        )
    points = _voxel_centres(side, conformations)
    # sub-samples lie symmetrically about the centre of their voxel
    within = ((torch.arange(oversampling).to(points) + 0.5) / oversampling - 0.5) / side
    samples = torch.cartesian_prod(within, within, within).view(-1, 3)
    # no shape's distance changes by more than the way gone, so that voxels further than this from the surface are even
    reach = 1 / side + float(samples.norm(dim=-1).max())
    volumes = conformations.new_empty(len(conformations), side**3)
    for volume, conformation, rotation in zip(volumes, conformations, rotations, strict=True):
        # x_object = R^T x_image, written for row vectors
        for part, voxels in zip(points.split(_POINTS_AT_ONCE), volume.split(_POINTS_AT_ONCE), strict=True):
            distance = shape(part @ rotation, conformation)
            voxels.copy_((0.5 - distance * side / 2).clamp(0, 1))
            near = (distance.abs() < reach).nonzero().flatten()
            fine = ((part[near, None] + samples) @ rotation).view(-1, 3)
            density = (0.5 - shape(fine, conformation) * side / 2).clamp(0, 1)
            voxels[near] = density.view(-1, len(samples)).mean(-1)
    return volumes.view(-1, side, side, side)


def _voxel_centres(side: int, like: Tensor) -> Float[Tensor, "p 3"]:
    """Points of a volume ``[z, y, x]``, xyz, in fractions of the field of view from index ``side // 2``."""
    axis = (torch.arange(side).to(like) - side // 2) / side
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1).view(-1, 3)


def box_distance(points: Float[Tensor, "n 3"], angles: Float[Tensor, " 2"]) -> Float[Tensor, " n"]:
    """Signed distance from the box with its lids at two ``angles`` in radians, see :func:`box`."""
    x, y, z = points.unbind(-1)
    distance = prism_distance(points)
    for direction, angle in zip((1, -1), angles, strict=True):
        # from the hinge, in the middle of the wall's rim; the mirror at z = 0 makes the lids at the bottom
        inwards = _BOX_HALF_WIDTH - _BOX_WALL / 2 - direction * x
        upwards = z.abs() - (_BOX_HALF_HEIGHT - _BOX_WALL / 2)
        along = inwards * angle.cos() + upwards * angle.sin()
        across = upwards * angle.cos() - inwards * angle.sin()
        half_length = (_BOX_HALF_WIDTH - _BOX_WALL / 2) / 2  # closed lids meet at x = 0
        lid = torch.maximum((along - half_length).abs() - half_length, across.abs() - _BOX_WALL / 2)
        distance = torch.minimum(distance, lid)
    return torch.maximum(distance, y.abs() - _BOX_HALF_WIDTH)  # the lids are as wide as the core


def prism_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Signed distance from the core of the box: four walls about the z axis, open at both ends."""
    x, y, z = points.unbind(-1)
    from_wall = (torch.maximum(x.abs(), y.abs()) - (_BOX_HALF_WIDTH - _BOX_WALL / 2)).abs() - _BOX_WALL / 2
    return torch.maximum(from_wall, z.abs() - _BOX_HALF_HEIGHT)


def capsid_distance(points: Float[Tensor, "n 3"], opening: Float[Tensor, " 1"]) -> Float[Tensor, " n"]:
    """Signed distance from the capsid with its arms between closed (0) and open (1), see :func:`capsid`."""
    normals = icosahedron_vertices().to(points)
    # towards the neighbour, at right angles to the normal: the cosine between neighbours is 1 / sqrt(5)
    folding = (normals[_FOLDS_TOWARDS] * math.sqrt(5) - normals) / 2
    angle = _CLOSED_ARM * (1 - opening)
    arms = normals * angle.cos() + folding * angle.sin()
    hinges = _CAPSID_VERTEX * normals
    # (n, 12): along each arm from its hinge, and squared distance from the nearest point of its axis
    along = points @ arms.mT - (hinges * arms).sum(-1)
    nearest = along.clamp(0, _ARM_LENGTH)
    to_hinge = points.square().sum(-1, keepdim=True) - 2 * points @ hinges.mT + _CAPSID_VERTEX**2
    to_arm = to_hinge + nearest * (nearest - 2 * along)
    return torch.minimum(shell_distance(points), to_arm.amin(-1).clamp(min=0).sqrt() - _ARM_RADIUS)


def shell_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Signed distance from the core of the capsid: the icosahedral shell without its arms."""
    inverse = (math.sqrt(5) - 1) / 2  # of the golden ratio
    faces = [(1.0, a, b) for a in (1.0, -1.0) for b in (1.0, -1.0)]  # of each pair of opposite faces, one normal
    for a in (inverse, -inverse):
        faces += [(a, 0.0, 1 + inverse), (0.0, 1 + inverse, a), (1 + inverse, a, 0.0)]
    normals = torch.nn.functional.normalize(points.new_tensor(faces), dim=-1)
    # distance of the faces from the centre, for vertices at radius 1
    inradius = math.sqrt((5 + 2 * math.sqrt(5)) / 15)
    outside = (points @ normals.mT).abs().amax(-1) - inradius * _CAPSID_VERTEX
    return (outside + _CAPSID_WALL / 2).abs() - _CAPSID_WALL / 2


def icosahedron_vertices() -> Float[Tensor, "12 3"]:
    """Return the unit vectors to the vertices of the icosahedron whose two-fold axes include x, y and z."""
    golden = (1 + math.sqrt(5)) / 2
    rectangle = [
        (0.0, a, b * golden) for a in (1, -1) for b in (1, -1)
    ]  # its three cyclic permutations hold all twelve
    corners = [corner[k:] + corner[:k] for k in (0, 1, 2) for corner in rectangle]
    return torch.nn.functional.normalize(torch.tensor(corners), dim=-1)


def thumbless_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Signed distance from the part of the hand that stays: palm, fingers along y and the ball joint at positive x."""
    # a box with round edges: a smaller one, and all within the radius of its edges
    smaller = points.new_tensor(_PALM_HALF_WIDTHS) - _PALM_ROUNDING
    beyond = (points - points.new_tensor(_PALM_CENTRE)).abs() - smaller
    outside: Tensor = beyond.clamp(min=0).norm(dim=-1)
    nearest = outside + beyond.amax(-1).clamp(max=0) - _PALM_ROUNDING
    for base, tip in _FINGERS:
        nearest = torch.minimum(nearest, _rod_distance(points, base, points.new_tensor(tip), _FINGER_RADIUS))
    return torch.minimum(nearest, _ball_distance(points))


def thumb_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Signed distance from the part of the hand that moves, at angle 0 and without what the ball joint takes of it."""
    tip = points.new_tensor(THUMB_HINGE) + _THUMB_LENGTH * points.new_tensor(_THUMB_STRETCHED)
    return torch.maximum(_rod_distance(points, THUMB_HINGE, tip, _THUMB_RADIUS), -_ball_distance(points))


def thumb_axis() -> Float[Tensor, " 3"]:
    """Return the unit vector about which the thumb turns by positive angles."""
    axis: Tensor = torch.linalg.cross(torch.tensor(_THUMB_STRETCHED), torch.tensor(_THUMB_FOLDED))
    return axis


def thumb_middle() -> Float[Tensor, " 3"]:
    """Return the middle of the thumb at angle 0, xyz, fractions of the field of view."""
    return torch.tensor(THUMB_HINGE) + _THUMB_LENGTH / 2 * torch.tensor(_THUMB_STRETCHED)


def _ball_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    from_centre: Tensor = (points - points.new_tensor(THUMB_HINGE)).norm(dim=-1)
    return from_centre - _BALL_RADIUS


def _rod_distance(
    points: Float[Tensor, "n 3"], start: tuple[float, float, float], end: Float[Tensor, " 3"], radius: float
) -> Float[Tensor, " n"]:
    """Signed distance from a rod with round ends, whose axis goes from ``start`` to ``end``."""
    from_start = points - points.new_tensor(start)
    axis = end - points.new_tensor(start)
    along = (from_start @ axis / (axis @ axis)).clamp(0, 1)
    from_axis: Tensor = (from_start - along[:, None] * axis).norm(dim=-1)
    return from_axis - radius
