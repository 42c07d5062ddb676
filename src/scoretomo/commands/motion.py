"""``scoretomo motion``: whether the molecule of a run moves, and how, with a volume for each class average.

One map is refined, and compared with motion models on class averages that are left out. RUN/motion has what was found:
motion.json, and of a molecule that moves what :mod:`scoretomo.commands.motion_folder` writes.

Where the map nearly has a symmetry, which a motion may break, the poses are settled anew: which copy of the core each
class average shows is chosen by the motion that they make together.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypedDict

import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..ensemble.initial_evidence import FEWEST_FOR_HALVES, InitialEvidence
from ..ensemble.motion_evidence import MotionEvidence, too_few, weigh_motion_progressive
from ..evaluation.near_symmetry import copies_of, poses_of_copies
from ..io.checkpoints import load_checkpoint, save_checkpoint
from ..io.files import replacing_folder, write_json
from ..methods.angular_spread import AngularSpread
from ..methods.copy_choice import choose_copies_progressive
from ..methods.initial_model import InitialModel
from ..methods.motion_model import MotionModel, motion_model_progressive
from ..methods.neighbour_volumes import NeighbourVolumes
from ..methods.projection_matching import MatchingConfig, MatchingStep
from ..runs import Run
from .consensus import ConsensusConfig, make_consensus
from .initial import find_models, make_initial
from .motion_folder import write_motion
from .progress import interruptible, progress, say
from .refinement import FEWEST_TO_REFINE, Models, on_device, refine_models, refinement_radius
from .run_folder import opened
from .train import Device, choose_device

# Highest frequency at which a motion is looked for, in Fourier pixels: it shows at low ones first, and noise at high.
_MOST_BAND = 12
# And that at which copies of the core are told apart.
_COPIES_BAND = 6
# Volumes of a motion whose blur is looked at.
_STATES = 16


class _SavedModel(TypedDict):
    """Of the checkpoint of the motion model, which is of use wherever what is wanted is among what it was made of."""

    made_of: dict[str, Any]
    model: MotionModel


class _SavedEvidence(TypedDict):
    """Of that of the evidence for a motion."""

    evidence: MotionEvidence


class _SavedCopies(TypedDict):
    """Of that of the copy of the core that each class average shows."""

    copy: Int[Tensor, " n"]


class _SavedSpread(TypedDict):
    """Of that of the spread of views within classes."""

    degrees: float
    noise: Float[Tensor, " shells"]


def motion(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    components: Annotated[int | None, tyro.conf.arg(metavar="K")] = None,
    device: Device = "auto",
) -> None:
    """Fit a motion model to the class averages of a run, and make a volume of each at its place in the motion.

    A mean and what is added to it, with coordinates for each class average; no network, minutes. `scoretomo run` does
    so itself where class averages that are left out say that the molecule moves. Results are in RUN/motion: motion.json
    (what was found), mean.mrc, component_1.mrc and so on, coordinates.csv (where each class average lies), volumes/,
    each in the frame of its class average, and in one frame states/, path/ (a movie of the motion) and view.cxc, which
    shows them in ChimeraX.

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
        models, initial = make_initial(ready, where)
        poses = _poses(ready, models, initial, where)
        copies = copies_of(poses.volume, mirrored=True)
        evidence = _weigh(ready, poses, where, enough=len(copies[0]) > 1)
        say(evidence.reason)
        first, poses = poses, _among_copies(ready, poses, copies, where)
        evidence = _weigh_again(ready, first, poses, evidence, where)
        known = _is_known(models, initial)
        _make_motion(ready, models, evidence, components or max(1, evidence.components), poses, where, known=known)
    print(f"motion: {run / 'motion'}\nvolumes: {run / 'motion' / 'volumes'}")


