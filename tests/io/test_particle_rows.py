"""Some rows of a particle file: their bytes and those of all else are as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
import torch
from numpy.typing import NDArray

from scoretomo.datatypes import InputError, Poses
from scoretomo.geometry.rotations import random_rotations, to_relion_euler
from scoretomo.io.cryosparc import cs_bytes, read_cs
from scoretomo.io.particle_rows import read_particle_rows, select_posed_rows, select_rows
from scoretomo.io.star import read_poses

# everything that a STAR file may hold and a writer would change
STRANGE = b"""# version 30001 ; by hand

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2 the number
_rlnImagePixelSize #3
_rlnImageSize #4
"group one"   1\t1.400000  64
group2 2 1.4 64   # a comment

data_general
_rlnSomething   'one value'

DATA_particles

Loop_
 _rlnMicrographName #1
\t_rlnImageName
_rlnClassNumber #3
_rlnAngleRot #4
data_mics/a.mrc  000001@a.mrcs 2 1.50
   'my mics/a b.mrc'\t000002@a.mrcs   1  -0.5   # kept
# a comment between rows

_mics/c.mrc 000003@a.mrcs 2 1.5e+02
loop_ 000004@a.mrcs 03 7
caf\xe9#1.mrc 000005@a.mrcs 2 7

# version 30001

data_more

