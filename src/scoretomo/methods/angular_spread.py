"""Angular spread: the particles of a class are seen from directions that differ, and their average is blurred.

If directions spread alike about all axes, class averages are projections of a map that is blurred by the same
rotations, ``exp(-s^2 L^2 / 2)`` of it, where ``L^2`` is the square of angular momentum and ``s`` the standard deviation
about each axis. It takes most from what is fine and far from the centre: a spherical harmonic of degree ``l`` keeps
``exp(-s^2 l (l + 1) / 2)``, at any radius and any spatial frequency.

Class averages cannot tell the blurred map from a sharp one. The degrees of molecules can: of atoms that lie anywhere
with the radial density of the map, the share of each degree in each shell is known (Wilson 1942, Nature 150, 152, in
spherical harmonics), and what blurred is short of high degrees. Of noise the half maps know.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import spherical_jn
from torch import Tensor

from ..imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, shell_index, shell_sum

MOST_DEGREES = 10.0
"""Spreads above are not looked for: little would be left to undo."""
# Spreads that are told apart, in degrees.
_SPREADS = np.arange(0.0, MOST_DEGREES + 0.1, 0.25)
# Less than that sharp molecules are taken to have as well; it is no spread.
_LEAST = 2.5
# Shells that count: above the shape of the whole, in periods of its radius, and known that well.
_FIRST_SHELL, _KNOWN = 2.5, 0.8
# Part of the shells that may tell less: one that tells too little is a feature of the molecule, more are its sharpness.
_QUANTILE = 0.25
# Half maps share their support, and know each other better than the molecule: noise is taken as that much more.
_CAUTION = 2.0
# Terms of the Chebyshev series, and more of them for each width of the function in the whole range.
_TERMS, _TERMS_PER_WIDTH = 10, 8.0
_LEAST_AGREEMENT, _MOST_AGREEMENT = 0.02, 0.995
# No degree is raised more than by half the root of its inverse.
_LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class AngularSpread:
    """How far the directions of a class's particles spread, and what it leaves of each shell.

    Attributes
    ----------
    degrees
        Standard deviation about each axis; 0 where none is found.
    noise
        ``(side // 2 + 1,)``, power of noise over that of the sharp molecule, by shell of the map.
    """

    degrees: float
    noise: Float[Tensor, " k"]

    @staticmethod
    @torch.no_grad()
    def of(
        volume: Float[Tensor, "n n n"], agreement: Float[Tensor, " k"], *, degrees: float | None = None
    ) -> "AngularSpread":
        """Find the spread of the class averages that a map was made of.

        Parameters
        ----------
        volume
            ``(n, n, n)``, axes ``[z, y, x]``: one state of the molecule, about the origin, background 0.
        agreement
            ``(n // 2 + 1,)``, FSC between maps of half of the class averages each.
        degrees
            The spread, where it is known.
        """
        known = agreement.double().clamp(_LEAST_AGREEMENT, _MOST_AGREEMENT).cpu().numpy()
        signal = 2 * known / (1 + known)
        molecule = _RandomMolecule.like(volume)
        if degrees is None:
            degrees = _find(volume, signal, known, molecule)
        left = molecule.kept(math.radians(degrees))
        noise = (_CAUTION * left * (1 - signal) / signal).clip(_LEAST_NOISE)
        return AngularSpread(degrees, torch.from_numpy(noise).to(volume))

    @torch.no_grad()
    def undo(self, volumes: Float[Tensor, "b n n n"]) -> Float[Tensor, "b n n n"]:
        """Undo it as far as noise lets (Wiener): mean and components of a model share what its images tell.

        Parameters
        ----------
        volumes
            ``(b, n, n, n)``, axes ``[z, y, x]``, about the origin: a map, or a mean and its components.
        """
        if not self.degrees:
            return volumes
        variance, noise = math.radians(self.degrees) ** 2, len(volumes) * self.noise.double().cpu().numpy()[:, None]

        def restored(squares: NDArray[np.float64]) -> NDArray[np.float64]:
            kept = np.exp(-variance * squares / 2)
            found: NDArray[np.float64] = kept * (1 + noise) / (kept**2 + noise)
            return found

        return _of_angular_momentum(volumes, restored, math.sqrt(variance))


@dataclass(frozen=True)
class _RandomMolecule:
    """Atoms that lie anywhere, with the radial density of a map: the power of each degree in each shell.

    Attributes
    ----------
    degrees
        ``(l,)``.
    power
        ``(shells, l)``, that of all orders of a degree.
    radius
        Of a ball with this radius of gyration, in pixels.
    """

    degrees: NDArray[np.float64]
    power: NDArray[np.float64]
    radius: float

    @staticmethod
    def like(volume: Float[Tensor, "n n n"]) -> "_RandomMolecule":
        side = volume.shape[-1]
        mass = torch.zeros(side + 1).index_add(
            0, radius_grid(side, 3).flatten().round().long(), volume.cpu().float().flatten()
        )
        density = mass.clamp(min=0).double().numpy()
        density[0] = max(density[0], np.finfo(np.float64).tiny)  # of an empty map, a point
        radii = np.arange(len(density), dtype=np.float64)
        degrees = np.arange(math.ceil(math.pi * side / 2) + 10, dtype=np.float64)
        shells = np.arange(side // 2 + 1)
        waves = 2 * math.pi * shells[:, None] * radii / side
        power = [(2 * k + 1) * (spherical_jn(int(k), waves) ** 2 @ density) for k in degrees]
        gyration = math.sqrt(float(density @ radii**2 / density.sum()))
        return _RandomMolecule(degrees, np.stack(power, -1), math.sqrt(5 / 3) * gyration)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """Squared angular momentum of each degree."""
        return self.degrees * (self.degrees + 1)

    def kept(self, spread: float) -> NDArray[np.float64]:
        """Part of the power of each shell that a spread in radians leaves."""
        found: NDArray[np.float64] = (self.power * np.exp(-(spread**2) * self.squares)).sum(1) / self.power.sum(1)
        return found

    def mean_square(self, spread: float) -> NDArray[np.float64]:
        """Mean squared angular momentum in each shell after a spread in radians."""
        power = self.power * np.exp(-(spread**2) * self.squares)
        found: NDArray[np.float64] = (power * self.squares).sum(1) / power.sum(1)
        return found


def _find(
    volume: Float[Tensor, "n n n"], signal: NDArray[np.float64], known: NDArray[np.float64], molecule: _RandomMolecule
) -> float:
    """Find the spread that explains the mean squared angular momentum of the shells; the noise in them has none."""
    first = math.ceil(_FIRST_SHELL * volume.shape[-1] / max(molecule.radius, 1.0))
    shells = np.flatnonzero((known > _KNOWN) & (np.arange(len(known)) >= first))
    if not len(shells):
        return 0.0
    expected = np.stack([molecule.mean_square(math.radians(spread)) for spread in _SPREADS])
    expected = signal * expected + (1 - signal) * expected[0]
    observed = _mean_square(volume)
    # np.interp wants what it looks up to rise: more spread, less angular momentum
    each = [float(np.interp(-observed[k], -expected[:, k], _SPREADS)) for k in shells]
    found = float(np.quantile(each, _QUANTILE))
    return found if found >= _LEAST else 0.0


def _mean_square(volume: Float[Tensor, "n n n"]) -> NDArray[np.float64]:
    """Mean squared angular momentum of a volume in each shell of its spectrum."""
    side = volume.shape[-1]
    shells = shell_index(side, 3, volume.device).flatten()
    spectrum = centred_fft(volume, 3).flatten()
    turned = centred_fft(_AngularMomentum(side, volume).square(volume), 3).flatten()
    power = shell_sum(spectrum.abs().square(), shells, side // 2 + 1)
    moment = shell_sum((turned * spectrum.conj()).real, shells, side // 2 + 1)
    found: NDArray[np.float64] = (moment / power.clamp(min=torch.finfo(power.dtype).tiny)).double().cpu().numpy()
    return found


class _AngularMomentum:
    """``L^2 = -(r x grad)^2`` on a lattice, with derivatives of the Fourier series."""

    def __init__(self, side: int, like: Tensor) -> None:
        axis = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
        waves = 2j * math.pi * torch.fft.fftfreq(side, device=like.device, dtype=like.dtype)
        if side % 2 == 0:
            waves[side // 2] = 0  # of the highest frequency only one sign is there
        shapes = [(side, 1, 1), (1, side, 1), (1, 1, side)]
        self._places = [axis.view(shape) for shape in shapes]
        self._waves = [waves.view(shapes[0]), waves.view(shapes[1]), waves[: side // 2 + 1].view(1, 1, -1)]
        self.largest = 2 * (side * math.pi * (1 - 2 / side)) ** 2
        """No eigenvalue is above it: |r x k|^2 at corners of the cubes of places and wave vectors."""

    def square(self, volumes: Float[Tensor, "*b n n n"]) -> Float[Tensor, "*b n n n"]:
        """Apply it."""
        gradient, found = self._derivatives(volumes, (0, 1, 2)), torch.zeros_like(volumes)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            along_b, along_a = self._derivatives(self._places[a] * gradient[b] - self._places[b] * gradient[a], (b, a))
            found -= self._places[a] * along_b - self._places[b] * along_a
        return found

    def _derivatives(self, volumes: Float[Tensor, "*b n n n"], axes: tuple[int, ...]) -> list[Tensor]:
        spectrum, sides = torch.fft.rfftn(volumes, dim=(-3, -2, -1)), volumes.shape[-3:]
        return [torch.fft.irfftn(self._waves[k] * spectrum, s=sides, dim=(-3, -2, -1)) for k in axes]


def _of_angular_momentum(
    volumes: Float[Tensor, "b n n n"], function: Callable[[NDArray[np.float64]], NDArray[np.float64]], width: float
) -> Float[Tensor, "b n n n"]:
    """Apply a function of squared angular momentum, another in each shell, by its Chebyshev series.

    Rotations keep the shells of a spectrum, so that the order of both does not matter.
    """
    side = volumes.shape[-1]
    momentum = _AngularMomentum(side, volumes)
    count = _TERMS + math.ceil(_TERMS_PER_WIDTH * width * math.sqrt(momentum.largest))
    angles = math.pi * (np.arange(count) + 0.5) / count
    values = function((np.cos(angles) + 1) * momentum.largest / 2)
    series = 2 / count * values @ np.cos(np.outer(angles, np.arange(count)))
    series[:, 0] /= 2
    shells = shell_index(side, 3, volumes.device).clamp(max=len(series) - 1)
    weights = torch.from_numpy(series).to(volumes).T

    def scaled(values: Tensor) -> Tensor:
        return momentum.square(values) * (2 / momentum.largest) - values

    before, now = volumes, scaled(volumes)
    found = weights[0][shells] * centred_fft(before, 3) + weights[1][shells] * centred_fft(now, 3)
    for weight in weights[2:]:
        before, now = now, 2 * scaled(now) - before
        found += weight[shells] * centred_fft(now, 3)
    return centred_inverse_fft(found, 3)
