"""Tables come back as they were written, and broken ones are refused by name."""

from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.tables import read_table, write_table


def test_rows_come_back_as_text(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(
        path, [{"index": 3, "words": 'soft, "blurred"', "value": 0.25}, {"index": 4, "words": "", "value": None}]
    )
    assert read_table(path, ["index"]) == [
        {"index": "3", "words": 'soft, "blurred"', "value": "0.25"},
        {"index": "4", "words": "", "value": ""},
    ]


def test_rows_of_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_table(tmp_path / "table.csv", [{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError):
        write_table(tmp_path / "table.csv", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,c\n1,2\n", "no column b"), ("", "no column a, b"), ("a,b\n1,2\n3\n", "line 3")],
)
def test_broken_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_table(path, ["a", "b"])


@pytest.mark.parametrize("value", ["", "x", "1.5", "nan", "1e3"])
def test_what_must_be_a_whole_number_is_one(tmp_path: Path, value: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"a,b\n1,2\n{value},2\n")
    with pytest.raises(InputError, match=rf"table\.csv: row 2 has '{value}' for a, .* whole number; make it anew"):
        read_table(path, whole=["a"], advice="make it anew")
    assert len(read_table(path, whole=["b"])) == 2


@pytest.mark.parametrize("value", ["", "x", "nan", "-inf", "1e999"])
def test_what_must_be_a_number_is_a_finite_one(tmp_path: Path, value: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"a,b\n1.5,2\n{value},-1e3\n")
    with pytest.raises(InputError, match="which is no number"):
        read_table(path, numbers=["b", "a"])
    assert len(read_table(path, numbers=["b"])) == 2


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_table(tmp_path / "absent.csv")
