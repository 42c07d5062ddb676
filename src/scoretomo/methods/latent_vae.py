"""cryoDRGN: a variational autoencoder whose decoder is a volume, trained on images of known poses (004; 003).

Images are Hartley coefficients on a disc of frequencies, of a stack that was divided by the standard deviation of its
noise: the noise of a coefficient has the standard deviation ``side``. A model of an image is
``shift . CTF . slice(R^T k, z) + noise``. The shift is undone on the image, which keeps the norm on the disc; the CTF
is even and real, so it multiplies Hartley coefficients and commutes with the shift.

Poses belong to the state of a training, so that whoever drives it may search them anew between two steps.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..datatypes import InputError
from ..imaging.fourier import hartley, radius_grid, shell_sum
from ..imaging.masks import ball
from ..imaging.slices import SliceFn, disc_frequencies, slice_coefficients, translate_coefficients
from ..limits import check_limits
from ..networks.coordinate_mlp import CoordinateMLP, CoordinateMLPConfig
from ..networks.image_encoder import ImageEncoder, ImageEncoderConfig
from ..optimiser import OptimiserConfig
from ..training import TrainingState, TrainingStep, optimise_progressive
from ..training import new_state as new_training_state

# Frequencies that are decoded at once where no gradient is wanted: some 500 MB of hidden values.
_FREQUENCIES_AT_ONCE = 2**17
# Least amplitude of the decoder's output in a shell, in units of the noise: where noise hides the signal.
_LEAST_AMPLITUDE = 0.1

ImagesAt = Callable[[Int[Tensor, " b"]], tuple[Float[Tensor, "b p"], Float[Tensor, "b p"] | None]]
"""``rows (b,) -> coefficients (b, p), CTF (b, p)``, of images as recorded, neither centred nor corrected.

Rows come on the CPU; what is returned must be where the model is, at the model's ``frequencies``. The CTF is None for
images without one.
"""


@dataclass(frozen=True)
class LatentVAEConfig:
    """What is trained and for how long. Defaults of cryoDRGN2 (003, C.5) unless noted.

    Raises
    ------
    InputError
        A negative number, or no epoch.
    """

    latent_dimensions: int = 8
    """Length of z; 0 fits one volume to all images, without an encoder. 004 has 1 (sections 5.2 and 5.3)."""
    beta: float = 0.05
    """Weight of the divergence of z from its prior; 1 makes the loss the evidence lower bound (004, Eq. 9). With 1, z
    is pulled to the prior before the volumes follow it, and for long stays without use; with 0.05 it soon finds its
    order, at posteriors that are too narrow."""
    disc_radius: float | None = None
    """Radius of the disc in Fourier pixels; None is half the side (004, appendix C)."""
    epochs: float = 30.0
    """Times that every image is seen. 004: 200 for z at known poses, 15 for the last stage of a single volume."""
    decoder: CoordinateMLPConfig = field(default_factory=CoordinateMLPConfig)
    """The volume."""
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """From image to z."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(batch_size=32, warmup_images=1_000))
    """Steps. The papers have Adam of rate 1e-4 (5e-4 for clean images) and batches of 5 to 10 images; Muon needs
    several times fewer images."""

    def __post_init__(self) -> None:
        if self.latent_dimensions < 0 or not self.beta >= 0:
            raise InputError(f"latent_dimensions and beta must be 0 or more, not {self.latent_dimensions}, {self.beta}")
        if not 0 < self.epochs < math.inf:
            raise InputError(f"epochs must be a number above 0, not {self.epochs}")
        if self.disc_radius is not None and not self.disc_radius >= 1:
            raise InputError(f"disc_radius must be 1 Fourier pixel or more, not {self.disc_radius}")
        check_limits(self, latent_dimensions=(0, 1024), beta=(0.0, 1e6), disc_radius=(1.0, 1e5), epochs=(1e-6, 1e6))

    def radius(self, side: int) -> float:
        """Radius of the disc for images of ``side`` pixels."""
        return side / 2 if self.disc_radius is None else min(self.disc_radius, side / 2)


