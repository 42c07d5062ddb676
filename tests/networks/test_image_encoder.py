"""The image encoder: a Gaussian for each image, from that image alone."""

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.networks.image_encoder import ImageEncoder, ImageEncoderConfig
from scoretomo.networks.unet import parameter_count


def _encoder(**options: bool) -> ImageEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return ImageEncoder(ImageEncoderConfig(hidden=32, layers=2), 50, 3, **options)


def test_its_size_is_that_of_a_residual_network() -> None:
    assert parameter_count(_encoder()) == 51 * 32 + 2 * 33 * 32 + 33 * 6


def test_each_image_has_a_mean_and_a_log_variance_of_its_own(generator: torch.Generator) -> None:
    images = torch.randn(4, 50, generator=generator)
    mean, log_variance = _encoder()(images)
    assert mean.shape == log_variance.shape == (4, 3)
    alone = [_encoder()(image[None]) for image in images]
    torch.testing.assert_close(mean, torch.cat([one[0] for one in alone]))
    torch.testing.assert_close(log_variance, torch.cat([one[1] for one in alone]))
    assert not torch.allclose(mean, log_variance)


def test_layers_are_residual(generator: torch.Generator) -> None:
    """With hidden layers at zero it is the map of its first and last layer."""
    encoder, images = _encoder(), torch.randn(4, 50, generator=generator)
    with torch.no_grad():
        for layer in encoder.layers.parameters():
            layer.zero_()
    expected = encoder.last(encoder.first(images).relu())
    torch.testing.assert_close(torch.cat(encoder(images), dim=-1), expected)


def test_bfloat16_gives_float32_statistics(generator: torch.Generator) -> None:
    images = torch.randn(4, 50, generator=generator)
    exact, fast = _encoder()(images), _encoder(bfloat16=True)(images)
    for values, rounded in zip(exact, fast, strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, values, atol=0.02, rtol=0)


def test_bfloat16_does_not_put_images_on_a_grid(generator: torch.Generator) -> None:
    """Numbers of 8 bits of which thousands lie between -1 and 1 would often be alike."""
    mean, _ = _encoder(bfloat16=True)(torch.randn(2000, 50, generator=generator))
    assert len(mean[:, 0].unique()) > 1990


def test_sizes_that_make_no_network_are_refused() -> None:
    with pytest.raises(InputError, match="width and a depth of 1"):
        ImageEncoderConfig(layers=0)
