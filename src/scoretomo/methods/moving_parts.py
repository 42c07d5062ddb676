"""Components of a motion that each move as small a part of the molecule as they can.

Principal components of two parts that move independently are sums and differences of both motions: what one part does
is in no coordinate alone. Any rotation of coordinates of variance 1 explains images as well. Of all of them the varimax
criterion (Kaiser 1958, Psychometrika 23, 187) takes that whose components are large in few places and small elsewhere.

One part that moves along an arc has several principal components too, but no separate parts: the second is how the arc
bends, and follows from the first. Where that is so, components stay as they are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_ITERATIONS = 500
# Change of the rotation in an iteration below which it has converged.
_CONVERGED = 1e-6
# Part of a coordinate's variance that the square of another explains, from which on it is how that motion bends: one
# that moves along an arc has 0.25 and more, two parts that move independently 0.02.
_BEND = 0.2


def separating_rotation(components: Float[Tensor, "k side side side"], z: Float[Tensor, "n k"]) -> Float[Tensor, "k k"]:
    """Find the rotation of coordinates after which components move separate parts, the strongest component first.

    Parameters
    ----------
    components
        ``(k, side, side, side)``.
    z
        ``(n, k)``, coordinates of the images, of mean 0 and variance 1, uncorrelated.

    Returns
    -------
    Tensor
        ``(k, k)``, orthogonal; the identity where nothing is to be separated. Coordinates become ``z @ rotation``,
        components ``einsum("kxyz,kj->jxyz", components, rotation)``.
    """
    if _bend(z) > _BEND:
        return torch.eye(len(components)).to(components)
    rotation = _varimax(components.flatten(1).double()).to(components)
    strengths = torch.einsum("kxyz,kj->jxyz", components, rotation).square().sum((1, 2, 3))
    found: Tensor = rotation[:, strengths.argsort(descending=True)]
    return found


def _varimax(loadings: Float[Tensor, "k p"]) -> Float[Tensor, "k k"]:
    """Maximise the variance of squared loadings; what it needs of them are their second and fourth moments."""
    count, places = loadings.shape
    first, second = torch.tril_indices(count, count)
    products = loadings[first] * loadings[second]
    fourth = loadings.new_zeros(count, count, count, count)
    moments = products @ products.T
    for a, b in ((first, second), (second, first)):
        for c, d in ((first, second), (second, first)):
            fourth[a[:, None], b[:, None], c[None], d[None]] = moments
    power = loadings @ loadings.T
    # any rotation but a special one: two equal parts leave sum and difference stationary
    start = torch.randn(count, count, generator=torch.Generator().manual_seed(0)).to(loadings)
    rotation: Tensor = torch.linalg.qr(start).Q
    for _ in range(_ITERATIONS):
        cubes = torch.einsum("abcd,bj,cj,dj->aj", fourth, rotation, rotation, rotation)
        squares = torch.einsum("aj,ab,bj->j", rotation, power, rotation) / places
        left, _, right = torch.linalg.svd(cubes - power @ rotation * squares)
        before, rotation = rotation, left @ right
        if float((rotation - before).abs().max()) < _CONVERGED:
            break
    return rotation


def _bend(z: Float[Tensor, "n k"]) -> float:
    """Greatest part of the variance of a coordinate that the square of another explains."""
    squares, values = (each - each.mean(0) for each in (z.square(), z))
    least = torch.finfo(z.dtype).tiny
    found = (squares / squares.norm(dim=0).clamp(min=least)).mT @ (values / values.norm(dim=0).clamp(min=least))
    return float(found.square().fill_diagonal_(0).max())
