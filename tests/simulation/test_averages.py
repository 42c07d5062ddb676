import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError, Volume
from scoretomo.geometry.rotations import about_z, angle_between
from scoretomo.imaging.fourier import hartley, radius_grid, translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.simulation import averages
from scoretomo.simulation.averages import AverageConfig, ClassAverages, draw_averages, simulate_averages
from scoretomo.simulation.motions import RigidPart, hand_parts
from scoretomo.simulation.moving_objects import jointed_object
from scoretomo.simulation.single_particles import ParticleTruth, noisy_images

SIDE, PIXEL = 24, 12.0
PARTS = hand_parts(SIDE, PIXEL)
HAND = jointed_object(PARTS, 90.0)
NO_ERRORS = AverageConfig(
    count=4,
    side=SIDE,
    particles_per_class=6,
    angle_std_degrees=0.0,
    shift_std_pixels=0.0,
    state_std=0.0,
    centre_std_pixels=0.0,
    defocus_micrometers=None,
    snr=None,
)
ALL_ERRORS = AverageConfig(count=5, side=SIDE, particles_per_class=8)


def simulate(config: AverageConfig) -> ClassAverages:
    return simulate_averages(HAND, config)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_without_errors_an_average_is_the_projection_of_its_truth() -> None:
    made = simulate(NO_ERRORS)
    projections = made.volumes.sum(1)
    torch.testing.assert_close(made.images, projections, atol=1e-5 * float(projections.max()), rtol=0)
    torch.testing.assert_close(made.halves[:, 0], made.halves[:, 1], atol=1e-5 * float(projections.max()), rtol=0)


def test_truth_is_the_object_in_the_frame_of_the_image() -> None:
    """Turned back by its pose, each volume is the same object but for its thumb."""
    made = simulate(replace(NO_ERRORS, widest_angle_degrees=0.0))
    back = rotate_volumes(made.volumes, made.truth.poses.rotations.mT)
    assert correlation(back[0], back[1]) > 0.95
    for volume, rotation, other in zip(back, made.truth.poses.rotations, made.volumes, strict=True):
        assert correlation(project(volume[None], rotation[None, None])[0, 0], other.sum(0)) > 0.98


def test_halves_are_means_of_particles_of_the_true_poses() -> None:
    """Against the images of ``simulate particles``, of a rigid object, with all errors of alignment."""
    part = RigidPart(PARTS[0].density, torch.zeros(3))
    config = replace(ALL_ERRORS, defocus_micrometers=None, snr=None)
    made = simulate_averages(jointed_object([part], 0.0), config)
    truth = ParticleTruth(made.truth.particle_poses, torch.zeros(40), None)
    settings = replace(config.of_particles(), snr=None)
    particles = torch.cat(list(noisy_images([part], truth, settings, torch.Generator()))).view(5, 8, SIDE, SIDE)
    torch.testing.assert_close(made.halves[:, 0], particles[:, ::2].mean(1), atol=1e-3, rtol=0)
    torch.testing.assert_close(made.halves[:, 1], particles[:, 1::2].mean(1), atol=1e-3, rtol=0)
    torch.testing.assert_close(made.images, particles.mean(1), atol=1e-3, rtol=0)
    assert made.truth.states.shape == (5, 0)


def test_whole_averages_are_off_centre_by_the_shifts_of_their_poses() -> None:
    made = simulate(replace(NO_ERRORS, centre_std_pixels=2.0))
    shifts = made.truth.poses.shifts_angstrom / PIXEL
    assert shifts.abs().max() > 1.5
    torch.testing.assert_close(made.images, translate(made.volumes.sum(1), shifts), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "error, left",
    [
        ({"angle_std_degrees": 15.0}, 0.85),
        ({"shift_std_pixels": 1.5}, 0.85),
        ({"state_std": 0.3}, 0.97),
    ],  # the thumb only
)
def test_each_error_blurs(error: dict[str, float], left: float) -> None:
    sharp, blurred = simulate(NO_ERRORS), simulate(replace(NO_ERRORS, particles_per_class=40, **error))
    torch.testing.assert_close(sharp.volumes, blurred.volumes)  # the truth is that of the class
    fine = radius_grid(SIDE, 2) > SIDE / 4
    power = [hartley(made.images, 2)[:, fine].square().mean() for made in (sharp, blurred)]
    assert power[1] < left * power[0]


