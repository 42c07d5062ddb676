"""``points reconstruct``: from projections with and without poses to models, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from scoretomo import cli
from scoretomo.commands import points_reconstruct
from scoretomo.commands.points_folder import PriorConfig, open_prior, save_prior, start_prior
from scoretomo.commands.points_observations import ObservationConfig, observe
from scoretomo.commands.points_views import choose_views, views_of_points
from scoretomo.commands.progress import StoppedBetweenSteps
from scoretomo.datatypes import ImageStack, PointClouds, Volume
from scoretomo.geometry.point_clouds import normalise
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging.point_images import draw_points
from scoretomo.io.mrc import read_images, read_volume, write_images, write_volume
from scoretomo.io.point_files import read_point_clouds, write_pseudo_atoms
from scoretomo.io.point_sets import write_point_set
from scoretomo.networks.point_transformer import PointTransformerConfig

POINTS, PIXEL, SIDE = 32, 5.0, 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an object, its map, its projections, and a prior that knows nothing but how large things are."""
    folder = tmp_path_factory.mktemp("points")
    generator = torch.Generator().manual_seed(3)
    ends = torch.tensor([[-50.0, 0, 0], [40, 0, 0], [40, 35, 0], [40, 0, 30]])
    along = torch.linspace(0, 1, 100)[:, None]
    thick = torch.cat([ends[1] + along * (end - ends[1]) for end in (ends[0], ends[2], ends[3])])
    thick = thick + 4 * torch.randn(thick.shape, generator=generator)
    np.save(folder / "object.npy", thick)
    write_volume(folder / "map.mrc", Volume(1000 * draw_points(thick / PIXEL, SIDE, 1.0), PIXEL))
    rotations = random_rotations(12, generator=generator)
    seen = torch.einsum("kij,nj->kni", rotations[:, :2], thick - thick.mean(0))
    np.savez(folder / "posed.npz", xy=seen, rotations=rotations)
    np.savez(folder / "poseless.npz", xy=seen)
    clouds, units = normalise(torch.randn(3, POINTS, 3, generator=generator))[0], torch.ones(3)
    path = folder / "set.npz"
    write_point_set(path, PointClouds(clouds, units, ("a", "b", "c"), torch.zeros(3, dtype=torch.bool), True))
    network = PointTransformerConfig(width=16, layers=1, heads=2)
    (folder / "prior").mkdir()
    prior = start_prior(folder / "prior", path, _set(clouds), PriorConfig(network=network))
    torch.manual_seed(0)
    save_prior(prior, prior.new_denoiser(torch.device("cpu")).get_submodule("network"))
    return folder


def _set(clouds: torch.Tensor) -> PointClouds:
    names = tuple(str(number) for number in range(len(clouds)))
    return PointClouds(clouds, torch.ones(len(clouds)), names, torch.zeros(len(clouds), dtype=torch.bool), True)


