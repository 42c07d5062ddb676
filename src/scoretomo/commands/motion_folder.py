"""RUN/motion: what ``scoretomo motion`` leaves of a molecule that moves.

The model (mean.mrc, and component_1.mrc and so on: what one standard deviation of a coordinate adds, as far as halves
of the class averages agree on it), coordinates.csv (where each class average lies, with errors, its state, and its
place along the path), volumes/, each in the frame of
its class average, and in the common frame states/, path/ (the volumes along the main path) and view.cxc for ChimeraX.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..at_once import at_once
from ..ensemble.states import Clusters, MainPath, StatesConfig, find_clusters, find_main_path
from ..imaging.preprocess import restore_volume
from ..io.files import write_json
from ..io.mrc import write_volume
from ..io.tables import write_table
from ..methods.motion_model import MotionModel
from ..methods.neighbour_volumes import NeighbourVolumes
from ..runs import Run
from .map_series import write_series, write_view
from .progress import interruptible, progress

# Part of the class averages that are neighbours of one, and how many at least: errors of coordinates overlap.
_NEIGHBOURS, _FEWEST_NEIGHBOURS = 0.03, 5
# Part of the greatest power of a component that each has at least.
_LEAST_POWER = 1e-6
_VOLUMES_AT_ONCE = 16  # between two looks at whether to stop


def write_motion(folder: Path, run: Run, model: MotionModel, volumes: NeighbourVolumes) -> None:
    """Write all but motion.json."""
    shown = volumes.components * volumes.molecule
    for k, volume in enumerate(shown.cpu()):
        name = "mean.mrc" if k == 0 else f"component_{k}.mrc"
        write_volume(folder / name, restore_volume(volume, run.preprocessing))
    to_distances = _to_distances(shown[1:])
    places, everyone = model.z @ to_distances, torch.ones_like(model.z[:, 0], dtype=torch.bool)
    config = StatesConfig(neighbours=max(_FEWEST_NEIGHBOURS, round(_NEIGHBOURS * len(places))))
    states = find_clusters(places, everyone, config, seed=run.config.seed)
    path = find_main_path(places, everyone, config)
    _write_coordinates(folder / "coordinates.csv", run, model, states, path)
    curve = torch.linalg.solve(to_distances.T, path.path.curve.to(to_distances).T).T
    _write_states(folder, run, volumes, states, path, curve)
    _write_volumes(folder / "volumes", run, volumes)


def _to_distances(components: Float[Tensor, "k side side side"]) -> Float[Tensor, "k k"]:
    """Find the matrix that makes places of coordinates whose distances are those of volumes; components may overlap."""
    gram = torch.einsum("axyz,bxyz->ab", components, components)
    powers, axes = torch.linalg.eigh(gram)
    least = max(_LEAST_POWER * float(powers.max()), torch.finfo(powers.dtype).tiny)  # a component may be nothing
    matrix: Tensor = axes * powers.clamp(min=least).sqrt()
    return matrix


def _write_coordinates(path: Path, run: Run, model: MotionModel, states: Clusters, main: MainPath) -> None:
    errors = model.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    columns = {f"z_{k + 1}": values for k, values in enumerate(model.z.T)}
    columns |= {f"error_{k + 1}": values for k, values in enumerate(errors.T)}
    columns |= {"state": states.labels + 1, "state_certainty": states.certainty, "path": main.phase}
    lines = zip(run.used, *(values.tolist() for values in columns.values()), strict=True)
    write_table(path, [dict(zip(["index", *columns], line, strict=True)) for line in lines])


def _write_states(
    folder: Path, run: Run, volumes: NeighbourVolumes, states: Clusters, main: MainPath, curve: Float[Tensor, "m k"]
) -> None:
    """Write the volume at the mean of each state, and those along the main path."""
    z = volumes.model.z
    means = [z[states.labels == k].mean(0) for k in range(len(states.populations))]
    of_states = write_series(folder / "states", "state", 1, map(volumes.at, means), run.preprocessing)
    along = write_series(folder / "path", "path", 0, map(volumes.at, curve), run.preprocessing)
    found = zip(states.populations.tolist(), states.representatives.tolist(), of_states, strict=True)
    write_json(
        folder / "states.json",
        {
            "states": [
                {"number": k, "population": count, "representative": run.used[member], "file": file.name}
                for k, (count, member, file) in enumerate(found, 1)
            ],
            "criterion": states.criterion,
            "path": {"share": main.share, "files": [file.name for file in along]},
        },
    )
    write_view(
        folder / "view.cxc",
        restore_volume((volumes.components[0] * volumes.molecule).cpu(), run.preprocessing),
        of_states,
        along,
    )


def _write_volumes(folder: Path, run: Run, volumes: NeighbourVolumes) -> None:
    """Write the volume of each class average, in its frame and in the units of the input."""
    folder.mkdir()
    device, done = volumes.components.device, 0
    with interruptible() as check, progress("volumes of the motion") as report:
        for places in torch.arange(len(run.used)).split(_VOLUMES_AT_ONCE):
            check()
            for place, volume in zip(places.tolist(), at_once(volumes, places.tolist(), device), strict=True):
                path = folder / f"volume_{run.used[place]:04d}.mrc"
                write_volume(path, restore_volume(volume.cpu(), run.preprocessing))
            done += len(places)
            report(done / len(run.used), f"{done} of {len(run.used)}")
