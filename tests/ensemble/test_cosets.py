"""The moving part decides between orientations that a symmetric core leaves equal."""

import torch

from scoretomo.ensemble.cosets import choose_cosets
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.resampling import rotate_volumes


def spot(x: float, y: float, z: float, side: int = 20) -> torch.Tensor:
    axis = torch.arange(side) - side // 2
    grid_z, grid_y, grid_x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2 + (grid_z - z) ** 2) / 4)


def test_an_arm_that_moves_decides(generator: torch.Generator) -> None:
    group = symmetry_group("D2")
    group = torch.cat([group, -group])
    core = torch.stack([rotate_volumes(spot(4, 1, 2)[None], each[None])[0] for each in group]).sum(0)
    volumes = torch.stack([core + 0.5 * spot(3 + 0.2 * k, 4, 3 - 0.1 * k) for k in range(12)])
    hidden = torch.randint(len(group), (12,), generator=generator)
    turned = rotate_volumes(volumes, group[hidden])
    turned = turned + 0.05 * torch.randn(turned.shape, generator=generator)
    chosen = choose_cosets(turned, group, torch.ones(12))
    total = group[chosen] @ group[hidden]
    torch.testing.assert_close(total, total[:1].expand_as(total), atol=1e-4, rtol=0)


def test_a_volume_without_weight_follows_but_does_not_lead(generator: torch.Generator) -> None:
    group = symmetry_group("C2")
    volumes = torch.stack([spot(4, 0, 0), spot(-4, 0, 1), 5 * spot(-4, 0, 0)])
    chosen = choose_cosets(volumes, group, torch.tensor([1.0, 1.0, 0.0]))
    assert chosen[0] != chosen[1]
    assert chosen[2] == chosen[1]
