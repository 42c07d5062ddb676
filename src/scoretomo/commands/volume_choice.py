"""Choosing between the volumes of the motion model and those of the score model, for ``scoretomo reconstruct``."""

import tomllib
from typing import Any

import tomli_w
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
from ..io.files import write_text
from ..methods.motion_model import MotionModel
from ..runs import Run
from .initial import find_models
from .progress import interruptible, progress, say
from .refinement import refinement_radius


def choose_volumes(
    run: Run,
    denoiser: EDMDenoiser,
    growth: GrowthConfig,
    model: MotionModel | None,
    made_with: dict[str, Any],
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
    if saved := load_checkpoint(path, made_of=made_of):
        choice = VolumeChoice(**saved["choice"])
    elif len(run.used) < FEWEST_TO_CHOOSE:
        choice = too_few_to_choose(len(run.used))
    else:
        choice = _compare(run, denoiser, growth, model, device, chunk)
        save_checkpoint(path, {"made_of": made_of, "choice": vars(choice)})
    say(choice.reason)
    _record(run, choice)
    return choice


def _record(run: Run, choice: VolumeChoice) -> None:
    record = run.folder / "reconstruction.toml"
    table = tomllib.loads(record.read_text(encoding="utf-8"))
    table["volumes"] = {"chosen": choice.chosen, "reason": choice.reason}
    write_text(record, tomli_w.dumps(table))


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
