"""Image stacks of any supported format, and what a file holds in words."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..datatypes import InputError
from ..imaging.preprocess import detect_contrast
from . import cryosparc, eman, mrc, star
from .mrc import LoadedImages
from .named_images import NamedImages, known_pixel_size
from .npy import check_single_precision, read_npy

_MAPS = (".mrc", ".map", ".ccp4")
_SUFFIXES = (".mrcs", *_MAPS, ".star", ".cs", ".hdf", ".npy")


def read_image_stack(
    path: Path,
    pixel_size_angstrom: float | None = None,
    datadir: Path | None = None,
    exclude: Collection[int] = (),
) -> LoadedImages:
    """Read images from ``.mrcs``, ``.mrc``, RELION's ``.star``, cryoSPARC's ``.cs``, EMAN's ``.hdf`` or ``.npy``.

    Parameters
    ----------
    path
        The file; its suffix decides how it is read.
    pixel_size_angstrom
        Wins over what the file says; must be given for ``.npy``, which says nothing.
    datadir
        Where stacks that the file names are looked for first.
    exclude
        Images that will not be used, which may hold NaN.

    Raises
    ------
    InputError
        Unknown suffix, or a file that cannot be used; the message says why.
    """
    match _suffix(path):
        case ".mrcs" | ".mrc" | ".map" | ".ccp4":
            return mrc.read_images(path, pixel_size_angstrom, exclude)
        case ".star":
            return star.read_images(path, pixel_size_angstrom, datadir, exclude)
        case ".cs":
            return cryosparc.read_images(path, pixel_size_angstrom, datadir, exclude)
        case ".hdf":
            return eman.read_images(path, pixel_size_angstrom)
        case _:
            values = _read_npy(path)
            if pixel_size_angstrom is None:
                raise InputError(f"{path}: .npy files have no pixel size; give it with --pixel-size ANGSTROM")
            return LoadedImages(mrc.to_stack(path, values, pixel_size_angstrom, exclude), ())


def describe(path: Path, pixel_size_angstrom: float | None = None, datadir: Path | None = None) -> list[str]:
    """Say what is in a file of images or a volume, a line for each fact; a missing pixel size is a fact, no error.

    Raises
    ------
    InputError
        A file that cannot be read at all.
    """
    suffix = _suffix(path)
    if suffix in (".star", ".cs"):
        reader, kind = (star, "a STAR file") if suffix == ".star" else (cryosparc, "a cryoSPARC file")
        named = reader.read_named_images(path, datadir)
        text, notes = _named_pixel_size(path, named, pixel_size_angstrom)
        return _lines(path, f"images named by {kind}", named.values, text, named.opened.notes + notes)
    if suffix == ".hdf":
        array = eman.read_array(path)
        text = _pixel_size_text(array, pixel_size_angstrom)
        return _lines(path, "image stack (EMAN)", array.values, text, array.notes)
    if suffix == ".npy":
        text = "none in the file" if pixel_size_angstrom is None else f"{pixel_size_angstrom:.5g} A"
        return _lines(path, "image stack (NumPy)", _read_npy(path), text, ())
    array = mrc.read_array(path)
    # a cube is a volume unless its name says stack: many writers leave the space group of stacks
    is_volume = len(set(array.values.shape)) == 1 and suffix != ".mrcs" and len(array.values) > 1
    kind = "volume" if is_volume else "image stack"
    said = "volume" if array.says_volume else "image stack"
    notes = array.notes if said == kind else (*array.notes, f"the header says {said}")
    return _lines(path, f"{kind} (MRC)", array.values, _pixel_size_text(array, pixel_size_angstrom), notes)


def _lines(path: Path, kind: str, values: NDArray[Any], pixel_size: str, notes: tuple[str, ...]) -> list[str]:
    depth, height, width = values.shape
    is_volume = kind.startswith("volume")
    density = torch.from_numpy(values.astype(np.float32))
    size = f"{width} x {height} x {depth} voxels" if is_volume else f"{depth} of {width} x {height} pixels"
    lines = [
        f"file: {path}",
        f"kind: {kind}",
        f"size: {size}",
        f"type: {values.dtype.name}",
        f"pixel size: {pixel_size}",
    ]
    if not torch.isfinite(density).all():
        return [*lines, f"values: {int((~torch.isfinite(density)).sum())} are NaN or infinite", *_notes(notes)]
    low, high, mean, deviation = density.min(), density.max(), density.mean(), density.std(correction=0)
    lines.append(f"values: {low:.4g} to {high:.4g}, mean {mean:.4g}, standard deviation {deviation:.4g}")
    if height == width and min(height, width) >= 8 and deviation > 0:
        # the three projections of a volume along its axes have the contrast of the volume
        images = torch.stack([density.sum(axis) for axis in range(3)]) if is_volume else density
        sign, confidence = detect_contrast(images)
        lines.append(f"contrast: protein looks {'bright' if sign > 0 else 'dark'} (confidence {confidence:.2f})")
    elif height != width:
        notes += ("the images are not square and cannot be used as they are",)
    return [*lines, *_notes(notes)]


def _named_pixel_size(path: Path, named: NamedImages, given: float | None) -> tuple[str, tuple[str, ...]]:
    """Pixel size in words, and what is odd about it; that none can be taken is a fact too."""
    try:
        size, notes = known_pixel_size(path, named.opened, named.stated, given)
    except InputError as error:
        stated = " and ".join(f"{each:.5g} A" for each in named.stated.pixel_sizes_angstrom)
        return stated or _pixel_size_text(named.opened.first_stack, None), (str(error).removeprefix(f"{path}: "),)
    return f"{size:.5g} A" + (" (given)" if given is not None else ""), notes


def _notes(notes: tuple[str, ...]) -> list[str]:
    return [f"note: {note}" for note in notes]


def _pixel_size_text(array: mrc.MrcArray, given: float | None) -> str:
    if given is not None:
        return f"{given:.5g} A (given)"
    if array.voxel_size_angstrom is None:
        return "none in the header; --pixel-size is needed"
    x, y, _ = array.voxel_size_angstrom
    if x == y == 1:
        return "1 A in the header, a placeholder in many files; --pixel-size is needed for images"
    return f"{x:.5g} A" if abs(x / y - 1) < 1e-4 else f"{x:.5g} x {y:.5g} A, unequal"


def _suffix(path: Path) -> str:
    """Type of a file by its name; only MRC files may be compressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz" and (unpacked := path.with_suffix("").suffix.lower()) in (".mrcs", *_MAPS):
        return unpacked
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{path}: cannot read files of type {suffix or '(none)'!r}; supported are {', '.join(_SUFFIXES)}, and "
            f"{', '.join(f'{name}.gz' for name in _MAPS)}"
        )
    return suffix


def _read_npy(path: Path) -> NDArray[Any]:
    """``(n, y, x)`` real numbers, mapped into memory; a single image is a stack of one."""
    values = read_npy(path)
    kind = "records" if values.dtype.names else values.dtype.name
    if values.dtype.kind not in "fiub" or values.ndim not in (2, 3):
        raise InputError(f"{path}: must be an array (n, y, x) of real numbers, not {kind} of shape {values.shape}")
    if values.size == 0:
        raise InputError(f"{path}: is empty: its shape is {values.shape}")
    check_single_precision(path, values)
    return values[None] if values.ndim == 2 else values
