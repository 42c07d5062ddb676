"""A run folder: one job at a time, and nothing of a killed one stays."""

from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.run_lock import locked


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


def test_a_folder_in_which_nothing_was_made_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(InputError), locked(tmp_path / "new"):
        raise InputError("bad images")
    assert not (tmp_path / "new").exists()
