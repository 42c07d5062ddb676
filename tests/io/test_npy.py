"""NumPy's files: what NumPy writes is read as NumPy reads it, and headers are believed as far as the file is long."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.npy import check_single_precision, read_npy, read_npz, single_precision
from scoretomo.io.point_files import read_point_clouds


def npy(header: str, values: bytes = b"", version: int = 1) -> bytes:
    """A file of any header."""
    content = header.encode("latin-1")
    return (
        b"\x93NUMPY"
        + bytes((version, 0))
        + struct.pack("<H" if version == 1 else "<I", len(content))
        + content
        + values
    )


def declared(descr: Any = "<f4", shape: Any = (2, 8, 8), fortran: Any = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}\n"


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">i2", "<u4", "|u1", "|b1", "<f2", "<c8", "<U3", "|S2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_are(kind: str, order: Any, tmp_path: Path) -> None:
    values = np.asarray(np.arange(60).reshape(3, 4, 5).astype(kind), order=order)
    np.save(tmp_path / "a.npy", values)
    read = read_npy(tmp_path / "a.npy")
    assert read.dtype == values.dtype and np.array_equal(read, values)


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """A file of a terabyte, nearly all of it a hole, is opened at once."""
    path = tmp_path / "a.npy"
    header = npy(declared(shape=(1_000_000, 512, 512)))
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * 512 * 512 * 1_000_000)
    assert read_npy(path)[999_999, 511, 511] == 0


def test_tables_of_records_are_read(tmp_path: Path) -> None:
    """As cryoSPARC's .cs files are, with columns of several numbers, text and gaps between columns."""
    kind = np.dtype([("uid", "<u8"), ("blob/path", "S20"), ("blob/shape", "<u4", (2,)), ("pose", "<f4", (3,))])
    rows = np.zeros(7, kind)
    rows["uid"], rows["blob/path"] = np.arange(7), b"J1/stack.mrc"
    np.save(tmp_path / "a.npy", rows)
    assert np.array_equal(read_npy(tmp_path / "a.npy"), rows)
    gaps = np.zeros(3, np.dtype({"names": ["a", "b"], "formats": ["u1", "<f4"], "offsets": [0, 4], "itemsize": 12}))
    gaps["b"] = 1.5
    np.save(tmp_path / "a.npy", gaps)
    assert read_npy(tmp_path / "a.npy")["b"].tolist() == [1.5] * 3
    np.save(tmp_path / "a.npy", rows[:0])
    assert read_npy(tmp_path / "a.npy").dtype.names == kind.names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_all_versions_and_the_long_integers_of_python_2(version: int, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), } \n", bytes(24), version)
    )
    assert read_npy(tmp_path / "a.npy").shape == (2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin as one"),
        (b"PK\x03\x04", "does not begin as one"),
        (npy(declared(), bytes(512), version=9), "version"),
        (npy(declared())[:40], "ends within its header"),
        (npy(declared(), bytes(511)), r"declares \(2, 8, 8\) float32, 512 bytes, and it has 511; it is truncated"),
        (npy(declared(), bytes(1024)), "several arrays"),
        (npy(declared(shape=(10**12, 8, 8))), "truncated"),
        (npy(declared(shape=(2**40, 2**40))), "truncated"),
        (npy(declared(shape=(2**70,))), "shape"),
        (npy(declared(shape=(-2, 8, 8))), "shape"),
        (npy(declared(shape=(True, 8, 8)), bytes(256)), "shape"),
        (npy(declared(shape=(2.0, 8, 8)), bytes(512)), "shape"),
        (npy(declared(shape=[2, 8, 8]), bytes(512)), "shape"),
        (npy(declared(shape=(1,) * 40), bytes(4)), "40 axes"),
        (npy(declared(shape=(0, 2**62, 2**62))), "cannot be read"),
        (npy(declared(descr="|O")), "Python objects"),
        (npy(declared(descr=[("a", "|O")])), "Python objects"),
        (npy(declared(descr="<M8[ns]")), "none of numbers or text"),
        (npy(declared(descr="f4,(2")), "none of numbers or text"),
        (npy(declared(descr="<f3")), "cannot be read"),
        (npy(declared(descr="<U999999999")), "cannot be read"),
        (npy(declared(descr=[])), "none of numbers"),
        (npy(declared(descr=["<f4"])), "plain columns"),
        (npy(declared(descr=[("a", [("b", "<f4")])])), "plain columns"),
        (npy(declared(descr=[("a", "<f4"), ("a", "<f4")])), "cannot be read"),
        (npy(declared(descr=[("a", "|S0", (10**9,))])), "no bytes"),
        (npy(declared(descr="|S0", shape=(10**12,))), "no bytes"),
        (npy(declared(fortran=1), bytes(512)), "order"),
        (npy(declared().replace("'shape'", "b'shape'"), bytes(512)), "not that of an array"),
        (npy(declared().replace("}", ""), bytes(512)), "not that of an array"),
        (npy("print('never')"), "not that of an array"),
        (npy("-" * 60_000 + "1"), "not that of an array"),
        (npy("1" + "+1" * 30_000), "not that of an array"),
        (npy("{'descr': '\\d'}"), "not that of an array"),
        (npy(" " * 70_000, version=2), "header declares 70000 bytes"),
    ],
)
def test_headers_that_cannot_be_are_refused_in_a_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    for read in (read_npy, describe, read_point_clouds):
        with pytest.raises(InputError, match=message) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: cannot be read as a NumPy array: ")
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 8, 8), np.complex64), "not complex64"),
        (np.array([["a"]]), "not str32"),
        (np.float32(3), r"shape \(\)"),
        (np.zeros((2, 2, 8, 8)), r"shape \(2, 2, 8, 8\)"),
        (np.zeros((8, 0, 8)), "is empty"),
        (np.full((2, 8, 8), 1e300), "beyond single precision"),
        (np.full((2, 8, 8), 3e38, np.float32), "divide all by a constant"),
        (np.zeros((2, 8, 8), "<f4,<f4"), "not records"),
    ],
)
def test_arrays_that_are_no_images(values: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=message):
        read_image_stack(tmp_path / "a.npy", 2.0)


