import torch

from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.diffusion.outliers import denoiser_outliers


def test_the_image_that_the_denoiser_does_not_know_stands_out(generator: torch.Generator) -> None:
    """The ideal denoiser of a set knows it by heart, and turns any other image into one of it."""
    images = torch.randn(24, 8, 8, generator=generator)
    without, everything = (
        denoiser_outliers(IdealDenoiser(known), images, generator=generator) for known in (images[1:], images)
    )
    assert without.argmax() == 0 and without[0] > 5
    assert everything[0] < without[0] / 5


def test_a_set_of_equals_has_no_outliers(generator: torch.Generator) -> None:
    images = torch.ones(12, 8, 8)
    scores = denoiser_outliers(lambda noisy, sigma: torch.zeros_like(noisy), images, generator=generator)
    assert torch.equal(scores, torch.zeros(12))
