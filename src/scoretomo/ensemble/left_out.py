"""How well views of volumes predict images that had no part in them."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..methods.posed_images import PosedImages

# Sectors of a half turn, of which every other one tells what is free.
_SECTORS = 6
# Precision of the coefficients of a filter about 1.
_FILTER_PRECISION = 4.0


def prediction_errors(
    posed: PosedImages,
    targets: Float[Tensor, "v p"],
    slices: Float[Tensor, "v p"],
    turned: Callable[[Tensor], Tensor],
    rotations: Float[Tensor, "v 3 3"],
    noise: Float[Tensor, " k"],
    components: Float[Tensor, "q v p"] | None = None,
) -> Float[Tensor, " v"]:
    """Give half the squared error over the noise, of what one half of an image's coefficients tells of the other.

    What makes any image differ from a projection is free: small errors of pose and shift, and a smooth radial filter.
    So are coordinates along components, of variance 1. Every other sector of the disc tells them; the rest is
    predicted; and the other way round.

    Parameters
    ----------
    posed
        Band and grid of all that follows.
    targets
        ``(v, p)``, coefficients of the images, moved back by their shifts.
    slices, turned
        ``(v, p)``, what they are predicted to be at ``rotations``, and what makes that at other rotations.
    rotations
        ``(v, 3, 3)``, object to microscope frame.
    noise
        ``(k,)``, power of the noise by shell.
    components
        ``(q, v, p)``, slices of components.
    """
    derivatives, prior = posed.pose_derivatives(slices, turned, rotations, targets)
    columns = [derivatives, slices[:, None] * posed.hats]
    free = [prior, torch.full_like(posed.hats[:, 0], _FILTER_PRECISION)]
    if components is not None:
        columns.append(components.transpose(0, 1))
        free.append(torch.ones(len(components)).to(prior))
    basis, ridge = torch.cat(columns, 1), torch.diag(torch.cat(free))
    rest, precision, error = targets - slices, posed.precision(noise), torch.zeros_like(targets[:, 0])
    sectors = _sectors(posed)
    for told in (sectors, ~sectors):
        weighted = basis * (precision * told)
        found = torch.linalg.solve(weighted @ basis.mT + ridge, (weighted @ rest[..., None])[..., 0])
        left = rest - (found[:, None] @ basis)[:, 0]
        error += (left.square() * precision * ~told).sum(1) / 4
    return error


def _sectors(posed: PosedImages) -> Bool[Tensor, " p"]:
    """Every other sector of the disc; a coefficient and its partner at -k are in the same."""
    x, y = posed.grid.frequencies.unbind(-1)
    return (torch.atan2(y, x) % math.pi * (_SECTORS / math.pi)).long() % 2 == 0
