"""Verdicts without a truth against the truth: is a volume called wrong that is wrong, and is the best seed kept?

Each folder holds a simulated set: `scoretomo simulate` in FOLDER/sim (or simulation), `scoretomo run --seeds 3` in
FOLDER/run, and what `scoretomo evaluate FOLDER/run --reference FOLDER/sim/truth` has written. The evidence is gathered
once and kept in FOLDER/reliability_K_seeds.npz (or in --cache).

A volume has failed if its FSC-AUC is below 0.85 of the upper decile of its set (ensemble/verdict.py says why); other
lines are reported beside it. Every set is judged by weights that were found on other sets only: on those of the other
kinds (`other_kinds`), and on all others (`other_sets`); with all of its seeds, and with the first alone. Intervals are
95 %, from resampling images with all their seeds.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, minimize
from scipy.stats import rankdata

import scoretomo.ensemble.verdict as verdict
from scoretomo.datatypes import InputError
from scoretomo.diffusion.edm import EDMDenoiser
from scoretomo.ensemble.reliability import Parts, ReliabilityConfig, gather_evidence
from scoretomo.imaging.preprocess import working_volume
from scoretomo.io.files import write_json
from scoretomo.io.mrc import read_volume
from scoretomo.networks.unet import supports_fast_bfloat16
from scoretomo.runs import load_denoiser, open_run

from .record import Row, commit
from .timing import three_digits

Array = NDArray[np.float64]

# Parts that have a weight: those that speak for a volume whatever the molecule. Size, for one, does not.
WEIGHED = (
    "seed_agreement",
    "neighbour_agreement",
    "score_excess",
    "match",
    "coverage",
    "sphere_coverage",
    "sharpness",
    "density",
)
_NAME = re.compile(r"volume_(\d+)(?:_seed(\d+))?\.mrc")
# How much more it counts that all weights are alike than that they fit: sets of one kind of molecule do not know which
# part will tell in another, and equal weights carry over best.
_ALIKE = 3.0


@dataclass(frozen=True)
class Settings:
    """Which sets, and how sure."""

    folders: tuple[str, ...]
    """Simulated sets with their truth; the name of a folder up to `_` is the kind of the molecule."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    cache: Path | None = None
    """Folder for the evidence. None: the folder of each set."""
    lines: tuple[float, ...] = (0.8, 0.87, 0.9)
    """Failure lines, as parts of the upper decile of FSC-AUC; beside 0.85, the one that counts."""
    resamples: int = 1000
    """Bootstrap samples."""
    calibrate: bool = False
    """Write the weights found on all these sets into the package."""


@dataclass(frozen=True)
class Simulated:
    """A set of volumes whose truth is known."""

    name: str
    parts: Parts
    areas: Array
    """``(k, n)``, FSC-AUC with the truth."""

    @property
    def kind(self) -> str:
        """What was simulated."""
        return self.name.partition("_")[0]

    @property
    def relative(self) -> Array:
        """FSC-AUC as a part of the upper decile of the set."""
        return self.areas / np.quantile(self.areas, 0.9)


def measure(settings: Settings) -> Iterator[Row]:
    """Judge every set by weights from other sets, with all of its seeds and with one."""
    complete = [_read(Path(folder), settings, alone=False) for folder in settings.folders]
    if settings.calibrate:
        _write_calibration(complete)
    for sets in (complete, [_read(Path(folder), settings, alone=True) for folder in settings.folders]):
        for rule in ("other_kinds", "other_sets"):
            judged = []
            for each in sets:
                others = [known for known in complete if known.name != each.name]
                if rule == "other_kinds":
                    others = [known for known in others if known.kind != each.kind]
                if others:
                    judged.append((each, verdict.judge(each.parts, fit(others))))
            pools = {each.name: [(each, found)] for each, found in judged}
            for kind in sorted({each.kind for each, _ in judged}):
                pools[f"all {kind}"] = [pair for pair in judged if pair[0].kind == kind]
            pools["all"] = judged
            for name, pool in pools.items():
                if pool and (not name.startswith("all") or len(pool) > 1):
                    yield _row(name, rule, pool, settings)


