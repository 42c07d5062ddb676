"""``scoretomo drgn train``: from particle files to volumes and poses, interrupted and resumed, and what it refuses."""

import pickle
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import drgn_train, drgn_training
from scoretomo.commands.drgn_images import ParticlesConfig, open_particles, prepare_images
from scoretomo.datatypes import ImageStack, Poses
from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import random_rotations
from scoretomo.io.metrics import read_metrics
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.particles import read_particles
from scoretomo.io.star import write_particles

_SIDE = 16
_PIXEL = 3.0
_CENTRES = torch.tensor([[-4.0, 1.0, 0.5], [3.0, 0.5, -2.5], [0.0, -3.5, 2.0], [1.0, 3.0, 3.0]])
_HEIGHTS = torch.tensor([1.0, 0.8, 0.6, 1.2])
_SMALL = "--decoder.hidden 24 --decoder.layers 1 --device cpu".split()
_ENCODER = "--encoder.hidden 16 --encoder.layers 1".split()
_RANDOM = "--poses search --search.start random"
# Runs the command line in one of two processes; after so many steps and searches, one of them is asked to end.
_SCRIPT = """
import os, signal, sys
import torch
from scoretomo import cli
from scoretomo.commands import drgn_train, drgn_training

asked_after, folder, rank = int(sys.argv[1]), sys.argv[2], os.environ["RANK"]
drgn_training.supports_fast_bfloat16 = lambda device: False
original = drgn_training.train_abinitio_progressive

def items(state, *arguments, **named):
    turned = []
    for number, item in enumerate(original(state, *arguments, **named), 1):
        turned += item.turned_degrees.tolist() if hasattr(item, "turned_degrees") else []
        if number == asked_after:
            torch.save({"state": state.state_dict(), "turned": turned}, f"{folder}/rank_{rank}.pt")
            if rank == "1":
                os.kill(os.getpid(), signal.SIGTERM)
        yield item

drgn_training.train_abinitio_progressive = items
sys.exit(cli.main(sys.argv[3:]))
"""


def _blobs(places: Tensor) -> Tensor:
    axis = torch.arange(_SIDE) - _SIDE // 2
    factors = [(-((axis - places[..., i, None]) ** 2) / (2 * 1.4**2)).exp() for i in (1, 0)]
    return torch.einsum("b,nby,nbx->nyx", _HEIGHTS, *factors)


