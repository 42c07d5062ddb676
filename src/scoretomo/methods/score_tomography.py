"""Score-based random tomography (001): learn the projections of one experiment, then distil them into volumes."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..datatypes import InputError
from ..diffusion.edm import Denoiser, denoising_error, lognormal_sigmas, loss_weight
from ..geometry.rotations import low_discrepancy_rotations
from ..imaging.augmentation import augment
from ..imaging.masks import ball
from ..imaging.projection import back_project, project
from ..limits import check_limits

PIXELS_AT_ONCE_ON_CPU = 2**15
"""Pixels that the denoiser sees in one call; the paper's U-Net holds some 700 values for each."""
_PIXELS_AT_ONCE_ON_GPU = 2**20  # a GPU is faster with more, a processor is not


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise levels the denoiser is trained at."""

    median: float = 0.4
    """Median noise level, in units of the images' standard deviation; EDM (and the paper) 0.30."""
    log_std: float = 0.6
    """Standard deviation of the logarithm of the noise level; EDM (and the paper) 1.2."""

    def __post_init__(self) -> None:
        if not self.median > 0 or self.log_std < 0:
            raise InputError(f"noise levels need a median above 0 and no negative spread, not {self}")
        check_limits(self, median=(1e-6, 1e3), log_std=(0.0, 10.0))


