"""CryoSPARC's tables: images against their STAR twin, classes, passthrough files, and files that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scoretomo.datatypes import ImageStack, InputError
from scoretomo.io import star
from scoretomo.io.cryosparc import CsFile, cs_bytes, find_field, read_cs, read_images, read_named_images, rows_of
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.mrc import write_images


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with six class averages in ``J12``; average ``i`` has the value ``i`` everywhere."""
    (tmp_path / "J12").mkdir()
    (tmp_path / "J13").mkdir()
    images = torch.arange(6.0)[:, None, None].expand(6, 8, 8)
    write_images(tmp_path / "J12" / "J12_020_class_averages.mrc", ImageStack(images, 3.6))
    return tmp_path


def averages(indices: list[int], **fields: Any) -> NDArray[Any]:
    """Rows of templates_selected.cs."""
    columns = {
        "uid": np.arange(len(indices), dtype="<u8") + 7,
        "blob/path": np.array([b"J12/J12_020_class_averages.mrc"] * len(indices)),
        "blob/idx": np.array(indices, dtype="<u4"),
        "blob/psize_A": np.full(len(indices), 3.54, dtype="<f4"),
    }
    return rows(**(columns | fields))


def rows(**columns: Any) -> NDArray[Any]:
    columns = {name: np.asarray(column) for name, column in columns.items() if column is not None}
    length = len(next(iter(columns.values())))
    table = np.zeros(length, dtype=[(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    return table


def test_selected_class_averages_keep_their_class_numbers(project: Path) -> None:
    path = project / "J13" / "templates_selected.cs"
    path.write_bytes(cs_bytes(averages([4, 0, 3])))
    loaded = read_image_stack(path)
    assert loaded.stack.images[:, 0, 0].tolist() == [4, 0, 3]
    assert loaded.stack.pixel_size_angstrom == 3.54  # single precision says 3.5399999, and the header 3.6
    assert loaded.class_numbers == (5, 1, 4)  # counted from 1


def test_exported_files_name_stacks_from_their_own_folder(project: Path) -> None:
    path = project / "exported.cs"
    names = np.array([b">J12/J12_020_class_averages.mrc"] * 2)
    path.write_bytes(cs_bytes(averages([1, 2], **{"blob/path": names})))
    assert read_images(path).stack.images[:, 0, 0].tolist() == [1, 2]
    path.write_bytes(cs_bytes(averages([1, 2], **{"blob/path": names.astype(str)})))
    assert read_images(path).stack.images[:, 0, 0].tolist() == [1, 2]


def test_averages_of_two_classifications_have_no_class_numbers(project: Path) -> None:
    write_images(project / "J12" / "other.mrc", ImageStack(torch.ones(6, 8, 8), 3.6))
    names = np.array([b"J12/J12_020_class_averages.mrc", b"J12/other.mrc"])
    (project / "two.cs").write_bytes(cs_bytes(averages([1, 1], **{"blob/path": names})))
    assert read_images(project / "two.cs").class_numbers is None


def test_without_a_pixel_size_the_field_is_asked_for(project: Path) -> None:
    path = project / "a.cs"
    write_images(project / "J12" / "J12_020_class_averages.mrc", ImageStack(torch.ones(6, 8, 8), 1.0))
    for sizes in (None, np.zeros(1, "<f4")):
        path.write_bytes(cs_bytes(averages([1], **{"blob/psize_A": sizes})))
        with pytest.raises(InputError, match=r"a\.cs: no pixel size in blob/psize_A.*--pixel-size"):
            read_images(path)
        assert read_images(path, 2.0).stack.pixel_size_angstrom == 2
    path.write_bytes(cs_bytes(averages([1, 2], **{"blob/psize_A": np.array([1.5, 2.5], "<f4")})))
    with pytest.raises(InputError, match=r"pixel sizes from 1\.5 to 2\.5"):
        read_images(path)


def test_files_that_cannot_be_used(project: Path) -> None:
    path = project / "a.cs"
    contents = {
        b"\x95CSDAT\x00\x00": "compressed.*Dataset.load",
        b"": "cannot be read",
        b"data_\n\nloop_\n": "cannot be read",
        cs_bytes(np.zeros((2, 3))): "no table",
        cs_bytes(averages([1], **{"blob/path": None})): "no blob/path",
        cs_bytes(averages([])): "no rows",
        cs_bytes(averages([6])): "image 7 of .* which has 6",
        cs_bytes(averages([1], **{"blob/path": np.array([b"J12/gone.mrc"])})): "1 of 1 image stacks are missing",
        cs_bytes(averages([1, 2]))[:-20]: "cannot be read",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_images(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match="no such file"):
        read_cs(project / "none.cs")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.cs"
    with path.open("wb") as file:
        np.save(file, np.array([("a", 1)], dtype=[("uid", object), ("blob/idx", "<u4")]), allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects"):
        read_cs(path)


def test_passthrough_files_are_matched_by_uid() -> None:
    particles = CsFile(Path("particles.cs"), rows(uid=np.array([30, 10, 20], "<u8"), a=[1, 2, 3]))
    more = rows(uid=np.array([20, 40, 10, 30], "<u8"), b=[[2, 2], [4, 4], [1, 1], [3, 3]])
    files = [particles, CsFile(Path("passthrough.cs"), more)]
    found = find_field(files, "b")
    assert found is not None and found.tolist() == [[3, 3], [1, 1], [2, 2]]
    assert find_field(files, "c") is None
    assert rows_of(files[1], particles).tolist() == [True, False, True, True]


def test_passthrough_files_of_another_job_are_refused() -> None:
    particles = CsFile(Path("particles.cs"), rows(uid=np.array([30, 10], "<u8")))
    for uids, message in (
        ([10, 40], r"b\.cs: 1 of the 2 particles"),
        ([], "2 of the 2"),
        ([10, 10, 30], "more than once"),
    ):
        with pytest.raises(InputError, match=message):
            find_field([particles, CsFile(Path("b.cs"), rows(uid=np.array(uids, "<u8"), b=np.array(uids, "<u8")))], "b")
    with pytest.raises(InputError, match="no field uid"):
        find_field([particles, CsFile(Path("b.cs"), rows(b=[1, 2]))], "b")


def test_images_equal_those_of_the_star_twin(data: Path) -> None:
    twin = data / "formats" / "empiar_10076_7"
    here, there = read_named_images(twin.with_suffix(".cs")), star.read_named_images(twin.with_suffix(".star"))
    assert np.array_equal(here.values, there.values)
    assert here.stated.pixel_sizes_angstrom == pytest.approx(there.stated.pixel_sizes_angstrom, rel=1e-5)
    with pytest.raises(InputError, match=r"holds particles \(with .*\), not class averages; give "):
        read_image_stack(twin.with_suffix(".cs"))
    lines = "\n".join(describe(twin.with_suffix(".cs")))
    assert "images named by a cryoSPARC file" in lines and "pixel size: 1.31 A" in lines


def test_rows_of_a_real_file_are_written_as_they_were(data: Path, tmp_path: Path) -> None:
    path = data / "formats" / "empiar_10076_7.cs"
    rows = read_cs(path).rows
    (tmp_path / "a.cs").write_bytes(cs_bytes(rows))
    assert read_cs(tmp_path / "a.cs").rows.dtype.descr == rows.dtype.descr
    # before them is NumPy's header, whose padding differs between its versions
    assert path.read_bytes().endswith(rows.tobytes()) and cs_bytes(rows).endswith(rows.tobytes())
