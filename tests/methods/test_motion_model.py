"""A motion model finds how far a part has moved in each image, and volumes of it, and puts wrong poses right."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.projection import project
from scoretomo.methods.motion_model import MotionConfig, MotionModel, motion_model, motion_model_progressive

BAND = 9


@pytest.fixture(scope="module")
def blobs(make_blobs: Callable[..., Any]) -> Any:
    return make_blobs(80, 1.5)


@pytest.fixture(scope="module")
def noisy(blobs: Any) -> Tensor:
    noise = torch.randn(blobs.images.shape, generator=torch.Generator().manual_seed(5))
    return blobs.images + 0.05 * blobs.images.std() * noise


def _fit(blobs: Any, images: Tensor, components: int, **named: Any) -> MotionModel:
    arguments = {"rotations": blobs.rotations, "shifts_pixels": torch.zeros(len(images), 2)} | named
    return motion_model(images, components=components, radius=blobs.RADIUS, band=BAND, seed=0, **arguments)


@pytest.fixture(scope="module")
def model(blobs: Any, noisy: Tensor) -> MotionModel:
    return _fit(blobs, noisy, 1)


def _rightness(blobs: Any, volumes: Tensor) -> Tensor:
    truth = torch.stack([blobs.volume(i) for i in range(len(volumes))])
    return area_under_curve(fourier_shell_correlation(volumes, truth))


def test_coordinates_follow_the_motion(blobs: Any, model: MotionModel) -> None:
    assert abs(spearmanr(model.z[:, 0], blobs.coordinates).statistic) > 0.9
    assert model.z.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(model.z.square().mean(0), torch.ones(1), rtol=1e-3, atol=0)


def test_volumes_are_nearer_to_their_own_truth_than_one_map(blobs: Any, noisy: Tensor, model: MotionModel) -> None:
    own = torch.stack([model.volume(z) for z in model.z])
    one = _fit(blobs, noisy, 0).volumes.expand(len(own), -1, -1, -1)
    gain = _rightness(blobs, own) - _rightness(blobs, one)
    assert float(gain.median()) > 0.015 and float((gain > 0).float().mean()) > 0.75


def test_components_are_ordered_and_uncorrelated(blobs: Any, noisy: Tensor) -> None:
    model = _fit(blobs, noisy, 3)
    power = model.volumes[1:].square().sum((1, 2, 3))
    assert power.diff().max() <= 0
    torch.testing.assert_close(model.z.mT @ model.z / len(model.z), torch.eye(3), rtol=0, atol=1e-2)
    assert abs(spearmanr(model.z[:, 0], blobs.coordinates).statistic) > 0.8


def test_two_parts_that_move_independently_have_a_coordinate_each(noisy: Tensor, blobs: Any) -> None:
    """Principal components would be their sum and difference, since both move as far."""
    draw = torch.Generator().manual_seed(8)
    angles, away = torch.rand(160, 2, generator=draw) - 0.5, torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0]])
    rotations = random_rotations(160, generator=draw)
    side = noisy.shape[-1]
    axis = torch.arange(side) - side // 2.0
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = torch.stack([x, y, z], -1)

    def volume(shift: Tensor) -> Tensor:
        centres = torch.cat([away + torch.stack([5 * shift, torch.zeros(2), torch.zeros(2)], 1), torch.zeros(1, 3)])
        return torch.exp(-(places[..., None, :] - centres).square().sum(-1) / 4).sum(-1)

    images = torch.stack(
        [project(volume(a)[None], r[None, None])[0, 0] for a, r in zip(angles, rotations, strict=True)]
    )
    shifts = torch.zeros(160, 2)
    model = motion_model(images, rotations, shifts, 2, radius=blobs.RADIUS, band=BAND, seed=0)
    ranks = torch.tensor([[abs(spearmanr(z, a).statistic) for z in model.z.T] for a in angles.T])
    assert ranks.amax(1).min() > 0.8 and ranks.amin(1).max() < 0.25  # views along a motion do not show it
    # each component is in one half of the box
    lower, upper = (
        part.square().sum((1, 2, 3)) for part in (model.volumes[1:, : side // 2], model.volumes[1:, side // 2 :])
    )
    assert (torch.maximum(lower, upper) > 5 * torch.minimum(lower, upper)).all()


@pytest.mark.parametrize("components", [0, 1])
def test_small_errors_of_poses_and_shifts_are_put_right(components: int, blobs: Any, noisy: Tensor) -> None:
    draw = torch.Generator().manual_seed(6)
    wrong = from_rotation_vectors(0.07 * torch.randn(80, 3, generator=draw)) @ blobs.rotations  # 7 degrees in all
    shifts = 0.5 * torch.randn(80, 2, generator=draw)
    images = translate(noisy, shifts)
    still = MotionConfig(refinements=0)
    found = _fit(blobs, images, components, rotations=wrong)
    unmoved = _fit(blobs, images, components, rotations=wrong, config=still)

    def error(model: MotionModel) -> float:
        """Median, after the rotation that takes the frame of the model to that of the truth."""
        u, _, v = torch.linalg.svd((model.rotations.mT @ blobs.rotations).sum(0))
        return float(angle_between(model.rotations @ (u @ v), blobs.rotations).median())

    assert torch.equal(unmoved.rotations, wrong)
    assert error(found) < 0.5 * error(unmoved)
    # the frame may move as a whole: compare shifts after the move of the object that explains most of them
    design = blobs.rotations[:, :2].flatten(0, 1)
    difference = (found.shifts_pixels - shifts).flatten()[:, None]
    left = difference - design @ torch.linalg.lstsq(design, difference).solution
    assert float(left.square().mean().sqrt()) < 0.3


def test_images_may_differ_in_sharpness_and_strength(blobs: Any, noisy: Tensor) -> None:
    gains = 0.6 + 0.8 * torch.rand(80, generator=torch.Generator().manual_seed(7))
    model = _fit(blobs, gains[:, None, None] * noisy, 1)
    assert abs(spearmanr(model.z[:, 0], blobs.coordinates).statistic) > 0.9
    assert abs(spearmanr(model.z[:, 0], gains).statistic) < 0.3


def test_steps_are_yielded_and_the_seed_decides(blobs: Any, noisy: Tensor, model: MotionModel) -> None:
    poses = blobs.rotations, torch.zeros(80, 2)
    steps = list(motion_model_progressive(noisy, *poses, 1, radius=blobs.RADIUS, band=BAND, seed=0))
    assert [step.iteration for step in steps] == list(range(1, 11)) and {step.total for step in steps} == {10}
    assert steps[-1].unexplained < steps[0].unexplained
    assert torch.equal(steps[-1].model.z, model.z)


def test_what_cannot_be_fitted_is_refused(blobs: Any) -> None:
    with pytest.raises(InputError, match="80 images cannot tell 80 components"):
        _fit(blobs, blobs.images, 80)
    with pytest.raises(InputError, match="1 or more starts"):
        MotionConfig(iterations=0)
    with pytest.raises(InputError, match="first_part"):
        MotionConfig(first_part=0.0)
    with pytest.raises(InputError, match="ridges"):
        MotionConfig(ridge=0.0)
