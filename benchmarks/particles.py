"""cryoDRGN on simulated particles: poses from nothing, one volume, and volumes along a motion, against the truth.

Goals of 003 and 004 at a size that a CPU can do. A hand without noise and with SNR 0.1, whose poses are found from
nothing; a hand whose thumb turns, at known poses and from nothing. "Ceiling" are the poses that the same search finds
against the true volume: what noise leaves of them. Volumes of the moving hand are those at the median z of the 20
particles whose angles are nearest to that of a true volume; beside them the resolution of one volume for all of them
(004, 5.3).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor

from scoretomo.commands.drgn_folder import open_run, trained_model
from scoretomo.commands.drgn_images import ParticlesConfig, open_particles, particle_images, prepare_images
from scoretomo.datatypes import Volume
from scoretomo.evaluation.comparison import compare
from scoretomo.evaluation.pose_error import PoseErrors, pose_errors
from scoretomo.imaging.slices import voxel_slices
from scoretomo.io.mrc import read_volume
from scoretomo.io.particles import Particles, read_particles
from scoretomo.io.tables import read_table
from scoretomo.methods.abinitio_schedule import AbInitioConfig
from scoretomo.methods.latent_vae import decode_volumes
from scoretomo.methods.pose_search import find_poses

from .commands import scoretomo
from .record import Row
from .timing import three_digits

# Images whose poses are found against the true volume.
_CEILING = 500


@dataclass(frozen=True)
class Settings:
    """How large the sets are, and how they are trained."""

    output: Path = Path("particles")
    """Folder for the sets and runs; what is there is not made again."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    side: int = 32
    """Edge of the images in pixels (003: 64 for the hand)."""
    count: int = 1000
    """Images of the rigid sets (003: 50 000)."""
    moving_count: int = 2000
    """Images of the moving set."""
    moving_snr: float = 1.0
    """Its signal to noise: with 0.1 at 32 pixels not even the true volumes tell the angle of an image."""
    hidden: int = 64
    """Width of the coordinate network (003: 256)."""
    epochs: int = 30
    """Of each training."""
    only: tuple[str, ...] = ()
    """Sets by name: clean, noisy, moving. None: all."""


def measure(settings: Settings) -> Iterator[Row]:
    """Make sets and runs, and compare them with their truth."""
    wanted = settings.only or ("clean", "noisy", "moving")
    for name in wanted:
        data = settings.output / name
        if not (data / "particles.star").exists():
            _simulate(name, data, settings)
        methods = ("known", "search") if name == "moving" else ("search",)
        for poses in methods:
            for latent in (0, 1) if name == "moving" else (0,):
                seconds = _train(data, poses, latent, settings)
                yield {"set": name, "poses": poses, "z": latent, "seconds": seconds, **_judge(data, poses, latent)}


def _simulate(name: str, data: Path, settings: Settings) -> None:
    count = settings.moving_count if name == "moving" else settings.count
    words = ["--count", str(count), "--side", str(settings.side), "--shift-range-angstrom", "12"]
    words += {"clean": [], "noisy": ["--snr", "0.1"], "moving": ["--snr", str(settings.moving_snr)]}[name]
    words += ["--widest-angle-degrees", "90"] if name == "moving" else []
    scoretomo("simulate", "particles", "hand", "-o", str(data), *words)


def _run(data: Path, poses: str, latent: int) -> Path:
    return data.with_name(f"{data.name}_{poses}_z{latent}")


def _train(data: Path, poses: str, latent: int, settings: Settings) -> float | None:
    """Seconds that it took; None if it was there."""
    run = _run(data, poses, latent)
    if (run / ("z.csv" if latent else "volume.mrc")).exists():
        return None
    words = ["--latent-dimensions", str(latent), "--epochs", str(settings.epochs), "--poses", poses]
    words += ["--decoder.hidden", str(settings.hidden), "--device", settings.device]
    began = time.monotonic()
    scoretomo("drgn", "train", str(data / "particles.star"), "-o", str(run), *words)
    return three_digits(time.monotonic() - began)


def _judge(data: Path, poses: str, latent: int) -> Row:
    """Compare a run with its truth."""
    run, particles = _run(data, poses, latent), read_particles(data / "particles.star")
    found, truth = read_particles(run / "poses.star").poses, particles.poses
    assert found is not None and truth is not None
    true_volumes = [read_volume(path).volume for path in sorted((data / "truth").glob("*.mrc"))]
    row: Row = {"images": len(particles)}
    if poses == "search":
        row |= _errors("", pose_errors(found.rotations, truth.rotations))
        if len(true_volumes) == 1:
            row |= _errors("ceiling_", _ceiling(data, particles, true_volumes[0]))
    angles = [float(line["angle_degrees"]) for line in read_table(data / "truth.csv")]
    made = _volumes(run, latent, angles, len(true_volumes))
    scored = [
        compare(volume[None], true.voxels[None], true.pixel_size_angstrom, [0])[0]
        for volume, true in zip(made, true_volumes, strict=True)
    ]
    row["mean_resolution_pixels"] = three_digits(sum(each.resolution_pixels for each in scored) / len(scored))
    row["mean_fsc_auc"] = three_digits(sum(each.fsc_auc for each in scored) / len(scored))
    if latent:
        places = [float(line["z_1"]) for line in read_table(run / "z.csv")]
        row["spearman"] = three_digits(abs(float(spearmanr(places, angles).statistic)))
    return row


def _errors(prefix: str, errors: PoseErrors) -> Row:
    squared = errors.frobenius_squared
    return {
        f"{prefix}median_squared_frobenius": three_digits(squared.median().item()),
        f"{prefix}mean_squared_frobenius": three_digits(squared.mean().item()),
        f"{prefix}median_degrees": three_digits(errors.degrees.median().item()),
    }


def _ceiling(data: Path, particles: Particles, volume: Volume) -> PoseErrors:
    """Errors of the poses that the last search of a training would find against the true volume."""
    some = open_particles(data / "particles.star").select(torch.arange(min(_CEILING, len(particles))))
    images, record = prepare_images(some, ParticlesConfig(), lambda *_: None)
    grid = AbInitioConfig().grid(volume.side)
    transfer = particle_images(images, some.ctf, record, torch.device("cpu")).transfer
    found = find_poses(images, voxel_slices(volume.voxels), replace(grid, kept=8), transfer=transfer)
    assert some.poses is not None
    return pose_errors(found.rotations[:, 0], some.poses.rotations)


def _volumes(run: Path, latent: int, angles: list[float], count: int) -> Tensor:
    """Volumes at evenly spaced angles from the least to the largest, as true volumes are."""
    model, record = trained_model(open_run(run), torch.device("cpu"))
    if latent == 0:
        return torch.stack([record.restore(decode_volumes(model)[0]).voxels] * count)
    z = torch.tensor([[float(line["z_1"])] for line in read_table(run / "z.csv")])
    wanted = torch.linspace(0, 90, count)
    nearest = (torch.tensor(angles)[:, None] - wanted).abs().argsort(0)[:20]  # (20, count)
    places = z[nearest].median(0).values
    return torch.stack([record.restore(each).voxels for each in decode_volumes(model, places)])
