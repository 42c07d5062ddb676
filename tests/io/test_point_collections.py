import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.point_collections import open_collection, read_member

ATOM = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00           C\n"


def model(*atoms: tuple[float, float, float]) -> str:
    return "".join(ATOM.format(index, *xyz) for index, xyz in enumerate(atoms, 1))


def write_traces(path: Path, **other: np.ndarray) -> Path:
    arrays = {"ids": np.array(["1ABC", "2ABC"]), "offsets": np.array([0, 2, 5]), "xyz": np.arange(15.0).reshape(5, 3)}
    np.savez(path, **{**arrays, **other})
    return path


def write_pc15k(root: Path) -> Path:
    """Four shapes, named and filled by their number."""
    for number, (synset, split) in enumerate([("03", "val"), ("03", "train"), ("04", "test"), ("04", "train")]):
        folder = root / synset / split
        folder.mkdir(parents=True)
        np.save(folder / f"it{number}.npy", np.full((15, 3), number, np.float32))
    return root


def write_geometric(root: Path) -> Path:
    lists = root / "raw" / "train_test_split"
    lists.mkdir(parents=True)
    for number, (split, synset) in enumerate([("train", "03"), ("val", "03"), ("test", "04")]):
        (root / "raw" / synset).mkdir(exist_ok=True)
        np.savetxt(root / "raw" / synset / f"it{number}.txt", np.full((9, 7), number))
        (lists / f"shuffled_{split}_file_list.json").write_text(json.dumps([f"shape_data/{synset}/it{number}"]))
    return root


def test_atomic_models_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "2abc.pdb").write_text(model((1, 2, 3), (4, 5, 6)))
    (tmp_path / "1abc.pdb.gz").write_bytes(gzip.compress(model((7, 8, 9)).encode()))
    (tmp_path / "notes.txt").write_text("nothing")
    found = open_collection(tmp_path)
    assert (found.names, found.held_out, found.handed) == (("1abc", "2abc"), None, True)
    torch.testing.assert_close(found.read(1).points, torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert open_collection(tmp_path / "2abc.pdb").names == ("2abc",)
    (tmp_path / "2abc.ent").write_text(model((1, 2, 3)))
    assert open_collection(tmp_path).names == ("1abc.pdb.gz", "2abc.ent", "2abc.pdb")


def test_a_model_without_atoms_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "none.pdb").write_text("REMARK nothing\n")
    with pytest.raises(InputError, match=r"none\.pdb: no atoms found"):
        open_collection(tmp_path).read(0)


def test_traces(tmp_path: Path) -> None:
    found = open_collection(write_traces(tmp_path / "traces.npz"))
    assert (found.names, found.held_out, found.handed) == (("1ABC", "2ABC"), None, True)
    torch.testing.assert_close(found.read(1).points, torch.arange(6.0, 15).view(3, 3))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"xyz": np.zeros((5, 2))}, r"xyz \(n, 3\) are needed"),
        ({"offsets": np.array([0, 2, 6])}, "offsets must rise from 0 to the number of points, 5"),
        ({"offsets": np.array([0, 5, 5])}, "offsets must rise"),
        ({"ids": np.array(["A", "A"])}, "occur twice"),
    ],
)
def test_traces_that_do_not_fit_together(other: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        open_collection(write_traces(tmp_path / "traces.npz", **other))


def test_pc15k_keeps_its_splits_and_the_test_part_comes_before_val(tmp_path: Path) -> None:
    found = open_collection(write_pc15k(tmp_path))
    assert found.names == ("03/it1", "04/it3", "04/it2", "03/it0")
    assert found.held_out == (False, False, True, True)
    assert not found.handed
    assert [found.read(index).points[0, 0].item() for index in range(4)] == [1, 3, 2, 0]
    assert open_collection(tmp_path / "03").names == ("03/it1", "03/it0")


def test_pytorch_geometric_keeps_its_splits(tmp_path: Path) -> None:
    found = open_collection(write_geometric(tmp_path))
    assert found.names == ("03/it0", "04/it2", "03/it1")
    assert found.held_out == (False, True, True)
    assert found.read(1).points.shape == (9, 3)
    assert open_collection(tmp_path / "raw").names == found.names
    assert open_collection(tmp_path / "raw" / "03").names == ("03/it0", "03/it1")


def test_wrong_arrays_of_shapenet_are_named(tmp_path: Path) -> None:
    np.save(write_pc15k(tmp_path / "a") / "03" / "train" / "it1.npy", np.zeros((15, 2)))
    with pytest.raises(InputError, match=r"it1\.npy: an array of numbers \(n, 3\) is needed, not \(15, 2\)"):
        open_collection(tmp_path / "a").read(0)
    root = write_geometric(tmp_path / "b")
    (root / "raw" / "03" / "it0.txt").write_text("1 2 three")
    with pytest.raises(InputError, match=r"it0\.txt: not a readable table"):
        open_collection(root).read(0)
    (root / "raw" / "train_test_split" / "shuffled_val_file_list.json").write_text("[1")
    with pytest.raises(InputError, match=r"shuffled_val_file_list\.json: not a readable list"):
        open_collection(root)


def test_nothing_recognised_says_what_could_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_collection(tmp_path / "missing")
    with pytest.raises(InputError, match="the folder is empty; give a folder of"):
        open_collection(tmp_path)
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed" / "cha_train.pt").touch()
    with pytest.raises(InputError, match="are pickled and not read"):
        open_collection(tmp_path)
    (tmp_path / "map.mrc").touch()
    with pytest.raises(InputError, match="no collection of point clouds"):
        open_collection(tmp_path / "map.mrc")


@pytest.mark.parametrize("name", ["1", "2ABC"])
def test_one_of_many_by_number_or_name(tmp_path: Path, name: str) -> None:
    cloud = read_member(write_traces(tmp_path / "traces.npz"), name)
    assert torch.equal(cloud.points, torch.arange(6.0, 15.0).view(3, 3))


@pytest.mark.parametrize("name", ["2", "-1", "3ABC", ""])
def test_one_that_is_not_there_is_refused_with_how_to_name_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"traces\.npz: has no .*name one, as in traces\.npz:1, of 0 to 1"):
        read_member(write_traces(tmp_path / "traces.npz"), name)
