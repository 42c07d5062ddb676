"""Point clouds in files: what is written is read back, and what cannot be read is said in a line."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError, PointClouds
from scoretomo.io.atoms import read_atoms
from scoretomo.io.point_files import is_atomic, is_point_file, read_point_clouds, read_points, write_pseudo_atoms
from scoretomo.io.point_sets import write_point_set


@pytest.fixture
def points(generator: torch.Generator) -> torch.Tensor:
    return 100 * torch.randn(2, 30, 3, generator=generator)


def test_pseudo_atoms_are_read_back_model_by_model(points: torch.Tensor, tmp_path: Path) -> None:
    write_pseudo_atoms(tmp_path / "models.pdb", points)
    clouds = read_point_clouds(tmp_path / "models.pdb").clouds
    assert list(clouds) == ["models.pdb:0", "models.pdb:1"]
    for cloud, original in zip(clouds.values(), points, strict=True):
        torch.testing.assert_close(cloud, original, atol=6e-4, rtol=0)
    torch.testing.assert_close(read_points(tmp_path / "models.pdb:1").points, points[1], atol=6e-4, rtol=0)
    write_pseudo_atoms(tmp_path / "one.pdb", points[0])
    torch.testing.assert_close(read_points(tmp_path / "one.pdb").points, points[0], atol=6e-4, rtol=0)


def test_pseudo_atoms_carry_their_spread_and_no_bonds(points: torch.Tensor, tmp_path: Path) -> None:
    spread = torch.linspace(0, 999.99, 30)
    write_pseudo_atoms(tmp_path / "model.pdb", points[0], spread)
    (model,) = gemmi.read_structure(str(tmp_path / "model.pdb"))
    sites = list(model.all())
    factors = [site.atom.b_iso for site in sites]
    assert factors == pytest.approx(spread.tolist(), abs=6e-3)
    assert {(site.atom.name, site.atom.element.name, site.residue.name, site.residue.het_flag) for site in sites} == {
        ("CA", "C", "UNL", "H")
    }
    assert len({site.residue.seqid.num for site in sites}) == 30
    assert "CONECT" not in (tmp_path / "model.pdb").read_text()


def test_more_points_than_residues_of_a_chain(tmp_path: Path, generator: torch.Generator) -> None:
    points = torch.rand(10001, 3, generator=generator)
    write_pseudo_atoms(tmp_path / "model.pdb", points)
    lines = [line for line in (tmp_path / "model.pdb").read_text().splitlines() if line.startswith("HETATM")]
    assert [line[21:26] for line in lines[9997:]] == ["A9998", "A9999", "B   1", "B   2"]
    torch.testing.assert_close(read_points(tmp_path / "model.pdb").points, points, atol=6e-4, rtol=0)


@pytest.mark.parametrize("worst", [-1000.0, 10000.0, float("nan"), float("inf")])
def test_coordinates_beyond_the_columns_are_refused(worst: float, points: torch.Tensor, tmp_path: Path) -> None:
    points[1, 3, 2] = worst
    with pytest.raises(InputError, match=r"-1000 to 10000 Angstrom.*centre the points") as error:
        write_pseudo_atoms(tmp_path / "model.pdb", points)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_extremes_of_the_columns_are_written(tmp_path: Path) -> None:
    points = torch.tensor([[-999.99, 0, 9999.99], [9999.99, -999.99, 1]])
    write_pseudo_atoms(tmp_path / "model.pdb", points, torch.tensor([0.0, 999.99]))
    torch.testing.assert_close(read_points(tmp_path / "model.pdb").points, points, atol=1e-3, rtol=0)


def test_spreads_and_numbers_that_do_not_fit_are_refused(points: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"spreads from 0 to 999\.99 Angstrom, not 1000"):
        write_pseudo_atoms(tmp_path / "model.pdb", points, torch.full((30,), 1000.0))
    with pytest.raises(InputError, match="1 to"):
        write_pseudo_atoms(tmp_path / "model.pdb", points[:, :0])
    with pytest.raises(InputError, match="cannot write"):
        write_pseudo_atoms(tmp_path / "nowhere" / "model.pdb", points)


def test_arrays_and_tables_are_read(points: torch.Tensor, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", points[0].double().numpy())
    torch.testing.assert_close(read_points(tmp_path / "one.npy").points, points[0])
    np.save(tmp_path / "two.npy", points.numpy())
    assert list(read_point_clouds(tmp_path / "two.npy").clouds) == ["two.npy:0", "two.npy:1"]
    rows = [f"{x},{y},{z}" for x, y, z in points[0].tolist()]
    (tmp_path / "one.csv").write_text("\n".join(["x,y,z", *rows]))
    torch.testing.assert_close(read_points(tmp_path / "one.csv").points, points[0])
    rows = [f"C {x} {y} {z} 0.5" for x, y, z in points[0].tolist()]
    (tmp_path / "one.xyz").write_text("\n".join(["30", "a comment", *rows, ""]))
    torch.testing.assert_close(read_points(tmp_path / "one.xyz").points, points[0])


def test_clouds_of_a_set_come_in_the_unit_of_their_source(points: torch.Tensor, tmp_path: Path) -> None:
    centred = points - points.mean(1, keepdim=True)
    units = centred.abs().amax((1, 2))
    nothing = torch.zeros(2, dtype=torch.bool)
    clouds = PointClouds(centred / units[:, None, None], units, ("7ABC", "8XYZ"), nothing, handed=True)
    write_point_set(tmp_path / "set.npz", clouds)
    assert list(read_point_clouds(tmp_path / "set.npz").clouds) == ["set.npz:7ABC", "set.npz:8XYZ"]
    torch.testing.assert_close(read_points(tmp_path / "set.npz:8XYZ").points, centred[1])
    with pytest.raises(InputError, match=r"2 clouds, of which one must be named.*7ABC"):
        read_points(tmp_path / "set.npz")
    with pytest.raises(InputError, match="no cloud '9DEF'"):
        read_points(tmp_path / "set.npz:9DEF")


def test_models_of_an_atomic_file_by_number_or_together(points: torch.Tensor, tmp_path: Path) -> None:
    write_pseudo_atoms(tmp_path / "copies.pdb1", torch.stack([points[0] / 4, points[0] / 4 + 200]))
    whole = read_points(tmp_path / "copies.pdb1")
    assert len(whole.points) == 60 and whole.atomic and "lie apart" in whole.notes[0]
    torch.testing.assert_close(read_points(tmp_path / "copies.pdb1:0").points, points[0] / 4, atol=6e-4, rtol=0)
    write_pseudo_atoms(tmp_path / "states.pdb", points)
    assert len(read_points(tmp_path / "states.pdb:all").points) == 60
    with pytest.raises(InputError, match=r"2 clouds, of which one must be named.* or states\.pdb:all for all of them"):
        read_points(tmp_path / "states.pdb")


def test_of_alternate_conformers_one_is_a_point(tmp_path: Path) -> None:
    line = "ATOM  {0:5d}  CB {1}ALA A   1    {0:8.3f}   2.000   3.000{2:6.2f}  0.00           C\n"
    (tmp_path / "a.pdb").write_text(line.format(1, "A", 0.3) + line.format(2, "B", 0.7) + line.format(3, " ", 1))
    assert read_points(tmp_path / "a.pdb").points[:, 0].tolist() == [2, 3]


def test_atoms_of_a_real_model_are_those_of_its_assembly(data: Path) -> None:
    path = data / "atoms" / "5a1a.cif.gz"
    assert is_atomic(path)
    torch.testing.assert_close(read_points(path).points, read_atoms(path)[0])


def test_names_of_files_say_what_is_read() -> None:
    names = ("a.pdb", "a.PDB.gz", "a.cif", "a.ent", "a.mmcif.gz", "a.pdb1", "a.pdb12.gz")
    assert all(is_atomic(Path(name)) and is_point_file(Path(name)) for name in names)
    assert not any(is_atomic(Path(name)) for name in ("a.npy", "a.npz", "a.pdb.txt", "pdb", "a.bcif"))
    assert [is_point_file(Path(name)) for name in ("a.npy", "a.xyz", "a.mrc", "a")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"no array", "cannot be read as a NumPy array: it does not begin"),
        ("a.npz", b"no archive", "not a readable .npz"),
        ("a.pdb", b"HEADER only\n", "no atoms"),
        ("a.xyz", b"3\n\nC 0 0 0\n", "announces 3 points and has 1"),
        ("a.xyz", b"C 0 0 0\n", "not a readable .xyz"),
        ("a.xyz", b"2\n\nC 0 0 0\nC 0 0\n", "not a readable .xyz"),
        ("a.csv", b"x,y\n1,2\n", "no column z"),
        ("a.csv", b"x,y,z\n1,2,three\n", "must be numbers"),
        ("a.csv", b"x,y,z\n", "points must be"),
        ("a.csv", b"x,y,z\n1,nan,2\n", "NaN or infinite"),
        ("a.mrc", b"", "points are read from .pdb"),
    ],
)
def test_files_that_hold_no_points_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_points(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_of_other_shapes_and_missing_files_are_named(tmp_path: Path) -> None:
    for wrong in (np.zeros((4, 2)), np.zeros(3), np.zeros((2, 0, 3)), np.zeros((1, 2, 4, 3))):
        np.save(tmp_path / "a.npy", wrong)
        with pytest.raises(InputError, match=r"\(n, 3\) or \(clouds, n, 3\), not"):
            read_points(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([["x", "y", "z"]]))
    with pytest.raises(InputError, match="must be numbers, not str32"):
        read_points(tmp_path / "a.npy")
    with pytest.raises(InputError, match="no such file"):
        read_points(tmp_path / "b.npy")
