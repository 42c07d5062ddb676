"""``scoretomo run``: train, reconstruct, judge and report, in one command that may be interrupted."""

from functools import partial
from typing import Annotated, Literal

import torch
import tyro

from .. import processes
from ..imaging.fourier import recentre_crop
from ..io.metrics import read_metrics
from ..methods.projection_matching import MatchingConfig
from ..report.figures import overview, training_curves
from ..run_lock import locked
from ..runs import Run, RunConfig
from .consensus import ConsensusConfig, enough_for_halves, make_consensus
from .ensemble import EnsembleConfig, analyse
from .initial import make_initial
from .motion import settle_motion
from .progress import say
from .reconstruct import Selection, reconstruct_volumes, refuse_replacing
from .refinement import FEWEST_TO_REFINE
from .report import write_report
from .train import Source, choose_device, is_trained, open_source, train_denoiser

# Columns of the overview.
_SHOWN = 8
_ALL = Selection()


def run(
    source: Annotated[Source, tyro.conf.arg(name="")],
    config: Annotated[RunConfig, tyro.conf.arg(name="")],
    selection: Annotated[Selection, tyro.conf.arg(name="")] = _ALL,
    volumes: bool = False,
    method: Literal["score", "drgn"] = "score",
) -> None:
    """Class averages in, one volume for each of them out, with a report that says which to trust.

    Begins with an initial model, whose picture, RUN/initial/initial.png, is there after seconds.
    Refines one map with its resolution, RUN/consensus, and finds out from class averages that are left out whether the
    molecule moves. Of one that does not, this map is the result. Of one that does, a denoiser is trained, and volumes
    are reconstructed, judged, and brought into one frame, in which states and motion are found. Results are in the
    folder RUN: report.html, initial/, consensus/, motion/, volumes/, ensemble/, figures/, the trained denoiser and all
    settings. The same command again goes on where an earlier one was interrupted.

    Parameters
    ----------
    source
        What to work on and where.
    config
        Everything that decides what becomes of the images.
    selection
        Which volumes to make.
    volumes
        Make a volume of each class average of a rigid molecule too, as --images and --seeds do.
    method
        score is score-based tomography; drgn is cryoDRGN2, for comparison, and has its own options: `scoretomo run
        --method drgn --help`.
    """
    assert method == "score", "the command line calls run_drgn"
    with locked(source.output):
        opened = run_all(source, config, selection, volumes=volumes)
    made = opened.volumes if opened.volumes.exists() else opened.folder / "consensus" / "consensus.mrc"
    print(f"{'volumes' if opened.volumes.exists() else 'consensus'}: {made}\nreport: {opened.folder / 'report.html'}")


def run_all(source: Source, config: RunConfig, selection: Selection, *, volumes: bool = False) -> Run:
    """Do what :func:`run` does, in a folder that is locked already."""
    device = choose_device(source.device)
    opened = open_source(source, config, device)
    if opened.config.growth.initial:
        processes.by_main(partial(_begin, opened, device))
    if opened.rigid and not volumes and selection == _ALL:
        say("one map is made of a rigid molecule, and no volumes: give --volumes for them")
        processes.by_main(partial(_conclude_rigid, opened, device))
        return opened
    if not is_trained(opened):
        refuse_replacing(opened, selection)
    train_denoiser(opened, device)
    reconstruct_volumes(opened, opened.config.growth, selection, device)
    processes.by_main(partial(_conclude, opened, selection, device))
    return opened


def _begin(run: Run, device: torch.device) -> None:
    """Make the initial model, and find out whether the molecule moves and how, unless it is said to be rigid."""
    if run.config.rigid:
        make_initial(run, device)
    else:
        settle_motion(run, device)


def _conclude_rigid(run: Run, device: torch.device) -> None:
    """Refine one map, where that was not done to see whether the molecule moves, and report."""
    if len(run.used) >= FEWEST_TO_REFINE and not (run.folder / "consensus").exists():
        make_consensus(run, ConsensusConfig(halves=enough_for_halves(run)), MatchingConfig(), device)
    write_report(run, device)


def _conclude(run: Run, selection: Selection, device: torch.device) -> None:
    """Judge the volumes, bring them together, draw and report."""
    draw(run, selection)
    reliable = analyse(run, EnsembleConfig(), device, again=False)
    if run.rigid and reliable > 1:
        make_consensus(run, ConsensusConfig(halves=enough_for_halves(run)), MatchingConfig(), device)
    write_report(run, device)


def draw(run: Run, selection: Selection) -> None:
    """Draw an overview of the first volumes, and the course of the training."""
    wanted = run.used if selection.images is None else sorted(set(selection.images))
    shown = wanted[:_SHOWN]
    volumes = [run.read_volume(run.volume(index, 0)) for index in shown]
    run.figures.mkdir(exist_ok=True)
    # images were cropped to their mask; volumes have the box of the input again
    boxes = recentre_crop(torch.stack(volumes), run.preprocessing.cropped_side, 3)
    overview(run.figures / "overview.png", run.images[shown], boxes, [str(index) for index in shown])
    training_curves(run.figures / "training.png", read_metrics(run.folder / "metrics.jsonl"))
