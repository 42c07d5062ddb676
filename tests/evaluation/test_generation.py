"""1-NNA, coverage and minimum matching distance: what they say of sets whose relation is known."""

import statistics

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.evaluation.generation import (
    coverage,
    generation_scores,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
)


def ellipsoids(count: int, generator: torch.Generator) -> torch.Tensor:
    """Shapes of one family: 40 points each, of random axes."""
    axes = 0.3 + torch.rand(count, 1, 3, generator=generator)
    return axes * torch.nn.functional.normalize(torch.randn(count, 40, 3, generator=generator), dim=-1)


def scalars(one: list[float], other: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances within and between sets of numbers."""
    first, second = torch.tensor(one).float(), torch.tensor(other).float()
    return (first[:, None] - first).abs(), (second[:, None] - second).abs(), (first[:, None] - second).abs()


def test_two_halves_of_one_set_are_hardly_told_apart(generator: torch.Generator) -> None:
    scores = [generation_scores(ellipsoids(40, generator), ellipsoids(40, generator)) for _ in range(6)]
    assert 0.4 < statistics.mean(each.nearest_neighbour_accuracy for each in scores) < 0.6  # three standard errors
    assert all(0.35 < each.coverage < 0.85 for each in scores)


def test_far_apart_sets_are_told_apart_always(generator: torch.Generator) -> None:
    reference = ellipsoids(10, generator)
    scores = generation_scores(reference + torch.tensor([50.0, 0, 0]), reference)
    assert scores.nearest_neighbour_accuracy == 1
    assert scores.minimum_matching_distance == pytest.approx(100, rel=0.05)  # 50 in each direction


def test_copies_of_the_reference_are_given_away(generator: torch.Generator) -> None:
    reference = ellipsoids(12, generator)
    copies = reference[torch.randperm(12, generator=generator)][:, torch.randperm(40, generator=generator)]
    scores = generation_scores(copies, reference)
    assert (scores.nearest_neighbour_accuracy, scores.coverage, scores.minimum_matching_distance) == (0, 1, 0)


def test_scores_of_a_few_numbers_are_those_counted_by_hand() -> None:
    # generated 0, 1, 10; reference 0.9, 2, 30. nearest: 0-0.9, 1-0.9, 10-2; 0.9-1, 2-1, 30-10
    one, other, between = scalars([0, 1, 10], [0.9, 2, 30])
    assert nearest_neighbour_accuracy(one, other, between) == 0
    # 0 and 1 take 0.9, 10 takes 2, none 30
    assert coverage(between) == pytest.approx(2 / 3)
    assert minimum_matching_distance(between) == pytest.approx((0.1 + 1 + 20) / 3)
    # without 1, the nearest to 2 is 0.9, and 0 and 0.4 are nearest to each other
    one, other, between = scalars([0, 0.4, 10], [0.9, 2, 30])
    assert nearest_neighbour_accuracy(one, other, between) == pytest.approx(3 / 6)


def test_one_shape_again_and_again_covers_little_and_matches_worse(generator: torch.Generator) -> None:
    reference, other = ellipsoids(20, generator), ellipsoids(20, generator)
    collapsed = other[:1] + 0.01 * torch.randn(20, 40, 3, generator=generator)
    poor, good = generation_scores(collapsed, reference), generation_scores(other, reference)
    assert poor.coverage < good.coverage / 2
    assert poor.minimum_matching_distance > good.minimum_matching_distance
    assert poor.nearest_neighbour_accuracy > 0.7


def test_sets_that_cannot_be_compared_are_refused(generator: torch.Generator) -> None:
    clouds = ellipsoids(4, generator)
    with pytest.raises(InputError, match="not 3 and 4"):
        generation_scores(clouds[:3], clouds)
    with pytest.raises(InputError, match="not 1 and 1"):
        generation_scores(clouds[:1], clouds[:1])
    with pytest.raises(InputError, match="0 and 3"):
        coverage(torch.zeros(0, 3))
