"""Images and central slices in polar coordinates, of many volumes at once, and volumes from slices.

On rings of frequencies a rotation of the image is a cyclic shift, so that all in-plane angles are compared by one
Fourier transform along the rings. A plane through the origin belongs to two viewing directions that face each other; in
polar coordinates the slice of the one is that of the other read backwards. So half of the directions are enough.

Values are Hartley coefficients. Frequencies are in Fourier pixels, cycles per box, and angles run from x towards y.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from ..geometry.grids import healpix_angles
from ..geometry.rotations import about_y, about_z
from .slices import interpolation_envelope

# Lattice points per Fourier pixel: as if the volume were zero-padded to twice its side.
_PADDING = 2
# Viewing directions this near to the equator are told apart from those that face them by their longitude.
_EQUATOR = 1e-5


def polar_coefficients(
    images: Float[Tensor, "n side side"], rings: int, angles: int
) -> Float[Tensor, "n rings angles"]:
    """Hartley transform of images on the rings 1 to ``rings``, by its sum.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, origin at ``side // 2``.
    rings
        Rings of 1, 2, ... Fourier pixels; less than half the side.
    angles
        Samples on each ring, at multiples of ``2 pi / angles``.
    """
    side = images.shape[-1]
    x, y = ring_points(rings, angles, images)
    axis = torch.arange(side).to(images) - side // 2
    turns = 2 * math.pi / side * (y[:, None, None] * axis[:, None] + x[:, None, None] * axis)
    waves = (turns.cos() + turns.sin()).flatten(1)
    coefficients: Tensor = (images.flatten(1) @ waves.T).unflatten(1, (rings, angles))
    return coefficients


def shift_polar(
    coefficients: Float[Tensor, "*batch rings angles"], shifts: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch rings angles"]:
    """Hartley coefficients of images moved by ``shifts``, ``[x, y]`` as parts of the box, positive to larger index.

    ``H'(k) = cos(2 pi k.t) H(k) + sin(2 pi k.t) H(-k)``, as in :func:`.slices.translate_coefficients`.
    """
    rings, angles = coefficients.shape[-2:]
    points = torch.stack(ring_points(rings, angles, coefficients))
    turns = (2 * math.pi * shifts @ points).unflatten(-1, (rings, angles))
    opposite = coefficients.roll(angles // 2, -1)
    moved: Tensor = turns.cos() * coefficients + turns.sin() * opposite
    return moved


def ring_points(rings: int, angles: int, like: Tensor) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """X and y of the samples of all rings, in Fourier pixels."""
    angle = torch.arange(angles).to(like) * (2 * math.pi / angles)
    radius = torch.arange(1, rings + 1).to(like)[:, None]
    return (radius * angle.cos()).flatten(), (radius * angle.sin()).flatten()


@dataclass(frozen=True, eq=False)
class PolarPlanes:
    """Planes through the origin of Fourier space: half of the directions of a HEALPix grid, rings and angles in each.

    A volume's transform is sampled on a lattice of half a Fourier pixel, by products with matrices of waves, and
    interpolated trilinearly; :meth:`insert` is the exact adjoint of that interpolation.

    Attributes
    ----------
    order
        Of the HEALPix grid: ``6 * 4**order`` planes.
    rings, angles
        Samples of each plane, see :func:`polar_coefficients`; ``angles`` is even.
    side
        Edge of the volumes in voxels; the box is that of the images.
    directions
        ``(planes, 3, 3)``: object to microscope frame, in-plane angle 0.
    """

    order: int
    rings: int
    angles: int
    side: int
    directions: Float[Tensor, "planes 3 3"]

    def __len__(self) -> int:
        return len(self.directions)

    def slices(self, volumes: Float[Tensor, "s n n n"], rings: int) -> Float[Tensor, "s rings planes angles"]:
        """Hartley transform of volumes on the lowest rings of all planes."""
        table = self._spectra(volumes / self._envelope).flatten(1).T.contiguous()
        points = rings * len(self) * self.angles
        cells, weights = self._corners
        values = torch.nn.functional.embedding_bag(
            cells[:points], table, per_sample_weights=weights[:points], mode="sum"
        )
        slices: Tensor = values.T.unflatten(1, (rings, len(self), self.angles))
        return slices

    def insert(self, values: Float[Tensor, "s rings planes angles"]) -> Float[Tensor, "s cells"]:
        """Sum values on all rings of all planes up on the lattice."""
        cells, starts, weights = self._points_of_cells
        table = values.flatten(1).T.contiguous()
        return torch.nn.functional.embedding_bag(cells, table, starts, per_sample_weights=weights, mode="sum").T

    def volumes(self, lattices: Float[Tensor, "s cells"]) -> Float[Tensor, "s n n n"]:
        """Volumes whose transform has given values on the lattice, and is zero beyond it."""
        edge = 2 * self._reach + 1
        return self._waves_back(lattices.unflatten(1, (edge, edge, edge))) / self._envelope

    def rotations(
        self, plane: Int[Tensor, "*batch"], facing: Bool[Tensor, "*batch"], in_plane: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch 3 3"]:
        """Rotations that see a plane from its direction, or from the direction that faces it, turned in the image.

        Parameters
        ----------
        plane
            Which plane.
        facing
            Whether it is seen from the other side.
        in_plane
            Angle in radians.
        """
        turned_over = torch.tensor([1.0, -1.0, -1.0]).to(self.directions)[:, None]
        directions = self.directions[plane]
        directions = torch.where(facing[..., None, None], turned_over * directions, directions)
        rotations: Tensor = about_z(in_plane) @ directions
        return rotations

    @property
    def _reach(self) -> int:
        return _PADDING * self.rings + 1

    @cached_property
    def _envelope(self) -> Float[Tensor, "n n n"]:
        return interpolation_envelope(self.side, _PADDING * self.side, self.directions)

    @cached_property
    def _waves(self) -> Complex[Tensor, "edge n"]:
        lattice = torch.arange(-self._reach, self._reach + 1).to(self.directions)
        axis = torch.arange(self.side).to(self.directions) - self.side // 2
        turns = -2 * math.pi / (_PADDING * self.side) * lattice[:, None] * axis
        return torch.polar(torch.ones_like(turns), turns)

    def _spectra(self, volumes: Float[Tensor, "s n n n"]) -> Float[Tensor, "s edge edge edge"]:
        """Hartley transform on the lattice."""
        values = volumes.to(self._waves.dtype)
        for _ in range(3):  # each turn transforms the last axis and brings it to the front
            values = (values @ self._waves.T).movedim(-1, 1)
        return values.real - values.imag

    def _waves_back(self, lattices: Float[Tensor, "s edge edge edge"]) -> Float[Tensor, "s n n n"]:
        """Hartley transform from the lattice to the voxels, scaled to be the inverse on a full lattice."""
        values = lattices.to(self._waves.dtype)
        for _ in range(3):
            values = (values @ self._waves).movedim(-1, 1)
        return (values.real - values.imag) / (_PADDING * self.side) ** 3

    @cached_property
    def _corners(self) -> tuple[Int[Tensor, "points 8"], Float[Tensor, "points 8"]]:
        """Cells about every point, rings first, and their trilinear weights."""
        x, y = (
            each.view(self.rings, 1, self.angles, 1) for each in ring_points(self.rings, self.angles, self.directions)
        )
        points = x * self.directions[:, None, 0] + y * self.directions[:, None, 1]  # R^T (x, y, 0)
        points = points.reshape(-1, 3) * _PADDING + self._reach
        below = points.floor()
        part = (points - below)[:, None]
        corner = torch.cartesian_prod(*[torch.arange(2)] * 3).to(below.device)  # x, y, z
        edge = 2 * self._reach + 1
        cells = (below.long()[:, None] + corner) @ torch.tensor([1, edge, edge**2]).to(below.device)
        weights = torch.where(corner == 1, part, 1 - part).prod(-1)
        return cells, weights

    @cached_property
    def _points_of_cells(self) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " cells"], Float[Tensor, " pairs"]]:
        """Points that lie about each cell of the lattice, cell by cell; where those of a cell begin; and weights."""
        cells, weights = (each.flatten() for each in self._corners)
        by_cell = cells.argsort(stable=True)
        counts = torch.bincount(cells, minlength=(2 * self._reach + 1) ** 3)
        return by_cell // 8, counts.cumsum(0) - counts, weights[by_cell]


@lru_cache(maxsize=16)
def polar_planes(order: int, rings: int, angles: int, side: int, device: torch.device | str = "cpu") -> PolarPlanes:
    """Make the planes of a HEALPix grid; the same again for the same arguments."""
    polar, longitude = healpix_angles(order).to(device).unbind(-1)
    # of two directions that face each other, the one that is north, or east on the equator
    on_equator = polar.cos().abs() <= _EQUATOR
    kept = (polar.cos() > _EQUATOR) | (on_equator & (longitude < math.pi - _EQUATOR))
    directions = about_y(-polar[kept]) @ about_z(-longitude[kept])
    return PolarPlanes(order, rings, angles, side, directions)
