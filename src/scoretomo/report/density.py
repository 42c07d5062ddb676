"""Volumes and pictures cut down to what a page can carry: few voxels, one byte each, compressed, as text."""

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import radius_grid, recentre_crop, resize
from .isosurface import smooth, surface_level

# As text these are 33 MB even if they cannot be compressed: a page of some 40 MB opens everywhere.
_BYTES_OF_VOLUMES = 25_000_000
_LARGEST_SIDE, _SMALLEST_SIDE = 48, 24
# Finer sampling than twice the volume's own shows nothing new.
_FINEST = 2
# Levels are chosen between the background and the peak: bytes reach a little beyond both, as parts of the peak.
_BELOW, _ABOVE = -0.1, 1.2
# Air around the objects, so that the surface never touches the edge of its box.
_MARGIN = 1.12


@dataclass(frozen=True)
class PageGrid:
    """Box and sampling of the volumes in the page.

    Attributes
    ----------
    crop
        Side of the box that is kept, in voxels of the files.
    side
        Its side in the page.
    voxel_angstrom
        Edge of a voxel in the page.
    """

    crop: int
    side: int
    voxel_angstrom: float


@dataclass(frozen=True)
class PageDensity:
    """A volume in the page: bytes 0 to 255 stand for densities ``low`` to ``high``.

    Attributes
    ----------
    text
        The bytes, ``[z, y, x]``, zlib, base64.
    low, high
        Densities of the least and the largest byte.
    peak
        What the brightest thousandth of the voxels reaches; levels are parts of it.
    level
        Where the surface is drawn at first, as a part of ``peak``.
    """

    text: str
    low: float
    high: float
    peak: float
    level: float


def choose_grid(volumes: Sequence[Float[Tensor, "n n n"]], count: int, pixel_size_angstrom: float) -> PageGrid:
    """Choose the box that holds the objects, and a sampling at which ``count`` volumes fit into the page.

    Parameters
    ----------
    volumes
        Some of the volumes, the trusted ones: junk that fills its box would make the rest small.
    count
        How many the page will carry.
    pixel_size_angstrom
        Of ``volumes``.
    """
    side = volumes[0].shape[-1]
    reach = max(_reach(volume) for volume in volumes)
    crop = min(side, 2 * math.ceil(_MARGIN * reach) + 1)
    room = int((_BYTES_OF_VOLUMES / max(count, 1)) ** (1 / 3))
    fitted = max(_SMALLEST_SIDE, min(_LARGEST_SIDE, room, _FINEST * crop))
    return PageGrid(crop, fitted, pixel_size_angstrom * crop / fitted)


def encode_volume(volume: Float[Tensor, "n n n"], grid: PageGrid) -> PageDensity:
    """Cut a map down to the page's grid; what lies beyond any useful level is clipped."""
    fine = _on_grid(volume, grid)
    peak = max(fine.flatten().quantile(0.999).item(), torch.finfo(torch.float32).tiny)
    low, high = _BELOW * peak, _ABOVE * peak
    return PageDensity(_bytes(fine, low, high), low, high, peak, surface_level(fine) / peak)


def encode_difference(volume: Float[Tensor, "n n n"], grid: PageGrid) -> PageDensity:
    """Cut down a map of either sign, such as a component, without clipping."""
    fine = _on_grid(volume, grid)
    most = max(fine.abs().max().item(), torch.finfo(torch.float32).tiny)
    return PageDensity(_bytes(fine, -most, most), -most, most, most, 0.5)


def encode_pictures(pictures: Float[Tensor, "n k side side"]) -> str:
    """Grey pictures as bytes, as text; each group of ``k`` shares the range of its first.

    Parameters
    ----------
    pictures
        ``(n, k, side, side)``, such as class averages beside projections.
    """
    first = pictures[:, 0].flatten(1)
    low, high = (first.quantile(part, dim=1).view(-1, 1, 1, 1) for part in (0.002, 0.998))
    scaled = 255 * (pictures - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    return _packed(scaled)


def _reach(volume: Float[Tensor, "n n n"]) -> float:
    """Radius within which nearly all of the object lies, in voxels."""
    side = volume.shape[-1]
    coarse = resize(volume, min(side, _LARGEST_SIDE), 3)
    solid = coarse > 0.6 * surface_level(coarse)
    radii = radius_grid(len(coarse), 3)[solid]
    return radii.quantile(0.998).item() * side / len(coarse) if len(radii) else side / 2


def _on_grid(volume: Float[Tensor, "n n n"], grid: PageGrid) -> Float[Tensor, "m m m"]:
    return resize(recentre_crop(smooth(volume), grid.crop, 3), grid.side, 3)


def _bytes(volume: Float[Tensor, "m m m"], low: float, high: float) -> str:
    return _packed(255 * (volume - low) / (high - low))


def _packed(values: Tensor) -> str:
    raw = values.clamp(0, 255).round().to(torch.uint8).numpy().tobytes()
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")
