"""``scoretomo points train``: point clouds in, a diffusion prior out."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from .. import processes
from ..datatypes import InputError, PointClouds
from ..io.point_sets import read_point_set
from ..methods.point_prior import PointNoiseConfig, prior_loss
from ..networks.point_transformer import PointTransformerConfig
from ..optimiser import OptimiserConfig
from ..run_lock import locked
from .denoiser_training import Budget, DenoiserTask, DenoiserTraining, is_trained
from .points_folder import Prior, PriorConfig, save_prior, start_prior
from .progress import say
from .train import Device, choose_device
from .training_loop import own_part

# Clouds that a training without a limit sees.
_DEFAULT_BUDGET = 60_000
# Held-out clouds that are denoised now and then while training goes on.
_TESTED = 16
# Noise levels at which held-out clouds are denoised; the cube goes from -1 to 1.
_TEST_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
PriorPresetName = Literal["small", "paper"]
_PAPER = PointTransformerConfig(width=512, layers=24, heads=8)

PRIOR_PRESETS: dict[PriorPresetName, PriorConfig] = {
    # Clouds of fewer points have less detail, so that there is little to learn at the paper's low noise levels; and a
    # second phase at the end, where the learning rate has fallen, would learn nothing (002 keeps the rate).
    "small": PriorConfig(noise=PointNoiseConfig(first_part=0.0)),
    # 2070 epochs of 6629 molecules, and the middle of the ranges that batch and rate were changed in by hand (002, A.2)
    "paper": PriorConfig(
        budget=2070 * 6629,
        network=_PAPER,
        optimiser=OptimiserConfig(learning_rate=9e-5, muon_rate=0.0, batch_size=160, decay=False),
    ),
}
"""What is made for a CPU, and the paper's settings for molecules, made for a GPU and days."""


@dataclass(frozen=True)
class PriorSource:
    """What to train on and where.

    Attributes
    ----------
    clouds
        A set of point clouds (.npz), as `scoretomo points prepare` makes it.
    output
        Folder for the prior. The same command again goes on where an earlier one was interrupted.
    preset
        Settings to begin with: small, made for an hour on a CPU, or the paper's. Options given beside it change single
        settings.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """

    clouds: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SET")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PRIOR")]
    preset: PriorPresetName = "small"
    device: Device = "auto"


def train(
    source: Annotated[PriorSource, tyro.conf.arg(name="")],
    config: Annotated[PriorConfig, tyro.conf.arg(name="")] = PRIOR_PRESETS["small"],
) -> None:
    """Train a diffusion prior on point clouds.

    It learns what such objects look like: molecules, or whatever the set holds. `scoretomo points reconstruct` then
    finds objects that fit what was observed, `scoretomo points sample` draws some from nothing.
    """
    _refuse_idle(config.noise)
    device = choose_device(source.device)
    clouds = read_point_set(source.clouds)
    if bool(clouds.held_out.all()):
        raise InputError(f"{source.clouds}: all clouds are held out, none is left to train on")
    with locked(source.output):
        prior = processes.by_main(lambda: start_prior(source.output, source.clouds, clouds, config))
        _train(prior, clouds, device)
    print(f"prior: {prior.weights}")


def _refuse_idle(noise: PointNoiseConfig) -> None:
    """Say which options are of a phase that there is none of."""
    usual, phase = PointNoiseConfig(), {0.0: "first", 1.0: "second"}.get(noise.first_part)
    for name in ("log_mean", "log_std", "largest"):
        if phase is not None and getattr(noise, f"{phase}_{name}") != getattr(usual, f"{phase}_{name}"):
            option = f"--noise.{phase}-{name.replace('_', '-')}"
            raise InputError(f"{option}: does nothing with --noise.first-part {noise.first_part:g}; leave it out")


def _train(prior: Prior, clouds: PointClouds, device: torch.device) -> None:
    config, kept = prior.config, ~clouds.held_out
    unlimited = config.budget is None and config.minutes is None
    budget = Budget(_DEFAULT_BUDGET if unlimited else config.budget, config.minutes)
    if prior.weights.exists() and is_trained(prior.checkpoint, budget):
        say("the prior has been trained already")
        return
    training = DenoiserTraining(
        DenoiserTask(
            folder=prior.folder,
            checkpoint=prior.checkpoint,
            items="clouds",
            description=f"{int(kept.sum())} clouds of {prior.points} points",
            model=lambda: prior.new_denoiser(device),
            optimiser=config.optimiser,
            budget=budget,
            seed=config.seed,
            held_out=clouds.points[clouds.held_out][:_TESTED, : prior.points].to(device),
            test_sigmas=_TEST_SIGMAS,
            key_sigma=0.1,
            device=device,
        )
    )
    loss_function = partial(
        prior_loss,
        clouds.points[kept].to(device),
        prior.points,
        config.noise,
        lambda: training.part_done(training.state.images_seen),
        handed=clouds.handed,
        part=own_part(config.optimiser),
    )
    training.go(loss_function)
    processes.by_main(partial(_export, prior, training))


def _export(prior: Prior, training: DenoiserTraining) -> None:
    """Write the weights, and that they are written."""
    save_prior(prior, training.state.averaged.get_submodule("network"))
    training.save(exported=True)