def noise_std(images: Float[Tensor, "n side side"], radius_pixels: float) -> float:
    """Estimate the noise from pixels farther than ``radius_pixels`` from the centre, where the molecule is not.

    Returns
    -------
    float
        Standard deviation of the noise of one pixel, the mean over the images.
    """
    outside = ball(images.shape[-1], 2, radius_pixels, images.device) == 0
    return float(images[:, outside].var(-1).mean().sqrt())


def signal_amplitudes(
    coefficients: Float[Tensor, "n p"],
    ctf: Float[Tensor, "n p"] | None,
    frequencies: Float[Tensor, "p 2"],
    side: int,
) -> Float[Tensor, " k"]:
    """Root mean square of a slice's coefficients, shell by shell, in units of their noise.

    A few hundred images are enough. Shells that hold no signal beyond the noise are given a little.

    Returns
    -------
    Tensor
        ``(k,)``, at a distance of 0, 1, 2, ... Fourier pixels from the origin.
    """
    shells = (frequencies.norm(dim=-1) * side).round().long()
    count = int(shells.max()) + 1

    def by_shell(values: Tensor) -> Tensor:
        return shell_sum(values, shells, count) / torch.bincount(shells, minlength=count)

    power = by_shell(coefficients.square().mean(0)) / side**2 - 1
    if ctf is not None:
        power = power / by_shell(ctf.square().mean(0))
    return power.clamp(min=_LEAST_AMPLITUDE**2).sqrt()


