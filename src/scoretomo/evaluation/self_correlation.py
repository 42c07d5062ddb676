"""How a volume correlates with itself, turned or mirrored, on a scale where 0 is chance and 1 is a true symmetry.

Any globular density agrees with itself under any rotation at low frequencies. So its spherical average is taken out,
which makes the mean correlation over all rotations zero in every shell; the box is cut to the molecule, so that shells
count cycles over it; and shells count by what noise leaves of a true symmetry in them, not by their power.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..geometry.grids import so3_grid
from ..geometry.rotations import angle_between
from ..imaging.fourier import centred_fft, radius_grid, recentre_crop, resize, shell_index, shell_sum, translate
from ..imaging.masks import soft_ball
from .alignment import AlignmentConfig, Candidates, refine_candidates
from .spectra import background, centre_of_mass, half_ball, half_cycle_spectra, sample_spectra, shift_phases, whitening

HIGHEST_SHELL = 12
"""Cycles over the cut box, which is 1.3 times as wide as the molecule: 18 for its circumference at half its radius."""
_LOWEST_SHELL = 3  # those below it hold little more than the shape of an ellipsoid
_SEARCH_SHELL = 7
_LEAST_SIGNAL = 0.3  # correlation of a true symmetry in a shell that counts

# The volume correlates with itself under rotations this near to none, because it is smooth.
_LEAST_DEGREES = 22.5
_SEPARATE_DEGREES = 20.0
_SAME_DEGREES = 6.0
_COEFFICIENTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Subject:
    """A volume prepared for comparison with itself.

    Attributes
    ----------
    volume
        ``(n, n, n)``, the whole box, background 0.
    centre
        ``(3,)``, xyz in pixels from the origin: what the rotations are about.
    cut
        ``(m, m, m)``, the molecule about the centre, its spherical average taken out, same pixels.
    quality
        ``(s,)``, shells 1 to s of the cut box: what a true symmetry would correlate, in expectation; 0 where the shell
        does not count.
    """

    volume: Float[Tensor, "n n n"]
    centre: Float[Tensor, "3"]
    cut: Float[Tensor, "m m m"]
    quality: Float[Tensor, " s"]

    def about(self, centre: Float[Tensor, "3"]) -> "Subject":
        """Cut the same molecule, as large, about another centre."""
        return Subject(self.volume, centre, _cut(self.volume, centre, self.cut.shape[-1]), self.quality)

    @property
    def highest_shell(self) -> int:
        """The highest shell with signal, 0 if there is none."""
        signal = self.quality.nonzero()
        return int(signal.max()) + 1 if len(signal) else 0


def prepare(
    volume: Float[Tensor, "n n n"],
    quality: Float[Tensor, " k"] | None = None,
    centre: Float[Tensor, "3"] | None = None,
) -> Subject:
    """Cut a volume to its molecule.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``.
    quality
        ``(n // 2 + 1,)``, correlation with a copy that has other noise, shell by shell. If it is not given, the noise
        outside of the molecule is measured.
    centre
        ``(3,)``, what the rotations are about; the centre of mass if it is not given.
    """
    side = volume.shape[-1]
    volume = volume - background(volume[None])[0]
    smooth = resize(resize(volume[None], min(side, 2 * _SEARCH_SHELL + 1), 3), side, 3)
    if centre is None:
        centre = centre_of_mass(smooth)[0]
    radius = _extent(translate(smooth, -centre[None])[0])
    cut_side = min(side, max(2 * math.ceil(1.3 * radius), 2 * HIGHEST_SHELL + 1))
    cut = _cut(volume, centre, cut_side)
    if quality is None:
        expected = _quality_from_solvent(volume, centre, radius, cut)
    else:
        expected = _at(quality, side, cut).clamp(0, 1)
    shells = torch.arange(1, len(expected) + 1, device=volume.device)
    counted = (shells >= _LOWEST_SHELL) & (shells <= HIGHEST_SHELL) & (expected >= _LEAST_SIGNAL)
    return Subject(volume, centre, cut, torch.where(counted, expected, 0.0)[: min(len(expected), HIGHEST_SHELL)])


def self_correlations(
    subject: Subject,
    matrices: Float[Tensor, "m 3 3"],
    shifts: Float[Tensor, "m 3"] | None = None,
    shell: int = HIGHEST_SHELL,
) -> Float[Tensor, " m"]:
    """Correlate a volume with itself under orthogonal matrices, over the shells with signal up to one.

    Parameters
    ----------
    subject
        The volume.
    matrices
        ``(m, 3, 3)``, about ``subject.centre``.
    shifts
        ``(m, 3)``, xyz in pixels, after the matrix.
    shell
        The highest that counts.

    Returns
    -------
    Tensor
        ``(m,)``: 1 is what is expected of a true symmetry, 0 the mean over all rotations.
    """
    shell = min(shell, len(subject.quality))
    lattice, membership = half_ball(shell, subject.cut)
    spectra = half_cycle_spectra(subject.cut[None], shell, with_gradient=False)
    target = sample_spectra(spectra, lattice[None, None])[0, 0, :, 0]
    target = target * whitening(target, membership)
    weights = subject.quality[:shell]
    scale = shell / weights.square().sum().clamp(min=torch.finfo(weights.dtype).tiny)
    correlations = matrices.new_empty(len(matrices))
    size = max(1, _COEFFICIENTS_AT_ONCE // len(lattice))
    for part in (slice(start, start + size) for start in range(0, len(matrices), size)):
        turned = sample_spectra(spectra, (lattice @ matrices[part])[None])[0, ..., 0]
        turned = turned * whitening(turned, membership)
        if shifts is not None:
            turned = turned * shift_phases(lattice, shifts[part], subject.cut.shape[-1])
        correlations[part] = (target.conj() * turned).real @ membership @ weights * scale
    return correlations


def peaks(
    subject: Subject, count: int, *, mirrored: bool
) -> tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"], Float[Tensor, " k"]]:
    """Rotations, or mirrorings, that take a volume best onto itself, best first.

    Of a rotation and its inverse there is one; rotations near none are left out.

    Returns
    -------
    Tensor
        ``(k, 3, 3)``, orthogonal matrices; ``k`` is ``count`` or less.
    Tensor
        ``(k, 3)``, shifts in pixels that follow the matrix about ``subject.centre``.
    Tensor
        ``(k,)``, correlations as of :func:`self_correlations`.
    """
    hand = torch.diag(torch.tensor([1.0, 1.0, -1.0 if mirrored else 1.0])).to(subject.cut)
    grid = so3_grid(2).to(subject.cut) @ hand
    starts = grid[_separate(self_correlations(subject, grid, shell=_SEARCH_SHELL), grid, count, _SEPARATE_DEGREES)]
    matrices, shifts = registered(subject, starts)
    correlations = self_correlations(subject, matrices, shifts)
    chosen = _separate(correlations, matrices, len(matrices), _SAME_DEGREES)
    return matrices[chosen], shifts[chosen], correlations[chosen]


def registered(subject: Subject, starts: Float[Tensor, "k 3 3"]) -> tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"]]:
    """Move orthogonal matrices, and shifts after them, to where they take the volume best onto itself."""
    shells = (_SEARCH_SHELL, max(_SEARCH_SHELL, subject.highest_shell))
    config = AlignmentConfig(shells=shells, kept=(len(starts),) * 2, iterations=5)
    still = starts.new_zeros(1, 1, len(starts), 3)
    cut = subject.cut[None]
    found = refine_candidates(cut, cut, Candidates(starts[None, None], still, still[..., 0]), config)
    return found.matrices[0, 0], found.shifts_pixels[0, 0]


def fixed_point(matrices: Float[Tensor, "k 3 3"], shifts: Float[Tensor, "k 3"]) -> Float[Tensor, "3"]:
    """Point that moves ``x -> M x + t`` leave where it is, by least squares; along a common axis it stays at 0."""
    equations = (torch.eye(3).to(matrices) - matrices).flatten(0, 1)
    # what a mirroring or an axis leaves open has singular values near 0
    point: Tensor = torch.linalg.pinv(equations, rtol=0.1) @ shifts.flatten()
    return point


def _separate(
    scores: Float[Tensor, " m"], matrices: Float[Tensor, "m 3 3"], count: int, degrees: float
) -> Int[Tensor, " k"]:
    """Find the best, none nearer than an angle to a better one, to its inverse or to the identity."""
    identity = torch.eye(3).to(matrices).expand_as(matrices)
    scores = torch.where(angle_between(matrices, identity) < _LEAST_DEGREES, -torch.inf, scores)
    chosen: list[Tensor] = []
    while len(chosen) < count and bool(scores.max() > -torch.inf):
        best = scores.argmax()
        chosen.append(best)
        for other in (matrices[best], matrices[best].mT):
            scores = torch.where(angle_between(matrices, other.expand_as(matrices)) < degrees, -torch.inf, scores)
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.long, device=matrices.device)


def _window(side: int, like: Tensor) -> Float[Tensor, "m m m"]:
    return soft_ball(side, 3, 0.42 * side, 0.06 * side, like.device)


def _cut(volume: Float[Tensor, "n n n"], centre: Float[Tensor, "3"], side: int) -> Float[Tensor, "m m m"]:
    """Cut out the ball about a centre and take out its spherical average."""
    cut = recentre_crop(translate(volume[None], -centre[None])[0], side, 3) * _window(side, volume)
    return cut - _spherical_average(cut)


def _extent(volume: Float[Tensor, "n n n"]) -> float:
    """Radius in pixels about the origin that holds 97 % of the density above the mean and a standard deviation."""
    radius = radius_grid(volume.shape[-1], 3, volume.device).flatten()
    mass = (volume - volume.mean() - volume.std()).clamp(min=0).flatten()
    outwards = radius.argsort()
    held = mass[outwards].cumsum(0)
    return float(radius[outwards][(held < 0.97 * held[-1]).sum().clamp(max=len(held) - 1)])


def _spherical_average(volume: Float[Tensor, "m m m"]) -> Float[Tensor, "m m m"]:
    """Mean over the sphere through each voxel, interpolated linearly between whole radii."""
    radius = radius_grid(volume.shape[-1], 3, volume.device).flatten()
    inner = radius.floor().long()
    part = radius - inner
    count = int(inner.max()) + 2
    values = volume.flatten()
    total = shell_sum(values * (1 - part), inner, count) + shell_sum(values * part, inner + 1, count)
    weight = shell_sum(1 - part, inner, count) + shell_sum(part, inner + 1, count)
    profile = total / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    return (profile[inner] * (1 - part) + profile[inner + 1] * part).view_as(volume)


def _shell_power(volume: Float[Tensor, "n n n"]) -> Float[Tensor, " k"]:
    """Mean squared modulus of the spectrum in the shells 0 to ``n // 2``."""
    side = volume.shape[-1]
    shells = shell_index(side, 3, volume.device).flatten()
    power = (centred_fft(volume, 3).abs() ** 2).flatten()
    return shell_sum(power, shells, side // 2 + 1) / shell_sum(torch.ones_like(power), shells, side // 2 + 1)


def _at(curve: Float[Tensor, " k"], side: int, cut: Float[Tensor, "m m m"]) -> Float[Tensor, " s"]:
    """Curve over the shells of a box, at the shells 1 to ``m // 2`` of a smaller one with the same pixels."""
    place = torch.arange(1, cut.shape[-1] // 2 + 1, device=cut.device) * (side / cut.shape[-1])
    lower = place.floor().long().clamp(max=len(curve) - 2)
    part = (place - lower).clamp(max=1)
    return curve[lower] * (1 - part) + curve[lower + 1] * part


def _quality_from_solvent(
    volume: Float[Tensor, "n n n"],
    centre: Float[Tensor, "3"],
    radius: float,
    cut: Float[Tensor, "m m m"],
) -> Float[Tensor, " s"]:
    """Part of the power of each shell of the cut box that is not noise, as there is outside of the molecule."""
    side = volume.shape[-1]
    outside = 1 - soft_ball(side, 3, 1.3 * radius, 2.0, volume.device)
    solvent = translate(volume[None], -centre[None])[0] * outside
    density = _shell_power(solvent) / outside.square().sum().clamp(min=1)
    noise = _at(density, side, cut) * _window(cut.shape[-1], cut).square().sum()
    power = _shell_power(cut)[1:]
    return (1 - noise / power.clamp(min=torch.finfo(power.dtype).tiny)).clamp(0, 1)
