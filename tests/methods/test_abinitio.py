"""Finding poses and volumes by turns: the schedule, what a search changes, what belongs to each image, resuming."""

import dataclasses
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoretomo.datatypes import InputError
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.rotations import angle_between, random_rotations
from scoretomo.imaging.slices import slice_coefficients
from scoretomo.methods import abinitio
from scoretomo.methods.abinitio import (
    AbInitioState,
    ParticleImages,
    PosesFound,
    branch_and_bound_config,
    find_model_poses,
    train_abinitio_progressive,
)
from scoretomo.methods.abinitio_schedule import AbInitioConfig, SearchGridConfig
from scoretomo.methods.latent_vae import LatentVAE, LatentVAEConfig, new_state, rows_of_batch
from scoretomo.networks.coordinate_mlp import CoordinateMLPConfig
from scoretomo.networks.image_encoder import ImageEncoderConfig
from scoretomo.optimiser import OptimiserConfig
from scoretomo.training import TrainingStep

_SIDE = 16
_COUNT = 24
_CONFIG = LatentVAEConfig(
    latent_dimensions=0,
    epochs=4.0,
    decoder=CoordinateMLPConfig(16, 1, "cryodrgn2"),
    encoder=ImageEncoderConfig(16, 1),
    optimiser=OptimiserConfig(batch_size=5, warmup_images=10),
)
_SEARCH = AbInitioConfig(
    start="random",
    pretrain_images=_COUNT,
    search_every=2,
    images_at_once=8,
    base_order=1,
    refinements=1,
    kept=1,
    march=0.1,
    shift_extent=0.0,
)
_CENTRES = torch.tensor([[-4.0, 1.0, 0.5], [3.0, 0.5, -2.5], [0.0, -3.5, 2.0], [1.0, 3.0, 3.0]])
_HEIGHTS = torch.tensor([1.0, 0.8, 0.6, 1.2])


def _images(rotations: Tensor, moved: Tensor | None = None) -> Tensor:
    """Projections of Gaussian blobs, ``(n, side, side)``; where they are moved, the first along x."""
    centres = _CENTRES.expand(len(rotations), -1, 3).clone()
    if moved is not None:
        centres[:, 0, 0] += moved
    places = centres @ rotations.mT
    axis = torch.arange(_SIDE) - _SIDE // 2
    x = (axis - places[..., 0, None]).square()[:, :, None, :]
    y = (axis - places[..., 1, None]).square()[:, :, :, None]
    return (_HEIGHTS[:, None, None] * (-(x + y) / (2 * 1.4**2)).exp()).sum(1)


class _Blobs(nn.Module):
    """Hartley transform of the blobs, of which z moves the first along x."""

    def __init__(self) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(1.0))

    def forward(self, frequencies: Tensor, z: Tensor | None = None) -> Tensor:
        phases = 2 * torch.pi * frequencies @ _CENTRES.T
        if z is not None:
            phases[..., 0] += 2 * torch.pi * z * frequencies[..., 0]
        decay = (-2 * (torch.pi * 1.4 * frequencies.norm(dim=-1)) ** 2).exp()
        return self.height * decay * ((phases.cos() + phases.sin()) * _HEIGHTS).sum(-1)


def _fresh(config: LatentVAEConfig) -> LatentVAE:
    return _model(config, seed=1)


def _model(config: LatentVAEConfig = _CONFIG, seed: int = 0) -> LatentVAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LatentVAE(config, _SIDE, torch.ones(9))


def _state(config: LatentVAEConfig = _CONFIG) -> AbInitioState:
    still = torch.eye(3).expand(_COUNT, 3, 3)
    return AbInitioState(new_state(_model(config), config, still, torch.zeros(_COUNT, 2)))


def _train(
    state: AbInitioState, search: AbInitioConfig = _SEARCH, method: Any = "search", images: Tensor | None = None
) -> list[tuple[Any, int]]:
    """All items, with the images that had been seen when they came."""
    if images is None:
        images = _images(random_rotations(_COUNT, generator=torch.Generator().manual_seed(3)))
    items = train_abinitio_progressive(
        state, ParticleImages(images), search.cycles(_CONFIG, method), search, method, _fresh
    )
    return [(item, state.latent.training.images_seen) for item in items]


