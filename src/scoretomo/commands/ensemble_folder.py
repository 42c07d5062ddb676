"""RUN/ensemble: the tables and volumes that ``scoretomo ensemble`` leaves, for people, ChimeraX and the report."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import Volume
from ..ensemble.landscape import Landscape
from ..ensemble.reliability import Evidence, Parts, ReliabilityConfig
from ..ensemble.states import (
    Clusters,
    MainPath,
    StatesConfig,
    diffusion_map,
    find_clusters,
    find_main_path,
    volumes_along,
)
from ..ensemble.synchronise import Synchronisation
from ..ensemble.verdict import Judgement
from ..evaluation.alignment import Alignment, apply_alignment
from ..imaging.preprocess import restore_volume
from ..io.checkpoints import load_checkpoint, save_checkpoint, taken_over
from ..io.files import replacing_folder, write_json
from ..io.mrc import read_volume, write_volume
from ..io.records import read_json
from ..io.settings import from_table
from ..io.tables import read_table, write_table
from ..runs import Run
from .map_series import write_series, write_view

_DIGITS = 4
_AXES = "xyz"
_ADVICE = "delete the folder; `scoretomo ensemble` makes it anew"


class _MadeOf(TypedDict):
    """Of made_of.json."""

    sha256: str


@contextmanager
def replaced(run: Run, volumes: Tensor, config: object) -> Iterator[Path]:
    """Give a folder to write to, which takes the place of RUN/ensemble when all of it is written."""
    with replacing_folder(run.folder / "ensemble") as folder:
        yield folder
        write_json(folder / "made_of.json", {"sha256": _fingerprint(run, volumes, config)})


def is_current(run: Run, volumes: Tensor, config: object) -> bool:
    """Whether RUN/ensemble was made of these volumes with these settings."""
    path = run.folder / "ensemble" / "made_of.json"
    return path.exists() and read_json(path, _MadeOf, _ADVICE)["sha256"] == _fingerprint(run, volumes, config)


def count_reliable(run: Run) -> int:
    """Count the volumes that RUN/ensemble calls reliable."""
    rows = read_table(run.folder / "ensemble" / "reliability.csv", ["verdict"], advice=_ADVICE)
    return sum(row["verdict"] == "reliable" for row in rows)


def load_evidence(run: Run, volumes: Tensor, config: ReliabilityConfig) -> Evidence | None:
    """Read the evidence on these volumes, if it was gathered already."""
    saved = load_checkpoint(_evidence_file(run))
    if saved is None or saved.get("of") != _fingerprint(run, volumes, config):
        return None
    with taken_over(_evidence_file(run)):
        parts = {name: saved[f"part_{name}"].to(volumes.device) for name in Parts.names()}
        others = {name: saved[name].to(volumes.device) for name in ("directions", "view_excess", "seed_fsc")}
        return from_table(Evidence, {**others, "parts": parts})


def save_evidence(run: Run, volumes: Tensor, config: ReliabilityConfig, evidence: Evidence) -> None:
    """Keep evidence, which takes longest, for the next call."""
    values: dict[str, Any] = {f"part_{name}": getattr(evidence.parts, name).cpu() for name in Parts.names()}
    values |= {name: getattr(evidence, name).cpu() for name in ("directions", "view_excess", "seed_fsc")}
    save_checkpoint(_evidence_file(run), {"of": _fingerprint(run, volumes, config), **values})


def write_reliability(
    folder: Path, run: Run, indices: Sequence[int], seeds: Sequence[int], evidence: Evidence, judgement: Judgement
) -> None:
    """Write ``reliability.csv`` of the kept volumes, and ``reliability.json`` of all."""

    def figures(seed: int, image: int) -> dict[str, float | None]:
        return {name: _rounded(getattr(evidence.parts, name)[seed, image].item()) for name in Parts.names()}

    kept = judgement.kept.tolist()
    rows = [
        {
            "index": index,
            "seed": seeds[kept[image]],
            "probability": _rounded(judgement.probability[kept[image], image].item()),
            "verdict": judgement.verdicts[image],
            "reasons": "; ".join(judgement.reasons[image]),
            **figures(kept[image], image),
        }
        for image, index in enumerate(indices)
    ]
    write_table(folder / "reliability.csv", rows)
    write_json(
        folder / "reliability.json",
        {
            "seeds": list(seeds),
            "volumes": [
                {
                    "index": index,
                    "seed": seed,
                    "kept": kept[image] == place,
                    "probability": _rounded(judgement.probability[place, image].item()),
                    **figures(place, image),
                    "view_excess": _row(evidence.view_excess[place, image]),
                }
                for image, index in enumerate(indices)
                for place, seed in enumerate(seeds)
            ],
            "view_directions": [_row(direction) for direction in evidence.directions],
            "seed_fsc": _seed_curves(run, indices, kept, evidence) if len(seeds) > 1 else None,
        },
    )


def write_frame(
    folder: Path,
    run: Run,
    indices: Sequence[int],
    files: Sequence[Path],
    seeds: Sequence[int],
    frame: Synchronisation,
) -> None:
    """Write the volumes in the common frame and hand, ``transforms.csv`` and ``symmetry.json``."""
    pixel = run.preprocessing.working_pixel_size_angstrom
    alignment = frame.alignment
    rows = []
    for image, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
        matrix, shift = alignment.rotations[image].tolist(), alignment.shifts_pixels[image].tolist()
        rows.append(
            {
                "index": index,
                "seed": seed,
                "mirrored": bool(alignment.mirrored[image]),
                **{f"rotation_{a}{b}": matrix[i][j] for i, a in enumerate(_AXES) for j, b in enumerate(_AXES)},
                **{f"shift_{a}_angstrom": shift[i] * pixel for i, a in enumerate(_AXES)},
                "correlation": _rounded(alignment.correlation[image].item()),
                "hand_margin": _rounded(alignment.hand_margin[image].item()),
                "hand_certain": bool(frame.hand_certain[image]),
            }
        )
    write_table(folder / "transforms.csv", rows)
    symmetry = frame.symmetry
    write_json(
        folder / "symmetry.json",
        {
            "group": symmetry.group,
            "correlation": _rounded(symmetry.correlation),
            "threshold": _rounded(symmetry.threshold),
            "runner_up": symmetry.runner_up,
            "runner_up_correlation": _rounded(symmetry.runner_up_correlation),
            "mirror_correlation": _rounded(symmetry.mirror_correlation),
            "axes": [{"order": order, "direction": _rounded_all(axis)} for order, axis in symmetry.axes],
            "words": symmetry.words,
        },
    )
    (folder / "volumes").mkdir()
    for image, (index, file) in enumerate(zip(indices, files, strict=True)):
        volume = read_volume(file).volume
        own = _only(alignment, image, scale=pixel / volume.pixel_size_angstrom)
        voxels = apply_alignment(volume.voxels[None].to(own.rotations), own)[0].cpu()
        write_volume(folder / "volumes" / f"volume_{index:04d}.mrc", replace(volume, voxels=voxels))


def write_landscape(
    folder: Path,
    run: Run,
    indices: Sequence[int],
    aligned: Float[Tensor, "n s s s"],
    reliable: Bool[Tensor, " n"],
    landscape: Landscape,
    config: StatesConfig,
) -> None:
    """Write mean, variance, components, states, the main path, tables of them, and ``view.cxc``."""
    diffusion = diffusion_map(landscape.positions, reliable, config)
    clusters = find_clusters(landscape.positions, reliable, config, seed=run.config.seed)
    path = find_main_path(landscape.positions, reliable, config)

    mean = _restored(run, landscape.mean)
    write_volume(folder / "mean.mrc", mean)
    # variances have the square of the units of densities
    deviation = _restored(run, landscape.variance.clamp(min=0).sqrt())
    write_volume(folder / "variance.mrc", replace(deviation, voxels=deviation.voxels.square()))
    for number, component in enumerate(landscape.components, 1):
        write_volume(folder / f"component_{number}.mrc", _restored(run, component))
    means = _cluster_means(clusters, aligned, reliable)
    states = write_series(folder / "clusters", "cluster", 1, means, run.preprocessing)
    motion = write_series(folder / "path", "path", 0, volumes_along(path.path, aligned), run.preprocessing)
    write_table(folder / "landscape.csv", _landscape_rows(indices, reliable, landscape, clusters, diffusion, path))
    write_json(
        folder / "landscape.json",
        {
            "explained_share": _row(landscape.explained_share),
            "explained_variance": _row(landscape.explained_variance),
            "noise_floor": _row(landscape.noise_floor),
            "seed_correlation": None if landscape.seed_correlation is None else _row(landscape.seed_correlation),
            "significant": landscape.significant.tolist(),
            "clusters": [
                {"number": k + 1, "population": int(count), "representative": indices[int(member)], "file": file.name}
                for k, (count, member, file) in enumerate(
                    zip(clusters.populations, clusters.representatives, states, strict=True)
                )
            ],
            "cluster_criterion": _rounded_all(clusters.criterion),
            "main_path": {
                "share": _rounded(path.share),
                "members": [indices[int(member)] for member in path.path.members],
                "files": [file.name for file in motion],
            },
        },
    )
    write_view(folder / "view.cxc", mean, states, motion)


def _landscape_rows(
    indices: Sequence[int],
    reliable: Bool[Tensor, " n"],
    landscape: Landscape,
    clusters: Clusters,
    diffusion: Float[Tensor, "n m"],
    path: MainPath,
) -> list[dict[str, Any]]:
    spread = landscape.spread
    return [
        {
            "index": index,
            "reliable": bool(reliable[image]),
            "cluster": int(clusters.labels[image]) + 1 if reliable[image] else None,
            "cluster_certainty": _rounded(clusters.certainty[image].item()),
            **{f"map_{k}": _rounded(value) for k, value in enumerate(diffusion[image].tolist(), 1)},
            "phase": _rounded(path.phase[image].item()),
            **{f"component_{k}": _rounded(v) for k, v in enumerate(landscape.coordinates[image].tolist(), 1)},
            "spread": None if spread is None else _rounded(spread[image].item()),
        }
        for image, index in enumerate(indices)
    ]


def _cluster_means(
    clusters: Clusters, aligned: Float[Tensor, "n s s s"], reliable: Bool[Tensor, " n"]
) -> Float[Tensor, "k s s s"]:
    members = [aligned[reliable & (clusters.labels == k)] for k in range(len(clusters.populations))]
    return torch.stack([each.mean(0) for each in members])


def _restored(run: Run, voxels: Float[Tensor, "s s s"]) -> Volume:
    return restore_volume(voxels.cpu(), run.preprocessing)


def _only(alignment: Alignment, image: int, *, scale: float) -> Alignment:
    """One of the alignments, for a box of another pixel size."""
    one = slice(image, image + 1)
    return Alignment(
        alignment.rotations[one].cpu(),
        alignment.shifts_pixels[one].cpu() * scale,
        alignment.mirrored[one].cpu(),
        alignment.correlation[one].cpu(),
        alignment.hand_margin[one].cpu(),
    )


def _seed_curves(run: Run, indices: Sequence[int], kept: Sequence[int], evidence: Evidence) -> dict[str, Any]:
    """FSC of each kept volume with its repeats, the mean of them."""
    curves = evidence.seed_fsc
    bins = curves.shape[-1]
    nyquist = 0.5 / run.preprocessing.working_pixel_size_angstrom
    others = len(curves) - 1
    means = [(curves[seed, :, image].sum(0) - curves[seed, seed, image]) / others for image, seed in enumerate(kept)]
    return {
        "frequency_per_angstrom": [nyquist * shell / (bins - 1) for shell in range(bins)],
        "curves": {str(index): _row(curve) for index, curve in zip(indices, means, strict=True)},
    }


def _evidence_file(run: Run) -> Path:
    return run.folder / "checkpoint" / "evidence.pt"


def _fingerprint(run: Run, volumes: Tensor, config: object) -> str:
    """Hash what results depend on; the denoiser that has made these volumes is settled with them."""
    content = hashlib.sha256(volumes.cpu().contiguous().numpy().tobytes())
    content.update(repr((config, run.config.seed, run.used)).encode())
    return content.hexdigest()


def _row(values: Tensor) -> list[float | None]:
    return _rounded_all(values.tolist())


def _rounded_all(values: Sequence[float]) -> list[float | None]:
    return [_rounded(value) for value in values]


def _rounded(value: float) -> float | None:
    """Short enough to read; JSON has no word for what is not a number."""
    return round(value, _DIGITS) if math.isfinite(value) else None
