"""CryoSPARC's .cs files: tables of particles or class averages, NumPy structured arrays whose rows have a ``uid``."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..datatypes import CTFParams, InputError, Poses
from ..geometry.rotations import from_rotation_vectors
from .files import regular_file
from .mrc import LoadedImages
from .named_images import NamedImages, Stated, decide_pixel_size, gather_images
from .npy import read_npy

_COMPRESSED = b"\x95CSDAT"
_PIXEL_SIZE = "blob/psize_A"
_DEFOCUS_FIELDS = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")
_CTF_FIELDS = (*_DEFOCUS_FIELDS, "ctf/phase_shift_rad", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")
# Fields of particles, which no class average has.
_OF_PARTICLES = ("location/micrograph_path", "ctf/df1_A", "alignments2D/class")
# What fields hold that are looked into: kinds of values, and the shape of each.
_FIELDS = {
    "uid": ("iu", ()),
    "blob/path": ("SU", ()),
    "blob/idx": ("iu", ()),
    "blob/shape": ("iu", (2,)),
    _PIXEL_SIZE: ("f", ()),
    "alignments2D/class": ("iu", ()),
    "alignments3D/pose": ("f", (3,)),
    "alignments3D/shift": ("f", (2,)),
    "alignments3D/psize_A": ("f", ()),
    "alignments3D/split": ("iu", ()),
    **dict.fromkeys(_CTF_FIELDS, ("f", ())),
}
# What a file may say of the optics that no algorithm here takes into account, and its name.
_ABERRATIONS = {
    "ctf/tilt_A": "beam tilt",
    "ctf/trefoil_A": "trefoil",
    "ctf/tetra_A": "tetrafoil",
    "ctf/anisomag": "anisotropic magnification",
}


@dataclass(frozen=True)
class CsFile:
    """A .cs file.

    Attributes
    ----------
    path
        Where it is.
    rows
        ``(n,)`` structured array with the fields of the file.
    """

    path: Path
    rows: NDArray[Any]


def read_cs(path: Path) -> CsFile:
    """Read the rows of a .cs file; nothing in it is executed.

    Raises
    ------
    InputError
        No such file, no table, or cryoSPARC's compressed format.
    """
    regular_file(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(len(_COMPRESSED)) == _COMPRESSED
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if compressed:
        raise InputError(
            f"{path}: is compressed by cryoSPARC; make a plain copy with cryosparc-tools: "
            f'Dataset.load("{path.name}").save("plain.cs")'
        )
    rows = read_npy(path)
    if rows.dtype.names is None or rows.ndim != 1:
        raise InputError(f"{path}: holds no table of particles or class averages; is it a .cs file?")
    return CsFile(path, rows)


def cs_bytes(rows: NDArray[Any]) -> bytes:
    """Contents of a .cs file with these rows."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def read_images(
    path: Path,
    pixel_size_angstrom: float | None = None,
    datadir: Path | None = None,
    exclude: Collection[int] = (),
) -> LoadedImages:
    """Read the images that a .cs file names, such as the class averages of 2D Classification or Select 2D Classes.

    A class average is known by ``blob/idx``, its place in the stack of all classes, which is what particles have as
    ``alignments2D/class``. ``blob/sign`` is not applied: contrast is recognised in the images.

    Parameters
    ----------
    path
        The .cs file, with ``blob/path`` and ``blob/idx``.
    pixel_size_angstrom
        Wins over ``blob/psize_A``, which wins over the headers of the stacks.
    datadir
        Where stacks are looked for first; see :func:`scoretomo.io.named_images.find_stacks`.
    exclude
        Images that will not be used, which may hold NaN.

    Raises
    ------
    InputError
        Not a .cs file, particles in the place of class averages, fields that are missing (named), stacks that are
        missing, images of several sizes, or of others than what is said of them.
    """
    file = read_cs(path)
    _refuse_particles(file)
    return decide_pixel_size(path, _named_images(file, datadir), pixel_size_angstrom, exclude)


def read_named_images(path: Path, datadir: Path | None = None) -> NamedImages:
    """Read the images of a .cs file before anything is decided about their pixel size; see :func:`read_images`."""
    return _named_images(read_cs(path), datadir)


def _named_images(file: CsFile, datadir: Path | None) -> NamedImages:
    return gather_images(file.path, *image_places([file]), datadir=datadir)


def _refuse_particles(file: CsFile) -> None:
    """Say which file to give where class averages are meant and these are the particles."""
    telling = next((name for name in file.rows.dtype.names or () if name in _OF_PARTICLES), None)
    if telling is not None:
        raise InputError(
            f"{file.path}: holds particles (with {telling}), not class averages; give those of 2D Classification or "
            "Select 2D Classes, such as JNNN_NNN_class_averages.cs or templates_selected.cs, or a stack of images"
        )


