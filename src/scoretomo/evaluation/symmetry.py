"""Point group of a volume, found from nothing but the volume.

The largest correlations of the volume with itself over SO(3) give axes and their orders, pairs of axes give groups,
and each group is refined as a whole, orientation and centre, against the volume averaged over it. The largest group
wins whose weakest rotation still does nearly as well as the best group. What is claimed must hold over the shells with
signal, on the scale of self_correlation.py: a rotation of an asymmetric molecule comes to 0.45 at most.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry.rotations import angle_between, from_rotation_vectors, mirror_matrix
from ..geometry.symmetry import symmetry_group
from ..imaging.resampling import symmetrise
from ..limits import check_limits
from .alignment import AlignmentConfig, Candidates, refine_candidates
from .self_correlation import Subject, fixed_point, peaks, prepare, self_correlations

_AXES = 20  # that groups are made of
_SAME_AXIS = math.cos(math.radians(6))
_SEARCH_SHELL = 8  # for what is not refined yet
_PART = 0.6  # of its threshold that a group which is not refined yet must reach
# Axes of each polyhedral group by which it is placed: their order and the cosine between two that are neighbours.
_POLYHEDRA = {"T": (3, 1 / 3), "O": (4, 0.0), "I": (5, 1 / math.sqrt(5))}


@dataclass(frozen=True)
class SymmetryConfig:
    """What counts as a symmetry.

    Attributes
    ----------
    least
        Correlation that each rotation of a group must reach; 1 is what the quality of the volume allows.
    share
        Part of the best group's correlation that the weakest rotation of a larger one must reach.
    least_shell
        Signal must reach to this shell, in cycles over 1.3 times the molecule's width, or no symmetry is claimed.
    highest_order
        Of an axis. One that has two such orders without a common multiple among them is taken for a cylinder's.
    peaks
        Rotations of the search that are refined.
    """

    least: float = 0.7
    share: float = 0.85
    least_shell: int = 7
    highest_order: int = 14
    peaks: int = 32

    def __post_init__(self) -> None:
        check_limits(
            self, least=(-1.0, 1.0), share=(0.0, 1.0), least_shell=(1, 10**5), highest_order=(2, 1000), peaks=(1, 10**5)
        )


@dataclass(frozen=True)
class Symmetry:
    """The point group of a volume and where it lies.

    Attributes
    ----------
    group
        Name, as :func:`scoretomo.geometry.symmetry.symmetry_group` knows it.
    frame
        ``(3, 3)``, the rotation that takes the group's standard orientation to that of the volume.
    centre_pixels
        ``(3,)``, ``[x, y, z]``, fixed point of the group, from the origin of the volume.
    correlations
        ``(g,)``, of the volume with itself under each rotation of the group; 1 is what its quality allows.
    threshold
        Correlation that each rotation had to reach.
    runner_up, runner_up_correlation
        The best of the groups that were not accepted, C1 if there is none, and the correlation of its weakest rotation.
    mirror
        ``(3, 3)``, orthogonal with determinant -1: the mirroring about the centre that takes the volume best onto
        itself.
    mirror_correlation
        Correlation under it; an object without a hand comes near to 1.
    resolved
        Whether there was signal enough to tell a molecule from a ball.
    """

    group: str
    frame: Float[Tensor, "3 3"]
    centre_pixels: Float[Tensor, "3"]
    correlations: Float[Tensor, " g"]
    threshold: float
    runner_up: str
    runner_up_correlation: float
    mirror: Float[Tensor, "3 3"]
    mirror_correlation: float
    resolved: bool

    @property
    def rotations(self) -> Float[Tensor, "g 3 3"]:
        """Rotations of the group in the frame of the volume, about ``centre_pixels``."""
        return self.frame @ symmetry_group(self.group).to(self.frame) @ self.frame.mT

    @property
    def correlation(self) -> float:
        """Correlation under the weakest rotation of the group."""
        return float(self.correlations.min())

    @property
    def margin(self) -> float:
        """How far correlations are from the threshold: the least of the group's own and of the runner-up's."""
        others = self.threshold - self.runner_up_correlation
        return others if self.group == "C1" else min(self.correlation - self.threshold, others)

    @property
    def axes(self) -> list[tuple[int, list[float]]]:
        """Order and direction (xyz, in the frame of the volume) of every axis, the highest orders first."""
        found: list[tuple[int, Tensor]] = []
        angles = _angles(self.rotations)
        for i in angles.argsort().tolist()[1:]:  # the least angle about an axis is the first
            axis = _axis(self.rotations[i])
            if all(abs(float(axis @ other)) < _SAME_AXIS for _, other in found):
                found.append((round(360 / float(angles[i])), axis))
        return [(order, axis.tolist()) for order, axis in sorted(found, key=lambda pair: -pair[0])]

    @property
    def words(self) -> str:
        """One sentence for a report."""
        if not self.resolved:
            return "No symmetry is claimed (C1): at this resolution every molecule looks like a ball."
        rejected = f"{self.runner_up} comes to {self.runner_up_correlation:.2f}, below {self.threshold:.2f}"
        if self.group == "C1":
            return f"No symmetry (C1): {rejected}." if self.runner_up != "C1" else "No symmetry (C1)."
        rest = f"; {rejected}" if self.runner_up != "C1" else ""
        return (
            f"{self.group}: under each of its rotations the volume agrees with itself by {self.correlation:.2f}{rest}."
        )


@dataclass(frozen=True)
class _Placed:
    """A group in one orientation about one centre."""

    name: str
    frame: Float[Tensor, "3 3"]
    subject: Subject
    correlations: Float[Tensor, " g"]

    @property
    def weakest(self) -> float:
        return float(self.correlations.min())

    @property
    def mean(self) -> float:
        return float(self.correlations[1:].mean())


def find_symmetry(
    volume: Float[Tensor, "n n n"],
    config: SymmetryConfig = SymmetryConfig(),
    *,
    quality: Float[Tensor, " k"] | None = None,
) -> Symmetry:
    """Find the largest point group that a volume supports; C1 if there is none.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``; 32 to 64 voxels are enough.
    config
        What counts as a symmetry.
    quality
        ``(n // 2 + 1,)``, what a copy of the volume with other noise would correlate with it, shell by shell: for the
        mean of two halves with an FSC of f it is ``2 f / (1 + f)``. If it is not given, the noise outside of the
        molecule is measured; a volume that is 0 there counts as free of noise.
    """
    subject = prepare(volume, quality)
    if subject.highest_shell < config.least_shell:
        return _unresolved(subject, config)
    matrices, shifts, correlations = peaks(subject, config.peaks, mirrored=False)
    if bool(correlations[0] > _PART * config.least):
        good = correlations > 0.85 * correlations[0]
        subject = prepare(volume, quality, subject.centre + fixed_point(matrices[good], shifts[good]))
    mirror, _, mirror_correlations = peaks(subject, 4, mirrored=True)
    none = _Placed("C1", torch.eye(3).to(volume), subject, torch.ones(1).to(volume))
    chosen, rejected, threshold = _decide(none, list(_candidates(subject, matrices, config)), config)
    return Symmetry(
        chosen.name,
        chosen.frame,
        chosen.subject.centre,
        chosen.correlations,
        threshold,
        rejected.name,
        rejected.weakest if rejected.name != "C1" else 0.0,
        mirror[0],
        float(mirror_correlations[0]),
        resolved=True,
    )


def _unresolved(subject: Subject, config: SymmetryConfig) -> Symmetry:
    whole = torch.eye(3).to(subject.cut)
    mirror = mirror_matrix(whole)
    alone = torch.ones(1).to(whole)
    return Symmetry("C1", whole, subject.centre, alone, config.least, "C1", 0.0, mirror, 0.0, resolved=False)


def _decide(none: _Placed, candidates: Sequence[_Placed], config: SymmetryConfig) -> tuple[_Placed, _Placed, float]:
    """Choose the largest group that is accepted; beside it the best that is not, and the threshold."""
    best = max((candidate.mean for candidate in candidates), default=0.0)
    threshold = max(config.least, config.share * best)
    rejected = none
    for candidate in sorted(candidates, key=lambda one: (-len(one.correlations), -one.mean)):
        if candidate.weakest >= _PART * threshold:
            candidate = _refined(candidate)
        if candidate.weakest >= threshold:
            return candidate, rejected, threshold
        if rejected is none or candidate.weakest > rejected.weakest:
            rejected = candidate
    return none, rejected, threshold


def _candidates(subject: Subject, matrices: Float[Tensor, "k 3 3"], config: SymmetryConfig) -> Iterator[_Placed]:
    """Each group in its best orientation that the axes of the peaks allow."""
    axes = _distinct_axes(matrices)
    orders = [_orders(subject, axis, config) for axis in axes]
    for name, frames in _placements(axes, orders).items():
        placed = [_place(name, frame, subject, _SEARCH_SHELL) for frame in frames]
        yield max(placed, key=lambda one: one.weakest)


def _place(name: str, frame: Float[Tensor, "3 3"], subject: Subject, shell: int | None = None) -> _Placed:
    rotations = frame @ symmetry_group(name).to(frame) @ frame.mT
    correlations = self_correlations(subject, rotations, shell=shell or len(subject.quality))
    # the identity's own is more than 1 where there is noise
    return _Placed(name, frame, subject, torch.cat([torch.ones(1).to(correlations), correlations[1:]]))


def _orders(subject: Subject, axis: Float[Tensor, "3"], config: SymmetryConfig) -> dict[int, float]:
    """Orders that an axis supports, and the correlation of the weakest rotation; none for the axis of a cylinder."""
    found = {}
    for order in range(2, config.highest_order + 1):
        angles = torch.arange(1, order // 2 + 1).to(axis) * (2 * math.pi / order)
        correlations = self_correlations(subject, from_rotation_vectors(angles[:, None] * axis), shell=_SEARCH_SHELL)
        found[order] = float(correlations.min())
    best = max(found.values())
    supported = {order: weakest for order, weakest in found.items() if weakest > max(_PART * config.least, 0.75 * best)}
    return {} if supported and math.lcm(*supported) > config.highest_order else supported


def _placements(
    axes: Sequence[Float[Tensor, "3"]], orders: Sequence[dict[int, float]]
) -> dict[str, list[Float[Tensor, "3 3"]]]:
    """Orientations that the axes allow, by name of the group."""
    found: dict[str, list[Tensor]] = {}
    for axis, own in zip(axes, orders, strict=True):
        for order in own:
            found.setdefault(f"C{order}", []).append(_frame(axis, axis.roll(1), torch.eye(3)[2], torch.eye(3)[0]))
    for (first, own), (second, other) in permutations(zip(axes, orders, strict=True), 2):
        if abs(float(first @ second)) < 0.1 and 2 in other:
            for order in own:
                found.setdefault(f"D{order}", []).append(_frame(first, second, torch.eye(3)[2], torch.eye(3)[0]))
    for (first, own), (second, other) in combinations(zip(axes, orders, strict=True), 2):
        for name, (order, cosine) in _POLYHEDRA.items():
            if order in own and order in other and abs(abs(float(first @ second)) - cosine) < 0.1:
                second_up = second if float(first @ second) >= 0 else -second
                found.setdefault(name, []).append(_frame(first, second_up, *_neighbours(name)))
    return found


def _neighbours(name: str) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Two axes of a polyhedral group in its standard orientation, as ``_POLYHEDRA`` says."""
    order, cosine = _POLYHEDRA[name]
    group = symmetry_group(name)
    axes = [_axis(rotation) for rotation in group[(_angles(group) - 360 / order).abs() < 1]]
    first = axes[0]
    second = next(axis for axis in axes if abs(abs(float(first @ axis)) - cosine) < 0.01)
    return first, second if float(first @ second) >= 0 else -second


def _frame(
    first: Float[Tensor, "3"], second: Float[Tensor, "3"], own_first: Tensor, own_second: Tensor
) -> Float[Tensor, "3 3"]:
    """Rotation that takes ``own_first`` to ``first`` and the half-plane of ``own_second`` to that of ``second``."""
    return _triad(first, second) @ _triad(own_first.to(first), own_second.to(first)).mT


def _triad(first: Float[Tensor, "3"], second: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    across = torch.nn.functional.normalize(second - (first @ second) * first, dim=0)
    return torch.stack([first, across, torch.linalg.cross(first, across)], dim=1)


def _refined(placed: _Placed) -> _Placed:
    """Register the volume to its own average over the group, which moves the group's frame and centre."""
    frame, subject = placed.frame, placed.subject
    config = AlignmentConfig(shells=(_SEARCH_SHELL, max(_SEARCH_SHELL, subject.highest_shell)), kept=(1, 1))
    start = Candidates(torch.eye(3).to(frame)[None, None, None], frame.new_zeros(1, 1, 1, 3), frame.new_zeros(1, 1, 1))
    for _ in range(2):
        rotations = frame @ symmetry_group(placed.name).to(frame) @ frame.mT
        average = symmetrise(subject.cut, rotations)
        found = refine_candidates(subject.cut[None], average[None], start, config)
        turn, shift = found.matrices[0, 0, 0], found.shifts_pixels[0, 0, 0]
        frame = turn.mT @ frame
        subject = subject.about(subject.centre - turn.mT @ shift)
    return max(placed, _place(placed.name, frame, subject), key=lambda one: one.weakest)


def _distinct_axes(matrices: Float[Tensor, "k 3 3"]) -> list[Float[Tensor, "3"]]:
    axes: list[Tensor] = []
    for matrix in matrices:
        axis = _axis(matrix)
        if len(axes) < _AXES and all(abs(float(axis @ other)) < _SAME_AXIS for other in axes):
            axes.append(axis)
    return axes


def _angles(rotations: Float[Tensor, "k 3 3"]) -> Float[Tensor, " k"]:
    return angle_between(rotations, torch.eye(3).to(rotations).expand_as(rotations))


def _axis(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "3"]:
    """Direction that a rotation leaves where it is: of R + R^T the eigenvector with the largest eigenvalue."""
    vectors: Tensor = torch.linalg.eigh(rotation + rotation.mT).eigenvectors
    return vectors[:, -1]
