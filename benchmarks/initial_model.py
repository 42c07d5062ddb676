"""Initial models: how often the right map is found, in how many seconds, and whether the evidence knows when it is not.

A population is one search: all its starts, of which one is chosen. It is right where the median angle between its poses
and the true ones is below 15 degrees, in one frame and hand. Rotations that take the reference nearly onto itself are
alike, and so are mirrorings, after which projections are the same. Truth of real class averages are their poses in the
reference. Sets that have no answer in three dimensions (views about one direction, copies of one image, noise, two
molecules) have no truth: of them the answers of the evidence count, and of some populations of all others too.

Settings of the search were chosen on simulated sets of seed 12, on the first noise draw and on the real sets; the sets
here are of seed 31.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.datatypes import ImageStack, Volume
from scoretomo.ensemble.initial_evidence import halves_of, views_apart, weigh_initial_model
from scoretomo.evaluation.near_symmetry import copies_of
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.preprocess import PreprocessConfig, preprocess
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.imaging.slices import voxel_slices
from scoretomo.imaging.starting_model import resample
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import read_volume
from scoretomo.methods.initial_model import initial_model
from scoretomo.methods.initial_schedule import InitialModelConfig
from scoretomo.methods.pose_search import PoseSearchConfig, find_poses
from scoretomo.simulation.particles import Simulation, SimulationConfig, simulate_box, simulate_capsid, simulate_map

from .record import Row

_RIGHT_DEGREES = 15.0
_SEED = 31
# Real class averages, their reference, working side, and pixel size where the file says none.
_REAL: dict[str, tuple[str, str | None, int, float | None]] = {
    "80S points": ("ribosome80S_50x88px_5.36A", "4v7r_5A", 44, None),
    "80S averages": ("ribosome80S_24x180px_2.68A", "4v7r_5A", 48, None),
    "beta-galactosidase": ("betagal_16x100px_3.54A", "betagal_100px_3.54A", 48, None),
    "ORF2p": ("orf2p_69x76px", None, 38, 4.0),
    "mixture": ("mixture_100x96px", None, 48, 4.2),
}
_SIMULATED = ("4v7r", "4v4r_50S", "5gjv", "6rd4", "3cf3", "3j9i", "box", "capsid")
_NOISY = {"50S SNR 1, draw 1": (50, 1.0), "50S SNR 1, draw 2": (50, 1.0), "50S SNR 1, draw 3": (50, 1.0)}
_NOISY["50S SNR 0.5"] = (100, 0.5)
_WITHOUT_ANSWER = ("views within 30 degrees", "views within 50 degrees", "copies of one image", "noise", "80S and 5gjv")
_SIDE = 48


@dataclass(frozen=True)
class Settings:
    """What to search. The defaults take an hour on one core."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    populations: int = 20
    """Searches of each set."""
    weighed: int = 3
    """Populations whose evidence is gathered too, with models of halves."""
    counts: tuple[int, ...] = (30, 50, 100)
    """Images of the clean simulated sets."""
    only: tuple[str, ...] = ()
    """Sets whose names begin with one of these; all if none is given."""


@dataclass(frozen=True)
class _Set:
    """Images, and their true poses in a reference, if there are any."""

    name: str
    images: Float[Tensor, "n side side"]
    rotations: Float[Tensor, "n 3 3"] | None = None
    reference: Float[Tensor, "side side side"] | None = None


def measure(settings: Settings) -> Iterator[Row]:
    """Search every set so many times."""
    for each in _sets(settings):
        yield _row(each, settings)


