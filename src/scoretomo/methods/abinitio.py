"""cryoDRGN2 and cryoDRGN ab initio: training a family of volumes between searches for the poses of the images (003).

An epoch without a search is trained at the poses that there are. In an epoch with a search, the poses of the next
images are searched against the volumes as they are now, the volumes are trained on these images at these poses, and so
on: 003 searches batch by batch (C.5); here some batches are searched together, against one state of the volumes, so
that the network is asked for its values on one lattice and not once for each image.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..geometry.rotations import angle_between, random_rotations
from ..imaging.slices import SliceFn, image_coefficients, lattice_slices, translate_coefficients, voxel_slices
from ..training import TrainingStep
from .branch_and_bound import BranchAndBoundConfig, branch_and_bound, branch_and_bound_each
from .latent_vae import (
    ImagesAt,
    LatentState,
    LatentVAE,
    LatentVAEConfig,
    decode_volumes,
    new_state,
    rows_of_batch,
    train_progressive,
)
from .pose_search import PoseCandidates, PoseSearchConfig, TransferFn, find_poses, find_poses_each, transfer_of

PoseMethod = Literal["known", "search", "branch-and-bound"]

# The exhaustive grid is too coarse for frequencies beyond this part of the side of the image, whatever its size.
_FINEST_AT_BASE = 0.25
# Sets of less than twice as many are searched in every epoch.
_IMAGES_OF_AN_INTERVAL = 10_000


@dataclass(frozen=True)
class AbInitioConfig:
    """When and how finely poses are searched. Defaults of cryoDRGN2 (003, A.2 and C.5) unless noted.

    Raises
    ------
    InputError
        A negative number, no search at all, or a grid that :class:`.PoseSearchConfig` refuses.
    """

    pretrain_images: int = 2000
    """Images seen at random poses first, in whole epochs: they give the volume its extent (004, section 5.1: an epoch,
    of 50 000). With too few, all images soon agree on wrong poses."""
    search_every: int | None = None
    """Poses are searched in the epoch after these, and then in every n-th. None: 5 for 50 000 images or more (003), and
    an epoch less for every 10 000 fewer, down to 1, since it is the steps between that make the volume."""
    resets: int = 0
    """Times that the networks are begun anew and trained for all epochs again, from the poses that were found (003,
    C.5, "+r"). Searches then begin after the interval between them; 003 has one reset, and 30 epochs before them."""
    images_at_once: int = 1024
    """Images that are searched against one state of the volumes (003: 8)."""
    base_order: int = 2
    """Order of the exhaustive grid: 1, 2, 3 are 576, 4608, 36864 rotations."""
    refinements: int = 4
    """Times that the spacing is halved (M)."""
    kept: int = 8
    """Poses of each image that are refined (K)."""
    low_radius: float = 12.0
    """Radius of the disc of frequencies in the exhaustive search, in Fourier pixels (k_min); a quarter of the side at
    most."""
    high_radius: float = 48.0
    """Radius at the last refinement (k_max), at the end of the searches; in the first it is ``low_radius``, and grows
    linearly from search to search."""
    shift_extent: float = 20 / 128
    """Shifts from minus to plus this are searched along x and y, as a part of the side; 0 does not search any."""
    shift_count: int = 14
    """Shifts per axis in the exhaustive search (T)."""

    def __post_init__(self) -> None:
        if self.pretrain_images < 0 or self.resets < 0:
            counts = f"{self.pretrain_images} and {self.resets}"
            raise InputError(f"pretrain_images and resets must be 0 or more, not {counts}")
        if (self.search_every is not None and self.search_every < 1) or self.images_at_once < 1:
            counts = f"{self.search_every} and {self.images_at_once}"
            raise InputError(f"search_every and images_at_once must be 1 or more, not {counts}")
        if not 0 <= self.shift_extent <= 0.5:
            raise InputError(f"shift_extent must be a part of the side, 0 to 0.5, not {self.shift_extent}")
        self.grid(128)

    def grid(self, side: int, part_done: float = 1.0) -> PoseSearchConfig:
        """Search for images of ``side`` pixels, when so much of all searching is done, 0 to 1."""
        low = min(self.low_radius, max(1.0, _FINEST_AT_BASE * side))
        return PoseSearchConfig(
            base_order=self.base_order,
            refinements=self.refinements,
            kept=self.kept,
            low_radius=low,
            high_radius=low + part_done * max(0.0, min(self.high_radius, side / 2) - low),
            shift_extent_pixels=self.shift_extent * side,
            shift_count=self.shift_count,
        )

    def pretrain_epochs(self, count: int, cycle: int) -> int:
        """Epochs at random poses of ``count`` images; none after a reset."""
        return 0 if cycle else math.ceil(self.pretrain_images / count)

    def search_epochs(self, epochs: float, count: int, cycle: int) -> range:
        """Epochs in which the poses of ``count`` images are searched, before or after a reset."""
        every = self.search_every or min(5, max(1, count // _IMAGES_OF_AN_INTERVAL))
        return range(every if cycle else self.pretrain_epochs(count, cycle), math.ceil(epochs), every)


@dataclass(frozen=True)
class ParticleImages:
    """Images as recorded, protein bright, in units of their noise; and their contrast transfer.

    Attributes
    ----------
    images
        ``(n, side, side)``, where there is room; batches go to the device of the model.
    transfer
        Contrast transfer of images by their rows; None is 1 everywhere.
    """

    images: Float[Tensor, "n side side"]
    transfer: TransferFn | None = None

    def at(self, frequencies: Float[Tensor, "p 2"]) -> ImagesAt:
        """Read coefficients on the disc of a model."""

        def read(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            coefficients = image_coefficients(self.images[rows].to(frequencies.device), frequencies)
            transfer = self.transfer
            return coefficients, None if transfer is None else transfer(rows.to(frequencies.device), frequencies)

        return read


@dataclass(frozen=True)
class PosesFound:
    """What a search has changed.

    Attributes
    ----------
    rows
        ``(k,)``, images that were searched.
    turned_degrees, moved_pixels
        ``(k,)``, between their poses before and now.
    scores
        ``(k,)``, correlation of image and slice.
    """

    rows: Int[Tensor, " k"]
    turned_degrees: Float[Tensor, " k"]
    moved_pixels: Float[Tensor, " k"]
    scores: Float[Tensor, " k"]


@dataclass
class AbInitioState:
    """A training under way, whose poses may be unknown.

    Attributes
    ----------
    latent
        Networks and poses.
    cycle
        Times that the networks were begun anew.
    searched
        Images seen, in this cycle, up to which poses have been searched or drawn.
    """

    latent: LatentState
    cycle: int = 0
    searched: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"latent": self.latent.state_dict(), "cycle": self.cycle, "searched": self.searched}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` has given."""
        self.latent.load_state_dict(saved["latent"])
        self.cycle, self.searched = saved["cycle"], saved["searched"]

    def part_done(self, epochs: float, cycles: int) -> float:
        """Part of all images of all cycles that have been seen."""
        seen = self.latent.training.images_seen / (epochs * len(self.latent.rotations))
        return (self.cycle + min(1.0, seen)) / cycles


