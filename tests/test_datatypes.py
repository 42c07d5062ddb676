"""The types at the edges refuse what no algorithm could use, and say why."""

import math

import pytest
import torch

from scoretomo.datatypes import CTFParams, ImageStack, InputError, Poses, Volume


def test_a_stack_knows_its_size() -> None:
    stack = ImageStack(torch.zeros(5, 8, 8), 1.5)
    assert (len(stack), stack.side, stack.pixel_size_angstrom) == (5, 8, 1.5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8), r"3 axes \(index, y, x\), not shape \(8, 8\)"),
        ((0, 8, 8), "no images"),
        ((2, 8, 10), "square, not 10 x 8 pixels; crop or pad"),
        ((2, 0, 0), "square, not 0 x 0 pixels"),
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


@pytest.mark.parametrize("value", [3e38, -2e15])
def test_images_whose_squares_would_be_infinite_are_refused(value: float) -> None:
    images = torch.zeros(3, 4, 4)
    images[1, 2, 3] = value
    with pytest.raises(InputError, match="divide all by a constant"):
        ImageStack(images, 1.0)
    assert len(ImageStack(images * 1e-25, 1.0)) == 3


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


def test_poses_that_are_not_finite_are_named() -> None:
    rotations, shifts = torch.eye(3).repeat(6, 1, 1), torch.zeros(6, 2)
    rotations[1, 0, 0], shifts[4, 1] = math.nan, math.inf
    with pytest.raises(InputError, match="poses 1, 4 are NaN or infinite"):
        Poses(rotations, shifts)


def test_some_of_the_poses() -> None:
    poses = Poses(torch.eye(3).repeat(4, 1, 1), torch.arange(8.0).view(4, 2))
    assert poses.select(torch.tensor([3, 0])).shifts_angstrom.tolist() == [[6, 7], [0, 1]]
    assert len(poses.select(torch.tensor([True, False, True, True]))) == 3


def ctf(**values: object) -> CTFParams:
    usual = {
        "defocus_u_angstrom": [15000.0, 16000.0, 17000.0],
        "defocus_v_angstrom": [15100.0, 16100.0, 17100.0],
        "astigmatism_degrees": [10.0, -20.0, 30.0],
        "phase_shift_degrees": [0.0, 0.0, 90.0],
        "voltage_kv": [300.0, 300.0, 200.0],
        "spherical_aberration_mm": [2.7, 2.7, 0.01],
        "amplitude_contrast": [0.1, 0.07, 0.1],
    }
    return CTFParams(**{name: torch.tensor(value) for name, value in (usual | values).items()})


def test_some_of_the_contrast_transfer() -> None:
    assert len(ctf()) == 3
    some = ctf().select(torch.tensor([2, 0]))
    assert some.defocus_u_angstrom.tolist() == [17000, 15000] and some.phase_shift_degrees.tolist() == [90, 0]
    assert ctf().select(torch.tensor([False, True, False])).astigmatism_degrees.tolist() == [-20]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"voltage_kv": [300.0, 300.0]}, r"of the same n, not \(3,\), .*\(2,\)"),
        (dict.fromkeys(ctf().__dict__, 1.0), r"\(n,\) each"),
        ({"voltage_kv": [300.0, 300000.0, 300000.0]}, "voltage_kv of images 1, 2 must be 10 to 3000 kV, not 300000"),
        ({"voltage_kv": [0.3, 300.0, 300.0]}, "voltage_kv of images 0 must"),
        ({"amplitude_contrast": [0.1, 10.0, 0.1]}, "amplitude_contrast of images 1 must be 0 to 1 as a fraction"),
        ({"amplitude_contrast": [0.1, 0.1, -0.1]}, "amplitude_contrast of images 2"),
        ({"defocus_u_angstrom": [1e4, math.nan, 1e4]}, "defocus_u_angstrom of images 1 must be .* Angstrom.*, not nan"),
        ({"astigmatism_degrees": [math.inf, 0.0, 0.0]}, "astigmatism_degrees of images 0 must be .* not inf"),
        ({"spherical_aberration_mm": [2.7, 2.7e7, 2.7]}, "spherical_aberration_mm of images 1 must be -100 to 100 mm"),
    ],
)
def test_contrast_transfer_of_no_microscope(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ctf(**values)


def test_overfocus_and_no_defocus_are_possible() -> None:
    assert ctf(defocus_u_angstrom=[-5000.0, 0.0, 1e5]).defocus_u_angstrom[0] == -5000
