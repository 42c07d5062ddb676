"""Directions that spread blur a map by degrees: found in its spectrum, and undone as far as noise lets."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.methods.angular_spread import AngularSpread

SIDE = 32
SURE = torch.ones(SIDE // 2 + 1)


def _points(side: int) -> Tensor:
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)


@pytest.fixture(scope="module")
def molecule() -> Tensor:
    """Four hundred atoms anywhere in an ellipsoid, the longest half axis 11 voxels."""
    draw = torch.Generator().manual_seed(1)
    inside = 2 * torch.rand(1000, 3, generator=draw) - 1
    atoms = inside[inside.norm(dim=1) < 1][:400] * torch.tensor([11.0, 8.0, 7.0])
    squares = (_points(SIDE)[..., None, :] - atoms).square().sum(-1)
    return torch.exp(-squares / (2 * 0.8**2)).sum(-1)


def _blurred(volume: Tensor, degrees: float) -> Tensor:
    """Mean of many copies that are turned at random, each about all three axes."""
    vectors = math.radians(degrees) * torch.randn(600, 3, generator=torch.Generator().manual_seed(2))
    parts = [
        rotate_volumes(volume.expand(len(some), -1, -1, -1), from_rotation_vectors(some)) for some in vectors.split(50)
    ]
    return torch.cat(parts).mean(0)


def _likeness(volume: Tensor, other: Tensor) -> float:
    return float(area_under_curve(fourier_shell_correlation(volume, other)))


@pytest.mark.parametrize("degrees", [4.0, 6.0])
def test_a_spread_is_found_and_undone(molecule: Tensor, degrees: float) -> None:
    blurred = _blurred(molecule, degrees)
    spread = AngularSpread.of(blurred, SURE)
    assert spread.degrees == pytest.approx(degrees, rel=0.2)
    before, after = _likeness(blurred, molecule), _likeness(spread.undo(blurred[None])[0], molecule)
    assert 1 - after < 0.4 * (1 - before)


def test_a_sharp_molecule_has_none_and_stays_as_it_is(molecule: Tensor) -> None:
    spread = AngularSpread.of(molecule, SURE)
    assert spread.degrees == 0
    assert torch.equal(spread.undo(molecule[None])[0], molecule)


def test_a_spread_that_is_known_is_taken(molecule: Tensor) -> None:
    assert AngularSpread.of(molecule, SURE, degrees=3.0).degrees == 3
    assert AngularSpread.of(_blurred(molecule, 5.0), SURE, degrees=0.0).degrees == 0


def test_noise_is_no_sharpness(molecule: Tensor) -> None:
    """Noise is not short of high degrees: what half maps know of it must be known, or it hides the spread."""
    blurred = _blurred(molecule, 5.0)
    noise = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(3)) * (_points(SIDE).norm(dim=-1) < 12)
    noisy = blurred + 0.07 * blurred.std() * noise
    signal = fourier_shell_correlation(noisy, blurred).square()  # of the whole; that of halves is s / (2 - s)
    spread = AngularSpread.of(noisy, signal / (2 - signal))
    assert spread.degrees == pytest.approx(5.0, rel=0.25)
    assert _likeness(spread.undo(noisy[None])[0], molecule) > _likeness(noisy, molecule) + 0.01


def test_nothing_is_made_of_shells_that_halves_do_not_know(molecule: Tensor) -> None:
    """Where maps agree on nothing, no degree is raised."""
    spread = AngularSpread.of(molecule, torch.zeros(SIDE // 2 + 1), degrees=6.0)
    noise = torch.randn(1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    assert float(spread.undo(noise).norm() / noise.norm()) < 1
    assert AngularSpread.of(_blurred(molecule, 5.0), torch.zeros(SIDE // 2 + 1)).degrees == 0


def test_an_empty_map_has_none() -> None:
    nothing = torch.zeros(SIDE, SIDE, SIDE)
    assert AngularSpread.of(nothing, SURE).degrees == 0
    known = AngularSpread.of(nothing, SURE, degrees=5.0)
    assert torch.isfinite(known.noise).all() and torch.equal(known.undo(nothing[None])[0], nothing)


@pytest.mark.parametrize("side", [24, 25])
def test_each_degree_is_raised_by_what_it_has_lost(side: int) -> None:
    """Harmonic polynomials times a radial function are of one degree: 0, 1, 2 and 3."""
    x, y, z = _points(side).unbind(-1)
    ball = torch.exp(-(x**2 + y**2 + z**2) / (2 * 2.5**2))
    spread = AngularSpread(8.0, torch.full((side // 2 + 1,), 1e-3))
    variance = math.radians(8.0) ** 2
    for degree, polynomial in enumerate([torch.ones_like(x), x, x * y, x * y * z]):
        volume = polynomial * ball
        kept = math.exp(-variance * degree * (degree + 1) / 2)
        expected = volume * kept * 1.001 / (kept**2 + 0.001)  # Wiener
        torch.testing.assert_close(
            spread.undo(volume[None])[0], expected, rtol=0, atol=2e-3 * float(volume.abs().max())
        )