@dataclass(frozen=True)
class ReconstructionConfig:
    """Settings of Algorithm 1."""

    steps: int = 1000
    """Number of updates of each volume (the paper's S)."""
    sigma: float = 0.5
    """Noise level at the first step (the paper's t)."""
    final_sigma: float = 0.5
    """Noise level at the last step; the level changes geometrically in between. The paper keeps it constant."""
    views: int = 2
    """Views of one update at the first step, the base image included (the paper's M)."""
    final_views: int = 2
    """Views of one update at the last step; the number changes linearly in between."""
    anchors: int = 0
    """Views of one update, more than those, that show other class averages in the poses in which they match."""
    rate: float = 1.0
    """Step size (the paper's alpha); with 1 and a single view one step removes the residual of its rays."""
    average: float = 0.0
    """Volumes of this last part of the steps are averaged into the result; 0 gives the last one, as the paper does."""
    support: float = 1.0
    """Radius of the spherical support, beyond which the density is 0, as a fraction of the images' mask radius."""
    floor: float = 1.0
    """Least density, as a multiple of the base image's least value spread over the side; 0 forbids negative density."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"a reconstruction needs 1 step or more, not {self.steps}")
        if not (self.sigma > 0 and self.final_sigma > 0):
            raise InputError(f"noise levels must be above 0, not {self.sigma} and {self.final_sigma}")
        if min(self.views, self.final_views) < 2:
            raise InputError(
                f"an update needs 2 views or more, the base image being one, not {self.views} and {self.final_views}"
            )
        if not (self.rate > 0 and self.support > 0 and 0 <= self.average <= 1):
            raise InputError(f"rate and support must be above 0 and average between 0 and 1, not {self}")
        if self.anchors < 0 or self.floor < 0:
            raise InputError(f"anchors and floor must not be negative, not {self.anchors} and {self.floor}")
        check_limits(
            self,
            steps=(1, 10**7),
            sigma=(1e-6, 1e3),
            final_sigma=(1e-6, 1e3),
            views=(2, 10**4),
            final_views=(2, 10**4),
            anchors=(0, 10**6),
            rate=(1e-6, 100.0),
            support=(1e-3, 10.0),
            floor=(0.0, 1e6),
        )


@dataclass(frozen=True)
class Anchors:
    """Other class averages that a volume should project to, and how it must be turned for that.

    Attributes
    ----------
    images
        ``(k, n, n)``, those of all volumes.
    rotations
        ``(b, m, 3, 3)``, from the frame of each volume to that of each of its images.
    chosen
        ``(b, m)``, which of the images they are.
    """

    images: Float[Tensor, "k n n"]
    rotations: Float[Tensor, "b m 3 3"]
    chosen: Int[Tensor, "b m"]

    def only(self, kept: Int[Tensor, "b l"]) -> "Anchors":
        """Keep some of the images of each volume, by their place in ``chosen``."""
        row = torch.arange(len(kept), device=kept.device)[:, None]
        return Anchors(self.images, self.rotations[row, kept], self.chosen[row, kept])


@dataclass(frozen=True)
class ReconstructionStep:
    """Where Algorithm 1 stands: all that is needed to go on from here, besides the states of the generators."""

    step: int
    """Updates made so far."""
    volumes: Float[Tensor, "b n n n"]
    average: Float[Tensor, "b n n n"] | None
    """Mean over the averaged steps so far; None before the first of them."""
    base_error: Float[Tensor, " b"]
    """Root mean square difference of the first view and the base image."""
    score_error: Float[Tensor, " b"]
    """Root mean square difference of the random views and what the denoiser makes of them."""

    @property
    def result(self) -> Float[Tensor, "b n n n"]:
        """The volumes to use: the average where there is one."""
        return self.volumes if self.average is None else self.average


def training_loss(
    images: Float[Tensor, "n side side"],
    noise: NoiseConfig,
    model: nn.Module,
    batch_size: int,
    generator: torch.Generator,
    *,
    part: slice = slice(None),
) -> Float[Tensor, ""]:
    """Weighted denoising score matching on randomly moved images (001, Eq. 1).

    Of the images of a batch that processes share, only those in ``part`` are denoised: the losses of all parts add up
    to that of the batch, which is drawn as if it were not shared.
    """
    chosen = torch.randint(len(images), (batch_size,), generator=generator, device=generator.device).to(images.device)
    clean = augment(images[chosen], generator=generator)
    sigma = lognormal_sigmas(batch_size, noise.median, noise.log_std, generator=generator, device=images.device)
    error = denoising_error(model, clean, sigma, generator=generator, part=part)
    return (loss_weight(sigma[part]) * error).sum() / batch_size


def reconstruct_progressive(
    denoiser: Denoiser,
    base_images: Float[Tensor, "b n n"],
    config: ReconstructionConfig,
    *,
    generators: Sequence[torch.Generator],
    start: Float[Tensor, "b n n n"] | None = None,
    resume: ReconstructionStep | None = None,
    anchors: Anchors | None = None,
    mask_radius: float | None = None,
) -> Iterator[ReconstructionStep]:
    """Algorithm 1 of 001 for a batch of base images: one volume each, all of them advancing together.

    Descends the reverse KL divergence between the noised projections of a volume and the learned distribution of
    noised images (Eq. 4) along its gradient (Eq. 5). View 0 is the volume as it stands, compared with the base
    image; the others are random, each compared with the denoiser's idea of it. Anchored views, which 001 does not
    have, are compared with images that are known to show the volume from there.

    Parameters
    ----------
    denoiser
        ``(noisy (k, n, n), sigma (k,)) -> clean (k, n, n)``.
    base_images
        ``(b, n, n)``, background 0; volume i projects along z onto base image i.
    config
        Step sizes and schedules.
    generators
        One for each base image, all on one device. It makes every draw of that volume, and its seed says where the
        sequence of views begins, so that what becomes of a volume does not depend on those it advances with.
    start
        Volumes to begin with; zeros if not given.
    resume
        Where an interrupted call had got to, instead of ``start``.
    anchors
        Where the configuration has anchored views: what they show.
    mask_radius
        Radius in pixels beyond which the images are 0; half the side if not given.

    Raises
    ------
    ValueError
        Anchored views without anchors; not one generator for each image.
    """
    if config.anchors and anchors is None:
        raise ValueError(f"the configuration has {config.anchors} anchored views, but there are no anchors")
    if len(generators) != len(base_images):
        raise ValueError(f"there are {len(base_images)} base images, but {len(generators)} generators")
    count, side = base_images.shape[:2]
    radius = config.support * (side // 2 if mask_radius is None else mask_radius)
    support = ball(side, 3, radius, base_images.device)
    floor = config.floor * base_images.amin((1, 2)).clamp(max=0).view(-1, 1, 1, 1) / side
    volumes = base_images.new_zeros(count, side, side, side) if start is None else start
    begin = _sequence_starts(generators, base_images.device)
    first, average = 0, None
    if resume is not None:
        first, volumes, average = resume.step, resume.volumes, resume.average
    del start, resume  # large volumes leave little memory: nothing holds on to those that have changed
    drawn = sum(_schedule(config, step)[1] - 1 for step in range(first))
    first_averaged = config.steps - round(config.average * config.steps)

    for step in range(first, config.steps):
        sigma, views = _schedule(config, step)
        # 1. project
        rotations = low_discrepancy_rotations(begin, drawn, views - 1)
        noise = _draw_noise(generators, views - 1, base_images)
        drawn += views - 1
        targets = base_images.new_zeros(count, 0, side, side)
        if anchors is not None and config.anchors:
            targets, known = _draw_anchors(generators, config.anchors, anchors)
            rotations = torch.cat([rotations, known], dim=1)
        projections = project(volumes, rotations, radius + 2)
        random_views, anchored_views = projections[:, : views - 1], projections[:, views - 1 :]
        # 2. residuals
        noisy = (random_views + sigma * noise).flatten(0, 1)
        score_residual = random_views - _denoise(denoiser, noisy, sigma).view_as(random_views)
        base_residual = volumes.sum(1) - base_images
        # 3. back project; the first view is not rotated, so its rays are the columns of the volume
        residuals = torch.cat([score_residual, anchored_views - targets], dim=1)
        gradient = back_project(residuals, rotations, radius + 2).add_(base_residual[:, None])
        # 4. update, 5. support; in the memory of the gradient, since large volumes leave little
        rate = config.rate / (side * (1 + rotations.shape[1]))
        volumes = gradient.mul_(-rate).add_(volumes).clamp_(min=floor).mul_(support)

        if step >= first_averaged:
            average = volumes if average is None else average.lerp(volumes, 1 / (step - first_averaged + 1))
        yield ReconstructionStep(
            step + 1,
            volumes,
            average,
            base_residual.square().mean((1, 2)).sqrt(),
            score_residual.square().mean((1, 2, 3)).sqrt(),
        )


def reconstruct(
    denoiser: Denoiser,
    base_images: Float[Tensor, "b n n"],
    config: ReconstructionConfig,
    *,
    generators: Sequence[torch.Generator],
    start: Float[Tensor, "b n n n"] | None = None,
    anchors: Anchors | None = None,
) -> Float[Tensor, "b n n n"]:
    """Run :func:`reconstruct_progressive` to its end and give the volumes."""
    steps = reconstruct_progressive(denoiser, base_images, config, generators=generators, start=start, anchors=anchors)
    return deque(steps, maxlen=1)[0].result


def _sequence_starts(generators: Sequence[torch.Generator], device: torch.device) -> Float[Tensor, "b 3"]:
    """Where the views of each volume begin: from its seed, so that an interrupted call finds the place again."""
    own = (torch.Generator().manual_seed(generator.initial_seed()) for generator in generators)
    return torch.stack([torch.rand(3, generator=source, dtype=torch.float64) for source in own]).to(device)


def _draw_noise(
    generators: Sequence[torch.Generator], views: int, images: Float[Tensor, "b n n"]
) -> Float[Tensor, "b views n n"]:
    """Noise of some views of each volume, in one call of its generator."""
    draws = images.new_empty(len(generators), views, *images.shape[1:], device=generators[0].device)
    for own, generator in zip(draws, generators, strict=True):
        own.normal_(generator=generator)
    return draws.to(images.device)


def _draw_anchors(
    generators: Sequence[torch.Generator], count: int, anchors: Anchors
) -> tuple[Float[Tensor, "b count n n"], Float[Tensor, "b count 3 3"]]:
    """Images and rotations of ``count`` anchors for each volume, drawn with replacement."""
    drawn = torch.empty(len(generators), count, dtype=torch.long, device=generators[0].device)
    for own, generator in zip(drawn, generators, strict=True):
        own.random_(anchors.rotations.shape[1], generator=generator)
    some = anchors.only(drawn.to(anchors.images.device))
    return some.images[some.chosen], some.rotations


@torch.no_grad()
def _denoise(denoiser: Denoiser, noisy: Float[Tensor, "k n n"], sigma: float) -> Float[Tensor, "k n n"]:
    """Denoise in parts that bound the memory of the network; many views of many volumes are too much for one call."""
    pixels = PIXELS_AT_ONCE_ON_CPU if noisy.device.type == "cpu" else _PIXELS_AT_ONCE_ON_GPU
    part = max(1, pixels // noisy[0].numel())
    return torch.cat([denoiser(some, some.new_full((len(some),), sigma)) for some in noisy.split(part)])


def _schedule(config: ReconstructionConfig, step: int) -> tuple[float, int]:
    """Noise level and number of views of a step."""
    done = step / max(1, config.steps - 1)
    sigma = config.sigma * (config.final_sigma / config.sigma) ** done
    return sigma, round(config.views + (config.final_views - config.views) * done)
