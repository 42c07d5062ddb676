"""``scoretomo initial``: a first map, poses and evidence that agree, taken up where an earlier command has stopped."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import initial as command
from scoretomo.commands import refinement
from scoretomo.datatypes import ImageStack
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.preprocess import working_volume
from scoretomo.imaging.projection import project
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.particles import read_particles
from scoretomo.runs import open_run

_COUNT, _SIDE, _PIXEL = 24, 20, 4.0
_QUICK = "--initial.starts 4 --initial.kept 2 --check False --contrast bright --device cpu".split()
_REFINE = "--matching.iterations 2 --matching.start-shell 3 --matching.kept 2 --matching.solver-steps 3".split()


def _molecule() -> Tensor:
    centres = 2.3 * torch.randn(11, 3, generator=torch.Generator().manual_seed(0)).clamp(-1.5, 1.5)
    axis = torch.arange(_SIDE, dtype=torch.float32) - _SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    return torch.stack(
        [torch.exp(-(points - centre).square().sum(-1) / 2) for centre in centres - centres.mean(0)]
    ).sum(0)


def _rotations_of_images() -> Tensor:
    return random_rotations(_COUNT, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def averages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("averages") / "averages.mrcs"
    write_images(path, ImageStack(40 * project(_molecule()[None], _rotations_of_images()[None])[0], _PIXEL))
    return path


def _initial(averages: Path, run: Path, *more: object) -> int:
    return cli.main(["initial", str(averages), "-o", str(run), *_QUICK, *map(str, more)])


@pytest.fixture(scope="module")
def refined(averages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("refined") / "run"
    assert _initial(averages, run, *_REFINE) == 0
    return run


@pytest.fixture(scope="module")
def searched(averages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("searched") / "run"
    assert _initial(averages, run, "--no-refine") == 0
    return run


@pytest.fixture(params=["searched", "refined"])
def made(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def _said(run: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((run / "initial" / "initial.json").read_text())
    return said


def _map(run: Path, name: str = "initial") -> Tensor:
    return read_volume(run / "initial" / f"{name}.mrc").volume.voxels


def _correlations(first: Tensor, second: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(first.flatten(1), second.flatten(1), dim=1)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is searched and refined from now on."""
    searched, made = command.initial_model_progressive, []
    refine = refinement.refine_progressive

    def search(*arguments: Any, **named: Any) -> Iterator[object]:
        made.append("search")
        return searched(*arguments, **named)

    def refined(*arguments: Any, **named: Any) -> Iterator[object]:
        made.append("refine")
        return refine(*arguments, **named)

    monkeypatch.setattr(command, "initial_model_progressive", search)
    monkeypatch.setattr(refinement, "refine_progressive", refined)
    return made


def test_the_map_and_its_poses_explain_the_images(made: Path, averages: Path) -> None:
    """With the files alone: the rows of poses.star name the images, in which the map is projected."""
    names = {path.name for path in (made / "initial").iterdir()}
    assert names == {"initial.mrc", "half_1.mrc", "half_2.mrc", "poses.star", "initial.json", "initial.png"}
    found, opened = read_particles(made / "initial" / "poses.star"), open_run(made)
    assert found.poses is not None and len(found) == _COUNT
    images = found.images.read(list(range(_COUNT)))
    torch.testing.assert_close(images, opened.images)
    volume = working_volume(_map(made), opened.preprocessing)
    predicted = translate(project(volume[None], found.poses.rotations[None])[0], found.poses.shifts_angstrom / _PIXEL)
    correlations = _correlations(predicted, images)
    assert correlations.median() > 0.93 and correlations.quantile(0.1) > 0.8
    assert pose_errors(found.poses.rotations, _rotations_of_images()).degrees.median() < 10


def test_maps_have_the_box_pixels_and_units_of_the_input(made: Path, averages: Path) -> None:
    for name in ("initial", "half_1", "half_2"):
        volume = read_volume(made / "initial" / f"{name}.mrc").volume
        assert (volume.side, volume.pixel_size_angstrom) == (_SIDE, _PIXEL)
    assert _map(made).sum() == pytest.approx(40 * float(_molecule().sum()), rel=0.25)
    assert imread(made / "initial" / "initial.png").shape[1] > 800


def test_the_evidence_is_written(made: Path) -> None:
    said = _said(made)
    assert said["answer"] in ("right", "perhaps", "unknown") and said["reason"].endswith(".")
    assert said["images"] == list(range(_COUNT)) and len(said["correlations"]) == _COUNT
    assert set(said["unexplained"]) < set(range(_COUNT))
    starts = said["starts"]
    assert sorted(start["number"] for start in starts) == list(range(8))  # twice the four, of 24 images
    assert {start["stage"] for start in starts} == {0, 2} or {start["stage"] for start in starts} == {0, 1, 2}
    assert 1 <= said["starts_agreeing"] <= 8
    assert said["winner_score"] == pytest.approx(starts[0]["first_score"])
    assert 0 < said["widest_gap_degrees"] < 90 and said["half_degrees"] >= 0 and said["half_correlation"] <= 1
    assert said["band_angstrom"] >= 2 * _PIXEL and 0 < said["radius_angstrom"] <= _SIDE * _PIXEL / 2
    assert said["symmetry"] == "C1" and said["threshold"] == pytest.approx(0.143)


def test_clean_projections_of_all_around_are_right(searched: Path) -> None:
    said = _said(searched)
    assert said["answer"] == "right" and said["half_degrees"] < 13
    assert min(said["correlations"]) > 0.5


