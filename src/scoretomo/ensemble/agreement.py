"""How well volumes agree that share the frame of one class average.

An image leaves two things open: the hand, and where the density lies along the view. Volumes made for one image by
independent repeats therefore agree up to a mirror and a shift along z, and to find these two takes a Fourier transform
of each volume and no search over rotations. A volume that needs to be turned to agree has misunderstood the image: here
that counts as disagreement.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from ..evaluation.fsc import area_under_curve
from ..imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, shell_index, shell_sum, translate
from ..imaging.resampling import mirror_z

# Shifts along the view are tried in steps of this many voxels, up to a part of the side.
_SHIFT_STEP = 0.5
_SHIFT_REACH = 0.08


@dataclass(frozen=True)
class Agreement:
    """How well each pair of volumes agrees, and what brings the second onto the first.

    Attributes
    ----------
    fsc
        ``(..., n // 2 + 1)``, Fourier shell correlation of each pair, in the better hand and at the best shift.
    mirrored
        ``(...)``, whether z of the second has to be mirrored.
    shift_pixels
        ``(...)``, by which the second then has to be moved along z.
    """

    fsc: Float[Tensor, "*batch k"]
    mirrored: Bool[Tensor, "*batch"]
    shift_pixels: Float[Tensor, "*batch"]

    @property
    def area(self) -> Float[Tensor, "*batch"]:
        """Area under the FSC, 1 is identity."""
        return area_under_curve(self.fsc)


def agreement_in_frame(first: Float[Tensor, "b n n n"], second: Float[Tensor, "c n n n"]) -> Agreement:
    """Compare every first volume with every second one, up to the hand and a shift along the view.

    Parameters
    ----------
    first, second
        ``(b, n, n, n)`` and ``(c, n, n, n)``, axes ``[z, y, x]``, in the frame of one image that is seen along z.

    Returns
    -------
    Agreement
        Of ``(b, c)`` pairs; the area under the FSC is what hand and shift are chosen by.
    """
    side = first.shape[-1]
    ours, theirs = _unit_shells(first), _unit_shells(second)
    # the rows of a shell and of one kz are summed before any shift: a shift is the same phase for all of them
    height = torch.arange(side, device=first.device)[:, None, None].expand(side, side, side)
    shells = shell_index(side, 3, first.device)
    count = side // 2 + 1
    inside = shells < count
    rows = (shells * side + height)[inside]
    reach = max(1, round(_SHIFT_REACH * side / _SHIFT_STEP))
    shifts = torch.arange(-reach, reach + 1, device=first.device) * _SHIFT_STEP
    turns = (torch.arange(side, device=first.device) - side // 2)[:, None] * shifts / side
    phases = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)  # (kz, shift)
    curves = []
    for spectrum in ours:
        products = [spectrum * theirs.conj(), spectrum * _mirror_spectra(theirs).conj()]
        cross = torch.stack(products, dim=1)[..., inside]  # (c, hand, p)
        table = cross.new_zeros(*cross.shape[:2], count * side).index_add_(-1, rows, cross)
        curves.append((table.view(*cross.shape[:2], count, side) @ phases).real.permute(0, 1, 3, 2))
    fsc = torch.stack(curves).flatten(2, 3)  # (b, c, hand and shift, k)
    best = area_under_curve(fsc).argmax(-1)
    chosen = fsc.gather(2, best[..., None, None].expand(-1, -1, 1, count))[:, :, 0]
    return Agreement(chosen, best >= len(shifts), shifts[best % len(shifts)])


def bring_onto(
    second: Float[Tensor, "b n n n"], mirrored: Bool[Tensor, " b"], shift_pixels: Float[Tensor, " b"]
) -> Float[Tensor, "b n n n"]:
    """Mirror and shift volumes as :func:`agreement_in_frame` has found it best."""
    handed = torch.where(mirrored[:, None, None, None], mirror_z(second), second)
    return translate(handed, torch.nn.functional.pad(shift_pixels[:, None], [2, 0]))


def local_correlation(
    first: Float[Tensor, "b n n n"], second: Float[Tensor, "b n n n"], width: float
) -> Float[Tensor, "b n n n"]:
    """Correlate volumes about every voxel, weighted by a Gaussian of standard deviation ``width`` voxels.

    Returns
    -------
    Tensor
        ``(b, n, n, n)``, -1 to 1; 0 where neither volume varies.
    """
    side = first.shape[-1]
    frequency = radius_grid(side, 3, first.device) / side
    window = torch.exp(-2 * (math.pi * width * frequency) ** 2)

    def blurred(values: Tensor) -> Tensor:
        return centred_inverse_fft(centred_fft(values, 3) * window, 3)

    means = blurred(first), blurred(second)
    variances = [blurred(v * v) - m * m for v, m in zip((first, second), means, strict=True)]
    covariance = blurred(first * second) - means[0] * means[1]
    # a thousandth of the largest variance: what is called density is well above it, empty space below
    floors = [1e-3 * v.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(v.dtype).tiny) for v in variances]
    scale = [torch.maximum(v, floor).sqrt() for v, floor in zip(variances, floors, strict=True)]
    return (covariance / (scale[0] * scale[1])).clamp(-1, 1)


def _unit_shells(volumes: Float[Tensor, "b n n n"]) -> Complex[Tensor, "b n n n"]:
    """Spectra of power one in every shell, so that a product summed over a shell is the FSC; 0 where there is none."""
    side = volumes.shape[-1]
    spectra = centred_fft(volumes, 3)
    shells = shell_index(side, 3, volumes.device)
    power = shell_sum(spectra.abs().square().flatten(1), shells.flatten(), side // 2 + 2)
    # rounding leaves some power in the shells of a volume that has none there
    nothing = power <= 1e-12 * power.sum(-1, keepdim=True)
    scale = torch.where(nothing, 0.0, power.clamp(min=torch.finfo(power.dtype).tiny).rsqrt())
    return spectra * scale[:, shells]


def _mirror_spectra(spectra: Complex[Tensor, "b n n n"]) -> Complex[Tensor, "b n n n"]:
    """Spectra of the volumes mirrored in z = 0."""
    flipped = spectra.flip(-3)
    return flipped if spectra.shape[-1] % 2 else flipped.roll(1, -3)
