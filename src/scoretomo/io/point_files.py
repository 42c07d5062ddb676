"""Single point clouds: read from what users have, written as pseudo-atoms that ChimeraX and PyMOL open."""

import re
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from .atoms import read_model, read_models
from .files import regular_file, write_text
from .npy import read_npy, single_precision
from .point_sets import read_point_set
from .tables import read_table

# Assemblies of the PDB are named .pdb1, .pdb2 and so on.
_ATOMIC = re.compile(r".*\.(pdb\d*|ent|cif|mmcif)(\.gz)?", re.IGNORECASE)
POINT_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".npy", ".npz", ".xyz", ".csv")
"""Files that can be read; atomic models compressed (``.gz``) or not."""

# What the columns of a PDB file hold: %8.3f and %6.2f characters, and four digits for a residue.
LEAST_COORDINATE, LARGEST_COORDINATE = -999.999, 9999.999
"""What fits into the columns of a PDB file."""
_MOST_SPREAD = 999.99
_RESIDUES_OF_A_CHAIN = 9999
_CHAINS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def is_atomic(path: Path) -> bool:
    """Whether the name of a file is that of an atomic model: .pdb, .pdb1, .ent, .cif or .mmcif, compressed or not."""
    return _ATOMIC.fullmatch(path.name) is not None


def is_point_file(path: Path) -> bool:
    """Whether the name of a file is that of something :func:`read_point_clouds` reads."""
    return is_atomic(path) or path.suffix.lower() in POINT_SUFFIXES


