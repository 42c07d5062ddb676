"""MRC files: round trips, odd headers said in words, and files that are not what they seem."""

import gzip
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError, Volume
from scoretomo.io.images import describe
from scoretomo.io.mrc import StoredSections, read_array, read_images, read_volume, write_images, write_volume


def write(path: Path, values: Any, voxel_size: Any = 2.5, volume: bool = False) -> Path:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(values)
        if volume:
            mrc.set_volume()
        elif values.ndim == 3:
            mrc.set_image_stack()
        mrc.voxel_size = voxel_size
    return path


def overwrite(path: Path, offset: int, value: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(value)


@pytest.fixture
def values() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 100, (5, 8, 8)).astype(np.float32)


def test_images_come_back(tmp_path: Path) -> None:
    stack = ImageStack(torch.randn(5, 9, 9), 3.54)
    write_images(tmp_path / "a.mrcs", stack)
    loaded = read_images(tmp_path / "a.mrcs")
    assert torch.equal(loaded.stack.images, stack.images)
    assert loaded.stack.pixel_size_angstrom == pytest.approx(3.54, rel=1e-6)
    assert loaded.notes == ()
    with mrcfile.open(tmp_path / "a.mrcs") as mrc:
        assert mrc.is_image_stack() and mrc.header.mz == 1
    assert mrcfile.validate(tmp_path / "a.mrcs")


def test_volume_comes_back(tmp_path: Path) -> None:
    volume = Volume(torch.randn(7, 7, 7), 1.0)
    write_volume(tmp_path / "a.mrc", volume)
    loaded = read_volume(tmp_path / "a.mrc")
    assert torch.equal(loaded.volume.voxels, volume.voxels)
    assert loaded.volume.pixel_size_angstrom == 1
    assert "placeholder" in loaded.notes[0]  # never silently
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert mrc.is_volume() and mrc.header.ispg == 1
    assert mrcfile.validate(tmp_path / "a.mrc")


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_number_types(tmp_path: Path, values: np.ndarray[Any, Any], dtype: str, order: str) -> None:
    path = write(tmp_path / "a.mrcs", values.astype(np.dtype(dtype).newbyteorder(order)))
    assert np.array_equal(read_images(path).stack.images.numpy(), values)


