"""The command line in two processes that work together: what one would make, said once, whatever happens to them."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scoretomo import cli
from scoretomo.commands import train as train_command
from scoretomo.datatypes import ImageStack
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import write_images

Launch = Callable[..., subprocess.CompletedProcess[str]]

# Batches do not divide evenly; 10 steps.
_SETTINGS = (
    "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1 --held-out 0.2 "
    "--optimiser.batch-size 7 --optimiser.warmup-images 16 --budget 70"
)
# Runs the command line; in step 3 something may happen. Without bfloat16, so that rounding is small.
_SCRIPT = """
import os, signal, sys, time
from scoretomo import cli
from scoretomo.commands import train, training_loop

what = sys.argv[1]
train.supports_fast_bfloat16 = lambda device: False
training_loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0 if what == "kill worker" else 60.0
original, steps = train.training_loss, 0

def loss(*arguments, **named):
    global steps
    steps += 1
    if steps == 3 and what.startswith("signal") and os.environ["RANK"] == "1":
        os.kill(os.getppid() if "launcher" in what else os.getpid(), int(what.split()[-1]))
        time.sleep(0.5)
    if (steps, what, os.environ["RANK"]) == (3, "kill worker", "1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)

train.training_loss = loss
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(_SCRIPT)
    return path


@pytest.fixture
def images(tmp_path: Path, generator: torch.Generator) -> Path:
    structure = 1 + 0.3 * torch.randn(6, 16, 16, generator=generator)
    write_images(tmp_path / "averages.mrcs", ImageStack(10 * structure * soft_ball(16, 2, 4.0, 2.0), 3.5))
    return tmp_path / "averages.mrcs"


def _said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the package has printed to standard error; the launcher has a lot to say of its own when a worker fails."""
    return [line for line in done.stderr.splitlines() if line.startswith(("scoretomo: ", "train: "))]


def _state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoint" / "training.pt", weights_only=True)["state"]  # type: ignore[no-any-return]


def _metrics(run: Path) -> dict[str, float]:
    """The only line, without what depends on clocks and on where it began."""
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    return {
        name: value for name, value in json.loads(line).items() if name.startswith(("held_out", "step", "learning"))
    }


def test_training_shared_by_two_goes_on_after_a_kill_and_equals_that_of_one(
    launch: Launch, script: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # all by AdamW: sums in another order differ by rounding, which the bfloat16 iterations of Muon make larger
    command = ["train", str(images), *_SETTINGS.split(), "--optimiser.muon-rate", "0", "-o"]
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setattr(train_command, "supports_fast_bfloat16", lambda device: False)
    assert cli.main([*command, str(one)]) == 0

    killed = launch(script, "kill worker", *command, str(two))
    assert killed.returncode != 0
    assert _said(killed)[-1].endswith(
        "another process of this job has ended or cannot be reached; give the same command again to go on"
    )
    assert len(set(_said(killed))) == len(_said(killed)) and "scoretomo/" not in killed.stderr  # once; no traceback
    assert _state(two)["images_seen"] == 14

    done = launch(script, "nothing", *command, str(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"denoiser: {two / 'denoiser'}\n"
    assert _said(done) == done.stderr.splitlines() and len(set(_said(done))) == len(_said(done))
    assert any(line.startswith("scoretomo: going on after 14 images") for line in _said(done))
    assert torch.equal(_state(one)["generator"], _state(two)["generator"])
    assert _metrics(two) == pytest.approx(_metrics(one), rel=1e-5)
    assert (two / "denoiser" / "config.json").read_bytes() == (one / "denoiser" / "config.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to"), [(signal.SIGINT, "launcher"), (signal.SIGTERM, "launcher"), (signal.SIGTERM, "one")]
)
def test_asked_to_end_all_save_the_step_that_all_have_made(
    number: signal.Signals, to: str, launch: Launch, script: Path, images: Path, tmp_path: Path
) -> None:
    command = ["train", str(images), *_SETTINGS.split(), "-o", str(tmp_path / "run")]
    ended = launch(script, f"signal to {to} {number.value}", *command)
    assert ended.returncode != 0
    assert _said(ended)[-1] == "scoretomo: interrupted; give the same command again to go on"
    assert len(set(_said(ended))) == len(_said(ended)) and "scoretomo/" not in ended.stderr
    assert _state(tmp_path / "run")["images_seen"] == 21


def test_bad_input_is_one_line_and_status_2_of_two_processes(launch: Launch, script: Path, tmp_path: Path) -> None:
    done = launch(
        script, "nothing", "train", str(tmp_path / "lost.mrcs"), "-o", str(tmp_path / "run"), "--minutes", "1"
    )
    assert done.returncode != 0
    (line,) = _said(done)
    assert line.startswith("scoretomo: error: ") and "lost.mrcs" in line
    assert done.stderr.startswith(line)  # the launcher's report follows
    assert "exitcode  : 2 " in done.stderr
    assert "scoretomo/" not in done.stderr  # no traceback of ours
    assert not (tmp_path / "run").exists()
