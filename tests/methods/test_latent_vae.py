"""cryoDRGN at given poses: the model of an image, the loss, what is learned, and how a training is resumed.

Objects are sums of Gaussian blobs, whose projections and Hartley transforms are known in closed form.
"""

import dataclasses
import io
import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from scoretomo.datatypes import InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, translate
from scoretomo.imaging.projection import project
from scoretomo.imaging.slices import disc_frequencies, image_coefficients
from scoretomo.methods import latent_vae
from scoretomo.methods.latent_vae import (
    ImagesAt,
    LatentState,
    LatentVAE,
    LatentVAEConfig,
    decode_volumes,
    encode_images,
    new_state,
    noise_std,
    prior_divergence,
    signal_amplitudes,
    slice_error,
    train_progressive,
    training_loss,
)
from scoretomo.networks.coordinate_mlp import CoordinateMLPConfig
from scoretomo.networks.image_encoder import ImageEncoderConfig
from scoretomo.optimiser import OptimiserConfig

_SIDE = 16
_WIDTH = 1.4
_CENTRES = torch.tensor([[-2.0, 1.0, 0.5], [2.0, 0.5, -1.5], [0.0, -2.5, 2.0], [1.0, 2.0, 2.0]])
_CONFIG = LatentVAEConfig(
    latent_dimensions=0,
    epochs=8.0,
    decoder=CoordinateMLPConfig(64, 3, "cryodrgn2"),
    encoder=ImageEncoderConfig(64, 2),
    optimiser=OptimiserConfig(learning_rate=3e-3, batch_size=8, warmup_images=40),
)
_LATENT = dataclasses.replace(_CONFIG, latent_dimensions=1)


class _Blobs(nn.Module):
    """Hartley transform of Gaussian blobs; the first is moved along x by z, where there is one."""

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(1.0))
        self.unit = unit

    def forward(self, frequencies: Tensor, z: Tensor | None = None) -> Tensor:
        phases = 2 * math.pi * frequencies @ _CENTRES.T
        if z is not None:
            phases[..., 0] += 2 * math.pi * z * frequencies[..., 0]
        decay = (2 * math.pi) ** 1.5 * _WIDTH**3 * (-2 * (math.pi * _WIDTH * frequencies.norm(dim=-1)) ** 2).exp()
        return self.height * decay * (phases.cos() + phases.sin()).sum(-1) / self.unit


def _images(rotations: Tensor, moved: Tensor | None = None, side: int = _SIDE) -> Tensor:
    """Projections of the blobs, ``(n, side, side)``."""
    centres = _CENTRES.expand(len(rotations), -1, 3).clone()
    if moved is not None:
        centres[:, 0, 0] += moved
    places = centres @ rotations.mT
    axis = torch.arange(side) - side // 2
    x = (axis - places[..., 0, None]).square()[:, :, None, :]
    y = (axis - places[..., 1, None]).square()[:, :, :, None]
    return math.sqrt(2 * math.pi) * _WIDTH * (-(x + y) / (2 * _WIDTH**2)).exp().sum(1)


def _model(config: LatentVAEConfig = _CONFIG, coefficients: Tensor | None = None, seed: int = 0) -> LatentVAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        disc = disc_frequencies(_SIDE, config.radius(_SIDE))
        amplitudes = torch.ones(9) if coefficients is None else signal_amplitudes(coefficients, None, disc, _SIDE)
        return LatentVAE(config, _SIDE, amplitudes)


def _true_model(config: LatentVAEConfig = _CONFIG) -> LatentVAE:
    model = _model(config)
    model.decoder = _Blobs(_SIDE)  # type: ignore[assignment]  # the model brings order one to the units of the data
    return model


def _held(coefficients: Tensor, ctf: Tensor | None = None) -> ImagesAt:
    return lambda rows: (coefficients[rows], None if ctf is None else ctf[rows])


