"""``scoretomo particles``: from the states of the molecule back to the particles, and to starting models for each."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from ..datatypes import InputError
from ..imaging.starting_model import starting_model
from ..io.files import replacing
from ..io.mrc import read_volume, write_volume
from ..io.particle_rows import ParticleRows, read_particle_rows
from ..io.run_settings import RunSource
from ..io.tables import read_table, write_table
from ..run_lock import locked
from ..runs import read_source
from .progress import say

# Class numbers that a line of the table shows; classes.csv has all.
_SHOWN = 12
_NOT_IN_RUN = "class is not in the run"
_NO_VOLUME = "volume is not in the landscape"
_NOT_RELIABLE = "volume is not reliable"
_NO_STATE = "volume is in no state"


@dataclass(frozen=True)
class Fate:
    """What becomes of the particles of a class average.

    Attributes
    ----------
    image
        Index of the class average in the run; None if it is not there.
    state
        The state that its volume is in; None if it is in none.
    why
        Why it is in none.
    reasons
        What is known besides, such as why the volume is not reliable.
    """

    image: int | None
    state: int | None
    why: str = ""
    reasons: str = ""


def particles(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    particles: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PARTICLES")],
    passthrough: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = (),
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER ...|CSV")] = (),
    resolution: Annotated[float, tyro.conf.arg(metavar="ANGSTROM")] = 30.0,
) -> None:
    """Write the particles of every state of the molecule to a file, and a starting model for their refinement.

    A class average came from the particles of its class, and its volume is in a state that `scoretomo ensemble` found.
    Rows of the particle file are copied untouched. Particles of classes whose volume is missing or not reliable are
    left out, counted and listed. Writes to RUN/particles: state_K.star or .cs, state_K.mrc, and classes.csv.

    Parameters
    ----------
    run
        A run folder with RUN/ensemble.
    particles
        Particles of the 2D classification that made the class averages: RELION's run_itNNN_data.star, cryoSPARC's
        JNN_NNN_particles.cs, or a selection from them.
    passthrough
        More .cs files of the same particles. Each is cut down too, to state_K_passthrough.cs.
    classes
        Class number of every image of the run, in their order, counted as in the particle file; or a .csv with the
        columns index (of the image, from 0) and class. Needed where the file of the class averages does not say.
    resolution
        The starting models are low-passed to this.
    """
    source = read_source(run)
    rows = read_particle_rows(particles, passthrough)
    numbers = _given_classes(classes, rows.first_class, source) if classes else _known_classes(run, source, rows)
    with locked(run):
        fates = _fates(run, numbers)
        counts = Counter(rows.class_numbers.tolist())
        if not any(number in fates for number in counts):
            raise InputError(
                f"{particles}: none of its classes is in the run ({_enumerate(counts, rows.first_class)} there, "
                f"{_enumerate(fates, rows.first_class)} in {run}); are they of another 2D classification?"
            )
        files = _write(run, particles, rows, fates, resolution)
        _write_classes(run / "particles" / "classes.csv", fates, counts, rows.first_class)
    print(_table(particles, fates, counts, rows.first_class, files))
    print(f"results: {run / 'particles'}")


def _known_classes(run: Path, source: RunSource, rows: ParticleRows) -> list[int]:
    """Class number of every image of the run, from 1: recorded, or the places in a plain stack."""
    if "classes" in source:
        return list(source["classes"])
    if Path(source["path"]).suffix.lower() in (".star", ".cs"):
        raise InputError(
            f"{run}: does not know which class each image is the average of; give the numbers with --classes, or, if "
            f"{source['path']} says it, give the `train` or `run` command again"
        )
    count, highest = source["images"], int(rows.class_numbers.max(initial=0))
    if highest > count:
        raise InputError(
            f"{run}: was made of a plain stack of {count} images, and there are particles of class "
            f"{highest - 1 + rows.first_class}; the stack is a selection, so give the class numbers with --classes"
        )
    say("note: class numbers are taken to be the places of the images in their stack; --classes if they are not")
    return list(range(1, count + 1))


def _given_classes(words: Sequence[str], first: int, source: RunSource) -> list[int]:
    """Class number of every image as the user gives it, but from 1."""
    count = source["images"]
    try:
        if len(words) == 1 and words[0].lower().endswith(".csv"):
            with Path(words[0]).open(newline="", encoding="utf-8-sig") as file:
                listed = {int(row["index"]): int(row["class"]) for row in csv.DictReader(file)}
            numbers = [listed[index] for index in range(count)]
        else:
            numbers = [int(word) for word in words]
    except OSError as error:
        raise InputError(f"--classes {words[0]}: {error.strerror or error}") from error
    except KeyError as error:
        raise InputError(f"--classes {words[0]}: has no column or image {error}; it needs index and class") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"--classes: must be whole numbers, or a .csv of them: {error}") from error
    if len(numbers) != count:
        raise InputError(f"--classes: {len(numbers)} numbers for the {count} images of the run")
    twice = [number for number, times in Counter(numbers).items() if times > 1]
    if twice:
        raise InputError(f"--classes: class {twice[0]} is given to more than one image")
    return [number + 1 - first for number in numbers]


def _fates(run: Path, numbers: Sequence[int]) -> dict[int, Fate]:
    """Decide what becomes of the particles of every class of the run, by class number from 1."""
    path = run / "ensemble" / "landscape.csv"
    landscape = _read_by_index(path, ("reliable", "cluster"))
    reliability = path.with_name("reliability.csv")
    reasons = _read_by_index(reliability, ("reasons",)) if reliability.exists() else {}
    strange = [index for index in landscape if not 0 <= index < len(numbers)]
    if strange:
        raise InputError(
            f"{path}: has image {strange[0]}, and the run has {len(numbers)}; run `scoretomo ensemble` again"
        )
    fates = {}
    for index, number in enumerate(numbers):
        known = reasons[index]["reasons"] if index in reasons else ""
        if index not in landscape:
            fates[number] = Fate(index, None, _NO_VOLUME, known)
            continue
        reliable, cluster = (landscape[index][name].strip().lower() for name in ("reliable", "cluster"))
        if reliable not in ("true", "1"):
            fates[number] = Fate(index, None, _NOT_RELIABLE, known)
        else:
            fates[number] = Fate(index, int(cluster)) if cluster.isdecimal() else Fate(index, None, _NO_STATE, known)
    return fates


def _read_by_index(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Rows of a table of the ensemble by index of the image; these columns have a value in each."""
    advice = "run `scoretomo ensemble` again"
    return {int(row["index"]): row for row in read_table(path, columns, whole=["index"], advice=advice)}


