"""Maps at low resolution on another grid: what they hold, and where."""

import math

import pytest
import torch

from scoretomo.datatypes import InputError, Volume
from scoretomo.imaging.fourier import centred_fft, radius_grid
from scoretomo.imaging.starting_model import low_pass, resample, starting_model


def blob(
    side: int, pixel_size: float, width: float = 12.0, at: tuple[float, float, float] = (6.0, -9.0, 3.0)
) -> Volume:
    """A Gaussian of ``width`` Angstrom, ``at`` Angstrom ``(z, y, x)`` from the origin."""
    axis = (torch.arange(side) - side // 2) * pixel_size
    squares = [(axis - place) ** 2 for place in at]
    total = squares[0][:, None, None] + squares[1][:, None] + squares[2]
    return Volume(torch.exp(-total / (2 * width**2)), pixel_size)


def test_low_pass_is_one_half_at_the_resolution_and_keeps_what_is_coarser(generator: torch.Generator) -> None:
    noise = torch.randn(2, 20, 20, 20, generator=generator)
    gain = (centred_fft(low_pass(noise, 3.0, 15.0), 3) / centred_fft(noise, 3)).abs()
    frequency = radius_grid(20, 3) / (20 * 3.0)
    torch.testing.assert_close(gain[:, frequency < 0.79 / 15], torch.ones_like(gain[:, frequency < 0.79 / 15]))
    assert gain[:, (frequency > 1.21 / 15) & (frequency < 0.166)].max() < 1e-4
    assert gain[:, (frequency * 15 - 1).abs() < 1e-4] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("pixel_size", "side"), [(4.0, 24), (4.0, 40), (2.0, 48), (2.77, 35), (5.3, 19), (1.31, 72)])
def test_resampling_keeps_values_and_places(pixel_size: float, side: int) -> None:
    """The same density on a finer or coarser grid, in a wider or narrower box, odd or even."""
    found = resample(blob(32, 4.0), pixel_size, side)
    expected = blob(side, pixel_size)
    assert (found.side, found.pixel_size_angstrom) == (side, pixel_size)
    # the pixel sizes fit to 0.1 %, so that the blob may be 0.1 % of its distance from the centre off
    torch.testing.assert_close(found.voxels, expected.voxels, atol=4e-3, rtol=0)


def test_a_starting_model_is_coarse_and_on_the_grid_of_the_particles() -> None:
    volume = blob(32, 4.0, width=5.0)
    model = starting_model(volume, 30.0, pixel_size_angstrom=3.0, side=96)
    assert (model.side, model.pixel_size_angstrom) == (96, 3.0)
    power = centred_fft(model.voxels, 3).abs()
    assert power[radius_grid(96, 3) / (96 * 3.0) > 1.3 / 30].max() < 5e-3 * power.max()
    # per volume, not per voxel, the density stays
    assert model.voxels.sum().item() * 3**3 == pytest.approx(volume.voxels.sum().item() * 4**3, rel=1e-3)
    assert starting_model(volume, 30.0, pixel_size_angstrom=2.0).side == 32


@pytest.mark.parametrize("resolution", [0.0, -5.0, math.nan, math.inf])
def test_resolutions_that_make_no_sense(resolution: float) -> None:
    with pytest.raises(InputError, match="resolution"):
        starting_model(blob(8, 4.0), resolution)
