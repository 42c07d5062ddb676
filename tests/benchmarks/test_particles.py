"""The benchmark of particles makes its sets and runs, and judges them by the truth."""

from pathlib import Path
from typing import Any

import pytest
import torch

_ROOT = Path(__file__).parents[2]


def _blob(*centre: float) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(36.0) - 18] * 3, indexing="ij"))
    return (-(grid - torch.tensor(centre)[:, None, None, None]).square().sum(0) / 8).exp()


def test_what_moves_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large part stands still: one volume for all is right there, and wrong where something moves."""
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks import particles

    still = _blob(0, -9, 1) + _blob(-4, -7, -4) + 0.8 * _blob(5, -8, 2)
    truths = torch.stack([still + 0.5 * _blob(0, 9, x) for x in (-5, 0, 5)])
    one, own = particles._scores(truths.mean(0).expand(3, -1, -1, -1), truths), particles._scores(truths, truths)
    assert one["moving_correlation"] < 0.7 < 0.9 < one["correlation"]
    assert one["moving_resolution_pixels"] > 1.5 * own["moving_resolution_pixels"]
    assert own["moving_correlation"] > 0.99


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
    assert clean["back_projection_mean_fsc_auc"] > clean["mean_fsc_auc"]
    assert all(0 < row["moving_correlation"] < 1 for row in rows[2:])
    again = list(particles.measure(settings))
    assert again == rows
