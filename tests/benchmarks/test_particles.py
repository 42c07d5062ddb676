"""The benchmark of particles makes its sets and runs, and judges them by the truth."""

from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_toy_set_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute."""
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks import particles

    settings = particles.Settings(tmp_path, side=16, count=100, moving_count=100, hidden=16, epochs=12)
    rows: list[dict[str, Any]] = list(particles.measure(settings))
    assert [(row["set"], row["poses"], row["z"]) for row in rows] == [
        ("clean", "search", 0),
        ("noisy", "search", 0),
        ("moving", "known", 0),
        ("moving", "known", 1),
        ("moving", "search", 1),
    ]
    clean, noisy = rows[:2]
    assert clean["ceiling_median_degrees"] < 10 < noisy["ceiling_median_degrees"]
    assert clean["ceiling_median_degrees"] <= clean["median_degrees"]
    assert all(2 <= row["mean_resolution_pixels"] <= 16 and row["seconds"] > 0 for row in rows)
    again = list(particles.measure(settings))
    assert again == rows
