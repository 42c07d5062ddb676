"""Poses of images against a volume: branch and bound with frequency marching (004, appendix A, algorithm 1).

A grid over SO(3) and shifts is compared with the image at low frequencies, poses that cannot win are discarded, the
others are subdivided and compared at higher frequencies, and so on. What cannot win is decided by a bound. 004 takes
the error at low frequencies for a lower bound of the error at all of them, and discards poses where it is above the
error of the best pose at all frequencies. In noise this discards nothing, since most of the error is then noise at high
frequencies, which no pose explains; without noise it discards too much, since the best pose of the next grid may lie
in the cell of one that fits badly, as 004 says. The bound here has three parts.

*Correlation* takes the place of the squared error, for the reasons given in :mod:`.pose_search`. Of an image ``x`` of
norm one, let ``l`` and ``h`` be the correlations ``<x, s> / |s|`` with a slice ``s`` over low and over high frequencies
only. Then that over all is ``cos(a) l + sin(a) h`` with ``tan(a) = |s_high| / |s_low|``: an identity. Known are ``l``,
and the range of ``a`` from the powers of slices under the image's contrast transfer.

*High frequencies*: ``h`` is at most the norm of the image there, ``|x_high|``, and in noise much less: the norm of the
signal, at most ``|x_low| tan(a)``, and the noise along one direction of as many as there are coefficients, which is
beyond some standard deviations with a known small probability. This is the idea of the bound of cryoSPARC (Punjani et
al. 2017, Nat. Methods 14, 290), which 004 refers to; without noise it is that of 004.

*The cell*: let ``r`` be the correlation of the slice at the centre of a cell with others in the cell. If one of these
made the image, the centre has ``r`` times its correlation, so that it has at most ``l / r``, and noise as before along
the direction in which the two differ. The volume itself says what ``r`` is; 004 leaves this for future work.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..geometry.grids import so3_children, so3_grid
from ..geometry.rotations import from_rotation_vectors, low_discrepancy_rotations
from ..imaging.slices import SliceFn, image_coefficients, slice_coefficients, translate_coefficients
from .pose_search import (
    PoseCandidates,
    PoseSearchConfig,
    TransferFn,
    band,
    correlate,
    in_order,
    normalise,
    normalised_slices,
    parts,
    select_separate,
    shift_grid,
    transfer_values,
)

# Views of the volume that tell how its slices change within a cell, and how much power they have at high frequencies.
_VIEWS = 64


def _grid_of_cryodrgn() -> PoseSearchConfig:
    return PoseSearchConfig(
        base_order=1, refinements=5, kept=1, high_radius=64.0, shift_extent_pixels=10.0, shift_count=7
    )


@dataclass(frozen=True)
class BranchAndBoundConfig:
    """How branch and bound searches; defaults of 004, appendix A, for images of 128 pixels.

    Attributes
    ----------
    grid
        Extent and resolution: 576 rotations and 7 x 7 shifts, subdivided five times, to 0.94 degrees and 0.09 pixels,
        while the disc grows from 12 to 64 Fourier pixels.
    deviations
        Standard deviations of the noise that a pose is given the benefit of. More discards less.
    lost_cells
        Part of the cells in which slices may differ more than the bound allows for. Less discards less.
    most_poses
        Poses of an image that are subdivided at a level at most, the best of them: 004 has no such limit.

    Raises
    ------
    InputError
        Negative ``deviations``; ``lost_cells`` outside 0 to 1; ``most_poses`` below one; more poses to keep than one
        has children.
    """

    grid: PoseSearchConfig = field(default_factory=_grid_of_cryodrgn)
    deviations: float = 4.0
    lost_cells: float = 0.05
    most_poses: int = 256

    def __post_init__(self) -> None:
        if self.deviations < 0:
            raise InputError(f"deviations must be 0 or more, not {self.deviations}")
        if not 0 <= self.lost_cells <= 1:
            raise InputError(f"lost_cells must lie between 0 and 1, not {self.lost_cells}")
        if self.most_poses < 1:
            raise InputError(f"most_poses must be 1 or more, not {self.most_poses}")
        if self.grid.kept > 8:
            raise InputError(f"branch and bound keeps 8 poses at most, the children of one, not {self.grid.kept}")


@dataclass(frozen=True)
class _Poses:
    """Poses of all images in one list, those of an image after those of the image before."""

    image: Int[Tensor, " m"]
    cell: Int[Tensor, " m"]  # row of the grid of rotations of the level
    shift: Float[Tensor, "m 2"]
    score: Float[Tensor, " m"]  # correlation over the band of the level of the image, norm one over all frequencies

    def __getitem__(self, rows: Tensor) -> "_Poses":
        return _Poses(self.image[rows], self.cell[rows], self.shift[rows], self.score[rows])


@dataclass(frozen=True)
class _Targets:
    """What the poses of images are compared with."""

    coefficients: Float[Tensor, "n p"]  # of norm one
    contrast: Float[Tensor, "n p"] | None
    frequencies: Float[Tensor, "p 2"]

    def within(self, inside: Tensor) -> "_Targets":
        contrast = None if self.contrast is None else self.contrast[:, inside]
        return _Targets(self.coefficients[:, inside], contrast, self.frequencies[inside])


@torch.no_grad()
def branch_and_bound(
    images: Float[Tensor, "n side side"],
    slice_fn: SliceFn,
    config: BranchAndBoundConfig | None = None,
    *,
    transfer: TransferFn | None = None,
) -> PoseCandidates:
    """Find the poses under which a volume explains each image by branch and bound (004, algorithm 1).

    Parameters and result are those of :func:`.pose_search.find_poses`.
    """
    config = config or BranchAndBoundConfig()
    grid = config.grid
    frequencies = band(images, grid.radius(grid.refinements))
    rotations, shifts = so3_grid(grid.base_order).to(images), shift_grid(grid).to(images)
    inside = _inside(images, frequencies, grid, 0)
    slices = normalised_slices(slice_fn, rotations, frequencies[inside])
    found = []
    for part in parts(len(images), max(4 * len(rotations) * len(shifts), len(frequencies))):
        contrast = transfer_values(transfer, part, images, frequencies)
        targets = _Targets(normalise(image_coefficients(images[part], frequencies)), contrast, frequencies)
        inside = _inside(images, frequencies, grid, 0)
        poses = _base_poses(targets.within(inside), slices, shifts)
        for level in range(1, grid.refinements + 1):
            poses = poses[_that_may_win(poses, targets, inside, slice_fn, config, level - 1)]
            inside = _inside(images, frequencies, grid, level)
            poses = _subdivide(poses, targets.within(inside), slice_fn, grid, level)
        found.append(_best(poses, len(targets.coefficients), grid))
    return in_order(found)


def _inside(images: Tensor, frequencies: Float[Tensor, "p 2"], grid: PoseSearchConfig, level: int) -> Tensor:
    """Which frequencies the band of a level has."""
    pixels = (frequencies * images.shape[-1]).round()
    return pixels.square().sum(-1) <= grid.radius(level) ** 2


def _base_poses(targets: _Targets, slices: Float[Tensor, "rotations p"], shifts: Float[Tensor, "shifts 2"]) -> _Poses:
    """All poses of the base grid, with their correlations over its band."""
    scores = correlate(targets.coefficients, slices, shifts, targets.frequencies, targets.contrast)
    n, columns = len(scores), torch.arange(len(shifts) * len(slices), device=shifts.device)
    image = torch.arange(n, device=shifts.device).repeat_interleave(len(columns))
    return _Poses(
        image, (columns % len(slices)).repeat(n), shifts[columns // len(slices)].repeat(n, 1), scores.flatten()
    )


def _subdivide(poses: _Poses, targets: _Targets, slice_fn: SliceFn, grid: PoseSearchConfig, level: int) -> _Poses:
    """Replace each pose by those of its cell in the next grid: 8 rotations, and 4 shifts where shifts are searched."""
    spacing = grid.shift_spacing(level)
    half = torch.tensor([-spacing, spacing]).to(poses.shift) / 2
    steps = torch.cartesian_prod(half, half) if spacing else poses.shift.new_zeros(1, 2)
    cells = so3_children(grid.base_order + level - 1, poses.cell)  # (m, 8)
    shifts = poses.shift[:, None] + steps  # (m, step, 2)
    scores = []
    for part in parts(len(cells), cells.shape[1] * len(targets.frequencies)):
        # poses in a row that differ in their shifts only share their slices
        cell, which = cells[part].unique_consecutive(dim=0, return_inverse=True)
        rotations = so3_grid(grid.base_order + level, cell).to(shifts)
        slices = slice_coefficients(slice_fn, rotations[None], targets.frequencies)[0, which]  # (m, 8, p)
        if targets.contrast is not None:
            slices = slices * targets.contrast[poses.image[part], None]
        images = targets.coefficients[poses.image[part], None]
        moved_back = translate_coefficients(images, targets.frequencies, -shifts[part])
        scores.append(normalise(slices) @ moved_back.mT)
    return _Poses(
        poses.image.repeat_interleave(8 * len(steps)),
        cells.repeat_interleave(len(steps), dim=1).flatten(),
        shifts[:, None].expand(-1, 8, -1, -1).reshape(-1, 2),
        torch.cat(scores).flatten(),
    )


def _that_may_win(
    poses: _Poses,
    targets: _Targets,
    inside: Tensor,
    slice_fn: SliceFn,
    config: BranchAndBoundConfig,
    level: int,
) -> Int[Tensor, " kept"]:
    """Rows of the poses whose bound is no worse than what the best at low frequencies has at all; this one always.

    Those of an image in a row, and among them those of a cell.
    """
    n = len(targets.coefficients)
    scores, first = _by_image(poses, n)
    most, column = scores.topk(min(config.most_poses, scores.shape[1]))
    rotations = so3_grid(config.grid.base_order + level, poses.cell[first + column[:, 0]]).to(scores)
    best = slice_coefficients(slice_fn, rotations[None], targets.frequencies)[0]
    if targets.contrast is not None:
        best = best * targets.contrast
    moved_back = translate_coefficients(targets.coefficients, targets.frequencies, -poses.shift[first + column[:, 0]])
    reached = (normalise(best) * moved_back).sum(-1)
    may_win = _bound(most, targets, inside, slice_fn, config, level) >= reached[:, None]
    may_win[:, 0] = True
    rows = (first[:, None] + column)[may_win & most.isfinite()]
    rows = rows[poses.cell[rows].argsort()]
    return rows[poses.image[rows].argsort(stable=True)]


def _bound(
    scores: Float[Tensor, "n q"],
    targets: _Targets,
    inside: Tensor,
    slice_fn: SliceFn,
    config: BranchAndBoundConfig,
    level: int,
) -> Float[Tensor, "n q"]:
    """Highest correlation over all frequencies in the cells of poses that have ``scores`` over those inside."""
    within, least, most = _cell(targets, inside, slice_fn, config, level)
    beside = (1 / within.square() - 1).sqrt()  # tangent of the angle of two slices in a cell
    low_norm, high_norm = (targets.coefficients[:, part].norm(dim=-1, keepdim=True) for part in (inside, ~inside))
    # what the best pose leaves of the image, over all coefficients: more than the noise
    left = (low_norm.square() - scores[:, :1].square()).clamp(min=0).sqrt()
    low_noise, high_noise = left / inside.sum().sqrt(), high_norm / (~inside).sum().clamp(min=1).sqrt()
    low = torch.minimum(low_norm, scores / within + config.deviations * low_noise * beside)
    high = torch.minimum(high_norm, low_norm * most.tan() + config.deviations * high_noise)
    angle = torch.atan2(high, low).clamp(least, most)  # the best that there is
    return angle.cos() * low + angle.sin() * high


def _cell(
    targets: _Targets, inside: Tensor, slice_fn: SliceFn, config: BranchAndBoundConfig, level: int
) -> tuple[Float[Tensor, "#n 1"], Float[Tensor, "#n 1"], Float[Tensor, "#n 1"]]:
    """How slices change within a cell, and how much of them is at high frequencies, from some views of the volume.

    Returns
    -------
    tuple
        Correlation with the slice at the centre over the frequencies inside, that all but ``lost_cells`` of the poses
        in a cell exceed; least and greatest angle whose tangent is the norm of a slice outside relative to that
        inside. With one row for each image, or one for all where there is no contrast transfer.
    """
    like, frequencies = targets.coefficients, targets.frequencies
    centres = low_discrepancy_rotations(torch.zeros(3, dtype=torch.float64), 0, _VIEWS).to(like)
    offsets = (torch.rand(_VIEWS, 5, generator=torch.Generator().manual_seed(0)) - 0.5).to(like)
    turns = from_rotation_vectors(offsets[:, :3] * config.grid.rotation_spacing(level))
    views = slice_coefficients(slice_fn, centres[None], frequencies)[0]
    nearby = slice_coefficients(slice_fn, (turns @ centres)[None], frequencies[inside])[0]
    nearby = translate_coefficients(nearby, frequencies[inside], offsets[:, 3:] * config.grid.shift_spacing(level))
    weights = torch.ones_like(views[:1]) if targets.contrast is None else targets.contrast.square()
    low, high = (weights[:, part] @ views[:, part].square().T for part in (inside, ~inside))
    overlap, power = (weights[:, inside] @ other.T for other in (views[:, inside] * nearby, nearby.square()))
    tiny = torch.finfo(like.dtype).tiny
    correlation = (overlap / (low * power).sqrt().clamp(min=tiny)).quantile(config.lost_cells, -1, keepdim=True)
    angles = torch.atan2(high.sqrt(), low.sqrt())  # (n, views)
    return correlation.clamp(0.01, 1), angles.amin(-1, keepdim=True), angles.amax(-1, keepdim=True)


def _by_image(poses: _Poses, n: int) -> tuple[Float[Tensor, "n q"], Int[Tensor, " n"]]:
    """Scores with a row for each image, filled up with minus infinity, and the row of its first pose in the list."""
    counts = torch.bincount(poses.image, minlength=n)
    first = counts.cumsum(0) - counts
    scores = poses.score.new_full((n, int(counts.max())), -math.inf)
    scores[poses.image, torch.arange(len(poses.image), device=first.device) - first[poses.image]] = poses.score
    return scores, first


def _best(poses: _Poses, n: int, grid: PoseSearchConfig) -> PoseCandidates:
    """Take the best poses of the last level, and separate ones as far as there are."""
    scores, first = _by_image(poses, n)
    row = (first[:, None] + torch.arange(scores.shape[1], device=first.device)).clamp(max=len(poses.image) - 1)
    rotations = so3_grid(grid.base_order + grid.refinements, poses.cell).to(scores)
    best = select_separate(scores, rotations[row], grid.kept, grid.separation_degrees)
    chosen = row.gather(1, best)
    return PoseCandidates(rotations[chosen], poses.shift[chosen], scores.gather(1, best))
