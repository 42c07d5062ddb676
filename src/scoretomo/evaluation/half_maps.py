"""Resolution of a map by two independent halves: masked FSC, corrected for what the mask itself correlates.

A mask that both halves share correlates them. How much is measured on halves whose phases were drawn at random
beyond a frequency, which have nothing else in common there (Chen et al. 2013, Ultramicroscopy 135, 24).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import centred_fft, centred_inverse_fft, shell_index
from .fsc import fourier_shell_correlation, resolution_pixels

# FSC of independent halves at which the mean of both correlates by 0.5 with the truth (Rosenthal and Henderson 2003).
THRESHOLD = 0.143
# Phases are drawn beyond the shell where the unmasked FSC falls below this, and the correction begins two shells on,
# since the spectrum of a mask mixes neighbouring shells (RELION's choices).
_RANDOM_BELOW = 0.8
_SHELLS_MIXED = 2


@dataclass(frozen=True)
class HalfMapFsc:
    """FSC curves of two independent half maps, shell ``k`` at ``k / n`` cycles per pixel.

    Attributes
    ----------
    unmasked, masked
        ``(n // 2 + 1,)``: the halves as they are, and under the mask.
    phase_randomised
        ``(n // 2 + 1,)``: under the mask, phases random beyond shell ``randomised_from``.
    corrected
        ``(n // 2 + 1,)``: the masked curve without what the mask makes of it.
    randomised_from
        First shell with random phases.
    resolution_pixels
        Where the corrected curve falls below 0.143; infinite if it never reaches it.
    """

    unmasked: Float[Tensor, " k"]
    masked: Float[Tensor, " k"]
    phase_randomised: Float[Tensor, " k"]
    corrected: Float[Tensor, " k"]
    randomised_from: int
    resolution_pixels: float

    def rows(self, side: int, pixel_size_angstrom: float) -> list[dict[str, float]]:
        """List the curves by shell, for volumes of this side and pixel size."""
        curves = {
            name: getattr(self, name).tolist() for name in ("unmasked", "masked", "phase_randomised", "corrected")
        }
        step = 1 / (side * pixel_size_angstrom)
        return [
            {"frequency_per_angstrom": k * step, **{name: values[k] for name, values in curves.items()}}
            for k in range(len(self.unmasked))
        ]


def compare_halves(
    first: Float[Tensor, "n n n"],
    second: Float[Tensor, "n n n"],
    mask: Float[Tensor, "n n n"],
    *,
    generator: torch.Generator | None = None,
) -> HalfMapFsc:
    """Fourier shell correlation of two half maps, with and without a mask.

    Parameters
    ----------
    first, second
        ``(n, n, n)``, axes ``[z, y, x]``, in one frame; made from different images without knowing of each other.
    mask
        ``(n, n, n)``, 0 to 1, soft, as :func:`molecular_mask` makes it.
    generator
        Of the random phases.
    """
    side = first.shape[-1]
    unmasked = fourier_shell_correlation(first, second)
    masked = fourier_shell_correlation(first * mask, second * mask)
    below = (unmasked[1:] < _RANDOM_BELOW).nonzero().flatten()
    start = int(below[0]) + 1 if len(below) else len(unmasked)
    random = [randomise_phases(half, start, generator=generator) * mask for half in (first, second)]
    phase_randomised = fourier_shell_correlation(random[0], random[1])
    corrected = masked.clone()
    beyond = start + _SHELLS_MIXED
    excess = (masked - phase_randomised) / (1 - phase_randomised).clamp(min=torch.finfo(masked.dtype).eps)
    # where the mask alone correlates more than the halves do, nothing is shown
    corrected[beyond:] = torch.where(phase_randomised < masked, excess, 0)[beyond:]
    resolution = float(resolution_pixels(corrected, THRESHOLD, side))
    return HalfMapFsc(unmasked, masked, phase_randomised, corrected, start, resolution)


def randomise_phases(
    volume: Float[Tensor, "n n n"], first_shell: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "n n n"]:
    """Keep the amplitudes of a volume and draw the phases from ``first_shell`` on, those of white noise."""
    side = volume.shape[-1]
    noise = torch.randn(volume.shape, generator=generator, device=generator.device if generator else volume.device)
    spectrum, other = centred_fft(volume, 3), centred_fft(noise.to(volume), 3)
    drawn = spectrum.abs() * other / other.abs().clamp(min=torch.finfo(volume.dtype).tiny)
    return centred_inverse_fft(torch.where(shell_index(side, 3, volume.device) >= first_shell, drawn, spectrum), 3)


def filter_to_resolution(
    volume: Float[Tensor, "n n n"],
    fsc: Float[Tensor, " k"],
    pixel_size_angstrom: float,
    *,
    b_factor_angstrom2: float = 0.0,
) -> Float[Tensor, "n n n"]:
    """Weigh every shell by how well it is known, cut at the resolution, and sharpen.

    The weight is ``sqrt(2 FSC / (1 + FSC))``, the expected correlation of the mean of both halves with the truth
    (Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721); beyond the first shell below 0.143 it is 0.

    Parameters
    ----------
    volume
        ``(n, n, n)``, the map made of both halves.
    fsc
        ``(n // 2 + 1,)``, of the halves, corrected for the mask.
    pixel_size_angstrom
        Of the volume.
    b_factor_angstrom2
        Amplitudes are multiplied by ``exp(-B / (4 d^2))``: negative sharpens. There is no way to estimate it from a map
        that ends before 10 Angstrom, as those of class averages do.
    """
    side = volume.shape[-1]
    known = torch.cat([fsc.new_ones(1), (fsc[1:] >= THRESHOLD).to(fsc).cumprod(0)])
    weight = known * (2 * fsc / (1 + fsc).clamp(min=torch.finfo(fsc.dtype).eps)).clamp(0, 1).sqrt()
    weight[0] = 1.0
    frequency = torch.arange(len(fsc)).to(fsc) / (side * pixel_size_angstrom)
    weight = weight * torch.exp(-b_factor_angstrom2 / 4 * frequency**2)
    by_shell = torch.cat([weight, weight.new_zeros(1)])[shell_index(side, 3, volume.device)]
    return centred_inverse_fft(centred_fft(volume, 3) * by_shell, 3)