def truth() -> Tensor:
    axis = torch.arange(_SIDE) - _SIDE // 2
    x, y, z = ((-((axis - _CENTRES[:, i, None]) ** 2) / (2 * 1.4**2)).exp() for i in range(3))
    return torch.einsum("b,bz,by,bx->zyx", _HEIGHTS, z, y, x)


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Particles of blobs, 1.5 pixels off the centre, dark or bright, with their true poses."""

    def make(count: int = 60, sign: float = 1.0, noise: float = 0.1) -> Path:
        generator = torch.Generator().manual_seed(1)
        rotations = random_rotations(count, generator=generator)
        shifts = 1.5 * torch.randn(count, 2, generator=generator)
        images = _blobs(_CENTRES @ rotations.mT + torch.cat([shifts, torch.zeros(count, 1)], 1)[:, None])
        images = sign * images + noise * torch.randn(images.shape, generator=generator) + 7
        write_images(tmp_path / "images.mrcs", ImageStack(images, _PIXEL))
        poses = Poses(rotations, shifts * _PIXEL)
        path = tmp_path / "particles.star"
        write_particles(path, "images.mrcs", poses, pixel_size_angstrom=_PIXEL, side=_SIDE)
        return path

    return make


def _train(*arguments: object) -> int:
    words = list(map(str, arguments))
    dimensions = words[words.index("--latent-dimensions") + 1] if "--latent-dimensions" in words else "8"
    return cli.main(["drgn", "train", *_SMALL, *([] if dimensions == "0" else _ENCODER), *words])


def _overlap(volume: Tensor, reference: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(volume.flatten(), reference.flatten(), dim=0).item()


def test_a_volume_at_known_poses_in_the_units_of_the_input(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """Shifts, hand, contrast, scale and pixel size are right, or the volume would not be that of the blobs."""
    run = tmp_path / "run"
    fitted = "--latent-dimensions 0 --epochs 20 --decoder.hidden 48 --decoder.layers 3 --optimiser.batch-size 8".split()
    fitted += ["--side", "14"]
    assert _train(make_set(120, -1.0), "-o", run, *fitted, "--decoder.encoding", "cryodrgn2") == 0
    volume = read_volume(run / "volume.mrc").volume
    # the projection of the blobs is sqrt(2 pi) width times what the images have
    reference = truth() / (np.sqrt(2 * np.pi) * 1.4)
    assert volume.pixel_size_angstrom == pytest.approx(_PIXEL)
    assert _overlap(volume.voxels, reference) > 0.9
    assert fourier_shell_correlation(volume.voxels, reference)[1:4].min() > 0.85
    inside = reference > 0.3 * reference.max()
    assert (volume.voxels[inside].sum() / reference[inside].sum()).item() == pytest.approx(1, abs=0.08)
    found, given = read_particles(run / "poses.star"), read_particles(tmp_path / "particles.star")
    assert found.poses is not None and given.poses is not None
    torch.testing.assert_close(found.poses.rotations, given.poses.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.poses.shifts_angstrom, given.poses.shifts_angstrom, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.images.read([3, 1]), given.images.read([3, 1]))


def test_a_stack_without_poses_is_searched(make_set: Callable[..., Path], tmp_path: Path) -> None:
    make_set(30)
    run = tmp_path / "run"
    grid = "--search.base-order 1 --search.refinements 1 --search.kept 1 --search.shift-count 3".split()
    stack, once = tmp_path / "images.mrcs", ["--search.pretrain-images", 30, "--search.search-every", 1]
    options = [*_RANDOM.split(), "--latent-dimensions", 0, "--epochs", 3]
    assert _train(stack, "-o", run, *options, *grid, *once) == 0
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert sum(line.get("searched", 0) for line in lines) == 2 * 30  # in every epoch but the first
    searched = next(line for line in lines if "searched" in line)
    assert searched["median_turned_degrees"] > 10 and searched["mean_score"] > 0
    poses = read_particles(run / "poses.star").poses
    assert poses is not None and poses.shifts_angstrom.any()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A stack of clean, centred projections of a molecule without symmetry, which has no poses; and theirs."""
    side, folder = 24, tmp_path_factory.mktemp("clean")
    centres = 2.6 * torch.randn(14, 3, generator=torch.Generator().manual_seed(2)).clamp(-1.6, 1.6)
    rotations = random_rotations(60, generator=torch.Generator().manual_seed(1))
    places = (centres - centres.mean(0)) @ rotations.mT
    axis = torch.arange(side) - side // 2
    factors = [(-((axis - places[..., i, None]) ** 2) / (2 * 1.1**2)).exp() for i in (1, 0)]
    images = torch.einsum("nby,nbx->nyx", *factors)
    write_images(folder / "images.mrcs", ImageStack(images, _PIXEL))
    return folder / "images.mrcs", rotations


_FOUND = "--latent-dimensions 0 --epochs 1 --poses search --contrast bright --search.shift-extent 0.05".split()


def test_poses_are_found_from_nothing_before_anything_is_trained(clean: tuple[Path, Tensor], tmp_path: Path) -> None:
    """Of 60 clean projections, in one epoch of a small network, by an initial model and a march from it."""
    stack, rotations = clean
    assert _train(stack, "-o", tmp_path / "run", *_FOUND) == 0
    poses = read_particles(tmp_path / "run" / "poses.star").poses
    assert poses is not None
    assert pose_errors(poses.rotations, rotations).degrees.median() < 4
    assert (poses.shifts_angstrom / _PIXEL).norm(dim=1).median() < 0.5
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert not any("searched" in line for line in lines)  # 60 images are too few to better them in one epoch


