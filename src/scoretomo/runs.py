"""The run folder: what was asked for, the working images, checkpoints, weights and volumes; same command, same run.

Every file in it is complete or absent, so that a process may be killed at any moment.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from . import __version__
from .datatypes import ImageStack, InputError
from .ensemble.growth import GrowthConfig
from .imaging.preprocess import PreprocessConfig, Preprocessing, preprocess, restore_volume
from .io.checkpoints import load_weights
from .io.files import write_json, write_text
from .io.found import Motion, read_motion
from .io.images import read_image_stack
from .io.job_folders import file_in_job
from .io.mrc import read_images, read_volume, write_images, write_volume
from .io.preparation import read_preprocessing
from .io.quality import check_images, choose_left_out, write_quality
from .io.run_settings import SETTINGS, RunSource
from .io.settings import differences, from_table, to_table
from .limits import MANY, SEEDS, WAITING, check_limit, check_limits
from .methods.angular_spread import MOST_DEGREES
from .methods.average_volumes import AverageVolumesConfig
from .methods.initial_schedule import InitialModelConfig
from .methods.score_tomography import NoiseConfig
from .networks.unet import WEIGHTS, PatchUNet, UNetConfig, build_unet
from .optimiser import OptimiserConfig

# Without --side, images are made no larger than this on a CPU: twice the side costs eight times the time.
_LARGEST_SIDE_ON_CPU = 48
# Stacks smaller than this keep all their images for training, and have one volume by cryoDRGN2.
_FEW_IMAGES = 40


@dataclass(frozen=True)
class ImagesConfig:
    """What is decided about the images, whatever then makes volumes of them.

    Attributes
    ----------
    preprocess
        How images are prepared.
    check
        Leave out class averages that a quality check calls junk. No (--check False) to use all of them.
    keep
        Images to use whatever the check says, counted from 0.
    exclude
        Images to leave out whatever the check says, counted from 0.
    rigid
        Whether the molecule keeps its shape. Then one map is made, or volumes that are fitted to all class averages
        to the end: more resolution, no motion. None: no, if class averages that are left out are better explained by
        a motion than by one map; with --method drgn: yes for fewer than 40 images.
    angular_spread
        Degrees, a standard deviation about each axis, by which the views of a class's particles differ. The blur that
        it makes is undone in the maps that are written, as far as noise lets. None: as found in the map; 0: not undone.
    seed
        The same seed gives the same result, on the same kind of machine.
    initial
        How the initial model is searched.

    Raises
    ------
    InputError
        An image that is both kept and left out, or a spread that is not an angle.
    """

    preprocess: Annotated[PreprocessConfig, tyro.conf.arg(name="")] = field(default_factory=PreprocessConfig)
    check: bool | None = None  # None is yes: runs made before there was a check go on without it
    keep: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INDEX ...")] = None
    exclude: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INDEX ...")] = None
    rigid: bool | None = None
    angular_spread: Annotated[float | None, tyro.conf.arg(metavar="DEGREES")] = None
    seed: int = 0
    initial: InitialModelConfig = field(default_factory=InitialModelConfig)

    def __post_init__(self) -> None:
        if both := set(self.keep or ()) & set(self.exclude or ()):
            raise InputError(f"--keep and --exclude both name {', '.join(map(str, sorted(both)))}")
        if self.angular_spread is not None and not 0 <= self.angular_spread <= MOST_DEGREES:
            raise InputError(f"the angular spread must be from 0 to {MOST_DEGREES} degrees, not {self.angular_spread}")
        check_limits(self, seed=SEEDS)
        check_limit("side", self.preprocess.side, (8, 2**12))

    def about_images(self) -> "ImagesConfig":
        """Only what is said here, of settings that say more."""
        return ImagesConfig(**{each.name: getattr(self, each.name) for each in fields(ImagesConfig)})


@dataclass(frozen=True)
class RunConfig(ImagesConfig):
    """Everything that decides what becomes of a stack of images.

    Attributes
    ----------
    minutes
        Train the denoiser for so many minutes, those before an interruption included.
    budget
        Train the denoiser on so many images in all; each is one of the input, rotated, flipped and shifted at random.
        With --minutes too, training ends with what comes first.
    held_out
        Part of the images, 0 to 0.5, that the denoiser is not trained on; they measure how well it does on images that
        it has not seen. Their volumes are reconstructed all the same. None: 0.05, but 0 for fewer than 40 images.
    unet
        The denoising network.
    noise
        Noise that the denoiser learns to remove.
    optimiser
        How the denoiser is trained.
    growth
        How volumes are reconstructed.
    drgn
        How cryoDRGN2 makes the volumes, in the place of a denoiser and what is said of it above.

    Raises
    ------
    InputError
        A number that nothing could be made with.
    """

    minutes: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    budget: Annotated[int | None, tyro.conf.arg(metavar="IMAGES")] = None
    held_out: Annotated[float | None, tyro.conf.arg(metavar="PART")] = None
    unet: UNetConfig = field(default_factory=UNetConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    drgn: Annotated[AverageVolumesConfig | None, tyro.conf.Fixed, tyro.conf.Suppress] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes is None and self.budget is None:
            raise InputError("say how long to train: --minutes or --budget")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"cannot train for {self.minutes} minutes")
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"cannot train on {self.budget} images")
        if self.rigid and not self.growth.initial:
            raise InputError("--rigid needs --growth.initial: volumes that start from nothing match nothing")
        if self.held_out is not None and not 0 <= self.held_out <= 0.5:
            raise InputError(f"the part of images to hold out must be from 0 to 0.5, not {self.held_out}")
        check_limits(self, minutes=WAITING, budget=(1, MANY))


@dataclass(frozen=True)
class Run:
    """A run folder that holds images and settings."""

    folder: Path
    config: RunConfig
    images: Float[Tensor, "n side side"]
    preprocessing: Preprocessing
    left_out: tuple[int, ...] = ()

    @cached_property
    def used(self) -> list[int]:
        """Indices of the images that are trained on or held out, and have volumes: all that are not left out."""
        return [index for index in range(len(self.images)) if index not in self.left_out]

    @property
    def quality(self) -> Path:
        """Table of the quality check; runs from before there was one have none."""
        return self.folder / "quality.csv"

    @property
    def mask_radius(self) -> float:
        """Radius beyond which the working images are 0, in pixels."""
        record = self.preprocessing
        return record.mask_radius * record.input_side / 2 * record.working_side / record.cropped_side

    @property
    def training_checkpoint(self) -> Path:
        """Where training stands."""
        return self.folder / "checkpoint" / "training.pt"

    def growth_folder(self, seed: int) -> Path:
        """Where the reconstruction with a seed stands."""
        return self.folder / "checkpoint" / f"growth_seed{seed}"

    @property
    def initial_folder(self) -> Path:
        """Folder of the initial model: maps, poses, evidence, picture."""
        return self.folder / "initial"

    @property
    def motion_folder(self) -> Path:
        """Folder of what was found about the motion."""
        return self.folder / "motion"

    @property
    def rigid(self) -> bool | None:
        """Whether the molecule is taken to keep its shape: as the settings say, or as was found; None if not known."""
        if self.config.rigid is None and self.config.growth.initial and (found := self.motion_found):
            return found["moves"] is False
        return self.config.rigid

    @property
    def motion_found(self) -> Motion | None:
        """Contents of motion.json; None where that was not looked for."""
        return read_motion(self.folder)

    @property
    def denoiser_folder(self) -> Path:
        """The trained network, a Diffusers model folder."""
        return self.folder / "denoiser"

    @property
    def figures(self) -> Path:
        """Folder of the pictures."""
        return self.folder / "figures"

    @property
    def volumes(self) -> Path:
        """Folder of the volumes."""
        return self.folder / "volumes"

    def volume(self, index: int, seed: int) -> Path:
        """File of the volume of an image; repeats with further seeds say so in their names."""
        return self.volumes / (f"volume_{index:04d}.mrc" if seed == 0 else f"volume_{index:04d}_seed{seed}.mrc")

    @cached_property
    def held_out(self) -> list[int]:
        """Images that are kept out of training, drawn by the seed of the run."""
        order = torch.randperm(len(self.used), generator=torch.Generator().manual_seed(self.config.seed)).tolist()
        return sorted(self.used[place] for place in order[: round((self.config.held_out or 0) * len(order))])

    def read_volume(self, path: Path) -> Float[Tensor, "n n n"]:
        """Read a volume that was made of the images, in the box and units of the input.

        Raises
        ------
        InputError
            It cannot be read, or is of another box.
        """
        voxels: Tensor = read_volume(path).volume.voxels
        if voxels.shape[-1] != self.preprocessing.input_side:
            box = f"has a box of {voxels.shape[-1]} pixels, and the images of the run {self.preprocessing.input_side}"
            raise InputError(f"{path}: {box}; delete it, and `scoretomo reconstruct` makes it anew")
        return voxels

    def save_volume(self, index: int, seed: int, voxels: Float[Tensor, "n n n"]) -> None:
        """Write a volume in the pixel size and units of the input."""
        self.volumes.mkdir(exist_ok=True)
        write_volume(self.volume(index, seed), restore_volume(voxels.cpu(), self.preprocessing))


def start_run(
    folder: Path,
    images: Path,
    config: RunConfig,
    *,
    pixel_size_angstrom: float | None,
    device: torch.device,
    preset: str,
    datadir: Path | None = None,
) -> tuple[str, ...]:
    """Make a run folder, or take up the one that the same images and settings have made; :func:`open_run` reads it.

    Returns
    -------
    tuple of str
        What was repaired or odd in the input.

    Raises
    ------
    InputError
        Images that cannot be used; a folder of other images or settings, named, which is left as it was.
    """
    images, found = file_in_job(images, "class averages")
    loaded = read_image_stack(images, pixel_size_angstrom, datadir, config.exclude or ())
    if len(loaded.stack) < 2:
        raise InputError(f"{images}: has one image only; views from several directions are needed")
    exists = SETTINGS.exists(folder)
    if exists:
        saved, left_out = read_config(folder), read_source(folder).get("left_out", [])
    else:
        saved, (quality, _) = None, check_images(images, loaded.stack, config.preprocess)
        left_out = choose_left_out(images, quality, check=config.check, keep=config.keep, exclude=config.exclude)
    config = _resolve(config, images, loaded.stack, len(loaded.stack) - len(left_out), device, saved)
    source = {
        "path": str(images.resolve()),
        "sha256": hashlib.sha256(loaded.stack.images.contiguous().numpy().tobytes()).hexdigest(),
        "images": len(loaded.stack),
        "side": loaded.stack.side,
        "pixel_size_angstrom": loaded.stack.pixel_size_angstrom,
    }
    if loaded.class_numbers is not None:
        source["classes"] = list(loaded.class_numbers)
    if left_out:
        source["left_out"] = left_out
    if exists:
        _refuse_other_run(folder, source, config)
    else:
        _create(folder, images, loaded.stack, config)
        write_quality(folder / "quality.csv", quality, set(range(len(loaded.stack))).difference(left_out))
    table = {
        "scoretomo": __version__,
        "command": " ".join(sys.argv),
        "preset": preset,
        "device": str(device),
        "input": source,
        "settings": _to_settings(config),
    }
    write_text(folder / SETTINGS.name, tomli_w.dumps(table))
    return found + loaded.notes


def open_run(folder: Path) -> Run:
    """Read a run folder.

    Raises
    ------
    InputError
        Not a run folder.
    """
    config, source = read_config(folder), read_source(folder)
    record = read_preprocessing(folder)
    images = read_images(folder / "images.mrcs", record.working_pixel_size_angstrom).stack.images
    if images.shape != (source["images"], record.network_side, record.network_side):
        raise InputError(
            f"{folder / 'images.mrcs'}: has {len(images)} images of {images.shape[-1]} pixels, and the run was made of "
            f"{source['images']} of {record.network_side}; begin a new run folder"
        )
    fits = config.drgn is not None or record.network_side % config.unet.side_multiple == 0
    if not fits or record.input_side != source["side"] or len(record.background_levels) != len(images):
        raise InputError(f"{folder / 'preprocessing.json'}: does not belong to config.toml; begin a new run folder")
    left_out = tuple(source.get("left_out", ()))
    if not set(left_out) < set(range(len(images))):
        raise InputError(f"{folder / SETTINGS.name}: leaves out images that there are not; {SETTINGS.advice}")
    return Run(folder, config, images, record, left_out)


def read_config(folder: Path) -> RunConfig:
    """Read the settings of a run folder.

    Raises
    ------
    InputError
        Not a run folder, or one of a version with other settings.
    """
    table = SETTINGS.read(folder)["settings"]
    with SETTINGS.understood(folder):
        return _from_settings(table)


def read_source(folder: Path) -> RunSource:
    """Read what a run was made of.

    Raises
    ------
    InputError
        Not a run folder.
    """
    source: RunSource = SETTINGS.source_of(folder)
    return source


def load_denoiser(run: Run) -> PatchUNet:
    """Read the trained network.

    Raises
    ------
    InputError
        Training has not ended, or there is none, or the weights are not those of a network of these settings.
    """
    if run.config.drgn is not None:
        raise InputError(
            f"{run.folder}: was made with --method drgn and has no denoiser, without which nothing judges its volumes; "
            "`scoretomo evaluate` compares them with a truth, `scoretomo run` without --method makes others"
        )
    if not run.denoiser_folder.exists():
        raise InputError(f"{run.folder}: the denoiser is not trained to its end; give the `train` command again")
    weights = run.denoiser_folder / WEIGHTS
    advice = f"delete {run.denoiser_folder}; the `train` command writes it again"
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn are not those that are used
        network = build_unet(run.config.unet, run.images.shape[-1])
    load_weights(network.unet, weights, advice)
    return network.eval()


def _create(folder: Path, path: Path, stack: ImageStack, config: RunConfig) -> None:
    """Prepare the images and write them; the settings follow last, so that a killed start is made again."""
    SETTINGS.refuse_other_files(folder)
    images, record = _prepare(path, stack, config)
    write_images(folder / "images.mrcs", ImageStack(images, record.working_pixel_size_angstrom))
    write_json(folder / "preprocessing.json", asdict(record))


def _prepare(path: Path, stack: ImageStack, config: RunConfig) -> tuple[Float[Tensor, "n side side"], Preprocessing]:
    try:
        return preprocess(stack, config.preprocess, multiple=config.unet.side_multiple)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _resolve(
    config: RunConfig, path: Path, stack: ImageStack, used: int, device: torch.device, saved: RunConfig | None
) -> RunConfig:
    """Replace settings that are left open by what they come to, or have come to in an earlier process."""
    side = config.preprocess.side
    if side is None and saved is not None:
        side = saved.preprocess.side
    elif side is None and device.type == "cpu":
        natural = _prepare(path, stack, config)[1].working_side
        side = _LARGEST_SIDE_ON_CPU if natural > _LARGEST_SIDE_ON_CPU else None
    held_out = config.held_out if config.held_out is not None else (0.0 if used < _FEW_IMAGES else 0.05)
    rigid = used < _FEW_IMAGES if config.rigid is None and config.drgn is not None else config.rigid
    return replace(config, preprocess=replace(config.preprocess, side=side), held_out=held_out, rigid=rigid)


def _refuse_other_run(folder: Path, source: Mapping[str, Any], config: RunConfig) -> None:
    saved, settings = SETTINGS.read(folder), _to_settings(config)
    if saved["input"]["sha256"] != source["sha256"]:
        raise InputError(f"{folder}: was made of other images ({saved['input']['path']}); give another run folder")
    if ("drgn" in saved["settings"]) != ("drgn" in settings):
        method = "drgn" if "drgn" in saved["settings"] else "score"
        raise InputError(f"{folder}: was made with --method {method}; give another run folder")
    before = {"pixel_size_angstrom": saved["input"]["pixel_size_angstrom"], **saved["settings"]}
    now = {"pixel_size_angstrom": source["pixel_size_angstrom"], **settings}
    ignored = () if "drgn" in settings else ("minutes", "budget", "growth", "rigid")
    changed = differences(before, now, ignored=ignored)
    if changed:
        raise InputError(f"{folder}: was made with other settings ({'; '.join(changed)}); give another run folder")


def _to_settings(config: RunConfig) -> dict[str, Any]:
    """Make the table that is kept: nothing of a denoiser where there is none."""
    table = to_table(config)
    return {**to_table(config.about_images()), "drgn": table["drgn"]} if "drgn" in table else table


def _from_settings(table: Mapping[str, Any]) -> RunConfig:
    """Read :func:`_to_settings` back."""
    return from_table(RunConfig, {**to_table(RunConfig(budget=1)), **table} if "drgn" in table else table)