@dataclass(frozen=True)
class LoadedClouds:
    """Point clouds of a file by name, ``(n, 3)`` each, xyz; and what was odd in the file."""

    clouds: dict[str, Float[Tensor, "n 3"]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedPoints:
    """One point cloud, ``(n, 3)``, xyz; whether its points are atoms; and what was odd in its file."""

    points: Float[Tensor, "n 3"]
    atomic: bool = False
    notes: tuple[str, ...] = ()


def read_point_clouds(path: Path) -> LoadedClouds:
    """Read the point clouds of a file by name; xyz, in Angstrom where the file knows them.

    Atomic models (all heavy atoms, of alternate conformers one; each model of the file is one cloud, but models that
    lie apart are one together), ``.npy`` of shape (n, 3) or (b, n, 3), ``.xyz``, ``.csv`` with columns x, y, z, and
    sets of :func:`scoretomo.io.point_sets.write_point_set`, whose clouds are given in the unit of their source.

    Raises
    ------
    InputError
        The file is missing, is none of these, or holds no points or such as are not finite.
    """
    regular_file(path)
    notes: tuple[str, ...] = ()
    suffix = path.suffix.lower()
    if suffix == ".npz":
        clouds = read_point_set(path)
        scaled = clouds.points * clouds.units[:, None, None]
        return LoadedClouds({f"{path.name}:{name}": cloud for name, cloud in zip(clouds.names, scaled, strict=True)})
    if is_atomic(path):
        models = read_models(path)
        found, notes = [model.points for model in models], models[0].notes
    elif suffix in (".npy", ".xyz", ".csv"):
        array = {".npy": _read_npy, ".xyz": _read_xyz, ".csv": _read_csv}[suffix](path)
        if array.ndim not in (2, 3) or array.shape[-1] != 3 or array.size == 0:
            raise InputError(f"{path}: points must be (n, 3) or (clouds, n, 3), not {tuple(array.shape)}")
        found = list(torch.from_numpy(single_precision(path, array)).view(-1, *array.shape[-2:]))
    else:
        raise InputError(f"{path}: points are read from {', '.join(POINT_SUFFIXES)}")
    if not all(len(cloud) and torch.isfinite(cloud).all() for cloud in found):
        raise InputError(f"{path}: holds a cloud without points, or NaN or infinite coordinates")
    if len(found) == 1:
        return LoadedClouds({path.name: found[0]}, notes)
    return LoadedClouds({f"{path.name}:{number}": cloud for number, cloud in enumerate(found)}, notes)


def read_points(path: Path) -> LoadedPoints:
    """Read one point cloud: of a file with one, or ``FILE:NAME`` of a set and ``FILE:NUMBER`` (from 0) of others.

    ``FILE:all`` are all models of an atomic file together.

    Raises
    ------
    InputError
        As for :func:`read_point_clouds`; or there are several clouds and none of them is named.
    """
    name = ""
    if not path.exists() and ":" in path.name:
        file, _, name = path.name.rpartition(":")
        path = path.with_name(file)
    atomic = is_atomic(path)
    if atomic and name == "all":
        model = read_model(path, models="all")
        return LoadedPoints(model.points, atomic, model.notes)
    if atomic and name.isdecimal():
        models = read_models(path, each=True)
        loaded = LoadedClouds({f"{path.name}:{number}": it.points for number, it in enumerate(models)}, models[0].notes)
    else:
        loaded = read_point_clouds(path)
    clouds = loaded.clouds
    if len(clouds) == 1 and not name:
        return LoadedPoints(next(iter(clouds.values())), atomic, loaded.notes)
    chosen = clouds.get(f"{path.name}:{name}")
    if chosen is None:
        some = ", ".join(key.removeprefix(f"{path.name}:") for key in list(clouds)[:3])
        what = f"no cloud {name!r}" if name else f"{len(clouds)} clouds, of which one must be named"
        together = f", or {path.name}:all for all of them" if atomic else ""
        raise InputError(f"{path}: has {what}; write {path.name}:NAME with one of its names ({some}, ...){together}")
    return LoadedPoints(chosen, atomic, loaded.notes)


def write_pseudo_atoms(
    path: Path, points: Float[Tensor, "*models n 3"], spread: Float[Tensor, " n"] | None = None
) -> None:
    """Write points as the atoms of a ``.pdb`` file, complete or not at all.

    Every point is a carbon atom named CA in a residue of its own, of the name that means "unknown ligand", so that no
    program joins neighbours in the list by bonds.

    Parameters
    ----------
    path
        The file.
    points
        ``(n, 3)``, or ``(b, n, 3)`` for several models, xyz in Angstrom.
    spread
        ``(n,)``: root mean square deviation of each point in Angstrom, as the B factor; None: 0.

    Raises
    ------
    InputError
        No points, or coordinates and spreads that the columns of a PDB file do not hold.
    """
    spreads = points.new_zeros(points.shape[-2]) if spread is None else spread
    _check_columns(path, points, spreads)
    structure = gemmi.Structure()
    structure.name = path.stem
    for number, cloud in enumerate(points.reshape(-1, *points.shape[-2:]).tolist(), 1):
        model = gemmi.Model(number)
        for start in range(0, len(cloud), _RESIDUES_OF_A_CHAIN):
            part = slice(start, start + _RESIDUES_OF_A_CHAIN)
            model.add_chain(_chain(_CHAINS[len(model)], cloud[part], spreads[part].tolist()))
        structure.add_model(model)
    write_text(path, structure.make_minimal_pdb())


def _check_columns(path: Path, points: Float[Tensor, "*models n 3"], spread: Float[Tensor, " n"]) -> None:
    most = len(_CHAINS) * _RESIDUES_OF_A_CHAIN
    if points.numel() == 0 or points.shape[-2] > most:
        raise InputError(f"{path}: a PDB file takes models of 1 to {most} points, not {tuple(points.shape)}")
    if not ((points >= LEAST_COORDINATE) & (points <= LARGEST_COORDINATE)).all():  # neither holds of NaN
        extremes = f"{points.min().item():g} to {points.max().item():g}"
        raise InputError(
            f"{path}: a PDB file holds coordinates from {LEAST_COORDINATE:.0f} to {LARGEST_COORDINATE:.0f} Angstrom, "
            f"not {extremes}; centre the points, or write them as .npy"
        )
    if not ((spread >= 0) & (spread <= _MOST_SPREAD)).all():
        worst = spread[~((spread >= 0) & (spread <= _MOST_SPREAD))][0].item()
        raise InputError(f"{path}: a PDB file holds spreads from 0 to {_MOST_SPREAD:g} Angstrom, not {worst:g}")


def _chain(name: str, points: list[list[float]], spreads: list[float]) -> gemmi.Chain:
    chain = gemmi.Chain(name)
    for number, (position, spread) in enumerate(zip(points, spreads, strict=True), 1):
        residue = gemmi.Residue()
        residue.name, residue.seqid, residue.het_flag = "UNL", gemmi.SeqId(number, " "), "H"
        atom = gemmi.Atom()
        atom.name, atom.element, atom.b_iso = "CA", gemmi.Element("C"), spread
        atom.pos = gemmi.Position(*position)
        residue.add_atom(atom)
        chain.add_residue(residue)
    return chain


def _read_npy(path: Path) -> np.ndarray:
    array = read_npy(path)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: points must be numbers, not {'records' if array.dtype.names else array.dtype.name}")
    return array


def _read_csv(path: Path) -> np.ndarray:
    rows = read_table(path, ("x", "y", "z"))
    try:
        return np.array([[float(row[axis]) for axis in "xyz"] for row in rows])
    except ValueError as error:
        raise InputError(f"{path}: columns x, y and z must be numbers ({error})") from error


def _read_xyz(path: Path) -> np.ndarray:
    """Read a count, a comment, then a symbol and three coordinates per line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        count = int(lines[0])
        rows = np.array([[float(value) for value in line.split()[1:4]] for line in lines[2 : 2 + count]])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: not a readable .xyz file (a count, a comment, then SYMBOL X Y Z)") from error
    if len(rows) != count:
        raise InputError(f"{path}: announces {count} points and has {len(rows)}")
    return rows
