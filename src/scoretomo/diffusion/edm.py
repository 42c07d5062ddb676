"""EDM preconditioning, noise levels and loss (Karras et al. 2022, Table 1), for data of any shape.

A denoiser is any callable ``(noisy (b, ...), sigma (b,)) -> clean (b, ...)``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Denoiser = Callable[[Tensor, Tensor], Tensor]


class EDMDenoiser(nn.Module):
    """Wrap a raw network F into the denoiser D of Karras et al. 2022, Eq. 7.

    Parameters
    ----------
    network
        ``(scaled (b, ...), noise label (b,)) -> (b, ...)``.
    sigma_data
        Standard deviation of the data.
    bfloat16
        Run the network under bfloat16 autocast; inputs, outputs and the scalings stay float32.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 1.0, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.autocast = bfloat16

    def forward(self, noisy: Float[Tensor, " b *shape"], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b *shape"]:
        """Clean images expected behind ``noisy`` images of noise level ``sigma``."""
        scale = sigma.view(-1, *[1] * (noisy.ndim - 1))
        total = (scale**2 + self.sigma_data**2).sqrt()
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.autocast):
            raw = self.network(noisy / total, sigma.log() / 4)
        clean: Tensor = (self.sigma_data / total) ** 2 * noisy + scale * self.sigma_data / total * raw.float()
        return clean


def lognormal_sigmas(
    count: int, median: float, log_std: float, *, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Float[Tensor, " count"]:
    """Noise levels whose logarithm is normal; EDM's own are ``median=0.30, log_std=1.2``."""
    return median * torch.exp(log_std * torch.randn(count, generator=generator, device=generator.device)).to(device)


def denoising_error(
    denoiser: Denoiser,
    clean: Float[Tensor, " b *shape"],
    sigma: Float[Tensor, " b"],
    *,
    generator: torch.Generator,
    part: slice = slice(None),
) -> Float[Tensor, " k"]:
    """Mean squared error of denoising each item after noise of level ``sigma`` was added (001, Eq. 1).

    Of ``part`` of the items only, where processes share them; noise is drawn for all, so that sharing changes nothing.
    """
    noise = torch.randn(clean.shape, generator=generator, device=generator.device)[part].to(clean.device)
    clean, sigma = clean[part], sigma[part]
    noisy = clean + sigma.view(-1, *[1] * (clean.ndim - 1)) * noise
    return (denoiser(noisy, sigma) - clean).square().flatten(1).mean(1)


def loss_weight(sigma: Float[Tensor, " b"], sigma_data: float = 1.0) -> Float[Tensor, " b"]:
    """Weight that makes the error of an untrained network equal at all noise levels (Karras et al. 2022, Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
