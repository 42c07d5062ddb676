"""docs/performance.md, made of the records, their curves, the cost model and the notes written by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoretomo.io.files import write_text
from scoretomo.presets import PRESETS

from . import curves
from .goals import GOALS, times_listing
from .model import CostModel, exponents, fit, plan
from .record import RECORDS, Row
from .tables import SECTIONS, Column, number, percent, table

_ROOT = Path(__file__).parents[1]
PAGE, IMAGES = _ROOT / "docs" / "performance.md", _ROOT / "docs" / "images"
_NOTES = Path(__file__).with_name("performance_notes.md")
_DEVICES = ("cpu", "cuda")

Record = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write the page and its curves; or, with ``--check``, exit with status 1 if the page is not up to date."""
    text = page()
    if "--check" not in arguments:
        _draw()
        write_text(PAGE, text)
        print(f"page: {PAGE.relative_to(_ROOT)}")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/performance.md is not what the records say; make it again: python -m benchmarks performance")
    return 1


def page() -> str:
    """All text of the page."""
    parts = [_INTRODUCTION, _glance(), *(_section(*section) for section in SECTIONS), _model_section()]
    notes = _NOTES.read_text(encoding="utf-8").strip()
    parts += [f"## What was tried\n\n{notes}", _PENDING]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Performance

How fast the package is, beside the paper's way of doing the same and beside what the machine can do at most. This page
is made by `python -m benchmarks performance` from the records in `benchmarks/records`, the part "What was tried"
from `benchmarks/performance_notes.md`; do not edit it. [benchmarks/README.md](../benchmarks/README.md) says how each
figure is measured. The sides of a comparison take turns in one run; speeds are medians.

**Share of peak** is the physical limit over the time taken. The limit counts the operations and bytes that the task
cannot do without, at the rates of matrix products and memory that are measured in the same run."""

_PENDING = """## Pending: what needs a GPU

