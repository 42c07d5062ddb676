import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.commands.particle_sets import write_particle_set
from scoretomo.commands.simulated_objects import build_object
from scoretomo.datatypes import InputError
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.projection import project
from scoretomo.io.mrc import read_images, read_volume
from scoretomo.io.particles import read_particles
from scoretomo.io.star import read_poses
from scoretomo.simulation.single_particles import ParticleConfig, draw_particles

CONFIG = ParticleConfig(
    count=6, side=32, widest_angle_degrees=80.0, shift_range_angstrom=30.0, defocus_micrometers=(0.5, 3.0), snr=1.0
)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_files_of_a_set_belong_together(tmp_path: Path) -> None:
    command = ["simulate", "particles", "hand", "-o", str(tmp_path / "set"), "--count", "6", "--side", "32"]
    motion = ["--widest-angle-degrees", "80", "--shift-range-angstrom", "30", "--true-volumes", "9"]
    assert cli.main([*command, *motion]) == 0
    stack = read_images(tmp_path / "set" / "images.mrcs").stack
    poses = read_poses(tmp_path / "set" / "particles.star")
    assert stack.images.shape == (6, 32, 32) and stack.pixel_size_angstrom == 12.0
    with open(tmp_path / "set" / "truth.csv") as file:
        angles = [float(row["angle_degrees"]) for row in csv.DictReader(file)]
    with open(tmp_path / "set" / "truth" / "volumes.csv") as file:
        steps = [float(row["angle_degrees"]) for row in csv.DictReader(file)]
    assert steps == [10.0 * i for i in range(9)] and 0 <= min(angles) < max(angles) <= 80
    for image, rotation, shift, angle in zip(stack.images, poses.rotations, poses.shifts_angstrom, angles, strict=True):
        nearest = min(range(9), key=lambda i: abs(steps[i] - angle))
        volume = read_volume(tmp_path / "set" / "truth" / f"volume_{nearest:04d}.mrc").volume
        assert volume.pixel_size_angstrom == 12.0
        projection = translate(project(volume.voxels[None], rotation[None, None])[0], shift[None] / 12.0)[0]
        assert correlation(image, projection) > 0.98
    assert cli.main(command) == 2  # the folder is taken


def test_star_file_has_the_contrast_transfer_that_was_drawn(tmp_path: Path) -> None:
    parts, _ = build_object("hand", CONFIG)
    write_particle_set(tmp_path / "set", parts, CONFIG, true_volumes=2)
    truth = draw_particles(CONFIG, torch.Generator().manual_seed(CONFIG.seed))
    particles = read_particles(tmp_path / "set" / "particles.star")
    assert particles.ctf is not None and particles.poses is not None and truth.ctf is not None
    for name, expected in vars(truth.ctf).items():
        torch.testing.assert_close(getattr(particles.ctf, name), expected, rtol=1e-6, atol=1e-4)
    assert particles.pixel_size_angstrom == 12.0 and len(particles) == 6
    torch.testing.assert_close(particles.poses.rotations, truth.poses.rotations, atol=2e-6, rtol=0)
    torch.testing.assert_close(particles.poses.shifts_angstrom, truth.poses.shifts_angstrom, atol=2e-5, rtol=0)


def test_ctf_of_real_particles_is_dealt_out_to_the_simulated_ones(tmp_path: Path) -> None:
    columns = ("ImageName", "DefocusU", "DefocusV", "DefocusAngle", "Voltage", "SphericalAberration")
    head = "".join(f"_rln{name}\n" for name in (*columns, "AmplitudeContrast"))
    rows = "".join(
        f"{i}@gone.mrcs {10000 + i} {9000 + i} 30 {voltage} 2.7 0.07\n"
        for i, voltage in enumerate((200, 300, 300, 200), 1)
    )
    (tmp_path / "real.star").write_text(f"data_\n\nloop_\n{head}{rows}")
    parts, _ = build_object("hand", CONFIG)
    config = replace(CONFIG, defocus_micrometers=None)
    write_particle_set(tmp_path / "set", parts, config, true_volumes=1, ctf_of=tmp_path / "real.star")
    ctf = read_particles(tmp_path / "set" / "particles.star").ctf
    assert ctf is not None
    assert sorted(ctf.defocus_u_angstrom[:4].tolist()) == [10001, 10002, 10003, 10004]
    assert torch.equal(ctf.defocus_v_angstrom, ctf.defocus_u_angstrom - 1000)
    # two microscopes: two optics groups
    assert torch.equal(ctf.voltage_kv == 300, (ctf.defocus_u_angstrom - 10002.5).abs() < 1)
    (tmp_path / "none.star").write_text("data_\n\nloop_\n_rlnImageName\n1@gone.mrcs\n")
    with pytest.raises(InputError, match=r"none\.star: has no CTF"):
        write_particle_set(tmp_path / "other", parts, config, ctf_of=tmp_path / "none.star")
    with pytest.raises(InputError, match=r"--ctf-of .* or --defocus-micrometers, not both"):
        write_particle_set(tmp_path / "other", parts, CONFIG, ctf_of=tmp_path / "real.star")
    assert not (tmp_path / "other").exists()


def test_interrupted_set_has_no_images(tmp_path: Path) -> None:
    def stop(part: float, note: str) -> None:
        raise KeyboardInterrupt

    parts, _ = build_object("hand", CONFIG)
    with pytest.raises(KeyboardInterrupt):
        write_particle_set(tmp_path / "set", parts, CONFIG, true_volumes=1, report=stop)
    assert not [path for path in (tmp_path / "set").iterdir() if path.suffix == ".mrcs"]
