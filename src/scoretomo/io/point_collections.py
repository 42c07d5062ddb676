"""Collections of 3D objects as users have them: atomic models, traces, ShapeNet."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..datatypes import InputError
from .atoms import Models, read_model
from .npy import read_npy, single_precision
from .point_files import LoadedPoints, is_atomic
from .point_sets import read_arrays

# The parts that ShapeNet comes in. Only the first is trained on; the second comes first of what is held out, since
# results are reported on it.
_SPLITS = ("train", "test", "val")
_KINDS = (
    "give a folder of .pdb or .cif files, traces (.npz with ids, offsets, xyz), ShapeNet as PC15k "
    "(SYNSET/train/*.npy) or as PyTorch Geometric unpacks it (raw/SYNSET/*.txt with raw/train_test_split)"
)


@dataclass(frozen=True)
class Collection:
    """Point clouds of different sizes, read one at a time.

    Attributes
    ----------
    names
        Unique names.
    read
        ``(index) -> points``, xyz in the source's unit, with notes; raises InputError where a cloud cannot be used.
    held_out
        Which clouds the source itself sets apart from training; None if it does not say.
    handed
        Molecules, whose mirror images are other objects, and whose points are reduced to fewer by a mixture;
        otherwise points on surfaces, of which some are drawn.
    """

    names: tuple[str, ...]
    read: Callable[[int], LoadedPoints]
    held_out: tuple[bool, ...] | None
    handed: bool


def open_collection(path: Path, models: Models = "auto") -> Collection:
    """Find out what a path holds: atomic models, traces, or ShapeNet in one of its usual layouts.

    Parameters
    ----------
    path
        - an atomic model or a folder of them (.pdb, .cif, may be compressed): heavy atoms of the first assembly;
        - traces: ``.npz`` with ``ids`` (k,), ``offsets`` (k + 1,) and ``xyz`` (n, 3) in Angstrom;
        - ShapeNet as PC15k, ``SYNSET/{train,val,test}/NAME.npy``, or one SYNSET of it;
        - ShapeNet as PyTorch Geometric unpacks it, ``raw/SYNSET/NAME.txt`` and ``raw/train_test_split/*.json``, or one
          SYNSET of it. Its ``processed`` files are pickled and not read.
    models
        Which of several models of an atomic file count; see :func:`scoretomo.io.atoms.read_model`.

    Raises
    ------
    InputError
        Nothing there, nothing recognised, an empty folder, or lists and arrays that do not fit together; or models are
        chosen where there are none.
    """
    if models != "auto" and not is_atomic(path) and not (path.is_dir() and _atomic_files(path)):
        raise InputError(f"--models {models}: does nothing here, since {path} has no atomic models; leave it out")
    if path.is_file():
        return _atomic([path], models) if is_atomic(path) else _traces(path)
    if not path.is_dir():
        raise InputError(f"{path}: there is no such file or folder")
    lists = next((it for it in (path, path / "raw", path.parent) if (it / "train_test_split").is_dir()), None)
    if lists is not None:
        return _geometric(lists, only=path.name if lists == path.parent else None)
    split_folders = [*path.glob("train"), *path.glob("*/train")]
    if split_folders:
        return _pc15k(path)
    files = _atomic_files(path)
    if not files:
        pickled = any(path.glob("*.pt")) or any(path.glob("processed/*.pt"))
        found = "its .pt files are pickled and not read" if pickled else "nothing in it is recognised"
        raise InputError(f"{path}: {found if any(path.iterdir()) else 'the folder is empty'}; {_KINDS}")
    return _atomic(files, models)


def read_member(path: Path, name: str) -> LoadedPoints:
    """Read one cloud of a collection, by its name or its number from 0; xyz in the source's unit.

    Raises
    ------
    InputError
        As for :func:`open_collection`; or the collection has no such cloud, or none was named.
    """
    collection = open_collection(path)
    if name in collection.names:
        return collection.read(collection.names.index(name))
    if not name.isdecimal() or int(name) >= len(collection.names):
        last = len(collection.names) - 1
        raise InputError(f"{path}: has no {name or '(none)'!r}; name one, as in {path.name}:{last}, of 0 to {last}")
    return collection.read(int(name))


