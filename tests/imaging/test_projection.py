"""Projection: where voxels land, what stays where it is, and an adjoint that is exact."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import about_z, random_rotations
from scoretomo.imaging import projection, projection_cpu
from scoretomo.imaging.kernels import threads_for
from scoretomo.imaging.masks import ball
from scoretomo.imaging.projection import back_project, back_project_by_resampling, project, project_by_resampling


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


@pytest.mark.parametrize("radius", [None, 3.0, 7.2, 100.0])
@pytest.mark.parametrize("side", [16, 17])
def test_back_projection_is_the_exact_adjoint(side: int, radius: float | None, generator: torch.Generator) -> None:
    """<P v, y> = <v, P^T y> in float32, for the reference too, on white noise."""
    volumes, rotations = (
        torch.rand(2, side, side, side, generator=generator),
        random_rotations(2, 3, generator=generator),
    )
    images = torch.rand(2, 3, side, side, generator=generator)
    for forwards, backwards in ((project, back_project), (project_by_resampling, back_project_by_resampling)):
        forward = (forwards(volumes, rotations, radius).double() * images).sum()
        backward = (volumes.double() * backwards(images, rotations, radius)).sum()
        assert abs(forward / backward - 1) < 1e-5


@pytest.mark.parametrize("radius", [None, 0.0, 6.5, 11.9])
@pytest.mark.parametrize(("count", "views", "side"), [(1, 1, 24), (5, 3, 25)])
def test_kernels_agree_with_the_reference(
    count: int, views: int, side: int, radius: float | None, generator: torch.Generator
) -> None:
    """White noise up to the corners, random directions and those along the axes."""
    volumes = torch.randn(count, side, side, side, generator=generator)
    images = torch.randn(count, views, side, side, generator=generator)
    cube = _cube_rotations().expand(count, -1, -1, -1)
    for rotations in (random_rotations(count, views, generator=generator), cube):
        some = images[:, :1].expand(-1, rotations.shape[1], -1, -1)
        found, expected = project(volumes, rotations, radius), project_by_resampling(volumes, rotations, radius)
        assert (found - expected).norm() < 1e-5 * expected.norm()
        found = back_project(some, rotations, radius)
        expected = back_project_by_resampling(some, rotations, radius)
        assert (found - expected).norm() < 1e-5 * expected.norm()


def test_kernels_give_what_double_precision_gives(generator: torch.Generator) -> None:
    """On a large box, where single-precision coordinates matter most; the reference in float64 is the truth."""
    volumes, rotations = torch.randn(1, 96, 96, 96, generator=generator), random_rotations(1, 2, generator=generator)
    exact = project(volumes.double(), rotations.double())
    assert (project(volumes, rotations) - exact).norm() < 1e-5 * exact.norm()
    images = torch.randn(1, 2, 96, 96, generator=generator)
    exact = back_project(images.double(), rotations.double())
    assert (back_project(images, rotations) - exact).norm() < 1e-5 * exact.norm()


def test_the_number_of_threads_does_not_change_the_result(generator: torch.Generator) -> None:
    """With more threads than volumes, several threads add to copies of one volume."""
    images, rotations = torch.randn(1, 3, 48, 48, generator=generator), random_rotations(1, 3, generator=generator)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            assert threads_for(images.numel() * 48) == number
            results.append(back_project(images, rotations))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_many_volumes_go_in_parts(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes, rotations = torch.randn(5, 10, 10, 10, generator=generator), random_rotations(5, 2, generator=generator)
    images = torch.randn(5, 2, 10, 10, generator=generator)
    whole = project(volumes, rotations), back_project(images, rotations)
    monkeypatch.setattr(projection_cpu, "_BYTES_AT_ONCE", 2 * 4 * 13**3)
    in_parts = project(volumes, rotations), back_project(images, rotations)
    torch.testing.assert_close(in_parts, whole, rtol=1e-5, atol=1e-5)


def test_a_sphere_around_the_object_changes_nothing(generator: torch.Generator) -> None:
    inside = ball(21, 3, 7.0)
    volumes, rotations = (
        torch.randn(2, 21, 21, 21, generator=generator) * inside,
        random_rotations(2, 4, generator=generator),
    )
    torch.testing.assert_close(project(volumes, rotations, 8.8), project(volumes, rotations), rtol=1e-5, atol=1e-5)
    images = torch.randn(2, 4, 21, 21, generator=generator)
    clipped, whole = back_project(images, rotations, 8.8) * inside, back_project(images, rotations) * inside
    torch.testing.assert_close(clipped, whole, rtol=1e-5, atol=1e-5)
    assert not project(volumes, rotations, 3.0)[..., ball(21, 2, 3.0) == 0].any()


@pytest.mark.parametrize("side", [12, 13])
def test_each_is_the_gradient_of_the_other(side: int, generator: torch.Generator) -> None:
    volumes = torch.randn(2, side, side, side, generator=generator, requires_grad=True)
    images = torch.randn(2, 3, side, side, generator=generator, requires_grad=True)
    rotations = random_rotations(2, 3, generator=generator)
    projected, smeared = project(volumes, rotations, 5.0), back_project(images, rotations, 5.0)
    (gradient,) = torch.autograd.grad(projected, volumes, images.detach())
    torch.testing.assert_close(gradient, smeared, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(smeared, images, volumes.detach())
    torch.testing.assert_close(gradient, projected, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_stays_so(generator: torch.Generator) -> None:
    volumes = torch.zeros(1, 8, 8, 8)
    volumes[0, 4, 4, 4] = torch.nan
    assert project(volumes, random_rotations(1, 3, generator=generator)).isnan().any((2, 3)).all()


def test_rotations_that_are_not_finite_are_refused() -> None:
    rotations = torch.full((1, 1, 3, 3), torch.nan)
    with pytest.raises(ValueError, match="finite"):
        project(torch.zeros(1, 8, 8, 8), rotations)
    with pytest.raises(ValueError, match="finite"):
        back_project(torch.zeros(1, 1, 8, 8), rotations)


@pytest.mark.parametrize("limit", [1, 300, 2500])
def test_slabs_do_not_change_the_result_of_the_reference(
    limit: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, rotations = torch.rand(2, 10, 10, 10, generator=generator), random_rotations(2, 3, generator=generator)
    images = torch.rand(2, 3, 10, 10, generator=generator)
    whole = project_by_resampling(volumes, rotations, 4.0), back_project_by_resampling(images, rotations, 4.0)
    monkeypatch.setattr(projection, "_SAMPLES_AT_ONCE", limit)
    in_slabs = project_by_resampling(volumes, rotations, 4.0), back_project_by_resampling(images, rotations, 4.0)
    torch.testing.assert_close(in_slabs, whole, rtol=1e-5, atol=1e-5)


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
    back_project_by_resampling(project_by_resampling(volumes, rotations), rotations)
    assert max(sizes) <= 5000
    assert sum(sizes) == 2 * 6 * 16**3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_inputs(dtype: torch.dtype) -> None:
    volumes, rotations = torch.ones(1, 6, 6, 6, dtype=dtype), torch.eye(3, dtype=dtype)[None, None]
    images = project(volumes, rotations)
    assert images.dtype == back_project(images, rotations).dtype == dtype


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(generator: torch.Generator) -> None:
    volumes, rotations = torch.rand(2, 33, 33, 33, generator=generator), random_rotations(2, 5, generator=generator)
    images = project(volumes, rotations)
    on_device = project(volumes.cuda(), rotations.cuda())
    torch.testing.assert_close(on_device.cpu(), images, rtol=1e-4, atol=1e-3)
    smeared = back_project(on_device, rotations.cuda())
    torch.testing.assert_close(smeared.cpu(), back_project(images, rotations), rtol=1e-4, atol=1e-2)
