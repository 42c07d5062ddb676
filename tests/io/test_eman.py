"""EMAN2's HDF files."""

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
        ({0: np.zeros((8, 8)), 1: np.zeros((6, 6))}, "6 x 6, 8 x 8"),
        ({}, "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_image_stack(write(path, images), 2.0)
    path.write_text("words")
    with pytest.raises(InputError, match="cannot be read"):
        read_image_stack(path)
    with pytest.raises(InputError, match="no such file"):
        read_image_stack(tmp_path / "b.hdf")


def test_real_class_averages_equal_their_copy(data: Path) -> None:
    path = data / "formats" / "eman_class_averages.hdf"
    stack = read_image_stack(path, 2.0).stack
    copy = read_array(data / "class_averages" / "orf2p_69x76px.mrcs").values
    assert stack.images.shape == (69, 76, 76)
    assert np.array_equal(stack.images.numpy(), copy)
    assert "pixel size: 1 A in the header, a placeholder in many files" in "\n".join(describe(path))
