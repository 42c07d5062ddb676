"""``scoretomo drgn select``: the particles of some clusters, or of a region, as rows of the file they came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from ..datatypes import InputError
from ..io.files import replacing
from ..io.particle_rows import select_posed_rows, select_rows
from ..io.star import read_poses
from ..io.tables import read_table
from .drgn_folder import TRAIN_AGAIN, DrgnRun, open_run, refuse_changed_particles
from .drgn_images import open_particles


def select(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")],
    clusters: Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...")] = (),
    where: Annotated[tuple[tuple[str, float, float], ...], tyro.conf.arg(metavar="COLUMN LOW HIGH ...")] = (),
    poses: Literal["file", "found"] = "file",
) -> None:
    """Write the particles of some clusters, or of a region of the latent space, or with new poses, as a particle file.

    Rows are those of the particle file that the run was made of, every byte as it was, so that the programs that wrote
    it go on with them; or every byte but the poses, which are those that the run has found.

    Parameters
    ----------
    run
        Run folder of `scoretomo drgn train`; for clusters and regions, one that `scoretomo drgn analyze` has analysed.
    output
        File that is written, of the type of the particle file; passthrough files go beside it.
    clusters
        Clusters by their numbers in the pictures.
    where
        Columns of analysis/latent.csv and the range in which their values lie, such as umap_1 -0.5 1; with several,
        and with clusters, all must hold. With neither, all particles of the run.
    poses
        found: angles and shifts are those of the run, from nothing or from --poses-file, in the columns where the
        programs of the particle file look for them. file: as they were.
    """
    opened = open_run(run)
    sources = [opened.files.particles, *opened.files.passthrough]
    paths = _outputs(output, sources)
    if not clusters and not where and poses == "file":
        raise InputError("say which particles: --clusters, --where, or both; or give them new poses: --poses found")
    others = opened.converted is not None or opened.files.poses_file is not None
    if poses == "found" and opened.config.poses == "known" and not others:
        raise InputError(f"{run}: has taken the poses of {sources[0].name}, and found none; leave --poses out")
    refuse_changed_particles(opened)
    every = _rows_of(opened)
    chosen = np.isin(every, _chosen(opened, clusters, where)) if clusters or where else np.ones(len(every), dtype=bool)
    if poses == "found":
        found = read_poses(run / "poses.star").select(torch.from_numpy(chosen))
        contents = select_posed_rows(sources, every[chosen], found, opened.pixel_size_angstrom)
    else:
        contents = select_rows(sources, every[chosen])
    for path, content in zip(paths, contents, strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        print(f"particles: {path}")
    print(f"{int(chosen.sum())} of {len(every)} particles kept")


def _outputs(output: Path, sources: Sequence[Path]) -> list[Path]:
    """Files that are written, one for each that is read."""
    kind = sources[0].suffix.lower()
    if kind not in (".star", ".cs"):
        raise InputError(f"{sources[0]}: only rows of a .star or .cs file can be selected; the run was made of a stack")
    if output.suffix.lower() != kind:
        raise InputError(f"{output}: the particles are in a {kind} file; give a name that ends so")
    numbers = range(1, len(sources))
    paths = [output] + [output.with_name(f"{output.stem}_passthrough_{number}.cs") for number in numbers]
    for path in paths:
        if path.exists() and any(path.samefile(each) for each in sources):
            raise InputError(f"{path}: is a particle file of the run; give another name than {output.name}")
    return paths


def _rows_of(run: DrgnRun) -> NDArray[np.intp]:
    """Rows of the run's particles in their file, in the order of its poses."""
    if run.config.model.latent_dimensions:
        return np.array(
            [int(line["row"]) for line in read_table(run.folder / "z.csv", whole=["row"], advice=TRAIN_AGAIN)],
            dtype=np.intp,
        )
    files, half = run.files, run.config.particles.half
    particles = open_particles(
        files.particles,
        passthrough=files.passthrough,
        pixel_size=files.pixel_size,
        datadir=files.datadir,
        half=half,
        file_poses=False,
    )
    return particles.rows


def _chosen(run: DrgnRun, clusters: tuple[int, ...], where: tuple[tuple[str, float, float], ...]) -> list[int]:
    """Rows of the particles that are asked for."""
    if not run.config.model.latent_dimensions:
        raise InputError(f"{run.folder}: is of one volume for all particles, which has no clusters and no latent space")
    path = run.analysis / "latent.csv"
    if not path.exists():
        raise InputError(f"{path}: no such file; make it with `scoretomo drgn analyze {run.folder}`")
    advice = f"`scoretomo drgn analyze {run.folder}` makes it anew"
    table = read_table(path, whole=["row", "cluster"], numbers=[name for name, _, _ in where], advice=advice)
    there = {int(line["cluster"]) for line in table}
    if unknown := sorted(set(clusters) - there):
        raise InputError(f"{path}: there is no cluster {unknown[0]}, only 0 to {max(there)}")
    for name, low, high in where:
        if name not in table[0]:
            raise InputError(f"{path}: has no column {name}; choose from {', '.join(table[0])}")
        if not low <= high:
            raise InputError(f"--where {name} {low:g} {high:g}: give the lower end first")
    rows = [
        int(line["row"])
        for line in table
        if (not clusters or int(line["cluster"]) in clusters)
        and all(low <= float(line[name]) <= high for name, low, high in where)
    ]
    if not rows:
        values = {name: [float(line[name]) for line in table] for name, _, _ in where}
        reach = [f"{name} goes from {min(column):.3g} to {max(column):.3g}" for name, column in values.items()]
        raise InputError(f"{path}: no particle is in this region; {', '.join(reach)}")
    return rows
