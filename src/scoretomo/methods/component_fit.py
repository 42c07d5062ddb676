"""Several volumes at once from images under known poses, each image a sum of them with coefficients of its own.

The images of a molecule that moves are slices of ``V_0 + sum_k z_k U_k``. With poses and coefficients given, the
volumes solve normal equations, which are small and independent for each sample of the Fourier lattice, once the
interpolation between samples is taken as summing up (as in back projection). A volume of a single regressor of ones is
a back projection.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import hartley, recentre_crop
from ..imaging.masks import soft_ball
from ..imaging.slices import interpolation_envelope, slice_coefficients, sum_slices, voxel_slices
from .posed_fit import BandImages

# Samples of the lattice for each Fourier pixel.
_PADDING = 2
# Voxels over which the support falls to zero.
_EDGE = 2.0
# Points that are summed up at once: each takes some hundred bytes.
_POINTS_AT_ONCE = 2**19
# Sums of weights below which a sample has seen nothing.
_LEAST_SEEN = 1e-6


@dataclass(frozen=True)
class Regressors:
    """What volumes are multiplied by in each view.

    Attributes
    ----------
    values
        ``(v, q)``.
    moments
        ``(v, q, q)``, expectation of their products: outer products of ``values`` and their covariance.
    """

    values: Float[Tensor, "v q"]
    moments: Float[Tensor, "v q q"]

    @staticmethod
    def of(z: Float[Tensor, "v k"], covariance: Float[Tensor, "v k k"] | None = None) -> "Regressors":
        """Make them of the coordinates: ``(1, z)``."""
        values = torch.cat([z.new_ones(len(z), 1), z], 1)
        moments = values[:, :, None] * values[:, None]
        if covariance is not None:
            moments[:, 1:, 1:] += covariance
        return Regressors(values, moments)


@dataclass(frozen=True)
class ComponentFit:
    """Normal equations on the Fourier lattice of a box.

    Attributes
    ----------
    grid
        Images and band.
    band
        Radius that counts, in Fourier pixels; that of ``grid`` or less.
    """

    grid: BandImages
    band: float

    @property
    def reach(self) -> int:
        """Samples from the origin to the edge of the lattice."""
        return math.ceil(_PADDING * self.band) + 1

    @cached_property
    def support(self) -> Float[Tensor, "side side side"]:
        """Soft sphere that holds the molecule."""
        grid = self.grid
        return soft_ball(grid.side, 3, grid.radius * grid.side / grid.full, _EDGE, grid.images.device)

    @cached_property
    def _envelope(self) -> Float[Tensor, "side side side"]:
        side = self.grid.side
        return interpolation_envelope(side, _PADDING * side, self.grid.images)

    @cached_property
    def counted(self) -> Tensor:
        """Which coefficients lie within the band."""
        counted: Tensor = self.grid.radii <= self.band
        return counted

    def improve(
        self,
        volumes: Float[Tensor, "q side side side"],
        rotations: Float[Tensor, "v 3 3"],
        targets: Float[Tensor, "v p"],
        transfer: Float[Tensor, "v p"],
        weights: Float[Tensor, " v"],
        regressors: Regressors,
        ridge: Float[Tensor, " q"],
        about: Float[Tensor, "q side side side"] | None = None,
    ) -> Float[Tensor, "q side side side"]:
        """Bring volumes within the support nearer to the least squares of the views; from zero it is a back projection.

        What the volumes leave unexplained is summed up on the lattice and divided by the normal equations there. Once
        is nearly enough; doing so again leads to the least squares of the slices themselves.

        Parameters
        ----------
        volumes
            Where to begin.
        rotations, targets, transfer, weights
            Of each view: ``(v, 3, 3)``, object to microscope frame; Hartley coefficients of the image, moved back by
            its shift; what slices are multiplied by; what it counts.
        regressors
            Its coefficients.
        ridge
            ``(q,)``, weight of the prior, in coefficients of images for each sample of the lattice.
        about
            What the prior is about; zero if not given.
        """
        count, edge = regressors.values.shape[1], 2 * self.reach + 1
        rows, columns = torch.tril_indices(count, count, device=rotations.device)
        gram = rotations.new_zeros(edge**3, len(rows))
        right = rotations.new_zeros(edge**3, count)
        slice_fn, frequencies = voxel_slices(volumes), self.grid.frequencies[self.counted]
        size = max(1, _POINTS_AT_ONCE // len(frequencies))
        for part in (slice(first, first + size) for first in range(0, len(rotations), size)):
            moments, weight = regressors.moments[part], weights[part, None, None]
            gain = transfer[part][:, self.counted, None]
            slices = slice_coefficients(slice_fn, rotations[None, part], frequencies)
            explained = gain * (slices.view(count, len(moments), -1).permute(1, 2, 0) @ moments)
            wanted = targets[part][:, self.counted, None] * regressors.values[part][:, None]
            right += self._sum_up(rotations[part], weight * gain * (wanted - explained))
            gram += self._sum_up(rotations[part], weight * gain**2 * moments[:, None, rows, columns])
        if about is not volumes:  # where they are what the prior is about, it does not pull
            right -= ridge * self.spectra(volumes if about is None else volumes - about).T
        used = (gram[:, 0] > _LEAST_SEEN).nonzero()[:, 0]
        square = gram.new_zeros(len(used), count, count)
        square[:, rows, columns] = gram[used]
        square[:, columns, rows] = gram[used]
        square += torch.diag(ridge)
        change = torch.zeros_like(right)
        if count == 1:  # some ten times as fast as a factorisation
            change[used] = right[used] / square[..., 0]
        else:
            change[used] = torch.cholesky_solve(right[used][..., None], torch.linalg.cholesky(square))[..., 0]
        return volumes + self._volumes(change.T)

    def spectra(self, volumes: Float[Tensor, "q side side side"]) -> Float[Tensor, "q cells"]:
        """Hartley transform on the lattice."""
        padded = recentre_crop(volumes / self._envelope, _PADDING * self.grid.side, 3)
        return recentre_crop(hartley(padded, 3), 2 * self.reach + 1, 3).flatten(1)

    def _volumes(self, lattices: Float[Tensor, "q cells"]) -> Float[Tensor, "q side side side"]:
        edge, padded = 2 * self.reach + 1, _PADDING * self.grid.side
        spectra = recentre_crop(lattices.unflatten(1, (edge,) * 3), padded, 3)
        volumes = recentre_crop(hartley(spectra, 3), self.grid.side, 3) / padded**3
        return volumes / self._envelope * self.support

    def _sum_up(self, rotations: Float[Tensor, "v 3 3"], values: Float[Tensor, "v p m"]) -> Float[Tensor, "cells m"]:
        """Add values at the points of views to the samples of the lattice about each point."""
        frequencies = self.grid.frequencies[self.counted]
        per_cycle = float(self.grid.side * _PADDING)
        return sum_slices(values, rotations, frequencies, per_cycle, 2 * self.reach + 1).flatten(0, 2)
