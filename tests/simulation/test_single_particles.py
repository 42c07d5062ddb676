import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import CTFParams, InputError, Poses, Volume
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import centred_fft, radius_grid, translate
from scoretomo.imaging.projection import project
from scoretomo.simulation import single_particles
from scoretomo.simulation.motions import RigidPart, assemble, hand_parts
from scoretomo.simulation.single_particles import (
    ParticleConfig,
    ParticleTruth,
    draw_particles,
    noisy_images,
    signal_variance,
)

CONFIG = ParticleConfig(count=40, side=32, widest_angle_degrees=90.0, shift_range_angstrom=24.0, seed=4)
HAND = hand_parts(32, 12.0)


def draw(config: ParticleConfig = CONFIG) -> tuple[ParticleTruth, torch.Generator]:
    generator = torch.Generator().manual_seed(config.seed)
    return draw_particles(config, generator), generator


def simulate(config: ParticleConfig) -> Tensor:
    truth, generator = draw(config)
    return torch.cat(list(noisy_images(HAND, truth, config, generator)))


def without_noise(parts: Sequence[RigidPart], truth: ParticleTruth) -> Tensor:
    return torch.cat(list(noisy_images(parts, truth, replace(CONFIG, snr=None), torch.Generator())))


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_poses_carry_the_assembled_object_to_the_images() -> None:
    truth, _ = draw(replace(CONFIG, count=5))
    images = without_noise(HAND, truth)
    for i, (image, volume) in enumerate(zip(images, assemble(HAND, truth.angles.tolist()), strict=True)):
        projection = project(volume.voxels[None], truth.poses.rotations[i][None, None])[0]
        shifted = translate(projection, truth.poses.shifts_angstrom[i : i + 1] / 12.0)[0]
        assert correlation(image, shifted) > 0.995
        assert image.sum() == pytest.approx(shifted.sum().item(), rel=0.02)


def test_positive_shift_moves_the_density_to_larger_index() -> None:
    pose = Poses(torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0.0], [36.0, -12.0]]))
    still, moved = without_noise(HAND, ParticleTruth(pose, torch.zeros(2), None))
    torch.testing.assert_close(moved, still.roll((-1, 3), (0, 1)), atol=2e-3, rtol=0)


