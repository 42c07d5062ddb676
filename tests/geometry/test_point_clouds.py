import pytest
import torch
from sklearn.mixture import GaussianMixture

from scoretomo.datatypes import InputError
from scoretomo.geometry.point_clouds import (
    mixture_means,
    normalise,
    random_orthogonal_matrices,
    random_subsets,
    subunit,
)
from scoretomo.geometry.rotations import random_rotations


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distances_to_nearest(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points, others).min(1).values


def test_normalised_clouds_fill_the_cube_and_can_be_put_back(generator: torch.Generator) -> None:
    points = torch.randn(4, 50, 3, generator=generator) * torch.tensor([1.0, 20.0, 3.0]) + 100
    normalised, centre, unit = normalise(points)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.abs().amax((1, 2)), torch.ones(4))
    torch.testing.assert_close(normalised * unit[:, None, None] + centre[:, None], points)


@pytest.mark.parametrize(
    ("points", "said"), [(torch.ones(5, 3), "one place"), (torch.full((5, 3), torch.nan), "NaN or infinite")]
)
def test_clouds_without_a_size_are_refused(points: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        normalise(points)


def test_means_are_the_centres_of_elongated_clusters(generator: torch.Generator) -> None:
    """They are compact enough for k-means to begin in the right places."""
    centres = torch.tensor([[0.0, y, z] for y in (0.0, 2.0, 4.0) for z in (0.0, 2.0)])
    spread = torch.randn(6, 400, 3, generator=generator) * torch.tensor([0.6, 0.2, 0.2])
    means = mixture_means((centres[:, None] + spread).flatten(0, 1), 6, generator=seeded())
    assert distances_to_nearest(centres, means).max() < 0.1  # 0.6 / sqrt(400), three times
    assert distances_to_nearest(means, centres).max() < 0.1


def test_means_are_a_mixture_that_scikit_learn_would_not_improve(generator: torch.Generator) -> None:
    points = torch.rand(3000, 3, generator=generator) * torch.tensor([4.0, 2.0, 1.0])
    means = mixture_means(points, 40, generator=seeded())
    continued = GaussianMixture(40, covariance_type="tied", means_init=means.numpy(), random_state=0).fit(points)
    fresh = GaussianMixture(40, covariance_type="tied", random_state=0).fit(points)
    moved = torch.from_numpy(continued.means_).float() - means
    spacing = torch.cdist(means, means).fill_diagonal_(torch.inf).min(1).values.mean()
    assert moved.norm(dim=1).mean() < 0.1 * spacing
    assert continued.score(points) > fresh.score(points) - 0.02


def test_points_count_by_their_weights(generator: torch.Generator) -> None:
    points, weights = torch.randn(100, 3, generator=generator), torch.rand(100, generator=generator)
    (mean,) = mixture_means(points, 1, weights=weights, generator=seeded())
    torch.testing.assert_close(mean, (weights[:, None] * points).sum(0) / weights.sum(), atol=1e-5, rtol=0)
    weights[:50] = 0
    points[:50] += 100  # such points draw no mean to them
    assert mixture_means(points, 10, weights=weights, generator=seeded()).abs().max() < 10


def test_means_move_with_the_points(generator: torch.Generator) -> None:
    points = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    rotation = random_rotations(generator=generator).double()
    means = mixture_means(points, 20, generator=seeded())
    moved = mixture_means(7 * points @ rotation.T + 50, 20, generator=seeded())
    torch.testing.assert_close(moved, 7 * means @ rotation.T + 50, atol=1e-2, rtol=0)


def test_as_many_means_as_points_are_the_points(generator: torch.Generator) -> None:
    points = torch.randn(30, 3, generator=generator)
    assert distances_to_nearest(points, mixture_means(points, 30, generator=seeded())).max() < 0.01


def test_means_are_the_same_from_the_same_seed(generator: torch.Generator) -> None:
    points = torch.randn(300, 3, generator=generator)
    first, again, other = (mixture_means(points, 20, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [0, 11, 20])
def test_more_means_than_different_points_are_refused(count: int, generator: torch.Generator) -> None:
    points = torch.randn(10, 3, generator=generator).repeat(2, 1)
    with pytest.raises(InputError, match=f"10 different points cannot be reduced to {count}"):
        mixture_means(points, count)


def test_a_subunit_is_one_cluster_and_each_may_be_drawn(generator: torch.Generator) -> None:
    points = torch.randn(3, 40, 3, generator=generator) + torch.tensor([-10.0, 0.0, 10.0])[:, None, None]
    drawn = {tuple(subunit(points.flatten(0, 1), 3, generator=seeded(seed)).tolist()) for seed in range(20)}
    clusters = torch.eye(3, dtype=torch.bool).repeat_interleave(40, dim=1)
    assert drawn == {tuple(cluster.tolist()) for cluster in clusters}


def test_subsets_are_of_their_own_cloud_and_hold_no_point_twice(generator: torch.Generator) -> None:
    points = torch.arange(5 * 20.0)[:, None].expand(-1, 3).reshape(5, 20, 3)
    subsets = random_subsets(points, 8, generator=generator)[..., 0]
    assert subsets.shape == (5, 8)
    assert ((subsets / 20).floor() == torch.arange(5.0)[:, None]).all()
    assert all(len(subset.unique()) == 8 for subset in subsets)
    assert not torch.equal(subsets[0], subsets[1] - 20)
    with pytest.raises(InputError, match="cannot draw 21 of 20"):
        random_subsets(points, 21)


def test_every_point_is_drawn_as_often(generator: torch.Generator) -> None:
    points = torch.arange(10.0)[None, :, None].expand(4000, 10, 3)
    counts = random_subsets(points, 3, generator=generator)[..., 0].long().flatten().bincount()
    assert (counts / 4000 - 0.3).abs().max() < 4 * (0.3 * 0.7 / 4000) ** 0.5


@pytest.mark.parametrize(("handed", "improper"), [(True, 0.0), (False, 0.5)])
def test_orthogonal_matrices_of_one_hand_or_both(handed: bool, improper: float, generator: torch.Generator) -> None:
    matrices = random_orthogonal_matrices(2000, handed=handed, generator=generator)
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(2000, 3, 3), atol=1e-5, rtol=0)
    found = (torch.linalg.det(matrices) < 0).float().mean().item()
    assert found == pytest.approx(improper, abs=0.05)
    # uniform over the group: every entry has mean 0 and mean square 1/3
    assert matrices.mean(0).abs().max() < 0.05
    torch.testing.assert_close(matrices.square().mean(0), torch.full((3, 3), 1 / 3), atol=0.03, rtol=0)
