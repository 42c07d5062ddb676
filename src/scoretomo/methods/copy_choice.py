"""Which copy of a nearly symmetric core an image shows: the one that makes all images one motion.

Poses in one map of a molecule with a symmetric core are right but for the symmetry of the core: what breaks it is the
part that moves, of which one map is a blur. So poses that show the same of the core are rivals, and each image takes
one, by turns with a motion model of what they make together: at random after their likelihoods, under a temperature
that falls. Of many starts, which end in different choices, the likeliest counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..at_once import at_once
from ..datatypes import InputError
from .motion_model import MotionConfig, MotionFit, generator_of_start
from .posed_images import PosedImages


@dataclass(frozen=True)
class CopyChoiceConfig:
    """How the choice is made.

    Attributes
    ----------
    components
        Of the motion by which the choice is made.
    starts
        From copies drawn at random; one more begins with the first of each image.
    first_iterations, kept
        After these, so many starts go on, the likeliest.
    iterations, settled
        Of each start that goes on, and those at its end in which each image takes its likeliest copy.
    hottest, coldest
        What logarithms of likelihoods are divided by, in the first iteration and in the last before it is settled.

    Raises
    ------
    InputError
        Counts below one, iterations in the wrong order, or temperatures that are not positive and falling.
    """

    components: int = 2
    starts: int = 20
    first_iterations: int = 8
    kept: int = 3
    iterations: int = 24
    settled: int = 3
    hottest: float = 1.0
    coldest: float = 0.05

    def __post_init__(self) -> None:
        if min(self.components, self.starts, self.kept) < 1:
            raise InputError(
                f"components, starts and those that are kept must be 1 or more, not {self.components}, {self.starts} "
                f"and {self.kept}"
            )
        if not 0 < self.first_iterations <= self.iterations - self.settled <= self.iterations:
            raise InputError(
                f"iterations must be in order, not {self.first_iterations} at first, {self.iterations} of which "
                f"{self.settled} are settled"
            )
        if not 0 < self.coldest <= self.hottest:
            raise InputError(f"temperatures must fall and be positive, not {self.hottest} to {self.coldest}")

    def temperatures(self) -> list[float]:
        """One for each iteration, falling geometrically; 0 where the choice is settled."""
        falling = self.iterations - self.settled
        ratio = self.coldest / self.hottest
        return [self.hottest * ratio ** (i / max(1, falling - 1)) for i in range(falling)] + [0.0] * self.settled


@dataclass(frozen=True)
class CopyChoice:
    """One copy for each image.

    Attributes
    ----------
    copy
        ``(n,)``, which of those given.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``: its pose.
    cost
        Twice the negative logarithm of the likelihood of an image, in the mean, up to a constant.
    """

    copy: Int[Tensor, " n"]
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    cost: float


@dataclass(frozen=True)
class CopyChoiceStep:
    """Where the search stands: the part that is done, and at its end the choice."""

    done: float
    result: CopyChoice | None


def choose_copies(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n k 3 3"],
    shifts_pixels: Float[Tensor, "n k 2"],
    config: CopyChoiceConfig = CopyChoiceConfig(),
    *,
    radius: float,
    band: int,
    seed: int,
) -> CopyChoice:
    """Choose copies to the end; see :func:`choose_copies_progressive`."""
    *_, last = choose_copies_progressive(images, rotations, shifts_pixels, config, radius=radius, band=band, seed=seed)
    assert last.result is not None
    return last.result


@torch.no_grad()
def choose_copies_progressive(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n k 3 3"],
    shifts_pixels: Float[Tensor, "n k 2"],
    config: CopyChoiceConfig = CopyChoiceConfig(),
    *,
    radius: float,
    band: int,
    seed: int,
) -> Iterator[CopyChoiceStep]:
    """Choose copies, yielding after each iteration.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0.
    rotations, shifts_pixels
        ``(n, k, 3, 3)``, object to microscope frame, and ``(n, k, 2)``, ``[x, y]``: poses of each image that show the
        same of the core.
    config
        How.
    radius
        Of the sphere that holds the molecule, in pixels.
    band
        Highest frequency that counts, in Fourier pixels.
    seed
        Of all that is drawn at random.
    """
    posed = PosedImages.of(images, min(band, (images.shape[-1] - 1) // 2), radius)
    rivals, temperatures = _Rivals(posed, rotations, shifts_pixels), config.temperatures()
    starts = [_Start(rivals, config.components, seed, number) for number in range(1 + config.starts)]
    kept = min(config.kept, len(starts))
    total = len(starts) * config.first_iterations + kept * (config.iterations - config.first_iterations)
    done = 0
    for part in (slice(0, config.first_iterations), slice(config.first_iterations, config.iterations)):
        for temperature in temperatures[part]:
            at_once(partial(_Start.step, temperature=temperature), starts, images.device)
            done += len(starts)
            yield CopyChoiceStep(done / (1 + total), None)
        starts = sorted(starts, key=_Start.cost)[:kept]
    yield CopyChoiceStep(1.0, starts[0].result())


class _Rivals:
    """Images at all their copies."""

    def __init__(
        self, posed: PosedImages, rotations: Float[Tensor, "n k 3 3"], shifts_pixels: Float[Tensor, "n k 2"]
    ) -> None:
        self.posed, self.rotations, self.shifts = posed, rotations, shifts_pixels
        self.rows = torch.arange(len(rotations), device=rotations.device)
        self.image = self.rows.repeat_interleave(rotations.shape[1])
        self.targets = posed.targets(self.image, shifts_pixels.flatten(0, 1))

    def at(self, copy: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
        """Poses of one copy of each image."""
        return self.rotations[self.rows, copy], self.shifts[self.rows, copy]

    def costs(self, fit: MotionFit) -> Float[Tensor, "n k"]:
        """Twice the negative logarithm of the likelihood of each."""
        filters = fit.filters[self.image]
        found = self.posed.expect(fit.volumes, self.rotations.flatten(0, 1), self.targets, filters, fit.precision)
        return found.cost.view(self.rotations.shape[:2])


class _Start:
    """A motion, and a copy of each image, by turns; random numbers belong to a start."""

    def __init__(self, rivals: _Rivals, components: int, seed: int, number: int) -> None:
        self._rivals, self._generator = rivals, generator_of_start(seed, number)
        count, copies = rivals.rotations.shape[:2]
        drawn = torch.randint(copies, (count,), generator=self._generator)
        self._copy = (drawn if number else torch.zeros_like(drawn)).to(rivals.rows)
        z = torch.randn(count, components, generator=self._generator).to(rivals.rotations)
        self._fit = MotionFit(rivals.posed, *rivals.at(self._copy), z, MotionConfig())

    def step(self, temperature: float) -> None:
        """Make the motion, and draw a copy of each image; the likeliest at temperature 0."""
        fit = self._fit
        fit.maximise(float(fit.posed.grid.band))
        fit.standardise()
        costs = self._rivals.costs(fit)
        if temperature:
            chances = torch.softmax((costs.amin(1, keepdim=True) - costs) / (2 * temperature), 1)
            drawn = torch.multinomial(chances.cpu(), 1, generator=self._generator)[:, 0]
            self._copy = drawn.to(self._copy)
        else:
            self._copy = costs.argmin(1)
        fit.pose(*self._rivals.at(self._copy))
        fit.expect()

    def cost(self) -> float:
        """Twice the negative logarithm of the likelihood of an image, in the mean, up to a constant."""
        return self._fit.cost()

    def result(self) -> CopyChoice:
        """Say what was chosen."""
        return CopyChoice(self._copy, self._fit.rotations, self._fit.shifts, self.cost())
