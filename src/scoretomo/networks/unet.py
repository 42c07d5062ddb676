"""The paper's U-Net: a ``diffusers.UNet2DModel``, optionally behind a patchified stem."""

from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datatypes import InputError
from ..limits import check_limits

if TYPE_CHECKING:  # diffusers takes four seconds to import, which what makes no network need not wait for
    from diffusers import UNet2DModel


# Groups in which UNet2DModel normalises channels.
_GROUP = 32
# Each halves the side.
_MOST_RESOLUTIONS = 6
WEIGHTS = "diffusion_pytorch_model.safetensors"
"""File of the weights in a Diffusers model folder."""


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the U-Net. The defaults are the paper's (001, section 4): 3 939 393 parameters.

    Raises
    ------
    InputError
        A network that cannot be built.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each resolution, fine to coarse; attention at the coarsest."""
    layers_per_block: int = 2
    """Residual layers of each resolution on the way down (one more on the way up)."""
    patch: int = 1
    """Pixels of a square patch that enter as channels; 2 runs the network at half the resolution, much cheaper."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= _MOST_RESOLUTIONS or any(each % _GROUP for each in self.channels):
            raise InputError(
                f"channels must be 1 to {_MOST_RESOLUTIONS} multiples of {_GROUP}, which are normalised in groups, "
                f"not {' '.join(map(str, self.channels)) or 'none'}"
            )
        check_limits(self, channels=(_GROUP, 2**12), layers_per_block=(1, 16), patch=(1, 16))

    @property
    def side_multiple(self) -> int:
        """The image side must be a multiple of this."""
        multiple: int = self.patch * 2 ** (len(self.channels) - 1)
        return multiple


class PatchUNet(nn.Module):
    """``UNet2DModel`` for single-channel images ``(b, side, side)``; its channels are the pixels of a patch."""

    def __init__(self, unet: "UNet2DModel") -> None:
        super().__init__()
        self.unet = unet
        self.patch = isqrt(unet.config.in_channels)

    def forward(self, images: Float[Tensor, "b side side"], label: Float[Tensor, " b"]) -> Float[Tensor, "b side side"]:
        """Raw output of the network for images and noise labels."""
        patches = nn.functional.pixel_unshuffle(images[:, None], self.patch)
        return nn.functional.pixel_shuffle(self.unet(patches, label).sample, self.patch)[:, 0]

    def save(self, folder: Path) -> None:
        """Write a Diffusers model folder: ``config.json`` and the weights as safetensors."""
        self.unet.save_pretrained(folder)


def build_unet(config: UNetConfig, side: int) -> PatchUNet:
    """U-Net with freshly drawn weights for images of ``side`` pixels.

    Weights are drawn from torch's global generator; seed it with ``torch.manual_seed`` (see ``fork_rng``).

    Raises
    ------
    ValueError
        ``side`` is not a multiple of ``config.side_multiple``.
    """
    if side % config.side_multiple:
        raise ValueError(f"the network takes sides that are a multiple of {config.side_multiple}, not {side}")
    from diffusers import UNet2DModel

    plain = len(config.channels) - 1
    unet = UNet2DModel(
        sample_size=side // config.patch,
        in_channels=config.patch**2,
        out_channels=config.patch**2,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
    )
    return PatchUNet(unet)


def parameter_count(network: nn.Module) -> int:
    """Count the trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def supports_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are faster than float32 ones here: CUDA, or a CPU with instructions for them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
