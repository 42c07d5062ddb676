"""``scoretomo drgn convert``: run folders of cryoDRGN, from its pickles to a report and a particle file."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scoretomo import cli
from scoretomo.datatypes import ImageStack, Poses
from scoretomo.geometry.rotations import random_rotations
from scoretomo.io.mrc import write_images
from scoretomo.io.particles import read_particles
from scoretomo.io.star import write_particles
from scoretomo.io.tables import read_table

_SIDE = 16
_COUNT = 40
_PIXEL = 3.0
# cryoDRGN keeps the order of its --ind, sorted or not.
_SIDEWAYS = np.float32([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
_IND = np.random.default_rng(0).permutation(_COUNT)[:32]
_ROTATIONS = random_rotations(_COUNT, generator=torch.Generator().manual_seed(0)).numpy()
_TRANSLATIONS = np.random.default_rng(1).uniform(-0.1, 0.1, (_COUNT, 2)).astype(np.float32)


def _z(count: int = len(_IND), epoch: int = 0) -> NDArray[np.float32]:
    """Two groups of particles, which lie elsewhere in every epoch."""
    places = np.where(np.arange(count) < count // 4, -2.0, 2.0)[:, None] * np.array([0.8, 0.6]) + epoch
    values: NDArray[np.float32] = (places + 0.1 * np.random.default_rng(2).standard_normal((count, 2))).astype("f4")
    return values


def _dump(path: Path, *contents: Any) -> Path:
    with path.open("wb") as file:
        for content in contents:  # one pickle after the other, as cryoDRGN writes z and its log variance
            pickle.dump(content, file)
    return path


@pytest.fixture
def particles(tmp_path: Path) -> Path:
    """A particle file with poses that are not those of the run."""
    write_images(tmp_path / "images.mrcs", ImageStack(torch.rand(_COUNT, _SIDE, _SIDE), _PIXEL))
    poses = Poses(torch.from_numpy(_SIDEWAYS).expand(_COUNT, 3, 3), torch.zeros(_COUNT, 2))
    write_particles(tmp_path / "particles.star", "images.mrcs", poses, pixel_size_angstrom=_PIXEL, side=_SIDE)
    return tmp_path / "particles.star"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder as ``cryodrgn abinit_het --ind`` of version 3.4.4 leaves it: epochs 0, 2 and 10, the last one again."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for epoch, name in ((0, ".0"), (2, ".2"), (10, ".10"), (10, "")):
        _dump(folder / f"z{name}.pkl", _z(epoch=epoch), np.full((len(_IND), 2), -1.0, np.float32))
        _dump(folder / f"pose{name}.pkl", (_ROTATIONS[_IND], _TRANSLATIONS[_IND] + np.float32(epoch / 100)))
        (folder / f"weights{name}.pkl").write_bytes(b"weights")
    (folder / "config.yaml").write_text("version: 3.4.4\n")
    _dump(tmp_path / "ind.pkl", _IND)
    _dump(tmp_path / "poses.pkl", (_ROTATIONS, _TRANSLATIONS))
    return folder


@pytest.fixture
def convert(theirs: Path, particles: Path, tmp_path: Path) -> Callable[..., int]:
    """Convert the folder into ``run``."""

    def call(*options: object, run: str = "run", source: Path = particles) -> int:
        words = ["drgn", "convert", theirs, source, "-o", tmp_path / run, *options]
        return cli.main([str(word) for word in words])

    return call


def _table(run: Path) -> tuple[list[int], NDArray[np.float64]]:
    table = read_table(run / "z.csv")
    return [int(line["row"]) for line in table], np.array([[float(line["z_1"]), float(line["z_2"])] for line in table])


def test_each_particle_keeps_its_z_pose_and_row(convert: Callable[..., int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert convert("--ind", tmp_path / "ind.pkl") == 0
    rows, z = _table(run)
    assert rows == _IND.tolist()
    np.testing.assert_allclose(z, _z(epoch=10), atol=1e-6)
    written = read_particles(run / "poses.star")
    original = read_particles(tmp_path / "particles.star").select(_IND)
    assert torch.equal(written.images.read(range(len(_IND))), original.images.read(range(len(_IND))))
    assert written.poses is not None
    np.testing.assert_allclose(written.poses.rotations, _ROTATIONS[_IND], atol=1e-5)
    # their translations would centre the image, as fractions of the box
    shifts = -(_TRANSLATIONS[_IND] + 0.1) * _SIDE * _PIXEL
    np.testing.assert_allclose(written.poses.shifts_angstrom, shifts, atol=1e-4)
    before = (run / "drgn.toml").read_bytes()
    assert convert("--ind", tmp_path / "ind.pkl") == 0  # the same again changes nothing
    assert (run / "drgn.toml").read_bytes() == before


def test_epochs(convert: Callable[..., int], theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ind = ("--ind", tmp_path / "ind.pkl")
    assert convert(*ind, "--epoch", 2, run="two") == 0
    np.testing.assert_allclose(_table(tmp_path / "two")[1], _z(epoch=2), atol=1e-6)
    poses = read_particles(tmp_path / "two" / "poses.star").poses
    assert poses is not None
    expected = -(_TRANSLATIONS[_IND] + 0.02) * _SIDE * _PIXEL
    np.testing.assert_allclose(poses.shifts_angstrom, expected, atol=1e-4)
    (theirs / "z.pkl").unlink()  # interrupted: the last epoch is 10, although "z.2" comes after "z.10"
    assert convert(*ind) == 0
    assert "theirs/z.10.pkl" in capsys.readouterr().out
    assert convert(*ind, "--epoch", 1, run="one") == 2
    assert "has no z.1.pkl; there are 0, 2, 10" in capsys.readouterr().err
    (theirs / "pose.0.pkl").unlink()
    assert convert(*ind, "--epoch", 0, run="none") == 2
    assert "no pose.0.pkl, which belongs to z.0.pkl" in capsys.readouterr().err
    assert convert(*ind, "--epoch", 0, "--poses-file", tmp_path / "poses.pkl", run="none") == 0
    assert convert(*ind, "--epoch", 0, "--poses-file", theirs / "pose.2.pkl", run="two") == 2
    assert "give another folder" in capsys.readouterr().err


def test_poses_where_the_run_has_none(
    convert: Callable[..., int], theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``train_vae`` leaves no poses: they are those that it was given, of all particles."""
    for path in theirs.glob("pose*"):
        path.unlink()
    ind = ("--ind", tmp_path / "ind.pkl")
    assert convert(*ind, "--poses-file", tmp_path / "poses.pkl") == 0
    poses = read_particles(tmp_path / "run" / "poses.star").poses
    assert poses is not None
    np.testing.assert_allclose(poses.rotations, _ROTATIONS[_IND], atol=1e-5)
    assert convert(*ind, run="star") == 0
    poses = read_particles(tmp_path / "star" / "poses.star").poses
    assert poses is not None and np.allclose(poses.rotations, _SIDEWAYS, atol=1e-5)
    assert convert(*ind, run="stack", source=tmp_path / "images.mrcs") == 2
    assert "has no poses, and" in capsys.readouterr().err