def settle_motion(run: Run, device: torch.device) -> None:
    """Find out whether the molecule moves, and how, unless that is settled or it is said to be rigid.

    Where it was found to be rigid, and is said not to be, a motion is fitted after all.

    The initial model, and one map of all class averages, are made on the way. Poses in a model that may be anything
    do not tell whether it moves; it is taken to.
    """
    fitted, there = _components_fitted(run), (run.folder / "consensus").exists()
    settled = fitted is not None and not (run.config.rigid is False and fitted == 0)
    if run.config.rigid or (settled and there):
        return
    models, initial = make_initial(run, device)
    if not settled:
        _settle(run, models, initial, device)
    if _is_known(models, initial) and len(run.used) >= FEWEST_TO_REFINE and not there:
        make_consensus(run, ConsensusConfig(halves=bool(models.halves)), MatchingConfig(), device, rows=run.used)


def _settle(run: Run, models: Models, initial: InitialEvidence, device: torch.device) -> None:
    """Find out whether the molecule moves, and how."""
    known, poses = _is_known(models, initial), _poses(run, models, initial, device)
    copies = copies_of(poses.volume, mirrored=True)
    evidence = too_few(len(run.used))
    if models.halves:
        evidence = _weigh(run, poses, device, enough=len(copies[0]) > 1)
    if known:
        say(evidence.reason)
    else:
        say("whether the molecule moves cannot be told from such an initial model; it is taken to move")
    moves = run.config.rigid is False or evidence.moves or not known
    if run.config.rigid is None and known:
        say(f"taken as {'moving' if moves else 'rigid'}; `scoretomo run --rigid {moves}` overrules")
    if moves:
        first, poses = poses, _among_copies(run, poses, copies, device)
        evidence = _weigh_again(run, first, poses, evidence, device)
    components = min(max(1, evidence.components), len(run.used) - 1) if moves else 0
    _make_motion(run, models, evidence, components, poses, device, known=known)


def find_motion(run: Run, device: torch.device) -> MotionModel:
    """Read the motion model that was made; or fit one without a component, where the molecule is taken as rigid."""
    return _fit(run, 0 if run.rigid else _components_fitted(run) or 0, None, device)


def _components_fitted(run: Run) -> int | None:
    """Components of the motion model that was made; None where none was sought."""
    found = run.motion_found
    return None if found is None else found.get("components_fitted", 0)


def saved_motion(run: Run, device: torch.device) -> MotionModel | None:
    """Read the motion model that was fitted last; None where there is none."""
    saved = load_checkpoint(_model_checkpoint(run), _SavedModel)
    return None if saved is None else on_device(saved["model"], device)


def motion_fingerprint(model: MotionModel) -> str:
    """Tell a motion model from others: SHA-256 of its coordinates and poses."""
    tensors = (model.z, model.rotations, model.shifts_pixels)
    return hashlib.sha256(b"".join(each.cpu().numpy().tobytes() for each in tensors)).hexdigest()


def motion_volumes(run: Run, model: MotionModel, device: torch.device, *, sharp: bool = False) -> NeighbourVolumes:
    """Make what makes the volume of each class average, in its frame and on the working grid.

    Sharp ones, for people, are without the blur of what views within classes spread, where that was found.
    """
    radius = refinement_radius(run, find_models(run, run.used, device, halves=False).whole)
    spread = None
    if sharp and (saved := load_checkpoint(_spread_checkpoint(run), _SavedSpread)):
        spread = AngularSpread(saved["degrees"], saved["noise"].to(device))
    return NeighbourVolumes(run.images[run.used].to(device), model, radius=radius, spread=spread)


def _model_checkpoint(run: Run) -> Path:
    return run.folder / "checkpoint" / "motion_model.pt"


def _spread_checkpoint(run: Run) -> Path:
    return run.folder / "checkpoint" / "angular_spread.pt"


def _find_spread(
    run: Run, models: Models, model: MotionModel | None, device: torch.device, *, known: bool
) -> float | None:
    """Find how far views within classes spread, and keep it; None where no refined half maps tell how much is noise.

    A motion blurs the one map as well; the volumes of a motion model are without that blur.
    """
    if not models.halves or not known:
        _spread_checkpoint(run).unlink(missing_ok=True)
        return None
    refined, degrees = refine_models(run, models, "auto", MatchingConfig(), device), run.config.angular_spread
    assert refined.halves is not None
    if degrees is None and model is not None:
        some = torch.linspace(0, len(model.z) - 1, min(_STATES, len(model.z))).round().long()
        states, agreement = [model.volume(z).clamp(min=0) for z in model.z[some]], refined.halves.fsc.corrected
        degrees = median(AngularSpread.of(state, agreement).degrees for state in states)
    spread = refined.angular_spread(degrees)
    assert spread is not None
    save_checkpoint(_spread_checkpoint(run), {"degrees": spread.degrees, "noise": spread.noise.cpu()})
    return spread.degrees


