"""From an image to its place among the conformations: a residual MLP on Hartley coefficients (004, section 3.2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datatypes import InputError
from ..limits import check_limits


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Shape of the image encoder. The defaults are those of cryoDRGN2 (003, C.5); 004 has 128 and 10 (section 3.3).

    Raises
    ------
    InputError
        A width or a depth below 1.
    """

    hidden: int = 256
    """Width of the hidden layers."""
    layers: int = 3
    """Residual layers between the first and the last linear map."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.layers < 1:
            raise InputError(f"the image encoder needs a width and a depth of 1 or more, not {self}")
        check_limits(self, hidden=(1, 2**16), layers=(1, 256))


class ImageEncoder(nn.Module):
    """Mean and log-variance of the latent variables of images, a Gaussian with diagonal covariance.

    Weights are drawn from torch's global generator; seed it with ``torch.manual_seed`` (see ``fork_rng``).

    Parameters
    ----------
    config
        Width and depth.
    coefficients
        Length of what comes in for each image.
    latent_dimensions
        Length of z.
    bfloat16
        Run the layers but the last under bfloat16 autocast.
    """

    def __init__(
        self, config: ImageEncoderConfig, coefficients: int, latent_dimensions: int, *, bfloat16: bool = False
    ) -> None:
        super().__init__()
        self.first = nn.Linear(coefficients, config.hidden)
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(config.layers))
        self.last = nn.Linear(config.hidden, 2 * latent_dimensions)
        self.autocast = bfloat16

    def forward(self, coefficients: Float[Tensor, "n p"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Means and log-variances for Hartley coefficients of centred images, of order one."""
        with torch.autocast(coefficients.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.first(coefficients).relu()
            for layer in self.layers:
                hidden = (hidden + layer(hidden)).relu()
        # places of 8 bits would lie on a grid
        statistics: Tensor = self.last(hidden.to(coefficients.dtype))
        mean, log_variance = statistics.chunk(2, dim=-1)
        return mean, log_variance
