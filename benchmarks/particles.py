"""cryoDRGN on simulated particles: poses from nothing, one volume, and volumes along a motion, against the truth.

Goals of 003 and 004 at a size that a CPU can do. A hand without noise and with SNR 0.1, whose poses are found from
nothing; a hand whose thumb turns, or an atomic model a part of which does, at known poses and from nothing. "Ceiling"
are the poses that the same search finds against the true volume: what noise leaves of them. Of rigid sets also the map
that is the back projection of the images at the poses found. Volumes of the moving
objects are those of single images, at the z that each has, against the true volume of its angle, as a whole and under a
mask around what moves; beside them one volume for all images (004, 5.3).
"""

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
from scoretomo.evaluation.fsc import fourier_shell_correlation, resolution_pixels
from scoretomo.evaluation.pose_error import PoseErrors, pose_errors
from scoretomo.imaging.molecular_mask import molecular_mask
from scoretomo.imaging.slices import voxel_slices
from scoretomo.io.checkpoints import load_checkpoint
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
# True volumes of the moving object, evenly spaced in its angle, and images that are compared with them.
_TRUE_VOLUMES = 30
_WIDEST_DEGREES = 90
# Where poses come from and latent variables, for each set.
_TRAININGS = {
    "clean": (("search", 0),),
    "noisy": (("search", 0),),
    "moving": (("known", 0), ("known", 1), ("search", 1)),
    "opening": (("known", 0), ("known", 1)),
}
# Shifts that are searched: 3 pixels to either side at 64 pixels, which is what there is.
_SHIFT_EXTENT, _SHIFT_COUNT = 0.05, 5