def test_mixed_states_are_a_mean_over_states_in_one_view() -> None:
    made = simulate(replace(NO_ERRORS, count=2, state_std=0.3))
    truth = made.truth
    for image in range(2):
        mean = torch.zeros(SIDE, SIDE)
        for state in truth.particle_states.view(2, 6)[image]:
            only = replace(NO_ERRORS, count=1, particles_per_class=2)
            view = averages.AverageTruth(
                truth.poses.select(torch.tensor([image])),
                state.view(1, 1),
                truth.particle_poses.select(torch.tensor([6 * image] * 2)),
                state.expand(2, 1),
                None,
            )
            sums = averages._Sums(HAND, only, view, with_volumes=True)
            sums.add_all()
            mean += sums.volumes()[0].sum(0) / 6
        torch.testing.assert_close(made.images[image], mean, atol=2e-4, rtol=0)


def test_particles_scatter_as_asked_about_their_class() -> None:
    config = replace(ALL_ERRORS, count=40, particles_per_class=100, centre_std_pixels=3.0)
    truth = draw_averages(HAND, config, torch.Generator().manual_seed(3))
    nominal = truth.poses.rotations.repeat_interleave(100, 0)
    # each of three axes by 5 degrees: root mean square of the whole angle sqrt(3) times that
    angles = angle_between(truth.particle_poses.rotations, nominal)
    assert angles.square().mean().sqrt() == pytest.approx(5 * math.sqrt(3), rel=0.03)
    shifts = (truth.particle_poses.shifts_angstrom - truth.poses.shifts_angstrom.repeat_interleave(100, 0)) / PIXEL
    assert shifts.std() == pytest.approx(0.5, rel=0.03)
    assert (truth.poses.shifts_angstrom / PIXEL).std() == pytest.approx(3.0, rel=0.2)
    states = truth.particle_states
    assert states.min() >= 0 and states.max() <= 90
    inner = (truth.states[:, 0] > 25) & (truth.states[:, 0] < 65)  # where nothing is clipped
    scatter = (states.view(40, 100) - truth.states)[inner]
    assert scatter.std() == pytest.approx(0.075 * 90, rel=0.05)
    assert truth.states.min() < 20 and truth.states.max() > 70
    assert truth.ctf is not None and len(truth.ctf) == 4000
    mean = (truth.ctf.defocus_u_angstrom + truth.ctf.defocus_v_angstrom) / 2
    assert mean.min() > 11999 and mean.max() < 24001 and mean.std() > 3000


def test_rings_are_damped_by_the_absolute_ctf() -> None:
    clean = simulate(NO_ERRORS)
    config = replace(NO_ERRORS, defocus_micrometers=(6.0, 6.0), astigmatism_angstrom=0.0)
    flipped = simulate(config)
    wavelength, k = 0.0196875, radius_grid(SIDE, 2) / (SIDE * PIXEL)
    chi = math.pi * wavelength * k**2 * (6e4 - 2.7e7 * wavelength**2 * k**2 / 2) + math.asin(0.1)
    inside = radius_grid(SIDE, 2) < SIDE // 2 - 1
    assert (chi[inside].sin() < -0.3).any()  # phases that are flipped
    expected = hartley(clean.images, 2) * chi.sin().abs()
    difference = (hartley(flipped.images, 2) - expected)[:, inside]
    assert difference.norm() < 1e-3 * expected[:, inside].norm()


def test_noise_is_that_of_the_particles() -> None:
    config = replace(ALL_ERRORS, count=30, particles_per_class=12, snr=0.2)
    clean, noisy = simulate(replace(config, snr=None)), simulate(config)
    one = replace(config, particles_per_class=2, angle_std_degrees=0.0, shift_std_pixels=0.0, state_std=0.0, snr=None)
    particle = simulate(one).images  # all particles of a class are one image, but for their CTF
    assert torch.equal(clean.volumes, noisy.volumes)
    noise = noisy.halves - clean.halves
    even, odd = noise.unbind(1)
    level = particle.var(dim=(1, 2)).mean() / 0.2
    assert (even.var() * 6 / level).item() == pytest.approx(1, rel=0.1)
    assert odd.var().item() == pytest.approx(even.var().item(), rel=0.1)
    assert (noisy.images - clean.images).var().item() == pytest.approx(even.var().item() / 2, rel=0.1)
    assert abs(correlation(even, odd)) < 0.03
    white = hartley(even, 2) ** 2
    rings = [white[:, (radius_grid(SIDE, 2) > low) & (radius_grid(SIDE, 2) <= low + 4)].mean() for low in (0, 4, 8, 12)]
    assert max(rings) / min(rings) < 1.25