class LatentVAE(nn.Module):
    """A family of volumes over z, and where in it an image belongs.

    Attributes
    ----------
    side
        Edge of the images in pixels.
    frequencies
        ``(p, 2)``, rows of :func:`~scoretomo.imaging.slices.disc_frequencies`: the disc.
    decoder
        Values of order one at frequencies, which :meth:`values` brings to the amplitudes of the data.
    encoder
        None for a single volume.
    """

    frequencies: Tensor
    amplitudes: Tensor

    def __init__(
        self, config: LatentVAEConfig, side: int, amplitudes: Float[Tensor, " k"], *, bfloat16: bool = False
    ) -> None:
        """Freshly drawn weights; ``amplitudes`` are those of :func:`signal_amplitudes`."""
        super().__init__()
        self.side, self.radius = side, config.radius(side)
        latent = config.latent_dimensions
        self.register_buffer("frequencies", disc_frequencies(side, self.radius), persistent=False)
        self.register_buffer("amplitudes", amplitudes.clone())
        self.decoder = CoordinateMLP(config.decoder, side, latent, bfloat16=bfloat16)
        self.encoder = (
            ImageEncoder(config.encoder, len(self.frequencies), latent, bfloat16=bfloat16) if latent else None
        )

    def values(
        self, frequencies: Float[Tensor, "*shape 3"], z: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "*shape"]:
        """Hartley transforms of the volumes at ``z``, at frequencies in cycles per pixel (as for the decoder)."""
        values: Tensor = self.decoder(frequencies, z)
        return self.side * self._amplitude(frequencies) * values

    def slice_fn(self, z: Float[Tensor, " d"] | None = None) -> SliceFn:
        """One volume as a function of any number of frequencies; what it returns has no gradient."""
        place = None if z is None else z[None]

        @torch.no_grad()
        def volume(coordinates: Tensor) -> Tensor:
            chunks = coordinates.reshape(1, -1, 3).split(_FREQUENCIES_AT_ONCE, dim=1)
            return torch.cat([self.values(chunk, place) for chunk in chunks], dim=1).view(coordinates.shape[:-1])

        return volume

    def encode(
        self, centred: Float[Tensor, "b p"], ctf: Float[Tensor, "b p"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log-variance of z for coefficients of centred images.

        The encoder sees them after a Wiener filter in units of the signal, so that neither CTFs nor shells without
        signal have to be learned (004, appendix C, flips phases).
        """
        assert self.encoder is not None, "a single volume has no latent variables"
        transfer = self._amplitude(self.frequencies) * (1 if ctf is None else ctf)
        mean, log_variance = self.encoder(centred / self.side * transfer / (transfer**2 + 1))
        return mean, log_variance

    def _amplitude(self, frequencies: Float[Tensor, "*shape c"]) -> Float[Tensor, "*shape"]:
        """Linear between shells, constant beyond the last."""
        last = len(self.amplitudes) - 1
        shell = (frequencies.norm(dim=-1) * self.side).clamp(max=last)
        below = shell.long().clamp(max=max(0, last - 1))
        above = (below + 1).clamp(max=last)
        return torch.lerp(self.amplitudes[below], self.amplitudes[above], shell - below)


def slice_error(
    model: LatentVAE,
    centred: Float[Tensor, "b p"],
    rotations: Float[Tensor, "b 3 3"],
    ctf: Float[Tensor, "b p"] | None,
    z: Float[Tensor, "b d"] | None,
    radius: float = math.inf,
) -> Float[Tensor, " b"]:
    """Half the squared error of each image's slice over the disc, in units of the noise: p / 2 where all is right.

    ``radius`` in Fourier pixels makes the disc smaller.
    """
    inside = model.frequencies.norm(dim=-1) * model.side <= radius
    slices = slice_coefficients(lambda frequencies: model.values(frequencies, z), rotations, model.frequencies[inside])
    modelled = slices if ctf is None else ctf[:, inside] * slices
    return 0.5 * ((centred[:, inside] - modelled) / model.side).square().sum(-1)


def prior_divergence(mean: Float[Tensor, "b d"], log_variance: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Kullback-Leibler divergence of Gaussians of diagonal covariance from the standard normal distribution."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def training_loss(
    model: LatentVAE,
    coefficients: Float[Tensor, "b p"],
    rotations: Float[Tensor, "b 3 3"],
    shifts_pixels: Float[Tensor, "b 2"],
    ctf: Float[Tensor, "b p"] | None,
    deviates: Float[Tensor, "b d"],
    beta: float = 1.0,
    radius: float = math.inf,
) -> Float[Tensor, " b"]:
    """Negative evidence lower bound of each image (004, Eq. 9), per coefficient: 0.5 where only noise is left.

    Parameters
    ----------
    coefficients, ctf
        Of the images as recorded, on the model's disc.
    shifts_pixels
        Where the density lies, xy, positive to larger index.
    deviates
        Standard normal; where in its posterior the z of each image is taken.
    beta
        Weight of the divergence from the prior.
    radius
        In Fourier pixels; the volumes are to explain the images within it. The encoder sees all of the disc.
    """
    centred = translate_coefficients(coefficients, model.frequencies, -shifts_pixels)
    compared: Tensor = (model.frequencies.norm(dim=-1) * model.side <= radius).sum()
    if model.encoder is None:
        return slice_error(model, centred, rotations, ctf, None, radius).div(compared)
    mean, log_variance = model.encode(centred, ctf)
    z = mean + (log_variance / 2).exp() * deviates
    error = slice_error(model, centred, rotations, ctf, z, radius)
    return (error + beta * prior_divergence(mean, log_variance)).div(compared)


@dataclass
class LatentState:
    """A training under way.

    Attributes
    ----------
    training
        Networks, optimiser and random numbers; its ``averaged`` model is the result.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, the poses of the images, which may be changed in place between steps.
    seed
        Of the order of the images, which is another one in every epoch.
    """

    training: TrainingState
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    seed: int = 0

    @property
    def model(self) -> LatentVAE:
        """The averaged model."""
        assert isinstance(self.training.averaged, LatentVAE)
        return self.training.averaged

    @property
    def epoch(self) -> int:
        """Times that all images have been seen."""
        return self.training.images_seen // len(self.rotations)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, as of :class:`~scoretomo.training.TrainingState`."""
        poses = {"rotations": self.rotations, "shifts_pixels": self.shifts_pixels, "seed": self.seed}
        return {"training": self.training.state_dict(), **poses}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` has given."""
        self.training.load_state_dict(saved["training"])
        self.rotations.copy_(saved["rotations"])
        self.shifts_pixels.copy_(saved["shifts_pixels"])
        self.seed = saved["seed"]


def new_state(
    model: LatentVAE,
    config: LatentVAEConfig,
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    *,
    seed: int = 0,
) -> LatentState:
    """State of a training that has not seen an image; the same seed trains in the same way.

    A model with fresh weights and the poses of another state is the reset of 003 (C.5, "+r").
    """
    device = model.frequencies.device
    training = new_training_state(model, config.optimiser, torch.Generator(device).manual_seed(seed))
    return LatentState(training, rotations.clone().to(device), shifts_pixels.clone().to(device), seed)


def train_progressive(
    state: LatentState,
    images_at: ImagesAt,
    config: LatentVAEConfig,
    *,
    radius: Callable[[int], float] | None = None,
    part: slice = slice(None),
    add_up: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
) -> Iterator[TrainingStep]:
    """Fit the model to images at the poses of the state, one step each time it is asked for the next item.

    Between two items the state is consistent: it may be saved, and its poses may be changed, say where its ``epoch``
    has grown. Every image is seen once in an epoch, in random order.

    Parameters
    ----------
    images_at
        Reads images by their rows.
    radius
        Maps the images seen to the radius of the disc to compare, in Fourier pixels; None is all of the model's disc.
    part, add_up
        What this process does of every batch, where several share it, and how they sum up (see
        :func:`~scoretomo.training.optimise_progressive`).
    """
    count, device = len(state.rotations), state.rotations.device

    def loss(model: nn.Module, batch_size: int, generator: torch.Generator) -> Tensor:
        assert isinstance(model, LatentVAE)
        deviates = torch.randn(batch_size, config.latent_dimensions, generator=generator, device=device)[part]
        seen = state.training.images_seen
        rows = rows_of_batch(seen, batch_size, count, state.seed)[part]
        coefficients, ctf = images_at(rows)
        rotations, shifts = state.rotations[rows.to(device)], state.shifts_pixels[rows.to(device)]
        within = math.inf if radius is None else radius(seen)
        losses = training_loss(model, coefficients, rotations, shifts, ctf, deviates, config.beta, within)
        return losses.sum() / batch_size

    return optimise_progressive(
        state.training, loss, config.optimiser, lambda seen: seen / (config.epochs * count), add_up=add_up
    )


def rows_of_batch(seen: int, batch_size: int, count: int, seed: int) -> Int[Tensor, " b"]:
    """Rows that follow after ``seen`` images: epochs one after another, each in an order that its number decides."""
    places = torch.arange(seen, seen + batch_size)
    epochs = range(seen // count, (seen + batch_size - 1) // count + 1)
    orders = torch.cat([_order(count, seed, epoch) for epoch in epochs])
    return orders[places - epochs[0] * count]


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))


@torch.no_grad()
def encode_images(
    model: LatentVAE, images_at: ImagesAt, shifts_pixels: Float[Tensor, "n 2"], batch_size: int = 256
) -> Float[Tensor, "n d"]:
    """Most probable z of every image (004, section 3.2); rotations do not enter."""
    means = []
    for rows in torch.arange(len(shifts_pixels)).split(batch_size):
        coefficients, ctf = images_at(rows)
        shifts = shifts_pixels[rows.to(shifts_pixels.device)]
        means.append(model.encode(translate_coefficients(coefficients, model.frequencies, -shifts), ctf)[0])
    return torch.cat(means)


@torch.no_grad()
def decode_volumes(model: LatentVAE, z: Float[Tensor, "v d"] | None = None) -> Float[Tensor, "v side side side"]:
    """Volumes at ``z``, one row each, or the single volume, in units of the images' noise."""
    side, device = model.side, model.frequencies.device
    inside = radius_grid(side, 3, device) <= min(model.radius, side / 2)
    if side % 2 == 0:  # samples that have no partner at -k
        inside[0], inside[:, 0], inside[:, :, 0] = False, False, False
    lattice = (inside.nonzero().flip(-1) - side // 2) / side  # xyz
    volumes = lattice.new_zeros(1 if z is None else len(z), side, side, side)
    for row, volume in enumerate(volumes):
        volume[inside] = model.slice_fn(None if z is None else z[row])(lattice)
        volume.copy_(hartley(volume, 3) / side**3)
    return volumes
