"""Processes that work together: what one has, all get; and a batch that they share teaches what a whole one does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

Launch = Callable[..., subprocess.CompletedProcess[str]]

_MESSAGES = """
import sys, time
from pathlib import Path
import torch
from scoretomo import processes
from scoretomo.datatypes import InputError

def refuse():
    raise InputError("no such file")

processes._VALUES_AT_ONCE = 7  # several messages
with processes.joined():
    me = processes.index()
    assert (processes.count(), processes.is_main()) == (2, me == 0)
    assert processes.from_main({"minutes": 5.0 + me}) == {"minutes": 5.0}
    assert processes.total(1.0, me) == (2.0, 1.0)
    assert processes.any_of_us(me == 1) and not processes.any_of_us(False)
    done = []
    assert processes.by_main(lambda: done.append(me) or "made") == "made" and done == [0] * (me == 0)
    try:
        processes.by_main(refuse)
    except InputError as error:
        assert str(error) == "no such file"
    else:
        raise AssertionError("nobody was told")
    tensors = [torch.full((2, 3), 1.0 + me), torch.tensor(5.0 * me), torch.arange(6.0).view(2, 3).T]
    processes.add_up(tensors)
    wanted = [torch.full((2, 3), 3.0), torch.tensor(5.0), 2 * torch.arange(6.0).view(2, 3).T]
    assert all(torch.equal(a, b) for a, b in zip(tensors, wanted, strict=True))
    if me == 1:
        time.sleep(0.5)
        Path(__file__).with_name("made_before").touch()
    processes.wait_for_all()
    assert Path(__file__).with_name("made_before").exists()
    with processes.only_main_speaks():
        print("said")
        print("said aloud", file=sys.stderr)
    if processes.first_to_fail():
        print("the reason")
    assert not processes.first_to_fail()
"""

_TRAINING = """
import sys
import torch
from scoretomo import processes
from scoretomo.optimiser import OptimiserConfig
from scoretomo.training import new_state, optimise_progressive

def train(index, count, add_up):
    def loss(model, batch_size, generator):
        inputs = torch.randn(batch_size, 3, generator=generator, dtype=torch.float64)
        errors = (model(inputs) - inputs.sum(1, keepdim=True)).square()[index::count]
        return errors.sum() / batch_size * (float("nan") if steps == 4 and index == count - 1 else 1)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)).double()
    config = OptimiserConfig(learning_rate=0.05, batch_size=7, warmup_images=0, clip_norm=0.5)
    state, steps, losses = new_state(model, config, torch.Generator().manual_seed(7)), 0, []
    for step in optimise_progressive(state, loss, config, lambda seen: seen / 140, add_up=add_up):
        steps += 1
        losses.append(step.loss)
    return {**state.state_dict(), "losses": torch.stack(losses)}

with processes.joined():
    shared = train(processes.index(), processes.count(), processes.add_up)
    torch.save(shared, f"{sys.argv[1]}/two_{processes.index()}.pt")
    if processes.is_main():
        torch.save(train(0, 1, lambda tensors: None), f"{sys.argv[1]}/one.pt")
"""


def _script(path: Path, code: str) -> Path:
    path.write_text(code)
    return path


def test_messages_between_two_processes(launch: Launch, tmp_path: Path) -> None:
    done = launch(_script(tmp_path / "messages.py", _MESSAGES))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "said", "the reason"]
    assert done.stderr == "said aloud\n"


def test_two_processes_that_share_odd_batches_train_as_one_does(launch: Launch, tmp_path: Path) -> None:
    """In double precision, where rounding is 1e-16; a batch that is bad in one process is skipped in both."""
    script = _script(tmp_path / "training.py", _TRAINING)
    done = launch(script, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    one, *two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two_0", "two_1"))
    assert one["skipped_steps"] == 1
    assert one["losses"][-1] < 0.5 * one["losses"][0]
    for each in two:
        assert (each["images_seen"], each["skipped_steps"]) == (140, 1)
        assert torch.equal(each["generator"], one["generator"])
        torch.testing.assert_close(each["losses"], one["losses"], rtol=1e-12, atol=0, equal_nan=True)
        for part in ("model", "averaged"):
            torch.testing.assert_close(each[part], one[part], rtol=1e-12, atol=1e-14)


def test_alone_nothing_is_loaded_or_waited_for() -> None:
    code = (
        "import sys, torch; from scoretomo import processes as p\n"
        "with p.joined():\n"
        "    p.wait_for_all(); p.add_up([torch.ones(2)])\n"
        "    print(p.count(), p.index(), p.is_main(), p.from_main(3), p.by_main(lambda: 4), p.total(1.5, 2.0))\n"
        "    print('accelerate' in sys.modules, torch.distributed.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1 0 True 3 4 (1.5, 2.0)\nFalse False\n", done.stderr


def test_a_process_that_is_told_of_others_but_not_where_they_are_says_so() -> None:
    code = "from scoretomo import cli; raise SystemExit(cli.main(['train', 'x', '-o', 'y']))"
    environment = {**os.environ, "PMI_SIZE": "2", "PMI_RANK": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("scoretomo: error: ") and "accelerate launch" in line
