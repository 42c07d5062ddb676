"""A run finds out whether its molecule moves, says so, and goes on accordingly."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import motion as command
from scoretomo.commands.motion import find_motion, settle_motion
from scoretomo.datatypes import ImageStack
from scoretomo.io.checkpoints import load_checkpoint, save_checkpoint
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.tables import read_table
from scoretomo.methods.angular_spread import AngularSpread
from scoretomo.methods.projection_matching import MatchingConfig
from scoretomo.runs import Run, open_run

_TINY = "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1 --optimiser.batch-size 8"
_SEARCH = "--initial.starts 4 --initial.kept 2 --check False --contrast bright"


def _start(blobs: Any, folder: Path, *options: str) -> Run:
    noise = torch.randn(blobs.images.shape, generator=torch.Generator().manual_seed(8))
    write_images(folder / "averages.mrcs", ImageStack(blobs.images + 0.05 * blobs.images.std() * noise, 4.0))
    made = ["train", str(folder / "averages.mrcs"), "-o", str(folder / "run"), "--budget", "8"]
    assert cli.main([*made, *_TINY.split(), *_SEARCH.split(), *options]) == 0
    return open_run(folder / "run")


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]


def _correlations_of_others(projections: Tensor, images: Tensor) -> Tensor:
    """Of each image with the projection of the volume of another."""
    return torch.stack([_correlation(each, image) for each, image in zip(projections.roll(1, 0), images, strict=True)])


@pytest.fixture(scope="module", params=[0.0, 3.0])
def settled(
    request: pytest.FixtureRequest, make_blobs: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Run, str]:
    """Blobs that stand still or move, the run of which the motion is settled, and what was said."""
    blobs = make_blobs(80, request.param)
    run = _start(blobs, tmp_path_factory.mktemp("motion"))
    assert run.rigid is None
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "MatchingConfig", partial(MatchingConfig, iterations=5, global_searches=3))
        patch.setattr(command, "say", said.append)
        settle_motion(run, torch.device("cpu"))
    return blobs, run, "\n".join(said)


def test_a_run_finds_out_whether_its_molecule_moves(
    settled: tuple[Any, Run, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, run, said = settled
    moves = bool(blobs.centres.std(0).max() > 0)
    assert run.rigid is not moves
    table = json.loads((run.motion_folder / "motion.json").read_text(encoding="utf-8"))
    assert table["moves"] is moves and (table["components"] > 0) is moves and 2 <= len(table["gains"]) <= 5
    assert table["components_fitted"] == table["components"] and table["copies"] is None
    assert f"taken as {'moving' if moves else 'rigid'}" in said and table["reason"] in said
    assert (run.folder / "consensus" / "consensus.mrc").exists()  # one map of all of them, in either case
    names = {path.name for path in run.motion_folder.iterdir()}
    of_motion = {f"component_{k + 1}.mrc" for k in range(table["components"])}
    of_motion |= {"mean.mrc", "coordinates.csv", "volumes", "states", "states.json", "path", "view.cxc"}
    assert names == {"motion.json"} | (of_motion if moves else set())
    monkeypatch.setattr(command, "make_consensus", None)  # settled once for all
    settle_motion(run, torch.device("cpu"))


def test_the_blur_of_a_motion_is_not_taken_for_a_spread_of_views(
    settled: tuple[Any, Run, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map of all class averages has both, the volumes of a motion model one."""
    blobs, run, _ = settled
    moves = bool(blobs.centres.std(0).max() > 0)
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "motion")
    checkpoint = load_checkpoint(run.folder / "checkpoint" / "refine.pt")
    assert checkpoint is not None
    of_all = checkpoint["step"]["volume"]

    def of(volume: Tensor, agreement: Tensor, *, degrees: float | None = None) -> AngularSpread:
        found = 7.0 if volume.equal(of_all) else 3.0
        return AngularSpread(found if degrees is None else degrees, torch.full_like(agreement, 0.1))

    monkeypatch.setattr(AngularSpread, "of", of)
    monkeypatch.setattr(command, "MatchingConfig", partial(MatchingConfig, iterations=5, global_searches=3))
    copied = open_run(tmp_path / "run")
    settle_motion(copied, torch.device("cpu"))
    found = copied.motion_found
    assert found is not None and found["angular_spread_degrees"] == (3.0 if moves else 7.0)
    shutil.rmtree(tmp_path / "run" / "consensus")
    settle_motion(copied, torch.device("cpu"))
    consensus = json.loads((tmp_path / "run" / "consensus" / "consensus.json").read_text(encoding="utf-8"))
    assert consensus["angular_spread_degrees"] == found["angular_spread_degrees"]


