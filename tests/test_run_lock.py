"""A run folder: one job at a time, and nothing of a killed one stays."""

from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.run_lock import locked, written_to


def test_two_processes_cannot_work_in_one_folder_and_leftovers_go(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / ".training.ab12.partial.pt").write_text("half")
    (folder / ".denoiser.partial").mkdir()
    with locked(folder):
        assert sorted(path.name for path in folder.rglob("*")) == [".lock", "checkpoint"]
        with pytest.raises(InputError, match="at work"), locked(folder):
            pass
    with locked(folder):
        pass


def test_results_are_not_written_into_the_folder_of_a_job_at_work(tmp_path: Path) -> None:
    """A job that begins clears away what is half written, whoever writes it."""
    run, half = tmp_path / "run", tmp_path / "run" / "halves" / ".fsc.ab12.partial.csv"
    run.mkdir()
    with (
        locked(run),
        pytest.raises(InputError, match=r"run: another scoretomo .*elsewhere with -o"),
        written_to(half.parent),
    ):
        pass
    with written_to(half.parent):  # the job is over; now the other one waits
        half.parent.mkdir()
        half.touch()
        with pytest.raises(InputError, match="at work"), locked(run):
            pass
        assert half.exists()


def test_elsewhere_nothing_is_locked(tmp_path: Path) -> None:
    """Nor where a lock of that name is not ours, which has something in it."""
    (tmp_path / ".lock").write_text("of another program")
    with written_to(tmp_path / "results"):
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
    assert (tmp_path / ".lock").read_text() == "of another program"


def test_a_folder_in_which_nothing_was_made_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(InputError), locked(tmp_path / "new"):
        raise InputError("bad images")
    assert not (tmp_path / "new").exists()
