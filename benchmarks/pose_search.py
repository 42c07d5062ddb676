"""Pose search and alignment of volumes: comparisons per second against plain searches in real space.

A comparison is an image (or a volume) against the volume in one rotation, at one shift, in one hand. The plain searches
go through a coarse grid only, since they take long; on the same grid stands ours beside them. The other rows of ours
are what the package does: a finer grid, and refinement of what it has found.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.ensemble.reliability import ReliabilityConfig
from scoretomo.evaluation.alignment import AlignmentConfig, align
from scoretomo.geometry.grids import so3_grid
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.imaging.slices import disc_frequencies, voxel_slices
from scoretomo.methods.pose_search import PoseSearchConfig, find_poses, search_grid

from .memory import peak_memory
from .peak import Work, measured_peak
from .plain_search import align_in_real_space, find_poses_in_real_space
from .record import Row
from .timing import Side, interleaved, three_digits, times_faster

_IMAGES = {"cpu": 64, "cuda": 1000}
_VOLUMES = {"cpu": 4, "cuda": 64}
# Orders of the plain searches' grids: 576 rotations 30 degrees apart, 72 rotations 60 degrees apart.
_POSE_GRID, _ALIGNMENT_GRID = 1, 0
_TURNS, _STEPS = 15, 9  # neighbours of a pose, and of its shift, in a refinement of the pose search
_BLOBS = 12
# As volumes are found in images to see whether they can be trusted.
_SEARCH = ReliabilityConfig().matching

Task = Literal["poses of images", "alignment of volumes"]


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about five minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    sides: tuple[int, ...] = (32, 64)
    """Sides of images and volumes in pixels."""
    images: int | None = None
    """Images whose poses are searched; 64 on a CPU, 1000 on a GPU."""
    volumes: int | None = None
    """Volumes that are aligned; 4 on a CPU, 64 on a GPU."""
    repeats: int = 3
    """Times that each method is timed."""


@dataclass(frozen=True)
class Method:
    """One side of the comparison."""

    run: Callable[[], Float[Tensor, "k 3 3"]]
    """Find the rotation of each image or volume."""
    comparisons: float
    """Of one image or volume."""
    work: Work
    """Least operations for one image or volume."""


def measure(settings: Settings) -> Iterator[Row]:
    """Speed, error and memory of every method, for every side."""
    images = settings.images or _IMAGES[settings.device]
    volumes = settings.volumes or _VOLUMES[settings.device]
    for side in settings.sides:
        yield from _compare("poses of images", side, images, settings)
        yield from _compare("alignment of volumes", side, volumes, settings)


def _compare(task: Task, side: int, count: int, settings: Settings) -> Iterator[Row]:
    device = settings.device
    truth, methods = _TASKS[task](device, side, count)
    sides = [Side(count * method.comparisons, partial(_repeat, method.run)) for method in methods.values()]
    rates = interleaved(sides, device, repeats=settings.repeats, seconds=0.0)
    for (name, method), rate in zip(methods.items(), rates, strict=True):
        comparisons_per_second = sorted(rate)[len(rate) // 2]
        items_per_second = comparisons_per_second / method.comparisons
        memory = peak_memory(_prepare, device, task, name, side, count)
        yield {
            "task": task,
            "side": side,
            "method": name,
            "items": count,
            "items_per_second": three_digits(items_per_second),
            "million_comparisons_per_second": three_digits(comparisons_per_second / 1e6),
            "slowest": three_digits(min(rate) / 1e6),
            "fastest": three_digits(max(rate) / 1e6),
            "times_plain": times_faster(rate, rates[0]),
            "share_of_peak": measured_peak(device).share(method.work, items_per_second),
            "median_error_degrees": three_digits(float(angle_between(method.run(), truth).median())),
            "peak_memory_mb": memory and three_digits(memory / 1e6),
        }


def _pose_methods(device: str, side: int, count: int) -> tuple[Float[Tensor, "k 3 3"], dict[str, Method]]:
    """Images of one volume; shifts of up to two whole pixels are searched."""
    shifts = 2
    config = replace(_SEARCH, shift_extent_pixels=shifts + 0.5, shift_count=2 * shifts + 1)
    coarse = replace(config, base_order=_POSE_GRID)
    volume, truth = _blobs(side, device), random_rotations(count, generator=_generator()).to(device)
    images = project(volume[None], truth[None])[0]
    grid = so3_grid(_POSE_GRID).to(device)
    # a search includes what it makes of the volume: projections or its transform
    return truth, {
        "plain, 30 degrees": Method(
            lambda: find_poses_in_real_space(images, volume, grid, shifts), *_pose_work(coarse, side, refined=False)
        ),
        "ours, 30 degrees": Method(
            lambda: search_grid(images, voxel_slices(volume), coarse).rotations[:, 0],
            *_pose_work(coarse, side, refined=False),
        ),
        "ours, refined": Method(
            lambda: find_poses(images, voxel_slices(volume), config).rotations[:, 0],
            *_pose_work(config, side, refined=True),
        ),
    }


def _pose_work(config: PoseSearchConfig, side: int, *, refined: bool) -> tuple[float, Work]:
    """Comparisons for one image, and two operations for each coefficient of each of them."""
    comparisons = [float(len(so3_grid(config.base_order)) * config.shift_count**2)]
    comparisons += [float(config.kept * _TURNS * _STEPS)] * (config.refinements if refined else 0)
    coefficients = [len(disc_frequencies(side, min(config.radius(k), side / 2))) for k in range(len(comparisons))]
    return sum(comparisons), Work(network=2 * sum(c * p for c, p in zip(comparisons, coefficients, strict=True)))


def _alignment_methods(device: str, side: int, count: int) -> tuple[Float[Tensor, "k 3 3"], dict[str, Method]]:
    """Turned copies of one volume; shifts of up to a twentieth of the box are searched."""
    config = AlignmentConfig()
    shifts = round(config.shift_step * side)
    turned = random_rotations(count, generator=_generator()).to(device)
    references = _blobs(side, device).expand(count, -1, -1, -1)
    mobile = rotate_volumes(references, turned)
    grid = so3_grid(_ALIGNMENT_GRID).to(device)
    tried = float(2 * len(so3_grid(config.grid_order)) * 3**3)
    refinements = 2.0 * sum(config.kept) * config.iterations
    # the sphere of the grid search holds 4/3 pi r^3 coefficients, half of them independent, a complex product each
    coefficients = 2 / 3 * torch.pi * config.coarse_shell**3
    plain = float(2 * len(grid) * (2 * shifts + 1) ** 3)
    return turned.mT, {
        "plain, 60 degrees": Method(
            lambda: align_in_real_space(mobile, references, grid, shifts)[0],
            plain,
            Work(network=4 * coefficients * plain),
        ),
        "ours, refined": Method(
            lambda: align(mobile, references, config).rotations,
            tried + refinements,
            Work(network=4 * coefficients * tried),
        ),
    }


_TASKS = {"poses of images": _pose_methods, "alignment of volumes": _alignment_methods}


def _blobs(side: int, device: str) -> Float[Tensor, "n n n"]:
    """Gaussians at random places: no symmetry, so that every rotation and hand looks different."""
    generator = _generator()
    centres = (torch.rand(_BLOBS, 3, generator=generator) - 0.5) * 0.5 * side
    heights = torch.rand(_BLOBS, generator=generator) + 0.5
    axis = torch.arange(side) - side // 2
    z, y, x = ((axis - centres[:, k, None]).square() for k in range(3))
    squared = z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]
    return (heights[:, None, None, None] * torch.exp(-squared / (2 * (side / 20) ** 2))).sum(0).to(device)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _repeat(function: Callable[[], object], count: int) -> None:
    for _ in range(count):
        function()


def _prepare(device: str, task: Task, name: str, side: int, count: int) -> tuple:
    small, full = _TASKS[task](device, 16, 1)[1][name], _TASKS[task](device, side, count)[1][name]
    return small.run, full.run
