"""Registration of volumes to references over rotations, shifts and both hands.

A radial filter commutes with rotation, so both spectra are first given the same power in every shell; their inner
product is then the mean Fourier shell correlation, which is what is maximised. It is searched on a grid of rotations,
shifts and hands over the lowest shells, and the best candidates are refined by damped Gauss-Newton steps over more and
more shells. A mirrored candidate is an orthogonal matrix of determinant -1 and needs no treatment of its own.

Frequencies are in cycles per box, columns xyz; the origin is ``side // 2`` throughout.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from ..geometry.grids import so3_grid
from ..geometry.rotations import from_rotation_vectors, mirror_matrix
from ..imaging.fourier import resize, translate
from ..imaging.resampling import mirror_z, rotate_volumes
from ..limits import check_limits
from .spectra import background, centre_of_mass, half_ball, half_cycle_spectra, sample_spectra, shift_phases, whitening

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
        Candidates of each hand that enter each refinement.
    iterations
        Gauss-Newton steps in each refinement.
    """

    grid_order: int = 2
    coarse_shell: int = 5
    shift_step: float = 0.05
    shells: tuple[int, ...] = (6, 12, 32)
    kept: tuple[int, ...] = (8, 3, 1)
    iterations: int = 8

    def __post_init__(self) -> None:
        check_limits(
            self,
            grid_order=(0, 5),
            coarse_shell=(1, 10**5),
            shift_step=(1e-3, 1.0),
            shells=(1, 10**5),
            kept=(1, 10**4),
            iterations=(0, 10**4),
        )


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


@dataclass(frozen=True)
class Candidates:
    """Alignments of each volume that may be right, the hands apart, best first.

    Attributes
    ----------
    matrices
        ``(b, 2, k, 3, 3)``, orthogonal, on xyz column vectors: rotations, then those that mirror (determinant -1).
    shifts_pixels
        ``(b, 2, k, 3)``, ``[x, y, z]``, after the matrix.
    correlation
        ``(b, 2, k)``, mean Fourier shell correlation over the shells of the last refinement, falling along ``k``.
    """

    matrices: Float[Tensor, "b hands k 3 3"]
    shifts_pixels: Float[Tensor, "b hands k 3"]
    correlation: Float[Tensor, "b hands k"]


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
    return best_candidate(find_candidates(mobile, reference, config))


def best_candidate(candidates: Candidates) -> Alignment:
    """Choose the best candidate of the better hand; the margin is to the best of the other."""
    scores = candidates.correlation[:, :, 0]
    hand = scores.argmax(1)
    rows = torch.arange(len(scores), device=scores.device)
    mirrored, chosen = hand == 1, candidates.matrices[rows, hand, 0]
    rotations = torch.where(mirrored[:, None, None], chosen @ mirror_matrix(chosen), chosen)
    correlation = scores[rows, hand]
    margin = correlation - scores[rows, 1 - hand]
    return Alignment(rotations, candidates.shifts_pixels[rows, hand, 0], mirrored, correlation, margin)


