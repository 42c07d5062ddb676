"""Images under known poses against volumes and what is added to them: coordinates, filters, poses, noise.

Everything is linear or nearly so, on a disc of Hartley coefficients. An image is
``filter * (S_0 + sum_k z_k S_k) + noise``, where ``S`` are slices of a mean and of components. The filter is smooth and
radial, since class averages are not equally sharp and not equally bright; small errors of pose and shift are
derivatives of the slice. A motion has to explain what these do not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..geometry.rotations import from_rotation_vectors
from ..imaging.slices import SliceFn, slice_coefficients, translate_coefficients, voxel_slices
from .posed_fit import BandImages, band_images

# Coefficients of slices that are held at once.
_COEFFICIENTS_AT_ONCE = 2**23
# Noise of a shell, as a part of its power, that is always allowed for: interpolation and the model's own faults.
_LEAST_NOISE = 0.01
# Frequencies over the band between which the filter of an image is interpolated; how much it is held to 1, as a part
# of what the images say in the mean; and its limits.
_HATS = 6
_STIFFNESS = 0.05
_FILTERS = (0.3, 3.0)
# Step of the numerical derivative of a slice by its pose, in radians.
_STEP = 0.02
# Errors that are expected of poses that were refined, in radians, and of shifts, in pixels.
_POSE_ERROR, _SHIFT_ERROR = math.radians(10), 1.0
_TINY = 1e-3


@dataclass(frozen=True)
class Expectation:
    """What a model says of views.

    Attributes
    ----------
    cost
        ``(v,)``, twice the negative logarithm of the likelihood, coordinates integrated out.
    z, covariance
        ``(v, k)`` and ``(v, k, k)``, of the coordinates.
    residual
        ``(v, p)``, what the best coordinates leave.
    """

    cost: Float[Tensor, " v"]
    z: Float[Tensor, "v k"]
    covariance: Float[Tensor, "v k k"]
    residual: Float[Tensor, "v p"]


@dataclass(frozen=True)
class PosedImages:
    """Images on a band.

    Attributes
    ----------
    grid
        Their coefficients.
    """

    grid: BandImages

    @staticmethod
    def of(images: Float[Tensor, "n side side"], band: int, radius: float) -> "PosedImages":
        """Sample images as finely as the band needs; see :func:`.band_images`."""
        return PosedImages(band_images(images, band, radius))

    def __len__(self) -> int:
        return len(self.grid.images)

    @property
    def independent(self) -> float:
        """Part of the coefficients that are independent: neighbours of what lies in a disc are not."""
        return math.pi * self.grid.radius**2 / self.grid.full**2

    @cached_property
    def power(self) -> Float[Tensor, " k"]:
        """Mean square of a coefficient, by shell."""
        return self._by_shell(self.grid.coefficients.square()).mean(0)

    def targets(self, image: Int[Tensor, " v"], shifts_pixels: Float[Tensor, "v 2"]) -> Float[Tensor, "v p"]:
        """Coefficients of images, moved back by shifts."""
        grid = self.grid
        back = -shifts_pixels * (grid.side / grid.full)
        return translate_coefficients(grid.coefficients[image, None], grid.frequencies, back[:, None])[:, 0]

    def noise_of(self, residual: Float[Tensor, "v p"]) -> Float[Tensor, " k"]:
        """Power of the noise, by shell, with a floor."""
        return torch.maximum(self._by_shell(residual.square()).mean(0), _LEAST_NOISE * self.power)

    def precision(self, noise: Float[Tensor, " k"]) -> Float[Tensor, " p"]:
        """Weight of each coefficient in a logarithm of a likelihood."""
        return self.independent / noise[self.grid.shells]

    def slices(self, slice_fn: SliceFn, rotations: Float[Tensor, "v 3 3"]) -> Float[Tensor, "q v p"]:
        """Slices of one or several volumes, see :func:`.voxel_slices`, under all rotations."""
        found = slice_coefficients(slice_fn, rotations[None], self.grid.frequencies)
        return found.view(-1, len(rotations), len(self.grid.frequencies))

    def expect(
        self,
        volumes: Float[Tensor, "q side side side"],
        rotations: Float[Tensor, "v 3 3"],
        targets: Float[Tensor, "v p"],
        filters: Float[Tensor, "v p"],
        precision: Float[Tensor, " p"],
    ) -> Expectation:
        """Find coordinates of views, normal with variance 1 before they are seen, and how likely the views are.

        Parameters
        ----------
        volumes
            ``(q, side, side, side)``, mean and components, sampled as the images of the band are.
        rotations, targets, filters
            Of each view: ``(v, 3, 3)``, object to microscope frame; ``(v, p)``, coefficients of its image, moved back
            by its shift; ``(v, p)``, what slices are multiplied by.
        precision
            ``(p,)``, from :meth:`precision`; 0 where a coefficient does not count.
        """
        parts, size = [], max(1, _COEFFICIENTS_AT_ONCE // (len(volumes) * targets.shape[1]))
        slice_fn = voxel_slices(volumes)
        for rows in (slice(first, first + size) for first in range(0, len(rotations), size)):
            slices = filters[rows] * self.slices(slice_fn, rotations[rows])
            parts.append(_expect(slices, targets[rows], precision))
        return Expectation(*(torch.cat(each) for each in zip(*parts, strict=True)))

    @cached_property
    def hats(self) -> Float[Tensor, "h p"]:
        """Piecewise linear functions of frequency that add up to 1: what filters are made of."""
        radius = self.grid.radii / self.grid.band * (_HATS - 1)
        return (1 - (radius - torch.arange(_HATS).to(radius)[:, None]).abs()).clamp(min=0)

    def filters_of(
        self, slices: Float[Tensor, "v p"], targets: Float[Tensor, "v p"], precision: Float[Tensor, " p"]
    ) -> Float[Tensor, "v p"]:
        """Smooth radial filters, about 1, that make images of slices."""
        columns = slices[:, None] * self.hats
        normal = (columns * precision) @ columns.mT
        prior = _STIFFNESS * normal.diagonal(dim1=-2, dim2=-1).mean(0) + _TINY
        right = ((columns * precision) @ targets[..., None])[..., 0] + prior
        gains: Tensor = torch.linalg.solve(normal + torch.diag(prior), right)
        return gains.clamp(*_FILTERS) @ self.hats

    def pose_derivatives(
        self,
        slices: Float[Tensor, "v p"],
        turned: Callable[[Tensor], Tensor],
        rotations: Float[Tensor, "v 3 3"],
        targets: Float[Tensor, "v p"],
    ) -> tuple[Float[Tensor, "v 5 p"], Float[Tensor, "5"]]:
        """Differentiate slices by their poses, and images by their shifts; with the precision of errors in them.

        Parameters
        ----------
        slices
            Of the volumes of the views, at ``rotations``.
        turned
            Makes them at other rotations.
        targets
            Coefficients of the images, moved back by their shifts.

        Returns
        -------
        Tensor
            ``(v, 5, p)``: by rotations about x, y and z of the microscope frame, in radians, and by shifts along x
            and y, in pixels.
        Tensor
            ``(5,)``, one over the variance that is expected of them.
        """
        columns = []
        for axis in torch.eye(3).to(rotations):
            plus, minus = (turned(from_rotation_vectors(sign * _STEP * axis) @ rotations) for sign in (1, -1))
            columns.append((plus - minus) / (2 * _STEP))
        # an image moved back by t has cos(2 pi k.t) H(k) - sin(2 pi k.t) H(-k), whose derivative is -2 pi k H'(-k)
        waves = 2 * math.pi * (self.grid.side / self.grid.full) * self.grid.frequencies.T
        columns += [wave * targets.flip(-1) for wave in waves]
        prior = torch.tensor([_POSE_ERROR**-2] * 3 + [_SHIFT_ERROR**-2] * 2).to(slices)
        return torch.stack(columns, 1), prior

    def _by_shell(self, values: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch k"]:
        return self.grid.by_shell(values) / self.grid.by_shell(torch.ones_like(values[:1]))


def _expect(
    slices: Float[Tensor, "q v p"], targets: Float[Tensor, "v p"], precision: Float[Tensor, " p"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rest, moving = targets - slices[0], slices[1:].transpose(0, 1)  # (v, k, p)
    weighted = moving * precision
    inverse = weighted @ moving.mT + torch.eye(moving.shape[1]).to(rest)
    covariance = torch.linalg.inv(inverse)
    z = (covariance @ (weighted @ rest[..., None]))[..., 0]
    residual = rest - (z[:, None] @ moving)[:, 0]
    cost = (residual.square() * precision).sum(1) + z.square().sum(1) + torch.logdet(inverse)
    return cost, z, covariance, residual
