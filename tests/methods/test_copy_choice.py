"""Images of a symmetric core with a part that breaks its symmetry: each is given the copy that the part is seen in."""

import math

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.evaluation.near_symmetry import poses_of_copies, turned
from scoretomo.geometry.rotations import angle_between, from_rotation_vectors, random_rotations
from scoretomo.methods.copy_choice import CopyChoice, CopyChoiceConfig, choose_copies, choose_copies_progressive

SIDE, RADIUS, COUNT, BAND = 24, 10.0, 80, 6
QUICK = CopyChoiceConfig(starts=8, kept=2, iterations=16)


def _turns(order: int) -> Tensor:
    return from_rotation_vectors(torch.tensor([[0.0, 0.0, 2 * math.pi * k / order] for k in range(order)]))


# Rotations about z by quarters, and mirrorings in the planes of the axis: of a core with four equal corners.
GROUP = torch.cat([_turns(4), _turns(4) @ torch.diag(torch.tensor([1.0, -1.0, 1.0]))])
CORE = torch.cat([(_turns(4) @ torch.tensor([0.2, 0.0, -0.08])), torch.tensor([[0.0, 0.0, 0.15]])])


def _image(rotation: Tensor, extent: Tensor) -> Tensor:
    """Project the core and a part that lies in no plane of symmetry and moves outwards."""
    part = torch.tensor([0.13, 0.05, 0.05]) + extent * torch.tensor([0.12, 0.05, 0.06])
    points = torch.cat([CORE, part[None]]) @ rotation.mT
    axis = (torch.arange(SIDE) - SIDE // 2) / SIDE
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1).flatten(0, 1)
    heights = torch.tensor([1.0] * len(CORE) + [0.8])
    return (torch.exp(-torch.cdist(grid, points[:, :2]).square() / (2 * 0.05**2)) @ heights).view(SIDE, SIDE)


@pytest.fixture(scope="module")
def truth() -> tuple[Tensor, Tensor]:
    """Images and their poses."""
    draw = torch.Generator().manual_seed(2)
    rotations, extents = random_rotations(COUNT, generator=draw), torch.rand(COUNT, generator=draw)
    images = torch.stack([_image(*each) for each in zip(rotations, extents, strict=True)])
    return images + 0.05 * images.std() * torch.randn(images.shape, generator=draw), rotations


@pytest.fixture(scope="module")
def rivals(truth: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Poses that are right for the core: a copy of each drawn at random, and all copies of that."""
    images, rotations = truth
    drawn = torch.randint(len(GROUP), (COUNT,), generator=torch.Generator().manual_seed(3))
    known = turned(rotations, GROUP)[torch.arange(COUNT), drawn]
    return poses_of_copies(known, torch.zeros(len(images), 2), (GROUP, torch.zeros(len(GROUP), 3)))


def _choose(truth: tuple[Tensor, Tensor], rivals: tuple[Tensor, Tensor], seed: int = 0) -> CopyChoice:
    return choose_copies(truth[0], *rivals, QUICK, radius=RADIUS, band=BAND, seed=seed)


@pytest.fixture(scope="module")
def chosen(truth: tuple[Tensor, Tensor], rivals: tuple[Tensor, Tensor]) -> CopyChoice:
    return _choose(truth, rivals)


def _in_one_frame(rotations: Tensor, truth: Tensor) -> float:
    """Share of images in the frame in which most are, of all copies of the true one: in one hand for all."""
    copies = turned(truth, GROUP)
    return float((angle_between(copies, rotations[:, None].expand_as(copies)) < 10).float().mean(0).max())


def test_images_come_to_one_frame_and_hand(
    truth: tuple[Tensor, Tensor], rivals: tuple[Tensor, Tensor], chosen: CopyChoice
) -> None:
    assert _in_one_frame(rivals[0][:, 0], truth[1]) < 0.3
    assert _in_one_frame(chosen.rotations, truth[1]) > 0.9


def test_what_is_chosen_is_one_of_the_rivals(rivals: tuple[Tensor, Tensor], chosen: CopyChoice) -> None:
    rows = torch.arange(COUNT)
    assert torch.equal(chosen.rotations, rivals[0][rows, chosen.copy])
    assert torch.equal(chosen.shifts_pixels, rivals[1][rows, chosen.copy])


def test_poses_in_one_frame_already_stay_there(truth: tuple[Tensor, Tensor]) -> None:
    still = poses_of_copies(truth[1], torch.zeros(COUNT, 2), (GROUP, torch.zeros(len(GROUP), 3)))
    assert _in_one_frame(_choose(truth, still).rotations, truth[1]) > 0.95


def test_the_likeliest_start_counts_and_the_seed_decides(
    truth: tuple[Tensor, Tensor], rivals: tuple[Tensor, Tensor], chosen: CopyChoice
) -> None:
    one = CopyChoiceConfig(starts=1, kept=1, iterations=16)
    assert choose_copies(truth[0], *rivals, one, radius=RADIUS, band=BAND, seed=0).cost >= chosen.cost
    assert torch.equal(_choose(truth, rivals).copy, chosen.copy)


def test_steps_tell_how_much_is_done(truth: tuple[Tensor, Tensor], rivals: tuple[Tensor, Tensor]) -> None:
    short = CopyChoiceConfig(components=1, starts=2, first_iterations=2, kept=1, iterations=4, settled=1)
    steps = list(choose_copies_progressive(truth[0], *rivals, short, radius=RADIUS, band=BAND, seed=0))
    done = [step.done for step in steps]
    assert len(steps) == 2 + 2 + 1 and done == sorted(done) and done[-1] == 1  # all starts advance in a step
    assert [step.result is None for step in steps] == [True] * 4 + [False]


def test_temperatures_fall_and_end_in_a_settled_choice() -> None:
    temperatures = CopyChoiceConfig().temperatures()
    assert temperatures[0] == 1.0 and temperatures[-4] == pytest.approx(0.05) and temperatures[-3:] == [0.0] * 3
    assert temperatures == sorted(temperatures, reverse=True) and len(temperatures) == 24


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"starts": 0}, "starts"),
        ({"iterations": 5}, "in order"),
        ({"settled": 20}, "in order"),
        ({"coldest": 2.0}, "temperatures"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CopyChoiceConfig(**wrong)
