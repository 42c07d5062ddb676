"""Views of an object for `points reconstruct`: projections as points, with poses, from a run, points or images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import ImageStack, InputError, Volume
from ..imaging.fourier import resize, translate
from ..imaging.point_images import MOLMAP_WIDTH, density_points, draw_points
from ..imaging.preprocess import PreprocessConfig, preprocess, working_volume
from ..imaging.slices import voxel_slices
from ..imaging.starting_model import low_pass
from ..io.mrc import LoadedVolume, read_volume
from ..io.npy import single_precision
from ..io.particles import read_particles
from ..io.point_sets import read_arrays
from ..methods.point_energies import ORTHOGONAL_WITHIN
from ..methods.pose_search import PoseSearchConfig, find_poses
from ..report.summary import VolumeSummary, read_summary
from ..runs import Run, open_run

# Views are chosen among so many of the best matches for each that is wanted, or among this part of all.
_CANDIDATES_PER_VIEW, _CANDIDATES = 3, 0.25
# How a map is found in images.
_SEARCH = PoseSearchConfig(refinements=3, kept=1, low_radius=8.0, high_radius=16.0)
# Shifts are searched from minus to plus this part of the box, so many along each axis.
_SHIFT_EXTENT, _SHIFTS = 0.06, 5
# Rival poses that are followed: the few views must be right, and an elongated object looks much alike end to end.
_KEPT = 8
# Radius of gyration of projections over that of the map: beyond this, either way, one of them is in another unit.
_SAME_SIZE = 1.4
# In Angstrom: a coordinate of a PDB file has four digits before the point.
_LARGEST_OBJECT = 4000.0
# Sampling and points with which centre and size of a map are measured.
_SIDE_TO_MEASURE, _POINTS_TO_MEASURE = 48, 128
_SAME_PIXEL_SIZE = 0.01


Reduce: TypeAlias = Callable[[Tensor], Tensor]
"""An image ``(side, side)`` to points ``(m, 2)`` of equal mass, xy in pixels from the origin ``side // 2``."""


@dataclass(frozen=True)
class PosedView:
    """A projection with a pose.

    Attributes
    ----------
    index
        Number of the image, from 0.
    rotation
        ``(3, 3)``, object frame to that of the image.
    points
        ``(m, 2)`` xy in Angstrom from the centre of mass, all of the same mass.
    centre
        ``(2,)`` Angstrom: where the centre of mass lies relative to where the pose has the origin of the object.
    shift
        ``(2,)`` Angstrom, where the origin of the object lies in the picture.
    correlation
        With the projection of the volume; None where poses were given.
    picture, pixel_size_angstrom
        ``(side, side)``, for people.
    """

    index: int
    rotation: Float[Tensor, "3 3"]
    points: Float[Tensor, "m 2"]
    centre: Float[Tensor, "2"]
    shift: Float[Tensor, "2"]
    correlation: float | None
    picture: Float[Tensor, "side side"]
    pixel_size_angstrom: float


@dataclass(frozen=True)
class FoundViews:
    """Views, the volume that they are views of, if there is one, both in words, and the files that tell all this."""

    views: tuple[PosedView, ...]
    volume: LoadedVolume | None
    source: str
    words: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Poses:
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    scores: Float[Tensor, " n"]


def choose_views(rotations: Float[Tensor, "n 3 3"], count: int) -> list[int]:
    """Choose poses that look from directions far apart, the first pose among them: farthest points, one by one.

    The projection from the opposite side is the mirror image and tells the same, so that a direction is a line.
    """
    directions = rotations[:, 2]
    chosen = [0]
    nearest = (directions @ directions[0]).abs()
    nearest[chosen] = 2.0
    while len(chosen) < count:
        following = int(nearest.argmin())
        chosen.append(following)
        nearest = torch.maximum(nearest, (directions @ directions[following]).abs())
        nearest[chosen] = 2.0
    return chosen


