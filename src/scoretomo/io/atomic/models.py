"""Several models in one file: copies side by side, which make up an assembly, or states of one molecule."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from .listed import ListedAtoms
from .occupancies import in_main_conformer

# Models are compared by so many of them, the first, and by so many atoms of each.
_MODELS_COMPARED, _ATOMS_COMPARED = 20, 1000
# Part of the atoms that are nearer to another model than to their own. Chains of real assemblies have 0 (C-alpha atoms
# alone: below 0.01), and up to 0.2 where each is reduced to some tens of points; ensembles have 0.7 to 1, two models
# that differ by 10 Angstrom or more 0.2 or more.
_FEW, _MANY, _MOST = 0.1, 0.2, 0.4
# Distance of the middles of the nearest two models, in radii of gyration, from which on neighbours may mingle.
_FAR = 1.5

Arrangement = Literal["apart", "on one another", "unclear"]


def arrangement(atoms: ListedAtoms) -> Arrangement:
    """Find out whether models lie apart, as the copies of an assembly do, or on one another, as an ensemble does."""
    compared = atoms.take(in_main_conformer(atoms)).by_model(_MODELS_COMPARED)
    clouds = [np.unique(model.positions, axis=0) for model in compared]  # none is its own neighbour
    if min(len(cloud) for cloud in clouds) < 2:
        return "unclear"
    share = _share_on_others(clouds)
    radius = np.sqrt(np.mean([cloud.var(0).sum() for cloud in clouds]))
    far = pdist(np.array([cloud.mean(0) for cloud in clouds])).min() > _FAR * radius
    if share < _FEW or (far and share < _MOST):
        return "apart"
    return "on one another" if share > _MANY and not far else "unclear"


def _share_on_others(clouds: list[Float[np.ndarray, "_ 3"]]) -> float:
    trees = [cKDTree(cloud) for cloud in clouds]
    nearer = []
    for index, cloud in enumerate(clouds):
        some = cloud[:: max(1, len(cloud) // _ATOMS_COMPARED)]
        own = trees[index].query(some, k=2)[0][:, 1]
        others = np.min([tree.query(some)[0] for tree in trees[:index] + trees[index + 1 :]], axis=0)
        nearer.append(others < own)
    return float(np.concatenate(nearer).mean())
