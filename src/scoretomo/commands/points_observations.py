"""What `points reconstruct` knows of an object: views with poses, a volume, a coarse model, a known part."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from ..datatypes import InputError, Volume
from ..geometry.point_clouds import mixture_means, normalise
from ..imaging.point_images import THRESHOLD, density_points
from ..io.mrc import LoadedVolume
from ..io.point_files import read_points
from ..io.settings import to_table
from ..limits import check_limits
from .points_views import PosedView, views_of_images, views_of_points, views_of_run
from .progress import say

# Finest detail in Angstrom that counts in matching, unless it is said.
_RESOLUTION = 20.0
_WHAT_IT_IS = {
    "run": "is a run folder with volumes of its own",
    "points": "holds point projections",
    "images": "holds images with poses",
}
# Points of a subunit's surroundings belong to it within this many times their usual distance.
_NEAR = 1.0


@dataclass(frozen=True)
class ObservationConfig:
    """What to reconstruct from."""

    volume: Annotated[Path | None, tyro.conf.arg(metavar="MAP.mrc")] = None
    """A map that projections without poses are matched against; of a run, its own volumes are taken."""
    image: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """Which volume of a run: the number of its class average. None: of the reliable ones the most probable."""
    views: Annotated[int, tyro.conf.arg(metavar="K")] = 5
    """Projections to use: those that match well and look from directions far apart."""
    resolution: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    """Finest detail that counts where point projections are matched against a map. None: 20."""
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    """Pixel size of images with poses, where their file says none or a wrong one."""
    map_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    """Pixel size of the map, where its file says none or a wrong one."""
    contrast: Literal["auto", "bright", "dark"] = "auto"
    """Whether protein is bright or dark in images with poses; auto looks at them."""
    threshold: Annotated[float, tyro.conf.arg(metavar="PART")] = THRESHOLD
    """Part of the brightest density below which there is background, in images and maps; more for noisy ones."""
    points: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Points of a model. None: as many as the prior was trained on."""
    observed_points: Annotated[int | None, tyro.conf.arg(metavar="M")] = None
    """Points that an image is reduced to. None: as many as a model has."""
    coarse: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Points of a coarse model, where they lie in the volume in a viewer: .pdb, .cif, .npy, .xyz, .csv, in Angstrom."""
    coarse_points: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Take a coarse model of so many points from the volume itself."""
    subunit: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A known part, in the frame of the volume: .pdb, .cif, .npy, .xyz, .csv, in Angstrom."""
    subunit_share: Annotated[float | None, tyro.conf.arg(metavar="PART")] = None
    """Part of the whole that the subunit is. None: the part of the volume's mass that lies where the subunit is."""

    def __post_init__(self) -> None:
        counts = (self.views, self.points, self.observed_points, self.coarse_points)
        if min(count for count in counts if count is not None) < 1 or self.points == 1:
            raise InputError("give 1 view or more, and models, projections and coarse models of 1 point, or more")
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise InputError(f"--resolution {self.resolution}: must be a positive number of Angstrom")
        if not 0 <= self.threshold < 1:
            raise InputError(f"--threshold {self.threshold}: a part of the brightest density, 0 or more and below 1")
        if self.coarse is not None and self.coarse_points is not None:
            raise InputError("give --coarse or --coarse-points, not both")
        if self.subunit_share is not None and self.subunit is None:
            raise InputError(f"--subunit-share {self.subunit_share}: does nothing without --subunit; leave it out")
        if self.subunit_share is not None and not 0 < self.subunit_share < 1:
            raise InputError(f"--subunit-share {self.subunit_share}: a part of the whole, between 0 and 1")
        check_limits(self, views=(1, 10**6), points=(2, 10**6), observed_points=(1, 10**6), coarse_points=(1, 10**6))


@dataclass(frozen=True)
class Observed:
    """All that is known, in Angstrom and in the frame of the volume or of the poses.

    Attributes
    ----------
    views
        Projections with poses.
    centre, unit
        ``(3,)``, the centre of the object, and the length that is 1 in the cube of the prior.
    volume, volume_points
        What models are compared with, and ``(n, 3)`` points of it; None where only poses were given.
    coarse, subunit
        ``(m, 3)`` and ``(l, 3)``.
    source
        What the volume is, in words.
    fingerprint
        Tells these files and these options from others.
    """

    views: tuple[PosedView, ...]
    centre: Float[Tensor, "3"]
    unit: float
    volume: LoadedVolume | None
    volume_points: Float[Tensor, "n 3"] | None
    coarse: Float[Tensor, "m 3"] | None
    subunit: Float[Tensor, "l 3"] | None
    source: str
    fingerprint: str

    @property
    def middle(self) -> Float[Tensor, "3"]:
        """Where our origin, the middle of the box, lies in the coordinates of the volume, as viewers show it.

        0 where there is no volume: coordinates are then those of the poses.
        """
        if self.volume is None:
            return torch.zeros(3)
        corner, volume = torch.tensor(self.volume.corner_angstrom), self.volume.volume
        return corner + volume.side // 2 * volume.pixel_size_angstrom


