"""Files that a command has left, broken in any way: the next command says so in one line, or needs them not."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scoretomo import cli
from scoretomo.datatypes import ImageStack, PointClouds
from scoretomo.geometry.point_clouds import normalise
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.checkpoints import save_checkpoint
from scoretomo.io.mrc import write_images
from scoretomo.io.point_sets import write_point_set

_SIDE = 16
_TINY = (
    "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1 --initial.starts 2 --initial.kept 1 --rigid False "
    "--optimiser.batch-size 8 --optimiser.warmup-images 16 --budget 32 --growth.distil.steps 2"
).split()
_PARTICLES = "--count 30 --side 16 --snr 1 --true-volumes 2".split()
_DRGN = (
    "--decoder.hidden 16 --decoder.layers 1 --encoder.hidden 16 --encoder.layers 1 --epochs 1 --latent-dimensions 2"
).split()
_PRIOR = (
    "--network.width 16 --network.layers 1 --network.heads 2 --optimiser.batch-size 8 --optimiser.warmup-images 16 "
    "--budget 32"
).split()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six class averages, one of drgn and a prior, as the commands leave them, in a folder of their own."""
    folder = tmp_path_factory.mktemp("made")
    draw = torch.Generator().manual_seed(1)
    structure = 1 + 0.3 * torch.randn(6, _SIDE, _SIDE, generator=draw)
    write_images(folder / "images.mrcs", ImageStack(10 * structure * soft_ball(_SIDE, 2, 4.0, 2.0), 3.5))
    assert cli.main(["run", str(folder / "images.mrcs"), "-o", str(folder / "run"), *_TINY]) == 0
    assert cli.main(["simulate", "particles", "hand", "-o", str(folder / "hand"), *_PARTICLES]) == 0
    assert cli.main(["drgn", "train", str(folder / "hand" / "particles.star"), "-o", str(folder / "drgn"), *_DRGN]) == 0
    assert cli.main(["drgn", "analyze", str(folder / "drgn"), "--clusters", "3", "--frames", "2", "--no-umap"]) == 0
    turned = random_rotations(10, generator=draw)
    points = normalise(torch.rand(10, 12, 3, generator=draw) * torch.tensor([2.0, 1.0, 0.5]) @ turned)[0]
    names = tuple(f"cloud {number}" for number in range(10))
    clouds = PointClouds(points, torch.full((10,), 9.0), names, torch.arange(10) < 2, True)
    write_point_set(folder / "set.npz", clouds)
    assert cli.main(["points", "train", str(folder / "set.npz"), "-o", str(folder / "prior"), *_PRIOR]) == 0
    views = "--samples 2 --views 3 --sampling.steps 2".split()
    assert cli.main(["points", "reconstruct", str(folder / "run"), "--prior", str(folder / "prior"), *views]) == 0
    return folder


# In what is ``made``, and in place of these words its parts.
_COMMANDS = {
    "report": "report RUN",
    "run": f"run IMAGES -o RUN {' '.join(_TINY)}",
    "train": f"train IMAGES -o RUN {' '.join(_TINY)}",
    "reconstruct": "reconstruct RUN",
    "consensus": "consensus RUN --no-halves",
    "points": "points reconstruct RUN --prior PRIOR --samples 2 --views 3 --sampling.steps 2",
    "drgn train": f"drgn train PARTICLES -o DRGN {' '.join(_DRGN)}",
    "analyze": "drgn analyze DRGN --clusters 3 --frames 2 --no-umap",
    "select": "drgn select DRGN --clusters 1 -o SELECTED",
    "points train": f"points train SET -o PRIOR {' '.join(_PRIOR)}",
    "sample": "points sample PRIOR -o SAMPLES --count 2 --sampling.steps 2",
}
_NEEDED = [
    ("run/config.toml", "report"),
    ("run/config.toml", "run"),
    ("run/preprocessing.json", "report"),
    ("run/images.mrcs", "report"),
    ("run/quality.csv", "train"),
    ("run/reconstruction.toml", "reconstruct"),
    ("run/checkpoint/training.pt", "train"),
    ("run/checkpoint/initial.pt", "consensus"),
    ("run/checkpoint/refine.pt", "consensus"),
    ("run/checkpoint/motion_model.pt", "reconstruct"),
    ("run/denoiser/diffusion_pytorch_model.safetensors", "reconstruct"),
    ("run/initial/initial.json", "report"),
    ("run/motion/motion.json", "reconstruct"),
    ("run/motion/motion.json", "report"),
    ("run/motion/coordinates.csv", "report"),
    ("run/consensus/consensus.json", "report"),
    ("run/ensemble/made_of.json", "run"),
    ("run/ensemble/reliability.csv", "consensus"),
    ("run/ensemble/reliability.csv", "report"),
    ("run/ensemble/reliability.json", "report"),
    ("run/ensemble/transforms.csv", "report"),
    ("run/ensemble/symmetry.json", "report"),
    ("run/points/reconstruction.json", "points"),
    ("run/points/reconstruction.json", "report"),
    ("drgn/drgn.toml", "analyze"),
    ("drgn/drgn.toml", "drgn train"),
    ("drgn/preparation.json", "analyze"),
    ("drgn/checkpoint.pt", "drgn train"),
    ("drgn/checkpoint.pt", "analyze"),
    ("drgn/z.csv", "analyze"),
    ("drgn/analysis/latent.csv", "select"),
    ("prior/prior.toml", "sample"),
    ("prior/prior.toml", "points train"),
    ("prior/checkpoint.pt", "points train"),
    ("prior/prior.safetensors", "sample"),
]


