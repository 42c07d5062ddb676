"""A cost model fitted to the figures of ``scaling``, and what it foresees for a large job.

Milliseconds of one volume's step::

    a / volumes + views * (b n^3 + c F(n))

``a`` is what a step costs whatever is in it, ``b n^3`` a projection and its adjoint, ``c F(n)`` the denoiser, with F(n)
the operations of the network, counted. They grow as n^2 but for the attention in the coarsest blocks, which grows as
n^4. ``views`` are those that are turned and denoised, M - 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from scoretomo.ensemble.growth import GrowthConfig

from .networks import NetworkName, denoising_flop
from .record import Row


@dataclass(frozen=True)
class CostModel:
    """Coefficients of the model, none below 0.

    Attributes
    ----------
    network
        Whose operations F(n) are.
    step, voxel, gflop
        Milliseconds of a step, of a voxel in a view, of 10^9 operations of the network: a, b and c.
    training_step, training_gflop
        The same of one image's way through training: a / batch + c F(n).
    megabytes, voxel_bytes, pixel_bytes
        Memory: what any step takes, bytes for a voxel of each volume, and for a pixel of each view.
    error, training_error, memory_error
        Root mean square relative errors of the fits.
    """

    network: NetworkName
    step: float
    voxel: float
    gflop: float
    training_step: float
    training_gflop: float
    megabytes: float
    voxel_bytes: float
    pixel_bytes: float
    error: float
    training_error: float
    memory_error: float

    def milliseconds(self, side: int, volumes: float, turned: float, denoised: float) -> float:
        """Time of one volume's step; views that are anchored are turned but not denoised."""
        gflop = denoising_flop(self.network, side) / 1e9
        return self.step / volumes + turned * self.voxel * side**3 + denoised * self.gflop * gflop

    def gigabytes(self, side: int, volumes: int, views: int) -> float:
        """Peak memory of a step."""
        data = self.voxel_bytes * side**3 + self.pixel_bytes * views * side**2
        return self.megabytes / 1e3 + volumes * data / 1e9


def fit(rows: Sequence[Row], network: NetworkName) -> CostModel:
    """Fit the rows of ``scaling`` by least squares of the relative errors."""
    steps = [row for row in rows if row["task"] == "reconstruction"]
    training = [row for row in rows if row["task"] == "training"]
    measured = [row for row in steps if row["peak_memory_mb"]]
    time = [
        (1 / row["volumes"], (row["views"] - 1) * row["side"] ** 3, (row["views"] - 1) * row["gflop"]) for row in steps
    ]
    images = [(1 / row["volumes"], row["gflop"]) for row in training]
    memory = [
        (1.0, row["volumes"] * row["side"] ** 3, row["volumes"] * (row["views"] - 1) * row["side"] ** 2)
        for row in measured
    ]
    (step, voxel, gflop), error = _non_negative(time, [row["milliseconds"] for row in steps])
    (training_step, training_gflop), training_error = _non_negative(images, [row["milliseconds"] for row in training])
    (megabytes, per_voxel, per_pixel), memory_error = _non_negative(memory, [row["peak_memory_mb"] for row in measured])
    return CostModel(
        network, step, voxel, gflop, training_step, training_gflop,
        megabytes, 1e6 * per_voxel, 1e6 * per_pixel, error, training_error, memory_error,
    )  # fmt: skip


def exponents(sizes: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Slopes of the cost in a log-log plot from each size to the next."""
    pairs = list(zip(sizes, costs, strict=True))
    return [math.log(after[1] / before[1]) / math.log(after[0] / before[0]) for before, after in pairwise(pairs)]


@dataclass(frozen=True)
class Plan:
    """What a job needs, by the model."""

    images: int
    side: int
    chunk: int
    """Volumes that advance together."""
    volume_steps: int
    reconstruction_hours: float
    training_hours_per_million: float
    """For a million images seen."""
    chunk_gigabytes: float
    result_gigabytes: float
    """All volumes as float32."""


def plan(model: CostModel, images: int, side: int, memory_gigabytes: float, growth: GrowthConfig) -> Plan:
    """Reconstruct one volume of each image with some settings, on one device, in half of its memory."""
    settings = growth.distil
    views = max(settings.views, settings.final_views)
    one = model.gigabytes(side, 1, views) - model.megabytes / 1e3
    chunk = max(1, min(images, int((memory_gigabytes / 2 - model.megabytes / 1e3) / one)))
    volume_steps = settings.steps * images
    denoised = (settings.views + settings.final_views) / 2 - 1
    milliseconds = volume_steps * model.milliseconds(side, chunk, denoised + settings.anchors, denoised)
    training = model.training_gflop * _gflop(model.network, side)
    return Plan(
        images=images,
        side=side,
        chunk=chunk,
        volume_steps=volume_steps,
        reconstruction_hours=milliseconds / 3.6e6,
        training_hours_per_million=training * 1e6 / 3.6e6,
        chunk_gigabytes=model.gigabytes(side, chunk, views),
        result_gigabytes=images * 4 * side**3 / 1e9,
    )


def _gflop(network: NetworkName, side: int) -> float:
    return denoising_flop(network, side) / 1e9


def _non_negative(columns: Sequence[Sequence[float]], values: Sequence[float]) -> tuple[list[float], float]:
    """Coefficients of 0 or more with the least squared relative error, and the root of its mean.

    Every subset of the columns is tried: the best solution that has no negative coefficient is the one sought.
    """
    design = torch.tensor(columns, dtype=torch.float64) / torch.tensor(values, dtype=torch.float64)[:, None]
    target = torch.ones(len(values), 1, dtype=torch.float64)
    best, least = [0.0] * design.shape[1], math.inf
    for size in range(1, design.shape[1] + 1):
        for subset in combinations(range(design.shape[1]), size):
            solution, error = _solve(design[:, subset], target)
            if min(solution) >= 0 and error < least:
                best, least = [0.0] * design.shape[1], error
                for column, coefficient in zip(subset, solution, strict=True):
                    best[column] = coefficient
    return best, least


def _solve(design: Tensor, target: Tensor) -> tuple[list[float], float]:
    scale = design.norm(dim=0)  # n^3 beside 1: columns of equal length keep the solution accurate
    solution = torch.linalg.lstsq(design / scale, target).solution / scale[:, None]
    return solution[:, 0].tolist(), float((design @ solution - target).square().mean().sqrt())
