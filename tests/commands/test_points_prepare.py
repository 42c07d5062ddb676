from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.commands import points_prepare
from scoretomo.commands.points_prepare import prepare
from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.io.atoms import Models
from scoretomo.io.point_collections import Collection
from scoretomo.io.point_sets import read_point_set


@pytest.fixture
def traces(tmp_path: Path, generator: torch.Generator) -> Path:
    """Nine different clouds of 60 to 68 points, 12 turned copies of the first, and one of 10 points only."""
    sizes = torch.tensor([1.0, 2.0, 3.0])
    different = [torch.randn(60 + k, 3, generator=generator) * sizes * 1.5**k for k in range(9)]
    copies = [different[0] @ turn.T for turn in random_rotations(12, generator=generator)]
    clouds = [*different, *copies, torch.randn(10, 3, generator=generator)]
    offsets = np.cumsum([0, *(len(cloud) for cloud in clouds)])
    ids = np.array([f"{k:04d}" for k in range(len(clouds))])
    np.savez(tmp_path / "traces.npz", ids=ids, offsets=offsets, xyz=torch.cat(clouds).numpy())
    return tmp_path / "traces.npz"


def test_furniture_becomes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("furniture", tmp_path / "set.npz", points=64, held_out=0.25, count=60)
    clouds = read_point_set(tmp_path / "set.npz")
    assert clouds.points.shape == (60, 64, 3)
    assert not clouds.handed
    assert int(clouds.held_out.sum()) == 15
    torch.testing.assert_close(clouds.points.abs().amax((1, 2)), torch.ones(60))
    assert (clouds.units > 0.2).all() and (clouds.units < 2).all()
    said = capsys.readouterr()
    assert said.out == f"set: {tmp_path / 'set.npz'}\n"
    assert "60 clouds of 64 points, 15 of them held out" in said.err