def train_abinitio_progressive(
    state: AbInitioState,
    particles: ParticleImages,
    config: LatentVAEConfig,
    search: AbInitioConfig,
    method: PoseMethod,
    fresh_model: Callable[[], LatentVAE],
) -> Iterator[TrainingStep | PosesFound]:
    """Train volumes and find poses by turns, one step or one search each time it is asked for the next item.

    Between two items the state is consistent: it may be saved, and a new process goes on as this one would have.

    Parameters
    ----------
    state
        Where to begin: poses that are known, or any.
    particles
        What is explained.
    config, search
        Of the training and of the searches; ``epochs`` is those of each cycle.
    method
        ``known`` leaves the poses as they are; ``search`` is the hierarchical search of 003, ``branch-and-bound`` that
        of 004.
    fresh_model
        Makes networks of new weights for a reset.
    """
    cycles = search.resets + 1 if method != "known" else 1
    while True:
        latent = state.latent
        steps = train_progressive(latent, particles.at(latent.model.frequencies), config)
        while True:
            while method != "known" and (rows := _rows_due(state, config, search)) is not None:
                found = _new_poses(state, rows, particles, config, search, method)
                if found is not None:
                    yield found
            step = next(steps, None)
            if step is None:
                break
            yield step
        if state.cycle + 1 >= cycles:
            return
        state.latent = new_state(fresh_model(), config, latent.rotations, latent.shifts_pixels, seed=latent.seed + 1)
        state.cycle, state.searched = state.cycle + 1, 0


