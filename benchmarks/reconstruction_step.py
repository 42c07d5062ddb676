"""Algorithm 1: many volumes together against the paper's listing, one at a time; speed and memory of a step.

Both have the same U-Net with random weights, since the time does not depend on them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from scoretomo.diffusion.edm import Denoiser
from scoretomo.methods.score_tomography import ReconstructionConfig, reconstruct
from scoretomo.networks.unet import supports_fast_bfloat16

from . import floor
from .memory import peak_memory
from .networks import NetworkName, new_denoiser
from .paper_listing import reconstruct_one
from .peak import measured_peak
from .record import Row
from .timing import Side, interleaved, rate_columns, three_digits, times_faster

SIGMA = 0.2  # the paper's box (001, Table 2)
# Pixels of all views together, beyond which more volumes at once are not faster.
_PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**21}


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about fifteen minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    sides: tuple[int, ...] = (32, 64, 88)
    """Sides of the volumes in voxels; multiples of 8."""
    networks: tuple[NetworkName, ...] = ("paper", "default")
    """The U-Nets."""
    views: tuple[int, ...] = (2, 10, 50)
    """Views of each volume in a step, the base image included (the paper's M)."""
    volumes: tuple[int, ...] = ()
    """Volumes that we advance together, beside one alone. If none are given: as many as the package advances on a CPU,
    and on a GPU those whose views are two million pixels."""
    repeats: int = 3
    """Times that each method is timed."""
    seconds: float = 1.0
    """Least duration of one timed run; it has two steps or more."""


@dataclass(frozen=True)
class Method:
    """One side of the comparison."""

    name: str
    volumes: int
    bfloat16: bool
    run: Callable[[Denoiser, Tensor, int, int], object]
    """``(denoiser, base images, views, steps)``"""


def measure(settings: Settings) -> Iterator[Row]:
    """Speed and peak memory of every method for every network, side and number of views."""
    for network in settings.networks:
        for side in settings.sides:
            for views in settings.views:
                yield from _compare(network, side, views, settings)


def _compare(network: NetworkName, side: int, views: int, settings: Settings) -> Iterator[Row]:
    device, chosen = settings.device, methods(settings, side, views)
    sides = [Side(each.volumes, steps_of(device, each, network, side, views)) for each in chosen]
    rates = interleaved(sides, device, repeats=settings.repeats, seconds=settings.seconds, least_units=2)
    peaks = measured_peak(device)
    for method, rate in zip(chosen, rates, strict=True):
        speed = rate_columns("volume_steps", rate)
        per_second = speed["volume_steps_per_second"]
        memory = peak_memory(prepare, device, method, network, side, views)
        least = floor.reconstruction_step(network, side, views, bfloat16=method.bfloat16)
        yield {
            "network": network,
            "side": side,
            "views": views,
            "method": method.name,
            "volumes": method.volumes,
            **speed,
            "times_listing": times_faster(rate, rates[0]),
            "share_of_peak": peaks.share(least, per_second),
            "gflop_per_second": three_digits((least.network + least.bfloat16) * per_second / 1e9),
            "peak_memory_mb": memory and three_digits(memory / 1e6),
            "peak_memory_mb_per_volume": memory and three_digits(memory / method.volumes / 1e6),
        }


def methods(settings: Settings, side: int, views: int) -> list[Method]:
    """List the listing first, then ours: alone, many together, and with the number format that the package takes."""
    many = max(1, _PIXELS_AT_ONCE[settings.device] // ((views - 1) * side**2))
    together = sorted({1, *(settings.volumes or (many,))})
    chosen = [Method("listing", 1, False, run_listing)]
    chosen += [Method("ours", volumes, False, run_ours) for volumes in together]
    if supports_fast_bfloat16(torch.device(settings.device)):
        chosen += [Method("ours, bfloat16 network", volumes, True, run_ours) for volumes in together]
    return chosen


def run_listing(denoiser: Denoiser, base_images: Tensor, views: int, steps: int) -> object:
    """One volume after the other."""
    generator = torch.Generator(base_images.device).manual_seed(0)
    return [
        reconstruct_one(denoiser, image, steps=steps, sigma=SIGMA, views=views, generator=generator)
        for image in base_images
    ]


def run_ours(denoiser: Denoiser, base_images: Tensor, views: int, steps: int) -> object:
    """All together."""
    generators = [torch.Generator(base_images.device).manual_seed(seed) for seed in range(len(base_images))]
    config = ReconstructionConfig(steps=steps, sigma=SIGMA, final_sigma=SIGMA, views=views, final_views=views)
    return reconstruct(denoiser, base_images, config, generators=generators)


def steps_of(device: str, method: Method, network: NetworkName, side: int, views: int) -> Callable[[int], object]:
    """Make the images of a method's volumes, all methods having the first in common, and its steps."""
    denoiser = new_denoiser(network, side, device, bfloat16=method.bfloat16).eval().requires_grad_(False)
    images = torch.randn(method.volumes, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    return partial(method.run, denoiser, images, views)


def prepare(device: str, method: Method, network: NetworkName, side: int, views: int) -> tuple:
    small = steps_of(device, Method(method.name, 1, method.bfloat16, method.run), network, 16, 2)
    return partial(small, 1), partial(steps_of(device, method, network, side, views), 2)
