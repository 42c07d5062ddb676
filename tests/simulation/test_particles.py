import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.imaging.projection import project
from scoretomo.simulation.particles import SimulationConfig, simulate_box
from scoretomo.simulation.phantoms import box


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.stack(
        [torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1] for x, y in zip(a, b, strict=True)]
    )


def test_sum_of_truth_over_z_is_the_clean_image() -> None:
    simulation = simulate_box(SimulationConfig(count=3, side=24))
    torch.testing.assert_close(simulation.truth.sum(1), simulation.stack.images)


def test_poses_carry_the_unrotated_box_to_the_images() -> None:
    simulation = simulate_box(SimulationConfig(count=4, side=48, seed=3))
    boxes = box(simulation.conformations, 48)
    projected = project(boxes, simulation.poses.rotations[:, None])[:, 0]
    assert correlation(projected, simulation.stack.images).min() > 0.999


def test_positive_shift_moves_the_density_to_larger_index() -> None:
    config = SimulationConfig(count=4, side=32, pixel_size_angstrom=2.0, shift_std_angstrom=3.0, seed=1)
    simulation = simulate_box(config)
    index = torch.arange(32.0)

    def centre(images: torch.Tensor) -> torch.Tensor:
        mass = images.sum((1, 2))
        return torch.stack([(images.sum(1) * index).sum(1) / mass, (images.sum(2) * index).sum(1) / mass], dim=1)

    moved = (centre(simulation.stack.images) - centre(simulation.truth.sum(1))) * 2.0
    torch.testing.assert_close(moved, simulation.poses.shifts_angstrom, atol=0.02, rtol=0)
    assert simulation.poses.shifts_angstrom.abs().max() > 1


def test_noise_has_the_snr_asked_for() -> None:
    clean = simulate_box(SimulationConfig(count=10, side=32, seed=5)).stack.images
    noisy = simulate_box(SimulationConfig(count=10, side=32, seed=5, snr=0.25)).stack.images
    noise = noisy - clean
    assert clean.var(dim=(1, 2)).mean() / noise.var() == pytest.approx(0.25, rel=0.05)
    white = torch.fft.fft2(noise).abs() ** 2
    low, high = white[:, :8, :8].mean(), white[:, 12:20, 12:20].mean()
    assert low / high == pytest.approx(1, rel=0.25)


def test_seed_decides_everything() -> None:
    config = SimulationConfig(count=2, side=16, snr=1.0, shift_std_angstrom=2.0, seed=7)
    first, again = simulate_box(config), simulate_box(config)
    other = simulate_box(SimulationConfig(count=2, side=16, snr=1.0, shift_std_angstrom=2.0, seed=8))
    assert torch.equal(first.stack.images, again.stack.images)
    assert torch.equal(first.poses.rotations, again.poses.rotations)
    assert not torch.allclose(first.truth, other.truth)


@pytest.mark.parametrize(
    "field, value",
    [
        ("count", 0),
        ("side", 2),
        ("snr", 0.0),
        ("snr", float("nan")),
        ("pixel_size_angstrom", -1.0),
        ("shift_std_angstrom", -1.0),
    ],
)
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=str(value)):
        SimulationConfig(**{field: value})
