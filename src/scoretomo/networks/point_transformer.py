"""Point transformer: points attend to each other and to a token of the noise level (002, A.2; Nichol et al. 2022)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..datatypes import InputError
from ..limits import check_limits

# Frequencies of the noise label's encoding: the slowest turns once over all labels that occur (ln(80) / 4 to ln(0.002)
# / 4 = -1.6), the fastest tells levels that differ by 2 %.
_SLOWEST, _FASTEST = 1.0, 400.0
# Features of all layers beyond which the backward pass computes the layers again: some 16 values are kept for each, so
# that this is 8 GB in bfloat16. A batch of the paper's network would take 60; to compute again costs a third more time.
_MOST_KEPT = 2**28


@dataclass(frozen=True)
class PointTransformerConfig:
    """Shape of the point transformer; the paper's has a width of 512 and 24 layers (002, A.2)."""

    width: int = 128
    """Features of a point."""
    layers: int = 4
    """Layers, each of attention and of a network of two matrices applied to each point."""
    heads: int = 4
    """Attention heads; the width is a multiple of it."""

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % (2 * self.heads):
            raise InputError(f"the width of a point transformer must be a multiple of twice its heads, not {self}")
        check_limits(self, width=(1, 2**16), layers=(1, 256), heads=(1, 2**10))


class PointTransformer(nn.Module):
    """Raw network of :class:`~scoretomo.diffusion.edm.EDMDenoiser` for clouds ``(b, n, 3)`` of any ``n``.

    Points have no order and no positions but their coordinates, so that permuting them permutes the output and changes
    nothing else. Under rotation there is no such law; it is learned from turned copies.
    """

    turns: Float[Tensor, " k"]

    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.register_buffer("turns", torch.logspace(math.log10(_SLOWEST), math.log10(_FASTEST), width // 2), False)
        self.level = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.enter = nn.Linear(3, width)
        self.first_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 3)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, points: Float[Tensor, "b n 3"], label: Float[Tensor, " b"]) -> Float[Tensor, "b n 3"]:
        """Raw output for clouds and noise labels."""
        angles = label[:, None] * self.turns
        token = self.level(torch.cat([angles.cos(), angles.sin()], 1).to(label.dtype))
        features = self.first_norm(torch.cat([token[:, None].to(points.dtype), self.enter(points)], 1))
        again = torch.is_grad_enabled() and features.numel() * len(self.blocks) > _MOST_KEPT
        for block in self.blocks:
            features = checkpoint(block, features, use_reentrant=False) if again else block(features)
        out: Tensor = self.leave(self.last_norm(features[:, 1:]))
        return out


class _Block(nn.Module):
    """Attention and a network applied to each point, both after a norm and added to what enters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.point_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # three matrices and not one: Muon balances the directions of each
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.point = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, features: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        normed = self.attention_norm(features)
        query, key, value = (each(normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for each in self._maps())
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        features = features + self.mix(attended.transpose(1, 2).flatten(2))
        out: Tensor = features + self.point(self.point_norm(features))
        return out

    def _maps(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.query, self.key, self.value
