"""``scoretomo motion``: whether the molecule of a run moves, and how, with a volume for each class average.

One map is refined, and compared with motion models on class averages that are left out. RUN/motion has what was found:
motion.json, and of a molecule that moves mean.mrc, component_1.mrc and so on (what one standard deviation of a
coordinate adds to the mean), coordinates.csv (where each class average lies, with errors) and volumes/.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import processes
from ..datatypes import InputError
from ..ensemble.motion_evidence import MotionEvidence, too_few, weigh_motion_progressive
from ..imaging.preprocess import restore_volume
from ..io.files import replacing_folder, write_json
from ..io.mrc import write_volume
from ..io.tables import write_table
from ..methods.motion_model import MotionModel, motion_model_progressive
from ..methods.neighbour_volumes import neighbour_volumes
from ..methods.projection_matching import MatchingConfig, MatchingStep
from ..runs import Run, load_checkpoint, save_checkpoint
from .consensus import FEWEST_FOR_HALVES, ConsensusConfig, make_consensus
from .initial import find_models, make_initial
from .progress import interruptible, progress, say
from .refinement import FEWEST_TO_REFINE, refine_models, refinement_radius
from .run_folder import opened
from .train import Device, choose_device

# Highest frequency at which a motion is looked for, in Fourier pixels: it shows at low ones first, and noise at high.
_MOST_BAND = 12


def motion(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    components: Annotated[int | None, tyro.conf.arg(metavar="K")] = None,
    device: Device = "auto",
) -> None:
    """Fit a motion model to the class averages of a run, and make a volume of each at its place in the motion.

    A mean and what is added to it, with coordinates for each class average; no network, minutes. `scoretomo run` does
    so itself where class averages that are left out say that the molecule moves. Results are in RUN/motion: motion.json
    (what was found), mean.mrc, component_1.mrc and so on, coordinates.csv, and volumes/, each in the frame of its class
    average.

    Parameters
    ----------
    run
        Run folder.
    components
        How many; those that are found with class averages that are left out, and one at least, if not given.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    processes.refuse_company("motion")
    with opened(run) as ready:
        if len(ready.used) < FEWEST_FOR_HALVES:
            raise InputError(f"{run}: {len(ready.used)} class averages are too few to tell a motion")
        if components is not None and not 1 <= components < len(ready.used) // 2:
            most = len(ready.used) // 2 - 1
            raise InputError(f"--components {components}: give 1 to {most}, for {len(ready.used)} class averages")
        where = choose_device(device)
        models = find_models(ready, ready.used, where)
        whole = refine_models(ready, models, "auto", MatchingConfig(), where).whole
        _find_motion(ready, whole, where, least=1, components=components)
    print(f"motion: {run / 'motion'}\nvolumes: {run / 'motion' / 'volumes'}")


def settle_motion(run: Run, device: torch.device) -> None:
    """Find out whether the molecule moves, unless that is settled.

    The initial model, and one map of all class averages, are made on the way. Poses in a model that may be anything
    tell nothing: then it stays open, and the molecule is taken to move.
    """
    if run.rigid is not None:
        return
    _, initial = make_initial(run, device)
    if initial.answer == "unknown" and len(run.used) >= FEWEST_FOR_HALVES:
        say("whether the molecule moves cannot be told from such an initial model; it is taken to move")
        return
    if len(run.used) >= FEWEST_FOR_HALVES:
        whole = make_consensus(run, ConsensusConfig(), MatchingConfig(), device, rows=run.used).whole
        evidence = _find_motion(run, whole, device)
    else:
        evidence = too_few(len(run.used))
        say(evidence.reason)
        if len(run.used) >= FEWEST_TO_REFINE:
            make_consensus(run, ConsensusConfig(halves=False), MatchingConfig(), device, rows=run.used)
        with replacing_folder(run.motion_folder) as folder:
            _write_evidence(folder, evidence)
    say(f"taken as {'moving' if evidence.moves else 'rigid'}; `scoretomo run --rigid {evidence.moves}` overrules")


