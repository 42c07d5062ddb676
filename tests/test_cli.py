import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from scoretomo import cli
from scoretomo.commands import reconstruct as reconstruct_command
from scoretomo.commands import run as run_command
from scoretomo.commands import train as train_command
from scoretomo.commands import training_loop
from scoretomo.datatypes import Volume
from scoretomo.ensemble.growth import GrowthConfig
from scoretomo.imaging.fourier import resize
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import read_volume, write_volume

TINY = (
    "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1 --initial.starts 2 --initial.kept 1 "
    "--optimiser.batch-size 8 --optimiser.warmup-images 16"
)
GROWTH = "--growth.distil.steps 3"
VERBS = (
    "simulate",
    "initial",
    "train",
    "reconstruct",
    "ensemble",
    "consensus",
    "particles",
    "drgn",
    "report",
    "check",
    "evaluate",
    "run",
    "demo",
    "info",
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_stack(tmp_path / "averages.mrcs", blobs(6))


def blobs(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Images with a bright middle and random structure in it."""
    structure = 1 + 0.3 * np.random.default_rng(seed).standard_normal((count, side, side))
    return (10 * structure * soft_ball(side, 2, side / 4, 2.0).numpy()).astype(np.float32)


def write_stack(path: Path, values: np.ndarray, pixel_size: float = 3.5) -> Path:
    with warnings.catch_warnings(action="ignore"), mrcfile.new(path, overwrite=True) as mrc:  # it warns of NaN
        mrc.set_data(values)
        mrc.voxel_size = pixel_size
        mrc.set_image_stack()
    return path


def train(images: Path, run: Path, *more: str, budget: int = 64) -> int:
    return cli.main(["train", str(images), "-o", str(run), *TINY.split(), "--budget", str(budget), *more])


def reconstruct(run: Path, *more: str) -> int:
    return cli.main(["reconstruct", str(run), *GROWTH.split(), *more])


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoint" / "training.pt", weights_only=True)["state"]
    return {f"{part}.{name}": tensor for part in ("model", "averaged") for name, tensor in state[part].items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = contents(folder)
    yield
    assert contents(folder) == before


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that was said, which is an error."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("scoretomo: note")]
    assert line.startswith("scoretomo: error: ")
    return line


# help


def test_help_names_every_verb_without_loading_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from scoretomo.cli import main; sys.exit(main(['--help']) + ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert f"usage: scoretomo {verb}" in capsys.readouterr().out


def test_help_shows_the_values_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--preset", "ribosome", "--help"]) == 0
    assert "32 64 96 128" in capsys.readouterr().out


def test_an_unknown_verb_or_option_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "trian" in one_line(capsys)
    assert cli.main(["train", "--colour", "red"]) == 2


# the whole way


def test_run_makes_a_volume_of_every_image_and_the_same_command_does_nothing_more(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["run", str(images), "-o", str(run), "--volumes", *TINY.split(), *GROWTH.split(), "--budget", "32"]
    assert cli.main(command) == 0
    volumes = sorted((run / "volumes").glob("*.mrc"))
    assert [path.name for path in volumes] == [f"volume_{i:04d}.mrc" for i in range(6)]
    volume = read_volume(volumes[0]).volume
    assert (volume.side, volume.pixel_size_angstrom) == (16, 3.5)
    assert volume.voxels.std() > 0
    assert (run / "figures" / "overview.png").exists()
    assert {json.loads(line)["phase"] for line in (run / "metrics.jsonl").read_text().splitlines()} == {
        "train",
        "reconstruct_seed0",
    }
    assert (run / "report.html").exists()
    assert {"initial.mrc", "poses.star", "initial.json"} <= {path.name for path in (run / "initial").iterdir()}
    kept = [*volumes, run / "checkpoint" / "training.pt", *(run / "ensemble").rglob("*.*")]
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert cli.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_run_of_a_rigid_molecule_makes_one_map_and_no_volumes(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["run", str(images), "-o", str(run), *TINY.split(), *GROWTH.split(), "--budget", "32"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"consensus: {run / 'consensus' / 'consensus.mrc'}\nreport: {run / 'report.html'}\n" in said
    assert read_volume(run / "consensus" / "consensus.mrc").volume.side == 16
    names = {path.name for path in (run / "initial").iterdir()}
    assert names == {"initial.mrc", "poses.star", "initial.json", "initial.png"}  # six are too few for halves
    assert "One map" in (run / "report.html").read_text()
    assert not any((run / name).exists() for name in ("volumes", "denoiser", "ensemble", "metrics.jsonl"))
    assert cli.main([*command, "--images", "2"]) == 0  # whoever asks for a volume gets it
    assert [path.name for path in (run / "volumes").iterdir()] == ["volume_0002.mrc"]


def test_run_from_nothing_has_no_initial_model(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_command, "_conclude", lambda *_: None)
    run = tmp_path / "run"
    command = ["run", str(images), "-o", str(run), *TINY.split(), "--budget", "16", "--growth.no-initial"]
    assert cli.main([*command, "--growth.distil.steps", "2"]) == 0
    assert len(list((run / "volumes").iterdir())) == 6
    assert not (run / "initial").exists() and not (run / "checkpoint" / "initial.pt").exists()


def test_images_seeds_and_what_is_missing(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(images, run, *GROWTH.split(), budget=16) == 0
    assert reconstruct(run, "--images", "0", "4", "--seeds", "2") == 0
    names = {path.name for path in (run / "volumes").iterdir()}
    assert names == {"volume_0000.mrc", "volume_0004.mrc", "volume_0000_seed1.mrc", "volume_0004_seed1.mrc"}
    first = (run / "volumes" / "volume_0000.mrc").read_bytes()
    assert first != (run / "volumes" / "volume_0000_seed1.mrc").read_bytes()
    assert reconstruct(run) == 0  # the others, from the parents that were found
    assert len(list((run / "volumes").glob("volume_????.mrc"))) == 6
    assert (run / "volumes" / "volume_0000.mrc").read_bytes() == first


def test_evaluate_scores_each_volume_against_its_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    for folder in ("volumes", "truth"):
        (tmp_path / folder).mkdir()
    for index in (3, 5):
        voxels = torch.randn(16, 16, 16, generator=generator) * soft_ball(16, 3, 4.0, 2.0)
        write_volume(tmp_path / "truth" / f"volume_{index:04d}.mrc", Volume(voxels, 4.0))
        write_volume(tmp_path / "volumes" / f"volume_{index:04d}.mrc", Volume(2 * voxels, 4.0))
    command = [
        "evaluate",
        str(tmp_path / "volumes"),
        "--reference",
        str(tmp_path / "truth"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert cli.main(command) == 0
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [volume["index"] for volume in results["volumes"]] == [3, 5]
    assert results["median_fsc_auc"] > 0.9
    assert (tmp_path / "out" / "fsc.png").exists()
    table = (tmp_path / "out" / "evaluation.csv").read_text().splitlines()
    assert table[1].startswith("volume_0003.mrc,3,")
    assert "median" in capsys.readouterr().out
    (tmp_path / "truth" / "volume_0005.mrc").unlink()
    assert cli.main(command) == 2
    assert "volume_0005.mrc" in one_line(capsys)


def test_evaluate_is_told_the_pixel_size_of_a_reference_that_says_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half as wide pixels, twice the box: without a word nothing would fit."""
    fine = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)) * soft_ball(32, 3, 9.0, 3.0)
    volume = resize(fine, 16, 3)
    with mrcfile.new(tmp_path / "truth.mrc") as mrc:
        mrc.set_data(fine.numpy())
        mrc.voxel_size = 0.0
    write_volume(tmp_path / "volume_0001.mrc", Volume(volume, 4.0))
    command = ["evaluate", str(tmp_path / "volume_0001.mrc"), "--reference", str(tmp_path / "truth.mrc")]
    command += ["-o", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert "truth.mrc" in one_line(capsys)
    assert cli.main([*command, "--reference-pixel-size", "2"]) == 0
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert results["median_fsc_auc"] > 0.9
    (tmp_path / "other").mkdir()
    assert cli.main([*command[:-1], str(tmp_path / "other"), "--reference-pixel-size", "3"]) == 0
    wrong = json.loads((tmp_path / "other" / "evaluation.json").read_text())
    assert wrong["median_fsc_auc"] < results["median_fsc_auc"] - 0.2


def test_simulate_writes_images_and_truth_that_belong_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["simulate", "box", "-o", str(tmp_path / "sim"), "--count", "3", "--side", "16"]
    assert cli.main(command) == 0
    truth = read_volume(tmp_path / "sim" / "truth" / "volume_0002.mrc").volume
    with mrcfile.open(tmp_path / "sim" / "images.mrcs") as mrc:
        assert np.allclose(truth.voxels.sum(0).numpy(), mrc.data[2], atol=1e-4)
    assert len((tmp_path / "sim" / "truth.csv").read_text().splitlines()) == 4
    capsys.readouterr()
    with unchanged(tmp_path / "sim"):
        assert cli.main(command) == 2
    assert "already" in one_line(capsys)
    map_file = str(tmp_path / "sim" / "truth" / "volume_0000.mrc")
    assert cli.main(["simulate", "map", map_file, "-o", str(tmp_path / "map"), "--count", "2", "--side", "16"]) == 0
    assert cli.main(["info", str(tmp_path / "map" / "images.mrcs")]) == 0
    assert "2 of 16 x 16 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train averages.mrcs -o run --growth.neighbours 0", "neighbours must be above 0"),
        ("drgn train particles.star -o run --search.kept 0", "kept and shift_count must be 1 or more, not 0"),
        ("points sample prior -o out --sampling.steps 1", "sampling needs 2 steps or more"),
    ],
)
def test_a_setting_of_a_group_that_means_nothing_is_one_line(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.split()) == 2
    assert words in one_line(capsys)


