"""Mean and components come back from images of them at known poses and coordinates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import image_coefficients, slice_coefficients, voxel_slices
from scoretomo.methods.component_fit import ComponentFit, Regressors
from scoretomo.methods.posed_fit import BandImages, band_images

BAND = 9


@pytest.fixture(scope="module")
def blobs(make_blobs: Callable[..., Any]) -> Any:
    return make_blobs(120, 3.0)


@pytest.fixture(scope="module")
def parts(blobs: Any) -> tuple[Tensor, Tensor]:
    """Two volumes that nothing relates but their support."""
    return blobs.volume(0), blobs.volume(1) - blobs.volume(2)


def _fit(blobs: Any, images: Tensor, z: Tensor, **named: Tensor) -> Tensor:
    grid = band_images(images, BAND, blobs.RADIUS)
    ones = torch.ones_like(grid.coefficients)
    arguments = {"targets": grid.coefficients, "transfer": ones, "weights": torch.ones(len(images))} | named
    ridge = torch.full((1 + z.shape[1],), 0.005)
    fit, volumes = ComponentFit(grid, float(BAND)), torch.zeros(len(ridge), grid.side, grid.side, grid.side)
    for _ in range(4):
        volumes = fit.improve(volumes, blobs.rotations, regressors=Regressors.of(z), ridge=ridge, **arguments)
    return torch.stack([grid.fine(volume) for volume in volumes])


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def test_mean_and_component_come_back(blobs: Any, parts: tuple[Tensor, Tensor]) -> None:
    z = torch.randn(len(blobs.images), 1, generator=torch.Generator().manual_seed(3))
    of_parts = project(torch.stack(parts), blobs.rotations.expand(2, -1, 3, 3))
    images = of_parts[0] + z[:, :, None] * of_parts[1]
    found = _fit(blobs, images, z)
    for volume, part in zip(found, parts, strict=True):
        assert _correlation(volume, part) > 0.98
        # what lies beyond the band is missing
        assert float((volume * part).sum() / (part * part).sum()) == pytest.approx(1.0, abs=0.15)
    alone = _fit(blobs, images, z[:, :0])  # without the component the mean is blurred by it
    assert _correlation(alone[0], parts[0]) < _correlation(found[0], parts[0])


def test_weights_and_transfer_say_what_counts(blobs: Any, parts: tuple[Tensor, Tensor]) -> None:
    images = project(parts[0][None], blobs.rotations[None])[0]
    none = torch.zeros(len(images), 0)
    wrong = images.clone()
    wrong[::2] = images[::2].flip(-1)
    weights = torch.ones(len(images))
    weights[::2] = 0
    assert _correlation(_fit(blobs, wrong, none, weights=weights)[0], parts[0]) > 0.98
    assert _correlation(_fit(blobs, wrong, none)[0], parts[0]) < 0.95
    grid = band_images(images, BAND, blobs.RADIUS)
    slopes = torch.linspace(1.2, 2.4, len(images))[:, None]
    transfer = 1 - slopes * grid.radii / BAND  # its sign changes within the band, for each image elsewhere
    corrected = _fit(blobs, images, none, targets=transfer * grid.coefficients, transfer=transfer)
    assert _correlation(corrected[0], parts[0]) > 0.97


def test_where_nothing_was_seen_the_prior_holds(blobs: Any, parts: tuple[Tensor, Tensor]) -> None:
    images = project(parts[0][None], blobs.rotations[None])[0]
    grid = band_images(images, BAND, blobs.RADIUS)
    fit = ComponentFit(grid, float(BAND))
    expected = grid.coarse(parts[0])[None] * fit.support
    none = torch.zeros(len(images), 0)
    empty = torch.zeros_like(grid.coefficients)
    found = fit.improve(
        torch.zeros_like(expected),
        blobs.rotations,
        empty,
        torch.ones_like(empty),
        torch.ones(len(images)),
        Regressors.of(none),
        torch.tensor([1e6]),
        expected,
    )
    assert _correlation(found[0], expected[0]) > 0.98
    assert float((found * expected).sum() / (expected * expected).sum()) == pytest.approx(1.0, abs=0.1)


def test_lattice_and_volume_are_transforms_of_each_other(blobs: Any) -> None:
    grid: BandImages = band_images(blobs.images, BAND, blobs.RADIUS)
    fit = ComponentFit(grid, float(BAND))
    volume = grid.coarse(blobs.volume(0))[None]
    middle = fit.spectra(volume).view(2 * fit.reach + 1, 2 * fit.reach + 1, -1)[fit.reach, fit.reach, fit.reach]
    assert float(middle) == pytest.approx(float((volume / fit._envelope).sum()), rel=1e-4)
    slices = slice_coefficients(voxel_slices(volume[0]), blobs.rotations, grid.frequencies)
    assert float((slices - image_coefficients(grid.images, grid.frequencies))[0].norm() / slices[0].norm()) < 0.05
