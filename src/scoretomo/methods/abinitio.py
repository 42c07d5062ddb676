"""cryoDRGN2 and cryoDRGN ab initio: training a family of volumes between searches for the poses of the images (003).

An epoch without a search is trained at the poses that there are. In an epoch with a search, the poses of the next
images are searched against the volumes as they are now, the volumes are trained on these images at these poses, and so
on: 003 searches batch by batch (C.5); here some batches are searched together, against one state of the volumes, so
that the network is asked for its values on one lattice and not once for each image.

The disc of frequencies grows as training goes on, for searches as in 003, and here for training too (frequency
marching): the first volume has a few waves only, which most images agree on wherever it begins, and costs little; and
nothing fine is learned at poses that are not yet right.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..geometry.rotations import angle_between, random_rotations
from ..imaging.slices import SliceFn, image_coefficients, lattice_slices, translate_coefficients
from ..training import TrainingStep
from .abinitio_schedule import AbInitioConfig, PoseMethod
from .branch_and_bound import BranchAndBoundConfig, branch_and_bound
from .latent_vae import (
    ImagesAt,
    LatentState,
    LatentVAE,
    LatentVAEConfig,
    new_state,
    rows_of_batch,
    train_progressive,
)
from .pose_search import PoseCandidates, PoseSearchConfig, TransferFn, find_poses, transfer_of

# Edge of the images that the shifts of branch and bound are given for (004, appendix A).
_SIDE_OF_004 = 128

ShareFn = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""Gives a function of rows for all rows, of which each process that shares the work computes a part."""


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
    cycle, epoch
        When.
    rows
        ``(k,)``, images that were searched.
    turned_degrees, moved_pixels
        ``(k,)``, between their poses before and now.
    scores
        ``(k,)``, correlation of image and slice.
    """

    cycle: int
    epoch: int
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

    def images_seen(self, cycles: Sequence[LatentVAEConfig]) -> int:
        """Images seen in all cycles."""
        count = len(self.latent.rotations)
        return sum(int(each.epochs * count) for each in cycles[: self.cycle]) + self.latent.training.images_seen

    def part_done(self, cycles: Sequence[LatentVAEConfig]) -> float:
        """Part of all epochs of all cycles."""
        seen = min(cycles[self.cycle].epochs, self.latent.training.images_seen / len(self.latent.rotations))
        return (sum(each.epochs for each in cycles[: self.cycle]) + seen) / sum(each.epochs for each in cycles)


def train_abinitio_progressive(
    state: AbInitioState,
    particles: ParticleImages,
    cycles: Sequence[LatentVAEConfig],
    search: AbInitioConfig,
    method: PoseMethod,
    fresh_model: Callable[[LatentVAEConfig], LatentVAE],
    *,
    part: slice = slice(None),
    add_up: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
) -> Iterator[TrainingStep | PosesFound]:
    """Train volumes and find poses by turns, one step or one search each time it is asked for the next item.

    Between two items the state is consistent: it may be saved, and a new process goes on as this one would have.

    Parameters
    ----------
    state
        Where to begin: poses that are known, or any.
    particles
        What is explained.
    cycles
        What is trained one after another: :meth:`AbInitioConfig.cycles`.
    search
        How and when poses are found.
    method
        ``known`` leaves the poses as they are; ``search`` is the hierarchical search of 003, ``branch-and-bound`` that
        of 004.
    fresh_model
        Makes networks of new weights for a cycle.
    part, add_up
        What this process does of every batch and every search, where several share them, and how they sum up (see
        :func:`.train_progressive`). All have the same state, to the bit. More of them change sums by rounding only, of
        gradients and, as images are compared in other groups, of scores; but two poses of nearly one score may then
        change places, and trainings part from there as those of two seeds do.
    """
    shared = partial(_shared, part, add_up)
    # beyond its disc a network says anything
    search = replace(search, high_radius=min(search.high_radius, state.latent.model.radius))
    while True:
        config, latent = cycles[state.cycle], state.latent
        posed = method == "known" or state.cycle > 0 or search.start == "initial"
        radius = None if posed else _trained_radius(latent, config, search)
        images_at = particles.at(latent.model.frequencies)
        steps = train_progressive(latent, images_at, config, radius=radius, part=part, add_up=add_up)
        while True:
            while method != "known" and (rows := _rows_due(state, config, search)) is not None:
                found = _new_poses(state, rows, particles, config, search, method, shared)
                if found is not None:
                    yield found
            step = next(steps, None)
            if step is None:
                break
            yield step
        if state.cycle + 1 >= len(cycles):
            return
        following = cycles[state.cycle + 1]
        state.latent = new_state(
            fresh_model(following), following, latent.rotations, latent.shifts_pixels, seed=latent.seed + 1
        )
        state.cycle, state.searched = state.cycle + 1, 0


def _trained_radius(latent: LatentState, config: LatentVAEConfig, search: AbInitioConfig) -> Callable[[int], float]:
    """Radius of the disc that is trained on, after so many images of the first cycle."""
    count, side = len(latent.rotations), latent.model.side
    return lambda seen: search.trained_radius(side, search.grown(seen, config.epochs, count, cycle=0))


def _rows_due(state: AbInitioState, config: LatentVAEConfig, search: AbInitioConfig) -> Int[Tensor, " k"] | None:
    """Images of the next batch and those after it whose poses are to be found before the batch is trained on."""
    latent = state.latent
    count, seen = len(latent.rotations), latent.training.images_seen
    end = min(seen + config.optimiser.batch_size, math.ceil(config.epochs) * count)
    searched = search.search_epochs(config.epochs, count, state.cycle)
    start = max(state.searched, seen)
    while (
        start < end and start // count >= search.pretrain_epochs(count, state.cycle) and start // count not in searched
    ):
        start = (start // count + 1) * count  # a batch may begin in one epoch and end in another
    if start >= end:
        return None
    grown = search.grown(start, config.epochs, count, state.cycle)
    volumes = search.search_volumes if config.latent_dimensions else 1
    together = search.at_once(latent.model.side, grown, volumes)
    state.searched = min(start + together, (start // count + 1) * count)
    return rows_of_batch(start, state.searched - start, count, latent.seed)


def _new_poses(
    state: AbInitioState,
    rows: Int[Tensor, " k"],
    particles: ParticleImages,
    config: LatentVAEConfig,
    search: AbInitioConfig,
    method: PoseMethod,
    shared: ShareFn,
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
    grown = search.grown(state.searched - len(rows), config.epochs, count, state.cycle)
    grid, shifts = search.grid_at(latent.model.side, grown), latent.shifts_pixels[chosen]
    volumes = search.search_volumes
    found = find_model_poses(
        latent.model, particles, rows, grid, method, shifts_pixels=shifts, volumes=volumes, shared=shared
    )
    rotations, shifts = found.rotations[:, 0], found.shifts_pixels[:, 0]
    turned = angle_between(latent.rotations[chosen], rotations)
    moved = (latent.shifts_pixels[chosen] - shifts).norm(dim=-1)
    latent.rotations[chosen], latent.shifts_pixels[chosen] = rotations, shifts
    return PosesFound(state.cycle, epoch, rows, turned, moved, found.scores[:, 0])


def _shared(
    part: slice, add_up: Callable[[Sequence[Tensor]], None], work: Callable[[Tensor], Tensor], rows: Tensor
) -> Tensor:
    """Compute the own part, and take those of the others: a sum with zeros, so that all get the same bits."""
    own = rows[part]
    values = work(own if len(own) else rows[:1])  # of one too many only the shape is wanted
    whole = values.new_zeros(len(rows), *values.shape[1:])
    whole[part] = values[: len(own)]
    add_up([whole])
    return whole


@torch.no_grad()
def find_model_poses(
    model: LatentVAE,
    particles: ParticleImages,
    rows: Int[Tensor, " k"],
    grid: PoseSearchConfig,
    method: PoseMethod,
    *,
    shifts_pixels: Float[Tensor, "k 2"],
    volumes: int = 16,
    shared: ShareFn = lambda work, rows: work(rows),
) -> PoseCandidates:
    """Find poses of some images against a model; with latent variables, each against a volume near its own z.

    Parameters
    ----------
    shifts_pixels
        Where the images' density is thought to be, for the encoder.
    volumes
        Volumes that images with latent variables are compared with.
    shared
        How lattices, z and poses are computed, where several processes share the work.
    """
    device = model.frequencies.device
    everyone = torch.arange(len(rows), device=device)

    def search(group: Tensor, z: Tensor | None) -> Tensor:
        slices = _shared_slices(model.slice_fn(z), shared)
        volume = lattice_slices(slices, model.side, grid.high_radius, device)

        def poses(which: Tensor) -> Tensor:
            own = rows[which.to(rows.device)]
            transfer = transfer_of(particles.transfer, own.to(device))
            return _packed(find_volume_poses(particles.images[own].to(device), volume, grid, method, transfer=transfer))

        return shared(poses, group)

    def encode(which: Tensor) -> Tensor:
        coefficients, ctf = particles.at(model.frequencies)(rows[which.to(rows.device)])
        return model.encode(translate_coefficients(coefficients, model.frequencies, -shifts_pixels[which]), ctf)[0]

    if model.encoder is None:
        return _unpacked(search(everyone, None))
    # threads may sum in another order in another process: centres and labels are shared too, so that all agree
    centres, labels = (shared(lambda own: own, each) for each in _centres(shared(encode, everyone), volumes))
    groups = [(everyone[labels == label], centres[label]) for label in labels.unique()]
    found = torch.cat([search(group, centre) for group, centre in groups])
    return _unpacked(found[torch.cat([group for group, _ in groups]).argsort()])


def _shared_slices(slice_fn: SliceFn, shared: ShareFn) -> SliceFn:
    """Values at the points of one volume, ``(1, points, 3)``, of which each process computes a part."""
    return lambda points: shared(lambda own: slice_fn(own[None])[0], points[0])[None]


def _packed(found: PoseCandidates) -> Float[Tensor, "k kept 12"]:
    """Rotations, shifts and scores in one tensor, which is one message."""
    return torch.cat([found.rotations.flatten(-2), found.shifts_pixels, found.scores[..., None]], dim=-1)


def _unpacked(packed: Float[Tensor, "k kept 12"]) -> PoseCandidates:
    rotations, shifts, scores = packed.split([9, 2, 1], dim=-1)
    return PoseCandidates(rotations.unflatten(-1, (3, 3)), shifts, scores[..., 0])


def _centres(z: Float[Tensor, "k d"], count: int) -> tuple[Float[Tensor, "c d"], Int[Tensor, " k"]]:
    """Centres of the latent variables of some images (k-means), and which of them each is nearest to."""
    # here, since it takes a second to load
    from sklearn.cluster import KMeans

    distinct = len(z.unique(dim=0))
    fitted = KMeans(min(count, distinct), n_init=1, random_state=0).fit(z.cpu().numpy())
    centres, labels = torch.from_numpy(fitted.cluster_centers_), torch.from_numpy(fitted.labels_)
    return centres.to(z), labels.long().to(z.device)


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
    return branch_and_bound(images, volume, branch_and_bound_config(grid, images.shape[-1]), transfer=transfer)


def branch_and_bound_config(grid: PoseSearchConfig, side: int) -> BranchAndBoundConfig:
    """Branch and bound over the band and the shifts of a grid, with the rotations and spacings of 004 for its side."""
    own = BranchAndBoundConfig()
    spacing = 2 * own.grid.shift_extent_pixels / own.grid.shift_count * side / _SIDE_OF_004
    changed = replace(
        own.grid,
        low_radius=grid.low_radius,
        high_radius=grid.high_radius,
        shift_extent_pixels=grid.shift_extent_pixels,
        shift_count=max(1, math.ceil(2 * grid.shift_extent_pixels / spacing - 1e-6)),
    )
    return replace(own, grid=changed)