@dataclass(frozen=True)
class Settings:
    """How large the sets are, and how they are trained."""

    output: Path = Path("particles")
    """Folder for the sets and runs; what is there is not made again."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    side: int = 64
    """Edge of the images in pixels, as in 003 for the hand. With 32, SNR 0.1 hides the poses."""
    count: int = 1000
    """Images of the rigid sets (003: 50 000)."""
    moving_count: int = 2000
    """Images of the moving sets."""
    moving_snr: float = 1.0
    """Their signal to noise."""
    hidden: int = 64
    """Width of the coordinate network (003: 256)."""
    model: Path | None = None
    """An atomic model (.pdb, .cif), whose further half turns about its middle: one more set, called opening, at known
    poses."""
    model_hidden: int = 128
    """Width of its network."""
    epochs: int = 20
    """Of each training."""
    only: tuple[str, ...] = ()
    """Sets by name: clean, noisy, moving, opening. None: all."""


def measure(settings: Settings) -> Iterator[Row]:
    """Make sets and runs, and compare them with their truth."""
    there = ("clean", "noisy", "moving") + (("opening",) if settings.model else ())
    for name in settings.only or there:
        data = settings.output / name
        if not (data / "particles.star").exists():
            _simulate(name, data, settings)
        for poses, latent in _TRAININGS[name]:
            hidden = settings.model_hidden if name == "opening" else settings.hidden
            seconds = three_digits(_train(data, poses, latent, hidden, settings))
            yield {"set": name, "poses": poses, "z": latent, "seconds": seconds, **_judge(data, poses, latent)}


def _simulate(name: str, data: Path, settings: Settings) -> None:
    rigid, what = name in ("clean", "noisy"), str(settings.model) if name == "opening" else "hand"
    words = ["--count", str(settings.count if rigid else settings.moving_count), "--side", str(settings.side)]
    words += ["--shift-range-angstrom", "12"]
    if name != "clean":
        words += ["--snr", "0.1" if rigid else str(settings.moving_snr)]
    if not rigid:
        words += ["--widest-angle-degrees", str(_WIDEST_DEGREES), "--true-volumes", str(_TRUE_VOLUMES)]
    scoretomo("simulate", "particles", what, "-o", str(data), *words)


def _run(data: Path, poses: str, latent: int) -> Path:
    return data.with_name(f"{data.name}_{poses}_z{latent}")


def _train(data: Path, poses: str, latent: int, hidden: int, settings: Settings) -> float:
    """Train, if that has not been done; seconds of training."""
    run = _run(data, poses, latent)
    words = ["--latent-dimensions", str(latent), "--epochs", str(settings.epochs), "--poses", poses]
    words += ["--decoder.hidden", str(hidden), "--device", settings.device]
    if poses == "search":
        words += ["--search.shift-extent", str(_SHIFT_EXTENT), "--search.shift-count", str(_SHIFT_COUNT)]
    scoretomo("drgn", "train", str(data / "particles.star"), "-o", str(run), *words)
    saved = load_checkpoint(run / "checkpoint.pt", lazily=True)
    assert saved is not None
    return float(saved["seconds"])


def _judge(data: Path, poses: str, latent: int) -> Row:
    """Compare a run with its truth."""
    run, particles = _run(data, poses, latent), read_particles(data / "particles.star")
    found, truth = read_particles(run / "poses.star").poses, particles.poses
    assert found is not None and truth is not None
    true_volumes = [read_volume(path).volume for path in sorted((data / "truth").glob("*.mrc"))]
    truths = torch.stack([volume.voxels for volume in true_volumes])
    row: Row = {"images": len(particles)}
    if poses == "search":
        row |= _errors("", pose_errors(found.rotations, truth.rotations))
        if len(truths) == 1:
            row |= _errors("ceiling_", _ceiling(data, particles, true_volumes[0]))
    angles = [float(line["angle_degrees"]) for line in read_table(data / "truth.csv")]
    row |= _scores(_volumes(run, latent, angles, len(truths)), truths)
    if len(truths) == 1:
        scores = _scores(_back_projection(run)[None], truths)
        row |= {f"back_projection_{name}": value for name, value in scores.items()}
    if latent:
        places = [float(line["z_1"]) for line in read_table(run / "z.csv")]
        row["spearman"] = three_digits(abs(float(spearmanr(places, angles).statistic)))
    return row


def _scores(volumes: Tensor, truths: Tensor) -> Row:
    """Means over pairs of volumes: of the whole, and of the part that differs among the truths, if one does."""
    compared = [compare(a[None], b[None], 1.0, [0])[0] for a, b in zip(volumes, truths, strict=True)]
    aligned, size = torch.stack([each.aligned for each in compared]), len(compared)
    row: Row = {
        "mean_resolution_pixels": three_digits(sum(each.resolution_pixels for each in compared) / size),
        "mean_fsc_auc": three_digits(sum(each.fsc_auc for each in compared) / size),
    }
    if size == 1:
        return row
    mask = molecular_mask(truths.std(0))
    curves = fourier_shell_correlation(mask * aligned, mask * truths)
    row["moving_resolution_pixels"] = three_digits(resolution_pixels(curves, side=truths.shape[-1]).mean().item())
    inside = mask > 0.5
    row["correlation"] = three_digits(_correlation(aligned.flatten(1), truths.flatten(1)))
    row["moving_correlation"] = three_digits(_correlation(aligned[:, inside], truths[:, inside]))
    return row


def _correlation(first: Tensor, second: Tensor) -> float:
    """Mean of Pearson's coefficient over pairs of rows."""
    return float(
        torch.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)).mean()
    )


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
    grid = AbInitioConfig(shift_extent=_SHIFT_EXTENT, shift_count=_SHIFT_COUNT).grid(volume.side)
    transfer = particle_images(images, some.ctf, record, torch.device("cpu")).transfer
    found = find_poses(images, voxel_slices(volume.voxels), replace(grid, kept=8), transfer=transfer)
    assert some.poses is not None
    return pose_errors(found.rotations[:, 0], some.poses.rotations)


def _volumes(run: Path, latent: int, angles: list[float], count: int) -> Tensor:
    """Volumes of the images whose angles are nearest to those of the true volumes."""
    model, record = trained_model(open_run(run), torch.device("cpu"))
    if latent == 0:
        return torch.stack([record.restore(decode_volumes(model)[0]).voxels] * count)
    z = torch.tensor([[float(line["z_1"])] for line in read_table(run / "z.csv")])
    wanted = torch.linspace(0, _WIDEST_DEGREES, count)
    nearest = (torch.tensor(angles)[:, None] - wanted).abs().argmin(0)
    return torch.stack([record.restore(each).voxels for each in decode_volumes(model, z[nearest])])


def _back_projection(run: Path) -> Tensor:
    """The map of the images at the poses of a run."""
    folder = run.with_name(f"{run.name}_map")
    if not folder.exists():
        scoretomo("drgn", "backproject", str(run / "poses.star"), "-o", str(folder))
    return read_volume(folder / "volume.mrc").volume.voxels
