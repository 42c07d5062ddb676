"""Point groups of rotations in RELION's standard orientations, by name.

Only rotations count: a mirror plane is no symmetry of a molecule.
"""

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from .rotations import from_rotation_vectors

# C and D with an order of 1 to 99, D1 left out (it is C2 about another axis); T, O, I, I1, I2.
_NAME = re.compile(r"C[1-9]\d?|D(?:[2-9]|[1-9]\d)|T|O|I[12]?", re.IGNORECASE | re.ASCII)

_GOLDEN = (1 + math.sqrt(5)) / 2

# Order and axis (xyz) of two rotations that generate the group.
_GENERATORS = {
    "T": [(3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2), 1.0))],
    "O": [(4, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))],
    "I1": [(2, (0.0, 0.0, 1.0)), (5, (0.0, 1.0, _GOLDEN)), (3, (1.0, 1.0, 1.0))],
    "I2": [(2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, _GOLDEN)), (3, (1.0, 1.0, 1.0))],
}


def symmetry_group(name: str) -> Float[Tensor, "g 3 3"]:
    """Rotations of a point group, the identity first, active on xyz column vectors.

    Parameters
    ----------
    name
        Upper or lower case:

        ==========  ========  ====================================================================================
        C1 to C99   n         n-fold axis along z
        D2 to D99   2 n       n-fold axis along z, two-fold axis along x
        T           12        three-fold axis along z, two-fold axis in the plane of y and z
        O           24        four-fold axes along x, y and z
        I1          60        two-fold axes along x, y and z, five-fold axis along (0, 1, golden ratio)
        I2, or I    60        two-fold axes along x, y and z, five-fold axis along (1, 0, golden ratio)
        ==========  ========  ====================================================================================

        These are the orientations that RELION has under the same names.

    Raises
    ------
    InputError
        Another name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no point group; give C1, C2, ..., D2, D3, ... (up to 99), T, O, I, I1 or I2")
    name = name.upper()
    if name[0] in "CD":
        turns = _about((0.0, 0.0, 1.0), 2 * math.pi * torch.arange(int(name[1:]), dtype=torch.float64) / int(name[1:]))
        if name[0] == "D":
            turns = torch.cat([turns, turns @ _about((1.0, 0.0, 0.0), torch.tensor([math.pi]).double())])
        return turns.float()
    steps = [(axis, torch.tensor([2 * math.pi / order]).double()) for order, axis in _GENERATORS[_full_name(name)]]
    return _closure(torch.cat([_about(axis, angle) for axis, angle in steps])).float()


def _full_name(name: str) -> str:
    return "I2" if name == "I" else name


def _about(axis: tuple[float, float, float], angles: Float[Tensor, " k"]) -> Float[Tensor, "k 3 3"]:
    direction = torch.nn.functional.normalize(angles.new_tensor(axis), dim=0)
    return from_rotation_vectors(angles[:, None] * direction)


def _closure(generators: Float[Tensor, "k 3 3"]) -> Float[Tensor, "g 3 3"]:
    """All products of the generators: those of the newest elements are added until there is no new one."""
    group = torch.eye(3).to(generators)[None]
    newest = group
    while len(newest):
        products = (newest[:, None] @ generators).flatten(0, 1)
        found: list[Tensor] = []
        for product in products:
            known = torch.cat([group, *found])
            if (known - product).abs().amax((1, 2)).min() > 1e-6:
                found.append(product[None])
        newest = torch.cat(found) if found else group[:0]
        group = torch.cat([group, newest])
    return group
