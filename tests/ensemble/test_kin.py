"""Kin: images of the same conformation are told from others, whatever else makes an image easy to explain."""

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble import kin as module
from scoretomo.ensemble.kin import Usual, choose_kin, usually_explained
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import image_coefficients
from scoretomo.methods.pose_search import band, normalise
from scoretomo.simulation.phantoms import box

_SIDE = 20
_RADIUS = 8.0


def explained(volume: Tensor, rotations: Tensor, images: Tensor, radius: float) -> Tensor:
    frequencies = band(images, radius)
    return module.explained(volume, rotations, normalise(image_coefficients(images, frequencies)), frequencies)


@pytest.fixture(scope="module")
def lids() -> Tensor:
    """Six boxes with closed lids, then six with open ones."""
    return torch.tensor([[0.1, 0.1]] * 6 + [[2.4, 2.4]] * 6)


def test_a_volume_explains_its_projections_in_their_poses_and_not_in_others(generator: torch.Generator) -> None:
    volume = box(torch.tensor([[0.5, 1.5]]), _SIDE, torch.eye(3)[None])[0]
    rotations = random_rotations(8, generator=generator)
    images = project(volume[None], rotations[None])[0]
    own = explained(volume, rotations, images, _RADIUS)
    assert own.min() > 0.99
    assert explained(volume, rotations.roll(1, dims=0), images, _RADIUS).max() < own.min() - 0.03
    brighter = explained(3 * volume, rotations, images, _RADIUS)
    assert torch.allclose(own, brighter, atol=1e-5)


def test_kin_are_the_images_of_the_same_conformation(lids: Tensor, generator: torch.Generator) -> None:
    """Though some images are noisier than others, so that no volume explains them as well."""
    rotations = random_rotations(len(lids), generator=generator)
    frame = torch.eye(3).expand(len(lids), 3, 3)
    volumes = box(lids, _SIDE, frame)
    images = torch.cat([project(v[None], r[None, None])[0] for v, r in zip(volumes, rotations, strict=True)])
    noise = torch.linspace(0, 0.6, len(lids))[torch.randperm(len(lids), generator=generator)]
    noise = noise[:, None, None] * images.std()
    noisy = images + noise * torch.randn(images.shape, generator=generator)
    scores = torch.stack([explained(volume, rotations, noisy, _RADIUS) for volume in volumes])
    members = torch.arange(len(lids))
    kin = choose_kin(scores, usually_explained(scores), members, 0.4)
    same = (kin < 6) == (members < 6)[:, None]
    assert kin.shape == (12, 5)
    assert (kin != members[:, None]).all()
    assert same.float().mean() > 0.9
    unaware = choose_kin(scores, Usual(torch.zeros(12), torch.ones(12)), members, 0.4)
    assert ((unaware < 6) == (members < 6)[:, None]).float().mean() < 0.8


def test_of_a_few_volumes_nothing_is_taken_as_usual() -> None:
    usual = usually_explained(torch.rand(3, 9))
    assert not usual.mean.any() and (usual.spread == 1).all()


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.25, 5), (1.0, 19)])
def test_so_many_are_chosen_best_first(fraction: float, count: int, generator: torch.Generator) -> None:
    scores = torch.rand(2, 20, generator=generator)
    kin = choose_kin(scores, Usual(torch.zeros(20), torch.ones(20)), torch.tensor([4, 7]), fraction)
    chosen = scores.gather(1, kin)
    assert kin.shape == (2, count) and (chosen.diff(dim=1) <= 0).all()
    assert 4 not in kin[0] and 7 not in kin[1]
