"""``scoretomo points train``: point clouds in, a diffusion prior out."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import processes
from ..datatypes import InputError, PointClouds
from ..io.point_sets import read_point_set
from ..methods.point_prior import prior_loss
from ..run_lock import locked
from .denoiser_training import Budget, DenoiserTask, DenoiserTraining, is_trained, own_part
from .points_folder import Prior, PriorConfig, save_prior, start_prior
from .progress import say
from .train import Device, choose_device

# Clouds that a training without a limit sees.
_DEFAULT_BUDGET = 60_000
# Noise levels at which held-out clouds are denoised; the cube goes from -1 to 1.
_TEST_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_DEFAULT = PriorConfig()


@dataclass(frozen=True)
class PriorSource:
    """What to train on and where.

    Attributes
    ----------
    clouds
        A set of point clouds (.npz), as `scoretomo points prepare` makes it.
    output
        Folder for the prior. The same command again goes on where an earlier one was interrupted.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """

    clouds: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SET")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="PRIOR")]
    device: Device = "auto"


def train(
    source: Annotated[PriorSource, tyro.conf.arg(name="")],
    config: Annotated[PriorConfig, tyro.conf.arg(name="")] = _DEFAULT,
) -> None:
    """Train a diffusion prior on point clouds.

    It learns what such objects look like: molecules, or whatever the set holds. `scoretomo points reconstruct` then
    finds objects that fit what was observed, `scoretomo points sample` draws some from nothing. The defaults are for a
    CPU; --network.width 512 --network.layers 24 --network.heads 8 --optimiser.batch-size 160 is the paper's size.
    """
    device = choose_device(source.device)
    clouds = read_point_set(source.clouds)
    if bool(clouds.held_out.all()):
        raise InputError(f"{source.clouds}: all clouds are held out, none is left to train on")
    with locked(source.output):
        prior = processes.by_main(lambda: start_prior(source.output, source.clouds, clouds, config))
        _train(prior, clouds, device)
    print(f"prior: {prior.weights}")


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
            held_out=clouds.points[clouds.held_out][:, : prior.points].to(device),
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
