"""How far a long loop is: a bar on a terminal, a line now and then elsewhere; and Ctrl-C between two steps."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ..interruption import Interrupted, handled

_SECONDS_BETWEEN_LINES = 30.0

Report = Callable[[float, str], None]
"""``(part done from 0 to 1, what to say) -> None``; may be called at every step."""


def say(text: str) -> None:
    """Tell the user something that is no result: to standard error."""
    print(f"scoretomo: {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show the progress of a loop on standard error, with the time that is left."""
    console = Console(stderr=True)
    show = _bar if console.is_terminal else _lines
    with show(title, console) as report:
        yield report


@contextmanager
def _bar(title: str, console: Console) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    remaining = _TimeLeft()
    with Progress(*columns, console=console, transient=False) as bars:
        task = bars.add_task(title, total=1.0, note="")
        yield lambda part, note: bars.update(task, completed=part, note=f"{remaining(part)}  {note}")


@contextmanager
def _lines(title: str, console: Console) -> Iterator[Report]:
    remaining = _TimeLeft()
    last = time.monotonic() - _SECONDS_BETWEEN_LINES / 2  # the first line comes early: it works
    shown = ""

    def report(part: float, note: str) -> None:
        nonlocal last, shown
        shown = f"{title}: {part:.0%}, {remaining(part)}  {note}"
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(shown, file=sys.stderr, flush=True)
            shown = ""

    yield report
    if shown:
        print(shown, file=sys.stderr, flush=True)


class StoppedBetweenSteps(Interrupted):
    """A request to end, at a moment when everything may be saved."""


class _TimeLeft:
    """Words for the time that is left, from the pace since the first call."""

    def __init__(self) -> None:
        self.start: tuple[float, float] | None = None

    def __call__(self, part: float) -> str:
        now = time.monotonic()
        if self.start is None:
            self.start = (now, part)
        began, first = self.start
        if part >= 1:
            return f"{duration(now - began)}"
        if part <= first or now - began < 1:
            return "--:-- left"
        return f"{duration((1 - part) * (now - began) / (part - first))} left"


class Pace:
    """Things per second since the first call."""

    def __init__(self) -> None:
        self.start: tuple[float, int] | None = None

    def __call__(self, done: int) -> float:
        """Pace, after so many things are done."""
        now = time.monotonic()
        self.start = self.start or (now, done)
        return (done - self.start[1]) / max(now - self.start[0], 1e-3)


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def interruptible(agree: Callable[[bool], bool] = bool) -> Iterator[Callable[[], None]]:
    """Give a function to call between two steps; it raises StoppedBetweenSteps after Ctrl-C or a request to end.

    In the middle of a step nothing could be saved. A second Ctrl-C does not wait for the step to end.

    Parameters
    ----------
    agree
        Says whether to stop, given whether this process is asked to: where several stop at the same step or not at all.
    """
    asked: list[int] = []

    def ask(number: int) -> None:
        if asked and number == signal.SIGINT:
            raise Interrupted(number)
        asked.append(number)

    def check() -> None:
        if agree(bool(asked)):
            raise StoppedBetweenSteps(asked[0] if asked else signal.SIGINT)

    with handled(ask):
        yield check
