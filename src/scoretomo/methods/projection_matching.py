"""Refinement of a volume against images by projection matching, with soft assignment and frequency marching.

Each iteration finds the poses of all images in the present volume (:mod:`.pose_search`), weighs the rival poses of an
image by their likelihood, and solves for the volume that explains the images under these poses: expectation
maximisation with a Gaussian prior in Fourier space, as in RELION (Scheres 2012, J. Mol. Biol. 415, 406), but for two
things. Noise and signal are not taken from the fit itself, which a few clean images allow to be perfect, but from two
volumes of half of the images each: how far they agree, and how well each predicts the images of the other. And
the volume is the least-squares solution within a sphere, by conjugate gradients through the exact adjoint of the
slices, so that the support helps where no image has a slice; what is negative in it is set to 0, the background.

The band of frequencies grows as far as the halves agree (frequency marching, Barnett et al. 2017, SIAM J. Imaging Sci.
10, 1170); images and volume are sampled no finer than it needs. Shells are Fourier pixels of the full box throughout.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import InputError
from ..geometry.rotations import angle_between
from ..imaging.fourier import (
    centred_fft,
    centred_inverse_fft,
    hartley,
    radius_grid,
    shell_correlation,
    shell_index,
    shell_sum,
)
from ..imaging.slices import SliceFn, slice_coefficients, translate_coefficients, voxel_slices
from ..imaging.starting_model import low_pass
from ..limits import check_limits
from .pose_search import PoseCandidates, PoseSearchConfig, find_poses, refine_poses
from .posed_fit import BandImages, PosedFit, Views, band_images

# Views of smaller weight are left out: they cost as much as any other.
_LEAST_WEIGHT = 0.02
# Bounds of the correlation of halves, so that no shell is trusted or damped without limit.
_LEAST_AGREEMENT, _MOST_AGREEMENT = 0.02, 0.998
# Correlation of halves that is assumed of shells not seen yet, and above which they agree.
_UNKNOWN_AGREEMENT, _AGREE = 0.5, 0.143
# Grid of rotations of the global searches (15 degrees), and shifts per axis in them.
_GRID_ORDER, _SHIFTS = 2, 5
# Noise of class averages is blur and misplaced particles, alike in many coefficients: as if so many were one.
_TEMPERATURE = 30.0
# Poses nearer than this, modulo the symmetry, are one.
_SAME_DEGREES = 10.0
# Part of a shell's power that is noise at least: a fit of clean images may not count as free of it.
_LEAST_NOISE = 1e-3
# Part of the strongest shell's noise that all have at least: images that were low-passed have shells with nothing.
_SMALLEST_NOISE = 1e-8


@dataclass(frozen=True)
class MatchingConfig:
    """How a volume is refined.

    Attributes
    ----------
    iterations
        Iterations at most; fewer where poses come to rest before.
    start_shell
        Radius of the first band, in Fourier pixels: periods down to ``side / start_shell`` pixels. Nothing finer is
        taken from the start.
    growth
        Fourier pixels by which the band grows in an iteration, and goes beyond where the halves agree.
    global_searches
        Iterations that search all rotations; later ones move the poses that were kept.
    kept
        Rival poses of each image that are followed.
    shift_extent
        Shifts from minus to plus this part of the box are searched along x and y, in the global searches.
    tolerance
        Poses are at rest where their median change is less than this part of a period of the band at the rim of the
        support.
    solver_steps
        Conjugate gradient steps for each volume.

    Raises
    ------
    InputError
        Counts below one; an extent outside 0 to 0.5.
    """

    iterations: int = 20
    start_shell: int = 6
    growth: int = 3
    global_searches: int = 5
    kept: int = 6
    shift_extent: float = 0.05
    tolerance: float = 0.05
    solver_steps: int = 4

    def __post_init__(self) -> None:
        counts = (self.iterations, self.start_shell, self.growth, self.global_searches, self.kept, self.solver_steps)
        if min(counts) < 1:
            raise InputError(f"iterations, shells, searches, poses and steps must be 1 or more, not {counts}")
        if not 0 <= self.shift_extent <= 0.5:
            raise InputError(f"shift_extent must lie between 0 and 0.5 of the box, not {self.shift_extent}")
        check_limits(
            self,
            iterations=(1, 10**4),
            start_shell=(1, 10**4),
            growth=(1, 10**4),
            global_searches=(1, 10**4),
            kept=(1, 10**4),
            tolerance=(0.0, 1e3),
            solver_steps=(1, 10**4),
        )


@dataclass(frozen=True)
class MatchingStep:
    """Where the refinement stands after an iteration.

    Attributes
    ----------
    iteration, total
        Iterations done, and how many there are at most.
    volume
        ``(side, side, side)``, in the units in which its projections are the images.
    rotations, shifts_pixels
        ``(n, 3, 3)``, object to microscope frame, and ``(n, 2)``, ``[x, y]``: best pose of each image.
    scores
        ``(n,)``, correlation of image and slice over the band, shells weighted by their noise.
    weights
        ``(n,)``, part of the likelihood that the best pose has among those kept: 1 has no rival.
    scales
        ``(n,)``, amplitude of each image relative to the projection.
    band
        Radius of the band in Fourier pixels.
    agreement
        ``(band + 1,)``, FSC that drives the regulariser: of the volumes of half of the images each *at the same poses*,
        which is no measure of resolution, or that of independent ones where it was given.
    change
        Median change of the poses at the rim of the support, in periods of the band.
    converged
        Whether poses are at rest and the band has stopped growing.
    """

    iteration: int
    total: int
    volume: Float[Tensor, "side side side"]
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    scores: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    scales: Float[Tensor, " n"]
    band: int
    agreement: Float[Tensor, " k"]
    change: float
    converged: bool


def refine(
    volume: Float[Tensor, "side side side"],
    images: Float[Tensor, "n height width"],
    radius: float,
    config: MatchingConfig = MatchingConfig(),
    *,
    symmetry: Float[Tensor, "g 3 3"] | None = None,
    agreement: Float[Tensor, " k"] | None = None,
) -> MatchingStep:
    """Refine a volume to the end; see :func:`refine_progressive`."""
    *_, last = refine_progressive(volume, images, radius, config, symmetry=symmetry, agreement=agreement)
    return last


@torch.no_grad()
def refine_progressive(
    volume: Float[Tensor, "side side side"],
    images: Float[Tensor, "n height width"],
    radius: float,
    config: MatchingConfig = MatchingConfig(),
    *,
    symmetry: Float[Tensor, "g 3 3"] | None = None,
    agreement: Float[Tensor, " k"] | None = None,
) -> Iterator[MatchingStep]:
    """Refine a volume against images, yielding after each iteration.

    Parameters
    ----------
    volume
        ``(side, side, side)``, axes ``[z, y, x]``: where to start. Only its low frequencies count.
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0.
    radius
        Of the sphere that holds the molecule, in voxels.
    config
        How far to go.
    symmetry
        Rotations under which the molecule does not change, the identity among them; the volume must be in
        their frame. None is no symmetry.
    agreement
        ``(k,)``, Fourier shell correlation of volumes that were made of half of the images each and know nothing of
        each other, for shells 0, 1, ... of the box. It limits the band and sets the prior in the place of what halves
        at the same poses agree on, which noise raises. None where there are no such volumes.

    Raises
    ------
    InputError
        Fewer than four images, which make no two halves, or sides that differ.
    """
    side = volume.shape[-1]
    if len(images) < 4 or images.shape[-1] != side:
        raise InputError(f"refinement needs 4 images or more of {side} pixels, not {len(images)} of {images.shape[-1]}")
    group = torch.eye(3).to(volume)[None] if symmetry is None else symmetry.to(volume)
    largest, known = (side - 1) // 2, agreement
    noise = _power(images, largest)  # until there is something better: all shells count alike
    if known is None:
        agreement = images.new_full((largest + 1,), _UNKNOWN_AGREEMENT)
    else:
        agreement = known[: largest + 1].to(images)
        largest = max(1, _agreeing(agreement))
    band, resting = min(config.start_shell, largest), 0
    start = low_pass(volume, 1.0, side / (band + 1))
    volume, halves, poses = start, [start, start], None
    for iteration in range(1, config.iterations + 1):
        grid = band_images(images, band, radius)
        noise = noise * grid.power_unit
        before = poses
        poses = _find(grid, volume, poses if iteration > config.global_searches else None, noise, config)
        views = _weigh(grid, poses, noise, group)
        scales, noise = _judge(grid, views, halves, noise)
        if iteration == 1:  # the start may have any units
            start = start * scales.median()
        fit = PosedFit(grid, scales / scales.median(), noise, group, config.solver_steps)
        halves = [fit.solve(views.of_half(i), halves[i], _signal_to_noise(agreement)) for i in (0, 1)]
        agreement = _agreement(grid, halves, agreement) if known is None else agreement
        volume = fit.solve(views, volume, 2 * _signal_to_noise(agreement), expected=start).clamp(min=0)
        change = math.inf if before is None else _change(before, poses, group, radius) * band / side
        grown = _next_band(agreement, band, largest, config.growth)
        resting = resting + 1 if change < config.tolerance and grown == band else 0
        yield MatchingStep(
            iteration=iteration,
            total=config.iterations,
            volume=volume,
            rotations=poses.rotations[:, 0],
            shifts_pixels=poses.shifts_pixels[:, 0],
            scores=poses.scores[:, 0],
            weights=views.best_weights(),
            scales=scales / scales.median(),
            band=band,
            agreement=agreement[: band + 1],
            change=change,
            converged=resting == 2,
        )
        if resting == 2:
            return
        band, noise = grown, noise / grid.power_unit


def _power(images: Float[Tensor, "n full full"], largest: int) -> Float[Tensor, " k"]:
    """Mean power of a coefficient, by shell."""
    shells = shell_index(images.shape[-1], 2, images.device).flatten()
    power = shell_sum((hartley(images, 2) ** 2).mean(0).flatten(), shells, largest + 1)
    power = power / torch.bincount(shells)[: largest + 1]
    return power.clamp(min=_SMALLEST_NOISE * float(power.max()))


def _find(
    grid: BandImages,
    volume: Float[Tensor, "full full full"],
    near: PoseCandidates | None,
    noise: Float[Tensor, " k"],
    config: MatchingConfig,
) -> PoseCandidates:
    """Poses of all images, shifts in pixels of the full grid: those near earlier ones, or anywhere."""
    scale = grid.full / grid.side
    arc = grid.radius / scale * math.radians(60)  # of the spacing of the grid of order 0, at the rim, in pixels
    # an error of half a spacing at the rim is an eighth of a period of the band
    levels = max(1, math.ceil(math.log2(arc / (0.25 * grid.side / grid.band))) - _GRID_ORDER)
    lowest = max(4.0, grid.side / (2 * arc * 0.5**_GRID_ORDER))
    search = PoseSearchConfig(
        base_order=_GRID_ORDER,
        refinements=levels,
        kept=config.kept,
        low_radius=min(lowest, float(grid.band)),
        high_radius=float(grid.band),
        shift_extent_pixels=config.shift_extent * grid.side,
        shift_count=_SHIFTS,
    )
    weighted, slice_fn = _whiten(grid, grid.coarse(volume), noise)
    if near is None:
        found = find_poses(weighted, slice_fn, search)
    else:
        found = PoseCandidates(near.rotations, near.shifts_pixels / scale, near.scores)
        for level in range(max(1, levels - 1), levels + 1):
            found = refine_poses(weighted, slice_fn, found, search, level)
    return PoseCandidates(found.rotations, found.shifts_pixels * scale, found.scores)


def _whiten(
    grid: BandImages, volume: Float[Tensor, "side side side"], noise: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "n side side"], SliceFn]:
    """Divide images and volume by the noise of each shell, so that their correlation ranks poses by likelihood."""
    amplitude = noise.rsqrt()

    def whitened(arrays: Tensor, dimensions: int) -> Tensor:
        radius = radius_grid(grid.side, dimensions, noise.device)
        below = radius.long().clamp(max=len(amplitude) - 2)
        gain = torch.lerp(amplitude[below], amplitude[below + 1], (radius - below).clamp(max=1))
        return centred_inverse_fft(centred_fft(arrays, dimensions) * gain, dimensions)

    return whitened(grid.images, 2), voxel_slices(whitened(volume, 3))


def _weigh(grid: BandImages, poses: PoseCandidates, noise: Float[Tensor, " k"], group: Float[Tensor, "g 3 3"]) -> Views:
    """Probabilities of the rival poses of each image: Gaussian noise, the best scale of each slice."""
    power = grid.by_shell(grid.coefficients**2)[:, 1:] / noise[1 : grid.band + 1]
    # pixels beyond the particle hold no noise: a coefficient is not independent of its neighbours
    independent = math.pi * grid.radius**2 / grid.full**2
    log_likelihood = 0.5 / _TEMPERATURE * independent * power.sum(1, keepdim=True) * poses.scores.clamp(min=0) ** 2
    log_likelihood[_repeats(poses, group)] = -math.inf
    probabilities = log_likelihood.softmax(1)
    probabilities = torch.where(probabilities < _LEAST_WEIGHT, 0, probabilities)
    probabilities = probabilities / probabilities.sum(1, keepdim=True)
    image, kept = probabilities.nonzero(as_tuple=True)
    back = -poses.shifts_pixels[image, kept] * (grid.side / grid.full)
    targets = translate_coefficients(grid.coefficients[image, None], grid.frequencies, back[:, None])[:, 0]
    return Views(image, poses.rotations[image, kept], targets, probabilities[image, kept])


def _repeats(poses: PoseCandidates, group: Float[Tensor, "g 3 3"]) -> Bool[Tensor, "n kept"]:
    """Poses that the symmetry makes the same as a better one."""
    kept = poses.rotations.shape[1]
    equivalent = (poses.rotations[:, :, None] @ group)[:, :, None].expand(-1, -1, kept, -1, 3, 3)
    angles = angle_between(equivalent, poses.rotations[:, None, :, None]).amin(-1)  # (n, kept, kept)
    return (angles < _SAME_DEGREES).tril(-1).any(-1)


def _judge(
    grid: BandImages, views: Views, halves: list[Float[Tensor, "full full full"]], noise: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " k"]]:
    """Scale of each image, and noise of each shell: what the half without an image predicts of it."""
    of_halves = [
        slice_coefficients(voxel_slices(grid.coarse(half)), views.rotations, grid.frequencies) for half in halves
    ]
    predicted = torch.where((views.image % 2 == 0)[:, None], of_halves[1], of_halves[0])
    weights = views.weights[:, None]
    count = len(grid.images)

    def per_image(values: Tensor) -> Tensor:
        return values.new_zeros(count).index_add(0, views.image, values)

    precise = weights / noise[grid.shells]
    cross, power = ((precise * predicted * other).sum(1) for other in (views.targets, predicted))
    scales = per_image(cross) / per_image(power).clamp(min=torch.finfo(power.dtype).tiny)
    middle = scales.median().clamp(min=torch.finfo(power.dtype).tiny)
    scales = scales.clamp(middle / 2, middle * 2)
    residual = grid.by_shell(weights * (views.targets - scales[views.image, None] * predicted) ** 2).sum(0)
    total = grid.by_shell(weights * views.targets**2).sum(0)
    samples = grid.by_shell(torch.ones_like(grid.frequencies[:, 0])) * count
    found = torch.maximum(residual, _LEAST_NOISE * total) / samples
    found = found.clamp(min=_SMALLEST_NOISE * float(found.max()))
    return scales, torch.cat([found, noise[len(found) :]])


def _agreement(
    grid: BandImages, halves: list[Float[Tensor, "full full full"]], before: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Fourier shell correlation of the halves within the band; beyond it what was assumed."""
    found = shell_correlation(grid.coarse(halves[0]), grid.coarse(halves[1]), grid.band + 1)
    return torch.cat([found, before[grid.band + 1 :]])


def _signal_to_noise(agreement: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Ratio of powers in a half, by the correlation of two (Unser et al. 1987)."""
    bounded = agreement.clamp(_LEAST_AGREEMENT, _MOST_AGREEMENT)
    return bounded / (1 - bounded)


def _next_band(agreement: Float[Tensor, " k"], band: int, largest: int, growth: int) -> int:
    """Radius of the next band: some shells beyond where the halves cease to agree, and never smaller."""
    return min(largest, max(band, _agreeing(agreement[: band + 1]) + growth))


def _agreeing(agreement: Float[Tensor, " k"]) -> int:
    """Last shell before the first in which halves do not agree."""
    return int((agreement[1:] > _AGREE).long().cumprod(0).sum())


def _change(before: PoseCandidates, after: PoseCandidates, group: Float[Tensor, "g 3 3"], radius: float) -> float:
    """Median displacement of the rim of the support by the change of the best poses, in pixels."""
    equivalent = before.rotations[:, 0, None] @ group
    angles = torch.deg2rad(angle_between(equivalent, after.rotations[:, :1]).amin(1))
    shifts = (after.shifts_pixels[:, 0] - before.shifts_pixels[:, 0]).norm(dim=-1)
    return float((angles * radius + shifts).median())
