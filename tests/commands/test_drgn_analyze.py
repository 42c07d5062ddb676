"""``scoretomo drgn analyze``, ``select`` and ``poses``: from z to volumes, pictures and particle files."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import drgn_poses
from scoretomo.commands.drgn_folder import (
    DrgnConfig,
    ParticleFiles,
    save_preparation,
    start_run,
    write_poses,
)
from scoretomo.commands.drgn_images import Preparation
from scoretomo.commands.drgn_training import new_model
from scoretomo.datatypes import ImageStack, Poses, Volume
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging import slices as slices_module
from scoretomo.io.checkpoints import save_checkpoint
from scoretomo.io.mrc import read_volume, write_images, write_volume
from scoretomo.io.particles import read_particles
from scoretomo.io.settings import to_table
from scoretomo.io.star import write_particles
from scoretomo.io.tables import read_table, write_table
from scoretomo.methods.abinitio_schedule import PoseMethod
from scoretomo.methods.latent_vae import LatentVAEConfig, decode_volumes
from scoretomo.networks.coordinate_mlp import CoordinateMLPConfig
from scoretomo.networks.image_encoder import ImageEncoderConfig

_SIDE = 16
_COUNT = 60
_MODEL = LatentVAEConfig(
    latent_dimensions=2, decoder=CoordinateMLPConfig(16, 1, "cryodrgn2"), encoder=ImageEncoderConfig(8, 1)
)
_RECORD = Preparation(_SIDE, _SIDE, 3.0, 3.0, 1, 1.0, 2.0)


def _z() -> Tensor:
    """Three groups along a line that is far from the axes, the second twice as populated."""
    places = torch.tensor([-2.0] * 15 + [0.0] * 30 + [2.0] * 15)
    noise = 0.05 * torch.randn(_COUNT, 2, generator=torch.Generator().manual_seed(0))
    return places[:, None] * torch.tensor([0.8, 0.6]) + torch.tensor([1.0, 0.0]) + noise


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run whose training has ended, of networks with random weights."""

    def make(latent: int = 2, *, finished: bool = True, poses: PoseMethod = "known", name: str = "run") -> Path:
        run = tmp_path / name
        run.mkdir()
        path = tmp_path / "particles.star"
        write_images(tmp_path / "images.mrcs", ImageStack(torch.zeros(_COUNT, _SIDE, _SIDE), 3.0))
        still = Poses(torch.eye(3).expand(_COUNT, 3, 3), torch.zeros(_COUNT, 2))
        write_particles(path, "images.mrcs", still, pixel_size_angstrom=3.0, side=_SIDE)
        model_config = LatentVAEConfig(latent, decoder=_MODEL.decoder, encoder=_MODEL.encoder)
        config = DrgnConfig(poses=poses, model=model_config, seed=5)
        opened = start_run(run, ParticleFiles(path), read_particles(path), config)
        save_preparation(opened, _RECORD)
        model = new_model(config.model, config.seed, _SIDE, torch.ones(9), torch.device("cpu"))
        state = {"latent": {"training": {"averaged": model.state_dict()}}}
        saved = {"state": state, "amplitudes": torch.ones(9), "device": "cpu", "seconds": 1.0, "finished": finished}
        save_checkpoint(opened.checkpoint, saved)
        pairs = enumerate(_z().tolist())
        write_table(run / "z.csv", [{"row": row, "z_1": first, "z_2": second} for row, (first, second) in pairs])
        return run

    return make


def _drgn(*arguments: object) -> int:
    return cli.main(["drgn", *map(str, arguments)])


def _analyze(run: Path, *arguments: object) -> int:
    return _drgn("analyze", run, "--device", "cpu", *arguments)


