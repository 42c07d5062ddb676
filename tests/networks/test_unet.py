"""The paper's U-Net: its size, its patches, its folder."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from scoretomo.datatypes import InputError
from scoretomo.networks.unet import PatchUNet, UNetConfig, build_unet, parameter_count, supports_fast_bfloat16

_SMALL = UNetConfig(channels=(32, 32), layers_per_block=1, patch=2)


@pytest.fixture
def small() -> PatchUNet:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_unet(_SMALL, 16).eval()


@pytest.mark.parametrize(
    ("config", "side", "count"),
    [(UNetConfig(), 88, 3_939_393), (UNetConfig(channels=(32, 64, 96, 128)), 136, 5_344_737)],
)
def test_the_paper_s_networks_have_their_numbers_of_parameters(config: UNetConfig, side: int, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build_unet(config, side)) == count


@pytest.mark.parametrize("side", [16, 24])
def test_images_of_any_fitting_side_keep_their_shape(side: int, small: PatchUNet) -> None:
    images = torch.zeros(3, side, side)
    assert small(images, torch.zeros(3)).shape == images.shape


def test_a_patch_enters_as_channels_at_half_the_resolution(small: PatchUNet) -> None:
    assert small.unet.conv_in.weight.shape == (32, 4, 3, 3)
    assert small.unet.conv_out.weight.shape == (4, 32, 3, 3)
    seen = []
    small.unet.conv_in.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    small(torch.zeros(1, 16, 16), torch.zeros(1))
    assert seen == [(1, 32, 8, 8)]


def test_patches_are_put_back_where_they_came_from(small: PatchUNet, generator: torch.Generator) -> None:
    class Unchanged(nn.Module):
        def forward(self, patches: torch.Tensor, label: torch.Tensor) -> "Unchanged":
            self.sample = patches
            return self

    small.unet = Unchanged()
    images = torch.rand(2, 16, 16, generator=generator)
    assert torch.equal(small(images, torch.zeros(2)), images)
    # the four pixels of a corner are the four channels of one position
    assert torch.equal(small.unet.sample[0, :, 0, 0], images[0, :2, :2].flatten())


def test_the_noise_label_matters_and_images_do_not_mix(small: PatchUNet, generator: torch.Generator) -> None:
    images, labels = torch.rand(3, 16, 16, generator=generator), torch.tensor([-1.0, 0.0, 0.5])
    with torch.no_grad():
        together = small(images, labels)
        assert not torch.allclose(together, small(images, labels.flip(0)))
        for i in range(3):
            torch.testing.assert_close(small(images[i : i + 1], labels[i : i + 1])[0], together[i])


def test_a_saved_network_gives_the_same_output(tmp_path: Path, small: PatchUNet, generator: torch.Generator) -> None:
    small.save(tmp_path / "denoiser")
    assert {file.name for file in (tmp_path / "denoiser").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    loaded = PatchUNet(UNet2DModel.from_pretrained(tmp_path / "denoiser", low_cpu_mem_usage=False)).eval()
    assert loaded.patch == 2
    images, labels = torch.rand(2, 16, 16, generator=generator), torch.zeros(2)
    with torch.no_grad():
        assert torch.equal(loaded(images, labels), small(images, labels))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"channels": ()}, "channels must be 1 to 6 multiples of 32"),
        ({"channels": (32, 48)}, "not 32 48"),
        ({"channels": (32,) * 7}, "1 to 6"),
        ({"channels": (-32, 32)}, "channels must be 32 to 4096, not -32"),
        ({"patch": 0}, "patch must be 1 to 16, not 0"),
        ({"layers_per_block": -1}, "layers_per_block must be 1 to 16, not -1"),
    ],
)
def test_what_is_no_network_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        UNetConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("config", "multiple"), [(UNetConfig(), 4), (_SMALL, 4), (UNetConfig(patch=2), 8)])
def test_a_side_that_does_not_fit_is_refused(config: UNetConfig, multiple: int) -> None:
    assert config.side_multiple == multiple
    with pytest.raises(ValueError, match=f"multiple of {multiple}, not {5 * multiple + 2}"):
        build_unet(config, 5 * multiple + 2)


def test_whether_bfloat16_is_fast_is_known_for_every_device() -> None:
    assert isinstance(supports_fast_bfloat16(torch.device("cpu")), bool)
    assert not supports_fast_bfloat16(torch.device("meta"))