def test_refining_is_said_and_betters_the_map(searched: Path, refined: Path) -> None:
    before, after = _said(searched), _said(refined)
    assert (before["refined"], after["refined"]) == (False, True)
    assert before["resolution_angstrom"] is None and 2 * _PIXEL <= after["resolution_angstrom"] < 40
    assert after["band_angstrom"] <= before["band_angstrom"]
    assert sum(after["correlations"]) > sum(before["correlations"])
    same = ("answer", "reason", "starts", "unexplained", "half_degrees")  # the evidence is that of the search
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert not list((searched / "checkpoint").glob("refine*"))


def test_a_second_call_takes_up_what_is_there(
    refined: Path, averages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = Path(shutil.copytree(refined, tmp_path / "run")), _counted(monkeypatch)
    assert _initial(averages, run, *_REFINE) == 0
    assert made == []
    assert _said(run) == _said(refined)
    poses = [read_particles(each / "initial" / "poses.star").poses for each in (run, refined)]
    assert poses[0] is not None and poses[1] is not None and torch.equal(poses[0].rotations, poses[1].rotations)
    assert torch.equal(_map(run), _map(refined)) and torch.equal(_map(run, "half_2"), _map(refined, "half_2"))
    (run / "checkpoint" / "initial.pt").unlink()
    assert _initial(averages, run, "--no-refine") == 0
    assert made == ["search"] * 3


def test_a_refinement_goes_on_from_a_search(
    searched: Path, refined: Path, averages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = Path(shutil.copytree(searched, tmp_path / "run")), _counted(monkeypatch)
    assert _initial(averages, run, *_REFINE) == 0
    assert made == ["refine"] * 3
    assert torch.equal(_map(run), _map(refined))
    assert _said(run) == _said(refined)


@pytest.mark.parametrize("searches", [1, 2, 3])
def test_a_search_that_is_interrupted_goes_on_with_the_next_model(
    searches: int, searched: Path, averages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole, or of a half: what is complete is not made again, and all is the same to the bit."""
    run, original, calls = tmp_path / "run", command.initial_model_progressive, []

    def interrupted(*arguments: Any, **named: Any) -> Iterator[object]:
        calls.append(named["seed"])
        for number, step in enumerate(original(*arguments, **named)):
            if len(calls) == searches and number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(command, "initial_model_progressive", interrupted)
        assert _initial(averages, run, "--no-refine") == 130
    assert not (run / "initial" / "initial.json").exists()
    assert (run / "initial" / "initial.mrc").exists() == (searches > 1)
    made = _counted(monkeypatch)
    assert _initial(averages, run, "--no-refine") == 0
    assert made == ["search"] * (4 - searches)
    for name in ("initial", "half_1", "half_2"):
        assert torch.equal(_map(run, name), _map(searched, name))
    assert _said(run) == _said(searched)


def test_images_that_are_left_out_keep_the_numbers_of_the_others(averages: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _initial(averages, run, "--no-refine", "--exclude", 0, 5) == 0
    kept = [index for index in range(_COUNT) if index not in (0, 5)]
    assert _said(run)["images"] == kept and set(_said(run)["unexplained"]) <= set(kept)
    found, opened = read_particles(run / "initial" / "poses.star"), open_run(run)
    assert found.poses is not None and len(found) == len(kept)
    torch.testing.assert_close(found.images.read(list(range(len(kept)))), opened.images[kept])
    assert pose_errors(found.poses.rotations, _rotations_of_images()[kept]).degrees.median() < 10


def test_few_images_have_no_halves(averages: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _initial(averages, run, "--exclude", *range(7, _COUNT), *_REFINE) == 0
    names = {path.name for path in (run / "initial").iterdir()}
    assert names == {"initial.mrc", "poses.star", "initial.json", "initial.png"}
    said = _said(run)
    assert said["half_degrees"] is None and said["resolution_angstrom"] is None
    assert said["refined"] is (said["answer"] != "unknown")
    assert said["images"] == list(range(7))


def test_three_images_are_not_refined(averages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _initial(averages, tmp_path / "run", "--exclude", *range(3, _COUNT)) == 0
    assert "3 class averages are too few to refine a map" in capsys.readouterr().err
    assert _said(tmp_path / "run")["refined"] is False
    assert not list((tmp_path / "run" / "checkpoint").glob("refine*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--symmetry", "Q7"], "'Q7' is no point group"),
        (["--symmetry", "C2", "--no-refine"], "--symmetry: does nothing here"),
        (["--initial.starts", "0"], "starts, kept and images_at_once must be 1 or more"),
        (["--initial.shift-extent", "0.7"], "shift_extent must lie between 0 and 0.5"),
        (["--keep", "3", "--exclude", "3"], "both name 3"),
    ],
)
def test_bad_settings_are_one_line(
    options: list[str], words: str, averages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _initial(averages, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("scoretomo: error: ") and words in error


def test_bad_input_is_one_line_and_leaves_the_folder_as_it_was(
    averages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _initial(tmp_path / "lost.mrcs", tmp_path / "run") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("scoretomo: error: ") and "lost.mrcs" in error
    assert not (tmp_path / "run").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    assert _initial(averages, tmp_path / "thesis") == 2
    assert "chapter.txt" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "thesis").iterdir() if path.name != ".lock"] == ["chapter.txt"]
