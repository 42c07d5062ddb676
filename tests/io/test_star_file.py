"""The text of STAR files: one numbering of rows, and nothing that means two things is taken for one of them."""

from pathlib import Path

import numpy as np
import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.particle_rows import select_rows
from scoretomo.io.star import read_image_table, table_notes
from scoretomo.io.star_file import read_tables


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_tables_and_single_values(tmp_path: Path) -> None:
    text = """
data_general
_rlnBox 64
_rlnWords 'two words'  # and a comment
data_particles

loop_
_rlnName #1
# a comment between labels

_rlnX #2
"a b" 1
data_c 2.5e1   # a row may begin with data_ where it has more values
data_other
loop_
_rlnEmpty
"""
    general, particles, other = read_tables(write(tmp_path / "a.star", text))
    assert (general.block, general.is_loop, len(general)) == ("general", False, 1)
    assert general.texts("rlnWords") == ["two words"] and general.numbers("rlnBox").tolist() == [[64]]
    assert particles.columns == ["rlnName", "rlnX"] and particles.texts("rlnName") == ["a b", "data_c"]
    assert particles.numbers("rlnX")[:, 0].tolist() == [1, 25]
    assert len(other) == 0


def test_other_line_ends_and_bytes(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfdata_\r\nloop_\r\n_rlnName\r\n_rlnX\r\ncaf\xe9.mrc 1\r\n"
    (table,) = read_tables(write(tmp_path / "a.star", content))
    assert table.numbers("rlnX").tolist() == [[1]]
    assert table.texts("rlnName")[0].encode("utf-8", "surrogateescape") == b"caf\xe9.mrc"  # a name that a disk may have


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_a\nloop_\n_x\n1\n\ndata_a\nloop_\n_y\n2\n", "block data_a is there twice, in lines 1 and 6"),
        ("data_\nloop_\n_x\n_y\n_x\n1 2 3\n", "the label _x is there twice, in lines 3 and 5"),
        ("data_\nloop_\n_x\ndata_1.mrcs\ndata_2.mrcs\n", "line 4 begins with data_ and may|line 5"),
        ("data_\nloop_\n_x\n1.mrcs\ndata_2.mrcs\n", "line 5 begins with data_ and may be a row or a new block"),
        ("data_\n1 2 3\n", "line 2 belongs to no table"),
        ("data_\nloop_\n_x value\n1\n", "line 3: _x has 1 values"),
        ("data_\n_x\n", "line 2: _x has 0 values, where one value belongs"),
        ("loop_\n_x\n1\n", "before any data_ block"),
        (b"data_\0\n", "is no text"),
        ("", "no data_ block"),
    ],
)
def test_what_means_nothing_or_two_things_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path / "a.star", text)
    with pytest.raises(InputError, match=message) as caught:
        read_tables(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("word", ["none", "1_0", "0x10", "''", "1,5"])
def test_words_are_no_numbers(tmp_path: Path, word: str) -> None:
    (table,) = read_tables(write(tmp_path / "a.star", f"data_\nloop_\n_x\n_y\n2 1\n3 {word}\n"))
    with pytest.raises(InputError, match=r"_?y must be numbers, not .* row 2"):
        table.numbers("x", "y")


def test_rows_read_are_rows_written(tmp_path: Path) -> None:
    """Rows are counted once: which of them are particles, and which lines go out, cannot differ."""
    rows = "".join(f"{i:06d}@s.mrcs {i % 3}\n" for i in range(1, 10))
    text = f"# by hand\n\ndata_particles\nloop_\n_rlnImageName #1\n\n# note\n_rlnClassNumber #2\n{rows}"
    path = write(tmp_path / "a.star", text)
    table = read_image_table(path)
    assert list(table.sections) == list(range(9)) and table.class_numbers.tolist() == [i % 3 for i in range(1, 10)]
    (kept,) = select_rows((path,), np.array([1, 7]))
    assert list(read_image_table(write(tmp_path / "b.star", kept)).sections) == [1, 7]


def test_files_one_after_the_other_are_refused(tmp_path: Path) -> None:
    """As ``cat a.star b.star`` makes them: one of both tables alone would be read in silence."""
    one = "data_\n\nloop_\n_rlnImageName #1\n_rlnClassNumber #2\n1@s.mrcs 1\n2@s.mrcs 2\n"
    with pytest.raises(InputError, match=r"2 tables that name images, in lines 4 and 12"):
        read_image_table(write(tmp_path / "a.star", f"{one}\n{one}"))


def test_a_blank_line_among_rows_is_said(tmp_path: Path) -> None:
    """RELION stops there, so that it and we would see different particles."""
    text = "data_\nloop_\n_rlnImageName #1\n_rlnX #2\n1@s.mrcs 1\n\n2@s.mrcs 2\n"
    table = read_image_table(write(tmp_path / "a.star", text))
    assert list(table.sections) == [0, 1]
    assert table_notes(table) == ("line 7 and what follows is read; RELION stops at the blank line before it",)
    whole = read_image_table(write(tmp_path / "b.star", text.replace("\n\n", "\n")))
    assert table_notes(whole) == ()


def test_optics_that_are_not_taken_into_account_are_said(tmp_path: Path) -> None:
    optics = "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnBeamTiltX #2\n_rlnOddZernike #3\n_rlnMagMat00 #4\n"
    particles = "\ndata_particles\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n1@s.mrcs 1\n"
    nothing = read_image_table(write(tmp_path / "a.star", f"{optics}1 0.0 [0,0,0] 1.0\n{particles}"))
    assert table_notes(nothing) == ()
    table = read_image_table(write(tmp_path / "b.star", f"{optics}1 0.4 [0,0.2,0] 0.99\n{particles}"))
    said = table_notes(table)
    assert [note.partition(" is ")[0] for note in said] == ["beam tilt", "odd aberrations", "anisotropic magnification"]
