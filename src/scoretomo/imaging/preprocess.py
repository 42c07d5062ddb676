"""Images made fit for training, and volumes brought back to the units of the images.

The working images are ``(sign * image - background) / scale`` at a working pixel size, zero outside a soft disc.
The background has two parts, a level for each image and one radial profile for the stack. Class averages carry a dark
halo and often RELION's soft mask, both about the same in all of them. A radially symmetric image is the projection of
a radially symmetric volume from every side, so that subtracting one profile from all images keeps them projections
of something: the same molecules without the halo.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import ImageStack, InputError, Volume
from .fourier import radius_grid, recentre_crop, resize, shell_index, translate
from .masks import ball, soft_ball

# Parts of the side: RELION's soft edge is 5 pixels of boxes of 64 to 128.
_EDGE = 0.06
# Parts of the stack's standard deviation: what counts as flat, and as a step of the background or a rise to protein.
_FLAT = 0.01
_STEP = 0.1


@dataclass(frozen=True)
class PreprocessConfig:
    """How images are prepared.

    Attributes
    ----------
    side
        Side of the working images in pixels. None keeps the pixel size of the input.
    contrast
        Whether the protein is bright or dark in the input; ``auto`` finds out.
    mask_radius
        Where the soft circular mask reaches zero, as a fraction of half the side. None is 1, or the edge of the mask
        that the images already have.
    centre
        Move every image's centre of mass to the origin. Leave it off for images that were aligned to a common
        centre: the centre of mass of a thresholded image is less exact than a good alignment.
    """

    side: int | None = None
    contrast: Literal["auto", "bright", "dark"] = "auto"
    mask_radius: float | None = None
    centre: bool = False

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 8:
            raise InputError(f"a working side of {self.side} pixels is too small; give 8 or more")
        if self.mask_radius is not None and not 0 < self.mask_radius <= 1:
            raise InputError(f"the mask radius must be a fraction of half the side, 0 to 1, not {self.mask_radius}")


@dataclass(frozen=True)
class Preprocessing:
    """What was done to a stack: enough to bring volumes back to its pixel size and units.

    All fields are plain numbers and tuples, so that ``dataclasses.asdict`` can go to JSON; see :meth:`from_dict`.

    Attributes
    ----------
    input_side, input_pixel_size_angstrom
        The stack as it was read.
    cropped_side
        The box around the mask, in pixels of the input: what lies outside is zero and need not be computed.
    working_side, working_pixel_size_angstrom
        After Fourier cropping or padding of that box.
    network_side
        After zero padding to a multiple that the network can take; same pixel size.
    sign
        1 if the protein was bright in the input, -1 if it was dark.
    contrast_confidence
        How sure the detection of the sign was, 0 to 1; 1 if the sign was given.
    background_levels
        The background of every image, subtracted after the sign; units of the input.
    background_profile
        What was subtracted from all images besides, at radii 0, 1, ... input pixels; the last is for the corners.
    scale
        The working images were divided by this, in units of the input.
    shifts_angstrom
        ``(x, y)`` by which the density of each image was moved; empty without centring.
    mask_radius
        Where the soft mask reaches zero, as a fraction of half the side.
    """

    input_side: int
    input_pixel_size_angstrom: float
    cropped_side: int
    working_side: int
    working_pixel_size_angstrom: float
    network_side: int
    sign: int
    contrast_confidence: float
    background_levels: tuple[float, ...]
    background_profile: tuple[float, ...]
    scale: float
    shifts_angstrom: tuple[tuple[float, float], ...]
    mask_radius: float

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Read ``dataclasses.asdict`` of a record back, after a round through JSON too (lists become tuples)."""
        tuples = {
            "background_levels": tuple(fields["background_levels"]),
            "background_profile": tuple(fields["background_profile"]),
            "shifts_angstrom": tuple((x, y) for x, y in fields["shifts_angstrom"]),
        }
        return cls(**{**fields, **tuples})


