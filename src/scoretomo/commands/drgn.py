"""``scoretomo drgn``: the verbs of cryoDRGN and cryoDRGN2."""

from collections.abc import Callable

from .drgn_analyze import analyze
from .drgn_backproject import backproject
from .drgn_convert import convert
from .drgn_halves import halves
from .drgn_poses import poses
from .drgn_select import select
from .drgn_train import train

VERBS: dict[str, Callable[..., None]] = {
    "train": train,
    "poses": poses,
    "backproject": backproject,
    "convert": convert,
    "analyze": analyze,
    "select": select,
    "halves": halves,
}
"""What can be done."""
