"""The denoiser's residuals, and what they say of images that are unlike the data."""

import torch

from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.ensemble.score_consistency import ScoreConsistency, denoising_residuals, hemisphere_views


def test_views_cover_the_hemisphere_evenly() -> None:
    directions = hemisphere_views(64)[:, 2]
    assert (directions[:, 2] > 0).all()
    cosines = directions @ directions.T - 2 * torch.eye(64)
    nearest = torch.rad2deg(cosines.max(1).values.acos())
    assert nearest.min() > 9 and nearest.max() < 19  # 64 discs of the hemisphere are 14 degrees apart


def test_residuals_are_those_of_the_closed_form() -> None:
    """Data of one point: everything is denoised to it."""
    point = torch.randn(1, 8, 8)
    images = point + torch.tensor([0.0, 0.5, 2.0])[:, None, None]
    residuals = denoising_residuals(images, IdealDenoiser(point), (0.5, 1.0), torch.randn(3, 8, 8))
    expected = torch.tensor([0.0, 0.25, 4.0])[:, None] / torch.tensor([0.25, 1.0])
    assert torch.allclose(residuals, expected, atol=1e-5)


def test_class_averages_have_no_excess_and_what_is_unlike_them_has(generator: torch.Generator) -> None:
    data = torch.randn(40, 8, 8, generator=generator) + 3 * torch.randn(40, 1, 1, generator=generator)
    judge = ScoreConsistency(data[:20], IdealDenoiser(data), views=10, sigmas=(0.5, 2.0), generator=generator)
    assert judge.excess(data[20:30]).abs().mean() < 1.5
    unlike = data[20:30] + torch.randn(10, 8, 8, generator=generator)
    assert (judge.excess(unlike) > judge.excess(data[20:30]) + 2).all()
    assert torch.equal(judge.excess(data[:10]), judge.excess(data[:10]))
