"""The two U-Nets that are measured, with random weights: time does not depend on them."""

from functools import cache
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scoretomo.diffusion.edm import EDMDenoiser
from scoretomo.networks.unet import UNetConfig, build_unet, parameter_count
from scoretomo.presets import PRESETS

NetworkName = Literal["paper", "default"]

UNETS: dict[NetworkName, UNetConfig] = {"paper": UNetConfig(), "default": PRESETS["default"].unet}
"""The paper's for the box, and the one that the default settings have."""


def new_denoiser(name: NetworkName, side: int, device: str, *, bfloat16: bool) -> EDMDenoiser:
    """Denoiser with the same random weights at every call."""
    torch.manual_seed(0)
    return EDMDenoiser(build_unet(UNETS[name], side), bfloat16=bfloat16).to(device)


@cache
def denoising_flop(name: NetworkName, side: int) -> float:
    """Floating-point operations of one image's way through the network; training takes three times as many."""
    with torch.device("meta"):
        network = build_unet(UNETS[name], side)
        inputs = torch.zeros(1, side, side), torch.zeros(1)
    # other implementations of attention are not counted on all devices
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(*inputs)
    return float(counter.get_total_flops())


@cache
def weight_count(name: NetworkName) -> int:
    """Weights of the network; the image's side does not change them."""
    with torch.device("meta"):
        return parameter_count(build_unet(UNETS[name], UNETS[name].side_multiple))
