"""The contrast transfer function against the formula written out, and against what microscopes are known to do."""

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import CTFParams
from scoretomo.imaging.ctf import contrast_transfer, electron_wavelength
from scoretomo.imaging.slices import disc_frequencies, image_coefficients


def params(count: int = 1, **values: float) -> CTFParams:
    usual = {
        "defocus_u_angstrom": 15000.0,
        "defocus_v_angstrom": 15000.0,
        "astigmatism_degrees": 0.0,
        "phase_shift_degrees": 0.0,
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.07,
    }
    return CTFParams(**{name: torch.full((count,), value) for name, value in (usual | values).items()})


def at(parameters: CTFParams, *frequencies: tuple[float, float]) -> list[float]:
    return contrast_transfer(parameters, torch.tensor(frequencies, dtype=torch.float32))[0].tolist()


def written_out(p: dict[str, float], g: tuple[float, float]) -> float:
    """Rohou & Grigorieff 2015, eqs. 1 to 3, in double precision, SI-derived wavelength; protein bright."""
    h, m, e, c = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
    energy = e * p["voltage_kv"] * 1e3
    wavelength = 1e10 * h * c / math.sqrt(energy * (energy + 2 * m * c**2))
    angle = cmath.phase(complex(*g))
    axis = math.radians(p["astigmatism_degrees"])
    u, v = p["defocus_u_angstrom"], p["defocus_v_angstrom"]
    defocus = 0.5 * (u + v + (u - v) * math.cos(2 * (angle - axis)))
    square = g[0] ** 2 + g[1] ** 2
    phase = (
        math.pi * wavelength * square * (defocus - 0.5 * wavelength**2 * square * p["spherical_aberration_mm"] * 1e7)
    )
    phase += math.radians(p["phase_shift_degrees"])
    w2 = p["amplitude_contrast"]
    return math.sqrt(1 - w2**2) * math.sin(phase) + w2 * math.cos(phase)


def test_the_formula_of_ctffind_written_out() -> None:
    """Forty microscopes at frequencies up to 2 A; single precision keeps 2e-4 over more than a hundred turns."""
    rng = np.random.default_rng(1)
    draws = {
        "defocus_u_angstrom": rng.uniform(-5000, 40000, 40),
        "defocus_v_angstrom": rng.uniform(-5000, 40000, 40),
        "astigmatism_degrees": rng.uniform(-180, 180, 40),
        "phase_shift_degrees": rng.uniform(0, 180, 40),
        "voltage_kv": rng.choice([100.0, 200.0, 300.0], 40),
        "spherical_aberration_mm": rng.uniform(0, 2.8, 40),
        "amplitude_contrast": rng.uniform(0, 1, 40),
    }
    frequencies = 0.35 * (2 * torch.rand(50, 2, generator=torch.Generator().manual_seed(2)) - 1)
    found = contrast_transfer(CTFParams(**{k: torch.from_numpy(v).float() for k, v in draws.items()}), frequencies)
    rounded = [{k: float(np.float32(v[i])) for k, v in draws.items()} for i in range(40)]
    expected = [[written_out(p, (x, y)) for x, y in frequencies.tolist()] for p in rounded]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-4)


# What cryodrgn 3.4.4 (all three) and ASPIRE 0.14.3 (the first two, to 1e-6) give at these frequencies, in 1 / A; they
# have protein dark, and a wavelength of fewer digits. Defocus u and v, astigmatism, voltage, spherical aberration,
# amplitude contrast, phase shift.
_FREQUENCIES = ((0.01, 0.0), (0.03, 0.04), (-0.06, 0.05), (0.0, 0.12), (0.11, -0.13))
_OF_OTHER_PROGRAMS = {
    (15000, 15000, 0, 300, 2.7, 0.1, 0): (-0.191742, -0.662485, 0.510638, -0.735196, -0.999593),
    (21000, 17000, 35, 200, 2.0, 0.07, 0): (-0.22324, 0.833489, -0.877631, -0.947013, -0.765803),
    (9000, 9500, -60, 300, 0.01, 0.1, 90): (-0.98752, -0.013665, 0.929961, 0.364245, 0.846212),
}


@pytest.mark.parametrize("microscope", _OF_OTHER_PROGRAMS)
def test_other_programs_give_the_same(microscope: tuple[float, ...]) -> None:
    u, v, astigmatism, voltage, aberration, amplitude, phase = map(float, microscope)
    given = params(
        defocus_u_angstrom=u,
        defocus_v_angstrom=v,
        astigmatism_degrees=astigmatism,
        phase_shift_degrees=phase,
        voltage_kv=voltage,
        spherical_aberration_mm=aberration,
        amplitude_contrast=amplitude,
    )
    assert at(given, *_FREQUENCIES) == pytest.approx([-value for value in _OF_OTHER_PROGRAMS[microscope]], abs=1e-3)


@pytest.mark.parametrize(("voltage", "wavelength"), [(100, 0.037014), (200, 0.025079), (300, 0.019687)])
def test_wavelengths_of_the_textbook(voltage: float, wavelength: float) -> None:
    """Reimer & Kohl, table 2.2; without relativity 300 kV would give 0.0224."""
    assert electron_wavelength(torch.tensor(float(voltage))).item() == pytest.approx(wavelength, abs=1e-6)


