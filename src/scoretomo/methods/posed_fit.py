"""A volume from images under known poses: least squares with a Gaussian prior, within a sphere.

The images are compared with slices of the volume on a disc of Hartley coefficients, the band. Conjugate gradients go
through the exact adjoint of the slices, so that the support helps where no image has a slice, which it would not if
slices were summed up in Fourier space.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.fft import next_fast_len
from torch import Tensor

from ..imaging.fourier import filter_by_radius, resize, shell_index, shell_sum
from ..imaging.masks import soft_ball
from ..imaging.slices import (
    back_project_slices,
    disc_frequencies,
    image_coefficients,
    slice_coefficients,
    voxel_slices,
)

# Coefficients of slices that are computed at once: the working memory, some 300 MB.
_COEFFICIENTS_AT_ONCE = 2**22
# Voxels over which the support falls to zero.
_EDGE = 2.0


@dataclass(frozen=True)
class BandImages:
    """Images sampled as finely as a band needs, and their Hartley coefficients within it.

    Attributes
    ----------
    full, side
        Side of the caller's arrays and of those here; the field of view is the same.
    band
        Radius of the disc, in Fourier pixels.
    radius
        Of the sphere that holds the molecule, in pixels of the full side.
    images
        ``(n, side, side)``.
    frequencies, shells
        ``(p, 2)``, xy in cycles per pixel of ``side``, rows of :func:`~scoretomo.imaging.slices.disc_frequencies`, and
        ``(p,)``, nearest Fourier pixel.
    coefficients
        ``(n, p)``, Hartley transform of the images there.
    """

    full: int
    side: int
    band: int
    radius: float
    images: Float[Tensor, "n side side"]
    frequencies: Float[Tensor, "p 2"]
    shells: Int[Tensor, " p"]
    coefficients: Float[Tensor, "n p"]

    @property
    def radii(self) -> Float[Tensor, " p"]:
        """Distance of each coefficient from the origin, in Fourier pixels."""
        radii: Tensor = self.frequencies.norm(dim=-1) * self.side
        return radii

    @property
    def power_unit(self) -> float:
        """Power of a coefficient here, for a power of one on the full grid."""
        return float(self.side / self.full) ** 4

    def coarse(self, volume: Float[Tensor, "*volumes full full full"]) -> Float[Tensor, "*volumes side side side"]:
        """Sample volumes like the images, so that its projections keep their values."""
        return resize(volume, self.side, 3) * (self.full / self.side)

    def fine(self, volume: Float[Tensor, "*volumes side side side"]) -> Float[Tensor, "*volumes full full full"]:
        """Undo :meth:`coarse`."""
        return resize(volume, self.full, 3) * (self.side / self.full)

    def by_shell(self, values: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch k"]:
        """Sum over the coefficients of each shell of the band."""
        return shell_sum(values, self.shells, self.band + 1)


@dataclass(frozen=True)
class Views:
    """Images under their possible poses: a row for each pose that counts.

    Attributes
    ----------
    image
        ``(v,)``, which image it is.
    rotations
        ``(v, 3, 3)``, object to microscope frame.
    targets
        ``(v, p)``, Hartley coefficients of the image, moved back by its shift.
    weights
        ``(v,)``, probability of the pose; those of an image add up to 1.
    """

    image: Int[Tensor, " v"]
    rotations: Float[Tensor, "v 3 3"]
    targets: Float[Tensor, "v p"]
    weights: Float[Tensor, " v"]

    def of_half(self, half: int) -> "Views":
        """Take the views of every other image."""
        rows = self.image % 2 == half
        return Views(self.image[rows], self.rotations[rows], self.targets[rows], self.weights[rows])

    def best_weights(self) -> Float[Tensor, " n"]:
        """Largest weight of each image."""
        most = self.weights.new_zeros(int(self.image.max()) + 1)
        return most.scatter_reduce(0, self.image, self.weights, "amax")


def band_images(images: Float[Tensor, "n full full"], band: int, radius: float) -> BandImages:
    """Sample images as finely as the disc of Fourier pixels within ``band`` needs.

    Parameters
    ----------
    images
        ``(n, full, full)``, axes ``[y, x]``.
    band
        Radius of the disc in Fourier pixels.
    radius
        Of the sphere that holds the molecule, in pixels of ``images``.
    """
    full = images.shape[-1]
    side = min(full, 2 * next_fast_len(band + 2, real=True))  # a length with a large prime costs several times as much
    small = resize(images, side, 2)
    frequencies = disc_frequencies(side, float(band), images.device).to(images.dtype)
    shells = (frequencies.norm(dim=-1) * side).round().long()
    return BandImages(full, side, band, radius, small, frequencies, shells, image_coefficients(small, frequencies))


@dataclass(frozen=True)
class PosedFit:
    """Least squares with a Gaussian prior.

    Attributes
    ----------
    grid
        Images and band.
    scales
        ``(n,)``, amplitude of each image.
    noise
        ``(k,)``, power of the noise in a coefficient, by shell; the band at least.
    group
        ``(g, 3, 3)``, rotations under which the volume does not change.
    steps
        Conjugate gradient steps.
    """

    grid: BandImages
    scales: Float[Tensor, " n"]
    noise: Float[Tensor, " k"]
    group: Float[Tensor, "g 3 3"]
    steps: int

    def solve(
        self,
        views: Views,
        start: Float[Tensor, "full full full"],
        ratio: Float[Tensor, " k"],
        expected: Float[Tensor, "full full full"] | None = None,
    ) -> Float[Tensor, "full full full"]:
        """Volume within the support that explains the views, by preconditioned conjugate gradients.

        ``ratio`` is the power of signal to noise in the volume, by shell. It makes the prior: with a weight D of the
        data in a shell, the signal there has the variance ratio / D (Scheres 2012), about ``expected`` or zero.
        """
        grid = self.grid
        support = soft_ball(grid.side, 3, grid.radius * grid.side / grid.full, _EDGE, start.device)
        weights = views.weights[:, None] / self.noise[grid.shells]
        scales = self.scales[views.image, None]
        shells = shell_index(grid.side, 3, start.device).clamp(max=grid.band + 1)
        samples = torch.bincount(shells.flatten())[: grid.band + 1]
        data = grid.by_shell(weights * scales**2).sum(0) * len(self.group) / samples
        prior = data / ratio[: grid.band + 1]
        prior = torch.cat([prior, 10 * (data + prior)[-1:]])[shells]  # beyond the band there are no data
        curvature = prior + torch.cat([data, data.new_zeros(1)])[shells]

        def pull(inner: Tensor) -> Tensor:  # of the prior on Hartley coefficients, side^3 times those of a unitary one
            return support * filter_by_radius(support * inner, prior) * grid.side**3

        def normal(inner: Tensor) -> Tensor:
            slice_fn = voxel_slices(support * inner)

            def weighted(rows: slice, rotations: Tensor) -> Tensor:
                return quadratic[rows, None] * slice_coefficients(slice_fn, rotations, grid.frequencies)

            return pull(inner) + support * self._sum_up(views, weighted)

        def precondition(residual: Tensor) -> Tensor:
            return support * filter_by_radius(residual, 1 / curvature) / grid.side**3

        quadratic, linear = weights * scales**2, weights * scales * views.targets
        right = support * self._sum_up(views, lambda rows, _: linear[rows, None])
        if expected is not None:
            right += pull(grid.coarse(expected))
        at = grid.coarse(start)
        return grid.fine(support * _conjugate_gradients(normal, right, at, precondition, self.steps))

    def _sum_up(
        self, views: Views, values: Callable[[slice, Float[Tensor, "v g 3 3"]], Tensor]
    ) -> Float[Tensor, "side side side"]:
        """Apply the adjoint of taking slices.

        ``values`` gives what it is applied to, ``(v, g or 1, p)``, for some of the views and their rotations.
        """
        grid = self.grid
        total = grid.images.new_zeros(grid.side, grid.side, grid.side)
        size = max(1, _COEFFICIENTS_AT_ONCE // (len(self.group) * len(grid.frequencies)))
        for rows in (slice(first, first + size) for first in range(0, len(views.image), size)):
            rotations = views.rotations[rows, None] @ self.group  # (v, g, 3, 3)
            found = values(rows, rotations).expand(-1, len(self.group), -1)
            total += back_project_slices(found.flatten(0, 1), rotations.flatten(0, 1), grid.frequencies, grid.side)
        return total


def _conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor],
    steps: int,
) -> Tensor:
    """Solve ``normal(x) = right`` for a symmetric positive operator, from ``start``."""
    x = start
    residual = right - normal(x)
    scaled = precondition(residual)
    direction, product = scaled, (residual * scaled).sum()
    for _ in range(steps):
        image = normal(direction)
        step = product / (direction * image).sum().clamp(min=torch.finfo(x.dtype).tiny)
        x, residual = x + step * direction, residual - step * image
        scaled = precondition(residual)
        before, product = product, (residual * scaled).sum()
        direction = scaled + product / before.clamp(min=torch.finfo(x.dtype).tiny) * direction
    return x