def test_a_single_image_is_a_stack_of_one(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    for number, single in enumerate((values[0], values[:1])):
        loaded = read_images(write(tmp_path / f"{number}.mrc", single))
        assert np.array_equal(loaded.stack.images.numpy(), values[:1])


@pytest.mark.parametrize(("voxel_size", "reason"), [(0.0, "no pixel size"), (1.0, "placeholder")])
def test_pixel_size_is_never_assumed(
    tmp_path: Path, values: np.ndarray[Any, Any], voxel_size: float, reason: str
) -> None:
    path = write(tmp_path / "a.mrcs", values, voxel_size)
    with pytest.raises(InputError, match=rf"a\.mrcs: .*{reason}.*--pixel-size"):
        read_images(path)
    assert read_images(path, 4.2).stack.pixel_size_angstrom == 4.2
    assert read_images(path, 1.0).stack.pixel_size_angstrom == 1.0


def test_given_pixel_size_wins_and_the_disagreement_is_noted(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    path = write(tmp_path / "a.mrcs", values, 2.5)
    assert read_images(path, 2.5).notes == ()
    loaded = read_images(path, 3.0)
    assert loaded.stack.pixel_size_angstrom == 3
    assert loaded.notes == ("the header's pixel size of 2.5 A is overruled by 3 A",)


def test_unequal_voxel_sizes(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    slightly = read_images(write(tmp_path / "a.mrcs", values, (2.5, 2.51, 9.0)))  # z means nothing in a stack
    assert slightly.stack.pixel_size_angstrom == 2.5
    assert slightly.notes == ("the header's voxel size is unequal: 2.5 x 2.51 A",)
    path = write(tmp_path / "b.mrcs", values, (2.5, 2.6, 2.5))
    with pytest.raises(InputError, match=r"unequal, 2\.5 x 2\.6 A.*--pixel-size"):
        read_images(path)
    assert read_images(path, 2.5).notes == ("the header's voxel size is unequal: 2.5 x 2.6 A",)
    path = write(tmp_path / "c.mrc", np.zeros((8, 8, 8), np.float32), (2.5, 2.5, 3.0), volume=True)
    with pytest.raises(InputError, match="unequal"):
        read_volume(path)


def test_volumes_and_stacks_that_say_the_other(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    images = read_images(write(tmp_path / "a.mrcs", values, volume=True))
    assert len(images.stack) == 5 and "the header says volume" in images.notes[0]
    volume = read_volume(write(tmp_path / "b.mrc", np.zeros((8, 8, 8), np.float32)))
    assert volume.volume.side == 8 and "the header says image stack" in volume.notes[0]


def test_axes_in_another_order(tmp_path: Path) -> None:
    zyx = np.random.default_rng(1).random((6, 6, 6)).astype(np.float32)
    path = write(tmp_path / "a.mrc", zyx.transpose(1, 2, 0).copy(), volume=True)  # sections y, rows x, columns z
    overwrite(path, 64, np.array([3, 1, 2], "<i4").tobytes())  # mapc, mapr, maps
    loaded = read_volume(path)
    assert np.array_equal(loaded.volume.voxels.numpy(), zyx)
    assert "axes" in loaded.notes[0]


def test_permissive_header_is_noted_and_not_printed(
    tmp_path: Path, values: np.ndarray[Any, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.mrcs", values)
    overwrite(path, 208, b"\0" * 8)  # map id and machine stamp, as old writers leave them
    with open(path, "ab") as file:
        file.write(b"tail")
    loaded = read_images(path)
    assert np.array_equal(loaded.stack.images.numpy(), values)
    assert len(loaded.notes) == 3 and "Map ID" in loaded.notes[0] and "4 bytes larger" in loaded.notes[2]
    assert capfd.readouterr() == ("", "")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def beheaded(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def as_text(path: Path) -> None:
    path.write_text("_rlnImageName #1\n" * 200)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def no_sections(path: Path) -> None:
    overwrite(path, 8, bytes(4))


def with_nan(path: Path) -> None:
    overwrite(path, 1024 + 3 * 256, np.float32("nan").tobytes())


def oblong(path: Path) -> None:
    write(path, np.zeros((5, 8, 6), np.float32))


def complex_numbers(path: Path) -> None:
    write(path, np.zeros((5, 8, 8), np.complex64))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "truncated"),
        (beheaded, "500 bytes"),
        (as_text, "text file"),
        (emptied, "0 bytes"),
        (noise, "MRC file"),
        (no_sections, "empty"),
        (with_nan, "images 3 hold NaN"),
        (oblong, "6 x 8"),
        (complex_numbers, "mode 4"),
        (Path.unlink, "no such file"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path: Path, values: np.ndarray[Any, Any], spoil: Any, message: str) -> None:
    path = write(tmp_path / "bad.mrcs", values)
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        read_images(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_volume_must_be_a_cube(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"a\.mrc: a volume must be a cube"):
        read_volume(write(tmp_path / "a.mrc", values, volume=True))


def test_a_map_is_no_stack_of_images(tmp_path: Path) -> None:
    """Its sections would be taken for class averages; a name of a stack says that they are."""
    cube = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    with pytest.raises(InputError, match=r"a\.mrc: is a map.*\.mrcs"):
        read_images(write(tmp_path / "a.mrc", cube, volume=True))
    assert len(read_images(write(tmp_path / "a.mrcs", cube, volume=True)).stack) == 8
    assert len(read_images(write(tmp_path / "b.mrc", cube)).stack) == 8


@pytest.mark.parametrize("suffix", [".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz"])
def test_maps_by_any_name(tmp_path: Path, suffix: str) -> None:
    cube = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    plain = write(tmp_path / "plain.mrc", cube, volume=True)
    path = tmp_path / f"map{suffix}"
    path.write_bytes(gzip.compress(plain.read_bytes()) if suffix.endswith(".gz") else plain.read_bytes())
    loaded = read_volume(path)
    assert np.array_equal(loaded.volume.voxels.numpy(), cube) and loaded.volume.pixel_size_angstrom == 2.5
    lines = describe(path)
    assert "kind: volume (MRC)" in lines and "size: 8 x 8 x 8 voxels" in lines


def test_compressed_files_that_cannot_be_used(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.mrc", np.zeros((8, 8, 8), np.float32), volume=True)
    path, whole = tmp_path / "a.map.gz", gzip.compress(plain.read_bytes())
    overwrite(plain, 0, np.array([2000, 2000, 2000], "<i4").tobytes())
    contents = {
        plain.read_bytes(): "cannot be unpacked",
        whole[:-20]: "cannot be unpacked",
        gzip.compress(b"text" * 1000): "text file",
        gzip.compress(b""): "0 bytes are too few",
        gzip.compress(plain.read_bytes()): r"unpacks to 29\.8 GiB, and 1 is the most",  # as it says, and not as it is
    }
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_volume(path)
        assert str(caught.value).startswith(str(path))


def as_imod(path: Path, order: Literal["little", "big"], flags: int) -> None:
    overwrite(path, 152, (1146047817).to_bytes(4, order) + flags.to_bytes(4, order))


def test_bytes_are_what_the_header_says(tmp_path: Path) -> None:
    """Mode 0 is signed, but many programs write bytes from 0 to 255 and say so in one way or another."""
    unsigned = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    path = write(tmp_path / "a.mrcs", unsigned.view(np.int8))
    assert read_images(path).stack.images.min() == -128  # the header's extremes are those of signed bytes
    overwrite(path, 76, np.array([0, 191, 95], "<f4").tobytes())
    loaded = read_images(path)
    assert np.array_equal(loaded.stack.images.numpy(), unsigned) and "maximum is 191" in loaded.notes[0]
    path = write(tmp_path / "b.mrcs", unsigned.view(np.int8))
    as_imod(path, "little", 0)
    loaded = read_images(path)
    assert np.array_equal(loaded.stack.images.numpy(), unsigned) and "IMOD" in loaded.notes[0]
    as_imod(path, "big", 0)
    assert read_images(path).stack.images.min() == 0
    as_imod(path, "little", 1)
    assert read_images(path).stack.images.min() == -128 and read_images(path).notes == ()


def test_bytes_of_a_stack_are_unsigned_one_by_one(tmp_path: Path) -> None:
    """Particles are read from the file later, with the type that was found out when it was opened."""
    unsigned = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    path = write(tmp_path / "a.mrcs", unsigned.view(np.int8))
    overwrite(path, 76, np.array([0, 191, 95], "<f4").tobytes())
    assert np.array_equal(StoredSections.of(path, read_array(path)).map(), unsigned)


def test_values_that_no_density_has(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8), np.float32)
    path = write(tmp_path / "a.mrcs", images)
    overwrite(path, 1024 + 4 * 64, np.float32(1e38).tobytes())
    with pytest.raises(InputError, match=r"a\.mrcs: values reach 1\.0e\+38"):
        read_images(path)


def test_betagal_is_read_as_it_is(data: Path) -> None:
    loaded = read_images(data / "class_averages" / "betagal_16x100px_3.54A.mrcs")
    assert loaded.stack.images.shape == (16, 100, 100)
    assert loaded.stack.pixel_size_angstrom == pytest.approx(3.54, rel=1e-6)
    assert loaded.notes == ()


@pytest.mark.parametrize("written", ["origin", "start", "start of turned axes"])
def test_the_corner_is_where_viewers_put_it(tmp_path: Path, written: str) -> None:
    """The origin, in Angstrom, or the number of the first voxel on each stored axis."""
    path = tmp_path / "map.mrc"
    write_volume(path, Volume(torch.rand(4, 4, 4), 2.0), corner_angstrom=(0.0, 0.0, 0.0))
    with mrcfile.open(path, "r+") as mrc:
        if written == "origin":
            mrc.header.origin = (-8.0, 6.0, 2.0)
        elif written == "start":
            mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = -4, 3, 1
        else:  # columns are z, sections are x
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 2, 1
            mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = 1, 3, -4
    assert read_volume(path).corner_angstrom == (-8.0, 6.0, 2.0)
    write_volume(path, Volume(torch.rand(4, 4, 4), 2.0), corner_angstrom=(1.5, -2.0, 7.0))
    assert read_volume(path).corner_angstrom == (1.5, -2.0, 7.0)