@pytest.fixture
def reconstruct(made: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the command on a file of ``made``; results go to ``tmp_path / "out"``."""

    def run(source: str | Path, *options: str | Path) -> int:
        short = () if "--sampling.steps" in options else ("--sampling.steps", "12")
        words = ["--prior", made / "prior", "-o", tmp_path / "out", "--device", "cpu", *short, *options]
        return cli.main(["points", "reconstruct", str(made / source), *map(str, words)])

    return run


def test_a_few_projections_with_poses_make_the_object(
    made: Path, reconstruct: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--volume", made / "map.mrc", "--samples", "3", "--views", "6", "--baseline", "--sampling.steps", "15")
    assert reconstruct("posed.npz", *options) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        ".lock", "models.pdb", "model.pdb", "baseline.pdb", "density.mrc", "spread.mrc", "reconstruction.json",
        "views.png", "models.png", "slices.png", "fsc.png",
    }  # fmt: skip
    found = json.loads((out / "reconstruction.json").read_text())
    assert (found["models"], found["points"], len(found["views"])) == (3, POINTS, 6)
    assert len({view["image"] for view in found["views"]}) == 6
    assert found["against_volume"]["models"]["rmsd_angstrom"] < 16  # of an object of 100 A
    assert set(found["energies"]) == {"models", "baseline", "volume"} and found["spread_angstrom"] > 0
    models = list(read_point_clouds(out / "models.pdb").clouds.values())
    (model,) = read_point_clouds(out / "model.pdb").clouds.values()
    assert len(models) == 3 and any(torch.equal(model, each) for each in models)
    truth = torch.from_numpy(np.load(made / "object.npy"))
    # in viewers the map begins at 0, and the model lies in it
    torch.testing.assert_close(model.mean(0), truth.mean(0) + SIDE // 2 * PIXEL, atol=4, rtol=0)
    known, drawn = (read_volume(path).volume for path in (made / "map.mrc", out / "density.mrc"))
    assert drawn.pixel_size_angstrom == PIXEL and drawn.side == SIDE
    pair = torch.stack([known.voxels.flatten(), drawn.voxels.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.6
    before = (out / "models.pdb").stat().st_mtime_ns
    assert reconstruct("posed.npz", *options) == 0  # again
    assert (out / "models.pdb").stat().st_mtime_ns == before and "made already" in capsys.readouterr().err
    assert reconstruct("posed.npz", *options, "--seed", "1") == 2
    assert "other observations or settings" in capsys.readouterr().err


def test_what_was_interrupted_goes_on_to_the_same_models(
    made: Path, reconstruct: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points_reconstruct, "_AT_ONCE_ON_CPU", 1)
    monkeypatch.setattr(points_reconstruct, "save_checkpoint", _stopping(points_reconstruct.save_checkpoint))
    assert reconstruct("posed.npz", "--samples", "2", "--views", "3") == 130
    assert not (tmp_path / "out" / "models.pdb").exists() and (tmp_path / "out" / "checkpoint.pt").exists()
    assert reconstruct("posed.npz", "--samples", "2", "--views", "3") == 0
    interrupted = (tmp_path / "out" / "models.pdb").read_text()
    shutil.rmtree(tmp_path / "out")
    assert reconstruct("posed.npz", "--samples", "2", "--views", "3") == 0
    assert (tmp_path / "out" / "models.pdb").read_text() == interrupted
    one, other = read_point_clouds(tmp_path / "out" / "models.pdb").clouds.values()
    assert (one - other).abs().max() > 1


def _stopping(save: Callable[..., None]) -> Callable[..., None]:
    """Stop after what is saved first."""
    calls = []

    def saving(*arguments: object) -> None:
        save(*arguments)
        calls.append(1)
        if len(calls) == 1:
            raise StoppedBetweenSteps

    return saving


def test_poses_are_found_by_matching(made: Path) -> None:
    found = views_of_points(made / "poseless.npz", made / "map.mrc", 6, 20.0, None, 0.1, device=torch.device("cpu"))
    truth = torch.from_numpy(np.load(made / "posed.npz")["rotations"])
    angles = torch.stack([angle_between(view.rotation, truth[view.index]) for view in found.views])
    assert angles.median() < 4 and angles.max() < 10  # turns about its long axis change little of it
    assert all(view.correlation is not None and view.correlation > 0.95 for view in found.views)
    middle = torch.from_numpy(np.load(made / "object.npy")).mean(0)
    for view in found.views:  # the map is not in the middle of its box
        torch.testing.assert_close(view.centre, truth[view.index][:2] @ middle, atol=3, rtol=0)


def test_coarse_model_and_subunit_join_in(made: Path, reconstruct: Callable[..., int], tmp_path: Path) -> None:
    """Given, and coming out, where a viewer shows the map, wherever that begins."""
    truth = torch.from_numpy(np.load(made / "object.npy"))
    corner = torch.tensor([-300.0, 55.0, 120.0])
    x, y, z = corner.tolist()
    write_volume(tmp_path / "map.mrc", read_volume(made / "map.mrc").volume, corner_angstrom=(x, y, z))
    write_pseudo_atoms(
        tmp_path / "part.pdb", truth[:100] + SIDE // 2 * PIXEL + corner
    )  # a third of it, where it lies in the map
    options = ("--volume", tmp_path / "map.mrc", "--samples", "1", "--views", "1", "--subunit", tmp_path / "part.pdb")
    assert reconstruct("posed.npz", *options, "--coarse-points", "8", "--weight-subunit", "2") == 0
    found = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert list(found["energies"]["models"])[1:] == ["coarse model", "subunit"]
    assert max(found["energies"]["models"].values()) < 0.1
    assert found["spread_angstrom"] is None
    (model,) = read_point_clouds(tmp_path / "out" / "model.pdb").clouds.values()
    torch.testing.assert_close(model.mean(0), truth.mean(0) + SIDE // 2 * PIXEL + corner, atol=8, rtol=0)
    torch.testing.assert_close(torch.tensor(read_volume(tmp_path / "out" / "density.mrc").corner_angstrom), corner)


def test_images_with_poses_need_no_volume(made: Path, reconstruct: Callable[..., int], tmp_path: Path) -> None:
    star = _star(made, tmp_path)
    assert reconstruct(star, "--samples", "1", "--views", "4", "--sampling.steps", "20") == 0
    found = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert found["against_volume"] is None and found["views"][0]["correlation"] is None
    truth = torch.from_numpy(np.load(made / "object.npy"))
    (model,) = read_point_clouds(tmp_path / "out" / "model.pdb").clouds.values()
    # the frame is that of the poses, in which parts would be given, and viewers show the density around the model
    torch.testing.assert_close(model.mean(0), truth.mean(0), atol=5, rtol=0)
    shown = read_volume(tmp_path / "out" / "density.mrc")
    voxels = shown.volume.voxels
    places = voxels.nonzero().flip(1) * shown.volume.pixel_size_angstrom + torch.tensor(shown.corner_angstrom)
    middle = (voxels[voxels != 0, None] * places).sum(0) / voxels.sum()
    torch.testing.assert_close(middle, model.mean(0), atol=0.5, rtol=0)
    assert float(model.std(0).norm() / truth.std(0).norm()) == pytest.approx(1, abs=0.2)


def test_the_user_knows_contrast_and_background_better(made: Path, tmp_path: Path) -> None:
    """A negative taken as dark is the picture; a high threshold leaves the dense middle."""
    star = _star(made, tmp_path)

    def radius(contrast: Literal["bright", "dark"], threshold: float) -> float:
        config = ObservationConfig(views=1, contrast=contrast, threshold=threshold, points=60)
        generator, device = torch.Generator().manual_seed(0), torch.device("cpu")
        (view,) = observe(star, config, 60, generator=generator, device=device).views
        return float(view.points.norm(dim=1).mean())

    as_it_is, middle = radius("bright", 0.1), radius("bright", 0.7)
    stack = read_images(tmp_path / "images.mrcs").stack
    write_images(tmp_path / "images.mrcs", ImageStack(-stack.images, PIXEL))
    assert radius("dark", 0.1) == pytest.approx(as_it_is, rel=0.01)
    assert radius("bright", 0.1) != pytest.approx(as_it_is, rel=0.1)
    assert middle < 0.9 * as_it_is


def _star(made: Path, folder: Path) -> Path:
    """Images of turns about z, which are as many values of psi."""
    truth = torch.from_numpy(np.load(made / "object.npy"))
    lines = ["data_", "", "loop_", "_rlnImageName #1", "_rlnAngleRot #2", "_rlnAngleTilt #3", "_rlnAnglePsi #4"]
    lines += ["_rlnImagePixelSize #5"]
    images = []
    for number, tilt in enumerate((0.0, 45.0, 90.0, 135.0)):
        # RELION's tilt alone: minus a turn about y, of the object
        angle = torch.deg2rad(torch.tensor(-tilt))
        c, s = float(angle.cos()), float(angle.sin())
        turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        images.append(draw_points((truth @ turn.T)[:, :2] / PIXEL, SIDE, 1.0))
        lines.append(f"{number + 1}@images.mrcs 0 {tilt} 0 {PIXEL}")
    write_images(folder / "images.mrcs", ImageStack(1000 * torch.stack(images), PIXEL))
    (folder / "poses.star").write_text("\n".join(lines) + "\n")
    return folder / "poses.star"


def test_views_from_opposite_sides_are_one() -> None:
    def looking(x: float, y: float, z: float) -> torch.Tensor:
        direction = torch.nn.functional.normalize(torch.tensor([float(x), y, z]), dim=0)
        other = torch.linalg.cross(direction, torch.tensor([0.3, 0.5, 0.8]))
        other = other / other.norm()
        return torch.stack([torch.linalg.cross(other, direction), other, direction])

    rotations = torch.stack(
        [looking(0, 0, 1), looking(0, 0.1, -1), looking(1, 0, 0.2), looking(-1, 0, 0), looking(0, 1, 0)]
    )
    assert choose_views(rotations, 3) in ([0, 3, 4], [0, 4, 3])
    assert sorted(choose_views(torch.eye(3).expand(4, 3, 3), 4)) == [0, 1, 2, 3]  # each but once, though all are alike


BAD = {
    "flat": (lambda: {"xy": np.zeros((4, 7))}, "projections, points, 2"),
    "no xy": (lambda: {"points": np.zeros((4, 7, 2))}, "has no xy"),
    "nan": (lambda: {"xy": np.full((6, 9, 2), np.nan)}, "NaN"),
    "metres": (lambda: {"xy": np.random.default_rng(0).normal(size=(6, 9, 2)) * 1e30}, "must be in Angstrom"),
    "one place": (lambda: {"xy": np.zeros((6, 9, 2))}, "xy reaches 0"),
    "words": (lambda: {"xy": np.ones((6, 9, 2)).cumsum(1), "rotations": np.full((6, 3, 3), "1")}, "must be numbers"),
    "skewed": (
        lambda: {"xy": np.random.default_rng(0).normal(size=(6, 9, 2)), "rotations": np.stack([2 * np.eye(3)] * 6)},
        "projection 0 is not an orthogonal matrix",
    ),
    "few rotations": (lambda: {"xy": np.ones((6, 9, 2)).cumsum(1), "rotations": np.eye(3)[None]}, "rotations must be"),
    "no map": (lambda: {"xy": np.random.default_rng(0).normal(size=(6, 9, 2))}, "--volume"),
    "few views": (
        lambda: {"xy": np.ones((2, 9, 2)).cumsum(1), "rotations": np.stack([np.eye(3)] * 2)},
        "2 projections, and 5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_projections_that_are_none_are_refused(
    case: str, reconstruct: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, words = BAD[case]
    np.savez(tmp_path / "bad.npz", **arrays())
    assert reconstruct(tmp_path / "bad.npz") == 2
    _one_line(capsys, words)
    assert not (tmp_path / "out").exists()


def test_other_bad_input_is_one_clear_line(
    made: Path, reconstruct: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pdb").write_text("REMARK no atoms\nEND\n")
    np.save(tmp_path / "far.npy", np.zeros((5, 3)) + 5000)
    np.save(tmp_path / "beside.npy", np.array([[-40.0, 60.0, -60.0], [-45.0, 60.0, -60.0]]) + SIDE // 2 * PIXEL)
    np.save(tmp_path / "whole.npy", np.load(made / "object.npy") + SIDE // 2 * PIXEL)
    volume = ("--volume", made / "map.mrc")
    cases = [
        ((*volume, "--subunit", tmp_path / "empty.pdb"), "no atoms found"),
        ((*volume, "--subunit", tmp_path / "beside.npy"), "no part of the volume lies where the subunit is"),
        ((*volume, "--subunit", tmp_path / "whole.npy"), "a subunit is a part of the whole"),
        ((*volume, "--coarse", tmp_path / "far.npy"), "bring it to the volume's frame"),
        (("--coarse-points", "9"), "no volume"),
        (("--subunit", made / "object.npy"), "--subunit-share"),
        (("--image", "3"), "--image 3: does nothing"),
        (("--weight-subunit", "3"), "--weight-subunit: does nothing"),
        (("--subunit-share", "0.3"), "--subunit-share 0.3: does nothing"),
        (("--threshold", "0.3"), "no map is given"),
        (("--sampling.noise", "nan"), "noise must be a number"),
        (("--sampling.guidance", "inf"), "guidance and its power must be numbers"),
        ((*volume, "--map-pixel-size", "55"), "--map-pixel-size, or the map of this object"),
        (("--contrast", "dark"), "--contrast dark: does nothing"),
        (("--observed-points", "9"), "holds point projections"),
        (("--pixel-size", "3"), "--pixel-size 3.0: does nothing here"),
        (("--threshold", "1"), "--threshold 1.0: a part"),
        (("--views", "13"), "12 projections, and 13"),
        (("--weight-projections", "0"), "weight of 0"),
        (("--samples", "0"), "1 model or more"),
    ]
    for options, words in cases:
        assert reconstruct("posed.npz", *options) == 2
        _one_line(capsys, words)
        assert not (tmp_path / "out").exists()
    assert reconstruct("poseless.npz", "--volume", made / "map.mrc", "--map-pixel-size", "15") == 2
    _one_line(capsys, "radius of gyration")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.pdb").write_text("of another program")
    assert reconstruct("posed.npz") == 2
    _one_line(capsys, "holds other files (model.pdb)")
    assert (tmp_path / "out" / "model.pdb").read_text() == "of another program"
    assert reconstruct(tmp_path) == 2
    _one_line(capsys, "no run folder, and holds 0 .star")


def test_a_prior_that_is_not_trained_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made / "prior", tmp_path / "prior")
    open_prior(tmp_path / "prior").weights.unlink()
    words = ["points", "reconstruct", made / "posed.npz", "--prior", tmp_path / "prior", "-o", tmp_path / "out"]
    assert cli.main(list(map(str, words))) == 2
    _one_line(capsys, "not trained yet")
    assert not (tmp_path / "out").exists()


def _one_line(capsys: pytest.CaptureFixture[str], words: str) -> None:
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and words in said[0], said
