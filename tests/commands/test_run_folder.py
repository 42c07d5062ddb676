"""Opening a run folder: what is none is refused, and so is a crowd where one is enough."""

from pathlib import Path

import pytest

from scoretomo import processes
from scoretomo.commands.run_folder import opened
from scoretomo.datatypes import InputError


def test_a_folder_that_is_no_run_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run folder"), opened(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused_where_the_work_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(InputError, match="without a launcher"), opened(tmp_path):
        pass
    with pytest.raises(InputError, match="is no run folder"), opened(tmp_path, shared=True):
        pass