def test_every_image_is_searched_once_in_the_epochs_of_searches_and_never_in_others() -> None:
    images = _images(random_rotations(_COUNT, generator=torch.Generator().manual_seed(3)))
    state, rows = _state(), {epoch: torch.empty(0, dtype=torch.long) for epoch in range(4)}
    for item in train_abinitio_progressive(state, ParticleImages(images), [_CONFIG], _SEARCH, "search", _fresh):
        if isinstance(item, PosesFound):
            epoch = (state.searched - 1) // _COUNT
            rows[epoch] = torch.cat([rows[epoch], item.rows])
    assert sorted(rows[1].tolist()) == list(range(_COUNT))  # the first epoch is at random poses
    assert len(rows[3].unique()) == len(rows[3])
    assert len(rows[3]) == _COUNT
    assert len(rows[0]) == len(rows[2]) == 0


def test_images_are_searched_before_they_are_trained_on() -> None:
    searched: set[int] = set()
    before = 0
    for item, seen in _train(_state()):
        if isinstance(item, PosesFound):
            searched |= set(item.rows.tolist())
        else:
            if _COUNT <= before < 2 * _COUNT - 5:
                assert set(rows_of_batch(before, 5, _COUNT, 0).tolist()) <= searched
            before = seen


def test_poses_of_the_first_epoch_are_random_and_those_of_a_known_set_untouched() -> None:
    state = _state()
    items = train_abinitio_progressive(
        state, ParticleImages(_images(state.latent.rotations)), [_CONFIG], _SEARCH, "search", _fresh
    )
    for _ in range(4):
        assert isinstance(next(items), TrainingStep)
    turned = angle_between(state.latent.rotations, torch.eye(3).expand(_COUNT, 3, 3))
    assert turned.min() > 1 and 90 < turned.median() < 160  # of the Haar measure: 126
    known = _state()
    assert not any(isinstance(item, PosesFound) for item, _ in _train(known, method="known"))
    torch.testing.assert_close(known.latent.rotations, torch.eye(3).expand(_COUNT, 3, 3))


def test_a_reset_keeps_poses_and_nothing_else() -> None:
    state, search = _state(), dataclasses.replace(_SEARCH, resets=1, search_every=1)
    data = ParticleImages(_images(random_rotations(_COUNT)))
    items = train_abinitio_progressive(state, data, [_CONFIG, _CONFIG], search, "search", _fresh)
    while state.cycle == 0:
        rotations = state.latent.rotations.clone()
        next(items)
    assert state.latent.training.images_seen == 5
    torch.testing.assert_close(state.latent.rotations, rotations)
    fresh = _model(seed=1)
    now = state.latent.training.model
    moved = [(a - b).abs().max() for a, b in zip(now.parameters(), fresh.parameters(), strict=True)]
    assert max(moved) < 0.05  # one step away from the weights of the seed
    assert state.part_done([_CONFIG, _CONFIG]) == pytest.approx(0.5 + 5 / (4 * _COUNT) / 2)
    later = [item.rows for item in items if isinstance(item, PosesFound)]
    assert len(torch.cat(later).unique()) == _COUNT


@pytest.mark.parametrize("stopped_after", [2, 7, 8, 12])
def test_a_resumed_training_equals_an_uninterrupted_one(stopped_after: int) -> None:
    images = _images(random_rotations(_COUNT, generator=torch.Generator().manual_seed(3)))
    whole = _state()
    _train(whole, images=images)
    begun = _state()
    items = train_abinitio_progressive(begun, ParticleImages(images), [_CONFIG], _SEARCH, "search", _fresh)
    for _ in range(stopped_after):
        next(items)
    buffer = io.BytesIO()
    torch.save(begun.state_dict(), buffer)
    buffer.seek(0)
    resumed = _state()
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    _train(resumed, images=images)
    torch.testing.assert_close(resumed.latent.rotations, whole.latent.rotations, rtol=0, atol=0)
    for a, b in zip(resumed.latent.model.parameters(), whole.latent.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["search", "branch-and-bound"])
