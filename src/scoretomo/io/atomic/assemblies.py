"""Biological assemblies: copies of chains, turned and shifted."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, product
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from ...datatypes import InputError
from .listed import ListedAtoms

# Helices have some hundred copies in the PDB; the largest capsids have 6 million atoms.
_MOST_OPERATORS = 5000
_MOST_ATOMS, _MOST_CHAINS = 8 * 10**6, 10**6
# Copies of one atom as close as this are the one atom, on an axis of symmetry (the distance is gemmi's).
_SAME_ANGSTROM = 0.2
_MOST_SAME = 5 * 10**7  # pairs of them: 400 MB
_NOT_ORTHOGONAL, _FURTHEST_ANGSTROM = 0.02, 1e6
_SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Operator:
    """A copy: named, turned by the rows of ``matrix``, then shifted by ``vector`` in Angstrom."""

    name: str
    matrix: Sequence[Sequence[float]]
    vector: Sequence[float]

    def after(self, first: "Operator") -> "Operator":
        """Apply another operator before this one."""
        matrix, vector = np.array(self.matrix), np.array(self.vector)
        turned = matrix @ np.array(first.vector) + vector
        return Operator(f"{self.name}-{first.name}", (matrix @ np.array(first.matrix)).tolist(), turned.tolist())


@dataclass(frozen=True)
class Generator:
    """Chains of an assembly, and the copies of them: named as chains (None: all of them) or as parts of chains."""

    chains: frozenset[str] | None
    subchains: frozenset[str]
    operators: tuple[Operator, ...]


def chosen_operators(path: Path, expression: str, known: Mapping[str, Operator]) -> tuple[Operator, ...]:
    """Read what mmCIF calls an operator expression: ``1,3``, ``(1-60)``, or products of such, ``(1-60)(P,Q)``.

    Raises
    ------
    InputError
        The expression is not understood, names operators that are not known, or too many.
    """
    compact = "".join(expression.split())
    if not re.fullmatch(r"(\([^()]+\))+|[^()]+", compact):
        raise InputError(f"{path}: the assembly's operators {_short(expression)} are not understood; repair them")
    groups = [_listed(path, text, known) for text in re.findall(r"[^()]+", compact)]
    _check_count(path, prod(len(group) for group in groups))
    operators = []
    for chosen in product(*groups):
        *others, first = chosen
        for other in reversed(others):
            first = other.after(first)
        operators.append(first)
    return tuple(operators)


def _listed(path: Path, text: str, known: Mapping[str, Operator]) -> list[Operator]:
    names: list[str] = []
    for item in text.split(","):
        bounds = re.fullmatch(r"(\d{1,18})-(\d{1,18})", item)
        if item in known or not bounds:
            names.append(item)
        else:
            first, last = int(bounds[1]), int(bounds[2])
            names += [str(number) for number in range(first, min(last, first + len(known)) + 1)]
        _check_count(path, len(names))
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"{path}: its assembly needs the operator {_short(unknown[0])} of {_short(text)}, which the file does not "
            f"have; it has {len(known)}"
        )
    return [known[name] for name in names]


def _check_count(path: Path, operators: int) -> None:
    if operators > _MOST_OPERATORS:
        raise InputError(f"{path}: its assembly has more than {_MOST_OPERATORS} copies; keep the part that is needed")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def build_assembly(
    path: Path, atoms: ListedAtoms, generators: Sequence[Generator]
) -> tuple[ListedAtoms, tuple[str, ...]]:
    """Copy atoms as an assembly does. The first copy of a chain keeps its name, others have free ones.

    Returns
    -------
    atoms
        Of the assembly; those given if it is made of none of them.
    notes
        Which chains of the assembly are not there.

    Raises
    ------
    InputError
        The assembly is too large, or an operator is no rotation.
    """
    _check_count(path, sum(len(each.operators) for each in generators))
    chosen = list(zip(_chosen(atoms, generators), (each.operators for each in generators), strict=True))
    total = sum(len(which) * len(operators) for which, operators in chosen)
    chain_count = sum(len(np.unique(atoms.chains[which])) * len(operators) for which, operators in chosen)
    for number, most, what in ((total, _MOST_ATOMS, "atoms"), (chain_count, _MOST_CHAINS, "chains")):
        if number > most:
            raise InputError(
                f"{path}: its assembly has {number} {what}, more than {most}; keep the part that is needed"
            )
    if not total:
        return atoms, ("it has none of the chains that its assembly is made of; its atoms count as they are listed",)
    sources, positions, chains = [], [], []
    names = _CopiedNames(atoms.chain_names)
    for which, operators in chosen:
        for operator in operators:
            sources.append(which)
            positions.append(_moved(path, atoms.positions[which], operator))
            chains.append(names.of_copy(operator.name, atoms.chains[which]))
    copied = replace(
        atoms.take(np.concatenate(sources)),
        positions=np.concatenate(positions),
        chains=np.concatenate(chains),
        chain_names=tuple(names.names),
    )
    return _merged(path, copied, np.concatenate(sources)), _missing(atoms, generators)


def in_one(atoms: ListedAtoms) -> ListedAtoms:
    """Make one model of all; where a chain is in several, the first keeps its name, others have free ones."""
    names = _CopiedNames(atoms.chain_names)
    chains = [names.of_copy(str(number), model.chains) for number, model in enumerate(atoms.by_model())]
    merged = replace(atoms, chains=np.concatenate(chains), models=np.zeros_like(atoms.models))
    return replace(merged, chain_names=tuple(names.names))


def _missing(atoms: ListedAtoms, generators: Sequence[Generator]) -> tuple[str, ...]:
    chains = {name for each in generators for name in each.chains or ()} - set(atoms.chain_names)
    parts = {name for each in generators for name in each.subchains} - set(atoms.subchain_names)
    missing = sorted(chains | parts)
    if not missing:
        return ()
    return (f"{len(missing)} chains of its assembly are not in the file ({_short(', '.join(missing))})",)


def _chosen(atoms: ListedAtoms, generators: Sequence[Generator]) -> list[Int[np.ndarray, " _"]]:
    """Find the indices of the atoms that each generator copies."""
    chain_of = {name: index for index, name in enumerate(atoms.chain_names)}
    subchain_of = {name: index for index, name in enumerate(atoms.subchain_names)}
    found = []
    for each in generators:
        chains = np.zeros(len(chain_of), dtype=bool)
        chains[[chain_of[name] for name in (chain_of if each.chains is None else each.chains) if name in chain_of]] = (
            True
        )
        subchains = np.zeros(len(subchain_of), dtype=bool)
        subchains[[subchain_of[name] for name in each.subchains if name in subchain_of]] = True
        found.append(np.flatnonzero(chains[atoms.chains] | subchains[atoms.subchains]))
    return found


def _moved(path: Path, positions: Float[np.ndarray, "n 3"], operator: Operator) -> Float[np.ndarray, "n 3"]:
    matrix, vector = np.array(operator.matrix), np.array(operator.vector)
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(matrix @ matrix.T - np.eye(3)).max()
    # neither holds of NaN
    if not (away < _NOT_ORTHOGONAL and np.linalg.det(matrix) > 0 and np.abs(vector).max() < _FURTHEST_ANGSTROM):
        what = "is no rotation with a shift below 0.1 mm"
        raise InputError(f"{path}: operator {_short(operator.name)} of its assembly {what}; repair it")
    moved: Float[np.ndarray, "n 3"] = positions @ matrix.T + vector
    return moved


class _CopiedNames:
    """Names of chains and of their copies."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._first: dict[int, str] = {}  # operators that made the first copies
        self._copies: dict[tuple[str, int], int] = {}
        taken = set(names)
        self._free = (name for name in _short_names() if name not in taken)

    def of_copy(self, operator: str, chains: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Give chains the indices of the names that they have in a copy."""
        different, inverse = np.unique(chains, return_inverse=True)
        return np.array([self._of_chain(operator, index) for index in different.tolist()], dtype=np.int64)[inverse]

    def _of_chain(self, operator: str, index: int) -> int:
        if self._first.setdefault(index, operator) == operator:
            return index
        if (operator, index) not in self._copies:
            self._copies[operator, index] = len(self.names)
            self.names.append(next(self._free))
        return self._copies[operator, index]


def _short_names() -> Iterator[str]:
    return chain(_SYMBOLS, map("".join, product(_SYMBOLS, repeat=2)), (str(number) for number in count(100)))


def _merged(path: Path, atoms: ListedAtoms, sources: Int[np.ndarray, " n"]) -> ListedAtoms:
    """Put copies of an atom that lie on an axis into one, at their mean; occupancies add up to 1 at most."""
    special = np.flatnonzero(_is_special(atoms.positions, sources))
    if not len(special):
        return atoms
    if np.square(np.bincount(sources[special])).sum() > _MOST_SAME:
        raise InputError(f"{path}: the operators of its assembly lay the same atoms on one another; repair them")
    # copies of other atoms are further away than any distance
    tree = cKDTree(np.column_stack([atoms.positions[special], 4 * _SAME_ANGSTROM * sources[special]]))
    pairs = special[tree.query_pairs(_SAME_ANGSTROM, output_type="ndarray")]
    kept = np.arange(len(atoms))
    np.minimum.at(kept, pairs.max(1), pairs.min(1))
    kept = kept[kept]
    numbers = np.bincount(kept, minlength=len(atoms))
    sums = [np.bincount(kept, weights=axis, minlength=len(atoms)) for axis in atoms.positions.T]
    first = numbers > 0
    positions = np.column_stack(sums)[first] / numbers[first, None]
    occupancies = np.minimum(1.0, numbers * atoms.occupancies)
    return replace(replace(atoms, occupancies=occupancies).take(first), positions=positions)


def _is_special(positions: Float[np.ndarray, "n 3"], sources: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether any copy of an atom comes to lie where the first one is; operators of a group need no other test."""
    _, first, source = np.unique(sources, return_index=True, return_inverse=True)
    near = np.square(positions - positions[first[source]]).sum(1) < _SAME_ANGSTROM**2
    near[first] = False
    again = np.zeros(len(first), dtype=bool)
    again[source[near]] = True
    special: Bool[np.ndarray, " n"] = again[source]
    return special
