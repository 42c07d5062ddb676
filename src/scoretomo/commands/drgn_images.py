"""Particle images made fit for cryoDRGN: protein bright, background 0, noise of standard deviation 1, a soft window."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import CTFParams, InputError, Volume
from ..imaging.ctf import contrast_transfer
from ..imaging.fourier import radius_grid, resize
from ..imaging.masks import soft_ball
from ..imaging.preprocess import detect_contrast
from ..io import cryodrgn
from ..io.particles import Particles, read_particles, refuse_poses_in_a_plane
from ..methods.abinitio import ParticleImages
from ..methods.latent_vae import noise_std
from ..methods.pose_search import TransferFn
from .progress import Report
from .train import Device

# Images that stand for all where the contrast and the noise are estimated.
_SAMPLE = 1000
_IMAGES_AT_ONCE = 512
# The window falls to zero over this part of half the side (003, B.2: from 0.85 to 0.95).
_WINDOW_EDGE = 0.1
# Least noise as a part of the images' standard deviation: clean images are taken to have this much.
_LEAST_NOISE = 0.1


@dataclass(frozen=True)
class ParticlesConfig:
    """Which images are used and how they are prepared.

    Raises
    ------
    InputError
        A side or a window that no image could have.
    """

    side: int | None = None
    """Edge of the working images in pixels, smaller than that of the input by cropping in Fourier space (003 and 004:
    128). None keeps it."""
    contrast: Literal["auto", "bright", "dark"] = "auto"
    """Whether the protein is bright or dark in the input; auto finds out from a sample."""
    window: float | None = 0.85
    """Images fall softly to zero from this part of half the side (003, B.2). None leaves them as they are."""
    half: Literal[1, 2] | None = None
    """Use half of the particles only, for two independent volumes: the halves of the file (rlnRandomSubset,
    alignments3D/split), or else 1 those of even rows, counted from 0, and 2 the rest."""

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 8:
            raise InputError(f"a working side of {self.side} pixels is too small; give 8 or more")
        if self.window is not None and not 0 < self.window <= 1 - _WINDOW_EDGE:
            raise InputError(f"the window must begin at a part of half the side, 0 to 0.9, not {self.window}")


@dataclass(frozen=True)
class Preparation:
    """What was done to images: enough to bring volumes back to their pixel size and units.

    Attributes
    ----------
    input_side, side
        Edge in pixels before and after.
    input_pixel_size_angstrom, pixel_size_angstrom
        Before and after.
    sign
        1 if the protein was bright in the input, -1 if it was dark.
    contrast_confidence
        How sure that is, 0 to 1; 1 if it was given.
    scale
        What images were divided by after cropping, in units of the input.
    """

    input_side: int
    side: int
    input_pixel_size_angstrom: float
    pixel_size_angstrom: float
    sign: int
    contrast_confidence: float
    scale: float

    def restore(self, voxels: Float[Tensor, "side side side"]) -> Volume:
        """Bring a volume that explains the working images back to the input's sampling and units."""
        # a sum over z of finer voxels has more terms: density per voxel of the input is smaller
        restored = resize(voxels, self.input_side, 3) * (self.scale * self.side / self.input_side)
        return Volume(restored.cpu(), self.input_pixel_size_angstrom)


@dataclass(frozen=True)
class ParticleSource:
    """Where particles, and what is known of them, are found.

    Attributes
    ----------
    particles
        Particle images: a RELION .star, a cryoSPARC .cs, or a stack (.mrcs).
    output
        Folder for the results.
    passthrough
        More .cs files of the same particles, for fields that the .cs file does not have.
    poses_file
        Poses as cryoDRGN writes them (.pkl), in place of those of the particle file.
    ctf_file
        Contrast transfer as cryoDRGN writes it (.pkl), in place of that of the particle file.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    datadir
        Folder in which image stacks are looked for first, where they are no longer where the file says; folders at the
        beginning of their names are left out as far as needed.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """

    particles: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PARTICLES")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    passthrough: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="CS ...")] = ()
    poses_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    ctf_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    datadir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    device: Device = "auto"

    def open(self, half: int | None, *, file_poses: bool) -> Particles:
        """Find the particles; the poses of their file only where they count, and no others are given."""
        found = open_particles(
            self.particles,
            passthrough=self.passthrough,
            poses=self.poses_file,
            ctf=self.ctf_file,
            pixel_size=self.pixel_size,
            datadir=self.datadir,
            half=half,
            file_poses=file_poses and self.poses_file is None,
        )
        if file_poses:
            refuse_poses_in_a_plane(found)
        return found


