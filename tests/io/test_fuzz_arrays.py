"""Damaged and hostile .npy, .npz and .hdf files: each is read, or refused in one line; none takes memory or time."""

import faulthandler
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.npy import read_npz
from scoretomo.io.point_files import read_point_clouds

_SECONDS = 60  # of a machine that may be busy; the longest takes a part of one
_MOST_VALUES = 1 << 24  # 64 MB of single precision


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, copied, cut out or put in; the first kilobyte, where headers are, more often."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        place = rng.randrange(min(len(changed), rng.choice((1024, len(changed)))) or 1)
        width = rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place : place + width] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]) * width
            case 3:
                start = rng.randrange(len(changed) or 1)
                changed[place : place + width] = changed[start : start + width]
            case 4 if rng.random() < 0.3:
                del changed[place:]
            case 5:
                del changed[place : place + width]
            case 6:
                changed[place:place] = rng.randbytes(width)
    return bytes(changed)


def _npy(shape: tuple[int, ...], rng: random.Random) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(rng.randrange(9)).normal(size=shape) * 10.0 ** rng.choice((0, 0, 3, 37, 300))
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = rng.choice(("<f4", ">f4", "<f8", "<i2", ">u2", "|u1", "<f2", "<c8", "|b1"))
        array = np.asarray(values, order=rng.choice(("C", "F"))).astype(kind)
    np.save(file, array)
    return file.getvalue()


_SHAPES = (
    "()",
    "(4,)",
    "(-1, 8)",
    "(3, 8, 8)",
    "(0, 8, 8)",
    "(True, 8, 8)",
    "(1000000000,)",
    "(2.0, 8)",
    "(99999999999, 8)",
)
_TYPES = ("'<f4'", "'|O'", "'<U4'", "'<c16'", "'i4,f4'", "'<f3'", "[('a', '<f4')]", "[('a', '|O')]", "'<M8[ns]'", "7")
_TEXTS = (
    "{",
    "(" * 200,
    "-" * 9000 + "1",
    "1" + "+1" * 9000,
    "9" * 9000,
    "{'shape': " * 50,
    "b''",
    "[[1]: 2}",
    "\0",
    "",
)


def damaged_header(rng: random.Random) -> bytes:
    """An array whose header says something else than its bytes, or nothing that is a header."""
    shape = "(3, 8, 8)" if rng.random() < 0.7 else rng.choice(_SHAPES)
    kind = "'<f4'" if rng.random() < 0.7 else rng.choice(_TYPES)
    order = rng.choice(("False", "True", "False", "True", "None", "0"))
    text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"
    match rng.randrange(6):
        case 0:
            text = rng.choice(_TEXTS)
        case 1:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(("(", ")", "'", "\n", "L", "9" * 30, "\\", "b'x'")) + text[place:]
        case 2:
            text = text.replace("'shape'", rng.choice(("b'shape'", "'shaqe'", "'shape': 1, 'shape'")))
    version = rng.choice((1, 1, 1, 2, 3, 4))
    content = text.encode() + b"\n"
    length = len(content) if rng.random() < 0.9 else rng.choice((0, 3, 65535))
    size = struct.pack("<H" if version == 1 else "<I", min(length, 65535))
    return b"\x93NUMPY" + bytes((version, 0)) + size + content + bytes(rng.choice((0, 768, 768, 768, 5000)))


_ATTRIBUTES = ("apix_x", "apix_y", "stored_renderbits", "stored_rendermin", "stored_rendermax", "is_complex")
_ODD_NUMBERS: tuple[Any, ...] = (
    *(0, 1, 8, 12, 16, -1, 300, 2**31 - 1, 3.5, -3.5, 1e-320, 1e300, float("nan"), float("inf"), "x", b"3.5", True),
    *(np.array([]), np.array([3.5, 2.5]), np.zeros((1, 1)), h5py.Empty("f4"), np.array(["a", "b"], dtype="S1")),
)


def damaged_structure(path: Path, rng: random.Random) -> None:
    """An EMAN2 file with two or so things in it that EMAN2 does not write."""
    generator = np.random.default_rng(rng.randrange(99))
    with h5py.File(path, "w", libver=rng.choice((None, "latest"))) as file:
        images = file.create_group("MDF/images")
        for number in range(3):
            odd = rng.random() < 0.5
            name = str(number) if rng.random() < 0.9 else rng.choice(("007", "-1", "٣", "1e3", "9" * 40, "x"))
            group = images.create_group(str(number) if name in images else name)
            _ODD_IMAGES[rng.randrange(len(_ODD_IMAGES)) if odd else 0](group, generator.normal(size=(16, 16)) + 3)
            for attribute in _ATTRIBUTES[: rng.choice((0, 2, 5, 6))]:
                usual = {"stored_renderbits": 8, "is_complex": 0}.get(attribute, 3.5)
                group.attrs[f"EMAN.{attribute}"] = usual if rng.random() < 0.8 else rng.choice(_ODD_NUMBERS)


def _chunks_of(content: bytes, *chunks: int, **options: Any) -> Callable[[h5py.Group, np.ndarray], None]:
    def write(group: h5py.Group, values: np.ndarray) -> None:
        options.setdefault("compression", "gzip")
        image = group.create_dataset("image", (16, 16), "u1", chunks=chunks, maxshape=(None, None), **options)
        image.id.write_direct_chunk((0, 0), content)

    return write


def _links(link: Any) -> Callable[[h5py.Group, np.ndarray], None]:
    def write(group: h5py.Group, values: np.ndarray) -> None:
        group["image"] = link

    return write