def test_clusters_and_components_of_known_groups(make_run: Callable[..., Path]) -> None:
    run = make_run()
    assert _analyze(run, "--clusters", 3, "--frames", 3, "--components", 1) == 0
    table = read_table(run / "analysis" / "latent.csv")
    assert [int(line["row"]) for line in table] == list(range(_COUNT))
    assert [int(line["cluster"]) for line in table] == [0] * 15 + [1] * 30 + [2] * 15  # along the component
    along, across = (torch.tensor([float(line[name]) for line in table]) for name in ("pc_1", "pc_2"))
    expected = ((_z() - _z().mean(0)) @ torch.tensor([0.8, 0.6])).tolist()
    assert along.tolist() == pytest.approx(expected, abs=0.1)
    assert across.abs().max() < 0.3
    counts = [int(line["particles"]) for line in read_table(run / "analysis" / "clusters.csv")]
    assert counts == [15, 30, 15]
    places = torch.tensor([[float(line[name]) for name in ("umap_1", "umap_2")] for line in table])
    groups = places.split([15, 30, 15])  # UMAP keeps what is far apart, apart
    widest = max(torch.pdist(group).max() for group in groups)
    assert min(torch.cdist(groups[i], groups[j]).min() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.3 * widest
    for picture in ("latent.png", "volumes.png"):
        assert (run / "analysis" / picture).read_bytes()[:4] == b"\x89PNG"
    page = (run / "analysis" / "report.html").read_text(encoding="utf-8")
    assert "60 particles; " in page and "drgn select run --clusters 2 -o cluster_2.star" in page


def test_volumes_are_those_of_the_model_in_the_units_of_the_input(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run()
    (tmp_path / "places.txt").write_text("0.5 -1\n2 3\n")
    assert _analyze(run, "--clusters", 2, "--components", 1, "--frames", 2, "--at", tmp_path / "places.txt") == 0
    folder = run / "analysis"
    model = new_model(_MODEL, 5, _SIDE, torch.ones(9), torch.device("cpu"))
    for index, z in enumerate([[0.5, -1.0], [2.0, 3.0]]):
        written = read_volume(folder / "at" / f"volume_{index:04d}.mrc").volume
        torch.testing.assert_close(written.voxels, 2.0 * decode_volumes(model, torch.tensor([z]))[0])
        assert written.pixel_size_angstrom == 3.0
    central = [int(line["central_row"]) for line in read_table(folder / "clusters.csv")]
    table = read_table(run / "z.csv")
    z = torch.tensor([[float(table[row][name]) for name in ("z_1", "z_2")] for row in central])
    for index, volume in enumerate(2.0 * decode_volumes(model, z)):
        torch.testing.assert_close(read_volume(folder / "clusters" / f"volume_{index:04d}.mrc").volume.voxels, volume)
    assert len(list((folder / "component_1").glob("*.mrc"))) == 2


def test_path_goes_from_near_to_near_particle_through_the_clusters_that_are_given(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    folder = run / "analysis"
    assert _analyze(run, "--clusters", 3, "--components", 1, "--frames", 4, "--no-umap", "--path", 2, 0, 1) == 0
    path = read_table(folder / "path.csv")
    central = [int(line["central_row"]) for line in read_table(folder / "clusters.csv")]
    rows = [int(line["row"]) for line in path]
    assert (rows[0], rows[-1]) == (central[2], central[1]) and central[0] in rows
    numbers = [int(line["cluster"]) for line in path]
    # from one end to the other through the middle, and back to the middle
    assert [cluster for cluster, before in zip(numbers, [None, *numbers], strict=False) if cluster != before] == [
        2,
        1,
        0,
        1,
    ]
    named = [line for line in path if line["volume"]]
    assert [line["volume"] for line in named] == sorted(file.name for file in (folder / "path").iterdir())
    model = new_model(_MODEL, 5, _SIDE, torch.ones(9), torch.device("cpu"))
    for line in named:
        z = _z()[int(line["row"])]
        assert [float(line["z_1"]), float(line["z_2"])] == pytest.approx(z.tolist(), abs=1e-5)
        written = read_volume(folder / "path" / line["volume"]).volume.voxels
        torch.testing.assert_close(written, 2.0 * decode_volumes(model, z[None])[0])
    script = (folder / "view.cxc").read_text()
    assert script.count("encloseVolume") == 5 and 'name "path"' in script and 'name "component 1"' in script
    assert "umap_1" not in read_table(folder / "latent.csv")[0]
    wrong = {"no cluster 3": ("--path", 0, 3), "give both": ("--path", 1), "in row 60": ("--path-rows", 0, 60)}
    for words, options in wrong.items():
        assert _analyze(run, "--clusters", 3, *options) == 2
        assert words in capsys.readouterr().err


def test_path_without_choice_leads_from_one_end_to_the_other(make_run: Callable[..., Path]) -> None:
    run = make_run()
    assert _analyze(run, "--clusters", 3, "--components", 0, "--no-umap") == 0
    places = [float(line["map_1"]) for line in read_table(run / "analysis" / "latent.csv")]
    rows = [int(line["row"]) for line in read_table(run / "analysis" / "path.csv")]
    assert places[rows[0]] <= sorted(places)[3] and places[rows[-1]] >= sorted(places)[-4]
    assert _analyze(run, "--clusters", 3, "--components", 0, "--no-umap", "--path-rows", 1, 59) == 0
    rows = [int(line["row"]) for line in read_table(run / "analysis" / "path.csv")]
    assert (rows[0], rows[-1]) == (1, 59)


def test_selected_rows_are_untouched(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert _analyze(run, "--clusters", 3, "--components", 0) == 0
    lines = (tmp_path / "particles.star").read_text().splitlines()
    rows = [line for line in lines if "@" in line]
    output = tmp_path / "some.star"
    assert _drgn("select", run, "-o", output, "--clusters", 0, 2) == 0
    assert output.read_text().splitlines() == [line for line in lines if line not in rows[15:45]]
    assert _drgn("select", run, "-o", output, "--where", "pc_1", -0.5, 0.5, "z_2", -5, 5) == 0
    assert [line for line in output.read_text().splitlines() if "@" in line] == rows[15:45]
    assert "30 of 60 particles kept" in capsys.readouterr().out
    assert _drgn("select", run, "-o", output, "--where", "pc_1", -9, 0.5, "--clusters", 0) == 0
    assert [line for line in output.read_text().splitlines() if "@" in line] == rows[:15]
    wrong = {"no column pc_9": ("pc_9", 0, 1), "the lower end first": ("pc_1", 1, 0), "goes from -2": ("pc_1", 7, 8)}
    for words, region in wrong.items():
        assert _drgn("select", run, "-o", output, "--where", *region) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("dimensions", [0, 2])
def test_selected_particles_get_the_poses_that_were_found(
    make_run: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    generator: torch.Generator,
    dimensions: int,
) -> None:
    run, particles = make_run(dimensions, poses="search"), read_particles(tmp_path / "particles.star")
    poses = Poses(random_rotations(_COUNT, generator=generator), torch.randn(_COUNT, 2, generator=generator))
    write_poses(run / "poses.star", particles, poses)
    assert _drgn("select", run, "-o", tmp_path / "all.star", "--poses", "found") == 0
    found = read_particles(tmp_path / "all.star").poses
    assert found is not None
    torch.testing.assert_close(found.rotations, poses.rotations, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.shifts_angstrom, poses.shifts_angstrom, rtol=0, atol=1e-5)
    assert _analyze(run, *([] if dimensions == 0 else ["--clusters", 3, "--components", 0])) == 0
    if dimensions:
        assert _drgn("select", run, "-o", tmp_path / "some.star", "--poses", "found", "--clusters", 1) == 0
        some = read_particles(tmp_path / "some.star").poses
        assert some is not None
        torch.testing.assert_close(some.rotations, poses.rotations[15:45], rtol=0, atol=1e-5)
    else:
        assert _drgn("select", run, "-o", tmp_path / "some.star", "--clusters", 1) == 2
        assert "which has no clusters" in capsys.readouterr().err
    assert _drgn("select", make_run(dimensions, name="known"), "-o", tmp_path / "a.star", "--poses", "found") == 2
    assert "found none; leave --poses out" in capsys.readouterr().err


def test_rows_of_a_particle_file_that_has_changed_are_not_selected(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, particles = make_run(), tmp_path / "particles.star"
    assert _analyze(run, "--clusters", 3, "--components", 0) == 0
    lines = particles.read_text().splitlines()
    rows = [line for line in lines if "@" in line]
    particles.write_text("\n".join([*(line for line in lines if "@" not in line), *rows[::-1]]) + "\n")
    assert _drgn("select", run, "-o", tmp_path / "some.star", "--clusters", 0) == 2
    assert "particles.star: has been changed since" in capsys.readouterr().err
    particles.unlink()
    assert _drgn("select", run, "-o", tmp_path / "some.star", "--clusters", 0) == 2
    assert "the run was made of it" in capsys.readouterr().err
    assert not (tmp_path / "some.star").exists()


def test_no_particle_file_of_the_run_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cryoSPARC particles whose passthrough file has the very name that one of the results would get."""
    paths = [tmp_path / name for name in ("subset_passthrough_1.cs", "subset.cs", "particles.cs")]
    for path in paths:
        with path.open("wb") as file:  # of an open file NumPy leaves the name as it is
            np.save(file, np.array([(10 + i,) for i in range(4)], dtype=[("uid", "<u8")]))
    run, before = tmp_path / "run", [path.read_bytes() for path in paths]
    (run / "analysis").mkdir(parents=True)
    files = ParticleFiles(paths[2], (paths[0],))
    source = {"path": str(paths[2]), "passthrough": [str(paths[0])], "pixel_size_angstrom": 3.0}
    source |= {"sha256": files.digest(), "stacks": "", "images": 4, "side": 8}
    made = {
        "scoretomo": "0.1.0",
        "command": "scoretomo drgn train",
        "input": source,
        "settings": to_table(DrgnConfig()),
    }
    (run / "drgn.toml").write_text(tomli_w.dumps(made))
    write_table(run / "z.csv", [{"row": row, "z_1": 0.0} for row in range(4)])
    write_table(run / "analysis" / "latent.csv", [{"row": row, "cluster": row % 2} for row in range(4)])
    for output in (paths[1], paths[0], paths[2]):
        assert _drgn("select", run, "-o", output, "--clusters", 1) == 2
        assert "is a particle file of the run" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before
    assert _drgn("select", run, "-o", tmp_path / "odd.cs", "--clusters", 1) == 0
    for path in (tmp_path / "odd.cs", tmp_path / "odd_passthrough_1.cs"):
        assert np.load(path)["uid"].tolist() == [11, 13]


def test_what_cannot_be_analysed_is_said(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, star = make_run(), tmp_path / "some.star"
    (tmp_path / "wrong.txt").write_text("1 2 3\n")
    wrong = {
        "make it with `scoretomo drgn analyze": ("select", run, "-o", star, "--clusters", 0),
        "2 numbers in each line": ("analyze", run, "--at", tmp_path / "wrong.txt"),
        "60 particles only": ("analyze", run, "--clusters", 100),
        "is no run folder of drgn": ("analyze", tmp_path),
        "a name that ends so": ("select", run, "-o", tmp_path / "some.cs", "--clusters", 0),
        "is a particle file": ("select", run, "-o", tmp_path / "particles.star", "--clusters", 0),
    }
    for words, arguments in wrong.items():
        assert _drgn(*arguments) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("scoretomo: error: ") and words in error
    assert not (run / "analysis").exists() and not star.exists()
    assert _analyze(run, "--clusters", 2, "--components", 0) == 0
    assert _drgn("select", run, "-o", star, "--clusters", 7) == 2
    assert "no cluster 7" in capsys.readouterr().err


def test_run_that_is_not_finished(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _analyze(make_run(finished=False)) == 2
    assert "not trained yet" in capsys.readouterr().err


def test_one_volume_for_all_particles_has_a_report_only(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(0)
    write_poses(
        run / "poses.star",
        read_particles(run.parent / "particles.star"),
        Poses(torch.eye(3).expand(_COUNT, 3, 3), torch.zeros(_COUNT, 2)),
    )
    (run.parent / "images.mrcs").unlink()  # of no use here
    assert _analyze(run) == 0
    assert [path.name for path in (run / "analysis").iterdir()] == ["report.html"]
    assert "60 particles, one volume" in (run / "analysis" / "report.html").read_text(encoding="utf-8")
    assert _analyze(run, "--clusters", 3) == 2
    assert "one volume for all particles" in capsys.readouterr().err


def _waves(places: Tensor, side: int, pixel_size: float) -> Tensor:
    axis = pixel_size * (torch.arange(side) - side // 2)
    return (-((axis - places[..., None]) ** 2) / (2 * 4.2**2)).exp()


@pytest.fixture
def search(tmp_path: Path, generator: torch.Generator) -> Callable[..., int]:
    """A map of 24 voxels of 2.1 A, and images of 16 pixels of 3 A whose density is 3 A beside the centre."""
    centres = torch.tensor([[-12.0, 3.0, 2.0], [9.0, 2.0, -8.0], [0.0, -10.0, 6.0], [3.0, 9.0, 9.0]])
    x, y, z = (_waves(centres[:, i], 24, 2.1) for i in range(3))
    write_volume(tmp_path / "map.mrc", Volume(torch.einsum("bz,by,bx->zyx", z, y, x), 2.1))
    rotations = random_rotations(12, generator=generator)
    places = centres @ rotations.mT + torch.tensor([3.0, 0.0, 0.0])
    images = torch.einsum("nby,nbx->nyx", _waves(places[..., 1], 16, 3.0), _waves(places[..., 0], 16, 3.0))
    write_images(tmp_path / "images.mrcs", ImageStack(images, 3.0))
    write_particles(
        tmp_path / "true.star",
        "images.mrcs",
        Poses(rotations, torch.zeros(12, 2)),
        pixel_size_angstrom=3.0,
        side=16,
    )

    def run(volume: str, output: str, *more: object) -> int:
        grid = "--search.shift-extent 0.1 --search.shift-count 3 --search.kept 4 --search.refinements 3".split()
        files = [tmp_path / "images.mrcs", "--volume", tmp_path / volume, "-o", tmp_path / output]
        return _drgn("poses", *files, "--device", "cpu", *grid, "--contrast", "bright", "--window", "None", *more)

    return run


def test_poses_against_a_map_of_another_sampling(
    search: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, original = set(), slices_module.slices_cpu

    def spied(*arguments: Any) -> Tensor:
        compiled.add(round(arguments[-1], 3))
        return original(*arguments)

    monkeypatch.setattr(slices_module, "slices_cpu", spied)
    assert search("map.mrc", "found.star") == 0
    assert compiled == {round(32 * 24 * 2.1 / 17 / 3, 3)}  # the map has 17 voxels at the sampling of the images
    poses, truth = (read_particles(tmp_path / name).poses for name in ("found.star", "true.star"))
    assert poses is not None and truth is not None
    assert angle_between(poses.rotations, truth.rotations).median() < 3
    torch.testing.assert_close(poses.shifts_angstrom.median(0).values, torch.tensor([3.0, 0.0]), atol=0.3, rtol=0)
    assert "rlnAutopickFigureOfMerit" in (tmp_path / "found.star").read_text()


def test_a_search_that_was_interrupted_goes_on_to_the_same_poses(
    search: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("map.mrc", "whole.star") == 0
    monkeypatch.setattr(drgn_poses, "_IMAGES_AT_ONCE", 5)
    searched, original = [], drgn_poses.find_volume_poses

    def spied(images: Tensor, *arguments: Any, **more: Any) -> Any:
        searched.append(len(images))
        if len(searched) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(images, *arguments, **more)

    monkeypatch.setattr(drgn_poses, "find_volume_poses", spied)
    assert search("map.mrc", "found.star") == 130
    assert not (tmp_path / "found.star").exists() and searched == [5]
    assert search("map.mrc", "found.star") == 0
    assert "going on after 5 images" in capsys.readouterr().err and searched == [5, 5, 2]
    found, whole = ((tmp_path / name).read_text().splitlines()[1:] for name in ("found.star", "whole.star"))
    assert found == whole  # but for the time in the first line
    assert not (tmp_path / "found.partial").exists()


def test_a_search_that_could_not_end_well_is_refused_before_images_are_read(
    search: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(drgn_poses, "prepare_images", never)
    write_volume(tmp_path / "flat.mrc", Volume(torch.full((16, 16, 16), 2.0), 3.0))
    (tmp_path / "folder.star").mkdir()
    wrong = {
        "nofolder: no such folder": ("map.mrc", "nofolder/found.star"),
        "no file can be written there": ("map.mrc", "folder.star"),
        "flat.mrc: the map is constant": ("flat.mrc", "found.star"),
        "no.mrc": ("no.mrc", "found.star"),
        "cannot give pixels of 3 Angstrom": ("map.mrc", "found.star", "--map-pixel-size", 100),
        "--search.refinements: does nothing": ("map.mrc", "found.star", "--method", "branch-and-bound"),
    }
    for words, arguments in wrong.items():
        assert search(*arguments) == 2
        error = capsys.readouterr().err.splitlines()
        assert error[-1].startswith("scoretomo: error: ") and words in error[-1]
