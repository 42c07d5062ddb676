"""Tables of STAR files that name images: one numbering of rows, and what is read otherwise than elsewhere is said."""

from pathlib import Path

import numpy as np
import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.image_table import read_image_table, table_notes
from scoretomo.io.particle_rows import select_rows


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


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
