"""``scoretomo consensus``: one volume of all reliable ones, refined against the class averages, with a resolution."""

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from ..datatypes import ImageStack, InputError, Volume
from ..ensemble.consensus import Halves, agreeing_mean, bring_together, impose, weighted_mean
from ..evaluation.half_maps import THRESHOLD, filter_to_resolution
from ..evaluation.symmetry import find_symmetry
from ..geometry.symmetry import symmetry_group
from ..imaging.preprocess import restore_volume, working_volume
from ..io.files import replacing_folder, write_json
from ..io.images import read_image_stack
from ..io.mrc import read_volume, write_images, write_volume
from ..io.tables import read_table, write_table
from ..methods.projection_matching import MatchingConfig, MatchingStep, refine_progressive
from ..run_lock import locked
from ..runs import Run, RunConfig, read_source
from .progress import interruptible, progress, say
from .reconstruct import Selection, reconstruct_volumes
from .run_folder import opened
from .train import Device, Source, choose_device, open_source, train_denoiser

# Halves of fewer images than this are no measure of anything.
_FEWEST_IMAGES = 8


@dataclass(frozen=True)
class ConsensusConfig:
    """What the consensus is taken for.

    Attributes
    ----------
    symmetry
        Point group: C1, C2, ..., D2, D3, ..., T, O or I; auto takes the one that was found in the volumes.
    halves
        Measure the resolution: split the class averages in two, and train, reconstruct and refine each half on its own.
        That takes as long as the run itself has taken. Without it (--no-halves) no resolution is known.
    b_factor
        Square Angstrom: negative sharpens the map that is written, positive blurs it.
    """

    symmetry: Annotated[str, tyro.conf.arg(metavar="auto|GROUP")] = "auto"
    halves: bool = True
    b_factor: Annotated[float, tyro.conf.arg(metavar="A^2")] = 0.0


@dataclass(frozen=True)
class _Start:
    """Mean of the volumes of a run on the grid of its images, and the images that it is refined against."""

    mean: Float[Tensor, "n n n"]
    images: list[int]
    volumes: int


_DEFAULT = ConsensusConfig()
_MATCHING = MatchingConfig()