@pytest.mark.parametrize("settled", [3.0], indirect=True)
def test_components_and_coordinates_of_a_motion_are_written(settled: tuple[Any, Run, str]) -> None:
    blobs, run, _ = settled
    columns = [f"z_{k + 1}" for k in range(json.loads((run.motion_folder / "motion.json").read_text())["components"])]
    rows = read_table(run.motion_folder / "coordinates.csv", ("index", *columns))
    assert [int(row["index"]) for row in rows] == list(range(80))
    z = torch.tensor([[float(row[column]) for column in columns] for row in rows])
    design = torch.cat([z, z**2, torch.ones(80, 1)], 1)
    left = blobs.coordinates - design @ torch.linalg.lstsq(design, blobs.coordinates[:, None]).solution[:, 0]
    assert float(left.var() / blobs.coordinates.var()) < 0.4  # they tell most of what is true
    mean = read_volume(run.motion_folder / "mean.mrc").volume
    assert mean.side == 24 and mean.pixel_size_angstrom == pytest.approx(4.0)
    component = read_volume(run.motion_folder / "component_1.mrc").volume.voxels
    assert 0 < float(component.std()) < float(mean.voxels.std())


@pytest.mark.parametrize("settled", [3.0], indirect=True)
def test_volumes_of_the_motion_project_to_their_class_averages(settled: tuple[Any, Run, str]) -> None:
    """Each is in the frame of its own class average."""
    blobs, run, _ = settled
    assert len(list((run.motion_folder / "volumes").iterdir())) == 80
    own = torch.stack(
        [read_volume(run.motion_folder / "volumes" / f"volume_{i:04d}.mrc").volume.voxels.sum(0) for i in range(80)]
    )
    matches = torch.stack([_correlation(volume, image) for volume, image in zip(own, blobs.images, strict=True)])
    assert float(matches.median()) > 0.97 and float(matches.min()) > 0.9
    assert float(matches.mean()) > float(_correlations_of_others(own, blobs.images).mean()) + 0.02


@pytest.mark.parametrize("settled", [3.0], indirect=True)
def test_the_path_leads_from_one_end_of_the_motion_to_the_other(settled: tuple[Any, Run, str]) -> None:
    blobs, run, _ = settled
    folder = run.motion_folder
    rows = read_table(folder / "coordinates.csv", ("path", "state", "state_certainty"))
    along = [float(row["path"]) for row in rows]
    assert min(along) == 0 and max(along) == 1
    # 0.76 to 0.90 with four seeds: with so many components for one motion, in 80 images, a path may take a short cut
    assert abs(spearmanr(along, blobs.coordinates).statistic) > 0.6
    found = json.loads((folder / "states.json").read_text(encoding="utf-8"))
    states = [int(row["state"]) for row in rows]
    assert [each["population"] for each in found["states"]] == [states.count(k) for k in sorted(set(states))]
    assert {each["file"] for each in found["states"]} == {path.name for path in (folder / "states").iterdir()}
    maps = [read_volume(folder / "path" / name).volume.voxels for name in found["path"]["files"]]
    flat = torch.stack(maps).flatten(1)
    apart = torch.cdist(flat, flat)
    assert (apart.diagonal(1)[:-1] < apart.diagonal(2)).all()  # on the way, neither resting nor going back
    assert float(apart[0, -1]) > 0.2 * float(maps[0].norm())


