"""``scoretomo report``: all that a run has found, on one page that opens anywhere."""

import platform
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import __version__
from ..datatypes import ImageStack
from ..io.files import write_text
from ..io.mrc import read_images, write_images
from ..io.tables import write_table
from ..report.contents import build_page
from ..report.denoiser_checks import DenoiserChecks, MadeUp, check_samples, make_up, references
from ..report.pictures import draw_pictures
from ..report.sections import project_volumes, volume_table
from ..report.summary import read_summary
from ..runs import Run
from .progress import progress
from .reconstruct import trained_denoiser
from .run_folder import opened
from .train import Device, choose_device

_SAMPLES = 8


def report(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    device: Device = "auto",
) -> None:
    """Put all that a run has found on one page: RUN/report.html, a single file that needs no network.

    Whatever the run does not have yet is left out, and the page says which command makes it. Pictures of the page are
    written to RUN/figures too, tables as CSV.

    Parameters
    ----------
    run
        Run folder.
    device
        Where the denoiser makes up some images; auto takes a GPU if there is one.
    """
    with opened(run) as ready:
        path = write_report(ready, choose_device(device))
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def write_report(run: Run, device: torch.device) -> Path:
    """Write the page, its pictures and its tables; returns the page."""
    summary = read_summary(run.folder)
    run.figures.mkdir(exist_ok=True)
    checks = denoiser_checks(run, device)
    with progress("report") as track:
        projected = project_volumes(summary, run.images, lambda part, note: track(0.3 * part, note))
        page = build_page(
            summary,
            run.images,
            projected,
            checks,
            made=made(),
            track=lambda part, note: track(0.3 + 0.5 * part, note),
        )
        path = run.folder / "report.html"
        write_text(path, page)
        track(0.8, "pictures")
        draw_pictures(summary, run.figures, projected, checks)
        track(1.0, "done")
    if summary.volumes:
        write_table(run.figures / "volumes.csv", volume_table(summary, projected.correlations))
    if checks is not None:
        rows = zip(checks.index.tolist(), checks.correlation.tolist(), strict=True)
        write_table(
            run.figures / "samples.csv",
            [{"sample": i, "nearest_image": index, "correlation": value} for i, (index, value) in enumerate(rows)],
        )
    return path


def denoiser_checks(run: Run, device: torch.device) -> DenoiserChecks | None:
    """Let the denoiser make up images, or take those of the last report; None before it is trained."""
    weights = list(run.denoiser_folder.glob("*.safetensors"))
    if not weights:
        return None
    path, images = run.figures / "samples.mrcs", run.images[run.used]
    if path.exists() and path.stat().st_mtime >= max(file.stat().st_mtime for file in weights):
        stack = read_images(path, run.preprocessing.working_pixel_size_angstrom).stack.images
        if len(stack) == _SAMPLES + len(references(len(images))):
            return _numbered(check_samples(MadeUp(stack[:_SAMPLES], stack[_SAMPLES:]), images), run)
    noise = run.config.noise
    with torch.no_grad():
        made = make_up(
            trained_denoiser(run, device),
            images.to(device),
            _SAMPLES,
            median=noise.median,
            log_std=noise.log_std,
            generator=torch.Generator().manual_seed(run.config.seed),
        )
    made = MadeUp(made.samples.cpu(), made.cleaned.cpu())
    stack = torch.cat([made.samples, made.cleaned])
    write_images(path, ImageStack(stack, run.preprocessing.working_pixel_size_angstrom))
    return _numbered(check_samples(made, images), run)


def _numbered(checks: DenoiserChecks, run: Run) -> DenoiserChecks:
    """Give the nearest images their numbers in the input, where those that were left out count too."""
    return replace(checks, index=torch.tensor(run.used)[checks.index])


def made() -> list[tuple[str, str]]:
    """Name and value of what a page is made with."""
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    now = datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
    return [("this page", f"scoretomo {__version__}, {now}, {versions}")]
