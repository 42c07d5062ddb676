"""Tables of docs/performance.md: what they are made of, and how a number is written."""

from collections.abc import Callable, Sequence
from typing import Any

from .record import Row

Column = tuple[str, str, Callable[[Any], str]]
"""Key of a row, heading, how a value is written."""


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    lines = ["| " + " | ".join(heading for _, heading, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(write(row[key]) for key, _, write in columns) + " |" for row in rows]
    return "\n".join(lines)


def number(value: Any) -> str:
    """Three significant digits; strings and missing values as they are."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.1e}"


def _millions(value: Any) -> str:
    return "-" if value is None else number(value / 1e6)


def percent(value: Any) -> str:
    return "-" if value is None else f"{number(100 * value)} %"


def _columns(**headings: str) -> list[Column]:
    writers = {"voxels_per_second": _millions}
    return [
        (key, heading, percent if key.startswith("share") else writers.get(key, number))
        for key, heading in headings.items()
    ]


SECTIONS: tuple[tuple[str, str, str, list[Column]], ...] = (
    (
        "Machine",
        "peak",
        "What the machine can do at most.",
        _columns(what="", unit="unit", measured="measured", published="maker's figure", share_of_published="share"),
    ),
    (
        "Reconstruction step",
        "reconstruction_step",
        "Algorithm 1 with the paper's U-Net and with that of the default settings. The listing does one volume at a "
        "time.",
        _columns(
            network="U-Net",
            side="side",
            views="M",
            method="method",
            volumes="volumes at once",
            volume_steps_per_second="volume-steps/s",
            times_listing="times listing",
            share_of_peak="share of peak",
            gflop_per_second="GFLOP/s of the U-Net",
            peak_memory_mb_per_volume="peak MB a volume",
        ),
    ),
    (
        "Time to the same accuracy",
        "accuracy",
        "FSC-AUC of the volumes of a simulated box against the time for all of them. Times ours: the listing's time "
        "over that of ours to the same median.",
        _columns(
            method="method",
            seed="seed",
            stage="stage",
            steps="steps",
            seconds="seconds",
            median_fsc_auc="median FSC-AUC",
            lowest="lowest",
            highest="highest",
            median_resolution_pixels="median resolution (pixels)",
            times_ours="times ours",
        ),
    ),
    (
        "Training",
        "training",
        "The plain loop is float32 and written as the paper describes it.",
        _columns(
            network="U-Net",
            side="side",
            method="method",
            batch="batch",
            images_per_second="images/s",
            times_plain="times plain",
            share_of_peak="share of peak",
            gflop_per_second="GFLOP/s",
            share_of_bfloat16_rate="share of the bfloat16 rate",
            peak_memory_mb="peak MB",
        ),
    ),
    (
        "Projection and back projection",
        "projection",
        "Difference: root mean square, relative to the reference. That of central slices is mostly the reference's "
        "own: trilinear interpolation in real space attenuates fine detail.",
        _columns(
            operation="operation",
            side="side",
            volumes="volumes",
            views="views each",
            method="method",
            voxels_per_second="million voxels/s",
            times_listing="times listing",
            share_of_peak="share of peak",
            difference="difference",
            peak_memory_mb="peak MB",
        ),
    ),
    (
        "Pose search and alignment",
        "pose_search",
        "A comparison is an image or a volume against the volume in one rotation, at one shift, in one hand.",
        _columns(
            task="task",
            side="side",
            method="method",
            items="images or volumes",
            items_per_second="of them/s",
            million_comparisons_per_second="million comparisons/s",
            times_plain="times plain",
            share_of_peak="share of peak",
            median_error_degrees="median error (degrees)",
            peak_memory_mb="peak MB",
        ),
    ),
    (
        "Cost against size",
        "scaling",
        "Milliseconds for one volume's step, or for one image of training (volumes: the batch). One thing is changed "
        "at a time.",
        _columns(
            task="task",
            sweep="changed",
            side="side",
            volumes="volumes at once",
            views="M",
            milliseconds="ms",
            share_of_peak="share of peak",
            peak_memory_mb="peak MB",
        ),
    ),
    (
        "Point clouds: a sample",
        "points_time",
        "Seconds for one cloud drawn from the posterior of projections (79 evaluations), in the network and in the "
        "assignment; `scipy` solves each assignment as 002 does. CD and EMD, 100 times, say that nothing else differs. "
        "002: 72 s for 1024 points, 6 projections of 200 points, 10 clouds at once, 24 layers of width 512, A100.",
        _columns(
            solver="assignment by",
            points="points",
            observed="of a projection",
            views="projections",
            batch="clouds at once",
            seconds_a_sample="s a sample",
            network="network",
            assignment="assignment",
            ms_per_assignment="ms an assignment",
            cd_x100="CD",
            emd_x100="EMD",
            times_scipy="times SciPy's",
            times_scipy_assignment="assignment alone",
        ),
    ),
    (
        "Point clouds: an assignment",
        "point_assignment",
        "Exact assignment of a cloud to an observation along a course of sampling, milliseconds of the processor. "
        "Warm: from the prices of the last one.",
        _columns(
            observation="observation",
            points="points",
            warm_ms="warm",
            cold_ms="cold",
            scipy_ms="SciPy",
            lapx_ms="lapx",
            times_scipy="times SciPy",
        ),
    ),
)
"""Title, benchmark, what to know of it, columns."""
