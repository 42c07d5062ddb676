"""One map of all class averages, and two of half of them each, refined from their initial models."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..at_once import at_once
from ..ensemble.consensus import Halves, bring_together, impose
from ..ensemble.initial_evidence import halves_of
from ..evaluation.symmetry import find_symmetry
from ..geometry.symmetry import symmetry_group
from ..io.checkpoints import load_checkpoint, save_checkpoint
from ..methods.angular_spread import AngularSpread
from ..methods.initial_model import InitialModel, Start, find_in_model
from ..methods.motion_model import MotionModel
from ..methods.projection_matching import MatchingConfig, MatchingStep, refine_progressive
from ..runs import Run
from .progress import interruptible, progress, say

# The sphere that holds the molecule, over the radius that the initial model took, which the ends of a long one pass.
_WIDER = 1.15
# Correlation with images that were left out, which a symmetry may cost: that of maps at two nearby grids of poses.
_SYMMETRY_COSTS = 0.005
# The same of half maps that were refined without it. Those of beta-galactosidase lose 0.005, which refining with it
# mends; those of box and capsid lose 0.02 to 0.07, which it does not.
_SYMMETRY_COSTS_AT_FIRST = 0.015
FEWEST_TO_REFINE = 4
"""Class averages below which nothing is refined: they make no two halves."""

_Start = tuple[Float[Tensor, "n n n"], Float[Tensor, " k"] | None]
"""What a refinement begins with: a map, and the agreement of halves that limits the band."""


Found = TypeVar("Found", bound=InitialModel | Start | MatchingStep | MotionModel)


class _SavedStep(TypedDict):
    """Of the checkpoint of a refinement."""

    step: MatchingStep


class _SavedSymmetry(TypedDict):
    """Of the checkpoint of a symmetry that was looked for."""

    symmetry: str
    words: str


@dataclass(frozen=True)
class Models:
    """Initial models of images of a run.

    Attributes
    ----------
    rows
        Indices of the images, in the input.
    whole, halves
        Models of all of them, and of every other one from 0 and from 1; or none, of few images.
    """

    rows: list[int]
    whole: InitialModel
    halves: list[InitialModel]


@dataclass(frozen=True)
class Refined:
    """Refined maps.

    Attributes
    ----------
    whole
        Map and poses of all images.
    halves
        Two maps that know nothing of each other, in the frame of the whole; None where there are too few images.
    symmetry
        The point group that was imposed.
    words
        What was found about it.
    """

    whole: MatchingStep
    halves: Halves | None
    symmetry: str
    words: str

    def angular_spread(self, degrees: float | None) -> AngularSpread | None:
        """Find how far the views of a class's particles spread, unless that is known.

        None where no halves tell how much is noise.
        """
        if self.halves is None:
            return None
        return AngularSpread.of(self.whole.volume, self.halves.fsc.corrected, degrees=degrees)


def refine_models(
    run: Run, models: Models, symmetry: str, matching: MatchingConfig, device: torch.device, *, halves: bool = True
) -> Refined:
    """Refine all three; what an earlier command has refined is taken up.

    Parameters
    ----------
    run
        Its images, and where refined maps are kept.
    models
        Where to begin.
    symmetry
        Point group to impose; auto imposes the one that the refined map has, if images of the other half fit the half
        maps no worse with it.
    matching
        How they are refined; the first band is that of the initial model, if it is wider.
    device
        Where to compute.
    halves
        Whether to refine the halves too, which tells the resolution, and limits the band of the whole.
    """
    job = _Job(run, models, matching, device)
    parts = job.halves() if halves and models.halves else []

    def limited(start: Float[Tensor, "n n n"]) -> _Start:
        """Limit the band of the whole by where halves agree."""
        return start, _bring(job, start, parts).fsc.unmasked if parts else None

    def unimposed() -> _Start:
        return limited(models.whole.volume.to(device))

    whole = job.refine("refine", models.rows, "C1", unimposed, halves=bool(parts))
    symmetry = symmetry if symmetry == "auto" else symmetry.upper()
    if symmetry == "auto":
        symmetry, words = _found_symmetry(job, whole.volume, parts)
    else:
        words = f"{symmetry} was asked for"
    if symmetry != "C1":
        volume, parts = whole.volume, _refine_with(job, symmetry, _imposed(symmetry, parts))

        def imposed() -> _Start:
            return limited(impose(volume, symmetry_group(symmetry)))

        whole = job.refine(f"refine with {symmetry}", models.rows, symmetry, imposed, halves=bool(parts))
    return Refined(whole, _bring(job, whole.volume, parts) if parts else None, symmetry, words)


class _Job:
    """What all refinements have in common, and where their results are kept."""

    def __init__(self, run: Run, models: Models, matching: MatchingConfig, device: torch.device) -> None:
        self.run, self.models, self.device = run, models, device
        first = max(matching.start_shell, int(models.whole.band))
        self.matching = replace(matching, start_shell=first)
        self.radius = refinement_radius(run, models.whole)
        self.images = run.images.to(device)

    def rows(self, half: int) -> list[int]:
        return [self.models.rows[place] for place in halves_of(len(self.models.rows))[half].tolist()]

    def halves(self) -> list[MatchingStep]:
        def begin(model: InitialModel) -> _Start:
            return model.volume.to(self.device), None

        return [
            self.refine(f"refine half {k + 1}", self.rows(k), "C1", partial(begin, half))
            for k, half in enumerate(self.models.halves)
        ]

    def path(self, title: str) -> Path:
        return self.run.folder / "checkpoint" / f"{title.replace(' ', '_')}.pt"

    def made_of(self, rows: list[int], symmetry: str, *, halves: bool) -> dict[str, Any]:
        """Tell what a map was made of; what else decides follows from these and the images."""
        made_of = {"rows": rows, "of": self.models.rows, "radius": self.radius, "halves": halves}
        return made_of | {"symmetry": symmetry, **asdict(self.matching), "initial": asdict(self.run.config.initial)}

    def refine(
        self, title: str, rows: list[int], symmetry: str, begin: Callable[[], _Start], *, halves: bool = False
    ) -> MatchingStep:
        """Refine from a map, unless an earlier command has done so with the same images and settings.

        Where ``halves`` limit the band, what it begins with says how far they agree.
        """
        path, made_of = self.path(title), self.made_of(rows, symmetry, halves=halves)
        if saved := load_checkpoint(path, _SavedStep, made_of=made_of):
            return on_device(saved["step"], self.device)
        box = self.run.images.shape[-1] * self.run.preprocessing.working_pixel_size_angstrom
        start, agreement = begin()
        steps = refine_progressive(
            start,
            self.images[rows],
            self.radius,
            self.matching,
            symmetry=symmetry_group(symmetry),
            agreement=agreement,
        )
        with interruptible() as check, progress(title) as report:
            for step in steps:
                check()
                done = 1.0 if step.converged else step.iteration / step.total
                moved = "" if math.isinf(step.change) else f"  poses moved {step.change:.2f} periods"
                report(done, f"to {box / step.band:.1f} A  correlation {step.scores.mean():.3f}{moved}")
        save_checkpoint(path, {"made_of": made_of, "step": vars(step)})
        return step


def refinement_radius(run: Run, model: InitialModel) -> float:
    """Radius of the sphere that maps are refined in, in pixels."""
    return min(_WIDER * model.radius, run.mask_radius)


def on_device(found: Found, device: torch.device) -> Found:
    """Move the tensors among the fields of a dataclass, as a checkpoint gives it, to a device."""
    values: dict[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(found).items()
    }
    return type(found)(**values)


def _bring(job: _Job, whole: Float[Tensor, "n n n"], parts: list[MatchingStep]) -> Halves:
    generator = torch.Generator(job.device).manual_seed(job.run.config.seed)
    return bring_together(whole, torch.stack([part.volume for part in parts]), generator=generator)


def _found_symmetry(job: _Job, volume: Float[Tensor, "n n n"], parts: list[MatchingStep]) -> tuple[str, str]:
    """Find the point group to impose, and say so; or take up what an earlier command has found in the same map."""
    path, made_of = job.path("symmetry"), job.made_of(job.models.rows, "auto", halves=bool(parts))
    if saved := load_checkpoint(path, _SavedSymmetry, made_of=made_of):
        return saved["symmetry"], saved["words"]
    symmetry, words = _find_symmetry(job, volume, parts)
    say(words)
    save_checkpoint(path, {"made_of": made_of, "symmetry": symmetry, "words": words})
    return symmetry, words


def _find_symmetry(job: _Job, volume: Float[Tensor, "n n n"], parts: list[MatchingStep]) -> tuple[str, str]:
    """Find the point group of a map, with words; C1 if half maps with it fit the images of the other half worse.

    Before they are refined with it they may fit a little worse; a symmetry that is not there costs more at once.
    """
    found = find_symmetry(volume)
    symmetry, words = found.group, found.words
    if symmetry == "C1":
        return symmetry, words
    if not parts:
        return "C1", f"{words} It is not imposed, since there are no halves to test it; --symmetry imposes it."
    before, starts = _left_out_correlation(job, [part.volume for part in parts]), _imposed(symmetry, parts)
    after = _left_out_correlation(job, at_once(lambda start: start(), starts, job.device))
    if after >= before - _SYMMETRY_COSTS_AT_FIRST:
        after = _left_out_correlation(job, [part.volume for part in _refine_with(job, symmetry, starts)])
    said = f"{before:.3f} without it, {after:.3f} with it"
    if after < before - _SYMMETRY_COSTS:
        return "C1", f"{words} It is not imposed: class averages that were left out fit worse ({said})."
    return symmetry, f"{words} Class averages that were left out fit the map ({said})."


def _imposed(symmetry: str, parts: list[MatchingStep]) -> list[Callable[[], Float[Tensor, "n n n"]]]:
    """Half maps with a symmetry, made when they are called for, and once."""
    return [cache(partial(impose, part.volume, symmetry_group(symmetry))) for part in parts]


def _refine_with(job: _Job, symmetry: str, starts: list[Callable[[], Float[Tensor, "n n n"]]]) -> list[MatchingStep]:
    """Refine half maps with a symmetry, from maps that have it."""

    def begin(start: Callable[[], Float[Tensor, "n n n"]]) -> _Start:
        return start(), None

    return [
        job.refine(f"refine half {k + 1} with {symmetry}", job.rows(k), symmetry, partial(begin, start))
        for k, start in enumerate(starts)
    ]


def _left_out_correlation(job: _Job, halves: list[Float[Tensor, "n n n"]]) -> float:
    """Mean correlation of the images of each half with the map of the other."""
    config = job.run.config.initial

    def scores(half: int) -> Float[Tensor, " k"]:
        return find_in_model(job.images[job.rows(1 - half)], halves[half], job.radius, config).scores

    return float(torch.cat(at_once(scores, range(len(halves)), job.device)).mean())
