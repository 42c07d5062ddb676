"""Numbers outside their limits are refused by name, also those that are none."""

import math
from dataclasses import dataclass

import pytest

from scoretomo.datatypes import InputError
from scoretomo.limits import SEEDS, check_limit, check_limits


@dataclass(frozen=True)
class Config:
    rate: float | None = None
    sides: tuple[int, ...] = (8, 16)
    seed: int = 0

    def __post_init__(self) -> None:
        check_limits(self, rate=(0.5, 2.0), sides=(8, 64), seed=SEEDS)


def test_limits_themselves_are_taken() -> None:
    for rate in (None, 0.5, 2.0):
        Config(rate)
    Config(sides=())
    Config(sides=(8, 64), seed=2**32 - 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rate": math.nan}, "rate must be 0.5 to 2, not nan"),
        ({"rate": math.inf}, "rate must be 0.5 to 2, not inf"),
        ({"rate": 0.0}, "rate must be 0.5 to 2, not 0"),
        ({"sides": (8, 65)}, "sides must be 8 to 64, not 65"),
        ({"seed": -1}, "seed must be 0 to 4294967295, not -1"),
        ({"seed": 10**30}, "seed must be 0 to 4294967295, not 1e+30"),
        ({"seed": 10**400}, "seed must be 0 to 4294967295, not a number of 401 digits"),
    ],
)
def test_others_are_refused_by_name(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as refused:
        Config(**wrong)  # type: ignore[arg-type]
    assert str(refused.value) == said


def test_a_single_number_has_limits_too() -> None:
    check_limit("--count", 3, (1, 3))
    with pytest.raises(InputError, match="--count must be 1 to 3, not 4"):
        check_limit("--count", 4, (1, 3))
