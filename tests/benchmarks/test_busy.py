"""What the benchmark of a busy machine runs, what it keeps busy meanwhile, and what it makes of the times."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]


def test_each_command_runs_alone_and_beside_a_load_that_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks import busy

    loads: list[subprocess.Popen[bytes]] = []
    ran: list[tuple[str, ...]] = []
    left: list[set[str]] = []
    original = subprocess.Popen

    def start(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        loads.append(original(*words, **options))
        return loads[-1]

    def run(words: tuple[str, ...]) -> float:
        ran.append(words)
        checkpoints = tmp_path / "run" / "checkpoint"
        left.append({path.stem for path in checkpoints.glob("*.pt")} | {path.name for path in tmp_path.iterdir()})
        checkpoints.mkdir(parents=True, exist_ok=True)
        for name in ("initial", "refine", "motion_copies"):
            (checkpoints / f"{name}.pt").touch()
        return 3.0 if any(load.poll() is None for load in loads) else 2.0

    monkeypatch.setattr(busy.subprocess, "Popen", start)
    monkeypatch.setattr(busy.time, "sleep", lambda _: None)
    monkeypatch.setattr(busy, "_seconds", run)
    rows = list(busy.measure(busy.Settings(output=tmp_path, loads=("one thread",))))
    assert [row["command"] for row in rows[::2]] == ["initial", "motion", "train", "tests"]
    assert {(row["load"], row["seconds"], row["times"]) for row in rows} == {
        ("alone", 2.0, None),
        ("one thread", 3.0, 1.5),
    }
    assert len(loads) == 4 and all(load.poll() is not None for load in loads)
    assert left[1] == left[2] == set()  # the initial model is made anew
    assert left[3] == left[4] == {"run", "initial"}  # what follows from it is, and it is not
    assert len(ran) == 1 + 2 * 4  # the simulation, and all twice
