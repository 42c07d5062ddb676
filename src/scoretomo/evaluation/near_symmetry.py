"""Rotations and mirrorings that take a volume nearly onto itself: poses that differ by one are hard to tell apart.

Those of its symmetry, and of what a moving or small part of it breaks. Along the view, a volume and its mirror image
have the same projections, so mirrorings count as well: of a core that is its own mirror image, a second pose shows what
the first one does.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry.rotations import angle_between, mirror_matrix
from .self_correlation import Subject, fixed_point, peaks, prepare, registered, self_correlations

# The correlation that makes a copy: asymmetric molecules stay below it. A product of copies is one with less.
_LIKE_ITSELF, _PRODUCT_LIKE_ITSELF = 0.5, 0.2
# Rotations, and mirrorings, that are searched for; products of those found are copies too.
_SEARCHED = 24
# Copies nearer to one another are the same.
_SAME_DEGREES = 18.0
# An icosahedron has as many of each kind.
_MOST = 60


def copies_of(
    volume: Float[Tensor, "n n n"], *, mirrored: bool = False
) -> tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"]]:
    """Find the moves ``x -> M x + t`` that take a volume nearly onto itself.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``.
    mirrored
        Mirrorings too, after the rotations.

    Returns
    -------
    Tensor
        ``(k, 3, 3)``, rotations, no rotation first, and matrices of determinant -1: a group, as far as it was found.
    Tensor
        ``(k, 3)``, xyz in pixels: the shifts that follow them about the origin.
    """
    subject = prepare(volume)
    found, moves = [torch.eye(3).to(volume)[None]], []
    for kind in (False, True) if mirrored else (False,):
        matrices, shifts, correlations = peaks(subject, _SEARCHED, mirrored=kind)
        alike = correlations >= _LIKE_ITSELF
        moves.append((matrices[alike], shifts[alike]))
        found += [matrices[alike], matrices[alike].mT]  # of a rotation and its inverse, peaks gives one
    # one point stays where it is under all of them
    centre = subject.centre + fixed_point(*(torch.cat(each) for each in zip(*moves, strict=True)))
    copies = _closed(torch.cat(found), subject.about(centre))
    return copies, centre - copies @ centre


def poses_of_copies(
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    copies: tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"]],
) -> tuple[Float[Tensor, "n k 3 3"], Float[Tensor, "n k 2"]]:
    """Poses that show nearly what each pose shows: ``R M``, and for mirrorings ``diag(1, 1, -1) R M``.

    Parameters
    ----------
    rotations, shifts_pixels
        ``(n, 3, 3)``, object to microscope frame, and ``(n, 2)``, ``[x, y]``.
    copies
        Of the volume, from :func:`copies_of`.
    """
    matrices, moves = copies
    return turned(rotations, matrices), shifts_pixels[:, None] + (rotations[:, None] @ moves[..., None])[..., :2, 0]


def turned(rotations: Float[Tensor, "n 3 3"], matrices: Float[Tensor, "k 3 3"]) -> Float[Tensor, "n k 3 3"]:
    """Rotations of :func:`poses_of_copies` alone."""
    products = rotations[:, None] @ matrices
    # a volume and its mirror image along the view have one projection
    return torch.where(torch.linalg.det(matrices)[:, None, None] < 0, mirror_matrix(products) @ products, products)


def _closed(matrices: Float[Tensor, "m 3 3"], subject: Subject) -> Float[Tensor, "k 3 3"]:
    """Take products of those that are there until no other comes, and leave out what is no copy or there twice."""
    kept = matrices[:1]
    fresh = _apart(matrices, kept, subject)
    while len(fresh) and len(kept) < 2 * _MOST:
        kept = torch.cat([kept, fresh])
        products = torch.cat([(kept[:, None] @ fresh).flatten(0, 1), (fresh[:, None] @ kept).flatten(0, 1)])
        fresh = _apart(products, kept, subject)
    proper = torch.linalg.det(kept) > 0
    return torch.cat([kept[proper], kept[~proper]])


def _apart(matrices: Float[Tensor, "m 3 3"], kept: Float[Tensor, "k 3 3"], subject: Subject) -> Float[Tensor, "j 3 3"]:
    """Choose those that take the volume onto itself and are not near a kept one, the most alike first."""
    new = _distinct(matrices, kept, subject)
    if not len(new):
        return new
    return _distinct(registered(subject, new)[0], kept, subject)  # else the errors of factors add up in products


def _distinct(
    matrices: Float[Tensor, "m 3 3"], kept: Float[Tensor, "k 3 3"], subject: Subject
) -> Float[Tensor, "j 3 3"]:
    matrices = matrices[_angles(matrices, kept).amin(1) > _SAME_DEGREES]
    if not len(matrices):
        return matrices
    correlations, new = self_correlations(subject, matrices), list[Tensor]()
    order = correlations.argsort(descending=True)
    for candidate in matrices[order[correlations[order] >= _PRODUCT_LIKE_ITSELF]]:
        if not new or bool((_angles(candidate[None], torch.stack(new)) > _SAME_DEGREES).all()):
            new.append(candidate)
    return torch.stack(new) if new else matrices[:0]


def _angles(first: Float[Tensor, "m 3 3"], second: Float[Tensor, "k 3 3"]) -> Float[Tensor, "m k"]:
    """Angle in degrees between matrices; 180 between a rotation and a mirroring."""
    angles: Tensor = angle_between(first[:, None].expand(-1, len(second), -1, -1), second)
    unlike = torch.linalg.det(first)[:, None] * torch.linalg.det(second) < 0
    return torch.where(unlike, 180.0, angles)
