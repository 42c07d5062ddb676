import base64
import zlib

import numpy as np
import pytest
import torch

from scoretomo.imaging.masks import soft_ball
from scoretomo.report.density import (
    PageGrid,
    choose_grid,
    encode_difference,
    encode_pictures,
    encode_volume,
)


def _unpacked(text: str, low: float, high: float) -> torch.Tensor:
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return low + (high - low) * torch.from_numpy(raw.astype(np.float32)) / 255


def _blob(side: int, radius: float) -> torch.Tensor:
    return soft_ball(side, 3, radius, 4.0)


def test_a_volume_comes_back_within_a_byte() -> None:
    volume = 7 * _blob(32, 8.0)
    found = encode_volume(volume, PageGrid(32, 32, 4.0))
    back = _unpacked(found.text, found.low, found.high).view(32, 32, 32)
    # surfaces of the page are those of a slightly smoothed volume, so the edge may differ
    inside = volume > 6.99
    assert (back - volume).abs()[inside].mean() < 0.02 * 7
    assert found.low < 0 < found.level * found.peak < found.peak < found.high
    assert found.peak == pytest.approx(7, rel=0.05)


def test_the_scale_of_a_volume_does_not_matter() -> None:
    grid = PageGrid(32, 32, 4.0)
    one, tiny = (encode_volume(scale * _blob(32, 8.0), grid) for scale in (1.0, 1e-6))
    assert one.text == tiny.text and one.level == pytest.approx(tiny.level, rel=1e-3)


def test_differences_keep_both_signs_and_a_flat_volume_is_no_error() -> None:
    difference = _blob(32, 8.0) - 2 * _blob(32, 4.0)
    found = encode_difference(difference, PageGrid(32, 32, 4.0))
    back = _unpacked(found.text, found.low, found.high)
    assert found.low == -found.high and back.min() < -0.9 and back.max() > 0.8
    encode_difference(torch.zeros(16, 16, 16), PageGrid(16, 16, 4.0))
    encode_volume(torch.zeros(16, 16, 16), PageGrid(16, 16, 4.0))


def test_the_box_is_cut_to_the_objects_and_keeps_their_size() -> None:
    grid = choose_grid([_blob(100, 12.0), _blob(100, 15.0)], 10, 2.0)
    assert 2 * 17 < grid.crop < 2 * 24  # radius 15 and a part of the soft edge, with some air
    assert grid.side == 48 and grid.voxel_angstrom * grid.side == pytest.approx(2.0 * grid.crop)
    # the surface of a ball in the page is as large as that in the file
    found = encode_volume(_blob(100, 15.0), grid)
    back = _unpacked(found.text, found.low, found.high)
    radius = ((back > 0.5).sum() * 3 / (4 * torch.pi)) ** (1 / 3) * grid.voxel_angstrom
    assert radius.item() == pytest.approx(2.0 * 17, rel=0.03)


def test_many_volumes_get_fewer_voxels_so_that_the_page_stays_small() -> None:
    volumes = [_blob(64, 25.0)]
    sides = [choose_grid(volumes, count, 2.0).side for count in (10, 300, 1000, 100_000)]
    assert sides == sorted(sides, reverse=True) and sides[0] == 48 and sides[-1] == 24
    assert 300 * sides[1] ** 3 * 4 / 3 < 34e6
    assert 40 <= sides[1]


def test_a_projection_is_shown_in_the_greys_of_its_class_average() -> None:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = torch.stack([image, 0.5 * image], dim=1)
    found = _unpacked(encode_pictures(pairs), 0, 255).view(3, 2, 16, 16)
    assert found[:, 0].max() == 255 and found[:, 0].min() == 0
    middle = (image > 0.4) & (image < 0.9)
    assert (found[:, 1][middle] < found[:, 0][middle]).all()
