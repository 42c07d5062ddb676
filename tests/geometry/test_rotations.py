"""Rotations: a group, drawn uniformly, converted exactly."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import kstest
from torch import Tensor

from scoretomo.geometry.rotations import (
    about_y,
    about_z,
    angle_between,
    from_quaternions,
    from_relion_euler,
    from_rotation_vectors,
    low_discrepancy_rotations,
    random_rotations,
    to_relion_euler,
)


def test_matrices_are_orthogonal_and_keep_the_hand(generator: torch.Generator) -> None:
    rotations = random_rotations(5, 200, generator=generator)
    assert rotations.shape == (5, 200, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(5, 200, 3, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.det(rotations), torch.ones(5, 200), rtol=0, atol=1e-6)


def test_quaternions_multiply_as_their_matrices_do(generator: torch.Generator) -> None:
    first, second = torch.randn(2, 100, 4, generator=generator, dtype=torch.float64)
    w = first[:, 0] * second[:, 0] - (first[:, 1:] * second[:, 1:]).sum(1)
    xyz = first[:, :1] * second[:, 1:] + second[:, :1] * first[:, 1:] + torch.linalg.cross(first[:, 1:], second[:, 1:])
    product = torch.cat([w[:, None], xyz], dim=1)
    torch.testing.assert_close(from_quaternions(product), from_quaternions(first) @ from_quaternions(second))
    torch.testing.assert_close(from_quaternions(-3 * first), from_quaternions(first))


def test_entries_have_the_moments_of_the_haar_measure() -> None:
    """E[R] = 0, E[R_ij R_kl] = 1/3 where (i, j) = (k, l) and 0 elsewhere (orthogonality of characters)."""
    count = 40_000
    entries = random_rotations(count, generator=torch.Generator().manual_seed(1)).flatten(1)
    # five standard errors: the variance of an entry is 1/3, of a product of two at most 1/5
    assert entries.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / count)
    second = entries.T @ entries / count
    assert (second - torch.eye(9) / 3).abs().max() < 5 * math.sqrt(1 / 5 / count)


def test_angles_and_directions_are_distributed_uniformly() -> None:
    """The angle has density (1 - cos) / pi; every entry is uniform, as a coordinate on a sphere is (Archimedes)."""
    rotations = random_rotations(20_000, generator=torch.Generator().manual_seed(2))
    angles = torch.deg2rad(angle_between(rotations, torch.eye(3).expand(len(rotations), 3, 3))).numpy()
    assert kstest(angles, lambda angle: (angle - torch.sin(torch.as_tensor(angle)).numpy()) / math.pi).pvalue > 0.01
    for row in range(3):
        assert kstest(rotations[:, row, 2].numpy(), "uniform", args=(-1, 2)).pvalue > 0.01


def test_a_generator_decides_the_draw_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, second = (random_rotations(7, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, random_rotations(7, generator=torch.Generator().manual_seed(4)))


def test_members_of_the_sequence_are_uniform_over_random_starts(generator: torch.Generator) -> None:
    start = torch.rand(20_000, 3, generator=generator, dtype=torch.float64)
    rotations = low_discrepancy_rotations(start, 1000, 1)[:, 0]
    angles = torch.deg2rad(angle_between(rotations, torch.eye(3).expand(len(rotations), 3, 3))).numpy()
    assert kstest(angles, lambda angle: (angle - torch.sin(torch.as_tensor(angle)).numpy()) / math.pi).pvalue > 0.01
    for entry in range(9):
        assert kstest(rotations.flatten(1)[:, entry].numpy(), "uniform", args=(-1, 2)).pvalue > 0.001


@pytest.mark.parametrize("count", [30, 200])
def test_a_sequence_fills_the_rotations_more_evenly_than_independent_draws(
    count: int, generator: torch.Generator
) -> None:
    """Sums over the sequence come nearer to the integral: of entries (0) and of their products (1/3 or 0)."""

    def error(rotations: Tensor) -> float:
        entries = rotations.flatten(2)
        second = torch.einsum("bki, bkj -> bij", entries, entries) / count - torch.eye(9) / 3
        return float(entries.mean(1).square().mean() + second.square().mean())

    starts = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    even, independent = low_discrepancy_rotations(starts, 0, count), random_rotations(50, count, generator=generator)
    assert error(even) < 0.25 * error(independent)


def test_a_sequence_goes_on_where_it_stopped(generator: torch.Generator) -> None:
    start = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    whole = low_discrepancy_rotations(start, 0, 9)
    parts = [low_discrepancy_rotations(start, 0, 4), low_discrepancy_rotations(start, 4, 5)]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def test_exponential_map_agrees_with_scipy(generator: torch.Generator) -> None:
    axes = torch.nn.functional.normalize(torch.randn(300, 3, generator=generator, dtype=torch.float64), dim=1)
    angles = torch.cat([torch.zeros(3), torch.logspace(-12, 0, 147) * math.pi, torch.linspace(1, 9, 150)]).double()
    vectors = axes * angles[:, None]
    expected = torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix())
    torch.testing.assert_close(from_rotation_vectors(vectors), expected, rtol=0, atol=1e-12)


def test_exponential_map_has_a_gradient_at_the_identity() -> None:
    """The derivative of R(v) x at v = 0 is the cross product."""
    vector, point = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: from_rotation_vectors(v) @ point, vector)
    for axis in torch.eye(3, dtype=torch.float64):
        torch.testing.assert_close(jacobian @ axis, torch.linalg.cross(axis, point))


def test_quarter_turns_are_active() -> None:
    x, y, z = torch.eye(3)
    quarter = torch.tensor(math.pi / 2)
    torch.testing.assert_close(about_z(quarter) @ x, y)
    torch.testing.assert_close(about_y(quarter) @ z, x)


def test_relion_angles_are_an_intrinsic_zyz_turn_of_the_image_frame(generator: torch.Generator) -> None:
    """Turning the object by a matrix is turning the frame the other way: the inverse of rot, tilt, psi about ZYZ."""
    angles = torch.rand(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([360.0, 180, 360]).double()
    expected = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).inv().as_matrix()
    torch.testing.assert_close(from_relion_euler(angles), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_relion_angles_come_back(generator: torch.Generator) -> None:
    low, extent = torch.tensor([-180.0, 1, -180]), torch.tensor([360.0, 178, 360])
    angles = low + extent * torch.rand(500, 3, generator=generator)
    back = to_relion_euler(from_relion_euler(angles))
    # on the circle: -180 is 180
    difference = (back - angles + 180) % 360 - 180
    assert difference.abs().max() < 0.01


@pytest.mark.parametrize("tilt", [0.0, 1e-6, 1e-4, 1e-2, 1.0, 90.0, 179.99, 179.9999, 180.0])
def test_rotations_come_back_from_relion_angles_beside_the_poles_too(tilt: float, generator: torch.Generator) -> None:
    """A product of float32 matrices has rounding in all entries, which swamps the small ones that give rot."""
    angles = 360 * torch.rand(1000, 3, generator=generator) - 180
    angles[:, 1] = tilt
    other = random_rotations(1000, generator=generator)
    rotations = other.mT @ (other @ from_relion_euler(angles))
    back = to_relion_euler(rotations)
    assert angle_between(from_relion_euler(back), rotations).max() < 2e-4
    assert back[:, 1].min() >= 0 and back[:, 1].max() <= 180
    if tilt in (0, 180):
        exact = to_relion_euler(from_relion_euler(angles))
        assert exact[:, 2].abs().max() < 1e-4


def test_angle_between_is_the_angle_of_the_relative_rotation(generator: torch.Generator) -> None:
    angles = torch.tensor([0, 1e-3, 0.1, 1, 45, 90, 179, 179.9, 180]).repeat_interleave(50)
    axes = torch.nn.functional.normalize(torch.randn(len(angles), 3, generator=generator), dim=1)
    first = random_rotations(len(angles), generator=generator)
    found = angle_between(first, first @ from_rotation_vectors(axes * torch.deg2rad(angles)[:, None]))
    assert found.isfinite().all()
    error = (found - angles).abs()
    assert error[angles < 179].max() < 2e-4
    assert error.max() < 0.2
    assert torch.equal(angle_between(first, first), torch.zeros(len(first)))
