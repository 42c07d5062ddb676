"""Simulated class averages as 2D classification makes them of particle images, with a known truth.

An average is the mean of the phase-flipped images of particles near one view and one state of the object: what was
wrong with their alignment and classification, their contrast transfer and what is left of their noise are in it. Its
truth is the object in that view and state, centred: without errors, contrast transfer and noise, the average is the sum
of its truth over z.

All is computed within Nyquist's disc and sphere. Of the pieces of an object one is held at a time, so that memory does
not grow with their number, nor beyond truth and images with that of the particles.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import CTFParams, InputError, Poses
from ..geometry.rotations import from_rotation_vectors, random_rotations
from ..imaging.ctf import contrast_transfer
from ..imaging.fourier import hartley
from ..imaging.slices import SliceFn, ball_frequencies, disc_frequencies, from_coefficients, grid_places
from ..limits import check_limits
from .moving_objects import MovingObject, Piece, piece_coefficients
from .particles import Track
from .single_particles import (
    IMAGES_FOR_NOISE_LEVEL,
    SAMPLES_AT_ONCE,
    ParticleConfig,
    draw_ctf,
    signal_variance,
)

JUNK_KINDS = ("noise", "views", "ice")
"""What junk averages show, in turn: nothing, the object in all views and states at once, or blobs of ice."""

# Blobs of ice: how many at most, and their standard deviations in parts of the image's side.
_MOST_BLOBS = 4
_BLOB_WIDTHS = (0.05, 0.2)


@dataclass(frozen=True)
class AverageConfig:
    """What class averages are simulated, and how good they are.

    Raises
    ------
    InputError
        A number that nothing could be simulated with.
    """

    count: int = 120
    """Number of class averages of the object."""
    side: int = 64
    """Edge of the images in pixels."""
    pixel_size_angstrom: float | None = None
    """Edge of a pixel in Angstrom. None: 352 / side for box and capsid; for others, so that the object fits well."""
    widest_angle_degrees: float | None = None
    """Lids and moving parts turn by angles drawn evenly between 0 and this. None: 150 for the box, 50 for parts that
    are named or counted, otherwise nothing moves."""
    particles_per_class: int = 60
    """Particles whose mean an average is; an even number, half of them in each half."""
    angle_std_degrees: float = 5.0
    """Standard deviation of the particles' errors of angle, about each of the three axes."""
    shift_std_pixels: float = 0.5
    """Standard deviation of the particles' errors of shift, along x and along y."""
    state_std: float = 0.075
    """Standard deviation of the particles' states about that of their class, in parts of each parameter's range."""
    centre_std_pixels: float = 0.5
    """Standard deviation, along x and along y, of the shifts that put whole averages off centre."""
    defocus_micrometers: tuple[float, float] | None = (1.2, 2.4)
    """Each particle's mean defocus is drawn evenly in this range, positive is underfocus; phases are flipped, so that
    it is seen through the CTF's absolute value. None: no CTF."""
    astigmatism_angstrom: float = 100.0
    """Standard deviation of the difference between the two defoci; its axis is drawn evenly."""
    voltage_kv: float = 300.0
    """Acceleration voltage."""
    spherical_aberration_mm: float = 2.7
    """Spherical aberration of the microscope."""
    amplitude_contrast: float = 0.1
    """Fraction of the contrast that is amplitude contrast."""
    snr: float | None = 0.1
    """Variance of a particle's clean image, over all its pixels, over that of its white noise; an average has as many
    times more as it has particles. None: no noise."""
    junk: int = 0
    """Junk averages after the others, in turn: of noise only, of the object in all views at once, of blobs of ice."""
    seed: int = 0
    """The same seed gives the same images."""

    def __post_init__(self) -> None:
        if self.particles_per_class < 2 or self.particles_per_class % 2:
            raise InputError(
                "particles_per_class must be an even number of 2 or more, for two equal halves, not "
                f"{self.particles_per_class}"
            )
        if self.junk < 0:
            raise InputError(f"junk must be 0 averages or more, not {self.junk}")
        for name in ("angle_std_degrees", "shift_std_pixels", "state_std", "centre_std_pixels"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        self.of_particles()  # which refuses what no particle can have
        check_limits(
            self,
            count=(1, 10**6),
            particles_per_class=(2, 10**6),
            angle_std_degrees=(0.0, 360.0),
            shift_std_pixels=(0.0, 1e4),
            state_std=(0.0, 100.0),
            centre_std_pixels=(0.0, 1e4),
            junk=(0, 10**6),
        )

    def of_particles(self) -> ParticleConfig:
        """Say the same of all particles of the averages that are not junk."""
        return ParticleConfig(
            count=self.count if self.count < 1 else self.count * self.particles_per_class,
            side=self.side,
            pixel_size_angstrom=self.pixel_size_angstrom,
            widest_angle_degrees=self.widest_angle_degrees or 0.0,
            defocus_micrometers=self.defocus_micrometers,
            astigmatism_angstrom=self.astigmatism_angstrom,
            voltage_kv=self.voltage_kv,
            spherical_aberration_mm=self.spherical_aberration_mm,
            amplitude_contrast=self.amplitude_contrast,
            snr=self.snr,
            seed=self.seed,
        )


@dataclass(frozen=True)
class AverageTruth:
    """What is true of n averages and of their n times m particles, which are sorted by average.

    The particles with even places in a class are in its even half, the others in its odd one.

    Attributes
    ----------
    poses, states
        Of the averages: rotations from the object's frame to the image's, shifts; ``(n, k)`` parameters.
    particle_poses, particle_states
        The same of the particles, ``(n * m, k)``; their images are those that were averaged, not turned or moved.
    ctf
        Of the particles; None: none.
    """

    poses: Poses
    states: Float[Tensor, "n k"]
    particle_poses: Poses
    particle_states: Float[Tensor, "nm k"]
    ctf: CTFParams | None

    def __len__(self) -> int:
        return len(self.poses)


@dataclass(frozen=True)
class ClassAverages:
    """Simulated averages and all that is true about them.

    Attributes
    ----------
    halves
        ``(n + junk, 2, side, side)``: the means of the even and of the odd particles of each class, each with noise of
        its own. The junk comes last.
    volumes
        ``(n, side, side, side)``, axes ``[z, y, x]``: the object of each average in that image's frame, centred.
    truth
        Of the n averages.
    junk
        Of the particles of the junk; None if there is no junk.
    """

    halves: Float[Tensor, "all 2 side side"]
    volumes: Float[Tensor, "n side side side"]
    truth: AverageTruth
    junk: AverageTruth | None

    @property
    def images(self) -> Float[Tensor, "all side side"]:
        """The averages, ``(n + junk, side, side)``, in density times voxels."""
        return self.halves.mean(1)


def simulate_averages(found: MovingObject, config: AverageConfig, *, track: Track = iter) -> ClassAverages:
    """Simulate class averages of an object, each in a view and a state of its own.

    Parameters
    ----------
    found
        The object, of the side that ``config`` says.
    config
        How many, and what is wrong with them.
    track
        Shows how far it is, in pieces of the object.

    Raises
    ------
    InputError
        An SNR is asked for, and there is no signal.
    """
    generator = torch.Generator().manual_seed(config.seed)
    truth = draw_averages(found, config, generator)
    sums = _Sums(found, config, truth, with_volumes=True)
    sums.add_all(track)
    clean, signal = sums.halves(), sums.signal()
    if config.snr is not None and not signal > 0:
        raise InputError("the images show nothing, so that no noise could have an SNR; is the density zero?")
    halves, junk = _with_noise(clean, signal, config, generator), None
    if config.junk:  # drawn last: the other averages are the same without it
        junk_config = replace(config, count=config.junk, junk=0)
        junk = draw_averages(found, junk_config, generator, scattered=True)
        clean = _junk(found, junk_config, junk, signal, generator)
        halves = torch.cat([halves, _with_noise(clean, signal, config, generator)])
    return ClassAverages(halves, sums.volumes(), truth, junk)


def draw_averages(
    found: MovingObject, config: AverageConfig, generator: torch.Generator, *, scattered: bool = False
) -> AverageTruth:
    """Draw views, states and shifts of the averages, and how those of their particles differ from them.

    With ``scattered`` the particles of a class have nothing in common: each has any view and any state.
    """
    count, per_class, ranges = config.count, config.particles_per_class, found.widest
    pixel_size = found.pixel_size_angstrom
    rotations = random_rotations(count, generator=generator)
    states = ranges * torch.rand(count, len(ranges), generator=generator)
    centres = config.centre_std_pixels * torch.randn(count, 2, generator=generator)
    errors = math.radians(config.angle_std_degrees) * torch.randn(count, per_class, 3, generator=generator)
    shifts = centres[:, None] + config.shift_std_pixels * torch.randn(count, per_class, 2, generator=generator)
    mixed = states[:, None] + config.state_std * ranges * torch.randn(
        count, per_class, len(ranges), generator=generator
    )
    turned = from_rotation_vectors(errors) @ rotations[:, None]
    if scattered:
        turned = random_rotations(count, per_class, generator=generator)
        mixed = ranges * torch.rand(count, per_class, len(ranges), generator=generator)
    return AverageTruth(
        poses=Poses(rotations, pixel_size * centres),
        states=states,
        particle_poses=Poses(turned.flatten(0, 1), pixel_size * shifts.flatten(0, 1)),
        particle_states=mixed.clamp(min=torch.zeros(()), max=ranges).flatten(0, 1),
        ctf=draw_ctf(config.of_particles(), generator),
    )


class _Sums:
    """Sums over the particles of every half, and volumes, to which the pieces of the object are added one by one."""

    def __init__(self, found: MovingObject, config: AverageConfig, truth: AverageTruth, *, with_volumes: bool) -> None:
        self.found, self.config, self.truth = found, config, truth
        side, count, per_class = found.side, len(truth), config.particles_per_class
        self.disc, self.ball = disc_frequencies(side, side / 2), ball_frequencies(side)
        number = torch.arange(count * per_class)
        in_class = number % per_class
        self.half = 2 * (number // per_class) + in_class % 2
        self.half_sums = torch.zeros(2 * count, len(self.disc))
        # the same number of particles of each class stand for all where the noise level is decided
        each = min(per_class, math.ceil(IMAGES_FOR_NOISE_LEVEL / count))
        self.measured = torch.where(in_class < each, number // per_class * each + in_class, -1)
        self.measured_images = torch.zeros(count * each, len(self.disc))
        self.transforms = torch.zeros(count if with_volumes else 0, side**3)
        self.ball_places = grid_places(self.ball, side)

    def add_all(self, track: Track = iter) -> None:
        """Add all pieces of the object."""
        for number in track(range(len(self.found.pieces))):
            piece = self.found.pieces[number]
            slices = piece.slices()
            self._add_to_images(piece, slices)
            if len(self.transforms):
                self._add_to_volumes(piece, slices)

    def _add_to_images(self, piece: Piece, slices: SliceFn) -> None:
        truth, placed = self.truth, piece.place(self.truth.particle_states)
        pixel_size = self.found.pixel_size_angstrom
        for chosen in _some_at_once(placed.amounts, len(self.disc)):
            poses = truth.particle_poses.select(chosen)
            values = piece_coefficients(
                slices, placed, chosen, poses.rotations, poses.shifts_angstrom, self.disc, pixel_size
            )
            if truth.ctf is not None:
                values *= contrast_transfer(truth.ctf.select(chosen), self.disc / pixel_size).abs()
            self.half_sums.index_add_(0, self.half[chosen], values)
            measured = self.measured[chosen]
            self.measured_images.index_add_(0, measured[measured >= 0], values[measured >= 0])

    def _add_to_volumes(self, piece: Piece, slices: SliceFn) -> None:
        placed, pixel_size = piece.place(self.truth.states), self.found.pixel_size_angstrom
        for chosen in _some_at_once(placed.amounts, len(self.ball)):
            rotations = self.truth.poses.rotations[chosen]
            values = piece_coefficients(
                slices, placed, chosen, rotations, torch.zeros(len(chosen), 3), self.ball, pixel_size
            )
            for index, row in zip(chosen.tolist(), values, strict=True):
                self.transforms[index].index_add_(0, self.ball_places, row)

    def halves(self) -> Float[Tensor, "n 2 side side"]:
        """Mean of the particles of every half, without noise."""
        means = self.half_sums / (self.config.particles_per_class // 2)
        images = from_coefficients(means, self.disc, self.found.side)
        return images.view(-1, 2, self.found.side, self.found.side)

    def signal(self) -> Float[Tensor, ""]:
        """Variance of a particle's image without noise, the mean over some hundred of them."""
        parts = self.measured_images.split(IMAGES_FOR_NOISE_LEVEL)
        variances = [signal_variance(from_coefficients(part, self.disc, self.found.side)) for part in parts]
        return torch.cat(variances).mean()

    def volumes(self) -> Float[Tensor, "n side side side"]:
        """Turn the transforms into the true volumes, in place."""
        side = self.found.side
        volumes = self.transforms.view(-1, side, side, side)
        for volume in volumes:
            volume.copy_(hartley(volume, 3) / side**3)
        return volumes


def _some_at_once(amounts: Float[Tensor, " n"], samples: int) -> Iterable[Int[Tensor, " k"]]:
    """Split the indices of the states that have any of a piece by what the working memory is meant for."""
    found = amounts.nonzero()[:, 0]
    return found.split(max(1, SAMPLES_AT_ONCE // samples)) if len(found) else ()


def _with_noise(
    clean: Float[Tensor, "n 2 side side"], signal: Float[Tensor, ""], config: AverageConfig, generator: torch.Generator
) -> Float[Tensor, "n 2 side side"]:
    """Add what is left of the particles' noise to each half."""
    if config.snr is None:
        return clean
    level = (signal / config.snr / (config.particles_per_class // 2)).sqrt()
    return clean + level * torch.randn(clean.shape, generator=generator)


def _junk(
    found: MovingObject,
    config: AverageConfig,
    truth: AverageTruth,
    signal: Float[Tensor, ""],
    generator: torch.Generator,
) -> Float[Tensor, "n 2 side side"]:
    """Make junk of the kinds in turn, without noise."""
    sums = _Sums(found, config, truth, with_volumes=False)
    sums.add_all()
    halves = sums.halves()
    for number in range(len(truth)):
        kind = JUNK_KINDS[number % len(JUNK_KINDS)]
        if kind == "noise":
            halves[number] = 0
        elif kind == "ice":
            halves[number] = _ice(found.side, signal, generator)
    return halves


def _ice(side: int, signal: Float[Tensor, ""], generator: torch.Generator) -> Float[Tensor, "side side"]:
    """Draw a few round blobs anywhere, with the variance of the object's images."""
    image = torch.zeros(side, side)
    axis = torch.arange(side) - side // 2
    for _ in range(int(torch.randint(1, _MOST_BLOBS + 1, (), generator=generator))):
        x, y, width, height = torch.rand(4, generator=generator)
        low, high = _BLOB_WIDTHS
        sigma = side * (low + (high - low) * width)
        squares = (axis[:, None] - side * (y - 0.5)) ** 2 + (axis - side * (x - 0.5)) ** 2
        image += (0.5 + height) * torch.exp(-squares / (2 * sigma**2))
    image -= image.mean()
    return image * (signal / signal_variance(image[None])[0]).sqrt()
