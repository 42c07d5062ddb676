"""When poses are searched, how finely, on which disc of frequencies: the schedule of an ab initio training (003)."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ..datatypes import InputError
from ..limits import MANY, check_limits
from .latent_vae import LatentVAEConfig
from .pose_search import PoseSearchConfig

PoseMethod = Literal["known", "search", "branch-and-bound"]

# The exhaustive grid is too coarse for frequencies beyond this part of the side of the image, whatever its size.
_FINEST_AT_BASE = 0.25
# Of a molecule that reaches a quarter of the side from its centre, edges then move by half a radian of the finest wave.
_FINEST_TURN = 0.64
# Degrees. Neighbours on one peak are kept, as in 003, and only duplicates are not: with none left out, errors are no
# smaller (benchmarks/pose_search_sweep.py).
_SEPARATION = 1.0
# Of 2 359 296 rotations.
_FINEST_GRID = 5
# Images are trained on this many Fourier pixels beyond those that are searched.
_MARGIN = 1.0
# The disc grows over so many images of large sets, and over an epoch at least: that is several times what sets of some
# thousand, searched in every epoch, need to come to the same volume.
_IMAGES_OF_THE_MARCH = 100_000
# Searches while the disc grows, and after it, at most: few images are seen in hundreds of epochs.
_MOST_SEARCHES = 24


@dataclass(frozen=True)
class SearchGridConfig:
    """How finely poses are searched, and on which frequencies. Defaults of cryoDRGN2 (003, C.5).

    Raises
    ------
    InputError
        A negative number, or a grid that :class:`.PoseSearchConfig` refuses.
    """

    base_order: int = 2
    """Order of the exhaustive grid: 1, 2, 3 are 576, 4608, 36864 rotations. This, ``refinements``, ``kept`` and
    ``shift_count`` are of the hierarchical search; branch and bound has the rotations and spacings of 004."""
    refinements: int = 4
    """Times that the spacing is halved (M); fewer where the disc is too small to tell such poses."""
    kept: int = 8
    """Poses of each image that are refined (K), on average: three times as many after the exhaustive search, and then
    half as many after each refinement (ours)."""
    low_radius: float = 12.0
    """Largest radius in the exhaustive search (k_min); a quarter of the side at most."""
    high_radius: float = 48.0
    """Radius of the disc of frequencies (k_max), at most half the side."""
    shift_extent: float = 20 / 128
    """Shifts from minus to plus this are searched along x and y, as a part of the side; 0 does not search any."""
    shift_count: int = 14
    """Shifts per axis in the exhaustive search (T)."""

    def __post_init__(self) -> None:
        if not 0 <= self.base_order <= _FINEST_GRID:
            raise InputError(f"base_order must be 0 to {_FINEST_GRID}, not {self.base_order}")
        if not 0 <= self.shift_extent <= 0.5:
            raise InputError(f"shift_extent must be a part of the side, 0 to 0.5, not {self.shift_extent}")
        self.grid(128)

    def grid(self, side: int, radius: float = math.inf) -> PoseSearchConfig:
        """Search for images of ``side`` pixels, up to a radius where it is to be smaller than ``high_radius``."""
        radius = min(radius, self.high_radius, side / 2)
        grid = PoseSearchConfig(
            base_order=self.base_order,
            refinements=self.refinements,
            kept=self.kept,
            low_radius=min(self.low_radius, max(1.0, _FINEST_AT_BASE * side), radius),
            high_radius=radius,
            shift_extent_pixels=self.shift_extent * side,
            shift_count=self.shift_count,
            separation_degrees=_SEPARATION,
            tapered=True,
        )
        useful = math.ceil(math.log2(max(1.0, grid.rotation_spacing(0) * radius / _FINEST_TURN)))
        return replace(grid, refinements=min(self.refinements, useful))


@dataclass(frozen=True)
class AbInitioConfig(SearchGridConfig):
    """Where poses begin, and when and how finely they are searched. Defaults of 003 (A.2) unless noted.

    ``high_radius`` is that of the end.

    Raises
    ------
    InputError
        A negative number, no search at all, or what :class:`SearchGridConfig` refuses.
    """

    start: Literal["initial", "random"] = "initial"
    """Poses are found before anything is trained, by an initial model of some of the images and a marching search from
    it; or they begin at random and are found as the disc grows, as in the papers."""
    pretrain_images: int = 1000
    """Images seen at random poses first, in whole epochs: they give the volume its extent (004, section 5.1: an epoch,
    of 50 000). With too few, all images soon agree on wrong poses. Only where poses begin at random."""
    consensus_epochs: float = 15.0
    """Epochs in which one volume is fitted to all images of a heterogeneous set, from random poses on. Then the family
    of volumes is begun at the poses that were found: from the start it would explain any image at any pose."""
    resets: int = 0
    """Times that the networks are begun anew and trained for all epochs again, from the poses that were found (003,
    C.5, "+r"; there once, after 30 epochs)."""
    settle_images: int = 10_000
    """Images that new networks see before they are trusted with poses that were found before; where poses began at
    random, a third of all at most. In a training of fewer images the poses of an initial model stay as they are."""
    search_every: int = 5
    """Poses are searched in every n-th epoch (003), less often where there are hundreds; while the disc grows, in
    every epoch, so that nothing is trained on frequencies that poses do not know of yet."""
    images_at_once: int = 128
    """Images that are searched against one state of the volumes (003: 8), and more where the network would work longer
    for their search than for their training."""
    search_volumes: int = 16
    """Volumes that the images of a heterogeneous set are compared with at once: their z are gathered around so many
    centres, and each image is compared with the volume of its centre. 003 decodes one volume for each image."""
    first_radius: float = 5.0
    """Radius of the disc of frequencies where searches begin, in Fourier pixels (ours; 003 begins at 12)."""
    march: float = 0.4
    """Part of the epochs with poses over which the radius grows to ``high_radius``; sets of more than some ten thousand
    grow it over 100 000 images, or an epoch, where that is less."""

    def __post_init__(self) -> None:
        if not 0 < self.consensus_epochs < math.inf:
            raise InputError(f"consensus_epochs must be a number above 0, not {self.consensus_epochs}")
        if self.pretrain_images < 0 or self.resets < 0:
            counts = f"{self.pretrain_images} and {self.resets}"
            raise InputError(f"pretrain_images and resets must be 0 or more, not {counts}")
        if min(self.search_every, self.images_at_once, self.search_volumes) < 1:
            counts = f"{self.search_every}, {self.images_at_once} and {self.search_volumes}"
            raise InputError(f"search_every, images_at_once and search_volumes must be 1 or more, not {counts}")
        if not 0 < self.march <= 1 or not 1 <= self.first_radius:
            parts = f"{self.march} and {self.first_radius}"
            raise InputError(f"march must lie between 0 and 1, and first_radius must be 1 or more, not {parts}")
        super().__post_init__()
        check_limits(
            self,
            pretrain_images=(0, MANY),
            consensus_epochs=(1e-6, 1e6),
            resets=(0, 1000),
            settle_images=(0, MANY),
            search_every=(1, 10**9),
            images_at_once=(1, 10**9),
            search_volumes=(1, 10**6),
            first_radius=(1.0, 1e5),
        )

    def radius(self, side: int, grown: float) -> float:
        """Radius of the disc when so much of its growth is done, 0 to 1."""
        last = min(self.high_radius, side / 2)
        first = min(self.first_radius, last)
        return first + grown * (last - first)

    def grid_at(self, side: int, grown: float) -> PoseSearchConfig:
        """Search for images of ``side`` pixels, when so much of the disc's growth is done, 0 to 1."""
        return self.grid(side, self.radius(side, grown))

    def trained_radius(self, side: int, grown: float) -> float:
        """Radius of the disc that the volumes are trained on."""
        return math.inf if grown >= 1 else self.radius(side, grown) + _MARGIN

    def at_once(self, side: int, grown: float, volumes: int) -> int:
        """Images that are searched together: a lattice of each volume has fewer points than the discs of all."""
        radius = self.radius(side, grown)
        return max(self.images_at_once, math.ceil(volumes * 4 / 3 * (2 * radius) ** 3 / (3 * radius**2)))

    def cycles(self, config: LatentVAEConfig, method: PoseMethod) -> list[LatentVAEConfig]:
        """List what is trained one after another: new networks each, from the poses that the one before has found."""
        if method == "known":
            return [config]
        consensus = replace(config, latent_dimensions=0, epochs=self.consensus_epochs)
        return [consensus] * (config.latent_dimensions > 0) + [config] * (1 + self.resets)

    def pretrain_epochs(self, count: int, cycle: int) -> int:
        """Epochs at random poses of ``count`` images; none where there are better ones."""
        return 0 if cycle or self.start == "initial" else math.ceil(self.pretrain_images / count)

    def growing_epochs(self, epochs: float, count: int) -> float:
        """Epochs of the first cycle in which the disc grows."""
        return min(self.march * (epochs - self.pretrain_epochs(count, cycle=0)), max(1.0, _IMAGES_OF_THE_MARCH / count))

    def grown(self, seen: int, epochs: float, count: int, cycle: int) -> float:
        """Part of the disc's growth, 0 to 1, that is done after ``seen`` images; all of it where poses were found."""
        if cycle or self.start == "initial":
            return 1.0
        after = seen / count - self.pretrain_epochs(count, cycle)
        return min(1.0, max(0.0, after / self.growing_epochs(epochs, count)))

    def search_epochs(self, epochs: float, count: int, cycle: int) -> list[int]:
        """Epochs in which the poses of ``count`` images are searched."""
        end = math.ceil(epochs)
        seldom = max(self.search_every, end // _MOST_SEARCHES)
        if cycle or self.start == "initial":
            settled = math.ceil(self.settle_images / count)
            if self.start == "random":
                settled = min(settled, end // 3)
            return list(range(max(seldom, settled), end, seldom))
        first = self.pretrain_epochs(count, cycle)
        grown = int(first + self.growing_epochs(epochs, count))
        often = max(1, (grown - first) // _MOST_SEARCHES)
        growing = list(range(first, grown + 1, often))
        return [epoch for epoch in growing + list(range(growing[-1], end, seldom))[1:] if epoch < end]