def _write(
    run: Path, path: Path, rows: ParticleRows, fates: Mapping[int, Fate], resolution: float
) -> dict[int, list[str]]:
    """Write the files of all states and remove those of an earlier call; names of the files of every state."""
    of_state = _states_of(rows.class_numbers, fates)
    states = sorted({fate.state for fate in fates.values() if fate.state is not None})
    # a particle file without particles is one that RELION refuses
    filled = [state for state in states if (of_state == state).any()]
    clusters = run / "ensemble" / "clusters"
    models = {
        state: starting_model(
            read_volume(clusters / f"cluster_{state}.mrc").volume,
            resolution,
            pixel_size_angstrom=rows.pixel_size_angstrom,
            side=rows.side,
        )
        for state in filled
    }
    folder = run / "particles"
    folder.mkdir(exist_ok=True)
    files: dict[int, list[str]] = {state: [] for state in states}
    for state in filled:
        own, *more = rows.only(of_state == state)
        contents = {f"state_{state}{path.suffix.lower()}": own}
        contents |= {f"state_{state}_passthrough{n if n > 1 else ''}.cs": each for n, each in enumerate(more, 1)}
        for name, content in contents.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
        write_volume(folder / f"state_{state}.mrc", models[state])
        files[state] = [*contents, f"state_{state}.mrc"]
    written = {name for names in files.values() for name in names}
    for stale in folder.glob("state_*"):
        if stale.name not in written:
            stale.unlink()
    return files


def _states_of(class_numbers: NDArray[np.int64], fates: Mapping[int, Fate]) -> NDArray[np.int64]:
    """State of every particle, -1 for none."""
    distinct, places = np.unique(class_numbers, return_inverse=True)
    states = [fates[number].state if number in fates else None for number in distinct.tolist()]
    return np.array([-1 if state is None else state for state in states], dtype=np.int64)[places]


def _write_classes(path: Path, fates: Mapping[int, Fate], counts: Mapping[int, int], first: int) -> None:
    rows = []
    for number in sorted({*fates, *counts}):
        fate = fates.get(number, Fate(None, None, _NOT_IN_RUN))
        rows.append(
            {
                "class": number - 1 + first,
                "index": fate.image,
                "particles": counts.get(number, 0),
                "state": fate.state,
                "why_none": fate.why,
                "reasons": fate.reasons,
            }
        )
    write_table(path, rows)


def _table(
    path: Path, fates: Mapping[int, Fate], counts: Mapping[int, int], first: int, files: Mapping[int, list[str]]
) -> str:
    """Say a line for each state and each reason to be in none, for people; the particles add up to all."""
    total = sum(counts.values())
    lines = [
        f"{total} particles of {len(counts)} classes in {path.name}",
        "",
        "state  particles  classes  class averages",
    ]
    groups: dict[int | str, list[int]] = {state: [] for state in files}
    for number in sorted({*fates, *counts}):
        fate = fates.get(number, Fate(None, None, _NOT_IN_RUN))
        groups.setdefault(fate.why if fate.state is None else fate.state, []).append(number)
    listed = 0
    for group, numbers in groups.items():
        count = sum(counts.get(number, 0) for number in numbers)
        listed += count
        images = [fates[number].image for number in numbers if number in fates]
        note = f"images {_enumerate(images)}; " if images else ""
        note += f"classes {_enumerate(numbers, first)}"
        made = f"; {' '.join(files[group]) or 'no particles, no files'}" if isinstance(group, int) else f"; {group}"
        name = str(group) if isinstance(group, int) else "none"
        lines.append(f"{name:>5}  {count:9d}  {len(numbers):7d}  {note}{made}")
    assert listed == total, f"{total} particles came in, {listed} are accounted for"
    return "\n".join([*lines, f"  all  {listed:9d}"])


def _enumerate(numbers: Iterable[int | None], first: int = 1) -> str:
    """``3, 5, 8 and 12 more``, class numbers as the particle file counts them."""
    ordered = sorted(number - 1 + first for number in numbers if number is not None)
    shown = ", ".join(str(number) for number in ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN} more"
