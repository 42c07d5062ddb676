from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.io.settings import differences, from_table, to_table, typed


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": "three"}, "limit must be a number, not 'three'"),
        ({"limit": True}, "limit must be a number, not True"),
        ({"limit": 10**400}, "limit is too large a number"),
        ({"name": 3}, "name must be text, not 3"),
        ({"inner": [1]}, "inner must be a table, not a list"),
        ({"inner": {"rate": 1.0, "sides": 3}}, "sides must be a list, not 3"),
        ({"inner": {"rate": 1.0, "sides": [1.5]}}, "a value of sides must be a whole number, not 1.5"),
    ],
)
def test_values_of_another_type_are_refused_in_words(change: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError) as refused:
        from_table(Outer, {**to_table(Outer()), **change})
    assert str(refused.value) == said


class Found(TypedDict):
    moves: bool | None
    pair: tuple[int, float]
    kind: NotRequired[Literal["a", "b"]]
    curves: NotRequired[dict[str, list[float]]]
    volume: NotRequired[Float[Tensor, "n n n"]]


def test_dicts_with_known_keys_keep_what_else_they_have() -> None:
    table = {"moves": None, "pair": [1, 2], "curves": {"3": [1, 0.5]}, "words": "for people"}
    assert typed(Found, table, "it") == {**table, "pair": (1, 2.0)}


@pytest.mark.parametrize(
    "change",
    [
        {"pair": [1]},
        {"kind": "c"},
        {"curves": {"3": ["x"]}},
        {"volume": torch.ones(2, 2, 3)},
        {"volume": torch.ones(2, 2, 2, dtype=torch.int64)},
        {"volume": [1.0]},
    ],
)
def test_dicts_with_known_keys_have_the_types_of_all_of_them(change: dict[str, object]) -> None:
    good = {"moves": True, "pair": [1, 2], "kind": "a", "volume": torch.ones(2, 2, 2)}
    assert typed(Found, good, "it")["kind"] == "a"
    with pytest.raises(TypeError):
        typed(Found, good | change, "it")
    with pytest.raises(KeyError, match="moves"):
        typed(Found, {"pair": [1, 2]}, "it")


def test_differences_name_the_field_and_both_values() -> None:
    before, now = to_table(Outer()), to_table(Outer(Inner(rate=0.5), limit=None))
    assert differences(before, now) == ["inner.rate is 0.5, was 1.0", "limit is not set, was 3.0"]
    assert differences(before, now, ignored=("inner", "limit")) == []
