"""Verdicts follow the evidence, compare with the set, and say why."""

import dataclasses

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.reliability import Parts
from scoretomo.ensemble.verdict import (
    FAILURE_LINE,
    VERDICTS,
    Calibration,
    calibration,
    contributions,
    judge,
    spread,
    standardised,
)

PLAIN = Calibration({"neighbour_agreement": 0.4, "match": 0.2, "score_excess": 0.1}, offset=-0.4, width=0.02)


def parts_of(seeds: int, count: int, **given: Tensor) -> Parts:
    """Evidence that varies a little at random, but for what is given."""
    generator = torch.Generator().manual_seed(3)

    def about(middle: float) -> Tensor:
        return middle + 0.02 * torch.randn(seeds, count, generator=generator)

    values = {name: about(0.7) for name in Parts.names()}
    values["match"] = about(3.0)
    if seeds == 1:
        values["seed_agreement"] = torch.full((1, count), torch.nan)
    return Parts(**{**values, **given})


def test_a_volume_that_falls_behind_in_everything_is_wrong_and_it_is_said_why() -> None:
    parts = parts_of(1, 20)
    for name, low in (("neighbour_agreement", 0.3), ("match", 2.0), ("score_excess", 3.0)):
        getattr(parts, name)[0, 4] = low
    judgement = judge(parts, PLAIN)
    assert judgement.verdicts[4] == "wrong"
    assert judgement.probability[0, 4] == judgement.probability.min()
    words = "; ".join(judgement.reasons[4])
    assert "look different (FSC area 0.30, usually 0.7" in words
    assert "correlation 0.865" in words  # 1 - exp(-2)
    assert "denoiser" in words


def test_where_all_volumes_agree_the_last_of_them_is_not_wrong() -> None:
    """The same order of the volumes, at a twentieth of the differences."""
    diverse = torch.linspace(0.4, 0.8, 20)[None]
    alike = 0.78 + (diverse - 0.78) / 20
    verdicts = [judge(parts_of(1, 20, neighbour_agreement=values), PLAIN).verdicts for values in (diverse, alike)]
    assert "wrong" in verdicts[0] and "reliable" in verdicts[0]
    assert set(verdicts[1]) == {"reliable"}


def test_the_likeliest_seed_is_kept() -> None:
    agreement = torch.full((3, 12), 0.6) + torch.linspace(0, 0.05, 12)
    best = torch.arange(12) % 3
    agreement[best, torch.arange(12)] += 0.1
    parts = parts_of(3, 12, neighbour_agreement=agreement)
    judgement = judge(parts, dataclasses.replace(PLAIN, weights={"neighbour_agreement": 0.2}))
    assert judgement.kept.tolist() == best.tolist()


@pytest.mark.parametrize("part", ["neighbour_agreement", "match", "seed_agreement", "score_excess"])
def test_better_evidence_never_lowers_the_probability(part: str) -> None:
    parts = parts_of(2, 15)
    using = dataclasses.replace(PLAIN, weights={**PLAIN.weights, "seed_agreement": 0.1})
    before = judge(parts, using).probability[0, 0]
    better = getattr(parts, part).clone()
    better[0, 0] += -0.01 if part == "score_excess" else 0.01
    # within the middle of the set, so that its median and spread stay
    after = judge(dataclasses.replace(parts, **{part: better}), using).probability[0, 0]
    assert after >= before - 0.02


def test_what_is_missing_counts_as_usual() -> None:
    parts = parts_of(1, 10)
    assert standardised(parts, "seed_agreement").eq(0).all()
    using = dataclasses.replace(PLAIN, weights={**PLAIN.weights, "seed_agreement": 0.3})
    assert torch.equal(judge(parts, using).probability, judge(parts, PLAIN).probability)


def test_the_log_odds_are_those_of_being_above_the_failure_line() -> None:
    """A volume that is expected at the line is as likely right as wrong."""
    parts = parts_of(1, 10)
    line = torch.tensor(FAILURE_LINE).log().item()
    at_line = Calibration({}, offset=line / spread(parts), width=0.02)
    assert sum(contributions(parts, at_line).values()).abs().max() < 1e-4


def test_few_volumes_are_doubtful_at_best() -> None:
    judgement = judge(parts_of(1, 3), dataclasses.replace(PLAIN, offset=1.0))
    assert judgement.verdicts == ("doubtful",) * 3
    assert all("too few volumes" in reasons[0] for reasons in judgement.reasons)
    assert not judgement.reliable.any()


def test_equal_volumes_are_judged_without_dividing_by_nothing() -> None:
    same = {name: torch.full((1, 9), 0.7) for name in Parts.names()}
    judgement = judge(Parts(**same), PLAIN)
    assert judgement.probability.isfinite().all() and len(set(judgement.verdicts)) == 1


def test_something_odd_is_named_even_if_it_has_no_weight() -> None:
    parts = parts_of(1, 20)
    parts.radius[0, 7] = 0.3
    assert any("parts missing" in reason for reason in judge(parts, PLAIN).reasons[7])


def test_the_calibration_of_the_package_is_monotone_and_complete() -> None:
    using = calibration()
    assert using.weights and set(using.weights) <= set(Parts.names())
    assert min(using.weights.values()) > 0 and using.width > 0
    judgement = judge(parts_of(3, 20), using)
    assert set(judgement.verdicts) <= set(VERDICTS)
    assert all(judgement.reasons) or "doubtful" in judgement.verdicts
