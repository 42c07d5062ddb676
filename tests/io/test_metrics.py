import json
import math
from pathlib import Path

from scoretomo.io.metrics import Metrics, read_metrics


def test_lines_are_json_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "train", 0)
    metrics.write(10, {"loss": 0.5, "rate": math.nan})
    metrics.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"phase": "train", "step": 10, "loss": 0.5, "rate": None}


def test_a_resumed_phase_drops_what_it_will_make_again_and_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"phase": "train", "step": step} for step in (10, 20, 30)] + [{"phase": "reconstruct", "step": 99}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "tra')
    Metrics(tmp_path, "train", resumed_at=20).write(25, {})
    assert [(line["phase"], line["step"]) for line in read_metrics(path)] == [
        ("train", 10),
        ("train", 20),
        ("reconstruct", 99),
        ("train", 25),
    ]
