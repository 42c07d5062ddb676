"""Rotations and mirrorings that take a volume nearly onto itself: poses that differ by one are hard to tell apart.

Those of its symmetry, and of what a moving or small part of it breaks. Along the view, a volume and its mirror image
have the same projections, so mirrorings count as well: of a core that is its own mirror image, a second pose shows what
the first one does.

A capsid is looked at as a whole. Where its parts have moved, each of its rotations correlates little better than those
of an asymmetric molecule may; that most of one icosahedron do so at once does not happen by chance.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..geometry.grids import so3_grid
from ..geometry.rotations import angle_between, from_rotation_vectors, mirror_matrix
from ..geometry.symmetry import symmetry_group
from .self_correlation import Subject, fixed_point, peaks, prepare, registered, self_correlations

# The correlation that makes a copy: asymmetric molecules stay below it. A product of copies is one with less.
_LIKE_ITSELF, _PRODUCT_LIKE_ITSELF = 0.5, 0.2
# Rotations, and mirrorings, that are searched for; products of those found are copies too.
_SEARCHED = 24
# Copies nearer to one another are the same.
_SAME_DEGREES = 18.0
# An icosahedron has as many of each kind.
_MOST = 60
# Median correlation over the rotations of an icosahedron, and as a part of the greatest: capsids whose parts move come
# to 0.26 and 0.37 or more. Octahedra and tetrahedra, which share some of its rotations, come to 0.2 of the greatest.
_LIKE_AN_ICOSAHEDRON, _PART_OF_GREATEST = 0.2, 0.3
# It is looked for where so many peaks are above what counts as one, and none is a true symmetry: products of true ones
# are found one by one, and a ball of an octahedron's spots is like an icosahedron as well.
_FEWEST_PEAKS, _PEAK, _TRUE = 6, 0.3, 0.9
_ICOSAHEDRON_SHELL = 7  # of the search, as of that for peaks
_STEPS_DEGREES = (3.0, 1.5, 0.7)  # of the search near the best orientation of a grid of 7.5 degrees


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
    found = [peaks(subject, _SEARCHED, mirrored=kind) for kind in ((False, True) if mirrored else (False,))]
    matrices, shifts, correlations = (torch.cat(each) for each in zip(*found, strict=True))

    def about(alike: Bool[Tensor, " m"]) -> Subject:
        """Move the centre to the one point that stays where it is under all of them."""
        return subject.about(subject.centre + fixed_point(matrices[alike], shifts[alike]))

    copies, of_rotations = None, found[0][2]
    if int((of_rotations >= _PEAK).sum()) >= _FEWEST_PEAKS and float(of_rotations.max()) < _TRUE:
        placed = about(correlations >= _PEAK)
        copies = _icosahedron(placed, mirrored=mirrored)
    if copies is None:
        alike = correlations >= _LIKE_ITSELF
        placed = about(alike)
        own = torch.eye(3).to(volume)[None]
        # of a rotation and its inverse, peaks gives one
        copies = _closed(torch.cat([own, matrices[alike], matrices[alike].mT]), placed)
    return copies, placed.centre - copies @ placed.centre


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


def _icosahedron(subject: Subject, *, mirrored: bool) -> Float[Tensor, "k 3 3"] | None:
    """Rotations, and mirrorings, of the icosahedron that the volume is like as a whole; None if it is like none."""
    group = symmetry_group("I").to(subject.cut)
    grid = so3_grid(3).to(group)
    # a frame and its product with a rotation of the group are one: the nearest to none stands for all
    frames = grid[grid.diagonal(dim1=1, dim2=2).sum(1) >= torch.einsum("fij,gji->fg", grid, group).amax(1) - 1e-4]

    def correlations(frames: Float[Tensor, "f 3 3"], elements: Float[Tensor, "g 3 3"]) -> Float[Tensor, "f g"]:
        turned = frames[:, None] @ elements @ frames[:, None].mT
        alike = self_correlations(subject, turned.flatten(0, 1), shell=_ICOSAHEDRON_SHELL)
        return alike.view(len(frames), -1)

    def are_copies(elements: Float[Tensor, "g 3 3"]) -> bool:
        found = correlations(frame[None], elements)
        return float(found.median()) >= max(_LIKE_AN_ICOSAHEDRON, _PART_OF_GREATEST * float(found.max()))

    angles = angle_between(group, torch.eye(3).to(group).expand_as(group))
    fivefold = group[(angles - 72).abs() < 1]  # of the axes of the highest order, enough to place it by
    frame = frames[correlations(frames, fivefold).mean(1).argmax()]
    for step in _STEPS_DEGREES:
        offsets = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3).to(frame) * math.radians(step)
        near = from_rotation_vectors(offsets) @ frame
        frame = near[correlations(near, group[1:]).mean(1).argmax()]
    if not are_copies(group[1:]):
        return None
    copies = frame @ group @ frame.mT
    copies[0] = group[0]
    return torch.cat([copies, -copies]) if mirrored and are_copies(-group) else copies


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