def image_places(files: Sequence[CsFile]) -> tuple[list[str], list[int], Stated]:
    """Stack of every image, its place in it (from 0), and what is said of the images.

    Raises
    ------
    InputError
        Fields that are missing (named) or of another kind, places below 0, or no rows.
    """
    path = files[0].path
    if not len(files[0].rows):
        raise InputError(f"{path}: names no images: it has no rows")
    stacks, sections = find_field(files, "blob/path"), find_field(files, "blob/idx")
    if stacks is None or sections is None:
        missing = [name for name, found in (("blob/path", stacks), ("blob/idx", sections)) if found is None]
        raise InputError(f"{path}: names no images: no {' and no '.join(missing)}")
    if sections.min() < 0:
        row = int((sections < 0).argmax())
        raise InputError(f"{path}: blob/idx of row {row + 1} is {sections[row]}, and images count from 0; repair it")
    names = [file_name(path, value) for value in stacks.tolist()]
    return names, sections.tolist(), Stated(_PIXEL_SIZE, stated_pixel_sizes(files), stated_sides(files))


def read_poses(files: Sequence[CsFile], pixel_size_angstrom: float) -> Poses | None:
    """Read the poses of 3D refinement from a particle file and its passthrough files; None if they have none.

    ``alignments3D/pose`` is a rotation vector, axis times angle in radians, whose rotation takes the microscope frame
    to the object's, the transpose of ours. ``alignments3D/shift`` is RELION's origin, in pixels of
    ``alignments3D/psize_A``: the density lies at its negative.

    Raises
    ------
    InputError
        Values that are not finite.
    """
    vectors, shifts = find_field(files, "alignments3D/pose"), find_field(files, "alignments3D/shift")
    if vectors is None:
        return None
    rotations = from_rotation_vectors(-torch.from_numpy(vectors.astype(np.float64)))
    moved = torch.zeros(len(vectors), 2, dtype=torch.float64)
    if shifts is not None:
        pixels = _alignment_pixels(files, pixel_size_angstrom)
        moved = -torch.from_numpy(shifts.astype(np.float64)) * pixels
    try:
        return Poses(rotations.float(), moved.float())
    except InputError as error:
        raise InputError(f"{files[0].path}: alignments3D: {error}") from None


def replace_poses(files: Sequence[CsFile], poses: Poses, pixel_size_angstrom: float) -> list[CsFile]:
    """Put poses, as :func:`read_poses` gives them, into the files that have the fields for them.

    Parameters
    ----------
    files
        The particles, then the passthrough files that hold more fields of them.
    poses
        Of the particles, in the order of the first file.
    pixel_size_angstrom
        Of the images.

    Returns
    -------
    list of CsFile
        Copies of the files. Fields that none of them has are added to the first; all others are as they were.
    """
    vectors = -Rotation.from_matrix(poses.rotations.double().cpu().numpy()).as_rotvec()
    pixels = torch.as_tensor(_alignment_pixels(files, pixel_size_angstrom))
    shifts = -(poses.shifts_angstrom.double().cpu() / pixels).numpy()
    new = {"alignments3D/pose": vectors, "alignments3D/shift": shifts}
    if find_field(files, "alignments3D/shift") is None and find_field(files, "alignments3D/psize_A") is None:
        new["alignments3D/psize_A"] = np.full(len(shifts), pixel_size_angstrom)
    tables = [file.rows.copy() for file in files]
    for name, values in new.items():
        holder = next((i for i, table in enumerate(tables) if name in (table.dtype.names or ())), None)
        if holder is None:
            tables[0] = _with_field(tables[0], name, values.astype(np.float32))
        else:
            tables[holder][name][_places(files[holder], files[0])] = values
    return [CsFile(file.path, table) for file, table in zip(files, tables, strict=True)]


def _with_field(rows: NDArray[Any], name: str, values: NDArray[np.float32]) -> NDArray[Any]:
    """Rows with one more field."""
    made = np.zeros(len(rows), dtype=[*rows.dtype.descr, (name, values.dtype.str, values.shape[1:])])
    for own in rows.dtype.names or ():
        made[own] = rows[own]
    made[name] = values
    return made


def read_ctf(files: Sequence[CsFile]) -> CTFParams | None:
    """Read the contrast transfer from a particle file and its passthrough files; None if they have no defocus.

    Scale, B-factor, beam tilt and higher aberrations are left out.

    Raises
    ------
    InputError
        Some of the fields only, or values that are not finite or impossible.
    """
    fields = {name: find_field(files, name) for name in _CTF_FIELDS}
    if all(fields[name] is None for name in _DEFOCUS_FIELDS):
        return None
    missing = [name for name, values in fields.items() if values is None]
    if missing:
        raise InputError(
            f"{files[0].path}: has some fields of the CTF, but no {', '.join(missing)}; give the file that has them "
            "with --passthrough"
        )
    values = (torch.from_numpy(values.astype(np.float64)) for values in fields.values() if values is not None)
    u, v, angle, shift, voltage, aberration, contrast = values
    columns = (u, v, angle.rad2deg(), shift.rad2deg(), voltage, aberration, contrast)
    try:
        return CTFParams(*(column.float() for column in columns))
    except InputError as error:
        raise InputError(f"{files[0].path}: {error}") from None