@dataclass(frozen=True)
class _Poses:
    """Where class averages are seen in one map, which is known up to a band; and what was found of its copies."""

    volume: Float[Tensor, "side side side"]
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    band: int
    copies: dict[str, Any] | None = None

    @staticmethod
    def of(found: InitialModel | MatchingStep) -> "_Poses":
        """Take them from a model."""
        return _Poses(found.volume, found.rotations, found.shifts_pixels, int(found.band))


def _is_known(models: Models, initial: InitialEvidence) -> bool:
    """Whether poses tell anything; of a few class averages, which make no halves, that is not known and taken so."""
    return initial.answer != "unknown" or not models.halves


def _poses(run: Run, models: Models, initial: InitialEvidence, device: torch.device) -> _Poses:
    """Take poses from the refined map; or from the initial model, where refining it says nothing."""
    if not _is_known(models, initial) or len(run.used) < FEWEST_TO_REFINE:
        return _Poses.of(models.whole)
    return _Poses.of(refine_models(run, models, "auto", MatchingConfig(), device, halves=bool(models.halves)).whole)


def _make_motion(
    run: Run,
    models: Models,
    evidence: MotionEvidence,
    components: int,
    poses: _Poses,
    device: torch.device,
    *,
    known: bool,
) -> None:
    """Write RUN/motion: what was found, and the model with its volumes if it has any component."""
    model = _fit(run, components, poses, device) if components else None
    spread = _find_spread(run, models, model, device, known=known)
    with replacing_folder(run.motion_folder) as folder:
        moves = evidence.moves if known else None
        table = {"moves": moves, "components_fitted": components, "copies": poses.copies, **asdict(evidence)}
        table["angular_spread_degrees"] = spread
        write_json(folder / "motion.json", table)
        if model is not None:
            if spread:
                say(f"views within classes spread by {spread:.1f} degrees; the blur is undone in the volumes")
            write_motion(folder, run, model, motion_volumes(run, model, device, sharp=True))


def _among_copies(
    run: Run, poses: _Poses, copies: tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"]], device: torch.device
) -> _Poses:
    """Give each class average the pose, among those that show the same of the core, that fits a common motion best."""
    count, mirrorings = len(copies[0]), int((torch.linalg.det(copies[0]) < 0).sum())
    if count == 1:
        return poses
    rivals = poses_of_copies(poses.rotations, poses.shifts_pixels, copies)
    copy = _chosen_copies(run, poses, copies, rivals, device)
    rows, changed = torch.arange(len(copy), device=device), float((copy != 0).float().mean())
    reason = (
        f"The map is nearly the same under {count - mirrorings} rotations and {mirrorings} mirrorings, which a motion "
        f"may break; {changed:.0%} of the class averages were given another of these poses."
    )
    say(reason)
    found = {"rotations": count - mirrorings, "mirrorings": mirrorings, "changed": changed, "reason": reason}
    return replace(poses, rotations=rivals[0][rows, copy], shifts_pixels=rivals[1][rows, copy], copies=found)


def _made_of(run: Run, poses: _Poses | None) -> dict[str, Any]:
    """Tell what a checkpoint was made of: images, the seed and, where they are known, poses."""
    of_run = {"rows": run.used, "seed": run.config.seed}
    return of_run if poses is None else of_run | {"rotations": poses.rotations.cpu().flatten().tolist()}


