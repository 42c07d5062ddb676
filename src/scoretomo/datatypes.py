"""The types at the edges of the package: images, volumes and poses with their units.

Algorithms take and return bare tensors; these frozen dataclasses carry what a bare tensor cannot say,
and refuse at construction what no algorithm could use.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and says what to do."""


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
        Wrong shape, no image, values that are not finite, or a pixel size that is not positive.
    """

    images: Tensor
    pixel_size_angstrom: float

    def __post_init__(self) -> None:
        if self.images.ndim != 3:
            raise InputError(f"images must have 3 axes (index, y, x), not shape {tuple(self.images.shape)}")
        if len(self.images) == 0:
            raise InputError("the stack has no images")
        if self.images.shape[1] != self.images.shape[2]:
            height, width = self.images.shape[1:]
            raise InputError(f"images must be square, not {width} x {height} pixels; crop or pad them first")
        if not torch.isfinite(self.images).all():
            bad = (~torch.isfinite(self.images).flatten(1).all(1)).nonzero().flatten().tolist()
            raise InputError(f"images {_enumerate(bad)} hold NaN or infinite values; remove or repair them")
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
        Shapes that do not fit together.
    """

    rotations: Tensor
    shifts_angstrom: Tensor

    def __post_init__(self) -> None:
        if self.rotations.shape[1:] != (3, 3) or self.shifts_angstrom.shape != (len(self.rotations), 2):
            shapes = f"{tuple(self.rotations.shape)} and {tuple(self.shifts_angstrom.shape)}"
            raise InputError(f"poses need rotations (n, 3, 3) and shifts (n, 2), not {shapes}")

    def __len__(self) -> int:
        return len(self.rotations)


def _check_pixel_size(pixel_size_angstrom: float) -> None:
    if not 0 < pixel_size_angstrom < float("inf"):
        raise InputError(f"the pixel size must be a positive number of Angstrom, not {pixel_size_angstrom}")


def _enumerate(indices: list[int], most: int = 5) -> str:
    shown = ", ".join(str(i) for i in indices[:most])
    return shown if len(indices) <= most else f"{shown} and {len(indices) - most} more"
