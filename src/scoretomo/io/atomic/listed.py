"""Atoms as a file lists them: without hydrogens and waters, model after model, and in a model chain after chain."""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import gemmi
import numpy as np
from jaxtyping import Bool, Float, Int

# Elements of one letter that names of atoms begin with. What begins with another letter has an element of two.
_OF_ONE_LETTER = frozenset("HDCNOPSFBIKVWUY")
# Elements of two letters that no other atom has a name like; CA, CD, CE, CO, HG, NA, NE, PB and such are mostly C, H, N
# and P, unless they are a residue of their own.
_OF_TWO_LETTERS = frozenset({"CL", "BR", "FE", "SE", "SI", "CU", "NI", "PT"})
_IN_STANDARD_RESIDUES = frozenset({"H", "D", "C", "N", "O", "P", "S", "Se"})


@dataclass
class Columns:
    """What a file says of each atom, in its order; text is stripped, and empty where nothing is said.

    Attributes
    ----------
    models, chains, subchains, residues, numbers, insertions
        Model, chain, part of the chain (``label_asym_id`` of mmCIF), name and number of the residue.
    names, alternates, symbols
        Atom, alternate location, element.
    x, y, z
        In Angstrom.
    occupancies
        1 where nothing is said.
    """

    models: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    subchains: list[str] = field(default_factory=list)
    residues: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    insertions: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    alternates: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    z: list[float] = field(default_factory=list)
    occupancies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ListedAtoms:
    """Atoms that are neither hydrogens nor of waters.

    Attributes
    ----------
    positions
        ``(n, 3)``, xyz in Angstrom.
    elements
        ``(n,)``, atomic numbers; 0 where nothing tells the element.
    occupancies
        ``(n,)``.
    alternates
        ``(n,)``: numbers of alternate locations, 0 if an atom has only one.
    residues
        ``(n,)``: numbers that atoms of one residue share, in one model.
    numbers
        ``(n,)``: of residues as the file has them; NaN where it has none.
    models
        ``(n,)``: indices of models, from 0, rising.
    chains, subchains
        ``(n,)``: indices of the names.
    chain_names, subchain_names
        Names by index.
    """

    positions: Float[np.ndarray, "n 3"]
    elements: Int[np.ndarray, " n"]
    occupancies: Float[np.ndarray, " n"]
    alternates: Int[np.ndarray, " n"]
    residues: Int[np.ndarray, " n"]
    numbers: Float[np.ndarray, " n"]
    models: Int[np.ndarray, " n"]
    chains: Int[np.ndarray, " n"]
    subchains: Int[np.ndarray, " n"]
    chain_names: tuple[str, ...]
    subchain_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def by_model(self, most: int | None = None) -> list["ListedAtoms"]:
        """Models, each on its own; only the first, if ``most`` is given."""
        starts = np.flatnonzero(np.diff(self.models, prepend=-1)).tolist()
        if most is not None and most < len(starts):
            return self.take(slice(starts[most])).by_model()
        return [self.take(slice(*ends)) for ends in zip(starts, [*starts[1:], len(self)], strict=True)]

    def take(self, which: Bool[np.ndarray, " n"] | Int[np.ndarray, " k"] | slice) -> "ListedAtoms":
        """Only some of the atoms, or in another order."""
        values = {it.name: getattr(self, it.name) for it in fields(self)}
        taken: dict[str, Any] = {name: it[which] for name, it in values.items() if isinstance(it, np.ndarray)}
        return replace(self, **taken)


def listed_atoms(columns: Columns) -> ListedAtoms:
    """Arrays of what a file says; an element that it does not say is found from the names of atom and residue."""
    models, _ = _coded(columns.models)
    chains, chain_names = _coded(columns.chains)
    subchains, subchain_names = _coded(columns.subchains)
    residues, _ = _coded(zip(columns.models, columns.chains, columns.numbers, columns.insertions, strict=True))
    alternates, _ = _coded(["", *columns.alternates])
    kinds, different = _coded(zip(columns.symbols, columns.names, columns.residues, strict=True))
    elements = np.array([_element(*kind).atomic_number for kind in different], dtype=np.int64)[kinds]
    waters = np.array([gemmi.find_tabulated_residue(residue).is_water() for *_, residue in different], dtype=bool)
    found = ListedAtoms(
        np.column_stack([np.array(axis, dtype=np.float64) for axis in (columns.x, columns.y, columns.z)]),
        elements,
        np.array(columns.occupancies, dtype=np.float64),
        alternates[1:],
        residues,
        np.array([_number(text) for text in columns.numbers], dtype=np.float64),
        models,
        chains,
        subchains,
        tuple(chain_names),
        tuple(subchain_names),
    )
    heavy = np.flatnonzero((elements != 1) & ~waters[kinds])
    return found.take(heavy[np.lexsort((chains[heavy], models[heavy]))])  # which keeps the order inside of a chain


def _coded(values: Iterable[Hashable]) -> tuple[Int[np.ndarray, " n"], list[Any]]:
    """Numbers in place of values, and the value of each number, in the order in which they first come."""
    codes: dict[Hashable, int] = {}
    numbers = [codes.setdefault(value, len(codes)) for value in values]
    return np.array(numbers, dtype=np.int64), list(codes)


def _element(symbol: str, name: str, residue: str) -> Any:
    """Element that the file says, unless it says none or one that a standard residue does not have."""
    said = gemmi.Element(symbol)
    if said.name != "X" and (said.name in _IN_STANDARD_RESIDUES or not _is_standard(residue)):
        return said
    return element_of(name, residue)


def _is_standard(residue: str) -> bool:
    return bool(gemmi.find_tabulated_residue(residue).is_standard())


def element_of(name: str, residue: str) -> Any:
    """Element of an atom by its name, whichever column that begins in: CA is carbon, but calcium in the residue CA."""
    match = re.search("[A-Za-z]+", name)
    letters = match[0].upper() if match else ""
    alone = letters == residue.upper().rstrip("0123456789+-")  # an ion, such as FE of FE2
    for symbol in _candidates(letters, alone=alone):
        if (element := gemmi.Element(symbol)).name != "X":
            return element
    return gemmi.Element("X")


def _candidates(letters: str, *, alone: bool) -> Sequence[str]:
    if alone or letters[:2] in _OF_TWO_LETTERS or letters[:1] not in _OF_ONE_LETTER:
        one = letters[:1] if letters[:1] in _OF_ONE_LETTER else ""
        return letters[:2], one
    return (letters[:1],)


def _number(text: str) -> float:
    """Read the number of a residue, which PDB files with more than 9999 begin with a letter (hybrid-36)."""
    try:
        return float(int(text))
    except ValueError:
        pass
    if re.fullmatch("[A-Z][0-9A-Z]{3}", text):
        return float(int(text, 36) - 10 * 36**3 + 10**4)
    return float("nan")