def _chosen_copies(
    run: Run,
    poses: _Poses,
    copies: tuple[Float[Tensor, "k 3 3"], Float[Tensor, "k 3"]],
    rivals: tuple[Float[Tensor, "n k 3 3"], Float[Tensor, "n k 2"]],
    device: torch.device,
) -> Int[Tensor, " n"]:
    """Choose copies, or take up what an earlier command has chosen among the same at the same poses."""
    path = run.folder / "checkpoint" / "copies.pt"
    made_of = _made_of(run, poses) | {"copies": [each.cpu().flatten().tolist() for each in copies]}
    if saved := load_checkpoint(path, _SavedCopies, made_of=made_of):
        return saved["copy"].to(device)
    steps = choose_copies_progressive(
        run.images[run.used].to(device),
        *rivals,
        radius=refinement_radius(run, find_models(run, run.used, device, halves=False).whole),
        band=min(poses.band, _COPIES_BAND),
        seed=run.config.seed,
    )
    with interruptible() as check, progress("copies of the core") as report:
        for step in steps:
            check()
            report(step.done, f"{rivals[0].shape[1]} for each class average")
    assert step.result is not None
    save_checkpoint(path, {"made_of": made_of, "copy": step.result.copy.cpu()})
    return step.result.copy


def _weigh_again(
    run: Run, first: _Poses, poses: _Poses, before: MotionEvidence, device: torch.device
) -> MotionEvidence:
    """Weigh motions at poses that were settled anew; what the first ones tell stands where these tell no more."""
    if poses.copies is None or not before.gains:
        return before
    evidence = _weigh(run, poses, device)
    if not evidence.moves:
        return _weigh(run, first, device)
    say(evidence.reason)
    return evidence


def _weigh(run: Run, poses: _Poses, device: torch.device, *, enough: bool = False) -> MotionEvidence:
    """Weigh motion models, or take up what an earlier command has found of the same images at the same poses.

    It is ``enough`` to know whether it moves where the poses are settled anew after that.
    """
    name = "motion_enough" if enough else "motion" if poses.copies is None else "motion_copies"
    path, made_of = run.folder / "checkpoint" / f"{name}.pt", _made_of(run, poses)
    if saved := load_checkpoint(path, _SavedEvidence, made_of=made_of):
        return saved["evidence"]
    steps = weigh_motion_progressive(
        run.images[run.used].to(device),
        poses.rotations,
        poses.shifts_pixels,
        radius=refinement_radius(run, find_models(run, run.used, device).whole),
        band=min(poses.band, _MOST_BAND),
        seed=run.config.seed,
        enough=enough,
    )
    with interruptible() as check, progress("one map or a motion") as report:
        for step in steps:
            check()
            report(step if isinstance(step, float) else 1.0, "")
    assert isinstance(step, MotionEvidence)
    save_checkpoint(path, {"made_of": made_of, "evidence": vars(step)})
    return step


def _fit(run: Run, components: int, poses: _Poses | None, device: torch.device) -> MotionModel:
    """Fit the motion model of all class averages, or take up the one that an earlier command has fitted.

    Where poses are not given, it may have any, and without it they are looked for.
    """
    path = _model_checkpoint(run)
    wanted = _made_of(run, poses) | {"components": components}
    saved = load_checkpoint(path, _SavedModel)
    if saved is not None and all(saved["made_of"].get(name) == value for name, value in wanted.items()):
        return on_device(saved["model"], device)
    if poses is None:
        poses = _poses(run, *make_initial(run, device), device)
        if components:
            poses = _among_copies(run, poses, copies_of(poses.volume, mirrored=True), device)
    steps = motion_model_progressive(
        run.images[run.used].to(device),
        poses.rotations,
        poses.shifts_pixels,
        components,
        radius=refinement_radius(run, find_models(run, run.used, device, halves=False).whole),
        band=(run.images.shape[-1] - 1) // 2 if components else poses.band,
        first_band=_MOST_BAND,
        seed=run.config.seed,
    )
    with interruptible() as check, progress("motion model") as report:
        for step in steps:
            check()
            report(step.iteration / step.total, f"{components} components  {step.unexplained:.1%} unexplained")
    made_of = _made_of(run, poses) | {"components": components}
    save_checkpoint(path, {"made_of": made_of, "model": vars(step.model)})
    return step.model
