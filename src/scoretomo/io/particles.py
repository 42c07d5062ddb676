"""Particle sets: images that stay on disk, with the pose, contrast transfer and row of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..datatypes import CTFParams, InputError, Poses
from . import cryosparc, star
from .image_table import read_image_table, table_notes
from .job_folders import file_in_job
from .mrc import StoredSections, choose_pixel_size, read_array
from .named_images import Indices, OpenedImages, StoredImages, known_pixel_size, open_images, which

# Poses of fewer particles than these may all be of one view; cosines of tilts as near to 1 as this are 0 degrees.
_FEWEST_DIRECTIONS, _PLANE = 5, 1e-6


@dataclass(frozen=True)
class Particles:
    """Particle images on disk and all that is known of each.

    Images are as they were stored, in their own units. Whether protein is bright in them is not known here, and what
    files say of it is not to be trusted: who trains on them reads a sample and asks
    :func:`scoretomo.imaging.preprocess.detect_contrast`.

    Attributes
    ----------
    images
        The n images; ``images.read(indices)`` reads some.
    pixel_size_angstrom
        Edge of a pixel in Angstrom.
    poses, ctf
        Of the n images; None where the file has none. Without CTF the images are taken as projections (identity).
    rows
        ``(n,)`` row of each in the file they came from, from 0. They survive :meth:`select`, and are what
        :func:`scoretomo.io.particle_rows.select_rows` takes.
    files
        The file they came from, then its passthrough files.
    notes
        What was repaired or odd, in words.
    halves
        ``(n,)`` the half, 1 or 2, that an earlier refinement had each in; None where the file does not say.

    Raises
    ------
    InputError
        Images that are not square, or poses, CTF, rows or halves of another number of particles.
    """

    images: StoredImages
    pixel_size_angstrom: float
    poses: Poses | None
    ctf: CTFParams | None
    rows: NDArray[np.intp]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    halves: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        height, width = self.images.stacks[0].shape[1:]
        if height != width:
            raise InputError(f"{self.files[0]}: images must be square, not {width} x {height} pixels; crop or pad them")
        known = {"poses": self.poses, "CTF parameters": self.ctf, "rows": self.rows, "half-sets": self.halves}
        for what, values in known.items():
            if values is not None and len(values) != len(self.images):
                raise InputError(f"{self.files[0]}: {len(self.images)} particles have {what} of {len(values)}")
        if not 0 < self.pixel_size_angstrom < float("inf"):
            raise InputError(
                f"{self.files[0]}: the pixel size must be a positive number of Angstrom, not {self.pixel_size_angstrom}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Edge of an image in pixels."""
        return self.images.side

    @property
    def half_sets(self) -> NDArray[np.intp]:
        """``(n,)`` half-set of each, 1 or 2: of the file, or every other particle where it has none or one only."""
        if self.halves is None or len(np.unique(self.halves)) == 1:
            return np.arange(len(self)) % 2 + 1
        return self.halves

    def select(self, indices: Indices) -> "Particles":
        """Take some of the particles: their indices in any order, or a mask of all; the images stay on disk."""
        chosen = which(indices, len(self))
        return Particles(
            images=self.images.select(chosen),
            pixel_size_angstrom=self.pixel_size_angstrom,
            poses=None if self.poses is None else self.poses.select(torch.from_numpy(chosen)),
            ctf=None if self.ctf is None else self.ctf.select(torch.from_numpy(chosen)),
            rows=self.rows[chosen],
            files=self.files,
            notes=self.notes,
            halves=None if self.halves is None else self.halves[chosen],
        )


