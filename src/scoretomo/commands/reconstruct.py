"""``scoretomo reconstruct``: a trained run in, one volume per class average out."""

import hashlib
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import torch
import tyro

from ..datatypes import InputError
from ..diffusion.edm import EDMDenoiser
from ..ensemble.growth import GrowthConfig, GrowthState, grow_progressive
from ..io.files import write_text
from ..io.metrics import Metrics
from ..io.settings import differences, to_table
from ..networks.unet import supports_fast_bfloat16
from ..runs import Run, load_checkpoint, load_denoiser, locked, open_run, save_checkpoint
from .progress import Pace, interruptible, progress, say
from .train import Device, choose_device

# Memory that a chunk of volumes may take on a CPU; more does not make it faster.
_BYTES_ON_CPU = 2**28
# Arrays of the size of a volume that are alive at once: volume, average, gradient, what comes between them.
_VOLUME_COPIES = 8
_SECONDS_BETWEEN_METRICS = 10.0
_SECONDS_BETWEEN_SAVES = 30.0
# Between the random seeds of repeats, so that those of two runs do not meet.
_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class Selection:
    """Which volumes to make.

    Attributes
    ----------
    images
        Images whose volumes to make, counted from 0. None: all of them. Volumes help each other, so that a few alone
        may come out worse.
    seeds
        Independent repeats. Where the volumes of an image agree between repeats, they can be trusted more.
    overwrite
        Replace volumes that were made with other settings, or by a denoiser that has since been trained further.

    Raises
    ------
    InputError
        No repeat.
    """

    images: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INDEX ...")] = None
    seeds: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"--seeds must be 1 or more, not {self.seeds}")


_ALL = Selection()


