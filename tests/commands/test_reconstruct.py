"""``scoretomo reconstruct`` makes the same volumes, shared by processes, interrupted, killed or short of memory."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import reconstruct as command
from scoretomo.commands.initial import find_models
from scoretomo.datatypes import ImageStack
from scoretomo.diffusion.edm import EDMDenoiser
from scoretomo.ensemble.growth import GrowthStep
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.checkpoints import load_checkpoint
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.runs import open_run

Launch = Callable[..., subprocess.CompletedProcess[str]]

_IMAGES = 9
_STEPS = 3
_GROWTH = f"--growth.distil.steps {_STEPS} --growth.distil.average 0.7".split()
# Runs the command line with two volumes at a time, every step saved; the worker is late, and may be killed after one of
# its steps. Without bfloat16, so that rounding is small.
_SCRIPT = """
import os, signal, sys, time
from scoretomo import cli
from scoretomo.commands import reconstruct

killed_after = int(sys.argv[1])
reconstruct.supports_fast_bfloat16 = lambda device: False
reconstruct.chunk_size = lambda *_: 2
reconstruct._SECONDS_BETWEEN_SAVES = 0.0
reconstruct._TIME_FOR_SAVES = 1e9
original = reconstruct.grow_progressive

def grow_progressive(*arguments, **named):
    steps = 0
    for step in original(*arguments, **named):
        yield step
        steps += 1
        time.sleep(0.2 * int(os.environ["RANK"]))
        if (steps, os.environ["RANK"]) == (killed_after, "1"):
            os.kill(os.getpid(), signal.SIGKILL)

