import json
import math
from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.io.metrics import Metrics, read_metrics

_LINE = b'{"phase": "train", "step": 10, "loss": 0.5}\n'


@pytest.mark.parametrize(
    "end", [b'{"phase": "tra', b"{}", b"\x00\x00\x00", b"\xff\xfe", b'{"phase": "train", "step": NaN}']
)
def test_what_is_left_of_a_last_line_is_dropped(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_LINE + end)
    assert [line["step"] for line in read_metrics(path)] == [10]
    path.write_bytes(_LINE + _LINE[:-1])  # whole, but for the end of the line
    assert [line["step"] for line in read_metrics(path)] == [10, 10]


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[1]", b"null", b"\xff\xfe", b'{"phase": "train"}', b'{"phase": 1, "step": 1}', _LINE[:20]]
    + [b'{"phase": "a", "step": 1, "loss": %s}' % value for value in (b'"x"', b"NaN", b"true", b"[1]", b"1e999")],
)
def test_other_lines_that_are_none_are_refused_by_name(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_LINE + line + b"\n" + _LINE)
    with pytest.raises(InputError, match=r"metrics\.jsonl: .*delete"):
        read_metrics(path)


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
