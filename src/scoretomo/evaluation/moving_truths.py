"""True volumes of a molecule that moves, in one frame: what they share, and where they differ.

Each truth lies in the frame of its own image. Turned into one frame they have a mean and deviations from it; the
deviations are the motion, if they are more than interpolation makes of a rigid map.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..imaging.molecular_mask import soft_region
from ..imaging.resampling import rigid_moves
from .alignment import Alignment, AlignmentConfig, apply_alignment, find_candidates

FEWEST_TRUTHS = 3
"""Two truths tell no motion from a difference."""
MOVING_PART = 0.25
"""The truths differ where their standard deviation is above this part of its greatest value."""
# The mask goes on by a voxel and falls over three: the edge of a part that moves is as soft at best.
_EXTEND, _EDGE = 1.0, 3.0
# Truths that are turned there and back to measure what interpolation alone changes.
_TURNED_BACK = 4


@dataclass(frozen=True)
class MovingTruths:
    """True volumes in their own frames and in a common one.

    Attributes
    ----------
    truths
        ``(n, s, s, s)``, axes ``[z, y, x]``, each in the frame of its own image.
    frames
        What takes each truth into the common frame.
    common
        ``(n, s, s, s)``, the truths in the common frame.
    mean
        ``(s, s, s)``, of ``common``.
    shared
        ``(s^3, 8)`` float64, orthonormal columns in the common frame: a constant, the mean, and how the mean changes
        when it is turned or shifted as a whole.
    mask
        ``(s, s, s)``, 0 to 1, soft: where the truths differ, in the common frame.
    unlike
        Part of the truths' variance that differs between them.
    interpolation
        Part of their variance that differs when they are turned there and back: what a rigid map cannot exceed.
    """

    truths: Float[Tensor, "n s s s"]
    frames: Alignment
    common: Float[Tensor, "n s s s"]
    mean: Float[Tensor, "s s s"]
    shared: Float64[Tensor, "s3 eight"]
    mask: Float[Tensor, "s s s"]
    unlike: float
    interpolation: float

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def move(self) -> bool:
        """Whether the truths differ by more than interpolation."""
        return self.unlike > self.interpolation

    def into_common(self, volume: Float[Tensor, "s s s"], truth: int) -> Float[Tensor, "s s s"]:
        """Turn a volume that lies in the frame of a truth into the common frame, as the truth itself was."""
        return apply_alignment(volume[None], _one(self.frames, truth))[0]

    def deviation(self, volume: Float[Tensor, "s s s"]) -> Float64[Tensor, " s3"]:
        """Take out of a volume in the common frame what it shares with all truths, fitted by least squares.

        Nothing that fits the mean is left as a deviation: no other unit of density, no background, and no rotation or
        shift as a whole, since a frame that is a little off is not a motion. In float64, since a small difference of
        large volumes is left.
        """
        flat = volume.flatten().double()
        return flat - self.shared @ (self.shared.T @ flat)

    def masked(self, volume: Float[Tensor, "s s s"]) -> Float[Tensor, "s s s"]:
        """Cut a volume in the common frame to where the truths differ, its mean there taken off.

        Without that the mask would cut its own shape into every volume, and all would correlate by it.
        """
        return (volume - (volume * self.mask).sum() / self.mask.sum()) * self.mask


def moving_truths(truths: Float[Tensor, "n s s s"], rotations: Float[Tensor, "n 3 3"] | None = None) -> MovingTruths:
    """Turn truths into a common frame and find where they differ.

    Parameters
    ----------
    truths
        ``(n, s, s, s)``, axes ``[z, y, x]``, 3 at least.
    rotations
        ``(n, 3, 3)``, from the common frame to that of each truth: the poses of their images. None: the common frame
        is that of the first, and the others are aligned to it without a mirror. Where the molecule is nearly symmetric
        that may end at a copy, so that poses are better.
    """
    frames = _frames(truths, rotations)
    common = torch.cat([apply_alignment(truths[i : i + 1], _one(frames, i)) for i in range(len(truths))])
    mean = common.mean(0)
    deviation = torch.zeros_like(mean)
    for volume in common:  # one at a time: the set may fill the memory
        deviation += (volume - mean).square() / (len(truths) - 1)
    constant = torch.ones_like(mean)[None]
    columns = torch.cat([constant, mean[None], rigid_moves(mean)]).flatten(1).double()
    shared = torch.linalg.qr((columns / columns.norm(dim=1, keepdim=True)).T).Q
    variance = float(sum(volume.var() for volume in common)) / len(common) * mean.numel()
    spread = deviation.sqrt()
    return MovingTruths(
        truths,
        frames,
        common,
        mean,
        shared,
        soft_region(spread > MOVING_PART * spread.max(), extend=_EXTEND, edge=_EDGE),
        unlike=float(deviation.sum()) / variance,
        interpolation=_turned_back(truths, common, frames) / variance,
    )


def back(frames: Alignment, truth: int) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Rotation and shift from the common frame to that of a truth."""
    rotation = frames.rotations[truth].T
    return rotation, -rotation @ frames.shifts_pixels[truth]


def turn(rotations: Float[Tensor, "n 3 3"], shifts_pixels: Float[Tensor, "n 3"]) -> Alignment:
    """Alignment that is known: rotations, then shifts, and no mirror."""
    unknown = rotations.new_zeros(len(rotations))
    return Alignment(rotations, shifts_pixels, unknown > 0, unknown, unknown)


def _frames(truths: Float[Tensor, "n s s s"], rotations: Float[Tensor, "n 3 3"] | None) -> Alignment:
    if rotations is not None:
        return turn(rotations.mT, rotations.new_zeros(len(rotations), 3))
    found = find_candidates(truths, truths[:1], AlignmentConfig())
    return turn(found.matrices[:, 0, 0], found.shifts_pixels[:, 0, 0])


def _turned_back(truths: Float[Tensor, "n s s s"], common: Float[Tensor, "n s s s"], frames: Alignment) -> float:
    """Mean squared difference between truths and themselves, turned into the common frame and back."""
    few = range(min(_TURNED_BACK, len(truths)))
    poses = [back(frames, i) for i in few]
    known = turn(torch.stack([rotation for rotation, _ in poses]), torch.stack([shift for _, shift in poses]))
    returned = torch.cat([apply_alignment(common[i : i + 1], _one(known, i)) for i in few])
    return float((returned - truths[: len(few)]).square().sum()) / len(few)


def _one(alignment: Alignment, index: int) -> Alignment:
    """Alignment of one volume: many at once would fill the memory with their spectra."""
    return Alignment(**{name: values[index : index + 1] for name, values in vars(alignment).items()})
