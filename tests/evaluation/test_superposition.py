"""Superposition of unlabelled clouds: whatever the frame, unit, order and hand."""

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.evaluation.point_error import rmsd_to_points
from scoretomo.evaluation.superposition import (
    Superposition,
    SuperpositionConfig,
    _expand,
    _search,
    apply_superposition,
    radius_of_gyration,
    superpose,
)
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))


@pytest.fixture
def trace(generator: torch.Generator) -> torch.Tensor:
    """256 points along a compact chain of steps of 3.8 Angstrom: it has a hand and no symmetry."""
    points = torch.zeros(1, 3)
    while len(points) < 256:
        step = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0) * 3.8
        trial = points[-1] + step - 0.02 * points[-1]
        if torch.cdist(trial[None], points).min() > 3:
            points = torch.cat([points, trial[None]])
    return points + torch.tensor([40.0, -20.0, 110.0])


def disguised(points: torch.Tensor, rotation: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Turned, shrunk, moved, shuffled, with noise in radii of gyration."""
    turned = points @ rotation.mT
    turned = turned + noise * radius_of_gyration(points) * torch.randn(points.shape, generator=generator)
    return 0.02 * turned[torch.randperm(len(points), generator=generator)] + torch.tensor([0.3, 0.1, -0.2])


def test_a_permuted_copy_is_found_exactly_from_any_rotation(trace: torch.Tensor, generator: torch.Generator) -> None:
    for rotation in random_rotations(6, generator=generator):
        copy = disguised(trace, rotation, 0.0, generator)
        found = superpose(copy, trace)
        assert angle_between(found.rotation, rotation.mT) < 0.05
        assert found.scale == pytest.approx(50, rel=1e-4)
        assert found.correlation == pytest.approx(1, abs=1e-3)
        assert (found.mirrored, found.hand_margin) == (False, None)
        assert rmsd_to_points(apply_superposition(copy, found)[None], trace).item() < 0.01


def test_one_start_is_enough_where_nothing_is_alike(trace: torch.Tensor, generator: torch.Generator) -> None:
    only = SuperpositionConfig(kept=(1, 1, 1))
    for rotation in random_rotations(4, generator=generator):
        found = superpose(disguised(trace, rotation, 0.0, generator), trace, config=only)
        assert angle_between(found.rotation, rotation.mT) < 0.05


def test_starts_differ_and_hold_both_placements_of_a_dimer(trace: torch.Tensor) -> None:
    half = (trace[:120] - trace[:120].mean(0) + torch.tensor([15.0, 0.0, 0.0])) / 20
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    dimer = torch.cat([half, half @ turn])
    starts = _search(dimer, dimer, SuperpositionConfig())
    for placement in (torch.eye(3), turn):
        assert angle_between(starts, placement.expand_as(starts)).min() < 15  # the spacing of the grid
    apart = angle_between(starts[:, None].expand(-1, len(starts), 3, 3), starts[None]) + 180 * torch.eye(len(starts))
    assert apart.min() > 22


def test_noise_between_neighbours_is_borne(trace: torch.Tensor, generator: torch.Generator) -> None:
    angles, offsets = [], []
    for rotation in random_rotations(6, generator=generator):
        copy = disguised(trace, rotation, 0.05, generator)
        found = superpose(copy, trace)
        angles.append(angle_between(found.rotation, rotation.mT).item())
        offsets.append((apply_superposition(copy, found).mean(0) - trace.mean(0)).norm() / radius_of_gyration(trace))
    assert sorted(angles)[3] < 1.0
    assert max(angles) < 2.0
    assert max(offsets) < 0.03


def test_clouds_of_different_sizes_and_samplings_meet(trace: torch.Tensor, generator: torch.Generator) -> None:
    # 24 atoms about each point, the copy one of them
    atoms = (trace[:, None] + torch.randn(256, 24, 3, generator=generator)).flatten(0, 1)
    rotation = random_rotations(generator=generator)
    found = superpose(disguised(trace + torch.randn(256, 3, generator=generator), rotation, 0.0, generator), atoms)
    assert angle_between(found.rotation, rotation.mT) < 3
    assert found.scale == pytest.approx(50, rel=0.05)


def test_a_part_that_is_missing_does_not_pull_the_rest_away(trace: torch.Tensor, generator: torch.Generator) -> None:
    rotation = random_rotations(generator=generator)
    copy = trace[26:] @ rotation.mT
    found = superpose(copy, trace)
    moved = apply_superposition(copy, found)
    assert angle_between(found.rotation, rotation.mT) < 6
    # the centres of mass alone would leave it farther away
    centred = copy - copy.mean(0) + (trace.mean(0) @ rotation.mT)
    before = (centred @ rotation - trace[26:]).norm(dim=1).mean()
    assert (moved - trace[26:]).norm(dim=1).mean() < before


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_hand_is_changed_only_when_asked(mirrored: bool, trace: torch.Tensor, generator: torch.Generator) -> None:
    hand = MIRROR if mirrored else torch.eye(3)
    copy = disguised(trace @ hand, random_rotations(generator=generator), 0.02, generator)
    found = superpose(copy, trace, mirror=True)
    assert found.mirrored is mirrored
    assert found.hand_margin is not None and found.hand_margin > 0.1
    assert rmsd_to_points(apply_superposition(copy, found)[None], trace).item() < 1.5
    rigid = superpose(copy, trace)
    assert not rigid.mirrored and torch.linalg.det(rigid.rotation) > 0
    other = found.correlation - found.hand_margin if mirrored else found.correlation
    assert rigid.correlation == pytest.approx(other, abs=1e-5)


def test_a_flat_cloud_has_no_hand(generator: torch.Generator) -> None:
    flat = torch.randn(60, 3, generator=generator) * torch.tensor([3.0, 2.0, 0.0])
    found = superpose(flat @ random_rotations(generator=generator).mT, flat, mirror=True)
    assert found.correlation == pytest.approx(1, abs=1e-3)
    assert found.hand_margin == pytest.approx(0, abs=1e-4)


def test_derivatives_agree_with_differences(trace: torch.Tensor, generator: torch.Generator) -> None:
    reference = (trace - trace.mean(0)).double() / 15
    points = reference[::3] + 0.1
    rotation, translation = random_rotations(1, generator=generator).double(), torch.full((1, 3), 0.05).double()

    def value(step: torch.Tensor) -> torch.Tensor:
        turned = from_rotation_vectors(step[None, :3]) @ rotation
        return _expand(points, reference, turned, translation + step[None, 3:], 0.3)[0][0]

    _, gradient, hessian = _expand(points, reference, rotation, translation, 0.3)
    steps = 1e-3 * torch.eye(6).double()
    slopes = torch.stack([(value(step) - value(-step)) / 2e-3 for step in steps])
    torch.testing.assert_close(gradient[0], slopes, rtol=1e-4, atol=1e-7)
    bends = [
        [(value(one + two) - value(one - two) - value(two - one) + value(-one - two)) / 4e-6 for two in steps]
        for one in steps
    ]
    torch.testing.assert_close(hessian[0], torch.tensor(bends).double(), rtol=1e-3, atol=1e-5)


def test_large_clouds_are_thinned_evenly(trace: torch.Tensor, generator: torch.Generator) -> None:
    rotation = random_rotations(generator=generator)
    found = superpose(trace @ rotation.mT, trace, config=SuperpositionConfig(most_points=100))
    assert angle_between(found.rotation, rotation.mT) < 0.05


def test_points_are_mirrored_then_turned_scaled_and_moved() -> None:
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x towards y
    superposition = Superposition(2.0, quarter, torch.tensor([10.0, 0, 0]), True, 1.0, 0.5)
    moved = apply_superposition(torch.tensor([[1.0, 2.0, 3.0]]), superposition)
    torch.testing.assert_close(moved, torch.tensor([[6.0, 2.0, -6.0]]))


def test_radius_of_gyration() -> None:
    ends = torch.tensor([[[1.0, 5, 5], [3, 5, 5]], [[0.0, 0, 0], [0, 6, 8]]])
    torch.testing.assert_close(radius_of_gyration(ends), torch.tensor([1.0, 5.0]))


def test_what_has_no_size_is_refused(trace: torch.Tensor) -> None:
    for bad in (trace[:0], trace[:1], torch.ones(5, 3)):
        with pytest.raises(InputError, match="one place"):
            superpose(bad, trace)
    with pytest.raises(InputError, match="NaN"):
        superpose(trace, trace * torch.nan)