def consensus(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    config: Annotated[ConsensusConfig, tyro.conf.arg(name="")] = _DEFAULT,
    matching: MatchingConfig = _MATCHING,
    device: Device = "auto",
) -> None:
    """Make one volume of all reliable ones, refine it against the class averages, and measure its resolution.

    For molecules that keep their shape. Results are in RUN/consensus: consensus.mrc, half_1.mrc and half_2.mrc, the
    mask, fsc.csv, the pose of every class average, and consensus.json. The halves are run folders of their own,
    RUN/halves/1 and RUN/halves/2; the same command again goes on where an earlier one was interrupted.

    Parameters
    ----------
    run
        Run folder with volumes; `scoretomo ensemble RUN` before says which of them to trust.
    config
        What the consensus is taken for.
    matching
        How it is refined.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    if config.symmetry != "auto":
        symmetry_group(config.symmetry)  # a wrong name is said before anything takes long
    with opened(run) as ready:
        make_consensus(ready, config, matching, choose_device(device))
    print(f"consensus: {run / 'consensus'}")


def make_consensus(run: Run, config: ConsensusConfig, matching: MatchingConfig, device: torch.device) -> None:
    """Do what :func:`consensus` does, in a folder that is locked already."""
    if config.halves and len(run.used) < _FEWEST_IMAGES:
        raise InputError(f"{run.folder}: {len(run.used)} images are too few for halves; give --no-halves")
    if config.halves and run.config.drgn is not None:
        raise InputError(f"{run.folder}: halves of a run of --method drgn are not made; give --no-halves")
    sources = [_half_images(run, half) for half in (1, 2)] if config.halves else []
    start = _start(run, device)
    symmetry = _symmetry(run, config, start.mean)
    refined = _refine("refine", run, start, symmetry, matching)
    halves = None
    if config.halves:
        volumes = [
            _refined_half(run, half, source, start.images, symmetry, matching, device)
            for half, source in enumerate(sources, 1)
        ]
        generator = torch.Generator(device).manual_seed(run.config.seed)
        halves = bring_together(refined.volume, torch.stack(volumes), generator=generator)
    with replacing_folder(run.folder / "consensus") as folder:
        _write(folder, run, start, symmetry, refined, halves, config)
    say(_words(run, symmetry, halves))


def _start(run: Run, device: torch.device) -> _Start:
    """Mean of the reliable volumes of RUN/ensemble, by their probability; or of those of RUN/volumes that agree."""
    table = run.folder / "ensemble" / "reliability.csv"
    if table.exists():
        rows = read_table(table, ("index", "probability", "verdict"))
        wrong = {int(row["index"]) for row in rows if row["verdict"] == "wrong"}
        chosen = [row for row in rows if row["verdict"] == "reliable"] or [
            row for row in rows if row["verdict"] == "doubtful"
        ]
        if not chosen:
            raise InputError(f"{table}: no volume is reliable; train for longer, or look at RUN/volumes")
        files = [table.parent / "volumes" / f"volume_{int(row['index']):04d}.mrc" for row in chosen]
        weights = torch.tensor([float(row["probability"]) for row in chosen], device=device)
        mean = weighted_mean(_read(run, files, device), weights)
        return _Start(mean, [index for index in run.used if index not in wrong], len(chosen))
    files = [path for index in run.used if (path := run.volume(index, 0)).exists()]
    if not files:
        raise InputError(f"{run.volumes}: holds no volumes; make some with `scoretomo reconstruct`")
    say(f"no RUN/ensemble: aligning {len(files)} volumes, and taking those that agree as reliable")
    mean, agrees = agreeing_mean(_read(run, files, device))
    return _Start(mean, run.used, int(agrees.sum()))


def _read(run: Run, files: list[Path], device: torch.device) -> Float[Tensor, "b n n n"]:
    voxels = [working_volume(read_volume(file).volume.voxels, run.preprocessing) for file in files]
    return torch.stack(voxels).to(device)


def _symmetry(run: Run, config: ConsensusConfig, mean: Float[Tensor, "n n n"]) -> str:
    """Name of the point group to impose."""
    if config.symmetry != "auto":
        return config.symmetry.upper()
    found = run.folder / "ensemble" / "symmetry.json"
    if found.exists():
        return str(json.loads(found.read_text(encoding="utf-8"))["group"])
    symmetry = find_symmetry(mean)
    say(symmetry.words)
    return symmetry.group


def _refine(title: str, run: Run, start: _Start, symmetry: str, matching: MatchingConfig) -> MatchingStep:
    group = symmetry_group(symmetry)
    images = run.images[start.images].to(start.mean)
    placed = impose(start.mean, group)
    box = run.images.shape[-1] * run.preprocessing.working_pixel_size_angstrom
    steps = refine_progressive(placed, images, run.mask_radius, matching, symmetry=group)
    with interruptible() as check, progress(title) as report:
        for step in steps:
            check()
            done = 1.0 if step.converged else step.iteration / step.total
            moved = "" if math.isinf(step.change) else f"  poses moved {step.change:.2f} periods"
            report(done, f"to {box / step.band:.1f} A  correlation {step.scores.mean():.3f}{moved}")
    return step


def _refined_half(
    run: Run,
    half: int,
    images: Path,
    wanted: list[int],
    symmetry: str,
    matching: MatchingConfig,
    device: torch.device,
) -> Float[Tensor, "n n n"]:
    """Train, reconstruct, average and refine with every other image; only the symmetry is that of the whole."""
    folder = run.folder / "halves" / str(half)
    source = Source(images, folder, device="cuda" if device.type == "cuda" else "cpu")
    say(f"half {half} of the images, in {folder}")
    with locked(folder):
        own = open_source(source, half_config(run), device)
        train_denoiser(own, device)
        reconstruct_volumes(own, own.config.growth, Selection(), device)
    kept = [place for place, index in enumerate(_of_half(run, half)) if index in wanted]
    start = replace(_start(own, device), images=kept)
    return _refine(f"refine half {half}", own, start, symmetry, matching).volume


def _of_half(run: Run, half: int) -> list[int]:
    """List every other image that the run has used."""
    return run.used[half - 1 :: 2]


def half_config(run: Run) -> RunConfig:
    """Take the settings of the run, and what it has found out about the images, so that the grids are the same."""
    record = run.preprocessing
    contrast: Literal["bright", "dark"] = "bright" if record.sign > 0 else "dark"
    settings = replace(run.config.preprocess, contrast=contrast, mask_radius=record.mask_radius)
    return replace(run.config, preprocess=settings, check=False, keep=None, exclude=None)


def _half_images(run: Run, half: int) -> Path:
    """Write the images of a half, as the run was given them."""
    source = read_source(run.folder)
    path, given = run.folder / "halves" / f"images_{half}.mrcs", Path(source["path"])
    if path.exists():
        return path
    if not given.exists():
        raise InputError(f"{given}: the images of {run.folder} are gone; bring them back, or give --no-halves")
    stack = read_image_stack(given, source["pixel_size_angstrom"]).stack
    if len(stack) != source["images"] or stack.side != source["side"]:
        raise InputError(f"{given}: holds other images than {run.folder} was made of; give --no-halves")
    path.parent.mkdir(exist_ok=True)
    write_images(path, ImageStack(stack.images[_of_half(run, half)], stack.pixel_size_angstrom))
    return path


def _write(
    folder: Path,
    run: Run,
    start: _Start,
    symmetry: str,
    refined: MatchingStep,
    halves: Halves | None,
    config: ConsensusConfig,
) -> None:
    pixel, side = run.preprocessing.working_pixel_size_angstrom, run.images.shape[-1]
    restored = partial(_restored, run)
    # without halves it is not known how well each shell is known; the prior has damped those where images disagree
    curve = halves.fsc.corrected if halves else torch.ones(side // 2 + 1).to(refined.volume)
    filtered = filter_to_resolution(refined.volume, curve, pixel, b_factor_angstrom2=config.b_factor)
    write_volume(folder / "consensus.mrc", restored(filtered))
    write_table(folder / "poses.csv", _poses(start.images, refined, pixel))
    resolution = None
    if halves:
        write_volume(folder / "half_1.mrc", restored(halves.first))
        write_volume(folder / "half_2.mrc", restored(halves.second))
        mask = restored(halves.mask)
        scale = halves.mask.max() / mask.voxels.max()  # it has no units
        write_volume(folder / "mask.mrc", replace(mask, voxels=(mask.voxels * scale.cpu()).clamp(0, 1)))
        write_table(folder / "fsc.csv", halves.fsc.rows(side, pixel))
        resolution = _finite(halves.fsc.resolution_pixels * pixel)
    write_json(
        folder / "consensus.json",
        {
            "resolution_angstrom": resolution,
            "threshold": THRESHOLD,
            "symmetry": symmetry,
            "images_used": len(start.images),
            "volumes_averaged": start.volumes,
            "iterations": refined.iteration,
            "converged": refined.converged,
            "refined_to_angstrom": side * pixel / refined.band,
            "median_correlation": float(refined.scores.median()),
        },
    )


def _poses(images: list[int], refined: MatchingStep, pixel: float) -> list[dict[str, Any]]:
    """Rows of ``poses.csv``: rotations take the frame of the consensus to that of the class average."""
    rows = []
    for place, index in enumerate(images):
        matrix, shift = refined.rotations[place].tolist(), refined.shifts_pixels[place].tolist()
        rows.append(
            {
                "index": index,
                **{f"rotation_{a}{b}": matrix[i][j] for i, a in enumerate("xyz") for j, b in enumerate("xyz")},
                "shift_x_angstrom": shift[0] * pixel,
                "shift_y_angstrom": shift[1] * pixel,
                "correlation": float(refined.scores[place]),
                "probability": float(refined.weights[place]),
                "scale": float(refined.scales[place]),
            }
        )
    return rows


def _restored(run: Run, voxels: Float[Tensor, "n n n"]) -> Volume:
    return restore_volume(voxels.cpu(), run.preprocessing)


def _words(run: Run, symmetry: str, halves: Halves | None) -> str:
    if halves is None:
        return f"consensus with {symmetry}; its resolution is not known without halves"
    resolution = halves.fsc.resolution_pixels * run.preprocessing.working_pixel_size_angstrom
    if math.isinf(resolution):
        return f"consensus with {symmetry}; its halves agree nowhere, so that it has no resolution"
    return f"consensus with {symmetry}: {resolution:.1f} A (FSC {THRESHOLD} between independent halves)"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
