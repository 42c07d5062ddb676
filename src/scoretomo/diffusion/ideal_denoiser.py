"""The exact denoiser of a finite set of images: the oracle that methods are tested with, without training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class IdealDenoiser:
    """Posterior mean of a clean image that is one of ``templates``, all equally likely (Karras et al. 2022, Eq. 57).

    No network can do better on this distribution; on images beyond the templates it does not generalise.

    Attributes
    ----------
    templates
        ``(n, ...)``, all the clean images there are.
    """

    templates: Float[Tensor, " n *shape"]

    def __call__(self, noisy: Float[Tensor, " b *shape"], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b *shape"]:
        """Weight each template by the likelihood of the noisy image and average."""
        templates = self.templates.flatten(1)
        # |x - t|^2 less the part that all templates share
        distance = templates.square().sum(1) - 2 * noisy.flatten(1) @ templates.T  # (b, n)
        weights = torch.softmax(-distance / (2 * sigma[:, None] ** 2), dim=1)
        return (weights @ templates).view_as(noisy)
