"""Exact assignment of points to points under squared distances, for batches of clouds that move from call to call.

Successive shortest paths, as Jonker and Volgenant (1987) do them, on the transport problem: an observed point that
stands for several is one column with a capacity, so that its copies make no ties. The search begins with prices at
which most rows have what they want: those of the call before, or at first those of the optimal map between two normal
distributions with the covariances of the clouds. Prices decide how long it takes, never what is found.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from ..datatypes import InputError
from .transport import solve_transport

# Pairs of points for which another thread is worth its cost.
_PAIRS_OF_A_THREAD = 2**14
# Beyond this squared distances could overflow.
_FARTHEST = 1e100


class Assignment:
    """Assigns every point of a cloud to an observed point, each of which takes as many as its capacity.

    Keeps the prices of the last call: a sequence of clouds that move a little from call to call goes several times
    faster than clouds that have nothing to do with one another. Results do not depend on earlier calls, but for ties.

    Parameters
    ----------
    observed
        ``(m, d)``.
    capacities
        ``(m,)``, not negative: how many points of a cloud each observed point takes; the clouds have as many points
        as they sum to.

    Raises
    ------
    InputError
        Nothing observed, values that are not finite, or capacities that do not fit.
    """

    def __init__(self, observed: Float[Tensor, "m d"], capacities: Int[Tensor, " m"]) -> None:
        if capacities.min() < 0 or capacities.sum() == 0:
            raise InputError("capacities must not be negative, and one at least must be positive")
        targets, limits = _as_array(observed, "observed points"), capacities.detach().cpu().numpy().astype(np.int64)
        self.count = int(limits.sum())
        self._kept = np.flatnonzero(limits)
        limits, targets = limits[self._kept], targets[self._kept]
        self._targets = targets - limits @ targets / self.count
        self._capacities = limits
        self._covariance = (self._targets.T * limits) @ self._targets / self.count
        self._last: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None  # prices and maps

    def __call__(self, points: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"]:
        """Index of the observed point of every point of the clouds, on their device; the work is done on the CPU.

        Raises
        ------
        InputError
            Another number of points than the capacities sum to, or values that are not finite.
        """
        if points.shape[1] != self.count:
            raise InputError(f"clouds have {points.shape[1]} points, capacities sum to {self.count}")
        clouds = _as_array(points, "points")
        clouds -= clouds.mean(1, keepdims=True)  # shifts change no optimal assignment of all points
        maps = _normal_maps(self._covariance, clouds)
        choices = self._choices(maps)
        columns, prices = _transport(clouds, self._targets, self._capacities, choices)
        self._last = prices, maps
        return torch.from_numpy(self._kept[columns]).to(points.device)

    def _choices(self, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Prices to begin with, ``(b, 1 or 2, m)``: of normal distributions, with what the last ones had beyond it."""
        prices = _quadratic(self._targets, maps)
        if self._last is None or len(self._last[0]) != len(maps):
            return prices[:, None]
        last_prices, last_maps = self._last
        size, last = np.trace(maps, axis1=1, axis2=2), np.trace(last_maps, axis1=1, axis2=2)
        grown = np.divide(size, last, out=np.ones_like(size), where=last > 0)
        beyond = last_prices - _quadratic(self._targets, last_maps)
        return np.stack([prices + grown[:, None] * beyond, prices], axis=1)


class PartialAssignment:
    """Assigns to every observed point a point of a cloud of its own; the rest of the cloud is free.

    Keeps the prices of the last call, as :class:`Assignment` does.

    Parameters
    ----------
    observed
        ``(m, d)``.

    Raises
    ------
    InputError
        Nothing observed, or values that are not finite.
    """

    def __init__(self, observed: Float[Tensor, "m d"]) -> None:
        if len(observed) == 0:
            raise InputError("there are no observed points")
        targets = _as_array(observed, "observed points")
        self._centre = targets.mean(0)
        self._observed = targets - self._centre
        # One more column, of the points that are free, at no cost. With |x|^2 as one more coordinate its distance
        # from every point is a linear function of the point as that of the others is.
        self._targets = np.zeros((len(targets) + 1, targets.shape[1] + 1))
        self._targets[:-1, :-1] = self._observed
        self._targets[-1, -1] = 0.5
        self._last: NDArray[np.float64] | None = None

    def __call__(self, points: Float[Tensor, "b n d"]) -> Int[Tensor, "b m"]:
        """Index of the point of every observed point in the clouds, on their device; the work is done on the CPU.

        Raises
        ------
        InputError
            Fewer points than were observed, or values that are not finite.
        """
        wanted, count = len(self._observed), points.shape[1]
        if count < wanted:
            raise InputError(f"clouds have {count} points, fewer than the {wanted} observed ones")
        clouds = _as_array(points, "points") - self._centre
        choices = np.stack([_prices_of_nearest(self._observed, cloud) for cloud in clouds])[:, None]
        if self._last is not None and len(self._last) == len(clouds):
            choices = np.concatenate([self._last[:, None], choices], axis=1)
        lifted = np.concatenate([clouds, np.square(clouds).sum(2, keepdims=True)], axis=2)
        # without free points there is no column for them
        kept = wanted + (count > wanted)
        capacities = np.append(np.ones(wanted, np.int64), count - wanted)[:kept]
        columns, prices = _transport(lifted, self._targets[:kept], capacities, choices[:, :, :kept])
        self._last = prices if kept > wanted else None
        rows = np.argsort(columns, axis=1, kind="stable")[:, :wanted]
        return torch.from_numpy(rows).to(points.device)