@pytest.mark.parametrize("kind", [">f4", "<f8", ">i2", "|b1"])
def test_images_and_points_of_every_order_and_type(kind: str, tmp_path: Path) -> None:
    values = (np.random.default_rng(1).normal(size=(2, 8, 8)) * 9).astype(kind)
    np.save(tmp_path / "a.npy", np.asfortranarray(values))
    assert np.array_equal(read_image_stack(tmp_path / "a.npy", 2.0).stack.images.numpy(), values.astype(np.float32))
    if kind != "|b1":
        np.save(tmp_path / "b.npy", np.asfortranarray(values[:, :, :3]))
        clouds = read_point_clouds(tmp_path / "b.npy").clouds.values()
        assert np.array_equal(np.stack([cloud.numpy() for cloud in clouds]), values[:, :, :3].astype(np.float32))


def test_only_values_that_would_become_infinite_are_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for fine in (np.array([3.4e38, -3.4e38]), np.array([np.inf, np.nan]), np.array([2**63], np.uint64), np.zeros(0)):
        check_single_precision(path, fine)
    for row in (0, 5_000_000):  # in a later block
        values = np.zeros(5_000_001)
        values[row] = -1e39
        with pytest.raises(InputError, match=r"values up to 1e\+39"):
            check_single_precision(path, values)


def test_numbers_become_single_precision_without_a_word(tmp_path: Path) -> None:
    odd = np.array([[0x7FF0000000000001, 0]], np.uint64).view(np.float64)  # a NaN that processors complain of
    assert np.isnan(single_precision(tmp_path / "a", odd)[0, 0])
    read = single_precision(tmp_path / "a", np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)))
    assert read.dtype == np.float32 and read.flags.c_contiguous and read.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_archives_give_the_arrays_that_are_asked_for(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(["x", "yz"]), "c": np.array(True)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        read = read_npz(tmp_path / "a.npz", ("a", "b", "c", "d"))
        assert list(read) == ["a", "b", "c"]
        assert all(np.array_equal(read[name], arrays[name]) for name in read)


def test_archives_that_unpack_into_more_than_is_believed(tmp_path: Path) -> None:
    """100 MB of zeros in 100 kB; and an array that declares 8 TB."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(100_000_000, np.uint8))
    with pytest.raises(InputError, match="a takes more than 67108864 bytes in memory"):
        read_npz(path, ("a",))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(declared("<f8", (10**12,)), bytes(80)))
    with pytest.raises(InputError, match="truncated"):
        read_npz(path, ("a",))


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    file = io.BytesIO()
    np.savez(file, a=np.arange(100))
    whole = file.getvalue()
    for content in (b"", b"text", whole[:200], whole[:150] + b"XXXX" + whole[154:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz: not a readable \.npz file: "):
            read_npz(path, ("a",))
