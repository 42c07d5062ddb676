"""Folders of RELION and cryoSPARC jobs: which file in them holds class averages, and which particles."""

import re
from pathlib import Path
from typing import Literal

from ..datatypes import InputError

_ITERATION = re.compile(r"_it(\d+)_|_(\d{3,5})_")
# What jobs name their results, the likelier first: selections, then classifications, refinements and extractions.
_NAMES = {
    "class averages": (
        "class_averages.star",
        "templates_selected.cs",
        "run_*it*_model.star",
        "*_class_averages.cs",
    ),
    "particles": (
        "particles.star",
        "particles_selected.cs",
        "run_data.star",
        "run_*it*_data.star",
        "*_particles.cs",
        "extracted_particles.cs",
    ),
}


def file_in_job(path: Path, what: Literal["class averages", "particles"]) -> tuple[Path, tuple[str, ...]]:
    """Find the file that a job's folder is meant to be, the last iteration of several; a file is itself.

    Returns
    -------
    Path, tuple of str
        The file, and a note that says which was taken where a folder was given.

    Raises
    ------
    InputError
        A folder that holds no such file.
    """
    if not path.is_dir():
        return path, ()
    for name in _NAMES[what]:
        found = sorted((each for each in path.glob(name) if each.is_file()), key=_iteration)
        if found:
            return found[-1], (f"{path} is a folder; {found[-1].name} in it is taken for its {what}",)
    raise InputError(
        f"{path}: is a folder in which there is no file of {what} as RELION or cryoSPARC name it "
        f"({', '.join(_NAMES[what])}); give the file"
    )


def _iteration(path: Path) -> tuple[int, float]:
    """Order files of a job by their iteration, then by their age."""
    numbers = [int(one or other) for one, other in _ITERATION.findall(path.name)]
    return max(numbers, default=-1), path.stat().st_mtime
