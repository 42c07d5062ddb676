"""The motion of a molecule from its class averages: ``V_i = V_0 + sum_k z_ik U_k``, a mean and what is added to it.

Expectation maximisation under known poses: probabilistic principal components of volumes (Tagare et al. 2015, J.
Struct. Biol. 191, 245; Punjani and Fleet 2021, J. Struct. Biol. 213, 107702). Coordinates are normal with variance 1
before an image is seen; volumes have a ridge; the noise of each shell is what the model does not explain. Poses, shifts
and coordinates of each image are refined together, since a wrong pose looks like a motion and the other way round.

No motion, ``k = 0``, is one map, refined in the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..at_once import at_once
from ..datatypes import InputError
from ..geometry.rotations import from_rotation_vectors
from ..imaging.slices import voxel_slices
from .component_fit import ComponentFit, Regressors
from .moving_parts import separating_rotation
from .posed_images import Expectation, PosedImages

# Part of the iterations, of a start and after it, in which the band grows.
_MARCH = 0.7
# Noise that coordinates are given for the part of the band that is left out: a component that a low band does not show
# would be lost.
_SHAKE = 0.6
# Noise to begin with, as a part of the power of the images.
_FIRST_NOISE = 0.1
# Longest steps of a refinement of poses, in radians and in pixels.
_LONGEST_TURN, _LONGEST_SHIFT = 0.1, 1.0
# Between the random numbers of one seed and of the next.
_STARTS_OF_A_SEED = 7919
_TINY = 1e-6


@dataclass(frozen=True)
class MotionConfig:
    """How a motion model is fitted.

    Attributes
    ----------
    starts
        Random coordinates that are tried; the likeliest go on.
    first_iterations
        Iterations of each start, without refining poses.
    first_part
        Part of the first band in the first of them, which grows to all of it; 1 for all of it at once.
    iterations
        Of expectation maximisation after that.
    refinements
        Iterations, the last ones, that also refine poses and shifts.
    ridge, component_ridge
        Weight of the prior of the mean and of the components, in coefficients of images for each sample of the
        lattice.

    Raises
    ------
    InputError
        No start or iteration, no part of the band, or weights that are not positive.
    """

    starts: int = 3
    first_iterations: int = 16
    first_part: float = 0.5
    iterations: int = 10
    refinements: int = 5
    ridge: float = 0.05
    component_ridge: float = 0.2

    def __post_init__(self) -> None:
        counts = self.starts, self.first_iterations, self.iterations
        if min(counts) < 1 or self.refinements < 0:
            raise InputError(
                f"a motion model needs 1 or more starts and iterations, not {counts}, and 0 or more refinements, "
                f"not {self.refinements}"
            )
        if not 0 < self.first_part <= 1:
            raise InputError(f"first_part must be above 0 and at most 1, not {self.first_part}")
        if not min(self.ridge, self.component_ridge) > 0:
            raise InputError(f"ridges must be positive, not {self.ridge} and {self.component_ridge}")


@dataclass(frozen=True)
class MotionModel:
    """Mean, components, and where each image lies among them.

    Attributes
    ----------
    volumes
        ``(1 + k, side, side, side)``: ``V_0`` and ``U_1 ... U_k``, in units in which projections are the images. A
        component is what one standard deviation of its coordinate adds; the strongest is the first. At the end of a fit
        they move separate parts of the molecule, as far as can be (moving_parts.py).
    z
        ``(n, k)``, of mean 0 and variance 1.
    covariance
        ``(n, k, k)``, of each image's coordinates.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, ``[x, y]``: pose of each image.
    noise
        ``(band + 1,)``, what is not explained: power of a Hartley coefficient, by shell, as the band samples images.
    unexplained
        ``(n,)``, mean square of what is not explained of each image over the noise.
    """

    volumes: Float[Tensor, "q side side side"]
    z: Float[Tensor, "n k"]
    covariance: Float[Tensor, "n k k"]
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    noise: Float[Tensor, " shells"]
    unexplained: Float[Tensor, " n"]

    def volume(self, z: Float[Tensor, " k"]) -> Float[Tensor, "side side side"]:
        """Volume at some coordinates, in the common frame."""
        return self.volumes[0] + torch.einsum("k,kxyz->xyz", z, self.volumes[1:])


@dataclass(frozen=True)
class MotionStep:
    """Where the fit stands after an iteration.

    Attributes
    ----------
    iteration, total
        Iterations done, and how many there are.
    unexplained
        Part of the images' power, shells counting alike, that the model does not explain.
    model
        The model of this iteration.
    """

    iteration: int
    total: int
    unexplained: float
    model: MotionModel


def motion_model(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    components: int,
    config: MotionConfig = MotionConfig(),
    *,
    radius: float,
    band: int,
    seed: int,
    coordinates: Float[Tensor, "n k"] | None = None,
) -> MotionModel:
    """Fit a motion model to the end; see :func:`motion_model_progressive`."""
    *_, last = motion_model_progressive(
        images,
        rotations,
        shifts_pixels,
        components,
        config,
        radius=radius,
        band=band,
        seed=seed,
        coordinates=coordinates,
    )
    return last.model


@torch.no_grad()
def motion_model_progressive(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    components: int,
    config: MotionConfig = MotionConfig(),
    *,
    radius: float,
    band: int,
    seed: int,
    first_band: int | None = None,
    coordinates: Float[Tensor, "n k"] | None = None,
) -> Iterator[MotionStep]:
    """Fit a motion model, yielding after each iteration.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0.
    rotations, shifts_pixels
        ``(n, 3, 3)``, object to microscope frame, and ``(n, 2)``, ``[x, y]``: poses to begin with.
    components
        How many; 0 for one map.
    config
        How far to go.
    radius
        Of the sphere that holds the molecule, in pixels.
    band, first_band
        Highest frequency in Fourier pixels, and that of the first iteration, the same if not given.
    seed
        Of the coordinates to begin with.
    coordinates
        ``(n, k)``, to begin with, in the place of the likeliest of several starts.

    Raises
    ------
    InputError
        As many components as images, or more.
    """
    if components >= len(images):
        raise InputError(f"{len(images)} images cannot tell {components} components")
    band = min(band, (images.shape[-1] - 1) // 2)
    first = band if first_band is None else min(first_band, band)
    z = coordinates
    if z is None:
        z = _first_coordinates(images, rotations, shifts_pixels, components, config, seed, radius=radius, band=first)
    fit = MotionFit(PosedImages.of(images, band, radius), rotations, shifts_pixels, z, config)
    for iteration in range(config.iterations):
        progress = iteration / max(1, config.iterations - 1)
        fit.maximise(first + (band - first) * min(1.0, progress / _MARCH))
        fit.expect()
        if iteration >= config.iterations - config.refinements:
            fit.refine_poses()
        fit.standardise()
        if iteration == config.iterations - 1:
            fit.separate()
        yield MotionStep(iteration + 1, config.iterations, fit.unexplained(), fit.result())


def _first_coordinates(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    components: int,
    config: MotionConfig,
    seed: int,
    *,
    radius: float,
    band: int,
) -> Float[Tensor, "n k"]:
    """Take the coordinates of the likeliest of several starts: some end in directions of noise.

    The band grows: in all of it at once, starts end in many different optima. Random numbers belong to a start.
    """
    posed = PosedImages.of(images, band, radius)

    def start(number: int) -> tuple[float, Float[Tensor, "n k"]]:
        generator = generator_of_start(seed, number)
        z = torch.randn(len(images), components, generator=generator).to(rotations)
        fit = MotionFit(posed, rotations, shifts_pixels, z, config)
        for iteration in range(config.first_iterations):
            grown = min(1.0, iteration / max(1, config.first_iterations - 1) / _MARCH)
            part = config.first_part + (1 - config.first_part) * grown
            if part < 1:
                fit.z = fit.z + _SHAKE * (1 - part) * torch.randn(z.shape, generator=generator).to(z)
            fit.maximise(max(1.0, part * band))
            fit.standardise()
            fit.expect()
        return fit.cost(), fit.z

    if not components:
        return rotations.new_zeros(len(images), 0)
    found = at_once(start, range(config.starts), images.device)
    return min(found, key=lambda each: each[0])[1]


def generator_of_start(seed: int, number: int) -> torch.Generator:
    """Make the random numbers of one of the starts of a seed."""
    return torch.Generator().manual_seed(_STARTS_OF_A_SEED * seed + number)


class MotionFit:
    """Model and coordinates by turns, from poses and coordinates to begin with."""

    def __init__(
        self,
        posed: PosedImages,
        rotations: Float[Tensor, "n 3 3"],
        shifts_pixels: Float[Tensor, "n 2"],
        z: Float[Tensor, "n k"],
        config: MotionConfig,
    ) -> None:
        self.posed, self.config = posed, config
        self.rows = torch.arange(len(posed), device=rotations.device)
        self.pose(rotations, shifts_pixels)
        self.filters = torch.ones_like(self.targets)
        self.noise = _FIRST_NOISE * posed.power
        components = z.shape[1]
        self.z, self.covariance = z, z.new_zeros(len(posed), components, components)
        self.ridge = torch.tensor([config.ridge] + [config.component_ridge] * components).to(rotations)
        self.volumes = rotations.new_zeros(1 + components, *[posed.grid.side] * 3)
        self.residual: Tensor

    def pose(self, rotations: Float[Tensor, "n 3 3"], shifts_pixels: Float[Tensor, "n 2"]) -> None:
        """Give images other poses."""
        self.rotations, self.shifts = rotations, shifts_pixels
        self.targets = self.posed.targets(self.rows, shifts_pixels)

    @property
    def precision(self) -> Float[Tensor, " p"]:
        """Weight of each coefficient in the band."""
        return self.posed.precision(self.noise) * self.within

    def maximise(self, band: float) -> None:
        """Make volumes from coordinates; the mean is not negative."""
        filters = self.filters / self.filters.mean(0)  # else volumes would shrink and filters grow, without end
        self.volumes = ComponentFit(self.posed.grid, band).improve(
            self.volumes,
            self.rotations,
            self.targets,
            filters,
            torch.ones_like(filters[:, 0]),
            Regressors.of(self.z, self.covariance),
            self.ridge,
        )
        self.volumes[0].clamp_(min=0)
        self.within = (self.posed.grid.radii <= band).to(self.targets)

    def expect(self) -> None:
        """Find filters, coordinates and noise from volumes."""
        (mean,) = self.posed.slices(voxel_slices(self.volumes[0]), self.rotations)
        precision = self.precision
        self.filters = self.posed.filters_of(mean, self.targets, precision)
        self._take(self.posed.expect(self.volumes, self.rotations, self.targets, self.filters, precision))
        self.noise = self.posed.noise_of(self.residual)

    def refine_poses(self) -> None:
        """Move poses, shifts and coordinates together (Gauss and Newton), where it makes images more likely."""
        posed, slice_fn = self.posed, voxel_slices(self.volumes)
        values = Regressors.of(self.z).values

        def turned(rotations: Tensor) -> Tensor:
            return self.filters * torch.einsum("vq,qvp->vp", values, posed.slices(slice_fn, rotations))

        slices = posed.slices(slice_fn, self.rotations)
        own = self.filters * torch.einsum("vq,qvp->vp", values, slices)
        derivatives, prior = posed.pose_derivatives(own, turned, self.rotations, self.targets)
        columns = torch.cat([derivatives, (self.filters * slices[1:]).transpose(0, 1)], 1)
        precision = self.precision
        weighted = columns * precision
        normal = weighted @ columns.mT + torch.diag(torch.cat([prior, torch.ones_like(self.z[0])]))
        right = (weighted @ (self.targets - own)[..., None])[..., 0]
        right[:, 5:] -= self.z
        step = torch.linalg.solve(normal, right)
        turns, moves = step[:, :3].clamp(-_LONGEST_TURN, _LONGEST_TURN), step[:, 3:5]
        rotations = from_rotation_vectors(turns) @ self.rotations
        shifts = self.shifts + moves.clamp(-_LONGEST_SHIFT, _LONGEST_SHIFT)
        targets = posed.targets(self.rows, shifts)
        before = posed.expect(self.volumes, self.rotations, self.targets, self.filters, precision)
        after = posed.expect(self.volumes, rotations, targets, self.filters, precision)
        better = after.cost < before.cost
        self.rotations = torch.where(better[:, None, None], rotations, self.rotations)
        self.shifts = torch.where(better[:, None], shifts, self.shifts)
        self.targets = torch.where(better[:, None], targets, self.targets)
        pairs = zip(vars(after).values(), vars(before).values(), strict=True)
        self._take(Expectation(*(torch.where(better.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)))

    def standardise(self) -> None:
        """Make coordinates of mean 0 and variance 1, uncorrelated, the strongest component first; volumes with them."""
        if not self.z.shape[1]:
            return
        mean, moving = self.z.mean(0), self.volumes[1:]
        centred = self.z - mean
        root = torch.linalg.cholesky(centred.mT @ centred / len(self.z) + _TINY * torch.eye(len(mean)).to(mean))
        gram = torch.einsum("axyz,bxyz->ab", moving, moving)
        # of all bases with coordinates of variance 1, the one in which components are orthogonal
        axes = torch.linalg.eigh(root.mT @ gram @ root).eigenvectors.flip(1)
        self.volumes[0] += torch.einsum("k,kxyz->xyz", mean, moving)
        self.z = centred
        self._change_basis(root @ axes)

    def separate(self) -> None:
        """Make components move separate parts of the molecule."""
        if self.z.shape[1] > 1:
            self._change_basis(separating_rotation(self.volumes[1:], self.z))

    def _change_basis(self, forward: Float[Tensor, "k k"]) -> None:
        """Take columns, in terms of the present components, as the components."""
        back = torch.linalg.inv(forward)
        self.z, self.covariance = self.z @ back.mT, back @ self.covariance @ back.mT
        self.volumes = torch.cat([self.volumes[:1], torch.einsum("kxyz,kj->jxyz", self.volumes[1:], forward)])

    def cost(self) -> float:
        """Twice the negative logarithm of the likelihood of an image, in the mean, up to a constant."""
        noise = self.posed.independent * self.noise.log()[self.posed.grid.shells].sum()
        return float(noise + (self.z.square().sum(1) - torch.logdet(self.covariance)).mean())

    def unexplained(self) -> float:
        """Part of the power that is noise, as a mean over shells."""
        return float((self.noise[1:] / self.posed.power[1:]).mean())

    def result(self) -> MotionModel:
        """Put the model on the grid of the caller."""
        precision = self.posed.precision(self.noise) / self.posed.independent
        return MotionModel(
            volumes=self.posed.grid.fine(self.volumes),
            z=self.z,
            covariance=self.covariance,
            rotations=self.rotations,
            shifts_pixels=self.shifts,
            noise=self.noise,
            unexplained=(self.residual.square() * precision).mean(1),
        )

    def _take(self, found: Expectation) -> None:
        self.z, self.covariance, self.residual = found.z, found.covariance, found.residual
