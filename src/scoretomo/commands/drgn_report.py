"""The report of ``drgn analyze``: what a page needs, from the run folder and from what was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..io.files import write_text
from ..io.metrics import read_metrics
from ..report.particle_page import ParticleAnalysis, ParticleMap, build_particle_page
from .drgn_folder import SETTINGS, DrgnRun
from .drgn_graph import distances_along
from .drgn_latent import Latent
from .drgn_pictures import cluster_colours
from .report import made

# Particles whose distances from those on a path are held at once.
_PARTICLES_AT_ONCE = 20_000


def write_report(
    path: Path,
    run: DrgnRun,
    count: int,
    volumes: Mapping[str, Sequence[Float[Tensor, "side side side"]]],
    found: ParticleMap | None,
    missing: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page of a run: of its volumes, and of its map of ``count`` particles if there is one."""
    table = SETTINGS.read(run.folder)
    source = table["input"]
    images = f"{source['images']} of {source['side']} pixels, {source['pixel_size_angstrom']:.4g} Å, {source['path']}"
    provenance = [
        ("command", str(table["command"]), True),
        ("images", images, False),
        ("sha256 of the particle file", source["sha256"], True),
        *_origin(run),
        ("run made by", f"scoretomo {table['scoretomo']}", False),
        *((name, value, False) for name, value in made()),
    ]
    if found is not None:
        files = ["latent.csv", "clusters.csv", "path.csv", "view.cxc" if volumes else "z_clusters.txt, ..."]
        provenance.append(("beside this page", ", ".join(files), True))
    page = build_particle_page(
        ParticleAnalysis(
            run.folder.resolve().name,
            run.files.particles.suffix,
            count,
            run.config.model.latent_dimensions,
            run.preparation().pixel_size_angstrom if volumes else source["pixel_size_angstrom"],
            volumes,
            found,
            read_metrics(run.folder / "metrics.jsonl"),
            provenance,
            tomli_w.dumps({"cryodrgn": run.converted} if run.converted else {"settings": table["settings"]}),
            missing,
        )
    )
    write_text(path, page)


def _origin(run: DrgnRun) -> list[tuple[str, str, bool]]:
    """Where poses and latent variables come from."""
    if run.converted:
        latent = f"of cryoDRGN, {Path(run.converted['folder']) / run.converted['z']}"
        return [("latent variables", latent, False), ("poses", f"those of {run.converted['poses']}", False)]
    poses = "those of the file" if run.config.poses == "known" else f"found ({run.config.poses})"
    return [("poses", poses, False), ("random seed", str(run.config.seed), False)]


def particle_map(
    latent: Latent, columns: Mapping[str, Tensor], names: Mapping[str, str], walk: Int[Tensor, " j"]
) -> ParticleMap:
    """Put together where particles are, and how far along a path through some of them."""
    reached = distances_along(latent.z[walk])
    nearest = [torch.cdist(part, latent.z[walk]).argmin(1) for part in latent.z.split(_PARTICLES_AT_ONCE)]
    shown = {name: words for name, words in names.items() if name in columns}
    colours = cluster_colours(len(latent.medoids))
    return ParticleMap(columns, shown, latent.shares, latent.medoids, colours, walk, reached[torch.cat(nearest)])