def test_poses_are_found_against_a_model_that_is_right(method: Any, generator: torch.Generator) -> None:
    rotations = random_rotations(4, generator=generator)
    model = _model()
    model.decoder = _Blobs()  # type: ignore[assignment]
    grid = dataclasses.replace(_SEARCH, kept=4, refinements=3).grid(_SIDE)
    rows = torch.arange(4)
    found = find_model_poses(
        model, ParticleImages(_images(rotations)), rows, grid, method, shifts_pixels=torch.zeros(4, 2)
    )
    assert angle_between(found.rotations[:, 0], rotations).max() < 5


@pytest.mark.parametrize(("side", "extent", "count"), [(128, 10 / 128, 7), (64, 10 / 128, 7), (128, 20 / 128, 14)])
def test_branch_and_bound_has_the_spacings_of_004_however_far_it_searches(side: int, extent: float, count: int) -> None:
    """49 shifts over 20 pixels of 128, halved five times, to 0.09 pixels (004, appendix A)."""
    grid = branch_and_bound_config(SearchGridConfig(shift_extent=extent).grid(side), side).grid
    assert (grid.base_order, grid.refinements, grid.shift_count) == (1, 5, count)
    assert 2 * grid.shift_extent_pixels / grid.shift_count / 2**5 == pytest.approx(0.0893 * side / 128, rel=0.01)
    assert branch_and_bound_config(SearchGridConfig(shift_extent=0.0).grid(side), side).grid.shift_count == 1


