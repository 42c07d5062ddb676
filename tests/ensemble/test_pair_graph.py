"""Frames and hands follow from pairs that are noisy, partly wrong and known up to a symmetry only."""

import torch

from scoretomo.ensemble.pair_graph import (
    Pairs,
    nearest_orthogonal,
    random_pairs,
    synchronise_hands,
    synchronise_matrices,
)
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations
from scoretomo.geometry.symmetry import symmetry_group

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))


def measured(
    matrices: torch.Tensor, group: torch.Tensor, generator: torch.Generator, wrong: float = 0.2, degrees: float = 3.0
) -> Pairs:
    """Pairs of volumes: equal under the group, a few degrees off, and some of them at random."""
    indices = random_pairs(len(matrices), 8, generator)
    moved, reference = matrices[indices[:, 0]], matrices[indices[:, 1]]
    element = group[torch.randint(len(group), (len(indices),), generator=generator)]
    noise = from_rotation_vectors(
        torch.randn(len(indices), 3, generator=generator) * torch.deg2rad(torch.tensor(degrees))
    )
    right = noise @ reference.mT @ element @ moved
    at_random = torch.rand(len(indices), generator=generator) < wrong
    right = torch.where(at_random[:, None, None], random_rotations(len(indices), generator=generator), right)
    other = random_rotations(len(indices), generator=generator)
    mirrors = torch.linalg.det(right) < 0
    other = torch.where(mirrors[:, None, None], other, other @ MIRROR)
    both = torch.where(mirrors[:, None, None, None], torch.stack([other, right], 1), torch.stack([right, other], 1))
    better = torch.where(at_random, 0.5, 0.8)
    scores = torch.where(
        mirrors[:, None], torch.stack([better - 0.2, better], 1), torch.stack([better, better - 0.2], 1)
    )
    return Pairs(indices, both, scores)


def matrices_of(count: int, generator: torch.Generator) -> torch.Tensor:
    hands = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    mirrors = torch.where(hands[:, None, None] < 0, MIRROR, torch.eye(3))
    return random_rotations(count, generator=generator) @ mirrors


def test_pairs_hang_together_and_no_volume_is_in_few(generator: torch.Generator) -> None:
    pairs = random_pairs(100, 8, generator)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert 300 < len(pairs) <= 400
    assert torch.bincount(pairs.flatten(), minlength=100).min() >= 4
    reached = torch.zeros(100, dtype=torch.bool)
    reached[0] = True
    steps = 0
    while not reached.all():
        either = reached[pairs].any(1)
        reached[pairs[either].flatten()] = True
        steps += 1
    assert steps < 6  # well mixed
    assert len(random_pairs(7, 8, generator)) == 21


def test_hands_are_found_up_to_one_for_all(generator: torch.Generator) -> None:
    truth = matrices_of(40, generator)
    pairs = measured(truth, torch.eye(3)[None], generator)
    hands = synchronise_hands(pairs, 40)
    agree = hands * torch.linalg.det(truth)
    assert abs(float(agree.sum())) == 40


def test_matrices_without_symmetry_need_no_start_but_hands(generator: torch.Generator) -> None:
    truth = matrices_of(40, generator)
    pairs = measured(truth, torch.eye(3)[None], generator)
    start = torch.where((torch.linalg.det(truth) < 0)[:, None, None], MIRROR, torch.eye(3))
    found = synchronise_matrices(pairs, start, torch.eye(3)[None], torch.ones(40, dtype=torch.bool))
    common = (found @ truth.mT)[:1]
    assert angle_between(found @ truth.mT, common.expand(40, 3, 3)).max() < 6


def test_pairs_are_known_up_to_the_group_only(generator: torch.Generator) -> None:
    truth = matrices_of(30, generator)
    group = symmetry_group("D3")
    group = torch.cat([group, -group])  # with mirrorings: the core has no hand
    pairs = measured(truth, group, generator)
    bad = torch.arange(30) % 10 == 0  # a tenth of the volumes begins anywhere
    start = torch.where(bad[:, None, None], random_rotations(30, generator=generator), truth)
    found = synchronise_matrices(pairs, start, group, torch.ones(30, dtype=torch.bool))
    relative = (found @ truth.mT)[:, None].expand(-1, len(group), -1, -1)
    same_hand = torch.linalg.det(relative) * torch.linalg.det(group) > 0
    degrees = torch.where(same_hand, angle_between(relative, group.expand_as(relative)), 180.0)
    assert degrees.amin(1)[~bad].max() < 6


def test_volumes_that_agree_with_each_other_only_do_not_rule(generator: torch.Generator) -> None:
    truth = random_rotations(30, generator=generator)
    pairs = measured(truth, torch.eye(3)[None], generator, wrong=0.3)
    own = pairs.indices >= 26
    between, rest = own.any(1), ~own.all(1)  # the four have their pairs below
    at_random = random_rotations(len(own), generator=generator)[:, None].expand(-1, 2, -1, -1)
    matrices = torch.where(between[:, None, None, None], at_random, pairs.matrices)
    scores = torch.where(between[:, None], 0.0 * pairs.correlation, pairs.correlation)
    outsiders = Pairs(
        torch.cat([pairs.indices[rest], torch.combinations(torch.arange(26, 30))]),
        torch.cat([matrices[rest], torch.eye(3).expand(6, 2, 3, 3)]),
        torch.cat([scores[rest], torch.tensor([[1.0, 0.0]]).expand(6, 2)]),
    )
    found = synchronise_matrices(outsiders, torch.eye(3).expand(30, 3, 3), torch.eye(3)[None], torch.ones(30).bool())
    relative = (found @ truth.mT)[:26]
    common = nearest_orthogonal(relative.median(0).values)
    assert angle_between(relative, common.expand_as(relative)).quantile(0.9) < 8
