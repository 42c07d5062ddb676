"""``scoretomo points train`` and ``points sample``: a prior from a set of clouds, and clouds from the prior."""

import json
import math
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.commands import points_train as command
from scoretomo.commands import training_loop
from scoretomo.commands.points_folder import load_prior, open_prior
from scoretomo.datatypes import PointClouds
from scoretomo.geometry.point_clouds import normalise
from scoretomo.io.point_sets import read_point_set, write_point_set
from scoretomo.methods import point_prior

_TINY = (
    "--network.width 16 --network.layers 1 --network.heads 2 --optimiser.batch-size 8 --optimiser.warmup-images 32 "
    "--budget 400"
).split()
_CPU = torch.device("cpu")


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    """Sticks of 24 points in any direction; 6 of 30 held out."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(30, 1, 3, generator=generator), dim=2)
    points = normalise(torch.rand(30, 24, 1, generator=generator) * direction)[0]
    held_out = torch.arange(30) < 6
    path = tmp_path / "sticks.npz"
    names = tuple(f"stick {number}" for number in range(30))
    write_point_set(path, PointClouds(points, torch.full((30,), 12.0), names, held_out, True))
    return path


def run(*words: object) -> int:
    return cli.main(["points", *map(str, words)])


def weights(folder: Path) -> torch.Tensor:
    denoiser = load_prior(folder, _CPU)[1]
    return torch.cat([each.flatten() for each in denoiser.parameters()])


def test_a_prior_is_trained_and_knows_what_it_was_trained_on(clouds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prior"
    assert run("train", clouds, "-o", folder, *_TINY) == 0
    prior = open_prior(folder)
    assert (prior.points, prior.handed, prior.source["held_out"]) == (24, True, 6)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 400
    assert "held_out_error_sigma_0.1" in lines[-1]


def test_training_that_was_interrupted_ends_with_the_same_weights(
    clouds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the second phase of the noise begins after the interruption."""
    phases = [*_TINY, "--noise.first-part", "0.6"]
    assert run("train", clouds, "-o", tmp_path / "whole", *phases) == 0
    original, steps = command.prior_loss, [0]

    def killed(*arguments: object, **named: object) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == 20:
            raise KeyboardInterrupt
        return original(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "prior_loss", killed)
    monkeypatch.setattr(training_loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder = tmp_path / "parts"
    assert run("train", clouds, "-o", folder, *phases) == 130
    assert not (folder / "prior.safetensors").exists()
    assert run("train", clouds, "-o", folder, *phases) == 0
    assert torch.equal(weights(folder), weights(tmp_path / "whole"))


def test_the_second_phase_of_the_noise_begins_where_it_should(
    clouds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without spread, every level of a phase is its median."""
    levels: list[float] = []

    def watched(model: object, clean: torch.Tensor, sigma: torch.Tensor, **named: object) -> torch.Tensor:
        levels.append(float(sigma.mean()))
        return original(model, clean, sigma, **named)  # type: ignore[arg-type]

    original = point_prior.denoising_error
    monkeypatch.setattr(point_prior, "denoising_error", watched)
    phases = "--noise.first-part 0.6 --noise.first-log-std 0 --noise.second-log-std 0".split()
    assert run("train", clouds, "-o", tmp_path / "prior", *_TINY, *phases) == 0
    expected = [math.exp(-2.8)] * 30 + [math.exp(-1.2)] * 20
    assert levels == pytest.approx(expected, rel=1e-4)


def test_training_may_be_continued_with_a_larger_budget(clouds: Path, tmp_path: Path) -> None:
    folder, short = tmp_path / "prior", [*_TINY[:-1], "200"]
    assert run("train", clouds, "-o", folder, *short) == 0
    before = weights(folder)
    assert run("train", clouds, "-o", folder, *_TINY) == 0
    assert open_prior(folder).config.budget == 400
    assert not torch.equal(weights(folder), before)


def test_the_same_command_does_nothing_when_it_is_done(
    clouds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", clouds, "-o", tmp_path / "prior", *_TINY)
    assert run(*words) == 0
    before = (tmp_path / "prior" / "prior.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert run(*words) == 0
    assert "has been trained already" in capsys.readouterr().err
    assert (tmp_path / "prior" / "prior.safetensors").stat().st_mtime_ns == before


def test_samples_come_from_a_seed_and_are_compared_with_held_out_clouds(clouds: Path, tmp_path: Path) -> None:
    assert run("train", clouds, "-o", tmp_path / "prior", *_TINY) == 0
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ("--count", 5, "--seed", seed, "--sampling.steps", 4, "--compare", clouds)
        assert run("sample", tmp_path / "prior", "-o", tmp_path / name, *words) == 0
    drawn = {name: read_point_set(tmp_path / name / "samples.npz").points for name in "abc"}
    assert torch.equal(drawn["a"], drawn["b"])
    assert not torch.allclose(drawn["a"], drawn["c"])
    compared = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert set(compared) == {"samples", "training set"}
    # one step of training leaves noise, which no stick resembles; sticks are like each other
    assert compared["samples"]["minimum_matching_distance"] > compared["training set"]["minimum_matching_distance"]
    assert (tmp_path / "a" / "samples.png").stat().st_size > 1000


def test_what_cannot_be_used_is_said_in_one_line(
    clouds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = tmp_path / "prior"
    assert run("train", clouds, "-o", prior, *_TINY) == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "text.npz").write_text("no set")
    wrong = {
        "has 24 points a cloud, and 30": ["train", clouds, "-o", tmp_path / "a", "--points", 30],
        "--noise.first-largest: does nothing": ["train", clouds, "-o", tmp_path / "x", "--noise.first-largest", 2],
        "was made with other settings": ["train", clouds, "-o", prior, *_TINY, "--seed", 3],
        "holds other files": ["train", clouds, "-o", tmp_path / "full"],
        "no such file": ["train", tmp_path / "none.npz", "-o", tmp_path / "a"],
        "text.npz: ": ["train", tmp_path / "text.npz", "-o", tmp_path / "a"],
        "must be above 0": ["train", clouds, "-o", tmp_path / "a", "--minutes", 0],
        "is no folder of a point-cloud prior": ["sample", tmp_path / "full", "-o", tmp_path / "b"],
        "count must be 1 to 1000000": ["sample", prior, "-o", tmp_path / "b", "--count", 0],
        "comparing takes 2": ["sample", prior, "-o", tmp_path / "b", "--count", 1, "--compare", clouds],
        "2 steps or more": ["sample", prior, "-o", tmp_path / "b", "--sampling.steps", 1],
    }
    for message, words in wrong.items():
        capsys.readouterr()
        assert run(*words) == 2, message
        error = capsys.readouterr().err
        assert message in " ".join(error.split()), error
        assert not (tmp_path / "a" / "prior.toml").exists()
        assert not (tmp_path / "b").exists()


def test_weights_that_are_damaged_are_refused(clouds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = tmp_path / "prior"
    assert run("train", clouds, "-o", prior, *_TINY) == 0
    (prior / "prior.safetensors").write_bytes(b"no weights")
    assert run("sample", prior, "-o", tmp_path / "a") == 2
    assert "cannot be read" in capsys.readouterr().err
