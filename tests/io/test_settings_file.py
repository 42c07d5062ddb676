"""The file that says of what a folder was made."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.settings_file import SettingsFile

KIND = SettingsFile("cake.toml", "folder of a cake", "scoretomo bake", frozenset({"dough.npy"}))


@dataclass(frozen=True)
class Recipe:
    sugar: float = 1.0
    minutes: float | None = None


def begin(folder: Path, source: dict[str, object], recipe: Recipe) -> None:
    KIND.take_up(folder, "flour", source, recipe, limits=("minutes",))


@pytest.fixture
def source() -> dict[str, object]:
    return {"path": "/mill/a", "sha256": "ab"}


def test_reads_back_what_it_wrote(tmp_path: Path, source: dict[str, object]) -> None:
    (tmp_path / "dough.npy").touch()
    begin(tmp_path, source, Recipe(sugar=2.0))
    assert KIND.settings(tmp_path, Recipe) == Recipe(sugar=2.0)
    table = KIND.read(tmp_path)
    assert table["input"] == source
    assert {"scoretomo", "command"} < table.keys()


def test_goes_on_with_the_same_and_keeps_who_made_it(tmp_path: Path, source: dict[str, object]) -> None:
    begin(tmp_path, source, Recipe())
    command = (tmp_path / "cake.toml").read_text().splitlines()[:2]
    begin(tmp_path, source | {"path": "/mill/b"}, Recipe(minutes=5.0))
    table = KIND.read(tmp_path)
    assert table["input"]["path"] == "/mill/b"
    assert table["settings"]["minutes"] == 5.0
    assert (tmp_path / "cake.toml").read_text().splitlines()[:2] == command


def test_refuses_other_data_settings_and_folders(tmp_path: Path, source: dict[str, object]) -> None:
    begin(tmp_path, source, Recipe())
    before = (tmp_path / "cake.toml").read_bytes()
    with pytest.raises(InputError, match=r"made of other flour \(/mill/a: sha256 is cd, was ab\)"):
        begin(tmp_path, source | {"sha256": "cd"}, Recipe())
    with pytest.raises(InputError, match=r"other settings \(sugar is 3.0, was 1.0\)"):
        begin(tmp_path, source, Recipe(sugar=3.0))
    assert (tmp_path / "cake.toml").read_bytes() == before

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"other: holds other files \(thesis.tex\)"):
        begin(other, source, Recipe())
    assert not KIND.exists(other)


def test_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no folder of a cake .*scoretomo bake"):
        KIND.read(tmp_path)
    begun = 'scoretomo = "0"\ncommand = "bake"\ninput = {path = "a", sha256 = "b"}\n'
    (tmp_path / "cake.toml").write_text(f"{begun}[settings]\nsalt = 1.0\n")
    with pytest.raises(InputError, match=r"another version \('salt' is not in both\)"):
        KIND.settings(tmp_path, Recipe)
    (tmp_path / "cake.toml").write_bytes(b"\xff\xfe = nothing")
    with pytest.raises(InputError, match="cannot be understood"):
        KIND.read(tmp_path)