def assign_points(first: Float[Tensor, "b n d"], second: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"]:
    """Pair the points of clouds one to one so that the sum of squared distances is least.

    Returns
    -------
    Tensor
        ``(b, n)`` int64, the index of the point of ``second`` that each point of ``first`` is paired with, on the
        device of ``first``; the work is done on the CPU.

    Raises
    ------
    InputError
        Values that are not finite.
    """
    one, other = _as_array(first, "points"), _as_array(second, "points")
    one -= one.mean(1, keepdims=True)
    other -= other.mean(1, keepdims=True)
    covariances = other.transpose(0, 2, 1) @ other / other.shape[1]
    choices = _quadratic(other, _normal_maps(covariances, one))[:, None]
    columns, _ = _transport(one, other, np.ones(one.shape[1], np.int64), choices)
    return torch.from_numpy(columns).to(first.device)


def _as_array(points: Tensor, what: str) -> NDArray[np.float64]:
    """Copy points to the memory of the processor."""
    array: NDArray[np.float64] = points.detach().cpu().double().numpy().copy()
    # the kernels would read anywhere in memory otherwise
    if not (np.abs(array) < _FARTHEST).all():
        raise InputError(f"{what} hold NaN, infinite or huge values")
    return array


def _root(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Roots of symmetric matrices without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(matrices)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ vectors.swapaxes(-1, -2)
    return root


def _normal_maps(covariances: NDArray[np.float64], clouds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Optimal linear maps from normal distributions to those with the covariances of centred clouds, ``(b, d, d)``."""
    root = _root(covariances)
    inverse = np.linalg.pinv(root, rcond=1e-6, hermitian=True)
    maps: NDArray[np.float64] = (
        inverse @ _root(root @ (clouds.transpose(0, 2, 1) @ clouds / clouds.shape[1]) @ root) @ inverse
    )
    return maps


def _quadratic(targets: NDArray[np.float64], maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prices of targets whose gradient is twice the map, ``(b, m)``."""
    prices: NDArray[np.float64] = ((targets @ maps) * targets).sum(-1)
    return prices


def _prices_of_nearest(observed: NDArray[np.float64], cloud: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prices ``(m + 1,)`` at which every observed point is wanted by the nearest point of the cloud only."""
    distances = KDTree(cloud).query(observed, k=[min(2, len(cloud))])[0][:, 0]
    return np.append(np.square(observed).sum(1) - np.square(distances), 0)


def _transport(
    clouds: NDArray[np.float64],
    targets: NDArray[np.float64],
    capacities: NDArray[np.int64],
    choices: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Solve a batch on several threads, one cloud each: columns ``(b, n)`` and prices ``(b, m)``.

    Targets are ``(m, d)``, or ``(b, m, d)``. Of the prices to begin with, ``(b, c, m)``, the best are chosen.
    """
    columns, prices = np.empty(clouds.shape[:2], np.int64), np.empty((len(clouds), len(capacities)))
    starts = np.append(0, np.cumsum(capacities))
    each = np.broadcast_to(targets, (len(clouds), *targets.shape[-2:]))

    def solve(k: int) -> None:
        x, y = 2 * clouds[k], each[k].T.copy()
        solve_transport(x, y, starts, np.ascontiguousarray(choices[k]), prices[k], columns[k])

    work = len(clouds) * clouds.shape[1] * len(capacities)
    threads = min(torch.get_num_threads(), len(clouds), math.ceil(work / _PAIRS_OF_A_THREAD))
    if threads <= 1:
        for k in range(len(clouds)):
            solve(k)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(solve, range(len(clouds))))
    return columns, prices
