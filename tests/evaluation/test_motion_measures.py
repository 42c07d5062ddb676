"""Measures of motion: what is right, still, noisy, wrong or exchanged scores as it must."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation import motion_measures as measures_module
from scoretomo.evaluation.alignment import Alignment, align, apply_alignment
from scoretomo.evaluation.motion_measures import (
    MotionScores,
    motion_measures,
    rank_correlations,
    rigid_copies,
    score_motion,
)
from scoretomo.evaluation.moving_truths import MovingTruths, back, moving_truths, turn
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.resampling import mirror_z
from scoretomo.simulation.particles import SimulationConfig, simulate_box

from .conftest import MovingSet

Make = Callable[..., MovingSet]


@pytest.fixture
def truths(make_moving: Make) -> MovingTruths:
    moving = make_moving(10)
    return moving_truths(moving.truths, moving.rotations)


def in_frames(truths: MovingTruths, volumes: Tensor) -> Tensor:
    """Volumes of the common frame, each in the frame of its truth."""
    poses = [back(truths.frames, i) for i in range(len(truths))]
    return apply_alignment(volumes, turn(*(torch.stack(each) for each in zip(*poses, strict=True))))


def test_the_truth_itself_is_perfect(truths: MovingTruths) -> None:
    scores = score_motion(truths.truths, truths)
    assert scores.fsc_auc.min() > 0.999
    assert scores.own_difference.min() > 0.999
    assert scores.moving_fsc_auc.min() > 0.99
    assert scores.moving_correlation.min() > 0.999
    assert scores.nearest.all()
    assert (scores.rank == 0).all()


def test_a_perfect_volume_of_a_simulated_box_survives_interpolation(generator: torch.Generator) -> None:
    simulated = simulate_box(SimulationConfig(count=4, side=32))
    truths = moving_truths(simulated.truth, simulated.poses.rotations)
    there = random_rotations(4, generator=generator)
    turned = apply_alignment(simulated.truth, turn(there, torch.zeros(4, 3)))
    returned = apply_alignment(turned, turn(there.mT, torch.zeros(4, 3)))
    assert (returned - simulated.truth).norm() > 0.01 * simulated.truth.norm()
    assert score_motion(returned, truths).own_difference.min() > 0.98


def test_the_mean_of_the_truths_gains_nothing_and_does_not_move(truths: MovingTruths) -> None:
    measures = motion_measures(in_frames(truths, truths.mean.expand_as(truths.common)), truths)
    assert measures.gain_over_rigid.abs().median() < 0.01
    for scores in (measures.volumes, measures.rigid):
        assert scores.own_difference.abs().median() < 0.15
        assert scores.rank.median() > 0.1
    assert (score_motion(truths.truths, truths).fsc_auc - measures.rigid.fsc_auc).min() > 0.04


def test_exactly_the_mean_has_no_difference(truths: MovingTruths) -> None:
    """Nothing is turned here; three times the mean is the mean in another unit."""
    still = moving_truths(truths.common, torch.eye(3).expand(len(truths), 3, 3))
    assert score_motion(3 * still.mean.expand_as(still.common), still).own_difference.abs().max() < 0.005
    assert (score_motion(torch.zeros_like(still.common), still).own_difference == 0).all()


def test_noise_lowers_all_scores(truths: MovingTruths, generator: torch.Generator) -> None:
    noise = torch.randn(truths.truths.shape, generator=generator)
    steps = [score_motion(truths.truths + level * noise, truths) for level in (0.0, 0.05, 0.2, 0.8)]
    for name in ("fsc_auc", "own_difference", "moving_fsc_auc", "moving_correlation"):
        medians = [float(getattr(scores, name).median()) for scores in steps]
        assert medians == sorted(medians, reverse=True)
        assert medians[-1] < 0.6 * medians[0]
    ranks = [float(scores.rank.mean()) for scores in steps]
    assert ranks == sorted(ranks)


def test_motion_the_wrong_way_is_negative(truths: MovingTruths) -> None:
    scores = score_motion(in_frames(truths, 2 * truths.mean - truths.common), truths)
    assert scores.own_difference.max() < -0.9
    assert scores.rank.median() > 0.7
    half = score_motion(in_frames(truths, truths.mean + 0.5 * (truths.common - truths.mean)), truths)
    assert half.own_difference.min() > 0.9  # how far is not asked, but which way


def test_exchanged_volumes_are_near_their_truths_by_chance(truths: MovingTruths) -> None:
    order = torch.randperm(len(truths), generator=torch.Generator().manual_seed(1))
    assert not (order == torch.arange(len(truths))).any()
    scores = score_motion(in_frames(truths, truths.common[order]), truths)
    assert scores.similarity.argmax(1).tolist() == order.tolist()
    assert scores.nearest.float().mean() <= 0.2
    assert 0.2 < scores.rank.median() < 0.8
    assert scores.own_difference.median() < 0.5
    assert scores.moving_correlation.median() < score_motion(truths.truths, truths).moving_correlation.median() - 0.05


def test_a_truth_that_occurs_twice_is_not_nearer_than_itself(truths: MovingTruths) -> None:
    twice = moving_truths(truths.common.repeat(2, 1, 1, 1), torch.eye(3).expand(2 * len(truths), 3, 3))
    assert score_motion(twice.truths, twice).nearest.all()


def test_rank_is_the_part_of_the_others_that_are_nearer() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.6, 0.5]])
    none = torch.zeros(3)
    scores = MotionScores(none, none, none, none, similarity)
    assert scores.rank.tolist() == [0.0, 0.5, 1.0]
    assert scores.nearest.tolist() == [True, False, False]


def test_units_and_background_change_nothing(truths: MovingTruths, generator: torch.Generator) -> None:
    volumes = truths.truths + 0.05 * torch.randn(truths.truths.shape, generator=generator)
    first, second = score_motion(volumes, truths), score_motion(40 * volumes + 3, truths)
    for name in ("own_difference", "moving_fsc_auc", "moving_correlation", "similarity"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=1e-3, rtol=0)


def test_place_and_hand_before_the_alignment_change_nothing(make_moving: Make, generator: torch.Generator) -> None:
    moving = make_moving(3)
    truths = moving_truths(moving.truths, moving.rotations)
    volumes = moving.truths + 0.01 * torch.randn(moving.truths.shape, generator=generator)
    shifts, mirrored = 2 * torch.rand(3, 3, generator=generator) - 1, torch.tensor([True, False, True])
    place = Alignment(random_rotations(3, generator=generator), shifts, mirrored, shifts[:, 0], shifts[:, 0])
    moved = apply_alignment(volumes, place)
    first, second = (
        score_motion(apply_alignment(given, align(given, moving.truths)), truths) for given in (volumes, moved)
    )
    torch.testing.assert_close(first.own_difference, second.own_difference, atol=0.1, rtol=0)
    torch.testing.assert_close(first.moving_correlation, second.moving_correlation, atol=0.02, rtol=0)
    assert first.own_difference.min() > 0.6
    assert first.nearest.tolist() == second.nearest.tolist()


def test_a_rigid_map_is_found_in_any_frame_and_hand(truths: MovingTruths, generator: torch.Generator) -> None:
    few = moving_truths(truths.truths[:3], truths.frames.rotations[:3].mT)
    place = turn(random_rotations(1, generator=generator), torch.tensor([[1.0, -0.7, 0.4]]))
    given = apply_alignment(mirror_z(few.mean)[None], place)[0]
    expected, found = torch.stack(list(rigid_copies(few))), torch.stack(list(rigid_copies(few, given)))
    assert ((found - expected).flatten(1).norm(dim=1) < 0.05 * expected.flatten(1).norm(dim=1)).all()


def test_a_rigid_map_lies_in_the_frame_of_truths_that_are_shifted(
    make_moving: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is refined, which would take a little shift back."""
    monkeypatch.setattr(measures_module, "refine_candidates", lambda mobile, reference, candidates, config: candidates)
    moving = make_moving(3, widest=1.0)
    shifted = torch.stack([moving.truths[0], moving.truths[1].roll(1, 0), moving.truths[2].roll(-1, 2)])
    truths = moving_truths(shifted)
    assert truths.frames.shifts_pixels.norm(dim=1).max() > 0.9
    for copy, truth in zip(rigid_copies(truths), shifted, strict=True):
        assert (copy - truth).norm() < 0.3 * truth.norm()
        assert (copy - truth.roll(1, 1)).norm() > 0.4 * truth.norm()


def test_gain_is_over_the_map_that_is_given(make_moving: Make) -> None:
    moving = make_moving(3)
    truths = moving_truths(moving.truths, moving.rotations)
    measures = motion_measures(moving.truths, truths, moving.truths[0])
    assert measures.gain_over_rigid[0] < 0.01  # the first truth is the map
    assert measures.gain_over_rigid[(moving.travel - moving.travel[0]).abs().argmax()] > 0.1
    assert measures.rigid.own_difference[0] > 0.95


def test_rank_correlation_has_no_sign_and_asks_for_order_only(generator: torch.Generator) -> None:
    angles = torch.rand(50, 1, generator=generator)
    other = torch.rand(50, 1, generator=generator)
    constant = torch.ones(50, 1)
    found = rank_correlations(torch.cat([angles, other], 1), torch.cat([-angles, other.exp(), constant], 1))
    assert found.shape == (2, 3)
    assert found[0, 0] == pytest.approx(1.0)
    assert found[1, 1] == pytest.approx(1.0)
    assert found[0, 1] < 0.35 and found[1, 0] < 0.35
    assert (found[:, 2] == 0).all()
