"""``scoretomo run --method drgn``: one volume for each class average by cryoDRGN2, for comparison."""

from dataclasses import fields, replace
from typing import Annotated, Literal

import torch
import tyro

from .. import processes
from ..datatypes import InputError
from ..methods.abinitio import ParticleImages
from ..methods.average_volumes import AverageVolumesConfig, average_volume
from ..presets import PRESETS
from ..run_lock import locked
from ..runs import ImagesConfig, Run
from .drgn_start import unknown_poses
from .drgn_training import Task, Training
from .idle_options import idle_with, refuse_idle
from .initial import find_models
from .progress import interruptible, progress, say
from .reconstruct import Selection, selected_images
from .report import write_report
from .run import draw
from .train import Source, choose_device, draw_quality, open_source

_ALL = Selection()
_DEFAULT = AverageVolumesConfig()


def run_drgn(
    source: Annotated[Source, tyro.conf.arg(name="")],
    config: Annotated[ImagesConfig, tyro.conf.arg(name="")],
    selection: Annotated[Selection, tyro.conf.arg(name="")] = _ALL,
    drgn: AverageVolumesConfig = _DEFAULT,
    method: Literal["drgn"] = "drgn",
) -> None:
    """Class averages in, one volume for each of them out, by cryoDRGN2 in the place of score-based tomography.

    A family of volumes and the poses of all class averages are found by turns; the volume of a class average is that
    at its own z and pose. Results are in the folder RUN, as of `scoretomo run`: volumes/, figures/, report.html and all
    settings. Nothing judges these volumes: verdicts need a denoiser. The same command again goes on where an earlier
    one was interrupted.

    Parameters
    ----------
    source
        What to work on and where.
    config
        What is decided about the images.
    selection
        Which volumes to make; all class averages are trained on.
    drgn
        How cryoDRGN2 is trained.
    method
        score is score-based tomography; `scoretomo run --help` without --method shows its options.
    """
    assert method == "drgn"
    processes.refuse_company("run --method drgn")
    if selection.overwrite:
        raise InputError("--overwrite: a run folder of --method drgn keeps its settings; give a new one to try others")
    one_volume = bool(config.rigid) or drgn.model.latent_dimensions == 0
    idle = idle_with(drgn.poses, one_volume=one_volume, why="there is one volume for all images")
    refuse_idle(_DEFAULT, drgn, idle, lambda name: f"drgn.{name}")
    device = choose_device(source.device)
    given = {each.name: getattr(config, each.name) for each in fields(ImagesConfig)}
    with locked(source.output):
        run = open_source(source, replace(PRESETS[source.preset], **given, drgn=drgn), device)
        draw_quality(run)
        indices = selected_images(run, selection)
        for seed in range(selection.seeds):
            _make_volumes(run, indices, seed, device)
        draw(run, selection)
        report = write_report(run, device)
    print(f"volumes: {run.volumes}\nreport: {report}")


def _make_volumes(run: Run, indices: list[int], seed: int, device: torch.device) -> None:
    """All volumes of one repeat that are not there yet."""
    of_seed = f" (seed {seed})" if seed else ""
    missing = [index for index in indices if not run.volume(index, seed).exists()]
    if not missing:
        say(f"all {len(indices)} volumes are there{of_seed}")
        return
    assert run.config.drgn is not None
    noise, training = run.config.drgn.noise, Training(_task(run, run.config.drgn, seed, device))
    if not training.finished:
        training.go()
        training.save(finished=True)
    latent, z = training.state.latent, training.latent_variables()
    with interruptible() as check, progress(f"volumes{of_seed}") as report:
        for done, index in enumerate(missing):
            volume = average_volume(latent, run.used.index(index), z, run.mask_radius)
            run.save_volume(index, seed, noise * volume)
            report((done + 1) / len(missing), run.volume(index, seed).name)
            check()


def _task(run: Run, drgn: AverageVolumesConfig, repeat: int, device: torch.device) -> Task:
    count, seed, name = len(run.used), run.config.seed + repeat, f"drgn_seed{repeat}"
    rotations, shifts = unknown_poses(count, seed)
    if drgn.search.start == "initial":
        found = find_models(run, run.used, device, halves=False).whole
        rotations, shifts = found.rotations.cpu(), found.shifts_pixels.cpu()
    model, search = drgn.schedule(count, rigid=bool(run.config.rigid))
    return Task(
        folder=run.folder,
        checkpoint=run.folder / "checkpoint" / f"{name}.pt",
        name=name,
        data=ParticleImages(run.images[run.used] / drgn.noise),
        model=model,
        search=search,
        method=drgn.poses,
        seed=seed,
        rotations=rotations,
        shifts_pixels=shifts,
        device=device,
    )
