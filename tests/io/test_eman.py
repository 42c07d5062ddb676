"""EMAN2's HDF files."""

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.mrc import read_array


def write(path: Path, images: dict[int, Any], **attributes: Any) -> Path:
    """Images by number, all with the same attributes, as EMAN2 writes them: arrays of one value."""
    with h5py.File(path, "w") as file:
        for number, values in images.items():
            group = file.create_group(f"MDF/images/{number}")
            group.create_dataset("image", data=np.asarray(values))
            for name, value in attributes.items():
                group.attrs[f"EMAN.{name}"] = np.array([value])
    return path


def test_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """HDF5 lists names by the alphabet: 10 before 9."""
    path = write(tmp_path / "a.hdf", {i: np.full((8, 8), i, np.float32) for i in range(12)}, apix_x=3.1, apix_y=3.1)
    stack = read_image_stack(path).stack
    assert stack.images[:, 3, 4].tolist() == list(range(12))
    assert stack.pixel_size_angstrom == pytest.approx(3.1)


def test_compressed_images_come_back_in_their_own_range(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65  # 12 bits
    attributes = {"stored_renderbits": 12, "stored_rendermin": -1.0, "stored_rendermax": 3.0, "apix_x": 2.0}
    images = read_image_stack(write(tmp_path / "a.hdf", {0: values, 1: values}, **attributes)).stack.images
    torch.testing.assert_close(images[1], torch.from_numpy(values / 4095 * 4 - 1).float())


@pytest.mark.parametrize("attributes", [{}, {"apix_x": 1.0, "apix_y": 1.0}])
def test_a_pixel_size_that_is_missing_or_a_placeholder_is_asked_for(
    tmp_path: Path, attributes: dict[str, float]
) -> None:
    path = write(tmp_path / "a.hdf", {0: np.ones((8, 8)), 1: np.ones((8, 8))}, **attributes)
    with pytest.raises(InputError, match=r"a\.hdf: .*--pixel-size"):
        read_image_stack(path)
    assert read_image_stack(path, 2.0).stack.pixel_size_angstrom == 2


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf"
    for images, message in (
        ({0: np.zeros((4, 8, 8))}, "volume"),
        ({0: np.zeros(8)}, "image 0 has 1 axes"),
        ({0: np.zeros((0, 8))}, "image 0 is empty"),
        ({0: np.zeros((8, 8)), 1: np.zeros((6, 6))}, "6 x 6, 8 x 8"),
        ({0: np.zeros((8, 8), complex)}, "image 0 are no plain numbers"),
        ({0: np.full((8, 8), "text", dtype="S4")}, "image 0 are no plain numbers"),
        ({0: np.full((8, 8), 1e300)}, "beyond single precision"),
        ({0: np.full((8, 8), 3e38, np.float32)}, "divide all by a constant"),
        ({}, "it has no MDF"),
    ):
        assert message in refusal(write(path, images))
    path.write_text("words")
    assert "cannot be read as an HDF file of EMAN2" in refusal(path)
    with pytest.raises(InputError, match="no such file"):
        read_image_stack(tmp_path / "b.hdf")


def refusal(path: Path) -> str:
    """The one line that is said of a file, with its name."""
    with pytest.raises(InputError) as error:
        read_image_stack(path, 2.0)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def test_images_of_any_type_of_numbers(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(8, 8)) * 40 + 90
    for kind in ("<f8", ">f4", "<f2", ">i2", "|u1", "<i8"):
        images = read_image_stack(write(tmp_path / "a.hdf", {0: values.astype(kind)}), 2.0).stack.images
        assert np.array_equal(images[0].numpy(), values.astype(kind).astype(np.float32))


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"fletcher32": True}, {"chunks": (5, 3)}])
def test_compressed_values_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    values = np.arange(64.0).reshape(8, 8)
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        for number, compression in enumerate(("gzip", None)):
            chunks = {"chunks": (8, 8), "compression": compression, **options}
            file.create_dataset(f"MDF/images/{number}/image", data=values + number, **chunks)
    images = read_image_stack(tmp_path / "a.hdf", 2.0).stack.images
    assert np.array_equal(images.numpy(), np.stack([values, values + 1]))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"stored_renderbits": 300}, "stored_renderbits of 300, for values of 8 bits"),
        ({"stored_renderbits": 2**31 - 1}, "stored_renderbits"),
        ({"stored_renderbits": 9}, "for values of 8 bits"),
        ({"stored_renderbits": -4}, "stored_renderbits of -4"),
        ({"stored_renderbits": 3.5}, "stored_renderbits of 3.5"),
        ({"stored_renderbits": np.nan}, "stored_renderbits of nan"),
        ({"stored_renderbits": b"8"}, "EMAN.stored_renderbits is no single number"),
        ({"stored_rendermin": np.nan}, "no range"),
        ({"stored_rendermin": 5.0}, "densities of 5.0 and 3.0"),
        ({"stored_rendermax": 1e300}, "no range"),
        ({"stored_rendermax": b"x"}, "EMAN.stored_rendermax is no single number"),
        ({"is_complex": 1}, "image 0 is a Fourier transform"),
    ],
)
def test_attributes_that_change_the_densities_are_not_guessed(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    usual = {"stored_renderbits": 8, "stored_rendermin": -1.0, "stored_rendermax": 3.0}
    assert message in refusal(write(tmp_path / "a.hdf", {0: np.ones((8, 8), np.uint8)}, **usual | attributes))


@pytest.mark.parametrize("size", [b"3.5", np.nan, np.inf, -2.0, np.array([3.5, 3.5]), np.array([])])
def test_a_pixel_size_that_is_none_is_asked_for_and_said(tmp_path: Path, size: Any) -> None:
    path = write(tmp_path / "a.hdf", {0: np.ones((8, 8)), 1: np.ones((8, 8))})
    with h5py.File(path, "r+") as file:
        file["MDF/images/0"].attrs["EMAN.apix_x"] = size
    with pytest.raises(InputError, match="--pixel-size"):
        read_image_stack(path)
    loaded = read_image_stack(path, 2.0)
    assert "pixel sizes that are no positive numbers are not used" in loaded.notes


def test_names_that_are_no_numbers_are_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf", {7: np.ones((8, 8)), 11: np.zeros((8, 8))})
    with h5py.File(path, "r+") as file:
        for name in ("007", "-1", "1e1", "\u0663", "9" * 5000, "mean"):
            file["MDF/images"].create_group(name)
    loaded = read_image_stack(path, 2.0)
    assert loaded.stack.images[:, 0, 0].tolist() == [1, 0]
    assert loaded.notes == ("6 entries whose names are no plain numbers are left out",)


def test_nothing_outside_of_the_file_is_read(tmp_path: Path) -> None:
    other = write(tmp_path / "other.hdf", {0: np.ones((8, 8))})
    path = tmp_path / "a.hdf"
    for place, link in (
        ("MDF", h5py.ExternalLink(other, "MDF")),
        ("MDF/images", h5py.ExternalLink(other, "MDF/images")),
        ("MDF/images/0", h5py.SoftLink("/MDF/images/1")),
        ("MDF/images/0", h5py.SoftLink("/MDF/images/0")),
        ("MDF/images/0/image", h5py.ExternalLink(other, "MDF/images/0/image")),
    ):
        with h5py.File(path, "w") as file:
            file[place] = link
        assert f"{place} is a link to something else, which is not followed" in refusal(path)
    layout = h5py.VirtualLayout((8, 8), "f4")
    layout[:] = h5py.VirtualSource(other, "MDF/images/0/image", (8, 8))
    for make in (
        lambda group: group.create_virtual_dataset("image", layout),
        lambda group: group.create_dataset("image", (8, 8), "f4", external=[(other, 0, 256)]),
    ):
        with h5py.File(path, "w") as file:
            make(file.create_group("MDF/images/0"))
        assert "image 0 lies in other files" in refusal(path)


def test_groups_in_a_ring_and_things_in_wrong_places(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        images = file.create_group("MDF/images")
        images["0"] = images
    assert "it has no MDF/images/0/image" in refusal(path)
    with h5py.File(path, "r+") as file:
        file["MDF/images/image"] = file["MDF"]
    assert "is no dataset" in refusal(path)
    with h5py.File(path, "w") as file:
        file["MDF/images"] = np.arange(3)
    assert "MDF/images is no group" in refusal(path)


@pytest.mark.parametrize(
    "options", [{"chunks": (64, 64)}, {"chunks": (64, 64), "compression": "gzip"}, {"fillvalue": 3.0}, {}]
)
@pytest.mark.parametrize("side", [8, 60_000, 10**6])
def test_values_that_are_declared_and_not_there(tmp_path: Path, options: dict[str, Any], side: int) -> None:
    """HDF5 would give the fill value, however many there are to be."""
    if side == 8:
        options = {key: (4, 4) if key == "chunks" else value for key, value in options.items()}
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file.create_dataset("MDF/images/0/image", (side, side), "f4", **options)
    said = refusal(tmp_path / "a.hdf")
    assert ("written" in said) if side == 8 else ("67108864 are believed" in said)


def test_an_image_of_which_a_part_was_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file.create_dataset("MDF/images/0/image", (8, 8), "f4", chunks=(4, 8))[:3] = 1
    assert "image 0 has not been written completely" in refusal(tmp_path / "a.hdf")


@pytest.mark.parametrize(
    ("packed", "compression", "message"),
    [
        (zlib.compress(bytes(10**9), 1), "gzip", "declares"),  # a bomb of a gigabyte
        (zlib.compress(bytes(65 * 1024)), "gzip", "65536 bytes of values come from 65537"),
        (zlib.compress(bytes(64)), "gzip", "65536 bytes of values come from 64"),
        (b"no deflate", "gzip", "cannot be read"),
        (bytes(64), None, "65536 bytes of values come from 64"),
        (bytes(256), "lzf", "compressed in an unknown way"),
    ],
)
def test_chunks_of_more_or_fewer_values_than_declared(
    tmp_path: Path, packed: bytes, compression: str | None, message: str
) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        image = file.create_dataset("MDF/images/0/image", (256, 256), "u1", chunks=(256, 256), compression=compression)
        image.id.write_direct_chunk((0, 0), packed)
    assert message in refusal(tmp_path / "a.hdf")


def test_chunks_that_are_larger_than_is_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        options = {"chunks": (60_000, 60_000), "maxshape": (None, None), "compression": "gzip"}
        image = file.create_dataset("MDF/images/0/image", (8, 8), "u1", **options)
        image.id.write_direct_chunk((0, 0), zlib.compress(bytes(64)))
    assert "chunks of 3600000000 bytes; 67108864 are believed" in refusal(tmp_path / "a.hdf")


def test_one_image_under_a_thousand_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf", {0: np.random.default_rng(0).normal(size=(64, 64))})
    with h5py.File(path, "r+") as file:
        for number in range(1, 1000):
            file[f"MDF/images/{number}"] = file["MDF/images/0"]
    assert "would lie in" in refusal(path)


def test_real_class_averages_equal_their_copy(data: Path) -> None:
    path = data / "formats" / "eman_class_averages.hdf"
    stack = read_image_stack(path, 2.0).stack
    copy = read_array(data / "class_averages" / "orf2p_69x76px.mrcs").values
    assert stack.images.shape == (69, 76, 76)
    assert np.array_equal(stack.images.numpy(), copy)
    assert "pixel size: 1 A in the header, a placeholder in many files" in "\n".join(describe(path))
