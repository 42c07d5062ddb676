"""Growing volumes from the ones that have locked."""

import dataclasses
import io

import pytest
import torch
from torch import Tensor

from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.ensemble.growth import (
    GrowthConfig,
    GrowthState,
    GrowthStep,
    anchor_to_matches,
    grow_progressive,
    match_parents,
    select_parents,
    sharpness,
    start_from_parents,
    volume_generator,
)
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.methods.pose_search import PoseSearchConfig
from scoretomo.methods.score_tomography import ReconstructionConfig, reconstruct

SIDE = 16
MATCHING = PoseSearchConfig(base_order=1, refinements=2, kept=1, low_radius=5.0, high_radius=7.0)
SHORT = GrowthConfig(
    nuclei=2,
    parents=2,
    rounds=1,
    nucleate=ReconstructionConfig(steps=3),
    grow=ReconstructionConfig(steps=2),
    polish=ReconstructionConfig(steps=4),
    matching=dataclasses.replace(MATCHING, base_order=0, refinements=0),
)


def phantom(generator: torch.Generator, blobs: int = 5) -> Tensor:
    axis = torch.arange(SIDE) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).float()
    centres = (torch.rand(blobs, 3, generator=generator) - 0.5) * SIDE * 0.5
    return sum(torch.exp(-(points - centre).square().sum(-1) / (2 * 1.3**2)) for centre in centres)


