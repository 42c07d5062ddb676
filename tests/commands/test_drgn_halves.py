"""``scoretomo drgn halves``: the resolution by two half runs, and what are no halves of one set."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands.drgn_folder import DrgnConfig, ParticleFiles, save_preparation, start_run
from scoretomo.commands.drgn_images import ParticlesConfig, Preparation
from scoretomo.datatypes import ImageStack, Poses, Volume
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import resize, translate
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.resampling import mirror_z, rotate_volumes
from scoretomo.imaging.starting_model import low_pass
from scoretomo.io.mrc import read_volume, write_images, write_volume
from scoretomo.io.particles import read_particles
from scoretomo.io.star import write_particles
from scoretomo.methods.abinitio_schedule import PoseMethod
from scoretomo.methods.latent_vae import LatentVAEConfig

_SIDE, _PIXEL = 32, 2.0


def _noise(seed: int) -> Tensor:
    return torch.randn(_SIDE, _SIDE, _SIDE, generator=torch.Generator().manual_seed(seed))


def _molecule() -> Tensor:
    """Something uneven, with no structure beyond shell 8."""
    return low_pass((_noise(0) + 0.3) * soft_ball(_SIDE, 3, 7.0, 2.0), 1.0, _SIDE / 8)


def _turned(volume: Tensor) -> Tensor:
    rotation = from_rotation_vectors(torch.tensor([[0.7, -0.5, 1.1]]))
    finer = rotate_volumes(resize(mirror_z(volume)[None], 2 * _SIDE, 3), rotation)
    return translate(resize(finer, _SIDE, 3), torch.tensor([[1.5, -1.0, 0.5]]))[0]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A half run that has ended, of a molecule in independent noise."""
    for name in ("particles", "others"):
        write_images(tmp_path / "images.mrcs", ImageStack(torch.ones(8, _SIDE, _SIDE), _PIXEL))
        poses = Poses(torch.eye(3).expand(8, 3, 3), torch.full((8, 2), float(len(name))))
        write_particles(tmp_path / f"{name}.star", "images.mrcs", poses, pixel_size_angstrom=_PIXEL, side=_SIDE)

    def make(
        half: Literal[1, 2] | None,
        name: str = "",
        *,
        poses: PoseMethod = "known",
        latent: int = 0,
        source: str = "particles",
        side: int = _SIDE,
        volume: Tensor | None = None,
    ) -> Path:
        run = tmp_path / (name or f"half_{half}")
        run.mkdir()
        config = DrgnConfig(ParticlesConfig(half=half), poses, LatentVAEConfig(latent))
        particles = tmp_path / f"{source}.star"
        opened = start_run(run, ParticleFiles(particles), read_particles(particles), config)
        save_preparation(opened, Preparation(_SIDE, side, _PIXEL, _PIXEL * _SIDE / side, 1, 1.0, 1.0))
        noisy = (_molecule() if volume is None else volume) + 0.1 * _noise(half or 3)
        write_volume(run / "volume.mrc", Volume(noisy, _PIXEL))
        return run

    return make


def _halves(*arguments: object) -> int:
    return cli.main(["drgn", "halves", *map(str, arguments), "--device", "cpu"])


def _curves(folder: Path) -> dict[str, list[float]]:
    with (folder / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_halves_at_known_poses_are_compared_as_they_are(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run(1), make_run(2)
    assert _halves(first, second) == 0
    folder = first / "halves"
    said = capsys.readouterr()
    assert not said.err and 6.5 < _SIDE * _PIXEL / float(said.out.split()[1]) < 10  # the structure ends at shell 8
    curves = _curves(folder)
    assert len(curves["corrected"]) == 17 and curves["frequency_per_angstrom"][-1] == pytest.approx(1 / (2 * _PIXEL))
    assert min(curves["corrected"][1:6]) > 0.9
    assert (folder / "fsc.png").stat().st_size > 1000
    volumes = [read_volume(run / "volume.mrc").volume.voxels for run in (first, second)]
    average = read_volume(folder / "average.mrc").volume
    assert average.pixel_size_angstrom == _PIXEL
    torch.testing.assert_close(average.voxels, (volumes[0] + volumes[1]) / 2, rtol=0, atol=1e-4)


def test_what_lies_beyond_the_working_images_is_not_compared(make_run: Callable[..., Path]) -> None:
    first, second = make_run(1, side=24), make_run(2, side=24)
    assert _halves(first, second, "-o", first / "elsewhere") == 0
    frequencies = _curves(first / "elsewhere")["frequency_per_angstrom"]
    assert len(frequencies) == 13 and frequencies[1] == pytest.approx(1 / (_SIDE * _PIXEL))
    assert read_volume(first / "elsewhere" / "average.mrc").volume.side == _SIDE


def test_a_half_in_a_frame_and_hand_of_its_own_is_aligned_where_poses_were_searched(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(1, poses="search")
    second = make_run(2, poses="search", volume=_turned(_molecule()))
    assert _halves(first, second) == 0
    said = capsys.readouterr()
    assert "aligned to the first and mirrored" in said.err
    assert 6.5 < _SIDE * _PIXEL / float(said.out.split()[1]) < 10
    assert _halves(first, second, "--align", "no", "-o", tmp_path / "apart") == 0
    apart, together = _curves(tmp_path / "apart")["masked"], _curves(first / "halves")["masked"]
    assert min(together[3:7]) > 0.85 and sum(apart[3:7]) / 4 < 0.5
    maps = [run / "volume.mrc" for run in (first, second)]
    assert _halves(*maps, "-o", tmp_path / "maps") == 0
    assert _curves(tmp_path / "maps") == _curves(first / "halves")


def test_noise_alone_has_no_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two maps whose only common thing is the mask."""
    paths = [tmp_path / f"{seed}.mrc" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        write_volume(path, Volume(_noise(seed) * soft_ball(_SIDE, 3, 9.0, 4.0), _PIXEL))
    assert _halves(*paths, "--align", "no") == 0
    words = capsys.readouterr().out
    assert "no resolution" in words or float(words.split()[1]) > 12  # where shells hold some dozens of coefficients
    assert max(_curves(tmp_path / "halves")["corrected"][4:]) < 0.3


def test_what_are_no_halves_of_one_set_is_said(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, untrained = make_run(1), make_run(2, "untrained")
    (untrained / "volume.mrc").unlink()
    volume = read_volume(first / "volume.mrc").volume
    write_volume(tmp_path / "coarse.mrc", replace(volume, pixel_size_angstrom=3.0))
    write_volume(tmp_path / "flat.mrc", replace(volume, voxels=torch.ones_like(volume.voxels)))
    mine = first / "volume.mrc"
    wrong = {
        "is of half 1 as": (first, make_run(1, "again")),
        "was made of all particles": (first, make_run(None)),
        "has a family of volumes": (first, make_run(2, "family", latent=2)),
        "was made of other particle files": (first, make_run(2, "others_2", source="others")),
        "is not trained yet": (first, untrained),
        "two run folders or two maps": (first, mine),
        "halves have one sampling": (mine, tmp_path / "coarse.mrc"),
        "the map is constant": (mine, tmp_path / "flat.mrc"),
        "is the same map": (mine, mine),
    }
    for words, arguments in wrong.items():
        assert _halves(*arguments) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("scoretomo: error: ") and words in error
    assert not (first / "halves").exists()
