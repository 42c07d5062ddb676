"""The coordinate network: its size, its waves, and latent variables that are shared by an image's frequencies."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.slices import disc_frequencies, slice_coefficients
from scoretomo.networks.coordinate_mlp import CoordinateMLP, CoordinateMLPConfig, Encoding, encoding_positions
from scoretomo.networks.unet import parameter_count

_SMALL = CoordinateMLPConfig(hidden=32, layers=2)


def _network(
    side: int = 24, latent: int = 0, *, config: CoordinateMLPConfig = _SMALL, **options: bool
) -> CoordinateMLP:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return CoordinateMLP(config, side, latent, **options)


@pytest.mark.parametrize(
    ("hidden", "layers", "latent", "count"),
    [(256, 3, 0, 296_193), (512, 5, 0, 1_510_913), (256, 3, 8, 296_193 + 8 * 256)],
)
def test_cryodrgn2_s_networks_have_their_numbers_of_parameters(
    hidden: int, layers: int, latent: int, count: int
) -> None:
    """003, section D, for images of 128 pixels; each latent variable adds an input."""
    network = _network(128, latent, config=CoordinateMLPConfig(hidden, layers, "cryodrgn2"))
    assert parameter_count(network) == count


def _wavelengths(encoding: Encoding, side: int) -> Tensor:
    """Wavelengths along x, in units of the papers' lattice, which is 1 wide."""
    positions = encoding_positions(encoding, side)
    x, y, z = positions.chunk(3)
    assert torch.equal(x[:, 0], y[:, 1]) and torch.equal(x[:, 0], z[:, 2])  # on the axes
    assert torch.equal(positions.sum(-1), positions.norm(dim=-1))
    return 1 / x[:, 0]


@pytest.mark.parametrize("side", [64, 128])
def test_wavelengths_are_those_of_the_papers(side: int) -> None:
    steps = torch.arange(side // 2)
    gamma = side * math.pi * (2 / side) ** (steps / (side / 2 - 1))  # 003, Eq. 5
    torch.testing.assert_close(_wavelengths("cryodrgn2", side), 2 * math.pi / gamma)
    torch.testing.assert_close(_wavelengths("cryodrgn2", side)[[0, -1]], torch.tensor([2 / side, 1]))
    torch.testing.assert_close(_wavelengths("cryodrgn2-noisy", side), 2 * math.pi * 2 * math.pi / gamma)
    frequencies = side * math.pi * (2 / side) ** (2 * (steps + 1) / side)  # 004, Eqs. 7 and 8
    torch.testing.assert_close(_wavelengths("cryodrgn", side), 2 * math.pi / frequencies)
    noisy = _wavelengths("cryodrgn-noisy", side)
    assert len(noisy) == math.floor(0.9 * side / 2)
    torch.testing.assert_close(noisy, _wavelengths("cryodrgn", side)[-len(noisy) :])


def test_features_are_sines_and_cosines_of_the_frequency_in_cycles_per_pixel() -> None:
    """A linear readout of a wave at 3 pixels along y is the transform of a point there."""
    network = _network(config=CoordinateMLPConfig(1, 1, "cryodrgn2"))
    network.positions[0] = torch.tensor([0.0, 3.0, 0.0])
    with torch.no_grad():
        for each in network.parameters():
            each.zero_()
        network.from_waves.weight[0, 0] = network.from_waves.weight[0, len(network.positions)] = 1.0
        network.from_waves.bias.fill_(2.0)  # above zero, where the layers pass it on
        network.last.weight.fill_(1.0)
        frequencies = torch.rand(50, 3) - 0.5
        phases = 2 * math.pi * 3 * frequencies[:, 1]
        torch.testing.assert_close(network(frequencies), 2 + phases.sin() + phases.cos())


def test_latent_variables_are_further_inputs_of_the_first_layer(generator: torch.Generator) -> None:
    """As if z were repeated at every frequency and appended to the waves (004, section 3.3)."""
    network = _network(latent=2)
    frequencies, z = torch.rand(5, 7, 3, generator=generator) - 0.5, torch.randn(5, 2, generator=generator)
    phases = 2 * math.pi * frequencies @ network.positions.T
    assert network.from_latent is not None
    weight = torch.cat([network.from_waves.weight, network.from_latent.weight], dim=1)
    inputs = torch.cat([phases.sin(), phases.cos(), z[:, None].expand(-1, 7, -1)], dim=-1)
    hidden = (inputs @ weight.T + network.from_waves.bias).relu()
    for layer in network.layers:
        hidden = (layer(hidden) + hidden).relu()
    torch.testing.assert_close(network(frequencies, z), network.last(hidden)[..., 0])
    repeated = network(frequencies.view(35, 3), z.repeat_interleave(7, 0)).view(5, 7)
    torch.testing.assert_close(network(frequencies, z), repeated)


def test_without_latent_variables_it_is_a_slice_function(generator: torch.Generator) -> None:
    network, disc = _network(), disc_frequencies(24, 8.0)
    rotations = random_rotations(2, 3, generator=generator)
    slices = slice_coefficients(network, rotations, disc)
    assert slices.shape == (2, 3, len(disc))
    one = (torch.cat([disc, torch.zeros(len(disc), 1)], dim=-1) @ rotations[1, 2])[17]
    torch.testing.assert_close(slices[1, 2, 17], network(one))


def test_bfloat16_does_not_round_the_phases(generator: torch.Generator) -> None:
    """At 64 pixels from the centre the phase at Nyquist is 200 radians, which bfloat16 rounds to whole radians."""
    config = CoordinateMLPConfig(64, 2, "cryodrgn2")
    exact, fast = _network(128, config=config), _network(128, config=config, bfloat16=True)
    frequencies = torch.rand(300, 3, generator=generator) - 0.5
    values, rounded = exact(frequencies), fast(frequencies)
    assert rounded.dtype == torch.float32
    assert (rounded - values).std() < 0.03 * values.std()


def test_sizes_that_make_no_network_are_refused() -> None:
    with pytest.raises(InputError, match="width and a depth of 1"):
        CoordinateMLPConfig(hidden=0)
