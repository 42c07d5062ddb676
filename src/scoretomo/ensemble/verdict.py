"""Verdicts on volumes: one calibrated probability that a volume is right, and the evidence that says why, in words.

A volume is right if its FSC-AUC with the truth is at least 0.85 of what good volumes of its set reach, the upper
decile. On simulated sets of boxes and capsids, grown from sharp volumes in rounds, this ratio was 0.943 on average
with a standard deviation of 0.046 (`benchmarks/reliability.py`): the line is two of these below the mean, so that what
noise and conformation alone make counts as right. Where many volumes never lock, there are two modes, about 0.7 and
0.92, and the line lies in the dip between them. The better the best volumes are, the more fall short of them.

Every part of the evidence is put in units of the spread of its set. Their weighted sum says by how much the FSC-AUC of
a volume falls short of the good ones, in units of how much the volumes of the set differ at all, which is known from
how well they agree with their neighbours: where all volumes agree, none is called wrong for being the last of them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .reliability import Parts

Verdict = Literal["reliable", "doubtful", "wrong"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

FAILURE_LINE = 0.85
"""Part of the upper decile of FSC-AUC below which a volume has failed."""

# Probabilities from which a volume is reliable, and below which it is wrong.
_RELIABLE, _WRONG = 0.7, 0.3
# With fewer volumes there is no set to compare with.
_FEWEST = 8
_LEAST_SPREAD = 0.1
# Parts are cut off at so many robust standard deviations.
_FARTHEST = 3.0
# A part is named as a reason if it moves the odds by this factor or more (natural logarithm), at most so many of them.
_TELLING = 0.3
_MOST_REASONS = 3
# A part without weight is named if it is off by so many robust standard deviations.
_OFF = 3.5

# What it means that a part is low, and that it is high; the numbers are its value and the median of the set.
_WORDS = {
    "seed_agreement": (
        "independent seeds disagree (FSC area {value:.2f}, usually {usual:.2f})",
        "independent seeds agree (FSC area {value:.2f}, usually {usual:.2f})",
    ),
    "neighbour_agreement": (
        "volumes of similar images look different (FSC area {value:.2f}, usually {usual:.2f})",
        "volumes of similar images look the same (FSC area {value:.2f}, usually {usual:.2f})",
    ),
    "score_excess": (
        "the denoiser finds its projections less like class averages than those of the others",
        "its projections look like class averages to the denoiser",
    ),
    "worst_view": (
        "from some sides it does not look like class averages",
        "it looks like class averages from all sides",
    ),
    "match": (
        "class averages match it less well (correlation {correlation:.3f}, usually {usual_correlation:.3f})",
        "class averages match it well (correlation {correlation:.3f}, usually {usual_correlation:.3f})",
    ),
    "coverage": (
        "explains few class averages better than other volumes do ({value:.0%}, usually {usual:.0%})",
        "explains {value:.0%} of the class averages better than most other volumes do",
    ),
    "sphere_coverage": (
        "class averages support it from few directions ({value:.0%} of the sphere, usually {usual:.0%})",
        "class averages support it from {value:.0%} of all directions",
    ),
    "sharpness": ("blurred: less detail than the others", "as sharp as the best"),
    "base_correlation": (
        "does not fit its own class average ({value:.3f}, usually {usual:.3f})",
        "fits its class average",
    ),
    "contrast": ("no solid density: a blob", "more peaked density than the others"),
    "density": ("density missing or spread out", "density stronger than in the others"),
    "radius": ("smaller than the others: parts missing", "larger than the others"),
}
# Parts that speak against a volume when they are high.
_HIGH_IS_BAD = ("score_excess", "worst_view")


@dataclass(frozen=True)
class Calibration:
    """How evidence is weighed, as `python -m benchmarks reliability --calibrate` has found it on sets with a truth.

    Attributes
    ----------
    weights
        What each part adds to the logarithm of the FSC-AUC relative to the good volumes of the set, none negative: per
        robust standard deviation of the part and unit of :func:`spread`.
    offset
        What the middle of such a set has.
    width
        Uncertainty of that logarithm, as the scale of a logistic distribution.
    """

    weights: Mapping[str, float]
    offset: float
    width: float

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Calibration":
        """Read the part of a record that decides."""
        return cls(dict(fields["weights"]), fields["offset"], fields["width"])


@dataclass(frozen=True)
class Judgement:
    """What to think of each volume.

    Attributes
    ----------
    probability
        ``(k, n)``, that the volume of a seed is right.
    reliable
        ``(k, n)``, whether it counts as right.
    kept
        ``(n,)``, the seed whose volume is kept for each image: the likeliest.
    verdicts
        On each kept volume.
    reasons
        Why, in words, for each kept volume: what speaks against it, or for it if it is reliable.
    """

    probability: Float[Tensor, "k n"]
    reliable: Bool[Tensor, "k n"]
    kept: Int[Tensor, " n"]
    verdicts: tuple[Verdict, ...]
    reasons: tuple[tuple[str, ...], ...]


@cache
def calibration() -> Calibration:
    """Read the weights that come with the package; the file says which sets they were found on."""
    text = resources.files(__package__).joinpath("calibration.json").read_text(encoding="utf-8")
    return Calibration.from_dict(json.loads(text))


def judge(parts: Parts, using: Calibration | None = None) -> Judgement:
    """Turn evidence into verdicts, and keep the best seed of every image.

    With one seed there is no agreement of seeds, with one image no neighbours: a part that is missing counts as usual,
    neither for nor against. Fewer than 8 volumes cannot be compared as a set and are doubtful at best.
    """
    using = using or calibration()
    pulls = contributions(parts, using)
    logit = torch.stack(list(pulls.values())).sum(0)
    probability = logit.sigmoid()
    enough = probability.numel() >= _FEWEST
    reliable = (probability >= _RELIABLE) & enough
    kept = probability.argmax(0)
    verdicts: list[Verdict] = []
    reasons = []
    for image, seed in enumerate(kept.tolist()):
        wrong = bool(probability[seed, image] < _WRONG)
        verdicts.append("reliable" if reliable[seed, image] else "wrong" if wrong else "doubtful")
        words = reasons_in_words(parts, pulls, seed, image, favourable=verdicts[-1] == "reliable")
        reasons.append(words if enough else ("too few volumes to compare with", *words))
    return Judgement(probability, reliable, kept, tuple(verdicts), tuple(reasons))


def contributions(parts: Parts, using: Calibration) -> dict[str, Float[Tensor, "k n"]]:
    """Split the log odds that a volume is right into what each part adds; ``""`` is what the middle of the set has.

    The FSC-AUC of a volume relative to the good ones is expected to be the exponential of
    ``spread * (offset + sum of weight * part)``, with the spread of the set. It is right above the failure line.
    """
    scale = spread(parts)
    line = math.log(FAILURE_LINE)
    base = (scale * using.offset - line) / using.width
    pulls = {"": torch.full_like(parts.radius, base)}
    for name, weight in using.weights.items():
        pulls[name] = standardised(parts, name) * (scale * weight / using.width)
    return pulls


def spread(parts: Parts) -> float:
    """How much the volumes of a set differ: the 80 % range of the logarithm of their agreement with neighbours.

    To this a range of 0.1 is added in quadrature, which FSC-AUC has in a set whose volumes are all right: noise and
    the conformation alone make as much. Where there are no neighbours to agree with, it is all there is.
    """
    known = parts.neighbour_agreement[parts.neighbour_agreement.isfinite()].clamp(min=1e-3).log()
    differ = float(known.quantile(0.9) - known.quantile(0.1)) if len(known) >= _FEWEST else 0.0
    return math.hypot(differ, _LEAST_SPREAD)


def standardised(parts: Parts, name: str) -> Float[Tensor, "k n"]:
    """Put a part in robust standard deviations from the median of the set, cut off at 3; more is better.

    What is missing, and what does not vary, is 0.
    """
    deviations = _deviations(getattr(parts, name)).clamp(-_FARTHEST, _FARTHEST)
    return -deviations if name in _HIGH_IS_BAD else deviations


def reasons_in_words(
    parts: Parts, pulls: Mapping[str, Float[Tensor, "k n"]], seed: int, image: int, *, favourable: bool
) -> tuple[str, ...]:
    """Name the parts that move the odds of a volume most, for or against it, and what is odd about it otherwise."""
    sign = 1 if favourable else -1
    moved = {name: sign * pull[seed, image].item() for name, pull in pulls.items() if name}
    telling = sorted((name for name, by in moved.items() if by >= _TELLING), key=moved.__getitem__, reverse=True)
    words = [_say(parts, name, seed, image, good=favourable) for name in telling[:_MOST_REASONS]]
    for name in ("density", "radius", "contrast", "base_correlation"):
        off = _deviations(getattr(parts, name))[seed, image].item()
        if name not in pulls and abs(off) >= _OFF and not (name == "base_correlation" and off > 0):
            words.append(_say(parts, name, seed, image, good=off > 0))
    return tuple(words) or ("no evidence against it" if favourable else "a little less of everything than the others",)


def _say(parts: Parts, name: str, seed: int, image: int, *, good: bool) -> str:
    values = getattr(parts, name)
    value, usual = values[seed, image].item(), values.nanmedian().item()
    correlations = {"correlation": 1 - math.exp(-value), "usual_correlation": 1 - math.exp(-usual)}
    return _WORDS[name][good].format(value=value, usual=usual, **(correlations if name == "match" else {}))


def _deviations(values: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """Robust standard deviations from the median; 0 where nothing is known or nothing varies."""
    known = values[values.isfinite()]
    if len(known) == 0:
        return torch.zeros_like(values)
    median = known.median()
    deviation = 1.4826 * (known - median).abs().median()
    if deviation <= 1e-6 * median.abs().clamp(min=1e-6):
        return torch.zeros_like(values)
    return torch.where(values.isfinite(), (values - median) / deviation, 0.0)
