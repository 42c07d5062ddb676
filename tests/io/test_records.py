"""What is read back is what was written; anything else is one line that names the file and says how to go on."""

from pathlib import Path
from typing import TypedDict

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.files import write_json
from scoretomo.io.records import read_json, read_toml, understood


class Note(TypedDict):
    words: str
    number: float


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_json(path, {"words": "ä", "number": 2, "more": [1]})
    assert read_json(path, Note, "") == {"words": "ä", "number": 2.0, "more": [1]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be understood"),
        (b'{"words": "a", "num', "cannot be understood"),
        (b'{"words": "\xff", "number": 1}', "it is not UTF-8"),
        (b"null", "it must be a table, not None"),
        (b"[[1, 2]]", "it must be a table, not a list"),
        (b'{"words": "a"}', r"another version \('number' is not in both\)"),
        (b'{"words": "a", "number": "1"}', "number must be a number, not '1'"),
        (b'{"words": "a", "number": NaN}', "NaN is no number"),
        (b'{"words": "a", "number": -Infinity}', "-Infinity is no number"),
        (b'{"words": "a", "number": 1e999}', "1e999 is too large"),
        (b'{"words": "a", "number": ' + b"9" * 5000 + b"}", "cannot be understood"),
        (b"[" * 100_000, "cannot be understood"),
    ],
)
def test_other_json_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: .*{said}.*; write it again$") as refused:
        read_json(path, Note, "write it again")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("content", ["words = ", "words = 1\nnumber = 1", "words = 'a'\nnumber = 'b'", "a\x00b"])
def test_other_toml_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "note.toml"
    path.write_text("words = 'a'\nnumber = 1\n")
    assert read_toml(path, Note, "") == {"words": "a", "number": 1.0}
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^{path}: .*; write it again$"):
        read_toml(path, Note, "write it again")


def test_a_folder_or_nothing_in_its_place_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(InputError, match=rf"^{path}: cannot be read .*; write it again$"):
            read_json(path, Note, "write it again")


def test_a_memory_that_is_too_small_is_no_fault_of_the_file() -> None:
    with pytest.raises(torch.OutOfMemoryError), understood(Path("state.pt"), ""):
        raise torch.OutOfMemoryError("2 GiB")