loop_
_rlnMicrographName #1
_rlnClassNumber #2
b.mrcs 9"""


def mask(text: str) -> NDArray[np.bool_]:
    return np.array([letter == "x" for letter in text])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_strange_star_file_loses_the_other_rows_and_nothing_else(tmp_path: Path) -> None:
    rows = read_particle_rows(write(tmp_path / "a.star", STRANGE))
    assert rows.class_numbers.tolist() == [2, 1, 2, 3, 2]
    assert (rows.pixel_size_angstrom, rows.side, rows.first_class) == (1.4, 64, 1)
    assert rows.only(mask("xxxxx")) == (STRANGE,)
    (kept,) = rows.only(mask("x.x.x"))
    lines = STRANGE.splitlines(keepends=True)
    dropped = [lines.index(line) for line in lines if b"000002@" in line or b"000004@" in line]
    assert len(dropped) == 2
    assert kept == b"".join(line for number, line in enumerate(lines) if number not in dropped)


def test_rows_by_number_are_rows_by_mask(tmp_path: Path) -> None:
    """With and without classes, in any order and twice: rows are a set, and stay in the order of the file."""
    path = write(tmp_path / "a.star", STRANGE)
    rows = read_particle_rows(path)
    assert select_rows((path,), np.array([4, 0, 2, 0])) == rows.only(mask("x.x.x"))
    write(path, STRANGE.replace(b"_rlnClassNumber #3", b"_rlnOther #3"))
    assert b"000004@" not in select_rows((path,), np.array([4, 0, 2]))[0]
    with pytest.raises(InputError, match=r"a\.star: has rows 0 to 4, not 3 to 5"):
        select_rows((path,), np.array([5, 3]))


def poses_of(count: int, generator: torch.Generator) -> Poses:
    return Poses(random_rotations(count, generator=generator), torch.randn(count, 2, generator=generator))


def test_new_poses_change_their_columns_and_nothing_else(tmp_path: Path, generator: torch.Generator) -> None:
    """Of the strange file one angle is there; the others and the origins, before 3.1 in pixels, are added."""
    path, poses = write(tmp_path / "a.star", STRANGE), poses_of(2, generator)
    (content,) = select_posed_rows((path,), np.array([1, 0]), poses, 2.0)
    before, after = STRANGE.splitlines(), content.splitlines()
    place = before.index(b"_rlnAngleRot #4") + 1
    names = (b"rlnAngleTilt", b"rlnAnglePsi", b"rlnOriginX", b"rlnOriginY")
    assert after[:place] == before[:place]
    assert after[place : place + 4] == [b"_%s #%d" % pair for pair in zip(names, (5, 6, 7, 8), strict=True)]
    assert after[place + 6 :] == [
        line for line in before[place + 2 :] if not any(b"%d@a" % i in line for i in (3, 4, 5))
    ]
    first, second = after[place + 4 : place + 6]
    assert first.startswith(b"data_mics/a.mrc  000001@a.mrcs 2 ")
    assert second.startswith(b"   'my mics/a b.mrc'\t000002@a.mrcs   1  ") and second.endswith(b"   # kept")
    angles = to_relion_euler(poses.rotations.double())
    for line, row in ((first, 1), (second, 0)):
        found = [float(word) for word in line.partition(b"#")[0].split()[-5:]]
        assert found == pytest.approx([*angles[row].tolist(), *(-poses.shifts_angstrom[row] / 2).tolist()], abs=1e-6)


def test_new_poses_of_relion_31_are_read_back(data: Path, tmp_path: Path, generator: torch.Generator) -> None:
    path, poses = data / "formats" / "relion31.star", poses_of(3, generator)
    (content,) = select_posed_rows((path,), np.array([0, 2, 4]), poses, 2.806)
    found = read_poses(write(tmp_path / "a.star", content))
    torch.testing.assert_close(found.rotations, poses.rotations, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.shifts_angstrom, poses.shifts_angstrom, rtol=0, atol=1e-5)
    before, after = (starfile.read(each)["particles"] for each in (path, tmp_path / "a.star"))
    same = [name for name in before.columns if "Angle" not in name and "Origin" not in name]
    assert before[same].iloc[[0, 2, 4]].reset_index(drop=True).equals(after[same])


def test_line_ends_of_windows_are_kept(tmp_path: Path) -> None:
    content = b"data_\r\n\r\nloop_\r\n_rlnImageName #1\r\n_rlnClassNumber #2\r\n1@a.mrcs 1\r\n2@a.mrcs 2\r\n"
    rows = read_particle_rows(write(tmp_path / "a.star", content))
    assert rows.only(mask(".x")) == (content.replace(b"1@a.mrcs 1\r\n", b""),)


@pytest.mark.parametrize(
    ("name", "count", "pixel_size", "side"),
    [("relion31", 5, 2.806, 256), ("sample_particles_relion31", 17, 1.4, 200)],
)
def test_particles_of_relion_31(
    data: Path, tmp_path: Path, name: str, count: int, pixel_size: float, side: int
) -> None:
    path = data / "formats" / f"{name}.star"
    rows = read_particle_rows(path)
    assert rows.class_numbers.tolist() == [1] * count
    assert rows.pixel_size_angstrom == pixel_size and rows.side == side
    assert rows.only(np.ones(count, bool)) == (path.read_bytes(),)
    chosen = np.arange(count) % 2 == 1
    kept = write(tmp_path / "some.star", rows.only(chosen)[0])
    before, after = starfile.read(path), starfile.read(kept)
    assert before["optics"].equals(after["optics"])
    assert before["particles"][chosen].reset_index(drop=True).equals(after["particles"])
    assert set(kept.read_bytes().splitlines()) < set(path.read_bytes().splitlines())
    assert len(read_poses(kept)) == chosen.sum()


def test_particles_of_relion_30(data: Path, tmp_path: Path) -> None:
    """One table; the pixel size follows from the magnification, the side stands in the stack only."""
    lines = (data / "formats" / "empiar_10076_7.star").read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if b"_rlnDetectorPixelSize" in line)
    body = [line.rstrip() + b" %d\n" % (i % 3 + 1) for i, line in enumerate(lines[place + 1 :]) if line.strip()]
    content = b"".join([*lines[: place + 1], b"_rlnClassNumber #11\n", *body, b"\n"])
    (tmp_path / "empiar_10076_7.mrc").symlink_to(data / "formats" / "empiar_10076_7.mrc")
    path = write(tmp_path / "run_it025_data.star", content)
    rows = read_particle_rows(path)
    assert rows.class_numbers.tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert rows.pixel_size_angstrom == pytest.approx(5e4 / 38168) and rows.side == 320
    assert rows.only(rows.class_numbers == 2) == (
        b"".join([*lines[: place + 1], b"_rlnClassNumber #11\n", body[1], body[4], b"\n"]),
    )
    (tmp_path / "empiar_10076_7.mrc").unlink()
    assert read_particle_rows(path).side is None


HEAD = b"data_particles\n\nloop_\n_rlnImageName #1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + b"1@a.mrcs\n", "no rlnClassNumber; give run_itNNN_data"),
        (HEAD + b"_rlnClassNumber #2\n", "names no images"),
        (b"words\n", "before any data_ block"),
        (bytes(range(256)), "is no text"),
        (
            HEAD + b"_rlnClassNumber #2\n1@a.mrcs 1\n2@a.mrcs\n",
            "line 7 has 1 values for the 2 columns of data_particles",
        ),
        (HEAD + b"_rlnClassNumber #2\n1@a.mrcs 1 1\n", "line 6 has 3 values"),
        (HEAD + b"_rlnClassNumber #2\n1@a.mrcs one\n", "must be numbers, not 'one', row 1"),
        (HEAD + b"_rlnClassNumber #2\n1@a.mrcs 1.5\n", "whole numbers"),
        (HEAD + b"_rlnClassNumber #2\n1@a.mrcs nan\n", "not finite"),
        (HEAD + b"_rlnClassNumber #2\n1@a.mrcs inf\n", "not finite"),
    ],
)
def test_star_files_without_the_classes_of_particles(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.star", content)
    with pytest.raises(InputError, match=message) as caught:
        read_particle_rows(path)
    assert str(caught.value).startswith(str(path))


def test_no_grid_that_all_particles_have_in_common(tmp_path: Path) -> None:
    content = STRANGE.replace(b"group2 2 1.4 64", b"group2 2 1.2 72")
    rows = read_particle_rows(write(tmp_path / "a.star", content))
    assert rows.pixel_size_angstrom is None and rows.side is None


def table(**fields: Any) -> NDArray[Any]:
    made = np.zeros(
        4, dtype=[(name, np.asarray(values).dtype, np.asarray(values).shape[1:]) for name, values in fields.items()]
    )
    for name, values in fields.items():
        made[name] = values
    return made


UID = np.array([9, 3, 7, 5], "<u8")
CLASS = np.array([0, 4, 0, 2], "<u4")
BLOB = {"blob/psize_A": np.full(4, 1.4, "<f4"), "blob/shape": np.full((4, 2), 64, "<u4")}


def test_rows_of_a_cs_file_are_cut_out_with_their_fields(tmp_path: Path) -> None:
    everything = table(
        uid=UID, **{"blob/path": np.array([b"a", b"bb", b"c", b"d"]), "alignments2D/class": CLASS, **BLOB}
    )
    rows = read_particle_rows(write(tmp_path / "a.cs", cs_bytes(everything)))
    assert rows.class_numbers.tolist() == [1, 5, 1, 3] and rows.first_class == 0
    assert (rows.pixel_size_angstrom, rows.side) == (1.4, 64)
    kept = read_cs(write(tmp_path / "b.cs", rows.only(mask("x.x."))[0])).rows
    assert kept.dtype == everything.dtype and kept.tobytes() == everything[[0, 2]].tobytes()


def test_passthrough_files_are_cut_down_too_in_their_own_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cs", cs_bytes(table(uid=UID, **BLOB)))
    more = table(uid=UID[[3, 2, 1, 0]], **{"alignments2D/class": CLASS[[3, 2, 1, 0]]})
    passthrough = write(tmp_path / "passthrough.cs", cs_bytes(more))
    rows = read_particle_rows(path, [passthrough])
    assert rows.class_numbers.tolist() == [1, 5, 1, 3]
    own, other = rows.only(rows.class_numbers == 1)
    assert read_cs(write(tmp_path / "b.cs", own)).rows["uid"].tolist() == [9, 7]
    assert read_cs(write(tmp_path / "b.cs", other)).rows["uid"].tolist() == [7, 9]


def test_a_cs_file_without_classes_asks_for_the_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cs", cs_bytes(table(uid=UID, **BLOB)))
    with pytest.raises(InputError, match=r"a\.cs: the field alignments2D/class.* not in it; .*--passthrough"):
        read_particle_rows(path)
    with pytest.raises(InputError, match=r"neither in it nor in .*a\.cs"):
        read_particle_rows(path, [path])
    with pytest.raises(InputError, match="no such file"):
        read_particle_rows(path, [tmp_path / "none.cs"])


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give \.star or \.cs"):
        read_particle_rows(tmp_path / "particles.csv")
    with pytest.raises(InputError, match="no such file"):
        read_particle_rows(tmp_path / "none.star")
    with pytest.raises(InputError, match="passthrough files belong to"):
        read_particle_rows(write(tmp_path / "a.star", STRANGE), [tmp_path / "b.cs"])
