"""Errors of estimated rotations, after one global alignment of the two object frames.

A rotation of the object frame by G multiplies all rotations from the right: ``R G``. The mirrored object has the same
projections under ``J R J`` with ``J = diag(1, 1, -1)``, so that images leave the hand open and both are tried.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from ..geometry.rotations import angle_between, mirror_matrix

# Images whose own relative rotation is tried as the global one.
_HYPOTHESES = 256
_REFINEMENTS = 10


@dataclass(frozen=True)
class PoseErrors:
    """How far rotations are from their reference after one global alignment.

    Attributes
    ----------
    frobenius_squared
        ``(n,)``, squared Frobenius norm of the difference of the matrices, 0 to 8.
    degrees
        ``(n,)``, angle of the rotation between them, 0 to 180.
    mirrored
        Whether the poses belong to the other hand.
    """

    frobenius_squared: Float[Tensor, " n"]
    degrees: Float[Tensor, " n"]
    mirrored: bool


def pose_errors(predicted: Float[Tensor, "n 3 3"], reference: Float[Tensor, "m 3 3"]) -> PoseErrors:
    """Squared Frobenius norm and degrees between rotations, after :func:`align_rotations`.

    Raises
    ------
    InputError
        No rotations, or unequal numbers of them.
    """
    aligned, mirrored = align_rotations(predicted, reference)
    squared = (aligned - reference).square().sum((-2, -1)).clamp(max=8)
    return PoseErrors(squared, angle_between(aligned, reference), mirrored)


def align_rotations(
    predicted: Float[Tensor, "n 3 3"], reference: Float[Tensor, "m 3 3"]
) -> tuple[Float[Tensor, "n 3 3"], bool]:
    """Move estimated rotations into the object frame and hand of the reference.

    The relative rotation of each image (of up to 256, evenly spaced) is tried as the global one, for both hands; that
    of the least median error is refined to the chordal mean over the better half of the images (Hartley et al. 2013).

    Parameters
    ----------
    predicted, reference
        ``(n, 3, 3)``, active, object frame to microscope frame, same order of images.

    Returns
    -------
    Tensor
        ``(n, 3, 3)``, the estimates in the reference's frame.
    bool
        Whether the hand was changed.

    Raises
    ------
    InputError
        No rotations, or unequal numbers of them.
    """
    if len(predicted) == 0 or len(predicted) != len(reference):
        raise InputError(f"{len(predicted)} rotations cannot be compared with {len(reference)}; give one per image")
    mirror = mirror_matrix(predicted)
    hands = [predicted, mirror @ predicted @ mirror]
    fits = [_global_rotation(hand, reference) for hand in hands]
    mirrored = bool(fits[1][1] < fits[0][1])
    return hands[mirrored] @ fits[mirrored][0], mirrored


def _global_rotation(
    predicted: Float[Tensor, "n 3 3"], reference: Float[Tensor, "n 3 3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, ""]]:
    """Find G that brings ``predicted @ G`` nearest to ``reference``, and the median squared Frobenius error."""
    relative = predicted.mT @ reference
    tried = torch.linspace(0, len(relative) - 1, min(len(relative), _HYPOTHESES)).round().long()
    medians = torch.stack([_squared_errors(relative, relative[i]).median() for i in tried])
    best, median = relative[tried[medians.argmin()]], medians.min()
    for _ in range(_REFINEMENTS):
        errors = _squared_errors(relative, best)
        near = relative[errors <= errors.median()]
        # chordal mean: the rotation nearest to the mean of the matrices
        left, _, right = torch.linalg.svd(near.mean(0))
        sign = torch.ones(3).to(near)
        sign[2] = torch.det(left @ right).sign()
        refined = left * sign @ right
        refined_median = _squared_errors(relative, refined).median()
        if refined_median >= median:
            break
        best, median = refined, refined_median
    return best, median


def _squared_errors(relative: Float[Tensor, "n 3 3"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, " n"]:
    return (relative - rotation).square().sum((-2, -1))
