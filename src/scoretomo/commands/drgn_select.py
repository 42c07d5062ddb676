"""``scoretomo drgn select``: the particles of some clusters, or of a region, as rows of the file they came from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ..datatypes import InputError
from ..io.files import replacing
from ..io.particle_rows import select_rows
from ..io.tables import read_table
from .drgn_folder import open_run, refuse_changed_particles


def select(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")],
    clusters: Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...")] = (),
    where: Annotated[tuple[tuple[str, float, float], ...], tyro.conf.arg(metavar="COLUMN LOW HIGH ...")] = (),
) -> None:
    """Write the particles of some clusters, or of a region of the latent space, as a particle file.

    Rows are those of the particle file that the run was made of, every byte as it was, so that the programs that wrote
    it go on with them.

    Parameters
    ----------
    run
        Folder that `scoretomo drgn analyze` has analysed.
    output
        File that is written, of the type of the particle file; passthrough files go beside it.
    clusters
        Clusters by their numbers in the pictures.
    where
        Columns of analysis/latent.csv and the range in which their values lie, such as umap_1 -0.5 1; with several,
        and with clusters, all must hold.
    """
    opened = open_run(run)
    source = opened.files.particles
    if source.suffix.lower() not in (".star", ".cs"):
        raise InputError(f"{source}: only rows of a .star or .cs file can be selected; the run was made of a stack")
    if output.suffix.lower() != source.suffix.lower():
        raise InputError(f"{output}: the particles are in a {source.suffix} file; give a name that ends so")
    sources = [source, *opened.files.passthrough]
    numbers = range(1, len(sources))
    paths = [output] + [output.with_name(f"{output.stem}_passthrough_{number}.cs") for number in numbers]
    for path in paths:
        if path.exists() and any(path.samefile(each) for each in sources):
            raise InputError(f"{path}: is a particle file of the run; give another name than {output.name}")
    if not clusters and not where:
        raise InputError("say which particles: --clusters, --where, or both")
    refuse_changed_particles(opened)
    latent = run / "analysis" / "latent.csv"
    if not latent.exists():
        raise InputError(f"{latent}: no such file; make it with `scoretomo drgn analyze {run}`")
    table = read_table(latent, ["row", "cluster"])
    rows = _chosen(latent, table, clusters, where)
    contents = select_rows(sources, np.array(rows, dtype=np.intp))
    for path, content in zip(paths, contents, strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        print(f"particles: {path}")
    print(f"{len(rows)} of {len(table)} particles kept")


def _chosen(
    path: Path,
    table: Sequence[Mapping[str, str]],
    clusters: tuple[int, ...],
    where: tuple[tuple[str, float, float], ...],
) -> list[int]:
    """Rows of the particles that are asked for."""
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
