"""Where a growth keeps its volumes, and how the work is shared out: a protocol, and one process's memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, runtime_checkable

from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Share:
    """What there is to do.

    Attributes
    ----------
    missing
        Items that nobody has made yet.
    mine
        Those of them that fall to this process.
    """

    missing: list[int]
    mine: list[int]


@runtime_checkable
class Store(Protocol):
    """Volumes, and how far those are that are not complete.

    A job that was interrupted finds what there was. ``share`` and ``wait`` are called by all processes, in the same
    order.
    """

    def share(self, items: Sequence[int]) -> Share:
        """Divide the items that are missing among the processes."""
        ...

    def put(self, item: int, volume: Tensor) -> None:
        """Keep the volume of an item, which is complete with it."""
        ...

    def keep(self, item: int, state: Tensors) -> None:
        """Copy how far this process is with an item that is not complete; forgotten with :meth:`put`."""
        ...

    def kept(self, item: int) -> Tensors | None:
        """Tell how far some process has got with an item; None if nobody has begun."""
        ...

    def wait(self) -> None:
        """Go on when all processes are here: what they have put before is there."""
        ...


@dataclass(frozen=True)
class MemoryStore:
    """Everything in the memory of the only process."""

    volumes: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, Tensors] = field(default_factory=dict)

    def share(self, items: Sequence[int]) -> Share:
        """All that is missing."""
        missing = [item for item in items if item not in self.volumes]
        return Share(missing, missing)

    def put(self, item: int, volume: Tensor) -> None:
        """Keep a volume, where it takes no memory of a GPU."""
        self.volumes[item] = volume.cpu()
        self.states.pop(item, None)

    def keep(self, item: int, state: Tensors) -> None:
        """Keep a copy of a state, since the tensors of those that advance together change."""
        self.states[item] = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def kept(self, item: int) -> Tensors | None:
        """Give a state, if there is one."""
        return self.states.get(item)

    def wait(self) -> None:
        """Nobody else is there."""


def split_evenly(items: Sequence[int], parts: int) -> list[list[int]]:
    """Cut a sequence into so many runs whose lengths differ by one at most; the first is not the shorter one."""
    ends = [-(-len(items) * part // parts) for part in range(parts + 1)]
    return [list(items[start:end]) for start, end in pairwise(ends)]
