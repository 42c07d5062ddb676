"""Volumes are chosen that predict class averages that knew nothing of them, and no others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.diffusion.edm import Denoiser
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.ensemble import volume_choice
from scoretomo.ensemble.growth import GrowthConfig
from scoretomo.ensemble.volume_choice import VolumeChoice, choose_volumes_progressive, too_few_to_choose
from scoretomo.methods.motion_model import MotionModel, motion_model
from scoretomo.methods.score_tomography import ReconstructionConfig

BAND, COUNT = 9, 60
CONFIG = GrowthConfig(distil=ReconstructionConfig(steps=20, anchors=2, sigma=0.3, final_sigma=0.3))


@pytest.fixture(scope="module")
def blobs(make_blobs: Callable[..., Any]) -> Any:
    return make_blobs(COUNT, 3.0)


@pytest.fixture(scope="module")
def images(blobs: Any) -> Tensor:
    noise = torch.randn(blobs.images.shape, generator=torch.Generator().manual_seed(5))
    return blobs.images + 0.1 * blobs.images.std() * noise


@pytest.fixture(scope="module")
def model(blobs: Any, images: Tensor) -> MotionModel:
    shifts = torch.zeros(COUNT, 2)
    return motion_model(images, blobs.rotations, shifts, 1, radius=blobs.RADIUS, band=BAND, seed=0)


def _choose(blobs: Any, images: Tensor, model: MotionModel, denoiser: Denoiser, **options: Any) -> VolumeChoice:
    config = dataclasses.replace(CONFIG, **options)
    *steps, choice = choose_volumes_progressive(denoiser, images, model, config, radius=blobs.RADIUS, seed=0)
    assert steps[-1] == 1.0 and steps == sorted(steps)
    assert isinstance(choice, VolumeChoice)
    return choice


def test_a_denoiser_that_knows_nothing_is_not_chosen(blobs: Any, images: Tensor, model: MotionModel) -> None:
    """One that makes noise of noise: the volumes of the motion model predict more."""

    def ignorant(noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy.flip(1) + noisy.std() * torch.sign(noisy)

    choice = _choose(blobs, images, model, ignorant)
    assert choice.chosen == "motion" and choice.gains[0] < -3 * choice.errors[0]
    assert "Taken are the volumes of the motion model." in choice.reason


def test_a_denoiser_that_knows_all_projections_is_chosen_over_a_model_that_knows_too_little(
    blobs: Any, images: Tensor, model: MotionModel, make_blobs: Callable[..., Any]
) -> None:
    """Of a model whose mean and component were blurred."""
    many = make_blobs(3000, 3.0, seed=3).images
    blurred = torch.nn.functional.avg_pool3d(model.volumes[:, None], 5, 1, 2)[:, 0]

    def blurring(*arguments: Any, **named: Any) -> MotionModel:
        return dataclasses.replace(motion_model(*arguments, **named), volumes=blurred)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volume_choice, "motion_model", blurring)
        patch.setattr("scoretomo.methods.neighbour_volumes._LEAST_WEIGHT", 2.0)  # no help of the neighbours
        choice = _choose(blobs, images, model, IdealDenoiser(many))
    assert choice.chosen in ("score", "mean") and max(choice.gains) > 2 * max(choice.errors)
    assert "Taken are" in choice.reason and len(choice.gains) == len(choice.errors) == 2


def test_what_was_left_out_has_no_part(
    blobs: Any, images: Tensor, model: MotionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither motion model nor volumes see every fifth image."""
    seen = []

    def watched(images: Tensor, *arguments: Any, **named: Any) -> MotionModel:
        seen.append(images)
        return motion_model(images, *arguments, **named)

    grown = volume_choice.grow_progressive

    def watched_growth(denoiser: Denoiser, images: Tensor, *arguments: Any, **named: Any) -> Any:
        seen.append(images)
        return grown(denoiser, images, *arguments, **named)

    monkeypatch.setattr(volume_choice, "motion_model", watched)
    monkeypatch.setattr(volume_choice, "grow_progressive", watched_growth)
    _choose(blobs, images, model, lambda noisy, sigma: noisy)
    expected = images[torch.arange(COUNT) % 5 != 0]
    assert len(seen) == 2 and all(torch.equal(each, expected) for each in seen)


def test_few_class_averages_leave_no_choice() -> None:
    choice = too_few_to_choose(12)
    assert choice.chosen == "motion" and "12 class averages are too few" in choice.reason
