"""Files with random damage are either refused in a line or read as atoms that can be used."""

import random
import re
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.atoms import AtomicModel, read_model, read_models

_PDB = """\
HEADER    TEST
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000       30.00000
MODEL        1
ATOM      1  N   ALA A   1      11.104   6.134  -6.504  1.00 20.00           N
ATOM      2  CA AALA A   1      11.639   6.071  -5.147  0.60 20.00           C
ATOM      3  CA BALA A   1      11.739   6.171  -5.247  0.40 20.00           C
ATOM      4  C   ALA A   1      10.559   5.565  -4.199  1.00 20.00           C
TER
HETATM    5 CA    CA B   2      -3.200   1.250   8.750  0.00 20.00          CA
HETATM    6  O   HOH B   3      -4.200   1.250   8.750  1.00 20.00           O
ENDMDL
MODEL        2
ATOM      1  N   ALA A   1      11.204   6.034  -6.404  1.00 20.00           N
ATOM      2  CA  ALA A   1      11.539   6.171  -5.047  1.00 20.00           C
ENDMDL
END
"""
_MMCIF = """\
data_TEST
loop_
_pdbx_struct_assembly.id
_pdbx_struct_assembly.details
1 author_defined_assembly
loop_
_pdbx_struct_assembly_gen.assembly_id
_pdbx_struct_assembly_gen.oper_expression
_pdbx_struct_assembly_gen.asym_id_list
1 '(1-2)(P)' A,B
loop_
_pdbx_struct_oper_list.id
_pdbx_struct_oper_list.matrix[1][1]
_pdbx_struct_oper_list.matrix[1][2]
_pdbx_struct_oper_list.matrix[1][3]
_pdbx_struct_oper_list.vector[1]
_pdbx_struct_oper_list.matrix[2][1]
_pdbx_struct_oper_list.matrix[2][2]
_pdbx_struct_oper_list.matrix[2][3]
_pdbx_struct_oper_list.vector[2]
_pdbx_struct_oper_list.matrix[3][1]
_pdbx_struct_oper_list.matrix[3][2]
_pdbx_struct_oper_list.matrix[3][3]
_pdbx_struct_oper_list.vector[3]
1 1 0 0 0 0 1 0 0 0 0 1 0
2 -1 0 0 0 0 -1 0 0 0 0 1 30
P 1 0 0 0 0 1 0 0 0 0 1 0
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.auth_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.pdbx_PDB_model_num
ATOM 1 N N . ALA A 1 11.104 6.134 -6.504 1.00 1
ATOM 2 C CA A ALA A 1 11.639 6.071 -5.147 0.60 1
ATOM 3 C CA B ALA A 1 11.739 6.171 -5.247 0.40 1
ATOM 4 ? "O5'" . DA B 2 10.559 5.565 -4.199 1.00 1
HETATM 5 CA CA . CA B 3 -3.200 1.250 8.750 0.00 1
ATOM 6 N N . ALA A 1 11.204 6.034 -6.404 1.00 2
ATOM 7 C CA . ALA A 1 11.539 6.171 -5.047 1.00 2
"""
_ODD_WORDS = (
    *("", "?", ".", "-", "0", "-1", "99999999999999999999", "1e38", "-1e300", "nan", "inf", "****", "1-1000000000"),
    *("(1-9)(1-9)", "((", "'", '"', ";", "#", "loop_", "data_x", "save_", "END", "MODEL", "é", "\t", "A" * 3000),
)
_PLAIN_WORDS = [word for word in _ODD_WORDS if re.fullmatch(r"[-?.*\w()]+", word)]


def damaged(text: bytes, draw: random.Random) -> bytes:
    """Change bytes, lines or fields, once or a few times."""
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        lines = text.split(b"\n")
        at = draw.randrange(len(lines))
        match draw.choice((0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 9, 9, 9, 9)):
            case 0:
                place = draw.randrange(len(text) + 1)
                text = text[:place] + bytes([draw.randrange(256)]) + text[place + 1 :]
            case 1:
                place = draw.randrange(len(text) + 1)
                text = text[:place] + draw.randbytes(draw.randrange(1, 5)) + text[place:]
            case 2:
                start = draw.randrange(len(text) + 1)
                text = text[:start] + text[start + draw.randrange(100) :]
            case 3:
                text = b"\n".join(lines[:at] + lines[at + 1 :])
            case 4:
                text = b"\n".join(lines[:at] + draw.choice((2, 2, 50)) * lines[at : at + 1] + lines[at + 1 :])
            case 5:
                other = draw.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
                text = b"\n".join(lines)
            case 6:
                words = lines[at].split(b" ")
                said = [index for index, word in enumerate(words) if word] or [0]
                words[draw.choice(said)] = draw.choice(_ODD_WORDS).encode()
                text = b"\n".join([*lines[:at], b" ".join(words), *lines[at + 1 :]])
            case 7:
                start = draw.randrange(80)
                width = draw.choice((1, 2, 6, 8))
                field = draw.choice(_ODD_WORDS).encode()[:width].rjust(width)
                lines[at] = lines[at][:start] + field + lines[at][start + width :]
                text = b"\n".join(lines)
            case 8:
                text = text[: draw.randrange(len(text) + 1)]
            case 9:  # what remains an mmCIF file
                rows = [index for index, line in enumerate(lines) if re.match(rb"ATOM|HETATM|\d|P", line)] or [at]
                row = draw.choice(rows)
                words = lines[row].split() or [b""]
                words[draw.randrange(len(words))] = draw.choice(_PLAIN_WORDS).encode()
                lines[row] = b" ".join(words)
                text = b"\n".join(lines)
        text = text or b"\n"
    return text


def check_usable(model: AtomicModel) -> None:
    assert torch.isfinite(model.coordinates).all()
    assert len(model.weights) > 0 and (model.weights > 0).all() and (model.weights <= 120).all()
    assert len(model.points) > 0
    assert all("\n" not in note and len(note) < 300 for note in model.notes)


def run(original: str, count: int, path: Path) -> int:
    """How many of ``count`` damaged copies could be read."""
    readable = 0
    for seed in range(count):
        path.write_bytes(damaged(original.encode(), random.Random(seed)))
        try:
            how = seed % 3
            models = read_models(path) if how == 0 else (read_model(path, models="auto" if how == 1 else "all"),)
            for model in models:
                check_usable(model)
            readable += 1
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error), f"seed {seed}: {error}"
            assert len(str(error)) < len(str(path)) + 400, f"seed {seed}"
        except Exception as error:
            raise AssertionError(f"seed {seed} of {path.name}") from error
    return readable


@pytest.mark.parametrize("name, original", [("a.pdb", _PDB), ("a.cif", _MMCIF)])
def test_damaged_files_are_refused_or_can_be_used(name: str, original: str, tmp_path: Path) -> None:
    readable = run(original, 1000, tmp_path / name)
    assert 100 < readable < 900


@pytest.mark.slow
@pytest.mark.parametrize("name, original", [("a.pdb", _PDB), ("a.cif", _MMCIF)])
def test_ten_thousand_damaged_files(name: str, original: str, tmp_path: Path) -> None:
    run(original, 10_000, tmp_path / name)
