"""Whether the molecule of a run moves: one map is refined, and compared with motion models on images left out.

RUN/motion has what was found: motion.json, and of a molecule that moves mean.mrc, component_1.mrc and so on (what one
standard deviation of a coordinate adds to the mean), and coordinates.csv (where each class average lies, with errors).
"""

from dataclasses import asdict
from pathlib import Path

import torch

from ..ensemble.motion_evidence import MotionEvidence, weigh_motion
from ..imaging.preprocess import restore_volume
from ..io.files import replacing_folder, write_json
from ..io.mrc import write_volume
from ..io.tables import write_table
from ..methods.motion_model import MotionModel, motion_model_progressive
from ..methods.projection_matching import MatchingConfig, MatchingStep
from ..runs import Run
from .consensus import ConsensusConfig, enough_for_halves, make_consensus
from .initial import find_models
from .progress import interruptible, progress, say
from .refinement import FEWEST_TO_REFINE, refinement_radius

# Highest frequency at which a motion is looked for, in Fourier pixels: it shows at low ones first, and noise at high.
_MOST_BAND = 12


def settle_motion(run: Run, device: torch.device) -> None:
    """Find out whether the molecule moves, unless that is settled; makes one map of all class averages on the way."""
    if run.rigid is not None:
        return
    if not enough_for_halves(run):
        evidence = MotionEvidence((), (), (), 0, f"{len(run.used)} class averages are too few to tell a motion.")
        if len(run.used) >= FEWEST_TO_REFINE:
            make_consensus(run, ConsensusConfig(halves=False), MatchingConfig(), device)
    else:
        refined = make_consensus(run, ConsensusConfig(), MatchingConfig(), device)
        evidence = _weigh(run, refined.whole, device)
    model = _fit(run, refined.whole, evidence.components, device) if evidence.moves else None
    with replacing_folder(run.motion_folder) as folder:
        write_json(folder / "motion.json", {"moves": evidence.moves, **asdict(evidence)})
        if model is not None:
            _write(folder, run, model)
    advice = "--rigid True" if evidence.moves else "--rigid False"
    say(f"taken as {'moving' if evidence.moves else 'rigid'}; {advice} overrules. {evidence.reason}")


def _weigh(run: Run, whole: MatchingStep, device: torch.device) -> MotionEvidence:
    return weigh_motion(
        run.images[run.used].to(device),
        whole.rotations,
        whole.shifts_pixels,
        radius=_radius(run, device),
        band=min(whole.band, _MOST_BAND),
        seed=run.config.seed,
    )


def _fit(run: Run, whole: MatchingStep, components: int, device: torch.device) -> MotionModel:
    """Fit the motion model of all class averages, to the band of the map."""
    steps = motion_model_progressive(
        run.images[run.used].to(device),
        whole.rotations,
        whole.shifts_pixels,
        components,
        radius=_radius(run, device),
        band=whole.band,
        first_band=_MOST_BAND,
        seed=run.config.seed,
    )
    with interruptible() as check, progress("motion model") as report:
        for step in steps:
            check()
            report(step.iteration / step.total, f"{components} components  {step.unexplained:.1%} unexplained")
    return step.model


def _radius(run: Run, device: torch.device) -> float:
    return refinement_radius(run, find_models(run, run.used, device).whole)


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
