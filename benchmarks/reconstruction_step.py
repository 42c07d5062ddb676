"""Algorithm 1: many volumes together against the paper's listing, one at a time; speed and memory of a step.

Both have the paper's U-Net with random weights, since the time does not depend on them, and two views of each volume
(M = 2). They take turns within one run, so that a machine that slows down slows both; the figure is the median.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.diffusion.edm import Denoiser, EDMDenoiser
from scoretomo.methods.score_tomography import ReconstructionConfig, reconstruct
from scoretomo.networks.unet import UNetConfig, build_unet, supports_fast_bfloat16

from .paper_listing import reconstruct_one
from .record import Row

SIGMA, VIEWS = 0.2, 2  # the paper's box (001, Table 2)
_VOLUMES = {"cpu": 8, "cuda": 64}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about four minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    sides: tuple[int, ...] = (32, 88)
    """Sides of the volumes in voxels; multiples of 4."""
    volumes: int | None = None
    """Volumes that we advance together; 8 on a CPU, 64 on a GPU."""
    repeats: int = 5
    """Times that each method is timed."""
    seconds: float = 2.0
    """Least duration of one timed run; it has two steps or more."""


@dataclass(frozen=True)
class Method:
    """One side of the comparison."""

    name: str
    volumes: int
    bfloat16: bool
    run: Callable[[Denoiser, Tensor, int, torch.Generator], object]
    """``(denoiser, base images, steps, generator)``."""


def measure(settings: Settings) -> list[Row]:
    """Speed and peak memory of every method at every side."""
    rows = []
    for side in settings.sides:
        chosen = methods(settings)
        rates = _rates(chosen, side, settings)
        for method, rate in zip(chosen, rates, strict=True):
            peak = _in_new_process(peak_memory, method, side, settings.device)
            rows.append(
                {
                    "side_pixels": side,
                    "method": method.name,
                    "volumes_at_once": method.volumes,
                    "volume_steps_per_second": _round(median(rate)),
                    "slowest": _round(min(rate)),
                    "fastest": _round(max(rate)),
                    "times_listing": _round(median(own / listing for own, listing in zip(rate, rates[0], strict=True))),
                    "peak_memory_mb": peak and _round(peak / 1e6),
                    "peak_memory_mb_per_volume": peak and _round(peak / method.volumes / 1e6),
                }
            )
    return rows


def methods(settings: Settings) -> list[Method]:
    """List the listing first, then ours: alone, many together, and with the number format that the package takes."""
    many = settings.volumes or _VOLUMES[settings.device]
    chosen = [
        Method("listing", 1, False, _run_listing),
        Method("ours", 1, False, _run_ours),
        Method("ours", many, False, _run_ours),
    ]
    if supports_fast_bfloat16(torch.device(settings.device)):
        chosen.append(Method("ours, bfloat16 network", many, True, _run_ours))
    return chosen


def _run_listing(denoiser: Denoiser, base_images: Tensor, steps: int, generator: torch.Generator) -> object:
    return [
        reconstruct_one(denoiser, image, steps=steps, sigma=SIGMA, views=VIEWS, generator=generator)
        for image in base_images
    ]


def _run_ours(denoiser: Denoiser, base_images: Tensor, steps: int, generator: torch.Generator) -> object:
    config = ReconstructionConfig(steps=steps, sigma=SIGMA, final_sigma=SIGMA, views=VIEWS, final_views=VIEWS)
    return reconstruct(denoiser, base_images, config, generator=generator)


def _rates(chosen: list[Method], side: int, settings: Settings) -> list[list[float]]:
    """Volumes times steps per second of each method in each repeat, the methods taking turns."""
    inputs = [_inputs(method, side, settings.device) for method in chosen]
    steps = []
    for method, arguments in zip(chosen, inputs, strict=True):
        _seconds(method, *arguments, steps=1)  # kernels are chosen, caches filled
        steps.append(max(2, round(settings.seconds / _seconds(method, *arguments, steps=1))))
    rates: list[list[float]] = [[] for _ in chosen]
    for _ in range(settings.repeats):
        for method, arguments, count, rate in zip(chosen, inputs, steps, rates, strict=True):
            rate.append(method.volumes * count / _seconds(method, *arguments, steps=count))
    return rates


def _inputs(method: Method, side: int, device: str) -> tuple[Denoiser, Float[Tensor, "b n n"], torch.Generator]:
    """Denoiser, base images and generator, the same for every method but for the number of images."""
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_unet(UNetConfig(), side), bfloat16=method.bfloat16).to(device).eval()
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randn(method.volumes, side, side, generator=generator, device=device)
    return denoiser.requires_grad_(False), images, generator


def _seconds(method: Method, denoiser: Denoiser, images: Tensor, generator: torch.Generator, *, steps: int) -> float:
    _wait(images.device)
    began = time.perf_counter()
    method.run(denoiser, images, steps, generator)
    _wait(images.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(method: Method, side: int, device: str, threads: int) -> int | None:
    """Bytes that two steps need at most beyond the network and the images; None where that is not known.

    On a CPU it is the growth of the process's resident memory, and wants a process of its own: memory that an earlier
    computation has given back would be used again and not be seen.
    """
    torch.set_num_threads(threads)
    arguments = _inputs(method, side, device)
    denoiser, images, _ = arguments
    with torch.no_grad():  # libraries are loaded at the first use
        denoiser(images[:1, :8, :8], images.new_ones(1))
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _seconds(method, *arguments, steps=2)
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    _CLEAR.write_text("5")  # the high-water mark falls to the memory in use
    before = _high_water_mark()
    _seconds(method, *arguments, steps=2)
    return _high_water_mark() - before


def _high_water_mark() -> int:
    """Largest resident memory so far, in bytes.

    Not ``getrusage``: its maximum takes in that of the process that has started this one.
    """
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _in_new_process(function: Callable[..., int | None], *arguments: object) -> int | None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, torch.get_num_threads()).result()


def _round(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
