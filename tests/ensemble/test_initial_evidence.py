"""An initial model is believed where its halves agree on the images, and not where views or molecules are missing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble import initial_evidence
from scoretomo.ensemble.initial_evidence import (
    InitialEvidence,
    chance_degrees,
    halves_of,
    weigh_initial_model,
    widest_gap,
)
from scoretomo.geometry.rotations import about_y, about_z, angle_between, random_rotations
from scoretomo.geometry.symmetry import symmetry_group
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z, rotate_volumes
from scoretomo.methods.initial_model import InitialModel, initial_model
from scoretomo.methods.initial_schedule import InitialModelConfig

SIDE, RADIUS, COUNT = 24, 8.0, 40
QUICK, TWO = InitialModelConfig(starts=6), InitialModelConfig(starts=2)
NONE = torch.eye(3)[None]


@pytest.fixture(scope="module")
def volume() -> Tensor:
    """Fourteen Gaussian blobs with no symmetry, within the radius."""
    draw = torch.Generator().manual_seed(2)
    centres = 2.6 * torch.randn(14, 3, generator=draw).clamp(-1.6, 1.6)
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    blobs = [torch.exp(-(points - centre).square().sum(-1) / (2 * 1.1**2)) for centre in centres - centres.mean(0)]
    return torch.stack(blobs).sum(0)


def _images(volume: Tensor, rotations: Tensor) -> Tensor:
    """Projections with a fifth of their standard deviation of noise."""
    clean = project(volume[None], rotations[None])[0]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return clean + 0.2 * clean.std() * noise


def _made_of(images: Tensor, config: InitialModelConfig) -> tuple[InitialModel, list[InitialModel]]:
    whole = initial_model(images, config, seed=0, radius=RADIUS)
    rows = enumerate(halves_of(len(images)))
    return whole, [initial_model(images[row], config, seed=1 + k, radius=RADIUS) for k, row in rows]


@pytest.fixture(scope="module")
def images(volume: Tensor) -> Tensor:
    return _images(volume, random_rotations(COUNT, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def models(images: Tensor) -> tuple[InitialModel, list[InitialModel]]:
    return _made_of(images, QUICK)


@pytest.fixture(scope="module")
def evidence(images: Tensor, models: tuple[InitialModel, list[InitialModel]]) -> InitialEvidence:
    return weigh_initial_model(images, *models, QUICK)


def test_a_model_whose_halves_agree_is_right(evidence: InitialEvidence) -> None:
    assert evidence.answer == "right"
    assert evidence.half_degrees is not None and evidence.half_degrees < 13
    assert evidence.half_correlation is not None and evidence.half_correlation > 0.6
    assert evidence.own_correlation is not None and evidence.left_out_correlation is not None
    assert 0.4 < evidence.left_out_correlation < evidence.own_correlation < 1
    assert evidence.widest_gap_degrees < 15
    starts = QUICK.for_images(COUNT).starts
    assert evidence.starts == starts and 2 <= evidence.agreeing <= starts
    assert (evidence.rival_score is None) == (evidence.agreeing == starts)
    assert f"{evidence.half_degrees:.0f} degrees" in evidence.reason and f"of {starts} starts" in evidence.reason


def test_frames_and_hands_of_the_halves_do_not_matter(
    images: Tensor, models: tuple[InitialModel, list[InitialModel]], evidence: InitialEvidence
) -> None:
    whole, halves = models
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    other_hand = replace(halves[0], volume=mirror_z(halves[0].volume), rotations=mirror @ halves[0].rotations @ mirror)
    turn = random_rotations(1, generator=torch.Generator().manual_seed(7))
    turned = replace(
        halves[1], volume=rotate_volumes(halves[1].volume[None], turn)[0], rotations=halves[1].rotations @ turn.mT
    )
    found = weigh_initial_model(images, whole, [other_hand, turned], QUICK)
    assert found.answer == "right"
    assert found.half_degrees == pytest.approx(evidence.half_degrees, abs=2.5)
    assert found.half_correlation == pytest.approx(evidence.half_correlation, abs=0.1)


def test_halves_of_other_poses_are_not_believed(
    images: Tensor, models: tuple[InitialModel, list[InitialModel]]
) -> None:
    """A half whose poses are those of other images has the same map, and still says nothing for it."""
    whole, halves = models
    shuffled = replace(halves[0], rotations=halves[0].rotations.roll(1, 0))
    found = weigh_initial_model(images, whole, [shuffled, halves[1]], QUICK)
    assert found.half_degrees is not None and found.half_degrees > 15
    assert found.answer != "right"


@pytest.mark.parametrize(("times", "answer"), [(2.5, "right"), (1.6, "perhaps"), (1.1, "unknown")])
def test_an_angle_is_weighed_against_that_of_chance(
    images: Tensor,
    models: tuple[InitialModel, list[InitialModel]],
    evidence: InitialEvidence,
    monkeypatch: pytest.MonkeyPatch,
    times: float,
    answer: str,
) -> None:
    """Of a map with many copies of itself random poses are near one another, and so says nothing that poses are."""
    assert evidence.half_degrees is not None
    chance = times * evidence.half_degrees
    monkeypatch.setattr(initial_evidence, "chance_degrees", lambda *_: chance)
    found = weigh_initial_model(images, *models, QUICK)
    assert found.half_degrees == evidence.half_degrees and found.chance_degrees == chance
    assert found.answer == answer
    assert answer == "right" or f"({chance:.0f} by chance)" in found.reason


@pytest.mark.parametrize(("symmetry", "degrees"), [("C1", 122.0), ("D2", 75.0), ("I", 29.0)])
def test_chance_is_the_angle_of_random_poses(symmetry: str, degrees: float) -> None:
    """Of many poses nearly the median angle of random rotations modulo the group, a frame and hand less."""
    poses, others = random_rotations(2000, generator=torch.Generator().manual_seed(5)).chunk(2)
    group = symmetry_group(symmetry)
    found = chance_degrees(poses, group)
    between = (poses @ others.mT)[:, None].expand(-1, len(group), -1, -1)
    plain = float(angle_between(between, group).amin(1).median())
    assert found == pytest.approx(plain, rel=0.12) and found < plain
    assert found == pytest.approx(degrees, rel=0.12)


def test_a_start_that_sees_images_otherwise_is_a_rival(
    images: Tensor, models: tuple[InitialModel, list[InitialModel]]
) -> None:
    whole, _ = models
    stranger = replace(
        whole.starts[-1], rotations=random_rotations(COUNT, generator=torch.Generator().manual_seed(9)), first_score=0.7
    )
    again = replace(whole.starts[0], number=9)
    found = weigh_initial_model(images, replace(whole, starts=[whole.starts[0], again, stranger]), [], QUICK)
    assert (found.starts, found.agreeing, found.rival_score) == (3, 2, 0.7)
    assert found.winner_score == whole.starts[0].first_score


def test_without_halves_nothing_is_right_for_sure(
    images: Tensor, models: tuple[InitialModel, list[InitialModel]]
) -> None:
    found = weigh_initial_model(images, models[0], [], QUICK)
    assert found.answer == "perhaps" and "too few" in found.reason
    assert found.half_degrees is found.half_correlation is found.left_out_correlation is None


def test_views_within_30_degrees_of_an_axis_leave_it_unknown(volume: Tensor) -> None:
    longitude, tilt, turn = torch.rand(3, COUNT, generator=torch.Generator().manual_seed(3))
    rotations = about_z(6.28 * turn) @ about_y(math.radians(30) * tilt.sqrt()) @ about_z(6.28 * longitude)
    images = _images(volume, rotations)
    found = weigh_initial_model(images, initial_model(images, TWO, seed=0, radius=RADIUS), [], TWO)
    assert found.answer == "unknown" and "about one direction" in found.reason
    assert found.widest_gap_degrees > 32


def test_noise_is_unknown(generator: torch.Generator) -> None:
    images = torch.randn(COUNT, SIDE, SIDE, generator=generator)
    found = weigh_initial_model(images, *_made_of(images, TWO), TWO)
    assert found.answer == "unknown" and "no one molecule" in found.reason
    assert found.half_degrees is not None and found.half_degrees > 25
    assert found.left_out_correlation is not None and found.left_out_correlation < 0.3


def test_copies_of_one_image_are_unknown(images: Tensor) -> None:
    same = images[:1] + 0.1 * torch.randn(20, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    found = weigh_initial_model(same, initial_model(same, TWO, seed=0, radius=RADIUS), [], TWO)
    assert found.answer == "unknown" and "about one direction" in found.reason


def test_images_that_do_not_count_are_named(images: Tensor, models: tuple[InitialModel, list[InitialModel]]) -> None:
    weights = torch.ones(COUNT)
    weights[[3, 17]], weights[5] = 0.2, 0.6
    found = weigh_initial_model(images, replace(models[0], weights=weights), [], QUICK)
    assert found.unexplained == (3, 17)


def test_halves_are_every_other_image() -> None:
    assert [half.tolist() for half in halves_of(9)] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    assert halves_of(7) == []


@pytest.mark.parametrize(("views", "degrees"), [(1, 90.0), (2, 45.0), (3, math.degrees(math.asin(3**-0.5)))])
def test_the_gap_between_views_along_the_axes(views: int, degrees: float) -> None:
    """A slice is perpendicular to its view: of one view, the direction of the view itself is furthest, 90 degrees."""
    # rows of a rotation are the axes of the image; turns of the image change nothing
    along = torch.stack([torch.eye(3), torch.eye(3).roll(1, 0), torch.eye(3).roll(2, 0)])[:views]
    frame = random_rotations(1, generator=torch.Generator().manual_seed(0))
    turned = about_z(torch.tensor([0.3, 1.0, 2.0]))[:views] @ along @ frame
    assert widest_gap(turned, NONE) == pytest.approx(degrees, abs=4)  # within what the directions that are tried tell
    assert widest_gap(turned, NONE) <= degrees + 0.1


def test_copies_stand_for_views_and_reduce_the_gap() -> None:
    from_x = torch.eye(3).roll(1, 1)[None]  # its third row, the viewing direction, is x
    assert from_x[0, 2].tolist() == [1, 0, 0]
    assert widest_gap(from_x, NONE) > 84
    assert widest_gap(from_x, symmetry_group("C4")) == pytest.approx(45, abs=4)  # from y as well
    assert widest_gap(torch.eye(3)[None], symmetry_group("C4")) > 84  # along the axis all are the same
    assert widest_gap(from_x, symmetry_group("O")) == pytest.approx(35.3, abs=4)  # from z too


def test_views_all_around_leave_no_gap() -> None:
    assert widest_gap(random_rotations(300, generator=torch.Generator().manual_seed(0)), NONE) < 3
