import math

import pytest
import torch

from scoretomo.geometry.rotations import about_y, about_z, from_rotation_vectors, random_rotations
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.masks import ball
from scoretomo.simulation.phantoms import box, capsid, icosahedron_vertices, prism_distance, sample, shell_distance

QUARTER = torch.tensor([math.pi / 2])


def core(side: int, rotations: torch.Tensor | None = None) -> torch.Tensor:
    return sample(lambda points, _: prism_distance(points), torch.zeros(1, 0), side, rotations)[0]


@pytest.mark.parametrize("turn", [about_z(QUARTER), about_y(2 * QUARTER), about_z(QUARTER) @ about_y(2 * QUARTER)])
def test_core_of_the_box_has_d4_symmetry(turn: torch.Tensor) -> None:
    torch.testing.assert_close(core(33), core(33, turn), atol=1e-4, rtol=0)


def test_core_of_the_box_is_a_tube_with_four_walls() -> None:
    density, centre = core(65), 32
    assert density[:, centre, centre].max() == 0  # one looks through it along z
    assert (density[centre, centre] > 0.99).any() and (density[centre, :, centre] > 0.99).any()
    assert not torch.allclose(density, core(65, about_y(QUARTER)), atol=0.1)


def test_bottom_of_the_box_mirrors_the_top() -> None:
    volume = box(torch.tensor([[0.4, 2.2]]), 33)[0]
    torch.testing.assert_close(volume, volume.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(volume, volume.flip(1), atol=1e-5, rtol=0)
    assert not torch.allclose(volume, volume.flip(2), atol=0.1)


def test_first_angle_turns_the_lids_at_positive_x() -> None:
    one, both = box(torch.tensor([[2.0, 0.5], [2.0, 2.0]]), 33)
    torch.testing.assert_close(one[:, :, 18:], both[:, :, 18:])
    assert (one - both)[:, :, :16].abs().max() > 0.9


def test_angles_move_nothing_but_the_lids() -> None:
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.3], [2.6, 2.0]])
    below_the_lids = box(angles, 48)[:, 19:30]  # of the core's 22 planes
    assert below_the_lids[0].sum() > 1000
    torch.testing.assert_close(below_the_lids, below_the_lids[:1].expand_as(below_the_lids))


def test_lids_close_the_box_and_open_it() -> None:
    closed, upright, flat = box(torch.deg2rad(torch.tensor([[0.0, 0.0], [90.0, 90.0], [180.0, 180.0]])), 65).sum(1)
    assert closed[32, 30] > 4 and upright[32, 30] == 0 and flat[32, 30] == 0  # seen along z, beside the seam
    assert upright[32, 16] == 0 and flat[32, 16] > 3  # the lids reach beyond the walls


@pytest.mark.parametrize("side", [32, 33, 48])
def test_box_stays_inside_the_support(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    angles = torch.cat([math.pi * torch.rand(10, 2, generator=generator), torch.full((2, 2), math.radians(130))])
    volumes = box(angles, side, random_rotations(12, generator=generator), oversampling=1)
    assert (volumes * (1 - ball(side, 3, side / 2 - 1))).max() == 0
    assert volumes.max() == 1


def test_box_turns_about_index_half_the_side() -> None:
    angles = torch.tensor([[1.0, 1.0]])
    index = torch.arange(48.0) - 24
    for rotation in (torch.eye(3)[None], random_rotations(1, generator=torch.Generator().manual_seed(1))):
        volume = box(angles, 48, rotation)[0]
        for axis in range(3):
            profile = volume.sum([other for other in range(3) if other != axis])
            assert abs((profile * index).sum() / profile.sum()) < 0.02


def test_sampling_converges_to_one_object() -> None:
    angles = torch.tensor([[0.7, 2.0]])
    mass = [box(angles, side).sum() / side**3 for side in (32, 64)]
    assert mass[0] / mass[1] == pytest.approx(1, rel=0.03)


def icosahedral_shell(side: int, rotations: torch.Tensor | None = None) -> torch.Tensor:
    return sample(lambda points, _: shell_distance(points), torch.zeros(1, 0), side, rotations)[0]


def about_vertex(turns: float, vertex: int = 0) -> torch.Tensor:
    return from_rotation_vectors(2 * math.pi * turns * icosahedron_vertices()[vertex])[None]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_core_of_the_capsid_has_the_five_fold_axes_of_its_vertices() -> None:
    core = icosahedral_shell(33)
    torch.testing.assert_close(core, icosahedral_shell(33, about_vertex(1 / 5)), atol=1e-3, rtol=0)
    torch.testing.assert_close(core, icosahedral_shell(33, about_vertex(2 / 5, 7)), atol=1e-3, rtol=0)
    assert correlation(core, icosahedral_shell(33, about_vertex(1 / 10))) < 0.99
    assert core[16, 16, 16] == 0  # hollow


def test_arms_break_the_symmetry_of_the_capsid_until_they_are_open() -> None:
    turn = about_vertex(1 / 5)
    for opening, symmetric in ((0.0, False), (0.5, False), (1.0, True)):
        state = torch.tensor([opening])
        assert (correlation(capsid(state, 33)[0], capsid(state, 33, turn)[0]) > 0.999) == symmetric


def test_opening_moves_the_arms_outwards_and_leaves_the_core() -> None:
    closed, half, wide = capsid(torch.tensor([0.0, 0.5, 1.0]), 48)
    inside = ball(48, 3, 9.0) > 0  # the shell's faces reach 9.5 voxels from the centre
    assert closed[inside].sum() > 100
    torch.testing.assert_close(closed[inside], wide[inside])
    distance = radius_grid(48, 3)
    spread = [(volume * distance).sum() / volume.sum() for volume in (closed, half, wide)]
    assert spread[0] < spread[1] < spread[2]
    assert wide[distance > 17].max() == 1 and closed[distance > 17].max() == 0


def test_arms_stand_on_the_vertices() -> None:
    wide = capsid(torch.tensor([1.0]), 65)[0]
    for x, y, z in (32 + 0.35 * 65 * icosahedron_vertices()).round().int().tolist():
        assert wide[z, y, x] > 0.8


@pytest.mark.parametrize("side", [32, 33])
def test_capsid_stays_inside_the_support(side: int) -> None:
    rotations = random_rotations(5, generator=torch.Generator().manual_seed(0))
    volumes = capsid(torch.linspace(0, 1, 5), side, rotations)
    assert (volumes * (1 - ball(side, 3, side / 2 - 1))).max() == 0