def views_of_run(folder: Path, image: int | None, count: int, reduce: Reduce, *, device: torch.device) -> FoundViews:
    """Choose class averages of a run that one of its volumes explains, seen from directions far apart.

    ``reduce`` makes points of an image.

    Raises
    ------
    InputError
        No run folder, no volumes, no such volume, or fewer class averages than views.
    """
    run, chosen = open_run(folder), _volume_of_run(folder, image)
    loaded = read_volume(chosen.path)
    volume, record = loaded.volume, run.preprocessing
    if abs(volume.pixel_size_angstrom / record.input_pixel_size_angstrom - 1) > _SAME_PIXEL_SIZE:
        sizes = f"{volume.pixel_size_angstrom:.4g} A, the images of the run of {record.input_pixel_size_angstrom:.4g} A"
        raise InputError(f"{chosen.path}: has voxels of {sizes}; make the volumes again with `scoretomo reconstruct`")
    used = run.used
    _check_count(folder, len(used), count)
    poses = _match(run.images[used], working_volume(volume.voxels, record), _SEARCH, device)
    if chosen.index in used:  # its own class average sees it from the front, and matches best
        own = used.index(chosen.index)
        poses.rotations[own], poses.shifts_pixels[own], poses.scores[own] = torch.eye(3), 0, 1.0
    places = _well_spread(poses, count)
    pixel = record.working_pixel_size_angstrom
    views = []
    for place in places:
        picture = run.images[used[place]]
        positions = reduce(picture)
        views.append(_view(used[place], positions * pixel, poses, place, picture, pixel))
    if chosen.index in used:
        views[0] = replace(views[0], correlation=_front_correlation(run, volume, chosen.index))
    verdict = "" if chosen.verdict is None else f" ({chosen.verdict})"
    source = f"volume {chosen.index}{verdict}"
    files = (chosen.path, folder / "images.mrcs")
    return FoundViews(tuple(views), loaded, source, _words(views, source, f"{len(used)} class averages"), files)


def views_of_points(
    path: Path,
    map_path: Path | None,
    count: int,
    resolution: float,
    map_pixel_size: float | None,
    threshold: float,
    *,
    device: torch.device,
) -> FoundViews:
    """Choose among point projections, ``xy`` (k, m, 2) of an .npz file, in Angstrom.

    Poses are its ``rotations`` (k, 3, 3) where it has them, and are otherwise found by matching against a map.

    Raises
    ------
    InputError
        Arrays of wrong shapes or that are not finite, matrices that are not orthogonal, neither rotations nor a map,
        or a map of another size.
    """
    clouds, rotations = _read_projections(path)
    _check_count(path, len(clouds), count)
    loaded = None if map_path is None else read_volume(map_path, map_pixel_size)
    volume = None if loaded is None else loaded.volume
    source = path.name if map_path is None else map_path.name
    if volume is not None and map_path is not None:
        middle = _centre_of_same_size(path, list(clouds), map_path, volume, threshold)
    if rotations is not None:
        poses = _Poses(rotations, torch.zeros(len(clouds), 2), torch.ones(len(clouds)))
        places, pixel, side = choose_views(rotations, count), resolution / 4, 0
    elif volume is None:
        raise InputError(f"{path}: has no rotations; give a map that tells the poses, --volume MAP.mrc")
    else:
        # sampled no finer than the matching needs
        box = volume.side * volume.pixel_size_angstrom
        band = min(box / resolution, volume.side / 2 - 1)
        side = min(volume.side, 2 * int(band) + 8)
        pixel = box / side
        voxels = resize(low_pass(volume.voxels, volume.pixel_size_angstrom, resolution), side, 3)
        voxels = translate(voxels[None], -middle[None] / pixel)[0]  # projections have their centre at 0
        pictures = torch.stack(
            [draw_points(cloud / pixel, side, MOLMAP_WIDTH * resolution / pixel) for cloud in clouds]
        )
        search = PoseSearchConfig(
            refinements=3, low_radius=min(8.0, band), high_radius=band, shift_count=_SHIFTS,
            shift_extent_pixels=_SHIFT_EXTENT * side,
        )  # fmt: skip
        poses = _match(pictures, voxels, search, device)
        poses = replace(poses, shifts_pixels=poses.shifts_pixels - poses.rotations[:, :2] @ middle / pixel)
        places = _well_spread(poses, count)
    side = side or 2 * int(1.2 * float(clouds.abs().max()) / pixel) + 2
    views = []
    for place in places:
        picture = draw_points(clouds[place] / pixel, side, MOLMAP_WIDTH * resolution / pixel)
        view = _view(place, clouds[place], poses, place, picture, pixel)
        views.append(view if rotations is None else replace(view, correlation=None))
    files = (path,) if map_path is None else (path, map_path)
    return FoundViews(tuple(views), loaded, source, _words(views, source, f"{len(clouds)} projections"), files)


