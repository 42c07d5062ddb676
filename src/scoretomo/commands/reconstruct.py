"""``scoretomo reconstruct``: a trained run in, one volume per class average out."""

import hashlib
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import processes
from ..datatypes import InputError
from ..diffusion.edm import EDMDenoiser
from ..ensemble.growth import Beginning, GrowthConfig, GrowthStep, grow_progressive
from ..ensemble.memory import is_out_of_memory, volumes_at_once
from ..ensemble.volume_choice import MOST_LEFT_OUT
from ..io.made_with import MadeWith, read_made_with, write_made_with
from ..io.metrics import Metrics
from ..io.settings import differences, to_table
from ..limits import check_limits
from ..methods.motion_model import MotionModel
from ..methods.neighbour_volumes import NeighbourVolumes, nearest
from ..networks.unet import supports_fast_bfloat16
from ..runs import Run, load_denoiser
from .growth_folder import GrowthFolder
from .motion import find_motion, motion_fingerprint, motion_volumes, settle_motion
from .progress import Pace, Report, interruptible, progress, say
from .run_folder import opened
from .train import Device, choose_device
from .volume_choice import choose_volumes

# Part of the free memory that volumes may take: the rest is for what they begin with, and for what others begin.
_FILLED = 0.8
# Free memory of a processor where nothing says it: enough for the few volumes that it advances at once.
_UNKNOWN_MEMORY = 2**32
_LIMITS_OF_VERSION_2 = ("memory.max", "memory.current")
_SECONDS_BETWEEN_NOTES = 1.0
_SECONDS_BETWEEN_METRICS = 10.0
_SECONDS_BETWEEN_SAVES = 30.0
# Of many large volumes saving takes long: at most this part of the time.
_TIME_FOR_SAVES = 0.05
# Between the random seeds of repeats, so that those of two runs do not meet.
_SEED_STEP = 1_000_003


