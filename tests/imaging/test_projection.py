"""Projection: where voxels land, what stays where it is, and an adjoint that is exact."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import about_z, random_rotations
from scoretomo.imaging import projection
from scoretomo.imaging.projection import back_project, project


def _cube_rotations() -> Tensor:
    """The 24 rotations that map the axes onto the axes."""
    signed = [
        torch.diag(torch.tensor(signs)) @ torch.eye(3)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product([1.0, -1.0], repeat=3)
    ]
    return torch.stack([matrix for matrix in signed if torch.det(matrix) > 0])


@pytest.mark.parametrize("side", [10, 11])
def test_a_voxel_lands_where_the_rotation_takes_it(side: int) -> None:
    """x_image = R @ x_object about index side // 2, for all 24 rotations of the cube."""
    rotations, centre = _cube_rotations(), side // 2
    assert len(rotations) == 24
    x, y, z = 3, -2, 1
    volume = torch.zeros(1, side, side, side)
    volume[0, centre + z, centre + y, centre + x] = 1
    images = project(volume, rotations[None])[0]
    expected = torch.zeros_like(images)
    for image, rotation in zip(expected, rotations, strict=True):
        column, row, _ = (rotation @ torch.tensor([x, y, z], dtype=torch.float32)).round().long().tolist()
        image[centre + row, centre + column] = 1
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [8, 9, 16])
def test_the_centre_voxel_never_moves(side: int, generator: torch.Generator) -> None:
    centre = side // 2
    volume = torch.zeros(1, side, side, side)
    volume[0, centre, centre, centre] = 1
    images = project(volume, random_rotations(1, 200, generator=generator))[0]
    # neighbours of the line of sight touch the trilinear kernel, but the image stays symmetric about the origin
    assert (images.flatten(1).argmax(1) == centre * side + centre).all()
    axis = torch.arange(side, dtype=torch.float32) - centre
    mass = images.sum((1, 2))
    assert ((images.sum(1) @ axis) / mass).abs().max() < 1e-4
    assert ((images.sum(2) @ axis) / mass).abs().max() < 1e-4


@pytest.mark.parametrize("side", [8, 9])
def test_without_rotation_the_projection_is_the_sum_over_z(side: int, generator: torch.Generator) -> None:
    volumes = torch.rand(2, side, side, side, generator=generator)
    images = project(volumes, torch.eye(3).expand(2, 1, 3, 3))
    torch.testing.assert_close(images[:, 0], volumes.sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [32, 33])
def test_a_blob_lands_where_the_rotation_takes_it_and_keeps_its_mass(side: int, generator: torch.Generator) -> None:
    """Any rotation: the centre of mass of the image is the x and y of R @ x, with no offset of half a pixel."""
    place = torch.tensor([4.0, -5.0, 6.0])
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2) / (2 * 2.0**2))
    rotations = random_rotations(1, 20, generator=generator)
    images = project(volume[None], rotations)[0]
    mass = images.sum((1, 2))
    torch.testing.assert_close(mass, volume.sum().expand(20), rtol=2e-3, atol=0)
    found = torch.stack([images.sum(1) @ axis, images.sum(2) @ axis], dim=1) / mass[:, None]
    torch.testing.assert_close(found, (rotations[0] @ place)[:, :2], rtol=0, atol=0.02)


def test_each_volume_has_its_own_rotations(generator: torch.Generator) -> None:
    volumes, rotations = torch.rand(3, 9, 9, 9, generator=generator), random_rotations(3, 4, generator=generator)
    together = project(volumes, rotations)
    for b, m in itertools.product(range(3), range(4)):
        alone = project(volumes[b : b + 1], rotations[b : b + 1, m : m + 1])[0, 0]
        torch.testing.assert_close(together[b, m], alone)


