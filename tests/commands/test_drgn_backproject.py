"""``scoretomo drgn backproject``: a map of particles at the poses of their file."""

import math
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.datatypes import CTFParams, ImageStack, Poses
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.ctf import contrast_transfer
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.star import write_particles
from scoretomo.io.tables import read_table

SIDE, PIXEL = 20, 3.0
CENTRES = torch.tensor([[-4.0, 1.0, 0.5], [3.0, 0.5, -2.5], [0.0, -3.5, 2.0], [1.0, 3.0, 3.0]])


def _waves(places: torch.Tensor) -> torch.Tensor:
    return (-((torch.arange(SIDE) - SIDE // 2 - places[..., None]) ** 2) / (2 * 1.4**2)).exp()


def _projections(generator: torch.Generator) -> tuple[torch.Tensor, Poses]:
    """Bright blobs beside the centre."""
    rotations = random_rotations(400, generator=generator)
    shifts = torch.randn(400, 2, generator=generator)
    places = (CENTRES @ rotations.mT)[..., :2] + shifts[:, None]
    images = torch.einsum("nby,nbx->nyx", _waves(places[..., 1]), _waves(places[..., 0]))
    return images, Poses(rotations, shifts * PIXEL)


def _truth() -> torch.Tensor:
    """What has these projections as its sums over z."""
    z, y, x = (_waves(CENTRES[:, i]) for i in (2, 1, 0))
    return torch.einsum("bz,by,bx->zyx", z, y, x) / (1.4 * math.sqrt(2 * math.pi))


@pytest.fixture
def particles(tmp_path: Path, generator: torch.Generator) -> Path:
    """Dark on a bright background."""
    images, poses = _projections(generator)
    images = 7 - images + 0.05 * torch.randn(images.shape, generator=generator)
    write_images(tmp_path / "images.mrcs", ImageStack(images, PIXEL))
    path = tmp_path / "particles.star"
    halves = {"rlnRandomSubset": [1] * 100 + [2] * 300}
    write_particles(path, "images.mrcs", poses, pixel_size_angstrom=PIXEL, side=SIDE, extra=halves)
    return path


def _backproject(*words: object) -> int:
    return cli.main(["drgn", "backproject", *map(str, words), "--device", "cpu", "--window", "None"])


def test_the_map_has_the_density_of_the_images(
    particles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _backproject(particles, "-o", tmp_path / "map") == 0
    truth = _truth()
    found = {name: read_volume(tmp_path / "map" / f"{name}.mrc").volume for name in ("volume", "half_1", "half_2")}
    errors = {name: float((each.voxels - truth).norm() / truth.norm()) for name, each in found.items()}
    assert found["volume"].pixel_size_angstrom == PIXEL
    assert errors["volume"] < 0.15
    assert errors["half_1"] > 1.2 * errors["half_2"]  # of 100 images, and of 300
    assert float(read_table(tmp_path / "map" / "fsc.csv")[3]["fsc"]) > 0.9
    assert "halves agree to" in capsys.readouterr().out


def test_the_contrast_transfer_is_divided_out_at_the_working_pixel_size(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images, poses = _projections(generator)
    defocus = 8000 + 8000 * torch.rand(400, generator=generator)
    same = torch.ones(400)
    ctf = CTFParams(defocus, defocus + 400, 40 * same, 0 * same, 300 * same, 2.7 * same, 0.1 * same)
    x = torch.fft.fftfreq(SIDE, PIXEL)
    frequencies = torch.stack([x.expand(SIDE, SIDE), x[:, None].expand(SIDE, SIDE)], dim=-1)
    transfer = contrast_transfer(ctf, frequencies.flatten(0, 1)).unflatten(1, (SIDE, SIDE))
    images = torch.fft.ifft2(torch.fft.fft2(images) * transfer).real
    images += 0.02 * torch.randn(images.shape, generator=generator)
    write_images(tmp_path / "images.mrcs", ImageStack(images, PIXEL))
    path, without = tmp_path / "particles.star", tmp_path / "without.star"
    write_particles(path, "images.mrcs", poses, pixel_size_angstrom=PIXEL, side=SIDE, ctf=ctf)
    write_particles(without, "images.mrcs", poses, pixel_size_angstrom=PIXEL, side=SIDE)
    truth, similarity = _truth() - _truth().mean(), []
    for file, side in ((path, SIDE), (path, 16), (without, SIDE)):
        output = tmp_path / f"{file.stem}_{side}"
        assert _backproject(file, "-o", output, "--side", side, "--contrast", "bright") == 0
        voxels = read_volume(output / "volume.mrc").volume.voxels
        voxels = voxels - voxels.mean()
        similarity.append(float((voxels * truth).sum() / voxels.norm() / truth.norm()))
    assert min(similarity[:2]) > 0.99
    assert similarity[2] < 0.9


def test_what_cannot_be_used_is_one_line(particles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    wrong = {
        "has no poses": (tmp_path / "images.mrcs", "-o", tmp_path / "map"),
        "exists already": (particles, "-o", tmp_path / "there"),
        "no such folder": (particles, "-o", tmp_path / "no" / "map"),
        "fewer than --side 32": (particles, "-o", tmp_path / "map", "--side", 32),
    }
    for words, arguments in wrong.items():
        assert _backproject(*arguments) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("scoretomo: error: ") and words in error
    assert not (tmp_path / "map").exists()
