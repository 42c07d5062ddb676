"""Assemblies that files describe: which copies are made, and what is refused before it is made."""

import itertools
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.atoms import read_model

Operators = dict[str, tuple[str, tuple[float, float, float]]]
_TURNS = {
    "none": "1 0 0 0 1 0 0 0 1",
    "half": "-1 0 0 0 -1 0 0 0 1",
    "mirror": "1 0 0 0 1 0 0 0 -1",
    "flat": "0 0 0 0 1 0 0 0 1",
    "nan": "nan 0 0 0 1 0 0 0 1",
    "large": "1e200 0 0 0 1 0 0 0 1",
}


def mmcif(
    expression: str,
    operators: Operators,
    *,
    atoms: tuple[tuple[float, float, float], ...] = ((5, 0, 0),),
    parts: str = "A",
) -> str:
    names = [f"matrix[{row}][{column}]" for row, column in itertools.product("123", repeat=2)]
    head = ["id", *names, *(f"vector[{row}]" for row in "123")]
    tags = ["id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id", "label_seq_id"]
    return "\n".join(
        [
            "data_x",
            "loop_\n_pdbx_struct_assembly.id\n_pdbx_struct_assembly.details",
            "1 author_defined_assembly\n2 software_defined_assembly",
            "loop_\n_pdbx_struct_assembly_gen.assembly_id\n_pdbx_struct_assembly_gen.oper_expression",
            f"_pdbx_struct_assembly_gen.asym_id_list\n1 '{expression}' {parts}\n2 '(1-1000000000)' A",
            "loop_",
            *(f"_pdbx_struct_oper_list.{tag}" for tag in head),
            *(f"{name} {_TURNS[turn]} {' '.join(map(str, shift))}" for name, (turn, shift) in operators.items()),
            "loop_",
            *(f"_atom_site.{tag}" for tag in (*tags, "Cartn_x", "Cartn_y", "Cartn_z")),
            *(f"{number} C CA . GLY A {number} {x} {y} {z}" for number, (x, y, z) in enumerate(atoms, 1)),
            "",
        ]
    )


SHIFTS: Operators = {str(number): ("none", (10.0 * number, 0, 0)) for number in range(1, 6)}
BOTH: Operators = {**SHIFTS, "P": ("half", (0, 0, 100)), "X0": ("none", (0, 7, 0))}


@pytest.mark.parametrize(
    ("expression", "x"),
    [
        ("1", [15]),
        ("1,3,5", [15, 35, 55]),
        ("(2)", [25]),
        ("2-4", [25, 35, 45]),
        ("(1-2,5)", [15, 25, 55]),
        ("P", [-5]),
        ("(1,2)(P)", [5, 15]),  # P first, then the shift
        ("(P)(1,2)", [-15, -25]),
        ("(1-2)(X0,P)", [15, 5, 25, 15]),
        ("( 1 , 2 )", [15, 25]),
    ],
)
def test_operator_expressions(expression: str, x: list[float], tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(mmcif(expression, BOTH))
    assert read_model(tmp_path / "a.cif").coordinates[:, 0].tolist() == x


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("(1-1000000000)", "needs the operator '6'"),
        ("1-99999999999999999999", "needs the operator '1-99999999999999999999'"),
        ("(1-5)(1-5)(1-5)(1-5)(1-5)(1-5)", "more than 5000 copies"),
        ("(1-5)" * 400, "more than 5000 copies"),
        (",".join(["1"] * 6000), "more than 5000 copies"),
        ("7", "needs the operator '7'"),
        ("(1", "not understood"),
        ("1)(2", "not understood"),
        ("((1))", "not understood"),
        ("()", "not understood"),
        ("", "not understood"),
        (",", "needs the operator ''"),
    ],
)
def test_malformed_expressions_are_refused_at_once(expression: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(mmcif(expression, SHIFTS))
    with pytest.raises(InputError, match=r"a\.cif: .*assembly") as error:
        read_model(tmp_path / "a.cif")
    assert said in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("turn", "shift"), [("mirror", 0), ("flat", 0), ("none", 1e300), ("none", float("nan")), ("nan", 0), ("large", 0)]
)
def test_operators_that_are_no_rotations_are_refused(turn: str, shift: float, tmp_path: Path) -> None:
    known: Operators = {"1": ("none", (0, 0, 0)), "2": (turn, (0, shift, 0))}
    (tmp_path / "a.cif").write_text(mmcif("1,2", known))
    with pytest.raises(InputError, match="operator '2' of its assembly is no rotation"):
        read_model(tmp_path / "a.cif")
    assert len(read_model(tmp_path / "a.cif", assembly=False).weights) == 1


def test_too_many_atoms_are_refused_before_they_are_made(tmp_path: Path) -> None:
    atoms = tuple((float(k % 50), float(k // 50), 0.0) for k in range(3000))
    known: Operators = {str(number): ("none", (0, 0, float(number))) for number in range(1, 4001)}
    (tmp_path / "a.cif").write_text(mmcif("(1-4000)", known, atoms=atoms))
    with pytest.raises(InputError, match="its assembly has 12000000 atoms, more than 8000000"):
        read_model(tmp_path / "a.cif")


def test_operators_that_lay_all_atoms_on_one_another_are_refused(tmp_path: Path) -> None:
    atoms = tuple((float(k), 0.0, 0.0) for k in range(20))
    known: Operators = {str(number): ("none", (0, 0, 1e-6 * number)) for number in range(1, 2001)}
    (tmp_path / "a.cif").write_text(mmcif("(1-2000)", known, atoms=atoms))
    with pytest.raises(InputError, match="lay the same atoms on one another"):
        read_model(tmp_path / "a.cif")


def test_an_atom_on_an_axis_is_there_once(tmp_path: Path) -> None:
    turns: Operators = {"1": ("none", (0, 0, 0)), "2": ("half", (0, 0, 0))}
    (tmp_path / "a.cif").write_text(mmcif("1,2", turns, atoms=((0.04, 0, 3), (5, 0, 0))))
    model = read_model(tmp_path / "a.cif")
    torch.testing.assert_close(model.coordinates, torch.tensor([[0.0, 0, 3], [5, 0, 0], [-5, 0, 0]]))
    assert model.weights.tolist() == [6.0] * 3


def test_chains_that_are_not_there_are_said(tmp_path: Path) -> None:
    (tmp_path / "some.cif").write_text(mmcif("1,2", SHIFTS, parts="A,B,C"))
    some = read_model(tmp_path / "some.cif")
    assert len(some.weights) == 2 and some.notes == ("2 chains of its assembly are not in the file ('B, C')",)
    (tmp_path / "none.cif").write_text(mmcif("1,2", SHIFTS, parts="B"))
    none = read_model(tmp_path / "none.cif")
    assert len(none.weights) == 1 and "none of the chains that its assembly is made of" in none.notes[0]
