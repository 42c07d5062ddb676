"""``scoretomo run``: train, reconstruct, judge and report, in one command that may be interrupted."""

from functools import partial
from typing import Annotated, Literal

import torch
import tyro

from .. import processes
from ..imaging.fourier import recentre_crop
from ..io.metrics import read_metrics
from ..io.mrc import read_volume
from ..methods.projection_matching import MatchingConfig
from ..report.figures import overview, training_curves
from ..run_lock import locked
from ..runs import Run, RunConfig
from .consensus import ConsensusConfig, make_consensus
from .ensemble import EnsembleConfig, analyse
from .reconstruct import Selection, reconstruct_volumes, refuse_replacing
from .report import write_report
from .train import Source, choose_device, is_trained, open_source, train_denoiser

# Columns of the overview.
_SHOWN = 8
_ALL = Selection()


def run(
    source: Annotated[Source, tyro.conf.arg(name="")],
    config: Annotated[RunConfig, tyro.conf.arg(name="")],
    selection: Annotated[Selection, tyro.conf.arg(name="")] = _ALL,
    method: Literal["score", "drgn"] = "score",
) -> None:
    """Class averages in, one volume for each of them out, with a report that says which to trust.

    Trains a denoiser, reconstructs, judges the volumes, brings them into one frame and finds the states of the
    molecule; of one that is taken as rigid, a consensus is refined too. Results are in the folder RUN: report.html,
    volumes/, ensemble/, figures/, the trained denoiser and all settings. The same command again goes on where an
    earlier one was interrupted.

    Parameters
    ----------
    source
        What to work on and where.
    config
        Everything that decides what becomes of the images.
    selection
        Which volumes to make.
    method
        score is score-based tomography; drgn is cryoDRGN2, for comparison, and has its own options: `scoretomo run
        --method drgn --help`.
    """
    assert method == "score", "the command line calls run_drgn"
    with locked(source.output):
        opened = run_all(source, config, selection)
    print(f"volumes: {opened.volumes}\nreport: {opened.folder / 'report.html'}")


def run_all(source: Source, config: RunConfig, selection: Selection) -> Run:
    """Do what :func:`run` does, in a folder that is locked already."""
    device = choose_device(source.device)
    opened = open_source(source, config, device)
    if not is_trained(opened):
        refuse_replacing(opened, selection)
    train_denoiser(opened, device)
    reconstruct_volumes(opened, opened.config.growth, selection, device)
    processes.by_main(partial(_conclude, opened, selection, device))
    return opened


def _conclude(run: Run, selection: Selection, device: torch.device) -> None:
    """Judge the volumes, bring them together, draw and report."""
    draw(run, selection)
    reliable = analyse(run, EnsembleConfig(), device, again=False)
    if run.config.rigid and reliable > 1:
        make_consensus(run, ConsensusConfig(halves=False), MatchingConfig(), device)
    write_report(run, device)


def draw(run: Run, selection: Selection) -> None:
    """Draw an overview of the first volumes, and the course of the training."""
    wanted = run.used if selection.images is None else sorted(set(selection.images))
    shown = wanted[:_SHOWN]
    volumes = [read_volume(run.volume(index, 0)).volume.voxels for index in shown]
    run.figures.mkdir(exist_ok=True)
    # images were cropped to their mask; volumes have the box of the input again
    boxes = recentre_crop(torch.stack(volumes), run.preprocessing.cropped_side, 3)
    overview(run.figures / "overview.png", run.images[shown], boxes, [str(index) for index in shown])
    training_curves(run.figures / "training.png", read_metrics(run.folder / "metrics.jsonl"))
