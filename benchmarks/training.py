"""Training of the denoiser: our loop against a plain float32 loop of the paper's kind; speed and memory of a step.

Both fit the same U-Net to the same images. Ours in float32 too: what the number format brings, and what the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from scoretomo.imaging.masks import ball
from scoretomo.methods.score_tomography import NoiseConfig, training_loss
from scoretomo.networks.unet import supports_fast_bfloat16
from scoretomo.optimiser import OptimiserConfig
from scoretomo.training import TrainingStep, new_state, optimise_progressive

from . import floor
from .memory import peak_memory
from .networks import NetworkName, new_denoiser
from .peak import measured_peak, published_peak
from .plain_training import PlainTraining
from .record import Row
from .timing import Side, interleaved, rate_columns, three_digits, times_faster

_BATCH = {"cpu": 32, "cuda": 512}
_IMAGES = 300  # the paper's box
_LEARNING_RATE = 8e-4

MethodName = Literal["plain loop", "ours", "ours, bfloat16 network"]


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about ten minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    sides: tuple[int, ...] = (32, 64, 88)
    """Sides of the images in pixels; multiples of 8."""
    networks: tuple[NetworkName, ...] = ("paper", "default")
    """The U-Nets."""
    batch_size: int | None = None
    """Images of one step; 32 on a CPU, 512 on a GPU, as in the paper."""
    repeats: int = 3
    """Times that each loop is timed."""
    seconds: float = 2.0
    """Least duration of one timed run; it has two steps or more."""


def measure(settings: Settings) -> Iterator[Row]:
    """Speed and peak memory of every loop for every network and side."""
    device, batch = settings.device, settings.batch_size or _BATCH[settings.device]
    names: list[MethodName] = ["plain loop", "ours"]
    if supports_fast_bfloat16(torch.device(device)):
        names.append("ours, bfloat16 network")
    peaks = measured_peak(device)
    bfloat16_rate = (published_peak(device) or peaks).bfloat16
    for network in settings.networks:
        for side in settings.sides:
            sides = [Side(batch, steps_of(name, network, side, batch, device)) for name in names]
            rates = interleaved(sides, device, repeats=settings.repeats, seconds=settings.seconds, least_units=2)
            for name, rate in zip(names, rates, strict=True):
                speed = rate_columns("images", rate)
                per_second = speed["images_per_second"] / batch
                work = floor.training_step(network, side, batch, bfloat16="bfloat16" in name)
                flop_per_second = (work.network + work.bfloat16) * per_second
                memory = peak_memory(prepare, device, name, network, side, batch)
                yield {
                    "network": network,
                    "side": side,
                    "method": name,
                    "batch": batch,
                    **speed,
                    "times_plain": times_faster(rate, rates[0]),
                    "share_of_peak": peaks.share(work, per_second),
                    "gflop_per_second": three_digits(flop_per_second / 1e9),
                    "share_of_bfloat16_rate": three_digits(flop_per_second / bfloat16_rate),
                    "peak_memory_mb": memory and three_digits(memory / 1e6),
                }


def steps_of(
    name: MethodName, network: NetworkName, side: int, batch: int, device: str, images: int = _IMAGES
) -> Callable[[int], object]:
    """Make the images and the network, and the function that does so many steps."""
    data = torch.randn(images, side, side, generator=torch.Generator().manual_seed(0)) * ball(side, 2, side // 2)
    model = new_denoiser(network, side, device, bfloat16="bfloat16" in name)
    if name == "plain loop":
        plain = PlainTraining(model, new_denoiser(network, side, device, bfloat16=False), _LEARNING_RATE)
        return partial(plain.run, data.to(device), batch)
    config = OptimiserConfig(learning_rate=_LEARNING_RATE, batch_size=batch)
    state = new_state(model, config, torch.Generator(device).manual_seed(0))
    loss = partial(training_loss, data.to(device), NoiseConfig())

    def run(steps: int) -> TrainingStep:
        end = state.images_seen + steps * batch
        *_, last = optimise_progressive(state, loss, config, lambda seen: float(seen >= end))
        return last

    return run


def prepare(device: str, name: MethodName, network: NetworkName, side: int, batch: int) -> tuple:
    small = steps_of(name, network, 16, 1, device)
    return partial(small, 1), partial(steps_of(name, network, side, batch, device), 2)
