"""The benchmark's figures on sets where they are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoretomo.ensemble.reliability import Parts
from scoretomo.ensemble.verdict import FAILURE_LINE, judge

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def reliability(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks import reliability

    return reliability


def simulated(reliability: Any, name: str, seed: int, noise: float) -> Any:
    """Volumes whose agreement with neighbours and match follow the truth up to some noise; the rest means nothing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 40)
    areas = 0.7 - 0.15 * torch.rand(shape, generator=generator) ** 2
    values = {name: torch.randn(shape, generator=generator) for name in Parts.names()}
    values["neighbour_agreement"] = areas + noise * torch.randn(shape, generator=generator)
    values["match"] = 4 + 5 * (areas + noise * torch.randn(shape, generator=generator))
    return reliability.Simulated(name, Parts(**values), areas.double().numpy())


def test_the_fit_finds_what_predicts_the_truth(reliability: Any) -> None:
    sets = [simulated(reliability, f"box_{seed}", seed, 0.01) for seed in range(3)]
    found = reliability.fit(sets)
    assert min(found.weights.values()) >= 0
    telling = min(found.weights["neighbour_agreement"], found.weights["match"])
    assert telling > max(w for name, w in found.weights.items() if name not in ("neighbour_agreement", "match"))
    fresh = simulated(reliability, "box_9", 9, 0.01)
    probability = judge(fresh.parts, found).probability.double().numpy()
    right = fresh.relative >= FAILURE_LINE
    assert reliability.auroc(~right.ravel(), probability.ravel()) > 0.85  # five parts of seven are noise
    assert abs(probability.mean() - right.mean()) < 0.15


def test_auroc_is_the_share_of_pairs_in_the_right_order(reliability: Any) -> None:
    failed = np.array([True, False, True, False, False])
    probability = np.array([0.1, 0.9, 0.6, 0.6, 0.3])
    pairs = [
        (probability[f] < probability[g]) + 0.5 * (probability[f] == probability[g]) for f in (0, 2) for g in (1, 3, 4)
    ]
    assert reliability.auroc(failed, probability) == pytest.approx(np.mean(pairs))
    assert np.isnan(reliability.auroc(np.zeros(5, dtype=bool), probability))


def test_failures_left_by_the_best_seed_are_counted(reliability: Any) -> None:
    areas = np.array([[0.8, 0.95, 0.5], [0.95, 0.8, 0.6]])
    figures = reliability._figures(areas, areas)
    assert figures["single"] == pytest.approx(4 / 6)
    assert figures["best"] == figures["oracle"] == pytest.approx(1 / 3)
    assert figures["left"] == pytest.approx(0.5)
    assert reliability._figures(areas, -areas)["best"] == 1
