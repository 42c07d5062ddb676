"""The run folder of ``drgn train``: what was asked for, the checkpoint, and the results in the input's units."""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Poses
from ..io.checkpoints import load_checkpoint, taken_over
from ..io.files import write_json
from ..io.mrc import write_volume
from ..io.particles import Particles
from ..io.records import read_json, understood
from ..io.settings_file import SettingsFile, Source
from ..io.star import write_particles
from ..io.tables import write_table
from ..limits import SEEDS, check_limits
from ..methods.abinitio_schedule import AbInitioConfig, PoseMethod
from ..methods.latent_vae import LatentVAE, LatentVAEConfig, decode_volumes
from .drgn_images import ParticlesConfig, Preparation
from .drgn_training import SavedTraining, new_model


class DrgnSource(Source):
    """What a run was made of: where the particles are, what tells them from others; a run of cryoDRGN if it was one."""

    passthrough: list[str]
    poses_file: NotRequired[str]
    ctf_file: NotRequired[str]
    pixel_size: NotRequired[float]
    datadir: NotRequired[str]
    stacks: str
    images: int
    side: int
    pixel_size_angstrom: float
    cryodrgn: NotRequired[dict[str, str]]


SETTINGS = SettingsFile(
    "drgn.toml",
    folder_kind="run folder of drgn",
    maker="scoretomo drgn train",
    own_files=frozenset({"preparation.json", "checkpoint.pt", "metrics.jsonl", ".lock"}),
    source=DrgnSource,
)
"""Of the particles and the settings of a run."""
TRAIN_AGAIN = "delete it, and give the same `scoretomo drgn train` or `convert` again, which writes it"
"""How to go on without a file of a run."""
_PLACES = ("path", "passthrough", "poses_file", "ctf_file", "datadir")
_LARGEST_SIDE = 2**15
# Particle files are known by their first bytes and their length; stacks may have a terabyte.
_BYTES_HASHED = 2**24
_BYTES_HASHED_OF_A_STACK = 2**16


@dataclass(frozen=True)
class DrgnConfig:
    """Everything that decides what becomes of a set of particles."""

    particles: Annotated[ParticlesConfig, tyro.conf.arg(name="")] = field(default_factory=ParticlesConfig)
    """Which images are used and how."""
    poses: PoseMethod = "known"
    """Poses are those of the file (known), or found: by the hierarchical search of cryoDRGN2, or by branch and bound
    as in cryoDRGN."""
    model: Annotated[LatentVAEConfig, tyro.conf.arg(name="")] = field(default_factory=LatentVAEConfig)
    """What is trained."""
    search: AbInitioConfig = field(default_factory=AbInitioConfig)
    """How poses are found."""
    seed: int = 0
    """The same seed gives the same result, on the same kind of machine."""

    def __post_init__(self) -> None:
        check_limits(self, seed=SEEDS)


@dataclass(frozen=True)
class ParticleFiles:
    """Where particles come from; kept in the run folder, so that they are found again.

    Attributes
    ----------
    particles
        RELION .star, cryoSPARC .cs, or a plain stack (.mrcs).
    passthrough
        More .cs files of the same particles.
    poses_file, ctf_file
        cryoDRGN's .pkl files, which win over what the particle file says.
    pixel_size
        In Angstrom, where the file says none or a wrong one.
    datadir
        Where stacks are looked for first.
    """

    particles: Path
    passthrough: tuple[Path, ...] = ()
    poses_file: Path | None = None
    ctf_file: Path | None = None
    pixel_size: float | None = None
    datadir: Path | None = None

    def digest(self) -> str:
        """Tell these files from others of any name."""
        given = (self.particles, *self.passthrough, self.poses_file, self.ctf_file)
        return _digest([path for path in given if path is not None], _BYTES_HASHED)


@dataclass(frozen=True)
class DrgnRun:
    """A run folder."""

    folder: Path
    config: DrgnConfig
    files: ParticleFiles
    pixel_size_angstrom: float
    """Of the particle images."""
    converted: Mapping[str, str] | None = None
    """Of a run of cryoDRGN: its folder and the files that were read there; None if it was trained here."""

    @property
    def checkpoint(self) -> Path:
        """Networks, poses and how far the training has come."""
        return self.folder / "checkpoint.pt"

    @property
    def preparation_file(self) -> Path:
        """What was done to the images."""
        return self.folder / "preparation.json"

    @property
    def analysis(self) -> Path:
        """What ``drgn analyze`` has made."""
        return self.folder / "analysis"

    @property
    def results(self) -> list[Path]:
        """What a training leaves: the poses, and the volume or the latent variables of the particles."""
        return [
            self.folder / "poses.star",
            self.folder / ("z.csv" if self.config.model.latent_dimensions else "volume.mrc"),
        ]

    def preparation(self) -> Preparation:
        """Read what was done to the images."""
        record = read_json(self.preparation_file, Preparation, TRAIN_AGAIN)
        with understood(self.preparation_file, TRAIN_AGAIN):
            sides, lengths = (record.side, record.input_side), (record.pixel_size_angstrom, record.scale)
            if not 1 <= min(sides) <= max(sides) <= _LARGEST_SIDE or not 0 < min(lengths) <= max(lengths) < math.inf:
                raise InputError("it has a side, a pixel size or a scale that no image has")
        return record