def views_of_images(
    path: Path,
    map_path: Path | None,
    count: int,
    reduce: Reduce,
    *,
    pixel_size: float | None,
    map_pixel_size: float | None,
    threshold: float,
    contrast: Literal["auto", "bright", "dark"],
) -> FoundViews:
    """Choose among images whose poses a .star or .cs file has; of a folder, its poses.star or only such file.

    ``reduce`` makes points of an image.

    Raises
    ------
    InputError
        Images without poses, or too few of them; a folder without such a file.
    """
    file = _file_of_images(path)
    particles = read_particles(file, pixel_size_angstrom=pixel_size)
    if particles.poses is None:
        raise InputError(f"{file}: says nothing of the poses of its images; give a run folder, or point projections")
    _check_count(file, len(particles), count)
    places = choose_views(particles.poses.rotations, count)
    pictures = particles.images.read(np.array(places))
    stack = ImageStack(pictures, particles.pixel_size_angstrom)
    working, record = preprocess(stack, PreprocessConfig(contrast=contrast), multiple=2)
    pixel = record.working_pixel_size_angstrom
    poses = _Poses(
        particles.poses.rotations[places], particles.poses.shifts_angstrom[places] / pixel, torch.ones(count)
    )
    views = []
    for number, (place, picture) in enumerate(zip(places, working, strict=True)):
        positions = reduce(picture)
        view = _view(place, positions * pixel, poses, number, picture, pixel)
        views.append(replace(view, correlation=None))
    volume = None if map_path is None else read_volume(map_path, map_pixel_size)
    if map_path is not None and volume is not None:
        _centre_of_same_size(file, [view.points for view in views], map_path, volume.volume, threshold)
    source = file.name if map_path is None else map_path.name
    confidence = f" (confidence {record.contrast_confidence:.2f})" if contrast == "auto" else ""
    notes = [f"protein is {'bright' if record.sign > 0 else 'dark'}{confidence}"]
    if particles.ctf is not None:
        notes.append("note: contrast transfer is not corrected for; images should be class averages or corrected ones")
    words = _words(views, source, f"{len(particles)} images")
    files = (file,) if map_path is None else (file, map_path)
    return FoundViews(tuple(views), volume, source, words, files, tuple(notes))


def _match(
    images: Float[Tensor, "n side side"],
    voxels: Float[Tensor, "side side side"],
    search: PoseSearchConfig,
    device: torch.device,
) -> _Poses:
    """Poses of images against a volume, with shifts."""
    extent = search.shift_extent_pixels or _SHIFT_EXTENT * images.shape[-1]
    search = replace(search, kept=_KEPT, shift_extent_pixels=extent, shift_count=_SHIFTS)
    found = find_poses(images.to(device), voxel_slices(voxels.to(device)), search)
    return _Poses(found.rotations[:, 0].cpu(), found.shifts_pixels[:, 0].cpu(), found.scores[:, 0].cpu())


def _well_spread(poses: _Poses, count: int) -> list[int]:
    """Images among the best matches that look from directions far apart, the best match first."""
    total = len(poses.scores)
    candidates = min(total, max(_CANDIDATES_PER_VIEW * count, round(_CANDIDATES * total)))
    best = poses.scores.topk(candidates).indices
    return [int(best[place]) for place in choose_views(poses.rotations[best], count)]


def _view(
    index: int,
    positions: Float[Tensor, "m 2"],
    poses: _Poses,
    place: int,
    picture: Float[Tensor, "side side"],
    pixel: float,
) -> PosedView:
    middle = positions.mean(0)
    shift = poses.shifts_pixels[place] * pixel
    score = float(poses.scores[place])
    return PosedView(index, poses.rotations[place], positions - middle, middle - shift, shift, score, picture, pixel)


def _volume_of_run(folder: Path, image: int | None) -> VolumeSummary:
    """Find the volume that was asked for, or the most probable one."""
    volumes = [volume for volume in read_summary(folder).volumes if volume.path.exists()]
    if not volumes:
        raise InputError(f"{folder}: holds no volumes; make some with `scoretomo reconstruct {folder}`")
    if image is None:
        trusted = [volume for volume in volumes if volume.trusted] or volumes
        return max(trusted, key=lambda volume: volume.probability or 0.0)
    chosen = next((volume for volume in volumes if volume.index == image), None)
    if chosen is None:
        raise InputError(f"--image {image}: {folder} has no volume of that number; {_some(volumes)}")
    return chosen


def _some(volumes: Sequence[VolumeSummary]) -> str:
    return f"it has {len(volumes)}, from {volumes[0].index} to {volumes[-1].index}"


