"""The types at the edges refuse what no algorithm could use, and say why."""

import math

import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError, Poses, Volume


def test_a_stack_knows_its_size() -> None:
    stack = ImageStack(torch.zeros(5, 8, 8), 1.5)
    assert (len(stack), stack.side, stack.pixel_size_angstrom) == (5, 8, 1.5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8), r"3 axes \(index, y, x\), not shape \(8, 8\)"),
        ((0, 8, 8), "no images"),
        ((2, 8, 10), "square, not 10 x 8 pixels; crop or pad"),
    ],
)
def test_stacks_of_a_wrong_shape_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageStack(torch.zeros(shape), 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_images_that_are_not_finite_are_named(value: float) -> None:
    images = torch.zeros(12, 4, 4)
    images[[3, 7], 1, 2] = value
    with pytest.raises(InputError, match="images 3, 7 hold NaN or infinite"):
        ImageStack(images, 1.0)
    images[:, 0, 0] = value
    with pytest.raises(InputError, match="images 0, 1, 2, 3, 4 and 7 more hold"):
        ImageStack(images, 1.0)


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_pixel_sizes_that_are_none_are_refused(size: float) -> None:
    with pytest.raises(InputError, match=f"positive number of Angstrom, not {size}"):
        ImageStack(torch.zeros(1, 4, 4), size)
    with pytest.raises(InputError, match=f"positive number of Angstrom, not {size}"):
        Volume(torch.zeros(4, 4, 4), size)


def test_volumes_are_finite_cubes() -> None:
    assert Volume(torch.zeros(6, 6, 6), 2.0).side == 6
    for shape in ((6, 6), (6, 6, 5), (1, 6, 6, 6)):
        with pytest.raises(InputError, match=r"a cube \(z, y, x\), not shape"):
            Volume(torch.zeros(shape), 2.0)
    with pytest.raises(InputError, match="NaN"):
        Volume(torch.full((6, 6, 6), math.nan), 2.0)


def test_poses_need_a_shift_for_each_rotation() -> None:
    assert len(Poses(torch.eye(3).expand(4, 3, 3), torch.zeros(4, 2))) == 4
    for rotations, shifts in (((4, 3, 3), (3, 2)), ((4, 3, 3), (4, 3)), ((4, 3, 2), (4, 2)), ((3, 3), (3, 2))):
        with pytest.raises(InputError, match=r"rotations \(n, 3, 3\) and shifts \(n, 2\), not"):
            Poses(torch.zeros(rotations), torch.zeros(shifts))


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