def fit(sets: Sequence[Simulated]) -> verdict.Calibration:
    """Find the weights by which the evidence predicts the FSC-AUC relative to the good volumes of each set.

    Least squares with weights that are not negative and not far from each other; then the offset and the width under
    which it is likeliest that those volumes are right that are. Every set counts the same.
    """
    count = len(WEIGHED)
    designs, targets = [], []
    for each in sets:
        scale = verdict.spread(each.parts)
        parts = [verdict.standardised(each.parts, name).flatten().double().numpy() for name in WEIGHED]
        # unknown are the offset, the common weight, and each weight
        zeros = np.zeros(each.areas.size)
        designs.append(scale * np.stack([zeros + 1, zeros, *parts], axis=1))
        targets.append(np.log(each.relative).ravel())
    power = sum(np.square(design[:, 2:]).mean() for design in designs) ** 0.5
    apart = np.concatenate([np.zeros((count, 1)), -np.ones((count, 1)), np.eye(count)], axis=1)
    known = [design / len(design) ** 0.5 for design in designs], [target / len(target) ** 0.5 for target in targets]
    bounds = ([-np.inf] + [0.0] * (count + 1), np.inf)
    design, target = np.concatenate([*known[0], _ALIKE * power * apart]), np.concatenate([*known[1], np.zeros(count)])
    solution = lsq_linear(design, target, bounds).x
    weights = {name: round(float(weight), 5) for name, weight in zip(WEIGHED, solution[2:], strict=True)}
    offset, width = _likeliest(sets, [design[:, 0] for design in designs], [d[:, 2:] @ solution[2:] for d in designs])
    return verdict.Calibration(weights, round(offset, 5), round(width, 5))


def _likeliest(sets: Sequence[Simulated], spreads: Sequence[Array], evidence: Sequence[Array]) -> tuple[float, float]:
    """Offset and width under which the volumes that are right are likeliest to be (logistic regression)."""
    right = [(each.relative >= verdict.FAILURE_LINE).ravel() for each in sets]

    def unlikely(values: Array) -> float:
        offset, width = values[0], np.exp(values[1])
        missed = 0.0
        for spread, known, y in zip(spreads, evidence, right, strict=True):
            odds = (spread * offset + known - np.log(verdict.FAILURE_LINE)) / width
            missed += float(np.logaddexp(0, np.where(y, -odds, odds)).mean())
        return missed

    found = minimize(unlikely, [-0.5, np.log(0.04)], method="Nelder-Mead").x
    return float(found[0]), float(np.exp(found[1]))


def auroc(failed: NDArray[np.bool_], probability: Array) -> float:
    """Chance that a failed volume has a lower probability of being right than one that has not; NaN without either."""
    bad, good = int(failed.sum()), int((~failed).sum())
    if bad == 0 or good == 0:
        return float("nan")
    ranks = rankdata(-probability)
    return float((ranks[failed].sum() - bad * (bad + 1) / 2) / (bad * good))


def _row(name: str, rule: str, pool: Sequence[tuple[Simulated, verdict.Judgement]], settings: Settings) -> Row:
    areas = np.concatenate([each.relative for each, _ in pool], axis=1)  # (k, n of all sets)
    probability = np.concatenate([found.probability.double().numpy() for _, found in pool], axis=1)
    low, high = _interval(areas, probability, settings.resamples)
    figures = _figures(areas, probability)
    several = len(areas) > 1
    return {
        "set": name,
        "calibrated_on": rule,
        "seeds": len(areas),
        "volumes": areas.size,
        "failures_single": three_digits(figures["single"]),
        "auroc": _digits(figures["auroc"]),
        "auroc_interval": _range(low["auroc"], high["auroc"]),
        "failures_best_seed": _digits(figures["best"]) if several else None,
        "left_of_failures": _digits(figures["left"]) if several else None,
        "left_interval": _range(low["left"], high["left"]) if several else None,
        "failures_if_known": _digits(figures["oracle"]) if several else None,
        "mean_probability": _digits(figures["mean"]),
        "brier": _digits(figures["brier"]),
        **{f"auroc_{line:g}": _digits(auroc((areas < line).ravel(), probability.ravel())) for line in settings.lines},
    }


def _figures(areas: Array, probability: Array) -> dict[str, float]:
    """``(k, n)`` of both: how well failures are seen, and how many are left when the likeliest seed is kept."""
    failed = areas < verdict.FAILURE_LINE
    places = np.arange(areas.shape[1])
    single, best = failed.mean(), failed[probability.argmax(0), places].mean()
    return {
        "auroc": auroc(failed.ravel(), probability.ravel()),
        "single": float(single),
        "best": float(best),
        "left": float(best / single) if single > 0 else float("nan"),
        "oracle": float(failed.all(0).mean()),
        "mean": float(probability.mean()),
        "brier": float(((~failed - probability) ** 2).mean()),
    }


