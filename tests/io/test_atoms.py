import gzip
import math
from pathlib import Path

import mrcfile
import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.imaging.fourier import centred_fft
from scoretomo.io.atoms import density_of_atoms, part_of, read_atoms, read_model


def atom_line(serial: int, residue: str, element: str, xyz: tuple[float, float, float], occupancy: float = 1.0) -> str:
    x, y, z = xyz
    return (
        f"HETATM{serial:5d}  {element:<3s} {residue} A{serial:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}  0.00          {element:>2s}\n"
    )


TWO_ATOMS = atom_line(1, "UNL", "C", (10.0, 0.0, 0.0)) + atom_line(2, "UNL", "O", (0.0, 20.0, -4.0), 0.5)

# the assembly adds a copy turned by half a turn about z and moved by 30 Angstrom along z
ASSEMBLY = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000       30.00000
"""


def test_coordinates_and_weights_of_a_pdb_file(tmp_path: Path) -> None:
    path = tmp_path / "two.pdb"
    path.write_text(TWO_ATOMS)
    coordinates, weights = read_atoms(path)
    torch.testing.assert_close(coordinates, torch.tensor([[10.0, 0.0, 0.0], [0.0, 20.0, -4.0]]))
    torch.testing.assert_close(weights, torch.tensor([6.0, 4.0]))  # 0.5 of an oxygen


def test_hydrogens_and_waters_are_left_out_and_gz_is_read(tmp_path: Path) -> None:
    path = tmp_path / "four.pdb.gz"
    rest = atom_line(3, "UNL", "H", (1.0, 1.0, 1.0)) + atom_line(4, "HOH", "O", (2.0, 2.0, 2.0))
    path.write_bytes(gzip.compress((TWO_ATOMS + rest).encode()))
    assert len(read_atoms(path)[0]) == 2


def test_assembly_is_built_where_the_file_describes_one(tmp_path: Path) -> None:
    path = tmp_path / "dimer.pdb"
    path.write_text(ASSEMBLY + TWO_ATOMS)
    assert len(read_atoms(path, assembly=False)[0]) == 2
    coordinates, weights = read_atoms(path)
    assert weights.tolist() == [6.0, 4.0, 6.0, 4.0]
    torch.testing.assert_close(coordinates[2:], torch.tensor([[-10.0, 0.0, 30.0], [0.0, -20.0, 26.0]]))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("A:1-1", [True, False, False, False]),
        ("A:-5-1,B:2-9", [True, False, False, True]),
        ("B", [False, False, True, True]),
        (" A:2-2 , B ", [False, True, True, True]),
    ],
)
def test_part_is_chains_or_residues_of_one_copy(tmp_path: Path, part: str, expected: list[bool]) -> None:
    path = tmp_path / "dimer.pdb"
    path.write_text(ASSEMBLY + TWO_ATOMS)
    assert part_of(path, read_model(path), part).tolist() == expected


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("X", "no chain X; its chains are A, B"),
        ("A:7-9", "no chain A with residues 7 to 9"),
        ("A,B", "whole model"),
        ("A:1", "write a chain"),
        ("", "write a chain"),
    ],
)
def test_parts_that_are_none_are_refused(tmp_path: Path, part: str, message: str) -> None:
    path = tmp_path / "dimer.pdb"
    path.write_text(ASSEMBLY + TWO_ATOMS)
    with pytest.raises(InputError, match=message):
        part_of(path, read_model(path), part)


@pytest.mark.parametrize(
    "name, content",
    [
        ("text.cif", b"hello"),
        ("text.pdb", b"hello"),
        ("empty.pdb", b""),
        ("block.cif", b"data_x\n_a.b 1\n"),
        ("broken.pdb.gz", gzip.compress(TWO_ATOMS.encode() * 50)[:60]),
        ("other.json", b"{}"),
        ("map.mrc", bytes(2000)),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name) as raised:
        read_atoms(path)
    assert "\n" not in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pdb"):
        read_atoms(tmp_path / "absent.pdb")


def test_atoms_lie_where_their_coordinates_say() -> None:
    # centre of mass at (1, 2, 3): the atoms are at +-(8, 4, -2) Angstrom from it
    offset = torch.tensor([8.0, 4.0, -2.0])
    coordinates = torch.tensor([1.0, 2.0, 3.0]) + torch.stack([offset, -offset])
    density = density_of_atoms(coordinates, torch.ones(2), 2.0, resolution_angstrom=5.0, side=24).voxels
    peaks = (density > 0.99 * density.max()).nonzero().tolist()
    assert peaks == [[11, 14, 16], [13, 10, 8]]  # [z, y, x] about 12


@pytest.mark.parametrize("pixel_size", [1.0, 3.7])
def test_mass_and_centre_do_not_depend_on_the_sampling(pixel_size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    coordinates = 5 + 10 * torch.randn(20, 3, generator=generator)
    weights = 6 + 2 * torch.rand(20, generator=generator)
    volume = density_of_atoms(coordinates, weights, pixel_size, resolution_angstrom=6.0)
    voxels, index = volume.voxels, torch.arange(volume.side) - volume.side // 2
    assert volume.side % 2 == 0
    assert voxels.sum().item() == pytest.approx(weights.sum().item(), rel=1e-4)
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert abs((voxels.sum(axes) * index).sum() / voxels.sum()) < 0.01


def test_transform_falls_to_one_over_e_at_the_resolution() -> None:
    density = density_of_atoms(torch.zeros(1, 3), torch.ones(1), 1.0, resolution_angstrom=8.0, side=64).voxels
    spectrum = centred_fft(density, 3).real[32, 32]
    voxel = math.sin(math.pi / 8) / (math.pi / 8)  # the mean over a voxel
    assert spectrum[32 + 8].item() == pytest.approx(math.exp(-1) * voxel, rel=0.01)


def test_atoms_that_do_not_fit_are_refused() -> None:
    coordinates = torch.tensor([[-40.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    with pytest.raises(InputError, match="do not fit into 20 voxels of 3 Angstrom: use 32 voxels"):
        density_of_atoms(coordinates, torch.ones(2), 3.0, resolution_angstrom=6.0, side=20)
    with pytest.raises(InputError, match="resolution"):
        density_of_atoms(coordinates, torch.ones(2), 3.0, resolution_angstrom=0.0)


def test_an_atom_astray_makes_no_map_beyond_all_measure() -> None:
    coordinates = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 9999.0]])
    with pytest.raises(InputError, match=r"reach 5000 Angstrom .* more than 1024: is one astray\?"):
        density_of_atoms(coordinates, torch.ones(2), 3.0, resolution_angstrom=9.0)


def test_model_of_beta_galactosidase_is_as_large_as_its_map(data: Path) -> None:
    coordinates, weights = read_atoms(data / "atoms" / "5a1a.cif.gz")
    model = density_of_atoms(coordinates, weights, 3.54, resolution_angstrom=10.0, side=100).voxels
    with mrcfile.open(data / "volumes" / "betagal_100px_3.54A.mrc") as mrc:
        measured = torch.from_numpy(mrc.data.copy())

    def semi_axes(density: torch.Tensor) -> torch.Tensor:
        mass = density * (density > 0.1 * density.max())
        points = mass.nonzero().float()
        covariance = torch.cov(points.T, aweights=mass[mass > 0])
        return torch.linalg.eigvalsh(covariance).sqrt()

    torch.testing.assert_close(semi_axes(model), semi_axes(measured), rtol=0.05, atol=0)
