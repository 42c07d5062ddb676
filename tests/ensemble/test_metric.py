"""Weights of shells and voxels, and what they leave out."""

import dataclasses

import torch
from torch import Tensor

from scoretomo.ensemble.metric import Seeds, fit_metric
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.simulation.phantoms import capsid

SIDE = 16
COUNT = 16


def set_of(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return capsid(torch.rand(COUNT, generator=generator), SIDE, oversampling=1), torch.ones(COUNT, dtype=torch.bool)


def test_shells_of_noise_do_not_count(generator: torch.Generator) -> None:
    """White noise drowns the high shells first; without noise seeds agree in all."""
    volumes, everyone = set_of(generator)
    copies = Seeds(volumes[None], everyone[None])
    clean = fit_metric(volumes, everyone, copies, 24)
    assert clean.from_seeds and torch.equal(clean.shell_weights, torch.ones(SIDE // 2))
    noisy, again = (volumes + 1.0 * torch.randn(volumes.shape, generator=generator) for _ in range(2))
    weights = [
        fit_metric(noisy, everyone, seeds, 24).shell_weights for seeds in (None, Seeds(again[None], everyone[None]))
    ]
    for found in weights:  # cut where nothing is left
        assert found[1:3].max() > 3 * torch.nn.functional.pad(found, [0, 6])[5:].max()
    assert len(fit_metric(volumes, everyone, copies, 4).shell_weights) == 5


def test_voxels_count_where_seeds_agree(generator: torch.Generator) -> None:
    """The arms move in the same way in both seeds; on one side of the box each has noise of its own."""
    volumes, everyone = set_of(generator)
    noise = torch.zeros(2, COUNT, SIDE, SIDE, SIDE)
    noise[..., : SIDE // 2 - 2] = 0.5 * torch.randn(2, COUNT, SIDE, SIDE, SIDE // 2 - 2, generator=generator)
    first, second = volumes + noise
    metric = fit_metric(first, everyone, Seeds(second[None], everyone[None]), 24)
    varies = torch.nn.functional.adaptive_avg_pool3d(volumes.var(0)[None], metric.voxel_weights.shape)[0]
    counted = (metric.voxel_weights * varies).sum((0, 1)) / varies.sum((0, 1)).clamp(min=1e-6)
    middle = len(counted) // 2
    assert counted[middle + 1 : -2].mean() > 2 * counted[2 : middle - 2].mean()


def test_few_seeds_are_no_measure_of_error(generator: torch.Generator) -> None:
    volumes, everyone = set_of(generator)
    usable = torch.arange(COUNT)[None] < 3
    assert not fit_metric(volumes, everyone, Seeds(volumes[None], usable), 24).from_seeds


def test_a_moved_frame_is_hardly_seen(generator: torch.Generator) -> None:
    """The mean turned by 5 degrees either way, or shifted by half a voxel, differs by a rigid move and little else."""
    volumes, everyone = set_of(generator)
    metric = fit_metric(volumes, everyone, None, 24)
    blind = dataclasses.replace(metric, rigid_moves=torch.zeros_like(metric.rigid_moves))
    turn = torch.tensor([[0.05, 0.07, -0.02]])
    turned = rotate_volumes(metric.mean.expand(2, -1, -1, -1), from_rotation_vectors(torch.cat([turn, -turn])))
    shifted = translate(metric.mean.expand(2, -1, -1, -1), torch.tensor([[0.5, 0.0, 0.2], [-0.5, 0.0, -0.2]]))
    for moved in (turned, shifted):
        seen, whole = ((one(moved[:1]) - one(moved[1:])).norm() for one in (metric, blind))
        assert seen < 0.2 * whole
    assert metric(metric.mean[None]).norm() < 1e-4 * metric(volumes).norm()
    # and the motion is left
    assert metric(volumes).norm() > 0.8 * blind(volumes).norm()


def test_the_map_is_linear(generator: torch.Generator) -> None:
    volumes, everyone = set_of(generator)
    metric = fit_metric(volumes, everyone, None, 24)
    vectors = metric(volumes[:2])
    assert torch.allclose(
        metric(0.25 * volumes[:1] + 0.75 * volumes[1:2])[0], 0.25 * vectors[0] + 0.75 * vectors[1], atol=1e-5
    )
