"""Mean, variance and components of a set that moves."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.ensemble.landscape import Landscape, LandscapeConfig, analyse_landscape, volumes_along_component
from scoretomo.ensemble.metric import Seeds
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.simulation.phantoms import capsid, sample

SIDE = 16
CONFIG = LandscapeConfig(components=5, surrogates=8)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    return abs(float(spearmanr(first, second).statistic))


def noise_of(volumes: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    return scale * volumes.std() * torch.randn(volumes.shape, generator=generator)


@pytest.fixture(scope="module")
def opening() -> Tensor:
    return torch.rand(32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def moving(opening: Tensor) -> Tensor:
    """Capsids whose arms open together: one parameter."""
    return capsid(opening, SIDE, oversampling=1)


@pytest.fixture(scope="module")
def landscape(moving: Tensor) -> Landscape:
    generator = torch.Generator().manual_seed(6)
    noisy = moving + noise_of(moving, 0.5, generator)
    return analyse_landscape(noisy, torch.ones(32, dtype=torch.bool), CONFIG, generator=generator)


def test_the_first_component_is_the_motion(landscape: Landscape, opening: Tensor) -> None:
    """The issue's figure, on truth volumes with as much noise as half the standard deviation of the density."""
    assert rank_correlation(landscape.coordinates[:, 0], opening) > 0.95
    assert landscape.significant[0]


def test_the_component_is_the_change_of_density(landscape: Landscape, moving: Tensor, opening: Tensor) -> None:
    """Mean plus coordinate times component is nearer to the noiseless volumes than the mean is, and on their scale."""
    assert torch.allclose(landscape.coordinates.std(0, correction=0), torch.ones(5), atol=1e-3)
    model = landscape.mean + torch.einsum("nc,czyx->nzyx", landscape.coordinates[:, :3], landscape.components[:3])
    left = (moving - model).square().sum() / (moving - moving.mean(0)).square().sum()
    assert left < 0.45


def test_components_are_sorted_shares(landscape: Landscape) -> None:
    shares = landscape.explained_share
    assert (shares.diff() <= 0).all() and 0 < shares.sum() < 1
    assert landscape.noise_floor.shape == shares.shape
    # what is more than noise stops before the white noise that was added
    assert 1 <= int(landscape.significant.sum()) < 5


def test_noise_has_no_component(generator: torch.Generator) -> None:
    """Volumes of correlated noise, alike in nothing but their spectrum."""
    rough = torch.randn(24, 1, SIDE, SIDE, SIDE, generator=generator)
    smooth = torch.nn.functional.avg_pool3d(rough, 3, 1, 1)[:, 0]
    found = analyse_landscape(smooth, torch.ones(24, dtype=torch.bool), CONFIG, generator=generator)
    assert not found.significant.any()
    assert found.positions.shape == (24, 1)  # there is a map all the same