def find_candidates(
    mobile: Float[Tensor, "b n n n"], reference: Float[Tensor, "r n n n"], config: AlignmentConfig
) -> Candidates:
    """Search rotations, shifts and both hands, and refine what is best, as :func:`align` does.

    The last of ``config.kept`` candidates of each hand are returned. They are distinct on the grid of the search; two
    may meet in one peak when they are refined.
    """

    def search(part: slice, own: Float[Tensor, "r n n n"]) -> Candidates:
        chunk = mobile[part]
        shell = min(config.coarse_shell, (mobile.shape[-1] - 1) // 2)
        spectra, targets = (
            half_cycle_spectra(chunk, shell, with_gradient=False),
            half_cycle_spectra(own, shell, with_gradient=False),
        )
        matrices, shifts = _search(chunk, own, spectra, targets, shell, config)
        return _refined(chunk, own, Candidates(matrices, shifts, shifts[..., 0]), config)

    return _in_chunks(search, mobile, reference, config)


def refine_candidates(
    mobile: Float[Tensor, "b n n n"],
    reference: Float[Tensor, "r n n n"],
    candidates: Candidates,
    config: AlignmentConfig,
) -> Candidates:
    """Refine given candidates, without a search, and order them; with no iterations they are only scored.

    As many enter each refinement as ``config.kept`` says, in their order.
    """

    def refine(part: slice, own: Float[Tensor, "r n n n"]) -> Candidates:
        chosen = Candidates(candidates.matrices[part], candidates.shifts_pixels[part], candidates.correlation[part])
        return _refined(mobile[part], own, chosen, config)

    return _in_chunks(refine, mobile, reference, config)


def _in_chunks(
    function: Callable[[slice, Float[Tensor, "r n n n"]], Candidates],
    mobile: Float[Tensor, "b n n n"],
    reference: Float[Tensor, "r n n n"],
    config: AlignmentConfig,
) -> Candidates:
    finest = min(max(config.shells), (mobile.shape[-1] - 1) // 2)
    numbers = 8 * (2 * (2 * finest + 1)) ** 3
    size = max(1, _NUMBERS_AT_ONCE // numbers)
    chunks = [slice(start, start + size) for start in range(0, len(mobile), size)]
    parts = [function(part, reference if len(reference) == 1 else reference[part]) for part in chunks]
    fields = Candidates.__dataclass_fields__
    return Candidates(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


def apply_alignment(mobile: Float[Tensor, "b n n n"], alignment: Alignment) -> Float[Tensor, "b n n n"]:
    """Resample volumes in the frame of their references.

    The rotation samples a copy of twice the sampling: trilinear weights then hardly alias, and what they attenuate
    they attenuate evenly over a shell. What turns in from outside the box is the volume's median; the shift is
    exact and periodic.
    """
    side = mobile.shape[-1]
    level = background(mobile)
    handed = torch.where(alignment.mirrored[:, None, None, None], mirror_z(mobile), mobile) - level
    turned = [
        resize(rotate_volumes(resize(volume[None], 2 * side, 3), rotation[None]), side, 3)
        for volume, rotation in zip(handed, alignment.rotations, strict=True)
    ]
    return translate(torch.cat(turned), alignment.shifts_pixels) + level


def _refined(
    mobile: Float[Tensor, "b n n n"],
    reference: Float[Tensor, "r n n n"],
    candidates: Candidates,
    config: AlignmentConfig,
) -> Candidates:
    count, hands, side = mobile.shape[0], candidates.correlation.shape[1], mobile.shape[-1]
    finest = min(max(config.shells), (side - 1) // 2)
    spectra = half_cycle_spectra(mobile, finest, with_gradient=True)
    reference_spectra = half_cycle_spectra(reference, finest, with_gradient=False)
    matrices, shifts, scores = candidates.matrices, candidates.shifts_pixels, candidates.correlation
    for shell, wanted in zip(config.shells, config.kept, strict=True):
        lattice, membership = half_ball(min(shell, finest), mobile)
        target = sample_spectra(reference_spectra, lattice[None, None])[..., 0]
        target = target * whitening(target, membership)
        kept = min(wanted, matrices.shape[2])
        refined = _refine(
            spectra,
            target,
            lattice,
            membership,
            matrices[:, :, :kept].reshape(count, hands * kept, 3, 3),
            shifts[:, :, :kept].reshape(count, hands * kept, 3),
            side,
            config.iterations,
        )
        scores, order = refined[2].view(count, hands, kept).sort(dim=2, descending=True)
        matrices = refined[0].view(count, hands, kept, 3, 3).gather(2, order[..., None, None].expand(-1, -1, -1, 3, 3))
        shifts = refined[1].view(count, hands, kept, 3).gather(2, order[..., None].expand(-1, -1, -1, 3))
    return Candidates(matrices, shifts, scores)


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
    lattice, membership = half_ball(shell, mobile)
    rotations = so3_grid(config.grid_order).to(mobile)
    steps = torch.tensor([-1.0, 0.0, 1.0]).to(mobile) * config.shift_step * side
    offsets = torch.cartesian_prod(steps, steps, steps)
    hands = torch.stack([torch.eye(3).to(mobile), mirror_matrix(mobile)])
    centres = (centre_of_mass(mobile)[:, None, None] @ hands)[:, :, 0]  # (b, hand, xyz)
    reference_centres = centre_of_mass(reference)

    # the mirrored volume's spectrum is the spectrum at the mirrored frequency
    values = sample_spectra(spectra[:, :2], (lattice @ hands)[None])[..., 0]
    values = values * whitening(values, membership)
    moves = offsets - centres[:, :, None]  # (b, hand, offset, xyz)
    values = values[:, :, None] * shift_phases(lattice, moves, side)
    found_matrices, found_shifts = [], []
    turned = values.new_zeros(0)
    for i in range(len(mobile)):
        if i < len(reference):
            frequencies = lattice @ rotations.mT
            turned = sample_spectra(reference_spectra[i : i + 1], frequencies[None])[0, ..., 0]
            turned = turned * whitening(turned, membership)
            turned = turned * shift_phases(frequencies, -reference_centres[i].expand(len(rotations), 3), side)
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
    sampled = sample_spectra(spectra, lattice @ matrices) * shift_phases(lattice, shifts, side)[..., None]
    scaled = sampled * whitening(sampled[..., 0], membership)[..., None]
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