Where a section has no CUDA table, nothing has been run on a GPU yet. The commands are listed in
[benchmarks/README.md](../benchmarks/README.md#not-measured-yet)."""


def _record(name: str, device: str) -> Record | None:
    path = RECORDS / f"{name}_{device}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _section(title: str, name: str, text: str, columns: Sequence[Column]) -> str:
    parts = [f"## {title}", text]
    for device in _DEVICES if name not in _CPU_ONLY else ("cpu",):
        record = _record(name, device)
        if record is None:
            parts.append(f"{_LABELS[device]}: not measured yet, `{_command(name, device)}`.")
            continue
        parts += [_origin(record), table(record["figures"], columns)]
        if name in _CURVES:
            parts.append(f"![{title}, {_LABELS[device]}](images/{name}_{device}.svg)")
        if name == "accuracy":
            parts.append(_conclusion(record["figures"]))
    return "\n\n".join(parts)


_LABELS = {"cpu": "CPU", "cuda": "CUDA"}
_NEEDED = {"points_time": " --prior PRIOR --clouds SET.npz"}
_CPU_ONLY = ("point_assignment",)
_CURVES = ("projection", "accuracy", "scaling")


def _command(name: str, device: str) -> str:
    return f"python -m benchmarks {name}{_NEEDED.get(name, '')}" + ("" if device == "cpu" else " --device cuda")


def _origin(record: Record) -> str:
    """Machine, date, commit and command of a record."""
    machine = record["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    where = machine.get("gpu") or f"{threads} of {machine['cpu']}"
    cut = "" if record["complete"] else "; **cut before its end**"
    return (
        f"{where}, PyTorch {machine['torch']}, {record['date']}, commit {record['commit'][:10]}"
        f"{'-dirty' * record['commit'].endswith('-dirty')}: `{record['command']}`{cut}"
    )


def _conclusion(rows: Sequence[Row]) -> str:
    """The ratio of times to the accuracy that ours ends with."""
    return f"To the median FSC-AUC that ours ends with, the listing takes **{times_listing(rows)}** times as long."


def _glance() -> str:
    """The figures that the package is judged by."""
    lines = ["| | goal | CPU | CUDA |", "|---|---|---|---|"]
    for label, goal, name, figure in GOALS:
        cells = []
        for device in _DEVICES:
            record = _record(name, device)
            cells.append("-" if record is None else figure(record["figures"]))
        lines.append(f"| {label} | {goal} | {' | '.join(cells)} |")
    return "\n".join(["## At a glance", "", *lines])


def _model_section() -> str:
    parts = [
        "## Model of the cost, and a plan",
        "One volume's step takes `a / volumes + (M - 1) (b n^3 + c F(n))`: what a step costs whatever is in it, shared "
        "by the volumes that advance together; a projection and its adjoint; the denoiser, F(n) being the counted "
        "operations of the U-Net. F grows as n^2 but for the attention in the coarsest blocks, which grows as n^4 and "
        "matters in large boxes unless the U-Net has more levels. An image of training takes `a / batch + c F(n)`. "
        "Least squares of the relative errors; no coefficient may be negative.",
    ]
    for device in _DEVICES:
        record = _record("scaling", device)
        if record is None:
            parts.append(f"{_LABELS[device]}: not measured yet, `{_command('scaling', device)}`.")
        else:
            model = fit(record["figures"], record["settings"]["network"])
            parts += [
                f"{_LABELS[device]}:",
                _coefficients(model),
                _exponents(record["figures"]),
                _plan(model, record),
            ]
    return "\n\n".join(parts)


def _coefficients(model: CostModel) -> str:
    rows = [
        ("reconstruction", f"a = {number(model.step)} ms", f"b = {number(1e6 * model.voxel)} ns a voxel",
         f"c = {number(model.gflop)} ms a GFLOP", percent(model.error)),
        ("training", f"a = {number(model.training_step)} ms", "", f"c = {number(model.training_gflop)} ms a GFLOP",
         percent(model.training_error)),
        ("memory", f"{number(model.megabytes)} MB", f"{number(model.voxel_bytes)} bytes a voxel of a volume",
         f"{number(model.pixel_bytes)} bytes a pixel of a view", percent(model.memory_error)),
    ]  # fmt: skip
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["| | a step | a voxel | the U-Net | error of the fit |", "|---|---|---|---|---|", *lines])


def _exponents(rows: Sequence[Row]) -> str:
    """Slopes in log-log plots of the time for all volumes."""
    said = []
    for task, sweep in (
        ("reconstruction", "side"),
        ("reconstruction", "volumes"),
        ("reconstruction", "views"),
        ("training", "side"),
    ):
        chosen = [row for row in rows if row["task"] == task and row["sweep"] == sweep]
        if len(chosen) > 1:
            costs = [row["milliseconds"] * (row["volumes"] if sweep == "volumes" else 1) for row in chosen]
            slopes = ", ".join(f"{slope:.2f}" for slope in exponents([row[sweep] for row in chosen], costs))
            sizes = ", ".join(str(row[sweep]) for row in chosen)
            said.append(f"- {task} against {sweep} ({sizes}): {slopes}")
    return "\n".join(["Exponents of the cost from each size to the next:", "", *said])


def _plan(model: CostModel, record: Record) -> str:
    machine = record["machine"]
    memory = machine.get("gpu_memory_gib", machine["memory_gib"]) * 2**30 / 1e9
    foreseen = plan(model, 10_000, 256, memory, PRESETS["default"].growth)
    return (
        f"By the model, one volume for each of {foreseen.images} class averages of {foreseen.side} pixels with the "
        f"default settings is {foreseen.volume_steps / 1e6:.1f} million volume-steps: "
        f"**{number(foreseen.reconstruction_hours)} hours** on this device, {foreseen.chunk} volumes at once in "
        f"{number(foreseen.chunk_gigabytes)} GB (half of its memory), and {number(foreseen.result_gigabytes)} GB of "
        f"volumes as float32. Training takes {number(foreseen.training_hours_per_million)} hours for each million "
        "images seen. Volumes are independent of each other within a stage, so that N devices take an N-th of the time."
    )


def _draw() -> None:
    for device in _DEVICES:
        for name in _CURVES:
            record = _record(name, device)
            if record is None:
                continue
            path, rows = IMAGES / f"{name}_{device}.svg", record["figures"]
            if name == "scaling":
                curves.scaling(path, rows, fit(rows, record["settings"]["network"]))
            else:
                {"projection": curves.projection, "accuracy": curves.accuracy}[name](path, rows)
