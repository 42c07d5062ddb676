"""The text of STAR files: one numbering of rows, and nothing that means two things is taken for one of them."""

from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
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
