from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError, PointClouds
from scoretomo.geometry.point_clouds import normalise
from scoretomo.io.point_sets import read_point_set, write_point_set


@pytest.fixture
def clouds(generator: torch.Generator) -> PointClouds:
    points, _, units = normalise(torch.randn(3, 10, 3, generator=generator))
    return PointClouds(points, units, ("a", "b", "ü"), torch.tensor([False, True, False]), handed=True)


def test_a_set_is_read_as_it_was_written(clouds: PointClouds, tmp_path: Path) -> None:
    write_point_set(tmp_path / "set.npz", clouds)
    read = read_point_set(tmp_path / "set.npz")
    assert torch.equal(read.points, clouds.points)
    assert torch.equal(read.units, clouds.units)
    assert torch.equal(read.held_out, clouds.held_out)
    assert (read.names, read.handed) == (clouds.names, clouds.handed)
    assert [file.name for file in tmp_path.iterdir()] == ["set.npz"]


def test_a_set_that_cannot_be_written_leaves_nothing(clouds: PointClouds, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_point_set(tmp_path / "missing" / "set.npz", clouds)


def test_what_is_no_set_is_refused_in_one_line(clouds: PointClouds, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with pytest.raises(InputError, match="no such file"):
        read_point_set(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="not a readable"):
        read_point_set(path)
    np.savez(path, points=np.zeros((2, 3)))
    with pytest.raises(InputError, match="has no units, names, held_out, handed; scoretomo points prepare"):
        read_point_set(path)
    write_point_set(path, clouds)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "names": np.array([{"a": 1}, 2, 3], dtype=object)})
    with pytest.raises(InputError, match="Python objects, which are not read"):
        read_point_set(path)
    for name, wrong in (("points", arrays["points"].astype("<U8")), ("names", np.array("one")), ("handed", np.ones(3))):
        np.savez(path, **{**arrays, name: wrong})
        with pytest.raises(InputError, match=f"its {name} are none of a set of point clouds; scoretomo points prepare"):
            read_point_set(path)
    np.savez(path, **{**arrays, "points": arrays["points"].astype(">f8"), "units": arrays["units"] * 1e300})
    with pytest.raises(InputError, match="beyond single precision"):
        read_point_set(path)
    np.savez(path, **{**arrays, "units": arrays["units"][:2]})
    with pytest.raises(InputError, match=r"set\.npz: 3 point clouds need as many units"):
        read_point_set(path)
