"""What a model says of posed images: coordinates as Bayes has them, filters, derivatives by poses and shifts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.slices import voxel_slices
from scoretomo.methods.posed_images import PosedImages

BAND = 9


@pytest.fixture(scope="module")
def blobs(make_blobs: Callable[..., Any]) -> Any:
    return make_blobs(12, 2.0)


@pytest.fixture(scope="module")
def posed(blobs: Any) -> PosedImages:
    return PosedImages.of(blobs.images, BAND, blobs.RADIUS)


@pytest.fixture(scope="module")
def volumes(blobs: Any, posed: PosedImages) -> Tensor:
    parts = blobs.volume(0), blobs.volume(1) - blobs.volume(2), blobs.volume(3) - blobs.volume(0)
    return torch.stack([posed.grid.coarse(part) for part in parts])


def test_coordinates_and_likelihood_are_those_of_a_normal_distribution(
    blobs: Any, posed: PosedImages, volumes: Tensor
) -> None:
    """Against the dense covariance of all coefficients."""
    precision = posed.precision(0.05 * posed.power)
    targets = posed.targets(torch.arange(12), torch.zeros(12, 2))
    filters = 0.8 + 0.4 * posed.hats[2].expand_as(targets)
    found = posed.expect(volumes, blobs.rotations, targets, filters, precision)
    slices = filters * posed.slices(voxel_slices(volumes), blobs.rotations)
    for i in range(0, 12, 5):
        moving, rest = slices[1:, i].double(), (targets[i] - slices[0, i]).double()
        covariance = moving.T @ moving + torch.diag(1 / precision.double())
        inverse = torch.linalg.inv(covariance)
        z = moving @ inverse @ rest
        torch.testing.assert_close(found.z[i].double(), z, rtol=1e-3, atol=1e-4)
        whole = rest @ inverse @ rest + torch.logdet(covariance) + precision.double().log().sum()
        assert float(found.cost[i]) == pytest.approx(float(whole), rel=1e-3)
        left = torch.eye(2).double() - moving @ inverse @ moving.T
        torch.testing.assert_close(found.covariance[i].double(), left, rtol=1e-2, atol=1e-5)


def test_a_filter_is_found_and_is_one_where_an_image_says_nothing(
    blobs: Any, posed: PosedImages, volumes: Tensor
) -> None:
    precision = posed.precision(1e-3 * posed.power)
    slices = posed.slices(voxel_slices(volumes[0]), blobs.rotations)[0]
    blur = torch.exp(-((posed.grid.radii / BAND) ** 2))
    inner = posed.grid.radii < 0.8 * BAND
    error = (posed.filters_of(slices, 1.2 * blur * slices, precision) - 1.2 * blur)[:, inner]
    assert float(error.abs().max()) < 0.12
    torch.testing.assert_close(posed.filters_of(0 * slices, slices, precision), torch.ones_like(slices))


def test_derivatives_are_differences(blobs: Any, posed: PosedImages, volumes: Tensor) -> None:
    slice_fn = voxel_slices(volumes[0])

    def at(rotations: Tensor) -> Tensor:
        return posed.slices(slice_fn, rotations)[0]

    moved = translate(blobs.images, torch.tensor([[0.4, -0.3]]).expand(12, 2))
    away = PosedImages.of(moved, BAND, blobs.RADIUS)
    rows, none = torch.arange(12), torch.zeros(12, 2)
    targets = away.targets(rows, none)
    columns, prior = posed.pose_derivatives(at(blobs.rotations), at, blobs.rotations, targets)
    assert columns.shape == (12, 5, targets.shape[1]) and prior.shape == (5,)
    turn = torch.tensor([0.01, -0.02, 0.015])
    turned = at(from_rotation_vectors(turn) @ blobs.rotations) - at(blobs.rotations)
    predicted = (turn[:, None] * columns[:, :3]).sum(1)
    assert float((turned - predicted).norm() / turned.norm()) < 0.15
    step = torch.tensor([0.05, -0.02])  # a column is what has to be added to a slice where the shift is larger
    change = away.targets(rows, none) - away.targets(rows, none + step)
    predicted = (step[:, None] * columns[:, 3:]).sum(1)
    assert float((change - predicted).norm() / change.norm()) < 0.05


def test_noise_has_a_floor_and_is_counted_by_shell(posed: PosedImages) -> None:
    residual = torch.zeros_like(posed.grid.coefficients)
    torch.testing.assert_close(posed.noise_of(residual), 0.01 * posed.power)
    torch.testing.assert_close(posed.noise_of(residual + 1e6), torch.full_like(posed.power, 1e12))
