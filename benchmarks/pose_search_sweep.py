"""Pose search: error and time of each setting of 003, table S1, on a synthetic set, beside what 003 reports.

003 aligns 1000 images of 128 pixels on a network that was trained at known poses; here images of 64 pixels on the true
volume, with white noise and no CTF. Discs keep their radii in Fourier pixels, so that 32 is Nyquist's frequency and
003's rows beyond it have no counterpart; shifts keep their part of the side. The frame is that of the volume: nothing
is aligned. 003's text has k_max = 48 for "base", but its table times and errs at [12, 32] as at "base"; so here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.geometry.rotations import angle_between
from scoretomo.imaging.slices import SliceFn, voxel_slices
from scoretomo.methods.abinitio import AbInitioConfig
from scoretomo.methods.pose_search import PoseCandidates, PoseSearchConfig, find_poses
from scoretomo.simulation.motions import assemble, hand_parts
from scoretomo.simulation.single_particles import ParticleConfig, ParticleTruth, draw_particles, noisy_images

from .record import Row
from .timing import duration, three_digits

_PIXEL_SIZE = 6.0
_BASE_RADII = (12.0, 32.0)
# Images that warm up the machine.
_WARM = 8
# Errors within this factor of base's are called the same: a choice, the scatter between sets has not been measured.
_SAME = 1.2


@dataclass(frozen=True)
class Published:
    """A row of 003, table S1: squared Frobenius errors and seconds for 1000 images."""

    spike_mean: float
    spike_median: float
    ribosome_mean: float
    ribosome_median: float
    seconds: int


@dataclass(frozen=True)
class Setting:
    """What differs from base, and what 003 reports for it."""

    name: str
    changes: dict[str, Any]
    published: Published | None = None


_BASE = Setting("base", {}, Published(0.208, 0.002, 0.004, 0.0006, 56))
SETTINGS = (
    _BASE,
    Setting(
        "legacy",
        {"base_order": 1, "high_radius": 20.0, "shift_count": 7},
        Published(0.799, 0.007, 0.648, 0.0023, 26),
    ),
    Setting("k 12-20", {"high_radius": 20.0}, Published(0.259, 0.004, 0.004, 0.0011, 31)),
    Setting("k 12-26", {"high_radius": 26.0}),
    Setting("k 10-20", {"low_radius": 10.0, "high_radius": 20.0}, Published(0.271, 0.005, 0.019, 0.0011, 28)),
    Setting("k 10-32", {"low_radius": 10.0}, Published(0.208, 0.002, 0.015, 0.0006, 53)),
    Setting("k 14-20", {"low_radius": 14.0, "high_radius": 20.0}, Published(0.260, 0.004, 0.004, 0.0011, 33)),
    Setting("k 14-32", {"low_radius": 14.0}, Published(0.196, 0.002, 0.004, 0.0006, 59)),
    Setting("30 degrees", {"base_order": 1}, Published(0.872, 0.004, 0.706, 0.0017, 51)),
    Setting("7.5 degrees", {"base_order": 3}, Published(0.219, 0.002, 0.001, 0.0005, 88)),
    Setting("M 1", {"refinements": 1}, Published(0.213, 0.011, 0.019, 0.0095, 23)),
    Setting("M 2", {"refinements": 2}, Published(0.210, 0.004, 0.006, 0.0030, 34)),
    Setting("M 3", {"refinements": 3}, Published(0.208, 0.003, 0.004, 0.0011, 44)),
    Setting("M 5", {"refinements": 5}, Published(0.219, 0.002, 0.004, 0.0005, 68)),
    Setting("M 6", {"refinements": 6}, Published(0.225, 0.002, 0.003, 0.0005, 79)),
    Setting("M 7", {"refinements": 7}, Published(0.232, 0.002, 0.003, 0.0005, 89)),
    Setting("K 2", {"kept": 2}, Published(0.373, 0.003, 0.037, 0.0008, 17)),
    Setting("K 4", {"kept": 4}, Published(0.256, 0.002, 0.017, 0.0006, 31)),
    Setting("K 16", {"kept": 16}, Published(0.196, 0.002, 0.001, 0.0006, 110)),
    Setting("K 24", {"kept": 24}, Published(0.196, 0.002, 0.001, 0.0006, 145)),
    Setting("T 7", {"shift_count": 7}, Published(0.208, 0.002, 0.004, 0.0006, 53)),
    Setting("T 28", {"shift_count": 28}, Published(0.208, 0.002, 0.004, 0.0006, 73)),
    Setting("neighbours kept, as in 003", {"separation_degrees": 0.01}),
    Setting("K 24, 12, 6, 3, 2, as in the package", {"tapered": True}),
)


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about forty minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    side: int = 64
    """Side of images and volume in pixels."""
    images: int = 1000
    """Images whose poses are searched."""
    snr: float = 0.1
    """Variance of the clean images over that of the noise."""
    only: tuple[str, ...] = ()
    """Names of settings; base is always there. None: all."""


def measure(settings: Settings) -> Iterator[Row]:
    """Errors and time of every setting, base first."""
    images, slices, truth = _data(settings)
    base = _grid(settings.side)
    find_poses(images[:_WARM], slices, base)
    reference: Row | None = None
    for each in SETTINGS:
        if settings.only and each is not _BASE and each.name not in settings.only:
            continue
        found: list[PoseCandidates] = []
        grid = replace(base, **each.changes)
        seconds = duration(
            lambda grid=grid, found=found: found.append(find_poses(images, slices, grid)), settings.device
        )
        row = _row(each, found[0], truth, seconds, reference)
        reference = reference or row
        yield row


def _data(settings: Settings) -> tuple[Float[Tensor, "n side side"], SliceFn, ParticleTruth]:
    """Noisy images of the hand, its slices, and true poses."""
    extent = AbInitioConfig().shift_extent * settings.side * _PIXEL_SIZE
    config = ParticleConfig(
        count=settings.images, side=settings.side, shift_range_angstrom=extent, snr=settings.snr, seed=0
    )
    generator = torch.Generator().manual_seed(config.seed)
    parts = hand_parts(settings.side, _PIXEL_SIZE)
    truth = draw_particles(config, generator)
    images = torch.cat(list(noisy_images(parts, truth, config, generator)))
    volume = next(assemble(parts, [0.0]))
    return images.to(settings.device), voxel_slices(volume.voxels.to(settings.device)), truth


def _grid(side: int) -> PoseSearchConfig:
    low, high = _BASE_RADII
    return replace(AbInitioConfig().grid(side), low_radius=low, high_radius=high, tapered=False)


def _row(each: Setting, found: PoseCandidates, truth: ParticleTruth, seconds: float, base: Row | None) -> Row:
    rotations = found.rotations[:, 0].cpu()
    squared = (rotations - truth.poses.rotations).square().sum((1, 2))
    away = (found.shifts_pixels[:, 0].cpu() - truth.poses.shifts_angstrom / _PIXEL_SIZE).norm(dim=-1)
    mean, median = float(squared.mean()), float(squared.median())
    known = each.published
    row: Row = {
        "setting": each.name,
        "mean_squared_error": three_digits(mean),
        "median_squared_error": three_digits(median),
        "median_degrees": three_digits(float(angle_between(rotations, truth.poses.rotations).median())),
        "median_shift_error_pixels": three_digits(float(away.median())),
        "images_per_second": three_digits(len(squared) / seconds),
        "times_base": three_digits(len(squared) / seconds / base["images_per_second"]) if base else 1.0,
        "mean_to_base": change(mean, base["mean_squared_error"] if base else mean),
        "median_to_base": change(median, base["median_squared_error"] if base else median),
    }
    return row | _published(known, _BASE.published)


def _published(known: Published | None, base: Published | None) -> Row:
    """Columns for 003's row: the mean of its noisy synthetic set, the median of the set that has two digits of it."""
    names = ("mean_of_spike", "median_of_80S", "times_base", "mean_to_base", "median_to_base")
    assert base is not None
    if known is None:
        return {f"003_{name}": None for name in names}
    values = (
        known.spike_mean,
        known.ribosome_median,
        three_digits(base.seconds / known.seconds),
        change(known.spike_mean, base.spike_mean),
        change(known.ribosome_median, base.ribosome_median),
    )
    return {f"003_{name}": value for name, value in zip(names, values, strict=True)}


def change(error: float, base: float) -> str:
    """Whether an error is worse than base's, better, or the same."""
    ratio = math.log(error / base)
    if abs(ratio) <= math.log(_SAME):
        return "same"
    return "worse" if ratio > 0 else "better"