def read_particles(
    path: Path,
    passthrough: Sequence[Path] = (),
    pixel_size_angstrom: float | None = None,
    *,
    with_poses: bool = True,
    datadir: Path | None = None,
) -> Particles:
    """Read what a RELION .star, a cryoSPARC .cs or an MRC stack says of particles; of the images, only the headers.

    Parameters
    ----------
    path
        The particles. A plain stack (``.mrcs``, ``.mrc``) has no poses and no CTF;
        :func:`scoretomo.io.cryodrgn.attach` adds those of cryoDRGN's files.
    passthrough
        More .cs files of the same particles, matched by ``uid``, for fields that the .cs file does not have.
    pixel_size_angstrom
        Wins over the file, which wins over the headers of the stacks.
    with_poses
        Whether to read the poses: those that nobody asks for may be anything.
    datadir
        Where stacks are looked for first; see :func:`scoretomo.io.named_images.find_stacks`.

    Raises
    ------
    InputError
        A file of another type or that cannot be read, images that are missing, several sizes or pixel sizes, some of
        the columns of the CTF only, poses or CTF that are NaN.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is the folder of a job; give {file_in_job(path, 'particles')[0]}, the particles in it"
        )
    suffix = path.suffix.lower()
    if passthrough and suffix != ".cs":
        raise InputError(f"{passthrough[0]}: passthrough files belong to .cs files, and {path.name} is none")
    match suffix:
        case ".star":
            return _read_star(path, pixel_size_angstrom, with_poses, datadir)
        case ".cs":
            return _read_cs(path, passthrough, pixel_size_angstrom, with_poses, datadir)
        case ".mrcs" | ".mrc":
            return _read_stack(path, pixel_size_angstrom)
        case _:
            raise InputError(
                f"{path}: cannot read particles from files of type {suffix or '(none)'!r}; give .star, .cs or .mrcs"
            )


def refuse_poses_in_a_plane(particles: Particles) -> None:
    """Refuse particles of a 2D classification, which have angles too, where poses in three dimensions are meant.

    Raises
    ------
    InputError
        All poses have one viewing direction.
    """
    if particles.poses is None or len(particles) < _FEWEST_DIRECTIONS:
        return
    if bool((particles.poses.rotations[:, 2, 2].abs() > 1 - _PLANE).all()):
        raise InputError(
            f"{particles.files[0]}: all {len(particles)} poses have the same viewing direction, as those of a 2D "
            "classification and of particles that were never aligned; give particles of a 3D refinement, or let the "
            "poses be searched for"
        )


def _read_star(path: Path, given: float | None, with_poses: bool, datadir: Path | None) -> Particles:
    table = read_image_table(path)
    opened = open_images(path, table.files, table.sections, datadir)
    pixel_size, notes = known_pixel_size(path, opened, table.stated, given)
    poses = star.table_poses(table, pixel_size) if with_poses else None
    ctf = star.table_ctf(table)
    return _particles(opened, pixel_size, poses, ctf, (path,), notes + table_notes(table), star.table_halves(table))


def _read_cs(
    path: Path, passthrough: Sequence[Path], given: float | None, with_poses: bool, datadir: Path | None
) -> Particles:
    files = [cryosparc.read_cs(each) for each in (path, *passthrough)]
    stacks, sections, stated = cryosparc.image_places(files)
    opened = open_images(path, stacks, sections, datadir)
    pixel_size, notes = known_pixel_size(path, opened, stated, given)
    poses = cryosparc.read_poses(files, pixel_size) if with_poses else None
    ctf, halves = cryosparc.read_ctf(files), cryosparc.read_halves(files)
    notes += cryosparc.notes(files)
    return _particles(opened, pixel_size, poses, ctf, (path, *passthrough), notes, halves)


def _read_stack(path: Path, given: float | None) -> Particles:
    array = read_array(path)
    pixel_size, notes = choose_pixel_size(path, array, given, axes=2)
    count = len(array.values)
    images = StoredImages(path, (StoredSections.of(path, array),), np.zeros(count, np.intp), np.arange(count))
    return _particles(OpenedImages(images, array, path, (), array.notes), pixel_size, None, None, (path,), notes)


def _particles(
    opened: OpenedImages,
    pixel_size: float,
    poses: Poses | None,
    ctf: CTFParams | None,
    files: tuple[Path, ...],
    notes: tuple[str, ...],
    halves: NDArray[np.intp] | None = None,
) -> Particles:
    """Particles of a whole file."""
    rows = np.arange(len(opened.images))
    return Particles(opened.images, pixel_size, poses, ctf, rows, files, opened.notes + notes, halves)
