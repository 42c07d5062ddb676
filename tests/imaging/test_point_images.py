"""Images and maps as points of equal mass, and back."""

import math

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.imaging.point_images import density_points, draw_points


def blob(side: int, centre: tuple[float, ...], widths: tuple[float, ...]) -> torch.Tensor:
    """A Gaussian, centre and widths xy or xyz in samples from the origin."""
    axis = torch.arange(side) - side // 2
    parts = [torch.exp(-0.5 * ((axis - c) / w) ** 2) for c, w in zip(centre, widths, strict=True)]
    image = parts[0]
    for part in parts[1:]:
        image = part.view(-1, *[1] * image.ndim) * image
    return image


@pytest.mark.parametrize("side", [32, 33])
def test_points_of_an_image_have_its_centre_and_its_widths(side: int, generator: torch.Generator) -> None:
    points = density_points(blob(side, (3.0, -2.0), (5.0, 2.5)), 200, threshold=0.001, generator=generator)
    assert points.shape == (200, 2)
    torch.testing.assert_close(points.mean(0), torch.tensor([3.0, -2.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(points.std(0), torch.tensor([5.0, 2.5]), atol=0.15, rtol=0)


def test_points_of_a_map_are_xyz(generator: torch.Generator) -> None:
    points = density_points(blob(24, (2.0, 0.0, -4.0), (4.0, 2.0, 1.5)), 100, threshold=0.001, generator=generator)
    torch.testing.assert_close(points.mean(0), torch.tensor([2.0, 0.0, -4.0]), atol=0.15, rtol=0)
    assert points.std(0).argsort(descending=True).tolist() == [0, 1, 2]


def test_every_point_stands_for_the_same_mass(generator: torch.Generator) -> None:
    image = torch.zeros(40, 40)
    image[5:15, 5:15], image[25:35, 25:35] = 1.0, 4.0
    points = density_points(image, 100, generator=generator)
    assert int((points.sum(1) > 0).sum()) == pytest.approx(80, abs=1)  # k-means alone has 67


def test_a_small_image_is_sampled_more_finely(generator: torch.Generator) -> None:
    image = blob(16, (0.0, 0.0), (1.5, 1.5))
    points = density_points(image, 150, threshold=0.05, generator=generator)
    assert len(points.unique(dim=0)) == 150
    nearest = torch.cdist(points, points).fill_diagonal_(math.inf).amin(1)
    assert nearest.mean() > 0.15  # spread out, not in heaps where pixels are


def test_the_threshold_is_above_weak_noise(generator: torch.Generator) -> None:
    image = blob(48, (0.0, 0.0), (4.0, 4.0))
    noisy = image + 0.02 * torch.randn(image.shape, generator=generator)
    points = density_points(noisy, 100, generator=generator)
    assert points.norm(dim=1).max() < 4.0 * 2.4  # where the Gaussian has fallen to a tenth, and a little


def test_drawn_points_are_where_they_should_be(generator: torch.Generator) -> None:
    drawn = draw_points(torch.tensor([[2.25, -3.5, 1.0]]), 21, 1.2)
    assert drawn.sum() == pytest.approx(1, abs=1e-4)
    axis = torch.arange(21) - 10.0
    middle = [float((drawn.sum(others) * axis).sum()) for others in ((0, 1), (0, 2), (1, 2))]
    assert middle == pytest.approx([2.25, -3.5, 1.0], abs=1e-3)
    flat = draw_points(torch.tensor([[2.25, -3.5]]), 21, 1.2)
    torch.testing.assert_close(flat, drawn.sum(0), atol=1e-6, rtol=0)


def test_densities_without_anything_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="brighter than its background"):
        density_points(torch.zeros(8, 8), 4, generator=generator)
    with pytest.raises(InputError, match="NaN"):
        density_points(torch.full((8, 8), math.nan), 4, generator=generator)
