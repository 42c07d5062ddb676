"""The folder of a point-cloud prior: what it was trained on and how, its checkpoint, and the denoiser."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
import tyro
from torch import nn

from ..datatypes import InputError, PointClouds
from ..diffusion.edm import EDMDenoiser
from ..io.checkpoints import load_weights
from ..io.files import replacing
from ..io.settings_file import SettingsFile, Source
from ..limits import MANY, SEEDS, WAITING, check_limits
from ..methods.point_prior import SIGMA_DATA, PointNoiseConfig
from ..networks.point_transformer import PointTransformer, PointTransformerConfig
from ..networks.unet import supports_fast_bfloat16
from ..optimiser import OptimiserConfig


class PriorSource(Source):
    """What a prior was trained on: clouds, those held out, their points, and whether they have hands."""

    clouds: int
    held_out: int
    points: int
    handed: bool


_SETTINGS = SettingsFile(
    "prior.toml",
    folder_kind="folder of a point-cloud prior",
    maker="scoretomo points train",
    own_files=frozenset({"checkpoint.pt", "metrics.jsonl", "prior.safetensors", ".lock", "tensorboard"}),
    source=PriorSource,
)
_MOST_POINTS = 2**20
# How long to train may change from one command to the next.
_LIMITS = ("points", "minutes", "budget")


@dataclass(frozen=True)
class PriorConfig:
    """Everything that decides what becomes of a set of point clouds."""

    points: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Points of a cloud; fewer than the set has are drawn from it anew each time. None: as many as the set has."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """Train for so many minutes, those before an interruption included. With --budget too, what comes first ends it."""
    budget: Annotated[int | None, tyro.conf.arg(metavar="CLOUDS")] = None
    """Train on so many clouds in all, each turned at random. With neither limit: 60000."""
    network: PointTransformerConfig = field(default_factory=PointTransformerConfig)
    """The denoising network."""
    noise: PointNoiseConfig = field(default_factory=PointNoiseConfig)
    """Noise that it learns to remove."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(batch_size=16, warmup_images=2_000))
    """How it is trained."""
    seed: int = 0
    """The same seed gives the same result, on the same kind of machine."""

    def __post_init__(self) -> None:
        if self.points is not None and self.points < 2:
            raise InputError(f"--points {self.points}: a cloud needs 2 points or more")
        if (self.minutes is not None and not self.minutes > 0) or (self.budget is not None and self.budget < 1):
            raise InputError("--minutes and --budget must be above 0")
        check_limits(self, points=(2, 10**6), minutes=WAITING, budget=(1, MANY), seed=SEEDS)


@dataclass(frozen=True)
class Prior:
    """A folder that ``points train`` has made."""

    folder: Path
    config: PriorConfig
    source: PriorSource

    @property
    def checkpoint(self) -> Path:
        """State of the training."""
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """Averaged weights of the denoiser, written at the end of the training."""
        return self.folder / "prior.safetensors"

    @property
    def points(self) -> int:
        """Points of a cloud."""
        return self.source["points"]

    @property
    def handed(self) -> bool:
        """Whether a mirror image is another object."""
        return self.source["handed"]

    def new_denoiser(self, device: torch.device) -> EDMDenoiser:
        """Denoiser with weights drawn from torch's global generator."""
        network: nn.Module = PointTransformer(self.config.network)
        return EDMDenoiser(network, SIGMA_DATA, bfloat16=supports_fast_bfloat16(device)).to(device)


def start_prior(folder: Path, path: Path, clouds: PointClouds, config: PriorConfig) -> Prior:
    """Make the folder of a prior, or take up the one that the same clouds and settings have made.

    Raises
    ------
    InputError
        A folder of other clouds or settings, or one that holds something else; more points asked for than there are.
    """
    most = clouds.points.shape[1]
    points = config.points or most
    if points > most:
        raise InputError(f"{path}: has {most} points a cloud, and {points} are asked for; prepare a set with more")
    source = {
        "path": str(path.resolve()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "clouds": len(clouds),
        "held_out": int(clouds.held_out.sum()),
        "points": points,
        "handed": clouds.handed,
    }
    # the points of a cloud stand in the source: not to ask for a number is to ask for all
    _SETTINGS.take_up(folder, "clouds", source, config, limits=_LIMITS)
    return open_prior(folder)


def open_prior(folder: Path) -> Prior:
    """Read the folder of a prior.

    Raises
    ------
    InputError
        Not such a folder, or one of a version with other settings.
    """
    source: PriorSource = _SETTINGS.source_of(folder)
    if not 2 <= source["points"] <= _MOST_POINTS:
        raise InputError(f"{folder / _SETTINGS.name}: has clouds of {source['points']} points; {_SETTINGS.advice}")
    return Prior(folder, _SETTINGS.settings(folder, PriorConfig), source)


def save_prior(prior: Prior, network: nn.Module) -> None:
    """Write the weights of the network, complete or not at all."""
    with replacing(prior.weights) as temporary:
        safetensors.torch.save_file({name: each.contiguous() for name, each in network.state_dict().items()}, temporary)


def load_prior(folder: Path, device: torch.device) -> tuple[Prior, EDMDenoiser]:
    """Read a trained prior and its denoiser.

    Raises
    ------
    InputError
        It is no prior, not trained to its end, or its weights cannot be read.
    """
    prior = open_prior(folder)
    if not prior.weights.exists():
        raise InputError(f"{folder}: is not trained yet; give the same `scoretomo points train` again to go on")
    denoiser = prior.new_denoiser(device)
    advice = "delete it, and give the same `scoretomo points train` again, which writes it"
    load_weights(denoiser.network, prior.weights, advice)
    return prior, denoiser.eval().requires_grad_(False)
