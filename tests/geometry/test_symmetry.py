"""Point groups: closed, of the right order, with the axes where RELION has them."""

import math

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import about_z, from_rotation_vectors
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.simulation.phantoms import icosahedron_vertices

ORDERS = {"C1": 1, "C2": 2, "C10": 10, "D2": 4, "D7": 14, "D12": 24, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60}
GOLDEN = (1 + math.sqrt(5)) / 2


def contains(group: torch.Tensor, order: int, axis: tuple[float, float, float]) -> bool:
    direction = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float32), dim=0)
    wanted = from_rotation_vectors(direction * 2 * math.pi / order)
    return bool((group - wanted).abs().amax((1, 2)).min() < 1e-5)


@pytest.mark.parametrize("name", ORDERS)
def test_a_group_is_closed_and_has_its_order(name: str) -> None:
    group = symmetry_group(name)
    assert len(group) == ORDERS[name]
    assert group.dtype == torch.float32
    torch.testing.assert_close(group[0], torch.eye(3))
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(len(group)))
    products = (group[:, None] @ group).flatten(0, 1)
    distances = (products[:, None] - group).abs().amax((2, 3))
    assert distances.min(1).values.max() < 1e-5
    # each product is one element only: no element is there twice
    assert ((distances < 1e-3).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("name", "order", "axis"),
    [
        ("C6", 6, (0, 0, 1)),
        ("D7", 7, (0, 0, 1)),
        ("D7", 2, (1, 0, 0)),
        ("D2", 2, (0, 1, 0)),
        ("T", 3, (0, 0, 1)),
        ("T", 2, (0, 0.816496, 0.577350)),
        ("O", 4, (0, 0, 1)),
        ("O", 3, (1, 1, 1)),
        ("I1", 2, (1, 0, 0)),
        ("I1", 5, (0.850651, 0, -0.525731)),
        ("I1", 3, (0.934172, 0.356822, 0)),
        ("I2", 2, (0, 0, 1)),
        ("I2", 5, (0.525731, 0, 0.850651)),
        ("I2", 3, (0, 0.356822, 0.934172)),
    ],
)
def test_axes_are_those_of_relion(name: str, order: int, axis: tuple[float, float, float]) -> None:
    assert contains(symmetry_group(name), order, axis)


def test_icosahedral_settings_differ_by_a_quarter_turn_about_z() -> None:
    first, second = symmetry_group("I1"), symmetry_group("I2")
    quarter = about_z(torch.tensor(math.pi / 2))
    turned = quarter @ first @ quarter.mT
    assert (turned[:, None] - second).abs().amax((2, 3)).min(1).values.max() < 1e-5
    assert not contains(first, 5, (1, 0, GOLDEN))
    torch.testing.assert_close(symmetry_group("I"), second)


def test_i1_is_the_orientation_of_the_capsid_phantom() -> None:
    vertices = icosahedron_vertices()
    moved = (symmetry_group("I1") @ vertices.T).mT  # (60, 12, 3)
    assert torch.cdist(moved, vertices.expand(60, -1, -1)).min(2).values.max() < 1e-5


def test_case_does_not_matter() -> None:
    torch.testing.assert_close(symmetry_group("d7"), symmetry_group("D7"))
    torch.testing.assert_close(symmetry_group("i1"), symmetry_group("I1"))


@pytest.mark.parametrize(
    "name", ["", "C0", "C", "D1", "D", "C-2", "C07", "C100", "I5", "X", "C2v", " C2", "C2\n", "D1٣", "ı"]
)
def test_anything_else_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="is no point group; give C1") as refused:
        symmetry_group(name)
    assert "\n" not in str(refused.value)
