"""Frames and hands of a set of volumes: how many come within 5 degrees of one another, and in the right hand.

Sets are simulated volumes of the moving box and capsid, in random rotations and hands, with noise; and, of folders
that have been simulated and reconstructed (`FOLDER/sim` and `FOLDER/run`), the true volumes and the reconstructed ones.
A symmetric core leaves its group open. So the errors count up to the group of the core, with its mirrorings, since both
objects' cores are achiral; where a moving part tells more, up to the object's own group too. A reconstructed volume
shows the molecule some degrees beside the pose of its image, and in either hand: its frame is taken from its alignment
to its true volume, and how far that is from the pose is said beside it. Up to its own group only those volumes count
that show a hand, clearly nearer to their truth than to its mirror image.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scoretomo.ensemble.synchronise import Synchronisation, synchronise
from scoretomo.evaluation.alignment import Alignment, AlignmentConfig, align
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.resampling import mirror_z
from scoretomo.io.mrc import read_volume
from scoretomo.io.star import read_poses
from scoretomo.simulation.phantoms import box, capsid

from .record import Row
from .timing import three_digits

Object = Literal["box", "capsid"]

_MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
_CORES = {"box": "D4", "capsid": "I1"}
_WITHIN = 5.0  # degrees
_CLEAR = 0.03  # margin of a hand that a reconstructed volume shows
_REFINEMENTS = 5


@dataclass(frozen=True)
class Settings:
    """What to synchronise. The defaults take some minutes on two cores."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    objects: tuple[Object, ...] = ("box", "capsid")
    """Objects whose volumes are simulated."""
    volumes: int = 30
    """Volumes of a simulated set."""
    side: int = 28
    """Side of the simulated volumes."""
    noise: tuple[float, ...] = (1.0, 2.0)
    """Standard deviation of the noise, in units of that of the volumes."""
    folders: tuple[Path, ...] = ()
    """Reconstructed sets, each a folder whose name begins with the object's, with `sim` and `run` in it."""
    seeds: int = 1
    """Volumes of each image that are taken from a reconstructed set."""


@dataclass(frozen=True)
class VolumeSet:
    """Volumes whose frames are known."""

    name: str
    subject: Object
    volumes: Float[Tensor, "n s s s"]
    matrices: Float[Tensor, "n 3 3"]
    """From the object to each volume, orthogonal."""
    pose_degrees: float | None = None
    """Median angle of reconstructed volumes to the poses of their images, up to the core's group."""
    clear: Bool[Tensor, " n"] | None = None
    """Reconstructed volumes that show their hand: clearly nearer to their truth than to its mirror image."""


def measure(settings: Settings) -> Iterator[Row]:
    """One row for each set."""
    for volume_set in _sets(settings):
        began = time.perf_counter()
        found = synchronise(volume_set.volumes.to(settings.device))
        yield _row(volume_set, found, time.perf_counter() - began)


def _sets(settings: Settings) -> Iterator[VolumeSet]:
    for subject in settings.objects:
        for noise in settings.noise:
            yield _simulated(subject, settings.volumes, settings.side, noise)
    for folder in settings.folders:
        subject = next(name for name in _CORES if folder.name.startswith(name))
        names = sorted(path.stem for path in (folder / "run" / "volumes").glob("volume_????.mrc"))
        poses = read_poses(folder / "sim" / "particles.star").rotations[[int(name[7:]) for name in names]]
        truth = torch.stack([_voxels(folder / "sim" / "truth" / f"{name}.mrc") for name in names])
        yield VolumeSet(f"{folder.name}, truth", subject, truth, poses)
        files = [f"{name}{ending}.mrc" for ending in _endings(settings.seeds) for name in names]
        volumes = torch.stack([_voxels(folder / "run" / "volumes" / name) for name in files])
        repeats = (settings.seeds, 1, 1)
        matrices, degrees, clear = _as_reconstructed(subject, volumes, truth.repeat(*repeats, 1), poses.repeat(repeats))
        yield VolumeSet(f"{folder.name}, reconstructed", subject, volumes, matrices, degrees, clear)


