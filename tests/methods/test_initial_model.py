"""An initial model comes from images alone: poses, map, scale and shifts, the same for the same seed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.evaluation.alignment import align, apply_alignment
from scoretomo.evaluation.fsc import fourier_shell_correlation
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging.extent import molecule_radius
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, resize, translate
from scoretomo.imaging.projection import project
from scoretomo.methods.initial_model import (
    InitialModel,
    find_in_model,
    initial_model,
    initial_model_progressive,
)
from scoretomo.methods.initial_schedule import InitialModelConfig

SIDE, RADIUS, COUNT = 24, 8.0, 50
QUICK = InitialModelConfig(starts=4)


def _blobs(seed: int) -> Tensor:
    """Fourteen Gaussian blobs with no symmetry, within the radius."""
    draw = torch.Generator().manual_seed(seed)
    centres = 2.6 * torch.randn(14, 3, generator=draw).clamp(-1.6, 1.6)
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    blobs = [torch.exp(-(points - centre).square().sum(-1) / (2 * 1.1**2)) for centre in centres - centres.mean(0)]
    return torch.stack(blobs).sum(0)


def _noisy(clean: Tensor, strength: float = 0.2) -> Tensor:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return clean + strength * clean.std() * noise


@pytest.fixture(scope="module")
def volume() -> Tensor:
    return _blobs(2)


@pytest.fixture(scope="module")
def rotations() -> Tensor:
    return random_rotations(COUNT, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def clean(volume: Tensor, rotations: Tensor) -> Tensor:
    return project(volume[None], rotations[None])[0]


@pytest.fixture(scope="module")
def images(clean: Tensor) -> Tensor:
    return _noisy(clean)


@pytest.fixture(scope="module")
def model(images: Tensor) -> InitialModel:
    return initial_model(images, QUICK, seed=0)


def _shells(found: Tensor, truth: Tensor) -> Tensor:
    moved = apply_alignment(found[None], align(found[None], truth[None]))
    return fourier_shell_correlation(moved, truth[None])[0]


def _predicted(model: InitialModel) -> Tensor:
    return translate(project(model.volume[None], model.rotations[None])[0], model.shifts_pixels)


def test_poses_and_map_are_recovered(model: InitialModel, volume: Tensor, rotations: Tensor) -> None:
    assert pose_errors(model.rotations, rotations).degrees.median() < 8
    fsc = _shells(model.volume, volume)
    assert fsc[1:6].min() > 0.95
    assert fsc[6:9].min() > 0.75
    assert model.volume.shape == volume.shape
    assert model.scores.min() > 0 and model.scores.max() <= 1


def test_the_volume_is_what_the_images_are_projections_of(model: InitialModel, images: Tensor) -> None:
    """In their frame and in their units, but for what regularisation takes."""
    predicted = _predicted(model)
    assert torch.nn.functional.cosine_similarity(predicted.flatten(), images.flatten(), dim=0) > 0.93
    slope = (predicted * images).sum() / predicted.square().sum()
    assert slope == pytest.approx(1, abs=0.17)


def test_units_are_kept_on_a_finer_grid(volume: Tensor, rotations: Tensor) -> None:
    """The starts' voxels are then two pixels wide."""
    fine = 5 * project(resize(volume, 2 * SIDE, 3)[None], rotations[None])[0]
    model = initial_model(fine, QUICK, seed=0, radius=2 * RADIUS)
    assert pose_errors(model.rotations, rotations).degrees.median() < 8
    assert model.starts[0].volume.shape[-1] < 0.6 * model.box
    predicted = project(model.volume[None], model.rotations[None])[0]
    assert (predicted * fine).sum() / predicted.square().sum() == pytest.approx(1, abs=0.17)