def start_run(
    folder: Path,
    files: ParticleFiles,
    particles: Particles,
    config: DrgnConfig,
    converted: Mapping[str, str] | None = None,
) -> DrgnRun:
    """Make a run folder, or take up the one that the same particles and settings have made.

    With ``converted`` it is that of a run of cryoDRGN, of which this tells.

    Raises
    ------
    InputError
        A folder of other particles or settings, which is left as it was, or one that is not empty.
    """
    source = source_table(files, particles)
    if converted is not None:
        source["cryodrgn"] = dict(converted)
    SETTINGS.take_up(folder, "particles", source, config, places=_PLACES)
    return open_run(folder)


def open_run(folder: Path) -> DrgnRun:
    """Read a run folder.

    Raises
    ------
    InputError
        Not a run folder of ``drgn train``, or one of a version with other settings.
    """
    config = SETTINGS.settings(folder, DrgnConfig)
    source: DrgnSource = SETTINGS.source_of(folder)
    poses_file, ctf_file, datadir = (
        Path(path) if path else None
        for path in (source.get("poses_file"), source.get("ctf_file"), source.get("datadir"))
    )
    passthrough = tuple(Path(path) for path in source["passthrough"])
    files = ParticleFiles(Path(source["path"]), passthrough, poses_file, ctf_file, source.get("pixel_size"), datadir)
    return DrgnRun(folder, config, files, source["pixel_size_angstrom"], source.get("cryodrgn"))


def refuse_changed_particles(run: DrgnRun) -> None:
    """Keep to rows that are those of the run.

    Raises
    ------
    InputError
        The particle files are gone, or not those that the run was made of.
    """
    try:
        now = run.files.digest()
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; the run was made of it") from error
    if now != SETTINGS.read(run.folder)["input"]["sha256"]:
        raise InputError(
            f"{run.files.particles}: has been changed since the run was made of it, so that its rows may be other "
            "particles; bring the old file back, or train again"
        )


def source_table(files: ParticleFiles, particles: Particles) -> dict[str, Any]:
    """Tell these particles from others; paths are such that they are found from anywhere."""
    table: dict[str, Any] = {
        "path": str(files.particles.absolute()),  # stacks may lie beside a link
        "passthrough": [str(path.resolve()) for path in files.passthrough],
        "poses_file": files.poses_file and str(files.poses_file.resolve()),
        "ctf_file": files.ctf_file and str(files.ctf_file.resolve()),
        "pixel_size": files.pixel_size,
        "datadir": files.datadir and str(files.datadir.absolute()),
        "sha256": files.digest(),
        "stacks": _digest((stack.path for stack in particles.images.stacks), _BYTES_HASHED_OF_A_STACK),
        "images": len(particles),
        "side": particles.side,
        "pixel_size_angstrom": particles.pixel_size_angstrom,
    }
    return {name: value for name, value in table.items() if value is not None}


def _digest(paths: Iterable[Path], most: int) -> str:
    """Tell files from others under the same names, by how they begin and how long they are."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(file.read(most))
        digest.update(str(path.stat().st_size).encode())
    return digest.hexdigest()


def save_preparation(run: DrgnRun, record: Preparation) -> None:
    """Write what was done to the images."""
    write_json(run.preparation_file, asdict(record))


def trained_model(run: DrgnRun, device: torch.device) -> tuple[LatentVAE, Preparation]:
    """Read the networks of a training that has come to its end.

    Raises
    ------
    InputError
        It has not.
    """
    saved = load_checkpoint(run.checkpoint, SavedTraining)
    if saved is None or not saved["finished"]:
        raise InputError(f"{run.folder}: is not trained yet; give the same `scoretomo drgn train` again to go on")
    record = run.preparation()
    with taken_over(run.checkpoint):
        model = new_model(run.config.model, run.config.seed, record.side, saved["amplitudes"], device)
        model.load_state_dict(saved["state"]["latent"]["training"]["averaged"])
    return model.eval(), record


def write_results(
    run: DrgnRun,
    particles: Particles,
    record: Preparation,
    model: LatentVAE,
    poses: Poses,
    z: Float[Tensor, "n d"] | None,
) -> list[Path]:
    """Write poses, and the volume or the latent variables of the particles."""
    posed, made = run.results
    write_poses(posed, particles, poses)
    if z is None:
        write_volume(made, record.restore(decode_volumes(model)[0]))
    else:
        write_latent(made, particles, z)
    return run.results


def write_latent(path: Path, particles: Particles, z: Float[Tensor, "n d"]) -> None:
    """Write the latent variables of particles, with their rows in the particle file."""
    names = [f"z_{number}" for number in range(1, z.shape[1] + 1)]
    pairs = zip(particles.rows.tolist(), z.tolist(), strict=True)
    write_table(path, [{"row": row, **dict(zip(names, values, strict=True))} for row, values in pairs])


def write_poses(path: Path, particles: Particles, poses: Poses, extra: Mapping[str, Any] | None = None) -> None:
    """Write a RELION particle file of the input's images, which are named relative to its folder."""
    images, folder = particles.images, path.resolve().parent
    names = [os.path.relpath(stack.path.resolve(), folder) for stack in images.stacks]
    places = zip(images.sections.tolist(), np.asarray(images.stack_numbers).tolist(), strict=True)
    listed = [f"{section + 1:06d}@{names[number]}" for section, number in places]
    # halves that once were independent remain so
    known = {} if particles.halves is None else {"rlnRandomSubset": particles.halves.tolist()}
    write_particles(
        path,
        "",
        poses,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        side=particles.side,
        ctf=particles.ctf,
        extra={"rlnImageName": listed, **known, **(extra or {})},
    )
