"""Where a growth keeps what it has made, and how the work is shared out: a protocol, and one process's memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, runtime_checkable

from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Share:
    """What there is to do of a task.

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
    """Results of tasks: the tensors that belong to each of a task's items, by name.

    What one process puts here, all can get; so they need no other way to exchange volumes, and a job that was
    interrupted finds what there was. ``share``, ``wait`` and ``drop`` are called by all processes, in the same order.
    """

    def share(self, task: str, items: Sequence[int]) -> Share:
        """Divide the items that are missing among the processes."""
        ...

    def put(self, task: str, item: int, result: Tensors) -> None:
        """Keep the result of an item, which is complete with it."""
        ...

    def get(self, task: str, item: int) -> Tensors:
        """Give the result of an item that is complete."""
        ...

    def keep(self, task: str, item: int, state: Tensors) -> None:
        """Copy how far this process is with an item that is not complete; forgotten with :meth:`put`."""
        ...

    def kept(self, task: str, item: int) -> Tensors | None:
        """Tell how far some process has got with an item; None if nobody has begun."""
        ...

    def wait(self) -> None:
        """Go on when all processes are here: what they have put before is there."""
        ...

    def drop(self, task: str) -> None:
        """Forget the results of a task that no process will ask for again."""
        ...


@dataclass(frozen=True)
class MemoryStore:
    """Everything in the memory of the only process."""

    results: dict[str, dict[int, Tensors]] = field(default_factory=dict)
    states: dict[str, dict[int, Tensors]] = field(default_factory=dict)

    def share(self, task: str, items: Sequence[int]) -> Share:
        """All that is missing."""
        missing = [item for item in items if item not in self.results.get(task, {})]
        return Share(missing, missing)

    def put(self, task: str, item: int, result: Tensors) -> None:
        """Keep a result."""
        self.results.setdefault(task, {})[item] = result
        self.states.get(task, {}).pop(item, None)

    def get(self, task: str, item: int) -> Tensors:
        """Give a result."""
        return self.results[task][item]

    def keep(self, task: str, item: int, state: Tensors) -> None:
        """Keep a copy of a state, since the tensors of those that advance together change."""
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
        self.states.setdefault(task, {})[item] = copies

    def kept(self, task: str, item: int) -> Tensors | None:
        """Give a state, if there is one."""
        return self.states.get(task, {}).get(item)

    def wait(self) -> None:
        """Nobody else is there."""

    def drop(self, task: str) -> None:
        """Forget a task."""
        self.results.pop(task, None)
        self.states.pop(task, None)


def split_evenly(items: Sequence[int], parts: int) -> list[list[int]]:
    """Cut a sequence into so many runs whose lengths differ by one at most; the first is not the shorter one."""
    ends = [-(-len(items) * part // parts) for part in range(parts + 1)]
    return [list(items[start:end]) for start, end in pairwise(ends)]