def _transfer(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An even function of frequency that changes its sign, as images ``(n, side, side)`` and on the disc."""
    curve = 2 + 12 * torch.rand(n, 1, 1, generator=generator)
    on_grid = (curve * radius_grid(_SIDE, 2) / _SIDE * 2 + 0.5).sin()
    row, column = ((disc_frequencies(_SIDE, _SIDE / 2) * _SIDE).round().long() + _SIDE // 2).flip(-1).unbind(-1)
    return on_grid, on_grid[:, row, column]


def _recorded(generator: torch.Generator, n: int = 20) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images made in real space, with a CTF and shifts: coefficients, rotations, shifts, CTF on the disc."""
    rotations, shifts = random_rotations(n, generator=generator), 2 * torch.randn(n, 2, generator=generator)
    on_grid, ctf = _transfer(n, generator)
    images = translate(centred_inverse_fft(centred_fft(_images(rotations), 2) * on_grid, 2), shifts)
    return image_coefficients(images, disc_frequencies(_SIDE, _SIDE / 2)), rotations, shifts, ctf


def _fit(state: LatentState, images_at: ImagesAt, config: LatentVAEConfig) -> LatentState:
    for _ in train_progressive(state, images_at, config):
        pass
    return state


def test_the_residual_and_its_gradient_vanish_at_the_true_volume_poses_and_ctf(generator: torch.Generator) -> None:
    """Of images that were moved and blurred in real space."""
    coefficients, rotations, shifts, ctf = _recorded(generator)
    model = _true_model()
    nothing = torch.zeros(len(shifts), 0)
    power = 0.5 * (coefficients / _SIDE).square().mean(-1)
    losses = training_loss(model, coefficients, rotations, shifts, ctf, nothing)
    (slope,) = torch.autograd.grad(losses.sum(), model.decoder.parameters())
    assert (losses / power).max() < 1e-3
    wrong = {
        "shift": training_loss(model, coefficients, rotations, -shifts, ctf, nothing),
        "rotation": training_loss(model, coefficients, rotations.mT, shifts, ctf, nothing),
        "no CTF": training_loss(model, coefficients, rotations, shifts, None, nothing),
        "another CTF": training_loss(model, coefficients, rotations, shifts, ctf.roll(1, 0), nothing),
    }
    for name, values in wrong.items():
        assert (values / power).median() > 0.05, name
    (steep,) = torch.autograd.grad(wrong["no CTF"].sum(), model.decoder.parameters())
    assert slope.abs() < 0.01 * steep.abs()


def test_noise_alone_costs_half_a_unit_for_each_coefficient(generator: torch.Generator) -> None:
    """The loss is in units of the noise: images are divided by its standard deviation."""
    rotations, model = random_rotations(200, generator=generator), _true_model()
    noisy = _images(rotations) + torch.randn(200, _SIDE, _SIDE, generator=generator)
    coefficients = image_coefficients(noisy, model.frequencies)
    losses = training_loss(model, coefficients, rotations, torch.zeros(200, 2), None, torch.zeros(200, 0))
    assert losses.mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_divergence_is_that_of_the_distributions(generator: torch.Generator) -> None:
    mean, log_variance = torch.randn(2, 5, 3, generator=generator)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(prior_divergence(mean, log_variance), expected)
    torch.testing.assert_close(prior_divergence(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2))


def test_the_loss_is_the_error_at_a_draw_of_z_and_beta_times_the_divergence(generator: torch.Generator) -> None:
    model = _true_model(_LATENT)
    rotations, deviates = random_rotations(6, generator=generator), torch.randn(6, 1, generator=generator)
    centred = image_coefficients(_images(rotations), model.frequencies)
    mean, log_variance = model.encode(centred, None)
    error = slice_error(model, centred, rotations, None, mean + (log_variance / 2).exp() * deviates)
    for beta in (1.0, 7.0):
        loss = training_loss(model, centred, rotations, torch.zeros(6, 2), None, deviates, beta)
        expected = (error + beta * prior_divergence(mean, log_variance)) / len(model.frequencies)
        torch.testing.assert_close(loss, expected)
    assert not torch.allclose(error, slice_error(model, centred, rotations, None, mean))


def test_the_encoder_sees_centred_images_whose_ctf_is_corrected(generator: torch.Generator) -> None:
    """z does not depend on where the particle lies, nor on the sign of the contrast if the CTF says it."""
    model = _model(_LATENT)
    images = _images(random_rotations(5, generator=generator))
    shifts = torch.randn(5, 2, generator=generator)
    ctf = _transfer(5, generator)[1]
    here = image_coefficients(images, model.frequencies)
    there = image_coefficients(translate(images, shifts), model.frequencies)
    z = encode_images(model, _held(here), torch.zeros(5, 2))
    assert z.shape == (5, 1) and z.std() > 1e-3
    torch.testing.assert_close(encode_images(model, _held(there), shifts, batch_size=2), z, atol=1e-4, rtol=0)
    assert not torch.allclose(encode_images(model, _held(there), torch.zeros(5, 2)), z, atol=1e-2)
    bright = encode_images(model, _held(ctf * here, ctf), torch.zeros(5, 2))
    dark = encode_images(model, _held(-ctf * here, -ctf), torch.zeros(5, 2))
    torch.testing.assert_close(bright, dark)
    assert not torch.allclose(bright, encode_images(model, _held(-ctf * here, ctf), torch.zeros(5, 2)), atol=1e-2)


@pytest.mark.parametrize("at_once", [100, 10_000])
def test_a_volume_is_decoded_at_its_place_and_height(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_vae, "_FREQUENCIES_AT_ONCE", at_once)
    axis = torch.arange(_SIDE) - _SIDE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distances = (torch.stack([x, y, z], dim=-1)[..., None, :] - _CENTRES).square().sum(-1)
    truth = (-distances / (2 * _WIDTH**2)).exp().sum(-1)
    volumes = decode_volumes(_true_model())
    torch.testing.assert_close(volumes[0], truth, atol=0.02, rtol=0)


def test_volumes_follow_their_latent_variables(generator: torch.Generator) -> None:
    """Decoded at z, a volume has the projections of the object in that state."""
    model, places = _true_model(_LATENT), torch.tensor([[-1.0], [2.0]])
    volumes, rotations = decode_volumes(model, places), random_rotations(2, generator=generator)
    for row in (0, 1):
        disc = disc_frequencies(_SIDE, 5.0)
        expected = image_coefficients(_images(rotations, places[row].expand(2)), disc)
        found = image_coefficients(project(volumes[row][None], rotations[None])[0], disc)
        assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.995
        on_slice = model.slice_fn(places[row])(disc @ rotations[:, :2])
        torch.testing.assert_close(on_slice, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


def test_amplitudes_are_those_of_the_signal_under_noise_and_ctf(generator: torch.Generator) -> None:
    rotations, disc = random_rotations(400, generator=generator), disc_frequencies(_SIDE, _SIDE / 2)
    clean = image_coefficients(3 * _images(rotations), disc)
    expected = signal_amplitudes(clean + _SIDE * torch.randn(clean.shape, generator=generator), None, disc, _SIDE)
    shells = (disc.norm(dim=-1) * _SIDE).round().long()
    true = torch.stack([(clean[:, shells == k] / _SIDE).square().mean().sqrt() for k in range(9)])
    torch.testing.assert_close(expected[:4], true[:4], rtol=0.05, atol=0)
    assert (expected >= 0.1).all()  # where there is noise only
    ctf = _transfer(400, generator)[1]
    blurred = ctf * clean + _SIDE * torch.randn(clean.shape, generator=generator)
    torch.testing.assert_close(signal_amplitudes(blurred, ctf, disc, _SIDE)[:4], true[:4], rtol=0.1, atol=0)


def test_the_noise_is_measured_where_the_molecule_is_not(generator: torch.Generator) -> None:
    images = _images(random_rotations(30, generator=generator), side=24)
    images = images + 3 * torch.randn(images.shape, generator=generator) + 5
    assert noise_std(images, 9.0) == pytest.approx(3, rel=0.05)


def test_a_single_volume_is_learned_from_its_projections(generator: torch.Generator) -> None:
    """What was fitted has the projections of the object under rotations that it was not fitted to."""
    rotations = random_rotations(150, generator=generator)
    images = 5 * _images(rotations)
    coefficients = image_coefficients(images, disc_frequencies(_SIDE, _SIDE / 2))
    state = new_state(_model(coefficients=coefficients), _CONFIG, rotations, torch.zeros(150, 2))
    _fit(state, _held(coefficients), _CONFIG)
    new = random_rotations(20, generator=generator)
    views = project(decode_volumes(state.model), new[None])[0]
    expected = 5 * _images(new)
    assert torch.nn.functional.cosine_similarity(views.flatten(1), expected.flatten(1)).min() > 0.98
    assert ((views * expected).sum() / expected.square().sum()).item() == pytest.approx(1, abs=0.04)


def test_z_orders_the_conformations(generator: torch.Generator) -> None:
    """A blob that moves along a line: one latent variable is its place, and volumes at z show it there."""
    n = 300
    moved, rotations = 6 * torch.rand(n, generator=generator) - 3, random_rotations(n, generator=generator)
    noisy = 3 * _images(rotations, moved) + torch.randn(n, _SIDE, _SIDE, generator=generator)
    coefficients = image_coefficients(noisy, disc_frequencies(_SIDE, _SIDE / 2))
    state = new_state(_model(_LATENT, coefficients), _LATENT, rotations, torch.zeros(n, 2))
    _fit(state, _held(coefficients), _LATENT)
    z = encode_images(state.model, _held(coefficients), state.shifts_pixels)[:, 0]
    assert abs(spearmanr(z, moved)[0]) > 0.9


@pytest.mark.parametrize("config", [_CONFIG, _LATENT])
def test_a_resumed_training_is_bitwise_the_uninterrupted_one(
    config: LatentVAEConfig, generator: torch.Generator
) -> None:
    """Through the bytes of a checkpoint, in the middle of an epoch, after the poses have been changed."""
    rotations, shifts = random_rotations(20, generator=generator), torch.randn(20, 2, generator=generator)
    better = random_rotations(20, generator=generator)
    coefficients = image_coefficients(_images(rotations), disc_frequencies(_SIDE, _SIDE / 2))
    config = dataclasses.replace(config, epochs=3.0)

    def begin(seed: int) -> LatentState:
        return new_state(_model(config, seed=seed), config, rotations, shifts, seed=seed)

    whole = begin(5)
    steps = train_progressive(whole, _held(coefficients), config)
    losses, file = [], io.BytesIO()
    for number, step in enumerate(steps):
        losses.append(step.loss)
        if number == 3:
            assert whole.epoch == 1
            whole.rotations.copy_(better)
            torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = begin(6)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    rest = [step.loss for step in train_progressive(resumed, _held(coefficients), config)]
    assert rest == losses[4:] and len(rest) == 4
    for found, wanted in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(resumed.rotations, better) and not torch.equal(rotations, better)


def test_every_image_is_seen_once_in_an_epoch_in_another_order(generator: torch.Generator) -> None:
    coefficients = torch.randn(20, len(disc_frequencies(_SIDE, _SIDE / 2)), generator=generator)
    seen: list[int] = []

    def images_at(rows: Tensor) -> tuple[Tensor, None]:
        seen.extend(rows.tolist())
        return coefficients[rows], None

    config = dataclasses.replace(_CONFIG, epochs=4.0)
    _fit(new_state(_model(), config, random_rotations(20, generator=generator), torch.zeros(20, 2)), images_at, config)
    orders = [seen[20 * epoch : 20 * (epoch + 1)] for epoch in range(4)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_processes_that_share_a_batch_add_up_to_the_whole(generator: torch.Generator) -> None:
    rotations = random_rotations(20, generator=generator)
    coefficients = image_coefficients(_images(rotations), disc_frequencies(_SIDE, _SIDE / 2))

    def first_loss(part: slice) -> Tensor:
        state = new_state(_model(_LATENT), _LATENT, rotations, torch.zeros(20, 2))
        return next(train_progressive(state, _held(coefficients), _LATENT, part=part)).loss

    shares = [first_loss(slice(index, None, 3)) for index in range(3)]
    torch.testing.assert_close(sum(shares), first_loss(slice(None)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dimensions": -1}, "latent_dimensions and beta"),
        ({"beta": -0.1}, "latent_dimensions and beta"),
        ({"epochs": 0.0}, "epochs must be a number above 0"),
        ({"disc_radius": 0.5}, "disc_radius must be 1"),
    ],
)
def test_settings_that_train_nothing_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatentVAEConfig(**settings)  # type: ignore[arg-type]
