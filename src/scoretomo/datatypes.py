"""The types at the edges of the package: images, volumes, poses, contrast transfer and points with their units.

Algorithms take and return bare tensors; these frozen dataclasses carry what a bare tensor cannot say,
and refuse at construction what no algorithm could use.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# What the fields of CTFParams may be: least, most, and the unit as a person would say it.
_CTF_RANGES = {
    "defocus_u_angstrom": (-1e6, 1e6, "Angstrom, positive for underfocus"),
    "defocus_v_angstrom": (-1e6, 1e6, "Angstrom, positive for underfocus"),
    "astigmatism_degrees": (-1e4, 1e4, "degrees"),
    "phase_shift_degrees": (-1e4, 1e4, "degrees"),
    "voltage_kv": (10.0, 3000.0, "kV"),
    "spherical_aberration_mm": (-100.0, 100.0, "mm"),
    "amplitude_contrast": (0.0, 1.0, "as a fraction of all contrast"),
}

# Sums of squares over a whole stack of larger values are infinite in single precision; intensities end far below.
_GREATEST = 1e15


class InputError(Exception):
    """Something the user gave cannot be used; the message names it and says what to do.

    It is no ValueError: readers of files catch those, and the option parser would put its own words around it.
    """


@dataclass(frozen=True)
class ImageStack:
    """A stack of square images with one pixel size.

    Attributes
    ----------
    images
        ``(n, side, side)`` float32, axes ``[index, y, x]``, origin at ``side // 2``.
    pixel_size_angstrom
        Edge of a pixel in Angstrom.

    Raises
    ------
    InputError
        Wrong shape, no image, values that are not finite or beyond 1e15, or a pixel size that is not positive.
    """

    images: Tensor
    pixel_size_angstrom: float

    def __post_init__(self) -> None:
        if self.images.ndim != 3:
            raise InputError(f"images must have 3 axes (index, y, x), not shape {tuple(self.images.shape)}")
        if len(self.images) == 0:
            raise InputError("the stack has no images")
        height, width = self.images.shape[1:]
        if height != width or height == 0:
            raise InputError(f"images must be square, not {width} x {height} pixels; crop or pad them first")
        if not torch.isfinite(self.images).all():
            bad = (~torch.isfinite(self.images).flatten(1).all(1)).nonzero().flatten().tolist()
            raise InputError(f"images {_enumerate(bad)} hold NaN or infinite values; repair or --exclude them")
        _check_greatest(self.images)
        _check_pixel_size(self.pixel_size_angstrom)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Edge of an image in pixels."""
        return self.images.shape[-1]


@dataclass(frozen=True)
class Volume:
    """A cubic density map.

    Attributes
    ----------
    voxels
        ``(side, side, side)`` float32, axes ``[z, y, x]``, origin at ``side // 2``.
    pixel_size_angstrom
        Edge of a voxel in Angstrom.

    Raises
    ------
    InputError
        Wrong shape, values that are not finite, or a pixel size that is not positive.
    """

    voxels: Tensor
    pixel_size_angstrom: float

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or len(set(self.voxels.shape)) != 1:
            raise InputError(f"a volume must be a cube (z, y, x), not shape {tuple(self.voxels.shape)}")
        if not torch.isfinite(self.voxels).all():
            raise InputError("the volume holds NaN or infinite values")
        _check_greatest(self.voxels)
        _check_pixel_size(self.pixel_size_angstrom)

    @property
    def side(self) -> int:
        """Edge of the volume in voxels."""
        return self.voxels.shape[-1]


@dataclass(frozen=True)
class Poses:
    """Where each image was seen from.

    Attributes
    ----------
    rotations
        ``(n, 3, 3)`` active rotations on xyz column vectors, object frame to microscope frame.
    shifts_angstrom
        ``(n, 2)``, ``[x, y]``; positive moves the density to larger index.

    Raises
    ------
    InputError
        Shapes that do not fit together, or values that are not finite.
    """

    rotations: Tensor
    shifts_angstrom: Tensor

    def __post_init__(self) -> None:
        if self.rotations.shape[1:] != (3, 3) or self.shifts_angstrom.shape != (len(self.rotations), 2):
            shapes = f"{tuple(self.rotations.shape)} and {tuple(self.shifts_angstrom.shape)}"
            raise InputError(f"poses need rotations (n, 3, 3) and shifts (n, 2), not {shapes}")
        finite = torch.isfinite(self.rotations).all((1, 2)) & torch.isfinite(self.shifts_angstrom).all(1)
        if not finite.all():
            raise InputError(f"poses {_enumerate((~finite).nonzero().flatten().tolist())} are NaN or infinite")

    def __len__(self) -> int:
        return len(self.rotations)

    def select(self, indices: Tensor) -> "Poses":
        """Poses of some images: their indices in any order, or a mask."""
        return Poses(self.rotations[indices], self.shifts_angstrom[indices])


