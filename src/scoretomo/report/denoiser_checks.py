"""What a denoiser has learned: images that it makes up, beside the training images that are most like them.

A good denoiser makes up images that look like class averages. If all of them were copies of training images, it would
have learned those by heart, and would know nothing of the views in between. How much a sample is like its nearest
training image is therefore compared with how much a class average, cleaned by the same denoiser, is like its nearest
other one.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.edm import Denoiser
from ..diffusion.sampling import heun, karras_sigmas
from ..imaging.fourier import resize

_STEPS = 16
# Noise levels in training are lognormal: samples begin and end so many of its standard deviations from the median.
_BEGIN, _END = 2.5, -3.0
# Images are compared at this side, turned in steps of 360 degrees by so many.
_COMPARED_SIDE, _TURNS = 32, 60
_REFERENCES = 16
# Class averages are cleaned by sampling on from this part of the median noise level: it keeps what they show.
_CLEANED_FROM = 0.5
# Samples nearer to a training image than this part of what class averages are to one another are copies.
_COPY = 0.4
# Farther than this many times as much: the denoiser has more to learn.
_LOOSE = 2.0


@dataclass(frozen=True)
class MadeUp:
    """What a denoiser makes, from nothing and from class averages.

    Attributes
    ----------
    samples
        ``(k, side, side)``, made up.
    cleaned
        ``(r, side, side)``, class averages after a little noise and its removal: those of :func:`references`.
    """

    samples: Float[Tensor, "k side side"]
    cleaned: Float[Tensor, "r side side"]


@dataclass(frozen=True)
class DenoiserChecks:
    """Samples of a denoiser and what they are like.

    Attributes
    ----------
    samples
        ``(k, side, side)``, made up.
    nearest
        ``(k, side, side)``, the training image most like each, turned to fit.
    index
        ``(k,)``, which that is.
    correlation
        ``(k,)``, how alike they are.
    usual
        Median correlation of cleaned class averages with their nearest other one.
    """

    samples: Float[Tensor, "k side side"]
    nearest: Float[Tensor, "k side side"]
    index: Int[Tensor, " k"]
    correlation: Float[Tensor, " k"]
    usual: float

    @property
    def copies(self) -> bool:
        """Whether the samples are much more like training images than those are like one another."""
        return 1 - self.correlation.median().item() < _COPY * (1 - self.usual)

    @property
    def words(self) -> str:
        """What the figures say."""
        found = f"{self.correlation.median():.2f} with their nearest training image"
        usual = f"class averages reach {self.usual:.2f} with their nearest other one"
        verdict = "They are images of their own, not copies learned by heart"
        if self.copies:
            verdict = "They are nearly copies: there may be too few class averages to learn what lies between them"
        elif 1 - self.correlation.median().item() > _LOOSE * (1 - self.usual):
            verdict += ", but looser than class averages are; longer training makes them sharper"
        return f"The images in the first row correlate at {found}; {usual}. {verdict}."


def make_up(
    denoiser: Denoiser,
    images: Float[Tensor, "n side side"],
    count: int,
    *,
    median: float,
    log_std: float,
    generator: torch.Generator,
) -> MadeUp:
    """Make up images, from noise as strong as the denoiser knows down to none; and clean some class averages.

    A denoiser that is trained for reconstruction knows no noise that drowns the images whole, so that samples cannot
    begin with noise alone. They begin with draws from the normal distribution that has the mean and covariance of the
    class averages, which look like none of them, plus noise.

    Parameters
    ----------
    denoiser
        ``(noisy (b, side, side), sigma (b,)) -> clean``.
    images
        ``(n, side, side)``, the class averages.
    count
        How many to make up.
    median, log_std
        Of the noise levels in training.
    generator
        Of the draws.
    """
    sigmas = karras_sigmas(_STEPS, median * math.exp(_END * log_std), median * math.exp(_BEGIN * log_std))
    mean = images.mean(0)
    weights = torch.randn(count, len(images), generator=generator, device=generator.device).to(images)
    drawn = mean + torch.einsum("kn,nyx->kyx", weights / math.sqrt(len(images)), images - mean)
    origin = references(len(images))
    lower = sigmas[sigmas <= _CLEANED_FROM * median]
    cleaned = heun(denoiser, _with_noise(images[origin], lower[0].item(), generator), lower)
    samples = heun(denoiser, _with_noise(drawn, sigmas[0].item(), generator), sigmas)
    return MadeUp(samples, cleaned)


def references(count: int) -> Int[Tensor, " r"]:
    """Choose which of so many class averages are cleaned: some, spread over all."""
    return torch.linspace(0, count - 1, min(_REFERENCES, count)).long()


def check_samples(made: MadeUp, images: Float[Tensor, "n side side"]) -> DenoiserChecks:
    """Find the training image that is most like each sample, over rotations and flips."""
    correlation, index, turn = _nearest(made.samples, images)
    angles = 2 * math.pi * (turn % _TURNS) / _TURNS
    flips = torch.where(turn < _TURNS, 1.0, -1.0)
    # the sample was turned onto the image; the image goes the way back
    back = _turned(images[index], angles, flips, inverse=True)
    among, _, _ = _nearest(made.cleaned, images, own=references(len(images)))
    return DenoiserChecks(made.samples, back, index, correlation, among.median().item())


def _with_noise(
    images: Float[Tensor, "b side side"], sigma: float, generator: torch.Generator
) -> Float[Tensor, "b side side"]:
    return images + sigma * torch.randn(images.shape, generator=generator, device=generator.device).to(images)


def _nearest(
    queries: Float[Tensor, "k side side"], images: Float[Tensor, "n side side"], own: Int[Tensor, " k"] | None = None
) -> tuple[Float[Tensor, " k"], Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Best correlation of each query with any image but its own, which image, and after which turn of the query."""
    side = min(_COMPARED_SIDE, images.shape[-1])
    known = _normalised(resize(images, side, 2))
    small = resize(queries, side, 2)
    steps = torch.arange(2 * _TURNS)
    angles, flips = 2 * math.pi * (steps % _TURNS) / _TURNS, torch.where(steps < _TURNS, 1.0, -1.0)
    best, which, turn = [], [], []
    for number, query in enumerate(small):
        turned = _normalised(_turned(query.expand(len(steps), -1, -1), angles, flips))
        table = turned @ known.T  # (turns, n)
        if own is not None:
            table[:, own[number]] = -1
        value, flat = table.flatten().max(0)
        best.append(value)
        which.append(flat % len(images))
        turn.append(flat // len(images))
    return torch.stack(best), torch.stack(which), torch.stack(turn)


def _turned(
    images: Float[Tensor, "b side side"],
    angles: Float[Tensor, " b"],
    flips: Float[Tensor, " b"],
    *,
    inverse: bool = False,
) -> Float[Tensor, "b side side"]:
    """Mirror x where ``flips`` is -1, then rotate about ``side // 2``; or undo that. Bilinear."""
    side = images.shape[-1]
    cosine, sine = angles.cos(), angles.sin()
    rows = torch.stack([torch.stack([flips * cosine, flips * sine], -1), torch.stack([-sine, cosine], -1)], -2)
    rows = (rows.mT if inverse else rows).to(images)
    # grid_sample counts from -1 to 1 over side - 1 pixels, and its zero is (side - 1) / 2; ours is side // 2
    centre, unit = side // 2 - (side - 1) / 2, 2 / (side - 1)
    offset = centre - centre * rows.sum(-1)
    theta = torch.cat([rows, unit * offset[..., None]], dim=-1)
    grid = torch.nn.functional.affine_grid(theta, [len(images), 1, side, side], align_corners=True)
    turned: Tensor = torch.nn.functional.grid_sample(images[:, None], grid, mode="bilinear", align_corners=True)[:, 0]
    return turned


def _normalised(images: Float[Tensor, "b side side"]) -> Float[Tensor, "b p"]:
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    normalised: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    return normalised
