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
_MOST_ATOMS = 10**7
# Copies of one atom as close as this are the one atom, on an axis of symmetry (the distance is gemmi's).
_SAME_ANGSTROM = 0.2
_MOST_SAME = 10**7  # pairs of them: 160 MB
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
    chosen = [(np.flatnonzero(_is_chosen(atoms, each)), each.operators) for each in generators]
    total = sum(len(which) * len(operators) for which, operators in chosen)
    _check_count(path, sum(len(operators) for _, operators in chosen))
    if total > _MOST_ATOMS:
        raise InputError(f"{path}: its assembly has {total} atoms, more than {_MOST_ATOMS}; keep the part of it needed")
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


def _is_chosen(atoms: ListedAtoms, generator: Generator) -> Bool[np.ndarray, " n"]:
    if generator.chains is None:
        return np.ones(len(atoms), dtype=bool)
    chains = np.array([name in generator.chains for name in atoms.chain_names], dtype=bool)
    subchains = np.array([name in generator.subchains for name in atoms.subchain_names], dtype=bool)
    chosen: Bool[np.ndarray, " n"] = chains[atoms.chains] | subchains[atoms.subchains]
    return chosen


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
    # copies of other atoms are further away than any distance
    reach = 4 * _SAME_ANGSTROM
    tree = cKDTree(np.column_stack([atoms.positions, reach * sources]))
    if tree.count_neighbors(tree, _SAME_ANGSTROM) > 2 * _MOST_SAME + len(atoms):
        raise InputError(f"{path}: the operators of its assembly lay the same atoms on one another; repair them")
    pairs = tree.query_pairs(_SAME_ANGSTROM, output_type="ndarray")
    if not len(pairs):
        return atoms
    kept = np.arange(len(atoms))
    np.minimum.at(kept, pairs[:, 1], pairs[:, 0])
    kept = kept[kept]
    sums = np.zeros_like(atoms.positions)
    np.add.at(sums, kept, atoms.positions)
    numbers = np.bincount(kept, minlength=len(atoms))
    occupancies = np.minimum(1.0, numbers * atoms.occupancies)
    first = numbers > 0
    positions = sums[first] / numbers[first, None]
    return replace(replace(atoms, occupancies=occupancies).take(first), positions=positions)
