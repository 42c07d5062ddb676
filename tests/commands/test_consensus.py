"""``scoretomo consensus``: a refined map that the class averages fit, and halves that know nothing of each other."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import consensus as command
from scoretomo.commands import initial, refinement
from scoretomo.datatypes import ImageStack
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.preprocess import PreprocessConfig, working_volume
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import symmetrise
from scoretomo.io.checkpoints import load_checkpoint
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.tables import read_table, write_table
from scoretomo.methods.initial_schedule import InitialModelConfig
from scoretomo.runs import RunConfig, open_run, start_run

_IMAGES, _SIDE = 24, 20
_QUICK = "--matching.iterations 3 --matching.start-shell 3 --matching.kept 2 --matching.solver-steps 3".split()
_CONFIG = RunConfig(
    budget=1,
    check=False,
    preprocess=PreprocessConfig(contrast="bright"),
    initial=InitialModelConfig(starts=4, kept=2),
)


def _truth(seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 2.3 * torch.randn(11, 3, generator=draw).clamp(-1.5, 1.5)
    centres = centres - centres.mean(0)
    axis = torch.arange(_SIDE, dtype=torch.float32) - _SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return sum(
        (torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 2) for a, b, c in centres),
        torch.zeros(_SIDE, _SIDE, _SIDE),
    )


def _rotations_of_images() -> Tensor:
    return random_rotations(_IMAGES, generator=torch.Generator().manual_seed(1))


def _make(folder: Path, truth: Tensor) -> Path:
    """A run of projections, and nothing else."""
    images = 40 * project(truth[None], _rotations_of_images()[None])[0]
    write_images(folder / "averages.mrcs", ImageStack(images, 4.0))
    (folder / "run").mkdir()
    start_run(
        folder / "run",
        folder / "averages.mrcs",
        _CONFIG,
        pixel_size_angstrom=None,
        device=torch.device("cpu"),
        preset="default",
    )
    return folder / "run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("made"), _truth())


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy; what names the images names those of ``made``."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def _consensus(run: Path, *more: str) -> int:
    return cli.main(["consensus", str(run), *_QUICK, *more])


def _said(run: Path) -> dict[str, object]:
    said: dict[str, object] = json.loads((run / "consensus" / "consensus.json").read_text())
    return said


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def _rotations(rows: list[dict[str, str]]) -> Tensor:
    return torch.tensor([[[float(row[f"rotation_{a}{b}"]) for b in "xyz"] for a in "xyz"] for row in rows])


def _map(run: Path, name: str = "consensus") -> Tensor:
    return read_volume(run / "consensus" / f"{name}.mrc").volume.voxels


def _no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(initial, "initial_model_progressive", searched)
    monkeypatch.setattr(refinement, "refine_progressive", searched)


def test_the_map_and_its_poses_explain_the_images(run: Path) -> None:
    """Without any volume, nor a denoiser."""
    assert _consensus(run, "--no-halves") == 0
    opened = open_run(run)
    volume = working_volume(_map(run), opened.preprocessing)
    rows = read_table(run / "consensus" / "poses.csv")
    assert [int(row["index"]) for row in rows] == list(range(_IMAGES))
    predicted = project(volume[None], _rotations(rows)[None])[0]
    correlations = [_correlation(a, b) for a, b in zip(predicted, opened.images, strict=True)]
    assert sorted(correlations)[1] > 0.85  # all but one at most
    assert pose_errors(_rotations(rows), _rotations_of_images()).degrees.median() < 10
    said = _said(run)
    assert said["resolution_angstrom"] is None and said["images_used"] == _IMAGES and said["symmetry"] == "C1"
    assert "volumes_averaged" not in said
    assert not (run / "consensus" / "fsc.csv").exists() and not (run / "consensus" / "half_1.mrc").exists()
    assert not (run / "volumes").exists() and not (run / "denoiser").exists()


def test_images_whose_volumes_are_wrong_are_left_out(run: Path) -> None:
    """Those that are doubtful count, and so does an image that has no volume."""
    verdicts = ["reliable"] * 19 + ["doubtful", "wrong", "reliable", "wrong"]
    table = [{"index": i, "probability": 0.9, "verdict": verdict} for i, verdict in enumerate(verdicts)]
    (run / "ensemble").mkdir()
    write_table(run / "ensemble" / "reliability.csv", table)
    assert _consensus(run, "--no-halves") == 0
    left = [index for index in range(_IMAGES) if index not in (20, 22)]
    assert _said(run)["images_used"] == len(left)
    assert [int(row["index"]) for row in read_table(run / "consensus" / "poses.csv")] == left
    models = load_checkpoint(initial.models_checkpoint(open_run(run), left))
    assert models is not None and models["made_of"]["rows"] == left


@pytest.mark.parametrize("named", [True, False])
def test_a_symmetry_is_imposed_by_name_or_found_in_the_map(named: bool, tmp_path: Path) -> None:
    truth = symmetrise(_truth(5), symmetry_group("C3"))
    run = _make(tmp_path, truth)
    assert _consensus(run, *(["--no-halves", "--symmetry", "c3"] if named else [])) == 0
    assert _said(run)["symmetry"] == "C3"
    volume = working_volume(_map(run), open_run(run).preprocessing)
    assert _correlation(volume, symmetrise(volume, symmetry_group("C3"))) > 0.98


def test_a_symmetry_that_images_of_the_other_half_do_not_fit_is_not_imposed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = refinement.find_symmetry
    monkeypatch.setattr(refinement, "find_symmetry", lambda volume: replace(original(volume), group="D2"))
    assert _consensus(run) == 0
    assert "It is not imposed: class averages that were left out fit worse" in capsys.readouterr().err
    assert _said(run)["symmetry"] == "C1"


def test_a_symmetry_that_nothing_has_tested_is_said_and_not_imposed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = refinement.find_symmetry
    monkeypatch.setattr(refinement, "find_symmetry", lambda volume: replace(original(volume), group="D2"))
    assert _consensus(run, "--no-halves") == 0
    assert "no halves to test it; --symmetry imposes it" in capsys.readouterr().err
    assert _said(run)["symmetry"] == "C1"


def test_no_symmetry_is_looked_for_where_one_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "find_symmetry", lambda *_: pytest.fail("looked for a symmetry"))
    assert _consensus(run, "--no-halves", "--symmetry", "C1") == 0
    assert _said(run)["symmetry"] == "C1"


def test_halves_are_independent_and_taken_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made and refined of its own images only; a second call makes nothing again."""
    seen: dict[str, list[Tensor]] = {"initial": [], "refined": []}
    original, refine = initial.initial_model_progressive, refinement.refine_progressive

    def search(images: Tensor, *arguments: object, **named: object) -> object:
        seen["initial"].append(images)
        return original(images, *arguments, **named)  # type: ignore[arg-type]

    def refined(start: Tensor, images: Tensor, *arguments: object, **named: object) -> object:
        seen["refined"].append(images)
        return refine(start, images, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(initial, "initial_model_progressive", search)
        patch.setattr(refinement, "refine_progressive", refined)
        assert _consensus(run, "--symmetry", "C1") == 0
    images = open_run(run).images
    whole, halves = images, [images[0::2], images[1::2]]
    assert [len(each) for each in seen["initial"]] == [_IMAGES, _IMAGES // 2, _IMAGES // 2]
    assert all(torch.equal(a, b) for a, b in zip(seen["initial"], [whole, *halves], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen["refined"], [*halves, whole], strict=True))
    models = load_checkpoint(run / "checkpoint" / "initial.pt")
    assert models is not None
    first, second = (model["rotations"] for model in models["models"][1:])
    assert not torch.allclose(first, second, atol=0.1)  # starts of their own

    with (run / "consensus" / "fsc.csv").open() as file:
        header = next(csv.reader(file))
    assert header == ["frequency_per_angstrom", "unmasked", "masked", "phase_randomised", "corrected"]
    for name in ("half_1", "half_2", "mask", "consensus"):
        assert read_volume(run / "consensus" / f"{name}.mrc").volume.side == _SIDE
    assert not torch.equal(_map(run, "half_1"), _map(run, "half_2"))
    assert _correlation(_map(run, "half_1"), _map(run, "half_2")) > 0.8
    resolution = _said(run)["resolution_angstrom"]
    assert isinstance(resolution, float) and 8 <= resolution < 30
    kept = {path.name for path in (run / "checkpoint").iterdir()}
    assert kept == {"initial.pt", "refine.pt", "refine_half_1.pt", "refine_half_2.pt"}
    assert not (run / "halves").exists()

    _no_search(monkeypatch)
    before, poses = _map(run, "half_1"), (run / "consensus" / "poses.csv").read_bytes()
    assert _consensus(run, "--symmetry", "C1") == 0
    assert torch.equal(_map(run, "half_1"), before)
    assert (run / "consensus" / "poses.csv").read_bytes() == poses


def test_other_settings_refine_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _consensus(run, "--no-halves", "--symmetry", "C1") == 0
    _no_search(monkeypatch)
    with pytest.raises(AssertionError, match="made again"):
        _consensus(run, "--no-halves", "--symmetry", "C1", "--matching.iterations", "2")
    assert _consensus(run, "--no-halves", "--symmetry", "C1") == 0


def test_a_failure_leaves_the_earlier_consensus(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "consensus").mkdir()
    (run / "consensus" / "consensus.mrc").write_bytes(b"earlier")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_json", full)
    assert _consensus(run, "--no-halves", "--b-factor", "-100") == 2
    assert (run / "consensus" / "consensus.mrc").read_bytes() == b"earlier"
    assert not list(run.glob(".consensus*"))


def test_sharpening_acts_on_the_map_that_is_written_alone(run: Path) -> None:
    assert _consensus(run, "--no-halves", "--symmetry", "C1") == 0
    plain, poses = _map(run), (run / "consensus" / "poses.csv").read_bytes()
    assert _consensus(run, "--no-halves", "--symmetry", "C1", "--b-factor", "-400") == 0
    assert (run / "consensus" / "poses.csv").read_bytes() == poses
    assert _map(run).std() > 1.05 * plain.std()


def test_a_spread_of_views_is_undone_in_the_map_that_is_written_alone(run: Path) -> None:
    assert _consensus(run, "--symmetry", "C1") == 0
    plain, half = _map(run), _map(run, "half_1")
    assert _said(run)["angular_spread_degrees"] == 0  # all of an image is seen from one direction
    settings = run / "config.toml"
    settings.write_text(settings.read_text().replace("[settings]\n", "[settings]\nangular_spread = 6.0\n"))
    assert _consensus(run, "--symmetry", "C1") == 0
    assert _said(run)["angular_spread_degrees"] == 6
    assert torch.equal(_map(run, "half_1"), half)
    axis = torch.arange(len(plain)) - len(plain) // 2
    outer = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2).sqrt() > 5
    more = _map(run) - plain
    assert float(more[outer].norm() / plain[outer].norm()) > 1.5 * float(more[~outer].norm() / plain[~outer].norm())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--symmetry", "Q7"], "'Q7' is no point group"),
        ([], "7 images are too few for halves; give --no-halves"),
        (["--matching.iterations", "0"], "iterations"),
    ],
)
def test_bad_input_is_said_in_one_line(
    run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [{"index": i, "verdict": "wrong" if i > 6 else "reliable"} for i in range(_IMAGES)]
    (run / "ensemble").mkdir()
    write_table(run / "ensemble" / "reliability.csv", table)
    assert _consensus(run, *arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("scoretomo: error:") and words in error
    assert not (run / "consensus").exists()


def test_what_is_no_run_folder_is_said_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _consensus(run / "nothing") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("scoretomo: error:") and "no run folder" in error
