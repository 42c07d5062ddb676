import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError
from scoretomo.ensemble.growth import GrowthConfig
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.preprocess import PreprocessConfig
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.networks.unet import UNetConfig
from scoretomo.runs import Run, RunConfig, open_run, start_run

CONFIG = RunConfig(budget=64, unet=UNetConfig(channels=(32, 32), layers_per_block=1, patch=2))
CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path, generator: torch.Generator) -> Path:
    path = tmp_path / "averages.mrcs"
    write_images(path, blobs(50, 20, generator))
    return path


def blobs(count: int, side: int, generator: torch.Generator) -> ImageStack:
    """Images with a bright middle and random structure in it."""
    structure = 1 + 0.3 * torch.randn(count, side, side, generator=generator)
    return ImageStack(10 * structure * soft_ball(side, 2, side / 4, 2.0), 3.5)


def start(folder: Path, images: Path, config: RunConfig = CONFIG, device: torch.device = CPU) -> Run:
    folder.mkdir(exist_ok=True)
    start_run(folder, images, config, pixel_size_angstrom=None, device=device, preset="default")
    return open_run(folder)


def test_a_run_is_read_back_as_it_was_made(tmp_path: Path, images: Path) -> None:
    made, read = start(tmp_path / "run", images), open_run(tmp_path / "run")
    assert torch.equal(made.images, read.images)
    assert (made.config, made.preprocessing, made.held_out) == (read.config, read.preprocessing, read.held_out)


def test_images_on_disk_are_those_that_preprocessing_made(tmp_path: Path, images: Path) -> None:
    run = start(tmp_path / "run", images)
    assert abs(run.images.std(correction=0).item() - 1) < 1e-5
    record = json.loads((run.folder / "preprocessing.json").read_text())
    assert record["input_pixel_size_angstrom"] == 3.5


def test_volumes_are_written_in_the_side_and_pixel_size_of_the_input(tmp_path: Path, images: Path) -> None:
    run = start(tmp_path / "run", images, replace(CONFIG, preprocess=PreprocessConfig(side=16)))
    run.save_volume(3, 1, torch.zeros(16, 16, 16))
    volume = read_volume(tmp_path / "run" / "volumes" / "volume_0003_seed1.mrc").volume
    assert (volume.side, volume.pixel_size_angstrom) == (20, 3.5)


def test_large_images_are_made_smaller_on_a_cpu_only(tmp_path: Path, generator: torch.Generator) -> None:
    path = tmp_path / "large.mrcs"
    write_images(path, blobs(4, 72, generator))
    assert start(tmp_path / "cpu", path).images.shape[-1] == 48
    assert (
        start(tmp_path / "given", path, replace(CONFIG, preprocess=PreprocessConfig(side=68))).config.preprocess.side
        == 68
    )
    run = start(tmp_path / "gpu", path, device=torch.device("cuda"))  # only the settings are made here
    assert run.images.shape[-1] == 72
    # a run goes on at the side it has, on whatever device
    assert start(tmp_path / "gpu", path).images.shape[-1] == 72


def test_five_per_cent_are_held_out_by_default_but_none_of_a_small_stack(
    tmp_path: Path, images: Path, generator: torch.Generator
) -> None:
    assert len(start(tmp_path / "a", images).held_out) == 2
    assert len(start(tmp_path / "b", images, replace(CONFIG, held_out=0.5)).held_out) == 25
    assert start(tmp_path / "c", images, replace(CONFIG, held_out=0.0)).held_out == []
    write_images(tmp_path / "few.mrcs", blobs(39, 20, generator))
    assert start(tmp_path / "d", tmp_path / "few.mrcs").held_out == []


@pytest.mark.parametrize(
    "wrong", [{"minutes": None, "budget": None}, {"minutes": -1.0}, {"budget": 0}, {"held_out": 0.7}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float | None]) -> None:
    with pytest.raises(InputError):
        replace(CONFIG, **wrong)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("words")
    with pytest.raises(InputError, match=r"chapter\.txt"):
        start(folder, images)
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]


def test_a_run_of_a_version_with_other_settings_says_so(tmp_path: Path, images: Path) -> None:
    run = start(tmp_path / "run", images)
    path = run.folder / "config.toml"
    path.write_text(re.sub(r"(?m)^neighbours = .*\n", "", path.read_text()))
    with pytest.raises(InputError, match=r"another version.*'neighbours'"):
        open_run(run.folder)


@pytest.mark.parametrize(
    ("asked", "found", "rigid"),
    [(None, None, None), (None, False, True), (None, True, False), (True, True, True), (False, False, False)],
)
def test_whether_a_molecule_is_rigid_is_said_or_found(
    asked: bool | None, found: bool | None, rigid: bool | None, tmp_path: Path, images: Path
) -> None:
    """What the settings say counts more than what was found."""
    run = start(tmp_path / "run", images, replace(CONFIG, rigid=asked))
    assert run.rigid is asked
    if found is not None:
        run.motion_folder.mkdir()
        (run.motion_folder / "motion.json").write_text(json.dumps({"moves": found}))
    assert open_run(run.folder).rigid is rigid


def test_a_run_from_nothing_is_not_rigid_whatever_was_found(tmp_path: Path, images: Path) -> None:
    run = start(tmp_path / "run", images, replace(CONFIG, growth=GrowthConfig(initial=False)))
    run.motion_folder.mkdir()
    (run.motion_folder / "motion.json").write_text(json.dumps({"moves": False}))
    assert open_run(run.folder).rigid is None


def test_rigid_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(InputError, match=r"growth\.initial"):
        replace(CONFIG, rigid=True, growth=GrowthConfig(initial=False))
