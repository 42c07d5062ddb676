"""Poses of particles from rough ones: by turns a map of the images at their poses, and a search of the poses in it.

No network is trained: the map is the back projection of all images, weighted by how far two halves of them agree,
within the sphere that holds the molecule, and not negative. The disc of frequencies that is searched grows from turn to
turn (frequency marching, Barnett et al. 2017). The first turns search everywhere, since rough poses may be far off; the
later ones move the poses that were kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import shell_correlation
from ..imaging.masks import soft_ball
from ..imaging.slices import voxel_slices
from .abinitio import ParticleImages, find_volume_poses
from .abinitio_schedule import PoseMethod, SearchGridConfig
from .back_projection import BackProjection, weighted_volume
from .pose_search import PoseCandidates, refine_poses, transfer_of

# Discs of the turns, as parts of the largest; turns before this one search everywhere.
_DISCS = (0.45, 0.5, 0.65, 0.8, 1.0)
_GLOBAL_TURNS = 2
# The largest disc, in cycles per diameter of the molecule: particles that need a search from nothing show no more.
_MOST_CYCLES = 16.0
# Times that kept poses are moved at half the spacing, in a turn that does not search everywhere.
_LOCAL_LEVELS = 2
_IMAGES_AT_ONCE = 256
# The support falls to zero over so many pixels, from this many radii on.
_WIDER, _EDGE = 1.2, 2.0
# Fourier pixels beyond the disc that enter the map, since what interpolates looks beyond it.
_MARGIN = 1.0


@dataclass(frozen=True)
class MarchStep:
    """Where the march stands after some images of a turn.

    Attributes
    ----------
    done
        Part of all turns, 0 to 1.
    disc
        Radius of the disc that is searched, in Fourier pixels.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, ``[x, y]``: poses of all images after the last whole turn.
    """

    done: float
    disc: float
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]


@torch.no_grad()
def march_progressive(
    particles: ParticleImages,
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    radius: float,
    search: SearchGridConfig,
    method: PoseMethod = "search",
) -> Iterator[MarchStep]:
    """Find the poses of particles from rough ones, yielding after each part of the images.

    Parameters
    ----------
    particles
        Images and their contrast transfer.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``: where to begin; their device is where poses are searched.
    radius
        Of the sphere that holds the molecule, in pixels.
    search
        Grid, shifts and largest disc.
    method
        How the first turns search.
    """
    count, side, device = len(rotations), particles.images.shape[-1], rotations.device
    largest = min(search.high_radius, _MOST_CYCLES * side / (2 * radius), side / 2)
    kept: PoseCandidates | None = None
    for turn, part in enumerate(_DISCS):
        disc = max(4.0, part * largest)
        grid = search.grid(side, disc)
        grid = replace(grid, low_radius=min(grid.low_radius, 0.8 * disc), refinements=min(grid.refinements, turn + 1))
        volume = voxel_slices(_volume(particles, rotations, shifts_pixels, radius, disc))
        found = []
        for rows in torch.arange(count).split(_IMAGES_AT_ONCE):
            images, transfer = particles.images[rows].to(device), transfer_of(particles.transfer, rows.to(device))
            if turn < _GLOBAL_TURNS or kept is None:
                found.append(find_volume_poses(images, volume, grid, method, transfer=transfer))
            else:
                own = PoseCandidates(*(each[rows.to(device)] for each in vars(kept).values()))
                first = max(1, grid.refinements - _LOCAL_LEVELS + 1)
                for level in range(first, grid.refinements + 1):
                    own = refine_poses(images, volume, own, grid, level, transfer=transfer)
                found.append(own)
            done = (turn + (int(rows[-1]) + 1) / count) / len(_DISCS)
            yield MarchStep(min(done, 1 - 1e-6), disc, rotations, shifts_pixels)
        most = min(each.scores.shape[1] for each in found)
        kept = PoseCandidates(*(torch.cat([vars(each)[name][:, :most] for each in found]) for name in vars(found[0])))
        rotations, shifts_pixels = kept.rotations[:, 0], kept.shifts_pixels[:, 0]
        yield MarchStep((turn + 1) / len(_DISCS), disc, rotations, shifts_pixels)


def _volume(
    particles: ParticleImages,
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    radius: float,
    disc: float,
) -> Float[Tensor, "side side side"]:
    """Map of all images at their poses, from the frequencies of a disc and a little more."""
    side, device = particles.images.shape[-1], rotations.device
    halves = [BackProjection(side, device, radius=disc + _MARGIN) for _ in (0, 1)]
    for half, sums in enumerate(halves):
        for rows in torch.arange(half, len(rotations), 2).split(_IMAGES_AT_ONCE):
            own = rows.to(device)
            transfer = None if particles.transfer is None else particles.transfer(own, sums.frequencies)
            sums.add(particles.images[rows].to(device), rotations[own], shifts_pixels[own], transfer)
    sphere = soft_ball(side, 3, min(_WIDER * radius, side / 2 - _EDGE), _EDGE, device)
    first, second = (sums.volume() * sphere for sums in halves)
    agreement = shell_correlation(first, second, side // 2 + 1)
    return (weighted_volume(halves[0], halves[1], agreement) * sphere).clamp(min=0)