def test_poses_that_were_found_are_not_found_again_by_a_run_that_goes_on(
    clean: tuple[Path, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_after: Callable[[int], AbstractContextManager[None]],
) -> None:
    options = ["--optimiser.batch-size", 7, "--epochs", 2]
    assert _train(clean[0], "-o", tmp_path / "whole", *_FOUND, *options) == 0
    with stopped_after(5):
        assert _train(clean[0], "-o", tmp_path / "cut", *_FOUND, *options) == 130
    monkeypatch.setattr(drgn_train, "found_poses", lambda *_: pytest.fail("found again"))
    assert _train(clean[0], "-o", tmp_path / "cut", *_FOUND, *options) == 0
    volumes = [read_volume(tmp_path / name / "volume.mrc").volume.voxels for name in ("whole", "cut")]
    torch.testing.assert_close(volumes[0], volumes[1], rtol=0, atol=0)
    whole, cut = (read_particles(tmp_path / name / "poses.star").poses for name in ("whole", "cut"))
    assert whole is not None and cut is not None and torch.equal(whole.rotations, cut.rotations)


def test_every_particle_has_its_z_and_its_row(make_set: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _train(make_set(31), "-o", run, "--latent-dimensions", 2, "--epochs", 1, "--half", 2) == 0
    lines = (run / "z.csv").read_text().splitlines()
    assert lines[0] == "row,z_1,z_2"
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 31, 2))
    assert not (run / "volume.mrc").exists()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    make_set: Callable[..., Path],
    tmp_path: Path,
    stopped_after: Callable[[int], AbstractContextManager[None]],
) -> None:
    particles = make_set(30)
    options = f"--latent-dimensions 0 --epochs 4 {_RANDOM} --search.base-order 1 --search.refinements 0".split()
    options += (
        "--search.shift-extent 0 --search.pretrain-images 30 --search.search-every 2 --optimiser.batch-size 7".split()
    )
    assert _train(particles, "-o", tmp_path / "whole", *options) == 0
    with stopped_after(9):
        assert _train(particles, "-o", tmp_path / "cut", *options) == 130
    assert not (tmp_path / "cut" / "volume.mrc").exists()
    assert _train(particles, "-o", tmp_path / "cut", *options) == 0
    volumes = [read_volume(tmp_path / name / "volume.mrc").volume.voxels for name in ("whole", "cut")]
    torch.testing.assert_close(volumes[0], volumes[1], rtol=0, atol=0)
    steps = [[line["step"] for line in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")]
    assert steps[0][-1] == steps[1][-1]


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles, run = make_set(20), tmp_path / "run"
    options = ["-o", run, "--latent-dimensions", 0]
    assert _train(particles, *options, "--epochs", 1) == 0
    before, copy = (run / "volume.mrc").read_bytes(), tmp_path / "copy.mrc"
    copy.write_bytes(before)
    assert tomllib.loads((run / "drgn.toml").read_text())["settings"]["model"]["epochs"] == 1.0
    assert _train(particles, *options, "--epochs", 1) == 0
    assert "already" in capsys.readouterr().err
    assert (run / "volume.mrc").read_bytes() == before
    (run / "volume.mrc").unlink()
    assert _train(particles, *options, "--epochs", 1) == 0  # what is missing is made again, from the checkpoint
    torch.testing.assert_close(read_volume(run / "volume.mrc").volume.voxels, read_volume(copy).volume.voxels)
    capsys.readouterr()
    assert _train(particles, *options, "--epochs", 2) == 2
    error = capsys.readouterr().err
    assert "model.epochs is 2.0, was 1.0" in error and error.count("\n") == 1
    particles.write_text(particles.read_text().replace("000020@images.mrcs", "000001@images.mrcs"))
    assert _train(particles, *options, "--epochs", 1) == 2
    assert "other particles" in capsys.readouterr().err


def test_a_search_is_written_with_its_own_epoch(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """Batches of 7 of 30 images: one that ends an epoch begins the next, whose search begins before it."""
    options = f"--latent-dimensions 0 --epochs 6 {_RANDOM} --search.base-order 1 --search.refinements 0".split()
    options += "--search.shift-extent 0 --search.pretrain-images 30 --search.search-every 2 --search.march 0.1".split()
    assert _train(make_set(30), "-o", tmp_path / "run", *options, "--optimiser.batch-size", 7) == 0
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {line["epoch"]: line["searched"] for line in lines if "searched" in line} == {1: 30, 3: 30, 5: 30}


def test_particles_that_have_moved_are_found(make_set: Callable[..., Path], tmp_path: Path) -> None:
    particles, run = make_set(12), tmp_path / "run"
    options = ["-o", run, "--latent-dimensions", 1, "--epochs", 1]
    assert _train(particles, *options) == 0
    (tmp_path / "moved").mkdir()
    for name in ("particles.star", "images.mrcs"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert _train(tmp_path / "moved" / "particles.star", *options) == 0
    assert tomllib.loads((run / "drgn.toml").read_text())["input"]["path"].endswith("moved/particles.star")


def test_other_images_under_the_same_name_are_other_particles(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", 0.01, "--latent-dimensions", 0]
    assert _train(make_set(10), "-o", tmp_path / "run", *options) == 0
    assert _train(make_set(10, noise=0.2), "-o", tmp_path / "run", *options) == 2
    assert "made of other particles" in capsys.readouterr().err


def test_halves_begin_with_weights_of_their_own(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """Else what they have in common is more than the molecule."""
    particles, weights = make_set(12), []
    for half in (1, 2):
        run = tmp_path / f"half_{half}"
        assert _train(particles, "-o", run, "--half", half, "--epochs", 0.01, "--latent-dimensions", 0) == 0
        saved = torch.load(run / "checkpoint.pt", weights_only=True)
        weights.append(saved["state"]["latent"]["training"]["model"]["decoder.from_waves.weight"].flatten())
    assert torch.nn.functional.cosine_similarity(weights[0], weights[1], dim=0).abs() < 0.5


def test_halves_are_those_of_the_file_where_it_has_them(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """Those of the refinement that the poses come from: other halves would share what it made of them."""
    particles, run = make_set(10), tmp_path / "run"
    table = starfile.read(particles)
    halves = [1, 1, 2, 2, 2, 1, 2, 1, 1, 2]
    rows = table["particles"] if isinstance(table, dict) else table
    rows["rlnRandomSubset"] = halves
    starfile.write(table, particles, overwrite=True)
    options = ["--half", 2, "--epochs", 0.01, "--latent-dimensions", 0]
    assert _train(particles, "-o", run, *options) == 0
    names = starfile.read(run / "poses.star")["particles"]["rlnImageName"]
    assert [int(name.split("@")[0]) - 1 for name in names] == [row for row in range(10) if halves[row] == 2]
    # what is written of them says so too, so that who trains on it keeps to these halves
    assert starfile.read(run / "poses.star")["particles"]["rlnRandomSubset"].tolist() == [2] * 5


def test_half_of_particles_that_are_all_of_one_half_is_refused(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles = make_set(10)
    table = starfile.read(particles)
    (table["particles"] if isinstance(table, dict) else table)["rlnRandomSubset"] = 1
    starfile.write(table, particles, overwrite=True)
    assert _train(particles, "-o", tmp_path / "run", "--half", 2, "--latent-dimensions", 0) == 2
    assert "holds particles of one half only, 1; take --half out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_poses_that_do_not_count_may_be_anything(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles, options = make_set(10), ["--epochs", 2, "--latent-dimensions", 0]
    table = starfile.read(particles)
    rows = table["particles"] if isinstance(table, dict) else table
    rows["rlnAngleRot"] = float("nan")
    starfile.write(table, particles, overwrite=True, na_rep="nan")
    assert _train(particles, "-o", tmp_path / "run", *options) == 2
    assert "rlnAngleRot" in capsys.readouterr().err
    grid = "--search.pretrain-images 10 --search.base-order 0 --search.kept 1 --search.shift-extent 0".split()
    assert _train(particles, "-o", tmp_path / "run", *options, "--poses", "search", *grid) == 0


def test_options_that_would_do_nothing_are_refused(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles, one = make_set(10), ["--latent-dimensions", "0"]
    idle = {
        "--search.kept: does nothing here, since poses are those of the file": ["--search.kept", 3],
        "--search.base-order: does nothing here, since branch and bound": [
            "--poses",
            "branch-and-bound",
            "--search.base-order",
            1,
        ],
        "--encoder.hidden: does nothing here": [*one, "--encoder.hidden", 9],
        "--beta: does nothing here": [*one, "--beta", 2],
        "--search.consensus-epochs: does nothing": [*one, "--poses", "search", "--search.consensus-epochs", 2],
    }
    for words, options in idle.items():
        arguments = ["drgn", "train", str(particles), "-o", str(tmp_path / "run"), *map(str, options)]
        assert cli.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_what_cannot_be_used_is_said_in_one_line(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    particles, run = make_set(10), tmp_path / "run"
    stack = tmp_path / "images.mrcs"
    wrong: dict[str, list[object]] = {
        "has no poses": [stack, "-o", run],
        "fewer than --side 32": [particles, "-o", run, "--side", 32],
        "no such file|No such file": [particles, "-o", run, "--poses-file", tmp_path / "no.pkl"],
        "give more than 100": [stack, "-o", run, *_RANDOM.split()],
        "holds other files": [particles, "-o", tmp_path],
        "epochs must be a number": [particles, "-o", run, "--epochs", "inf"],
        "consensus_epochs must be": [particles, "-o", run, "--search.consensus-epochs", "inf"],
        "beta must be": [particles, "-o", run, "--beta", "nan"],
        "base_order must be 0 to 5": [particles, "-o", run, "--search.base-order", 20],
    }
    for words, arguments in wrong.items():
        assert _train(*arguments) == 2
        error = " ".join(capsys.readouterr().err.replace("│", " ").split())  # options of a group come in a frame
        assert any(word in error for word in words.split("|"))
        assert not (run / "drgn.toml").exists()  # so that the same folder can be begun with the right options


def test_poses_of_a_pickle_win(make_set: Callable[..., Path], tmp_path: Path) -> None:
    make_set(12)
    rotations = np.stack([np.float32([[1, 0, 0], [0, 0, -1], [0, 1, 0]])] * 12)  # seen from the side
    with (tmp_path / "poses.pkl").open("wb") as file:
        pickle.dump((rotations, np.full((12, 2), 0.125, dtype=np.float32)), file)
    run = tmp_path / "run"
    stack = tmp_path / "images.mrcs"
    assert (
        _train(stack, "-o", run, "--epochs", 1, "--latent-dimensions", 0, "--poses-file", tmp_path / "poses.pkl") == 0
    )
    poses = read_particles(run / "poses.star").poses
    assert poses is not None
    torch.testing.assert_close(poses.shifts_angstrom, torch.full((12, 2), -0.125 * _SIDE * _PIXEL))


@pytest.mark.parametrize("side", [None, 12])
def test_noise_of_prepared_images_has_unit_variance(tmp_path: Path, side: int | None) -> None:
    """In the mean over the coefficients of the working images, whatever window and crop have left."""
    images = 5 * torch.randn(400, 24, 24, generator=torch.Generator().manual_seed(0)) + 3
    write_images(tmp_path / "noise.mrcs", ImageStack(images, 2.0))
    particles = open_particles(tmp_path / "noise.mrcs")
    prepared, record = prepare_images(particles, ParticlesConfig(side=side, contrast="bright"), lambda part, note: None)
    assert prepared.square().mean().sqrt().item() == pytest.approx(1, abs=0.03)
    assert record.pixel_size_angstrom == pytest.approx(2.0 * 24 / (side or 24))


def _saved(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoint.pt", weights_only=True)  # type: ignore[no-any-return]


def _z(run: Path) -> list[list[float]]:
    return [[float(value) for value in line.split(",")] for line in (run / "z.csv").read_text().splitlines()[1:]]


def test_two_processes_that_share_every_batch_train_as_one_does(
    launch: Callable[..., subprocess.CompletedProcess[str]],
    make_set: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # all by AdamW: sums in another order differ by rounding, which the bfloat16 iterations of Muon make larger
    options = "--latent-dimensions 2 --epochs 2 --optimiser.batch-size 7 --optimiser.muon-rate 0".split()
    particles, script, (one, two) = make_set(30), tmp_path / "script.py", (tmp_path / "one", tmp_path / "two")
    script.write_text(_SCRIPT)
    monkeypatch.setattr(drgn_training, "supports_fast_bfloat16", lambda device: False)
    assert _train(particles, "-o", one, *options) == 0
    done = launch(
        script, "0", str(tmp_path), "drgn", "train", *_SMALL, *_ENCODER, str(particles), "-o", str(two), *options
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"poses: {two / 'poses.star'}\nz: {two / 'z.csv'}\n"  # said once
    assert "shared by 2 processes" in done.stderr
    training = [_saved(run)["state"]["latent"]["training"] for run in (one, two)]
    assert training[0]["images_seen"] == training[1]["images_seen"] == 63
    assert torch.equal(training[0]["generator"], training[1]["generator"])
    for part in ("model", "averaged"):
        torch.testing.assert_close(training[1][part], training[0][part], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(_z(two), _z(one), atol=1e-4)
    losses = [[line["loss"] for line in read_metrics(run / "metrics.jsonl")] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[1]) == 2


def test_searches_shared_by_two_leave_one_state_with_which_one_process_goes_on(
    launch: Callable[..., subprocess.CompletedProcess[str]], make_set: Callable[..., Path], tmp_path: Path
) -> None:
    """First of one volume, for 18 images and for one; then of a family, after which one of them is asked to end."""
    options = f"--latent-dimensions 1 --epochs 2 --optimiser.batch-size 7 {_RANDOM} --search.consensus-epochs 2"
    options += " --search.pretrain-images 19 --search.search-every 1 --search.search-volumes 3 --search.base-order 1"
    options += " --search.refinements 1 --search.kept 2 --search.shift-count 3 --search.images-at-once 8"
    particles, script, run = make_set(19), tmp_path / "script.py", tmp_path / "run"
    script.write_text(_SCRIPT)
    command = ["drgn", "train", *_SMALL, str(particles), "-o", str(run), *options.split()]
    ended = launch(script, "12", str(tmp_path), *command)
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("scoretomo: ")]
    assert said[-1] == "scoretomo: interrupted; give the same command again to go on"
    assert len(set(said)) == len(said) and "scoretomo/" not in ended.stderr
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(ranks[0], ranks[1], rtol=0, atol=0)
    torch.testing.assert_close(_saved(run)["state"], ranks[0]["state"], rtol=0, atol=0)
    assert ranks[0]["state"]["cycle"] == 1 and len(ranks[0]["turned"]) == 2 * 19
    rotations = ranks[0]["state"]["latent"]["rotations"]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(19, 3, 3), atol=1e-5, rtol=0)
    assert min(ranks[0]["turned"][:19]) > 0  # from a random pose each
    assert cli.main(command) == 0
    assert _saved(run)["finished"] and len(_z(run)) == 19
