"""What the machine can do at most: rates of matrix products in float32 and bfloat16, memory bandwidth.

Measured in the run that they are compared with; for the GPUs that are known here the maker's figures stand beside them.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

import torch

from .record import Row
from .timing import duration, three_digits

_REPEATS = 5
_PRODUCT_SIDE = {"cpu": 1536, "cuda": 8192}
_COPIED = {"cpu": 2**24, "cuda": 2**28}  # numbers of an array, far more than caches hold


@dataclass(frozen=True)
class Work:
    """What a task cannot do without."""

    float32: float = 0.0
    """Floating-point operations outside of matrix products and convolutions."""
    network: float = 0.0
    """Floating-point operations of matrix products and convolutions in float32; GPUs have units of their own for it."""
    bfloat16: float = 0.0
    """The same in bfloat16."""
    bytes: float = 0.0
    """What must be read from memory and written to it if caches hold all the rest."""

    def __add__(self, other: "Work") -> "Work":
        return Work(
            *(mine + theirs for mine, theirs in zip(asdict(self).values(), asdict(other).values(), strict=True))
        )

    def __mul__(self, times: float) -> "Work":
        return Work(*(value * times for value in asdict(self).values()))


@dataclass(frozen=True)
class Peak:
    """Operations and bytes per second."""

    float32: float
    network: float
    """Matrix products of float32 numbers; on a GPU in TF32, as its convolutions are."""
    bfloat16: float
    bytes: float

    def least_seconds(self, work: Work) -> float:
        """Physical limit: arithmetic one after the other, memory at the same time."""
        arithmetic = work.float32 / self.float32 + work.network / self.network + work.bfloat16 / self.bfloat16
        return max(arithmetic, work.bytes / self.bytes)

    def share(self, work: Work, per_second: float) -> float:
        """Part of the physical limit that is reached by doing the work so many times in a second."""
        return three_digits(self.least_seconds(work) * per_second)


PUBLISHED = {
    "H200": Peak(67e12, 495e12, 989e12, 4.8e12),
    "H100 PCIe": Peak(51e12, 378e12, 756e12, 2.0e12),
    "H100": Peak(67e12, 495e12, 989e12, 3.35e12),
    "A100-SXM4-80GB": Peak(19.5e12, 156e12, 312e12, 2.04e12),
    "A100": Peak(19.5e12, 156e12, 312e12, 1.56e12),
}
"""The maker's data sheets by part of the device's name, dense; the first that fits counts."""


@dataclass(frozen=True)
class Settings:
    """Nothing to choose but the device; takes seconds."""

    device: Literal["cpu", "cuda"] = "cpu"
    """What to measure."""


def measure(settings: Settings) -> Iterator[Row]:
    """Measured and published rates."""
    measured, published = measured_peak(settings.device), published_peak(settings.device)
    labels = {
        "float32": ("float32", "GFLOP/s"),
        "network": ("float32, as convolutions use it", "GFLOP/s"),
        "bfloat16": ("bfloat16", "GFLOP/s"),
        "bytes": ("memory", "GB/s"),
    }
    for name, (label, unit) in labels.items():
        figure = getattr(measured, name)
        theirs = getattr(published, name) if published else None
        yield {
            "what": label,
            "unit": unit,
            "measured": three_digits(figure / 1e9),
            "published": theirs and three_digits(theirs / 1e9),
            "share_of_published": theirs and three_digits(figure / theirs),
        }


@cache
def measured_peak(device: str) -> Peak:
    """Best of some runs of a square matrix product in each format, and of ``a = b + 2 c`` over long arrays."""
    side = _PRODUCT_SIDE[device]
    allowed = torch.backends.cuda.matmul.allow_tf32
    rates = {}
    for name, number, tf32 in (
        ("float32", torch.float32, False),
        ("network", torch.float32, True),
        ("bfloat16", torch.bfloat16, True),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        factors = torch.randn(2, side, side, device=device).to(number)
        rates[name] = 2 * side**3 / _shortest(lambda factors=factors: factors[0] @ factors[1], device)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    target, first, second = torch.zeros(3, _COPIED[device], device=device)
    moved = 3 * target.numel() * target.element_size()
    rates["bytes"] = moved / _shortest(lambda: torch.add(first, second, alpha=2.0, out=target), device)
    return Peak(**rates)


def published_peak(device: str) -> Peak | None:
    """The maker's figures, where they are known here."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for part, peak in PUBLISHED.items() if part in name), None)


def _shortest(work: Callable[[], object], device: str) -> float:
    work()
    return min(duration(work, device) for _ in range(_REPEATS))
