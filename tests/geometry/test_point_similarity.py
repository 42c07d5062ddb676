import torch

from scoretomo.geometry.point_clouds import normalise
from scoretomo.geometry.point_similarity import rotation_invariants, similar_groups
from scoretomo.geometry.rotations import random_rotations


def chain(generator: torch.Generator) -> torch.Tensor:
    """A random walk of 256 steps, kept together by a pull to its middle: compact and without symmetry."""
    steps = torch.randn(256, 3, generator=generator)
    place, places = torch.zeros(3), []
    for step in steps:
        place = 0.95 * place + step
        places.append(place)
    return torch.stack(places)


def test_invariants_do_not_see_place_orientation_size_and_order(generator: torch.Generator) -> None:
    points = chain(generator).double()
    rotation = random_rotations(generator=generator).double()
    moved = 3 * points[torch.randperm(256, generator=generator)] @ rotation.T + 20
    torch.testing.assert_close(rotation_invariants(moved), rotation_invariants(points), atol=1e-6, rtol=1e-4)
    bent = points * torch.tensor([1.0, 1.0, 1.3])
    assert (rotation_invariants(bent) - rotation_invariants(points)).abs().max() > 0.05


def test_turned_and_shaken_copies_are_in_one_group_and_strangers_are_not(generator: torch.Generator) -> None:
    shapes = [chain(generator) for _ in range(6)]
    rotations = random_rotations(4, generator=generator)
    # a chain of likeness: the copies of shape 0 are in one group, whatever lies between them in the set
    copies = [shapes[0] @ turn.T + 0.1 * torch.randn(256, 3, generator=generator) for turn in rotations]
    clouds, _, units = normalise(torch.stack([copies[0], *shapes[1:3], *copies[1:3], *shapes[3:], copies[3]]))
    groups = similar_groups(clouds, units)
    of_copies = groups[[0, 3, 4, 8]]
    assert len(of_copies.unique()) == 1
    assert len(groups.unique()) == 6


def test_the_same_shape_in_another_size_is_another_object(generator: torch.Generator) -> None:
    cloud, _, unit = normalise(chain(generator)[None])
    assert similar_groups(cloud.repeat(2, 1, 1), unit.repeat(2)).tolist() == [0, 0]
    assert similar_groups(cloud.repeat(2, 1, 1), unit * torch.tensor([1.0, 1.1])).tolist() == [0, 1]
