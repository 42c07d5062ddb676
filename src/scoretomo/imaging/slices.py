"""Central slices: images and volumes as Hartley coefficients on a disc of frequencies (Fourier-slice theorem).

Every function here works on the full disc. A Hartley transform has no Friedel partner to leave out: its values at k and
-k are two independent real numbers that hold what the complex Fourier coefficient holds.
"""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .fourier import hartley, recentre_crop
from .slices_cpu import bordered, slices_cpu, sum_slices_cpu

# Maps frequencies (..., 3), xyz in cycles per pixel in the object frame, to a volume's Hartley transform there (...).
# One of b volumes maps (b, ..., 3), a row to each volume, or (1, ..., 3), the same row to all of them, to (b, ...).
SliceFn = Callable[[Tensor], Tensor]

# Points at which a lattice asks a slice function for its values in one call.
_POINTS_AT_ONCE = 2**15


def voxel_slices(volume: Float[Tensor, "*volumes n n n"], padding: int = 2, *, scale: float = 1.0) -> SliceFn:
    """Make the Hartley transform of a voxel grid, or of several, a function of frequency.

    The volume is zero-padded, transformed, and interpolated trilinearly. Interpolation multiplies the object by
    ``sinc^2`` of its distance from the origin on each axis; the volume is divided by that first, so that slices have
    the amplitude of :func:`scoretomo.imaging.projection.project`.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``, origin at ``n // 2``; or ``(b, n, n, n)``.
    padding
        The transform has ``padding * n`` samples on each axis. More holds down the aliases of interpolation: the wave
        of a voxel ``n / 4`` from the origin is wrong by 2 % of its amplitude (rms) at 2, by 0.9 % at 3.
    scale
        Edge of a voxel over that of a pixel: frequencies are in cycles per pixel, the volume is sampled in voxels.

    Returns
    -------
    SliceFn
        Zero beyond 0.5 cycles per voxel.
    """
    side, padded = volume.shape[-1], padding * volume.shape[-1]
    flattened = volume / interpolation_envelope(side, padded, volume)
    return _Lattice(hartley(recentre_crop(flattened, padded, 3), 3), padded * scale)


def interpolation_envelope(side: int, padded: int, like: Tensor) -> Float[Tensor, "n n n"]:
    """Give what trilinear interpolation of a transform of ``padded`` samples along each axis multiplies a volume by."""
    axis = torch.arange(side).to(like) - side // 2
    factor = torch.sinc(axis / padded) ** 2
    return factor[:, None, None] * factor[:, None] * factor


@torch.no_grad()
def lattice_slices(slice_fn: SliceFn, side: int, radius: float, device: torch.device | str = "cpu") -> SliceFn:
    """Ask a slice function for its values on a lattice, once, and interpolate between them from then on.

    What a network costs is then ``4 / 3 pi (2 radius)^3`` points and no longer rotations times points of the disc.
    Spacing is half a Fourier pixel, so that neighbours know of each other: an object that fills the box turns their
    phases by up to a quarter of a period, and nothing keeps a network's object in the box. The values are interpolated
    trilinearly after ``1 - (second difference) / 12`` along each axis, which undoes the damping by ``sinc^2`` that
    interpolation brings to second order. The error (rms) is 1.5 % of the amplitude where the object lies within a
    quarter of the box from its centre, 6 % where it fills the sphere in the box (4 and 14 % without the correction).

    Parameters
    ----------
    slice_fn
        Of one volume or of ``b``; it is called with ``(1, points, 3)`` and gives ``(1, points)`` or ``(b, points)``.
    side
        Edge of the images, and of the box that holds the object, in pixels.
    radius
        Radius of the ball within which values are wanted, in Fourier pixels.

    Returns
    -------
    SliceFn
        Of as many volumes as ``slice_fn``, without a gradient, for frequencies within ``radius``.
    """
    reach = math.ceil(2 * radius) + 2  # half a pixel beyond the cells that the ball touches, for the differences
    axis = torch.arange(-reach, reach + 1, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x**2 + y**2 + z**2).sqrt() <= 2 * radius + math.sqrt(3) + 1
    points = torch.stack([x[inside], y[inside], z[inside]], dim=-1) / (2 * side)
    values = torch.cat([slice_fn(part[None]) for part in points.split(_POINTS_AT_ONCE)], dim=-1)
    lattices = values.new_zeros(len(values), *inside.shape)
    lattices[:, inside] = values
    for dim in (1, 2, 3):
        lattices = lattices - (lattices.roll(1, dim) + lattices.roll(-1, dim) - 2 * lattices) / 12
    return _Lattice(lattices, 2.0 * side)


