"""Evaluation from the command line: what is odd about two maps is said, and what cannot be told is not."""

import json
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo import cli
from scoretomo.datatypes import Volume
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import write_volume


@pytest.fixture
def molecule() -> Float[Tensor, "n n n"]:
    generator = torch.Generator().manual_seed(0)
    return (1 + torch.randn(16, 16, 16, generator=generator)) * soft_ball(16, 3, 5.0, 2.0)


def evaluate(folder: Path, *words: str) -> int:
    return cli.main(["evaluate", str(folder / "volume.mrc"), "--reference", str(folder / "truth.mrc"), *words])


def test_a_placeholder_is_not_taken_for_a_pixel_size(
    tmp_path: Path, molecule: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same map, one of them with the 1 A that many programs write: as they stand they would not fit at all."""
    write_volume(tmp_path / "volume.mrc", Volume(molecule, 4.0))
    write_volume(tmp_path / "truth.mrc", Volume(molecule, 1.0))
    assert evaluate(tmp_path) == 2
    assert "truth.mrc: the header's pixel size of exactly 1 A" in capsys.readouterr().err
    assert not (tmp_path / "evaluation.json").exists()
    assert evaluate(tmp_path, "--reference-pixel-size", "4") == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["median_fsc_auc"] > 0.99
    capsys.readouterr()
    write_volume(tmp_path / "volume.mrc", Volume(molecule, 1.0))
    assert evaluate(tmp_path) == 0  # both may be in the same units
    assert "note: volume.mrc: the header's pixel size of exactly 1 A is a placeholder" in capsys.readouterr().err


def test_an_inverted_reference_is_said(tmp_path: Path, molecule: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "volume.mrc", Volume(molecule, 4.0))
    write_volume(tmp_path / "truth.mrc", Volume(-molecule, 4.0))
    assert evaluate(tmp_path) == 0
    assert "note: volume.mrc and truth.mrc look like one map with contrast of opposite signs" in capsys.readouterr().err
    write_volume(tmp_path / "truth.mrc", Volume(molecule, 4.0))
    assert evaluate(tmp_path) == 0
    assert "contrast" not in capsys.readouterr().err


def test_maps_that_have_nothing_in_common_have_no_hand(
    tmp_path: Path, molecule: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(tmp_path / "volume.mrc", Volume(molecule, 4.0))
    zyx = torch.meshgrid(*[torch.arange(16.0) - 8] * 3, indexing="ij")
    write_volume(tmp_path / "truth.mrc", Volume((zyx[0] + zyx[1]).sin() * (zyx[2] % 2 - 0.5), 4.0))
    assert evaluate(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("unknown")
    assert json.loads((tmp_path / "evaluation.json").read_text())["volumes"][0]["mirrored"] is None