def test_spectrum_vanishes_where_the_ctf_does(generator: torch.Generator) -> None:
    side, pixel, defocus = 64, 3.0, 20000.0
    voxels = torch.zeros(side, side, side)
    voxels[30:35, 30:35, 30:35] = torch.rand(5, 5, 5, generator=generator)
    part = RigidPart(Volume(voxels, pixel), torch.zeros(3))
    ones = torch.ones(4)
    ctf = CTFParams(defocus * ones, defocus * ones, 0 * ones, 0 * ones, 300 * ones, 2.7 * ones, 0.1 * ones)
    poses = Poses(random_rotations(4, generator=generator), torch.zeros(4, 2))
    power = [
        centred_fft(without_noise([part], ParticleTruth(poses, torch.zeros(4), some)), 2).abs() ** 2
        for some in (None, ctf)
    ]
    # zeros of sin(chi + arcsin w), chi = pi lambda k^2 (defocus - Cs lambda^2 k^2 / 2)
    wavelength = 0.0196875
    k = radius_grid(side, 2) / (side * pixel)
    chi = math.pi * wavelength * k**2 * (defocus - 2.7e7 * wavelength**2 * k**2 / 2) + math.asin(0.1)
    inside = radius_grid(side, 2) < 30
    zero, one = inside & ((chi / math.pi + 0.5).frac() - 0.5).abs().lt(0.03), inside & chi.sin().abs().gt(0.99)
    ratio = (power[1] / power[0].clamp(min=1e-9)).mean(0)
    assert zero.sum() > 20 and ratio[zero].median() < 0.01
    torch.testing.assert_close(ratio[one], torch.ones(int(one.sum())), atol=0.03, rtol=0)
    # protein is bright without and with CTF: at zero frequency it is the amplitude contrast
    assert ratio[side // 2, side // 2] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("radius", [None, 10.0])
@pytest.mark.parametrize("defocus", [None, (0.5, 3.0)])
def test_noise_has_the_snr_asked_for(radius: float | None, defocus: tuple[float, float] | None) -> None:
    config = replace(CONFIG, snr=0.1, snr_radius_pixels=radius, defocus_micrometers=defocus)
    clean, noisy = simulate(replace(config, snr=None, snr_radius_pixels=None)), simulate(config)
    noise = noisy - clean
    inside = radius_grid(32, 2) <= (radius or 99)
    measured = torch.stack([image[inside].var() for image in clean]).mean() / noise.var()
    assert measured == pytest.approx(0.1, rel=0.03)
    assert noise.mean().abs() < 0.02 * noise.std()
    white = centred_fft(noise, 2).abs() ** 2
    rings = [white[:, (radius_grid(32, 2) > low) & (radius_grid(32, 2) <= low + 6)].mean() for low in (0, 6, 10, 16)]
    assert max(rings) / min(rings) < 1.15


def test_signal_in_a_circle_is_stronger_than_over_the_whole_image() -> None:
    images = torch.zeros(1, 32, 32)
    images[0, 14:19, 14:19] = 1.0
    part = 25 / 1024
    assert signal_variance(images).item() == pytest.approx(part * (1 - part) * 1024 / 1023)
    assert signal_variance(images, 8.0) > 3 * signal_variance(images)


def test_draws_are_uniform_in_their_ranges() -> None:
    config = replace(CONFIG, count=4000, defocus_micrometers=(0.5, 3.0), astigmatism_angstrom=200.0)
    truth, _ = draw(config)
    assert truth.poses.rotations.mean(0).abs().max() < 0.04
    shifts = truth.poses.shifts_angstrom
    assert shifts.abs().max() <= 24 and shifts.std() == pytest.approx(24 / math.sqrt(3), rel=0.03)
    degrees = torch.rad2deg(truth.angles)
    torch.testing.assert_close(torch.quantile(degrees, 0.25).item(), 22.5, atol=2.0, rtol=0)
    assert degrees.min() >= 0 and degrees.max() <= 90
    assert truth.ctf is not None
    difference = truth.ctf.defocus_u_angstrom - truth.ctf.defocus_v_angstrom
    mean = (truth.ctf.defocus_u_angstrom + truth.ctf.defocus_v_angstrom) / 2
    assert mean.min() > 4999 and mean.max() < 30001 and mean.mean() == pytest.approx(17500, rel=0.02)
    assert difference.min() >= 0 and difference.square().mean().sqrt() == pytest.approx(200, rel=0.05)
    normal, _ = draw(replace(config, shift_range_angstrom=0.0, shift_std_angstrom=7.0))
    assert normal.poses.shifts_angstrom.std() == pytest.approx(7, rel=0.03)
    assert normal.poses.shifts_angstrom.abs().max() > 20


def test_images_made_a_few_at_a_time_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, count=11, snr=0.5, defocus_micrometers=(1.0, 2.0))
    at_once = simulate(config)
    monkeypatch.setattr(single_particles, "SAMPLES_AT_ONCE", 3000)
    truth, generator = draw(config)
    parts = list(noisy_images(HAND, truth, config, generator))
    assert max(len(part) for part in parts) < 5
    torch.testing.assert_close(torch.cat(parts), at_once, atol=1e-4, rtol=1e-4)


def test_seed_decides_everything_and_noise_changes_no_pose() -> None:
    config = replace(CONFIG, count=3, snr=0.5)
    assert torch.equal(simulate(config), simulate(config))
    assert not torch.allclose(simulate(config), simulate(replace(config, seed=5)))
    assert torch.equal(draw(config)[0].poses.rotations, draw(replace(config, snr=None))[0].poses.rotations)


def test_noise_over_nothing_is_refused() -> None:
    nothing = [RigidPart(Volume(torch.zeros(32, 32, 32), 12.0), torch.zeros(3))]
    truth, generator = draw()
    with pytest.raises(InputError, match="show nothing"):
        next(noisy_images(nothing, truth, replace(CONFIG, snr=1.0), generator))


@pytest.mark.parametrize(
    "field, value",
    [
        ("count", 0),
        ("side", 4),
        ("pixel_size_angstrom", 0.0),
        ("widest_angle_degrees", -1.0),
        ("shift_range_angstrom", -3.0),
        ("shift_std_angstrom", 3.0),  # beside a range
        ("defocus_micrometers", (3.0, 0.5)),
        ("astigmatism_angstrom", math.nan),
        ("snr", 0.0),
        ("snr_radius_pixels", 0.0),
        ("snr_radius_pixels", 8.0),  # of no noise
    ],
)
def test_impossible_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError):
        replace(CONFIG, **{field: value})


def test_impossible_microscope_is_refused_with_its_value() -> None:
    with pytest.raises(InputError, match="voltage_kv"):
        draw(replace(CONFIG, defocus_micrometers=(1.0, 2.0), voltage_kv=0.3))