def preprocess(
    stack: ImageStack, config: PreprocessConfig, *, multiple: int = 8
) -> tuple[Float[Tensor, "n side side"], Preprocessing]:
    """Make a stack fit for training: protein bright, background 0, one scale, a side that the network can take.

    Parameters
    ----------
    stack
        Images of any units and either contrast.
    config
        Working side, contrast, mask and centring.
    multiple
        The side of the result is the working side, zero-padded to the next multiple of this.

    Returns
    -------
    Tensor, Preprocessing
        ``(n, side, side)`` with standard deviation 1 over the whole stack, zero outside the mask; and the record
        that :func:`restore_volume` needs.

    Raises
    ------
    InputError
        All images are constant, or nothing is left of them inside the mask. A few that are constant, such as
        classification makes of classes without particles, become 0.
    """
    constant = constant_images(stack.images)
    if constant.all():
        raise InputError("all images are constant and hold nothing to reconstruct")
    if config.contrast == "auto":
        sign, confidence = detect_contrast(stack.images)
    else:
        sign, confidence = (1 if config.contrast == "bright" else -1), 1.0
    images = sign * stack.images
    limit = _mask_limit(images) if config.mask_radius is None else config.mask_radius * stack.side / 2
    cropped = min(stack.side, 2 * math.ceil(limit) + 2)
    side = config.side or cropped
    # at least two working pixels, so that a Fourier crop after the mask does not ring
    edge = min(max(_EDGE * stack.side, 2 * cropped / side, 2.0), limit / 2)
    # the rim of a mask in the images is no background; without one, the farther from the particle the better
    trusted = limit - edge if limit < stack.side // 2 else limit
    levels, profile = _background(images, trusted, edge)
    images = (images - levels[:, None, None] - _spread(profile, stack.side)) * ~constant[:, None, None]
    shifts = _centring_shifts(images, limit) if config.centre else images.new_zeros(0, 2)
    if config.centre:
        images = translate(images, shifts)
    images = images * soft_ball(stack.side, 2, limit - edge, edge, images.device)
    images = resize(recentre_crop(images, cropped, 2), side, 2) * ball(side, 2, limit * side / cropped, images.device)
    images = recentre_crop(images, math.ceil(side / multiple) * multiple, 2)
    scale = images.std(correction=0).item()
    if not scale > 0:
        raise InputError("nothing is left of the images inside the mask; give a larger mask radius")
    record = Preprocessing(
        input_side=stack.side,
        input_pixel_size_angstrom=stack.pixel_size_angstrom,
        cropped_side=cropped,
        working_side=side,
        working_pixel_size_angstrom=stack.pixel_size_angstrom * cropped / side,
        network_side=images.shape[-1],
        sign=sign,
        contrast_confidence=confidence,
        background_levels=tuple(levels.tolist()),
        background_profile=tuple(profile.tolist()),
        scale=scale,
        shifts_angstrom=tuple((x, y) for x, y in (shifts * stack.pixel_size_angstrom).tolist()),
        mask_radius=2 * limit / stack.side,
    )
    return images / scale, record


def restore_volume(voxels: Float[Tensor, "n n n"], record: Preprocessing) -> Volume:
    """Bring a volume that explains working images back to the side, pixel size and units of the input.

    Projections of the result, sums over z at the input's sampling, equal the input images minus their background,
    with the protein bright whatever the contrast of the input was. Centring is not undone: the projections
    have the centre of the working images.

    Raises
    ------
    InputError
        A volume that is not of the record's network side.
    """
    if voxels.shape[-1] != record.network_side:
        raise InputError(
            f"the volume has a side of {voxels.shape[-1]}, the images it belongs to one of {record.network_side}"
        )
    working = recentre_crop(voxels, record.working_side, 3)
    # a sum over z of finer voxels has more terms: density per input voxel is smaller by the ratio of the pixel sizes
    ratio = record.cropped_side / record.working_side
    restored = resize(working, record.cropped_side, 3) * (record.scale / ratio)
    return Volume(recentre_crop(restored, record.input_side, 3), record.input_pixel_size_angstrom)


def working_volume(voxels: Float[Tensor, "*batch n n n"], record: Preprocessing) -> Float[Tensor, "*batch m m m"]:
    """Bring volumes in the box and units of the input to the grid and units of the working images.

    The inverse of :func:`restore_volume`, for volumes that a run folder has on disk. Its projections explain the
    working images again.

    Raises
    ------
    InputError
        Volumes that are not of the record's input side.
    """
    if voxels.shape[-1] != record.input_side:
        raise InputError(
            f"the volume has a side of {voxels.shape[-1]}, the images that the run was given one of {record.input_side}"
        )
    ratio = record.cropped_side / record.working_side
    cropped = recentre_crop(voxels, record.cropped_side, 3)
    return recentre_crop(resize(cropped, record.working_side, 3) * (ratio / record.scale), record.network_side, 3)


