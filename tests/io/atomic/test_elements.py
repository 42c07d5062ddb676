"""Elements of atoms whose file does not say them, and occupancies that say little."""

from pathlib import Path

import pytest
import torch

from scoretomo.io.atomic.listed import element_of
from scoretomo.io.atoms import read_model


def line(
    name: str, residue: str, *, element: str = "", alternate: str = " ", occupancy: str = "1.00", at: int = 1
) -> str:
    place = f"{at:8.3f}{at % 7:8.3f}{at % 5:8.3f}"
    named = f"{name}{alternate}{residue:>3s} A{at // 10:4d}"
    return f"ATOM  {at:5d} {named}    {place}{occupancy:>6s} 20.00          {element:>2s}\n"


@pytest.mark.parametrize("name", ["CA  ", " CA ", "  CA"])
def test_c_alpha_is_carbon_whichever_column_it_begins_in(name: str, tmp_path: Path) -> None:
    short = line(name, "ALA").rstrip() + "\n"
    (tmp_path / "a.pdb").write_text(short + line(name, "GLY", at=20)[:66] + "\n")
    assert read_model(tmp_path / "a.pdb").weights.tolist() == [6.0, 6.0]


@pytest.mark.parametrize(
    ("name", "residue", "expected"),
    [
        ("CA", "CA", "Ca"),
        ("CA", "UNL", "C"),
        ("CD", "GLU", "C"),
        ("NE2", "HIS", "N"),
        ("HG", "SER", "H"),
        ("1HG1", "VAL", "H"),
        ("HG", "HG", "Hg"),
        ("OG", "SER", "O"),
        ("SD", "MET", "S"),
        ("SE", "MSE", "Se"),
        ("O5'", "DA", "O"),
        ("OP1", "U", "O"),
        ("PB", "ATP", "P"),
        ("NA", "HEM", "N"),
        ("FE", "HEM", "Fe"),
        ("FE", "FE2", "Fe"),
        ("MG", "CLA", "Mg"),
        ("ZN", "ZN", "Zn"),
        ("CL1", "LIG", "Cl"),
        ("K", "K", "K"),
        ("U", "IUM", "U"),
        ("LP1", "LIG", "X"),
        ("", "LIG", "X"),
        ("*", "", "X"),
    ],
)
def test_element_of_a_name(name: str, residue: str, expected: str) -> None:
    assert element_of(name, residue).name == expected


def test_what_the_file_says_wins_unless_the_residue_cannot_have_it(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(
        line("FE  ", "LIG", element="ZN") + line(" CA ", "ALA", element="CA", at=20) + line("CA  ", " CA", element="CA")
    )
    assert sorted(read_model(tmp_path / "a.pdb").weights.tolist()) == [6.0, 20.0, 30.0]


def test_hydrogens_without_element_are_left_out_too(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(
        line("HG  ", "SER") + line("HE2 ", "HIS") + line("1HB ", "ALA") + line("OG  ", "SER")
    )
    assert read_model(tmp_path / "a.pdb").weights.tolist() == [8.0]


def test_digits_where_old_files_number_their_lines_are_no_element(tmp_path: Path) -> None:
    old = line(" CA ", "ALA")[:66] + "      1ABC  12\n"
    (tmp_path / "a.pdb").write_text(old)
    assert read_model(tmp_path / "a.pdb").weights.tolist() == [6.0]


def test_unknown_elements_do_not_count_unless_all_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "some.pdb").write_text(line(" QQ ", "DUM") + line(" CA ", "ALA", at=2))
    some = read_model(tmp_path / "some.pdb")
    assert some.weights.tolist() == [6.0] and some.notes == ("1 atoms of unknown element do not count",)
    (tmp_path / "all.pdb").write_text(line(" QQ ", "DUM") + line(" QQ ", "DUM", at=2))
    every = read_model(tmp_path / "all.pdb")
    assert every.weights.tolist() == [6.0, 6.0] and "all count as carbon" in every.notes[0]


def test_atoms_of_occupancy_0_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(
        line(" CA ", "ALA") + line(" CB ", "ALA", occupancy="0.00", at=2) + line(" C  ", "ALA", occupancy="0.50", at=3)
    )
    model = read_model(tmp_path / "a.pdb")
    assert model.weights.tolist() == [6.0, 3.0] and len(model.points) == 2
    assert model.notes == ("1 atoms have an occupancy of 0 and do not count",)


def test_occupancies_that_are_all_0_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text("".join(line(" CA ", "ALA", occupancy="0.00", at=at) for at in range(4)))
    model = read_model(tmp_path / "a.pdb")
    assert model.weights.tolist() == [6.0] * 4
    assert "all occupancies are 0" in model.notes[0]


def test_a_blank_occupancy_is_1_and_more_than_1_is_1(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(line(" CA ", "ALA", occupancy="") + line(" C  ", "ALA", occupancy="90.00", at=2))
    model = read_model(tmp_path / "a.pdb")
    assert model.weights.tolist() == [6.0, 6.0]
    assert model.notes == ("1 atoms have an occupancy above 1 and count as 1",)


@pytest.mark.parametrize(
    ("first", "second", "weights", "main"),
    [
        ("0.50", "0.50", [6, 3, 3, 6], [True, True, False, True]),
        ("0.30", "0.70", [6, 1.8, 4.2, 6], [True, False, True, True]),
        ("1.00", "1.00", [6, 3, 3, 6], [True, True, False, True]),
        ("0.25", "0.50", [6, 1.5, 3, 6], [True, False, True, True]),
        ("0.00", "0.60", [6, 3.6, 6], [True, True, True]),
    ],
)
def test_conformers_of_a_residue_are_there_once(
    first: str, second: str, weights: list[float], main: list[bool], tmp_path: Path
) -> None:
    (tmp_path / "a.pdb").write_text(
        line(" CA ", "SER", at=11)
        + line(" CB ", "SER", alternate="A", occupancy=first, at=12)
        + line(" CB ", "SER", alternate="B", occupancy=second, at=13)
        + line(" C  ", "SER", at=14)
    )
    model = read_model(tmp_path / "a.pdb")
    torch.testing.assert_close(model.weights, torch.tensor(weights, dtype=torch.float32))
    assert model.main.tolist() == main


def test_conformers_of_different_residues_do_not_share_a_place(tmp_path: Path) -> None:
    """The second conformer is the fuller one in one residue, the first in the other."""
    text = ""
    for start, first in ((10, "0.20"), (20, "0.80")):
        second = f"{1 - float(first):.2f}"
        for name, at in ((" CB ", start), (" CG ", start + 1)):
            text += line(name, "LEU", alternate="A", occupancy=first, at=at)
            text += line(name, "LEU", alternate="B", occupancy=second, at=at)
    (tmp_path / "a.pdb").write_text(text)
    model = read_model(tmp_path / "a.pdb")
    assert model.main.tolist() == [False, True, False, True, True, False, True, False]
    assert model.weights.sum().item() == pytest.approx(4 * 6)
