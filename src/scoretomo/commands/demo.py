"""``scoretomo demo``: the whole way on a simulated box, in minutes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import processes
from ..evaluation.comparison import Comparison
from ..imaging.fourier import recentre_crop
from ..io.mrc import read_volume
from ..io.star import read_poses
from ..presets import DEMO_SIMULATION, DEMO_VOLUMES
from ..report.figures import overview
from ..report.isosurface import UPRIGHT, tilted
from ..run_lock import locked
from ..runs import Run, RunConfig
from ..simulation.particles import simulate_box
from .evaluate import compare_files, table, write_evaluation
from .reconstruct import Selection
from .run import run_all
from .simulate import show, write_simulation
from .train import Device, Source

_SHOWN = 8


def demo(
    config: Annotated[RunConfig, tyro.conf.arg(name="")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("demo"),
    device: Device = "auto",
) -> None:
    """See it work: simulate a box with moving lids, reconstruct it from its images alone, compare with the truth.

    Takes some minutes on a laptop. The same command again goes on where an earlier one was interrupted.

    Parameters
    ----------
    config
        Settings of the reconstruction.
    output
        Folder for all that is made.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    simulation, run_folder = output / "simulation", output / "run"
    processes.by_main(partial(_simulate, simulation))
    source = Source(simulation / "images.mrcs", run_folder, preset="demo", device=device)
    with locked(run_folder):
        run = run_all(source, config, Selection(images=tuple(range(DEMO_VOLUMES))))
        processes.by_main(partial(_compare, output, run, simulation))
    print(f"picture: {output / 'overview.png'}\nvolumes: {run.volumes}")


def _simulate(folder: Path) -> None:
    if not (folder / "images.mrcs").exists():  # it is written last
        write_simulation(folder, simulate_box(DEMO_SIMULATION, track=show))


def _compare(output: Path, run: Run, simulation: Path) -> None:
    volumes = [run.volume(index, 0) for index in range(DEMO_VOLUMES)]
    comparisons = compare_files(volumes, [simulation / "truth" / path.name for path in volumes])
    write_evaluation(output, volumes, comparisons)
    draw(output / "overview.png", run, comparisons, simulation)
    print(table(comparisons))


def draw(path: Path, run: Run, comparisons: Sequence[Comparison], simulation: Path) -> None:
    """Draw volumes from the best to the worst beside their truth, all boxes upright."""
    ranked = sorted(comparisons, key=lambda each: -each.fsc_auc)
    chosen = [ranked[round(k * (len(ranked) - 1) / (_SHOWN - 1))] for k in range(_SHOWN)]
    indices = [each.index for each in chosen]
    truth = [read_volume(simulation / "truth" / f"volume_{index:04d}.mrc").volume.voxels for index in indices]
    rotations = read_poses(simulation / "particles.star").rotations[indices]
    side = run.preprocessing.cropped_side
    overview(
        path,
        run.images[indices],
        recentre_crop(torch.stack([each.aligned for each in chosen]), side, 3),
        [f"{each.index}: {each.fsc_auc:.2f}" for each in chosen],
        truth=recentre_crop(torch.stack(truth), side, 3),
        views=tilted(35.0, 30.0) @ UPRIGHT @ rotations.mT,
    )