def detect_contrast(images: Float[Tensor, "n side side"]) -> tuple[int, float]:
    """Whether the protein is bright (1) or dark (-1) in images of either contrast, and how sure that is (0 to 1).

    Each image votes with its middle against its rim, in standard deviations, and with its skewness: protein covers
    the smaller part of an image and is far from the background. Votes saturate, so that the confidence is low
    both when images disagree and when all are undecided.
    """
    side = images.shape[-1]
    radius = radius_grid(side, 2, images.device)
    inside, middle = radius < side // 2, radius < side / 4
    rim = inside & (radius >= side // 2 - max(2.0, _EDGE * side))
    pixels = images[:, inside]
    mean, deviation = pixels.mean(1), pixels.std(1, correction=0).clamp_min(torch.finfo(images.dtype).tiny)
    step = (images[:, middle].mean(1) - images[:, rim].median(1).values) / deviation
    skewness = (((pixels - mean[:, None]) / deviation[:, None]) ** 3).mean(1)
    vote = torch.tanh(step + 0.5 * skewness).mean().item()
    return (1 if vote >= 0 else -1), abs(vote)


def constant_images(images: Float[Tensor, "n side side"]) -> Bool[Tensor, " n"]:
    """Which images are the same everywhere but for rounding."""
    low, high = images.flatten(1).aminmax(dim=1)
    return high - low <= 1e-6 * torch.maximum(low.abs(), high.abs())


def _mask_limit(images: Float[Tensor, "n side side"]) -> float:
    """Radius in pixels at which the working mask must be zero: that of a mask in the images, or half the side.

    A mask shows as a flat outside with a darker background within. A flat outside alone does not: clean simulated
    images have it, and a mask at the rim of their particle would eat into it.
    """
    side = images.shape[-1]
    edge = max(2.0, _EDGE * side)
    shells = shell_index(side, 2, images.device)
    deviation = images.std().item()
    varied = [r for r in range(side // 2 + 1) if images[:, shells == r].std(correction=0).item() > _FLAT * deviation]
    visible = float(max(varied, default=0))
    radius = radius_grid(side, 2, images.device)
    within = (radius <= visible - edge) & (radius > visible - 2 * edge)
    if visible + 1 < side // 2 and within.any():
        outside = images[:, radius > visible + 1]
        if images[:, within].median() < outside.median() - _STEP * deviation:
            return visible
    return float(side // 2)


def _background(
    images: Float[Tensor, "n side side"], radius: float, width: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " shells"]]:
    """Level of every image in a ring of ``width`` inside ``radius``, and the profile over radii that is left in all.

    Medians, since neighbours, arms and noise must not count. Going inwards from the ring the profile may only
    fall (the halo is darkest beside the particle); where it rises, protein begins, and it stays at its minimum.
    """
    side = images.shape[-1]
    distance = radius_grid(side, 2, images.device)
    ring = (distance <= radius) & (distance > radius - width)
    levels = images[:, ring].median(1).values
    levelled = images - levels[:, None, None]
    shells = shell_index(side, 2, images.device)
    profile = torch.stack([levelled[:, shells == r].median() for r in range(side // 2 + 2)])
    rise = _STEP * levelled[:, distance <= radius].std()
    start = min(int(radius), side // 2)
    lowest = profile[start]
    for r in range(start, -1, -1):
        if profile[r] > lowest + rise:
            profile[: r + 1] = lowest
            break
        lowest = torch.minimum(lowest, profile[r])
        profile[r] = lowest
    return levels, profile


def _spread(profile: Float[Tensor, " shells"], side: int) -> Float[Tensor, "side side"]:
    """Image of a radial profile, linear between its radii; the last entry is for everything beyond ``side // 2``."""
    radius = radius_grid(side, 2, profile.device).clamp(max=len(profile) - 1)
    lower = radius.long().clamp(max=len(profile) - 2)
    return torch.lerp(profile[lower], profile[lower + 1], radius - lower)


def _centring_shifts(images: Float[Tensor, "n side side"], limit: float) -> Float[Tensor, "n 2"]:
    """Shifts in pixels ``[x, y]`` that bring the centre of mass of the protein to the origin.

    Only density above a fifth of the image's maximum counts, since the rest of the background has a long lever.
    """
    side = images.shape[-1]
    weights = images * ball(side, 2, limit, images.device)
    weights = (weights - 0.2 * weights.amax((1, 2), keepdim=True)).clamp_min(0)
    axis = torch.arange(side, device=images.device, dtype=images.dtype) - side // 2
    mass = weights.sum((1, 2)).clamp_min(torch.finfo(images.dtype).tiny)
    x, y = (weights.sum(1) * axis).sum(1) / mass, (weights.sum(2) * axis).sum(1) / mass
    return -torch.stack([x, y], dim=1)
