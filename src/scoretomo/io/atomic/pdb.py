"""Atoms of PDB files."""

import re
from pathlib import Path
from typing import Any

import gemmi

from ...datatypes import InputError
from .assemblies import Generator, Operator
from .listed import Columns

# What coordinates and occupancies look like; float() takes more, such as 1_000 and nan.
_DECIMAL = re.compile(rb" *[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)? *")
_ATOM = re.compile(rb"ATOM[ \d]{2}|HETATM", re.IGNORECASE)  # some programs begin long numbers a column too early
# What ends a model. Some programs write END between models, or no MODEL before them; a file has all of its atoms.
_ENDS = (b"MODEL ", b"ENDMDL", b"END   ")
_LEAST_LENGTH = 54  # x, y and z


def columns_of_pdb(path: Path, text: bytes) -> Columns:
    """Take atoms out of the text of a PDB file; models end at MODEL, ENDMDL or END.

    Raises
    ------
    InputError
        A line is too short, or has something else where coordinates or occupancy are.
    """
    atoms: list[tuple[Any, ...]] = []
    model, ended = 0, False
    for number, line in enumerate(text.split(b"\n"), 1):
        if line[:6].ljust(6).upper() in _ENDS:
            ended = True
        elif _ATOM.match(line):
            model += ended and bool(atoms)
            ended = False
            atoms.append((str(model), *_atom(f"{path}: line {number}", line)))
    return Columns(*(list(column) for column in zip(*atoms, strict=True))) if atoms else Columns()


def _atom(where: str, line: bytes) -> tuple[str | float, ...]:
    """Read the line of an atom, in the order of the columns after the model."""
    if len(line) < _LEAST_LENGTH:
        raise InputError(f"{where} is cut short ({len(line)} characters); a line of an atom has x, y and z up to 54")
    words = line.decode("latin-1")
    chain, number, insertion = words[20:22].strip(), words[22:26].strip(), words[26].strip()
    residue, name, alternate, symbol = words[17:20].strip(), words[12:16].strip(), words[16].strip(), words[76:78]
    x, y, z = (_decimal(where, line[start : start + 8], "coordinate") for start in (30, 38, 46))
    occupancy = _decimal(where, line[54:60], "occupancy") if words[54:60].strip() else 1.0
    return chain, "", residue, number, insertion, name, alternate, symbol.strip(), x, y, z, occupancy


def _decimal(where: str, text: bytes, what: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise InputError(f"{where} has the {what} {text.decode('latin-1').strip()!r}, which is no number; repair it")
    return float(text)


def generators_of_pdb(text: bytes) -> list[Generator]:
    """How the first biological assembly is made, as REMARK 350 says; empty if there is none."""
    remarks = [line for line in text.split(b"\n") if line.startswith(b"REMARK 350")]
    assemblies: Any = gemmi.read_pdb_string(b"\n".join(remarks)).assemblies if remarks else []
    if not assemblies:
        return []
    return [
        Generator(
            None if "(all)" in list(each.chains) else frozenset(each.chains),
            frozenset(),
            tuple(Operator(it.name, it.transform.mat.tolist(), it.transform.vec.tolist()) for it in each.operators),
        )
        for each in assemblies[0].generators
    ]
