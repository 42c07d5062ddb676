"""``scoretomo train``: class averages in, a denoiser of their molecule's projections out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..diffusion.edm import Denoiser, EDMDenoiser, denoising_error
from ..diffusion.outliers import denoiser_outliers
from ..io.metrics import Metrics
from ..io.quality import Judgement, add_column, read_quality
from ..methods.score_tomography import training_loss
from ..networks.unet import build_unet, parameter_count, supports_fast_bfloat16
from ..optimiser import OptimiserConfig
from ..presets import PresetName
from ..report.quality_sheet import quality_sheet
from ..run_lock import locked
from ..runs import Run, RunConfig, load_checkpoint, open_run, save_checkpoint, save_denoiser, start_run
from ..training import TrainingState, TrainingStep, new_state, optimise_progressive
from .progress import StoppedBetweenSteps, duration, interruptible, progress, say

Device = Literal["auto", "cpu", "cuda"]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_SECONDS_BETWEEN_METRICS = 10.0
# Images that are left out, and named with the reasons in a line each.
_LINES_OF_REASONS = 30
# Pixels of held-out images that are denoised in one call.
_PIXELS_AT_ONCE = 2**18
# Noise levels at which held-out images are denoised, in units of the images' standard deviation.
_TEST_SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class Source:
    """What to work on and where.

    Attributes
    ----------
    images
        Class averages: .mrcs, .mrc, .npy, EMAN .hdf, or a RELION .star or cryoSPARC .cs that names them.
    output
        Folder for all that is made. The same command again goes on where an earlier one was interrupted.
    preset
        Settings to begin with: what works best (default), or the paper's for box, capsid, ribosome and betagal, made
        for a GPU and many hours. Options given beside it change single settings. With --help, its values are shown.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    device
        Where to compute; auto takes a GPU (cuda) if there is one. On a CPU, images of more than 48 pixels are made
        smaller unless --side is given.
    """

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="RUN")]
    preset: PresetName = "default"
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
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
    if run.config.rigid:
        say("taken as rigid: every volume is fitted to all class averages; --rigid False if the molecule moves")
    return run


def report_quality(run: Run) -> None:
    """Say which images the run leaves out and why, and draw them all."""
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
    processes.by_main(partial(_draw_quality, run, rows))


def _draw_quality(run: Run, rows: list[Judgement]) -> None:
    path = run.figures / "quality.png"
    if not path.exists():
        run.figures.mkdir(exist_ok=True)
        quality_sheet(path, run.images, [row.verdict for row in rows], used=run.used)


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

    Processes that work together share every batch; the main one says, keeps time and writes for all.
    """
    if is_trained(run):
        say("the denoiser has been trained already")
        return
    state, clock = _initial_state(run, device)
    if processes.from_main(state.images_seen) != state.images_seen:
        raise InputError(f"{run.folder}: is not the same folder on all machines; put it where all of them see it")
    part_done = _budget(run.config, clock)
    images = run.images.to(device)
    kept = torch.tensor([i for i in run.used if i not in run.held_out], device=device)
    loss_function = partial(training_loss, images[kept], run.config.noise, part=own_part(run.config.optimiser))
    log = _Log(run, state, images[run.held_out], clock) if processes.is_main() else None
    say(f"training {parameter_count(state.model) / 1e6:.1f} million weights on {len(kept)} images{_company()}")
    steps = optimise_progressive(
        state,
        loss_function,
        run.config.optimiser,
        lambda seen: processes.from_main(part_done(seen)),  # clocks differ
        add_up=processes.add_up,
    )
    with interruptible(processes.any_of_us) as check, progress("train") as report:
        saved_at = time.monotonic()
        try:
            for step in steps:
                if log is not None:
                    report(min(1.0, part_done(step.images_seen)), log.add(step))
                    if time.monotonic() - saved_at >= _SECONDS_BETWEEN_CHECKPOINTS:
                        _save(run, state, clock, exported=False)
                        saved_at = time.monotonic()
                check()
        except StoppedBetweenSteps:
            processes.by_main(lambda: _save(run, state, clock, exported=False))
            raise
    if log is not None:
        log.close()
    processes.by_main(lambda: _export(run, state, clock))
    if run.quality.exists():
        processes.by_main(lambda: _judge(run, state.averaged, images))


def _judge(run: Run, denoiser: Denoiser, images: Float[Tensor, "n side side"]) -> None:
    """Write how hard each image is for the trained denoiser beside its other figures."""
    generator = torch.Generator(images.device).manual_seed(run.config.seed)
    add_column(run.quality, "denoiser_outlier", denoiser_outliers(denoiser, images, generator=generator).tolist())


def own_part(config: OptimiserConfig) -> slice:
    """Images of every batch that are this process's work: every n-th, so that shares differ by one at most."""
    if config.batch_size < processes.count():
        raise InputError(
            f"{processes.count()} processes cannot share batches of {config.batch_size} images; start fewer, "
            "or give a larger --optimiser.batch-size (to a new run folder)"
        )
    return slice(processes.index(), None, processes.count())


