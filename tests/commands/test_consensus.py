"""``scoretomo consensus`` writes a refined map that the class averages fit, and its halves are runs of their own."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import consensus as command
from scoretomo.datatypes import ImageStack
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.preprocess import working_volume
from scoretomo.imaging.projection import project
from scoretomo.io.files import write_json
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.tables import read_table, write_table
from scoretomo.methods.projection_matching import MatchingConfig
from scoretomo.runs import Run, open_run

_IMAGES, _SIDE = 8, 16
_QUICK = "--matching.iterations 3 --matching.start-shell 3 --matching.kept 2 --matching.solver-steps 3".split()


def _truth() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    centres = 1.8 * torch.randn(9, 3, generator=draw).clamp(-1.5, 1.5)
    axis = torch.arange(_SIDE, dtype=torch.float32) - _SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return sum(
        (torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 2) for a, b, c in centres),
        torch.zeros(_SIDE, _SIDE, _SIDE),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of projections with hardly any training, whose volumes are the truth with noise."""
    folder = tmp_path_factory.mktemp("made")
    rotations = random_rotations(_IMAGES, generator=torch.Generator().manual_seed(1))
    images = 40 * project(_truth()[None], rotations[None])[0]
    write_images(folder / "averages.mrcs", ImageStack(images, 4.0))
    network = "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1"
    options = "--optimiser.batch-size 8 --optimiser.warmup-images 16 --budget 32 --check False --contrast bright"
    growth = (
        "--growth.nuclei 2 --growth.parents 1 --growth.rounds 1 --growth.matching.base-order 1 "
        "--growth.nucleate.steps 2 --growth.grow.steps 2 --growth.polish.steps 2 --growth.specialise.steps 2"
    )
    train = ["train", str(folder / "averages.mrcs"), "-o", str(folder / "run")]
    assert cli.main([*train, *network.split(), *options.split(), *growth.split()]) == 0
    run = open_run(folder / "run")
    truth = _truth() * soft_ball(_SIDE, 3, 6.0, 2.0) / run.images.std()
    draw = torch.Generator().manual_seed(2)
    scale = run.images.abs().max() / project(truth[None], torch.eye(3)[None, None]).max()
    for index in range(_IMAGES):
        run.save_volume(index, 0, scale * (truth + 0.05 * truth.max() * torch.randn(truth.shape, generator=draw)))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy; what names the images names those of ``made``."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def _rotations(rows: list[dict[str, str]]) -> Tensor:
    return torch.tensor([[[float(row[f"rotation_{a}{b}"]) for b in "xyz"] for a in "xyz"] for row in rows])


def test_the_map_and_its_poses_explain_the_images(run: Path) -> None:
    assert cli.main(["consensus", str(run), "--no-halves", *_QUICK]) == 0
    opened = open_run(run)
    volume = working_volume(read_volume(run / "consensus" / "consensus.mrc").volume.voxels, opened.preprocessing)
    rows = read_table(run / "consensus" / "poses.csv")
    assert [int(row["index"]) for row in rows] == list(range(_IMAGES))
    predicted = project(volume[None], _rotations(rows)[None])[0]
    correlations = [_correlation(a, b) for a, b in zip(predicted, opened.images, strict=True)]
    assert sorted(correlations)[1] > 0.85  # all but one at most
    said = json.loads((run / "consensus" / "consensus.json").read_text())
    assert said["resolution_angstrom"] is None and said["images_used"] == _IMAGES and said["symmetry"] == "C1"
    assert not (run / "consensus" / "fsc.csv").exists()


def test_volumes_of_the_ensemble_count_by_their_verdicts(run: Path) -> None:
    """Reliable volumes make the mean; images of wrong ones are left out; the symmetry is the one that was found."""
    opened = open_run(run)
    folder = run / "ensemble"
    (folder / "volumes").mkdir(parents=True)
    verdicts = ["reliable"] * 6 + ["doubtful", "wrong"]
    for index in range(_IMAGES):
        shutil.copy(opened.volume(index, 0), folder / "volumes" / f"volume_{index:04d}.mrc")
    write_table(
        folder / "reliability.csv",
        [{"index": i, "probability": 0.9, "verdict": verdict} for i, verdict in enumerate(verdicts)],
    )
    write_json(folder / "symmetry.json", {"group": "C2"})
    assert cli.main(["consensus", str(run), "--no-halves", *_QUICK]) == 0
    said = json.loads((run / "consensus" / "consensus.json").read_text())
    assert (said["volumes_averaged"], said["images_used"], said["symmetry"]) == (6, 7, "C2")
    assert [int(row["index"]) for row in read_table(run / "consensus" / "poses.csv")] == list(range(7))


def test_halves_are_independent_runs(run: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees its own images only, with the settings of the run; a second call takes them up."""
    assert cli.main(["consensus", str(run), "--symmetry", "C1", *_QUICK]) == 0
    halves = [open_run(run / "halves" / str(half)) for half in (1, 2)]
    whole = open_run(run)
    for half, opened in enumerate(halves):
        assert len(opened.images) == _IMAGES // 2
        assert opened.config.unet == whole.config.unet and opened.config.budget == whole.config.budget
        assert opened.preprocessing.working_pixel_size_angstrom == whole.preprocessing.working_pixel_size_angstrom
        own = [_correlation(a, b) for a, b in zip(opened.images, whole.images[half::2], strict=True)]
        assert min(own) > 0.999
        assert len(list(opened.volumes.glob("*.mrc"))) == _IMAGES // 2
    with (run / "consensus" / "fsc.csv").open() as file:
        header = next(csv.reader(file))
    assert header == ["frequency_per_angstrom", "unmasked", "masked", "phase_randomised", "corrected"]
    for name in ("half_1", "half_2", "mask", "consensus"):
        assert read_volume(run / "consensus" / f"{name}.mrc").volume.side == _SIDE

    def no_training(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("scoretomo.commands.denoiser_training.optimise_progressive", no_training)
    before = read_volume(run / "consensus" / "half_1.mrc").volume.voxels
    assert cli.main(["consensus", str(run), "--symmetry", "C1", *_QUICK]) == 0
    assert torch.equal(read_volume(run / "consensus" / "half_1.mrc").volume.voxels, before)


def test_a_failure_leaves_the_earlier_consensus(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "consensus").mkdir()
    (run / "consensus" / "consensus.mrc").write_bytes(b"earlier")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_json", full)
    assert cli.main(["consensus", str(run), "--no-halves", "--b-factor", "-100", *_QUICK]) == 2
    assert (run / "consensus" / "consensus.mrc").read_bytes() == b"earlier"
    assert not list(run.glob(".consensus*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--symmetry", "Q7"], "'Q7' is no point group"),
        ([], "are gone"),
    ],
)
def test_bad_input_is_said_in_one_line(
    run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace("averages.mrcs", "moved.mrcs"))
    assert cli.main(["consensus", str(run), *_QUICK, *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("scoretomo: error:") and words in error


def test_a_run_without_volumes_says_what_to_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "volumes")
    assert cli.main(["consensus", str(run), "--no-halves"]) == 2
    assert "scoretomo reconstruct" in capsys.readouterr().err
    assert cli.main(["consensus", str(run / "nothing")]) == 2


def test_the_grid_of_the_halves_is_that_of_the_run(made: Path) -> None:
    opened: Run = open_run(made / "run")
    settings = command.half_config(opened).preprocess
    assert settings.mask_radius == opened.preprocessing.mask_radius
    assert settings.contrast == "bright"
    assert MatchingConfig().iterations > 3
