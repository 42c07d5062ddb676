"""Kernels for CUDA devices against the reference, interpreted on the processor; on a device as they are."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import about_y, about_z, random_rotations
from scoretomo.imaging.projection import back_project_by_resampling, project_by_resampling

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from scoretomo.imaging import projection_triton  # noqa: E402
from scoretomo.imaging.projection_triton import back_project_triton, project_triton  # noqa: E402

Run = Callable[..., Tensor]

on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# Triton 3.9 announces that it will no longer fuse multiplications and additions unless told
announcement = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Run]:
    """Call a function where Triton interprets its kernels: in a process of its own, since importing it decides that."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()  # the process starts with the first task
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _rotations(volumes: int, generator: torch.Generator) -> Tensor:
    """For each volume: any rotation, then an exact one by 90 degrees or, for the first, none."""
    right_angles = torch.stack(
        [torch.eye(3), about_y(torch.tensor(math.pi / 2)).round(), about_z(torch.tensor(math.pi))]
    )
    exact = right_angles.round()[torch.arange(volumes) % 3]
    return torch.stack([random_rotations(volumes, generator=generator), exact], dim=1)


def _assert_equal(result: Tensor, reference: Tensor) -> None:
    """To 1e-5 of the largest value of the reference, which is computed in float64."""
    assert result.dtype == torch.float32
    assert result.shape == reference.shape
    assert reference.abs().max() > 0
    assert (result.double() - reference).abs().max() < 1e-5 * reference.abs().max()


@dataclass(frozen=True)
class Case:
    """Arguments, which are all positive, and what the kernels make of them."""

    volumes: Tensor
    images: Tensor
    rotations: Tensor
    radius: float | None
    projections: Tensor
    smeared: Tensor


# A radius of 3 meets samples at exactly that distance; 4.2 passes the last plane of a box of 8, but not the first.
@pytest.fixture(scope="module", params=[(6, None), (7, None), (7, 3.0), (8, 4.2), (6, 0.5)], ids=str)
def case(request: pytest.FixtureRequest, interpreted: Run) -> Case:
    side, radius = request.param
    generator = torch.Generator().manual_seed(side)
    volumes, rotations = torch.rand(2, side, side, side, generator=generator), _rotations(2, generator)
    images = torch.rand(2, 2, side, side, generator=generator)
    projections = interpreted(project_triton, volumes, rotations, radius)
    smeared = interpreted(back_project_triton, images, rotations, radius)
    return Case(volumes, images, rotations, radius, projections, smeared)


def test_projection_is_the_reference(case: Case) -> None:
    reference = project_by_resampling(case.volumes.double(), case.rotations.double(), case.radius)
    _assert_equal(case.projections, reference)


def test_back_projection_is_the_reference(case: Case) -> None:
    reference = back_project_by_resampling(case.images.double(), case.rotations.double(), case.radius)
    _assert_equal(case.smeared, reference)


def test_back_projection_is_the_exact_adjoint(case: Case) -> None:
    """<P v, y> = <v, P^T y> in float32."""
    forward = (case.projections.double() * case.images).sum()
    backward = (case.volumes.double() * case.smeared).sum()
    assert abs(forward / backward - 1) < 1e-5


