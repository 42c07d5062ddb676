"""A volume from particle images at known poses: their slices, summed up in Fourier space and divided by their weights.

No network limits the detail, so that images whose poses a training has found show what is in them. Two halves of the
images say how much signal there is in each shell, and the sum of both is divided as Wiener has it (Scheres 2012,
J. Struct. Biol. 180, 519, whose weights these are, without iterations).
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import hartley, recentre_crop, shell_index, shell_sum
from ..imaging.slices import disc_frequencies, image_coefficients, interpolation_envelope, translate_coefficients

# Samples of the transform for each voxel, along each axis.
_PADDING = 2
# Samples whose weight is below this part of their shell's mean were hardly seen; dividing by it would blow up noise.
_LEAST_WEIGHT = 1e-3
# Correlations that count: beyond, a shell would weigh everything or less than nothing.
_LEAST_FSC, _MOST_FSC = 1e-3, 1 - 1e-4


class BackProjection:
    """Sums of slices and of their weights, on the samples of a padded Hartley transform.

    Images are padded as the volume is: otherwise samples near the origin would get values of slices that are farther
    out, between which there are none.

    Parameters
    ----------
    side
        Edge of images and volume in pixels.
    device
        Where the sums are.
    radius
        Of the disc of frequencies that is summed up, in Fourier pixels of the image: less of it is faster.
    """

    def __init__(self, side: int, device: torch.device | str = "cpu", *, radius: float = math.inf) -> None:
        self.side, self.samples, self.radius = side, _PADDING * side, radius
        self.frequencies = disc_frequencies(self.samples, min(self.samples / 2, _PADDING * radius), device)
        self.values = torch.zeros(self.samples**3, device=device)
        self.weights = torch.zeros_like(self.values)

    def add(
        self,
        images: Float[Tensor, "b side side"],
        rotations: Float[Tensor, "b 3 3"],
        shifts_pixels: Float[Tensor, "b 2"],
        transfer: Float[Tensor, "b p"] | None = None,
    ) -> None:
        """Take in images.

        Parameters
        ----------
        images
            ``(b, side, side)``, protein bright.
        rotations, shifts_pixels
            ``(b, 3, 3)`` and ``(b, 2)``, from the object to the image.
        transfer
            ``(b, p)``, contrast transfer at :attr:`frequencies`; None is 1.
        """
        frequencies = self.frequencies
        coefficients = image_coefficients(recentre_crop(images, self.samples, 2), frequencies)
        coefficients = translate_coefficients(coefficients, frequencies, -shifts_pixels)
        places = (frequencies @ rotations[:, :2]).flatten(0, 1) * self.samples + self.samples // 2
        weights = torch.ones_like(coefficients) if transfer is None else transfer.square()
        values = coefficients if transfer is None else transfer * coefficients
        low = places.floor()
        above = places - low  # part of the way to the next sample: trilinear weights
        for corner in itertools.product((0, 1), repeat=3):
            ahead = torch.tensor(corner, device=low.device)
            share = torch.where(ahead.bool(), above, 1 - above).prod(1)
            x, y, z = (low.long() + ahead).remainder(self.samples).unbind(1)
            index = (z * self.samples + y) * self.samples + x
            self.values.index_add_(0, index, share * values.flatten())
            self.weights.index_add_(0, index, share * weights.flatten())

    def volume(self, extra: Float[Tensor, " k"] | None = None) -> Float[Tensor, "side side side"]:
        """Divide, and transform back; ``extra`` is added to the weights of each shell of the padded transform."""
        side = self.samples
        shells = shell_index(side, 3, self.values.device).flatten().clamp(max=side // 2)
        mean = self.mean_weights()
        least = _LEAST_WEIGHT * mean if extra is None else torch.maximum(extra, _LEAST_WEIGHT * mean)
        weights = self.weights.clamp(min=0) + least[shells]
        spectrum = torch.where(self.weights > 0, self.values / weights.clamp(min=torch.finfo(weights.dtype).tiny), 0)
        padded = hartley(spectrum.view(side, side, side), 3) / side**3  # the transform is its own inverse but for that
        return recentre_crop(padded, self.side, 3) / interpolation_envelope(self.side, side, padded)

    def mean_weights(self) -> Float[Tensor, " k"]:
        """Mean weight of the samples of each shell of the padded transform, up to its Nyquist's frequency."""
        side = self.samples
        count = side // 2 + 1
        shells = shell_index(side, 3, self.weights.device).flatten().clamp(max=side // 2)
        number = shell_sum(torch.ones_like(self.weights), shells, count)
        return shell_sum(self.weights, shells, count) / number

    def __add__(self, other: "BackProjection") -> "BackProjection":
        """Add up the images of both."""
        both = BackProjection(self.side, self.values.device, radius=self.radius)
        both.values, both.weights = self.values + other.values, self.weights + other.weights
        return both


def weighted_volume(
    first: BackProjection, second: BackProjection, fsc: Float[Tensor, " k"]
) -> Float[Tensor, "side side side"]:
    """Volume of two halves of the images, weighted by how much signal there is in each shell.

    Parameters
    ----------
    first, second
        Sums of the halves.
    fsc
        ``(side // 2 + 1,)``, Fourier shell correlation of their volumes.
    """
    known = fsc.clamp(_LEAST_FSC, _MOST_FSC)
    # of a half the power of the noise is one over its weight: FSC / (1 - FSC) is that of the signal over it
    signal = known / (1 - known)
    weight = (first.mean_weights() + second.mean_weights()) / 2
    shells = torch.arange(len(weight), device=fsc.device) / _PADDING
    low = shells.floor().long().clamp(max=len(fsc) - 1)
    high = (low + 1).clamp(max=len(fsc) - 1)
    between = signal[low] + (shells - low) * (signal[high] - signal[low])
    return (first + second).volume(weight / between)
