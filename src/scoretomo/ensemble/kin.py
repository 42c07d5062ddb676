"""Kin: the class averages that show the conformation of a volume from elsewhere.

A volume is tied to one class average, and what it is like from behind it learns from the denoiser, which knows all
conformations. The other class averages of its own conformation would tell it more; they are those that it explains
better than the other volumes of the set do.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..imaging.slices import voxel_slices
from ..methods.pose_search import normalised_slices

# With fewer volumes to compare with it is not known how well an image is usually explained.
_FEWEST_TO_COMPARE = 8


@dataclass(frozen=True)
class Usual:
    """How well the volumes of a set explain each image.

    Attributes
    ----------
    mean, spread
        ``(k,)``, mean and standard deviation over the volumes of :func:`explained`.
    """

    mean: Float[Tensor, " k"]
    spread: Float[Tensor, " k"]


def explained(
    volume: Float[Tensor, "n n n"],
    rotations: Float[Tensor, "k 3 3"],
    targets: Float[Tensor, "k p"],
    frequencies: Float[Tensor, "p 2"],
) -> Float[Tensor, " k"]:
    """Correlate each image with the projection of a volume that is turned into its frame.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``.
    rotations
        ``(k, 3, 3)``, from the frame of the volume to that of each image.
    targets
        ``(k, p)``, Hartley coefficients of the images, of norm one.
    frequencies
        ``(p, 2)``, where they are compared: :func:`scoretomo.methods.pose_search.band`.
    """
    return (normalised_slices(voxel_slices(volume), rotations, frequencies) * targets).sum(-1)


def usually_explained(scores: Float[Tensor, "b k"]) -> Usual:
    """Summarise how well a set of volumes explains each image; for few volumes, nothing is taken as usual."""
    if len(scores) < _FEWEST_TO_COMPARE:
        return Usual(torch.zeros_like(scores[0]), torch.ones_like(scores[0]))
    return Usual(scores.mean(0), scores.std(0).clamp(min=torch.finfo(scores.dtype).tiny))


def choose_kin(
    scores: Float[Tensor, "b k"], usual: Usual, members: Int[Tensor, " b"], fraction: float
) -> Int[Tensor, "b m"]:
    """Choose the images that each volume explains better than usual, best first.

    Images differ in how well anything explains them, and in how much it matters which volume does: both are divided
    out. Simulated boxes: half as far from the conformation of the volume as images taken at random.

    Parameters
    ----------
    scores
        ``(b, k)``, from :func:`explained`.
    usual
        What is usual for the images.
    members
        ``(b,)``, the image of each volume, which it is tied to anyhow.
    fraction
        Part of all images that is chosen; one at least.
    """
    better = (scores - usual.mean) / usual.spread
    better[torch.arange(len(members)), members] = -torch.inf
    count = min(max(1, round(fraction * scores.shape[1])), scores.shape[1] - 1)
    return better.topk(count, dim=1).indices
