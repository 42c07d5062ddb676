"""``scoretomo points prepare``: a set of point clouds from what a user has."""

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError, PointClouds
from ..geometry.point_clouds import mixture_means, normalise, random_subsets
from ..geometry.point_similarity import similar_groups
from ..io.atoms import Models
from ..io.files import replacing
from ..io.point_collections import Collection, open_collection
from ..io.point_sets import read_arrays, write_point_set
from ..limits import SEEDS, check_limit
from ..simulation.furniture import furniture
from .progress import interruptible, progress, say

_DEFAULT_POINTS = {True: 256, False: 1024}  # by whether the objects are molecules
_SECONDS_BETWEEN_SAVES = 60.0
# Unless it is said: the part of the objects that is held out, and pieces of furniture.
_HELD_OUT, _PIECES = 0.1, 2000
_PIECES_AT_ONCE = 50
_MOST_NOTES = 5
_POINTS = (2, 10**6)


def prepare(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="furniture|PATH")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="SET")],
    points: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    held_out: Annotated[float, tyro.conf.arg(metavar="PART|K")] = _HELD_OUT,
    seed: int = 0,
    count: int = _PIECES,
    models: Models = "auto",
) -> None:
    """Make a set of point clouds for `scoretomo points train`, each centred and scaled into the cube from -1 to 1.

    An interrupted preparation goes on with the same command.

    Parameters
    ----------
    source
        The word furniture, for made-up chairs and tables; a folder of atomic models (.pdb or .cif, may be compressed);
        traces (.npz with ids, offsets and xyz); or a folder of ShapeNet, as PC15k or as PyTorch Geometric unpacks it.
    output
        The set, .npz.
    points
        Points kept of each object; objects with fewer are left out. A molecule is reduced to the means of a Gaussian
        mixture, 256 if not given: as many as the prior will have. Of a surface (furniture, ShapeNet) points are drawn,
        1024 if not given: give more than the prior will have, since every step of its training draws anew among them.
    held_out
        What is not trained on, where the source has no such part itself: a fraction, or a number of objects from 1 on.
        Molecules that are alike are all held out or none.
    seed
        Of the random numbers.
    count
        Pieces of furniture.
    models
        Which models of an atomic file of several count: all, as of an assembly, or the first, as of an ensemble. Unless
        it is said, all if they lie apart, and the first if they lie on one another.
    """
    processes.refuse_company("points prepare")
    if output.suffix != ".npz":
        raise InputError(f"{output}: the set is a .npz file; give it such a name")
    if output.exists():
        raise InputError(f"{output}: exists already; give another name")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: there is no such folder")
    for name, value, limits in (("--points", points, _POINTS), ("--count", count, _POINTS), ("--seed", seed, SEEDS)):
        check_limit(name, value, limits)
    if not 0 <= held_out < float("inf"):
        raise InputError(f"--held-out must be a fraction below 1 or a number of objects, not {held_out}")
    if source != "furniture" and count != _PIECES:
        raise InputError(
            f"--count {count}: does nothing here, since {source} has as many clouds as it has; leave it out"
        )
    if source == "furniture" and models != "auto":
        raise InputError(f"--models {models}: does nothing here, since furniture has no atomic models; leave it out")
    if source == "furniture":
        clouds = _furniture(count, points or _DEFAULT_POINTS[False], held_out, seed)
        write_point_set(output, clouds)
    else:
        partial = output.with_name(f".{output.stem}.unfinished.npz")
        clouds = _collected(Path(source), models, partial, points, held_out, seed)
        write_point_set(output, clouds)
        partial.unlink(missing_ok=True)
    say(f"{len(clouds)} clouds of {clouds.points.shape[1]} points, {int(clouds.held_out.sum())} of them held out")
    print(f"set: {output}")


def _furniture(count: int, points: int, held_out: float, seed: int) -> PointClouds:
    generator = torch.Generator().manual_seed(seed)
    pieces: list[Tensor] = []
    kinds: list[str] = []
    with progress("prepare") as report:
        for start in range(0, max(count, 1), _PIECES_AT_ONCE):
            drawn, named = furniture(min(count - start, _PIECES_AT_ONCE), points, generator)
            pieces.append(drawn)
            kinds += named
            report(len(kinds) / count, f"{len(kinds)} of {count}")
    normalised, _, units = normalise(torch.cat(pieces))
    names = tuple(f"{kind}_{index:05d}" for index, kind in enumerate(kinds))
    kept_apart = _draw_groups(torch.arange(count), held_out, generator)
    return PointClouds(normalised, units, names, kept_apart, handed=False)


