"""``scoretomo drgn convert``: a run folder of cryoDRGN, so that its latent variables are analysed here."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from ..datatypes import InputError, Poses
from ..io import cryodrgn
from ..io.particles import Particles
from ..methods.latent_vae import LatentVAEConfig
from ..run_lock import locked
from .drgn_folder import DrgnConfig, ParticleFiles, start_run, write_latent, write_poses
from .drgn_images import open_particles


@dataclass(frozen=True)
class ConvertSource:
    """What is read and where it goes.

    Attributes
    ----------
    run
        Folder that cryoDRGN has made (train_vae, abinit_het, abinit), with z.pkl or z.N.pkl in it.
    particles
        The particles it was made of: a RELION .star, a cryoSPARC .cs, or a stack (.mrcs). Any sampling of them will do.
    output
        Folder that is made.
    epoch
        Take the files of this epoch, as z.N.pkl is numbered. If none is given, z.pkl, or else that of the last epoch.
    ind
        The selection that cryoDRGN was given with its --ind (.pkl), if any.
    poses_file
        Poses as cryoDRGN writes them (.pkl), of all particles or of the selected ones. If none is given, pose.pkl of
        the run, or where the run has changed no poses, those of the particle file.
    passthrough
        More .cs files of the same particles, for fields that the .cs file does not have.
    ctf_file
        Contrast transfer as cryoDRGN writes it (.pkl), in place of that of the particle file.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    datadir
        Folder in which image stacks are looked for first, where they are no longer where the file says; folders at the
        beginning of their names are left out as far as needed.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CRYODRGN_RUN")]
    particles: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PARTICLES")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="RUN")]
    epoch: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    ind: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    poses_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    passthrough: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="CS ...")] = ()
    ctf_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    datadir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None


def convert(source: Annotated[ConvertSource, tyro.conf.arg(name="")]) -> None:
    """Take over a run of cryoDRGN: where each particle is in its latent space, and the poses.

    `scoretomo drgn analyze RUN` then makes clusters, maps, a path and a report of it, and `scoretomo drgn select RUN`
    writes particles as rows of the particle file. Weights stay with cryoDRGN, so that there are no volumes; analyze
    writes the z at which cryoDRGN can make them.
    """
    z_file = _latent_file(source.run, source.epoch)
    z = cryodrgn.read_latent(z_file)
    everything = open_particles(
        source.particles,
        passthrough=source.passthrough,
        ctf=source.ctf_file,
        pixel_size=source.pixel_size,
        datadir=source.datadir,
    )
    indices = np.arange(len(everything))
    if source.ind is not None:
        indices = cryodrgn.read_indices(source.ind, len(everything))
    if len(z) != len(indices):
        named = f"{source.particles.name} has" if source.ind is None else f"{source.ind.name} selects"
        advice = "; was cryoDRGN run with --ind? Give the same file" if source.ind is None else ""
        raise InputError(f"{z_file}: is of {len(z)} particles, and {named} {len(indices)}{advice}")
    particles = everything.select(indices)
    poses_file = source.poses_file or _pose_file(source.run, z_file)
    poses = particles.poses if poses_file is None else _read_poses(poses_file, everything, indices)
    if poses is None:
        raise InputError(
            f"{source.particles}: has no poses, and {source.run} none either; give the file that cryoDRGN was given "
            "with --poses-file"
        )
    config = DrgnConfig(model=LatentVAEConfig(latent_dimensions=z.shape[1]))
    files = ParticleFiles(
        source.particles, source.passthrough, None, source.ctf_file, source.pixel_size, source.datadir
    )
    with locked(source.output):
        run = start_run(source.output, files, particles, config, _record(source, z_file, poses_file))
        write_poses(run.folder / "poses.star", particles, poses)
        write_latent(run.folder / "z.csv", particles, z)
    print(f"z: {len(z)} particles in {z.shape[1]} dimensions, of {z_file}")
    print(f"poses: of {poses_file or source.particles}\nanalyse it with: scoretomo drgn analyze {source.output}")


def _latent_file(run: Path, epoch: int | None) -> Path:
    """Choose z.pkl, which cryoDRGN writes at the end, that of an epoch, or else that of the last one."""
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; give the one that cryoDRGN was given with -o")
    numbers = sorted(int(found[1]) for path in run.iterdir() if (found := re.fullmatch(r"z\.(\d+)\.pkl", path.name)))
    if epoch is not None:
        if epoch not in numbers:
            there = f"there are {', '.join(map(str, numbers))}" if numbers else "there is none of any epoch"
            raise InputError(f"{run}: has no z.{epoch}.pkl; {there}")
        return run / f"z.{epoch}.pkl"
    if (run / "z.pkl").exists():
        return run / "z.pkl"
    if not numbers:
        raise InputError(
            f"{run}: holds neither z.pkl nor z.N.pkl; give the folder of a heterogeneous run of cryoDRGN (train_vae, "
            "abinit_het, abinit)"
        )
    return run / f"z.{numbers[-1]}.pkl"


def _pose_file(run: Path, z_file: Path) -> Path | None:
    """Find the poses that belong to latent variables; None if the run has changed no poses."""
    path = run / ("pose" + z_file.name.removeprefix("z"))
    if path.exists():
        return path
    others = sorted(other.name for other in run.glob("pose*.pkl"))
    if others:
        raise InputError(
            f"{run}: has {others[-1]} but no {path.name}, which belongs to {z_file.name}; give --poses-file, or "
            "another --epoch"
        )
    return None


def _read_poses(path: Path, everything: Particles, indices: NDArray[np.intp]) -> Poses:
    """Poses of the particles at ``indices``; the file has them of all particles, or of these in their order."""
    poses = cryodrgn.read_poses(path, everything.side, everything.pixel_size_angstrom)
    if len(poses) == len(indices):
        return poses
    if len(poses) != len(everything):
        other = f" or {len(everything)}" if len(everything) != len(indices) else ""
        raise InputError(f"{path}: is of {len(poses)} particles, and must be of {len(indices)}{other}")
    return poses.select(torch.from_numpy(indices))


def _record(source: ConvertSource, z_file: Path, poses_file: Path | None) -> dict[str, str]:
    """Tell this run of cryoDRGN from others."""
    digest = hashlib.sha256()
    paths = [path for path in (z_file, poses_file, source.ind) if path is not None]
    for path in paths:
        digest.update(path.read_bytes())
    record = {
        "folder": str(source.run.resolve()),
        "z": z_file.name,
        "poses": str((poses_file or source.particles).resolve()),
        "sha256": digest.hexdigest(),
    }
    return record if source.ind is None else {**record, "ind": str(source.ind.resolve())}
