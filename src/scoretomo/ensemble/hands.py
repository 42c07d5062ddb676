"""Which hand each volume of a set has: in which it agrees better with the mean of the others, and how clearly."""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..evaluation.alignment import AlignmentConfig, Candidates, apply_alignment, find_candidates, refine_candidates
from ..evaluation.fsc import fourier_shell_correlation
from ..evaluation.symmetry import Symmetry
from .frames import Frames, as_candidates, choose, join_frames, make_consensus, part_of

_TOGETHER = 16  # volumes that are registered between two reports


@dataclass(frozen=True)
class HandSearch:
    """How both hands of a volume are compared.

    Attributes
    ----------
    alignment
        Search of each volume against the mean.
    least_margin
        Margin from which on a hand may count as known.
    least_evidence
        How many times its standard error, which the scatter over shells gives, the margin must be.
    known
        Whether frames, hands with them, are known: then the other hand is that of the core's best mirroring, and every
        volume stays as it is.
    """

    alignment: AlignmentConfig
    least_margin: float
    least_evidence: float
    known: bool


@dataclass(frozen=True)
class Hands:
    """Frames in the better hand, or in the known one, and how much better that is.

    Attributes
    ----------
    frames
        Of all volumes.
    margin
        ``(n,)``, by how much each correlates better with the mean of the others than in the other hand.
    clear
        ``(n,)``, whether the margin is large, and clear shell by shell.
    """

    frames: Frames
    margin: Float[Tensor, " n"]
    clear: Bool[Tensor, " n"]


def decide_hands(
    small: Float[Tensor, "n w w w"],
    frames: Frames,
    symmetry: Symmetry,
    usable: Bool[Tensor, " n"],
    search: HandSearch,
) -> Generator[int, None, Hands]:
    """Register each volume to the mean of the others in both hands; yields how many are done.

    Where neither hand is clearly better, or hands are known, a volume is not mirrored.
    """
    consensus = make_consensus(small, frames, usable)
    parts, margins, clarity = [], [], []
    for start in range(0, len(small), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        own, others = part_of(frames, part), consensus.of_others(part, core=False)
        mirrored = own.then(symmetry.mirror[None], torch.zeros_like(own.shifts))
        rivals = [mirrored]
        if not search.known:
            rivals += _other_hand(own, find_candidates(small[part], consensus.mean[None], search.alignment))
        given = own
        own_score, own = _best(small[part], others, [own], search)
        rival_score, rival = _best(small[part], others, rivals, search)
        margin = own_score - rival_score
        clear = margin.abs() >= search.least_margin
        clear &= _evidence(small[part], others, own, rival, search) >= search.least_evidence
        if search.known:
            parts.append(given)
            clear &= margin > 0
        else:
            take = torch.where(clear, margin < 0, torch.linalg.det(own.matrices) < 0)
            parts.append(choose(take, rival, own))
            margin = torch.where(take, -margin, margin)
        margins.append(margin)
        clarity.append(clear)
        yield min(start + _TOGETHER, len(small))
    return Hands(join_frames(parts), torch.cat(margins), torch.cat(clarity))


def _other_hand(own: Frames, found: Candidates) -> list[Frames]:
    """Frames in the other hand that a search has found."""
    rows, other = torch.arange(len(own.matrices)), (torch.linalg.det(own.matrices) > 0).long()
    return [
        Frames(found.matrices[rows, other, k], found.shifts_pixels[rows, other, k], own.correlation)
        for k in range(found.correlation.shape[2])
    ]


def _evidence(
    small: Float[Tensor, "b w w w"],
    references: Float[Tensor, "b w w w"],
    own: Frames,
    rival: Frames,
    search: HandSearch,
) -> Float[Tensor, " b"]:
    """Size of the difference of two mean shell correlations in units of its standard error."""
    highest = min(max(search.alignment.shells), (small.shape[-1] - 1) // 2)
    curves = [
        fourier_shell_correlation(apply_alignment(small, each.alignment()), references)[:, 1 : highest + 1]
        for each in (own, rival)
    ]
    difference = curves[0] - curves[1]
    error = difference.std(1) / highest**0.5
    times: Tensor = difference.mean(1).abs() / error.clamp(min=torch.finfo(error.dtype).eps)
    return times


def _best(
    small: Float[Tensor, "b w w w"],
    references: Float[Tensor, "b w w w"],
    candidates: list[Frames],
    search: HandSearch,
) -> tuple[Float[Tensor, " b"], Frames]:
    refinement = replace(search.alignment, kept=(len(candidates), 1))
    found = refine_candidates(small, references, as_candidates(candidates), refinement)
    score = found.correlation[:, 0, 0]
    return score, Frames(found.matrices[:, 0, 0], found.shifts_pixels[:, 0, 0], score)