@dataclass(frozen=True)
class CTFParams:
    """What the contrast transfer function of each image depends on, all ``(n,)``; see :mod:`scoretomo.imaging.ctf`.

    Attributes
    ----------
    defocus_u_angstrom, defocus_v_angstrom
        Defocus along the axis of astigmatism and across it, in Angstrom; positive is underfocus.
    astigmatism_degrees
        Angle of the axis of ``defocus_u_angstrom``, from x towards y (RELION's ``rlnDefocusAngle``).
    phase_shift_degrees
        Of a phase plate; 0 without one.
    voltage_kv, spherical_aberration_mm
        Of the microscope.
    amplitude_contrast
        Fraction of the contrast that is amplitude contrast, 0 to 1.

    Raises
    ------
    InputError
        Shapes that do not fit together, NaN, or values that no microscope has.
    """

    defocus_u_angstrom: Tensor
    defocus_v_angstrom: Tensor
    astigmatism_degrees: Tensor
    phase_shift_degrees: Tensor
    voltage_kv: Tensor
    spherical_aberration_mm: Tensor
    amplitude_contrast: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(values.shape) for values in self._columns()}
        if len(shapes) > 1 or len(shapes.pop()) != 1:
            all_shapes = ", ".join(str(tuple(values.shape)) for values in self._columns())
            raise InputError(f"CTF parameters must be (n,) each, of the same n, not {all_shapes}")
        values = torch.stack(self._columns())
        low, high = values.new_tensor([limits[:2] for limits in _CTF_RANGES.values()]).T[:, :, None]
        good = (values >= low) & (values <= high)  # of NaN neither holds
        if not good.all():
            row = int((~good).any(1).nonzero()[0])
            name, (least, most, unit) = list(_CTF_RANGES.items())[row]
            bad = (~good[row]).nonzero().flatten().tolist()
            raise InputError(
                f"{name} of images {_enumerate(bad)} must be {least:g} to {most:g} {unit}, not {values[row, bad[0]]:g}"
            )

    def __len__(self) -> int:
        return len(self.defocus_u_angstrom)

    def select(self, indices: Tensor) -> "CTFParams":
        """Parameters of some images: their indices in any order, or a mask."""
        return self._like([values[indices] for values in self._columns()])

    def to(self, device: torch.device | str) -> "CTFParams":
        """Copy the parameters to a device."""
        return self._like([values.to(device) for values in self._columns()])

    def _like(self, columns: list[Tensor]) -> "CTFParams":
        """Values that have been checked already: a second look would make a GPU wait, in every batch."""
        made = object.__new__(CTFParams)
        for field, values in zip(fields(self), columns, strict=True):
            object.__setattr__(made, field.name, values)
        return made

    def _columns(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class PointClouds:
    """Objects as point clouds of equal size, each centred and scaled into the cube from -1 to 1.

    Attributes
    ----------
    points
        ``(k, n, 3)`` float32, xyz; every cloud has its mean at 0 and 1 as its largest coordinate.
    units
        ``(k,)``: the length that 1 stands for, in Angstrom for molecules and in the source's own unit otherwise.
    names
        ``k`` names, unique.
    held_out
        ``(k,)`` bool: not to be trained on.
    handed
        Whether a mirror image is another object, as it is of a molecule; then only proper rotations augment the set.

    Raises
    ------
    InputError
        Shapes that do not fit together, fewer than 2 points, values that are not finite, points far outside the cube,
        or lengths that are not positive.
    """

    points: Tensor
    units: Tensor
    names: tuple[str, ...]
    held_out: Tensor
    handed: bool

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.shape[2] != 3 or self.points.shape[1] < 2 or not len(self.points):
            raise InputError(f"point clouds must be (k, n, 3) with 2 points or more, not {tuple(self.points.shape)}")
        count = len(self.points)
        if self.units.shape != (count,) or self.held_out.shape != (count,) or len(self.names) != count:
            raise InputError(f"{count} point clouds need as many units, names and marks of what is held out")
        good = torch.isfinite(self.points).all(2).all(1) & (self.points.abs() <= 1 + 1e-3).all(2).all(1)
        if not good.all():
            bad = _enumerate((~good).nonzero().flatten().tolist())
            raise InputError(f"point clouds {bad} are not finite or not within the cube from -1 to 1")
        if not (self.units > 0).all() or not torch.isfinite(self.units).all():
            raise InputError("the units of point clouds must be positive lengths")
        if len(set(self.names)) < count:
            raise InputError("point clouds must have different names")

    def __len__(self) -> int:
        return len(self.points)

    def select(self, indices: Tensor) -> "PointClouds":
        """Take some of the clouds: their indices in any order, or a mask."""
        chosen = torch.arange(len(self))[indices]
        names = tuple(self.names[i] for i in chosen.tolist())
        return PointClouds(self.points[chosen], self.units[chosen], names, self.held_out[chosen], self.handed)


def _check_greatest(values: Tensor) -> None:
    greatest = float(values.abs().max()) if values.numel() else 0.0
    if greatest > _GREATEST:
        raise InputError(f"values reach {greatest:.1e}, which no density does; divide all by a constant")


def _check_pixel_size(pixel_size_angstrom: float) -> None:
    if not 0 < pixel_size_angstrom < float("inf"):
        raise InputError(f"the pixel size must be a positive number of Angstrom, not {pixel_size_angstrom}")


def _enumerate(indices: list[int], most: int = 5) -> str:
    shown = ", ".join(str(i) for i in indices[:most])
    return shown if len(indices) <= most else f"{shown} and {len(indices) - most} more"