@dataclass(frozen=True)
class Selection:
    """Which volumes to make.

    Attributes
    ----------
    images
        Images whose volumes to make, counted from 0. None: all of them.
    seeds
        Repeats with other random views and noise; all go on from the same motion model.
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
        check_limits(self, seeds=(1, 1000))


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
        Settings of the reconstruction; those of the run unless given. Of a rigid molecule, which is found out first
        where it is not known, all class averages serve as anchors.
    selection
        Which volumes to make.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    with opened(run, shared=True) as ready:
        reconstruct_volumes(ready, growth, selection, choose_device(device))
    print(f"volumes: {ready.volumes}")


def reconstruct_volumes(run: Run, growth: GrowthConfig, selection: Selection, device: torch.device) -> None:
    """Make the selected volumes that are not there yet; processes that work together share them out."""
    indices = selected_images(run, selection)
    if growth.initial and not run.config.growth.initial:
        raise InputError(f"{run.folder}: its volumes start from nothing; give --growth.initial to a run of its own")
    if growth.initial:
        processes.by_main(partial(settle_motion, run, device))
    growth = growth.settled(rigid=bool(run.rigid))
    denoiser = trained_denoiser(run, device)
    model = _find_motion(run, device) if growth.initial else None
    made_with = _made_with(run, growth, model)
    processes.by_main(lambda: _settle(run, made_with, overwrite=selection.overwrite))
    most = len(indices) if run.rigid or model is None else max(len(indices), MOST_LEFT_OUT)
    chunk = chunk_size(denoiser, run.images.shape[-1], growth, most, device)
    kind = choose_volumes(run, denoiser, growth, model, made_with, device, chunk=chunk)
    if kind == "motion" and selection.seeds > 1:
        say("the volumes of the motion model do not depend on the seed: there is one for each class average")
    for seed in range(1 if kind == "motion" else selection.seeds):
        if _all_there(run, indices, seed):
            continue
        beginning = None if model is None else _beginning(run, model, growth, device)
        # others begin with what is as blurred as the class averages
        written = None if model is None or kind == "score" else motion_volumes(run, model, device, sharp=True)
        folder = GrowthFolder(run, seed, written if kind == "mean" else None)
        if written and kind == "motion":
            _put_motion(folder, written, indices)
            continue
        with _one_volume_fits(run.images.shape[-1], device):
            chunk = _reconstruct_seed(folder, denoiser, growth, beginning, indices, device, chunk)


def _all_there(run: Run, indices: list[int], seed: int) -> bool:
    there = processes.by_main(partial(_count_volumes, run, indices, seed))
    of_seed = f" (seed {seed})" if seed else ""
    if there == len(indices):
        say(f"all {there} volumes are there{of_seed}")
    elif there:
        say(f"{there} of {len(indices)} volumes are there{of_seed}")
    return there == len(indices)


def _put_motion(folder: GrowthFolder, volumes: NeighbourVolumes, indices: list[int]) -> None:
    """Make the volumes of the motion model the result."""
    share = folder.share([folder.run.used.index(index) for index in indices])
    with interruptible() as check, progress("volumes of the motion") as report:
        for done, item in enumerate(share.mine, 1):
            check()
            folder.put(item, volumes(item))
            report(done / len(share.mine), f"{done} of {len(share.mine)}")
    folder.wait()


def _find_motion(run: Run, device: torch.device) -> MotionModel:
    """Read the motion model, which the main process makes if it is not there."""
    processes.by_main(lambda: find_motion(run, device) and None)
    return find_motion(run, device)


def _beginning(run: Run, model: MotionModel, growth: GrowthConfig, device: torch.device) -> Beginning:
    """Say what volumes begin with."""
    volumes = motion_volumes(run, model, device)
    return Beginning(volumes, model.rotations, model.shifts_pixels, nearest(model.z, growth.neighbours))


def trained_denoiser(run: Run, device: torch.device) -> EDMDenoiser:
    """Read the denoiser of a run, to be used and not trained."""
    denoiser = EDMDenoiser(load_denoiser(run), bfloat16=supports_fast_bfloat16(device))
    return denoiser.to(device).eval().requires_grad_(False)


def _reconstruct_seed(
    folder: GrowthFolder,
    denoiser: EDMDenoiser,
    growth: GrowthConfig,
    beginning: Beginning | None,
    indices: list[int],
    device: torch.device,
    chunk: int,
) -> int:
    """All volumes of one repeat, from where an earlier command has stopped; returns the chunk that the memory holds."""
    run, seed = folder.run, folder.seed
    steps = grow_progressive(
        denoiser,
        run.images[run.used].to(device),
        growth.distil,
        seed=run.config.seed + _SEED_STEP * (seed + 1),
        beginning=beginning,
        wanted=[run.used.index(index) for index in indices],  # growth knows no others than those it is given
        store=folder,
        chunk=chunk,
        mask_radius=run.mask_radius,
    )
    with interruptible() as check, progress("reconstruct" + (f" seed {seed}" if seed else "")) as report:
        log = _Log(folder, report) if processes.is_main() else None
        save_at = time.monotonic() + _SECONDS_BETWEEN_SAVES
        for step in steps:
            if step.chunk < chunk:
                chunk = step.chunk
                say(f"the memory is too small; advancing {chunk} volumes at a time")
            try:
                check()
            except KeyboardInterrupt:
                _keep(step, folder)
                raise
            now = time.monotonic()
            if now >= save_at:
                _keep(step, folder)
                taken = time.monotonic() - now
                save_at = now + taken + max(_SECONDS_BETWEEN_SAVES, taken / _TIME_FOR_SAVES)
            if log is not None:
                log.add(step)
            del step  # these volumes are in nobody's way when the next ones begin
        processes.wait_for_all()
        if log is not None:
            log.close()
    return chunk


def _keep(step: GrowthStep, folder: GrowthFolder) -> None:
    """Write how far the volumes are, unless they are complete and written."""
    if step.advancing is not None and not step.complete:
        step.advancing.keep(folder)


class _Log:
    """Shows and writes now and then how far the reconstruction is; in between nothing waits for a GPU."""

    def __init__(self, folder: GrowthFolder, report: Report) -> None:
        self.run, self.phase, self.report = folder.run, f"reconstruct_seed{folder.seed}", report
        self.resumed = any(folder.folder.glob("*.pt"))
        self.metrics: Metrics | None = None
        self.pace = Pace()
        self.shown_at = self.written_at = -math.inf

    def add(self, step: GrowthStep) -> None:
        """Take in a step."""
        if self.resumed:
            say("going on with the reconstruction")
            self.resumed = False
        speed = self.pace(step.done)
        if step.advancing is None or not (step.complete or time.monotonic() - self.shown_at >= _SECONDS_BETWEEN_NOTES):
            return
        self.shown_at = time.monotonic()
        self.metrics = self.metrics or Metrics(self.run.folder, self.phase, resumed_at=step.done - 1)
        now = step.advancing.step
        base_error, score_error = torch.stack([now.base_error, now.score_error]).mean(1).tolist()
        residuals = f"class averages {base_error:.3f}, denoiser {score_error:.3f}"
        self.report(step.done / step.total, f"{speed:.0f} volume-steps/s  residuals: {residuals}")
        if step.complete or self.shown_at - self.written_at >= _SECONDS_BETWEEN_METRICS:
            errors = {"base_error": base_error, "score_error": score_error}
            self.metrics.write(step.done, {**errors, "volume_steps_per_second": speed})
            self.written_at = self.shown_at

    def close(self) -> None:
        """Write what has been gathered."""
        if self.metrics is not None:
            self.metrics.close()


def chunk_size(denoiser: EDMDenoiser, side: int, growth: GrowthConfig, wanted: int, device: torch.device) -> int:
    """Volumes to advance together: what the memory holds of this process's share, and is of use."""
    free = free_memory(device)
    volumes, taken = volumes_at_once(
        denoiser,
        side,
        growth.distil,
        device,
        budget=round(_FILLED * free),
        most=-(-wanted // processes.count()),
    )
    company = f" in each of {processes.count()} processes" if processes.count() > 1 else ""
    say(f"advancing {volumes} volumes at a time ({taken / 1e9:.1f} GB of {free / 1e9:.0f} GB){company}")
    return volumes


def free_memory(device: torch.device) -> int:
    """Bytes that this process could have more, or has and does not use."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    linux = Path("/proc/meminfo")
    if not linux.exists():
        return _UNKNOWN_MEMORY
    # not sysconf, which counts files that Linux holds in memory for speed as if they could not give way
    lines = dict(line.split(":") for line in linux.read_text(encoding="utf-8").splitlines())
    machine = int(lines["MemAvailable"].split()[0]) * 1024
    groups = Path("/proc/self/cgroup")
    membership = groups.read_text(encoding="utf-8") if groups.exists() else ""
    return min(machine, *left_of_limits(membership, Path("/sys/fs/cgroup"))) // processes.count_here()


def left_of_limits(membership: str, mount: Path) -> list[int]:
    """Bytes that are left of what a cluster or container allows this job.

    Parameters
    ----------
    membership
        The job's groups, as ``/proc/self/cgroup`` lists them; limits of the groups around them count too.
    mount
        Where Linux shows its control groups, of version 1 or 2.
    """
    left = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mount / controllers
        limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else _LIMITS_OF_VERSION_2
        own = root / path.lstrip("/")
        for group in [own, *own.parents]:
            with suppress(OSError, ValueError):  # there is no such group in this container; "max" is no limit
                left.append(int((group / limit).read_text()) - int((group / used).read_text()))
            if group == root:
                break
    return [max(0, each) for each in left]


@contextmanager
def _one_volume_fits(side: int, device: torch.device) -> Iterator[None]:
    """Turn the want of memory that is left when volumes advance one by one into an error of what was asked for."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"not even one volume of {side} pixels fits into the memory ({device}); train with a smaller --side "
            "in a new run folder, or take a machine with more"
        ) from error


