"""Evidence on sets of which some volumes are made wrong on purpose."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.ensemble.agreement import agreement_in_frame
from scoretomo.ensemble.matches import Matches
from scoretomo.ensemble.reliability import (
    Evidence,
    Parts,
    ReliabilityConfig,
    gather_evidence,
    gather_evidence_progressive,
    match_parts,
    neighbour_agreement,
    ring_correlation_area,
)
from scoretomo.evaluation.fsc import area_under_curve
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.methods.pose_search import PoseSearchConfig

MATCHING = PoseSearchConfig(base_order=1, refinements=2, kept=1, low_radius=4.0, high_radius=6.0)
CONFIG = ReliabilityConfig(views=8, sigmas=(0.3,), class_averages=24, neighbours=3, matching=MATCHING)
# Images whose volumes are replaced.
WRONG, TURNED = 2, 5

Phantom = Callable[[], Tensor]
ImagesOf = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass
class Case:
    """Images of one object; volumes of eight of them and two seeds, of which one is another object, one was turned."""

    images: Tensor
    volumes: Tensor
    indices: Sequence[int]

    def gather(self, volumes: Tensor | None = None) -> Evidence:
        return gather_evidence(
            self.volumes if volumes is None else volumes,
            self.images,
            self.indices,
            IdealDenoiser(self.images),
            CONFIG,
            generator=torch.Generator().manual_seed(1),
        )


@pytest.fixture
def case(phantom: Phantom, images_of: ImagesOf) -> Case:
    images, frames = images_of(phantom(), 24)
    indices = range(0, 24, 3)
    volumes = torch.stack([frames[indices], frames[indices]])
    volumes[1, WRONG] = phantom()
    volumes[1, TURNED] = rotate_volumes(
        volumes[1, TURNED][None], from_rotation_vectors(torch.tensor([[0.0, 0.9, 0.0]]))
    )[0]
    return Case(images, volumes, indices)


def test_each_part_sees_the_volume_of_another_object(case: Case) -> None:
    parts = case.gather().parts
    right = torch.ones(2, 8, dtype=torch.bool)
    right[1, [WRONG, TURNED]] = False
    for name in ("seed_agreement", "neighbour_agreement", "base_correlation", "match"):
        values = getattr(parts, name)
        others = values[0] if name != "seed_agreement" else values[:, [i for i in range(8) if i not in (WRONG, TURNED)]]
        assert values[1, WRONG] < others.min(), name
    assert parts.coverage[1, WRONG] == 0
    assert parts.score_excess[1, WRONG] > parts.score_excess[right].median()


def test_seeds_agree_as_their_fsc_says(case: Case) -> None:
    evidence = case.gather()
    expected = area_under_curve(evidence.seed_fsc[0, 1])
    assert torch.allclose(evidence.parts.seed_agreement, expected.expand(2, -1))
    assert evidence.seed_fsc[0, 0].eq(1).all()


def test_a_volume_is_not_its_own_witness(phantom: Phantom) -> None:
    """Own volumes match their image best and agree with each other; others match less well and are something else."""
    own, others = phantom(), phantom()
    volumes = torch.stack([own, *[others] * 5] * 2)  # two seeds of six images
    scores = torch.full((12, 6), 0.5)
    scores[[0, 6], 0] = 0.99
    matches = Matches(scores, torch.eye(3).expand(12, 6, 3, 3), torch.zeros(12, 6, 2))
    expected = agreement_in_frame(own[None], others[None]).area
    found = neighbour_agreement(volumes, matches, range(6), 0, seeds=2, most=4)
    assert found.tolist() == pytest.approx([expected.item()] * 2, abs=1e-4)
    parts = match_parts(matches, range(6), seeds=2)
    assert parts["match"].allclose(torch.tensor(-math.log(0.5)))  # 0.99 is that of its own image
    assert parts["base_support"].tolist() == [[0, 1, 1, 1, 1, 1]] * 2  # 0.5 is not as good as 0.99
    scores[3, 0] = 0.98  # one of ten volumes of other images explains the first image as well
    assert match_parts(matches, range(6), seeds=2)["base_support"][:, 0].tolist() == pytest.approx([0.1, 0.1])


def test_coverage_counts_what_a_volume_matches_better_than_the_others() -> None:
    scores = torch.full((10, 20), 0.5) + 0.01 * torch.rand(10, 20)
    scores[3, 10:] = 0.9
    rotations = from_rotation_vectors(torch.rand(10, 20, 3) * 6)
    parts = match_parts(Matches(scores, rotations, torch.zeros(10, 20, 2)), range(10), seeds=1)
    assert parts["coverage"][0, 3].item() >= 10 / 19
    assert parts["coverage"][0, [0, 1, 2, 4, 5, 6, 7, 8, 9]].max() < 10 / 19
    assert parts["sphere_coverage"].argmax() == 3


def test_a_right_volume_in_a_wrong_pose_does_not_fit_its_image(case: Case) -> None:
    parts = case.gather().parts
    assert parts.base_correlation[1, TURNED] < parts.base_correlation[0].min()
    assert parts.seed_agreement[1, TURNED] < 0.7
    # class averages do not mind how it is turned
    assert parts.match[1, TURNED] > parts.match[1, WRONG] + 0.5


def test_one_seed_is_enough(case: Case) -> None:
    evidence = case.gather(case.volumes[1:])
    assert evidence.parts.seed_agreement.isnan().all()
    for name in Parts.names()[1:]:
        values = getattr(evidence.parts, name)
        assert values.shape == (1, 8) and values.isfinite().all(), name
    assert evidence.parts.match[0].argmin() == WRONG
    assert evidence.seed_fsc.shape == (1, 1, 8, 9)


def test_one_volume_has_no_neighbours(case: Case) -> None:
    evidence = gather_evidence(
        case.volumes[:1, :1],
        case.images,
        [0],
        IdealDenoiser(case.images),
        CONFIG,
        generator=torch.Generator().manual_seed(1),
    )
    assert evidence.parts.neighbour_agreement.isnan().all()
    assert evidence.parts.base_correlation.item() > 0.99


def test_progress_reaches_the_end_with_the_evidence(case: Case) -> None:
    steps = list(
        gather_evidence_progressive(
            case.volumes[:1], case.images, case.indices, IdealDenoiser(case.images), CONFIG, generator=torch.Generator()
        )
    )
    assert [step.done for step in steps[:-1]] == list(range(1, steps[0].total + 1))
    assert all(step.evidence is None for step in steps[:-1])
    assert steps[-1].evidence is not None and steps[-1].done == steps[-1].total


def test_the_same_seed_gives_the_same_evidence(case: Case) -> None:
    first, second = case.gather(case.volumes[:1]), case.gather(case.volumes[:1])
    assert torch.equal(first.view_excess, second.view_excess)


def test_ring_correlation_of_an_image_with_itself_scaled_is_perfect() -> None:
    image = torch.randn(2, 16, 16)
    assert ring_correlation_area(image, 3 * image).tolist() == pytest.approx([1, 1])
    assert ring_correlation_area(image, torch.zeros(2, 16, 16)).tolist() == [0, 0]


def test_a_ball_has_its_radius_of_gyration(case: Case) -> None:
    ball = (radius_grid(16, 3) <= 5).float().expand(1, 8, -1, -1, -1)
    parts = case.gather(ball).parts
    assert parts.radius[0, 0].item() == pytest.approx(5 * math.sqrt(3 / 5) / 16, rel=0.03)


@pytest.mark.parametrize(
    ("indices", "side", "message"),
    [([0, 0], 16, "different images"), ([0, 99], 16, "no image 99"), ([0], 16, "as many"), ([0, 1], 12, "side of 12")],
)
def test_what_does_not_fit_together_is_refused(indices: list[int], side: int, message: str) -> None:
    images = torch.zeros(4, 16, 16)
    with pytest.raises(InputError, match=message):
        gather_evidence(
            torch.zeros(1, 2, side, side, side), images, indices, IdealDenoiser(images), generator=torch.Generator()
        )


def test_settings_that_judge_by_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="noise levels"):
        ReliabilityConfig(sigmas=())
