"""Simulated single-particle images by the thousand, by the image formation model of 003 and 004.

An object, rigid or with one moving part, is turned, projected along z and shifted; its Fourier transform is multiplied
by the contrast transfer function (CTF) and white Gaussian noise is added (004, eqs. 1 and 2, and appendix B; 003,
section B.1). Images come in parts and true volumes are made for chosen states only, so that memory does not grow with
the number of images; for class averages, each with a true volume of its own, see
:mod:`scoretomo.simulation.particles`.

What is computed lives on the disc of Nyquist's frequency. What a CTF spreads beyond one edge of the image comes back
at the opposite one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import CTFParams, InputError, Poses
from ..geometry.rotations import random_rotations
from ..imaging.ctf import contrast_transfer
from ..imaging.fourier import radius_grid
from ..imaging.slices import (
    SliceFn,
    disc_frequencies,
    from_coefficients,
    slice_coefficients,
    translate_coefficients,
)
from ..limits import SEEDS, check_limits
from .motions import RigidPart, part_slices, place

SAMPLES_AT_ONCE = 2**21
"""Fourier samples that are worked on at once: the working memory beside the densities, about 100 MB."""
IMAGES_FOR_NOISE_LEVEL = 1000
"""Images whose mean variance stands for that of all: it differs by some hundredths of the spread between views."""


@dataclass(frozen=True)
class ParticleConfig:
    """How single-particle images are simulated.

    The sets of the papers, as far as they say: hand, 64 pixels of 6 Angstrom, 50 000 images, SNR 0.1 or none (003);
    ribosome, 128 pixels, 50 000 images, SNR 0.1 or none, shifts of up to 10 pixels (004); spike, 128 pixels of 3
    Angstrom, SNR 0.01 with CTF (003); one-parameter motion, 64 pixels of 11.25 Angstrom, 100 000 images (004), or 128
    pixels of 6 Angstrom, 50 000 images, SNR 0.1 in a circle of radius 40 (003).

    Raises
    ------
    InputError
        A number that nothing could be simulated with.
    """

    count: int = 5000
    """Number of images."""
    side: int = 64
    """Edge of the images in pixels."""
    pixel_size_angstrom: float | None = None
    """Edge of a pixel in Angstrom. None: so that the object fits well."""
    widest_angle_degrees: float = 0.0
    """The moving part turns by angles drawn evenly between 0 and this. 0: the object is rigid."""
    shift_range_angstrom: float = 0.0
    """Shifts are drawn evenly between plus and minus this, along x and along y."""
    shift_std_angstrom: float = 0.0
    """Standard deviation of normal shifts along x and along y, in place of even ones."""
    defocus_micrometers: tuple[float, float] | None = None
    """Mean defocus is drawn evenly in this range, positive is underfocus; usual are 0.5 to 3. None: no CTF."""
    astigmatism_angstrom: float = 100.0
    """Standard deviation of the difference between the two defoci; its axis is drawn evenly."""
    voltage_kv: float = 300.0
    """Acceleration voltage."""
    spherical_aberration_mm: float = 2.7
    """Spherical aberration of the microscope."""
    amplitude_contrast: float = 0.1
    """Fraction of the contrast that is amplitude contrast."""
    snr: float | None = None
    """Variance of the clean images, each over all its pixels, over that of the noise (003, 004). None: no noise."""
    snr_radius_pixels: float | None = None
    """Count as signal only what is in a circle of this radius about the centre (003, Linear1d: 40). None: all."""
    seed: int = 0
    """The same seed gives the same images."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count must be at least 1 image, not {self.count}")
        if self.side < 8:
            raise InputError(f"side must be at least 8 pixels, not {self.side}")
        if self.pixel_size_angstrom is not None and not 0 < self.pixel_size_angstrom < math.inf:
            raise InputError(f"the pixel size must be a positive number of Angstrom, not {self.pixel_size_angstrom}")
        if not 0 <= self.widest_angle_degrees <= 360:
            raise InputError(f"the widest angle must be 0 to 360 degrees, not {self.widest_angle_degrees}")
        for name in ("shift_range_angstrom", "shift_std_angstrom", "astigmatism_angstrom"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be 0 Angstrom or more, not {getattr(self, name)}")
        if self.shift_range_angstrom and self.shift_std_angstrom:
            raise InputError("give either a range of the shifts or their standard deviation, not both")
        if self.defocus_micrometers is not None and not self.defocus_micrometers[0] <= self.defocus_micrometers[1]:
            low, high = self.defocus_micrometers
            raise InputError(f"a defocus range goes from the smaller to the larger value, not from {low} to {high}")
        if self.snr is not None and not 0 < self.snr < math.inf:
            raise InputError(f"snr must be a positive number, not {self.snr}; leave it out for clean images")
        if self.snr_radius_pixels is not None and not 1 <= self.snr_radius_pixels:
            raise InputError(
                f"the circle of the signal needs a radius of 1 pixel or more, not {self.snr_radius_pixels}"
            )
        if self.snr_radius_pixels is not None and self.snr is None:
            raise InputError(
                f"a circle of the signal ({self.snr_radius_pixels:g} pixels) says nothing without noise; give --snr too"
            )
        check_limits(
            self,
            count=(1, 10**9),
            side=(8, 2**13),
            pixel_size_angstrom=(1e-3, 1e5),
            shift_range_angstrom=(0.0, 1e6),
            shift_std_angstrom=(0.0, 1e6),
            defocus_micrometers=(-100.0, 100.0),
            astigmatism_angstrom=(0.0, 1e5),
            voltage_kv=(10.0, 3000.0),
            spherical_aberration_mm=(-100.0, 100.0),
            amplitude_contrast=(0.0, 1.0),
            snr=(1e-9, 1e9),
            snr_radius_pixels=(1.0, 1e5),
            seed=SEEDS,
        )


@dataclass(frozen=True)
class ParticleTruth:
    """What is true of each image but its pixels.

    Attributes
    ----------
    poses
        Rotations from the object's frame to the image's, and shifts.
    angles
        ``(n,)`` radians: how far the moving part is turned.
    ctf
        Contrast transfer of each image; None: none.
    """

    poses: Poses
    angles: Float[Tensor, " n"]
    ctf: CTFParams | None

    def __len__(self) -> int:
        return len(self.poses)


def draw_particles(
    config: ParticleConfig, generator: torch.Generator, recorded_ctf: CTFParams | None = None
) -> ParticleTruth:
    """Draw poses, angles of the moving part and contrast transfer of all images.

    Parameters
    ----------
    config
        What is drawn from which range.
    generator
        Source of the draws.
    recorded_ctf
        Of the images of a real data set: each image gets those of one of them, of another one as long as there are
        enough (003, section B.1); in place of the ranges of ``config``.
    """
    rotations = random_rotations(config.count, generator=generator)
    if config.shift_range_angstrom:
        shifts = config.shift_range_angstrom * (2 * torch.rand(config.count, 2, generator=generator) - 1)
    else:
        shifts = config.shift_std_angstrom * torch.randn(config.count, 2, generator=generator)
    angles = math.radians(config.widest_angle_degrees) * torch.rand(config.count, generator=generator)
    if recorded_ctf is None:
        return ParticleTruth(Poses(rotations, shifts), angles, draw_ctf(config, generator))
    rounds = math.ceil(config.count / len(recorded_ctf))
    order = torch.cat([torch.randperm(len(recorded_ctf), generator=generator) for _ in range(rounds)])
    return ParticleTruth(Poses(rotations, shifts), angles, recorded_ctf.select(order[: config.count]))


def draw_ctf(config: ParticleConfig, generator: torch.Generator) -> CTFParams | None:
    """Draw the contrast transfer of all images from the ranges of ``config``; None if it has none."""
    if config.defocus_micrometers is None:
        return None
    low, high = (1e4 * defocus for defocus in config.defocus_micrometers)
    mean = low + (high - low) * torch.rand(config.count, generator=generator)
    # U is the larger of the two, as in RELION
    difference = config.astigmatism_angstrom * torch.randn(config.count, generator=generator).abs()
    same = torch.ones(config.count)
    return CTFParams(
        defocus_u_angstrom=mean + difference / 2,
        defocus_v_angstrom=mean - difference / 2,
        astigmatism_degrees=180 * torch.rand(config.count, generator=generator),
        phase_shift_degrees=0 * same,
        voltage_kv=config.voltage_kv * same,
        spherical_aberration_mm=config.spherical_aberration_mm * same,
        amplitude_contrast=config.amplitude_contrast * same,
    )


def _project(
    parts: Sequence[RigidPart], slices: Sequence[SliceFn], truth: ParticleTruth
) -> Iterator[Float[Tensor, "k side side"]]:
    """Yield the images without noise, some at a time.

    Each part is a central slice of its own density (Fourier-slice theorem), moved to where its centre comes to lie;
    the slices of all parts add up.
    """
    first = parts[0].density
    side, device = first.side, first.voxels.device
    frequencies = disc_frequencies(side, side / 2, device)
    at_once = max(1, SAMPLES_AT_ONCE // len(frequencies))
    for chosen in torch.arange(len(truth)).split(at_once):
        coefficients = _object_slices(parts, slices, _of(truth, chosen), frequencies)
        if truth.ctf is not None:
            ctf = truth.ctf.select(chosen).to(device)
            coefficients = coefficients * contrast_transfer(ctf, frequencies / first.pixel_size_angstrom)
        yield from_coefficients(coefficients, frequencies, side)


def _of(truth: ParticleTruth, chosen: Tensor) -> ParticleTruth:
    ctf = None if truth.ctf is None else truth.ctf.select(chosen)
    return ParticleTruth(truth.poses.select(chosen), truth.angles[chosen], ctf)


def noisy_images(
    parts: Sequence[RigidPart], truth: ParticleTruth, config: ParticleConfig, generator: torch.Generator
) -> Iterator[Float[Tensor, "k side side"]]:
    """Yield the images, with noise of the SNR asked for if any, some at a time.

    The signal is the clean image after the CTF. Its variance is the mean over the first 1000 images, whose poses are
    as good as any others'; one noise level for all images.

    Parameters
    ----------
    parts
        The object, all parts on one device.
    truth
        Poses, angles and CTF, on the CPU.
    config
        The SNR.
    generator
        Of the noise.

    Yields
    ------
    Tensor
        ``(k, side, side)``, sums over z of the rotated object in density times voxels.

    Raises
    ------
    InputError
        An SNR is asked for, and there is no signal.
    """
    slices = [part_slices(part) for part in parts]
    images = _project(parts, slices, truth)
    if config.snr is None:
        yield from images
        return
    sample = _project(parts, slices, _of(truth, torch.arange(min(len(truth), IMAGES_FOR_NOISE_LEVEL))))
    signal = torch.cat([signal_variance(some, config.snr_radius_pixels) for some in sample]).mean()
    if not signal > 0:
        raise InputError("the images show nothing, so that no noise could have an SNR; is the density zero?")
    level = (signal / config.snr).sqrt()
    for some in images:
        # one by one: the numbers drawn for an image do not depend on how many are made at once
        noise = torch.stack([torch.randn(some.shape[1:], generator=generator) for _ in some])
        yield some + level * noise.to(some)


def signal_variance(images: Float[Tensor, "n side side"], radius_pixels: float | None = None) -> Float[Tensor, " n"]:
    """Variance of each image over all its pixels, or over those within ``radius_pixels`` of its centre."""
    inside = radius_grid(images.shape[-1], 2, images.device) <= (math.inf if radius_pixels is None else radius_pixels)
    return images[:, inside].var(dim=1)


def _object_slices(
    parts: Sequence[RigidPart], slices: Sequence[SliceFn], truth: ParticleTruth, frequencies: Float[Tensor, "p 2"]
) -> Float[Tensor, "n p"]:
    """Hartley coefficients of the projected object in its poses, before the CTF."""
    pixel_size = parts[0].density.pixel_size_angstrom
    rotations, shifts = truth.poses.rotations.to(frequencies), truth.poses.shifts_angstrom.to(frequencies)
    total = frequencies.new_zeros(len(truth), len(frequencies))
    for part, slice_fn in zip(parts, slices, strict=True):
        turns, centres = place(part, truth.angles.to(frequencies))
        projected = slice_coefficients(slice_fn, rotations @ turns, frequencies)
        across = (rotations @ centres[:, :, None])[:, :2, 0] + shifts
        total += translate_coefficients(projected, frequencies, across / pixel_size)
    return total
