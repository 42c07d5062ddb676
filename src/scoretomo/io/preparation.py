"""``preprocessing.json`` of a run folder: what was done to its images."""

import math
from pathlib import Path

from ..datatypes import InputError
from ..imaging.preprocess import Preprocessing
from .records import read_json, understood

_ADVICE = "begin a new run folder, since without it volumes have no units"
_LARGEST_SIDE = 2**15


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the record of a run folder.

    Raises
    ------
    InputError
        There is none, it cannot be understood, or says what no images can have been through.
    """
    path = folder / "preprocessing.json"
    record = read_json(path, Preprocessing, _ADVICE)
    with understood(path, _ADVICE):
        _check(record)
    return record


def _check(record: Preprocessing) -> None:
    sides = ("input_side", "cropped_side", "working_side", "network_side")
    lengths = ("input_pixel_size_angstrom", "working_pixel_size_angstrom", "scale")
    for name in sides:
        if not 1 <= getattr(record, name) <= _LARGEST_SIDE:
            raise InputError(f"{name} must be 1 to {_LARGEST_SIDE} pixels, not {getattr(record, name)}")
    for name in lengths:
        if not 0 < getattr(record, name) < math.inf:
            raise InputError(f"{name} must be a positive number, not {getattr(record, name)}")
    if record.cropped_side > record.input_side or record.working_side > record.network_side:
        raise InputError("images are cropped and then padded, and its sides say otherwise")
    if record.sign not in (1, -1) or not 0 < record.mask_radius <= 2:
        raise InputError(f"a sign of {record.sign} and a mask radius of {record.mask_radius} are none")
