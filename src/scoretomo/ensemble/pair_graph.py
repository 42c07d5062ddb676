"""Frames and hands of many volumes from alignments of few pairs of them: spectral synchronisation over O(3).

Volume i goes to the common frame by an orthogonal matrix Q_i, whose determinant is its hand. A pair that is aligned
measures Q_j^T Q_i. Hands are the signs of the leading eigenvector of the signed, weighted graph of the pairs, matrices
the three leading eigenvectors of its block matrix (Singer 2011; Arie-Nachimson et al. 2012), with weights that fall for
pairs that do not agree with the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..evaluation.alignment import AlignmentConfig, find_candidates
from ..geometry.rotations import angle_between

_TOLERANCE_DEGREES = 10.0  # at which the weight of a pair has fallen to a half
_REWEIGHTINGS = 5
_AVERAGINGS = 10


@dataclass(frozen=True)
class Pairs:
    """Aligned pairs of volumes.

    Attributes
    ----------
    indices
        ``(m, 2)``, the volume that is moved and the one that it is moved to.
    matrices
        ``(m, 2, 3, 3)``, orthogonal: the best alignment that keeps the hand, and the best that mirrors.
    correlation
        ``(m, 2)``, of both.
    """

    indices: Int[Tensor, "m 2"]
    matrices: Float[Tensor, "m 2 3 3"]
    correlation: Float[Tensor, "m 2"]


def random_pairs(count: int, neighbours: int, generator: torch.Generator) -> Int[Tensor, "m 2"]:
    """Draw pairs of ``count`` volumes so that each is in about ``neighbours`` pairs and all hang together.

    The union of random round trips: connected by the first, and well mixed by a few, so that errors do not add up along
    long ways. All pairs, where there are not more.
    """
    if count <= neighbours + 1:
        every: Tensor = torch.triu_indices(count, count, offset=1).T.contiguous()
        return every
    trips = [torch.randperm(count, generator=generator) for _ in range((neighbours + 1) // 2)]
    pairs = torch.cat([torch.stack([trip, trip.roll(1)], dim=1) for trip in trips])
    distinct: Tensor = pairs.sort(1).values.unique(dim=0)
    return distinct


def align_pairs(
    volumes: Float[Tensor, "n s s s"], indices: Int[Tensor, "m 2"], config: AlignmentConfig
) -> Iterator[Pairs]:
    """Align each pair in both hands; yields what all pairs with one reference give."""
    for reference in indices[:, 1].unique().tolist():
        own = indices[indices[:, 1] == reference]
        found = find_candidates(volumes[own[:, 0]], volumes[reference][None], config)
        yield Pairs(own, found.matrices[:, :, 0], found.correlation[:, :, 0])


def join(parts: list[Pairs]) -> Pairs:
    """All pairs of several parts."""
    return Pairs(
        torch.cat([part.indices for part in parts]),
        torch.cat([part.matrices for part in parts]),
        torch.cat([part.correlation for part in parts]),
    )


def synchronise_hands(pairs: Pairs, count: int) -> Float[Tensor, " n"]:
    """Hand of each volume, 1 or -1: leading eigenvector of the graph of signs, weighted by how sure each one is."""
    margins = pairs.correlation[:, 0] - pairs.correlation[:, 1]
    graph = margins.new_zeros(count, count)
    graph[pairs.indices[:, 0], pairs.indices[:, 1]] = margins
    graph[pairs.indices[:, 1], pairs.indices[:, 0]] = margins
    leading = _leading_eigenvectors(graph, graph.abs().sum(1), 1)[:, 0]
    return torch.where(leading < 0, -1.0, 1.0)


def synchronise_matrices(
    pairs: Pairs, start: Float[Tensor, "n 3 3"], group: Float[Tensor, "g 3 3"], usable: Bool[Tensor, " n"]
) -> Float[Tensor, "n 3 3"]:
    """Find the orthogonal matrices that agree best with all pairs.

    Parameters
    ----------
    pairs
        Aligned pairs.
    start
        ``(n, 3, 3)``, matrices to begin with, which decide the common frame and its hand. Without symmetry they decide
        nothing else, if the hands are right.
    group
        ``(g, 3, 3)``, symmetries of what the volumes share, in the common frame; mirrorings among them if it has no
        hand. Pairs are only known up to these.
    usable
        ``(n,)``, volumes that decide for others.
    """
    best = pairs.correlation.amax(1)
    both = usable[pairs.indices].all(1)
    trust = (best - best.quantile(0.1) + 0.01).clamp(min=0.01) * torch.where(both, 1.0, 1e-3)
    matrices, weights = start, trust
    for _ in range(_REWEIGHTINGS):
        measured, elements = _nearest(pairs, matrices, group)
        if len(group) == 1:
            found = _spectral_matrices(pairs.indices, measured, weights, len(start))
            matrices = _procrustes(found, start, usable) @ found
        else:
            matrices = _averaged(pairs.indices, measured, elements, weights, matrices)
        moved, reference = matrices[pairs.indices[:, 0]], matrices[pairs.indices[:, 1]]
        residual = angle_between(elements @ moved, reference @ measured)
        weights = trust / (1 + (residual / _TOLERANCE_DEGREES).square())
    return matrices


def _nearest(
    pairs: Pairs, matrices: Float[Tensor, "n 3 3"], group: Float[Tensor, "g 3 3"]
) -> tuple[Float[Tensor, "m 3 3"], Float[Tensor, "m 3 3"]]:
    """Of each pair the hand M, and the element g of the group, under which ``Q_j M`` is nearest to ``g Q_i``."""
    moved, reference = matrices[pairs.indices[:, 0]], matrices[pairs.indices[:, 1]]
    wanted = group @ moved[:, None]  # (m, g, 3, 3)
    reached = reference[:, None] @ pairs.matrices  # (m, hand, 3, 3)
    agreement = torch.einsum("mgij,mhij->mgh", wanted, reached)  # 3 at best; of the other hand 1 at best
    same_hand = torch.linalg.det(wanted)[:, :, None] * torch.linalg.det(reached)[:, None] > 0
    chosen = torch.where(same_hand, agreement, -torch.inf).flatten(1).argmax(1)
    element, hand = chosen // 2, chosen % 2
    return pairs.matrices[torch.arange(len(chosen)), hand], group[element]


def _averaged(
    indices: Int[Tensor, "m 2"],
    measured: Float[Tensor, "m 3 3"],
    elements: Float[Tensor, "m 3 3"],
    weights: Float[Tensor, " m"],
    start: Float[Tensor, "n 3 3"],
) -> Float[Tensor, "n 3 3"]:
    """Let each matrix become the mean of what its pairs make of their other volume, many times.

    The power iteration of the block matrix with the blocks ``Q -> g^T Q M``. The start decides between its leading
    eigenvectors, of which there are as many as turns of the common frame that the group's elements allow.
    """
    first, second = indices.unbind(1)
    weighted = weights[:, None, None]
    degree = weights.new_zeros(len(start)).index_add(0, indices.flatten(), weights.repeat_interleave(2))
    matrices = start
    for _ in range(_AVERAGINGS):
        total = matrices * degree.mean()
        total = total.index_add(0, first, weighted * elements.mT @ matrices[second] @ measured)
        total = total.index_add(0, second, weighted * elements @ matrices[first] @ measured.mT)
        matrices = nearest_orthogonal(total)
    return matrices


def _spectral_matrices(
    indices: Int[Tensor, "m 2"], measured: Float[Tensor, "m 3 3"], weights: Float[Tensor, " m"], count: int
) -> Float[Tensor, "n 3 3"]:
    blocks = measured.new_zeros(count, count, 3, 3)
    weighted = measured * weights[:, None, None]
    blocks[indices[:, 1], indices[:, 0]] = weighted
    blocks[indices[:, 0], indices[:, 1]] = weighted.mT
    degree = weights.new_zeros(count).index_add(0, indices.flatten(), weights.repeat_interleave(2))
    matrix = blocks.permute(0, 2, 1, 3).reshape(3 * count, 3 * count)
    vectors = _leading_eigenvectors(matrix, degree.repeat_interleave(3), 3)
    return nearest_orthogonal(vectors.view(count, 3, 3).mT)


def _leading_eigenvectors(
    symmetric: Float[Tensor, "k k"], degree: Float[Tensor, " k"], count: int
) -> Float[Tensor, "k c"]:
    """Of the matrix divided by the degrees of its rows, so that volumes in many pairs do not rule.

    The mean degree is added to each: a few volumes that agree with each other but with none of the rest would have an
    eigenvector of their own, with an eigenvalue as large as that of all.
    """
    scale = (degree + degree.mean()).clamp(min=torch.finfo(degree.dtype).tiny).rsqrt()
    normalised = scale[:, None] * symmetric * scale
    vectors: Tensor = torch.linalg.eigh(normalised.double()).eigenvectors[:, -count:]
    return vectors.to(symmetric.dtype) * scale[:, None]


def nearest_orthogonal(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Orthogonal matrix nearest to each, of the hand that it has."""
    left, _, right = torch.linalg.svd(matrices)
    nearest: Tensor = left @ right
    return nearest


def _procrustes(
    found: Float[Tensor, "n 3 3"], wanted: Float[Tensor, "n 3 3"], usable: Bool[Tensor, " n"]
) -> Float[Tensor, "3 3"]:
    """Orthogonal matrix O with ``O @ found`` nearest to ``wanted`` for most of the volumes."""
    relative = (wanted @ found.mT)[usable]
    common = nearest_orthogonal(relative.mean(0))
    for _ in range(_REWEIGHTINGS):
        weights = 1 / (0.1 + (relative - common).square().sum((-2, -1)))
        common = nearest_orthogonal((weights[:, None, None] * relative).sum(0))
    return common
