"""How badly point clouds explain observations: projections, a coarse model, a subunit, and any mixture of them (002).

An energy is a function of clouds ``(b, n, 3)`` that gives ``(b,)`` and that autograd can differentiate: the least sum
of squared distances between points of the cloud and observed points over all assignments, divided by ``n``. The paper
has the sum without the division; its printed values are means. All kinds are divided by the number of points in the
cloud, the subunit too, so that their relative weights are those of Eq. 14: whatever explains a point pulls it equally
hard. (The mean over the ``l`` points of a subunit alone is ``n / l`` times its energy.)

The gradient is taken with the assignment held fixed, which is exact wherever the best assignment is unique. Energies
keep the prices of the last assignment, which makes the next one fast and does not change it; so each belongs to one
course of sampling at a time, and not to several threads.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..geometry.assignment import Assignment, PartialAssignment

Energy: TypeAlias = Callable[[Tensor], Tensor]
"""Clouds ``(b, n, 3)`` to energies ``(b,)``."""

ORTHOGONAL_WITHIN = 1e-3
"""Largest error of ``R @ R.T`` of a matrix that counts as orthogonal."""


def projection_energy(
    observed: Tensor,
    orientation: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Energy:
    """Energy of a projection in known orientation (002, Eq. 10); several of them add up to Eq. 11.

    Parameters
    ----------
    observed
        ``(m, 2)``, xy, in the units of the clouds.
    orientation
        ``(3, 3)`` orthogonal, on xyz column vectors, from the object to the projection, which leaves out z. (The paper
        multiplies row vectors by its matrices: they are the transposes of these.)
    count
        Points of a cloud.
    generator
        Of the random choice in :func:`redraw`.
    weights
        ``(m,)``, of the observed points, as those that stand for pixels of an image have them; all equal by default.

    Raises
    ------
    InputError
        Wrong shapes, no points, values that are not finite, weights that are not positive or a matrix that is not
        orthogonal. The energy itself raises it for clouds of a wrong shape or that are not finite.
    """
    _check_observed(observed, 2, "a projection")
    _check_orientation(orientation)
    assignment = Assignment(observed, redraw(len(observed), count, generator, weights))

    def energy(points: Tensor) -> Float[Tensor, " b"]:
        _check_clouds(points, count)
        seen = points @ orientation[:2].to(points).mT
        return _mean_square(seen - observed.to(points)[assignment(seen)], count)

    return energy


def coarse_energy(
    observed: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Energy:
    """Energy of a model of fewer points (002, Eq. 12).

    Parameters
    ----------
    observed
        ``(m, 3)``, xyz, in the frame and units of the clouds.
    count, generator, weights
        As in :func:`projection_energy`.

    Raises
    ------
    InputError
        As :func:`projection_energy`.
    """
    _check_observed(observed, 3, "a coarse model")
    assignment = Assignment(observed, redraw(len(observed), count, generator, weights))

    def energy(points: Tensor) -> Float[Tensor, " b"]:
        _check_clouds(points, count)
        return _mean_square(points - observed.to(points)[assignment(points)], count)

    return energy


def subunit_energy(observed: Tensor, count: int) -> Energy:
    """Energy of a known part (002, Eq. 13): each of its points takes a point of the cloud, whose others are free.

    Parameters
    ----------
    observed
        ``(l, 3)``, xyz, in the frame and units of the clouds.
    count
        Points of a cloud.

    Raises
    ------
    InputError
        Wrong shape, no points, more than a cloud has, or values that are not finite. The energy itself raises it for
        clouds of a wrong shape or that are not finite.
    """
    _check_observed(observed, 3, "a subunit")
    if len(observed) > count:
        raise InputError(f"a subunit of {len(observed)} points cannot be a part of clouds of {count} points")
    assignment = PartialAssignment(observed)

    def energy(points: Tensor) -> Float[Tensor, " b"]:
        _check_clouds(points, count)
        chosen = assignment(points)[..., None].expand(-1, -1, 3)
        return _mean_square(points.gather(1, chosen) - observed.to(points), count)

    return energy


def weighted_energy(energies: Sequence[Energy], weights: Sequence[float] | None = None) -> Energy:
    """Weighted sum of energies (002, Eq. 14); their mean by default, as in the paper's experiments.

    Raises
    ------
    InputError
        No energies, another number of weights, or weights that are negative or not finite.
    """
    if not energies:
        raise InputError("no observations were given")
    shares = [1 / len(energies)] * len(energies) if weights is None else list(weights)
    if len(shares) != len(energies) or not all(0 <= share < float("inf") for share in shares):
        raise InputError(f"{len(energies)} observations need as many weights, finite and not negative, not {shares}")

    def energy(points: Tensor) -> Float[Tensor, " b"]:
        terms = [share * each(points) for share, each in zip(shares, energies, strict=True)]
        return torch.stack(terms).sum(0)

    return energy


def redraw(
    observed: int,
    count: int,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Int[Tensor, " m"]:
    """Draw how many points of a cloud each observed point stands for, ``(m,)``, the sum being ``count``.

    The operator U of 002, balanced: a point stands for its share of ``count``, rounded down or up at random so that
    the mean is right (systematic sampling in random order). With equal weights each is drawn ``count // m`` times, and
    the remainder at random without replacement; with more points than ``count`` some are left out.

    Raises
    ------
    InputError
        Another number of weights, or weights that are not positive and finite; no point to be drawn.
    """
    if count < 1:
        raise InputError(f"clouds must have 1 point or more, not {count}")
    if weights is None:
        weights = torch.ones(observed)
    elif weights.shape != (observed,) or not ((weights > 0) & torch.isfinite(weights)).all():
        raise InputError(f"{observed} observed points need as many weights, positive and finite")
    source = generator.device if generator is not None else "cpu"
    order = torch.randperm(observed, generator=generator, device=source).cpu()
    start = torch.rand(1, generator=generator, device=source, dtype=torch.float64).cpu()
    shares = weights.detach().cpu().double()[order]
    ends = count * shares.cumsum(0) / shares.sum()
    ends[-1] = count  # whatever the rounding
    capacities = torch.empty(observed, dtype=torch.int64)
    capacities[order] = (ends + start).floor().diff(prepend=start.floor()).long()
    return capacities


def _mean_square(differences: Float[Tensor, "b k d"], count: int) -> Float[Tensor, " b"]:
    return differences.square().sum((1, 2)) / count


def _check_observed(observed: Tensor, axes: int, what: str) -> None:
    if observed.ndim != 2 or observed.shape[1] != axes:
        raise InputError(f"{what} must be points (m, {axes}), not shape {tuple(observed.shape)}")
    if len(observed) == 0:
        raise InputError(f"{what} has no points")
    if not torch.isfinite(observed).all():
        raise InputError(f"{what} holds NaN or infinite values")


def _check_orientation(orientation: Tensor) -> None:
    if orientation.shape != (3, 3):
        raise InputError(f"an orientation must be a matrix (3, 3), not shape {tuple(orientation.shape)}")
    error = float((orientation @ orientation.mT - torch.eye(3).to(orientation)).abs().max())
    if not error < ORTHOGONAL_WITHIN:
        raise InputError(f"an orientation is not orthogonal: R R^T differs from the identity by {error:.2g}")


def _check_clouds(points: Tensor, count: int) -> None:
    if points.ndim != 3 or points.shape[1:] != (count, 3):
        raise InputError(f"clouds must be (b, {count}, 3), not shape {tuple(points.shape)}")