def _interval(areas: Array, probability: Array, resamples: int) -> tuple[dict[str, float], dict[str, float]]:
    """2.5 and 97.5 % of each figure over samples of the images, drawn with replacement."""
    generator = np.random.default_rng(0)
    drawn = [generator.integers(areas.shape[1], size=areas.shape[1]) for _ in range(resamples)]
    samples = [_figures(areas[:, chosen], probability[:, chosen]) for chosen in drawn]
    limits = [{name: _quantile([s[name] for s in samples], q) for name in samples[0]} for q in (0.025, 0.975)]
    return limits[0], limits[1]


def _quantile(values: Sequence[float], part: float) -> float:
    finite = np.array(values)[np.isfinite(values)]
    return float(np.quantile(finite, part)) if len(finite) else float("nan")


def _digits(value: float) -> float | None:
    return three_digits(value) if np.isfinite(value) else None


def _range(low: float, high: float) -> str | None:
    return f"{low:.2f}-{high:.2f}" if np.isfinite(low) and np.isfinite(high) else None


def _read(folder: Path, settings: Settings, *, alone: bool) -> Simulated:
    """Evidence on a set and its truth; of the first seed only, if alone."""
    areas, indices = _areas(folder)
    seeds = 1 if alone else len(areas)
    path = (settings.cache / folder.name if settings.cache else folder) / f"reliability_{seeds}_seeds.npz"
    config = repr(ReliabilityConfig())
    if path.exists():
        saved = dict(np.load(path))
        if str(saved.pop("config")) == config and list(saved) == Parts.names():
            return Simulated(folder.name, Parts(**{k: torch.from_numpy(v) for k, v in saved.items()}), areas[:seeds])
    parts = _gather(folder / "run", indices, seeds, settings.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(parts, name).numpy() for name in Parts.names()}
    np.savez(path, config=np.array(config), **arrays)
    return Simulated(folder.name, parts, areas[:seeds])


def _gather(folder: Path, indices: list[int], seeds: int, device: str) -> Parts:
    run = open_run(folder)
    voxels = [[read_volume(run.volume(index, seed)).volume.voxels for index in indices] for seed in range(seeds)]
    volumes = torch.stack([working_volume(torch.stack(each), run.preprocessing) for each in voxels]).to(device)
    fast = supports_fast_bfloat16(torch.device(device))
    denoiser = EDMDenoiser(load_denoiser(run), bfloat16=fast).to(device).eval().requires_grad_(False)
    evidence = gather_evidence(
        volumes,
        run.images.to(device),
        indices,
        denoiser,
        generator=torch.Generator(device).manual_seed(0),
        mask_radius=run.mask_radius,
    )
    return Parts(**{name: getattr(evidence.parts, name).cpu() for name in Parts.names()})


def _areas(folder: Path) -> tuple[Array, list[int]]:
    """FSC-AUC ``(k, n)`` of the seeds that have a volume of every image, and the images."""
    path = next((each for each in (folder / "run/evaluation.csv", folder / "evaluation.csv") if each.exists()), None)
    if path is None:
        raise InputError(f"{folder}: has no evaluation.csv; run `scoretomo evaluate` first")
    found: dict[tuple[int, int], float] = {}
    with path.open(newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            match = _NAME.fullmatch(row["file"])
            if match:
                found[int(match[2] or 0), int(match[1])] = float(row["fsc_auc"])
    indices = sorted(index for seed, index in found if seed == 0)
    seeds = [s for s in sorted({seed for seed, _ in found}) if all((s, index) in found for index in indices)]
    return np.array([[found[seed, index] for index in indices] for seed in seeds]), indices


def _write_calibration(sets: Sequence[Simulated]) -> None:
    """Put the weights into the package, with what they were found on."""
    record: dict[str, Any] = {
        **asdict(fit(sets)),
        "failure_line": verdict.FAILURE_LINE,
        "command": "python -m benchmarks reliability --calibrate",
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "sets": [
            {
                "name": each.name,
                "volumes": each.areas.size,
                "seeds": len(each.areas),
                "failed": round(float((each.relative < verdict.FAILURE_LINE).mean()), 3),
                "spread": round(verdict.spread(each.parts), 4),
            }
            for each in sets
        ],
    }
    write_json(Path(verdict.__file__).with_name("calibration.json"), record)