def test_each_image_is_searched_against_the_volume_at_its_own_z(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotations, moved = random_rotations(3, generator=generator), torch.tensor([-4.0, 0.0, 4.0])
    config = dataclasses.replace(_CONFIG, latent_dimensions=1)
    model = _model(config)
    model.decoder = _Blobs()  # type: ignore[assignment]
    monkeypatch.setattr(model, "encode", lambda centred, ctf: (moved[rows, None], torch.zeros(len(centred), 1)))
    rows = torch.tensor([2, 0])
    grid = dataclasses.replace(_SEARCH, kept=4, refinements=3).grid(_SIDE)
    data = ParticleImages(_images(rotations, moved))
    found = find_model_poses(model, data, rows, grid, "search", shifts_pixels=torch.zeros(2, 2))
    assert angle_between(found.rotations[:, 0], rotations[rows]).max() < 10
    assert found.scores[:, 0].min() > 0.97


@pytest.mark.parametrize("latent", [0, 1])
def test_a_search_in_parts_finds_what_a_whole_one_does(
    latent: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotations, signs = random_rotations(7, generator=generator), torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
    rows = torch.tensor([6, 0, 3, 1, 5, 4, 2])
    model = _model(dataclasses.replace(_CONFIG, latent_dimensions=latent))
    model.decoder = _Blobs()  # type: ignore[assignment]
    images = signs[:, None, None] * _images(rotations, 4 * signs * latent)
    data = ParticleImages(images, lambda rows, frequencies: signs[rows, None].expand(-1, len(frequencies)))
    # z and the contrast transfer follow the image
    monkeypatch.setattr(model, "encode", lambda centred, ctf: (4 * ctf[:, :1], torch.zeros(len(centred), 1)))

    def shared(work: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        places = torch.arange(len(rows))
        parts = [places[::2], places[1::2]]
        return torch.cat([work(rows[part]) for part in parts if len(part)])[torch.cat(parts).argsort()]

    grid = dataclasses.replace(_SEARCH, kept=3, refinements=2, shift_extent=0.1).grid(_SIDE)
    search = partial(find_model_poses, model, data, rows, grid, "search", shifts_pixels=torch.zeros(7, 2), volumes=3)
    whole, split = search(), search(shared=shared)
    assert whole.scores[:, 0].min() > 0.9
    torch.testing.assert_close(split.scores, whole.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(split.rotations[:, 0], whole.rotations[:, 0])
    torch.testing.assert_close(split.shifts_pixels[:, 0], whole.shifts_pixels[:, 0])


def test_contrast_transfer_follows_its_image(generator: torch.Generator) -> None:
    """Images of one view whose contrast is turned over at random are told apart by their transfer only."""
    rotations, signs = random_rotations(1, generator=generator).expand(4, 3, 3), torch.tensor([1.0, -1.0, -1.0, 1.0])
    model = _model()
    model.decoder = _Blobs()  # type: ignore[assignment]
    data = ParticleImages(
        signs[:, None, None] * _images(rotations),
        lambda rows, frequencies: signs[rows, None].expand(-1, len(frequencies)),
    )
    coefficients, ctf = data.at(model.frequencies)(torch.tensor([1, 3]))
    assert ctf is not None and ctf[:, 0].tolist() == [-1.0, 1.0]
    expected = slice_coefficients(model.slice_fn(), rotations[:1], model.frequencies) / _SIDE
    assert torch.nn.functional.cosine_similarity(ctf * coefficients, expected).min() > 0.99
    rows = torch.tensor([1, 0])
    grid = dataclasses.replace(_SEARCH, kept=4, refinements=2).grid(_SIDE)
    found = find_model_poses(model, data, rows, grid, "search", shifts_pixels=torch.zeros(2, 2))
    assert found.scores[:, 0].min() > 0.97


@pytest.mark.parametrize(("disc", "last"), [(None, 8.0), (6.0, 6.0)])
def test_the_band_grows_from_search_to_search_and_not_beyond_the_disc_of_the_network(
    monkeypatch: pytest.MonkeyPatch, disc: float | None, last: float
) -> None:
    radii = []
    original = abinitio.find_model_poses

    def spy(model: LatentVAE, data: Any, rows: Tensor, grid: Any, method: Any, **others: Any) -> Any:
        radii.append(grid.high_radius)
        return original(model, data, rows, grid, method, **others)

    monkeypatch.setattr(abinitio, "find_model_poses", spy)
    _train(_state(dataclasses.replace(_CONFIG, disc_radius=disc)))
    assert radii[0] == 5.0 and radii[-1] == last and radii == sorted(radii)


def test_grids_are_those_of_the_paper_at_128_pixels_and_fit_smaller_images() -> None:
    grid = AbInitioConfig().grid(128)
    assert (grid.low_radius, grid.high_radius, grid.shift_extent_pixels) == (12.0, 48.0, 20.0)
    assert (grid.base_order, grid.refinements, grid.kept, grid.shift_count) == (2, 4, 8, 14)
    small = AbInitioConfig().grid(32)
    assert (small.low_radius, small.high_radius, small.shift_extent_pixels) == (8.0, 16.0, 5.0)


def test_schedule_of_the_paper_and_of_fewer_images() -> None:
    search = AbInitioConfig(start="random")
    # in every epoch while the disc grows, then in every fifth, as the paper's
    assert search.search_epochs(30.0, 50_000, cycle=0) == [1, 2, 3, 8, 13, 18, 23, 28]
    assert search.search_epochs(30.0, 50_000, cycle=1) == [5, 10, 15, 20, 25]
    assert search.search_epochs(31.0, 5000, cycle=0) == [*range(1, 14), 18, 23, 28]
    # few images are seen in hundreds of epochs, and not searched in each
    assert len(search.search_epochs(500.0, 60, cycle=0)) < 50 < 2 * len(search.search_epochs(500.0, 60, cycle=0))
    assert len(search.search_epochs(500.0, 60, cycle=1)) < 30
    assert search.pretrain_epochs(500, cycle=0) == search.search_epochs(31.0, 500, cycle=0)[0] == 2
    assert search.pretrain_epochs(500, cycle=1) == 0
    # new networks see 10 000 images before they decide
    assert search.search_epochs(60.0, 500, cycle=1)[0] == 20


def test_the_disc_grows_from_the_first_radius_to_the_last_and_training_sees_a_little_more() -> None:
    search = AbInitioConfig(start="random", first_radius=5.0, high_radius=15.0, march=0.5)
    assert [search.radius(32, grown) for grown in (0.0, 0.5, 1.0)] == [5.0, 10.0, 15.0]
    assert search.trained_radius(32, 0.5) > 10.0
    assert search.trained_radius(32, 1.0) >= 16.0  # all of it
    small, large = search.grid_at(32, 0.0), search.grid_at(32, 1.0)
    assert small.refinements < large.refinements  # finer poses than the disc can tell are not looked for
    assert search.grown(1000, 11.0, 1000, cycle=0) == 0.0  # the epoch at random poses does not count
    assert search.grown(3500, 11.0, 1000, cycle=0) == 0.5
    assert search.grown(6000, 11.0, 1000, cycle=0) == 1.0
    assert search.grown(0, 11.0, 1000, cycle=1) == 1.0
    # a large set makes its volume in fewer epochs
    assert search.grown(100_000, 31.0, 50_000, cycle=0) == 0.5
    assert search.grown(750_000, 31.0, 500_000, cycle=0) == 0.5


@pytest.mark.parametrize("count", [1000, 5000, 12_000, 50_000, 500_000])
def test_nothing_is_trained_on_frequencies_that_poses_do_not_know_of(count: int) -> None:
    """Images are searched just before they are trained on, or lately, on nearly the disc that is trained on."""
    search, epochs = AbInitioConfig(start="random"), 31.0
    searched = search.search_epochs(epochs, count, cycle=0)
    for epoch in set(range(1, 31)) - set(searched):
        last = max(each for each in searched if each < epoch)
        known, trained = (
            search.radius(128, search.grown(seen * count, epochs, count, 0)) for seen in (last, epoch + 1)
        )
        assert trained < 1.1 * known


def test_a_family_of_volumes_follows_one_volume_for_all() -> None:
    family = dataclasses.replace(_CONFIG, latent_dimensions=2)
    search = AbInitioConfig(consensus_epochs=7.0, resets=1)
    cycles = search.cycles(family, "search")
    assert [each.latent_dimensions for each in cycles] == [0, 2, 2]
    assert [each.epochs for each in cycles] == [7.0, 4.0, 4.0]
    assert search.cycles(family, "known") == [family]
    assert search.cycles(_CONFIG, "branch-and-bound") == [_CONFIG, _CONFIG]


def test_the_family_begins_at_the_poses_of_the_consensus(generator: torch.Generator) -> None:
    family = dataclasses.replace(_CONFIG, latent_dimensions=2)
    search = dataclasses.replace(_SEARCH, consensus_epochs=2.0)
    cycles = search.cycles(family, "search")
    data = ParticleImages(_images(random_rotations(_COUNT, generator=generator)))
    state = _state(cycles[0])
    items = train_abinitio_progressive(state, data, cycles, search, "search", _fresh)
    while state.cycle == 0:
        assert state.latent.model.encoder is None
        rotations = state.latent.rotations.clone()
        next(items)
    assert state.latent.model.encoder is not None
    torch.testing.assert_close(state.latent.rotations, rotations)


@pytest.mark.parametrize("wrong", [{"search_every": 0}, {"resets": -1}, {"shift_extent": 20.0}, {"kept": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"search_every|resets|part of the side|kept"):
        AbInitioConfig(**wrong)


@pytest.mark.slow
def test_poses_and_volume_are_found_from_nothing(generator: torch.Generator) -> None:
    """Left out of the daily run: a quarter of a minute."""
    count = 300
    rotations = random_rotations(count, generator=generator)
    config = dataclasses.replace(_CONFIG, epochs=16.0, decoder=CoordinateMLPConfig(64, 3, "cryodrgn2"))
    state = AbInitioState(new_state(_model(config), config, rotations[torch.randperm(count)], torch.zeros(count, 2)))
    search = AbInitioConfig(
        start="random", pretrain_images=300, search_every=1, images_at_once=64, refinements=2, kept=4, shift_extent=0.0
    )
    data = ParticleImages(10 * _images(rotations))
    for _ in train_abinitio_progressive(state, data, [config], search, "search", _fresh):
        pass
    assert pose_errors(state.latent.rotations, rotations).frobenius_squared.median() < 0.02
