"""Choosing between the volumes of the motion model and those of the score model, for ``scoretomo reconstruct``."""

from typing import Any, TypedDict

import torch

from .. import processes
from ..diffusion.edm import EDMDenoiser
from ..ensemble.growth import GrowthConfig
from ..ensemble.volume_choice import (
    FEWEST_TO_CHOOSE,
    Kind,
    VolumeChoice,
    choose_volumes_progressive,
    too_few_to_choose,
)
from ..io.checkpoints import load_checkpoint, save_checkpoint
from ..io.made_with import MadeWith, read_made_with, write_made_with
from ..methods.motion_model import MotionModel
from ..runs import Run
from .initial import find_models
from .progress import interruptible, progress, say
from .refinement import refinement_radius


class _Saved(TypedDict):
    """Of the checkpoint of the comparison."""

    choice: VolumeChoice


def choose_volumes(
    run: Run,
    denoiser: EDMDenoiser,
    growth: GrowthConfig,
    model: MotionModel | None,
    made_with: MadeWith,
    device: torch.device,
    *,
    chunk: int,
) -> Kind:
    """Say which volumes are made: as the settings say, or those that predict class averages best that were left out.

    Of a rigid molecule, and from nothing, there is no choice. What was found, and why, is written into
    RUN/reconstruction.toml.
    """
    if model is None or run.rigid:
        return "score"
    if growth.volumes != "auto":
        choice = VolumeChoice(growth.volumes, (), (), f"Volumes of the kind {growth.volumes!r} were asked for.")
        processes.by_main(lambda: _record(run, choice))
        return growth.volumes
    made_of = {"rows": run.used, "seed": run.config.seed, **made_with}
    kind: Kind = processes.by_main(lambda: _choose(run, denoiser, growth, model, made_of, device, chunk)).chosen
    return kind


def _choose(
    run: Run,
    denoiser: EDMDenoiser,
    growth: GrowthConfig,
    model: MotionModel,
    made_of: dict[str, Any],
    device: torch.device,
    chunk: int,
) -> VolumeChoice:
    path = run.folder / "checkpoint" / "choice.pt"
    if saved := load_checkpoint(path, _Saved, made_of=made_of):
        choice = saved["choice"]
    elif len(run.used) < FEWEST_TO_CHOOSE:
        choice = too_few_to_choose(len(run.used))
    else:
        choice = _compare(run, denoiser, growth, model, device, chunk)
        save_checkpoint(path, {"made_of": made_of, "choice": vars(choice)})
    say(choice.reason)
    _record(run, choice)
    return choice


def _record(run: Run, choice: VolumeChoice) -> None:
    made_with = read_made_with(run.folder)
    assert made_with is not None  # it was written before the volumes were chosen
    write_made_with(run.folder, {**made_with, "volumes": {"chosen": choice.chosen, "reason": choice.reason}})


def _compare(
    run: Run, denoiser: EDMDenoiser, growth: GrowthConfig, model: MotionModel, device: torch.device, chunk: int
) -> VolumeChoice:
    steps = choose_volumes_progressive(
        denoiser,
        run.images[run.used].to(device),
        model,
        growth,
        radius=refinement_radius(run, find_models(run, run.used, device, halves=False).whole),
        seed=run.config.seed,
        chunk=chunk,
        mask_radius=run.mask_radius,
    )
    with interruptible() as check, progress("motion model or score model") as report:
        for step in steps:
            check()
            report(step if isinstance(step, float) else 1.0, "class averages that were left out")
    assert isinstance(step, VolumeChoice)
    return step
