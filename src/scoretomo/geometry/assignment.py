"""Exact assignment of points to points under squared distances, for batches of clouds that move from call to call.

Successive shortest paths, as Jonker and Volgenant (1987) do them, on the transport problem: an observed point that
stands for several is one column with a capacity, so that its copies make no ties. Three things make it fast.
Distances are never stored, but computed from coordinates that stay in the cache. A column of large capacity keeps, for
every other column, the row that changes to it at the least cost. And the search begins with prices at which most rows
have what they want: those of the call before, or at first those of the optimal map between two normal distributions
with the covariances of the clouds. Prices decide how long it takes, never what is found.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from ..datatypes import InputError

# From this capacity on a column keeps which of its rows changes best to each other column.
_WIDE = 4
# Pairs of points for which another thread is worth its cost.
_PAIRS_OF_A_THREAD = 2**14
# Beyond this squared distances could overflow.
_FARTHEST = 1e100
# Sums may be reordered. There is no NaN, but there are infinite values.
_FAST: set[str] = {"reassoc", "contract", "arcp", "nsz", "nnan"}


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
        x, y = 2 * clouds[k], np.ascontiguousarray(each[k].T)
        _solve(x, y, starts, np.ascontiguousarray(choices[k]), prices[k], columns[k])

    work = len(clouds) * clouds.shape[1] * len(capacities)
    threads = min(torch.get_num_threads(), len(clouds), math.ceil(work / _PAIRS_OF_A_THREAD))
    if threads <= 1:
        for k in range(len(clouds)):
            solve(k)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(solve, range(len(clouds))))
    return columns, prices


def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; later processes find the result on the disk, where it may be written to."""
    try:
        ready: Callable[..., Any] = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)(kernel)
    except RuntimeError:  # neither the package's folder nor one of the user's
        ready = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy")(kernel)
    return ready


class _Problem(NamedTuple):
    """Rows are points of the cloud, columns are targets; a row pays ``price[column] - x . y[column]``."""

    x: NDArray[np.float64]  # (n, d), twice the points
    y: NDArray[np.float64]  # (d, m)
    starts: NDArray[np.int64]  # (m + 1,), where the places of each column begin
    prices: NDArray[np.float64]  # (m,), with the squares of the targets in them
    column: NDArray[np.int64]  # (n,), of each row; -1 for none
    # which rows the columns have: `rows[starts[k]:starts[k] + taken[k]]` are those of column k
    taken: NDArray[np.int64]
    rows: NDArray[np.int64]
    place: NDArray[np.int64]  # (n,), of each row in `rows`
    # of wide columns: the least that changing to each other column costs beside the prices, and the row that does
    wide: NDArray[np.int64]  # (m,), -1 for those that are not
    change: NDArray[np.float64]  # (wide columns, m)
    changing: NDArray[np.int64]
    buffer: NDArray[np.float64]  # (m,)
    zeros: NDArray[np.float64]  # (m,)


class _Search(NamedTuple):
    """Shortest paths from one row to the columns."""

    length: NDArray[np.float64]  # (m,), infinite for columns that are done
    row: NDArray[np.int64]  # (m,), the last row on the path to each column
    prices: NDArray[np.float64]  # (m,), infinite for columns that are done
    done: NDArray[np.int64]  # (m,), in the order in which they were done
    length_of_done: NDArray[np.float64]  # (m,)


@_compiled
@no_type_check
def _relax(offset, prices, x, row, y, buffer, length, last):
    """Shorten paths by those through a row, and give the least length. Written so that it becomes vector operations."""
    for k in range(len(prices)):
        buffer[k] = offset + prices[k] - x[0] * y[0, k]
    for axis in range(1, len(x)):
        along = x[axis]
        for k in range(len(prices)):
            buffer[k] -= along * y[axis, k]
    least = np.inf
    for k in range(len(prices)):
        now, new = length[k], buffer[k]
        if new < now:
            length[k] = new
            last[k] = row
            now = new
        if now < least:
            least = now
    return least


@_compiled
@no_type_check
def _relax_wide(offset, change, changing, search):
    """Shorten paths by those through all rows of a wide column."""
    least = np.inf
    for k in range(len(change)):
        now, new = search.length[k], offset + search.prices[k] + change[k]
        if new < now:
            search.length[k] = new
            search.row[k] = changing[k]
            now = new
        if now < least:
            least = now
    return least


@_compiled
@no_type_check
def _product(problem, row, column):
    total = 0.0
    for axis in range(problem.x.shape[1]):
        total += problem.x[row, axis] * problem.y[axis, column]
    return total


@_compiled
@no_type_check
def _has_room(problem, column):
    return problem.starts[column] + problem.taken[column] < problem.starts[column + 1]


@_compiled
@no_type_check
def _nearest_column(problem, search, least):
    """Find a column at the least length; one that has room if there is one, which ends the search."""
    at = -1
    for k in range(len(search.length)):
        if search.length[k] == least:
            at = k
            if _has_room(problem, k):
                break
    return at


