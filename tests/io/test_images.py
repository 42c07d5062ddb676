"""Reading by suffix, and files described in words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError, Volume
from scoretomo.imaging.fourier import radius_grid
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.mrc import write_images, write_volume


def test_numpy_needs_a_pixel_size(tmp_path: Path) -> None:
    values = np.arange(2 * 8 * 8).reshape(2, 8, 8)
    path = tmp_path / "a.npy"
    np.save(path, values)
    with pytest.raises(InputError, match="--pixel-size"):
        read_image_stack(path)
    stack = read_image_stack(path, 2.5).stack
    assert stack.images.dtype == torch.float32 and np.array_equal(stack.images.numpy(), values)
    np.save(path, values[0])
    assert len(read_image_stack(path, 2.5).stack) == 1


def test_numpy_files_that_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for values in (np.array([{"a": 1}]), np.zeros(4), np.zeros((2, 8, 8), complex), np.zeros((0, 8, 8))):
        np.save(path, values)
        with pytest.raises(InputError, match=r"a\.npy"):
            read_image_stack(path, 2.5)
    for content in (b"", b"text", (tmp_path / "a.npy").read_bytes()[:90]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy"):
            read_image_stack(path, 2.5)


@pytest.mark.parametrize("name", ["a.png", "a", "a.tif"])
def test_unknown_types_list_the_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"supported are \.mrcs, \.mrc, .*\.star, \.cs, \.hdf, \.npy, and \.mrc\.gz"):
        read_image_stack(tmp_path / name)


def test_description_of_images(tmp_path: Path) -> None:
    blob = torch.exp(-((radius_grid(16, 2) / 3) ** 2))
    write_images(tmp_path / "a.mrcs", ImageStack(-blob.expand(4, 16, 16), 1.0))
    lines = "\n".join(describe(tmp_path / "a.mrcs"))
    for part in ("image stack", "4 of 16 x 16 pixels", "float32", "placeholder", "-1 to ", "looks dark"):
        assert part in lines
    assert "pixel size: 2 A (given)" in describe(tmp_path / "a.mrcs", 2.0)


def test_description_of_a_volume(tmp_path: Path) -> None:
    blob = torch.exp(-((radius_grid(16, 3) / 3) ** 2))
    write_volume(tmp_path / "a.mrc", Volume(blob, 2.5))
    lines = "\n".join(describe(tmp_path / "a.mrc"))
    for part in ("kind: volume", "16 x 16 x 16 voxels", "pixel size: 2.5 A", "looks bright"):
        assert part in lines


def test_description_of_what_cannot_be_used(tmp_path: Path) -> None:
    values = np.zeros((2, 8, 9), np.float32)
    np.save(tmp_path / "a.npy", values)
    assert any("not square" in line for line in describe(tmp_path / "a.npy"))
    values[0, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", values)
    assert any("1 are NaN" in line for line in describe(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("formats/rln_proj_64.star", ("5 of 64 x 64 pixels", "pixel size: none")),
        ("formats/empiar_10076_7.star", ("7 of 320 x 320 pixels", "pixel size: 1.31 A")),
        ("formats/relion31.mrcs", ("5 of 256 x 256 pixels", "Map ID")),
        ("class_averages/betagal_16x100px_3.54A.mrcs", ("pixel size: 3.54 A", "looks bright")),
        ("volumes/ribosome70S_65px.mrc", ("kind: volume", "pixel size: none", "looks bright")),
    ],
)
def test_description_of_real_files(data: Path, name: str, parts: tuple[str, ...]) -> None:
    lines = "\n".join(describe(data / name))
    assert all(part in lines for part in parts)