def reconstruct(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    growth: GrowthConfig,
    selection: Annotated[Selection, tyro.conf.arg(name="")] = _ALL,
    device: Device = "auto",
) -> None:
    """Make one volume for each class average, with the denoiser of a run folder.

    Volumes are written to RUN/volumes as they come; the same command again makes those that are missing.

    Parameters
    ----------
    run
        Run folder that `scoretomo train` has made.
    growth
        Settings of the reconstruction; those of the run unless given.
    selection
        Which volumes to make.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    if not (run / "config.toml").exists():
        raise InputError(f"{run}: is no run folder (no config.toml); make one with `scoretomo train`")
    with locked(run):
        opened = open_run(run)
        reconstruct_volumes(opened, growth, selection, choose_device(device))
    print(f"volumes: {opened.volumes}")


def reconstruct_volumes(run: Run, growth: GrowthConfig, selection: Selection, device: torch.device) -> None:
    """Make the selected volumes that are not there yet."""
    indices = _indices(run, selection)
    denoiser = EDMDenoiser(load_denoiser(run), bfloat16=supports_fast_bfloat16(device)).to(device).eval()
    denoiser.requires_grad_(False)
    _settle(run, growth, overwrite=selection.overwrite)
    for seed in range(selection.seeds):
        if all(run.volume(index, seed).exists() for index in indices):
            say(f"all {len(indices)} volumes are there" + (f" (seed {seed})" if seed else ""))
            continue
        _reconstruct_seed(run, denoiser, growth, indices, seed, device)


def _reconstruct_seed(
    run: Run, denoiser: EDMDenoiser, growth: GrowthConfig, indices: list[int], seed: int, device: torch.device
) -> None:
    """All volumes of one repeat, beginning where an earlier process has stopped."""
    indices, state = _saved_growth(run, growth, indices, seed, device)
    images = run.images.to(device)
    chunk = chunk_size(images.shape[-1], device)
    metrics = Metrics(run.folder, f"reconstruct_seed{seed}", resumed_at=0 if state is None else None)
    title = "reconstruct" + (f" seed {seed}" if seed else "")
    steps = grow_progressive(
        denoiser,
        images,
        growth,
        seed=run.config.seed + _SEED_STEP * (seed + 1),
        wanted=torch.tensor(indices),
        state=state,
        chunk=chunk,
        mask_radius=run.mask_radius,
    )
    pace, written_at, saved_at = Pace(), time.monotonic(), time.monotonic()
    with interruptible() as check, progress(title) as report:
        for step in steps:
            for index, volume in step.finished:
                run.save_volume(index, seed, volume)
            try:
                check()
            except KeyboardInterrupt:
                _save_growth(run, seed, indices, device, step.state)
                raise
            if step.finished or step.state.running is None or time.monotonic() - saved_at >= _SECONDS_BETWEEN_SAVES:
                _save_growth(run, seed, indices, device, step.state)
                saved_at = time.monotonic()
            speed = pace(step.done)
            if step.state.running is None or time.monotonic() - written_at >= _SECONDS_BETWEEN_METRICS:
                errors = {"base_error": step.base_error, "score_error": step.score_error}
                metrics.write(step.done, {"stage": step.name, **errors, "volume_steps_per_second": speed})
                written_at = time.monotonic()
            residuals = f"class averages {step.base_error:.3f}, denoiser {step.score_error:.3f}"
            report(step.done / step.total, f"{step.name}  {speed:.0f} volume-steps/s  residuals: {residuals}")
    metrics.close()


def _save_growth(run: Run, seed: int, indices: list[int], device: torch.device, state: GrowthState) -> None:
    values = {"images": indices, "device": device.type, "growth": state.state_dict()}
    save_checkpoint(run.growth_checkpoint(seed), values)


def _saved_growth(
    run: Run, growth: GrowthConfig, indices: list[int], seed: int, device: torch.device
) -> tuple[list[int], GrowthState | None]:
    """Images to work on, and where an earlier process has got to if that helps them.

    It goes on where it was for the same images only. The last stage needs nothing but the parents, so that any volume
    that is missing then can be made from them.
    """
    missing = [index for index in indices if not run.volume(index, seed).exists()]
    saved = load_checkpoint(run.growth_checkpoint(seed))
    if saved is None or saved["device"] != device.type:
        return (missing if growth.nuclei == 0 else indices), None
    state = GrowthState.from_state_dict(saved["growth"], device)
    last = len(growth.stages) - 1
    done = saved["images"][: len(state.grown)] if state.stage == last else []
    if saved["images"] == indices and state.stage <= last and not set(done) & set(missing):
        say(f"going on with the reconstruction at stage {state.stage + 1} of {last + 1}")
        return indices, state
    if state.stage >= last:
        say(f"making {len(missing)} more volumes")
        return missing, replace(state.at_stage_start(), stage=last)
    return (missing if growth.nuclei == 0 else indices), None


def _indices(run: Run, selection: Selection) -> list[int]:
    count = len(run.images)
    wanted = list(range(count)) if selection.images is None else sorted(set(selection.images))
    wrong = [index for index in wanted if not 0 <= index < count]
    if wrong or not wanted:
        raise InputError(f"--images {' '.join(map(str, wrong))}: the run has images 0 to {count - 1}")
    return wanted


def refuse_replacing(run: Run, selection: Selection) -> None:
    """Stop before a denoiser is trained further that has made volumes already.

    Raises
    ------
    InputError
        There are volumes, and no ``--overwrite``.
    """
    if any(run.volumes.glob("*.mrc")) and not selection.overwrite:
        raise InputError(
            f"{run.volumes}: these volumes were made before the denoiser is trained further; "
            "move them away, or give --overwrite to replace them"
        )


def _settle(run: Run, growth: GrowthConfig, *, overwrite: bool) -> None:
    """Compare with what earlier volumes were made with, and write down what these are made with."""
    path = run.folder / "reconstruction.toml"
    table: dict[str, Any] = {"denoiser_sha256": _hash_denoiser(run), "growth": to_table(growth)}
    if path.exists():
        before = tomllib.loads(path.read_text(encoding="utf-8"))
        changed = differences(before["growth"], table["growth"])
        if before["denoiser_sha256"] != table["denoiser_sha256"]:
            changed.insert(0, "the denoiser has been trained further")
        if changed and any(run.volumes.glob("*.mrc")) and not overwrite:
            raise InputError(
                f"{run.volumes}: these volumes were made otherwise ({'; '.join(changed)}); "
                "move them away, or give --overwrite to replace them"
            )
        if changed:
            for stale in [*run.volumes.glob("volume_*.mrc"), *run.folder.glob("checkpoint/growth_*.pt")]:
                stale.unlink()
    write_text(path, tomli_w.dumps(table))


def _hash_denoiser(run: Run) -> str:
    weights = sorted(run.denoiser_folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()


def chunk_size(side: int, device: torch.device) -> int:
    """Volumes to advance together: what the memory holds, the same on every machine of a kind."""
    cuda = device.type == "cuda"
    available = torch.cuda.get_device_properties(device).total_memory // 4 if cuda else _BYTES_ON_CPU
    return max(1, available // (4 * _VOLUME_COPIES * side**3))