def test_unreliable_volumes_are_projected_and_change_nothing(
    moving: Tensor, opening: Tensor, generator: torch.Generator
) -> None:
    reliable = torch.arange(32) >= 6
    other = moving.clone()
    other[:6] = 10 * torch.randn(6, SIDE, SIDE, SIDE, generator=generator)
    first, second = (
        analyse_landscape(volumes, reliable, CONFIG, generator=torch.Generator().manual_seed(0))
        for volumes in (moving, other)
    )
    for name in ("mean", "variance", "components", "explained_variance", "noise_floor"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert torch.allclose(first.coordinates[6:], second.coordinates[6:], atol=1e-5)
    # a volume that was left out, but is a right one, falls where its conformation belongs
    assert rank_correlation(first.coordinates[:6, 0], opening[:6]) > 0.85


def test_turned_and_shifted_volumes_are_no_motion(moving: Tensor, generator: torch.Generator) -> None:
    """Frames that are a few degrees off move more density than the arms; the component is the arms' all the same."""
    openings = torch.linspace(0, 1, 24)
    volumes = capsid(openings, 20, oversampling=1)
    turned = rotate_volumes(volumes, from_rotation_vectors(0.12 * torch.randn(24, 3, generator=generator)))
    found = analyse_landscape(turned, torch.ones(24, dtype=torch.bool), CONFIG, generator=generator)
    assert rank_correlation(found.coordinates[:, 0], openings) > 0.9


def test_what_seeds_do_not_reproduce_does_not_count(moving: Tensor, opening: Tensor) -> None:
    """Each volume has, beside the motion, some of one common pattern: only the seeds know that it is an error."""
    generator = torch.Generator().manual_seed(8)
    axis = torch.arange(SIDE) - SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    pattern = torch.exp(-((x - 3) ** 2 + y**2 + z**2) / 8)
    amounts = torch.randn(3, 32, 1, 1, 1, generator=generator)
    everyone = torch.ones(32, dtype=torch.bool)
    erring = moving + 0.5 * amounts * pattern
    alone = analyse_landscape(erring[0], everyone, CONFIG, generator=generator)
    seeds = Seeds(erring[1:], torch.ones(2, 32, dtype=torch.bool))
    checked = analyse_landscape(erring[0], everyone, CONFIG, seeds=seeds, generator=generator)
    pattern_in = [rank_correlation(alone.coordinates[:, j], amounts[0].flatten()) for j in range(2)]
    assert alone.significant[pattern_in.index(max(pattern_in))] and max(pattern_in) > 0.8
    assert rank_correlation(checked.positions[:, 0], opening) > 0.9
    for j in checked.significant.nonzero().flatten():
        assert rank_correlation(checked.coordinates[:, j], amounts[0].flatten()) < 0.5


def test_spread_is_the_disagreement_of_seeds(moving: Tensor, generator: torch.Generator) -> None:
    """Image 3 has seeds of quite another conformation, image 4 none that is reliable."""
    seeds = moving.expand(2, -1, -1, -1, -1) + noise_of(moving.expand(2, -1, -1, -1, -1), 0.1, generator)
    seeds[:, 3] = capsid(torch.tensor([1.0, 0.0]), SIDE, oversampling=1)
    usable = torch.ones(2, 32, dtype=torch.bool)
    usable[:, 4] = False
    everyone = torch.ones(32, dtype=torch.bool)
    found = analyse_landscape(moving, everyone, CONFIG, seeds=Seeds(seeds, usable), generator=generator)
    assert found.spread is not None
    assert found.spread[4].isnan() and found.spread.nan_to_num().argmax() == 3
    assert found.spread[3] > 0.7
    assert found.spread.nanmedian() < 0.2
    assert analyse_landscape(moving, everyone, CONFIG, generator=generator).spread is None


def test_the_core_is_what_stays(generator: torch.Generator) -> None:
    """A ball that stays, with a smaller one that comes and goes beside it."""

    def ball(points: Tensor, x: float, radius: float) -> Tensor:
        return (points - torch.tensor([x, 0.0, 0.0])).norm(dim=-1) - radius

    def shape(points: Tensor, conformation: Tensor) -> Tensor:
        return torch.minimum(ball(points, 0, 0.2), torch.where(conformation > 0.5, ball(points, 0.32, 0.1), 1.0))

    there = (torch.arange(20) % 2).float()[:, None]
    found = analyse_landscape(sample(shape, there, 20), torch.ones(20, dtype=torch.bool), CONFIG, generator=generator)
    assert found.variance[10, 10, 16] > 0.2
    assert not found.core[10, 10, 16] and not found.core[0, 0, 0]
    solid = sample(lambda points, _: ball(points, 0, 0.2), there[:1], 20)[0] > 0.9
    assert solid.sum() > 100 and found.core[solid].all()


def test_volumes_along_a_component_are_averages_of_real_ones(landscape: Landscape, moving: Tensor) -> None:
    everyone = torch.ones(32, dtype=torch.bool)
    places = torch.linspace(-1.5, 1.5, 5)
    series = volumes_along_component(moving, everyone, landscape.coordinates[:, 0], places)
    assert series.min() >= 0 and series.max() <= 1  # mean plus component would go below nothing
    steps = torch.einsum("mzyx,zyx->m", series, landscape.components[0])
    assert (steps.diff() > 0).all()
    beyond = volumes_along_component(moving, everyone, landscape.coordinates[:, 0], torch.tensor([50.0, 60.0]))
    assert beyond.isfinite().all()
    left_out = everyone & (torch.arange(32) != int(landscape.coordinates[:, 0].argmax()))
    without = volumes_along_component(moving, left_out, landscape.coordinates[:, 0], places)
    assert not torch.allclose(without[-1], series[-1])


@pytest.mark.parametrize(("count", "match"), [(3, "at least 4"), (4, "all the same")])
def test_sets_without_a_landscape_are_refused(count: int, match: str) -> None:
    volumes = torch.ones(4, 8, 8, 8) * math.pi
    with pytest.raises(InputError, match=match):
        analyse_landscape(volumes, torch.arange(4) < count, CONFIG)
