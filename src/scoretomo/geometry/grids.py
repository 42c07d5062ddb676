"""Near-uniform grids on the sphere (HEALPix, by its formula) and on SO(3) (Hopf fibration over it)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rotations import about_y, about_z

# (Gorski et al. 2005, Fig. 4) ring offset and longitude offset of the twelve base faces
_FACE_RING = torch.tensor([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
_FACE_LONGITUDE = torch.tensor([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])


def healpix_angles(order: int, pixels: Int[Tensor, "*batch"] | None = None) -> Float[Tensor, "*batch 2"]:
    """Polar angle and longitude (radians) of HEALPix pixel centres in nested order, Gorski et al. 2005.

    ``order`` 0, 1, 2, 3 has 12, 48, 192, 768 pixels; children of pixel ``p`` are ``4 p`` to ``4 p + 3``.
    """
    side = 2**order
    if pixels is None:
        pixels = torch.arange(12 * side * side)
    face, inside = pixels // (side * side), pixels % (side * side)
    x, y = torch.zeros_like(inside), torch.zeros_like(inside)
    for bit in range(order):  # x and y are the even and odd bits
        x |= ((inside >> (2 * bit)) & 1) << bit
        y |= ((inside >> (2 * bit + 1)) & 1) << bit
    ring = _FACE_RING.to(pixels.device)[face] * side - x - y - 1
    in_ring = torch.minimum(ring, 4 * side - ring).clamp(max=side)  # a quarter of the ring's pixels
    cap = 1 - in_ring.double() ** 2 / (3 * side * side)
    height = torch.where(
        ring < side, cap, torch.where(ring > 3 * side, -cap, (2 * side - ring).double() * 2 / 3 / side)
    )
    shifted = (ring < side) | (ring > 3 * side) | ((ring - side) % 2 == 0)
    column = (_FACE_LONGITUDE.to(pixels.device)[face] * in_ring + x - y + 1 + torch.where(shifted, 0, 1)) // 2
    longitude = (column - torch.where(shifted, 0.5, 1.0)) * (math.pi / 2) / in_ring
    return torch.stack([torch.acos(height), longitude % (2 * math.pi)], dim=-1).float()


def so3_grid(order: int, cells: Int[Tensor, "*batch"] | None = None) -> Float[Tensor, "*batch 3 3"]:
    """Grid of rotations with a spacing of about 60, 30, 15, 7.5 degrees for ``order`` 0, 1, 2, 3.

    The product of the HEALPix directions and 6 times 2^order equal in-plane angles: 72, 576, 4608, 36864 rotations,
    the base grids of cryoDRGN (576) and cryoDRGN2 (4608). Row ``direction * in_plane + angle``; consecutive rows
    share a viewing direction and differ by a rotation of the image. With ``cells``, these rows only.
    """
    count = 6 * 2**order
    if cells is None:
        cells = torch.arange(72 * 8**order)
    in_plane = (cells % count + 0.5) * (2 * math.pi / count)
    rotations: Tensor = about_z(in_plane) @ _directions(order, cells // count)
    return rotations


def so3_children(order: int, cells: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch 8"]:
    """Rows of ``so3_grid(order + 1)`` that subdivide the cells of rows of ``so3_grid(order)``; each has one parent.

    Four directions with two in-plane angles each. Angles count from the meridian, which turns between directions
    about a pole; the children are those whose angle is that of the parent when its image is tilted and not turned.
    """
    count = 6 * 2**order
    parent = cells // count
    directions = parent[..., None] * 4 + torch.arange(4, device=cells.device)
    tilt = _directions(order + 1, directions) @ _directions(order, parent)[..., None, :, :].mT
    turn = torch.atan2(tilt[..., 1, 0] - tilt[..., 0, 1], tilt[..., 0, 0] + tilt[..., 1, 1])
    first = (cells % count)[..., None] * 2 - (turn * count / math.pi).round().long()
    angles = (first[..., None] + torch.arange(2, device=cells.device)) % (2 * count)
    children: Tensor = (directions[..., None] * 2 * count + angles).flatten(-2)
    return children


def _directions(order: int, pixels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations that turn the viewing directions of pixels onto z, along the meridian."""
    polar, longitude = healpix_angles(order, pixels).unbind(-1)
    directions: Tensor = about_y(-polar) @ about_z(-longitude)
    return directions
