"""Components of a motion that each move as small a part of the molecule as they can.

Principal components of two parts that move independently are sums and differences of both motions: what one part does
is in no coordinate alone. Any rotation of coordinates of variance 1 explains images as well. Of all of them the varimax
criterion (Kaiser 1958, Psychometrika 23, 187) takes that whose components are large in few places and small elsewhere.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_ITERATIONS = 200
# Change of the rotation in an iteration below which it has converged.
_CONVERGED = 1e-6


def separating_rotation(components: Float[Tensor, "k side side side"]) -> Float[Tensor, "k k"]:
    """Find the rotation of coordinates after which components move separate parts, the strongest component first.

    Parameters
    ----------
    components
        ``(k, side, side, side)``, of coordinates ``z`` of variance 1.

    Returns
    -------
    Tensor
        ``(k, k)``, orthogonal. Coordinates become ``z @ rotation``, components ``einsum("kxyz,kj->jxyz", components,
        rotation)``.
    """
    loadings = components.flatten(1).T.double()
    rotation = torch.eye(len(components)).to(loadings)
    for _ in range(_ITERATIONS):
        turned = loadings @ rotation
        left, _, right = torch.linalg.svd(loadings.T @ (turned**3 - turned * turned.square().mean(0)))
        before, rotation = rotation, left @ right
        if float((rotation - before).abs().max()) < _CONVERGED:
            break
    strengths = (loadings @ rotation).square().sum(0)
    return rotation[:, strengths.argsort(descending=True)].to(components)
