"""A volume for each image: that of the motion model at its coordinates, and what its neighbours see beyond the model.

Few components are no exact description of a motion, and what is fine in them is noise. Components are weighted by how
far those of half of the images each agree. Images near one another in the coordinates show nearly the same conformation
from different sides; what the model leaves unexplained of each of them, at its own coordinates, is added to the volume
(kernel regression, linear about the place), with the model as the prior, so that where they say nothing it stays.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..imaging.fourier import filter_by_radius, radius_grid, shell_correlation
from ..imaging.molecular_mask import solvent_mask
from ..imaging.resampling import turn_into_view
from ..imaging.slices import voxel_slices
from .angular_spread import AngularSpread
from .component_fit import ComponentFit, Regressors
from .motion_model import MotionConfig, MotionModel
from .posed_images import PosedImages

EXACT = "donot_use_mm_for_euclid_dist"
"""How distances of coordinates are computed: by products of matrices, near ones would come out as zero."""
# Images that are worked on at once: the working memory.
_IMAGES_AT_ONCE = 64
# Width of the kernel: distance of the image within which this part of all images lies.
_WITHIN = 0.15
_FEWEST_WITHIN = 2
# Images of less weight do not count.
_LEAST_WEIGHT = 0.01
# Weight of the model, in coefficients of images for each sample of the lattice.
_RIDGE = 0.1
# Times that the volumes of a half are brought nearer to its images; once is a back projection.
_HALF_STEPS = 2
# Images below which halves of them say nothing.
_FEWEST_FOR_HALVES = 16


class NeighbourVolumes:
    """Makes the volume of each image, or at any place of the motion.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0: those that the model was made of.
    model
        Mean, components, coordinates and poses. Without a component all volumes are the mean.
    radius
        Of the sphere that holds the molecule, in pixels.
    spread
        Of the views of each image's particles, to be undone in the volumes; None: volumes are as blurred as images.

    Attributes
    ----------
    model
        As given.
    components
        ``(1 + k, side, side, side)``: mean and components of the volumes that are made, weighted by their agreement.
    molecule
        ``(side, side, side)``: mask of what is molecule at the coordinates of any image. Elsewhere volumes are 0.
    """

    @torch.no_grad()
    def __init__(
        self,
        images: Float[Tensor, "n side side"],
        model: MotionModel,
        *,
        radius: float,
        spread: AngularSpread | None = None,
    ) -> None:
        self.model = model
        posed = PosedImages.of(images, len(model.noise) - 1, radius)
        self._fit, rows = ComponentFit(posed.grid, float(posed.grid.band)), torch.arange(len(images)).to(images.device)
        self._targets = posed.targets(rows, model.shifts_pixels)
        values, volumes = Regressors.of(model.z).values, posed.grid.coarse(model.volumes)
        slice_fn, precision, filters = voxel_slices(volumes), posed.precision(model.noise), []
        for some in rows.split(_IMAGES_AT_ONCE):
            expected = torch.einsum("vq,qvp->vp", values[some], posed.slices(slice_fn, model.rotations[some]))
            filters.append(posed.filters_of(expected, self._targets[some], precision))
        self._filters = torch.cat(filters)
        self._filters /= self._filters.mean(0)
        self._volumes = self._weighted(volumes)
        plain = posed.grid.fine(self._volumes)
        self.components = spread.undo(plain) if spread else plain
        self._undone = self.components - plain
        self.molecule = solvent_mask(self.components, values)
        slice_fn = voxel_slices(self._volumes)
        slices = [posed.slices(slice_fn, model.rotations[some])[1:] for some in rows.split(_IMAGES_AT_ONCE)]
        self._moving = torch.cat(slices, 1)
        self._ridge = torch.full((1,), _RIDGE).to(images)

    def _weighted(self, volumes: Float[Tensor, "q w w w"]) -> Float[Tensor, "q w w w"]:
        """Give each shell of each component its figure of merit (Rosenthal and Henderson 2003), from two halves.

        Halves have coordinates of one fit, so they agree too much: of a component that is nothing but noise half is
        left. Coordinates from each other's components are no better. Whether there is a component at all is decided
        before, by halves that share nothing (ensemble/motion_evidence.py).
        """
        count = len(self._targets)
        if not self.model.z.shape[1] or count < _FEWEST_FOR_HALVES:
            return volumes
        one, other = (self._of_half(torch.arange(half, count, 2, device=volumes.device)) for half in (0, 1))
        side = volumes.shape[-1]
        radii, found_volumes = radius_grid(side, 3, volumes.device).clamp(max=side // 2), [volumes[0]]
        for component, first, second in zip(volumes[1:], one[1:], other[1:], strict=True):
            agreement = _smooth(shell_correlation(first, second, side // 2 + 1)).clamp(min=0)
            merit = (2 * agreement / (1 + agreement)).sqrt()
            found_volumes.append(filter_by_radius(component, _at(merit, radii)))
        return torch.stack(found_volumes)

    def _of_half(self, own: Int[Tensor, " v"]) -> Float[Tensor, "q w w w"]:
        """Make mean and components of some of the images."""
        rotations, config = self.model.rotations[own], MotionConfig()
        regressors = Regressors.of(self.model.z[own], self.model.covariance[own])
        volumes = rotations.new_zeros(regressors.values.shape[1], *[self._fit.grid.side] * 3)
        ridge = rotations.new_tensor([config.ridge] + [config.component_ridge] * (len(volumes) - 1))
        views = rotations, self._targets[own], self._filters[own], torch.ones_like(rotations[:, 0, 0])
        for _ in range(_HALF_STEPS):
            volumes = self._fit.improve(volumes, *views, regressors, ridge)
        return volumes

    @torch.no_grad()
    def __call__(self, image: int) -> Float[Tensor, "side side side"]:
        """Make the volume of an image, in the frame of the image."""
        model = self.model
        volume = self._volume_at(model.z[image])
        return turn_into_view(volume, model.rotations[image], model.shifts_pixels[image]).clamp(min=0)

    @torch.no_grad()
    def at(self, z: Float[Tensor, " k"]) -> Float[Tensor, "side side side"]:
        """Make the volume at some coordinates, in the common frame."""
        return self._volume_at(z).clamp(min=0)

    def _volume_at(self, z: Float[Tensor, " k"]) -> Float[Tensor, "side side side"]:
        model, grid = self.model, self._fit.grid
        parts = torch.cat([z.new_ones(1), z])
        volume = torch.einsum("q,qxyz->xyz", parts, self._volumes)
        if model.z.shape[1]:
            weights = _weights(model.z, z)
            near, own = weights > _LEAST_WEIGHT, volume[None]
            # as if each neighbour were at this place: what the model says of the way between is taken off
            way = torch.einsum("vk,kvp->vp", z - model.z[near], self._moving[:, near])
            targets = self._targets[near] + self._filters[near] * way
            views = model.rotations[near], targets, self._filters[near], weights[near]
            (volume,) = self._fit.improve(own, *views, Regressors.of(model.z[near, :0]), self._ridge, about=own)
        # what neighbours add stays as blurred as they are
        return (grid.fine(volume) + torch.einsum("q,qxyz->xyz", parts, self._undone)) * self.molecule


def nearest(z: Float[Tensor, "n k"], part: float) -> Int[Tensor, "n m"]:
    """Find, for each image, the part of the others that are nearest in the coordinates; one at least, nearest first."""
    distances = torch.cdist(z, z, compute_mode=EXACT).fill_diagonal_(torch.inf)
    count = min(max(1, round(part * len(z))), len(z) - 1)
    found: Tensor = distances.topk(count, largest=False).indices
    return found


def _weights(z: Float[Tensor, "n k"], place: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """Gaussian weights of all images about a place."""
    squares = (z - place).square().sum(1)
    rank = min(len(z) - 1, max(_FEWEST_WITHIN, round(_WITHIN * len(z))))
    width = squares.sort().values[rank].clamp(min=torch.finfo(squares.dtype).tiny)
    weights: Tensor = torch.exp(-squares / (2 * width))
    return weights


def _smooth(curve: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Mean of every shell and its two neighbours; shell 0, a single sample, counts as the next one."""
    whole = torch.cat([curve[1:2], curve[1:]])
    padded = torch.cat([whole[:1], whole, whole[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _at(curve: Float[Tensor, " k"], radii: Float[Tensor, "w w w"]) -> Float[Tensor, "w w w"]:
    """Look a curve over shells up at any radius, linearly between shells."""
    below = radii.floor().long().clamp(max=len(curve) - 2)
    return torch.lerp(curve[below], curve[below + 1], radii - below)
