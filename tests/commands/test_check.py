"""The quality check on the command line, and runs that leave images out."""

import tomllib
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from scoretomo import cli
from scoretomo.datatypes import ImageStack
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.quality import read_quality
from scoretomo.io.tables import read_table
from scoretomo.runs import open_run

TINY = (
    "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1 --budget 16 --held-out 0 "
    "--initial.starts 2 --initial.kept 1 "
    "--optimiser.batch-size 8 --optimiser.warmup-images 16"
)
GROWTH = "--growth.distil.steps 2"


@pytest.fixture
def particles(generator: torch.Generator) -> torch.Tensor:
    """Twenty images of much the same, with detail."""
    structure = 1 + 0.5 * torch.randn(20, 16, 16, generator=generator)
    return 10 * structure * soft_ball(16, 2, 3.5, 1.5)


def write(path: Path, images: torch.Tensor) -> Path:
    write_images(path, ImageStack(images, 3.5))
    return path


def run(images: Path, folder: Path, *more: str) -> int:
    return cli.main(["run", str(images), "-o", str(folder), "--volumes", *TINY.split(), *GROWTH.split(), *more])


def train(images: Path, folder: Path, *more: str) -> int:
    return cli.main(["train", str(images), "-o", str(folder), *TINY.split(), *more])


def volumes(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "volumes").iterdir())


def test_check_says_what_is_junk_and_draws_it(
    particles: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles[7] = 40 * soft_ball(16, 2, 0.0, 7.0)
    stack = write(tmp_path / "averages.mrcs", particles)
    assert cli.main(["check", str(stack)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines() if "blurred" in line] == [["7", "junk"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["averages.mrcs"]
    assert cli.main(["check", str(stack), "-o", str(tmp_path / "checked")]) == 0
    assert [row.index for row in read_quality(tmp_path / "checked" / "quality.csv") if row.verdict == "junk"] == [7]
    assert imread(tmp_path / "checked" / "quality.png").shape[1] > 500
    assert cli.main(["check", str(stack), "-o", str(stack)]) == 2


def test_volumes_of_a_run_that_leaves_images_out_are_those_of_the_others_alone(
    particles: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same six images twice, the first time left out: the others come out as if alone, under their own numbers."""
    six = particles[:6]
    alone, twice = write(tmp_path / "six.mrcs", six), write(tmp_path / "twice.mrcs", torch.cat([six.flip(0), six]))
    excluded = ["--exclude", *map(str, range(6))]
    assert run(alone, tmp_path / "alone") == 0
    assert run(twice, tmp_path / "twice", *excluded) == 0
    said = capsys.readouterr().err
    assert "left out: image 5: as asked for" in said and "6 of 12 images are left out" in said
    assert volumes(tmp_path / "twice") == [f"volume_{index:04d}.mrc" for index in range(6, 12)]
    for index in range(6):
        first = read_volume(tmp_path / "alone" / "volumes" / f"volume_{index:04d}.mrc").volume.voxels
        second = read_volume(tmp_path / "twice" / "volumes" / f"volume_{index + 6:04d}.mrc").volume.voxels
        assert (first - second).norm() < 1e-4 * first.norm()
    assert open_run(tmp_path / "twice").used == list(range(6, 12))
    assert (tmp_path / "twice" / "figures" / "quality.png").exists()
    table = read_table(tmp_path / "twice" / "quality.csv")
    assert [row["used"] for row in table] == ["0"] * 6 + ["1"] * 6
    assert all(float(row["denoiser_outlier"]) < 1e3 for row in table)

    assert run(twice, tmp_path / "twice", *excluded) == 0  # goes on, with all there
    assert cli.main(["reconstruct", str(tmp_path / "twice"), "--images", "5"]) == 2
    assert "--images 5: left out" in capsys.readouterr().err
    assert run(twice, tmp_path / "twice") == 2
    assert "exclude" in capsys.readouterr().err


def test_empty_classes_are_left_out_of_a_run_unless_they_are_asked_for(
    particles: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles[2] = 0
    stack = write(tmp_path / "averages.mrcs", particles[:6])
    assert train(stack, tmp_path / "kept", "--keep", "2") == 2
    assert "constant (index 2)" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
    assert train(stack, tmp_path / "run") == 0
    assert "left out: image 2: empty" in capsys.readouterr().err
    assert open_run(tmp_path / "run").used == [0, 1, 3, 4, 5]


def test_a_run_from_before_there_was_a_check_goes_on(particles: torch.Tensor, tmp_path: Path) -> None:
    """Its settings know nothing of it, and all of its images are used."""
    stack, folder = write(tmp_path / "averages.mrcs", particles[:6]), tmp_path / "run"
    assert train(stack, folder) == 0
    (folder / "quality.csv").unlink()
    assert not {"check", "keep", "exclude"} & set(tomllib.loads((folder / "config.toml").read_text())["settings"])
    assert train(stack, folder) == 0
    assert open_run(folder).used == list(range(6))
