"""The transport problem of points under squared distances, solved exactly by successive shortest paths.

Compiled by Numba; :mod:`scoretomo.geometry.assignment` is the way in. Distances are never stored, but computed from
coordinates that stay in the cache. A column of large capacity keeps, for every other column, the row that changes to
it at the least cost. Where there is none, rows look at the few columns that were cheapest for them, as long as these
prove to be enough.
"""

from functools import partial
from typing import NamedTuple, no_type_check

import numpy as np
from numpy.typing import NDArray

from .compiled import FAST, compiled

# From this capacity on a column keeps which of its rows changes best to each other column.
_WIDE = 4
# Columns in the list of a row, and columns from which on making the lists is worth it.
_LISTED = 16
_MANY = 512
# There is no NaN, but there are infinite values.
_compiled = partial(compiled, fastmath=FAST | {"nnan"})


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


class _Near(NamedTuple):
    """The columns that are cheapest for each row; prices only rise, so that what is beyond a bound remains there."""

    columns: NDArray[np.int64]  # (n, listed)
    bound: NDArray[np.float64]  # (n,), minus infinity for rows without a list; empty if lists are not to be used
    offset: NDArray[np.float64]  # (n,), what a row adds in the present search
    costs: NDArray[np.float64]  # (listed,)


class _Heap(NamedTuple):
    """Columns ``k`` and ends of lists of rows ``m + i``, by length."""

    key: NDArray[np.float64]
    node: NDArray[np.int64]


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
            least = np.inf
            for at in range(first, end):
                cost, other = 0.0, problem.rows[at]
                for axis in range(len(problem.y)):
                    cost += problem.x[other, axis] * (problem.y[axis, column] - problem.y[axis, k])
                if cost < least:
                    least = cost
                    problem.changing[wide, k] = other
            problem.change[wide, k] = least


@_compiled
@no_type_check
def _search_all(problem, search, row):
    """Find the shortest path from a free row to a column with room, looking at all columns from each row."""
    search.length[:] = np.inf
    for k in range(len(problem.prices)):
        search.prices[k] = problem.prices[k]
    buffer, length, last = problem.buffer, search.length, search.row
    least = _relax(0.0, search.prices, problem.x[row], row, problem.y, buffer, length, last)
    done, column = 0, _nearest_column(problem, search, least)
    while not _has_room(problem, column):
        search.done[done], search.length_of_done[done] = column, least
        done += 1
        length[column] = search.prices[column] = np.inf
        offset, wide = least - problem.prices[column], problem.wide[column]
        if wide >= 0:
            least = _relax_wide(offset, problem.change[wide], problem.changing[wide], search)
        else:
            for at in range(problem.starts[column], problem.starts[column + 1]):
                other = problem.rows[at]
                own, x = _product(problem, other, column), problem.x[other]
                least = _relax(offset + own, search.prices, x, other, problem.y, buffer, length, last)
        column = _nearest_column(problem, search, least)
    return column, least, done


@_compiled
@no_type_check
def _list_near(problem, near, row):
    """List the columns that are cheapest for a row at present; the others will not cost less than the bound."""
    costs, columns, last = near.costs, near.columns[row], near.columns.shape[1] - 1
    costs[:] = np.inf
    for k in range(len(problem.prices)):
        cost = problem.prices[k] - _product(problem, row, k)
        if cost < costs[last]:
            at = last
            while at > 0 and costs[at - 1] > cost:
                costs[at], columns[at] = costs[at - 1], columns[at - 1]
                at -= 1
            costs[at], columns[at] = cost, k
    near.bound[row] = costs[last]


@_compiled
@no_type_check
def _push(heap, size, key, node):
    at = size
    while at > 0:
        above = (at - 1) // 2
        if heap.key[above] <= key:
            break
        heap.key[at], heap.node[at] = heap.key[above], heap.node[above]
        at = above
    heap.key[at], heap.node[at] = key, node
    return size + 1


@_compiled
@no_type_check
def _pop(heap, size):
    """Take the first entry out, and give it."""
    first = heap.key[0], heap.node[0]
    size -= 1
    key, node = heap.key[size], heap.node[size]
    at, below = 0, 1
    while below < size:
        if below + 1 < size and heap.key[below + 1] < heap.key[below]:
            below += 1
        if heap.key[below] >= key:
            break
        heap.key[at], heap.node[at] = heap.key[below], heap.node[below]
        at, below = below, 2 * below + 1
    heap.key[at], heap.node[at] = key, node
    return first


@_compiled
@no_type_check
def _relax_near(problem, search, near, heap, size, row):
    """Shorten paths by those through a row to the columns in its list, and note how far the list reaches."""
    offset = near.offset[row]
    for k in near.columns[row]:
        new = offset + problem.prices[k] - _product(problem, row, k)
        if new < search.length[k]:
            search.length[k] = new
            search.row[k] = row
            size = _push(heap, size, new, k)
    return _push(heap, size, offset + near.bound[row], len(problem.prices) + row)


