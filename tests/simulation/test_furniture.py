from dataclasses import fields

import pytest
import torch
from scipy.ndimage import label

from scoretomo.datatypes import InputError
from scoretomo.geometry.point_clouds import normalise
from scoretomo.simulation.furniture import FurnitureConfig, furniture

KINDS = {"chairs": "chair", "armchairs": "armchair", "tables": "table", "desks": "desk", "stools": "stool"}
KINDS["benches"] = "bench"
NONE = dict.fromkeys(KINDS, 0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_gives_the_same_pieces_however_many_there_are() -> None:
    clouds, kinds = furniture(5, 100, seeded())
    more, more_kinds = furniture(8, 100, seeded())
    assert torch.equal(more[:5], clouds)
    assert more_kinds[:5] == kinds
    assert not torch.equal(furniture(5, 100, seeded(1))[0], clouds)


def test_kinds_are_drawn_as_often_as_asked() -> None:
    _, kinds = furniture(200, 1, seeded(), FurnitureConfig(**{**NONE, "tables": 3.0, "stools": 1.0}))
    assert set(kinds) == {"table", "stool"}
    assert kinds.count("table") == pytest.approx(150, abs=25)
    assert set(KINDS) == {field.name for field in fields(FurnitureConfig)}


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_stand_on_the_floor_in_one_piece_and_have_the_size_of_furniture(kind: str) -> None:
    clouds, kinds = furniture(12, 30000, seeded(), FurnitureConfig(**{**NONE, kind: 1.0}))
    assert set(kinds) == {KINDS[kind]}
    extent = clouds.amax(1) - clouds.amin(1)
    assert (clouds[..., 2].amin(1).abs() < 0.03).all()
    assert (extent > 0.2).all()
    assert (extent < torch.tensor([2.6, 1.5, 1.5])).all()
    for cloud in clouds:
        x, y, z = ((cloud - cloud.amin(0)) / 0.07).long().T
        occupied = torch.zeros(50, 50, 50)
        occupied[x, y, z] = 1
        _, pieces = label(occupied.numpy(), torch.ones(3, 3, 3).numpy())
        assert pieces == 1  # no part floats


def test_left_and_right_are_alike() -> None:
    """Of all but desks with drawers at one side, stools with three legs, and stars of feet."""
    clouds, _ = furniture(5, 3000, seeded(), FurnitureConfig(**{**NONE, "armchairs": 1.0}))
    half, other = clouds[:, ::2], clouds[:, 1::2]
    own = torch.cdist(half, other).amin(2).mean()
    mirrored = torch.cdist(half, other * torch.tensor([-1.0, 1.0, 1.0])).amin(2).mean()
    reversed = torch.cdist(half, other * torch.tensor([1.0, -1.0, 1.0])).amin(2).mean()
    assert mirrored < 1.05 * own
    assert reversed > 1.2 * own


def test_pieces_differ_more_than_the_points_on_them() -> None:
    """A prior has something to learn: another piece is farther away than other points on the same one."""
    clouds = normalise(furniture(20, 512, seeded())[0])[0]
    distance = torch.cdist(clouds[:, None, :256], clouds[None, :, 256:]).amin(3).mean(2)
    own = distance.diagonal().clone()
    others = distance.fill_diagonal_(torch.inf).amin(1)
    assert others.mean() > 1.5 * own.mean()


@pytest.mark.parametrize(("count", "points"), [(0, 10), (10, 0)])
def test_nothing_cannot_be_drawn(count: int, points: int) -> None:
    with pytest.raises(InputError, match=f"not {count} and {points}"):
        furniture(count, points, seeded())


@pytest.mark.parametrize("wrong", [NONE, {"chairs": -1.0}, {"desks": float("nan")}])
def test_frequencies_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="how often each kind"):
        FurnitureConfig(**wrong)
