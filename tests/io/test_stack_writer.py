from collections.abc import Iterator
from pathlib import Path

import mrcfile
import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import ImageStack
from scoretomo.io.mrc import read_images, write_images
from scoretomo.io.stack_writer import write_images_in_parts


@pytest.mark.parametrize("sizes", [[7], [1, 6], [3, 3, 1]])
def test_parts_make_the_file_that_is_written_at_once(
    tmp_path: Path, sizes: list[int], generator: torch.Generator
) -> None:
    images = 3 + torch.randn(7, 10, 10, generator=generator)
    write_images(tmp_path / "once.mrcs", ImageStack(images, 1.37))
    write_images_in_parts(tmp_path / "parts.mrcs", images.split(sizes), pixel_size_angstrom=1.37)
    loaded = read_images(tmp_path / "parts.mrcs")
    assert torch.equal(loaded.stack.images, images)
    assert loaded.stack.pixel_size_angstrom == 1.37 and loaded.notes == ()
    with mrcfile.open(tmp_path / "once.mrcs") as once, mrcfile.open(tmp_path / "parts.mrcs") as parts:
        for name in once.header.dtype.names:
            if name in ("dmin", "dmax", "dmean", "rms"):
                assert parts.header[name] == pytest.approx(float(once.header[name]), rel=1e-5)
            elif name != "label":  # has the time
                assert parts.header[name].tolist() == once.header[name].tolist(), name
    assert mrcfile.validate(tmp_path / "parts.mrcs")


def test_nothing_is_left_of_a_stack_that_was_not_finished(tmp_path: Path) -> None:
    def parts() -> Iterator[Tensor]:
        yield torch.ones(2, 8, 8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_images_in_parts(tmp_path / "a.mrcs", parts(), pixel_size_angstrom=2.0)
    assert list(tmp_path.iterdir()) == []
