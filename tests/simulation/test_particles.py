import pytest
import torch

from scoretomo.datatypes import InputError, Volume
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.projection import project
from scoretomo.simulation.particles import SimulationConfig, simulate_box, simulate_capsid, simulate_map
from scoretomo.simulation.phantoms import box, capsid


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


def test_capsid_is_simulated_like_the_box() -> None:
    simulation = simulate_capsid(SimulationConfig(count=2, side=48))
    shells = capsid(simulation.conformations[:, 0], 48)
    projected = project(shells, simulation.poses.rotations[:, None])[:, 0]
    assert correlation(projected, simulation.stack.images).min() > 0.999
    assert simulation.conformation_names == ("opening",)


def test_images_of_a_map_are_its_projections() -> None:
    volume = Volume(box(torch.tensor([[0.5, 1.5]]), 48)[0], 2.0)
    simulation = simulate_map(volume, SimulationConfig(count=3, side=48, seed=2))
    projected = project(volume.voxels.expand(3, 48, 48, 48), simulation.poses.rotations[:, None])[:, 0]
    assert correlation(projected, simulation.stack.images).min() > 0.999
    torch.testing.assert_close(simulation.truth.sum(1), simulation.stack.images)
    assert simulation.stack.pixel_size_angstrom == pytest.approx(2.0)
    assert simulation.conformations.shape == (3, 0)


@pytest.mark.parametrize("pixel_size", [None, 3.0, 5.0])
def test_map_keeps_its_size_in_angstrom(pixel_size: float | None) -> None:
    volume = Volume(box(torch.tensor([[1.0, 1.0]]), 48)[0], 3.0)

    def gyration(voxels: torch.Tensor, pixel: float) -> torch.Tensor:
        squares = (radius_grid(voxels.shape[-1], 3) * pixel) ** 2
        return (((voxels * squares).sum((-3, -2, -1))) / voxels.sum((-3, -2, -1))).sqrt()

    simulation = simulate_map(volume, SimulationConfig(count=2, side=32, pixel_size_angstrom=pixel_size))
    stack = simulation.stack
    assert stack.pixel_size_angstrom == pytest.approx(pixel_size or 4.5, rel=0.01)
    if pixel_size != 3.0:  # at 3 Angstrom the images see only the middle of the map
        expected = gyration(volume.voxels, 3.0).expand(2)
        torch.testing.assert_close(gyration(simulation.truth, stack.pixel_size_angstrom), expected, rtol=0.02, atol=0)
    centre = simulation.truth.sum((2, 3)) @ (torch.arange(32.0) - 16) / simulation.truth.sum((1, 2, 3))
    assert centre.abs().max() < 0.1


@pytest.mark.parametrize("pixel_size", [0.01, 100.0])
def test_pixels_that_the_map_cannot_fill_are_refused(pixel_size: float) -> None:
    config = SimulationConfig(count=1, side=16, pixel_size_angstrom=pixel_size)
    with pytest.raises(InputError, match=f"{pixel_size:g} Angstrom; choose 0.5 to 4"):
        simulate_map(Volume(torch.ones(16, 16, 16), 2.0), config)


def test_progress_passes_through_track() -> None:
    seen: list[int] = []

    def track(indices: range) -> list[int]:
        seen.extend(indices)
        return seen

    simulate_capsid(SimulationConfig(count=3, side=16), track=track)
    assert seen == [0, 1, 2]
