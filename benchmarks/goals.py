"""The figures that the package is judged by, each with its goal."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from .record import Row
from .tables import number


def times_listing(rows: Sequence[Row]) -> str:
    results = [row for row in rows if row["method"] == "ours" and row["stage"] == "result"]
    listing = [row for row in rows if row["method"] == "listing"]
    if not results or not listing:
        return "-"
    goal, seconds = median(row["median_fsc_auc"] for row in results), median(row["seconds"] for row in results)
    reached = [row["seconds"] for row in listing if row["median_fsc_auc"] >= goal]
    return number(min(reached) / seconds) if reached else f"more than {number(listing[-1]['seconds'] / seconds)}"


def _best(rows: Sequence[Row], key: str, **same: Any) -> str:
    """Greatest value of a column among the rows of ours that have some values in common."""
    chosen = [
        row[key]
        for row in rows
        if row["method"].startswith("ours") and all(row[name] == value for name, value in same.items())
    ]
    return number(max(chosen)) if chosen else "-"


def _memory_ratio(rows: Sequence[Row], **same: Any) -> str:
    """Memory of a volume in the listing over the least of ours."""
    chosen = [row for row in rows if all(row[name] == value for name, value in same.items())]
    listing = [row["peak_memory_mb_per_volume"] for row in chosen if row["method"] == "listing"]
    ours = [row["peak_memory_mb_per_volume"] for row in chosen if row["method"].startswith("ours")]
    return number(listing[0] / min(ours)) if listing and all(listing + ours) else "-"


def _times_scipy(rows: Sequence[Row], **same: Any) -> str:
    chosen = [row for row in rows if all(row[name] == value for name, value in same.items())]
    return number(max((row["times_scipy"] for row in chosen if row["times_scipy"] is not None), default=None))


GOALS: tuple[tuple[str, str, str, Callable[[Sequence[Row]], str]], ...] = (
    *(
        (
            f"reconstruction, {side} px, {network} U-Net, M = 2: times the listing's volume-steps/s",
            "5",
            "reconstruction_step",
            lambda rows, side=side, network=network: _best(rows, "times_listing", network=network, side=side, views=2),
        )
        for network in ("paper", "default")
        for side in (32, 64)
    ),
    *(
        (
            f"reconstruction, {side} px, paper U-Net, M = 2: the listing's memory a volume over ours",
            "5",
            "reconstruction_step",
            lambda rows, side=side: _memory_ratio(rows, network="paper", side=side, views=2),
        )
        for side in (32, 64)
    ),
    (
        "24 volumes to the same FSC-AUC: the listing's time over ours",
        "20",
        "accuracy",
        lambda rows: times_listing(rows),
    ),
    *(
        (
            f"training, {side} px, {network} U-Net: times the plain loop's images/s",
            "2",
            "training",
            lambda rows, side=side, network=network: _best(rows, "times_plain", network=network, side=side),
        )
        for network in ("paper", "default")
        for side in (32, 64)
    ),
    (
        "training, 88 px, paper U-Net: images/s",
        "6000 (H200)",
        "training",
        lambda rows: _best(rows, "images_per_second", network="paper", side=88),
    ),
    (
        "point clouds, 1024 points, 6 projections of 200: a sample with SciPy's assignment over ours",
        "5",
        "points_time",
        lambda rows: _times_scipy(rows, points=1024, observed=200),
    ),
)
"""What is counted, its goal, the benchmark, and the figure of its rows."""
