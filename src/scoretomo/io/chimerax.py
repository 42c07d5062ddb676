"""ChimeraX command files (.cxc): states side by side and motions as series, every map at a matched level.

ChimeraX runs a command file in the folder that holds it, so that maps are named relative to that and the whole folder
can be moved. Contour levels are given as the volume that a surface encloses: the same amount of molecule is seen in
every map, also where averaging has blurred a moving part.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..datatypes import InputError, Volume
from .files import write_text

# (Okabe and Ito 2008) told apart by every kind of colour vision
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")
_FRAMES_PER_SECOND = 8


@dataclass(frozen=True)
class MapSeries:
    """Maps of one size that are shown one after another.

    Raises
    ------
    InputError
        Fewer than two maps.
    """

    name: str
    files: tuple[Path, ...]

    def __post_init__(self) -> None:
        if len(self.files) < 2:
            raise InputError(f"the series {self.name!r} needs at least two maps, not {len(self.files)}")


def enclosed_volume_angstrom3(volume: Volume, level: float) -> float:
    """Volume of the voxels at or above a level, in cubic Angstrom."""
    return int((volume.voxels >= level).sum()) * volume.pixel_size_angstrom**3


def write_chimerax_script(
    path: Path,
    states: Sequence[tuple[str, Path]],
    series: Sequence[MapSeries] = (),
    *,
    enclosed_volume_angstrom3: float,
) -> None:
    """Write the commands that open maps in ChimeraX 1.0 or newer.

    Parameters
    ----------
    path
        The command file; the maps are named relative to its folder.
    states
        Name and file of each map that is shown side by side: models #1.1, #1.2, ...
    series
        Motions, models #2, #3, ...: each has a slider, and the first plays to and fro. Without states it is seen at
        once, otherwise it waits to be shown.
    enclosed_volume_angstrom3
        What every surface encloses.

    Raises
    ------
    InputError
        Nothing to show, a volume that is not positive, or a file that cannot be written.
    """
    if not states and not series:
        raise InputError(f"{path}: there is no map to show; give states or a series")
    if not 0 < enclosed_volume_angstrom3 < float("inf"):
        raise InputError(f"{path}: surfaces must enclose a positive volume, not {enclosed_volume_angstrom3} A^3")
    folder = path.parent
    lines = ["# open in ChimeraX; all surfaces enclose the same volume", "set bgColor white", "lighting soft"]
    for number, (name, file) in enumerate(states, 1):
        lines.append(f"open {_quoted(folder, file)} id 1.{number} name {_text(name)}")
        lines.append(_surface(f"#1.{number}", number - 1, enclosed_volume_angstrom3))
    if len(states) > 1:
        lines.append("tile " + " ".join(f"#1.{number}" for number in range(1, len(states) + 1)))
    for number, one in enumerate(series, 2):
        files = " ".join(_quoted(folder, file) for file in one.files)
        lines.append(f"open {files} vseries true id {number} name {_text(one.name)}")
        lines.append(_surface(f"#{number}", len(states) + number - 2, enclosed_volume_angstrom3))
        lines.append(f"vseries slider #{number}")
        if states or number > 2:
            lines += [f"vseries play #{number} jumpTo 0 normalize true", f"hide #{number} models"]
        else:
            lines.append(_play(number))
    lines.append("view")
    if series and states:
        lines += [
            "# to see a motion: hide the states and play, for example",
            f"# hide #1 models; show #2 models; {_play(2)}",
        ]
    write_text(path, "\n".join(lines) + "\n")


def _surface(model: str, colour: int, enclosed: float) -> str:
    return f"volume {model} style surface step 1 encloseVolume {enclosed:.6g} color {_COLOURS[colour % len(_COLOURS)]}"


def _play(number: int) -> str:
    return f"vseries play #{number} loop true direction oscillate normalize true maxFrameRate {_FRAMES_PER_SECOND}"


def _quoted(folder: Path, file: Path) -> str:
    return _text(Path(os.path.relpath(file, folder)).as_posix())


def _text(words: str) -> str:
    if '"' in words or "\n" in words:
        raise InputError(f"ChimeraX cannot be given the name {words!r}; leave out quotes and line breaks")
    return f'"{words}"'