@pytest.mark.parametrize("side", [17, 18])
def test_tiles_cover_an_image(side: int, generator: torch.Generator, interpreted: Run) -> None:
    """Voxels at every corner, in the middle of faces and edges: each lands where the reference puts it."""
    volumes, places = torch.zeros(1, side, side, side), torch.tensor([0, side // 2, side - 1])
    volumes[0, places[:, None, None], places[:, None], places] = torch.rand(3, 3, 3, generator=generator)
    rotations = random_rotations(1, 1, generator=generator)
    reference = project_by_resampling(volumes.double(), rotations.double())
    _assert_equal(interpreted(project_triton, volumes, rotations, None), reference)


def test_tiles_cover_a_volume(generator: torch.Generator, interpreted: Run) -> None:
    images, rotations = torch.randn(1, 1, 10, 10, generator=generator), random_rotations(1, 1, generator=generator)
    reference = back_project_by_resampling(images.double(), rotations.double())
    _assert_equal(interpreted(back_project_triton, images, rotations, None), reference)


def test_a_sample_reaches_a_voxel_along_its_diagonal(interpreted: Run) -> None:
    """The last sample in the sphere adds to the last voxel, 1.3 voxels behind it and alone in its tile."""
    diagonal, edge = torch.tensor([1.0, 1, 1]) / math.sqrt(3), torch.tensor([1.0, 1, 0]) / math.sqrt(2)
    side = torch.tensor([1.0, -1, 0]) / math.sqrt(2)
    before, after = (torch.stack([axis, side, torch.linalg.cross(axis, side)]) for axis in (diagonal, edge))
    rotations = (after.T @ before)[None, None]  # takes the diagonal of the volume to that of the image
    images = torch.zeros(1, 1, 9, 9)
    images[..., 8, 8] = 1
    reference = back_project_by_resampling(images.double(), rotations.double(), 5.7)
    assert reference[0, 8, 8, 8] > 0.01
    _assert_equal(interpreted(back_project_triton, images, rotations, 5.7), reference)


def test_the_longest_chord_of_a_voxel_is_covered(interpreted: Run) -> None:
    """Seen along its diagonal a voxel has four samples on one ray, and shadows four wide along both image axes."""
    axis = torch.tensor([1.0, 1, 1]) / math.sqrt(3)
    across = torch.tensor([1.0, -1, 0]) / math.sqrt(2)
    diagonal = torch.stack([across, torch.linalg.cross(axis, across), axis])
    rotations = torch.stack([diagonal.roll(shift, 0) for shift in range(3)])[None]
    images = torch.ones(1, 3, 5, 5)
    reference = back_project_by_resampling(images.double(), rotations.double())
    _assert_equal(interpreted(back_project_triton, images, rotations, None), reference)


def test_voxels_that_no_sample_reaches_are_zero(generator: torch.Generator, interpreted: Run) -> None:
    side, radius = 9, 1.5
    images = torch.rand(1, 1, side, side, generator=generator)
    volume = interpreted(back_project_triton, images, random_rotations(1, 1, generator=generator), radius)[0]
    squares = (torch.arange(side) - side // 2) ** 2
    distance = (squares[:, None, None] + squares[:, None] + squares).sqrt()
    assert (volume[distance >= radius + math.sqrt(3)] == 0).all()
    assert (volume[distance <= radius - 1] > 0).all()


def test_memory_order_of_the_inputs_does_not_matter(generator: torch.Generator, interpreted: Run) -> None:
    volumes = torch.rand(1, 6, 5, 4, generator=generator).transpose(1, 3)[:, :, 1:, 2:].expand(2, 4, 4, 4)
    rotations = _rotations(2, generator).mT
    images = torch.rand(2, 4, 4, 2, generator=generator).permute(0, 3, 2, 1)
    assert not (volumes.is_contiguous() or rotations.is_contiguous() or images.is_contiguous())
    reference = project_by_resampling(volumes.double(), rotations.double())
    _assert_equal(interpreted(project_triton, volumes, rotations, None), reference)
    smeared = back_project_by_resampling(images.double(), rotations.double())
    _assert_equal(interpreted(back_project_triton, images, rotations, None), smeared)


def test_kernels_compile_without_a_device(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For compute capability 9.0 (H100, H200): what the interpreter lets pass, the compiler may not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {"views": "i32", "side": "i32", "squared_radius": "fp32", "squared_reach": "fp32"}
    for kernel, tile in [
        (projection_triton._project, projection_triton._IMAGE_TILE),
        (projection_triton._back_project, projection_triton._VOLUME_TILE),
    ]:
        names = kernel.arg_names
        constants = dict(zip(names[-len(tile) :], tile, strict=True))
        signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
        source = ASTSource(
            kernel, signature, constexprs={(names.index(name),): value for name, value in constants.items()}
        )
        options = {"num_warps": projection_triton._WARPS, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]


@announcement
@pytest.mark.gpu
@on_device
@pytest.mark.parametrize("radius", [None, 30.0])
@pytest.mark.parametrize("side", [64, 87])
def test_on_a_device_kernels_are_the_reference(side: int, radius: float | None, generator: torch.Generator) -> None:
    volumes = torch.randn(3, side, side, side, generator=generator).cuda()
    rotations = torch.cat([_rotations(3, generator), random_rotations(3, 5, generator=generator)], 1).cuda()
    images = project_triton(volumes, rotations, radius)
    _assert_equal(images, project_by_resampling(volumes.double(), rotations.double(), radius))
    smeared = back_project_triton(images, rotations, radius)
    _assert_equal(smeared, back_project_by_resampling(images.double(), rotations.double(), radius))
    assert torch.equal(back_project_triton(images, rotations, radius), smeared), "the same bits every time"


@announcement
@pytest.mark.gpu
@on_device
def test_on_a_device_kernels_can_be_captured_in_a_graph(generator: torch.Generator) -> None:
    volumes, rotations = torch.rand(2, 32, 32, 32, device="cuda"), random_rotations(2, 3, generator=generator).cuda()
    expected = back_project_triton(project_triton(volumes, rotations, 14.0), rotations, 14.0)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = back_project_triton(project_triton(volumes, rotations, 14.0), rotations, 14.0)
    graph.replay()
    assert torch.equal(result, expected)


@announcement
@pytest.mark.gpu
@on_device
def test_on_a_device_stacks_may_pass_the_range_of_32_bits(generator: torch.Generator) -> None:
    side, count = 256, 129
    if torch.cuda.mem_get_info()[0] < 5 * count * side**3 * 4:
        pytest.skip("not enough memory on the device")
    volumes = torch.zeros(count, side, side, side, device="cuda")
    assert volumes.numel() > 2**31
    volumes[-1] = torch.rand(side, side, side, device="cuda")
    rotations = random_rotations(1, 1, generator=generator).cuda().expand(count, 1, 3, 3)
    images = project_triton(volumes, rotations, 120.0)
    assert torch.equal(images[-1:], project_triton(volumes[-1:], rotations[-1:], 120.0))
    smeared = back_project_triton(images, rotations, 120.0)
    assert torch.equal(smeared[-1:], back_project_triton(images[-1:], rotations[-1:], 120.0))
