"""Registration of volumes to references over rotations, shifts and both hands.

A radial filter commutes with rotation, so both spectra are first given the same power in every shell; their inner
product is then the mean Fourier shell correlation, which is what is maximised. It is searched on a grid of rotations,
shifts and hands over the lowest shells, and the best candidates are refined by damped Gauss-Newton steps over more and
more shells. A mirrored candidate is an orthogonal matrix of determinant -1 and needs no treatment of its own.

Frequencies are in cycles per box, columns xyz; the origin is ``side // 2`` throughout.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from ..geometry.grids import so3_grid
from ..geometry.rotations import from_rotation_vectors
from ..imaging.fourier import centred_fft, recentre_crop, resize, translate
from ..imaging.resampling import mirror_z, rotate_volumes

# Real numbers in the spectra that are held at once, 4 bytes each: about 250 MB.
_NUMBERS_AT_ONCE = 2**26


@dataclass(frozen=True)
class AlignmentConfig:
    """How far the search goes.

    Attributes
    ----------
    grid_order
        Order of the grid of rotations, :func:`scoretomo.geometry.grids.so3_grid`: 2 is a spacing of 15 degrees.
    coarse_shell
        Highest shell of the grid search.
    shift_step
        Spacing of the 3 x 3 x 3 shifts about coinciding centres of mass, as a part of the box.
    shells
        Highest shell of each refinement; those beyond the volumes are cut to what they have.
    kept
        Candidates of each hand that enter each refinement; the last must be 1.
    iterations
        Gauss-Newton steps in each refinement.
    """

    grid_order: int = 2
    coarse_shell: int = 5
    shift_step: float = 0.05
    shells: tuple[int, ...] = (6, 12, 32)
    kept: tuple[int, ...] = (8, 3, 1)
    iterations: int = 8


@dataclass(frozen=True)
class Alignment:
    """What takes each volume onto its reference: mirror z about the centre, rotate about the centre, then shift.

    Attributes
    ----------
    rotations
        ``(b, 3, 3)``, active, on xyz column vectors.
    shifts_pixels
        ``(b, 3)``, ``[x, y, z]``, in pixels, positive moves the density to larger index.
    mirrored
        ``(b,)``, whether z is mirrored (z to -z about index ``side // 2``) before the rotation.
    correlation
        ``(b,)``, mean Fourier shell correlation over the shells of the last refinement; 0 for an empty volume.
    hand_margin
        ``(b,)``, the correlation less that of the best alignment with the other hand.
    """

    rotations: Float[Tensor, "b 3 3"]
    shifts_pixels: Float[Tensor, "b 3"]
    mirrored: Bool[Tensor, " b"]
    correlation: Float[Tensor, " b"]
    hand_margin: Float[Tensor, " b"]


def align(
    mobile: Float[Tensor, "b n n n"],
    reference: Float[Tensor, "r n n n"],
    config: AlignmentConfig = AlignmentConfig(),
) -> Alignment:
    """Find the rotation, shift and hand that take each volume onto its reference.

    Parameters
    ----------
    mobile
        ``(b, n, n, n)``, axes ``[z, y, x]``.
    reference
        ``(b, n, n, n)``, or ``(1, n, n, n)`` for one that all share.
    config
        Extent of the search.
    """
    finest = min(max(config.shells), (mobile.shape[-1] - 1) // 2)
    numbers = 8 * (2 * (2 * finest + 1)) ** 3
    chunk = max(1, _NUMBERS_AT_ONCE // numbers)
    parts = []
    for start in range(0, len(mobile), chunk):
        chosen = slice(start, start + chunk)
        parts.append(_align_chunk(mobile[chosen], reference if len(reference) == 1 else reference[chosen], config))
    fields = Alignment.__dataclass_fields__
    return Alignment(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


def apply_alignment(mobile: Float[Tensor, "b n n n"], alignment: Alignment) -> Float[Tensor, "b n n n"]:
    """Resample volumes in the frame of their references.

    The rotation samples a copy of twice the sampling: trilinear weights then hardly alias, and what they attenuate
    they attenuate evenly over a shell. What turns in from outside the box is the volume's median; the shift is
    exact and periodic.
    """
    side = mobile.shape[-1]
    background = _background(mobile)
    handed = torch.where(alignment.mirrored[:, None, None, None], mirror_z(mobile), mobile) - background
    turned = [
        resize(rotate_volumes(resize(volume[None], 2 * side, 3), rotation[None]), side, 3)
        for volume, rotation in zip(handed, alignment.rotations, strict=True)
    ]
    return translate(torch.cat(turned), alignment.shifts_pixels) + background


def _align_chunk(
    mobile: Float[Tensor, "b n n n"], reference: Float[Tensor, "r n n n"], config: AlignmentConfig
) -> Alignment:
    count, side = mobile.shape[0], mobile.shape[-1]
    finest = min(max(config.shells), (side - 1) // 2)
    spectra = _spectra(mobile, finest, with_gradient=True)
    reference_spectra = _spectra(reference, finest, with_gradient=False)
    matrices, shifts = _search(mobile, reference, spectra, reference_spectra, min(config.coarse_shell, finest), config)
    scores = shifts.new_zeros(count, 2, config.kept[0])
    for shell, kept in zip(config.shells, config.kept, strict=True):
        lattice, membership = _half_ball(min(shell, finest), mobile)
        target = _sample(reference_spectra, lattice[None, None])[..., 0]
        target = target * _whitening(target, membership)
        refined = _refine(
            spectra,
            target,
            lattice,
            membership,
            matrices[:, :, :kept].reshape(count, 2 * kept, 3, 3),
            shifts[:, :, :kept].reshape(count, 2 * kept, 3),
            side,
            config.iterations,
        )
        scores, order = refined[2].view(count, 2, kept).sort(dim=2, descending=True)
        matrices = refined[0].view(count, 2, kept, 3, 3).gather(2, order[..., None, None].expand(-1, -1, -1, 3, 3))
        shifts = refined[1].view(count, 2, kept, 3).gather(2, order[..., None].expand(-1, -1, -1, 3))
    hand = scores[:, :, 0].argmax(1)
    rows = torch.arange(count, device=mobile.device)
    mirrored, chosen = hand == 1, matrices[rows, hand, 0]
    rotations = torch.where(mirrored[:, None, None], chosen @ _mirror(mobile), chosen)
    correlation = scores[rows, hand, 0]
    return Alignment(rotations, shifts[rows, hand, 0], mirrored, correlation, correlation - scores[rows, 1 - hand, 0])


def _background(volumes: Float[Tensor, "b n n n"]) -> Float[Tensor, "b 1 1 1"]:
    """Median of each volume, so that a constant makes no step at the edge of the box once it is turned or padded."""
    return volumes.flatten(1).median(1).values[:, None, None, None]


def _mirror(like: Tensor) -> Float[Tensor, "3 3"]:
    return torch.diag(torch.tensor([1.0, 1.0, -1.0])).to(like)


def _spectra(volumes: Float[Tensor, "b n n n"], shell: int, with_gradient: bool) -> Float[Tensor, "b channels p p p"]:
    """Spectra up to a shell on a lattice of half a cycle per box, real and imaginary parts as channels.

    With the gradient, the derivatives along x, y and z follow: the spectra of ``-2 pi i x`` times the volume.
    """
    side = 2 * shell + 1
    small = resize(volumes - _background(volumes), side, 3)[:, None]
    if with_gradient:
        axis = (torch.arange(side, device=volumes.device, dtype=volumes.dtype) - side // 2) / side
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        small = small * torch.stack([torch.ones_like(x), x, y, z])
    spectra = centred_fft(recentre_crop(small, 2 * side, 3), 3)
    spectra[:, 1:] *= -2j * math.pi
    return torch.view_as_real(spectra).movedim(-1, 2).flatten(1, 2).contiguous()


def _half_ball(shell: int, like: Tensor) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k s"]]:
    """Integer frequencies (xyz) within a shell, one of each Friedel pair, without the origin; their shells one-hot."""
    axis = torch.arange(-shell, shell + 1, device=like.device)
    x, y, z = torch.cartesian_prod(axis, axis, axis).unbind(-1)
    half = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
    lattice = torch.stack([x, y, z], dim=-1)[half & (x * x + y * y + z * z <= shell * shell)].to(like.dtype)
    return lattice, torch.nn.functional.one_hot(lattice.norm(dim=-1).round().long() - 1).to(like.dtype)


def _sample(
    spectra: Float[Tensor, "b channels p p p"], frequencies: Float[Tensor, "#b m k 3"]
) -> Complex[Tensor, "b m k c"]:
    """Spectra (and their derivatives) at any frequencies, with trilinear weights."""
    padded = spectra.shape[-1]
    points = (padded // 2 + 2 * frequencies) * (2 / (padded - 1)) - 1
    points = points.expand(len(spectra), -1, -1, -1)[..., None, :]
    values = torch.nn.functional.grid_sample(spectra, points, align_corners=True)[..., 0]
    real, imaginary = values[:, 0::2].permute(0, 2, 3, 1), values[:, 1::2].permute(0, 2, 3, 1)
    return torch.complex(real, imaginary)


def _shift_phases(
    frequencies: Float[Tensor, "*#batch k 3"], shifts: Float[Tensor, "*batch 3"], side: int
) -> Complex[Tensor, "*batch k"]:
    """Factors that move the density by ``shifts`` pixels: ``exp(-2 pi i k s / n)``."""
    angles = (frequencies @ shifts[..., None])[..., 0] * (-2 * math.pi / side)
    return torch.polar(torch.ones_like(angles), angles)


def _whitening(values: Complex[Tensor, "*batch k"], membership: Float[Tensor, "k s"]) -> Float[Tensor, "*batch k"]:
    """Factors that give every shell the same power, so that inner products are mean shell correlations."""
    power = (values.abs() ** 2) @ membership * membership.shape[1]
    scale = torch.where(power > 0, power.clamp(min=torch.finfo(power.dtype).tiny).rsqrt(), torch.zeros_like(power))
    return scale @ membership.T


def _centre_of_mass(volumes: Float[Tensor, "b n n n"]) -> Float[Tensor, "b 3"]:
    """Centre (xyz, pixels from the origin) of the density more than one standard deviation out."""
    side = volumes.shape[-1]
    level = volumes.mean((1, 2, 3), keepdim=True) + volumes.std((1, 2, 3), keepdim=True)
    mass = (volumes - level).clamp(min=0)
    axis = torch.arange(side, device=volumes.device, dtype=volumes.dtype) - side // 2
    total = mass.sum((1, 2, 3)).clamp(min=torch.finfo(volumes.dtype).tiny)
    moments = [mass.sum(others) @ axis for others in ((1, 2), (1, 3), (2, 3))]
    return torch.stack(moments, dim=-1) / total[:, None]


def _search(
    mobile: Float[Tensor, "b n n n"],
    reference: Float[Tensor, "r n n n"],
    spectra: Float[Tensor, "b channels p p p"],
    reference_spectra: Float[Tensor, "r two p p p"],
    shell: int,
    config: AlignmentConfig,
) -> tuple[Float[Tensor, "b hands k 3 3"], Float[Tensor, "b hands k 3"]]:
    """Best candidates of each hand over the grid of rotations and shifts, as orthogonal matrices and shifts.

    With both centred on their masses, a volume moved by t and the reference turned back by R are compared:
    sum over q of conj(M(q) exp(-2 pi i q t / n)) Ref(R q), one matrix product over rotations and shifts.
    """
    side = mobile.shape[-1]
    lattice, membership = _half_ball(shell, mobile)
    rotations = so3_grid(config.grid_order).to(mobile)
    steps = torch.tensor([-1.0, 0.0, 1.0]).to(mobile) * config.shift_step * side
    offsets = torch.cartesian_prod(steps, steps, steps)
    hands = torch.stack([torch.eye(3).to(mobile), _mirror(mobile)])
    centres = (_centre_of_mass(mobile)[:, None, None] @ hands)[:, :, 0]  # (b, hand, xyz)
    reference_centres = _centre_of_mass(reference)

    # the mirrored volume's spectrum is the spectrum at the mirrored frequency
    values = _sample(spectra[:, :2], (lattice @ hands)[None])[..., 0]
    values = values * _whitening(values, membership)
    moves = offsets - centres[:, :, None]  # (b, hand, offset, xyz)
    values = values[:, :, None] * _shift_phases(lattice, moves, side)
    found_matrices, found_shifts = [], []
    turned = values.new_zeros(0)
    for i in range(len(mobile)):
        if i < len(reference):
            frequencies = lattice @ rotations.mT
            turned = _sample(reference_spectra[i : i + 1], frequencies[None])[0, ..., 0]
            turned = turned * _whitening(turned, membership)
            turned = turned * _shift_phases(frequencies, -reference_centres[i].expand(len(rotations), 3), side)
        scores = torch.view_as_real(values[i]).flatten(-2) @ torch.view_as_real(turned).flatten(-2).T
        scores, offset = scores.max(1)  # (hand, rotation)
        best = _distinct_best(scores, rotations, config)
        move = moves[i].gather(1, offset.gather(1, best)[..., None].expand(-1, -1, 3))
        turn = rotations[best]
        found_matrices.append(turn @ hands[:, None])
        found_shifts.append((turn @ move[..., None])[..., 0] + reference_centres[min(i, len(reference) - 1)])
    return torch.stack(found_matrices), torch.stack(found_shifts)


def _distinct_best(
    scores: Float[Tensor, "hands g"], rotations: Float[Tensor, "g 3 3"], config: AlignmentConfig
) -> Int[Tensor, "hands k"]:
    """Best rotations of each hand, no two of them nearer than one and a half grid spacings."""
    nearest = 1 + 2 * math.cos(math.radians(1.5 * 60 / 2**config.grid_order))  # trace of the relative rotation
    chosen = []
    for _ in range(config.kept[0]):
        best = scores.argmax(1)
        chosen.append(best)
        traces = rotations[best].flatten(1) @ rotations.flatten(1).T
        scores = torch.where(traces > nearest, -torch.inf, scores)
    return torch.stack(chosen, dim=1)


def _refine(
    spectra: Float[Tensor, "b channels p p p"],
    target: Complex[Tensor, "#b 1 k"],
    lattice: Float[Tensor, "k 3"],
    membership: Float[Tensor, "k s"],
    matrices: Float[Tensor, "b m 3 3"],
    shifts: Float[Tensor, "b m 3"],
    side: int,
    iterations: int,
) -> tuple[Float[Tensor, "b m 3 3"], Float[Tensor, "b m 3"], Float[Tensor, "b m"]]:
    """Levenberg-Marquardt steps on rotation vector and shift; a step that does not raise the score is not taken."""
    damping = torch.full(matrices.shape[:2], 0.1).to(shifts)
    score, hessian, gradient = _linearise(spectra, target, lattice, membership, matrices, shifts, side)
    for _ in range(iterations):
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        # the floor keeps an empty volume's system solvable
        damped = hessian + torch.diag_embed(damping[..., None] * diagonal + 1e-6)
        step = torch.linalg.solve(damped, gradient)
        trial_matrices = from_rotation_vectors(step[..., :3]) @ matrices
        trial_shifts = shifts + step[..., 3:]
        trial = _linearise(spectra, target, lattice, membership, trial_matrices, trial_shifts, side)
        better = trial[0] > score
        matrices = torch.where(better[..., None, None], trial_matrices, matrices)
        shifts = torch.where(better[..., None], trial_shifts, shifts)
        score = torch.where(better, trial[0], score)
        hessian = torch.where(better[..., None, None], trial[1], hessian)
        gradient = torch.where(better[..., None], trial[2], gradient)
        damping = torch.where(better, damping / 5, damping * 5)
    return matrices, shifts, score


def _linearise(
    spectra: Float[Tensor, "b channels p p p"],
    target: Complex[Tensor, "#b 1 k"],
    lattice: Float[Tensor, "k 3"],
    membership: Float[Tensor, "k s"],
    matrices: Float[Tensor, "b m 3 3"],
    shifts: Float[Tensor, "b m 3"],
    side: int,
) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m 6 6"], Float[Tensor, "b m 6"]]:
    """Mean shell correlation, and the normal equations of target minus moved spectrum in (rotation vector, shift).

    The moved spectrum is M(Q^T k) exp(-2 pi i k s / n). A rotation by w after Q changes Q^T k by Q^T (k x w), so the
    derivative is (Q grad M) x k; the derivative in s is -2 pi i k / n times the spectrum.
    """
    sampled = _sample(spectra, lattice @ matrices) * _shift_phases(lattice, shifts, side)[..., None]
    scaled = sampled * _whitening(sampled[..., 0], membership)[..., None]
    values = scaled[..., 0]
    correlations = (target.conj() * values).real @ membership
    slopes = scaled[..., 1:] @ matrices.mT.to(values.dtype)
    turning = torch.linalg.cross(slopes, lattice.to(values.dtype).expand_as(slopes))
    moving = values[..., None] * (lattice * (-2j * math.pi / side))
    # a shell counts by its correlation: those of noise would only shorten the steps
    weights = (correlations.clamp(min=0) * membership.shape[1]).sqrt() @ membership.T
    jacobian = torch.cat([turning, moving], dim=-1) * weights[..., None]
    jacobian = torch.view_as_real(jacobian).movedim(-1, -2).flatten(-3, -2)
    residual = torch.view_as_real((target - values) * weights).flatten(-2)
    hessian = jacobian.mT @ jacobian
    gradient = (jacobian.mT @ residual[..., None])[..., 0]
    return correlations.sum(-1), hessian, gradient
