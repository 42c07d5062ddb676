"""Cost of a reconstruction step and of a training step against box size, number of volumes and views.

One thing is changed at a time. What would not fit into the memory is left out.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from scoretomo.networks.unet import supports_fast_bfloat16

from . import floor
from .memory import peak_memory
from .networks import NetworkName, denoising_flop
from .peak import measured_peak
from .reconstruction_step import Method, prepare, run_ours, steps_of
from .record import Row
from .timing import Side, interleaved, three_digits
from .training import prepare as prepare_training
from .training import steps_of as training_steps_of

_VOLUMES = {"cpu": 4, "cuda": 64}  # in the sweeps over sides and views
_SIDE = 32  # in the sweeps over volumes and views
_BATCH = {"cpu": 16, "cuda": 128}
# Arrays of the size of a volume that a step may hold at once, to judge what fits; and the part of the memory to use.
_VOLUME_COPIES, _PART_OF_MEMORY = 12, 0.5


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take about eight minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    network: NetworkName = "default"
    """The U-Net."""
    sides: tuple[int, ...] = (32, 48, 64, 88, 136)
    """Sides of the box in pixels, multiples of 8; 176 and 256 take minutes more."""
    volumes: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    """Volumes that advance together; up to 1000."""
    views: tuple[int, ...] = (2, 5, 10, 25, 50)
    """Views of each volume in a step, the base image included (the paper's M)."""
    repeats: int = 3
    """Times that each point is timed."""
    seconds: float = 1.0
    """Least duration of one timed run."""


def measure(settings: Settings) -> Iterator[Row]:
    """Time and memory of a step at each point of each sweep."""
    device, some = settings.device, _VOLUMES[settings.device]
    points = [("side", side, some if side < 200 else 1, 2) for side in settings.sides]
    points += [("volumes", _SIDE, volumes, 2) for volumes in settings.volumes]
    points += [("views", _SIDE, some, views) for views in settings.views]
    for sweep, side, volumes, views in points:
        if _VOLUME_COPIES * 4 * volumes * side**3 < _PART_OF_MEMORY * _memory(device):
            yield _reconstruction(sweep, side, volumes, views, settings)
    for side in settings.sides:
        yield _training(side, settings)


def _reconstruction(sweep: str, side: int, volumes: int, views: int, settings: Settings) -> Row:
    device, network = settings.device, settings.network
    bfloat16 = supports_fast_bfloat16(torch.device(device))
    method = Method("ours", volumes, bfloat16, run_ours)
    seconds = _seconds(Side(volumes, steps_of(device, method, network, side, views)), settings)
    memory = peak_memory(prepare, device, method, network, side, views)
    least = floor.reconstruction_step(network, side, views, bfloat16=bfloat16)
    return {
        "task": "reconstruction",
        "sweep": sweep,
        "side": side,
        "volumes": volumes,
        "views": views,
        "gflop": three_digits(denoising_flop(network, side) / 1e9),
        "milliseconds": three_digits(1000 * seconds),
        "share_of_peak": measured_peak(device).share(least, 1 / seconds),
        "peak_memory_mb": memory and three_digits(memory / 1e6),
    }


def _training(side: int, settings: Settings) -> Row:
    device, network, batch = settings.device, settings.network, _BATCH[settings.device]
    bfloat16 = supports_fast_bfloat16(torch.device(device))
    name = "ours, bfloat16 network" if bfloat16 else "ours"
    seconds = _seconds(Side(batch, training_steps_of(name, network, side, batch, device)), settings)
    memory = peak_memory(prepare_training, device, name, network, side, batch)
    least = floor.training_step(network, side, batch, bfloat16=bfloat16)
    return {
        "task": "training",
        "sweep": "side",
        "side": side,
        "volumes": batch,
        "views": None,
        "gflop": three_digits(denoising_flop(network, side) / 1e9),
        "milliseconds": three_digits(1000 * seconds),
        "share_of_peak": measured_peak(device).share(least, 1 / (batch * seconds)),
        "peak_memory_mb": memory and three_digits(memory / 1e6),
    }


def _seconds(side: Side, settings: Settings) -> float:
    """Seconds for one volume's step, or one image."""
    [rates] = interleaved([side], settings.device, repeats=settings.repeats, seconds=settings.seconds, least_units=2)
    return 1 / median(rates)


def _memory(device: str) -> float:
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