def test_average_is_the_mean_of_its_halves() -> None:
    made = simulate(replace(ALL_ERRORS, junk=2))
    torch.testing.assert_close(made.images, (made.halves[:, 0] + made.halves[:, 1]) / 2)
    assert made.images.shape == (7, SIDE, SIDE) and made.volumes.shape == (5, SIDE, SIDE, SIDE)


def test_seed_decides_everything_and_junk_changes_no_other_average() -> None:
    first, again, other = simulate(ALL_ERRORS), simulate(ALL_ERRORS), simulate(replace(ALL_ERRORS, seed=1))
    assert torch.equal(first.images, again.images) and torch.equal(first.volumes, again.volumes)
    assert not torch.allclose(first.images, other.images)
    with_junk = simulate(replace(ALL_ERRORS, junk=3))
    assert torch.equal(with_junk.images[:5], first.images)
    assert torch.equal(with_junk.truth.particle_poses.rotations, first.truth.particle_poses.rotations)


def test_averages_made_a_few_at_a_time_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = simulate(ALL_ERRORS)
    monkeypatch.setattr(averages, "SAMPLES_AT_ONCE", 3000)
    made = simulate(ALL_ERRORS)
    torch.testing.assert_close(made.halves, at_once.halves, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(made.volumes, at_once.volumes, atol=1e-5, rtol=1e-5)


def test_junk_is_noise_views_and_ice_in_turn() -> None:
    made = simulate(replace(NO_ERRORS, count=20, particles_per_class=200, junk=4))
    noise, _, ice, more_noise = made.images[20:]
    assert noise.abs().max() == 0 and more_noise.abs().max() == 0
    # the object from everywhere at once looks alike from all sides, as no view of it does
    turned = rotate_volumes(made.images[:, None].expand(-1, SIDE, -1, -1), about_z(torch.full((24,), 1.0)))[:, 12]
    round_ = [correlation(image, turn) for image, turn in zip(made.images, turned, strict=True)]
    assert round_[21] > 0.97 > max(round_[:20])
    assert ice.var() == pytest.approx(made.images[:20].var(dim=(1, 2)).mean().item(), rel=0.01)
    assert correlation(ice, made.images[21]) < 0.9
    assert made.junk is not None and len(made.junk) == 4
    noisy = simulate(replace(ALL_ERRORS, junk=1))
    assert noisy.images[5].std() > 0 and abs(correlation(noisy.halves[5, 0], noisy.halves[5, 1])) < 0.15


def test_noise_over_nothing_is_refused() -> None:
    nothing = jointed_object([RigidPart(Volume(torch.zeros(SIDE, SIDE, SIDE), PIXEL), torch.zeros(3))], 0.0)
    with pytest.raises(InputError, match="show nothing"):
        simulate_averages(nothing, ALL_ERRORS)


def test_progress_passes_through_track() -> None:
    seen: list[int] = []

    def track(indices: range) -> list[int]:
        seen.extend(indices)
        return list(indices)

    simulate_averages(HAND, replace(NO_ERRORS, count=1), track=track)
    assert seen == [0, 1]


@pytest.mark.parametrize(
    "field, value",
    [
        ("count", 0),
        ("side", 4),
        ("particles_per_class", 7),
        ("particles_per_class", 0),
        ("junk", -1),
        ("angle_std_degrees", -1.0),
        ("shift_std_pixels", math.nan),
        ("state_std", -0.1),
        ("centre_std_pixels", math.inf),
        ("defocus_micrometers", (3.0, 0.5)),
        ("snr", 0.0),
        ("pixel_size_angstrom", -1.0),
        ("widest_angle_degrees", 400.0),
    ],
)
def test_impossible_settings_are_refused(field: str, value: object) -> None:
    shown = str(value) if not isinstance(value, tuple) else "3.0 to 0.5"
    with pytest.raises(InputError, match=shown):
        replace(ALL_ERRORS, **{field: value})
