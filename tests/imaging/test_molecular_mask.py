"""Masks hold the molecule, are soft, and leave the solvent out."""

import torch
from torch import Tensor

from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.molecular_mask import molecular_mask, soft_region, solvent_mask

SIDE = 32


def _noise(seed: int) -> Tensor:
    return torch.randn(SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_the_mask_holds_the_molecule_and_is_soft() -> None:
    molecule = soft_ball(SIDE, 3, 5.0, 2.0)
    mask = molecular_mask(molecule + 0.02 * _noise(10), blur=1.5)
    radius = radius_grid(SIDE, 3)
    assert mask[radius <= 6].min() > 0.95
    assert mask[radius > 14].max() < 0.01
    assert ((mask > 0.05) & (mask < 0.95)).any()
    assert 0 <= mask.min() and mask.max() <= 1


def test_of_noise_in_the_solvent_hardly_any_is_left_and_none_of_the_molecule_goes() -> None:
    """A ball, and a weak arm that one state of 200 has."""
    arm = torch.zeros(SIDE, SIDE, SIDE)
    arm[15:18, 15:18, 21:27] = 0.4
    molecule = soft_ball(SIDE, 3, 5.0, 2.0) + arm
    states = torch.zeros(200, 3)
    states[:, 0], states[7, 1] = 1.0, 1.0
    states[:, 2] = torch.randn(200, generator=torch.Generator().manual_seed(12))
    volumes = torch.stack([soft_ball(SIDE, 3, 5.0, 2.0) + 0.05 * _noise(11), arm, 0.1 * _noise(13)])
    mask = solvent_mask(volumes, states)
    assert float((molecule * mask - molecule).norm() / molecule.norm()) < 0.03
    away = radius_grid(SIDE, 3) > 12
    away[:, :, 19:] = False
    assert float((_noise(11) * mask)[away].norm() / _noise(11)[away].norm()) < 0.2
    tip = 16, 16, 26
    assert mask[tip] > 0.9 and solvent_mask(volumes[:1])[tip] < 0.4  # without the arm it is in the soft edge


def test_a_soft_region_is_one_inside_and_falls_to_zero_beyond() -> None:
    axis = torch.arange(24) - 12
    region = (axis.abs() <= 2)[:, None, None] & (axis.abs() <= 2)[:, None] & (axis.abs() <= 2)
    mask = soft_region(region, extend=1.0, edge=4.0)
    line = mask[12, 12, 12:]
    assert line[:4].min() > 0.99  # the region and a voxel more
    assert 0.3 < line[5] < 0.7
    assert line[8:].max() < 0.01
    assert (line[:9].diff() <= 1e-5).all()
