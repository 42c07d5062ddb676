"""Requests to end: Ctrl-C, SIGTERM of a batch system, SIGHUP of a terminal that was closed. All three end a job alike.

What is ignored when a job begins, as by nohup, remains ignored.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# A closed terminal tells a job so twice, and a launcher again and again; the first time it begins to end.
_SECONDS_DEAF = 5.0
# Shells give a job that a signal ends this status, and its number more.
_STATUS = 128


class Interrupted(KeyboardInterrupt):
    """A request to end; nothing but :func:`scoretomo.cli.main` may keep it."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def status_of(request: KeyboardInterrupt) -> int:
    """Exit status of a job that was asked to end."""
    return _STATUS + (request.number if isinstance(request, Interrupted) else signal.SIGINT)


@contextmanager
def handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the number of each request to end, in place of what was called before.

    In other threads than the main one, where signals cannot be handled, nothing changes.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            terminals = [number for number in (0, 1, 2) if _is_terminal(number)]
            for number in NUMBERS:
                stack.enter_context(_handled(number, handle, terminals))
        yield


def at_once() -> Callable[[int], None]:
    """Make a function that ends what is going on; asked again for the same within seconds, it lets it end."""
    heard: dict[int, float] = {}

    def end(number: int) -> None:
        before, heard[number] = heard.get(number), time.monotonic()
        if number == signal.SIGINT or before is None or heard[number] - before > _SECONDS_DEAF:
            raise Interrupted(number)

    return end


@contextmanager
def _handled(number: int, handle: Callable[[int], None], terminals: list[int]) -> Iterator[None]:
    before = signal.getsignal(number)
    if before in (signal.SIG_IGN, None):  # None: it is not ours to handle
        yield
        return

    def called(number: int, _frame: object) -> None:
        if number != signal.SIGINT and number != signal.SIGTERM:
            _leave(terminals)
        handle(number)

    signal.signal(number, called)
    try:
        yield
    finally:
        signal.signal(number, before)


def _leave(terminals: list[int]) -> None:
    """Lose what is said to a terminal that is gone: to write to it is an error, and what must be saved comes first."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in terminals:
        os.dup2(nowhere, number)
    os.close(nowhere)


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:  # it is closed
        return False
