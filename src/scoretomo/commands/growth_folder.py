"""The store of a growth on disk: what processes and later commands leave for each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..ensemble.store import Share, Tensors, split_evenly
from ..io.checkpoints import load_checkpoint, save_checkpoint, taken_over
from ..runs import Run


class _State(TypedDict):
    """How far a volume is, as :meth:`scoretomo.ensemble.growth.Advancing.keep` says it."""

    step: Int[Tensor, ""]
    generator: UInt8[Tensor, " bytes"]
    volumes: Float[Tensor, "n n n"]
    average: NotRequired[Float[Tensor, "n n n"]]
    base_error: Float[Tensor, ""]
    score_error: Float[Tensor, ""]


@dataclass(frozen=True)
class GrowthFolder:
    """A :class:`scoretomo.ensemble.store.Store` in a run folder that all processes see.

    Volumes are the files in ``volumes``, states ``checkpoint/growth_seedK/ITEM.running.pt``. Each file is complete or
    absent, and one process writes it. Items are counted among the images that are used, but files have the numbers of
    the input.
    """

    run: Run
    seed: int
    other: Callable[[int], Float[Tensor, "n n n"]] | None = None
    """Where it is given, the mean of a volume and the other of its item is written."""

    @property
    def folder(self) -> Path:
        """Where the states are."""
        return self.run.growth_folder(self.seed)

    def share(self, items: Sequence[int]) -> Share:
        """Have the main process look what is missing: nobody writes until it has told the others."""
        missing = processes.by_main(lambda: [item for item in items if not self._volume(item).exists()])
        return Share(missing, split_evenly(missing, processes.count())[processes.index()])

    def put(self, item: int, volume: Tensor) -> None:
        """Write a volume."""
        if self.other is not None:
            volume = (volume + self.other(item)) / 2
        self.run.save_volume(self.run.used[item], self.seed, volume)
        self._state(item).unlink(missing_ok=True)

    def keep(self, item: int, state: Tensors) -> None:
        """Write a state; copied, since of a part of a tensor the whole would be written."""
        save_checkpoint(self._state(item), {name: tensor.to("cpu", copy=True) for name, tensor in state.items()})

    def kept(self, item: int) -> Tensors | None:
        """Read a state, in part only if only part of it is used."""
        path, side = self._state(item), self.run.images.shape[-1]
        state = load_checkpoint(path, _State, lazily=True)
        if state is None:
            return None
        with taken_over(path):
            if len(state["volumes"]) != side:
                raise InputError(f"it is of a volume of {len(state['volumes'])} pixels, and the run has {side}")
        tensors: Tensors = dict(state)  # type: ignore[arg-type]  # all its values are
        return tensors

    def wait(self) -> None:
        """Wait for the other processes."""
        processes.wait_for_all()

    def _volume(self, item: int) -> Path:
        return self.run.volume(self.run.used[item], self.seed)

    def _state(self, item: int) -> Path:
        return self.folder / f"{self.run.used[item]:04d}.running.pt"
