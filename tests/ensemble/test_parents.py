"""The sharpest volumes, and where they are seen."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.parents import anchor_to_matches, match_parents, sharpest, sharpness, start_from_parents
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.projection import project
from scoretomo.methods.pose_search import PoseSearchConfig

MATCHING = PoseSearchConfig(base_order=2, refinements=2, kept=1, low_radius=5.0, high_radius=7.0)

Phantom = Callable[[], Tensor]
ImagesOf = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Correlation = Callable[[Tensor, Tensor], Tensor]


def test_an_image_gets_the_parent_that_it_shows(
    phantom: Phantom, images_of: ImagesOf, correlation: Correlation
) -> None:
    """Two different parents: each image is started from the one it is a projection of, in its own frame."""
    parents = torch.stack([phantom(), phantom()])
    images, frames = zip(*(images_of(parent, 3) for parent in parents), strict=True)
    members = torch.arange(6)
    matches = match_parents(parents, torch.cat(images), MATCHING)
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


def test_members_are_started_whatever_their_order(phantom: Phantom, images_of: ImagesOf) -> None:
    parents = torch.stack([phantom(), phantom()])
    images, _ = images_of(parents[1], 4)
    matches = match_parents(parents, images, MATCHING)
    whole = start_from_parents(parents, matches, torch.arange(4))
    assert torch.equal(start_from_parents(parents, matches, torch.tensor([3, 1])), whole[[3, 1]])


def test_shifts_of_the_matching_are_applied(phantom: Phantom, images_of: ImagesOf, correlation: Correlation) -> None:
    volume = phantom()
    images, _ = images_of(volume, 4)
    moved = images.roll((1, -1), (1, 2))
    matching = dataclasses.replace(MATCHING, shift_extent_pixels=2.0, shift_count=4)
    started = start_from_parents(volume[None], match_parents(volume[None], moved, matching), torch.arange(4))
    assert correlation(started.sum(1), moved).min() > 0.97


def test_sharpness_puts_the_locked_volume_before_the_blob(phantom: Phantom) -> None:
    volume = phantom()
    spectrum = torch.fft.fftshift(torch.fft.fftn(volume))
    blurred = torch.fft.ifftn(torch.fft.ifftshift(spectrum * torch.exp(-((radius_grid(16, 3) / 1.5) ** 2)))).real
    sharp, blob, scaled, poisoned = sharpness(torch.stack([volume, blurred, 7 * volume + 1, volume * torch.nan]))
    assert sharp > 2 * blob
    assert scaled == pytest.approx(sharp.item(), rel=1e-3)  # neither scale nor background counts
    assert poisoned == -1
    assert sharpness(torch.zeros(1, 4, 4, 4)).item() == 0


def test_parents_come_from_the_stage_itself() -> None:
    """A parent does not stay in the pool with its children, unless the stage has too few of its own."""
    own, earlier = torch.tensor([0.1, -1.0, 0.3]), torch.tensor([0.9, 0.2])
    assert sharpest(own, earlier, 2).tolist() == [2, 0]
    assert sharpest(own, earlier, 4).tolist() == [3, 2, 4, 0]
    assert sharpest(own, earlier, 9).tolist() == [3, 2, 4, 0, 1]