def _company() -> str:
    return f", shared by {processes.count()} processes" if processes.count() > 1 else ""


def is_trained(run: Run) -> bool:
    """Whether the budget is spent and the denoiser written."""
    saved = load_checkpoint(run.training_checkpoint)
    if saved is None or not run.denoiser_folder.exists():
        return False
    images, seconds = saved["state"]["images_seen"], saved["seconds"]
    return _part_done(run.config, images, seconds) >= 1 and saved["exported"]


@dataclass
class _Clock:
    """Seconds of training, those of earlier processes included."""

    before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began


def _budget(config: RunConfig, clock: _Clock) -> Callable[[int], float]:
    """Part of the budget that is spent after so many images."""
    return lambda images: _part_done(config, images, clock.seconds)


def _part_done(config: RunConfig, images: int, seconds: float) -> float:
    parts = [0.0] if config.budget is None else [images / config.budget]
    return max(parts if config.minutes is None else [*parts, seconds / (60 * config.minutes)])


def _initial_state(run: Run, device: torch.device) -> tuple[TrainingState, _Clock]:
    config = run.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_unet(config.unet, run.images.shape[-1])
    model = EDMDenoiser(network, bfloat16=supports_fast_bfloat16(device)).to(device)
    generator = torch.Generator(device).manual_seed(config.seed)
    state = new_state(model, config.optimiser, generator)
    saved = load_checkpoint(run.training_checkpoint)
    if saved is None:
        return state, _Clock()
    if saved["device"] != device.type:  # generators of different kinds cannot take over from each other
        saved["state"]["generator"] = generator.manual_seed(config.seed + saved["state"]["images_seen"]).get_state()
    state.load_state_dict(saved["state"])
    clock = _Clock(before=saved["seconds"])
    say(f"going on after {state.images_seen} images ({duration(clock.seconds)})")
    return state, clock


def _save(run: Run, state: TrainingState, clock: _Clock, *, exported: bool) -> None:
    """Write the checkpoint; ``exported`` says that the model folder holds the same weights."""
    values = {
        "state": state.state_dict(),
        "seconds": clock.seconds,
        "device": state.generator.device.type,
        "exported": exported,
    }
    save_checkpoint(run.training_checkpoint, values)


def _export(run: Run, state: TrainingState, clock: _Clock) -> None:
    """Write the denoiser, and that it has been written."""
    save_denoiser(run, state.averaged.get_submodule("network"))
    _save(run, state, clock, exported=True)


class _Log:
    """Gathers what the steps report, and writes a line of metrics now and then."""

    def __init__(self, run: Run, state: TrainingState, held_out: Float[Tensor, "k side side"], clock: _Clock) -> None:
        self.state, self.held_out, self.clock = state, held_out, clock
        self.metrics = Metrics(run.folder, "train", state.images_seen)
        self.losses: list[Float[Tensor, ""]] = []  # not read at every step, which would wait for a GPU
        self.learning_rate = 0.0
        self.last = (time.monotonic(), state.images_seen)
        self.note = ""

    def add(self, step: TrainingStep) -> str:
        """Take in a step; what to show of the last ones."""
        self.losses.append(step.loss)
        self.learning_rate = step.learning_rate
        if time.monotonic() - self.last[0] >= _SECONDS_BETWEEN_METRICS:
            self.write()
        return self.note

    def write(self) -> None:
        """Write the mean of the losses since the last time, the pace, and the error on held-out images."""
        if not self.losses:
            return
        loss = torch.stack(self.losses).mean().item()
        began, seen = self.last
        pace = (self.state.images_seen - seen) / max(time.monotonic() - began, 1e-9)
        errors = held_out_errors(self.state.averaged, self.held_out)
        values: dict[str, Any] = {
            "loss": loss,
            "learning_rate": self.learning_rate,
            "images_per_second": pace,
            "seconds": self.clock.seconds,
            "skipped_steps": int(self.state.skipped_steps),
            **errors,
        }
        self.metrics.write(self.state.images_seen, values)
        self.note = f"{pace:.0f} images/s  loss {loss:.3f}"
        if errors:
            self.note += f"  held out {errors['held_out_error_sigma_0.4']:.4f}"
        self.losses.clear()
        self.last = (time.monotonic(), self.state.images_seen)

    def close(self) -> None:
        """Write what has been gathered."""
        self.write()
        self.metrics.close()


@torch.no_grad()
def held_out_errors(denoiser: Denoiser, images: Float[Tensor, "k side side"]) -> dict[str, float]:
    """Mean squared error per pixel of denoising, with the same noise each time, at several noise levels."""
    errors = {}
    for sigma in _TEST_SIGMAS if len(images) else ():
        generator = torch.Generator(images.device).manual_seed(0)
        parts = images.split(max(1, _PIXELS_AT_ONCE // images[0].numel()))
        found = [denoising_error(denoiser, x, x.new_full((len(x),), sigma), generator=generator) for x in parts]
        errors[f"held_out_error_sigma_{sigma:g}"] = torch.cat(found).mean().item()
    return errors
