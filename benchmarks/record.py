"""What a benchmark leaves behind: its figures, and what is needed to trust or repeat them."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch

from scoretomo.io.files import write_json

Row = dict[str, Any]
"""A line of a benchmark's table: strings, numbers and None by column."""

RECORDS = Path(__file__).parent / "records"


def write_record(
    name: str, command: str, settings: dict[str, Any], rows: list[Row], *, peak: Row, complete: bool
) -> str:
    """Write ``records/NAME_DEVICE.json``, replacing an earlier record of the same kind; what to call it on a screen.

    Parameters
    ----------
    name
        The benchmark.
    command
        The command that repeats it.
    settings
        All of its settings, those that the command leaves at their defaults too; ``device`` goes into the file's name.
    rows
        The figures.
    peak
        What the machine can do at most, measured in the same run.
    complete
        Whether the run has come to its end.
    """
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}_{settings['device']}.json"
    record = {
        "benchmark": name,
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(settings["device"]),
        "peak": peak,
        "complete": complete,
        "settings": {key: _without_folders(value) for key, value in settings.items()},
        "figures": rows,
    }
    write_json(path, record)
    return f"benchmarks/records/{path.name}"


def _without_folders(value: Any) -> Any:
    """Names of files in the place of paths, which are those of one machine."""
    if isinstance(value, tuple | list):
        return [_without_folders(each) for each in value]
    return value.name if isinstance(value, Path) else value


def machine(device: str) -> dict[str, Any]:
    """Processor, memory, GPU and versions: no name of a host or a user, no path."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    description = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    if device == "cuda":
        description |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return description


@cache
def commit() -> str:
    """Commit of the working tree, with ``-dirty`` if files of the package or the benchmarks differ from it."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", ":/src", ":/benchmarks/*.py", ":/pyproject.toml")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive, or no git
        return "unknown"
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    finished = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return finished.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