def test_turning_further_in_the_plane_turns_the_image(generator: torch.Generator) -> None:
    volume, rotations = torch.rand(1, 11, 11, 11, generator=generator), random_rotations(1, 5, generator=generator)
    quarter = about_z(torch.tensor(math.pi / 2))
    images, turned = project(volume, rotations), project(volume, quarter @ rotations)
    torch.testing.assert_close(turned, images.rot90(-1, (2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slabs", [1, 5])
@pytest.mark.parametrize("side", [16, 17])
def test_back_projection_is_the_exact_adjoint(
    side: int, slabs: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<P v, y> = <v, P^T y> in float32, whatever the number of slabs."""
    count, views = 2, 3
    if slabs > 1:
        monkeypatch.setattr(projection, "_SAMPLES_AT_ONCE", count * views * side**3 // slabs)
    assert len(projection._slabs(count * views, side)) >= slabs
    volumes = torch.rand(count, side, side, side, generator=generator)
    images = torch.rand(count, views, side, side, generator=generator)
    rotations = random_rotations(count, views, generator=generator)
    forward = (project(volumes, rotations).double() * images).sum()
    backward = (volumes.double() * back_project(images, rotations)).sum()
    assert abs(forward / backward - 1) < 1e-5


@pytest.mark.parametrize("side", [12, 13])
def test_back_projection_is_the_gradient_of_projection(side: int, generator: torch.Generator) -> None:
    volumes = torch.randn(2, side, side, side, generator=generator, requires_grad=True)
    images = torch.randn(2, 3, side, side, generator=generator)
    rotations = random_rotations(2, 3, generator=generator)
    (gradient,) = torch.autograd.grad(project(volumes, rotations), volumes, images)
    torch.testing.assert_close(back_project(images, rotations), gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [1, 300, 2500])
def test_slabs_do_not_change_the_result(
    limit: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, rotations = torch.rand(2, 10, 10, 10, generator=generator), random_rotations(2, 3, generator=generator)
    images = torch.rand(2, 3, 10, 10, generator=generator)
    whole = project(volumes, rotations), back_project(images, rotations)
    monkeypatch.setattr(projection, "_SAMPLES_AT_ONCE", limit)
    torch.testing.assert_close(project(volumes, rotations), whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back_project(images, rotations), whole[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("views", "side"), [(2, 32), (64, 88), (1000, 64), (3200, 136)])
def test_slabs_cover_the_depth_once_and_bound_the_memory(views: int, side: int) -> None:
    slabs = projection._slabs(views, side)
    assert [z for slab in slabs for z in slab] == list(range(side))
    largest = max(len(slab) for slab in slabs) * views * side**2
    assert largest <= max(projection._SAMPLES_AT_ONCE, views * side**2)


def test_no_grid_of_all_coordinates_is_ever_held(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    sampling_points = projection._sampling_points

    def recorded(rotations: Tensor, slab: range, side: int) -> Tensor:
        points = sampling_points(rotations, slab, side)
        sizes.append(points.numel() // 3)
        return points

    monkeypatch.setattr(projection, "_SAMPLES_AT_ONCE", 5000)
    monkeypatch.setattr(projection, "_sampling_points", recorded)
    volumes, rotations = torch.rand(2, 16, 16, 16, generator=generator), random_rotations(2, 3, generator=generator)
    back_project(project(volumes, rotations), rotations)
    assert max(sizes) <= 5000
    assert sum(sizes) == 2 * 6 * 16**3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_inputs(dtype: torch.dtype) -> None:
    volumes, rotations = torch.ones(1, 6, 6, 6, dtype=dtype), torch.eye(3, dtype=dtype)[None, None]
    images = project(volumes, rotations)
    assert images.dtype == back_project(images, rotations).dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(generator: torch.Generator) -> None:
    volumes, rotations = torch.rand(2, 33, 33, 33, generator=generator), random_rotations(2, 5, generator=generator)
    images = project(volumes, rotations)
    on_device = project(volumes.cuda(), rotations.cuda())
    torch.testing.assert_close(on_device.cpu(), images, rtol=1e-4, atol=1e-3)
    smeared = back_project(on_device, rotations.cuda())
    torch.testing.assert_close(smeared.cpu(), back_project(images, rotations), rtol=1e-4, atol=1e-2)
