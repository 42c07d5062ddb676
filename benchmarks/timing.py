"""How fast the sides of a comparison are: they take turns within one run, and the median over the turns counts."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

from .record import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    work: float
    """Work in one unit, in what its speed is counted in: images, voxels, volume-steps."""
    run: Callable[[int], object]
    """Do so many units."""


def wait(device: str) -> None:
    """Let the GPU finish what it was given; a CPU has finished already."""
    if device == "cuda":
        torch.cuda.synchronize()


def duration(work: Callable[[], object], device: str) -> float:
    """Seconds that some work takes."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def interleaved(
    sides: Sequence[Side], device: str, *, repeats: int, seconds: float, least_units: int = 1
) -> list[list[float]]:
    """Measure the work per second of each side in each repeat, the sides taking turns.

    So a machine that slows down slows all of them. A timed run does as many units as fill ``seconds``, and
    ``least_units`` at least.
    """
    units = []
    for side in sides:
        side.run(1)  # kernels are compiled and chosen, caches filled
        once = duration(lambda side=side: side.run(1), device)
        units.append(max(least_units, round(seconds / once)))
    rates: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, count, rate in zip(sides, units, rates, strict=True):
            taken = duration(lambda side=side, count=count: side.run(count), device)
            rate.append(side.work * count / taken)
    return rates


def rate_columns(unit: str, rates: Sequence[float]) -> Row:
    """Median, least and greatest rate, as columns of a table."""
    return {
        f"{unit}_per_second": three_digits(median(rates)),
        "slowest": three_digits(min(rates)),
        "fastest": three_digits(max(rates)),
    }


def times_faster(rates: Sequence[float], others: Sequence[float]) -> float:
    """How many times the others' rate: the median of the ratios within a repeat."""
    return three_digits(median(own / other for own, other in zip(rates, others, strict=True)))


def three_digits(value: float) -> float:
    """Three significant digits, which is more than a timing is good for."""
    return float(f"{value:.3g}")


class Stopwatch:
    """Adds up the time that iterators take, without that of who uses their items."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._seconds = 0.0

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        """Pass the items on."""
        iterator = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._seconds += time.perf_counter() - began
            yield item

    def read(self) -> float:
        """Seconds so far; waits for a GPU, which counts."""
        began = time.perf_counter()
        wait(self.device)
        self._seconds += time.perf_counter() - began
        return self._seconds
