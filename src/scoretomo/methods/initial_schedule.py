"""How an initial model is searched: how much is tried, on which planes, in which bands, at which temperatures."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from ..imaging.polar import PolarPlanes
from ..limits import check_limits
from .polar_matching import RingImages, RingPoses, find_shifts

# Part of the iterations of a stage in which its band grows.
_MARCH = 0.75
# Shifts that are tried along each axis, from minus to plus: this many steps, of half a pixel of the band and less.
_SHIFT_STEPS = 2
# Images from which on starts are as many as they are said to be, and how many times as many there are at most. Of 41
# searches of 12 averages of the 80S ribosome, 12 starts left 5 at a correlation of 0.885 or less, 24 left one.
_ENOUGH_IMAGES, _MOST_TIMES = 50, 3.0


@dataclass(frozen=True)
class InitialModelConfig:
    """How an initial model is searched.

    Attributes
    ----------
    starts
        Starts from random poses, for 50 images or more: fewer lead astray more often, and each costs less, so that
        there are up to three times as many.
    kept
        Starts that go on after the first stage, of 50 images or more, and as many times more of fewer; one less after
        the second.
    coarse_cycles, fine_cycles
        Bands at the end of the first stage and of the last, in cycles per diameter of the molecule.
    images_at_once
        Images that an iteration uses at most, but for the last of a stage, which uses all.
    shift_extent
        Largest shift along x or y that is searched, from the second stage on, as a part of the diameter; 0 does not
        search any. Molecules that are off centre by more than half of it are not found.

    Raises
    ------
    InputError
        Counts below one, bands that do not grow, an extent outside 0 to 0.5.
    """

    starts: int = 12
    kept: int = 3
    coarse_cycles: float = 4.7
    fine_cycles: float = 7.5
    images_at_once: int = 300
    shift_extent: float = 0.1

    def __post_init__(self) -> None:
        if min(self.starts, self.kept, self.images_at_once) < 1:
            counts = f"{self.starts}, {self.kept} and {self.images_at_once}"
            raise InputError(f"starts, kept and images_at_once must be 1 or more, not {counts}")
        if not 1 <= self.coarse_cycles <= self.fine_cycles:
            raise InputError(f"bands must grow from 1, not from {self.coarse_cycles} to {self.fine_cycles} cycles")
        if not 0 <= self.shift_extent <= 0.5:
            raise InputError(f"shift_extent must lie between 0 and 0.5 of the diameter, not {self.shift_extent}")
        check_limits(self, starts=(1, 10**4), kept=(1, 10**4), images_at_once=(1, 10**6), fine_cycles=(1.0, 1e3))

    def for_images(self, count: int) -> "InitialModelConfig":
        """Raise the number of starts for so many images, where they are few."""
        times = min(_MOST_TIMES, max(1.0, _ENOUGH_IMAGES / count))
        return replace(self, starts=round(times * self.starts), kept=round(times * self.kept))


@dataclass(frozen=True)
class Stage:
    """A part of the search on planes of one spacing; cycles are per diameter of the molecule."""

    order: int
    iterations: int
    first_cycles: float
    last_cycles: float
    hot: float
    cold: float
    part: float
    """Part of the images in the first iteration; all are in the last."""
    candidates: int
    kept: int
    shifts: bool = False
    even: bool = False
    """Whether poses are weighed so that no direction takes all images."""

    def rings(self, progress: float, images: RingImages, radius: float) -> int:
        """Rings that count after so much of the stage, 0 to 1."""
        cycles = self.first_cycles + (self.last_cycles - self.first_cycles) * min(1.0, progress / _MARCH)
        return max(2, min(images.rings, round(cycles * images.box / (2 * radius))))

    def temperature(self, progress: float) -> float:
        """Temperature after so much of the stage, 0 to 1."""
        return float(self.hot * (self.cold / self.hot) ** progress)


def stages_of(config: InitialModelConfig) -> tuple[Stage, Stage, Stage]:
    """Which planes, bands and temperatures follow one another."""
    coarse, fine = config.coarse_cycles, config.fine_cycles
    left = max(1, config.kept - 1)
    return (
        Stage(1, 16, min(2.4, coarse), coarse, 1.0, 0.1, 0.5, 24, min(config.kept, config.starts), even=True),
        Stage(2, 16, coarse, fine, 0.3, 0.2, 0.7, 8, min(left, config.starts), shifts=config.shift_extent > 0),
        Stage(3, 5, fine, fine, 0.2, 0.2, 1.0, 8, 1, shifts=config.shift_extent > 0),
    )


def ring_weights_of(images: RingImages, rings: int) -> Float[Tensor, " rings"]:
    """Area of each ring over its power: what is strong does not count more than what is fine."""
    return torch.arange(1, rings + 1, device=images.power.device) / images.power[:, :rings].mean(0)


def move_to_shifts(
    images: RingImages,
    planes: PolarPlanes,
    volumes: Float[Tensor, "s m m m"],
    poses: RingPoses,
    config: InitialModelConfig,
    radius: float,
    rings: int,
    progress: float,
) -> RingPoses:
    """Move shifts to the best of a grid about them, whose steps are half a pixel of the band at first, then finer."""
    step = 0.5 / rings * 0.5 ** (2 * progress)
    axis = torch.arange(-_SHIFT_STEPS, _SHIFT_STEPS + 1, device=volumes.device) * step / _SHIFT_STEPS
    most = config.shift_extent * 2 * radius / images.box
    grid = torch.cartesian_prod(axis, axis)
    return find_shifts(images, planes, volumes, poses, ring_weights_of(images, rings), grid, most)