def read_halves(files: Sequence[CsFile]) -> NDArray[np.intp] | None:
    """Half, 1 or 2, that cryoSPARC had each particle in (``alignments3D/split``, 0 or 1); None if no file says it.

    Before a refinement the field may be there with one value for all, which says nothing.
    """
    split = find_field(files, "alignments3D/split")
    return None if split is None or set(split.tolist()) != {0, 1} else split.astype(np.intp) + 1


def notes(files: Sequence[CsFile]) -> tuple[str, ...]:
    """Say what files have that no algorithm takes into account."""
    held = {name: each.rows[name] for each in files for name in each.rows.dtype.names or () if name in _ABERRATIONS}
    there = dict.fromkeys(
        _ABERRATIONS[name] for name, values in held.items() if values.dtype.kind in "fiu" and values.any()
    )
    return tuple(f"{what} is in the file, and is not taken into account" for what in there)


def file_name(path: Path, value: bytes | str) -> str:
    """Make a path of a ``blob/path``, in which exported files begin with ``>``: relative to the .cs file itself."""
    name = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    name = name.removeprefix(">")
    if not name or "\0" in name:
        raise InputError(f"{path}: a blob/path is empty; repair it")
    return name


def stated_pixel_sizes(files: Sequence[CsFile]) -> tuple[float, ...]:
    """Distinct pixel sizes in Angstrom, rising, by ``blob/psize_A``; 0 stands for none."""
    values = find_field(files, _PIXEL_SIZE)
    if values is None:
        return ()
    # single precision says no more than six digits
    return tuple(sorted({round(float(size), 6) for size in np.unique(values) if 0 < size < np.inf}))


def stated_sides(files: Sequence[CsFile]) -> tuple[int, ...]:
    """Distinct sides of images in pixels, rising, by ``blob/shape``; 0 stands for none."""
    values = find_field(files, "blob/shape")
    return () if values is None else tuple(int(side) for side in np.unique(values) if side > 0)


def find_field(files: Sequence[CsFile], name: str) -> NDArray[Any] | None:
    """Look a field up in several files of the same particles.

    Parameters
    ----------
    files
        The particles, then the passthrough files that hold more fields of them.
    name
        The field, such as ``alignments2D/class``.

    Returns
    -------
    NDArray or None
        ``(n, ...)`` values in the order of the first file, from the first file that has the field; None if none has.

    Raises
    ------
    InputError
        Particles that the passthrough file does not have, or a ``uid`` that is missing or not unique.
    """
    file = next((file for file in files if name in (file.rows.dtype.names or ())), None)
    if file is None:
        return None
    values: NDArray[Any] = file.rows[name]
    kinds, shape = _FIELDS.get(name, (values.dtype.kind, values.shape[1:]))
    if values.dtype.kind not in kinds or values.shape[1:] != shape:
        raise InputError(
            f"{file.path}: {name} is of type {values.dtype} and shape {values.shape[1:]}; is it a .cs file?"
        )
    return values if file is files[0] else values[_places(file, files[0])]


def _alignment_pixels(files: Sequence[CsFile], pixel_size_angstrom: float) -> Tensor | float:
    """Angstrom per pixel of the shifts, ``(n, 1)``: particles may have been aligned at another sampling."""
    aligned, images = find_field(files, "alignments3D/psize_A"), find_field(files, _PIXEL_SIZE)
    if aligned is None or images is None or not ((aligned > 0) & (images > 0)).all():
        return pixel_size_angstrom
    # where the images' own pixel size is overruled, so is that of the alignment
    return pixel_size_angstrom * torch.from_numpy((aligned / images.astype(np.float64))[:, None])


def rows_of(file: CsFile, particles: CsFile) -> NDArray[np.bool_]:
    """Which rows of a file belong to some particles, by ``uid``."""
    return np.isin(_uids(file), _uids(particles))


def _places(file: CsFile, particles: CsFile) -> NDArray[np.intp]:
    """Row of every particle in another file."""
    uids, wanted = _uids(file), _uids(particles)
    order = np.argsort(uids)
    places = order[np.searchsorted(uids, wanted, sorter=order).clip(max=max(len(uids) - 1, 0))] if len(uids) else order
    absent = int((uids[places] != wanted).sum()) if len(uids) else len(wanted)
    if absent:
        raise InputError(
            f"{file.path}: {absent} of the {len(wanted)} particles of {particles.path.name} are not in it; "
            "give the passthrough file of the same job"
        )
    return places


def _uids(file: CsFile) -> NDArray[np.uint64]:
    if "uid" not in (file.rows.dtype.names or ()):
        raise InputError(f"{file.path}: has no field uid, by which particles are matched")
    uids: NDArray[np.uint64] = file.rows["uid"]
    if len(np.unique(uids)) < len(uids):
        raise InputError(f"{file.path}: some particles are in it more than once (field uid)")
    return uids
