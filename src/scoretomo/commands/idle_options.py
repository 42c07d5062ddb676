"""Options that do nothing with the others that were given: they are refused, not taken in silence."""

from collections.abc import Callable, Mapping
from typing import Any

from ..datatypes import InputError
from ..io.settings import differences, to_table
from ..methods.abinitio_schedule import PoseMethod

_RIGID = ("model.encoder.", "model.beta", "search.consensus_epochs", "search.search_volumes")
_HIERARCHICAL = ("search.base_order", "search.refinements", "search.kept", "search.shift_count")


def idle_with(poses: PoseMethod, *, one_volume: bool = False, why: str = "") -> dict[str, str]:
    """Options of searching and training, or how they begin, that do nothing, and the reason.

    Parameters
    ----------
    poses
        Where poses come from.
    one_volume
        Whether there are no latent variables, and ``why``.
    """
    idle: dict[str, str] = {}
    if poses == "known":
        idle["search."] = "poses are those of the file; find them with --poses search"
    elif poses == "branch-and-bound":
        idle |= dict.fromkeys(_HIERARCHICAL, "branch and bound has numbers of its own")
    if one_volume:
        idle |= dict.fromkeys(_RIGID, why)
    return idle


def refuse_idle(
    default: Any, given: Any, idle: Mapping[str, str], option: Callable[[str], str] = lambda name: name
) -> None:
    """Refuse settings that differ from the default and do nothing.

    Parameters
    ----------
    default, given
        Settings of one kind.
    idle
        Names that settings begin with, and why these do nothing.
    option
        How a setting is called on the command line.

    Raises
    ------
    InputError
        Names the option and the reason.
    """
    for changed in differences(to_table(default), to_table(given)):
        name = changed.split(" ")[0]
        reason = next((why for start, why in idle.items() if name.startswith(start)), None)
        if reason is not None:
            raise InputError(f"--{option(name).replace('_', '-')}: does nothing here, since {reason}; leave it out")