def selected_images(run: Run, selection: Selection) -> list[int]:
    """Images whose volumes are to be made.

    Raises
    ------
    InputError
        Images that there are not, or that are left out.
    """
    count = len(run.images)
    wanted = run.used if selection.images is None else sorted(set(selection.images))
    wrong = [index for index in wanted if not 0 <= index < count]
    if wrong or not wanted:
        raise InputError(f"--images {' '.join(map(str, wrong))}: the run has images 0 to {count - 1}")
    unused = [index for index in wanted if index in run.left_out]
    if unused:
        raise InputError(
            f"--images {' '.join(map(str, unused))}: left out of this run, see {run.quality}; "
            "give --keep to `train` with a new run folder"
        )
    return wanted


def _count_volumes(run: Run, indices: list[int], seed: int) -> int:
    return sum(run.volume(index, seed).exists() for index in indices)


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


def _made_with(run: Run, growth: GrowthConfig, model: MotionModel | None) -> MadeWith:
    """List all that decides what volumes become."""
    table: MadeWith = {"denoiser_sha256": _hash_denoiser(run), "growth": to_table(growth)}
    if model is not None:
        table["motion_sha256"] = motion_fingerprint(model)
    return table


def _settle(run: Run, table: MadeWith, *, overwrite: bool) -> None:
    """Compare with what earlier volumes were made with, and write down what these are made with."""
    if before := read_made_with(run.folder):
        changed = differences(before["growth"], table["growth"])
        if before["denoiser_sha256"] != table["denoiser_sha256"]:
            changed.insert(0, "the denoiser has been trained further")
        if before.get("motion_sha256") != table.get("motion_sha256"):
            changed.insert(0, "the motion model is another")
        if changed and any(run.volumes.glob("*.mrc")) and not overwrite:
            raise InputError(
                f"{run.volumes}: these volumes were made otherwise ({'; '.join(changed)}); "
                "move them away, or give --overwrite to replace them"
            )
        if changed:
            for stale in run.volumes.glob("volume_*.mrc"):
                stale.unlink()
            for stale in run.folder.glob("checkpoint/growth_*"):
                shutil.rmtree(stale)
        elif "volumes" in before:
            table = {**table, "volumes": before["volumes"]}
    write_made_with(run.folder, table)


def _hash_denoiser(run: Run) -> str:
    weights = sorted(run.denoiser_folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()
