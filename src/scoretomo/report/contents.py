"""The contents of the report, from what a run has: every section filled, or left out with the command that makes it."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import course
from .denoiser_checks import DenoiserChecks
from .headline import facts, headline, sentences
from .page import Blocks, Report, render
from .point_page import point_section
from .sections import ProjectedVolumes, left_out_section, volume_sections, volume_table
from .summary import RunSummary

# Class averages that are shown beside the samples.
_BESIDE = 8


def build_page(
    run: RunSummary,
    images: Float[Tensor, "n side side"],
    projected: ProjectedVolumes,
    checks: DenoiserChecks | None,
    *,
    made: Sequence[tuple[str, str]],
    track: Report = lambda part, note: None,
) -> str:
    """Make the report.

    Parameters
    ----------
    run
        What the run folder holds.
    images
        ``(n, side, side)``, the working images.
    projected
        Of every volume, its class average and its projection.
    checks
        Samples of the denoiser; None leaves them out.
    made
        Name and value of facts about this page, such as versions.
    track
        Told how much is done.

    Returns
    -------
    str
        HTML, complete: no part of it is anywhere else.
    """
    blocks = Blocks({}, {}, {})
    volumes = volume_sections(blocks, run, projected, track)
    content = {
        "name": f"{run.folder.resolve().name} · {run.table['input']['images']} class averages",
        "facts": facts(run),
        "findings": sentences(run),
        "common_frame": any(volume.aligned for volume in run.volumes),
        **volumes,
        "left_out": left_out_section(blocks, run, images),
        "table": _text(volume_table(run, projected.correlations)),
        "consensus": course.consensus(run, "consensus" if "consensus" in blocks.densities else None),
        "points": point_section(blocks, run.folder),
        "agreement": course.agreement(run),
        "denoiser": _denoiser(blocks, run, images, checks),
        "provenance": [*course.provenance(run), *((name, value, False) for name, value in made)],
        "settings": course.settings(run),
        "missing": course.missing(run, has_samples=checks is not None),
    }
    return render(f"{run.folder.resolve().name}: scoretomo report", headline(run), content, blocks)


def _denoiser(
    blocks: Blocks, run: RunSummary, images: Float[Tensor, "n side side"], checks: DenoiserChecks | None
) -> dict[str, Any] | None:
    training = course.training(run)
    if training is None and checks is None:
        return None
    samples = None
    if checks is not None:
        left_out = {image.index for image in run.left_out}
        used = torch.tensor([index for index in range(len(images)) if index not in left_out])
        beside = images[used[torch.linspace(0, len(used) - 1, min(_BESIDE, len(used))).long()]]
        blocks.add_pictures("samples", torch.stack([checks.samples, checks.nearest], 1))
        blocks.add_pictures("samples-data", beside[:, None])
        samples = {
            "words": checks.words,
            "correlation": checks.correlation.tolist(),
            "nearest": checks.index.tolist(),
            "data": len(beside),
        }
    return {"training": training, "samples": samples}


def _text(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
