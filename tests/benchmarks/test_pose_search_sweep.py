"""The sweep measures what its rows say: finer grids err less, and are told from base in the words of the table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks import pose_search_sweep

    return pose_search_sweep


def test_a_coarser_grid_is_worse_and_faster_as_003_says(sweep: Any) -> None:
    rows = list(sweep.measure(sweep.Settings(side=24, images=10, snr=100.0, only=("M 1",))))
    base, coarse = rows
    assert [base["setting"], coarse["setting"]] == ["base", "M 1"]
    assert base["median_degrees"] < 3  # in the frame of the volume, nothing aligned
    assert base["median_shift_error_pixels"] < 0.3
    assert coarse["median_squared_error"] > 1.5 * base["median_squared_error"]
    assert coarse["median_to_base"] == coarse["003_median_to_base"] == "worse"
    assert coarse["003_times_base"] == pytest.approx(56 / 23, rel=0.01)


def test_errors_are_told_apart_beyond_their_scatter(sweep: Any) -> None:
    assert [sweep.change(error, 1.0) for error in (0.5, 1.1, 0.9, 1.5)] == ["better", "same", "same", "worse"]


def test_every_setting_is_a_grid_of_its_own(sweep: Any) -> None:
    grids = [replace(sweep._grid(64), **each.changes) for each in sweep.SETTINGS]
    assert len({each.name for each in sweep.SETTINGS}) == len(grids)
    assert len(set(grids)) == len(grids)
    base = grids[0]
    assert (base.base_order, base.kept, base.refinements, base.shift_count) == (2, 8, 4, 14)
    assert base.shift_extent_pixels == 10
