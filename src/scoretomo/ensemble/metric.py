"""How volumes of a set are compared: shells and voxels count by the share of their variance that is signal."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..imaging.fourier import (
    centred_fft,
    centred_inverse_fft,
    radius_grid,
    recentre_crop,
    resize,
    shell_index,
    shell_sum,
)
from ..imaging.masks import soft_ball
from ..imaging.resampling import rigid_moves

# Width of the soft edge of the sphere, as a part of the side.
_EDGE = 0.06
# Shells with less signal than this are left out of the comparison; what they could add is noise.
_LEAST_SHARE = 0.05
# Pairs of seeds that the error can be measured with.
_LEAST_PAIRS = 8
# Side at which nearest neighbours are looked for: motions of domains are seen at low resolution.
_NEIGHBOUR_SIDE = 16


@dataclass(frozen=True)
class Seeds:
    """Further reconstructions of the same images.

    Attributes
    ----------
    volumes
        ``(k, n, s, s, s)``.
    reliable
        ``(k, n)``, which of them are used.
    """

    volumes: Float[Tensor, "k n s s s"]
    reliable: Bool[Tensor, "k n"]


@dataclass(frozen=True)
class Metric:
    """Linear map from volumes to vectors whose Euclidean distance is hardly that of the volumes' errors.

    Deviations from the mean are cut to a sphere, filtered, sampled as finely as the filter asks for, and weighted.

    Attributes
    ----------
    mean
        ``(s, s, s)``, over the reliable volumes.
    shell_weights
        ``(k,)``, Wiener filter of the deviations in shells 0 to ``k - 1``: signal over signal plus error, 0 to 1.
    voxel_weights
        ``(p, p, p)``, the same share for each voxel of the filtered deviations; 1 without seeds, since weights from
        neighbours would favour what is alike by chance.
    rigid_moves
        ``(6, p^3)``, orthonormal: how the vector of the mean changes when it is turned or shifted as a whole. They are
        taken out of every vector, since a frame that is a little off is not a motion.
    from_seeds
        Whether the error was measured between seeds; otherwise it is what differs between nearest neighbours, which
        holds some of the motion.
    """

    mean: Float[Tensor, "s s s"]
    shell_weights: Float[Tensor, " k"]
    voxel_weights: Float[Tensor, "p p p"]
    rigid_moves: Float[Tensor, "six p3"]
    from_seeds: bool

    def __call__(self, volumes: Float[Tensor, "n s s s"]) -> Float[Tensor, "n p3"]:
        """Vectors of volumes; the mean is the origin."""
        vectors = _weighted(volumes, self.mean, self.shell_weights, self.voxel_weights)
        return vectors.addmm_(vectors @ self.rigid_moves.T, self.rigid_moves, alpha=-1)


def fit_metric(
    volumes: Float[Tensor, "n s s s"],
    reliable: Bool[Tensor, " n"],
    seeds: Seeds | None,
    finest_shell: int,
) -> Metric:
    """Weigh shells, then voxels, by one minus the variance of the error over the variance of the volumes."""
    chosen = volumes[reliable]
    mean, side = chosen.mean(0), volumes.shape[-1]
    members = reliable.nonzero().flatten()
    from_seeds = seeds is not None and int((seeds.reliable & reliable).sum()) >= _LEAST_PAIRS
    if seeds is not None and from_seeds:
        others = [(seeds.volumes[k, i], volumes[i]) for k, i in (seeds.reliable & reliable).nonzero().tolist()]
    else:
        nearest = members[_nearest(chosen, mean)]
        others = [(volumes[i], volumes[j]) for i, j in zip(members.tolist(), nearest.tolist(), strict=True)]

    count = min(finest_shell, (side - 1) // 2) + 1
    varying = _mean_of(_shell_power(_cut(volume - mean), count) for volume in chosen)
    error = _mean_of(_shell_power(_cut(first - second), count) for first, second in others) / 2
    shell_weights = _signal_share(varying, error)
    # where errors are as large as all variance everywhere, all that is known is at the lowest shells
    last = max(2, *(shell_weights > _LEAST_SHARE).nonzero().flatten().tolist(), 0)
    shell_weights = shell_weights[: last + 1].clamp(min=_LEAST_SHARE / 10)
    small = min(side, 2 * (last + 1))

    voxel_weights = mean.new_ones(small, small, small)
    if from_seeds:
        varying = _mean_of(_filtered(volume - mean, shell_weights, small).square() for volume in chosen)
        error = _mean_of(_filtered(first - second, shell_weights, small).square() for first, second in others) / 2
        # the variance of few samples is smoothed over neighbouring voxels
        varying, error = (torch.nn.functional.avg_pool3d(v[None], 3, 1, 1)[0] for v in (varying, error))
        voxel_weights = _signal_share(varying, error).clamp(min=_LEAST_SHARE / 10)
    moves = _weighted(rigid_moves(mean), torch.zeros_like(mean), shell_weights, voxel_weights)
    return Metric(mean, shell_weights, voxel_weights, torch.linalg.qr(moves.T).Q.T, from_seeds)


def _weighted(
    volumes: Float[Tensor, "n s s s"],
    mean: Float[Tensor, "s s s"],
    shell_weights: Float[Tensor, " k"],
    voxel_weights: Float[Tensor, "p p p"],
) -> Float[Tensor, "n p3"]:
    side = voxel_weights.shape[-1]
    vectors = volumes.new_empty(len(volumes), side**3)
    for own, volume in zip(vectors, volumes, strict=True):  # one spectrum at a time: sets may fill the memory
        own.copy_((_filtered(volume - mean, shell_weights, side) * voxel_weights).flatten())
    return vectors


def _nearest(volumes: Float[Tensor, "n s s s"], mean: Float[Tensor, "s s s"]) -> Int[Tensor, " n"]:
    """Nearest neighbour of each volume at low resolution."""
    side = min(_NEIGHBOUR_SIDE, volumes.shape[-1])
    small = torch.stack([resize(_cut(volume - mean), side, 3).flatten() for volume in volumes])
    distances = torch.cdist(small, small)
    return distances.fill_diagonal_(torch.inf).argmin(1)


def _cut(volume: Float[Tensor, "s s s"]) -> Float[Tensor, "s s s"]:
    side = volume.shape[-1]
    edge = _EDGE * side
    return volume * soft_ball(side, 3, side / 2 - 1 - edge, edge, volume.device)


def _filtered(deviation: Float[Tensor, "s s s"], shell_weights: Float[Tensor, " k"], side: int) -> Tensor:
    """Cut to the sphere, filter, and change the sampling to ``side``, values kept."""
    old = deviation.shape[-1]
    spectrum = recentre_crop(centred_fft(_cut(deviation), 3), side, 3)
    radius = radius_grid(side, 3, deviation.device).round().long()
    weights = torch.where(radius < len(shell_weights), shell_weights[radius.clamp(max=len(shell_weights) - 1)], 0)
    return centred_inverse_fft(spectrum * weights, 3) * (side / old) ** 3


def _shell_power(volume: Float[Tensor, "s s s"], count: int) -> Float[Tensor, " k"]:
    power = centred_fft(volume, 3).abs() ** 2
    return shell_sum(power.flatten(), shell_index(volume.shape[-1], 3, volume.device).flatten(), count)


def _signal_share(varying: Tensor, error: Tensor) -> Tensor:
    share = 1 - error / varying.clamp(min=torch.finfo(varying.dtype).tiny)
    return torch.where(varying > 1e-6 * varying.max(), share, 0).clamp(0, 1)


def _mean_of(parts: Iterator[Tensor]) -> Tensor:
    total, count = next(parts), 1
    for part in parts:
        total, count = total + part, count + 1
    return total / count