@pytest.mark.parametrize("settled", [3.0], indirect=True)
def test_the_verb_makes_as_many_components_as_are_asked_for(
    settled: tuple[Any, Run, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(settled[1].folder, tmp_path / "run"))
    monkeypatch.setattr(command, "MatchingConfig", partial(MatchingConfig, iterations=5, global_searches=3))
    assert cli.main(["motion", str(run), "--components", "2"]) == 0
    assert f"volumes: {run / 'motion' / 'volumes'}" in capsys.readouterr().out
    assert {"component_1.mrc", "component_2.mrc"} <= {path.name for path in (run / "motion").iterdir()}
    assert not (run / "motion" / "component_3.mrc").exists()
    before = (run / "motion" / "coordinates.csv").read_text()
    assert cli.main(["motion", str(run), "--components", "40"]) == 2
    assert "give 1 to 39" in capsys.readouterr().err
    assert (run / "motion" / "coordinates.csv").read_text() == before
    checkpoint = run / "checkpoint" / "motion_model.pt"
    saved = load_checkpoint(checkpoint)
    assert saved is not None
    saved["made_of"]["rotations"][0] += 0.1  # as if it had been fitted at other poses
    saved["model"]["z"].zero_()
    save_checkpoint(checkpoint, saved)
    assert cli.main(["motion", str(run), "--components", "2"]) == 0
    assert (run / "motion" / "coordinates.csv").read_text() == before


@pytest.mark.parametrize("asked", ["True", "False"])
def test_what_the_user_says_is_not_tested(asked: str, make_blobs: Callable[..., Any], tmp_path: Path) -> None:
    run = _start(make_blobs(12, 0.0), tmp_path, "--rigid", asked)
    settle_motion(run, torch.device("cpu"))
    assert run.rigid is (asked == "True") and run.motion_folder.exists() is (asked == "False")
    if asked == "False":  # then there is a motion to be described, whatever the evidence
        table = json.loads((run.motion_folder / "motion.json").read_text(encoding="utf-8"))
        assert table["components"] == 0 and not table["moves"] and table["components_fitted"] == 1
        assert len(list((run.motion_folder / "volumes").iterdir())) == 12


def test_what_was_found_can_be_overruled_in_the_same_folder(make_blobs: Callable[..., Any], tmp_path: Path) -> None:
    """A rigid molecule that is said to move gets a motion; one that moves and is said to be rigid has one map."""
    run, device = _start(make_blobs(6, 0.0), tmp_path), torch.device("cpu")
    settle_motion(run, device)
    assert run.rigid and find_motion(run, device).z.shape == (6, 0)
    moving = replace(run, config=replace(run.config, rigid=False))
    settle_motion(moving, device)
    assert find_motion(moving, device).z.shape == (6, 1) and (run.motion_folder / "volumes").exists()
    assert find_motion(run, device).z.shape == (6, 0)  # nothing is said any more, and one map was found to do
    assert find_motion(replace(run, config=replace(run.config, rigid=True)), device).z.shape == (6, 0)


def test_poses_of_a_nearly_symmetric_map_are_brought_into_one_frame(
    make_blobs: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that is said to have a two-fold axis: poses that are right are not torn into two frames."""
    blobs = make_blobs(80, 3.0)
    run = _start(blobs, tmp_path, "--rigid", "False")
    said: list[str] = []
    monkeypatch.setattr(command, "MatchingConfig", partial(MatchingConfig, iterations=5, global_searches=3))
    monkeypatch.setattr(command, "say", said.append)
    half_turn = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0]))])
    monkeypatch.setattr(command, "copies_of", lambda volume, mirrored: (half_turn, torch.zeros(2, 3)))
    settle_motion(run, torch.device("cpu"))
    found = json.loads((run.motion_folder / "motion.json").read_text(encoding="utf-8"))["copies"]
    assert (found["rotations"], found["mirrorings"]) == (2, 0)
    assert min(found["changed"], 1 - found["changed"]) < 0.1
    assert "nearly the same under 2 rotations and 0 mirrorings" in found["reason"] and found["reason"] in said
    checkpoint = run.folder / "checkpoint" / "motion_model.pt"
    before = find_motion(run, torch.device("cpu")).rotations
    checkpoint.unlink()  # fitted again, the same poses are taken up
    monkeypatch.setattr(command, "choose_copies_progressive", None)
    assert torch.equal(find_motion(run, torch.device("cpu")).rotations, before)


def test_few_class_averages_are_taken_as_rigid(
    make_blobs: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _start(make_blobs(6, 2.0), tmp_path)
    settle_motion(run, torch.device("cpu"))
    assert run.rigid
    assert "6 class averages are too few to tell a motion" in capsys.readouterr().err


@pytest.mark.parametrize("settled", [0.0], indirect=True)
def test_volumes_that_are_judged_wrong_do_not_confuse_poses(
    settled: tuple[Any, Run, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consensus leaves their class averages out; what is found about the motion is of all that are used."""
    folder = Path(shutil.copytree(settled[1].folder, tmp_path / "run"))
    shutil.rmtree(folder / "motion")
    (folder / "ensemble").mkdir()
    verdicts = "".join(f"{index},{'wrong' if index < 20 else 'reliable'}\n" for index in range(80))
    (folder / "ensemble" / "reliability.csv").write_text("index,verdict\n" + verdicts)
    monkeypatch.setattr(command, "MatchingConfig", partial(MatchingConfig, iterations=5, global_searches=3))
    run = open_run(folder)
    settle_motion(run, torch.device("cpu"))
    before = json.loads((settled[1].motion_folder / "motion.json").read_text())
    assert json.loads((run.motion_folder / "motion.json").read_text()) == before


def test_where_a_motion_was_sought_first_a_run_of_a_rigid_molecule_makes_its_map(
    make_blobs: Callable[..., Any], tmp_path: Path
) -> None:
    run = _start(make_blobs(6, 0.0), tmp_path)
    run.motion_folder.mkdir()
    (run.motion_folder / "motion.json").write_text(
        json.dumps({"moves": False, "components_fitted": 0, "reason": "One map explains all."})
    )
    again = ["run", str(tmp_path / "averages.mrcs"), "-o", str(run.folder), "--budget", "8", *_TINY.split()]
    assert cli.main([*again, *_SEARCH.split()]) == 0
    assert (run.folder / "consensus" / "consensus.mrc").exists() and not run.volumes.exists()


def test_an_initial_model_that_may_be_anything_tells_nothing_of_a_motion(
    make_blobs: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = make_blobs(12, 0.0)
    noise = torch.randn(12, 24, 24, generator=torch.Generator().manual_seed(8))
    run = _start(replace(blobs, images=noise), tmp_path)
    settle_motion(run, torch.device("cpu"))
    table = json.loads((run.motion_folder / "motion.json").read_text(encoding="utf-8"))
    assert table["moves"] is None and table["components_fitted"] >= 1 and not run.rigid
    assert not (run.folder / "consensus").exists()  # one map of poses that may be anything would be no result
    assert "cannot be told from such an initial model" in capsys.readouterr().err