class _Lattice:
    """Values on a lattice, ``per_cycle`` samples to the cycle per pixel, as a slice function; zero beyond its edge."""

    def __init__(self, lattices: Float[Tensor, "*volumes n n n"], per_cycle: float) -> None:
        self.count, self.size, self.per_cycle = lattices[..., 0, 0, 0].numel(), lattices.shape[-1], per_cycle
        self.samples = lattices.view(self.count, 1, self.size, self.size, self.size)

    @cached_property
    def bordered(self) -> Tensor | None:
        """For the compiled slices, where there are any; a copy, which fits that want gradients need not make."""
        compiled = self.samples.device.type == "cpu" and self.samples.dtype == torch.float32
        return bordered(self.samples[:, 0].detach()) if compiled else None

    def __call__(self, coordinates: Tensor) -> Tensor:
        if self.count > 1:
            coordinates = coordinates.expand(self.count, *coordinates.shape[1:])
        # the origin and a cycle per pixel as grid_sample counts, from -1 to 1 over the samples
        centre, scale = 2 * (self.size // 2) / (self.size - 1) - 1, 2 * self.per_cycle / (self.size - 1)
        points = (coordinates * scale + centre).reshape(self.count, 1, 1, -1, 3)
        return torch.nn.functional.grid_sample(
            self.samples, points, mode="bilinear", padding_mode="zeros", align_corners=True
        ).view(coordinates.shape[:-1])

    def slices(self, rotations: Tensor, frequencies: Float[Tensor, "p 2"]) -> Tensor:
        wants_gradient = torch.is_grad_enabled() and (self.samples.requires_grad or rotations.requires_grad)
        if wants_gradient or rotations.dtype != torch.float32 or self.bordered is None:
            return self(frequencies @ rotations[..., :2, :])
        if self.count > 1:
            rotations = rotations.expand(self.count, *rotations.shape[1:])
        turns = rotations.reshape(self.count, -1, 3, 3)
        found = slices_cpu(self.bordered, turns, frequencies, self.per_cycle)
        return found.view(*rotations.shape[:-2], -1)


def disc_frequencies(side: int, radius: float, device: torch.device | str = "cpu") -> Float[Tensor, "p 2"]:
    """Frequencies ``(p, 2)``, xy in cycles per pixel, of an image's Fourier samples within ``radius`` of the origin.

    The row for -k is the mirrored row, ``p - 1 - i``, which :func:`translate_coefficients` relies on. Samples at -0.5
    cycles per pixel of even sides, which have no partner, are left out.

    Parameters
    ----------
    side
        Edge of the image in pixels.
    radius
        Radius of the disc in Fourier pixels, that is, in cycles per image.
    """
    reach = min(math.floor(radius), (side - 1) // 2)
    axis = torch.arange(-reach, reach + 1, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = x**2 + y**2 <= radius**2
    return torch.stack([x[inside], y[inside]], dim=-1) / side


def ball_frequencies(side: int, device: torch.device | str = "cpu") -> Float[Tensor, "p 3"]:
    """Frequencies ``(p, 3)``, xyz in cycles per voxel, of a volume's Fourier samples within Nyquist's sphere.

    As with :func:`disc_frequencies`, the row for -k is the mirrored row and samples at -0.5 cycles, which have no
    partner, are left out; those with z = 0 are the rows of ``disc_frequencies(side, side / 2)``.
    """
    reach = (side - 1) // 2
    axis = torch.arange(-reach, reach + 1, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = 4 * (x**2 + y**2 + z**2) <= side**2
    return torch.stack([x[inside], y[inside], z[inside]], dim=-1) / side


def grid_places(frequencies: Float[Tensor, "p d"], side: int) -> Int[Tensor, " p"]:
    """Places of frequencies, xy or xyz, among the flattened Fourier samples of an image or a volume."""
    index = (frequencies * side).round().long() + side // 2
    places = index[:, -1]
    for axis in range(index.shape[1] - 2, -1, -1):  # x is the last axis
        places = places * side + index[:, axis]
    return places


def from_coefficients(
    coefficients: Float[Tensor, "*batch p"], frequencies: Float[Tensor, "p d"], side: int
) -> Float[Tensor, "..."]:
    """Images, or volumes if ``d`` is 3, that have these Hartley coefficients, and none elsewhere."""
    dimensions = frequencies.shape[1]
    transforms = coefficients.new_zeros(*coefficients.shape[:-1], side**dimensions)
    transforms[..., grid_places(frequencies, side)] = coefficients
    # the Hartley transform is its own inverse but for the number
    arrays = transforms.view(*coefficients.shape[:-1], *[side] * dimensions)
    return hartley(arrays, dimensions) / float(side) ** dimensions


def image_coefficients(
    images: Float[Tensor, "*batch side side"], frequencies: Float[Tensor, "p 2"]
) -> Float[Tensor, "*batch p"]:
    """Hartley transform of images at ``frequencies``, rows of :func:`disc_frequencies` for the same side."""
    return hartley(images, 2).flatten(-2)[..., grid_places(frequencies, images.shape[-1])]


def slice_coefficients(
    slice_fn: SliceFn, rotations: Float[Tensor, "*#batch 3 3"], frequencies: Float[Tensor, "p d"]
) -> Float[Tensor, "*#batch p"]:
    """Hartley transform of the projections of a volume under ``rotations``, at image ``frequencies``.

    The frequency of the object under an image frequency is ``R^T (kx, ky, 0)`` (Fourier-slice theorem). At frequencies
    with a z it is the transform of the turned volumes, whose sums over z are these projections.
    """
    dimensions = frequencies.shape[1]
    if isinstance(slice_fn, _Lattice) and dimensions == 2:
        return slice_fn.slices(rotations, frequencies)
    return slice_fn(frequencies @ rotations[..., :dimensions, :])


@torch.no_grad()
def sum_slices(
    values: Float[Tensor, "v p m"],
    rotations: Float[Tensor, "v 3 3"],
    frequencies: Float[Tensor, "p 2"],
    per_cycle: float,
    size: int,
) -> Float[Tensor, "n n n m"]:
    """Sum up slices on a lattice: each value goes to the eight samples about its point.

    Parameters
    ----------
    values
        ``(v, p, m)``: ``m`` values at each image frequency of each view.
    rotations, frequencies
        Of the views, object to microscope frame, and ``(p, 2)``, xy in cycles per pixel.
    per_cycle
        Samples of the lattice to the cycle per pixel, its origin at ``size // 2``.
    size
        Samples along each edge, axes ``[z, y, x]``. What falls beyond is lost.
    """
    if values.device.type == "cpu" and values.dtype == torch.float32:
        return sum_slices_cpu(values, rotations, frequencies, per_cycle, size)
    points = ((frequencies * per_cycle) @ rotations[:, :2] + size // 2).reshape(-1, 3)
    below, values = points.floor(), values.reshape(-1, values.shape[-1])
    part, cells = points - below, below.long()
    sums = values.new_zeros(size**3, values.shape[-1])
    for corner in torch.cartesian_prod(*[torch.arange(2, device=points.device)] * 3):
        at = cells + corner
        inside = ((at >= 0) & (at < size)).all(-1)
        weight = torch.where(corner == 1, part, 1 - part).prod(-1) * inside
        x, y, z = at.clamp(0, size - 1).unbind(-1)
        sums.index_add_(0, (z * size + y) * size + x, weight[:, None] * values)
    return sums.view(size, size, size, -1)


def back_project_slices(
    values: Float[Tensor, "v p"],
    rotations: Float[Tensor, "v 3 3"],
    frequencies: Float[Tensor, "p 2"],
    side: int,
    padding: int = 2,
) -> Float[Tensor, "n n n"]:
    """Apply the adjoint of taking slices of a volume of ``side`` voxels, :func:`voxel_slices`, to values of slices."""
    padded = padding * side
    lattice = sum_slices(values[..., None], rotations, frequencies, float(padded), padded)[..., 0]
    return recentre_crop(hartley(lattice, 3), side, 3) / interpolation_envelope(side, padded, values)


def translate_coefficients(
    coefficients: Float[Tensor, "*#batch p"],
    frequencies: Float[Tensor, "p d"],
    shifts_pixels: Float[Tensor, "*#batch d"],
) -> Float[Tensor, "*batch p"]:
    """Hartley coefficients of images moved by ``shifts_pixels``, xy (of volumes: xyz), positive to larger index.

    The Fourier coefficient F(k) is multiplied by ``exp(-2 pi i k.t)``; with H = Re F - Im F this is
    ``H'(k) = cos(2 pi k.t) H(k) + sin(2 pi k.t) H(-k)``. The norm over the disc does not change.

    Parameters
    ----------
    frequencies
        Rows of :func:`disc_frequencies` or :func:`ball_frequencies`, all of them or any set that holds -k with every
        k, in their order: the row of -k must be the mirrored row.
    """
    phases = 2 * math.pi * (shifts_pixels @ frequencies.T)
    return phases.cos() * coefficients + phases.sin() * coefficients.flip(-1)