# interruptions


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        ("train averages.mrcs -o run", True),
        ("consensus run", True),
        ("drgn train particles.star -o run", True),
        ("drgn poses particles.star --volume map.mrc -o found.star", True),
        ("drgn analyze run", False),
        ("simulate particles hand -o set", False),
    ],
)
def test_only_what_has_been_saved_is_said_to_go_on(
    command: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main(command.split()) == 130
    advice = "; give the same command again to go on" if goes_on else ""
    assert capsys.readouterr().err == f"scoretomo: interrupted{advice}\n"


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def stop_training(monkeypatch: pytest.MonkeyPatch, after: int, how: BaseException | signal.Signals) -> None:
    """Make training end in some way in its step ``after``; a second call of it is not disturbed."""
    original, steps = train_command.training_loss, [0]

    def loss(*arguments: object, **named: object) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == after:
            if isinstance(how, BaseException):
                raise how
            os.kill(os.getpid(), how)
        return original(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(train_command, "training_loss", loss)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, Killed()], ids=str)
def test_training_that_was_interrupted_ends_with_the_same_weights(
    how: BaseException | signal.Signals,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(images, tmp_path / "whole") == 0
    stop_training(monkeypatch, 4, how)
    monkeypatch.setattr(training_loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    capsys.readouterr()
    if isinstance(how, Killed):
        with pytest.raises(Killed):
            train(images, tmp_path / "parts")
        seen = 24
    else:
        assert train(images, tmp_path / "parts") == 128 + how
        assert "same command" in capsys.readouterr().err.splitlines()[-1]
        seen = 32
    saved = torch.load(tmp_path / "parts" / "checkpoint" / "training.pt", weights_only=True)
    assert saved["state"]["images_seen"] == seen
    assert not (tmp_path / "parts" / "denoiser").exists()
    assert train(images, tmp_path / "parts") == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    exported = "denoiser/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / exported).read_bytes() == (tmp_path / "parts" / exported).read_bytes()


def test_a_kill_before_longer_trained_weights_are_exported_is_made_good(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train(images, run, budget=16) == 0
    before = contents(run / "denoiser")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training_loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(train_command, "save_denoiser", killed)
        train(images, run, budget=32)
    assert contents(run / "denoiser") == before
    assert train(images, run, budget=32) == 0
    assert contents(run / "denoiser") != before


def test_reconstruction_that_was_killed_makes_the_volumes_that_are_missing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parts"):
        assert train(images, tmp_path / name, *GROWTH.split(), budget=16) == 0
    monkeypatch.setattr(reconstruct_command, "chunk_size", lambda *_: 2)
    assert reconstruct(tmp_path / "whole") == 0
    original = reconstruct_command.grow_progressive
    asked = []

    def killed(*arguments: object, **named: object) -> Iterator[object]:
        for step in original(*arguments, **named):  # type: ignore[arg-type]
            yield step
            if step.complete:
                raise Killed

    monkeypatch.setattr(reconstruct_command, "grow_progressive", killed)
    with pytest.raises(Killed):
        reconstruct(tmp_path / "parts")
    done = {path.name: path.read_bytes() for path in (tmp_path / "parts" / "volumes").iterdir()}
    assert len(done) == 2

    def remembered(*arguments: object, **named: object) -> Iterator[object]:
        for step in original(*arguments, **named):  # type: ignore[arg-type]
            asked.append(step.advancing.members)  # type: ignore[union-attr]
            yield step

    monkeypatch.setattr(reconstruct_command, "grow_progressive", remembered)
    assert reconstruct(tmp_path / "parts") == 0
    assert asked == [[2, 3]] * 3 + [[4, 5]] * 3  # two of six volumes are there
    assert all((tmp_path / "parts" / "volumes" / name).read_bytes() == before for name, before in done.items())
    whole, parts = (
        [read_volume(path).volume.voxels for path in sorted((tmp_path / name / "volumes").iterdir())]
        for name in ("whole", "parts")
    )
    assert len(whole) == 6
    assert all(torch.equal(first, second) for first, second in zip(whole, parts, strict=True))


def test_deleted_volume_is_made_again_alone(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(images, tmp_path / "run", *GROWTH.split(), budget=16) == 0
    assert reconstruct(tmp_path / "run") == 0
    volumes = tmp_path / "run" / "volumes"
    before = {path.name: path.stat().st_mtime_ns for path in volumes.iterdir()}
    (volumes / "volume_0003.mrc").unlink()
    assert reconstruct(tmp_path / "run") == 0
    after = {path.name: path.stat().st_mtime_ns for path in volumes.iterdir()}
    assert [name for name in sorted(after) if after[name] != before[name]] == ["volume_0003.mrc"]


@pytest.mark.slow
def test_kill_9_in_training_and_then_the_same_command(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "scoretomo", "train", str(images), "-o", str(run), *TINY.split()]
    with subprocess.Popen([*command, "--budget", "10000000"], stderr=subprocess.DEVNULL) as process:
        while not (run / "config.toml").exists():
            time.sleep(0.1)
        time.sleep(5)
        process.kill()
    done = subprocess.run([*command, "--budget", "64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (run / "denoiser" / "config.json").exists()


# a run folder is left as it was


def test_other_images_or_settings_are_refused_by_name(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(images, run, budget=16) == 0
    others = write_stack(tmp_path / "others.mrcs", blobs(6, seed=1))
    capsys.readouterr()
    with unchanged(run):
        assert train(others, run, budget=16) == 2
        assert "other images" in one_line(capsys)
        assert train(images, run, "--noise.median", "0.2", budget=16) == 2
        assert "noise.median is 0.2, was 0.4" in one_line(capsys)
        assert train(images, run, "--pixel-size", "2", budget=16) == 2
        assert "pixel_size_angstrom" in one_line(capsys)


def test_a_larger_budget_trains_on_but_volumes_are_only_replaced_when_asked(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_command, "draw", lambda *_: None)
    run = tmp_path / "run"
    command = ["run", str(images), "-o", str(run), "--volumes", *TINY.split(), *GROWTH.split()]
    assert cli.main([*command, "--budget", "16"]) == 0
    before = contents(run / "volumes")
    capsys.readouterr()
    with unchanged(run / "checkpoint"), unchanged(run / "volumes"):
        assert cli.main([*command, "--budget", "32"]) == 2
        assert "--overwrite" in capsys.readouterr().err.splitlines()[-1]
        assert reconstruct(run, "--growth.distil.sigma", "0.45") == 2
        assert f"distil.sigma is 0.45, was {GrowthConfig().distil.sigma}" in one_line(capsys)
    assert cli.main([*command, "--budget", "32", "--overwrite"]) == 0
    saved = torch.load(run / "checkpoint" / "training.pt", weights_only=True)
    assert saved["state"]["images_seen"] == 32
    after = contents(run / "volumes")
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_a_full_disk_is_one_line_and_earlier_files_stay(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(images, run, budget=16) == 0
    capsys.readouterr()
    kept = [run / "checkpoint", run / "denoiser"]
    before = [contents(folder) for folder in kept]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # larger files cannot be written
    try:
        status = train(images, run, budget=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    assert "cannot write" in capsys.readouterr().err.splitlines()[-1]
    assert [contents(folder) for folder in kept] == before
    assert not list(run.rglob(".*partial*"))
    assert train(images, run, budget=32) == 0


# bad input


def truncated(path: Path) -> None:
    write_stack(path, blobs(6))
    path.write_bytes(path.read_bytes()[:-1000])


BAD_STACKS = {
    "one image": lambda path: write_stack(path, blobs(1)),
    "NaN": lambda path: write_stack(path, np.where(blobs(6) > 12, np.nan, blobs(6))),
    "constant": lambda path: write_stack(path, np.ones((6, 16, 16), np.float32)),
    "not square": lambda path: write_stack(path, blobs(6)[:, :12]),
    "truncated": truncated,
    "no pixel size": lambda path: write_stack(path, blobs(6), pixel_size=0.0),
    "placeholder pixel size": lambda path: write_stack(path, blobs(6), pixel_size=1.0),
    "text": lambda path: path.write_text("This is a text file that is named like a stack.\n" * 50),
    "empty file": lambda path: path.write_bytes(b""),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("kind", BAD_STACKS)
def test_bad_stacks_are_one_line_and_leave_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = tmp_path / "averages.mrcs"
    BAD_STACKS[kind](stack)
    assert train(stack, tmp_path / "run") == 2
    assert str(stack) in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_empty_npy_star_without_images_and_unknown_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((0, 16, 16), np.float32))
    assert train(tmp_path / "empty.npy", tmp_path / "run", "--pixel-size", "4") == 2
    assert "is empty" in one_line(capsys)
    star = tmp_path / "nowhere.star"
    star.write_text("data_\n\nloop_\n_rlnImageName #1\n000001@lost.mrcs\n000002@lost.mrcs\n")
    assert train(star, tmp_path / "run") == 2
    assert "lost.mrcs" in one_line(capsys)
    (tmp_path / "averages.jpeg").write_bytes(b"x")
    assert train(tmp_path / "averages.jpeg", tmp_path / "run") == 2
    assert ".jpeg" in one_line(capsys)


def test_verbs_that_need_a_run_folder_say_so(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reconstruct", str(tmp_path / "nothing")]) == 2
    assert "no run folder" in one_line(capsys)
    assert not (tmp_path / "nothing").exists()
    assert train(images, tmp_path / "run", budget=16) == 0
    capsys.readouterr()
    assert reconstruct(tmp_path / "run", "--images", "6") == 2
    assert "0 to 5" in one_line(capsys)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--reference", str(images)]) == 2
    assert "no .mrc volumes" in one_line(capsys)
    assert cli.main(["evaluate", "--reference", str(images)]) == 2
    assert "give a run folder" in one_line(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(images, tmp_path / "run", "--device", "cuda") == 2
    assert "cuda" in one_line(capsys)
