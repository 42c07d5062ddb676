"""``scoretomo consensus``: one map of all class averages, refined, with a resolution."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Volume
from ..ensemble.initial_evidence import FEWEST_FOR_HALVES
from ..evaluation.half_maps import THRESHOLD, filter_to_resolution
from ..geometry.symmetry import symmetry_group
from ..imaging.molecular_mask import solvent_mask
from ..imaging.preprocess import restore_volume
from ..io.files import replacing_folder, write_json
from ..io.mrc import write_volume
from ..io.tables import read_table, write_table
from ..limits import check_limits
from ..methods.angular_spread import AngularSpread
from ..methods.projection_matching import MatchingConfig, MatchingStep
from ..runs import Run
from .initial import find_models
from .progress import say
from .refinement import FEWEST_TO_REFINE, Models, Refined, refine_models
from .run_folder import opened
from .train import Device, choose_device


@dataclass(frozen=True)
class ConsensusConfig:
    """What the consensus is taken for.

    Attributes
    ----------
    symmetry
        Point group: C1, C2, ..., D2, D3, ..., T, O or I; auto takes the one that the refined map has.
    halves
        Measure the resolution: refine two maps of half of the class averages each, from initial models of their own.
        Without it (--no-halves) no resolution is known.
    b_factor
        Square Angstrom: negative sharpens the map that is written, positive blurs it.
    """

    symmetry: Annotated[str, tyro.conf.arg(metavar="auto|GROUP")] = "auto"
    halves: bool = True
    b_factor: Annotated[float, tyro.conf.arg(metavar="A^2")] = 0.0

    def __post_init__(self) -> None:
        check_limits(self, b_factor=(-1e6, 1e6))


_DEFAULT = ConsensusConfig()
_MATCHING = MatchingConfig()


def consensus(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    config: Annotated[ConsensusConfig, tyro.conf.arg(name="")] = _DEFAULT,
    matching: MatchingConfig = _MATCHING,
    device: Device = "auto",
) -> None:
    """Make one map of all class averages, refined from the initial model, and measure its resolution.

    For molecules that keep their shape. Class averages whose volumes are judged wrong are left out. Results are in
    RUN/consensus: consensus.mrc, which is 0 outside solvent_mask.mrc, half_1.mrc and half_2.mrc, which are not
    masked, mask.mrc, under which they are compared, fsc.csv, the pose of every class average, and consensus.json. The
    same command again goes on where an earlier one was interrupted.

    Parameters
    ----------
    run
        Run folder.
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


def enough_for_halves(run: Run) -> bool:
    """Whether the resolution of the class averages that are trusted can be measured."""
    return len(_trusted(run)) >= FEWEST_FOR_HALVES


def make_consensus(
    run: Run, config: ConsensusConfig, matching: MatchingConfig, device: torch.device, *, rows: list[int] | None = None
) -> Refined:
    """Do what :func:`consensus` does, in a folder that is locked already, and give the maps too.

    ``rows`` are the images to use, in the place of those that are trusted.
    """
    rows = _trusted(run) if rows is None else rows
    if config.halves and len(rows) < FEWEST_FOR_HALVES:
        raise InputError(f"{run.folder}: {len(rows)} images are too few for halves; give --no-halves")
    if len(rows) < FEWEST_TO_REFINE:
        raise InputError(f"{run.folder}: {len(rows)} class averages are too few to refine a map; see RUN/initial")
    models = find_models(run, rows, device, halves=config.halves)
    refined = refine_models(run, models, config.symmetry, matching, device, halves=config.halves)
    spread = refined.angular_spread(_known_spread(run))
    with replacing_folder(run.folder / "consensus") as folder:
        _write(folder, run, models, refined, spread, config)
    say(_words(run, refined))
    if spread and spread.degrees:
        say(f"views within classes spread by {spread.degrees:.1f} degrees; the blur is undone in consensus.mrc")
    return refined


def _known_spread(run: Run) -> float | None:
    """Take the spread of views that was given, or found without the blur of a motion; None where neither is known."""
    found = run.motion_found
    if found and run.config.angular_spread is None and found.get("components_fitted") and not run.rigid:
        return found.get("angular_spread_degrees")
    return run.config.angular_spread


def _trusted(run: Run) -> list[int]:
    """Images that are used: all but those whose volumes are judged wrong."""
    table = run.folder / "ensemble" / "reliability.csv"
    if not table.exists():
        return run.used
    advice = "`scoretomo ensemble` makes it anew"
    rows = read_table(table, ["verdict"], whole=["index"], advice=advice)
    wrong = {int(row["index"]) for row in rows if row["verdict"] == "wrong"}
    return [index for index in run.used if index not in wrong] or run.used


def _write(
    folder: Path,
    run: Run,
    models: Models,
    found: Refined,
    spread: AngularSpread | None,
    config: ConsensusConfig,
) -> None:
    pixel, side = run.preprocessing.working_pixel_size_angstrom, run.images.shape[-1]
    restored, refined, halves = partial(_restored, run), found.whole, found.halves
    # without halves it is not known how well each shell is known; the prior has damped those where images disagree
    curve = halves.fsc.corrected if halves else torch.ones(side // 2 + 1).to(refined.volume)
    volume = spread.undo(refined.volume[None])[0] if spread else refined.volume
    filtered = filter_to_resolution(volume, curve, pixel, b_factor_angstrom2=config.b_factor)
    molecule = solvent_mask(filter_to_resolution(volume, curve, pixel)[None])  # whatever it is sharpened by
    write_volume(folder / "consensus.mrc", restored(filtered * molecule))
    _write_mask(folder / "solvent_mask.mrc", run, molecule)
    write_table(folder / "poses.csv", _poses(models.rows, refined, pixel))
    resolution = None
    if halves:
        write_volume(folder / "half_1.mrc", restored(halves.first))
        write_volume(folder / "half_2.mrc", restored(halves.second))
        _write_mask(folder / "mask.mrc", run, halves.mask)
        write_table(folder / "fsc.csv", halves.fsc.rows(side, pixel))
        resolution = _finite(halves.fsc.resolution_pixels * pixel)
    write_json(
        folder / "consensus.json",
        {
            "resolution_angstrom": resolution,
            "threshold": THRESHOLD,
            "symmetry": found.symmetry,
            "angular_spread_degrees": None if spread is None else spread.degrees,
            "images_used": len(models.rows),
            "iterations": refined.iteration,
            "converged": refined.converged,
            "refined_to_angstrom": side * pixel / refined.band,
            "median_correlation": float(refined.scores.median()),
        },
    )


def _write_mask(path: Path, run: Run, mask: Float[Tensor, "n n n"]) -> None:
    restored = _restored(run, mask)
    scale = mask.max().cpu() / restored.voxels.max()  # it has no units
    write_volume(path, replace(restored, voxels=(restored.voxels * scale).clamp(0, 1)))


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


def _words(run: Run, found: Refined) -> str:
    symmetry, halves = found.symmetry, found.halves
    if halves is None:
        return f"consensus with {symmetry}; its resolution is not known without halves"
    resolution = halves.fsc.resolution_pixels * run.preprocessing.working_pixel_size_angstrom
    if math.isinf(resolution):
        return f"consensus with {symmetry}; its halves agree nowhere, so that it has no resolution"
    return f"consensus with {symmetry}: {resolution:.1f} A (FSC {THRESHOLD} between independent halves)"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
