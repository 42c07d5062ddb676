"""Which of the equal orientations of a symmetric core each volume has: its moving parts decide, all together.

Every volume is aligned to the core up to a rotation (or mirroring) of the core's group. What is left of a volume when
the symmetric core is taken away tells them apart: the choices for which these rests agree best, all with all, are
looked for. All agreements are computed once; the search is by table.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..imaging.fourier import resize
from ..imaging.resampling import rotate_volumes

_SIDE, _SHELL = 24, 8  # the rests are compared in shells up to 8 of 24 voxels, which trilinear turns keep
_STARTS = 4
_SWEEPS = 20


def choose_cosets(
    aligned: Float[Tensor, "n s s s"], group: Float[Tensor, "g 3 3"], weights: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Choose for each aligned volume the element of the group that it is still to be moved by.

    Parameters
    ----------
    aligned
        ``(n, s, s, s)``, volumes on one scale, aligned up to the group.
    group
        ``(g, 3, 3)``, orthogonal matrices about the origin, closed; the identity first.
    weights
        ``(n,)``, how much a volume decides for others.
    """
    rests = _rests(aligned, group, weights)
    products = _products(group)
    table = torch.stack([rests @ _turned(rests, element).T for element in group])  # (g, i, j): <y_i, g y_j>
    best, best_score = torch.zeros(len(aligned), dtype=torch.long, device=aligned.device), -torch.inf
    strength = weights * table[0].diagonal()
    for first in strength.topk(min(_STARTS, len(strength))).indices.tolist():
        chosen = _sweep(_grow(first, table, products, weights), table, products, weights)
        score = _agreements(chosen, table, products, weights).gather(1, chosen[:, None])[:, 0] @ weights
        if float(score) > best_score:
            best, best_score = chosen, float(score)
    return best


def _rests(
    aligned: Float[Tensor, "n s s s"], group: Float[Tensor, "g 3 3"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "n v"]:
    """Volumes without the mean over all of them and the group, at low resolution, flattened."""
    side = min(_SIDE, aligned.shape[-1])
    small = resize(resize(aligned, min(side, 2 * _SHELL + 1), 3), side, 3)
    mean = (small * weights[:, None, None, None]).sum(0) / weights.sum()
    core = torch.stack([rotate_volumes(mean[None], element[None])[0] for element in group]).mean(0)
    return (small - core).flatten(1)


def _turned(rests: Float[Tensor, "n v"], element: Float[Tensor, "3 3"]) -> Float[Tensor, "n v"]:
    side = round(rests.shape[1] ** (1 / 3))
    return rotate_volumes(rests.view(-1, side, side, side), element.expand(len(rests), 3, 3)).flatten(1)


def _products(group: Float[Tensor, "g 3 3"]) -> Int[Tensor, "g g"]:
    """Index of ``g_a^T g_b`` for all a, b."""
    relative = (group.mT[:, None] @ group).flatten(2)  # (g, g, 9)
    return (relative @ group.flatten(1).T).argmax(-1)


def _grow(
    first: int, table: Float[Tensor, "g n n"], products: Int[Tensor, "g g"], weights: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """From one volume on, always the volume next that agrees most clearly with those that are there."""
    count = table.shape[1]
    chosen = torch.zeros(count, dtype=torch.long, device=table.device)
    norms = table[0].diagonal().clamp(min=torch.finfo(table.dtype).tiny).sqrt()
    left = torch.ones(count, dtype=torch.bool, device=table.device)
    agreement = table.new_zeros(count, len(products))
    newest = first
    for _ in range(count):
        left[newest] = False
        # <g_a y_i, g y_j> is the entry of g_a^T g
        agreement += weights[newest] * table[products[chosen[newest]], newest].T
        best = agreement.amax(1) / norms
        newest = int(torch.where(left, best, -torch.inf).argmax())
        if left[newest]:
            chosen[newest] = agreement[newest].argmax()
    return chosen


def _agreements(
    chosen: Int[Tensor, " n"], table: Float[Tensor, "g n n"], products: Int[Tensor, "g g"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "n g"]:
    """Agreement of each volume, under each element, with all others as they are chosen."""
    count = len(chosen)
    total = table.new_zeros(count, len(products))
    for i in range(count):
        part = weights[i] * table[products[chosen[i]], i].T
        part[i] = 0
        total += part
    return total


def _sweep(
    chosen: Int[Tensor, " n"], table: Float[Tensor, "g n n"], products: Int[Tensor, "g g"], weights: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Let one volume after another choose again, until none changes."""
    chosen = chosen.clone()
    agreement = _agreements(chosen, table, products, weights)
    for _ in range(_SWEEPS):
        changed = False
        for j in range(len(chosen)):
            best = int(agreement[j].argmax())
            if agreement[j, best] <= agreement[j, chosen[j]] * (1 + 1e-5):
                continue
            difference = table[products[best], j].T - table[products[chosen[j]], j].T
            difference[j] = 0
            agreement += weights[j] * difference
            chosen[j] = best
            changed = True
        if not changed:
            break
    return chosen