def _find_motion(
    run: Run, whole: MatchingStep, device: torch.device, *, least: int = 0, components: int | None = None
) -> MotionEvidence:
    """Weigh motion models against one map, and write the best with its volumes if it has any component."""
    radius = refinement_radius(run, find_models(run, run.used, device).whole)
    evidence = _weigh(run, whole, radius, device)
    say(evidence.reason)
    count = components or max(least, evidence.components)
    model = _fit(run, whole, count, radius, device) if count else None
    with replacing_folder(run.motion_folder) as folder:
        _write_evidence(folder, evidence)
        if model is not None:
            _write(folder, run, model)
            _write_volumes(folder / "volumes", run, model, radius, device)
    return evidence


def _write_evidence(folder: Path, evidence: MotionEvidence) -> None:
    write_json(folder / "motion.json", {"moves": evidence.moves, **asdict(evidence)})


def _weigh(run: Run, whole: MatchingStep, radius: float, device: torch.device) -> MotionEvidence:
    """Weigh motion models, or take up what an earlier command has found of the same images at the same poses."""
    path = run.folder / "checkpoint" / "motion.pt"
    made_of = {"rows": run.used, "seed": run.config.seed, "rotations": whole.rotations.cpu().flatten().tolist()}
    saved = load_checkpoint(path)
    if saved is not None and saved["made_of"] == made_of:
        return MotionEvidence(**saved["evidence"])
    steps = weigh_motion_progressive(
        run.images[run.used].to(device),
        whole.rotations,
        whole.shifts_pixels,
        radius=radius,
        band=min(whole.band, _MOST_BAND),
        seed=run.config.seed,
    )
    with interruptible() as check, progress("one map or a motion") as report:
        for step in steps:
            check()
            report(step if isinstance(step, float) else 1.0, "")
    assert isinstance(step, MotionEvidence)
    save_checkpoint(path, {"made_of": made_of, "evidence": vars(step)})
    return step


def _fit(run: Run, whole: MatchingStep, components: int, radius: float, device: torch.device) -> MotionModel:
    """Fit the motion model of all class averages, to the band of the map."""
    steps = motion_model_progressive(
        run.images[run.used].to(device),
        whole.rotations,
        whole.shifts_pixels,
        components,
        radius=radius,
        band=whole.band,
        first_band=_MOST_BAND,
        seed=run.config.seed,
    )
    with interruptible() as check, progress("motion model") as report:
        for step in steps:
            check()
            report(step.iteration / step.total, f"{components} components  {step.unexplained:.1%} unexplained")
    return step.model


def _write(folder: Path, run: Run, model: MotionModel) -> None:
    """Write mean and components in the units of the input, and where each class average lies."""
    for k, volume in enumerate(model.volumes.cpu()):
        write_volume(
            folder / ("mean.mrc" if k == 0 else f"component_{k}.mrc"), restore_volume(volume, run.preprocessing)
        )
    errors = model.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    rows: list[dict[str, int | float]] = []
    for index, z, error in zip(run.used, model.z.tolist(), errors.tolist(), strict=True):
        own = {f"z_{k + 1}": value for k, value in enumerate(z)}
        rows.append({"index": index, **own, **{f"error_{k + 1}": value for k, value in enumerate(error)}})
    write_table(folder / "coordinates.csv", rows)


def _write_volumes(folder: Path, run: Run, model: MotionModel, radius: float, device: torch.device) -> None:
    """Write the volume of each class average, in its frame and in the units of the input."""
    folder.mkdir()
    volumes = neighbour_volumes(run.images[run.used].to(device), model, radius=radius)
    with interruptible() as check, progress("volumes of the motion") as report:
        for done, (index, volume) in enumerate(zip(run.used, volumes, strict=True), 1):
            check()
            write_volume(folder / f"volume_{index:04d}.mrc", restore_volume(volume.cpu(), run.preprocessing))
            report(done / len(run.used), f"{done} of {len(run.used)}")