def _front_correlation(run: Run, volume: Volume, index: int) -> float:
    """Correlation of a class average and its volume seen from the front, over the pixels."""
    projected = working_volume(volume.voxels, run.preprocessing).sum(0)
    return float(torch.corrcoef(torch.stack([projected.flatten(), run.images[index].flatten()]))[0, 1].nan_to_num())


def _read_projections(path: Path) -> tuple[Float[Tensor, "k m 2"], Float[Tensor, "k 3 3"] | None]:
    arrays = read_arrays(path, ("xy",), "(projections, points, 2), in Angstrom", optional=("rotations",))
    shape = arrays["xy"].shape
    if arrays["xy"].dtype.kind not in "fiu" or len(shape) != 3 or shape[2] != 2 or shape[0] == 0 or shape[1] < 2:
        raise InputError(f"{path}: xy must be numbers of shape (projections, points, 2), not {shape}")
    clouds = torch.from_numpy(single_precision(path, arrays["xy"]))
    if not torch.isfinite(clouds).all():
        raise InputError(f"{path}: xy holds NaN or infinite values")
    reach = float((clouds - clouds.mean(1, keepdim=True)).abs().amax())
    if not 0 < reach < _LARGEST_OBJECT:
        raise InputError(f"{path}: xy reaches {reach:.3g} from the centre of a projection; it must be in Angstrom")
    if "rotations" not in arrays:
        return clouds, None
    return clouds, _checked_rotations(path, arrays["rotations"], len(clouds))


def _checked_rotations(path: Path, matrices: np.ndarray, count: int) -> Float[Tensor, "k 3 3"]:
    if matrices.shape != (count, 3, 3) or matrices.dtype.kind not in "fiu":
        found = f"{matrices.dtype} of shape {matrices.shape}"
        raise InputError(f"{path}: rotations must be numbers of shape ({count}, 3, 3), not {found}")
    rotations = torch.from_numpy(single_precision(path, matrices))
    error = (rotations @ rotations.mT - torch.eye(3)).abs().amax((1, 2))
    wrong = (~(error < ORTHOGONAL_WITHIN)).nonzero().flatten().tolist()
    if wrong:
        raise InputError(f"{path}: the orientation of projection {wrong[0]} is not an orthogonal matrix")
    mirrored = (torch.linalg.det(rotations) < 0).nonzero().flatten().tolist()
    if mirrored:
        raise InputError(f"{path}: the orientation of projection {mirrored[0]} mirrors, and is no rotation")
    return rotations


def _centre_of_same_size(
    path: Path, projections: Sequence[Float[Tensor, "m 2"]], map_path: Path, volume: Volume, threshold: float
) -> Float[Tensor, "3"]:
    """Find the centre of mass of a map, in Angstrom, if it is of the size of what the projections show.

    Otherwise the unit of one of them is wrong, or the map another object, and something would be found all the same.
    """
    spread = [(each - each.mean(0)).square().sum(1).mean() for each in projections]
    seen = float((torch.stack(spread).mean() * 1.5).sqrt())
    small = resize(volume.voxels, min(volume.side, _SIDE_TO_MEASURE), 3)
    pixel = volume.pixel_size_angstrom * volume.side / len(small)
    generator = torch.Generator().manual_seed(0)
    try:
        positions = density_points(small, _POINTS_TO_MEASURE, threshold=threshold, generator=generator) * pixel
    except InputError as error:
        raise InputError(f"{map_path}: {error}") from error
    centre = positions.mean(0)
    known = float((positions - centre).square().sum(1).mean().sqrt())
    if not 1 / _SAME_SIZE < seen / known < _SAME_SIZE:
        raise InputError(
            f"{path}: its projections are of an object with a radius of gyration of {seen:.0f} A, that of the map is "
            f"{known:.0f} A; give the map's pixel size with --map-pixel-size, or the map of this object"
        )
    return centre


def _file_of_images(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / "poses.star").exists():
        return path / "poses.star"
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in (".star", ".cs"))
    if len(files) != 1:
        found = f"{len(files)} .star or .cs files"
        raise InputError(f"{path}: is no run folder, and holds {found}; name the one with poses")
    return files[0]


def _check_count(path: Path, available: int, count: int) -> None:
    if available < count:
        raise InputError(f"{path}: has {available} projections, and {count} views are asked for; give --views")


def _words(views: Sequence[PosedView], source: str, among: str) -> str:
    numbers = ", ".join(str(view.index) for view in views)
    known = [view.correlation for view in views if view.correlation is not None]
    matched = f", which match {source} with a correlation of {min(known):.2f} to {max(known):.2f}" if known else ""
    return f"{len(views)} views of {among}: {numbers}{matched}"
