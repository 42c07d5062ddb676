"""What is true of simulated images, as files: volumes, poses and the table of states."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..datatypes import Poses, Volume
from ..io.mrc import write_volume
from ..io.star import write_particles
from ..io.tables import write_table


def write_truth(
    folder: Path,
    volumes: Float[Tensor, "n side side side"],
    poses: Poses,
    states: Float[Tensor, "n k"],
    names: tuple[str, ...],
    *,
    pixel_size_angstrom: float,
    junk: int | None = None,
) -> None:
    """Write ``truth/volume_NNNN.mrc``, ``truth.csv`` and ``particles.star`` for images.mrcs in a folder.

    Parameters
    ----------
    folder
        Where the images will be; it is made.
    volumes
        ``(n, side, side, side)``: the object of each image in that image's frame, centred.
    poses, states, names
        True poses, and true states with what their columns are.
    pixel_size_angstrom
        Of images and volumes.
    junk
        How many more images show no object; they have neither volume nor pose, and the table says which they are.
        None: the table does not speak of junk.
    """
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    for index, voxels in enumerate(volumes):
        write_volume(folder / "truth" / f"volume_{index:04d}.mrc", Volume(voxels, pixel_size_angstrom))
    rows = [{"image": index, **dict(zip(names, values, strict=True))} for index, values in enumerate(states.tolist())]
    if junk is not None:
        nothing = dict.fromkeys(names)
        rows = [{**row, "junk": 0} for row in rows]
        rows += [{"image": len(rows) + number, **nothing, "junk": 1} for number in range(junk)]
    write_table(folder / "truth.csv", rows)
    write_particles(
        folder / "particles.star",
        "images.mrcs",
        poses,
        pixel_size_angstrom=pixel_size_angstrom,
        side=volumes.shape[-1],
    )
