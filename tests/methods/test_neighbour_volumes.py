"""Volumes of images, helped by their neighbours, are in the frame of their images and nearer to the truth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.imaging.fourier import filter_by_radius, radius_grid, translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import turn_into_view
from scoretomo.methods.angular_spread import AngularSpread
from scoretomo.methods.motion_model import MotionModel, motion_model
from scoretomo.methods.neighbour_volumes import NeighbourVolumes, nearest

BAND = 10


@pytest.fixture(scope="module")
def blobs(make_blobs: Callable[..., Any]) -> Any:
    return make_blobs(120, 3.5)


@pytest.fixture(scope="module")
def images(blobs: Any) -> Tensor:
    noise = torch.randn(blobs.images.shape, generator=torch.Generator().manual_seed(5))
    return translate(blobs.images + 0.05 * blobs.images.std() * noise, torch.tensor([[0.5, -0.25]]).expand(120, 2))


@pytest.fixture(scope="module")
def model(blobs: Any, images: Tensor) -> MotionModel:
    shifts = torch.tensor([[0.5, -0.25]]).expand(120, 2)
    return motion_model(images, blobs.rotations, shifts, 1, radius=blobs.RADIUS, band=BAND, seed=0)


def _truth(blobs: Any, model: MotionModel, image: int) -> Tensor:
    return turn_into_view(blobs.volume(image), blobs.rotations[image], torch.tensor([0.5, -0.25]))


def test_volumes_are_in_the_frames_of_their_images_and_better_than_the_model(
    blobs: Any, images: Tensor, model: MotionModel
) -> None:
    """One component is not enough for so long a way."""
    shown = range(0, 120, 6)
    volumes = NeighbourVolumes(images, model, radius=blobs.RADIUS)
    made = {i: volumes(i) for i in shown}
    truth = torch.stack([_truth(blobs, model, i) for i in shown])
    before = [turn_into_view(model.volume(model.z[i]), model.rotations[i], model.shifts_pixels[i]) for i in shown]
    with_neighbours, without = (
        area_under_curve(fourier_shell_correlation(torch.stack(some), truth)) for some in (list(made.values()), before)
    )
    assert float(with_neighbours.median()) > float(without.median()) + 0.005
    for i in shown:
        seen = torch.corrcoef(torch.stack([made[i].sum(0).flatten(), images[i].flatten()]))[0, 1]
        assert float(seen) > 0.97
        assert float(made[i].min()) >= 0


def test_where_neighbours_say_what_the_model_says_nothing_changes(blobs: Any, model: MotionModel) -> None:
    volumes = torch.stack([model.volume(z) for z in model.z]).clamp(min=0)
    images = torch.stack([project(v[None], r[None, None])[0, 0] for v, r in zip(volumes, model.rotations, strict=True)])
    images = translate(images, model.shifts_pixels)
    found = NeighbourVolumes(images, model, radius=blobs.RADIUS)
    for i in range(3):
        expected = turn_into_view(volumes[i], model.rotations[i], model.shifts_pixels[i])
        assert float(torch.corrcoef(torch.stack([found(i).flatten(), expected.flatten()]))[0, 1]) > 0.99


def test_volumes_between_images_are_in_the_common_frame(blobs: Any, images: Tensor, model: MotionModel) -> None:
    volumes = NeighbourVolumes(images, model, radius=blobs.RADIUS)
    own = turn_into_view(volumes.at(model.z[5]), model.rotations[5], model.shifts_pixels[5]).clamp(min=0)
    assert float((own - volumes(5)).norm() / own.norm()) < 0.02  # but for where densities were cut at 0
    order = model.z[:, 0].argsort()
    between = (model.z[order[30]] + model.z[order[31]]) / 2
    truth = torch.stack([blobs.volume(int(order[i])) for i in (30, 0, -1)])
    near, *far = area_under_curve(fourier_shell_correlation(volumes.at(between).expand_as(truth), truth)).tolist()
    assert near > max(far) + 0.02


def test_a_spread_is_undone_in_mean_and_components_and_neighbours_add_what_they_did(
    blobs: Any, images: Tensor, model: MotionModel
) -> None:
    spread = AngularSpread(6.0, torch.full((images.shape[-1] // 2 + 1,), 0.05))
    plain = NeighbourVolumes(images, model, radius=blobs.RADIUS)
    sharp = NeighbourVolumes(images, model, radius=blobs.RADIUS, spread=spread)
    torch.testing.assert_close(sharp.components, spread.undo(plain.components))
    assert float((sharp.components - plain.components).norm() / plain.components.norm()) > 0.05
    z = model.z[5]
    added = (sharp.components - plain.components)[0] + z[0] * (sharp.components - plain.components)[1]
    expected = (plain._volume_at(z) + added).clamp(min=0)
    inside = (plain.molecule > 0.99) & (sharp.molecule > 0.99)
    difference = (sharp.at(z) - expected)[inside]
    assert float(difference.abs().max()) < 0.01 * float(expected.max())


def test_of_a_component_only_that_is_left_on_which_halves_agree(blobs: Any, images: Tensor, model: MotionModel) -> None:
    """What is added to the component at high frequency, and in no image, goes; what is there in all images stays."""
    found = NeighbourVolumes(images, model, radius=blobs.RADIUS).components
    torch.testing.assert_close(found[0], model.volumes[0], rtol=0, atol=1e-3 * float(model.volumes[0].max()))
    assert float((found[1] - model.volumes[1]).norm() / model.volumes[1].norm()) < 0.2
    noise = torch.randn(model.volumes[1].shape, generator=torch.Generator().manual_seed(9)) * model.volumes[1].std()
    drowned = images + 20 * images.std() * torch.randn(images.shape, generator=torch.Generator().manual_seed(10))
    nothing = NeighbourVolumes(
        drowned, replace(model, volumes=torch.stack([model.volumes[0], noise])), radius=blobs.RADIUS
    )
    side = noise.shape[-1]
    high = radius_grid(side, 3) > side / 4
    left = filter_by_radius(nothing.components[1], high.float()).norm() / filter_by_radius(noise, high.float()).norm()
    assert float(left) < 0.6


def test_of_a_component_that_is_noise_half_is_left_at_most(make_blobs: Callable[..., Any]) -> None:
    """The component of a molecule at rest is noise: what it adds to volumes is half of it at most."""
    rigid = make_blobs(80, 0.0)
    noise = torch.randn(rigid.images.shape, generator=torch.Generator().manual_seed(11))
    images = rigid.images + 0.5 * rigid.images.std() * noise
    fitted = motion_model(images, rigid.rotations, torch.zeros(80, 2), 1, radius=rigid.RADIUS, band=BAND, seed=0)
    left = NeighbourVolumes(images, fitted, radius=rigid.RADIUS).components[1]
    assert float(left.norm() / fitted.volumes[1].norm()) < 0.55


def test_neighbours_are_seen_where_the_model_puts_them(blobs: Any, model: MotionModel) -> None:
    """Images that the model explains altogether change nothing, however wide the kernel and steep the motion."""
    steep = replace(model, volumes=torch.stack([model.volumes[0], 10 * model.volumes[1]]))
    own = [project(steep.volume(z)[None], r[None, None])[0, 0] for z, r in zip(model.z, model.rotations, strict=True)]
    images = translate(torch.stack(own), model.shifts_pixels)
    volumes = NeighbourVolumes(images, steep, radius=blobs.RADIUS)
    for z in model.z[:40:10]:
        expected = torch.einsum("q,qxyz->xyz", torch.cat([torch.ones(1), z]), volumes.components) * volumes.molecule
        assert float((volumes._volume_at(z) - expected).norm() / expected.norm()) < 0.07


def test_there_is_molecule_where_any_state_has_it_and_nothing_elsewhere(
    blobs: Any, images: Tensor, model: MotionModel
) -> None:
    volumes = NeighbourVolumes(images, model, radius=blobs.RADIUS)
    for i in (int(model.z[:, 0].argmin()), int(model.z[:, 0].argmax())):
        truth = blobs.volume(i)
        assert float((truth * volumes.molecule - truth).norm() / truth.norm()) < 0.05
        assert float(volumes.at(model.z[i])[volumes.molecule < 1e-3].abs().max()) < 1e-2 * float(truth.max())
    assert float(volumes.molecule.mean()) < 0.5


def test_without_a_component_all_volumes_are_the_mean(blobs: Any, images: Tensor) -> None:
    shifts = torch.tensor([[0.5, -0.25]]).expand(120, 2)
    one = motion_model(images, blobs.rotations, shifts, 0, radius=blobs.RADIUS, band=BAND, seed=0)
    volumes = NeighbourVolumes(images, one, radius=blobs.RADIUS)
    for i in (0, 7):
        expected = turn_into_view(one.volumes[0] * volumes.molecule, one.rotations[i], one.shifts_pixels[i]).clamp(
            min=0
        )
        assert float((volumes(i) - expected).norm() / expected.norm()) < 0.01


def test_the_nearest_are_others_and_the_nearest_comes_first() -> None:
    z = torch.tensor([[0.0], [1.0], [1.5], [4.0], [9.0]])
    assert nearest(z, 0.4).tolist() == [[1, 2], [2, 0], [1, 0], [2, 1], [3, 2]]
    assert nearest(z, 1.0).shape == (5, 4) and nearest(z, 0.01).shape == (5, 1)
    without = nearest(torch.zeros(4, 0), 1.0)  # all alike where nothing moves
    assert sorted(without[2].tolist()) == [0, 1, 3]
