"""Point groups are found without being told, in any frame and in noise, and none is claimed where there is none."""

from pathlib import Path

import mrcfile
import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.symmetry import Symmetry, find_symmetry
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.fourier import resize, translate
from scoretomo.imaging.resampling import symmetrise
from scoretomo.simulation.phantoms import box, capsid


def spots(side: int, group: str, frame: Tensor, generator: torch.Generator, count: int = 5) -> Tensor:
    """Gaussians at random places and their images under the rotations of a group in a frame."""
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    own = directions * (0.12 + 0.2 * torch.rand(count, 1, generator=generator))
    rotations = frame @ symmetry_group(group) @ frame.mT
    centres = (rotations @ own.T).mT.flatten(0, 1)
    axis = (torch.arange(side) - side // 2) / side
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).view(-1, 3)
    return torch.exp(-(torch.cdist(points, centres) ** 2) / (2 * 0.035**2)).sum(1).view(side, side, side)


def furthest(found: Symmetry, rotations: Tensor) -> float:
    """Largest distance in degrees of a found rotation from the nearest true one."""
    pairs = found.rotations[:, None].expand(-1, len(rotations), -1, -1)
    return float(angle_between(pairs, rotations.expand_as(pairs)).min(1).values.max())


@pytest.mark.parametrize("group", ["C6", "D3", "T", "O"])
def test_group_frame_and_centre_are_found(group: str, generator: torch.Generator) -> None:
    frame = random_rotations(1, generator=generator)[0]
    volume = spots(28, group, frame, generator)
    volume = translate(volume[None], torch.tensor([[1.3, -0.7, 0.6]]))[0]
    found = find_symmetry(volume)
    assert found.group == group
    assert len(found.correlations) == len(symmetry_group(group))
    assert furthest(found, frame @ symmetry_group(group) @ frame.mT) < 2
    if group[0] in "DTO":  # a group with one axis leaves the place along it open
        assert (found.centre_pixels - torch.tensor([1.3, -0.7, 0.6])).norm() < 0.3
    assert found.margin > 0.05
    assert group in found.words


def test_icosahedron_with_noise(generator: torch.Generator) -> None:
    frame = random_rotations(1, generator=generator)
    volume = capsid(torch.ones(1), 28, frame)[0]
    found = find_symmetry(volume + volume.std() * torch.randn(volume.shape, generator=generator))
    assert found.group == "I"
    assert furthest(found, frame[0] @ symmetry_group("I1") @ frame[0].mT) < 2
    assert [order for order, _ in found.axes] == [5] * 6 + [3] * 10 + [2] * 15
    assert found.mirror_correlation > 0.8  # the shell has no hand


@pytest.mark.parametrize(("lids", "group"), [((0.0, 0.0), "D4"), ((1.5, 1.5), "D2"), ((0.3, 2.5), "C2")])
def test_lids_decide_the_group_of_the_box(lids: tuple[float, float], group: str, generator: torch.Generator) -> None:
    volume = box(torch.tensor([lids]), 28, random_rotations(1, generator=generator))[0]
    found = find_symmetry(volume)
    assert found.group == group
    assert found.mirror_correlation > 0.95


def test_noise_and_balls_have_no_symmetry(generator: torch.Generator) -> None:
    assert find_symmetry(torch.randn(24, 24, 24, generator=generator)).group == "C1"
    axis = torch.arange(24) - 12
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    ball = torch.exp(-(x**2 + y**2 + z**2) / 30)
    assert find_symmetry(ball + 0.02 * torch.randn(ball.shape, generator=generator)).group == "C1"
    assert find_symmetry(torch.zeros(24, 24, 24)).group == "C1"


def test_a_cylinder_has_no_order(generator: torch.Generator) -> None:
    axis = torch.arange(28) - 14
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    ring = torch.exp(-(((x**2 + y**2).sqrt() - 7) ** 2) / 4 - (z + 0.5 * (x**2 + y**2).sqrt()) ** 2 / 8)
    assert find_symmetry(ring).group == "C1"


def test_poor_shells_lower_what_is_asked_for_but_few_shells_are_no_proof(generator: torch.Generator) -> None:
    volume = spots(28, "D2", torch.eye(3), generator)
    noisy = volume + 2 * volume.std() * torch.randn(volume.shape, generator=generator)
    assert find_symmetry(noisy).group == "D2"
    none = find_symmetry(volume, quality=(torch.arange(15) < 4).float())
    assert none.group == "C1"
    assert not none.resolved


@pytest.mark.parametrize(("name", "group"), [("betagal_100px_3.54A", "D2"), ("3j9i_5A", "D7"), ("4v7r_5A", "C1")])
def test_maps(name: str, group: str, data: Path) -> None:
    voxels = torch.from_numpy(mrcfile.read(data / "volumes" / f"{name}.mrc").copy())
    assert find_symmetry(resize(voxels / voxels.std(), 40, 3)).group == group


def test_a_protomer_of_a_map_put_about_an_axis(data: Path) -> None:
    """The p97 map is an asymmetric unit: it has no symmetry until it is repeated about an axis beside it."""
    voxels = torch.from_numpy(mrcfile.read(data / "volumes" / "3cf3_5A.mrc").copy())
    voxels = resize(voxels / voxels.std(), 40, 3)
    assert find_symmetry(voxels).group == "C1"
    beside = translate(voxels[None], torch.tensor([[9.0, 0.0, 0.0]]))[0]
    assert find_symmetry(symmetrise(beside, symmetry_group("C6"))).group == "C6"