def test_traces_are_reduced_and_copies_are_on_one_side(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        output = tmp_path / f"set{seed}.npz"
        prepare(str(traces), output, points=60, held_out=5.0, seed=seed)
        clouds = read_point_set(output)
        assert clouds.points.shape == (21, 60, 3)
        assert clouds.handed
        assert int(clouds.held_out.sum()) == 5
        assert len({bool(clouds.held_out[k]) for k in (0, *range(9, 21))}) == 1
    # in Angstrom: 60 means of 60 points are the points
    with np.load(traces) as file:
        first = torch.from_numpy(file["xyz"][:60])
    restored = clouds.points[0] * clouds.units[0]
    assert torch.cdist(first - first.mean(0), restored).amin(1).max() < 0.05
    said = capsys.readouterr().err
    assert "left out: 0021: has 10 points, 60 are asked for" in said
    assert "12 clouds are like others" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["set0.npz", "set1.npz", "set2.npz", "traces.npz"]


def test_an_interrupted_preparation_goes_on(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(str(traces), tmp_path / "whole.npz", points=50)
    opened = points_prepare.open_collection
    read: list[int] = []
    calls_until_interrupt = 4

    def watched(path: Path, models: Models) -> Collection:
        found = opened(path, models)

        def watch(index: int) -> torch.Tensor:
            read.append(index)
            if len(read) == calls_until_interrupt:
                raise KeyboardInterrupt
            return found.read(index)

        return Collection(found.names, watch, found.held_out, found.handed)

    monkeypatch.setattr(points_prepare, "open_collection", watched)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(traces), tmp_path / "set.npz", points=50)
    assert not (tmp_path / "set.npz").exists()
    read.clear()
    calls_until_interrupt = 1000
    prepare(str(traces), tmp_path / "set.npz", points=50)
    assert read == list(range(3, 22))
    whole, resumed = read_point_set(tmp_path / "whole.npz"), read_point_set(tmp_path / "set.npz")
    assert torch.equal(whole.points, resumed.points)
    assert torch.equal(whole.held_out, resumed.held_out)
    assert not list(tmp_path.glob(".*"))


def test_shapenet_keeps_its_own_split(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        folder = tmp_path / "shapes" / "03001627" / split
        folder.mkdir(parents=True)
        for number in range(count):
            np.save(folder / f"{split}{number}.npy", np.random.default_rng(number).normal(size=(100, 3)))
    for option in ({"held_out": 0.9}, {"count": 3}):
        with pytest.raises(InputError, match="does nothing"):
            prepare(str(tmp_path / "shapes"), tmp_path / "set.npz", points=20, **option)
    prepare(str(tmp_path / "shapes"), tmp_path / "set.npz", points=20)
    clouds = read_point_set(tmp_path / "set.npz")
    assert clouds.held_out.tolist() == [False, False, False, True, True]
    assert not clouds.handed
    # drawn from the points, not averages of them
    original = torch.from_numpy(np.load(tmp_path / "shapes" / "03001627" / "train" / "train0.npy")).float()
    drawn = clouds.points[0] * clouds.units[0]
    shifts = (original[:, None] - drawn).flatten(0, 1)
    _, counts = (shifts / 1e-3).round().unique(dim=0, return_counts=True)
    assert counts.max() > 10  # one shift takes them onto points of the original


def test_what_models_were_taken_for_is_said_and_an_option_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: torch.Generator
) -> None:
    line = "ATOM  {:5d}  CA  GLY A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C\n"
    cloud = 8 * torch.randn(40, 3, generator=generator)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, shift in (("copies.pdb1", 90.0), ("states.pdb", 1.0)):
        models = [cloud + torch.tensor([shift * k, 0, 0]) for k in range(2)]
        bodies = ["".join(line.format(k, k, *xyz) for k, xyz in enumerate(model.tolist())) for model in models]
        (folder / name).write_text("".join(f"MODEL {k:8d}\n{body}ENDMDL\n" for k, body in enumerate(bodies)))
    prepare(str(folder), tmp_path / "set.npz", points=60, held_out=0.0)
    said = capsys.readouterr().err
    assert "note: copies: its 2 models lie apart" in said and "note: states: its 2 models lie on one another" in said
    assert "left out: states: has 40 points, 60 are asked for" in said
    assert read_point_set(tmp_path / "set.npz").names == ("copies",)
    prepare(str(folder), tmp_path / "all.npz", points=60, held_out=0.0, models="all")
    assert read_point_set(tmp_path / "all.npz").names == ("copies", "states")
    assert "note" not in capsys.readouterr().err


def test_models_of_what_has_none_are_refused(traces: Path, tmp_path: Path) -> None:
    for source in (str(traces), "furniture"):
        with pytest.raises(InputError, match="--models first: does nothing here"):
            prepare(source, tmp_path / "set.npz", models="first")


def test_bad_input_is_refused_in_one_line(traces: Path, tmp_path: Path) -> None:
    output = tmp_path / "set.npz"
    with pytest.raises(InputError, match=r"the set is a \.npz file"):
        prepare("furniture", tmp_path / "set.h5")
    with pytest.raises(InputError, match="there is no such folder"):
        prepare("furniture", tmp_path / "missing" / "set.npz")
    with pytest.raises(InputError, match="exists already"):
        prepare("furniture", traces)
    with pytest.raises(InputError, match="--points must be 2 to 1000000, not 1"):
        prepare("furniture", output, points=1)
    with pytest.raises(InputError, match="--held-out"):
        prepare("furniture", output, held_out=-0.1)
    with pytest.raises(InputError, match="--held-out 30 leaves none of the 10 clouds"):
        prepare("furniture", output, held_out=30.0, count=10, points=4)
    with pytest.raises(InputError, match="--count must be 2 to 1000000, not 0"):
        prepare("furniture", output, count=0)
    with pytest.raises(InputError, match="no cloud that can be used; 0000: has 60 points, 500 are asked for"):
        prepare(str(traces), output, points=500)
    with pytest.raises(InputError, match="no such file or folder"):
        prepare("furnitur", output)