def test_the_search_reports_its_progress(images: Tensor, model: InitialModel) -> None:
    steps = list(initial_model_progressive(images, QUICK, seed=0))
    assert all(step.result is None for step in steps[:-1])
    done = [step.done for step in steps]
    assert done == sorted(done) and done[0] > 0 and done[-1] == 1
    assert [len(step.scores) for step in steps[:-1]] == [4] * 16 + [3] * 16 + [2] * 5
    assert steps[0].band < steps[15].band < steps[31].band == steps[-1].band
    # 7.5 cycles per diameter, of 24 pixels in each of 2 radii
    assert steps[-1].band == pytest.approx(7.5 * SIDE / (2 * model.radius), rel=0.1)
    # the same seed gives the same, bit by bit
    last = steps[-1].result
    assert last is not None
    for name in ("volume", "rotations", "shifts_pixels", "scores", "weights"):
        assert getattr(last, name).equal(getattr(model, name))
    assert [start.score for start in last.starts] == [start.score for start in model.starts]


def test_another_seed_has_other_starts(images: Tensor, model: InitialModel) -> None:
    other = initial_model(images, QUICK, seed=1)
    assert not {start.first_score for start in other.starts} & {start.first_score for start in model.starts}


def test_a_start_does_not_depend_on_its_company(images: Tensor, model: InitialModel) -> None:
    more = initial_model(images, replace(QUICK, starts=6), seed=0)
    scores = {start.number: start.first_score for start in more.starts}
    assert sorted(scores) == list(range(6))
    for start in model.starts:
        assert scores[start.number] == pytest.approx(start.first_score, abs=2e-3)
    assert len({round(score, 4) for score in scores.values()}) == 6


@pytest.mark.parametrize(("kept", "stages"), [(3, [2, 2, 1, 0, 0]), (2, [2, 1, 0, 0, 0]), (1, [2, 0, 0, 0, 0])])
def test_each_start_is_noted_once_in_the_order_of_how_far_it_got(images: Tensor, kept: int, stages: list[int]) -> None:
    model = initial_model(images, InitialModelConfig(starts=5, kept=kept), seed=3, radius=RADIUS)
    assert sorted(start.number for start in model.starts) == list(range(5))
    assert [start.stage for start in model.starts] == stages
    for stage in (0, 1, 2):
        scores = [start.score for start in model.starts if start.stage == stage]
        assert scores == sorted(scores, reverse=True)
    best = max(start.first_score for start in model.starts if start.stage == 0)
    assert all(start.first_score >= best for start in model.starts if start.stage > 0)
    assert all(start.rotations.shape == (COUNT, 3, 3) for start in model.starts)
    assert model.starts[0].rotations.equal(model.rotations)


def test_few_images_have_more_starts(images: Tensor) -> None:
    few = initial_model(images[:20], InitialModelConfig(starts=2, kept=2), seed=0, radius=RADIUS)
    assert sorted(start.stage for start in few.starts) == [1, 2, 2, 2, 2]
    assert InitialModelConfig().for_images(10).starts == 3 * InitialModelConfig().starts  # and never more
    assert InitialModelConfig().for_images(50) == InitialModelConfig().for_images(1000) == InitialModelConfig()


def test_junk_counts_little_and_does_not_harm_the_rest(clean: Tensor, rotations: Tensor) -> None:
    other = project(_blobs(9)[None], random_rotations(1, 3, generator=torch.Generator().manual_seed(8)))[0]
    noise = clean.std() * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    order = torch.randperm(COUNT + 6, generator=torch.Generator().manual_seed(6))
    images = torch.cat([_noisy(clean), _noisy(torch.cat([other, noise]))])[order]
    model = initial_model(images, QUICK, seed=0, radius=RADIUS)
    junk = order >= COUNT
    assert model.weights[junk].max() < 0.5
    assert (model.weights[~junk] > 0.5).float().mean() > 0.85
    assert model.weights.min() >= 0 and model.weights.max() <= 1
    assert model.scores[junk].max() < model.scores[~junk].median()
    assert pose_errors(model.rotations[~junk], rotations[order[~junk]]).degrees.median() < 8


def test_shifts_are_recovered_in_pixels(volume: Tensor, rotations: Tensor) -> None:
    shifts = 2 * torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(3)) - 1
    fine = translate(project(resize(volume, 2 * SIDE, 3)[None], rotations[None])[0], shifts)
    model = initial_model(fine, replace(QUICK, starts=6, shift_extent=0.1), seed=0, radius=2 * RADIUS)
    assert pose_errors(model.rotations, rotations).degrees.median() < 10
    # the frame may drift as a whole: shifts that a moved volume explains are no error
    moved = model.shifts_pixels - shifts
    design = model.rotations[:, :2].reshape(-1, 3)
    drift = torch.linalg.lstsq(design, moved.flatten()[:, None]).solution
    assert (moved.flatten() - (design @ drift)[:, 0]).abs().median() < 0.2
    assert model.shifts_pixels.abs().max() <= 0.1 * 4 * RADIUS + 1e-3
    still = initial_model(fine, replace(QUICK, shift_extent=0.0), seed=0, radius=2 * RADIUS)
    assert not still.shifts_pixels.any()


