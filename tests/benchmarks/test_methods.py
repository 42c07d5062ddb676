"""Both methods are compared volume by volume, on what both of them have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError, Poses, Volume
from scoretomo.evaluation.comparison import Comparison
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import write_volume
from scoretomo.io.star import write_particles

_ROOT = Path(__file__).parents[2]
_SIDE = 12


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_ROOT))
    from benchmarks import methods

    return methods


def blobs(index: int) -> torch.Tensor:
    blob = soft_ball(_SIDE, 3, 0.5, 2.0)
    places = [(2, 1 + index % 2, 0), (-2, 0, 2), (0, -3, -index)]
    return torch.stack([blob.roll(place, (0, 1, 2)) for place in places]).sum(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set whose score-based volumes are true but for a little, and whose cryoDRGN2 volumes are noisy."""
    noise = torch.Generator().manual_seed(0)
    for name in ("sim/truth", "run/volumes", "drgn/volumes"):
        (tmp_path / "box_a" / name).mkdir(parents=True)
    (tmp_path / "box_a/sim/images.mrcs").touch()
    for index in range(3):
        truth = blobs(index)
        files = {f"sim/truth/volume_{index:04d}": 0.0, f"run/volumes/volume_{index:04d}": 0.005}
        if index != 1:
            files |= {f"run/volumes/volume_{index:04d}_seed1": 0.005, f"drgn/volumes/volume_{index:04d}": 0.3}
        for file, level in files.items():
            voxels = truth + level * torch.randn(truth.shape, generator=noise)
            write_volume(tmp_path / "box_a" / f"{file}.mrc", Volume(voxels, 4.0))
    return tmp_path / "box_a"


def test_table_and_figure_of_ready_folders(
    methods: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = methods.Settings(folders=(folder,), output=tmp_path / "made", figure=tmp_path / "figure.png")
    rows = list(methods.measure(settings))
    assert [(row["set"], row["method"], row["seed"]) for row in rows] == [
        ("box_a", "score-based tomography", 0),
        ("box_a", "cryoDRGN2", 0),
    ]
    ours, theirs = rows
    assert ours["volumes"] == theirs["volumes"] == 2  # of the images that both have
    assert ours["median_fsc_auc"] > 0.95 > theirs["median_fsc_auc"]
    assert (ours["better_than_the_other"], theirs["better_than_the_other"]) == (1, 0)
    assert ours["gain_over_rigid"] is None  # two truths tell no motion
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    monkeypatch.setattr(methods, "compare_files", None)  # the second time nothing is aligned again
    assert list(methods.measure(settings)) == rows


def test_what_is_missing_is_made_for_the_images_of_the_other_method(
    methods: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "drgn" / "volumes").rename(folder / "drgn" / "elsewhere")
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(methods, "scoretomo", lambda *words: given.append(words))
    settings = methods.Settings(output=tmp_path / "made", drgn="--drgn.least-steps 3")
    places = methods.complete(folder, settings)
    (words,) = given
    assert places["run"] == folder / "run" and places["drgn"] == tmp_path / "made" / "box_a" / "drgn"
    assert words[:4] == ("run", str(folder / "sim" / "images.mrcs"), "--method", "drgn")
    assert words[words.index("--images") + 1 :] == ("0", "1", "2", "--drgn.least-steps", "3")


def test_methods_without_a_volume_in_common_are_refused(methods: Any, folder: Path, tmp_path: Path) -> None:
    for path in (folder / "drgn" / "volumes").iterdir():
        path.rename(path.with_name(path.name.replace(".mrc", "_seed7.mrc")))
    with pytest.raises(InputError, match="no volume of the same image and seed"):
        list(methods.measure(methods.Settings(folders=(folder,), output=tmp_path)))


def test_quartiles_are_those_of_the_seed(methods: Any) -> None:
    keys = [(0, 0), (0, 5), (0, 9), (1, 0), (1, 5), (1, 9)]
    areas = dict(zip(keys, [0.5, 0.7, 0.6, 0.9, 0.8, 0.7], strict=True))
    finest = dict(zip(keys, [3.0, 2.5, np.inf, 2.0, 2.0, 2.0], strict=True))
    gains = dict(zip(keys, [0.1, -0.2, 0.0, 0.3, 0.4, np.nan], strict=True))
    rest = finest, gains, gains, np.zeros((0, 1, 1, 1))
    one = methods.Compared({}, areas, *rest)
    other = methods.Compared({}, dict.fromkeys(keys, 0.65), *rest)
    first, second, third, _ = methods.rows("box_a", {"run": one, "drgn": other})
    assert (first["lower_quartile"], first["median_fsc_auc"], first["upper_quartile"]) == (0.55, 0.6, 0.65)
    assert (first["better_than_the_other"], third["better_than_the_other"]) == (0.333, 0.667)
    assert first["median_resolution_pixels"] == 3.0
    assert (first["gain_over_rigid"], second["own_difference"]) == (0.0, None)  # no number where one is unknown


def test_motion_is_measured_of_three_truths(methods: Any, folder: Path) -> None:
    files = {(0, index): folder / f"run/volumes/volume_{index:04d}.mrc" for index in range(3)}
    truth = [folder / f"sim/truth/volume_{index:04d}.mrc" for index in range(3)]
    poses = folder / "sim/particles.star"
    still = Poses(torch.eye(3).expand(3, 3, 3), torch.zeros(3, 2))
    write_particles(poses, "images.mrcs", still, pixel_size_angstrom=4.0, side=_SIDE)
    aligned = [Comparison(index, 1.0, 2.0, 8.0, False, 1.0, torch.ones(7), blobs(index)) for index in range(3)]
    gains, own_differences = methods._motion(files, truth, poses, aligned)
    assert gains.min() > 0
    assert own_differences.min() > 0.99
    unknown, _ = methods._motion(files, truth[:1] * 3, poses, aligned)
    assert np.isnan(unknown).all()
