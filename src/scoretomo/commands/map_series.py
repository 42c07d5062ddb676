"""Maps of states and of paths between them, in folders of their own, and the ChimeraX commands that show them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..datatypes import Volume
from ..imaging.preprocess import Preprocessing, restore_volume
from ..io.chimerax import MapSeries, enclosed_volume_angstrom3, write_chimerax_script
from ..io.mrc import write_volume
from ..report.isosurface import surface_level


def write_series(
    folder: Path, name: str, first: int, volumes: Iterable[Float[Tensor, "s s s"]], preprocessing: Preprocessing
) -> list[Path]:
    """Write volumes in the units of the input: ``NAME_1.mrc`` and so on, or ``NAME_00.mrc`` where the first is 0."""
    folder.mkdir()
    files = []
    for number, voxels in enumerate(volumes, first):
        files.append(folder / (f"{name}_{number:02d}.mrc" if first == 0 else f"{name}_{number}.mrc"))
        write_volume(files[-1], restore_volume(voxels.cpu(), preprocessing))
    return files


def write_view(path: Path, mean: Volume, states: Sequence[Path], motion: Sequence[Path]) -> None:
    """Write the ChimeraX commands that show states side by side and play the main path."""
    write_chimerax_script(
        path,
        [(f"state {k}", file) for k, file in enumerate(states, 1)],
        [MapSeries("main path", tuple(motion))],
        enclosed_volume_angstrom3=enclosed_volume_angstrom3(mean, surface_level(mean.voxels)),
    )