def _atomic_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_atomic(file) and not file.name.startswith("."))


def _atomic(files: list[Path], models: Models) -> Collection:
    names = tuple(file.name.split(".")[0] for file in files)
    if len(set(names)) < len(files):  # 1abc.pdb beside 1abc.cif
        names = tuple(file.name for file in files)

    def read(index: int) -> LoadedPoints:
        model = read_model(files[index], models=models)
        return LoadedPoints(model.points, True, model.notes)

    return Collection(names, read, None, handed=True)


def _traces(path: Path) -> Collection:
    if path.suffix != ".npz":
        raise InputError(f"{path}: no collection of point clouds; {_KINDS}")
    arrays = read_arrays(path, ("ids", "offsets", "xyz"), _KINDS)
    ids, offsets, xyz = arrays["ids"], arrays["offsets"], arrays["xyz"]
    shapes = f"{ids.shape}, {offsets.shape} and {xyz.shape}"
    if ids.ndim != 1 or offsets.shape != (len(ids) + 1,) or xyz.ndim != 2 or xyz.shape[1] != 3 or not len(ids):
        raise InputError(f"{path}: ids (k,), offsets (k + 1,) and xyz (n, 3) are needed, not {shapes}")
    if xyz.dtype.kind not in "fiu":
        raise InputError(f"{path}: xyz must be numbers, not {xyz.dtype}")
    xyz = single_precision(path, xyz)
    integer = offsets.dtype.kind in "iu"
    if not integer or offsets[0] != 0 or offsets[-1] != len(xyz) or (np.diff(offsets.astype(np.int64)) < 1).any():
        raise InputError(f"{path}: offsets must rise from 0 to the number of points, {len(xyz)}")
    names = tuple(str(name) for name in ids)
    if len(set(names)) < len(names):
        raise InputError(f"{path}: some ids occur twice; give each trace its own")
    return Collection(
        names,
        lambda index: LoadedPoints(torch.from_numpy(xyz[offsets[index] : offsets[index + 1]])),
        None,
        handed=True,
    )


def _pc15k(root: Path) -> Collection:
    files = [(split, file) for split in _SPLITS for file in sorted(root.glob(f"**/{split}/*.npy"))]
    if not files:
        raise InputError(f"{root}: has folders named train, but no .npy files in them; {_KINDS}")
    # SYNSET/NAME, the same whether the root or one category of it is given
    names = tuple(f"{file.parents[1].name}/{file.stem}" for _, file in files)
    held_out = tuple(split != "train" for split, _ in files)
    return Collection(names, lambda index: _read_npy(files[index][1]), held_out, handed=False)


def _geometric(raw: Path, *, only: str | None) -> Collection:
    files, held_out = [], []
    for split in _SPLITS:
        listed = raw / "train_test_split" / f"shuffled_{split}_file_list.json"
        for entry in _read_list(listed):
            synset, name = entry.split("/")[-2:]  # shape_data/SYNSET/NAME
            if only in (None, synset):
                files.append(raw / synset / f"{name}.txt")
                held_out.append(split != "train")
    if not files:
        raise InputError(f"{raw / 'train_test_split'}: lists no shapes{f' of {only}' if only else ''}")
    names = tuple(f"{file.parent.name}/{file.stem}" for file in files)
    return Collection(names, lambda index: _read_txt(files[index]), tuple(held_out), handed=False)


def _read_list(path: Path) -> list[str]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable list of shapes ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) and "/" in entry for entry in entries):
        raise InputError(f"{path}: must be a list of names such as shape_data/SYNSET/NAME")
    return entries


def _read_npy(path: Path) -> LoadedPoints:
    return _as_points(path, read_npy(path), columns=3)


def _read_txt(path: Path) -> LoadedPoints:
    try:
        array = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table of x y z nx ny nz label") from error
    return _as_points(path, array, columns=7)


def _as_points(path: Path, array: np.ndarray, *, columns: int) -> LoadedPoints:
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "fiu" or not len(array):
        raise InputError(f"{path}: an array of numbers (n, {columns}) is needed, not {array.shape} {array.dtype}")
    return LoadedPoints(torch.from_numpy(single_precision(path, array[:, :3])))