@_compiled
@no_type_check
def _take(problem, row, column):
    """Put a row into a column that has room."""
    place = problem.starts[column] + problem.taken[column]
    problem.rows[place] = row
    problem.place[row] = place
    problem.column[row] = column
    problem.taken[column] += 1
    wide = problem.wide[column]
    if wide >= 0:
        own = _product(problem, row, column)
        change, changing = problem.change[wide], problem.changing[wide]
        _relax(own, problem.zeros, problem.x[row], row, problem.y, problem.buffer, change, changing)


@_compiled
@no_type_check
def _leave(problem, row):
    """Take a row out of its column; where it was the one to change, look for another."""
    column, place = problem.column[row], problem.place[row]
    problem.taken[column] -= 1
    first, end = problem.starts[column], problem.starts[column] + problem.taken[column]
    problem.rows[place] = problem.rows[end]
    problem.place[problem.rows[place]] = place
    wide = problem.wide[column]
    if wide < 0:
        return
    for k in range(len(problem.prices)):
        if problem.changing[wide, k] == row:
            between = problem.y[:, column] - problem.y[:, k]
            least = np.inf
            for at in range(first, end):
                cost, other = 0.0, problem.rows[at]
                for axis in range(len(between)):
                    cost += problem.x[other, axis] * between[axis]
                if cost < least:
                    least = cost
                    problem.changing[wide, k] = other
            problem.change[wide, k] = least


@_compiled
@no_type_check
def _augment(problem, search, row):
    """Find the shortest path from a free row to a column with room, let rows change along it, and adapt the prices."""
    search.length[:] = np.inf
    search.prices[:] = problem.prices
    least = _relax(0.0, search.prices, problem.x[row], row, problem.y, problem.buffer, search.length, search.row)
    done = 0
    column = _nearest_column(problem, search, least)
    while not _has_room(problem, column):
        search.done[done], search.length_of_done[done] = column, least
        done += 1
        search.length[column] = search.prices[column] = np.inf
        offset, wide = least - problem.prices[column], problem.wide[column]
        if wide >= 0:
            least = _relax_wide(offset, problem.change[wide], problem.changing[wide], search)
        else:
            for at in range(problem.starts[column], problem.starts[column + 1]):
                other = problem.rows[at]
                own, x = _product(problem, other, column), problem.x[other]
                least = _relax(
                    offset + own, search.prices, x, other, problem.y, problem.buffer, search.length, search.row
                )
        column = _nearest_column(problem, search, least)
    for k in range(done):
        problem.prices[search.done[k]] += least - search.length_of_done[k]
    while True:
        changing = search.row[column]
        left = problem.column[changing]
        if left >= 0:
            _leave(problem, changing)
        _take(problem, changing, column)
        if changing == row:
            return
        column = left


@_compiled
@no_type_check
def _bid(problem, search, wanted):
    """Find the cheapest column of every row, and the dual value of the prices."""
    value = 0.0
    for k in range(len(problem.prices)):
        value -= problem.prices[k] * (problem.starts[k + 1] - problem.starts[k])
    for row in range(len(problem.x)):
        search.length[:] = np.inf
        x, buffer = problem.x[row], problem.buffer
        least = _relax(0.0, problem.prices, x, row, problem.y, buffer, search.length, search.row)
        wanted[row] = _nearest_column(problem, search, least)
        value += least
    return value


@_compiled
@no_type_check
def _solve(x, y, starts, choices, prices, column):
    """Fill in the column of every row, and the prices, which are the dual solution in the end."""
    n, m = len(x), len(prices)
    wide = np.full(m, -1)
    count = 0
    for k in range(m):
        if starts[k + 1] - starts[k] >= _WIDE:
            wide[k] = count
            count += 1
    column[:] = -1
    problem = _Problem(
        x, y, starts, prices, column,
        np.zeros(m, np.int64), np.empty(n, np.int64), np.empty(n, np.int64),
        wide, np.full((count, m), np.inf), np.full((count, m), -1), np.empty(m), np.zeros(m),
    )  # fmt: skip
    search = _Search(np.empty(m), np.empty(m, np.int64), np.empty(m), np.empty(m, np.int64), np.empty(m))
    wanted, greatest = np.empty((len(choices), n), np.int64), -np.inf
    chosen = 0
    for choice in range(len(choices)):
        prices[:] = choices[choice]
        value = _bid(problem, search, wanted[choice])
        # to the dual value the lengths of all paths will add, until it is the least cost: the greatest has least to do
        if value > greatest:
            chosen, greatest = choice, value
    prices[:] = choices[chosen]
    for row in range(n):
        if _has_room(problem, wanted[chosen, row]):
            _take(problem, row, wanted[chosen, row])
    for row in range(n):
        if column[row] < 0:
            _augment(problem, search, row)
