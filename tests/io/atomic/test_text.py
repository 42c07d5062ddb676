"""Files that are compressed, oddly written, something else than their name says, or nothing at all."""

import gzip
import os
from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.atoms import read_model

ATOM = "ATOM      1  CA  GLY A   1       1.500   2.000   3.000  1.00  0.00           C\n"
TWO = ATOM + ATOM.replace("A   1", "A   2").replace("1.500", "9.000")
TAGS = ["id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id", "label_seq_id"]


def mmcif(*rows: str, tags: list[str] = TAGS) -> str:
    return "\n".join(["data_x", "loop_", *(f"_atom_site.{tag}" for tag in [*tags, *AXES]), *rows, ""])


AXES = ["Cartn_x", "Cartn_y", "Cartn_z"]
TWO_ROWS = mmcif("1 C CA . GLY A 1 1.5 2 3", "2 C CA . GLY A 2 9 2 3")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pdb", TWO.encode()),
        ("a.pdb1", TWO.encode()),
        ("a.ent.gz", gzip.compress(TWO.encode())),
        ("a.pdb2.gz", gzip.compress(TWO.encode()[:50]) + gzip.compress(TWO.encode()[50:])),
        ("gzip_without_suffix.pdb", gzip.compress(TWO.encode())),
        ("suffix_without_gzip.cif.gz", TWO_ROWS.encode()),
        ("mmcif_inside.pdb", TWO_ROWS.encode()),
        ("pdb_inside.cif", TWO.encode()),
        ("comment.cif", b"# from a program\n\n" + TWO_ROWS.encode()),
        ("windows.pdb", TWO.replace("\n", "\r\n").encode()),
        ("old_mac.pdb", TWO.replace("\n", "\r").encode()),
        ("old_mac.cif", TWO_ROWS.replace("\n", "\r").encode()),
        ("byte_order_mark.pdb", b"\xef\xbb\xbf" + TWO.encode()),
        ("byte_order_mark.cif", b"\xef\xbb\xbf" + TWO_ROWS.encode()),
        ("umlaut.pdb", "REMARK   1 für Jürgen\n".encode("latin-1") + TWO.encode()),
        ("lower_case.pdb", TWO.replace("ATOM", "atom").encode()),
        ("only_up_to_z.pdb", "".join(line[:54] + "\n" for line in TWO.splitlines()).encode()),
        ("long_number.pdb", (TWO + TWO).replace("ATOM      1", "ATOM 100000", 4).encode()),
    ],
)
def test_what_is_inside_decides(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert sorted({x for x, _, _ in read_model(tmp_path / name).coordinates.tolist()}) == [1.5, 9.0]


def test_columns_that_some_programs_leave_out_of_mmcif(tmp_path: Path) -> None:
    tags = ["label_atom_id", "label_comp_id", "auth_asym_id", "label_seq_id"]
    (tmp_path / "a.cif").write_text(mmcif("CA GLY A 1 1.5 2 3", '"O5\'" DA A 2 9 2 3', tags=tags))
    assert read_model(tmp_path / "a.cif").weights.tolist() == [6.0, 8.0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("zeros.pdb.gz", gzip.compress(bytes(2**26 + 1)), "has more than 64 MB of text"),
        ("spaces.cif.gz", gzip.compress(b"data_x\n" + b"1 " * 2**25), "has more than 64 MB of text"),
        ("twice.pdb.gz", gzip.compress(gzip.compress(TWO.encode())), "holds binary data"),
        ("damaged.pdb.gz", b"\x1f\x8b" + bytes(40), "cannot be read"),
        ("binary.bcif", b"\x83\xa7encoder\x00\xa8", "holds binary data"),
        ("wide.pdb", TWO.encode("utf-16"), "holds binary data"),
        ("page.pdb", b"<!DOCTYPE html>\n<html>404</html>\n", "no atoms found"),
        ("particles.cif", b"data_particles\nloop_\n_rlnImageName #1\n1@a.mrcs\n", "no atoms found"),
        ("blank.pdb", b"\n \n", "no atoms found"),
        ("nothing.pdb.gz", gzip.compress(b""), "is empty"),
        ("waters.pdb", TWO.replace("GLY", "HOH").encode(), "no atoms found"),
        ("cut.pdb", (TWO[:130] + "\n").encode(), "line 2 is cut short"),
        ("stars.pdb", TWO.replace("   1.500", "********").encode(), r"line 1 has the coordinate '\*+', which is no"),
        ("nan.pdb", TWO.replace("  1.500", "    nan").encode(), "line 1 has the coordinate 'nan'"),
        ("gap.pdb", TWO.replace("  1.500", "       ").encode(), "line 1 has the coordinate ''"),
        ("wide_x.pdb", TWO.replace("   1.500", "-12345.500").encode(), "line 1 has the coordinate '00   2.0'"),
        ("far.pdb", TWO.replace("  1.500", "   1e38").encode(), r"has the coordinate 1e\+38 Angstrom"),
        ("stars_occupancy.pdb", TWO.replace("  1.00", "******").encode(), r"occupancy '\*+', which is no number"),
        ("far.cif", TWO_ROWS.replace("9 2", "1e38 2").encode(), r"has the coordinate 1e\+38 Angstrom"),
        ("nan.cif", TWO_ROWS.replace("9 2", "nan 2").encode(), "no finite coordinates"),
        ("missing.cif", TWO_ROWS.replace("9 2", "? 2").encode(), "no finite coordinates"),
        (
            "several.cif",
            (TWO_ROWS + TWO_ROWS.replace("data_x", "data_y")).encode(),
            r"2 blocks of it have atoms \(x, y\)",
        ),
        ("short_row.cif", TWO_ROWS.removesuffix("3\n").encode(), "not a readable PDB or mmCIF file"),
        (
            "occupancy.cif",
            TWO_ROWS.replace("type_symbol", "occupancy").encode(),
            "the occupancy 'C', which is no number",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{said}|{name}: {said}") as error:
        read_model(tmp_path / name)
    assert "\n" not in str(error.value)


def test_folders_pipes_and_links_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "folder.pdb").mkdir()
    os.mkfifo(tmp_path / "pipe.pdb")
    (tmp_path / "loop.pdb").symlink_to(tmp_path / "loop.pdb")
    for name, said in (("folder.pdb", "is a folder"), ("pipe.pdb", "no ordinary file"), ("loop.pdb", "loop.pdb")):
        with pytest.raises(InputError, match=said) as error:
            read_model(tmp_path / name)
        assert "\n" not in str(error.value)