def open_particles(
    path: Path,
    *,
    passthrough: tuple[Path, ...] = (),
    poses: Path | None = None,
    ctf: Path | None = None,
    pixel_size: float | None = None,
    datadir: Path | None = None,
    half: int | None = None,
    file_poses: bool = True,
) -> Particles:
    """Find particles, what is known of them, and those of a half-set; the poses of their file where they count."""
    particles = read_particles(path, passthrough, pixel_size, with_poses=file_poses, datadir=datadir)
    particles = cryodrgn.attach(particles, poses=poses, ctf=ctf)
    if half is not None:
        if particles.halves is not None and len(set(particles.halves)) == 1:
            raise InputError(f"{path}: holds particles of one half only, {particles.halves[0]}; take --half out")
        particles = particles.select(particles.half_sets == half)
    if len(particles) < 2:
        raise InputError(f"{path}: has {len(particles)} particles; many views are needed")
    return particles


def working_side(particles: Particles, config: ParticlesConfig) -> int:
    """Edge of the working images in pixels.

    Raises
    ------
    InputError
        One beyond that of the images.
    """
    side = config.side or particles.side
    if side > particles.side:
        raise InputError(f"{particles.files[0]}: images have {particles.side} pixels, fewer than --side {side}")
    return side


def prepare_images(
    particles: Particles, config: ParticlesConfig, report: Report
) -> tuple[Float[Tensor, "n side side"], Preparation]:
    """Read and prepare all images, which are held in memory.

    Raises
    ------
    InputError
        A working side beyond that of the images, images that are constant or cannot be read.
    """
    side = working_side(particles, config)
    sample = particles.images.read(torch.linspace(0, len(particles) - 1, min(_SAMPLE, len(particles))).long())
    spread = float(sample.var((1, 2)).mean().sqrt())
    if not spread > 0:
        raise InputError(f"{particles.files[0]}: the images are constant and hold nothing to reconstruct")
    sign, confidence = (1 if config.contrast == "bright" else -1), 1.0
    if config.contrast == "auto":
        sign, confidence = detect_contrast(sample)
    noise = max(noise_std(sample, particles.side / 2), _LEAST_NOISE * spread)
    window = _window(particles.side, config.window)
    # what cropping and the window leave of the noise in a pixel, so that it is 1 in units of the scale
    scale = noise * side / particles.side * float(window.square().mean().sqrt())
    outside = radius_grid(particles.side, 2) > particles.side / 2
    images = torch.empty(len(particles), side, side)
    for rows in torch.arange(len(particles)).split(_IMAGES_AT_ONCE):
        raw = particles.images.read(rows)
        raw = sign * (raw - raw[:, outside].mean(1)[:, None, None]) * window
        images[rows] = resize(raw, side, 2) / scale
        report((int(rows[-1]) + 1) / len(particles), f"{int(rows[-1]) + 1} of {len(particles)} images")
    pixel_size = particles.pixel_size_angstrom
    return images, Preparation(
        input_side=particles.side,
        side=side,
        input_pixel_size_angstrom=pixel_size,
        pixel_size_angstrom=pixel_size * particles.side / side,
        sign=sign,
        contrast_confidence=confidence,
        scale=scale,
    )


def particle_images(
    images: Float[Tensor, "n side side"], ctf: CTFParams | None, record: Preparation, device: torch.device
) -> ParticleImages:
    """Put images together with their contrast transfer, at the sampling of the record."""
    return ParticleImages(images, None if ctf is None else _transfer(ctf, record.pixel_size_angstrom, device))


def _transfer(ctf: CTFParams, pixel_size_angstrom: float, device: torch.device) -> TransferFn:
    there = ctf.to(device)

    def transfer(rows: Int[Tensor, " k"], frequencies: Float[Tensor, "p 2"]) -> Float[Tensor, "k p"]:
        return contrast_transfer(there.select(rows), frequencies / pixel_size_angstrom)

    return transfer


def _window(side: int, radius: float | None) -> Float[Tensor, "side side"]:
    if radius is None:
        return torch.ones(side, side)
    return soft_ball(side, 2, radius * side / 2, max(_WINDOW_EDGE * side / 2, 1.0))
