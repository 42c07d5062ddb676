"""A volume as a function of frequency: a residual MLP over waves of the coordinates (004, section 3.1; 003, A.1).

A positional encoding is a set of positions x in real space, in pixels: its features at a frequency k, in cycles per
pixel, are ``sin(2 pi k.x)`` and ``cos(2 pi k.x)``, of which the Hartley transform of a point at x is made. The papers
write ``2 pi x`` as the wave number gamma, and their lattice from -0.5 to 0.5 is the frequency in cycles per pixel.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datatypes import InputError
from ..limits import check_limits

Encoding = Literal["cryodrgn", "cryodrgn-noisy", "cryodrgn2", "cryodrgn2-noisy"]

# Part of the features that 004 leaves out for noisy images: those of the farthest positions.
_TRIMMED = 0.1


@dataclass(frozen=True)
class CoordinateMLPConfig:
    """Shape of the coordinate network. The defaults are cryoDRGN2's (003, C.5), with 004's encoding of noisy images.

    004 (section 3.3) has ``hidden=128, layers=10, encoding="cryodrgn"``, and ``hidden=500`` in its last stage.

    Raises
    ------
    InputError
        A width or a depth below 1.
    """

    hidden: int = 256
    """Width of the hidden layers."""
    layers: int = 3
    """Residual layers between the first and the last linear map."""
    encoding: Encoding = "cryodrgn-noisy"
    """Where the waves of the positional encoding sit. ``cryodrgn2`` and ``cryodrgn``: on the three axes, a geometric
    series from 1 pixel to half the image, or to one step less (003, Eqs. 3 to 5; 004, Eqs. 7 and 8).
    ``cryodrgn-noisy``: without the farthest tenth, where noise is and the molecule is not (004, section 3.1).
    ``cryodrgn2-noisy``: all 2 pi times nearer (003, A.1)."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.layers < 1:
            raise InputError(f"the coordinate network needs a width and a depth of 1 or more, not {self}")
        check_limits(self, hidden=(1, 2**16), layers=(1, 256))


def encoding_positions(encoding: Encoding, side: int) -> Float[Tensor, "m 3"]:
    """Positions ``(m, 3)``, xyz in pixels from the centre, of the waves of an encoding for images of ``side`` pixels.

    There are ``3 * (side // 2)`` of them, so ``3 * side`` features for even sides, unless the encoding is trimmed.
    """
    count = side // 2
    steps = torch.arange(count, dtype=torch.float32)
    if encoding.startswith("cryodrgn2"):
        radii = side / 2 * (2 / side) ** (steps / max(1, count - 1))
    else:
        radii = side / 2 * (2 / side) ** ((steps + 1) / count)
    if encoding == "cryodrgn2-noisy":
        radii = radii / (2 * math.pi)
    if encoding == "cryodrgn-noisy":
        radii = radii[math.ceil(_TRIMMED * count) :]
    return torch.cat([radii[:, None] * axis for axis in torch.eye(3)])


class CoordinateMLP(nn.Module):
    """Values of one volume, or of a family of volumes, at frequencies.

    Without latent variables it is a :data:`~scoretomo.imaging.slices.SliceFn`.

    Weights are drawn from torch's global generator; seed it with ``torch.manual_seed`` (see ``fork_rng``).

    Parameters
    ----------
    config
        Width, depth and encoding.
    side
        Edge in pixels of the images whose frequencies come in.
    latent_dimensions
        Length of z; 0 for a single volume.
    bfloat16
        Run the layers but the last under bfloat16 autocast; the phases of the waves stay float32.
    """

    positions: Tensor

    def __init__(
        self, config: CoordinateMLPConfig, side: int, latent_dimensions: int = 0, *, bfloat16: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("positions", encoding_positions(config.encoding, side))
        self.from_waves = nn.Linear(2 * len(self.positions), config.hidden)
        # apart from the waves, so that z need not be repeated at every frequency of an image
        self.from_latent = nn.Linear(latent_dimensions, config.hidden, bias=False) if latent_dimensions else None
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(config.layers))
        self.last = nn.Linear(config.hidden, 1)
        self.autocast = bfloat16

    def forward(
        self, frequencies: Float[Tensor, "*shape 3"], z: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "*shape"]:
        """Values at frequencies, xyz in cycles per pixel; where z is given, the leading axis runs along its rows."""
        phases = 2 * math.pi * (frequencies @ self.positions.T)
        waves = torch.cat([phases.sin(), phases.cos()], dim=-1)
        with torch.autocast(frequencies.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.from_waves(waves)
            if self.from_latent is not None:
                assert z is not None, "a network with latent variables needs their values"
                hidden = hidden + self.from_latent(z).view(len(z), *[1] * (frequencies.ndim - 2), -1)
            hidden = hidden.relu()
            for layer in self.layers:
                hidden = (hidden + layer(hidden)).relu()
        # one value of 8 bits would be the volume; a sum over many such features is finer
        values: Tensor = self.last(hidden.to(frequencies.dtype))[..., 0]
        return values