def _dataset(name: str = "image", **options: Any) -> Callable[[h5py.Group, np.ndarray], None]:
    return lambda group, values: group.create_dataset(name, **options) and None


def _compressed(**options: Any) -> Callable[[h5py.Group, np.ndarray], None]:
    return lambda group, values: group.create_dataset("image", data=(values * 20).astype("u1"), **options) and None


def _of(kind: Any) -> Callable[[h5py.Group, np.ndarray], None]:
    return lambda group, values: group.create_dataset("image", data=values.astype(kind)) and None


def _in_the_ring(group: h5py.Group, values: np.ndarray) -> None:
    group["image"] = group


_ODD_IMAGES: tuple[Callable[[h5py.Group, np.ndarray], None], ...] = (
    _of("f4"),
    *(_of(kind) for kind in ("f8", ">f4", "i2", ">u2", "u1", "f2", "c8", "S3", bool, "f16")),
    _compressed(chunks=(16, 16), compression="gzip"),
    _compressed(chunks=(5, 16), compression="gzip", shuffle=True, fletcher32=True),
    _compressed(chunks=(5, 16), compression="lzf"),
    _dataset(shape=(60_000, 60_000), dtype="f4", chunks=(64, 64)),
    _dataset(shape=(10**6, 10**6), dtype="u1", chunks=(1000, 1000), compression="gzip"),
    *(_dataset(shape=shape, dtype="f4") for shape in ((), (0, 16), (16, 0), (16,), (1, 16, 16), (9, 16, 16), (16, 16))),
    *(_dataset(data=data) for data in (h5py.Empty("f4"), "text", ["a", "b"], np.full((16, 16), 3e38, "f4"))),
    _dataset(shape=(16, 16), dtype=h5py.ref_dtype),
    _dataset(shape=(16, 16), dtype=h5py.vlen_dtype("f4")),
    _dataset(shape=(16, 16), dtype=np.dtype([("r", "f4"), ("i", "f4")])),
    _dataset(shape=(16, 16), dtype="f4", external=[("/etc/hostname", 0, 1024)]),
    _dataset(name="another", shape=(16, 16), dtype="f4"),
    _links(h5py.SoftLink("/MDF/images")),
    _links(h5py.ExternalLink("/etc/hostname", "/")),
    _in_the_ring,
    _chunks_of(b"x\x9c\x03", 16, 16),
    _chunks_of(b"nothing packed", 16, 16),
    _chunks_of(zlib.compress(bytes(10**7)), 16, 16),  # a bomb: forty thousand times the image
    _chunks_of(zlib.compress(bytes(256)), 60_000, 60_000),
    _chunks_of(bytes(200), 16, 16, compression=None),
)


def outcome(read: Callable[[], Any]) -> str:
    """Read, or be refused in one line; anything else is a failure, and so is a warning."""
    faulthandler.dump_traceback_later(_SECONDS, exit=True)  # even a library that hangs is ended, and where is said
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "invalid value encountered in cast")  # of NaN that signal
            read()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return "refused"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return "read"


def read_images_of(path: Path) -> None:
    """As `info` and the first step of `train` do."""
    lines = describe(path, 3.0)
    assert lines[0] == f"file: {path}"
    stack = read_image_stack(path, 3.0).stack
    assert stack.images.numel() <= _MOST_VALUES


def attack(kind: str, rng: random.Random, folder: Path) -> str:
    """Make one file of a kind and read it in every way that its suffix has."""
    path = folder / f"a.{kind.split()[0]}"
    if kind == "npz":
        file = io.BytesIO()
        np.savez_compressed(file, a=np.arange(60.0).reshape(20, 3), b=np.array(["x", "y"]))
        path.write_bytes(damaged_bytes(file.getvalue(), rng))
        return outcome(lambda: read_npz(path, ("a", "b")))
    if kind == "hdf structure":
        damaged_structure(path, rng)
        return outcome(lambda: read_images_of(path))
    if kind == "hdf bytes":
        path.write_bytes(damaged_bytes(_hdf(compressed=rng.random() < 0.5), rng))
        return outcome(lambda: read_images_of(path))
    shape = rng.choice(((3, 8, 8), (8, 8), (20, 3), (2, 20, 3), (3,), (2, 2, 8, 8)))
    path.write_bytes(damaged_header(rng) if kind == "npy header" else damaged_bytes(_npy(shape, rng), rng))
    outcome(lambda: read_point_clouds(path))
    return outcome(lambda: read_images_of(path))


@cache
def _hdf(*, compressed: bool) -> bytes:
    values = np.random.default_rng(1).normal(size=(3, 16, 16))
    packed: Any = {"chunks": (16, 16), "compression": "gzip"} if compressed else {}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for number, image in enumerate(values):
            group = file.create_group(f"MDF/images/{number}")
            group.create_dataset("image", data=(image * 20 + 99).astype("u1") if packed else image, **packed)
            for name, value in (("apix_x", 3.5), ("stored_renderbits", 8 * bool(packed)), ("stored_rendermax", 2.0)):
                group.attrs[f"EMAN.{name}"] = np.array([value], "f4")
            group.attrs["EMAN.stored_rendermin"] = np.float32(-2)
    return content.getvalue()


KINDS = ("npy header", "npy bytes", "npz", "hdf structure", "hdf bytes")


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_a_line(kind: str, count: int, tmp_path: Path) -> None:
    rng = random.Random(f"{kind} {count}")
    outcomes = [attack(kind, rng, tmp_path) for _ in range(count)]
    # of each some come through, or nothing behind the first check would have been tried
    assert 0.02 * count < outcomes.count("read") < 0.98 * count