@_compiled
@no_type_check
def _search_near(problem, search, near, heap, row):
    """Find the shortest path as :func:`_search_all` does, through the lists; column -1 where they do not reach."""
    m = len(problem.prices)
    search.length[:] = np.inf
    near.offset[row] = 0.0
    if near.bound[row] == -np.inf:
        _list_near(problem, near, row)
    done, size = 0, _relax_near(problem, search, near, heap, 0, row)
    while True:
        least, node = _pop(heap, size)
        size -= 1
        if node >= m:  # a list ends here, unless it has been made anew; prices that rose may allow a longer one
            old = near.bound[node - m]
            if least >= near.offset[node - m] + old:
                _list_near(problem, near, node - m)
                if near.bound[node - m] <= old or size + near.columns.shape[1] >= len(heap.key):
                    return -1, least, done
                size = _relax_near(problem, search, near, heap, size, node - m)
        elif least <= search.length[node]:
            if _has_room(problem, node):
                return node, least, done
            search.done[done], search.length_of_done[done] = node, least
            done += 1
            search.length[node] = -np.inf
            for at in range(problem.starts[node], problem.starts[node + 1]):
                other = problem.rows[at]
                if near.bound[other] == -np.inf:
                    _list_near(problem, near, other)
                if size + near.columns.shape[1] >= len(heap.key):
                    return -1, least, done
                near.offset[other] = least - problem.prices[node] + _product(problem, other, node)
                size = _relax_near(problem, search, near, heap, size, other)


@_compiled
@no_type_check
def _augment(problem, search, near, heap, row):
    """Let rows change along the shortest path from a free row to a column with room, and adapt the prices."""
    column = -1
    if len(near.bound) > 0:
        column, least, done = _search_near(problem, search, near, heap, row)
    if column < 0:
        column, least, done = _search_all(problem, search, row)
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


def solve_transport(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    starts: NDArray[np.int64],
    choices: NDArray[np.float64],
    prices: NDArray[np.float64],
    column: NDArray[np.int64],
) -> None:
    """Give every row a column so that the sum of ``price - x . y`` is least whatever the prices, and find these.

    Parameters
    ----------
    x
        ``(n, d)``, twice the points of a cloud.
    y
        ``(d, m)``, targets.
    starts
        ``(m + 1,)``, 0 and the sums of the capacities of the first 1, 2, ... columns; capacities are positive.
    choices
        ``(c, m)``, prices to begin with, of which the best are chosen.
    prices
        ``(m,)``, the result: the dual solution, with the squares of the targets in it.
    column
        ``(n,)``, the result.
    """
    n, m = len(x), len(prices)
    is_wide = np.diff(starts) >= _WIDE
    wide = np.where(is_wide, np.cumsum(is_wide) - 1, -1)
    shape = int(is_wide.sum()), m
    column[:] = -1
    taken, rows, place = np.zeros(m, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    change, changing = np.full(shape, np.inf), np.full(shape, -1)
    problem = _Problem(
        x, y, starts, prices, column, taken, rows, place, wide, change, changing, np.empty(m), np.zeros(m)
    )
    search = _Search(np.empty(m), np.empty(m, np.int64), np.empty(m), np.empty(m, np.int64), np.empty(m))
    listing, listed = (n if m >= _MANY and not shape[0] else 0), min(_LISTED, m)
    near = _Near(np.empty((listing, listed), np.int64), np.full(listing, -np.inf), np.empty(listing), np.empty(listed))
    heap = _Heap(np.empty(listing * (listed + 1)), np.empty(listing * (listed + 1), np.int64))
    _solve(problem, search, near, heap, choices, np.empty((len(choices), n), np.int64))


@_compiled
@no_type_check
def _solve(problem, search, near, heap, choices, wanted):
    """Fill in the column of every row, and the prices."""
    n, chosen, greatest = len(problem.x), 0, -np.inf
    for choice in range(len(choices)):
        for k in range(len(problem.prices)):
            problem.prices[k] = choices[choice, k]
        value = _bid(problem, search, wanted[choice])
        # to the dual value the lengths of all paths will add, until it is the least cost: the greatest has least to do
        if value > greatest:
            chosen, greatest = choice, value
    for k in range(len(problem.prices)):
        problem.prices[k] = choices[chosen, k]
    for row in range(n):
        if _has_room(problem, wanted[chosen, row]):
            _take(problem, row, wanted[chosen, row])
    for row in range(n):
        if problem.column[row] < 0:
            _augment(problem, search, near, heap, row)
