"""Projection and back projection: our kernels against the reference, the paper's listing and central slices.

All do the same views of the same smooth volumes. The listing takes the volumes one after another, as the paper does,
and turns them about another point; it has no row for its difference.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import centred_fft, resize
from scoretomo.imaging.masks import ball, soft_ball
from scoretomo.imaging.projection import back_project, back_project_by_resampling, project, project_by_resampling
from scoretomo.imaging.slices import slice_coefficients, voxel_slices

from . import floor
from .memory import peak_memory
from .paper_listing import back_project_by_grid, project_by_grid
from .peak import measured_peak
from .record import Row
from .timing import Side, interleaved, rate_columns, three_digits, times_faster

_VOXELS = {"cpu": 2**21, "cuda": 2**27}  # of all volumes of a call together
_MOST_VOLUMES = {"cpu": 8, "cuda": 256}

Operation = Literal["project", "back project"]
Function = Callable[[Tensor, Tensor], Tensor]
"""``(volumes or images, rotations) -> images or volumes``"""


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about eight minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    sides: tuple[int, ...] = (32, 48, 64, 88, 136)
    """Sides of the volumes in voxels."""
    views: tuple[int, ...] = (1, 16)
    """Views of each volume in one call."""
    volumes: int | None = None
    """Volumes of one call; up to 8 on a CPU, 256 on a GPU, as far as 2 or 134 million voxels go."""
    repeats: int = 5
    """Times that each method is timed."""
    seconds: float = 0.3
    """Least duration of one timed run."""


def measure(settings: Settings) -> Iterator[Row]:
    """Speed, peak memory and accuracy of every method, for every side and number of views, both ways."""
    for side in settings.sides:
        for views in settings.views:
            for operation in OPERATIONS:
                yield from _compare(operation, side, views, settings)


def _compare(operation: Operation, side: int, views: int, settings: Settings) -> Iterator[Row]:
    device, volumes = settings.device, settings.volumes or _volumes(side, settings.device)
    functions = OPERATIONS[operation]
    inputs = _inputs(operation, volumes, views, side, device)
    work = volumes * views * side**3
    sides = [Side(work, partial(_repeat, function, inputs)) for function in functions.values()]
    rates = dict(
        zip(
            functions,
            interleaved(sides, device, repeats=settings.repeats, seconds=settings.seconds),
            strict=True,
        )
    )
    expected = functions["reference"](*inputs)
    least = (floor.projection if operation == "project" else floor.back_projection)(views, side) * volumes
    for name, function in functions.items():
        speed = rate_columns("voxels", rates[name])
        peak = peak_memory(_prepare, device, operation, name, volumes, views, side)
        yield {
            "operation": operation,
            "side": side,
            "volumes": volumes,
            "views": views,
            "method": name,
            **speed,
            "times_listing": times_faster(rates[name], rates["listing"]),
            "share_of_peak": measured_peak(device).share(least, speed["voxels_per_second"] / work),
            "difference": None if name == "listing" else _difference(function(*inputs), expected),
            "peak_memory_mb": peak and three_digits(peak / 1e6),
        }


def _listing_project(volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b m 3 3"]) -> Tensor:
    return torch.stack([project_by_grid(volume, some) for volume, some in zip(volumes, rotations, strict=True)])


def _listing_back_project(images: Float[Tensor, "b m n n"], rotations: Float[Tensor, "b m 3 3"]) -> Tensor:
    return torch.stack([back_project_by_grid(some, turns) for some, turns in zip(images, rotations, strict=True)])


def _within_sphere(function: Callable[..., Tensor]) -> Function:
    """As Algorithm 1 calls it: nothing is outside of the inscribed sphere."""
    return lambda arrays, rotations: function(arrays, rotations, arrays.shape[-1] // 2)


def _project_slices(volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b m 3 3"]) -> Tensor:
    """Fourier-slice theorem: transform each volume, sample central planes, transform them back."""
    side = volumes.shape[-1]
    axis = (torch.arange(side, device=volumes.device) - side // 2) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    frequencies = torch.stack([x, y], dim=-1).flatten(0, 1)
    images = []
    for volume, some in zip(volumes, rotations, strict=True):
        coefficients = slice_coefficients(voxel_slices(volume), some, frequencies).view(-1, side, side)
        spectra = centred_fft(coefficients, 2)  # a Hartley transform is its own inverse but for a factor
        images.append((spectra.real - spectra.imag) / side**2)
    return torch.stack(images)


OPERATIONS: dict[Operation, dict[str, Function]] = {
    "project": {
        "listing": _listing_project,
        "reference": project_by_resampling,
        "ours": project,
        "ours, within the sphere": _within_sphere(project),
        "central slices": _project_slices,
    },
    "back project": {
        "listing": _listing_back_project,
        "reference": back_project_by_resampling,
        "ours": back_project,
        "ours, within the sphere": _within_sphere(back_project),
    },
}
"""Methods of each operation. Central slices have their adjoint by autograd only, which takes longer than they do."""


def _inputs(operation: Operation, volumes: int, views: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """Smooth random volumes, zero outside the inscribed sphere, or their projections; random rotations."""
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(volumes, views, generator=generator)
    coarse = torch.randn(volumes, 16, 16, 16, generator=generator)
    smooth = torch.stack([resize(volume, side, 3) for volume in coarse]) * soft_ball(side, 3, 0.36 * side, 0.08 * side)
    arrays = smooth.to(device)
    if operation == "back project":
        arrays = project(arrays, rotations.to(device))
    return arrays, rotations.to(device)


def _repeat(function: Function, inputs: tuple[Tensor, Tensor], count: int) -> None:
    for _ in range(count):
        function(*inputs)


def _prepare(device: str, operation: Operation, name: str, volumes: int, views: int, side: int) -> tuple:
    function = OPERATIONS[operation][name]
    small, full = _inputs(operation, 1, 1, 16, device), _inputs(operation, volumes, views, side, device)
    return partial(function, *small), partial(function, *full)


def _volumes(side: int, device: str) -> int:
    return max(1, min(_MOST_VOLUMES[device], _VOXELS[device] // side**3))


def _difference(result: Tensor, expected: Tensor) -> float:
    """Root mean square difference relative to what is expected; of volumes, where all samples are in the sphere."""
    if result.ndim == 4 and result.shape[1] == result.shape[-1]:
        inside = ball(result.shape[-1], 3, result.shape[-1] // 2 - 2, result.device)
        result, expected = result * inside, expected * inside
    return three_digits(float((result - expected).norm() / expected.norm()))
