"""Rotation matrices: active, on xyz column vectors, object frame to microscope frame."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_R3_RATIO = 1.2207440846057596  # root of x^4 = x + 1, the golden ratio of three dimensions


def random_rotations(
    *shape: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "*shape 3 3"]:
    """Draw rotations uniformly (Haar measure) from SO(3), as unit quaternions of normal deviates.

    The deviates are drawn on the generator's device and moved, so that a seed gives the same rotations everywhere.
    """
    source = generator.device if generator is not None else device
    quaternions = torch.randn(*shape, 4, generator=generator, device=source).to(device)
    return from_quaternions(quaternions)


def low_discrepancy_rotations(
    start: Float[Tensor, "*batch 3"], first: int, count: int
) -> Float[Tensor, "*batch count 3 3"]:
    """Members of a sequence that fills SO(3) more evenly than independent draws do, from its beginning to any length.

    The additive recurrence of Roberts (2018, "R3") on the unit cube, which Shoemake's map (1992) takes to unit
    quaternions without changing volumes. With a start that is uniform on the cube, each member is uniform on SO(3).

    Parameters
    ----------
    start
        ``(..., 3)``, float64, where the recurrence begins in the unit cube.
    first, count
        The members ``first`` to ``first + count - 1``, counted from 0.
    """
    powers = torch.arange(1, 4, device=start.device)
    members = torch.arange(first, first + count, device=start.device)
    cube = (start[..., None, :] + members[:, None] * _R3_RATIO ** -powers.double()) % 1
    height, (angle, other) = cube[..., 0], (2 * math.pi * cube[..., 1:]).unbind(-1)
    within, without = height.sqrt(), (1 - height).sqrt()
    quaternions = (within * other.cos(), without * angle.sin(), without * angle.cos(), within * other.sin())
    return from_quaternions(torch.stack(quaternions, dim=-1).float())


def from_quaternions(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions ``(w, x, y, z)``, which need not be normalised."""
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def from_rotation_vectors(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of rotation vectors: axis times angle in radians (exponential map)."""
    half = vectors.norm(dim=-1, keepdim=True) / 2
    # sinc keeps the map smooth through the identity, where an axis does not exist
    return from_quaternions(torch.cat([half.cos(), vectors / 2 * torch.sinc(half / math.pi)], dim=-1))


def about_z(angles: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations by ``angles`` (radians) about z, the in-plane rotations of an image: x towards y."""
    return from_rotation_vectors(torch.stack([torch.zeros_like(angles), torch.zeros_like(angles), angles], dim=-1))


def about_y(angles: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations by ``angles`` (radians) about y: z towards x."""
    return from_rotation_vectors(torch.stack([torch.zeros_like(angles), angles, torch.zeros_like(angles)], dim=-1))


def from_relion_euler(angles_degrees: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations of RELION's ``(rot, tilt, psi)`` in degrees (ZYZ; RELION's matrix maps object to image frame)."""
    rot, tilt, psi = torch.deg2rad(angles_degrees.double()).unbind(-1)
    return (about_z(-psi) @ about_y(-tilt) @ about_z(-rot)).to(angles_degrees.dtype)


def to_relion_euler(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """RELION's ``(rot, tilt, psi)`` in degrees, tilt in 0 to 180; psi is 0 where tilt is 0 or 180."""
    matrix = rotations.double()
    sine = torch.hypot(matrix[..., 2, 0], matrix[..., 2, 1])
    tilt = torch.atan2(sine, matrix[..., 2, 2])
    # at the poles only rot + psi (or their difference) is defined: all of it goes to rot
    rot_at_pole = torch.atan2(-matrix[..., 1, 0], matrix[..., 1, 1])
    rot = torch.where(sine > 1e-6, torch.atan2(matrix[..., 2, 1], matrix[..., 2, 0]), rot_at_pole)
    # R about_z(rot) e_y = (sin psi, cos psi, 0): beside a pole, where rounding moves rot, psi makes up for it
    turned = matrix[..., 1] * rot.cos()[..., None] - matrix[..., 0] * rot.sin()[..., None]
    psi = torch.atan2(turned[..., 0], turned[..., 1])
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=-1)).to(rotations.dtype)


def mirror_matrix(like: Tensor) -> Float[Tensor, "3 3"]:
    """Matrix that mirrors z, on the device and of the type of ``like``: it takes an object to its other hand."""
    return torch.diag(torch.tensor([1.0, 1.0, -1.0])).to(like)


def angle_between(first: Float[Tensor, "*batch 3 3"], second: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Geodesic distance of two rotations in degrees, 0 to 180.

    From the Frobenius norm, which stays accurate near zero; in float32 angles near 180 are good to 0.1 degrees.
    """
    chord = torch.linalg.matrix_norm(first - second) / math.sqrt(8)
    return torch.rad2deg(2 * torch.asin(chord.clamp(max=1)))
