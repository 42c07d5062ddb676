"""Several models in a file: copies side by side all count, states on one another are one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.atoms import part_of, read_model, read_models


def records(points: torch.Tensor, chain: str = "A") -> str:
    line = "ATOM  {:5d}  CA  GLY {}{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C\n"
    return "".join(line.format(index, chain, index, *xyz) for index, xyz in enumerate(points.tolist(), 1))


def with_models(bodies: list[str]) -> str:
    return "".join(f"MODEL     {k:4d}\n{body}ENDMDL\n" for k, body in enumerate(bodies, 1)) + "END\n"


def with_ends(bodies: list[str]) -> str:
    """As molecular dynamics programs write the frames of a trajectory."""
    return "".join(f"{body}END\n" for body in bodies)


def with_one_number(bodies: list[str]) -> str:
    """As files look that were joined end to end."""
    return "".join(f"MODEL        1\n{body}ENDMDL\nEND\n" for body in bodies)


def without_endmdl(bodies: list[str]) -> str:
    return "".join(f"MODEL     {k:4d}\n{body}" for k, body in enumerate(bodies, 1))


def as_mmcif(bodies: list[str]) -> str:
    tags = ("id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id", "label_seq_id")
    head = [*tags, "Cartn_x", "Cartn_y", "Cartn_z", "pdbx_PDB_model_num"]
    rows = [
        f"{line[6:11]} C CA . GLY {line[21]} {line[22:26]} {line[30:38]} {line[38:46]} {line[46:54]} {k}"
        for k, body in enumerate(bodies, 1)
        for line in body.splitlines()
    ]
    return "\n".join(["data_x", "loop_", *(f"_atom_site.{tag}" for tag in head), *rows, ""])


LAYOUTS = [with_models, with_ends, with_one_number, without_endmdl, as_mmcif]


@pytest.fixture
def chain_of_atoms(generator: torch.Generator) -> torch.Tensor:
    """A compact chain of 60 atoms, 3.8 Angstrom from one to the next."""
    steps = torch.randn(60, 3, generator=generator)
    walk = (3.8 * steps / steps.norm(dim=1, keepdim=True)).cumsum(0)
    return walk - walk.mean(0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_side_by_side_are_an_assembly(
    layout: Callable[[list[str]], str], chain_of_atoms: torch.Tensor, tmp_path: Path
) -> None:
    copies = [chain_of_atoms + torch.tensor([70.0 * k, 0, 0]) for k in range(3)]
    path = tmp_path / "copies.pdb1"
    path.write_text(layout([records(each) for each in copies]))
    model = read_model(path)
    assert model.notes == ("its 3 models lie apart, as the copies of an assembly do; all of them count",)
    torch.testing.assert_close(model.coordinates, torch.cat(copies), atol=1e-3, rtol=0)
    torch.testing.assert_close(read_model(path, models="first").coordinates, copies[0], atol=1e-3, rtol=0)
    assert len(read_models(path)) == 1 and len(read_models(path, each=True)) == 3
    assert part_of(path, model, "B").nonzero().flatten().tolist() == list(
        range(60, 120)
    )  # chains have names of their own


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_on_one_another_are_one_model(
    layout: Callable[[list[str]], str], chain_of_atoms: torch.Tensor, tmp_path: Path, generator: torch.Generator
) -> None:
    states = [chain_of_atoms + 1.5 * torch.randn(60, 3, generator=generator) for _ in range(4)]
    path = tmp_path / "states.ent"
    path.write_text(layout([records(each) for each in states]))
    model = read_model(path)
    assert model.notes == ("its 4 models lie on one another, as an ensemble or a trajectory does; the first counts",)
    torch.testing.assert_close(model.coordinates, states[0], atol=1e-3, rtol=0)
    assert len(read_model(path, models="all").weights) == 240
    assert [len(each.weights) for each in read_models(path)] == [60] * 4


def test_models_that_lie_halfway_are_asked_about(tmp_path: Path) -> None:
    """Two rods that cross."""
    rod = 4 * torch.cartesian_prod(torch.arange(20.0) - 9.5, torch.arange(2.0), torch.arange(2.0))
    path = tmp_path / "crossed.pdb"
    path.write_text(with_models([records(rod), records(rod[:, [1, 0, 2]] + 1)]))
    with pytest.raises(InputError, match=r"crossed\.pdb: its 2 models .* --models all or --models first"):
        read_model(path)
    assert len(read_model(path, models="all").weights) == 160
    assert len(read_model(path, models="first").weights) == 80
    assert len(read_models(path)) == 2


def test_single_atoms_cannot_tell(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(with_models([records(torch.full((1, 3), 50.0 * k)) for k in range(3)]))
    with pytest.raises(InputError, match="--models"):
        read_model(tmp_path / "a.pdb")


def test_an_assembly_of_models_is_not_built_again(chain_of_atoms: torch.Tensor, tmp_path: Path) -> None:
    head = "REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: A\n"
    for number, shift in ((1, 0.0), (2, 70.0)):
        for row, entries in enumerate(torch.eye(3).tolist(), 1):
            numbers = "".join(f"{entry:10.6f}" for entry in entries)
            head += f"REMARK 350   BIOMT{row}   {number}{numbers}     {shift if row == 1 else 0:10.5f}\n"
    copies = [records(chain_of_atoms + torch.tensor([shift, 0, 0])) for shift in (0.0, 70.0)]
    (tmp_path / "built.pdb1").write_text(head + with_models(copies))
    (tmp_path / "one.pdb").write_text(head + copies[0])
    built, one = (read_model(tmp_path / name) for name in ("built.pdb1", "one.pdb"))
    assert len(built.weights) == 120
    torch.testing.assert_close(built.coordinates, one.coordinates, atol=2e-3, rtol=0)
    assert len(read_model(tmp_path / "built.pdb1", models="first").weights) == 120


def test_chains_of_a_real_assembly_lie_apart(data: Path, tmp_path: Path) -> None:
    model = read_model(data / "atoms" / "3j9i.pdb.gz")
    chains = [model.coordinates[model.chains == index] for index in range(4)]
    path = tmp_path / "four.pdb1"
    path.write_text(with_models([records(each) for each in chains]))
    assert len(read_model(path).weights) == sum(map(len, chains))
