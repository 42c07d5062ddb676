"""Comparison with a reference: the numbers of evaluation.json, and volumes of unequal sampling."""

import json
import math

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError, Volume
from scoretomo.evaluation.comparison import compare, summary, to_common_grid, to_grid
from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.geometry.rotations import random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import resize
from scoretomo.imaging.resampling import mirror_z, rotate_volumes


def blobs(side: int, pixel_size: float, generator: torch.Generator) -> Tensor:
    """Ten Gaussians of 6 Angstrom within 35 Angstrom of the origin, on any grid."""
    centres = (torch.rand(10, 3, generator=generator) - 0.5) * 40
    axis = (torch.arange(side) - side // 2) * pixel_size
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distances = (torch.stack([x, y, z], dim=-1)[..., None, :] - centres).square().sum(-1)
    return torch.exp(-distances / (2 * 6**2)).sum(-1)


def test_scores_of_a_perfect_a_mirrored_and_an_empty_volume(generator: torch.Generator) -> None:
    reference = blobs(24, 4.0, generator)[None]
    volumes = torch.cat([reference, mirror_z(reference) + 0.5, torch.zeros_like(reference)])
    comparisons = compare(volumes, reference, 4.0, [3, 5, 8])
    assert [each.index for each in comparisons] == [3, 5, 8]
    assert [each.mirrored for each in comparisons[:2]] == [False, True]
    for each in comparisons[:2]:
        assert each.fsc_auc > 0.99
        assert each.resolution_angstrom == pytest.approx(4 * each.resolution_pixels)
        assert each.resolution_pixels == 2
        torch.testing.assert_close(each.fsc, fourier_shell_correlation(each.aligned, reference[0]))
    assert comparisons[2].fsc_auc == 0
    assert comparisons[2].resolution_pixels == math.inf


def test_the_mark_on_a_nearly_symmetric_volume_is_put_where_it_lies() -> None:
    """All rotations of the icosahedron are nearly as good as the best, and most searches end at one of them."""
    side, draw = 24, torch.Generator().manual_seed(0)
    frame = random_rotations(1, generator=draw)[0]
    directions = torch.nn.functional.normalize(torch.randn(1, 3, generator=draw), dim=-1)
    own = directions * (0.12 + 0.2 * torch.rand(1, 1, generator=draw))
    rotations = frame @ symmetry_group("I1") @ frame.mT
    mark = frame @ torch.tensor([0.2, 0.1, 0.22])
    centres = torch.cat([(rotations @ own.T).mT.flatten(0, 1), mark[None]])
    axis = (torch.arange(side) - side // 2) / side
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1).flatten(0, 2)
    heights = torch.tensor([1.0] * (len(centres) - 1) + [0.7])
    volume = (torch.exp(-(torch.cdist(points, centres) ** 2) / (2 * 0.045**2)) @ heights).view(1, side, side, side)
    turned = resize(rotate_volumes(resize(volume, 2 * side, 3), rotations[-1:]), side, 3)
    as_it_lies, moved = compare(torch.cat([volume, turned]), volume, 1.0, [0, 1])
    assert as_it_lies.fsc_auc > 0.995
    assert moved.fsc_auc > 0.99
    # the mark is back in its place
    x, y, z = (mark * side + side // 2).round().long().tolist()
    assert moved.aligned[z, y, x] == pytest.approx(float(volume[0, z, y, x]), abs=0.1)


def test_summary_is_the_documented_json(generator: torch.Generator) -> None:
    reference = blobs(16, 6.0, generator)[None]
    comparisons = compare(torch.cat([reference, torch.zeros_like(reference)]), reference, 6.0, [0, 1])
    result = json.loads(json.dumps(summary(comparisons), allow_nan=False))
    assert list(result) == ["median_fsc_auc", "mean_fsc_auc", "median_resolution_pixels", "volumes"]
    keys = ["index", "fsc_auc", "resolution_pixels", "resolution_angstrom", "mirrored", "hand_margin"]
    assert [list(each) for each in result["volumes"]] == [keys, keys]
    assert result["mean_fsc_auc"] == pytest.approx(comparisons[0].fsc_auc / 2)
    assert result["median_resolution_pixels"] is None  # half way from 2 to infinity
    assert result["volumes"][1]["resolution_angstrom"] is None


def test_volumes_that_do_not_fit_are_refused(generator: torch.Generator) -> None:
    volumes = torch.zeros(3, 12, 12, 12)
    with pytest.raises(InputError, match="3 volumes need one reference or as many, not 2"):
        compare(volumes, volumes[:2], 1.0, [0, 1, 2])
    with pytest.raises(InputError, match="12 and 10 voxels"):
        compare(volumes, torch.zeros(1, 10, 10, 10), 1.0, [0, 1, 2])


@pytest.mark.parametrize("sides", [(32, 50), (50, 32), (33, 51)])
def test_common_grid_samples_the_same_density(sides: tuple[int, int], generator: torch.Generator) -> None:
    state = generator.get_state()
    pixel_sizes = (4.3, 2.68) if sides[0] < sides[1] else (2.68, 4.3)
    pair = [
        Volume(blobs(side, size, generator.set_state(state)), size)
        for side, size in zip(sides, pixel_sizes, strict=True)
    ]
    first, second = to_common_grid(*pair)
    assert first.pixel_size_angstrom == second.pixel_size_angstrom == 4.3
    assert first.side == second.side
    truth = blobs(first.side, 4.3, generator.set_state(state))
    inside = slice(first.side // 2 - 8, first.side // 2 + 9)
    for volume in (first, second):
        torch.testing.assert_close(
            volume.voxels[inside, inside, inside], truth[inside, inside, inside], atol=0.02, rtol=0
        )


def test_equal_sampling_is_left_alone(generator: torch.Generator) -> None:
    volume = Volume(blobs(16, 6.0, generator), 6.0)
    first, second = to_common_grid(volume, volume)
    torch.testing.assert_close(first.voxels, volume.voxels, atol=0, rtol=0)
    torch.testing.assert_close(second.voxels, volume.voxels, atol=0, rtol=0)


@pytest.mark.parametrize("pixel_size", [2.68, 6.0])
def test_a_volume_is_brought_to_any_grid(pixel_size: float, generator: torch.Generator) -> None:
    """To finer pixels and to coarser ones, in a box of any side."""
    state = generator.get_state()
    volume = Volume(blobs(32, 4.0, generator), 4.0)
    found = to_grid(volume, 29, pixel_size)
    truth = blobs(29, pixel_size, generator.set_state(state))
    torch.testing.assert_close(found[6:23, 6:23, 6:23], truth[6:23, 6:23, 6:23], atol=0.02, rtol=0)
