"""``scoretomo train``: class averages in, a denoiser of their molecule's projections out."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..diffusion.edm import Denoiser, EDMDenoiser
from ..diffusion.outliers import denoiser_outliers
from ..io.denoiser_folder import save_denoiser
from ..io.quality import add_column, read_quality
from ..methods.score_tomography import training_loss
from ..networks.unet import build_unet, supports_fast_bfloat16
from ..presets import PresetName
from ..report.quality_sheet import quality_sheet
from ..run_lock import locked
from ..runs import Run, RunConfig, open_run, start_run
from .denoiser_training import Budget, DenoiserTask, DenoiserTraining
from .denoiser_training import is_trained as denoiser_is_trained
from .progress import say
from .training_loop import own_part

Device = Literal["auto", "cpu", "cuda"]

# Images that are left out, and named with the reasons in a line each.
_LINES_OF_REASONS = 30
# Noise levels at which held-out images are denoised, in units of the images' standard deviation.
_TEST_SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class Source:
    """What to work on and where.

    Attributes
    ----------
    images
        Class averages: .mrcs, .mrc, .npy, EMAN .hdf, a RELION .star or cryoSPARC .cs that names them, or the folder of
        a job of either.
    output
        Folder for all that is made. The same command again goes on where an earlier one was interrupted.
    preset
        Settings to begin with: what works best (default), or the paper's for box, capsid, ribosome and betagal, made
        for a GPU and many hours. Options given beside it change single settings. With --help, its values are shown.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    datadir
        Folder in which image stacks are looked for first, where they are no longer where the file says; folders at the
        beginning of their names are left out as far as needed.
    device
        Where to compute; auto takes a GPU (cuda) if there is one. On a CPU, images of more than 48 pixels are made
        smaller unless --side is given.
    """

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="RUN")]
    preset: PresetName = "default"
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    datadir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    device: Device = "auto"


def train(
    source: Annotated[Source, tyro.conf.arg(name="")], config: Annotated[RunConfig, tyro.conf.arg(name="")]
) -> None:
    """Train a denoiser on class averages.

    It learns what projections of the molecule look like, all conformations and directions together. `scoretomo
    reconstruct RUN` then makes the volumes; `scoretomo run` does both.
    """
    device = choose_device(source.device)
    with locked(source.output):
        run = open_source(source, config, device)
        train_denoiser(run, device)
    print(f"denoiser: {run.denoiser_folder}")


def open_source(source: Source, config: RunConfig, device: torch.device) -> Run:
    """Start or take up the run, and say what was found in the images."""
    start = partial(
        start_run,
        source.output,
        source.images,
        config,
        pixel_size_angstrom=source.pixel_size,
        datadir=source.datadir,
        device=device,
        preset=source.preset,
    )
    notes = processes.by_main(start)
    run = open_run(source.output)
    record = run.preprocessing
    for note in notes:
        say(f"note: {note}")
    say(
        f"{len(run.images)} images of {record.input_side} pixels of {record.input_pixel_size_angstrom:.4g} A; "
        f"working at {record.working_side} pixels of {record.working_pixel_size_angstrom:.4g} A on {device.type}"
    )
    say(f"protein is {'bright' if record.sign > 0 else 'dark'} (confidence {record.contrast_confidence:.2f})")
    if run.quality.exists():
        report_quality(run)
    return run


def report_quality(run: Run) -> None:
    """Say which images the run leaves out and why."""
    rows = read_quality(run.quality)
    unused = [row for row in rows if not row.used]
    for row in unused[:_LINES_OF_REASONS]:
        say(f"left out: image {row.index}: {row.reasons if row.verdict == 'junk' else 'as asked for'}")
    if len(unused) > _LINES_OF_REASONS:
        say(f"left out: {len(unused) - _LINES_OF_REASONS} more, see {run.quality}")
    doubtful = sum(row.verdict != "good" for row in rows if row.used)
    if unused or doubtful:
        picture = run.figures / "quality.png"
        say(
            f"quality: {len(unused)} of {len(rows)} images are left out, {doubtful} are used but not good; "
            f"look at {picture}, and overrule with --keep, --exclude or --check False (and a new run folder)"
        )


def draw_quality(run: Run) -> None:
    """Draw all images with their verdicts, unless that was done, or they were not checked."""
    path = run.figures / "quality.png"
    if run.quality.exists() and not path.exists():
        run.figures.mkdir(exist_ok=True)
        quality_sheet(path, run.images, [row.verdict for row in read_quality(run.quality)], used=run.used)


def choose_device(wanted: Device) -> torch.device:
    """Device to compute on.

    Raises
    ------
    InputError
        A GPU is asked for and there is none, or not one for each process.
    """
    if processes.left_alone():
        say("note: one process only: to start several on CPUs, give `accelerate launch` --multi_gpu instead of --cpu")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise InputError("--device cuda: there is no CUDA device that this PyTorch can use; try --device auto")
    if wanted == "cuda" or (wanted == "auto" and available and not processes.told_to_use_cpu()):
        return processes.own_gpu()
    return torch.device("cpu")


def train_denoiser(run: Run, device: torch.device) -> None:
    """Train until the budget is spent, or go on with what an earlier process has begun.

    Processes that work together share every batch.
    """
    processes.by_main(partial(draw_quality, run))
    if is_trained(run):
        say("the denoiser has been trained already")
        return
    images, config = run.images.to(device), run.config
    kept = torch.tensor([i for i in run.used if i not in run.held_out], device=device)
    training = DenoiserTraining(
        DenoiserTask(
            folder=run.folder,
            checkpoint=run.training_checkpoint,
            items="images",
            description=f"{len(kept)} images",
            model=lambda: EDMDenoiser(
                build_unet(config.unet, images.shape[-1]), bfloat16=supports_fast_bfloat16(device)
            ),
            optimiser=config.optimiser,
            budget=_budget(config),
            seed=config.seed,
            held_out=images[run.held_out],
            test_sigmas=_TEST_SIGMAS,
            key_sigma=0.4,
            device=device,
        )
    )
    loss_function = partial(training_loss, images[kept], config.noise, part=own_part(config.optimiser))
    denoiser = training.go(loss_function)
    processes.by_main(partial(_export, run, training))
    if run.quality.exists():
        processes.by_main(partial(_judge, run, denoiser, images))


def is_trained(run: Run) -> bool:
    """Whether the budget is spent and the denoiser written."""
    return run.denoiser_folder.exists() and denoiser_is_trained(run.training_checkpoint, _budget(run.config))


def _budget(config: RunConfig) -> Budget:
    return Budget(config.budget, config.minutes)


def _export(run: Run, training: DenoiserTraining) -> None:
    """Write the denoiser, and that it has been written."""
    save_denoiser(run.denoiser_folder, training.state.averaged.get_submodule("network"))
    training.save(exported=True)


def _judge(run: Run, denoiser: Denoiser, images: Float[Tensor, "n side side"]) -> None:
    """Write how hard each image is for the trained denoiser beside its other figures."""
    generator = torch.Generator(images.device).manual_seed(run.config.seed)
    add_column(run.quality, "denoiser_outlier", denoiser_outliers(denoiser, images, generator=generator).tolist())
