"""``scoretomo run --method drgn``: volumes in the places, units and frames of ``scoretomo run``."""

import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.commands import run_drgn as command
from scoretomo.datatypes import ImageStack
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.projection import project
from scoretomo.io.metrics import read_metrics
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.runs import open_run

_COUNT, _SIDE = 12, 16
_WARMUP = "--drgn.model.optimiser.warmup-images 60".split()
_NETWORK = "--drgn.model.decoder.hidden 32 --drgn.model.encoder.hidden 32 --drgn.model.latent-dimensions 2".split()
_SEARCH = "--drgn.search.base-order 1 --drgn.search.refinements 1 --drgn.search.kept 1".split()
_QUICK = "--drgn.search.search-every 4 --drgn.search.consensus-epochs 10 --drgn.search.march 0.1".split()
_TRAINING = "--drgn.least-steps 0 --check False --rigid False".split()
# The schedule of the papers, whose searches begin early.
_RANDOM = "--drgn.search.start random --drgn.search.pretrain-images 24".split()


@pytest.fixture(scope="module")
def averages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark protein on a background, in arbitrary units: views of one object."""
    blob = soft_ball(_SIDE, 3, 0.5, 2.5)
    volume = sum(blob.roll(place, (0, 1, 2)) for place in [(2, 1, 0), (-2, 0, 2), (0, -3, -2)])
    assert isinstance(volume, torch.Tensor)
    rotations = random_rotations(_COUNT, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("averages")
    write_images(folder / "averages.mrcs", ImageStack(40 - 7 * project(volume[None], rotations[None])[0], 3.5))
    return folder / "averages.mrcs"


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and pages take longer than all the rest."""
    monkeypatch.setattr(command, "draw", lambda *_: None)
    monkeypatch.setattr(command, "write_report", lambda run, _: run.folder / "report.html")


def run(averages: Path, folder: Path, *more: object, epochs: int = 12, start: str = "random") -> int:
    begin = _RANDOM if start == "random" else ["--initial.starts", "4"]
    options = [*_WARMUP, *_NETWORK, *_SEARCH, *_QUICK, *_TRAINING, *begin, "--drgn.model.epochs", epochs, *more]
    return cli.main(["run", str(averages), "-o", str(folder), "--method", "drgn", *map(str, options)])


@pytest.mark.parametrize("start", ["random", "initial"])
def test_volumes_look_like_their_class_averages_in_the_units_of_the_input(
    start: str, averages: Path, tmp_path: Path
) -> None:
    """Pose, sign, scale and pixel size are right, or the projections would be others."""
    chosen = [0, 3, 7, 11]
    assert run(averages, tmp_path / "run", "--images", *chosen, epochs=120, start=start) == 0
    opened = open_run(tmp_path / "run")
    scale, errors = opened.preprocessing.scale, []
    for index in chosen:
        volume = read_volume(opened.volume(index, 0)).volume
        assert (volume.side, volume.pixel_size_angstrom) == (_SIDE, pytest.approx(3.5))
        image = scale * opened.images[index]
        errors.append(((volume.voxels.sum(0) - image).norm() / image.norm()).item())
    assert sorted(errors)[1] < 0.35, errors
    settings = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["settings"]
    assert settings["drgn"]["model"]["epochs"] == 120
    assert not {"growth", "unet", "budget"} & set(settings)  # of a denoiser that there is not
    assert (tmp_path / "run" / "figures" / "overview.png").exists()
    assert "need a denoiser" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("unreported")
def test_chosen_images_and_repeats(averages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert run(averages, folder, "--images", 3, 7, "--seeds", 2) == 0
    volumes = folder / "volumes"
    names = {path.name for path in volumes.iterdir()}
    assert names == {"volume_0003.mrc", "volume_0007.mrc", "volume_0003_seed1.mrc", "volume_0007_seed1.mrc"}
    first = (volumes / "volume_0003.mrc").read_bytes()
    assert first != (volumes / "volume_0003_seed1.mrc").read_bytes()
    trained = (folder / "checkpoint" / "drgn_seed0.pt").stat().st_mtime_ns
    capsys.readouterr()
    assert run(averages, folder) == 0  # the others, of the same training
    assert (folder / "checkpoint" / "drgn_seed0.pt").stat().st_mtime_ns == trained
    assert len(list(volumes.glob("volume_????.mrc"))) == _COUNT
    assert (volumes / "volume_0003.mrc").read_bytes() == first
    assert run(averages, folder) == 0
    assert f"all {_COUNT} volumes are there" in capsys.readouterr().err
    searched = [line["searched"] for line in read_metrics(folder / "metrics.jsonl") if "searched" in line]
    assert searched == [_COUNT] * 8  # of each seed two, and two after the reset


@pytest.mark.usefixtures("unreported")
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    averages: Path, tmp_path: Path, stopped_after: Callable[[int], AbstractContextManager[None]]
) -> None:
    assert run(averages, tmp_path / "whole", "--images", 4) == 0
    with stopped_after(5):
        assert run(averages, tmp_path / "cut", "--images", 4) == 130
    assert not (tmp_path / "cut" / "volumes").exists()
    assert run(averages, tmp_path / "cut", "--images", 4) == 0
    volumes = [read_volume(tmp_path / name / "volumes" / "volume_0004.mrc").volume.voxels for name in ("whole", "cut")]
    torch.testing.assert_close(volumes[0], volumes[1], rtol=0, atol=0)


@pytest.mark.usefixtures("unreported")
def test_what_cannot_be_done_is_said_in_one_line(
    averages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(averages, folder, "--images", 0) == 0
    start = [str(averages), "-o", str(folder)]
    refused = {
        "drgn.model.epochs is 13.0, was 12.0": [],
        "was made with --method drgn; give another run folder": ["train", *start, "--check", "False"],
        "has no denoiser": ["ensemble", str(folder)],
        "`scoretomo evaluate` compares": ["reconstruct", str(folder)],
    }
    for words, arguments in refused.items():
        capsys.readouterr()
        assert (cli.main(arguments) if arguments else run(averages, folder, epochs=13)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("scoretomo: error: ") and words in error
    assert run(averages, folder, "--overwrite") == 2
    assert run(averages, tmp_path / "new", "--images", 99) == 2
    assert run(averages, tmp_path / "short", "--drgn.search.pretrain-images", 5000) == 2
    assert "more than 417" in capsys.readouterr().err
    assert run(averages, tmp_path / "idle", "--drgn.poses", "branch-and-bound") == 2
    assert "--drgn.search.base-order: does nothing here" in capsys.readouterr().err
    assert run(averages, tmp_path / "idle", "--rigid", "True") == 2
    assert "--drgn.model.encoder.hidden: does nothing here" in capsys.readouterr().err
