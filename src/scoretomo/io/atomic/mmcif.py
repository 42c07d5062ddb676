"""Atoms of mmCIF files."""

import re
from pathlib import Path
from typing import Any

from gemmi import cif

from ...datatypes import InputError
from .assemblies import Generator, Operator, chosen_operators
from .listed import Columns

# Blank lines and comments, then a block; possessive, so that no length of them takes memory.
_BEGINNING = re.compile(rb"\s*+(?:#[^\n]*+\s*+)*+data_", re.IGNORECASE)
# Assemblies that are described otherwise, such as "crystal asymmetric unit", are no biological ones.
_BIOLOGICAL = (
    "author_and_software_defined_assembly",
    "author_defined_assembly",
    "software_defined_assembly",
    "complete icosahedral assembly",
    "representative helical assembly",
    "complete point assembly",
    "",
)
_MATRIX = [f"matrix[{row}][{column}]" for row in "123" for column in "123"]
_VECTOR = [f"vector[{row}]" for row in "123"]


def is_mmcif(text: bytes) -> bool:
    """Whether text is mmCIF: its first line that says something begins with ``data_``."""
    return _BEGINNING.match(text) is not None


def block_of_atoms(path: Path, text: bytes) -> Any:
    """Find the block of an mmCIF file that has atoms.

    Raises
    ------
    InputError
        No block has atoms, or several have.
    """
    blocks = [block for block in cif.read_string(text) if len(block.find_values("_atom_site.Cartn_x"))]
    if len(blocks) > 1:
        names = ", ".join(block.name for block in blocks[:3])
        raise InputError(f"{path}: {len(blocks)} blocks of it have atoms ({names}); give one of them as a file")
    if not blocks:
        raise InputError(f"{path}: no atoms found; an mmCIF file with coordinates (_atom_site.Cartn_x) is needed")
    return blocks[0]


def columns_of_mmcif(path: Path, block: Any) -> Columns:
    """Take atoms out of a block; names are the authors' where there are any.

    Raises
    ------
    InputError
        An occupancy is said that is no number.
    """
    count = len(block.find_values("_atom_site.Cartn_x"))

    def raw(*tags: str) -> list[str]:
        found = (list(block.find_values(f"_atom_site.{tag}")) for tag in tags)
        return next((values for values in found if len(values) == count), ["."] * count)

    def said(*tags: str) -> list[str]:
        return [cif.as_string(value) for value in raw(*tags)]

    x, y, z = ([cif.as_number(value) for value in raw(f"Cartn_{axis}")] for axis in "xyz")
    occupancies = [1.0 if cif.is_null(value) else cif.as_number(value) for value in raw("occupancy")]
    if wrong := [raw("occupancy")[index] for index, value in enumerate(occupancies) if value != value]:
        raise InputError(f"{path}: an atom has the occupancy {wrong[0][:20]!r}, which is no number; repair it")
    return Columns(
        models=said("pdbx_PDB_model_num"),
        chains=said("auth_asym_id", "label_asym_id"),
        subchains=said("label_asym_id", "auth_asym_id"),
        residues=said("auth_comp_id", "label_comp_id"),
        numbers=said("auth_seq_id", "label_seq_id"),
        insertions=said("pdbx_PDB_ins_code"),
        names=said("auth_atom_id", "label_atom_id"),
        alternates=said("label_alt_id"),
        symbols=said("type_symbol"),
        x=x,
        y=y,
        z=z,
        occupancies=occupancies,
    )


def generators_of_mmcif(path: Path, block: Any) -> list[Generator]:
    """How the first biological assembly is made; empty if the block describes none.

    Raises
    ------
    InputError
        As for :func:`scoretomo.io.atomic.assemblies.chosen_operators`.
    """
    named = (row for row in _rows(block, "_pdbx_struct_assembly.", "id", "details") if row[1] in _BIOLOGICAL)
    assembly = next(named, None)
    if assembly is None:
        return []
    operators = {}
    for name, *values in _rows(block, "_pdbx_struct_oper_list.", "id", *_MATRIX, *_VECTOR):
        numbers = [cif.as_number(value) for value in values]
        operators[name] = Operator(name, [numbers[0:3], numbers[3:6], numbers[6:9]], numbers[9:])
    return [
        Generator(frozenset(), frozenset(subchains.split(",")), chosen_operators(path, expression, operators))
        for name, expression, subchains in _rows(
            block, "_pdbx_struct_assembly_gen.", "assembly_id", "oper_expression", "asym_id_list"
        )
        if name == assembly[0]
    ]


def _rows(block: Any, category: str, *tags: str) -> list[list[str]]:
    return [[row.str(index) for index in range(len(tags))] for row in block.find(category, list(tags))]
