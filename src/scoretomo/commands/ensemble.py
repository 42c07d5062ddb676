"""``scoretomo ensemble``: which volumes to trust, all of them in one frame and one hand, and how the molecule moves."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from ..ensemble.agreement import agreement_in_frame, bring_onto
from ..ensemble.landscape import LandscapeConfig, analyse_landscape
from ..ensemble.metric import Seeds
from ..ensemble.reliability import Evidence, ReliabilityConfig, gather_evidence_progressive
from ..ensemble.states import StatesConfig
from ..ensemble.synchronise import Synchronisation, SynchronisationConfig, VolumePoses, synchronise_progressive
from ..ensemble.verdict import Judgement, judge
from ..evaluation.alignment import apply_alignment
from ..imaging.preprocess import working_volume
from ..io.made_with import read_made_with
from ..runs import Run
from . import ensemble_folder
from .motion import motion_fingerprint, saved_motion
from .progress import interruptible, progress, say
from .reconstruct import trained_denoiser
from .run_folder import opened
from .train import Device, choose_device

_NAME = re.compile(r"volume_(\d+)(?:_seed(\d+))?\.mrc")
# Fewer reliable volumes do not show how a molecule moves.
_FEWEST_FOR_A_LANDSCAPE = 4


@dataclass(frozen=True)
class EnsembleConfig:
    """How volumes are judged, brought together and compared."""

    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    """Evidence for and against each volume."""
    synchronisation: SynchronisationConfig = field(default_factory=SynchronisationConfig)
    """One frame and one hand."""
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)
    """Components of the motion."""
    states: StatesConfig = field(default_factory=StatesConfig)
    """Clusters and paths."""


@dataclass(frozen=True)
class _Found:
    """Volumes of a run on the grid of its images: those of every seed that has them all."""

    indices: list[int]
    seeds: list[int]
    volumes: Float[Tensor, "k n s s s"]


_DEFAULT = EnsembleConfig()


def ensemble(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    config: Annotated[EnsembleConfig, tyro.conf.arg(name="")] = _DEFAULT,
    device: Device = "auto",
) -> None:
    """Say which volumes to trust, put them in one frame and hand, and find the states of the molecule.

    Results are in RUN/ensemble: reliability.csv, the volumes in the common frame and how they got there, the symmetry
    of the core, mean and variance, principal components, clusters and a path between states, and view.cxc for
    ChimeraX. More than one repeat (`scoretomo reconstruct RUN --seeds 3`) makes the verdicts surer, and the best repeat
    of every volume is kept.

    Parameters
    ----------
    run
        Run folder with volumes.
    config
        How volumes are judged, brought together and compared.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    with opened(run) as ready:
        analyse(ready, config, choose_device(device))
    print(f"ensemble: {run / 'ensemble'}")


def analyse(run: Run, config: EnsembleConfig, device: torch.device, *, again: bool = True) -> int:
    """Do what :func:`ensemble` does, in a folder that is locked already; returns how many volumes are reliable.

    If not ``again``, an earlier analysis of the same volumes is left as it is.
    """
    found = _find_volumes(run, device)
    if again or not ensemble_folder.is_current(run, found.volumes, config):
        evidence = _gather(run, found, config.reliability)
        judgement = judge(evidence.parts)
        with ensemble_folder.replaced(run, found.volumes, config) as folder:
            ensemble_folder.write_reliability(folder, run, found.indices, found.seeds, evidence, judgement)
            say(_verdicts(judgement))
            if len(found.indices) > 1:
                _bring_together(folder, run, found, judgement, config, _find_poses(run, found, device))
    return ensemble_folder.count_reliable(run)


def _bring_together(
    folder: Path, run: Run, found: _Found, judgement: Judgement, config: EnsembleConfig, poses: VolumePoses | None
) -> None:
    """Put the best volume of each image into the common frame, and find the states of the molecule."""
    places = torch.arange(len(found.indices), device=found.volumes.device)
    kept = found.volumes[judgement.kept, places]
    reliable = judgement.reliable[judgement.kept, places]
    enough = int(reliable.sum()) >= _FEWEST_FOR_A_LANDSCAPE
    # where hardly any volume is reliable all decide about the frame; the verdicts stay what they are
    frame = _synchronise(kept, reliable if enough else torch.ones_like(reliable), config.synchronisation, poses)
    seeds = [found.seeds[seed] for seed in judgement.kept.tolist()]
    files = [run.volume(index, seed) for index, seed in zip(found.indices, seeds, strict=True)]
    ensemble_folder.write_frame(folder, run, found.indices, files, seeds, frame)
    say(frame.symmetry.words)
    if not enough:
        say(f"{int(reliable.sum())} reliable volumes are too few to tell states; more images, or a longer training")
        return
    aligned = apply_alignment(kept, frame.alignment)
    landscape = analyse_landscape(
        aligned,
        reliable,
        config.landscape,
        seeds=_other_seeds(found, judgement, frame),
        generator=torch.Generator(aligned.device).manual_seed(run.config.seed),
    )
    ensemble_folder.write_landscape(folder, run, found.indices, aligned, reliable, landscape, config.states)