def observe(
    source: Path, config: ObservationConfig, points: int, *, generator: torch.Generator, device: torch.device
) -> Observed:
    """Read and match what is known of an object.

    Parameters
    ----------
    source
        A run folder, point projections (.npz), or images with poses: .star, .cs, or a folder with one.
    config
        What to take from it, and what else there is.
    points
        Of a model.

    Raises
    ------
    InputError
        Whatever cannot be used.
    """
    kind = _kind(source)
    _refuse_idle(source, kind, config)
    reduce = partial(
        density_points, count=config.observed_points or points, threshold=config.threshold, generator=generator
    )
    if kind == "run":
        found = views_of_run(source, config.image, config.views, reduce, device=device)
    elif kind == "points":
        found = views_of_points(
            source,
            config.volume,
            config.views,
            config.resolution or _RESOLUTION,
            config.map_pixel_size,
            config.threshold,
            device=device,
        )
    else:
        found = views_of_images(
            source,
            config.volume,
            config.views,
            reduce,
            pixel_size=config.pixel_size,
            map_pixel_size=config.map_pixel_size,
            threshold=config.threshold,
            contrast=config.contrast,
        )
    for words in (*found.notes, found.words):
        say(words)
    made_of = _fingerprint(found.files, config)
    if found.volume is None:
        centre, unit = _frame_of_views(found.views)
        base = Observed(found.views, centre, unit, None, None, None, None, found.source, made_of)
    else:
        cloud = _points_of(found.volume.volume, points, config.threshold, generator)
        _, centre, largest = normalise(cloud)
        base = Observed(found.views, centre, float(largest), found.volume, cloud, None, None, found.source, made_of)
    return _with_subunit(_with_coarse(base, config, generator), config, points, generator)


def _fingerprint(files: Sequence[Path], config: ObservationConfig) -> str:
    """Hash what is read, and how; not what is computed of it, whose last digits depend on the machine."""
    table = to_table(config)
    chosen = {name: value for name, value in table.items() if not isinstance(value, Path)}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    named = [path for path in (config.coarse, config.subunit) if path is not None]
    for path in (*files, *named):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _kind(source: Path) -> str:
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    if source.is_dir():
        return "run" if (source / "config.toml").exists() and not (source / "poses.star").exists() else "images"
    return "points" if source.suffix.lower() == ".npz" else "images"


def _refuse_idle(source: Path, kind: str, config: ObservationConfig) -> None:
    """Say which options would do nothing for such an input."""
    used: dict[str, bool] = {
        "image": kind == "run",
        "volume": kind != "run",
        "resolution": kind == "points",
        "pixel_size": kind == "images",
        "map_pixel_size": config.volume is not None,
        "contrast": kind == "images",
        "observed_points": kind != "points",
        "threshold": kind != "points" or config.volume is not None,
    }
    usual = ObservationConfig()
    given = "" if kind == "run" else f", and {'no' if config.volume is None else 'a'} map is given"
    for name, of_use in used.items():
        if not of_use and getattr(config, name) != getattr(usual, name):
            option = f"--{name.replace('_', '-')} {getattr(config, name)}"
            raise InputError(f"{option}: does nothing here; {source} {_WHAT_IT_IS[kind]}{given}")


def _points_of(volume: Volume, count: int, threshold: float, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    return density_points(volume.voxels, count, threshold=threshold, generator=generator) * volume.pixel_size_angstrom


def _frame_of_views(views: tuple[PosedView, ...]) -> tuple[Float[Tensor, "3"], float]:
    """Centre and size from projections alone: where their centres come from, and how far their points reach."""
    projections = torch.cat([view.rotation[:2] for view in views])
    seen = torch.cat([view.centre for view in views])
    centre = torch.linalg.lstsq(projections, seen[:, None], driver="gelsd").solution
    # axes of a projection are axes of the cube in some frame, and clouds of the prior are turned at random
    reach = torch.stack([view.points.abs().max() for view in views])
    return centre[:, 0], float(reach.mean())


def _points_of_file(path: Path) -> Float[Tensor, "n 3"]:
    loaded = read_points(path)
    for note in loaded.notes:
        say(f"note: {path.name}: {note}")
    return loaded.points


def _with_coarse(observed: Observed, config: ObservationConfig, generator: torch.Generator) -> Observed:
    if config.coarse is not None:
        points = _points_of_file(config.coarse) - observed.middle
        _check_place(config.coarse, points, observed)
        return replace(observed, coarse=points)
    if config.coarse_points is None:
        return observed
    if observed.volume is None:
        raise InputError(f"--coarse-points {config.coarse_points}: there is no volume to take them from")
    return replace(
        observed, coarse=_points_of(observed.volume.volume, config.coarse_points, config.threshold, generator)
    )


def _with_subunit(observed: Observed, config: ObservationConfig, points: int, generator: torch.Generator) -> Observed:
    if config.subunit is None:
        return observed
    known = _points_of_file(config.subunit) - observed.middle
    _check_place(config.subunit, known, observed)
    share = config.subunit_share or _share(config.subunit, known, observed)
    count = max(1, round(share * points))
    if count > points - 1:
        raise InputError(f"{config.subunit}: is all of a model of {points} points; a subunit is a part of the whole")
    if len(known) > count:
        known = mixture_means(known, count, generator=generator)
    return replace(observed, subunit=known)


def _share(path: Path, known: Float[Tensor, "l 3"], observed: Observed) -> float:
    """Part of the volume's points that lie where the subunit is."""
    cloud = observed.volume_points
    if cloud is None:
        raise InputError(f"{path}: how much of the whole it is cannot be known without a volume; give --subunit-share")
    spacing = float(cKDTree(cloud.numpy()).query(cloud.numpy(), k=2)[0][:, 1].mean())
    near = cKDTree(known.numpy()).query(cloud.numpy())[0] <= _NEAR * spacing
    if not near.any():
        raise InputError(f"{path}: no part of the volume lies where the subunit is; bring it to the volume's frame")
    return float(near.mean())


def _check_place(path: Path, points: Float[Tensor, "m 3"], observed: Observed) -> None:
    away = float((points.mean(0) - observed.centre).norm())
    if away > math.sqrt(3) * observed.unit:
        raise InputError(
            f"{path}: its centre lies {away:.0f} A from that of the volume, which reaches {observed.unit:.0f} A; bring "
            "it to the volume's frame, in which it lies in the density in a viewer"
        )
