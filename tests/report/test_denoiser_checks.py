import pytest
import torch
from torch import Tensor

from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.imaging.augmentation import augment
from scoretomo.imaging.masks import soft_ball
from scoretomo.report.denoiser_checks import DenoiserChecks, MadeUp, check_samples, make_up, references


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    """Blurred noise within a disc: no two are alike."""
    noise = torch.randn(20, 1, 24, 24, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)[:, 0] * soft_ball(24, 2, 7.0, 3.0)
    return blurred / blurred.std()


def test_the_nearest_image_is_found_through_turns_and_flips(images: Tensor, generator: torch.Generator) -> None:
    chosen = torch.tensor([3, 17, 8, 0])
    turned = augment(images[chosen], largest_shift=0.0, generator=generator)
    checks = check_samples(MadeUp(turned, images[references(20)]), images)
    assert checks.index.tolist() == chosen.tolist()
    assert checks.correlation.min() > 0.93
    # and it is shown in the sample's position
    for sample, nearest in zip(turned, checks.nearest, strict=True):
        assert torch.corrcoef(torch.stack([sample.flatten(), nearest.flatten()]))[0, 1] > 0.9


def test_a_denoiser_that_knows_its_images_by_heart_is_found_out(images: Tensor, generator: torch.Generator) -> None:
    """The ideal denoiser of a finite set can make nothing but its members."""
    made = make_up(IdealDenoiser(images), images, 6, median=0.6, log_std=0.8, generator=generator)
    checks = check_samples(made, images)
    assert checks.correlation.median() > 0.99 and checks.usual < 0.9
    assert checks.copies and "nearly copies" in checks.words


def test_samples_of_another_distribution_are_no_copies(images: Tensor, generator: torch.Generator) -> None:
    others = torch.randn(6, 24, 24, generator=generator)
    checks = check_samples(MadeUp(others, images[references(20)]), images)
    assert not checks.copies and "of their own" in checks.words


def test_words_tell_loose_samples_from_good_ones(images: Tensor) -> None:
    def with_correlation(value: float) -> str:
        few = images[:2]
        return DenoiserChecks(few, few, torch.zeros(2).long(), torch.full((2,), value), 0.98).words

    assert "longer training" in with_correlation(0.90)
    assert "longer training" not in with_correlation(0.98)
    assert "nearly copies" in with_correlation(0.999)


def test_cleaned_images_keep_what_they_show(images: Tensor, generator: torch.Generator) -> None:
    made = make_up(IdealDenoiser(images), images, 1, median=0.4, log_std=0.6, generator=generator)
    assert (made.cleaned - images[references(20)]).abs().max() < 0.1