def _find_volumes(run: Run, device: torch.device) -> _Found:
    """Read the volumes of all seeds that are complete; further seeds that lack some are left out."""
    files = {
        (int(match[2] or 0), int(match[1])): path
        for path in run.volumes.glob("*.mrc")
        if (match := _NAME.fullmatch(path.name))
    }
    if strange := [path for (_, index), path in files.items() if index not in run.used]:
        raise InputError(f"{strange[0]}: is of a class average that the run does not use; move it away")
    indices = sorted(index for seed, index in files if seed == 0)
    if not indices:
        raise InputError(f"{run.volumes}: holds no volumes; make some with `scoretomo reconstruct`")
    complete = [seed for seed in sorted({seed for seed, _ in files}) if all((seed, i) in files for i in indices)]
    for seed in sorted({seed for seed, _ in files}.difference(complete)):
        say(f"seed {seed} is left out: it does not have the volumes of all {len(indices)} images")
    rows = []
    for seed in complete:
        voxels = [run.read_volume(files[seed, index]) for index in indices]
        rows.append(torch.stack([working_volume(each, run.preprocessing) for each in voxels]))
    return _Found(indices, complete, torch.stack(rows).to(device))


def _gather(run: Run, found: _Found, config: ReliabilityConfig) -> Evidence:
    """Gather evidence, or take what an earlier call has gathered of the same volumes."""
    cached = ensemble_folder.load_evidence(run, found.volumes, config)
    if cached is not None:
        return cached
    device = found.volumes.device
    steps = gather_evidence_progressive(
        found.volumes,
        run.images[run.used].to(device),
        [run.used.index(index) for index in found.indices],
        trained_denoiser(run, device),
        config,
        generator=torch.Generator(device).manual_seed(run.config.seed),
        mask_radius=run.mask_radius,
    )
    with interruptible() as check, progress("reliability") as report:
        for step in steps:
            check()
            report(step.done / step.total, "")
    assert step.evidence is not None
    ensemble_folder.save_evidence(run, found.volumes, config, step.evidence)
    return step.evidence


def _find_poses(run: Run, found: _Found, device: torch.device) -> VolumePoses | None:
    """Look up where volumes lie that began with the motion model of the run; None where they began from nothing."""
    made_with = read_made_with(run.folder)
    if made_with is None or "motion_sha256" not in made_with:
        return None
    model = saved_motion(run, device)
    if model is None or motion_fingerprint(model) != made_with["motion_sha256"]:
        say("the motion model that volumes began with is no longer there: their frames are found by aligning them")
        return None
    rows = [run.used.index(index) for index in found.indices]
    return VolumePoses(model.rotations[rows], model.shifts_pixels[rows])


def _synchronise(
    volumes: Float[Tensor, "n s s s"], reliable: Tensor, config: SynchronisationConfig, poses: VolumePoses | None
) -> Synchronisation:
    with interruptible() as check, progress("one frame") as report:
        for step in synchronise_progressive(volumes, config, reliable=reliable, poses=poses):
            check()
            report(step.done / step.total, step.stage)
    assert step.result is not None
    return step.result


def _other_seeds(found: _Found, judgement: Judgement, frame: Synchronisation) -> Seeds | None:
    """Bring the seeds that were not kept into the common frame: as their images' kept volumes, up to hand and depth."""
    if len(found.seeds) == 1:
        return None
    volumes, reliable = [], []
    for image, kept in enumerate(judgement.kept.tolist()):
        others = [seed for seed in range(len(found.seeds)) if seed != kept]
        own = found.volumes[others, image]
        agreement = agreement_in_frame(found.volumes[kept, image][None], own)
        volumes.append(bring_onto(own, agreement.mirrored[0], agreement.shift_pixels[0]))
        reliable.append(judgement.reliable[others, image])
    aligned = [apply_alignment(seed, frame.alignment) for seed in torch.stack(volumes, dim=1)]
    return Seeds(torch.stack(aligned), torch.stack(reliable, dim=1))


def _verdicts(judgement: Judgement) -> str:
    """Count the verdicts in words."""
    counts = {name: judgement.verdicts.count(name) for name in ("reliable", "doubtful", "wrong")}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) + f" of {len(judgement.verdicts)} volumes"