def _rows_due(state: AbInitioState, config: LatentVAEConfig, search: AbInitioConfig) -> Int[Tensor, " k"] | None:
    """Images of the next batch and those after it whose poses are to be found before the batch is trained on."""
    latent, batch = state.latent, config.optimiser.batch_size
    count, seen = len(latent.rotations), latent.training.images_seen
    start = max(state.searched, seen)
    epoch = start // count
    pretraining = epoch < search.pretrain_epochs(count, state.cycle)
    if start >= min(seen + batch, config.epochs * count):
        return None
    if not pretraining and epoch not in search.search_epochs(config.epochs, count, state.cycle):
        return None
    end = min(start + search.images_at_once, (epoch + 1) * count)
    state.searched = end
    return rows_of_batch(start, end - start, count, latent.seed)


def _new_poses(
    state: AbInitioState,
    rows: Int[Tensor, " k"],
    particles: ParticleImages,
    config: LatentVAEConfig,
    search: AbInitioConfig,
    method: PoseMethod,
) -> PosesFound | None:
    """Find the poses of some images, or draw them where it is too early to find any; that is no result."""
    latent, device = state.latent, state.latent.rotations.device
    chosen, count = rows.to(device), len(latent.rotations)
    epoch = (state.searched - 1) // count
    if epoch < search.pretrain_epochs(count, state.cycle):
        generator = torch.Generator().manual_seed(1_000_003 * latent.seed + state.searched)
        latent.rotations[chosen] = random_rotations(len(rows), generator=generator).to(device)
        latent.shifts_pixels[chosen] = 0
        return None
    epochs = search.search_epochs(config.epochs, count, state.cycle)
    part_done = 1.0 if state.cycle or len(epochs) == 1 else epochs.index(epoch) / (len(epochs) - 1)
    grid = search.grid(latent.model.side, part_done)
    found = find_model_poses(latent.model, particles, rows, grid, method, shifts_pixels=latent.shifts_pixels[chosen])
    rotations, shifts = found.rotations[:, 0], found.shifts_pixels[:, 0]
    turned = angle_between(latent.rotations[chosen], rotations)
    moved = (latent.shifts_pixels[chosen] - shifts).norm(dim=-1)
    latent.rotations[chosen], latent.shifts_pixels[chosen] = rotations, shifts
    return PosesFound(rows, turned, moved, found.scores[:, 0])


@torch.no_grad()
def find_model_poses(
    model: LatentVAE,
    particles: ParticleImages,
    rows: Int[Tensor, " k"],
    grid: PoseSearchConfig,
    method: PoseMethod,
    *,
    shifts_pixels: Float[Tensor, "k 2"],
) -> PoseCandidates:
    """Find poses of some images against a model; with latent variables, each against the volume at its own z.

    Parameters
    ----------
    shifts_pixels
        Where the images' density is thought to be, for the encoder.
    """
    device = model.frequencies.device
    images, rows = particles.images[rows].to(device), rows.to(device)
    transfer = transfer_of(particles.transfer, rows)
    if model.encoder is None:
        volume = lattice_slices(model.slice_fn(), model.side, grid.high_radius, device)
        return find_volume_poses(images, volume, grid, method, transfer=transfer)
    coefficients, ctf = particles.at(model.frequencies)(rows.cpu())
    z, _ = model.encode(translate_coefficients(coefficients, model.frequencies, -shifts_pixels), ctf)

    def slices_of(which: Tensor) -> SliceFn:
        return voxel_slices(decode_volumes(model, z[which]))

    if method == "search":
        return find_poses_each(images, slices_of, grid, transfer=transfer)
    return branch_and_bound_each(images, slices_of, _branch_and_bound(grid), transfer=transfer)


def find_volume_poses(
    images: Float[Tensor, "n side side"],
    volume: SliceFn,
    grid: PoseSearchConfig,
    method: PoseMethod,
    *,
    transfer: TransferFn | None = None,
) -> PoseCandidates:
    """Find poses of images against one volume, by the search that is named."""
    if method == "search":
        return find_poses(images, volume, grid, transfer=transfer)
    return branch_and_bound(images, volume, _branch_and_bound(grid), transfer=transfer)


def _branch_and_bound(grid: PoseSearchConfig) -> BranchAndBoundConfig:
    """Branch and bound over the band and shifts of a grid, with the rotations and subdivisions of 004."""
    own = BranchAndBoundConfig()
    changed = replace(
        own.grid,
        low_radius=grid.low_radius,
        high_radius=grid.high_radius,
        shift_extent_pixels=grid.shift_extent_pixels,
    )
    return replace(own, grid=changed)
