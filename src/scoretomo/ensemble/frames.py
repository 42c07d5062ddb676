"""Frames of many volumes, and what the volumes make together in them: their mean and its rigid core."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..evaluation.alignment import Alignment, Candidates, apply_alignment
from ..geometry.rotations import mirror_matrix
from ..imaging.fourier import resize
from ..imaging.masks import soft_ball

_CORE_SHELL = 8  # detail of the weights of the core, in cycles per box
_LEAST_SPREAD = 0.02  # of correlations with the core, below which no volume is an outlier


@dataclass(frozen=True)
class Frames:
    """Orthogonal matrices and shifts into the common frame, in pixels of the small box, and their correlation."""

    matrices: Float[Tensor, "n 3 3"]
    shifts: Float[Tensor, "n 3"]
    correlation: Float[Tensor, " n"]

    def then(self, matrices: Float[Tensor, "#n 3 3"], shifts: Float[Tensor, "#n 3"]) -> "Frames":
        """Move everything once more."""
        moved = (matrices @ self.shifts[..., None])[..., 0] + shifts
        return Frames(matrices @ self.matrices, moved, self.correlation)

    def alignment(self, scale: float = 1.0, margin: Float[Tensor, " n"] | None = None) -> Alignment:
        """Convert; lengths are multiplied by ``scale``."""
        mirrored = torch.linalg.det(self.matrices) < 0
        mirror = mirror_matrix(self.matrices)
        rotations = torch.where(mirrored[:, None, None], self.matrices @ mirror, self.matrices)
        margins = torch.zeros_like(self.correlation) if margin is None else margin
        return Alignment(rotations, self.shifts * scale, mirrored, self.correlation, margins)


@dataclass(frozen=True)
class Consensus:
    """What the aligned volumes make together."""

    aligned: Float[Tensor, "n w w w"]
    weights: Float[Tensor, " n"]
    mean: Float[Tensor, "w w w"]
    core: Float[Tensor, "w w w"]

    def of_others(self, part: slice, *, core: bool) -> Float[Tensor, "b w w w"]:
        """Mean of all volumes but one, for each of a part: all of it or its core.

        A volume that is compared with a mean that it is part of finds its own errors there.
        """
        own = self.weights[part, None, None, None]
        total = self.weights.sum()
        means = (self.mean * total - own * self.aligned[part]) / (total - own).clamp(min=torch.finfo(total.dtype).eps)
        return means * self.core if core else means


def robust_weights(correlation: Float[Tensor, " n"], usable: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Tukey's weights of what correlates less than most; 0 for what is not usable."""
    return fits(correlation, usable) * usable


def fits(correlation: Float[Tensor, " n"], usable: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Tukey's weights of what correlates less than most of the usable, for all."""
    known = correlation[usable]
    median = known.median()
    spread = (1.4826 * (known - median).abs().median()).clamp(min=_LEAST_SPREAD)
    below = ((median - correlation) / (4.5 * spread)).clamp(0, 1)
    return (1 - below.square()).square()


def make_consensus(small: Float[Tensor, "n w w w"], frames: Frames, usable: Bool[Tensor, " n"]) -> Consensus:
    """Resample all volumes in their frames; mean and core are weighted by how well each fits."""
    aligned = apply_alignment(small, frames.alignment())
    weights = robust_weights(frames.correlation, usable)
    share = weights / weights.sum()
    mean = torch.einsum("n,nzyx->zyx", share, aligned)
    variance = torch.einsum("n,nzyx->zyx", share, (aligned - mean).square())
    return Consensus(aligned, weights, mean, _core(mean, variance))


def _core(mean: Float[Tensor, "w w w"], variance: Float[Tensor, "w w w"]) -> Float[Tensor, "w w w"]:
    """Part of the density's square that does not vary, 0 to 1; noise, which varies everywhere, is not counted."""
    side = mean.shape[-1]
    power = mean.square()
    excess = (variance - variance.median()).clamp(min=0)
    share = power / (power + excess + 0.01 * power.max().clamp(min=torch.finfo(power.dtype).tiny))
    smooth = resize(resize(share[None], min(side, 2 * _CORE_SHELL + 1), 3), side, 3)[0].clamp(0, 1)
    return smooth * soft_ball(side, 3, 0.44 * side, 0.06 * side, mean.device)


def as_candidates(frames: list[Frames]) -> Candidates:
    """Frames that each volume may have, as alternatives of one hand (a matrix says itself whether it mirrors)."""
    return Candidates(
        torch.stack([each.matrices for each in frames], dim=1)[:, None],
        torch.stack([each.shifts for each in frames], dim=1)[:, None],
        torch.stack([each.correlation for each in frames], dim=1)[:, None],
    )


def part_of(frames: Frames, part: slice) -> Frames:
    """Frames of some of the volumes."""
    return Frames(frames.matrices[part], frames.shifts[part], frames.correlation[part])


def join_frames(parts: list[Frames]) -> Frames:
    """Frames of all parts of a set."""
    return Frames(
        torch.cat([part.matrices for part in parts]),
        torch.cat([part.shifts for part in parts]),
        torch.cat([part.correlation for part in parts]),
    )


def choose(condition: Bool[Tensor, " b"], first: Frames, second: Frames) -> Frames:
    """Take those of the first where a condition holds."""
    return Frames(
        torch.where(condition[:, None, None], first.matrices, second.matrices),
        torch.where(condition[:, None], first.shifts, second.shifts),
        torch.where(condition, first.correlation, second.correlation),
    )
