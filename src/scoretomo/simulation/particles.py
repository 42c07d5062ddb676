"""Simulated images of moving phantoms and of maps, with the true volume and pose of every image.

The truth of an image is the object in that image's own frame: its sum over z is the clean, unshifted image.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import ImageStack, InputError, Poses, Volume
from ..geometry.rotations import random_rotations
from ..imaging.fourier import recentre_crop, resize, translate
from ..imaging.resampling import rotate_volumes
from ..limits import SEEDS, check_limits
from .phantoms import SignedDistance, box_distance, capsid_distance, sample

Track = Callable[[range], Iterable[int]]
"""Passes the indices of a loop on, one by one, and may show how far it is: ``iter`` or ``rich.progress.track``."""

# The phantoms have no size of their own; at this pixel size, 88 pixels of them are as large as a ribosome.
_PHANTOM_PIXEL_ANGSTROM = 4.0


@dataclass(frozen=True)
class SimulationConfig:
    """What is simulated.

    Raises
    ------
    InputError
        A number that nothing could be simulated with.
    """

    count: int = 300
    """Number of images (001, Table 1: 300 of the box, 200 of the capsid)."""
    side: int = 88
    """Edge of the images in pixels (001, Table 1: 88)."""
    pixel_size_angstrom: float | None = None
    """Edge of a pixel in Angstrom. None: 4 for box and capsid; for a map, so that all of it is seen."""
    snr: float | None = None
    """Variance of the clean images over that of the white Gaussian noise added to them. None: no noise."""
    shift_std_angstrom: float = 0.0
    """Standard deviation, along x and along y, of the shifts that put the particles off centre."""
    seed: int = 0
    """The same seed gives the same images."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count must be at least 1 image, not {self.count}")
        if self.side < 8:
            raise InputError(f"side must be at least 8 pixels, not {self.side}")
        if self.pixel_size_angstrom is not None and not 0 < self.pixel_size_angstrom < math.inf:
            raise InputError(f"the pixel size must be a positive number of Angstrom, not {self.pixel_size_angstrom}")
        if self.snr is not None and not 0 < self.snr < math.inf:
            raise InputError(f"snr must be a positive number, not {self.snr}; leave it out for clean images")
        if not 0 <= self.shift_std_angstrom < math.inf:
            raise InputError(f"the shifts' standard deviation cannot be {self.shift_std_angstrom} Angstrom")
        check_limits(
            self,
            count=(1, 10**7),
            side=(8, 2**13),
            pixel_size_angstrom=(1e-3, 1e5),
            snr=(1e-9, 1e9),
            shift_std_angstrom=(0.0, 1e6),
            seed=SEEDS,
        )


@dataclass(frozen=True)
class Simulation:
    """Simulated images and all that is true about them.

    Attributes
    ----------
    stack
        The images.
    truth
        ``(n, side, side, side)``, axes ``[z, y, x]``: the object of each image in that image's frame, centred.
    poses
        True rotations, from the common frame of the objects to each image's, and true shifts.
    conformations
        ``(n, k)``: true state of each object; ``k`` is 0 for a rigid one.
    conformation_names
        What the ``k`` columns are, with their unit.
    """

    stack: ImageStack
    truth: Float[Tensor, "n side side side"]
    poses: Poses
    conformations: Float[Tensor, "n k"]
    conformation_names: tuple[str, ...]


def simulate_box(
    config: SimulationConfig,
    *,
    widest_angle_degrees: float = 150.0,
    device: torch.device | str = "cpu",
    track: Track = iter,
) -> Simulation:
    """Images of the box with moving lids, each in a conformation and an orientation of its own (001, section 4.1).

    The two lid angles are drawn evenly between closed, 0, and ``widest_angle_degrees``.
    """
    generator = torch.Generator().manual_seed(config.seed)
    angles = math.radians(widest_angle_degrees) * torch.rand(config.count, 2, generator=generator)
    names = ("lid_1_radians", "lid_2_radians")
    return simulate_conformations(box_distance, angles.to(device), names, config, generator, track=track)


def simulate_capsid(config: SimulationConfig, *, device: torch.device | str = "cpu", track: Track = iter) -> Simulation:
    """Images of the capsid with moving arms, each in a state and an orientation of its own (001, section 4.1).

    The opening of the arms is drawn evenly between closed, 0, and open, 1.
    """
    generator = torch.Generator().manual_seed(config.seed)
    opening = torch.rand(config.count, 1, generator=generator)
    return simulate_conformations(capsid_distance, opening.to(device), ("opening",), config, generator, track=track)


