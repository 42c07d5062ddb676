"""The contrast transfer function (CTF) of the microscope, in the conventions of CTFFIND and RELION.

It is real and even, and so multiplies Hartley coefficients as it multiplies Fourier coefficients.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import CTFParams

# h / sqrt(2 m e) in Angstrom sqrt(V), and e / (2 m c^2) in 1/V (CODATA 2018).
_WAVELENGTH = 12.2642597
_RELATIVISTIC = 9.784756e-7


def electron_wavelength(voltage_kv: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Relativistic wavelength in Angstrom of electrons accelerated by ``voltage_kv``: 0.0197 at 300 kV."""
    volts = 1000 * voltage_kv
    return _WAVELENGTH / (volts * (1 + _RELATIVISTIC * volts)).sqrt()


def contrast_transfer(params: CTFParams, frequencies: Float[Tensor, "p 2"]) -> Float[Tensor, "n p"]:
    """Contrast transfer of each image at some frequencies.

    ``sin(chi(k) + arcsin(w))`` with ``chi(k) = pi lambda |k|^2 (df(k) - lambda^2 |k|^2 Cs / 2) + phase shift`` and the
    defocus in the direction of k, ``df(k) = (U + V + (U - V) cos(2 (angle(k) - astigmatism))) / 2`` (Rohou &
    Grigorieff 2015, eqs. 1 to 3). The sign is RELION's, opposite to that paper's: at zero frequency it is the
    amplitude contrast ``w``, and under a low underfocus bright protein stays bright.

    Parameters
    ----------
    params
        Parameters of n images.
    frequencies
        ``(p, 2)``, xy in 1/Angstrom: rows of :func:`scoretomo.imaging.slices.disc_frequencies` divided by the pixel
        size.

    Returns
    -------
    Tensor
        ``(n, p)``, -1 to 1. In single precision it is good to 2e-4 where chi is below 1000 radians, which at 300 kV
        is 2 A at a defocus of 6 micrometers.
    """
    wavelength = electron_wavelength(params.voltage_kv)
    mean = (params.defocus_u_angstrom + params.defocus_v_angstrom) / 2
    half_difference = (params.defocus_u_angstrom - params.defocus_v_angstrom) / 2
    twice_axis = torch.deg2rad(2 * params.astigmatism_degrees)
    aberration = 1e7 * params.spherical_aberration_mm  # in Angstrom
    x, y = frequencies.unbind(-1)
    square = x**2 + y**2
    # chi is a polynomial in (x, y), each coefficient that of an image: |k|^2 cos(2 angle(k)) = x^2 - y^2
    terms = (
        (math.pi * wavelength * mean, square),
        (math.pi * wavelength * half_difference * twice_axis.cos(), x**2 - y**2),
        (math.pi * wavelength * half_difference * twice_axis.sin(), 2 * x * y),
        (-math.pi / 2 * wavelength**3 * aberration, square**2),
    )
    offset = torch.deg2rad(params.phase_shift_degrees) + torch.asin(params.amplitude_contrast)
    # summed and not a matrix product, which a GPU may compute to three digits, too few for so many turns
    angle = offset[:, None] + sum(coefficient[:, None] * monomial for coefficient, monomial in terms)
    return angle.sin()
