"""A run finds out whether its molecule moves, says so, and goes on accordingly."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from scoretomo import cli
from scoretomo.commands import motion as command
from scoretomo.commands.motion import settle_motion
from scoretomo.datatypes import ImageStack
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.tables import read_table
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
    assert table["moves"] is moves and (table["components"] > 0) is moves and len(table["gains"]) == 3
    assert f"taken as {'moving' if moves else 'rigid'}" in said and table["reason"] in said
    assert (run.folder / "consensus" / "consensus.mrc").exists()  # one map of all of them, in either case
    names = {path.name for path in run.motion_folder.iterdir()}
    components = {f"component_{k + 1}.mrc" for k in range(table["components"])}
    assert names == {"motion.json"} | ({"mean.mrc", "coordinates.csv"} | components if moves else set())
    monkeypatch.setattr(command, "make_consensus", None)  # settled once for all
    settle_motion(run, torch.device("cpu"))


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


@pytest.mark.parametrize("asked", ["True", "False"])
def test_what_the_user_says_is_not_tested(asked: str, make_blobs: Callable[..., Any], tmp_path: Path) -> None:
    run = _start(make_blobs(12, 0.0), tmp_path, "--rigid", asked)
    settle_motion(run, torch.device("cpu"))
    assert run.rigid is (asked == "True") and not run.motion_folder.exists()
    assert not (run.folder / "consensus").exists()


def test_few_class_averages_are_taken_as_rigid(
    make_blobs: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _start(make_blobs(6, 2.0), tmp_path)
    settle_motion(run, torch.device("cpu"))
    assert run.rigid
    assert "6 class averages are too few to tell a motion" in capsys.readouterr().err