def _row(chosen: _Set, settings: Settings) -> Row:
    images, seconds, degrees = chosen.images.to(settings.device), [], []
    answers: Counter[str] = Counter()
    config = InitialModelConfig()
    initial_model(images, config, seed=settings.populations)  # what is compiled and cached is not timed
    for seed in range(settings.populations):
        began = time.process_time()
        found = initial_model(images, config, seed=seed)
        seconds.append(time.process_time() - began)
        if chosen.rotations is not None and chosen.reference is not None:
            apart = views_apart(found.rotations.cpu(), chosen.rotations, copies_of(chosen.reference, mirrored=True)[0])
            degrees.append(float(apart.median()))
        if seed < settings.weighed:
            halves = [
                initial_model(images[rows], config, seed=1000 * (1 + half) + seed, radius=found.radius)
                for half, rows in enumerate(halves_of(len(images)))
            ]
            answers[weigh_initial_model(images, found, halves, config).answer] += 1
    right = sum(angle < _RIGHT_DEGREES for angle in degrees) if degrees else None
    middle = sorted(degrees)[len(degrees) // 2] if degrees else None
    return {
        "set": chosen.name,
        "images": len(images),
        "populations": settings.populations,
        "right": right,
        "degrees": None if middle is None else round(middle, 1),
        "worst_degrees": round(max(degrees), 1) if degrees else None,
        "cpu_seconds": round(sorted(seconds)[len(seconds) // 2], 2),
        "most_cpu_seconds": round(max(seconds), 2),
        "evidence": ", ".join(f"{count} {answer}" for answer, count in answers.most_common()),
    }


def _sets(settings: Settings) -> Iterator[_Set]:
    def wanted(name: str) -> bool:
        return not settings.only or name.startswith(settings.only)

    for name in filter(wanted, _REAL):
        yield _real(name)
    for name in _SIMULATED:
        names = [f"{name}, {count}" for count in settings.counts]
        if any(map(wanted, names)):
            simulation = _simulate(name, max(settings.counts))
            for count, own in zip(settings.counts, names, strict=True):
                if wanted(own):
                    yield _clean(own, simulation, count)
    for draw, (name, (count, snr)) in enumerate(_NOISY.items()):
        if wanted(name):
            yield _noisy(name, _simulate("4v4r_50S", count), snr, draw)
    for name in filter(wanted, _WITHOUT_ANSWER):
        yield _without_answer(name)


def _data() -> Path:
    return Path(os.environ.get("SCORETOMO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def _simulate(name: str, count: int) -> Simulation:
    config = SimulationConfig(count=count, side=_SIDE, seed=_SEED)
    if name in ("box", "capsid"):
        return (simulate_box if name == "box" else simulate_capsid)(config)
    return simulate_map(read_volume(_data() / "volumes" / f"{name}_5A.mrc").volume, config)


def _reference(simulation: Simulation) -> Float[Tensor, "side side side"]:
    """Mean of the true volumes in one frame."""
    return rotate_volumes(simulation.truth, simulation.poses.rotations.mT).mean(0)


def _clean(name: str, simulation: Simulation, count: int) -> _Set:
    images = simulation.stack.images[:count]
    return _Set(name, images / images.std(), simulation.poses.rotations[:count], _reference(simulation))


def _noisy(name: str, simulation: Simulation, snr: float, draw: int) -> _Set:
    images = simulation.stack.images
    generator = torch.Generator().manual_seed(_SEED + 1 + draw)
    noisy = images + images.std() / snr**0.5 * torch.randn(images.shape, generator=generator)
    stack = ImageStack(noisy, simulation.stack.pixel_size_angstrom)
    prepared, _ = preprocess(stack, PreprocessConfig(side=_SIDE, contrast="bright"), multiple=1)
    return _Set(name, prepared, simulation.poses.rotations, _reference(simulation))


def _real(name: str) -> _Set:
    file, reference, side, pixel_size = _REAL[name]
    stack = read_image_stack(_data() / "class_averages" / f"{file}.mrcs", pixel_size).stack
    images, record = preprocess(stack, PreprocessConfig(side=side), multiple=1)
    if reference is None:
        return _Set(name, images)
    volume, pixel = read_volume(_data() / "volumes" / f"{reference}.mrc").volume, record.working_pixel_size_angstrom
    truth = resample(Volume(volume.voxels - volume.voxels.median(), volume.pixel_size_angstrom), pixel, side).voxels
    finest = min(side * pixel / 25, side / 2)  # 25 Angstrom
    search = PoseSearchConfig(
        refinements=3,
        low_radius=min(10.0, finest),
        high_radius=finest,
        shift_extent_pixels=2.5,
        shift_count=5,
    )
    return _Set(name, images, find_poses(images, voxel_slices(truth), search).rotations[:, 0], truth)


def _without_answer(name: str) -> _Set:
    generator = torch.Generator().manual_seed(_SEED)
    if name == "noise":
        stack = ImageStack(torch.randn(60, _SIDE, _SIDE, generator=generator), 8.0)
        return _Set(name, preprocess(stack, PreprocessConfig(side=_SIDE, contrast="bright"), multiple=1)[0])
    simulation = _simulate("4v7r", 30)
    images = simulation.stack.images / simulation.stack.images.std()
    if name == "copies of one image":
        return _Set(name, images[:1].expand(30, -1, -1).contiguous())
    if name == "80S and 5gjv":
        others = _simulate("5gjv", 30).stack.images
        return _Set(name, torch.cat([images, others / others.std()]))
    widest = math.radians(30 if "30" in name else 50)
    rotations = random_rotations(20_000, generator=generator)
    rotations = rotations[rotations[:, 2, 2] > math.cos(widest)][:60]
    seen = project(_reference(simulation)[None], rotations[None])[0]
    return _Set(name, seen / seen.std())
