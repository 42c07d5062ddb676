"""Images against all central slices of several volumes, and volumes from images at several poses each.

Both directions of an expectation maximisation over poses (Scheres 2012, J. Mol. Biol. 415, 406) on the rings of
:mod:`scoretomo.imaging.polar`: images are compared with every plane, seen from both sides, at all in-plane angles, by
their correlation, and slices are averaged from images and gridded into a volume. Poses are rows of planes and angles
of the rings, which is as fine as either is sampled.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from ..imaging.fourier import recentre_crop, resize
from ..imaging.masks import soft_ball
from ..imaging.polar import PolarPlanes, polar_coefficients, ring_points, shift_polar
from .pose_search import TransferFn

# The box that images are cut to, in radii of the sphere that holds the molecule: slices of what is cut so are as
# smooth as the lattice of the planes wants them.
_BOX = 2.6
# Voxels over which the support falls to zero, and pixels over which images are faded out.
_EDGE = 2.0
# An object in the sphere has no more angular waves on a ring than this, times the ring's number: 2 pi / _BOX, and some.
_WAVES_ON_RING = 2.6
# Candidates of less weight are left out.
_LEAST_WEIGHT = 1e-3
# Occupancy of a plane, over the mean, that is added to its own before candidates are divided by it.
_OCCUPIED = 0.3
# Correlations that are held at once, 4 bytes each.
_CORRELATIONS_AT_ONCE = 2**21


@dataclass(frozen=True)
class RingImages:
    """Images cut to the molecule, on rings of frequencies.

    Attributes
    ----------
    values
        ``(n, rings, angles)``, Hartley coefficients, times the contrast transfer where there is one.
    power
        ``(n, rings)``, mean square of the coefficients, without the contrast transfer.
    transfer_power
        ``(n, rings)``, mean square of the contrast transfer; None where it is 1.
    box
        Edge of what the images were cut to, in pixels of the caller's: rings count cycles over it.
    support
        ``(side, side, side)``, soft sphere that holds the molecule, on the grid of the volumes.
    """

    values: Float[Tensor, "n rings angles"]
    power: Float[Tensor, "n rings"]
    transfer_power: Float[Tensor, "n rings"] | None
    box: int
    support: Float[Tensor, "side side side"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rings(self) -> int:
        """Number of rings."""
        return self.values.shape[1]

    @property
    def angles(self) -> int:
        """Samples on each ring."""
        return self.values.shape[2]

    @property
    def side(self) -> int:
        """Edge of the volumes in voxels; their box is ``box``."""
        return self.support.shape[-1]


@dataclass(frozen=True)
class RingPoses:
    """Candidate poses of some images against each of ``s`` volumes, best first.

    Attributes
    ----------
    rows
        ``(s, b)``, which images.
    plane, facing, in_plane
        ``(s, b, j)``: see :meth:`scoretomo.imaging.polar.PolarPlanes.rotations`.
    weights
        ``(s, b, j)``, probabilities; those of an image add up to 1.
    scores
        ``(s, b)``, correlation of image and slice at the best pose.
    shifts
        ``(s, b, 2)``, ``[x, y]`` as parts of the box: where the density of each image lies.
    """

    rows: Int[Tensor, "s b"]
    plane: Int[Tensor, "s b j"]
    facing: Bool[Tensor, "s b j"]
    in_plane: Float[Tensor, "s b j"]
    weights: Float[Tensor, "s b j"]
    scores: Float[Tensor, "s b"]
    shifts: Float[Tensor, "s b 2"]

    def of(self, volumes: Int[Tensor, " k"]) -> "RingPoses":
        """Take the poses against some of the volumes."""
        return RingPoses(**{name: value[volumes] for name, value in vars(self).items()})


def box_of(radius: float) -> int:
    """Edge in pixels of the box that images of a molecule of this radius are cut to."""
    return 2 * math.ceil(_BOX * radius / 2)


def rings_of(cycles: float, radius: float, side: int) -> int:
    """Rings over the cut box that reach so many cycles per diameter, within what images of ``side`` pixels hold."""
    box = box_of(radius)
    return max(2, min(math.ceil(cycles * box / (2 * radius)), (side - 1) * box // (2 * side)))


def ring_images(
    images: Float[Tensor, "n side side"], radius: float, rings: int, transfer: TransferFn | None = None
) -> RingImages:
    """Cut images to a disc and sample them on rings.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0.
    radius
        Of the sphere that holds the molecule, in pixels.
    rings
        How many, see :func:`rings_of`.
    transfer
        Contrast transfer of the images, by rows and frequencies in cycles per pixel.
    """
    box, side = box_of(radius), 2 * rings + 4
    cut = recentre_crop(images * soft_ball(images.shape[-1], 2, radius, _EDGE, images.device), box, 2)
    cut = resize(cut, side, 2) if side < box else cut
    angles = 48 if rings <= 8 else 72 if rings <= 12 else 96
    values = polar_coefficients(cut, rings, angles)
    power, transfer_power = values.square().mean(-1), None
    if transfer is not None:
        points = torch.stack(ring_points(rings, angles, values), -1) / box
        contrast = transfer(torch.arange(len(images), device=images.device), points).unflatten(1, (rings, angles))
        values, transfer_power = values * contrast, contrast.square().mean(-1)
    side = min(side, box)
    support = soft_ball(side, 3, radius * side / box, _EDGE, images.device)
    return RingImages(values, power, transfer_power, box, support)


def match(
    images: RingImages,
    planes: PolarPlanes,
    volumes: Float[Tensor, "s side side side"],
    rows: Int[Tensor, "s b"],
    ring_weights: Float[Tensor, " rings"],
    *,
    temperature: float,
    candidates: int,
    shifts: Float[Tensor, "s b 2"],
) -> RingPoses:
    """Compare images with every plane of their volumes, seen from both sides, at all in-plane angles.

    The best in-plane angle of each direction counts, and of the directions the best ``candidates``. The temperature is
    in units of the standard deviation of an image's correlation over all poses.

    Parameters
    ----------
    images
        All images.
    planes
        Directions and sampling.
    volumes
        What to compare with.
    rows
        Which images are compared with each volume.
    ring_weights
        Weights of the rings in the correlation; as many of the lowest rings count.
    temperature
        Of the weights of the candidates.
    candidates
        Poses of each image that are returned.
    shifts
        Where the images' densities lie, which are moved back first.
    """
    slices = planes.slices(volumes, len(ring_weights))
    size = max(1, _CORRELATIONS_AT_ONCE // (2 * len(volumes) * len(planes) * images.angles))
    parts = [slice(first, first + size) for first in range(0, rows.shape[1], size)]
    found = [
        _match_part(images, slices, rows[:, part], ring_weights, temperature, candidates, shifts[:, part])
        for part in parts
    ]
    return RingPoses(**{name: torch.cat([vars(each)[name] for each in found], 1) for name in vars(found[0])})


def _match_part(
    images: RingImages,
    slices: Float[Tensor, "s r d a"],
    rows: Int[Tensor, "s b"],
    ring_weights: Float[Tensor, " r"],
    temperature: float,
    candidates: int,
    shifts: Float[Tensor, "s b 2"],
) -> RingPoses:
    rings, planes, angles = slices.shape[1:]
    waves = _waves(rings, angles)
    spectra = torch.fft.rfft(slices * ring_weights[:, None, None], dim=-1)[..., :waves].permute(0, 3, 1, 2)
    own = torch.fft.rfft(_taken(images, rows, shifts, rings), dim=-1)[..., :waves].permute(0, 3, 1, 2)
    pairs = torch.stack([own.real, own.imag], 2).flatten(2, 3)  # (s, m, 2 b, r)
    # X conj(S) of a plane from its direction, X S from the one that faces it: sum and difference of two transforms
    even, odd = _to_angles(angles, waves, slices)
    even = even @ (pairs @ spectra.real).reshape(len(rows), 2 * waves, -1)  # (s, a, b d)
    odd = odd @ (pairs @ spectra.imag).reshape(len(rows), 2 * waves, -1)
    norms = _slice_norms(images, slices, rows, ring_weights)
    deviation = _deviation(even, odd, norms)
    sides = [(even + odd).max(1), even.sub_(odd).max(1)]
    best, angle = (torch.cat([side[i].unflatten(-1, (-1, planes)) for side in sides], -1) for i in (0, 1))
    values, chosen = (best / norms.repeat(1, 1, 2)).topk(min(candidates, 2 * planes), -1)
    tiny = torch.finfo(values.dtype).tiny
    own_norms = (images.power[:, :rings] @ ring_weights * angles).clamp(min=tiny).sqrt()
    return RingPoses(
        rows=rows,
        plane=chosen % planes,
        facing=chosen >= planes,
        in_plane=angle.gather(-1, chosen) * (2 * math.pi / angles),
        weights=((values - values[..., :1]) / (temperature * deviation[..., None])).softmax(-1),
        scores=values[..., 0] / own_norms[rows],
        shifts=shifts,
    )


def _taken(
    images: RingImages, rows: Int[Tensor, "s b"], shifts: Float[Tensor, "s b 2"], rings: int
) -> Float[Tensor, "s b r a"]:
    """Coefficients of some images on the lowest rings, moved back by their shifts."""
    values = images.values[:, :rings][rows]
    return shift_polar(values, -shifts) if bool(shifts.any()) else values


def _to_angles(
    angles: int, waves: int, like: Tensor
) -> tuple[Float[Tensor, "angles two_waves"], Float[Tensor, "angles two_waves"]]:
    """Matrices from the parts (a c, b c) and (a d, b d) of (a + i b) and (c + i d), by wave, to all angles.

    Their sum is the inverse transform of ``(a + i b) (c - i d)``, their difference that of ``(a + i b) (c + i d)``.
    """
    wave = torch.arange(waves, device=like.device)
    turns = 2 * math.pi / angles * torch.arange(angles, device=like.device)[:, None] * wave
    both = torch.where((wave == 0) | (2 * wave == angles), 1.0, 2.0) / angles  # with their conjugates
    cosine, sine = ((turns.cos() * both).to(like), (turns.sin() * both).to(like))
    return torch.stack([cosine, -sine], 2).flatten(1), torch.stack([sine, cosine], 2).flatten(1)


def _slice_norms(
    images: RingImages, slices: Float[Tensor, "s r d a"], rows: Int[Tensor, "s b"], ring_weights: Float[Tensor, " r"]
) -> Float[Tensor, "s shared d"]:
    """Norms of slices as each image has them, its contrast transfer taken alike all around a ring."""
    power = slices.square().sum(-1) * ring_weights[:, None]
    if images.transfer_power is None:
        squares = power.sum(1, keepdim=True)
    else:
        squares = images.transfer_power[:, : len(ring_weights)][rows] @ power
    # slices with nearly nothing in them would win by noise
    return squares.clamp(min=1e-6 * float(squares.max()) + torch.finfo(power.dtype).tiny).sqrt()


def _deviation(
    even: Float[Tensor, "s a bd"], odd: Float[Tensor, "s a bd"], norms: Float[Tensor, "s shared d"]
) -> Float[Tensor, "s b"]:
    """Spread of the correlation of each image over all poses: of sums and differences of even and odd."""
    planes, tiny = norms.shape[-1], torch.finfo(even.dtype).tiny
    square = ((even.square().mean(1) + odd.square().mean(1)).unflatten(-1, (-1, planes)) / norms.square()).mean(-1)
    mean = (even.mean(1).unflatten(-1, (-1, planes)) / norms).mean(-1)
    deviation: Tensor = (square - mean.square()).clamp(min=tiny).sqrt()
    return deviation


def spread(poses: RingPoses, planes: int) -> RingPoses:
    """Weigh candidates by how few images their planes have.

    Where a core looks alike from several directions, nothing else keeps images from crowding on some of them, and a
    volume from being known in few planes alone.

    Parameters
    ----------
    poses
        Candidates and their weights.
    planes
        How many there are.
    """
    plane = poses.plane.flatten(1)
    occupied = poses.weights.new_zeros(len(plane), planes).scatter_add(1, plane, poses.weights.flatten(1))
    occupied = occupied / occupied.mean(1, keepdim=True) + _OCCUPIED
    weights = poses.weights / occupied.gather(1, plane).view_as(poses.weights)
    return replace(poses, weights=weights / weights.sum(-1, keepdim=True))


def rebuild(
    images: RingImages,
    planes: PolarPlanes,
    poses: RingPoses,
    rings: int,
    image_weights: Float[Tensor, "s b"],
    regularisation: float,
) -> Float[Tensor, "s side side side"]:
    """Average images into the slices of their candidate poses, and slices into volumes: positive, within the support.

    Parameters
    ----------
    images
        All images.
    planes
        The planes that the poses are of.
    poses
        Candidates and their weights.
    rings
        The lowest rings, which count.
    image_weights
        Of each image, besides the weights of its poses.
    regularisation
        Weight that is added where slices lie thin, in units of the mean weight of the lattice.
    """
    sums, weights = gather_slices(images, planes, poses, rings, image_weights)
    return volumes_of(images, planes, sums, weights, regularisation)


def gather_slices(
    images: RingImages, planes: PolarPlanes, poses: RingPoses, rings: int, image_weights: Float[Tensor, "s b"]
) -> tuple[Complex[Tensor, "s d rings waves"], Float[Tensor, "s d rings"]]:
    """Weighted sum of the images in each plane, transformed along the rings, and the weights; 0 beyond ``rings``."""
    weights = poses.weights * image_weights[..., None]
    waves = _waves(rings, images.angles)
    own = torch.fft.rfft(_taken(images, poses.rows, poses.shifts, rings), dim=-1)[..., :waves]
    sums = own.new_zeros(len(own), len(planes), images.rings, images.angles // 2 + 1)
    totals = weights.new_zeros(len(own), len(planes), images.rings)
    for volume in range(len(own)):  # one by one, they stay near the processor
        image, candidate = (weights[volume] > _LEAST_WEIGHT).nonzero(as_tuple=True)
        plane, facing, angle, weight = (
            each[volume][image, candidate] for each in (poses.plane, poses.facing, poses.in_plane, weights)
        )
        # from the direction that faces a plane's, all angles run backwards
        turn = torch.where(facing, -angle, angle)[:, None] * torch.arange(waves, device=own.device)
        values = torch.stack([own[volume], own[volume].conj()], 1).flatten(0, 1)[2 * image + facing]
        values *= torch.polar(weight[:, None].expand_as(turn), turn)[:, None]
        sums[volume, :, :rings, :waves] = own.new_zeros(len(planes), rings, waves).index_add_(0, plane, values)
        weight = weight[:, None].expand(-1, rings)
        if images.transfer_power is not None:
            weight = weight * images.transfer_power[poses.rows[volume, image], :rings]
        totals[volume, :, :rings] = weight.new_zeros(len(planes), rings).index_add_(0, plane, weight)
    return sums, totals


def _waves(rings: int, angles: int) -> int:
    """Angular waves, from none on, that an object in the sphere may have on so many rings."""
    return min(angles // 2 + 1, math.ceil(_WAVES_ON_RING * rings) + 2)


def volumes_of(
    images: RingImages,
    planes: PolarPlanes,
    sums: Complex[Tensor, "s d rings waves"],
    weights: Float[Tensor, "s d rings"],
    regularisation: float,
) -> Float[Tensor, "s side side side"]:
    """Grid what :func:`gather_slices` gives into volumes."""
    area = torch.arange(1, images.rings + 1, device=weights.device, dtype=weights.dtype)[:, None, None]
    values = torch.fft.irfft(sums, n=images.angles, dim=-1).transpose(1, 2) * area
    density = (weights.transpose(1, 2)[..., None] * area).expand_as(values)
    summed, dense = planes.insert(torch.cat([values, density])).chunk(2)
    mean = dense.sum(1, keepdim=True) / (dense > 0).sum(1, keepdim=True).clamp(min=1)
    lattice = summed / (dense + regularisation * mean).clamp(min=torch.finfo(dense.dtype).tiny)
    return (planes.volumes(lattice) * images.support).clamp(min=0)


def find_shifts(
    images: RingImages,
    planes: PolarPlanes,
    volumes: Float[Tensor, "s side side side"],
    poses: RingPoses,
    ring_weights: Float[Tensor, " r"],
    grid: Float[Tensor, "t 2"],
    most: float,
) -> RingPoses:
    """Move each image's shift to the best of a grid about it, at its best pose.

    Parameters
    ----------
    images, planes, volumes, poses, ring_weights
        As :func:`match` has them.
    grid
        ``(t, 2)``, what is tried about the present shifts, as parts of the box.
    most
        Largest shift along x or y, as a part of the box.
    """
    rings, angles = len(ring_weights), images.angles
    spectra = torch.fft.rfft(planes.slices(volumes, rings), dim=-1)  # (s, r, d, m)
    volume = torch.arange(len(volumes), device=volumes.device)[:, None]
    best = spectra.transpose(1, 2)[volume, poses.plane[..., 0]]  # (s, b, r, m)
    best = torch.where(poses.facing[..., 0, None, None], best.conj(), best)
    turn = -poses.in_plane[..., :1] * torch.arange(best.shape[-1], device=best.device)
    expected = torch.fft.irfft(best * torch.polar(torch.ones_like(turn), turn)[..., None, :], n=angles, dim=-1)
    expected = expected * ring_weights[:, None]
    own = _taken(images, poses.rows, poses.shifts, rings)
    points = torch.stack(ring_points(rings, angles, own))
    turns = 2 * math.pi * grid @ points  # moved back by t: cos(2 pi k.t) H(k) - sin(2 pi k.t) H(-k)
    cosine, sine = ((own if same else own.roll(angles // 2, -1)) * expected for same in (True, False))
    scores = cosine.flatten(2) @ turns.cos().T - sine.flatten(2) @ turns.sin().T
    return replace(poses, shifts=(poses.shifts + grid[scores.argmax(-1)]).clamp(-most, most))
