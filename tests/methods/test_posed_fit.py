"""The fit under known poses is the Gaussian posterior mean: data where there are data, the prior elsewhere."""

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import centred_fft, hartley
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.slices import slice_coefficients, voxel_slices
from scoretomo.methods.posed_fit import BandImages, PosedFit, Views, band_images

SIDE, RADIUS, BAND = 16, 6.0, 5
WHOLE = torch.eye(3)[None]


@pytest.fixture(scope="module")
def volume() -> Tensor:
    """Smooth noise within the support and the band."""
    draw = torch.randn(SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(SIDE) - SIDE // 2
    blur = torch.exp(-(axis**2) / 4.0)
    kernel = blur[:, None, None] * blur[:, None] * blur
    smooth = torch.fft.ifftn(torch.fft.fftn(draw) * torch.fft.fftn(torch.fft.ifftshift(kernel))).real
    return smooth * soft_ball(SIDE, 3, 3.0, 3.0)


def _views(grid: BandImages, volume: Tensor, rotations: Tensor) -> Views:
    """Views whose coefficients are the slices themselves."""
    targets = slice_coefficients(voxel_slices(grid.coarse(volume)), rotations, grid.frequencies)
    count = len(rotations)
    return Views(torch.arange(count), rotations, targets, torch.ones(count))


def _fit(grid: BandImages, count: int, steps: int = 40, group: Tensor = WHOLE) -> PosedFit:
    return PosedFit(grid, torch.ones(count), torch.ones(BAND + 1), group, steps)


def _in_band(volume: Tensor) -> Tensor:
    axis = torch.arange(SIDE) - SIDE // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return centred_fft(volume, 3)[radius <= BAND - 1]


def _error(found: Tensor, truth: Tensor) -> float:
    return float(_in_band(found - truth).abs().norm() / _in_band(truth).abs().norm())


def test_slices_of_all_directions_give_the_volume_back(volume: Tensor) -> None:
    rotations = random_rotations(60, generator=torch.Generator().manual_seed(1))
    grid = band_images(torch.zeros(60, SIDE, SIDE), BAND, RADIUS)
    views = _views(grid, volume, rotations)
    found = _fit(grid, 60).solve(views, torch.zeros_like(volume), torch.full((BAND + 1,), 1e4))
    assert _error(found, volume) < 0.02


def test_the_normal_equations_hold_at_the_solution(volume: Tensor) -> None:
    """Against the normal equations written out with a dense matrix of slices."""
    rotations = random_rotations(6, generator=torch.Generator().manual_seed(2))
    grid = band_images(torch.zeros(6, 10, 10), 3, 4.0)
    small = volume[3:13, 3:13, 3:13]
    views = _views(grid, small, rotations)
    ratio = torch.tensor([8.0, 4.0, 2.0, 1.0])
    fit = PosedFit(grid, torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]), WHOLE, 100)
    found = fit.solve(views, torch.zeros_like(small), ratio).flatten().double()

    support = soft_ball(10, 3, 4.0, 2.0).flatten().double()
    units = torch.eye(1000).view(1000, 10, 10, 10)
    matrix = torch.stack([slice_coefficients(voxel_slices(u), rotations, grid.frequencies).flatten() for u in units], 1)
    matrix = matrix.double() * support
    transform = torch.stack([hartley(u, 3).flatten() for u in units], 1).double() * support
    weights = 1 / fit.noise[grid.shells].repeat(6)
    scales = fit.scales.repeat_interleave(len(grid.frequencies))
    axis = torch.arange(10) - 5
    shells = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round().long().flatten().clamp(max=4)
    data = torch.zeros(4).index_add(0, grid.shells.repeat(6), weights * scales**2) / torch.bincount(shells)[:4]
    prior = data / ratio
    prior = torch.cat([prior, 10 * (data + prior)[-1:]])[shells].double()
    normal = matrix.T @ ((weights * scales**2)[:, None] * matrix) + transform.T @ (prior[:, None] * transform)
    right = matrix.T @ (weights * scales * views.targets.flatten()).double()
    inside = support > 1e-3
    exact = torch.zeros(1000).double()
    exact[inside] = torch.linalg.lstsq(normal[inside][:, inside], right[inside]).solution

    def energy(inner: Tensor) -> float:
        return float(0.5 * inner @ normal @ inner - right @ inner)

    found = torch.where(inside, found / support.clamp(min=1e-3), 0)
    assert energy(found) < 0.99 * energy(exact)  # of a gain that is negative


def test_without_signal_the_fit_is_what_was_expected(volume: Tensor) -> None:
    rotations = random_rotations(10, generator=torch.Generator().manual_seed(3))
    grid = band_images(torch.zeros(10, SIDE, SIDE), BAND, RADIUS)
    views = _views(grid, 0 * volume, rotations)
    doubtful = torch.full((BAND + 1,), 1e-3)
    found = _fit(grid, 10).solve(views, torch.zeros_like(volume), doubtful, expected=volume)
    assert _error(found, volume) < 0.05
    # data of good quality overrule it
    overruled = _fit(grid, 10).solve(views, torch.zeros_like(volume), torch.full((BAND + 1,), 1e4), expected=volume)
    assert _in_band(overruled).norm() < 0.7 * _in_band(volume).norm()


def test_symmetry_makes_few_views_many(volume: Tensor) -> None:
    """Four turns about z: a view stands for four."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    group = torch.stack([torch.linalg.matrix_power(turn, k) for k in range(4)])
    # about index side // 2: the first plane of an even side has no partner
    inner = volume[1:, 1:, 1:]
    inner = sum((torch.rot90(inner, k, (1, 2)) for k in range(4)), torch.zeros_like(inner)) / 4
    symmetric = torch.nn.functional.pad(inner, (1, 0, 1, 0, 1, 0))
    rotations = random_rotations(6, generator=torch.Generator().manual_seed(4))
    grid = band_images(torch.zeros(6, SIDE, SIDE), BAND, RADIUS)
    views = _views(grid, symmetric, rotations)
    ratio = torch.full((BAND + 1,), 1e4)
    alone = _fit(grid, 6).solve(views, torch.zeros_like(volume), ratio)
    together = _fit(grid, 6, group=group).solve(views, torch.zeros_like(volume), ratio)
    assert _error(together, symmetric) < 0.5 * _error(alone, symmetric)


def test_a_coarser_grid_keeps_projections(volume: Tensor) -> None:
    grid = band_images(torch.zeros(1, SIDE, SIDE), 4, RADIUS)
    assert grid.side == 12
    rotations = random_rotations(3, generator=torch.Generator().manual_seed(5))
    coarse = slice_coefficients(voxel_slices(grid.coarse(volume)), rotations, grid.frequencies)
    full = slice_coefficients(voxel_slices(volume), rotations, grid.frequencies * (12 / SIDE))
    # a sum over fewer pixels of the same values
    assert (coarse * (SIDE / 12) ** 2 - full).norm() < 0.02 * full.norm()
