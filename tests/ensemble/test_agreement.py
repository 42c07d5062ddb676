"""Volumes of one image agree up to hand and shift along the view, and in nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoretomo.ensemble.agreement import agreement_in_frame, bring_onto, local_correlation
from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.geometry.rotations import from_rotation_vectors
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.resampling import mirror_z, rotate_volumes

Phantom = Callable[[], Tensor]
Correlation = Callable[[Tensor, Tensor], Tensor]


def test_without_hand_and_shift_it_is_the_fsc(phantom: Phantom) -> None:
    first, second = torch.stack([phantom(), phantom()]), torch.stack([phantom() for _ in range(3)])
    plain = fourier_shell_correlation(first[:, None], second[None])
    found = agreement_in_frame(first, second)
    assert found.fsc.shape == (2, 3, 9)
    unmoved = ~found.mirrored & (found.shift_pixels == 0)
    assert torch.allclose(found.fsc[unmoved], plain[unmoved], atol=1e-4)
    assert (found.area >= area_under_curve(plain) - 1e-5).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_hand_and_shift_along_the_view_are_found_and_undone(
    phantom: Phantom, correlation: Correlation, mirrored: bool, shift: float
) -> None:
    volume = phantom()[None]
    other = translate(volume, torch.tensor([[0.0, 0.0, -shift]]))
    other = mirror_z(other) if mirrored else other
    found = agreement_in_frame(volume, other)
    assert bool(found.mirrored) is mirrored
    assert found.shift_pixels.item() == pytest.approx(shift)
    assert found.area.item() > 0.95
    assert correlation(bring_onto(other, found.mirrored[0], found.shift_pixels[0]), volume).item() > 0.98


def test_what_has_to_be_turned_or_moved_aside_disagrees(phantom: Phantom) -> None:
    """The image fixes all that: a volume that needs it has misunderstood the image."""
    volume = phantom()[None]
    turned = rotate_volumes(volume, from_rotation_vectors(torch.tensor([[1.0, 0.0, 0.0]])))
    aside = translate(volume, torch.tensor([[1.5, 0.0, 0.0]]))
    assert agreement_in_frame(volume, turned).area.item() < 0.6
    assert agreement_in_frame(volume, aside).area.item() < 0.6


def test_an_empty_volume_agrees_with_nothing(phantom: Phantom) -> None:
    found = agreement_in_frame(torch.zeros(1, 16, 16, 16), phantom()[None])
    assert found.fsc.eq(0).all()


def test_local_correlation_shows_where_volumes_differ(phantom: Phantom) -> None:
    first = phantom()[None]
    second = first.clone()
    second[:, :6] = phantom()[None, :6]
    found = local_correlation(first, second, 1.0)
    dense = first > 0.1
    assert found[:, 10:][dense[:, 10:]].min() > 0.99
    assert found[:, :5][dense[:, :5]].mean() < 0.7
    assert found.abs().max() <= 1
