"""Fixtures of the tests of verbs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from scoretomo.commands import drgn_training
from scoretomo.commands.progress import StoppedBetweenSteps

StoppedAfter = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> StoppedAfter:
    """End a training of cryoDRGN, as Ctrl-C does, after so many steps and searches."""

    @contextmanager
    def stopping(count: int) -> Iterator[None]:
        original, calls = drgn_training._Log.add, []

        def stop(self: drgn_training._Log, item: object) -> str:
            note = original(self, item)  # type: ignore[arg-type]
            calls.append(item)
            if len(calls) == count:
                raise StoppedBetweenSteps
            return note

        with monkeypatch.context() as patched:
            patched.setattr(drgn_training._Log, "add", stop)
            yield

    return stopping
