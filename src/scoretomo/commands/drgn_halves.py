"""``scoretomo drgn halves``: the resolution of a volume by two independent runs, each of every other particle."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ..datatypes import InputError, Volume
from ..ensemble.consensus import Halves
from ..evaluation.alignment import align, apply_alignment
from ..evaluation.half_maps import THRESHOLD, HalfMapFsc, compare_halves
from ..imaging.fourier import resize
from ..imaging.molecular_mask import molecular_mask
from ..io.mrc import read_volume, write_volume
from ..io.tables import write_table
from ..report.course import FSC_COLUMNS
from ..report.pictures import draw_shell_correlations
from ..run_lock import written_to
from .drgn_folder import SETTINGS, DrgnRun, DrgnSource, open_run
from .progress import say
from .train import Device, choose_device


@dataclass(frozen=True)
class _Pair:
    """Two half maps of one sampling, and what is known of how they were made.

    Attributes
    ----------
    maps
        As they were read.
    side
        Edge at which they are compared: what the runs have worked at holds all that is in them.
    searched
        Whether each may be in a frame and hand of its own.
    """

    maps: tuple[Volume, Volume]
    side: int
    searched: bool


def halves(
    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN1")],
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN2")],
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None,
    align: Literal["auto", "yes", "no"] = "auto",
    device: Device = "auto",
) -> None:
    """Measure the resolution of a volume by two runs of `scoretomo drgn train`, with --half 1 and with --half 2.

    Their Fourier shell correlation (FSC) within a mask around the molecule, corrected by phase randomisation for what
    the mask correlates, at 0.143. Written are fsc.csv, fsc.png, average.mrc (of both halves, not filtered), half_1.mrc,
    half_2.mrc (as it was aligned) and mask.mrc.

    Parameters
    ----------
    first
        Run folder with one volume (--latent-dimensions 0), or a half map, .mrc.
    second
        The same of the other half.
    output
        Folder for the results. None: RUN1/halves, or halves beside the first map.
    align
        Bring the second half into the frame and hand of the first; auto does where poses were searched, and for two
        maps.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """
    pair = _runs(open_run(first), open_run(second)) if first.is_dir() and second.is_dir() else _maps(first, second)
    folder = output or (first if first.is_dir() else first.parent) / "halves"
    with written_to(folder):
        compared = _compare(pair, align == "yes" or (align == "auto" and pair.searched), choose_device(device))
        _write(folder, pair, compared)
    print(f"{_words(pair, compared.fsc)}\nresults: {folder}")


def _runs(first: DrgnRun, second: DrgnRun) -> _Pair:
    """Read the volumes of two runs that are halves of one set."""
    for run in (first, second):
        if run.config.model.latent_dimensions:
            raise InputError(f"{run.folder}: has a family of volumes; halves are runs with --latent-dimensions 0")
        if run.config.particles.half is None:
            raise InputError(f"{run.folder}: was made of all particles; train with --half 1, and with --half 2")
    if first.config.particles.half == second.config.particles.half:
        both = first.config.particles.half
        raise InputError(f"{second.folder}: is of half {both} as {first.folder} is; give runs of --half 1 and --half 2")
    if _particles(first) != _particles(second):
        raise InputError(
            f"{second.folder}: was made of other particle files ({second.files.particles}) than {first.folder} "
            f"({first.files.particles}); halves are of one set"
        )
    maps = _read(_volume_of(first), _volume_of(second))
    side = min(run.preparation().side for run in (first, second))
    return _Pair(maps, side, any(run.config.poses != "known" for run in (first, second)))


def _maps(first: Path, second: Path) -> _Pair:
    if first.is_dir() or second.is_dir():
        raise InputError(f"{first} and {second}: give two run folders or two maps, not one of each")
    maps = _read(first, second)
    return _Pair(maps, maps[0].side, searched=True)


def _particles(run: DrgnRun) -> tuple[str, int, float]:
    """Tell the particle files of a run from others."""
    source: DrgnSource = SETTINGS.source_of(run.folder)
    return source["sha256"], source["side"], source["pixel_size_angstrom"]


def _volume_of(run: DrgnRun) -> Path:
    path = run.folder / "volume.mrc"
    if not path.exists():
        raise InputError(f"{run.folder}: is not trained yet; give the same `scoretomo drgn train` again to go on")
    return path


def _read(first: Path, second: Path) -> tuple[Volume, Volume]:
    """Read two maps that can be compared."""
    one, other = read_volume(first).volume, read_volume(second).volume
    for path, volume in ((first, one), (second, other)):
        if not volume.voxels.max() > volume.voxels.min():
            raise InputError(f"{path}: the map is constant, and correlates with nothing")
    if one.side != other.side or not math.isclose(one.pixel_size_angstrom, other.pixel_size_angstrom, rel_tol=1e-4):
        raise InputError(
            f"{second}: has {other.side} voxels of {other.pixel_size_angstrom:g} Angstrom, and {first} {one.side} of "
            f"{one.pixel_size_angstrom:g}; halves have one sampling"
        )
    if torch.equal(one.voxels, other.voxels):
        raise InputError(f"{second}: is the same map as {first}; give two that were made of different particles")
    return one, other


def _compare(pair: _Pair, aligned: bool, device: torch.device) -> Halves:
    """Correlate both maps at the sampling of the runs, the second in the frame of the first if it is to be aligned."""
    first, second = (resize(volume.voxels.to(device), pair.side, 3) for volume in pair.maps)
    if aligned:
        found = align(second[None], first[None])
        second = apply_alignment(second[None], found)[0]
        hand = " and mirrored" if found.mirrored else ""
        say(f"the second half is aligned to the first{hand}")
    mask = molecular_mask((first + second) / 2)
    generator = torch.Generator(device).manual_seed(0)
    return Halves(first, second, mask, compare_halves(first, second, mask, generator=generator))


def _write(folder: Path, pair: _Pair, compared: Halves) -> None:
    """Write maps at the sampling of the particles, and the curves."""
    folder.mkdir(parents=True, exist_ok=True)
    maps = {
        "half_1": compared.first,
        "half_2": compared.second,
        "average": (compared.first + compared.second) / 2,
        "mask": compared.mask,
    }
    for name, voxels in maps.items():
        restored = resize(voxels, pair.maps[0].side, 3).cpu()
        restored = restored.clamp(0, 1) if name == "mask" else restored
        write_volume(folder / f"{name}.mrc", Volume(restored, pair.maps[0].pixel_size_angstrom))
    rows = compared.fsc.rows(pair.side, _working_pixel_size(pair))
    write_table(folder / "fsc.csv", rows)
    frequencies = [row["frequency_per_angstrom"] for row in rows]
    curves = [
        {"name": words, "x": frequencies, "y": [row[column] for row in rows]} for column, words in FSC_COLUMNS.items()
    ]
    draw_shell_correlations(folder / "fsc.png", curves, THRESHOLD)


def _working_pixel_size(pair: _Pair) -> float:
    return pair.maps[0].pixel_size_angstrom * pair.maps[0].side / pair.side


def _words(pair: _Pair, fsc: HalfMapFsc) -> str:
    resolution = fsc.resolution_pixels * _working_pixel_size(pair)
    if math.isinf(resolution):
        return "the halves agree nowhere, so that there is no resolution"
    never = fsc.corrected[-1] >= THRESHOLD
    limit = "; the halves agree to the end of what was worked at: give a larger --side" if never else ""
    return f"resolution: {resolution:.2f} A (FSC {THRESHOLD} between independent halves{limit})"
