"""docs/performance.md says what the records say, and its model finds costs that are known."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date_with_the_records() -> None:
    command = [sys.executable, "-m", "benchmarks", "performance", "--check"]
    result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_curves_of_the_page_are_there() -> None:
    text = (_ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    missing = [link for link in re.findall(r"\]\((images/[^)]+)\)", text) if not (_ROOT / "docs" / link).exists()]
    assert not missing


def test_the_model_finds_costs_that_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks.model import fit

    def row(task: str, side: int, volumes: int, views: int) -> dict[str, object]:
        gflop = side**2 / 1000
        time = 3 / volumes + (views - 1) * (2e-6 * side**3 + 5 * gflop) if task == "reconstruction" else 15 * gflop
        memory = 7 + 1e-6 * volumes * (40 * side**3 + 900 * (views - 1) * side**2)
        shape = {"task": task, "side": side, "volumes": volumes, "views": views, "gflop": gflop}
        return {**shape, "milliseconds": time, "peak_memory_mb": memory}

    steps = [row("reconstruction", *point) for point in [(32, 1, 2), (32, 8, 2), (64, 4, 2), (128, 4, 2), (32, 4, 9)]]
    model = fit([*steps, *(row("training", side, 16, 2) for side in (32, 64))], "default")
    assert (model.step, model.voxel, model.gflop) == pytest.approx((3, 2e-6, 5), rel=1e-6)
    assert (model.training_step, model.training_gflop) == pytest.approx((0, 15), abs=1e-6)
    assert (model.megabytes, model.voxel_bytes, model.pixel_bytes) == pytest.approx((7, 40, 900), rel=1e-6)
    assert model.milliseconds(256, 10, turned=2, denoised=1) == pytest.approx(
        0.3 + 2 * 2e-6 * 256**3 + 5 * 27.3, rel=0.01
    )
