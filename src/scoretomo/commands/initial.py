"""``scoretomo initial``: from class averages to a first map, with what speaks for it, in seconds."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
import tyro

from .. import processes
from ..datatypes import InputError, Poses
from ..ensemble.initial_evidence import InitialEvidence, halves_of, weigh_initial_model
from ..evaluation.half_maps import THRESHOLD, filter_to_resolution
from ..geometry.symmetry import symmetry_group
from ..imaging.preprocess import restore_volume
from ..io.checkpoints import load_checkpoint, save_checkpoint, taken_over
from ..io.files import replacing_folder, write_json
from ..io.found import Initial, read_found
from ..io.mrc import write_volume
from ..io.settings import from_table
from ..io.star import write_particles
from ..methods.initial_model import InitialModel, initial_model_progressive
from ..methods.projection_matching import MatchingConfig
from ..presets import PRESETS
from ..report.initial_picture import InitialPicture, draw_initial
from ..run_lock import locked
from ..runs import ImagesConfig, Run
from .progress import interruptible, progress, say
from .refinement import FEWEST_TO_REFINE, Models, Refined, on_device, refine_models
from .train import Source, choose_device, draw_quality, open_source

_DEFAULT = ImagesConfig()
_MATCHING = MatchingConfig()
# Between the seeds of a model of all images and of those of half of them.
_SEED_STEP = 7919


class SavedModels(TypedDict):
    """Of the checkpoint of initial models: of all images, and of their halves as far as they were made."""

    models: list[InitialModel]
    evidence: NotRequired[dict[str, Any]]


def initial(
    source: Annotated[Source, tyro.conf.arg(name="")],
    config: Annotated[ImagesConfig, tyro.conf.arg(name="")] = _DEFAULT,
    refine: bool = True,
    symmetry: Annotated[str, tyro.conf.arg(metavar="auto|GROUP")] = "auto",
    matching: MatchingConfig = _MATCHING,
) -> None:
    """Make a first map of class averages, and say whether to trust it, in seconds.

    Many cheap starts of projection matching, without a starting model, a network or poses; the best is refined. Results
    are in RUN/initial: initial.mrc, half_1.mrc and half_2.mrc (made of half of the class averages each, from starts of
    their own), poses.star, initial.json (the evidence) and initial.png. `scoretomo run` with the same images and folder
    goes on from there.

    Parameters
    ----------
    source
        What to work on and where.
    config
        What is decided about the images.
    refine
        Refine the maps as far as they agree, unless the evidence says that the model may be anything. Without it
        (--no-refine) they end at the band of the search.
    symmetry
        Point group to impose when refining: C1, C2, ..., D2, D3, ..., T, O or I; auto takes the one that is found.
    matching
        How the maps are refined.
    """
    processes.refuse_company("initial")
    if symmetry != "auto":
        if not refine:
            raise InputError("--symmetry: does nothing here, since a symmetry is imposed when refining; leave it out")
        symmetry_group(symmetry)  # a wrong name is said before anything takes long
    device = choose_device(source.device)
    given = {each.name: getattr(config, each.name) for each in fields(ImagesConfig)}
    with locked(source.output):
        run = open_source(source, replace(PRESETS[source.preset], **given), device)
        models, evidence = make_initial(run, device)
        refined = None
        if refine and len(models.rows) < FEWEST_TO_REFINE:
            say(f"{len(models.rows)} class averages are too few to refine a map; this is the initial model as it is")
        elif refine and evidence.answer == "unknown":
            say("not refined, since it is not known to be right: detail that is added to a wrong map is wrong too")
        elif refine:
            refined = refine_models(run, models, symmetry, matching, device)
        if refined is not None or not _is_written(run, evidence):
            write_initial(run, models, evidence, refined)
    print(f"initial model: {run.initial_folder / 'initial.mrc'}\npicture: {run.initial_folder / 'initial.png'}")


def make_initial(run: Run, device: torch.device) -> tuple[Models, InitialEvidence]:
    """Search the initial models of the images that a run uses, or take up those that are there, and weigh them.

    The map and its picture are written as soon as there is one, and again with the evidence.
    """
    if not run.initial_folder.exists():
        write_initial(run, find_models(run, run.used, device, halves=False), None, None)
        say(f"picture of the initial model: {run.initial_folder / 'initial.png'}")
    draw_quality(run)  # not before the first map, which is waited for
    models = find_models(run, run.used, device)
    evidence = _weigh(run, models, device)
    if not (run.initial_folder / "initial.json").exists():
        write_initial(run, models, evidence, None)
    say(f"initial model: {evidence.answer}. {evidence.reason}")
    if evidence.unexplained:
        named = ", ".join(str(run.used[place]) for place in evidence.unexplained)
        say(f"not explained by it, and of less weight in it: images {named}")
    return models, evidence


def _is_written(run: Run, evidence: InitialEvidence) -> bool:
    """Whether RUN/initial is of the model as it was found, with this evidence."""
    said = read_found(run.folder, "initial/initial.json", Initial, "initial")
    return (
        said is not None
        and not said.get("refined")
        and (said["answer"], said["reason"]) == (evidence.answer, evidence.reason)
    )


def _weigh(run: Run, models: Models, device: torch.device) -> InitialEvidence:
    """Weigh the models of all images that a run uses, or take up what an earlier command has found of the same ones."""
    path = models_checkpoint(run, models.rows)
    saved = load_checkpoint(path)
    assert saved is not None  # it has the models, and was read with them
    # an older version knew less: then it is weighed anew
    if set(saved.get("evidence", ())) != {field.name for field in fields(InitialEvidence)}:
        images = run.images[models.rows].to(device)
        evidence = weigh_initial_model(images, models.whole, models.halves, run.config.initial)
        saved["evidence"] = vars(evidence)
        save_checkpoint(path, saved)
    with taken_over(path):
        return from_table(InitialEvidence, saved["evidence"])


def find_models(run: Run, rows: Sequence[int], device: torch.device, *, halves: bool = True) -> Models:
    """Search the initial models of some images and of half of them each, from where an earlier command has stopped."""
    images, config = run.images[list(rows)].to(device), run.config.initial
    made_of = {"rows": list(rows), "seed": run.config.seed, **asdict(config)}
    path = models_checkpoint(run, rows)
    found: list[InitialModel] = []
    if saved := load_checkpoint(path, SavedModels, made_of=made_of):
        found = [_there(model, device) for model in saved["models"]]
    parts = [torch.arange(len(images)), *(halves_of(len(images)) if halves else [])]
    for number in range(len(found), len(parts)):
        title = "initial model" + (f" of half {number}" if number else "")
        radius = found[0].radius if found else None
        steps = initial_model_progressive(
            images[parts[number].to(device)], config, seed=run.config.seed + _SEED_STEP * number, radius=radius
        )
        with interruptible() as check, progress(title) as report:
            for step in steps:
                check()
                angstrom = len(images[0]) * run.preprocessing.working_pixel_size_angstrom / step.band
                report(step.done, f"to {angstrom:.0f} A  {len(step.scores)} starts, best {step.scores.max():.3f}")
        assert step.result is not None
        found.append(step.result)
        save_checkpoint(path, {"made_of": made_of, "models": [_to_table(one) for one in found]})
    return Models(list(rows), found[0], found[1:])


def models_checkpoint(run: Run, rows: Sequence[int]) -> Path:
    """File of the models of some images: consensus may leave out images that the initial model has not."""
    digest = hashlib.blake2b(repr(list(rows)).encode(), digest_size=4).hexdigest()
    return run.folder / "checkpoint" / ("initial.pt" if list(rows) == run.used else f"initial_{digest}.pt")


def write_initial(run: Run, models: Models, evidence: InitialEvidence | None, refined: Refined | None) -> None:
    """Write RUN/initial, replacing an earlier one as a whole; initial.json comes with the evidence."""
    record, whole = run.preprocessing, models.whole
    pixel, side = record.working_pixel_size_angstrom, run.images.shape[-1]
    restored = partial(restore_volume, record=record)
    volume, halves = whole.volume, [half.volume for half in models.halves]
    rotations, shifts, scores, resolution = whole.rotations, whole.shifts_pixels, whole.scores, None
    if refined is not None:
        step = refined.whole
        volume, rotations, shifts, scores = step.volume, step.rotations, step.shifts_pixels, step.scores
        if refined.halves is not None:
            halves = [refined.halves.first, refined.halves.second]
            volume = filter_to_resolution(volume, refined.halves.fsc.corrected, pixel)
            resolution = refined.halves.fsc.resolution_pixels * pixel
    poses = Poses(rotations.cpu(), shifts.cpu() * pixel)
    with replacing_folder(run.initial_folder) as folder:
        write_volume(folder / "initial.mrc", restored(volume.cpu()))
        for number, half in enumerate(halves, 1):
            write_volume(folder / f"half_{number}.mrc", restored(half.cpu()))
        write_particles(
            folder / "poses.star", "../images.mrcs", poses, pixel_size_angstrom=pixel, side=side, sections=models.rows
        )
        table = {
            "refined": refined is not None,
            "symmetry": "C1" if refined is None else refined.symmetry,
            "band_angstrom": side * pixel / (whole.band if refined is None else refined.whole.band),
            "radius_angstrom": whole.radius * pixel,
            "resolution_angstrom": resolution if resolution is not None and resolution < side * pixel else None,
            "threshold": THRESHOLD,
            "images": models.rows,
            "correlations": scores.tolist(),
        }
        if evidence is not None:
            write_json(folder / "initial.json", {**_evidence_table(evidence, models), **table})
        draw_initial(
            folder / "initial.png",
            InitialPicture(
                volume=volume.cpu(),
                images=run.images[models.rows],
                poses=Poses(poses.rotations, shifts.cpu()),
                numbers=models.rows,
                scores=scores.cpu(),
                starts=[(each.first_score, each.stage) for each in whole.starts],
                evidence=evidence,
            ),
        )


def _evidence_table(evidence: InitialEvidence, models: Models) -> dict[str, Any]:
    """Contents of initial.json that tell whether to trust the map; images by their numbers in the input."""
    starts = [
        {"number": each.number, "stage": each.stage, "score": each.score, "first_score": each.first_score}
        for each in models.whole.starts
    ]
    table = {**asdict(evidence), "unexplained": [models.rows[place] for place in evidence.unexplained]}
    return {**table, "starts": starts, "starts_agreeing": table.pop("agreeing")}


def _to_table(model: InitialModel) -> dict[str, Any]:
    """Tensors and plain values."""
    return {name: _plain(value) for name, value in vars(model).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [{name: _plain(each) for name, each in vars(start).items()} for start in value]
    return value.cpu() if isinstance(value, torch.Tensor) else value


def _there(model: InitialModel, device: torch.device) -> InitialModel:
    return replace(on_device(model, device), starts=[on_device(start, device) for start in model.starts])