def test_analysis_and_selection(
    convert: Callable[..., int], theirs: Path, particles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("--ind", tmp_path / "ind.pkl", "--epoch", 2) == 0
    run = tmp_path / "run"
    analyze = ["drgn", "analyze", str(run), "--device", "cpu", "--no-umap"]
    assert cli.main([*analyze, "--clusters", "2", "--frames", "4", "--components", "1"]) == 0
    folder = run / "analysis"
    table = read_table(folder / "latent.csv")
    assert [int(line["cluster"]) for line in table] == [0] * 8 + [1] * 24
    assert "map_1" in table[0]
    assert not any(line["volume"] for line in read_table(folder / "path.csv"))
    assert not list(folder.rglob("*.mrc")) and not (folder / "view.cxc").exists()
    central = [int(line["central_row"]) for line in read_table(folder / "clusters.csv")]
    places = [_z(epoch=2)[_IND.tolist().index(row)] for row in central]
    np.testing.assert_allclose(np.loadtxt(folder / "z_clusters.txt"), places, atol=1e-4)
    assert np.loadtxt(folder / "z_component_1.txt").shape == (4, 2)
    page = (folder / "report.html").read_text(encoding="utf-8")
    command = f"cryodrgn eval_vol {theirs}/weights.2.pkl -c {theirs}/config.yaml --zfile {folder}/z_clusters.txt"
    assert "32 particles; " in page and command in page
    chosen = tmp_path / "chosen.star"
    assert cli.main(["drgn", "select", str(run), "-o", str(chosen), "--clusters", "0"]) == 0
    lines = particles.read_text().splitlines()
    rows = [line for line in lines if "@" in line]
    # rows in the order of the particle file, every byte as it was
    assert sorted(line for line in chosen.read_text().splitlines() if "@" in line) == [
        rows[row] for row in sorted(_IND[:8])
    ]
    assert cli.main([*analyze, "--at", str(folder / "z_path.txt")]) == 2
    assert "has no weights; give the file to `cryodrgn eval_vol --zfile`" in capsys.readouterr().err


def test_what_does_not_fit_is_said(
    convert: Callable[..., int], theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ind = tmp_path / "ind.pkl"
    holed = _z()
    holed[3, 1] = np.nan
    turned = _ROTATIONS[_IND].copy()
    turned[5] = np.nan
    wrong: list[tuple[str, tuple[object, ...], Any]] = [
        ("is of 32 particles, and particles.star has 40; was cryoDRGN run with --ind?", (), _z()),
        ("is of 31 particles, and ind.pkl selects 32", ("--ind", ind), _z(31)),
        ("z of 1 of the 32 particles is NaN or infinite, first 3", ("--ind", ind), holed),
        ("z.pkl: must hold an array (n, d) of latent variables, not (32,)", ("--ind", ind), holed[:, 0]),
        ("poses 5 are NaN", ("--ind", ind, "--poses-file", _dump(tmp_path / "nan.pkl", turned)), _z()),
        (
            "is of 7 particles, and must be of 32 or 40",
            ("--ind", ind, "--poses-file", _dump(tmp_path / "few.pkl", turned[:5].repeat(2, 0)[:7])),
            _z(),
        ),
        ("indices from 9 to 47, and there are 40 particles", ("--ind", _dump(tmp_path / "i.pkl", _IND + 9)), _z()),
        ("names particle 4 2 times", ("--ind", _dump(tmp_path / "j.pkl", np.array([4, 7, 4]))), _z()),
        ("must hold an array (k,) of integers", ("--ind", _dump(tmp_path / "k.pkl", np.ones(40, bool) * 1.0)), _z()),
    ]
    for words, options, z in wrong:
        _dump(theirs / "z.pkl", z)
        assert convert(*options) == 2, words
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("scoretomo: error: ") and words in error
    assert not (tmp_path / "run").exists()
    for path in theirs.glob("z*.pkl"):
        path.unlink()
    assert convert() == 2
    assert "holds neither z.pkl nor z.N.pkl" in capsys.readouterr().err
    assert cli.main(["drgn", "convert", str(tmp_path / "no"), str(tmp_path / "images.mrcs"), "-o", "run"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_folder_of_a_training_is_left_as_it_is(
    convert: Callable[..., int], particles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does a training go on in a folder that was converted, whose settings are not its own."""
    assert convert("--ind", tmp_path / "ind.pkl", run="run") == 0
    before = (tmp_path / "run" / "z.csv").read_bytes()
    words = ["drgn", "train", str(particles), "-o", str(tmp_path / "run"), "--latent-dimensions", "2"]
    assert cli.main([*words, "--device", "cpu"]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert (tmp_path / "run" / "z.csv").read_bytes() == before
