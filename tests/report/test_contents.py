"""The report as a file: complete, offline, no larger than it has to be; and the figures beside it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scoretomo.commands.report import denoiser_checks, write_report
from scoretomo.io.denoiser_folder import save_denoiser
from scoretomo.networks.unet import build_unet
from scoretomo.report.page import Blocks, render
from scoretomo.runs import open_run


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Path]) -> Path:
    folder = make_run(8, 16)
    opened = open_run(folder)
    torch.manual_seed(0)
    save_denoiser(opened.denoiser_folder, build_unet(opened.config.unet, 16))
    write_report(opened, torch.device("cpu"))
    return folder


def test_the_page_needs_no_other_file_and_cannot_ask_for_one(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:|//)""", page)
    assert not re.findall(r"url\((?!data:)", page)
    assert "{{" not in page and str(run) not in page.split('id="page-data"')[0]


def test_every_figure_and_table_is_a_file_too(run: Path) -> None:
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {
        "volumes.png",
        "volumes.csv",
        "states.png",
        "map_of_states.png",
        "motion.png",
        "seed_agreement.png",
        "consensus_fsc.png",
        "training.png",
        "samples.png",
        "samples.csv",
        "samples.mrcs",
    }


def test_samples_are_made_once_for_one_denoiser(run: Path) -> None:
    path, opened = run / "figures" / "samples.mrcs", open_run(run)
    before = path.stat().st_mtime_ns
    again = denoiser_checks(opened, torch.device("cpu"))
    assert again is not None and path.stat().st_mtime_ns == before
    assert len(again.samples) == 8 and all(0 <= index < 8 for index in again.index)  # the ninth was left out
    next((run / "denoiser").glob("*.safetensors")).touch()  # trained further
    denoiser_checks(opened, torch.device("cpu"))
    assert path.stat().st_mtime_ns != before


def test_words_of_the_user_are_text_and_nothing_else() -> None:
    evil = '</script><script>alert("x")</script><!--'
    page = render(evil, evil, {"name": evil}, Blocks({}, {}, {}))
    assert "<script>alert" not in page
    data = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None and json.loads(data[1])["name"] == evil


def test_what_is_not_a_number_does_not_get_into_the_page() -> None:
    with pytest.raises(ValueError):
        render("", "", {"value": float("nan")}, Blocks({}, {}, {}))
