"""A volume for each class average: it looks like it, and few images are seen often enough."""

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import voxel_slices
from scoretomo.methods.abinitio_schedule import AbInitioConfig
from scoretomo.methods.average_volumes import AverageVolumesConfig, average_volume
from scoretomo.methods.latent_vae import LatentState, LatentVAE, LatentVAEConfig, new_state
from scoretomo.networks.coordinate_mlp import CoordinateMLPConfig

_SIDE = 20


@pytest.fixture
def blobs() -> torch.Tensor:
    """``(2, n, n, n)``, each without symmetry."""
    places = torch.tensor([[[2, 3, 1], [-3, 0, 2], [1, -4, -2]], [[0, 3, -3], [4, 0, 2], [-1, -1, 3]]])
    blob = soft_ball(_SIDE, 3, 0.5, 4.0)
    return torch.stack([sum(blob.roll(place.tolist(), (0, 1, 2)) for place in each) for each in places])


@pytest.fixture
def state(blobs: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> LatentState:
    """A model that knows the two volumes, at z = 0 and z = 1, and two images of any pose."""
    config = LatentVAEConfig(latent_dimensions=1, decoder=CoordinateMLPConfig(hidden=8, layers=1))
    model = LatentVAE(config, _SIDE, torch.ones(_SIDE // 2 + 1))
    monkeypatch.setattr(
        LatentVAE, "values", lambda self, frequencies, z: voxel_slices(blobs[int(z.item())], 3)(frequencies)
    )
    rotations = random_rotations(2, generator=torch.Generator().manual_seed(3))
    return new_state(model, config, rotations, torch.tensor([[0.0, 0.0], [1.5, -2.0]]))


@pytest.mark.parametrize("row", [0, 1])
def test_a_volume_projects_to_its_class_average(state: LatentState, blobs: torch.Tensor, row: int) -> None:
    """At its own z, turned by its rotation and moved by its shift, with the amplitude of the image."""
    volume = average_volume(state, row, torch.tensor([[0.0], [1.0]]), _SIDE / 2)
    image = project(blobs[row][None], state.rotations[row][None, None])[0]
    image = translate(image, state.shifts_pixels[row][None])[0]
    error = (volume.sum(0) - image).norm() / image.norm()
    assert error < 0.06
    straight = (project(blobs[row][None], torch.eye(3)[None, None])[0, 0] - image).norm() / image.norm()
    assert straight > 0.5


def test_a_volume_is_zero_where_images_are(state: LatentState) -> None:
    volume = average_volume(state, 1, torch.tensor([[0.0], [1.0]]), 4.0)
    assert volume[_SIDE // 2, _SIDE // 2, _SIDE // 2 + 5] == 0
    assert volume.abs().sum() > 0


@pytest.mark.parametrize("count", [5, 20, 300])
def test_few_images_are_seen_as_often_as_it_takes(count: int) -> None:
    config = AverageVolumesConfig(least_steps=2000)
    model, search = config.schedule(count, rigid=False)
    batch = model.optimiser.batch_size
    assert batch <= count  # else batches step over the epochs that searches begin with
    assert model.epochs * count / batch >= 2000
    assert model.epochs >= config.model.epochs
    assert search.consensus_epochs * count / batch >= 2000
    assert 5 <= len(search.search_epochs(model.epochs, count, cycle=1))


def test_a_rigid_molecule_has_one_volume() -> None:
    model, _ = AverageVolumesConfig().schedule(30, rigid=True)
    assert model.latent_dimensions == 0
    model, _ = AverageVolumesConfig().schedule(30, rigid=False)
    assert model.latent_dimensions > 0


def test_a_training_without_a_search_is_refused() -> None:
    config = AverageVolumesConfig(
        least_steps=0,
        model=LatentVAEConfig(epochs=5.0),
        search=AbInitioConfig(start="random", pretrain_images=100, consensus_epochs=5.0),
    )
    with pytest.raises(InputError, match="more than 10"):
        config.schedule(10, rigid=False)
    with pytest.raises(InputError, match="noise"):
        AverageVolumesConfig(noise=0.0)
    with pytest.raises(InputError, match="least_steps"):
        AverageVolumesConfig(least_steps=-1)
