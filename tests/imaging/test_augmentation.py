"""Random motions of images: turned, mirrored and moved about ``side // 2``, and nothing else."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.imaging.augmentation import augment
from scoretomo.imaging.masks import ball


def _blobs(side: int) -> Tensor:
    """A lopsided image, three blobs of different weight and zero far from the origin."""
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = ((5.0, 1.0, 1.0), (-1.0, 4.0, 0.6), (-3.0, -3.0, 0.3))
    return sum((w * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4.5) for cx, cy, w in places), torch.zeros(side, side))


def _moment(images: Tensor, power: int) -> Tensor:
    """Sum of density times ``(x + iy)^power`` about the origin: turning by an angle multiplies it by a phase."""
    axis = torch.arange(images.shape[-1]) - images.shape[-1] // 2
    return (images * (axis + 1j * axis[:, None]) ** power).sum((-2, -1))


def _with_draws(
    monkeypatch: pytest.MonkeyPatch, images: Tensor, turn: float, flip: float, x: float, y: float, largest_shift: float
) -> Tensor:
    draws = torch.tensor([turn, flip, x, y])[:, None].expand(4, len(images))
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: draws)
    return augment(images, largest_shift=largest_shift, generator=torch.Generator())


_NO_FLIP, _FLIP, _NO_SHIFT = 0.9, 0.1, 0.5


@pytest.mark.parametrize("side", [16, 17])
def test_no_motion_leaves_images_as_they_are(
    side: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(3, side, side, generator=generator)
    moved = _with_draws(monkeypatch, images, 0, _NO_FLIP, _NO_SHIFT, _NO_SHIFT, 0.1)
    torch.testing.assert_close(moved, images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize(("turn", "x", "y"), [(0.25, -2, 5), (0.5, -5, -2), (0.75, 2, -5)])
def test_a_quarter_turn_takes_x_to_y_about_the_origin(
    side: int, turn: float, x: int, y: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    centre = side // 2
    image, expected = torch.zeros(2, 1, side, side)
    image[0, centre + 2, centre + 5] = expected[0, centre + y, centre + x] = 1
    turned = _with_draws(monkeypatch, image, turn, _NO_FLIP, _NO_SHIFT, _NO_SHIFT, 0.1)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [16, 17])
def test_a_flip_takes_x_to_minus_x_about_the_origin(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    centre = side // 2
    image, expected = torch.zeros(2, 1, side, side)
    image[0, centre + 2, centre + 5] = expected[0, centre + 2, centre - 5] = 1
    flipped = _with_draws(monkeypatch, image, 0, _FLIP, _NO_SHIFT, _NO_SHIFT, 0.1)
    torch.testing.assert_close(flipped, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("turn", [0.0, 0.25])
@pytest.mark.parametrize("flip", [_NO_FLIP, _FLIP])
def test_shifts_are_a_part_of_the_side_and_come_after_the_turn(
    turn: float, flip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws of 1 and 0 are the largest shifts, here 2 pixels to larger x and to smaller y."""
    centre = 10
    image, expected = torch.zeros(2, 1, 20, 20)
    image[0, centre, centre] = expected[0, centre - 2, centre + 2] = 1
    moved = _with_draws(monkeypatch, image, turn, flip, 1.0, 0.0, 0.1)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [32, 33])
def test_mass_and_size_of_what_lies_inside_are_kept(side: int, generator: torch.Generator) -> None:
    image = _blobs(side)
    moved = augment(image.expand(200, side, side), generator=generator)
    torch.testing.assert_close(moved.sum((1, 2)), image.sum().expand(200), rtol=5e-3, atol=0)
    distance = (_moment(moved, 1) / moved.sum((1, 2))).abs() - (_moment(image, 1) / image.sum()).abs()
    assert distance.abs().max() < math.sqrt(2) * 0.01 * side + 0.05


def test_turns_flips_and_shifts_are_uniform(generator: torch.Generator) -> None:
    image, count = _blobs(24), 4000
    moved = augment(image.expand(count, 24, 24), largest_shift=0.0, generator=generator)
    angle = _moment(moved, 1) / _moment(moved, 1).abs()
    hand = (_moment(moved, 1) ** 2 * _moment(moved, 2).conj()).imag
    same_hand = hand.sign() == (_moment(image, 1) ** 2 * _moment(image, 2).conj()).imag.sign()
    # five standard errors of means of count draws
    assert same_hand.float().mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(count))
    for chosen in (angle[same_hand], angle[~same_hand]):
        for harmonic in (1, 2):
            assert (chosen**harmonic).mean().abs() < 5 / math.sqrt(2 * len(chosen)) * math.sqrt(2)
    shifted = augment(ball(24, 2, 3.0).expand(count, 24, 24), largest_shift=0.1, generator=generator)
    place = _moment(shifted, 1) / shifted.sum((1, 2))
    for shift in (place.real, place.imag):  # uniform within 2.4 pixels: variance 2.4^2 / 3
        assert shift.abs().max() < 2.5
        assert shift.mean().abs() < 5 * 2.4 / math.sqrt(3 * count)
        assert shift.var() == pytest.approx(2.4**2 / 3, rel=0.1)


def test_a_generator_decides_the_draw(generator: torch.Generator) -> None:
    images = torch.rand(5, 12, 12, generator=generator)
    first, second = (augment(images, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, generator=torch.Generator().manual_seed(6)))
    alike = augment(images[:1].expand(5, 12, 12), generator=generator)
    assert not torch.allclose(alike[0], alike[1])  # every image has its own draw
