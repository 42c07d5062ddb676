"""Distances between point clouds: Chamfer, earth mover's, and root mean square deviations.

All are in the unit of the coordinates, none is squared, and none moves the clouds: superposition is apart
(:mod:`scoretomo.evaluation.superposition`). Distances are computed on the processor in double precision, so that equal
clouds are at distance 0, and are not differentiable.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from torch import Tensor

from ..datatypes import InputError
from ..geometry.assignment import assign_points


def chamfer_distance(first: Float[Tensor, "b n 3"], second: Float[Tensor, "b m 3"]) -> Float[Tensor, " b"]:
    """Chamfer distance: the mean distance to the nearest point of the other cloud, summed over both directions.

    Not squared, as in Moebius and Habeck (2025), whose Chamfer distances therefore may exceed their earth mover's
    distances. Much of the literature, Yang et al. (2019) included, sums squared distances: the numbers do not compare.

    Raises
    ------
    InputError
        Clouds that are empty or not finite.
    """
    pairs = zip(_arrays(first), _arrays(second), strict=True)
    totals = [_mean_nearest(one, cKDTree(other)) + _mean_nearest(other, cKDTree(one)) for one, other in pairs]
    return first.new_tensor(totals)


def chamfer_distances(
    first: Float[Tensor, "k n 3"], second: Float[Tensor, "l m 3"] | None = None
) -> Float[Tensor, "k l"]:
    """Chamfer distance (:func:`chamfer_distance`) of every cloud to every other, or among the first if alone.

    Raises
    ------
    InputError
        Clouds that are empty or not finite.
    """
    rows = _arrays(first)
    row_trees = [cKDTree(row) for row in rows]
    if second is None:
        there = _directed(rows, row_trees)
        return first.new_tensor(there + there.T)
    columns = _arrays(second)
    there, back = _directed(rows, [cKDTree(column) for column in columns]), _directed(columns, row_trees)
    return first.new_tensor(there + back.T)


def earth_movers_distance(first: Float[Tensor, "b n 3"], second: Float[Tensor, "b m 3"]) -> Float[Tensor, " b"]:
    """Earth mover's distance: the least mean distance over which one cloud is carried onto the other, point to point.

    The exact assignment of the least sum of distances, which are not squared, as Yang et al. (2019) define it, divided
    by the number of points. 1024 points take about a tenth of a second.

    Raises
    ------
    InputError
        Clouds of different sizes, or such as are empty or not finite.
    """
    if first.shape[1] != second.shape[1]:
        sizes = f"{first.shape[1]} and {second.shape[1]}"
        raise InputError(f"the earth mover's distance needs clouds of as many points each, not {sizes}")
    totals = []
    for one, other in zip(_arrays(first), _arrays(second), strict=True):
        distances = cdist(one, other)
        totals.append(distances[linear_sum_assignment(distances)].mean())
    return first.new_tensor(totals)


def rmsd_to_atoms(points: Float[Tensor, "b n 3"], atoms: Float[Tensor, "m 3"]) -> Float[Tensor, " b"]:
    """Root mean square distance from each atom to the nearest point of the model (Moebius and Habeck 2025, Sec. 4.3).

    One way only: points where no atoms are cost nothing, so that it says little without :func:`rmsd_to_points`.

    Raises
    ------
    InputError
        Clouds that are empty or not finite.
    """
    (targets,) = _arrays(atoms[None])
    squared = [np.square(cKDTree(cloud).query(targets)[0]).mean() for cloud in _arrays(points)]
    return points.new_tensor(np.sqrt(squared))


def rmsd_to_points(points: Float[Tensor, "b n 3"], reference: Float[Tensor, "m 3"]) -> Float[Tensor, " b"]:
    """Root mean square deviation under the one to one assignment that makes it least (Moebius and Habeck, Sec. 4.3).

    Raises
    ------
    InputError
        Clouds of different sizes, or such as are empty or not finite.
    """
    if points.shape[1] != len(reference):
        sizes = f"{points.shape[1]} and {len(reference)}"
        raise InputError(f"an RMSD of assigned points needs clouds of as many points each, not {sizes}")
    models = np.stack(_arrays(points))
    targets = np.repeat(_arrays(reference[None]), len(models), axis=0)
    partners = assign_points(torch.from_numpy(models), torch.from_numpy(targets)).numpy()
    paired = np.take_along_axis(targets, partners[..., None], axis=1)
    return points.new_tensor(np.sqrt(np.square(models - paired).sum(-1).mean(-1)))


def _arrays(clouds: Float[Tensor, "b n 3"]) -> list[NDArray[np.float64]]:
    if clouds.shape[1] == 0 or not torch.isfinite(clouds).all():
        raise InputError("a point cloud is empty or holds NaN or infinite coordinates")
    return list(clouds.detach().double().cpu().numpy())


def _mean_nearest(points: NDArray[np.float64], others: cKDTree) -> float:
    return float(others.query(points)[0].mean())


def _directed(points: list[NDArray[np.float64]], others: list[cKDTree]) -> NDArray[np.float64]:
    return np.array([[_mean_nearest(cloud, tree) for tree in others] for cloud in points])