def images_of(volume: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Projections under random rotations, and the volume turned into the frame of each."""
    rotations = random_rotations(count, generator=generator)
    frames = rotate_volumes(volume.expand(count, -1, -1, -1), rotations)
    return frames.sum(1), frames


def correlation(first: Tensor, second: Tensor) -> Tensor:
    first, second = first.flatten(1), second.flatten(1)
    return torch.nn.functional.cosine_similarity(first - first.mean(1, True), second - second.mean(1, True))


def run(images: Tensor, config: GrowthConfig, seed: int = 0, **options: object) -> list[GrowthStep]:
    denoiser = IdealDenoiser(images)
    return list(
        grow_progressive(denoiser, images, config, seed=seed, **options)  # type: ignore[arg-type]
    )


def finished(steps: list[GrowthStep]) -> Tensor:
    volumes = {position: volume for step in steps for position, volume in step.finished}
    return torch.stack([volumes[position] for position in sorted(volumes)])


def test_an_image_gets_the_parent_that_it_shows(generator: torch.Generator) -> None:
    """Two different parents: each image is started from the one it is a projection of, in its own frame."""
    parents = torch.stack([phantom(generator), phantom(generator)])
    images, frames = zip(*(images_of(parent, 3, generator) for parent in parents), strict=True)
    matching = dataclasses.replace(MATCHING, base_order=2)
    members = torch.arange(6)
    matches = match_parents(parents, torch.cat(images), matching)
    started = start_from_parents(parents, matches, members)
    anchors = anchor_to_matches(torch.cat(images), matches, members)
    # a projection does not tell a frame from its reflection along z; asymmetric blobs seen from one side do the rest
    assert correlation(started.sum(1), torch.cat(images)).min() > 0.95
    assert correlation(started, torch.cat(frames)).median() > 0.9
    # an image anchored to its own volume is seen without turning it; so is every image of the same object
    turned = project(started, anchors.rotations)  # (volume, image)
    same = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool()
    agreement = correlation(turned[same], torch.cat(images).expand(6, -1, -1, -1)[same])
    assert agreement.median() > 0.95
    assert torch.allclose(anchors.rotations[range(6), range(6)], torch.eye(3), atol=1e-5)


def test_sharpness_puts_the_locked_volume_before_the_blob(generator: torch.Generator) -> None:
    volume = phantom(generator)
    spectrum = torch.fft.fftshift(torch.fft.fftn(volume))
    blurred = torch.fft.ifftn(torch.fft.ifftshift(spectrum * torch.exp(-((radius_grid(SIDE, 3) / 1.5) ** 2)))).real
    sharp, blob, scaled = sharpness(torch.stack([volume, blurred, 7 * volume + 1]))
    assert sharp > 2 * blob
    assert scaled == pytest.approx(sharp.item(), rel=1e-3)  # neither scale nor background counts
    assert sharpness(torch.zeros(1, 4, 4, 4)).item() == 0


def test_growing_beats_as_many_steps_from_nothing(generator: torch.Generator) -> None:
    """A locked parent is worth more than steps: growth with few steps beats cold starts with the same number."""
    truth = phantom(generator)
    images, frames = images_of(truth, 12, generator)
    many, _ = images_of(truth, 500, generator)
    denoiser = IdealDenoiser(many)
    settings = ReconstructionConfig(steps=40, sigma=0.5, final_sigma=0.5)
    state = GrowthState(1, truth[None], truth[None][:0], None)
    config = dataclasses.replace(SHORT, rounds=0, polish=settings, matching=dataclasses.replace(MATCHING, base_order=2))
    grown = finished(list(grow_progressive(denoiser, images, config, seed=1, state=state)))
    cold = reconstruct(denoiser, images, settings, generators=[volume_generator(1, 1, k) for k in range(12)])
    assert correlation(grown, frames).mean() > correlation(cold, frames).mean() + 0.1


def test_counts_every_volume_step(generator: torch.Generator) -> None:
    images, _ = images_of(phantom(generator), 5, generator)
    steps = run(images, SHORT, chunk=3)
    expected = 2 * 3 + 5 * 2 + 5 * 4
    assert {step.total for step in steps} == {expected}
    assert steps[-1].done == expected
    assert [step.name for step in steps] == ["nucleate"] * 3 + ["grow 1 of 1"] * 4 + ["polish"] * 8
    assert [position for step in steps for position, _ in step.finished] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("interrupted_after", range(14))
def test_resumed_equals_uninterrupted(interrupted_after: int, generator: torch.Generator) -> None:
    """Stopped after any update, in the middle of a chunk or between stages, it goes on to the same volumes."""
    images, _ = images_of(phantom(generator), 3, generator)
    whole = run(images, SHORT, chunk=2)
    saved = io.BytesIO()
    torch.save(whole[interrupted_after].state.state_dict(), saved)
    saved.seek(0)
    again = GrowthState.from_state_dict(torch.load(saved, weights_only=True))
    resumed = run(images, SHORT, state=again, chunk=2)
    assert [step.done for step in resumed] == [step.done for step in whole[interrupted_after + 1 :]]
    kept = {position: volume for step in whole[: interrupted_after + 1] for position, volume in step.finished}
    kept |= {position: volume for step in resumed for position, volume in step.finished}
    assert torch.equal(torch.stack([kept[k] for k in range(3)]), finished(whole))


def test_parents_come_from_the_stage_itself(generator: torch.Generator) -> None:
    """A parent does not stay in the pool with its children, unless the stage has too few of its own."""
    sharp, blunt = phantom(generator), torch.ones(SIDE, SIDE, SIDE) * (radius_grid(SIDE, 3) < 6)
    nothing = torch.zeros(0, SIDE, SIDE, SIDE)
    state = GrowthState(1, sharp[None], blunt[None], None)
    assert torch.equal(select_parents(state, 1)[0], blunt)
    assert torch.equal(select_parents(state, 2), torch.stack([sharp, blunt]))
    poisoned = dataclasses.replace(state, grown=torch.stack([blunt * torch.nan, blunt]), parents=nothing)
    assert torch.equal(select_parents(poisoned, 1)[0], blunt)


def test_shifts_of_the_matching_are_applied(generator: torch.Generator) -> None:
    volume = phantom(generator)
    images, _ = images_of(volume, 4, generator)
    moved = images.roll((1, -1), (1, 2))
    matching = dataclasses.replace(MATCHING, base_order=2, shift_extent_pixels=2.0, shift_count=4)
    started = start_from_parents(volume[None], match_parents(volume[None], moved, matching), torch.arange(4))
    assert correlation(started.sum(1), moved).min() > 0.97


def test_only_wanted_volumes_are_finished_and_all_images_help(generator: torch.Generator) -> None:
    images, _ = images_of(phantom(generator), 6, generator)
    config = dataclasses.replace(SHORT, nuclei=3)
    steps = run(images, config, wanted=torch.tensor([4, 1]))
    assert [index for step in steps for index, _ in step.finished] == [4, 1]
    assert steps[-1].total == 3 * 3 + 2 * 2 + 2 * 4  # nuclei are spread over all images


def test_anchors_act_in_the_stages_that_ask_for_them(generator: torch.Generator) -> None:
    images, _ = images_of(phantom(generator), 4, generator)
    state = run(images, SHORT)[2].state  # after the nuclei
    anchored = dataclasses.replace(SHORT, grow=dataclasses.replace(SHORT.grow, anchors=1))
    plain, changed = run(images, SHORT, state=state), run(images, anchored, state=state)
    assert not torch.allclose(plain[0].state.running.volumes, changed[0].state.running.volumes)  # type: ignore[union-attr]


def test_without_nuclei_it_is_algorithm_1(generator: torch.Generator) -> None:
    images, _ = images_of(phantom(generator), 3, generator)
    config = dataclasses.replace(SHORT, nuclei=0)
    generators = [volume_generator(0, 0, k) for k in range(3)]
    alone = reconstruct(IdealDenoiser(images), images, SHORT.polish, generators=generators)
    assert torch.equal(finished(run(images, config)), alone)
