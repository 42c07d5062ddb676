"""Poses of images against a volume: exhaustive search over SO(3) and shifts, refined level by level (003, algorithm 1).

Images and slices are compared on a disc of Hartley coefficients that grows with every level. Poses are ranked by the
correlation over that disc without its origin, which is the ranking by squared error after the best non-negative scale
of each slice. So neither the scale nor the background level of image or volume matters, both of which a half-grown
volume gets wrong, and a slice of little power cannot win by being near zero. 003 ranks by the squared error itself,
where a volume that is too weak, as one made from uncertain poses is, draws every image to its strongest views.

With a contrast transfer function c, the image is compared with the slice times c: the correlation of image y and slice
s is <c y, s> / |c s|, and |c s|^2 is <c^2, s^2>. Both are matrix products of what belongs to images and what belongs to
rotations, so that no slice is made for one image in the exhaustive search.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..geometry.grids import so3_grid
from ..geometry.rotations import from_rotation_vectors
from ..imaging.slices import (
    SliceFn,
    disc_frequencies,
    image_coefficients,
    slice_coefficients,
    translate_coefficients,
)
from ..limits import check_limits

# Correlations, or coefficients of slices, that are held at once: the working memory, some 250 MB. Twice as many are a
# tenth slower on a CPU, which gets such blocks from the system anew each time.
_VALUES_AT_ONCE = 2**22

# Maps indices of images (k,) and frequencies (p, 2), xy in cycles per pixel, to the contrast transfer there (k, p):
# even in frequency, of either sign.
TransferFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PoseSearchConfig:
    """Extent and resolution of a pose search; defaults of cryoDRGN2 (003, algorithm 1 and table S1) unless noted.

    Attributes
    ----------
    base_order
        Order of the exhaustive grid on SO(3): 1, 2, 3 are 576, 4608, 36864 rotations, 30, 15, 7.5 degrees apart.
    refinements
        Times that the spacing of rotations and shifts is halved around the kept poses (M).
    kept
        Poses kept at every level and returned (K), of each image.
    tapered
        Keep three times as many after the exhaustive search, and half as many after each refinement (ours): as many
        comparisons as with K at every level, spent where the right peak is most easily lost. 003 keeps K.
    low_radius
        Radius of the disc of frequencies for the exhaustive search, in Fourier pixels of the image (k_min, at 128 px).
    high_radius
        Radius at the last refinement (k_max, at 128 px); radii grow linearly and end at half the side of the image.
    separation_degrees
        Angle beyond which kept poses lie from each other, so that they are rival hypotheses and not neighbours on one
        peak. 003 keeps neighbours: anything near 0 does so too, and finds the peaks of a good volume more surely.
    shift_extent_pixels
        Shifts from minus to plus this are searched along x and y. 0 is no search, as class averages are centred; 003
        has 20, at 128 px.
    shift_count
        Shifts per axis in the exhaustive search (T); their spacing is ``2 * shift_extent_pixels / shift_count``.

    Raises
    ------
    InputError
        Counts below one, radii that shrink, a negative extent, a separation that is not positive.
    """

    base_order: int = 2
    refinements: int = 4
    kept: int = 8
    low_radius: float = 12.0
    high_radius: float = 48.0
    separation_degrees: float = 20.0
    shift_extent_pixels: float = 0.0
    shift_count: int = 14
    tapered: bool = False

    def __post_init__(self) -> None:
        if self.kept < 1 or self.shift_count < 1:
            raise InputError(f"kept and shift_count must be 1 or more, not {self.kept} and {self.shift_count}")
        if self.base_order < 0 or self.refinements < 0:
            counts = f"{self.base_order} and {self.refinements}"
            raise InputError(f"base_order and refinements must be 0 or more, not {counts}")
        if not 1 <= self.low_radius <= self.high_radius:
            radii = f"{self.low_radius} and {self.high_radius}"
            raise InputError(f"low_radius must lie between 1 and high_radius, not {radii}")
        if self.shift_extent_pixels < 0:
            raise InputError(f"shift_extent_pixels must be 0 (no search) or more, not {self.shift_extent_pixels}")
        if not 0 < self.separation_degrees < 180:
            raise InputError(f"separation_degrees must lie between 0 and 180, not {self.separation_degrees}")
        check_limits(
            self,
            low_radius=(1.0, 1e5),
            high_radius=(1.0, 1e5),
            base_order=(0, 5),
            refinements=(0, 16),
            kept=(1, 10**4),
            shift_count=(1, 10**3),
            shift_extent_pixels=(0.0, 1e5),
        )

    def kept_at(self, level: int) -> int:
        """Poses kept at a level; 0 is the exhaustive search."""
        return math.ceil(3 * self.kept / 2**level) if self.tapered else self.kept

    def radius(self, level: int) -> float:
        """Radius of the disc at a level; 0 is the exhaustive search."""
        growth = self.high_radius - self.low_radius
        return self.low_radius + growth * level / max(1, self.refinements)

    def rotation_spacing(self, level: int) -> float:
        """Spacing of rotations at a level, in radians."""
        return math.radians(60) * 0.5 ** (self.base_order + level)

    def shift_spacing(self, level: int) -> float:
        """Spacing of shifts at a level, in pixels."""
        return 2 * self.shift_extent_pixels / self.shift_count * 0.5**level


@dataclass(frozen=True)
class PoseCandidates:
    """The best poses of each image, best first.

    Attributes
    ----------
    rotations
        ``(n, kept, 3, 3)``, object frame to microscope frame; as many as the last level keeps.
    shifts_pixels
        ``(n, kept, 2)``, ``[x, y]``: where the image's density lies relative to the projection of the volume, positive
        to larger index.
    scores
        ``(n, kept)``, correlation of image and slice over the disc of the last level, -1 to 1, falling.
    """

    rotations: Float[Tensor, "n kept 3 3"]
    shifts_pixels: Float[Tensor, "n kept 2"]
    scores: Float[Tensor, "n kept"]


def find_poses(
    images: Float[Tensor, "n side side"],
    slice_fn: SliceFn,
    config: PoseSearchConfig | None = None,
    *,
    transfer: TransferFn | None = None,
) -> PoseCandidates:
    """Search all rotations and shifts for the poses under which a volume explains each image (003, algorithm 1).

    There is no need to search the other hand. With ``S = diag(1, 1, -1)``, the mirrored volume under ``S R S`` has the
    projection of the volume under ``R``: its poses are ``S R S``, its shifts and scores the same, for every image.

    Parameters
    ----------
    images
        ``(n, side, side)``.
    slice_fn
        The volume, as :func:`scoretomo.imaging.slices.voxel_slices` or a network makes it.
    config
        Defaults to ``PoseSearchConfig()``.
    transfer
        Contrast transfer of each image; none is 1 at all frequencies.
    """
    config = config or PoseSearchConfig()
    candidates = search_grid(images, slice_fn, config, transfer=transfer)
    for level in range(1, config.refinements + 1):
        candidates = refine_poses(images, slice_fn, candidates, config, level, transfer=transfer)
    return candidates


@torch.no_grad()
def search_grid(
    images: Float[Tensor, "n side side"],
    slice_fn: SliceFn,
    config: PoseSearchConfig,
    *,
    transfer: TransferFn | None = None,
) -> PoseCandidates:
    """Correlate every image, at every shift, with the slice at every rotation of the base grid."""
    frequencies = band(images, config.radius(0))
    grid, shifts = so3_grid(config.base_order).to(images), shift_grid(config).to(images)
    slices = normalised_slices(slice_fn, grid, frequencies)
    found = []
    for part in parts(len(images), len(grid) * len(shifts)):
        targets = normalise(image_coefficients(images[part], frequencies))
        contrast = transfer_values(transfer, part, images, frequencies)
        scores = correlate(targets, slices, shifts, frequencies, contrast)
        rotations = grid.expand(len(scores), -1, 3, 3)
        best = select_separate(scores.amax(1), rotations, config.kept_at(0), config.separation_degrees)
        # where the largest is, is slow to find, and asked of the chosen rotations only
        chosen, best_shift = scores.gather(2, best[:, None].expand(-1, len(shifts), -1)).max(1)
        found.append(PoseCandidates(grid[best], shifts[best_shift], chosen))
    return in_order(found)


@torch.no_grad()
def refine_poses(
    images: Float[Tensor, "n side side"],
    slice_fn: SliceFn,
    candidates: PoseCandidates,
    config: PoseSearchConfig,
    level: int,
    *,
    transfer: TransferFn | None = None,
) -> PoseCandidates:
    """Try the neighbours of each candidate at half the spacing of its grid, and keep the best.

    The new spacing and the disc are those of ``config`` at ``level``, 1 to ``config.refinements``. Two changes to 003,
    where a pose has 8 children within its own cell and every level searches a whole grid of shifts: separate candidates
    do not cover for each other, so that each must be able to leave its cell, and shifts move by at most one step.
    """
    frequencies = band(images, config.radius(level))
    turns = _turns(config.rotation_spacing(level)).to(images)
    steps = _square(config.shift_spacing(level)).to(images)
    found = []
    for part in parts(len(images), candidates.scores.shape[1] * len(turns) * len(frequencies)):
        children = turns @ candidates.rotations[part, :, None]  # (n, kept, turn, 3, 3)
        slices = slice_coefficients(slice_fn, children, frequencies)
        contrast = transfer_values(transfer, part, images, frequencies)
        if contrast is not None:
            slices = slices * contrast[:, None, None]
        shifts = candidates.shifts_pixels[part, :, None] + steps  # (n, kept, step, 2)
        targets = normalise(image_coefficients(images[part], frequencies))
        moved_back = translate_coefficients(targets[:, None, None], frequencies, -shifts)
        scores, best_step = (normalise(slices) @ moved_back.mT).max(-1)  # (n, kept, turn)
        child_shifts = shifts.gather(2, best_step[..., None].expand(-1, -1, -1, 2)).flatten(1, 2)
        children, scores = children.flatten(1, 2), scores.flatten(1)
        best = select_separate(scores, children, config.kept_at(level), config.separation_degrees)
        row = torch.arange(len(best), device=best.device)[:, None]
        found.append(PoseCandidates(children[row, best], child_shifts[row, best], scores[row, best]))
    return in_order(found)


def normalised_slices(
    slice_fn: SliceFn, rotations: Float[Tensor, "count 3 3"], frequencies: Float[Tensor, "p 2"]
) -> Float[Tensor, "count p"]:
    """Slices of norm one."""
    chunks = (rotations[None, part] for part in parts(len(rotations), len(frequencies)))
    slices = torch.cat([normalise(slice_coefficients(slice_fn, chunk, frequencies)) for chunk in chunks], dim=1)
    return slices[0]


def correlate(
    targets: Float[Tensor, "n p"],
    slices: Float[Tensor, "rotations p"],
    shifts: Float[Tensor, "shifts 2"],
    frequencies: Float[Tensor, "p 2"],
    contrast: Float[Tensor, "n p"] | None,
) -> Float[Tensor, "n shifts rotations"]:
    """Correlate images (norm one) with slices (norm one, then times the contrast transfer) at all poses."""
    if contrast is not None:
        targets = targets * contrast  # it is even: moving the image and weighing its frequencies commute
    moved_back = translate_coefficients(targets[:, None], frequencies, -shifts)  # (n, shift, p)
    scores = moved_back @ slices.mT
    if contrast is None:
        return scores
    norms = (contrast.square()[:, None] @ slices.square().mT).sqrt()  # (n, 1, rotation)
    return scores / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def transfer_values(
    transfer: TransferFn | None, part: slice, images: Tensor, frequencies: Float[Tensor, "p 2"]
) -> Float[Tensor, "k p"] | None:
    """Contrast transfer of a part of the images, if there is one."""
    if transfer is None:
        return None
    return transfer(torch.arange(len(images), device=images.device)[part], frequencies)


def transfer_of(transfer: TransferFn | None, which: Int[Tensor, " b"]) -> TransferFn | None:
    """Contrast transfer as a function of the place of an image among ``which``."""
    return None if transfer is None else lambda places, frequencies: transfer(which[places], frequencies)


def band(images: Tensor, radius: float) -> Float[Tensor, "p 2"]:
    """Frequencies of the disc without the origin, whose value no rotation changes."""
    side = images.shape[-1]
    frequencies = disc_frequencies(side, min(radius, side / 2), images.device).to(images.dtype)
    return frequencies[frequencies.any(-1)]


def normalise(coefficients: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    """Scale to norm one, so that products are correlations; zeros stay."""
    return torch.nn.functional.normalize(coefficients, dim=-1, eps=torch.finfo(coefficients.dtype).tiny)


def shift_grid(config: PoseSearchConfig) -> Float[Tensor, "count 2"]:
    """Centres of the ``shift_count`` squared cells that tile the searched square."""
    if config.shift_extent_pixels == 0:
        return torch.zeros(1, 2)
    axis = (torch.arange(config.shift_count) - (config.shift_count - 1) / 2) * config.shift_spacing(0)
    return torch.cartesian_prod(axis, axis)


def _square(spacing: float) -> Float[Tensor, "count 2"]:
    """Shift of zero and its eight neighbours; only zero where nothing is searched."""
    if spacing == 0:
        return torch.zeros(1, 2)
    axis = torch.tensor([0.0, -spacing, spacing])
    return torch.cartesian_prod(axis, axis)


def _turns(spacing: float) -> Float[Tensor, "count 3 3"]:
    """No rotation and its 14 nearest in a body-centred cubic lattice of rotation vectors.

    The 8 at the corners subdivide the cell of the coarser grid, as in 003; the 6 along the axes reach beyond it.
    """
    half = torch.tensor([-0.5, 0.5])
    vectors = torch.cat([torch.zeros(1, 3), torch.cartesian_prod(half, half, half), torch.eye(3), -torch.eye(3)])
    return from_rotation_vectors(vectors * spacing)


def select_separate(
    scores: Float[Tensor, "n c"], rotations: Float[Tensor, "n c 3 3"], kept: int, separation_degrees: float
) -> Int[Tensor, "n kept"]:
    """Take the best pose, send its neighbours to the back of the queue, take the next, and so on.

    The neighbours stay in the queue: ``kept`` poses are found even where fewer peaks are separate.
    """
    # trace of the relative rotation of two poses that are just separate
    trace = 1 + 2 * math.cos(math.radians(separation_degrees))
    row = torch.arange(len(scores), device=scores.device)
    queue, chosen = scores.clone(), []
    for _ in range(kept):
        best = queue.argmax(-1)
        near = torch.einsum("nij,ncij->nc", rotations[row, best], rotations) > trace
        queue = queue - 3 * near  # correlations span 2
        queue[row, best] = -math.inf
        chosen.append(best)
    return torch.stack(chosen, dim=-1)


def in_order(parts: list[PoseCandidates]) -> PoseCandidates:
    """Join parts and put the candidates of each image in order of falling score."""
    scores, order = torch.cat([part.scores for part in parts]).sort(dim=-1, descending=True)
    row = torch.arange(len(order), device=order.device)[:, None]
    rotations = torch.cat([part.rotations for part in parts])[row, order]
    return PoseCandidates(rotations, torch.cat([part.shifts_pixels for part in parts])[row, order], scores)


def parts(count: int, values_each: int) -> Iterator[slice]:
    """Slices of ``count`` images such that no part holds more than ``_VALUES_AT_ONCE`` values, one image at least."""
    size = max(1, _VALUES_AT_ONCE // values_each)
    return (slice(start, start + size) for start in range(0, count, size))