def _as_reconstructed(
    subject: Object,
    volumes: Float[Tensor, "n s s s"],
    truth: Float[Tensor, "n s s s"],
    poses: Float[Tensor, "n 3 3"],
) -> tuple[Float[Tensor, "n 3 3"], float, Bool[Tensor, " n"]]:
    """From the object to each volume as the volume shows it, the median angle to the poses, and which show a hand."""
    to_truth = align(volumes, truth, AlignmentConfig(shells=(6, 12), kept=(8, 1)))
    shown = _matrices(to_truth).mT @ poses
    # the volume mirrored along the line of sight has the same projection
    either = torch.stack([poses, _MIRROR @ poses], dim=1)
    equal = (either[:, :, None] @ _with_inversions(subject)).flatten(1, 2)
    degrees = _degrees(equal, shown[:, None].expand_as(equal)).amin(1)
    return shown, float(degrees.median()), to_truth.hand_margin >= _CLEAR


def _endings(seeds: int) -> list[str]:
    return ["", *(f"_seed{seed}" for seed in range(1, seeds))]


def _voxels(path: Path) -> Float[Tensor, "s s s"]:
    return read_volume(path).volume.voxels


def _simulated(subject: Object, count: int, side: int, noise: float) -> VolumeSet:
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(count, generator=generator)
    if subject == "box":
        volumes = box(torch.rand(count, 2, generator=generator) * math.pi, side, rotations)
    else:
        volumes = capsid(torch.rand(count, generator=generator), side, rotations)
    mirrored = (torch.rand(count, generator=generator) < 0.5)[:, None, None]
    volumes = torch.where(mirrored[..., None], mirror_z(volumes), volumes)
    volumes = volumes + noise * volumes.std() * torch.randn(volumes.shape, generator=generator)
    matrices = torch.where(mirrored, _MIRROR @ rotations, rotations)
    return VolumeSet(f"{subject}, noise {noise:g}", subject, volumes, matrices)


def _row(volume_set: VolumeSet, found: Synchronisation, seconds: float) -> Row:
    core_errors = _errors(volume_set, found, _with_inversions(volume_set.subject))
    own_errors = _errors(volume_set, found, _own_group(volume_set.subject))
    known = torch.ones(len(own_errors), dtype=torch.bool) if volume_set.clear is None else volume_set.clear
    right, certain = own_errors < _WITHIN, found.hand_certain.cpu()
    return {
        "set": volume_set.name,
        "volumes": len(volume_set.volumes),
        "group": found.symmetry.group,
        "correlation": three_digits(found.symmetry.correlation),
        "mirror_correlation": three_digits(found.symmetry.mirror_correlation),
        "within_5_degrees": _share(core_errors < _WITHIN),
        "median_degrees": three_digits(float(core_errors.median())),
        "within_5_degrees_up_to_own_group": _share(right[known]),
        "hands_certain": _share(certain),
        "right_of_certain": _share(right[known & certain]),
        "pose_degrees": volume_set.pose_degrees and three_digits(volume_set.pose_degrees),
        "seconds": three_digits(seconds),
    }


def _share(what: Bool[Tensor, " n"]) -> float | None:
    return three_digits(float(what.float().mean())) if len(what) else None


def _with_inversions(subject: Object) -> Float[Tensor, "g 3 3"]:
    group = symmetry_group(_CORES[subject])
    return torch.cat([group, -group])


def _own_group(subject: Object) -> Float[Tensor, "g 3 3"]:
    """Of the object; for the box with the half turn that exchanges its lids, since both move alike."""
    if subject == "capsid":
        return torch.eye(3)[None]
    group = symmetry_group("D2")
    return torch.cat([group, -group])


def _errors(volume_set: VolumeSet, found: Synchronisation, group: Float[Tensor, "g 3 3"]) -> Float[Tensor, " n"]:
    """Degrees from each volume's way from the object to the common frame to that of most; 180 for another hand."""
    ways = (_matrices(found.alignment).cpu() @ volume_set.matrices)[:, None] @ group  # (n, g, 3, 3)

    def nearest(common: Float[Tensor, "3 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3 3"]]:
        least = _degrees(ways, common.expand_as(ways)).min(1)
        return least.values, ways[torch.arange(len(ways)), least.indices]

    common = min(ways[:, 0], key=lambda way: float(nearest(way)[0].clamp(max=20).mean()))
    for _ in range(_REFINEMENTS):
        degrees, own = nearest(common)
        left, _, right = torch.linalg.svd(own[degrees <= degrees.median()].mean(0))
        common = left @ right
    return nearest(common)[0]


def _matrices(alignment: Alignment) -> Float[Tensor, "n 3 3"]:
    return torch.where(alignment.mirrored[:, None, None], alignment.rotations @ _MIRROR, alignment.rotations)


def _degrees(first: Float[Tensor, "*batch 3 3"], second: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    same_hand = torch.linalg.det(first) * torch.linalg.det(second) > 0
    return torch.where(same_hand, angle_between(first, second), 180.0)
