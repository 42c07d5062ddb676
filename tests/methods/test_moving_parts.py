"""Two parts that move independently get a component each; one that moves along an arc keeps its own."""

import math

import torch
from torch import Tensor

from scoretomo.methods.moving_parts import separating_rotation


def _parts() -> Tensor:
    """What two parts far from one another add when each moves; the second moves less."""
    components = torch.zeros(2, 12, 12, 12)
    components[0, 2:4, 4:6, 4:6], components[0, 2:4, 6:8, 4:6] = -1.0, 1.0
    components[1, 8:10, 4:6, 4:6], components[1, 8:10, 6:8, 4:6] = -0.9, 0.9
    return components


def _uniform(count: int) -> Tensor:
    z = torch.rand(count, 2, generator=torch.Generator().manual_seed(3))
    z = z - z.mean(0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(z.mT @ z / count).mT)


def _mixed(degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin], [sin, cos]])


def test_mixed_motions_are_told_apart_also_where_they_are_as_strong() -> None:
    for parts in (_parts(), _parts() * torch.tensor([1.0, 1 / 0.9])[:, None, None, None]):
        for degrees in (0.0, 20.0, 45.0, 70.0):
            mixing, z = _mixed(degrees), _uniform(200)
            components = torch.einsum("kxyz,kj->jxyz", parts, mixing)
            rotation = separating_rotation(components, z @ mixing)
            torch.testing.assert_close(rotation.mT @ rotation, torch.eye(2), rtol=0, atol=1e-5)
            found = torch.einsum("kxyz,kj->jxyz", components, rotation)
            strengths = found.square().sum((1, 2, 3))
            assert strengths[0] >= strengths[1] - 1e-4
            overlap = torch.einsum("axyz,bxyz->ab", found, parts).abs()
            overlap = overlap / (strengths.sqrt()[:, None] * parts.square().sum((1, 2, 3)).sqrt())
            assert overlap.amax(1).min() > 0.999 and overlap.amin(1).max() < 0.01


def test_a_motion_along_an_arc_is_one() -> None:
    """Its second coordinate is the square of the first, and would be mixed into it otherwise."""
    u = torch.linspace(-1, 1, 200)
    z = torch.stack([u, u.square()], 1)
    z = (z - z.mean(0)) / z.std(0, correction=0)
    noise = 0.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(4))
    assert torch.equal(separating_rotation(_parts(), z), torch.eye(2))
    assert torch.equal(separating_rotation(_parts(), z + noise), torch.eye(2))