def test_at_zero_frequency_there_is_amplitude_contrast_alone() -> None:
    assert at(params(), (0, 0)) == pytest.approx([0.07])
    assert at(params(amplitude_contrast=1.0), (0, 0)) == pytest.approx([1])
    assert at(params(phase_shift_degrees=90.0), (0, 0)) == pytest.approx([math.sqrt(1 - 0.07**2)])  # a Zernike plate


def test_bright_protein_stays_bright_under_focus_and_turns_dark_over_focus() -> None:
    low = (1 / 60, 0.0)
    assert at(params(), low)[0] > 0.2
    assert at(params(defocus_u_angstrom=-15000.0, defocus_v_angstrom=-15000.0), low)[0] < -0.1


def test_zeros_of_pure_phase_contrast() -> None:
    """Without aberration and amplitude contrast zeros are where wavelength * defocus * k^2 is a whole number."""
    clean = params(spherical_aberration_mm=0.0, amplitude_contrast=0.0)
    for number in (1, 2, 7):
        zero = math.sqrt(number / (0.0196875 * 15000))  # 17.2 A for the first
        before, there, after = at(clean, (0.99 * zero, 0), (zero, 0), (1.01 * zero, 0))
        assert there == pytest.approx(0, abs=2e-3)
        assert before * after < 0 and before * (-1) ** number < 0


def test_spherical_aberration_weakens_underfocus() -> None:
    """At Scherzer defocus, sqrt(Cs wavelength), phase is stationary where k^2 = defocus / (Cs wavelength^2)."""
    aberration, wavelength = 2.7e7, 0.0196875
    defocus = math.sqrt(aberration * wavelength)
    scherzer = params(defocus_u_angstrom=defocus, defocus_v_angstrom=defocus, amplitude_contrast=0.0)
    k = math.sqrt(defocus / aberration) / wavelength
    assert at(scherzer, (k, 0)) == pytest.approx([1], abs=1e-4)  # sin(pi / 2)
    assert at(scherzer, (math.sqrt(2) * k, 0)) == pytest.approx([0], abs=2e-3)  # aberration has used up the defocus


def test_defocus_u_lies_along_the_axis_from_x_towards_y() -> None:
    k = 1 / 20
    tilted = params(defocus_u_angstrom=20000.0, defocus_v_angstrom=10000.0, astigmatism_degrees=30.0)
    u, v = (
        params(defocus_u_angstrom=20000.0, defocus_v_angstrom=20000.0),
        params(defocus_u_angstrom=10000.0, defocus_v_angstrom=10000.0),
    )
    along = (k * math.cos(math.radians(30)), k * math.sin(math.radians(30)))
    across = (-along[1], along[0])
    assert at(tilted, along) == pytest.approx(at(u, (k, 0)), abs=1e-4)
    assert at(tilted, across) == pytest.approx(at(v, (k, 0)), abs=1e-4)
    assert at(tilted, (along[0], -along[1])) != pytest.approx(at(u, (k, 0)), abs=0.1)


def test_it_is_even_and_multiplies_hartley_coefficients(generator: torch.Generator) -> None:
    """An image convolved by the point spread function has the coefficients of the image times the CTF."""
    side, pixel_size = 32, 3.0
    frequencies = disc_frequencies(side, 15.0)
    microscope = params(defocus_v_angstrom=8000.0, astigmatism_degrees=20.0)
    transfer = contrast_transfer(microscope, frequencies / pixel_size)
    torch.testing.assert_close(transfer, transfer.flip(-1))
    image = torch.randn(side, side, generator=generator)
    axis = (torch.arange(side) - side // 2) / side / pixel_size
    grid = torch.cartesian_prod(axis, axis).flip(-1)  # xy of each sample, y slowest
    plane = contrast_transfer(microscope, grid).view(side, side)
    plane[0], plane[:, 0] = 0, 0  # samples without a partner
    seen = convolve(image, plane)
    torch.testing.assert_close(
        image_coefficients(seen, frequencies), image_coefficients(image, frequencies) * transfer[0], rtol=0, atol=1e-3
    )


def convolve(image: Tensor, plane: Tensor) -> Tensor:
    spectrum = torch.fft.fft2(image) * torch.fft.ifftshift(plane)
    seen = torch.fft.ifft2(spectrum)
    assert seen.imag.abs().max() < 1e-5
    return seen.real


def test_parameters_are_those_of_each_image() -> None:
    two = CTFParams(
        *(torch.cat([a, b]) for a, b in zip(columns(params()), columns(params(voltage_kv=200.0)), strict=True))
    )
    frequencies = disc_frequencies(16, 7.0) / 2
    found = contrast_transfer(two, frequencies)
    torch.testing.assert_close(found[1:], contrast_transfer(params(voltage_kv=200.0), frequencies))
    torch.testing.assert_close(found, contrast_transfer(two.select(torch.tensor([1, 0])), frequencies).flip(0))


def columns(parameters: CTFParams) -> list[Tensor]:
    return list(vars(parameters).values())
