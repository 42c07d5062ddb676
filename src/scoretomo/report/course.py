"""Curves, provenance, and what is missing: the parts of the report that need no volume."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import tomli_w
import torch

from ..evaluation.fsc import resolution_pixels
from ..io.found import Consensus
from ..io.made_with import read_made_with
from .summary import RunSummary

_HELD_OUT = "held_out_error_sigma_"
FSC_COLUMNS = {
    "corrected": "corrected for the mask",
    "masked": "within the mask",
    "unmasked": "whole box",
    "phase_randomised": "phase randomised",
}
"""Curves of half maps, and what they are called in pictures."""


def training(run: RunSummary) -> dict[str, Any] | None:
    """Loss and errors on held-out images against the images seen; None before the first line."""
    lines = [line for line in run.metrics if line["phase"] == "train" and line.get("loss") is not None]
    if len(lines) < 2:
        return None
    names = [name for name in lines[-1] if name.startswith(_HELD_OUT)]
    return {
        "steps": [line["step"] for line in lines],
        "loss": [line["loss"] for line in lines],
        "held_out": [
            {"sigma": name.removeprefix(_HELD_OUT), "error": [line.get(name) for line in lines]} for name in names
        ],
    }


def consensus(run: RunSummary, density: str | None) -> dict[str, Any] | None:
    """Map and curves of the consensus; None where there is neither."""
    frequency = run.consensus_fsc.get("frequency_per_angstrom")
    if density is None and not frequency:
        return None
    curves = [
        {"name": words, "x": frequency, "y": run.consensus_fsc[column]}
        for column, words in FSC_COLUMNS.items()
        if frequency and column in run.consensus_fsc
    ]
    return {"words": _consensus_words(run.consensus), "density": density, "fsc": curves}


def agreement(run: RunSummary) -> dict[str, Any] | None:
    """FSC between the repeats of each volume, and the median of each verdict; None without repeats."""
    found = None if run.reliability is None else run.reliability.get("seed_fsc")
    if not found:  # there is one seed only
        return None
    frequency, by_index = found["frequency_per_angstrom"], found["curves"]
    verdicts = {volume.index: volume.verdict or "unjudged" for volume in run.volumes}
    curves = [
        {"verdict": verdicts[int(index)], "x": frequency, "y": curve}
        for index, curve in by_index.items()
        if int(index) in verdicts and curve and None not in curve
    ]
    if not curves:
        return None
    medians = []
    for verdict in ("reliable", "doubtful", "wrong", "unjudged"):
        of_verdict = [curve["y"] for curve in curves if curve["verdict"] == verdict]
        if of_verdict:
            middle = [median(values) for values in zip(*of_verdict, strict=True)]
            finest = resolution_pixels(torch.tensor(middle)).item()
            # shell k of n / 2 + 1 has frequency k / (n pixels)
            pixel = 0.5 / frequency[-1]
            medians.append(
                {
                    "name": f"{verdict}, median of {len(of_verdict)}",
                    "verdict": verdict,
                    "count": len(of_verdict),
                    "resolution": finest * pixel if math.isfinite(finest) else None,
                    "x": frequency,
                    "y": middle,
                }
            )
    return {"curves": curves, "median": medians}


def provenance(run: RunSummary) -> list[tuple[str, str, bool]]:
    """Name and value of what the run was made of and with; the third says whether it is code."""
    source = run.table["input"]
    settings = run.table["settings"]
    record = run.preprocessing
    trained = [line for line in run.metrics if line["phase"] == "train"]
    facts = [
        ("command", str(run.table["command"]), True),
        (
            "images",
            f"{source['images']} of {source['side']} pixels, {source['pixel_size_angstrom']:.4g} Å, {source['path']}",
            False,
        ),
        ("sha256 of the images", source["sha256"], True),
        ("worked on", f"{record.working_side} pixels of {record.working_pixel_size_angstrom:.4g} Å", False),
        ("preset", run.table.get("preset", "not known"), False),
        ("random seed", str(settings.get("seed", 0)), False),
    ]
    if trained:
        last = trained[-1]
        facts.append(
            (
                "trained on",
                f"{last['step']:,} images in {(last.get('seconds') or 0) / 60:.1f} minutes, {run.table.get('device')}",
                False,
            )
        )
    repeats = sorted({volume.seed for volume in run.volumes})
    if repeats not in ([], [0]):
        facts.append(("repeats kept", f"seeds {', '.join(map(str, repeats))}", False))
    script = run.ensemble / "view.cxc"
    if script.exists():
        facts.append(("for ChimeraX", str(script.relative_to(run.folder)), True))
    particles = sorted(path for path in (run.folder / "particles").glob("state_*") if path.suffix != ".mrc")
    if particles:
        facts.append(
            ("particles of each state", ", ".join(str(path.relative_to(run.folder)) for path in particles), True)
        )
    return [*facts, ("run made by", f"scoretomo {run.table['scoretomo']}", False)]


def settings(run: RunSummary) -> str:
    """All settings as TOML: of the run, and of the reconstruction where they are others."""
    text = tomli_w.dumps({"settings": run.table["settings"]})
    made = read_made_with(run.folder)
    if made is not None and made["growth"] != run.table["settings"].get("growth"):
        text += "\n# the volumes were made with\n" + tomli_w.dumps(made)
    return text


def missing(run: RunSummary, *, has_samples: bool) -> list[tuple[str, str]]:
    """List what the report leaves out because the run has not got that far, and the commands that make it."""
    folder = run.folder
    if "drgn" in run.table["settings"]:
        words = "Made with --method drgn: verdicts, one frame and states need a denoiser, in a run folder of its own"
        return [(words, f"scoretomo run {run.table['input']['path']} -o RUN")]
    absent: Sequence[tuple[bool, str, str]] = (
        (not run.volumes, "There are no volumes yet", f"scoretomo reconstruct {folder}"),
        (
            bool(run.volumes) and run.reliability is None and all(v.verdict is None for v in run.volumes),
            "Verdicts on the volumes",
            f"scoretomo ensemble {folder}",
        ),
        (
            bool(run.volumes) and run.landscape is None,
            "One frame, map of states and motion",
            f"scoretomo ensemble {folder}",
        ),
        (
            bool(run.volumes) and agreement(run) is None,
            "Agreement of independent repeats",
            f"scoretomo reconstruct {folder} --seeds 3",
        ),
        (
            bool(run.volumes) and run.consensus is None,
            "One consensus map with a resolution",
            f"scoretomo consensus {folder}",
        ),
        (
            not has_samples,
            "Images that the denoiser makes up need the trained denoiser",
            f"scoretomo train {run.table['input']['path']} -o {folder}",
        ),
    )
    return [(words, command) for is_absent, words, command in absent if is_absent]


def _consensus_words(found: Consensus | None) -> str:
    if found is None:
        return "Made of all reliable class averages. Its resolution is not known without independent halves."
    symmetry = found.get("symmetry")
    made = f"Made of {found['images_used']} class averages"
    made += f" with {symmetry} symmetry imposed. " if symmetry and symmetry != "C1" else ". "
    resolution = found.get("resolution_angstrom")
    if not resolution:
        return made + "Its resolution is not known without independent halves."
    return f"{made}Two halves of them, reconstructed independently, agree to {resolution:.1f} Å (FSC 0.143)."
