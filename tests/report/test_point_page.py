"""Point models of a run: views that its volume explains, and the section of the report."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.commands.points_folder import PriorConfig, save_prior, start_prior
from scoretomo.commands.points_views import views_of_run
from scoretomo.commands.report import write_report
from scoretomo.datatypes import InputError, PointClouds, Volume
from scoretomo.geometry.point_clouds import normalise
from scoretomo.imaging.point_images import density_points
from scoretomo.io.files import write_json
from scoretomo.io.mrc import read_volume, write_volume
from scoretomo.io.point_sets import write_point_set
from scoretomo.networks.point_transformer import PointTransformerConfig
from scoretomo.report.page import Blocks
from scoretomo.report.point_page import point_section
from scoretomo.runs import open_run

CPU = torch.device("cpu")


@pytest.fixture
def folder(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_run(8, 24), tmp_path / "run"))


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    """A prior of 16 points that was never trained, but is there."""
    clouds = normalise(torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0)))[0]
    points = PointClouds(clouds, torch.ones(2), ("a", "b"), torch.zeros(2, dtype=torch.bool), True)
    write_point_set(tmp_path / "set.npz", points)
    (tmp_path / "prior").mkdir()
    config = PriorConfig(network=PointTransformerConfig(width=8, layers=1, heads=1))
    made = start_prior(tmp_path / "prior", tmp_path / "set.npz", points, config)
    save_prior(made, made.new_denoiser(CPU).get_submodule("network"))
    return made.folder


def test_views_are_class_averages_that_the_volume_explains(folder: Path, generator: torch.Generator) -> None:
    found = views_of_run(folder, 3, 4, partial(density_points, count=20, generator=generator), device=CPU)
    first, *others = found.views
    assert first.index == 3 and torch.equal(first.rotation, torch.eye(3))
    assert len({view.index for view in found.views}) == 4 and all(view.index < 8 for view in others)  # 8 is left out
    assert found.volume is not None and found.source == "volume 3 (doubtful)"
    assert (
        views_of_run(folder, None, 4, partial(density_points, count=20, generator=generator), device=CPU).source
        == "volume 0 (reliable)"
    )


def test_a_run_without_volumes_or_the_volume_asked_for_is_refused(folder: Path, generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="has no volume of that number; it has 8, from 0 to 7"):
        views_of_run(folder, 31, 4, partial(density_points, count=20, generator=generator), device=CPU)
    shutil.rmtree(folder / "volumes")
    with pytest.raises(InputError, match="holds no volumes"):
        views_of_run(folder, None, 4, partial(density_points, count=20, generator=generator), device=CPU)


def test_the_section_says_what_was_found(folder: Path) -> None:
    assert point_section(Blocks({}, {}, {}), folder) is None
    (folder / "points").mkdir()
    curve = {"frequency_per_angstrom": [0.0, 0.1], "fsc": [1.0, 0.2]}
    figures = {
        "fsc_auc": 0.6,
        "resolution_angstrom": 21.94,
        "rmsd_angstrom": 6.31,
        "rmsd_deviation_angstrom": 0.2,
        **curve,
    }
    found = {
        "made_of": "0", "models": 4, "points": 256, "views": [{"image": 2}, {"image": 5}], "volume": "volume 2",
        "spread_angstrom": 6.7,
        "against_volume": {"models": figures, "baseline": figures},
    }  # fmt: skip
    write_json(folder / "points" / "reconstruction.json", found)
    shutil.copy(folder / "volumes" / "volume_0002.mrc", folder / "points" / "density.mrc")
    (folder / "points" / "views.png").write_bytes(b"picture")
    blocks = Blocks({}, {}, {})
    section = point_section(blocks, folder)
    assert section is not None
    assert "2 class averages (2, 5)" in section["words"] and "agree to 21.9 Å" in section["words"]
    assert "differ by 6.7 Å" in section["words"] and "do not tell the hand" in section["words"]
    assert [each["name"] for each in section["fsc"]] == ["models", "fitted without the prior"]
    assert section["density"] in blocks.densities and len(section["pictures"]) == 1


def test_a_run_gets_its_models_and_its_report_shows_them(folder: Path, prior: Path) -> None:
    words = ["--views", "3", "--samples", "2", "--sampling.steps", "4", "--device", "cpu", "--image", "2"]
    assert cli.main(["points", "reconstruct", str(folder), "--prior", str(prior), *words]) == 0
    found = json.loads((folder / "points" / "reconstruction.json").read_text())
    assert found["volume"] == "volume 2 (reliable)" and found["views"][0]["image"] == 2
    density, volume = (read_volume(folder / name).volume for name in ("points/density.mrc", "volumes/volume_0002.mrc"))
    assert (density.side, density.pixel_size_angstrom) == (volume.side, volume.pixel_size_angstrom)
    page = write_report(open_run(folder), CPU).read_text(encoding="utf-8")
    data = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    section = json.loads(data[1])["points"]
    assert section["words"].startswith("2 models of 16 points") and len(section["pictures"]) == 3
    assert len(section["fsc"]) == 2 and section["density"] in json.loads(data[1])["densities"]


def test_volumes_of_another_pixel_size_are_refused(folder: Path, generator: torch.Generator) -> None:
    path = folder / "volumes" / "volume_0001.mrc"
    write_volume(path, Volume(read_volume(path).volume.voxels, 5.5))
    with pytest.raises(InputError, match=r"has voxels of 5\.5 A, the images of the run of 4 A"):
        views_of_run(folder, 1, 4, partial(density_points, count=20, generator=generator), device=CPU)


def test_without_a_prior_nothing_is_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["points", "reconstruct", str(folder), "--prior", str(tmp_path / "none")]) == 2
    assert "no folder of a point-cloud prior" in capsys.readouterr().err
    assert not (folder / "points").exists()
