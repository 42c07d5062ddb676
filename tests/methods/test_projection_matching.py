"""Refinement finds the volume and the poses behind noisy projections, from a blurred start, and invents nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.evaluation.alignment import align, apply_alignment
from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import symmetrise
from scoretomo.imaging.starting_model import low_pass
from scoretomo.methods.projection_matching import MatchingConfig, MatchingStep, refine, refine_progressive

SIDE, RADIUS = 24, 8.0
QUICK = MatchingConfig(iterations=7, start_shell=4, global_searches=4, kept=4, solver_steps=6)


def _blobs(seed: int) -> Tensor:
    """Fourteen Gaussian blobs with no symmetry, within the radius."""
    draw = torch.Generator().manual_seed(seed)
    centres = 2.6 * torch.randn(14, 3, generator=draw).clamp(-1.6, 1.6)
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.zeros(SIDE, SIDE, SIDE)
    for cx, cy, cz in centres - centres.mean(0):
        volume += torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * 1.1**2))
    return volume


@pytest.fixture(scope="module")
def volume() -> Tensor:
    return _blobs(0)


@pytest.fixture(scope="module")
def rotations() -> Tensor:
    return random_rotations(24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def shifts() -> Tensor:
    return 0.6 * torch.randn(24, 2, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def images(volume: Tensor, rotations: Tensor, shifts: Tensor) -> Tensor:
    """Moved projections with a fifth of their standard deviation of noise, one in three of them weaker."""
    clean = translate(project(volume[None], rotations[None])[0], shifts)
    clean[::3] *= 0.6
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    return clean + 0.2 * clean.std() * noise


@pytest.fixture(scope="module")
def refined(volume: Tensor, images: Tensor) -> MatchingStep:
    return refine(7 * low_pass(volume, 1.0, 7.0), images, RADIUS, QUICK)


def _shells(found: Tensor, truth: Tensor) -> Tensor:
    moved = apply_alignment(found[None], align(found[None], truth[None]))
    return fourier_shell_correlation(moved, truth[None])[0]


def test_the_volume_gains_resolution(volume: Tensor, refined: MatchingStep) -> None:
    fsc = _shells(refined.volume, volume)
    # the start had nothing beyond shell 5
    assert fsc[6:9].min() > 0.7
    assert fsc[1:6].min() > 0.95


def test_poses_shifts_and_scales_are_found(
    refined: MatchingStep, rotations: Tensor, shifts: Tensor, images: Tensor
) -> None:
    assert pose_errors(refined.rotations, rotations).degrees.median() < 4
    # the frame may drift as a whole, with it the centre: shifts that a moved volume explains are no error
    moved = refined.shifts_pixels - shifts
    design = refined.rotations[:, :2].reshape(-1, 3)
    drift = torch.linalg.lstsq(design, moved.flatten()[:, None]).solution
    assert (moved.flatten() - (design @ drift)[:, 0]).abs().median() < 0.2
    assert refined.scales[::3].mean() / refined.scales[1::3].mean() == pytest.approx(0.6, abs=0.1)


def test_projections_of_the_result_are_the_images(refined: MatchingStep, images: Tensor) -> None:
    """The units are those of the images, whatever those of the start were."""
    predicted = project(refined.volume[None], refined.rotations[None])[0]
    predicted = translate(predicted, refined.shifts_pixels) * refined.scales[:, None, None]
    assert (predicted - images).square().mean() < 0.12 * images.square().mean()


def test_nothing_is_made_of_noise(volume: Tensor) -> None:
    """Poses can be found that make noise look like the start; the volume must not follow."""
    noise = torch.randn(24, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    *_, last = refine_progressive(volume, noise, RADIUS, QUICK)
    # halves share the poses of one volume, which alone makes them agree where it guides the search
    assert last.agreement[QUICK.start_shell + 2 :].numel() == 0 or last.agreement[QUICK.start_shell + 2 :].max() < 0.6
    predicted = project(last.volume[None], last.rotations[None])[0]
    assert predicted.square().mean() < 0.2 * noise.square().mean()


def test_symmetry_is_kept_and_helps(rotations: Tensor) -> None:
    group = symmetry_group("D2")
    truth = symmetrise(_blobs(4), group)
    few = project(truth[None], rotations[None, :8])[0]
    few = few + 0.2 * few.std() * torch.randn(few.shape, generator=torch.Generator().manual_seed(6))
    start = low_pass(truth, 1.0, 7.0)
    step = refine(start, few, RADIUS, replace(QUICK, iterations=5), symmetry=group)
    assert (step.volume - symmetrise(step.volume, group)).norm() < 0.15 * step.volume.norm()
    alone = refine(start, few, RADIUS, replace(QUICK, iterations=5))
    assert _shells(step.volume, truth)[6:9].mean() > _shells(alone.volume, truth)[6:9].mean()


def test_it_ends_where_poses_rest(volume: Tensor, images: Tensor) -> None:
    config = replace(QUICK, iterations=20, global_searches=3, tolerance=0.5)
    steps = list(refine_progressive(volume, images, RADIUS, config))
    assert [step.iteration for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].converged
    assert len(steps) < 15
    assert not any(step.converged for step in steps[:-1])
    bands = [step.band for step in steps]
    assert bands == sorted(bands)


def test_volumes_are_never_negative(volume: Tensor, images: Tensor, refined: MatchingStep) -> None:
    assert refined.volume.min() == 0  # a background that is not negative by luck would be positive
    steps = refine_progressive(volume - 0.1, images, RADIUS, replace(QUICK, iterations=2))
    assert all(step.volume.min() >= 0 for step in steps)


@pytest.mark.parametrize(("agreeing", "band"), [(6, 6), (2, 2), (0, 1)])
def test_known_agreement_limits_the_band(volume: Tensor, images: Tensor, agreeing: int, band: int) -> None:
    agreement = torch.where(torch.arange(13) <= agreeing, 0.9, 0.05)
    agreement[agreeing + 2 :] = 0.9  # what agrees beyond the first gap is chance
    config = replace(QUICK, iterations=3)
    steps = list(refine_progressive(volume, images, RADIUS, config, agreement=agreement))
    assert [step.band for step in steps] == [min(QUICK.start_shell, band)] + [band] * 2
    for step in steps:  # halves at the same poses agree on more
        torch.testing.assert_close(step.agreement, agreement[: step.band + 1])
    if agreeing == 6:
        *_, free = refine_progressive(volume, images, RADIUS, config)
        assert free.band > band
        assert _shells(steps[-1].volume, volume)[1:5].min() > 0.95


def test_little_known_agreement_smooths_the_volume(volume: Tensor, images: Tensor) -> None:
    """It sets the prior, which draws the volume towards the start: the lower it is, the more."""
    config = replace(QUICK, iterations=1)
    start = low_pass(volume, 1.0, 12.0)

    def detail(agreement: float) -> float:
        found = refine(start, images, RADIUS, config, agreement=torch.full((13,), agreement)).volume
        return float((found - low_pass(found, 1.0, 8.0)).norm())

    assert detail(0.3) < 0.95 * detail(0.99)


def test_bad_input_is_refused(volume: Tensor, images: Tensor) -> None:
    with pytest.raises(InputError, match="4 images or more"):
        refine(volume, images[:3], RADIUS)
    with pytest.raises(InputError, match="of 24 pixels"):
        refine(volume, images[:, 2:-2, 2:-2], RADIUS)
    with pytest.raises(InputError, match="1 or more"):
        MatchingConfig(kept=0)
    with pytest.raises(InputError, match="shift_extent"):
        MatchingConfig(shift_extent=0.7)
