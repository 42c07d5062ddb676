"""Preprocessing: background 0 whatever surrounded the particle, and volumes back in the units of the input."""

import dataclasses
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import ImageStack, InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.preprocess import (
    PreprocessConfig,
    Preprocessing,
    detect_contrast,
    preprocess,
    restore_volume,
    working_volume,
)
from scoretomo.imaging.projection import project

# centres and widths in parts of the field of view, weights: an asymmetric molecule well inside the box
BLOBS = torch.tensor([[0.0, 0.02, -0.05, 0.09, 1.0], [0.13, 0.05, 0.0, 0.07, 0.7], [-0.06, -0.14, 0.08, 0.06, 1.2]])


def molecule(side: int, pixels_across: float) -> Tensor:
    """The blobs on a grid of ``side`` voxels, of which ``pixels_across`` span the field of view."""
    axis = (torch.arange(side) - side // 2) / pixels_across
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distances = [(x - b[0]) ** 2 + (y - b[1]) ** 2 + (z - b[2]) ** 2 for b in BLOBS]
    return sum((b[4] * torch.exp(-d / (2 * b[3] ** 2)) for b, d in zip(BLOBS, distances, strict=True)), torch.zeros(()))


def views(side: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rotations = random_rotations(count, generator=generator)
    rotations[0] = torch.eye(3)
    return project(molecule(side, side)[None], rotations[None])[0], rotations


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("side", "working", "network"),
    [(32, 24, 24), (32, 27, 32), (33, 24, 24), (31, None, 32), (36, 33, 40), (24, 30, 32)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_restored_volumes_project_to_the_input(
    side: int, working: int | None, network: int, sign: int, generator: torch.Generator
) -> None:
    images, rotations = views(side, 6, generator)
    background = 3.0 * torch.arange(6)[:, None, None]  # every image has its own
    stack = ImageStack(50 * (sign * images) + background, 2.5)
    prepared, record = preprocess(stack, PreprocessConfig(side=working))
    assert prepared.shape[-1] == record.network_side == network
    assert record.working_pixel_size_angstrom * record.working_side == pytest.approx(2.5 * side)

    # a volume that explains the working images; its factor comes from the first of them alone
    voxels = molecule(network, record.working_side)
    flat = voxels.sum(0)
    voxels = voxels * ((prepared[0] * flat).sum() / (flat * flat).sum())
    assert relative_error(project(voxels[None], rotations[None])[0], prepared) < 0.03

    restored = restore_volume(voxels, record)
    assert restored.side == side and restored.pixel_size_angstrom == 2.5
    projections = project(restored.voxels[None], rotations[None])[0]
    assert relative_error(projections, 50 * images) < 0.03  # bright, in the input's units, without background

    back = working_volume(restored.voxels, record)
    assert back.shape == voxels.shape
    assert relative_error(back, voxels) < 0.01
    assert relative_error(working_volume(50 * molecule(side, side)[None], record)[0], voxels) < 0.03


def test_working_images_have_unit_deviation_and_vanish_outside_the_mask(generator: torch.Generator) -> None:
    images, _ = views(36, 8, generator)
    prepared, record = preprocess(
        ImageStack(images + 0.1 * torch.randn(images.shape, generator=generator), 3.0),
        PreprocessConfig(side=28, mask_radius=0.8),
    )
    assert prepared.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert record.mask_radius == pytest.approx(0.8)
    assert record.cropped_side == 32  # the box around the mask
    limit = 0.8 * 36 / 2 * record.working_side / record.cropped_side  # in working pixels
    assert (prepared[:, radius_grid(prepared.shape[-1], 2) > limit] == 0).all()


def test_masked_averages_with_a_dark_halo_lose_both(generator: torch.Generator) -> None:
    """As RELION's class averages: a dark background within a soft mask, darker beside the particle, 0 outside."""
    clean, _ = views(64, 12, generator)
    clean = clean / clean.std()
    radius = radius_grid(64, 2)
    halo = -0.5 - 0.4 * torch.exp(-(((radius - 18) / 6) ** 2)) * (radius > 18) - 0.4 * (radius <= 18)
    noise = 0.05 * torch.randn(clean.shape, generator=generator)
    averages = (clean + halo + noise) * soft_ball(64, 2, 25.0, 4.0)
    prepared, record = preprocess(ImageStack(averages, 3.0), PreprocessConfig())
    expected, _ = preprocess(ImageStack(clean, 3.0), PreprocessConfig())
    assert 27 / 32 <= record.mask_radius <= 29 / 32  # the mask of the images was seen
    per_radius = [prepared[:, radius.round() == r].median().abs().item() for r in range(18, 33)]
    assert max(per_radius) < 0.05  # no ring; before, the step was 0.5
    assert (prepared[:, radius > 30] == 0).all()
    assert relative_error(prepared, expected) < 0.06


def test_a_clean_shell_is_neither_masked_nor_taken_for_background(generator: torch.Generator) -> None:
    """A capsid without noise: flat outside, bright rim, and a hollow that is as empty as the outside."""
    radius = radius_grid(48, 3)
    shell = torch.exp(-(((radius - 17) / 1.5) ** 2))
    images = project(shell[None], random_rotations(1, 4, generator=generator))[0]
    prepared, record = preprocess(ImageStack(images, 2.0), PreprocessConfig())
    assert (record.sign, record.mask_radius) == (1, 1.0)
    assert relative_error(prepared * record.scale, images) < 1e-3


def test_a_hollow_darker_than_the_outside_stays_dark(generator: torch.Generator) -> None:
    """The dark inside of a capsid belongs to the molecule: the background stops where the shell begins."""
    radius = radius_grid(48, 3)
    density = torch.exp(-(((radius - 14) / 1.5) ** 2)) - 1.5 * torch.exp(-((radius / 5) ** 2))
    images = project(density[None], random_rotations(1, 4, generator=generator))[0]
    prepared, record = preprocess(ImageStack(images, 2.0), PreprocessConfig(contrast="bright"))
    assert images[:, 24, 24].max() < -0.2 * images.max()
    assert relative_error(prepared * record.scale, images) < 5e-3


def test_neighbours_in_some_images_do_not_move_the_background(generator: torch.Generator) -> None:
    images, _ = views(48, 10, generator)
    crowded = images.clone()
    crowded[:3, 36:46, 19:29] += images.max()
    prepared, record = preprocess(ImageStack(crowded, 3.0), PreprocessConfig())
    assert max(map(abs, record.background_levels)) < 0.01 * images.max().item()
    assert relative_error((prepared * record.scale)[3:], images[3:]) < 0.02


def test_centring_moves_the_density_by_minus_its_offset(generator: torch.Generator) -> None:
    blob = torch.exp(-((radius_grid(40, 2) / 5) ** 2))
    offsets = [(3, 0), (0, -4), (-2, 5)]  # x, y
    moved = torch.stack([torch.roll(blob, (y, x), (0, 1)) for x, y in offsets])
    prepared, record = preprocess(ImageStack(moved, 2.0), PreprocessConfig(centre=True))
    expected = -2.0 * torch.tensor(offsets).float()
    torch.testing.assert_close(torch.tensor(record.shifts_angstrom), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(prepared[0], prepared[2], atol=0.02, rtol=0)
    assert (prepared[0] == prepared[0].max()).nonzero().tolist() == [[20, 20]]
    assert preprocess(ImageStack(moved, 2.0), PreprocessConfig())[1].shifts_angstrom == ()


def test_record_survives_json(generator: torch.Generator) -> None:
    images, _ = views(24, 3, generator)
    _, record = preprocess(ImageStack(images, 2.0), PreprocessConfig(side=20, centre=True))
    assert Preprocessing.from_dict(json.loads(json.dumps(dataclasses.asdict(record)))) == record


@pytest.mark.parametrize(
    "name",
    ["betagal_16x100px_3.54A", "orf2p_69x76px", "ribosome80S_50x88px_5.36A", "mixture_100x96px", "hand_100x64px"],
)
def test_contrast_of_real_averages(data: Path, name: str) -> None:
    images = torch.from_numpy(mrcfile.read(data / "class_averages" / f"{name}.mrcs").astype(np.float32))
    for sign in (1, -1):
        found, confidence = detect_contrast(sign * images)
        assert found == sign and confidence > 0.8
        assert all(detect_contrast(sign * image[None])[0] == sign for image in images)


def test_contrast_of_noise_is_undecided(generator: torch.Generator) -> None:
    assert detect_contrast(torch.randn(50, 32, 32, generator=generator))[1] < 0.1


def test_given_contrast_wins(generator: torch.Generator) -> None:
    images, _ = views(24, 3, generator)
    _, record = preprocess(ImageStack(images, 2.0), PreprocessConfig(contrast="dark"))
    assert (record.sign, record.contrast_confidence) == (-1, 1.0)


def test_betagal_background_is_flat(data: Path) -> None:
    """The averages' background of -0.8 within the mask and 0 outside becomes 0 on both sides."""
    images = torch.from_numpy(mrcfile.read(data / "class_averages" / "betagal_16x100px_3.54A.mrcs").copy())
    prepared, record = preprocess(ImageStack(images, 3.54), PreprocessConfig(side=50))
    radius = (radius_grid(prepared.shape[-1], 2) * record.working_pixel_size_angstrom / 7.08).round()
    assert max(prepared[:, radius == r].median().abs().item() for r in range(11, 29)) < 0.05
    assert prepared[:, radius > 18].abs().max() < 0.05  # the mask's edge, where the ring was


def test_a_few_constant_images_become_zero(generator: torch.Generator) -> None:
    """Classes without particles."""
    images, _ = views(24, 6, generator)
    images[2], images[5] = 0.0, 7.0
    prepared, _ = preprocess(ImageStack(images, 2.0), PreprocessConfig())
    assert prepared.flatten(1).abs().amax(1).gt(0).tolist() == [True, True, False, True, True, False]
    with pytest.raises(InputError, match="all images are constant"):
        preprocess(ImageStack(torch.ones(3, 16, 16), 2.0), PreprocessConfig())


@pytest.mark.parametrize("fields", [{"side": 4}, {"mask_radius": 0.0}, {"mask_radius": 1.2}])
def test_unusable_settings_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PreprocessConfig(**fields)


def test_volume_of_another_run_is_refused(generator: torch.Generator) -> None:
    images, _ = views(24, 3, generator)
    _, record = preprocess(ImageStack(images, 2.0), PreprocessConfig())
    with pytest.raises(InputError, match="side of 32"):
        restore_volume(torch.zeros(32, 32, 32), record)
    with pytest.raises(InputError, match="side of 20"):
        working_volume(torch.zeros(20, 20, 20), record)