def _collected(
    path: Path, models: Models, partial: Path, points: int | None, held_out: float, seed: int
) -> PointClouds:
    collection = open_collection(path, models)
    if collection.held_out is not None and held_out != _HELD_OUT:
        raise InputError(
            f"--held-out {held_out:g}: does nothing for {path}, which has a split of its own; leave it out"
        )
    points = points or _DEFAULT_POINTS[collection.handed]
    memory = _Memory(partial, f"{path.resolve()} {points} {seed} {models}")
    left_out = _reduce_all(collection, memory, points, seed)
    if len(left_out) == len(collection.names):
        raise InputError(f"{path}: holds no cloud that can be used; {left_out[0]}")
    _say_some("left out", left_out)
    chosen = [index for index, name in enumerate(collection.names) if name in memory.clouds]
    names = tuple(collection.names[index] for index in chosen)
    normalised, _, units = normalise(torch.stack([memory.clouds[name] for name in names]))
    if collection.held_out is not None:
        kept_apart = torch.tensor([collection.held_out[index] for index in chosen])
    else:
        groups = similar_groups(normalised, units) if collection.handed else torch.arange(len(names))
        if alike := len(names) - len(groups.unique()):
            say(f"{alike} clouds are like others; those that are alike are all held out or none")
        kept_apart = _draw_groups(groups, held_out, torch.Generator().manual_seed(seed))
    return PointClouds(normalised, units, names, kept_apart, collection.handed)


def _say_some(kind: str, lines: list[str]) -> None:
    for line in lines[:_MOST_NOTES]:
        say(f"{kind}: {line}")
    if len(lines) > _MOST_NOTES:
        say(f"{kind}: {len(lines) - _MOST_NOTES} more")


class _Memory:
    """Clouds that are done, by name, and the file that keeps them until all are."""

    def __init__(self, path: Path, made_by: str) -> None:
        self.path, self.made_by, self.saved = path, made_by, time.monotonic()
        self.clouds: dict[str, Float[Tensor, "n 3"]] = {}
        try:
            arrays = read_arrays(path, ("made_by", "names", "clouds"), "")
        except InputError:  # none yet, or of no use
            return
        if str(arrays["made_by"]) == made_by:
            self.clouds = dict(zip(arrays["names"].tolist(), torch.from_numpy(arrays["clouds"]), strict=True))

    def save(self) -> None:
        if self.clouds:
            clouds = torch.stack(list(self.clouds.values())).numpy()
            with replacing(self.path) as temporary, open(temporary, "wb") as file:
                np.savez(file, made_by=np.array(self.made_by), names=np.array(list(self.clouds)), clouds=clouds)
        self.saved = time.monotonic()


def _reduce_all(collection: Collection, memory: _Memory, points: int, seed: int) -> list[str]:
    """Fill the memory, and say what is odd; the result says which clouds cannot be used, and why."""
    left_out, notes = [], []
    reduce = mixture_means if collection.handed else random_subsets
    todo = [index for index, name in enumerate(collection.names) if name not in memory.clouds]
    try:
        with progress("prepare") as report, interruptible() as check:
            for done, index in enumerate(todo, 1):
                check()
                name = collection.names[index]
                try:
                    loaded = collection.read(index)
                    notes += [f"{name}: {note}" for note in loaded.notes]
                    memory.clouds[name] = _reduced(loaded.points, name, points, seed, reduce)
                except InputError as error:
                    left_out.append(str(error))
                report(done / len(todo), f"{done} of {len(todo)}")
                if time.monotonic() - memory.saved > _SECONDS_BETWEEN_SAVES:
                    memory.save()
    except KeyboardInterrupt:
        memory.save()
        raise
    finally:
        _say_some("note", notes)
    return left_out


def _reduced(
    cloud: Float[Tensor, "n 3"], name: str, points: int, seed: int, reduce: Callable[..., Float[Tensor, "m 3"]]
) -> Float[Tensor, "m 3"]:
    if len(cloud) < points:
        raise InputError(f"{name}: has {len(cloud)} points, {points} are asked for")
    # a seed of its own, so that the result does not depend on which others there are or came first
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    try:
        reduced = reduce(cloud, points, generator=generator)
        normalise(reduced)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return reduced


def _draw_groups(groups: Tensor, wanted: float, generator: torch.Generator) -> Bool[Tensor, " k"]:
    """Mark whole groups at random, with a part of all members (``wanted`` below 1) or so many, at most."""
    most = round(wanted * len(groups)) if wanted < 1 else int(wanted)
    if most >= len(groups):
        raise InputError(f"--held-out {wanted:g} leaves none of the {len(groups)} clouds to train on")
    marked = torch.zeros(len(groups), dtype=torch.bool)
    for index in torch.randperm(len(groups), generator=generator).tolist():
        members = groups == groups[index]
        if int((marked | members).sum()) <= most:
            marked |= members
    return marked
