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
from ..imaging.fourier import resize, translate
from ..imaging.masks import ball
from ..imaging.resampling import rotate_volumes
from ..networks.coordinate_mlp import CoordinateMLPConfig
from ..networks.image_encoder import ImageEncoderConfig
from .abinitio import AbInitioConfig
from .latent_vae import LatentState, LatentVAEConfig, decode_volumes


@dataclass(frozen=True)
class AverageVolumesConfig:
    """How cryoDRGN2 is trained on class averages.

    Raises
    ------
    InputError
        Noise that is not positive, no search, or a negative number of steps.
    """

    noise: float = 0.1
    """Noise of the class averages in units of their standard deviation. Less of it lets z and finer detail count for
    more."""
    least_steps: int = 2000
    """Steps before a reset, and after it, at least: a set of few class averages is seen more often than
    --drgn.model.epochs says."""
    searches: int = 4
    """Times that the poses of all class averages are searched before a reset, and after it, evenly spread, unless
    --drgn.search.search-every says when. With less than some hundred steps between them, half-made volumes get poses
    that suit them and stay as they are."""
    consensus_first: bool = True
    """Fit one volume to all class averages up to the last reset, and a family of volumes only then. Else the family,
    which can explain any image at any pose, has settled for wrong poses before it has a shape."""
    poses: Literal["search", "branch-and-bound"] = "search"
    """Hierarchical search of cryoDRGN2, or branch and bound as in cryoDRGN."""
    model: LatentVAEConfig = field(
        default_factory=lambda: LatentVAEConfig(
            epochs=300.0, decoder=CoordinateMLPConfig(hidden=128), encoder=ImageEncoderConfig(hidden=128)
        )
    )
    """What is trained. Of a rigid molecule there is one volume, whatever the number of latent dimensions."""
    search: AbInitioConfig = field(default_factory=lambda: AbInitioConfig(shift_extent=0.0, resets=1))
    """How poses are found. Class averages are centred: without --drgn.search.shift-extent no shifts are searched."""

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf:
            raise InputError(f"the noise must be a positive part of the images' standard deviation, not {self.noise}")
        if self.searches < 1 or self.least_steps < 0:
            counts = f"{self.searches} and {self.least_steps}"
            raise InputError(f"searches must be 1 or more and least_steps 0 or more, not {counts}")

    def dimensions(self, cycle: int, *, rigid: bool) -> int:
        """Length of z after so many resets."""
        alone = rigid or (self.consensus_first and cycle < self.search.resets)
        return 0 if alone else self.model.latent_dimensions

    def schedule(self, count: int, *, rigid: bool) -> tuple[LatentVAEConfig, AbInitioConfig]:
        """Resolve the settings of a training on so many class averages.

        Raises
        ------
        InputError
            A training that is over before poses are searched.
        """
        # a batch of more than all images would step over epochs, and over the searches that begin with them
        optimiser = replace(self.model.optimiser, batch_size=min(self.model.optimiser.batch_size, count))
        epochs = max(self.model.epochs, self.least_steps * optimiser.batch_size / count)
        first = self.search.pretrain_epochs(count, cycle=0)
        if first >= epochs:
            raise InputError(
                f"all {epochs:.0f} epochs would be at random poses; give --drgn.model.epochs more than {first}, or "
                "fewer --drgn.search.pretrain-images"
            )
        every = self.search.search_every or math.ceil((epochs - first) / self.searches)
        latent = self.dimensions(self.search.resets, rigid=rigid)
        model = replace(self.model, epochs=epochs, latent_dimensions=latent, optimiser=optimiser)
        return model, replace(self.search, search_every=every)


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
    model, rotation = state.model, state.rotations[row][None]
    own = decode_volumes(model, None if z is None else z[row][None])
    # turned at twice the sampling, where trilinear interpolation costs little of the detail
    turned = resize(rotate_volumes(resize(own, 2 * model.side, 3), rotation), model.side, 3)
    moved = translate(turned, torch.nn.functional.pad(state.shifts_pixels[row], (0, 1))[None])[0]
    return moved * ball(model.side, 3, radius, moved.device)
