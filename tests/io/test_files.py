"""Files are complete or absent, whatever happens while they are written."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError, Volume
from scoretomo.io.files import replacing, replacing_folder, write_json, write_text
from scoretomo.io.mrc import write_volume


def test_text_and_json_arrive(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "5 Å\n")
    write_json(tmp_path / "a.json", {"fsc": [0.5, 1]})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "5 Å\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"fsc": [0.5, 1]}
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the")
        raise RuntimeError
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_not_there_before_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "result.mrc"
    with replacing(path) as temporary:
        temporary.write_text("x")
        assert not path.exists()
        assert temporary.parent == path.parent and temporary.suffix == ".mrc"
    assert path.exists()


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 kB: writing fails in the middle, as on a full disk.

    Not a fixture: between the phases of a test pytest itself writes, maybe to a file that is longer than that.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("earlier")
    with small_disk(), pytest.raises(InputError, match=r"cannot write .*result\.txt: "):
        write_text(path, "x" * 10_000)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_while_writing_a_volume(tmp_path: Path) -> None:
    with small_disk(), pytest.raises(InputError, match=r"cannot write .*volume\.mrc: "):
        write_volume(tmp_path / "volume.mrc", Volume(torch.zeros(20, 20, 20), 2.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["absent/a.txt", "file/a.txt", "folder"])
def test_places_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "shared.txt"
    with replacing(path) as first:
        with replacing(path) as second:
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"  # the last to finish wins
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    for name in ("first", "second"):
        with replacing_folder(folder) as new:
            (new / name).touch()
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder) as new:
        (new / "third").touch()
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["second"] and len(list(tmp_path.iterdir())) == 1
