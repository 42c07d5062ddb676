"""Parents: the sharpest volumes of a stage, found in the images and turned into their frames.

A volume that has locked shows most of what another image needs. Projections fix no hand, so one hand of each parent is
enough; what grows from a parent has its hand.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..imaging.fourier import centred_fft, radius_grid, translate
from ..imaging.resampling import rotate_volumes
from ..imaging.slices import voxel_slices
from ..methods.pose_search import PoseSearchConfig, find_poses
from ..methods.score_tomography import Anchors


@dataclass(frozen=True)
class Matches:
    """Where parents are seen in images.

    Attributes
    ----------
    scores
        ``(p, n)``, how well each parent matches each image, -1 to 1.
    rotations
        ``(p, n, 3, 3)``, pose of each parent in each image.
    shifts_pixels
        ``(p, n, 2)``, ``[x, y]``.
    """

    scores: Float[Tensor, "p n"]
    rotations: Float[Tensor, "p n 3 3"]
    shifts_pixels: Float[Tensor, "p n 2"]

    @property
    def best(self) -> Int[Tensor, " n"]:
        """The parent that matches each image best."""
        return self.scores.argmax(0)


def match_parents(
    parents: Float[Tensor, "p n n n"], images: Float[Tensor, "k n n"], matching: PoseSearchConfig
) -> Matches:
    """Find every parent in every image."""
    found = [find_poses(images, voxel_slices(parent), matching) for parent in parents]
    return Matches(
        torch.stack([poses.scores[:, 0] for poses in found]),
        torch.stack([poses.rotations[:, 0] for poses in found]),
        torch.stack([poses.shifts_pixels[:, 0] for poses in found]),
    )


def start_from_parents(
    parents: Float[Tensor, "p n n n"], matches: Matches, members: Int[Tensor, " b"]
) -> Float[Tensor, "b n n n"]:
    """Turn, for each of the images ``members``, the parent that matches it best into the frame of the image."""
    started = parents.new_empty(len(members), *parents.shape[1:])
    best = matches.best[members]
    shifts = matches.shifts_pixels[best, members]
    shifted = bool(shifts.any())
    # one at a time: what is between a parent and a turned and shifted one takes several times the memory of both
    for own, parent, rotation, shift in zip(started, best, matches.rotations[best, members], shifts, strict=True):
        turned = rotate_volumes(parents[parent][None], rotation[None])
        own.copy_((translate(turned, torch.nn.functional.pad(shift[None], [0, 1])) if shifted else turned)[0])
    return started


def anchor_to_matches(images: Float[Tensor, "k n n"], matches: Matches, members: Int[Tensor, " b"]) -> Anchors:
    """Relate the frames of the images ``members`` to all images through the parent that each is started from."""
    best = matches.best[members]
    own = matches.rotations[best, members]
    everyone = torch.arange(len(images), device=images.device).expand(len(members), -1)
    return Anchors(images, matches.rotations[best] @ own.mT[:, None], everyone)


def sharpest(own: Float[Tensor, " k"], earlier: Float[Tensor, " p"], count: int) -> Int[Tensor, " c"]:
    """Choose parents by sharpness: the sharpest volumes of a completed stage.

    Those that the stage started from are taken only if it has too few of its own, so that the next stage is not started
    from one volume in several frames. Indices are into the volumes of the stage followed by the earlier parents.
    """
    pool = own if len(own) >= count else torch.cat([own, earlier])
    return pool.topk(min(count, len(pool))).indices


def sharpness(volumes: Float[Tensor, "b n n n"], cutoff: float = 0.1) -> Float[Tensor, " b"]:
    """Share of the power, the mean left out, above ``cutoff`` cycles per pixel.

    Tells volumes that have locked from blobs without a truth: both have the low frequencies of the images, only a
    consistent volume adds up at high ones. On simulated boxes its rank correlation with the true FSC is about 0.7.
    A volume that is not finite has -1, less than any other.
    """
    side = volumes.shape[-1]
    radius = radius_grid(side, 3, volumes.device)
    high, all_but_mean = radius > cutoff * side, radius > 0
    share = volumes.new_empty(len(volumes))
    for i, volume in enumerate(volumes):  # one spectrum at a time: a set of volumes may fill the memory
        power = centred_fft(volume, 3).abs() ** 2
        share[i] = power[high].sum() / power[all_but_mean].sum().clamp(min=torch.finfo(power.dtype).tiny)
    return torch.where(share.isfinite(), share, -1.0)
