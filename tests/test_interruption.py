"""Ctrl-C, SIGTERM and SIGHUP end a job alike, whatever it is at; what was to be ignored is ignored."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scoretomo.interruption import NUMBERS, Interrupted, at_once, handled, status_of


@pytest.mark.parametrize("number", NUMBERS)
def test_a_request_is_an_interruption_with_the_status_that_shells_give(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as request, handled(at_once()):
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert status_of(request.value) == 128 + number
    assert signal.getsignal(number) is before


def test_the_second_signal_of_a_closed_terminal_does_not_disturb_what_the_first_began() -> None:
    with handled(at_once()):
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(10)
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted):  # but a person may be in a hurry
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(at_once()):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_command_that_still_loads_its_libraries_ends_in_one_line(number: signal.Signals, tmp_path: Path) -> None:
    """PyTorch, in whose place a module waits that says when it is asked for."""
    (tmp_path / "torch.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    code = "import sys; from scoretomo.cli import main; sys.exit(main(['train', 'images.mrcs', '-o', 'run']))"
    source = str(Path(sys.modules["scoretomo"].__file__ or "").parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert said == "scoretomo: interrupted; give the same command again to go on\n"
    assert process.returncode == 128 + number
