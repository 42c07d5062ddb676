"""The consensus: axes are found and laid where the group has them, halves meet."""

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.consensus import bring_together, impose
from scoretomo.evaluation.alignment import align, apply_alignment
from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.geometry.rotations import from_rotation_vectors, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.resampling import mirror_z, rotate_volumes, symmetrise

SIDE = 24


def _blobs(seed: int, spread: float = 2.6) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = spread * torch.randn(12, 3, generator=draw).clamp(-1.7, 1.7)
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.zeros(SIDE, SIDE, SIDE)
    for cx, cy, cz in centres:
        volume += torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * 1.3**2))
    return volume


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(fourier_shell_correlation(first, second)[1:8].mean())


def _scattered(volume: Tensor, count: int, seed: int) -> Tensor:
    """Copies in any frame, every other one of the other hand, with noise."""
    draw = torch.Generator().manual_seed(seed)
    copies = volume.expand(count, -1, -1, -1).clone()
    copies[1::2] = mirror_z(copies[1::2])
    copies = rotate_volumes(copies, random_rotations(count, generator=draw))
    copies = translate(copies, 0.7 * torch.randn(count, 3, generator=draw))
    return copies + 0.05 * torch.randn(copies.shape, generator=draw)


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_a_symmetry_in_any_frame_is_brought_to_its_own(name: str) -> None:
    group = symmetry_group(name)
    truth = symmetrise(_blobs(3), group)
    turned = rotate_volumes(truth[None], from_rotation_vectors(torch.tensor([[0.5, -0.9, 0.4]])))
    moved = translate(turned, torch.tensor([[0.8, -0.5, 0.6]]))[0]
    imposed = impose(moved, group)
    assert _correlation(imposed, symmetrise(imposed, group)) > 0.98
    # nothing was lost by averaging over wrong axes
    back = apply_alignment(imposed[None], align(imposed[None], truth[None]))[0]
    assert _correlation(back, truth) > 0.85


def test_no_symmetry_changes_nothing() -> None:
    volume = _blobs(8)
    assert impose(volume, symmetry_group("C1")) is volume


def test_halves_meet_in_the_frame_of_the_consensus() -> None:
    truth = _blobs(5)
    halves = _scattered(truth, 2, 6)
    found = bring_together(truth, halves, generator=torch.Generator().manual_seed(7))
    assert _correlation(found.first, truth) > 0.9
    assert _correlation(found.second, found.first) > 0.85
    assert SIDE / found.fsc.resolution_pixels > 6
    dense = truth > 0.3 * truth.max()
    assert found.mask[dense].mean() > 0.95
    assert found.mask.mean() < 0.6