def simulate_conformations(
    shape: SignedDistance,
    conformations: Float[Tensor, "n k"],
    conformation_names: tuple[str, ...],
    config: SimulationConfig,
    generator: torch.Generator,
    *,
    track: Track = iter,
) -> Simulation:
    """Images of a continuous shape, one of each conformation, in random orientations.

    The shape is sampled anew in every image's frame, so that neither images nor truth are interpolated; each voxel is
    the mean of 8 samples, against aliasing.
    """
    pixel_size = config.pixel_size_angstrom or _PHANTOM_PIXEL_ANGSTROM
    poses = _draw_poses(config, generator, conformations.device)
    truth = conformations.new_empty(len(conformations), config.side, config.side, config.side)
    for i in track(range(len(conformations))):
        one = slice(i, i + 1)
        truth[one] = sample(shape, conformations[one], config.side, poses.rotations[one])
    images = _record(truth.sum(1), poses.shifts_angstrom / pixel_size, config.snr, generator)
    return Simulation(ImageStack(images, pixel_size), truth, poses, conformations, conformation_names)


def simulate_map(volume: Volume, config: SimulationConfig, *, track: Track = iter) -> Simulation:
    """Images of a rigid map in random orientations.

    The map is resampled in Fourier space to half a pixel of the images, turned there by trilinear interpolation, and
    each turned map cropped in Fourier space, against aliasing, to the truth of its image. Its turning point is its
    index ``side // 2``. What lies outside the images' field of view is cut off.

    The pixel size asked for is met to within one part in twice the map's side; ``stack`` carries the exact one.

    Raises
    ------
    InputError
        A pixel size far below that of the map, or of a size with the map itself.
    """
    generator = torch.Generator().manual_seed(config.seed)
    fine = resample_map(volume, config.side, config.pixel_size_angstrom, oversampling=2)
    pixel_size = 2 * fine.pixel_size_angstrom
    poses = _draw_poses(config, generator, volume.voxels.device)
    truth = fine.voxels.new_empty(config.count, config.side, config.side, config.side)
    for i in track(range(config.count)):
        turned = rotate_volumes(fine.voxels[None], poses.rotations[i : i + 1])
        truth[i] = resize(turned[0], config.side, 3)
    images = _record(truth.sum(1), poses.shifts_angstrom / pixel_size, config.snr, generator)
    return Simulation(ImageStack(images, pixel_size), truth, poses, truth.new_empty(config.count, 0), ())


def resample_map(
    volume: Volume, side: int, pixel_size_angstrom: float | None = None, *, oversampling: int = 1
) -> Volume:
    """Map on the voxels of images to be simulated, or on finer ones, by a change of sampling in Fourier space.

    Parameters
    ----------
    volume
        The map; its turning point is its index ``side // 2``. What lies outside the images' field of view is cut off.
    side
        Edge of the images in pixels.
    pixel_size_angstrom
        Of the images; met to within one part in ``oversampling`` times the map's side. None: all of the map is seen.
    oversampling
        Voxels of the result along the edge of a pixel.

    Returns
    -------
    Volume
        Of ``oversampling * side`` voxels along each edge, with the exact size of these.

    Raises
    ------
    InputError
        A pixel size far below that of the map, or of a size with the map itself.
    """
    width = volume.side * volume.pixel_size_angstrom
    wanted = pixel_size_angstrom or width / side
    smallest, largest = volume.pixel_size_angstrom / 4, width / 8
    if not smallest <= wanted <= largest:
        raise InputError(
            f"a map of {volume.side} voxels of {volume.pixel_size_angstrom:g} Angstrom cannot give pixels of "
            f"{wanted:g} Angstrom; choose {smallest:.3g} to {largest:.3g} Angstrom"
        )
    # the resampled map has a whole number of voxels, which is what decides the pixel size
    fine_side = round(oversampling * width / wanted)
    voxels = recentre_crop(resize(volume.voxels, fine_side, 3), oversampling * side, 3)
    return Volume(voxels, width / fine_side)


def _draw_poses(config: SimulationConfig, generator: torch.Generator, device: torch.device) -> Poses:
    """Uniform rotations and normal shifts."""
    rotations = random_rotations(config.count, generator=generator, device=device)
    shifts = config.shift_std_angstrom * torch.randn(config.count, 2, generator=generator)
    return Poses(rotations, shifts.to(device))


def _record(
    projections: Float[Tensor, "n side side"],
    shifts_pixels: Float[Tensor, "n 2"],
    snr: float | None,
    generator: torch.Generator,
) -> Float[Tensor, "n side side"]:
    """Move projections by their shifts and add noise, of one level for the whole stack."""
    images = projections
    if shifts_pixels.any():
        images = translate(images, shifts_pixels)
    if snr is not None:
        signal = images.var(dim=(1, 2)).mean()
        images = images + (signal / snr).sqrt() * torch.randn(images.shape, generator=generator).to(images.device)
    return images
