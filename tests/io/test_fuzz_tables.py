"""Damaged and hostile STAR, .cs and MRC files: each is read, or refused in one line; none takes memory or time."""

import faulthandler
import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError, Volume
from scoretomo.imaging.preprocess import PreprocessConfig
from scoretomo.io.cryosparc import cs_bytes
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.mrc import read_volume, write_images, write_volume
from scoretomo.io.particle_rows import read_particle_rows, select_rows
from scoretomo.io.particles import read_particles
from scoretomo.io.quality import check_images

_SECONDS = 20
_WORDS = [
    *("data_", "loop_", "_rlnImageName", "#", '"', "'", "0", "-1", "1e400", "nan", "inf", "9" * 40, "@", "1@", "a@b@c"),
    *(
        "000001@stack.mrcs",
        "stack.mrcs",
        "..",
        "/",
        "\t",
        "\\",
        "_",
        "None",
        "1_0",
        "é",
        "0x10",
        ";",
        "1,5",
        "x" * 5000,
    ),
]
_STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnBeamTiltX #8
_rlnOddZernike #9
1 "group one" 4.0 8 300 2.7 0.1 0.0 [0,0]
2 other 4.0 8 200 0.01 0.1 0.1 [0.1,0]

data_general

_rlnReferenceDimensionality 2
_rlnPixelSize 4.0

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnClassNumber #3
_rlnAngleRot #4
_rlnAngleTilt #5
_rlnAnglePsi #6
_rlnOriginXAngst #7
_rlnOriginYAngst #8
_rlnDefocusU #9
_rlnDefocusV #10
_rlnDefocusAngle #11
_rlnRandomSubset #12
"""


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, copied, cut out or put in; where headers are, more often."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(min(len(changed), rng.choice((256, 1024, len(changed)))) or 1)
        width = rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(6):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1:
                changed[place : place + width] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]) * width
            case 2:
                start = rng.randrange(len(changed) or 1)
                changed[place : place + width] = changed[start : start + width]
            case 3 if rng.random() < 0.3:
                del changed[place:]
            case 4:
                del changed[place : place + width]
            case _:
                changed[place:place] = rng.randbytes(width)
    return bytes(changed)


def damaged_lines(content: bytes, rng: random.Random) -> bytes:
    """Lines and words dropped, doubled, moved, or replaced by what means something elsewhere."""
    lines = [line.split(" ") for line in content.decode().split("\n")]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.randrange(len(lines))
        column = rng.randrange(len(lines[row]) + 1)
        match rng.randrange(7):
            case 0 if len(lines) > 1:
                del lines[row]
            case 1:
                lines.insert(rng.randrange(len(lines)), list(lines[row]))
            case 2:
                lines[row][column : column + 1] = [rng.choice(_WORDS)]
            case 3:
                lines[row].insert(column, rng.choice(_WORDS))
            case 4:
                del lines[row][column:]
            case 5:
                lines.insert(row, [rng.choice(_WORDS)])
            case _:
                lines += [list(line) for line in lines[row:]]
    text = "\n".join(" ".join(line) for line in lines).encode()
    return damaged_bytes(text, rng) if rng.random() < 0.2 else text


def star(rng: random.Random) -> bytes:
    rows = [
        f"{i + 1:06d}@stack.mrcs {i % 2 + 1} {i % 3 + 1} {10 * i} {5 * i} 0 1 -2 15000 14000 {i} {i % 2 + 1}"
        for i in range(4)
    ]
    averages = (
        "data_model_classes\n\nloop_\n_rlnReferenceImage #1\n_rlnClassDistribution #2\n_rlnEstimatedResolution #3\n"
    )
    if rng.random() < 0.4:
        return (averages + "".join(f"{i + 1:06d}@stack.mrcs 0.25 {20 - i}\n" for i in range(4))).encode()
    return (_STAR + "\n".join(rows) + "\n").encode()


def cs(rng: random.Random) -> bytes:
    kinds: dict[str, tuple[str, tuple[int, ...], Any]] = {
        "uid": ("<u8", (), np.arange(4) + 7),
        "blob/path": ("S10", (), b"stack.mrcs"),
        "blob/idx": ("<u4", (), np.arange(4)),
        "blob/shape": ("<u4", (2,), 8),
        "blob/psize_A": ("<f4", (), 4.0),
    }
    if rng.random() < 0.7:
        kinds["alignments3D/pose"] = ("<f4", (3,), np.arange(12).reshape(4, 3) / 10)
        kinds["alignments3D/shift"] = ("<f4", (2,), 0.5)
        kinds["alignments2D/class"] = ("<u4", (), np.arange(4) % 2)
    for name in list(kinds):  # fields of other types and shapes
        if rng.random() < 0.1:
            kind, shape = (
                rng.choice(("<f4", "<i8", "S3", "<U4", "<c8", "|b1", ">u2")),
                rng.choice(((), (1,), (2, 2), (3,))),
            )
            kinds[name] = (kind, shape, rng.choice((b"1", 0, 1)))
    made = np.zeros(4, dtype=[(name, kind, shape) for name, (kind, shape, _) in kinds.items()])
    for name, (kind, _, values) in kinds.items():
        if made[name].dtype.kind not in "SU" or isinstance(values, bytes):
            made[name] = values.decode() if kind.startswith("<U") and isinstance(values, bytes) else values
    return cs_bytes(made)


def mrc(rng: random.Random) -> bytes:
    return _MRC[rng.randrange(len(_MRC))]


_MRC: list[bytes] = []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "stack.mrcs", ImageStack(torch.rand(4, 8, 8), 4.0))
    write_volume(tmp_path / "map.mrc", Volume(torch.rand(8, 8, 8), 4.0))
    _MRC[:] = [(tmp_path / name).read_bytes() for name in ("stack.mrcs", "map.mrc")]
    return tmp_path


def read_all(path: Path) -> None:
    """Everything that commands do with such a file, each to its end or to one line."""
    for read in _READERS[path.name.partition(".")[2]]:
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error) and str(error)


def checked(path: Path) -> None:
    """As ``scoretomo check`` does, at any pixel size."""
    loaded = read_image_stack(path, 4.0)
    check_images(path, loaded.stack, PreprocessConfig())


def selected(path: Path) -> None:
    """Rows that are written are those that were asked for."""
    rows = read_particle_rows(path)
    mask = np.arange(len(rows.class_numbers)) % 2 == 0
    (content,) = rows.only(mask)
    assert (content,) == select_rows((path,), np.flatnonzero(mask))


def particles(path: Path) -> None:
    found = read_particles(path)
    assert found.images.read(np.arange(len(found))).isfinite().all()


_TABLE: list[Callable[[Path], object]] = [describe, checked, particles, selected]
_READERS: dict[str, list[Callable[[Path], object]]] = {
    "star": _TABLE,
    "cs": _TABLE,
    "mrc": [describe, read_volume, checked],
    "mrcs": [describe, checked, particles],
    "map.gz": [describe, read_volume],
}
_FORMATS: dict[str, tuple[Callable[[random.Random], bytes], Callable[[bytes, random.Random], bytes]]] = {
    "star": (star, damaged_lines),
    "cs": (cs, damaged_bytes),
    "mrc": (mrc, damaged_bytes),
    "mrcs": (mrc, damaged_bytes),
    "map.gz": (mrc, lambda content, rng: damaged_bytes(gzip.compress(damaged_bytes(content, rng)), rng)),
}


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", _FORMATS)
def test_damaged_files_are_read_or_refused(folder: Path, suffix: str, count: int) -> None:
    rng, path = random.Random(count), folder / f"damaged.{suffix}"
    make, damage = _FORMATS[suffix]
    for _ in range(count):
        path.write_bytes(damage(make(rng), rng))
        faulthandler.dump_traceback_later(_SECONDS, exit=True)
        try:
            read_all(path)
        except Exception as error:
            kept = folder / f"failed.{suffix}"
            kept.write_bytes(path.read_bytes())
            raise AssertionError(f"{kept} ends in {error!r}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
