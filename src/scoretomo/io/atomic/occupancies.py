"""How much of every atom is there: occupancies that say something, and conformers that share a place."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from .listed import ListedAtoms

_CARBON = 6


def with_elements(atoms: ListedAtoms) -> tuple[ListedAtoms, tuple[str, ...]]:
    """Leave out atoms of unknown element; if all are, they count as carbon. Also what is to be said."""
    unknown = atoms.elements == 0
    if not unknown.any():
        return atoms, ()
    if unknown.all():
        return replace(atoms, elements=np.full_like(atoms.elements, _CARBON)), (
            "neither columns nor names tell the elements of its atoms; all count as carbon",
        )
    return atoms.take(~unknown), (f"{unknown.sum()} atoms of unknown element do not count",)


def with_occupancies(atoms: ListedAtoms) -> tuple[ListedAtoms, tuple[str, ...]]:
    """Leave out atoms that are not there, and bring occupancies to 0 to 1. Also what is to be said.

    If all occupancies are 0, the field says nothing and all atoms count. The conformers of a residue together are there
    once at most: occupancies that add up to more are scaled.
    """
    notes = []
    there = atoms.occupancies > 0
    if not there.any():
        notes.append("all occupancies are 0, which says nothing; all atoms count fully")
        atoms = replace(atoms, occupancies=np.ones_like(atoms.occupancies))
    elif not there.all():
        notes.append(f"{(~there).sum()} atoms have an occupancy of 0 and do not count")
        atoms = atoms.take(there)
    if more := int((atoms.occupancies > 1).sum()):
        notes.append(f"{more} atoms have an occupancy above 1 and count as 1")
    atoms = replace(atoms, occupancies=np.minimum(1.0, atoms.occupancies))
    return _share(atoms), tuple(notes)


def _share(atoms: ListedAtoms) -> ListedAtoms:
    """Scale occupancies of conformers that add up to more than 1."""
    several = np.flatnonzero(atoms.alternates)
    if not len(several):
        return atoms
    conformer, residue, mean = _conformers(atoms, several)
    total = np.bincount(residue, weights=mean)
    occupancies = atoms.occupancies.copy()
    occupancies[several] /= np.maximum(1.0, total[residue])[conformer]
    return replace(atoms, occupancies=occupancies)


def in_main_conformer(atoms: ListedAtoms) -> Bool[np.ndarray, " n"]:
    """Which atoms are in the conformer of highest occupancy of their residue, the first of equals."""
    several = np.flatnonzero(atoms.alternates)
    if not len(several):
        return np.ones(len(atoms), dtype=bool)
    conformer, residue, mean = _conformers(atoms, several)
    order = np.lexsort((np.arange(len(mean)), -mean, residue))
    _, first = np.unique(residue[order], return_index=True)
    chosen = np.ones(len(atoms), dtype=bool)
    chosen[several] = np.isin(conformer, order[first])
    return chosen


def _conformers(
    atoms: ListedAtoms, several: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Conformer of each of the atoms with alternates, and residue and mean occupancy of each conformer."""
    residues, alternates = atoms.residues[several], atoms.alternates[several]
    pairs, conformer = np.unique(np.column_stack([residues, alternates]), axis=0, return_inverse=True)
    conformer = conformer.reshape(-1)
    counts = np.bincount(conformer, minlength=len(pairs))
    mean = np.bincount(conformer, weights=atoms.occupancies[several], minlength=len(pairs)) / counts
    return conformer, pairs[:, 0], mean
