"""The store of a growth on disk: what processes, machines and later commands leave for each other."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import processes
from ..datatypes import InputError
from ..ensemble.stages import VOLUMES
from ..ensemble.store import Share, Tensors, split_evenly
from ..runs import Run, load_checkpoint, save_checkpoint

# Network file systems may show a file to other machines only after they have asked again.
_SECONDS_TO_APPEAR = 120.0


@dataclass(frozen=True)
class GrowthFolder:
    """A :class:`scoretomo.ensemble.store.Store` in a run folder that all processes see.

    Results are ``checkpoint/growth_seedK/TASK/ITEM.pt``, but volumes that were asked for are the files in ``volumes``;
    states are ``ITEM.running.pt`` beside them. Each file is complete or absent, and one process writes it. Items are
    counted among the images that are used, but volumes have the numbers of the input.
    """

    run: Run
    seed: int

    @property
    def folder(self) -> Path:
        """Where all is but the volumes that were asked for."""
        return self.run.growth_folder(self.seed)

    def share(self, task: str, items: Sequence[int]) -> Share:
        """Have the main process look what is missing: nobody writes until it has told the others."""
        missing = processes.by_main(lambda: self._missing(task, items))
        return Share(missing, split_evenly(missing, processes.count())[processes.index()])

    def put(self, task: str, item: int, result: Tensors) -> None:
        """Write a result."""
        if task == VOLUMES:
            self.run.save_volume(self.run.used[item], self.seed, result["volume"])
        else:
            _save(self.result(task, item), result)
        self._state(task, item).unlink(missing_ok=True)

    def get(self, task: str, item: int) -> Tensors:
        """Read a result, in part only if only part of it is used."""
        path = self.result(task, item)
        patience = time.monotonic() + _SECONDS_TO_APPEAR
        while (found := load_checkpoint(path, lazily=True)) is None:
            if time.monotonic() > patience:
                raise InputError(f"{path}: is gone; do not change the folder while a reconstruction is running")
            time.sleep(0.1)
        return found

    def keep(self, task: str, item: int, state: Tensors) -> None:
        """Write a state."""
        _save(self._state(task, item), state)

    def kept(self, task: str, item: int) -> Tensors | None:
        """Read a state, in part only if only part of it is used."""
        return load_checkpoint(self._state(task, item), lazily=True)

    def wait(self) -> None:
        """Wait for the other processes."""
        processes.wait_for_all()

    def drop(self, task: str) -> None:
        """Remove the files of a task."""
        if processes.is_main():
            shutil.rmtree(self.folder / task, ignore_errors=True)

    def _missing(self, task: str, items: Sequence[int]) -> list[int]:
        """Items without a result, by one look at the folder, since there may be thousands."""
        paths = {item: self.result(task, item) for item in items}
        there = {path.name for folder in {path.parent for path in paths.values()} for path in folder.glob("*")}
        return [item for item, path in paths.items() if path.name not in there]

    def result(self, task: str, item: int) -> Path:
        """File of a result."""
        if task == VOLUMES:
            return self.run.volume(self.run.used[item], self.seed)
        return self.folder / task / f"{item:04d}.pt"

    def _state(self, task: str, item: int) -> Path:
        return self.folder / task / f"{item:04d}.running.pt"


def _save(path: Path, tensors: Tensors) -> None:
    """Write tensors; copied, since of a part of a tensor the whole would be written."""
    save_checkpoint(path, {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()})
