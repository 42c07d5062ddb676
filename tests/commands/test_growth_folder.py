"""A store on disk: complete or absent, small, and seen by others."""

from pathlib import Path

import pytest
import torch

from scoretomo.commands.growth_folder import GrowthFolder
from scoretomo.datatypes import ImageStack
from scoretomo.ensemble.store import Store
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.runs import RunConfig, open_run, start_run


@pytest.fixture
def store(tmp_path: Path, generator: torch.Generator) -> GrowthFolder:
    images = 10 + torch.randn(5, 16, 16, generator=generator)
    write_images(tmp_path / "averages.mrcs", ImageStack(images * soft_ball(16, 2, 4.0, 2.0), 3.5))
    folder = tmp_path / "run"
    folder.mkdir()
    start_run(
        folder,
        tmp_path / "averages.mrcs",
        RunConfig(budget=1),
        pixel_size_angstrom=None,
        device=torch.device("cpu"),
        preset="default",
    )
    return GrowthFolder(open_run(folder), seed=1)


def test_states_are_seen_by_whoever_sees_the_folder(store: GrowthFolder) -> None:
    assert isinstance(store, Store)
    assert store.share([2, 3]).missing == [2, 3]
    state = {
        "step": torch.tensor(7),
        "generator": torch.zeros(9, dtype=torch.uint8),
        "volumes": torch.zeros(16, 16, 16),
        "base_error": torch.tensor(1.0),
        "score_error": torch.tensor(2.0),
    }
    store.keep(2, state)
    kept = store.kept(2)
    assert kept is not None and kept["step"] == 7 and kept.keys() == state.keys() and store.kept(3) is None
    assert store.share([2, 3]).mine == [2, 3]
    store.put(2, torch.rand(16, 16, 16))
    other = GrowthFolder(store.run, seed=1)
    assert other.kept(2) is None
    assert other.share([2, 3]).mine == [3]
    assert GrowthFolder(store.run, seed=0).share([2, 3]).mine == [2, 3]


def test_volumes_are_written_once_as_volumes(store: GrowthFolder) -> None:
    store.keep(4, {"step": torch.tensor(7)})
    store.put(4, torch.rand(16, 16, 16))
    assert [path.name for path in store.run.volumes.iterdir()] == ["volume_0004_seed1.mrc"]
    assert read_volume(store.run.volume(4, 1)).volume.pixel_size_angstrom == 3.5
    assert not [path for path in store.folder.rglob("*") if path.is_file()]
    assert store.share([3, 4]).missing == [3]


def test_a_part_of_a_tensor_takes_no_more_than_its_own_place(store: GrowthFolder) -> None:
    chunk = torch.zeros(100, 16, 16, 16)
    store.keep(1, {"volumes": chunk[7]})
    (path,) = (path for path in store.folder.rglob("*") if path.is_file())
    assert 4 * 16**3 < path.stat().st_size < 8 * 16**3
