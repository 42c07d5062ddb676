"""One volume for each class average by cryoDRGN2 (003), as 001 compares with it (000, B.2).

Class averages are few, nearly clean, centred, and free of contrast transfer. Every one of them is seen hundreds of
times, and poses are searched now and then: it is the steps between two searches that make the volumes. The volume of a
class average is that at its own z, turned and moved by its own pose, so that it projects along z to the class average.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from ..imaging.masks import ball
from ..imaging.resampling import turn_into_view
from ..limits import check_limits
from ..networks.coordinate_mlp import CoordinateMLPConfig
from ..networks.image_encoder import ImageEncoderConfig
from .abinitio_schedule import AbInitioConfig
from .latent_vae import LatentState, LatentVAEConfig, decode_volumes


@dataclass(frozen=True)
class AverageVolumesConfig:
    """How cryoDRGN2 is trained on class averages.

    Raises
    ------
    InputError
        Noise that is not positive, or a negative number of steps.
    """

    noise: float = 0.1
    """Noise of the class averages in units of their standard deviation. Less of it lets z and finer detail count for
    more."""
    least_steps: int = 2000
    """Steps of a cycle of training, at least: a set of few class averages is seen more often than
    --drgn.model.epochs and --drgn.search.consensus-epochs say."""
    poses: Literal["search", "branch-and-bound"] = "search"
    """Hierarchical search of cryoDRGN2, or branch and bound as in cryoDRGN."""
    model: LatentVAEConfig = field(
        default_factory=lambda: LatentVAEConfig(
            epochs=200.0, decoder=CoordinateMLPConfig(hidden=64), encoder=ImageEncoderConfig(hidden=128)
        )
    )
    """What is trained. Of a rigid molecule there is one volume, whatever the number of latent dimensions."""
    search: AbInitioConfig = field(
        default_factory=lambda: AbInitioConfig(shift_extent=0.0, consensus_epochs=100.0, settle_images=3000)
    )
    """How poses are found. Class averages are centred: without --drgn.search.shift-extent no shifts are searched."""

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf:
            raise InputError(f"the noise must be a positive part of the images' standard deviation, not {self.noise}")
        if self.least_steps < 0:
            raise InputError(f"least_steps must be 0 or more, not {self.least_steps}")
        check_limits(self, noise=(1e-6, 1e6), least_steps=(0, 10**9))

    def schedule(self, count: int, *, rigid: bool) -> tuple[LatentVAEConfig, AbInitioConfig]:
        """Resolve the settings of a training on so many class averages.

        Raises
        ------
        InputError
            A training that is over before poses are searched.
        """
        # a batch of more than all images would be of images that were searched against different volumes
        optimiser = replace(self.model.optimiser, batch_size=min(self.model.optimiser.batch_size, count))
        least = self.least_steps * optimiser.batch_size / count
        latent = 0 if rigid else self.model.latent_dimensions
        model = replace(self.model, epochs=max(self.model.epochs, least), latent_dimensions=latent, optimiser=optimiser)
        search = replace(self.search, consensus_epochs=max(self.search.consensus_epochs, least))
        first = search.pretrain_epochs(count, cycle=0)
        if first >= search.cycles(model, self.poses)[0].epochs:
            raise InputError(
                f"all epochs are at random poses; give --drgn.model.epochs and --drgn.search.consensus-epochs more "
                f"than {first}, or fewer --drgn.search.pretrain-images"
            )
        return model, search


@torch.no_grad()
def average_volume(
    state: LatentState, row: int, z: Float[Tensor, "n d"] | None, radius: float
) -> Float[Tensor, "side side side"]:
    """Volume of one class average, in its frame and in units of the noise.

    Parameters
    ----------
    state
        Networks and poses.
    row
        Of the class average.
    z
        Latent variables of all, or None for a single volume.
    radius
        In pixels: class averages are 0 beyond it, and so is the volume.
    """
    own = decode_volumes(state.model, None if z is None else z[row][None])[0]
    moved = turn_into_view(own, state.rotations[row], state.shifts_pixels[row])
    return moved * ball(state.model.side, 3, radius, moved.device)
