"""``scoretomo drgn select``: the particles of some clusters, or of a region, as rows of the file they came from."""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ..datatypes import InputError
from ..io.files import replacing
from ..io.particle_rows import select_rows
from ..io.tables import read_table
from .drgn_folder import open_run


def select(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")],
    clusters: Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...")] = (),
    between: Annotated[tuple[tuple[str, float, float], ...], tyro.conf.arg(metavar="COLUMN LOW HIGH ...")] = (),
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
    between
        Columns of analysis/latent.csv and the range in which their values lie, such as pc_1 -0.5 1; with several, all
        must hold.
    """
    opened = open_run(run)
    source = opened.files.particles
    if source.suffix.lower() not in (".star", ".cs"):
        raise InputError(f"{source}: only rows of a .star or .cs file can be selected; the run was made of a stack")
    if output.suffix.lower() != source.suffix.lower():
        raise InputError(f"{output}: the particles are in a {source.suffix} file; give a name that ends so")
    if output.exists() and output.samefile(source):
        raise InputError(f"{output}: is the particle file of the run; give another name")
    rows = _chosen(run, clusters, between)
    contents = select_rows([source, *opened.files.passthrough], np.array(rows, dtype=np.intp))
    paths = [output] + [
        output.with_name(f"{output.stem}_passthrough_{number}.cs") for number in range(1, len(contents))
    ]
    for path, content in zip(paths, contents, strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        print(f"particles: {path}")
    print(f"{len(rows)} particles")


def _chosen(run: Path, clusters: tuple[int, ...], between: tuple[tuple[str, float, float], ...]) -> list[int]:
    """Rows of the particles that are asked for."""
    path = run / "analysis" / "latent.csv"
    if not path.exists():
        raise InputError(f"{path}: no such file; make it with `scoretomo drgn analyze {run}`")
    if not clusters and not between:
        raise InputError("say which particles: --clusters, --between, or both")
    table = read_table(path, ["row", "cluster", *(name for name, _, _ in between)])
    there = {int(line["cluster"]) for line in table}
    if unknown := sorted(set(clusters) - there):
        raise InputError(f"{path}: there is no cluster {unknown[0]}, only 0 to {max(there)}")
    rows = [
        int(line["row"])
        for line in table
        if (not clusters or int(line["cluster"]) in clusters)
        and all(low <= float(line[name]) <= high for name, low, high in between)
    ]
    if not rows:
        raise InputError(f"{path}: no particle is in this region; look at the ranges of its columns")
    return rows