def test_many_images_come_in_parts(volume: Tensor) -> None:
    rotations = random_rotations(120, generator=torch.Generator().manual_seed(4))
    images = _noisy(project(volume[None], rotations[None])[0])
    model = initial_model(images, replace(QUICK, images_at_once=40), seed=0, radius=RADIUS)
    assert model.rotations.shape == (120, 3, 3) and model.scores.shape == (120,)
    assert pose_errors(model.rotations, rotations).degrees.median() < 8


def test_images_under_a_contrast_transfer(clean: Tensor, rotations: Tensor, volume: Tensor) -> None:
    def transfer(rows: Tensor, frequencies: Tensor) -> Tensor:
        return torch.cos((22 + 0.2 * rows[:, None]) * frequencies.square().sum(-1))

    axis = (torch.arange(SIDE) - SIDE // 2) / SIDE
    frequencies = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1).flatten(0, 1)
    contrast = transfer(torch.arange(COUNT), frequencies).view(-1, SIDE, SIDE)
    images = centred_inverse_fft(centred_fft(clean, 2) * contrast, 2)
    told, untold = (initial_model(images, QUICK, seed=0, radius=RADIUS, transfer=each) for each in (transfer, None))
    assert pose_errors(told.rotations, rotations).degrees.median() < 8
    # beyond the change of sign a map that knows nothing of it is inverted
    assert _shells(told.volume, volume)[7:9].min() > _shells(untold.volume, volume)[7:9].max() + 0.3


def test_images_are_found_in_a_model_that_was_made_without_them(model: InitialModel, volume: Tensor) -> None:
    rotations = random_rotations(30, generator=torch.Generator().manual_seed(11))
    shifts = torch.rand(30, 2, generator=torch.Generator().manual_seed(13)) - 0.5
    images = _noisy(translate(project(volume[None], rotations[None])[0], shifts))
    found = find_in_model(images, volume, RADIUS, QUICK)
    assert angle_between(found.rotations, rotations).median() < 5
    assert (found.shifts_pixels - shifts).abs().median() < 0.15
    assert (found.shifts_pixels + shifts).abs().median() > 0.3
    assert found.scores.min() > 0.5 and found.scores.max() <= 1
    unmoved = find_in_model(images, volume, RADIUS, replace(QUICK, shift_extent=0.0))
    assert not unmoved.shifts_pixels.any() and unmoved.scores.mean() < found.scores.mean()
    in_model = find_in_model(images, model.volume, RADIUS, QUICK)
    assert pose_errors(in_model.rotations, rotations).degrees.median() < 10
    noise = torch.randn(30, SIDE, SIDE, generator=torch.Generator().manual_seed(12))
    assert find_in_model(noise, volume, RADIUS, QUICK).scores.max() < found.scores.min()


def test_the_radius_is_measured_where_it_is_not_given(model: InitialModel, images: Tensor) -> None:
    assert model.radius == molecule_radius(images)
    assert not model.volume[0].any()  # beyond the sphere


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"starts": 0}, "1 or more"),
        ({"kept": 0}, "1 or more"),
        ({"images_at_once": -1}, "1 or more"),
        ({"coarse_cycles": 8.0}, "from 8.0 to 7.5"),
        ({"coarse_cycles": 0.5}, "from 0.5"),
        ({"shift_extent": -0.1}, "shift_extent"),
        ({"shift_extent": 0.6}, "shift_extent"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(InitialModelConfig(), **settings)


def test_images_that_cannot_be_used_are_refused(images: Tensor) -> None:
    for few in (images[:1], torch.zeros_like(images)):
        with pytest.raises(InputError, match="two images or more"):
            initial_model(few, QUICK, seed=0)
