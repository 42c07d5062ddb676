"""Central slices agree with projections, and shifts in Fourier space with shifts in real space."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging import slices as slices_module
from scoretomo.imaging.fourier import hartley, translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import (
    ball_frequencies,
    disc_frequencies,
    from_coefficients,
    grid_places,
    image_coefficients,
    lattice_slices,
    slice_coefficients,
    translate_coefficients,
    voxel_slices,
)


def _blobs(side: int, generator: torch.Generator, width: float = 3.5) -> Tensor:
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    centres, heights = 4 * torch.randn(8, 3, generator=generator).clamp(-1, 1), torch.rand(8, generator=generator)
    volume = torch.zeros(side, side, side)
    for (cx, cy, cz), height in zip(centres, heights, strict=True):
        volume += height * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * width**2))
    return volume


@pytest.mark.parametrize("side", [48, 49])
def test_a_slice_is_the_transform_of_the_projection_under_the_same_rotation(
    side: int, generator: torch.Generator
) -> None:
    volume, rotations = _blobs(side, generator), random_rotations(20, generator=generator)
    frequencies = disc_frequencies(side, side / 2)
    projected = image_coefficients(project(volume[None], rotations[None])[0], frequencies)
    sliced = slice_coefficients(voxel_slices(volume), rotations, frequencies)
    correlation = torch.nn.functional.cosine_similarity(projected, sliced, dim=-1)
    amplitude = (projected * sliced).sum(-1) / projected.square().sum(-1)
    assert correlation.min() > 0.9995
    assert (amplitude - 1).abs().max() < 0.01
    transposed = slice_coefficients(voxel_slices(volume), rotations.mT, frequencies)
    assert torch.nn.functional.cosine_similarity(projected, transposed, dim=-1).median() < 0.98


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("padding", [2, 3])
def test_the_transform_of_one_voxel_is_a_wave_of_amplitude_one(
    side: int, padding: int, generator: torch.Generator
) -> None:
    volume, place = torch.zeros(side, side, side), torch.tensor([1, -4, 2])
    x, y, z = (place + side // 2).tolist()
    volume[z, y, x] = 1
    frequencies = 0.8 * (torch.rand(500, 3, generator=generator) - 0.5)
    phases = 2 * math.pi * (frequencies @ place.float())
    wave, values = phases.cos() + phases.sin(), voxel_slices(volume, padding)(frequencies)
    assert (values * wave).mean() / wave.square().mean() == pytest.approx(1, abs=0.01)
    assert (values - wave).square().mean().sqrt() < (0.05 if padding == 2 else 0.02)


def test_slices_are_zero_beyond_the_nyquist_frequency() -> None:
    values = voxel_slices(torch.ones(8, 8, 8))(torch.tensor([[[0.7, 0, 0]], [[0, 0, -0.6]]]))
    assert values.shape == (2, 1)
    assert not values.any()


def test_the_scale_is_that_of_the_frequencies_and_takes_the_compiled_way(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, rotations, compiled = _blobs(16, generator), random_rotations(5, generator=generator), []
    original = slices_module.slices_cpu

    def spied(*arguments: Any) -> Tensor:
        compiled.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(slices_module, "slices_cpu", spied)
    frequencies = disc_frequencies(16, 7.0)
    scaled = slice_coefficients(voxel_slices(volume, scale=0.97), rotations, frequencies)
    assert compiled == [2 * 16 * 0.97]
    expected = voxel_slices(volume)(0.97 * frequencies @ rotations[:, :2])
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("side", "radius", "count"), [(32, 12.0, 441), (8, 4.0, 45), (9, 4.0, 49)])
def test_the_mirrored_row_of_a_disc_is_the_opposite_frequency(side: int, radius: float, count: int) -> None:
    frequencies = disc_frequencies(side, radius)
    assert len(frequencies) == count  # points of the integer lattice in a circle, those at -side / 2 left out
    torch.testing.assert_close(frequencies.flip(0), -frequencies)


@pytest.mark.parametrize("side", [12, 13])
def test_coefficients_are_sums_over_the_image(side: int, generator: torch.Generator) -> None:
    image, frequencies = torch.rand(side, side, generator=generator), disc_frequencies(side, 3.0)
    axis = torch.arange(side) - side // 2
    phases = 2 * math.pi * (frequencies[:, 0, None, None] * axis + frequencies[:, 1, None, None] * axis[:, None])
    expected = ((phases.cos() + phases.sin()) * image).sum((1, 2))
    torch.testing.assert_close(image_coefficients(image, frequencies), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [12, 13])
def test_a_phase_moves_the_image_by_whole_pixels(side: int, generator: torch.Generator) -> None:
    image, frequencies = torch.rand(side, side, generator=generator), disc_frequencies(side, side / 2)
    moved = image.roll((3, -2), (1, 0))  # x by 3, y by -2
    expected = image_coefficients(moved, frequencies)
    translated = translate_coefficients(image_coefficients(image, frequencies), frequencies, torch.tensor([3.0, -2]))
    torch.testing.assert_close(translated, expected, rtol=1e-4, atol=1e-4)


def test_shifts_of_fractions_add_up_and_keep_the_norm(generator: torch.Generator) -> None:
    frequencies = disc_frequencies(16, 6.0)
    coefficients = torch.randn(5, 1, len(frequencies), generator=generator)
    first, second = torch.randn(2, 4, 2, generator=generator)
    once = translate_coefficients(coefficients, frequencies, first)
    torch.testing.assert_close(once.norm(dim=-1), coefficients.norm(dim=-1).expand(5, 4))
    twice = translate_coefficients(once, frequencies, second)
    torch.testing.assert_close(
        twice, translate_coefficients(coefficients, frequencies, first + second), rtol=1e-4, atol=1e-4
    )


def _waves(places: Tensor, points: Tensor) -> Tensor:
    phases = 2 * math.pi * (points @ places.T)
    return (phases.cos() + phases.sin()).sum(-1)


def _within(radius: float, count: int, generator: torch.Generator) -> Tensor:
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return directions * radius * torch.rand(count, 1, generator=generator) ** (1 / 3)


@pytest.mark.parametrize(("extent", "error"), [(0.25, 0.017), (0.5, 0.065)])
@pytest.mark.parametrize("radius", [4.0, 6.3])
def test_a_lattice_has_the_stated_accuracy_up_to_its_rim(
    extent: float, error: float, radius: float, generator: torch.Generator
) -> None:
    """Point sources in a sphere, whose transform is known everywhere."""
    side, calls = 32, []
    places = _within(extent * side, 300, generator)

    def slice_fn(points: Tensor) -> Tensor:
        calls.append(points[..., 0].numel())
        return _waves(places, points)

    interpolated = lattice_slices(slice_fn, side, radius)
    assert sum(calls) < 4 / 3 * math.pi * (2 * radius + 3.5) ** 3
    calls.clear()
    points = _within(radius / side, 2000, generator)
    rim = radius / side * torch.nn.functional.normalize(points, dim=1)
    for place in (points, rim):
        values = _waves(places, place)
        assert (interpolated(place) - values).square().mean().sqrt() < error * values.square().mean().sqrt()
        assert (interpolated(place) * values).mean() / values.square().mean() == pytest.approx(1, abs=0.03)
    assert not calls


def test_several_volumes_are_sliced_at_once_as_each_is_alone(generator: torch.Generator) -> None:
    volumes, points = torch.rand(3, 12, 12, 12, generator=generator), torch.rand(3, 5, 3, generator=generator) - 0.5
    together = voxel_slices(volumes)
    alone = [voxel_slices(volume) for volume in volumes]
    expected = torch.stack([one(row) for one, row in zip(alone, points, strict=True)])
    torch.testing.assert_close(together(points), expected)
    torch.testing.assert_close(together(points[:1]), torch.stack([one(points[0]) for one in alone]))
    lattice = lattice_slices(together, 12, 3.0)
    expected = torch.stack([lattice_slices(one, 12, 3.0)(row / 4) for one, row in zip(alone, points, strict=True)])
    torch.testing.assert_close(lattice(points / 4), expected)
    rotations, frequencies = random_rotations(3, 4, generator=generator), disc_frequencies(12, 3.0)
    for which, one in enumerate(alone):
        sliced = slice_coefficients(together, rotations, frequencies)[which]
        torch.testing.assert_close(sliced, slice_coefficients(one, rotations[which], frequencies))
    assert slice_coefficients(together, rotations[:1], frequencies).shape == (3, 4, len(frequencies))


@pytest.mark.parametrize("side", [12, 13])
def test_coefficients_of_images_and_volumes_go_back_to_where_they_came_from(
    side: int, generator: torch.Generator
) -> None:
    for frequencies, dimensions in ((disc_frequencies(side, side / 2), 2), (ball_frequencies(side), 3)):
        torch.testing.assert_close(frequencies, -frequencies.flip(0))
        assert frequencies.norm(dim=1).max() <= 0.5 and frequencies.abs().max() < 0.5
        coefficients = torch.randn(2, len(frequencies), generator=generator)
        arrays = from_coefficients(coefficients, frequencies, side)
        assert arrays.shape == (2, *[side] * dimensions)
        places = grid_places(frequencies, side)
        torch.testing.assert_close(hartley(arrays, dimensions).flatten(1)[:, places], coefficients, atol=1e-4, rtol=0)
    flat = ball_frequencies(side)
    assert torch.equal(flat[flat[:, 2] == 0][:, :2], disc_frequencies(side, side / 2))


def test_a_turned_and_moved_volume_projects_to_the_slice_of_the_same_pose(generator: torch.Generator) -> None:
    side = 24
    slice_fn, rotations = voxel_slices(_blobs(side, generator, width=2.0)), random_rotations(3, generator=generator)
    shifts = torch.randn(3, 3, generator=generator)
    disc, ball = disc_frequencies(side, side / 2), ball_frequencies(side)
    image = translate_coefficients(slice_coefficients(slice_fn, rotations, disc), disc, shifts[:, :2])
    volume = translate_coefficients(slice_coefficients(slice_fn, rotations, ball), ball, shifts)
    images, volumes = from_coefficients(image, disc, side), from_coefficients(volume, ball, side)
    torch.testing.assert_close(volumes.sum(1), images, atol=1e-5 * float(images.max()), rtol=0)
    still = from_coefficients(slice_coefficients(slice_fn, rotations, ball), ball, side)
    torch.testing.assert_close(volumes, translate(still, shifts), atol=1e-4, rtol=0)