reconstruct.grow_progressive = grow_progressive
sys.exit(cli.main(["reconstruct", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    structure = 1 + 0.3 * torch.randn(_IMAGES, 16, 16, generator=torch.Generator().manual_seed(1))
    write_images(folder / "averages.mrcs", ImageStack(10 * structure * soft_ball(16, 2, 4.0, 2.0), 3.5))
    network = "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1"
    options = "--optimiser.batch-size 8 --optimiser.warmup-images 16 --budget 64 --rigid True"
    options += " --initial.starts 2 --initial.kept 1"
    train = ["train", str(folder / "averages.mrcs"), "-o", str(folder / "run"), *network.split(), *options.split()]
    assert cli.main(train) == 0
    made = open_run(folder / "run")
    find_models(made, made.used, torch.device("cpu"))
    return made.folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run without volumes; the denoiser does not run in bfloat16, so that rounding is small."""
    monkeypatch.setattr(command, "supports_fast_bfloat16", lambda device: False)
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """What one process makes without an interruption, all volumes at once."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "supports_fast_bfloat16", lambda device: False)
        assert cli.main(["reconstruct", str(folder), *_GROWTH]) == 0
    return volumes(folder)


def volumes(run: Path) -> Tensor:
    paths = sorted((run / "volumes").glob("*.mrc"))
    assert len(paths) == _IMAGES
    return torch.stack([read_volume(path).volume.voxels for path in paths])


def assert_same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4 * second.std().item())


def stamps(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run / "volumes").glob("*.mrc")}


def counted(monkeypatch: pytest.MonkeyPatch, then: Callable[[int], None] = lambda made: None) -> list[GrowthStep]:
    """The steps that a command makes, as they come; something may happen after each."""
    original, steps = command.grow_progressive, []

    def grow_progressive(*arguments: object, **named: object) -> Iterator[GrowthStep]:
        for step in original(*arguments, **named):  # type: ignore[arg-type]
            steps.append(step)
            yield step
            then(len(steps))

    monkeypatch.setattr(command, "grow_progressive", grow_progressive)
    return steps


def volume_steps(steps: list[GrowthStep]) -> int:
    return sum(len(step.advancing.members) for step in steps if step.advancing is not None)


def left_to_do(run: Path) -> int:
    """Volume-steps of the last stage that no file has."""
    there = stamps(run)
    missing = [index for index in range(_IMAGES) if f"volume_{index:04d}.mrc" not in there]
    folder = run / "checkpoint" / "growth_seed0"
    states = [load_checkpoint(folder / f"{index:04d}.running.pt") for index in missing]
    return sum(_STEPS - (0 if state is None else int(state["step"])) for state in states)


def test_two_processes_of_which_one_is_killed_make_the_volumes_of_one(
    run: Path, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    (run / "checkpoint" / "initial.pt").unlink()  # one of them makes the initial model, and both begin with it
    # of nine images the worker has four: it completes two volumes, and makes two of the three steps of two others
    killed = launch(script, "5", str(run), *_GROWTH)
    assert killed.returncode != 0 and "going on" not in killed.stderr
    there, state = stamps(run), run / "checkpoint" / "growth_seed0" / "0008.running.pt"
    assert {"volume_0005.mrc", "volume_0006.mrc"} <= there.keys() and len(there) < _IMAGES
    assert load_checkpoint(state)["step"] == 2  # type: ignore[index]
    # the images are noise: an initial model made with another number of threads may be another one
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(run, undisturbed)
    shutil.rmtree(undisturbed / "volumes")
    shutil.rmtree(undisturbed / "checkpoint" / "growth_seed0")
    assert cli.main(["reconstruct", str(undisturbed), *_GROWTH]) == 0
    whole = volumes(undisturbed)

    shutil.copytree(run, tmp_path / "alone")
    done = launch(script, "-1", str(run), *_GROWTH)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"volumes: {run / 'volumes'}\n"
    said = [line for line in done.stderr.splitlines() if line.startswith(("scoretomo: ", "reconstruct: "))]
    assert said[0] == f"scoretomo: {len(there)} of {_IMAGES} volumes are there"
    assert said[1] == "scoretomo: going on with the reconstruction"
    assert said == done.stderr.splitlines() and len(set(said)) == len(said)
    assert stamps(run).items() >= there.items()
    assert_same(volumes(run), whole)

    expected, steps = left_to_do(tmp_path / "alone"), counted(monkeypatch)
    before = stamps(tmp_path / "alone")
    assert cli.main(["reconstruct", str(tmp_path / "alone"), *_GROWTH]) == 0
    assert volume_steps(steps) == expected
    assert stamps(tmp_path / "alone").items() >= before.items()
    assert_same(volumes(tmp_path / "alone"), whole)


@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_decide_nothing(chunk: int, run: Path, whole: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "chunk_size", lambda *_: chunk)
    assert cli.main(["reconstruct", str(run), *_GROWTH]) == 0
    assert_same(volumes(run), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reconstruction_that_is_ended_goes_on_with_the_next_step(
    number: signal.Signals,
    run: Path,
    whole: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        before = counted(patch, lambda made: os.kill(os.getpid(), number) if made == 1 else None)
        assert cli.main(["reconstruct", str(run), *_GROWTH]) == 128 + number
    assert len(before) == 2
    assert "going on" not in capsys.readouterr().err.replace("to go on", "")
    steps = counted(monkeypatch)
    assert cli.main(["reconstruct", str(run), *_GROWTH]) == 0
    assert "going on with the reconstruction" in capsys.readouterr().err
    assert volume_steps(before) + volume_steps(steps) == steps[-1].total
    assert_same(volumes(run), whole)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    original = EDMDenoiser.forward

    def forward(self: EDMDenoiser, noisy: Tensor, sigma: Tensor) -> Tensor:
        if len(noisy) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, noisy, sigma)

    monkeypatch.setattr(EDMDenoiser, "forward", forward)


def test_too_small_a_memory_halves_the_chunk_and_says_so(
    run: Path, whole: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_of_memory(monkeypatch, 2)
    assert cli.main(["reconstruct", str(run), *_GROWTH]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "at a time" in line]
    assert said[0].startswith(f"scoretomo: advancing {_IMAGES} volumes at a time (0.0 GB of ")
    assert said[1:] == [f"scoretomo: the memory is too small; advancing {k} volumes at a time" for k in (5, 3, 2)]
    assert_same(volumes(run), whole)


def test_a_volume_that_does_not_fit_is_one_line_and_status_2(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_of_memory(monkeypatch, 0)
    assert cli.main(["reconstruct", str(run), *_GROWTH]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("scoretomo: error: ") and "16 pixels" in line and "--side" in line
    assert not list(run.glob("volumes/*"))


def test_what_a_cluster_allows_a_job_bounds_its_memory(tmp_path: Path) -> None:
    def limit(folder: str, names: tuple[str, str], values: tuple[str, str]) -> None:
        (tmp_path / folder).mkdir(parents=True)
        for name, value in zip(names, values, strict=True):
            (tmp_path / folder / name).write_text(value + "\n")

    version_2 = ("memory.max", "memory.current")
    limit("slurm/job_7", version_2, ("1000", "300"))
    limit("slurm/job_7/step_0", version_2, ("max", "200"))
    limit("memory/docker", ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("500", "600"))

    assert command.left_of_limits("0::/slurm/job_7/step_0\n", tmp_path) == [700]
    assert command.left_of_limits("4:memory:/docker\n3:cpuset:/x:y\n", tmp_path) == [0]
    assert command.left_of_limits("0::/elsewhere\n", tmp_path) == []
    assert command.left_of_limits("", tmp_path) == []


def test_there_is_some_free_memory() -> None:
    assert 2**24 < command.free_memory(torch.device("cpu")) < 2**50


def test_metrics_are_those_of_the_steps_that_count(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of a command that was killed are replaced by those of the one that has made its steps again."""

    def interrupted(made: int) -> None:
        if made == 2:
            raise RuntimeError("killed")

    monkeypatch.setattr(command, "_SECONDS_BETWEEN_NOTES", 0.0)
    monkeypatch.setattr(command, "_SECONDS_BETWEEN_METRICS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        counted(patch, interrupted)
        cli.main(["reconstruct", str(run), *_GROWTH])
    assert cli.main(["reconstruct", str(run), *_GROWTH]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["phase"] == "reconstruct_seed0"]
    assert steps == [9, 18, 27]


def test_volumes_are_the_same_whichever_are_asked_for_first(
    run: Path, whole: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["reconstruct", str(run), *_GROWTH, "--images", "7", "2"]) == 0
    steps = counted(monkeypatch)
    assert cli.main(["reconstruct", str(run), *_GROWTH]) == 0
    assert volume_steps(steps) == (_IMAGES - 2) * _STEPS
    assert_same(volumes(run), whole)