def _cut(path: Path) -> None:
    """In the middle of a value, so that no table is whole."""
    content = path.read_bytes()
    end = len(content) // 2
    while path.suffix == ".csv" and content[end - 1 : end] != b",":
        end -= 1
    path.write_bytes(content[: end - 1] if path.suffix == ".csv" else content[:end])


def _of_another_shape(path: Path) -> None:
    match path.suffix:
        case ".pt":
            # it says what it was made of, and nothing else is true
            kept = torch.load(path, weights_only=True).get("made_of")
            save_checkpoint(
                path, {"made_of": kept, "state": [1], "models": 3, "step": {}, "model": "a", "seconds": "b"}
            )
        case ".safetensors":
            save_file({"weight": torch.ones(3)}, path)
        case ".mrcs":
            write_images(path, ImageStack(torch.rand(3, 8, 8), 3.5))
        case ".csv":
            path.write_text("first,second\n1,2\n")
        case ".toml":
            path.write_text("[input]\npath = 1\n[settings]\nseed = 'a'\n")
        case _:
            path.write_text("[[1, 2], {}]")


_FAULTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": _cut,
    "random bytes": lambda path: path.write_bytes(random.Random(3).randbytes(2000)),
    "another shape": _of_another_shape,
}


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


def _carry_out(name: str, folder: Path) -> int:
    places = {
        "RUN": folder / "run",
        "DRGN": folder / "drgn",
        "PRIOR": folder / "prior",
        "IMAGES": folder / "images.mrcs",
        "PARTICLES": folder / "hand" / "particles.star",
        "SET": folder / "set.npz",
        "SELECTED": folder / "selected.star",
        "SAMPLES": folder / "samples",
    }
    return cli.main([str(places.get(word, word)) for word in _COMMANDS[name].split()])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("scoretomo: error: ")]
    return line


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize(("file", "command"), _NEEDED)
def test_a_file_that_is_needed_and_broken_is_one_line_and_status_2(
    file: str, command: str, fault: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _FAULTS[fault](copied / file)
    capsys.readouterr()
    assert _carry_out(command, copied) == 2
    assert str(copied / file) in _error(capsys)


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("run/denoiser/config.json", "reconstruct"),  # the settings of the run tell it
        ("run/metrics.jsonl", "reconstruct"),
        ("run/checkpoint/evidence.pt", "train"),
        ("drgn/metrics.jsonl", "drgn train"),
        ("drgn/poses.star", "drgn train"),
        ("prior/metrics.jsonl", "sample"),
    ],
)
def test_a_file_that_is_not_needed_is_not_looked_at(file: str, command: str, fault: str, copied: Path) -> None:
    _FAULTS[fault](copied / file)
    assert _carry_out(command, copied) == 0


def test_a_run_goes_on_after_half_a_line_of_metrics(copied: Path) -> None:
    path = copied / "run" / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole.splitlines()[0]) // 2])
    assert _carry_out("report", copied) == 0
    path.write_bytes(whole[:10] + b"\n" + whole)
    assert _carry_out("report", copied) == 2


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("run/config.toml", "seed = 0", "seed = -4", "seed must be 0 to"),
        ("run/config.toml", "seed = 0", "seed = nan", "seed must be a whole number"),
        ("run/config.toml", "images = 6", "images = 7", "images.mrcs: has 6 images .* made of 7"),
        ("run/config.toml", 'path = "', 'left_out = [9]\npath = "', "leaves out images that there are not"),
        ("run/preprocessing.json", '"scale": ', '"scale": -', "scale must be a positive number"),
        ("run/preprocessing.json", '"input_side": 16', '"input_side": 999999999', "input_side must be 1 to"),
        ("run/preprocessing.json", '"input_side": 16', '"input_side": 20', "does not belong to config.toml"),
        ("run/motion/motion.json", '"moves": ', '"moves": "yes", "moved": ', "moves must be true or false"),
    ],
)
def test_values_that_cannot_be_are_refused(
    file: str, old: str, new: str, said: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    capsys.readouterr()
    assert _carry_out("report", copied) == 2
    line = _error(capsys)
    assert str(copied / "run") in line
    assert re.search(said, line), line


def test_a_file_that_is_deleted_as_advised_is_made_anew(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, and what was done to particles: the commands that the errors name write them."""
    for file, broken, again in (
        ("run/denoiser", "reconstruct", "train"),
        ("drgn/preparation.json", "analyze", "drgn train"),
        ("prior/prior.safetensors", "sample", "points train"),
    ):
        path = copied / file
        before = (path / "diffusion_pytorch_model.safetensors" if path.is_dir() else path).read_bytes()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        capsys.readouterr()
        assert _carry_out(broken, copied) == 2
        assert _carry_out(again, copied) == 0
        assert (path / "diffusion_pytorch_model.safetensors" if path.is_dir() else path).read_bytes() == before


def test_a_volume_of_nobody_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volumes = copied / "run" / "volumes"
    shutil.copy(volumes / "volume_0001.mrc", volumes / "volume_0099.mrc")
    assert cli.main(["ensemble", str(copied / "run")]) == 2
    assert "volume_0099.mrc" in _error(capsys)
    assert _carry_out("report", copied) == 0
    assert "volume 99" not in (copied / "run" / "report.html").read_text()


def test_the_motion_that_was_found_is_what_the_file_says(made: Path) -> None:
    """The tests above rest on it: a run that moves, with all its files."""
    assert json.loads((made / "run" / "motion" / "motion.json").read_text())["components_fitted"] == 1
    assert all((made / file).is_file() for file, _ in _NEEDED)
