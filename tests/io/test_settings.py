from dataclasses import dataclass, field

import pytest

from scoretomo.io.settings import differences, from_table, to_table


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    limit: float | None = 3.0
    name: str = "a"


def test_a_table_comes_back_as_the_same_config() -> None:
    config = Outer(Inner(2.0, (3,)), None, "b")
    assert from_table(Outer, to_table(config)) == config


def test_none_is_left_out_and_comes_back_as_none_whatever_the_default() -> None:
    assert "limit" not in to_table(Outer(limit=None))
    assert from_table(Outer, to_table(Outer(limit=None))).limit is None


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    rate = from_table(Outer, {"inner": {"rate": 2, "sides": [1]}, "name": "a"}).inner.rate
    assert isinstance(rate, float)


@pytest.mark.parametrize("change", [{"colour": 1}, {"inner": {"rate": 1.0}}])
def test_fields_that_are_too_many_or_too_few_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(KeyError):
        from_table(Outer, {**to_table(Outer()), **change})


def test_differences_name_the_field_and_both_values() -> None:
    before, now = to_table(Outer()), to_table(Outer(Inner(rate=0.5), limit=None))
    assert differences(before, now) == ["inner.rate is 0.5, was 1.0", "limit is not set, was 3.0"]
    assert differences(before, now, ignored=("inner", "limit")) == []
