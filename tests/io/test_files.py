"""Files are complete or absent, whatever happens while they are written."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError, Volume
from scoretomo.io.files import regular_file, replacing, replacing_folder, write_json, write_text
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import write_volume
from scoretomo.io.point_files import read_point_clouds


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".hdf"])
def test_what_is_no_file_is_said_before_it_is_opened(suffix: str, tmp_path: Path) -> None:
    """A pipe would be waited for without end."""
    pipe, folder, ring, lost = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "ring", "lost"))
    os.mkfifo(pipe)
    folder.mkdir()
    ring.symlink_to(ring)
    lost.symlink_to(tmp_path / "nothing")
    read = read_point_clouds if suffix == ".npz" else read_image_stack
    for path, said in (
        (pipe, "is no regular file"),
        (folder, "is a folder"),
        (ring, "Too many levels of symbolic links"),
        (lost, "no such file; it is a link to a place where nothing is"),
        (tmp_path / f"none{suffix}", "no such file"),
        (tmp_path / f"{'long' * 100}{suffix}", "File name too long"),
        (pipe / f"a{suffix}", "Not a directory"),
        (tmp_path / f"zero\0byte{suffix}", "embedded null byte"),
    ):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ") and str(error.value).endswith(said)


def test_names_that_are_not_utf8_are_said_in_letters_that_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.npy")
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(InputError, match="the name is not UTF-8") as error:
        regular_file(path)
    str(error.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.hdf").write_bytes(b"x")
    (tmp_path / "a.hdf").chmod(0)
    with pytest.raises(InputError, match=r"a\.hdf: Permission denied"):
        regular_file(tmp_path / "a.hdf")


def test_a_file_that_can_be_read_says_its_length(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert regular_file(tmp_path / "link") == 5


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
