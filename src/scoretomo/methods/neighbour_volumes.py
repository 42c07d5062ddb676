"""A volume for each image: that of the motion model at its coordinates, and what its neighbours see beyond the model.

Few components are no exact description of a motion. Images near one another in the coordinates show nearly the same
conformation from different sides; each volume is brought nearer to them (kernel regression), with the model as the
prior, so that where they say nothing it stays.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..imaging.resampling import turn_into_view
from ..imaging.slices import voxel_slices
from .angular_spread import AngularSpread
from .component_fit import ComponentFit, Regressors
from .motion_model import MotionModel
from .posed_images import PosedImages

EXACT = "donot_use_mm_for_euclid_dist"
"""How distances of coordinates are computed: by products of matrices, near ones would come out as zero."""
# Images that are worked on at once: the working memory.
_IMAGES_AT_ONCE = 64
# Width of the kernel: distance of the image within which this part of all images lies.
_WITHIN = 0.1
_FEWEST_WITHIN = 2
# Images of less weight do not count.
_LEAST_WEIGHT = 0.01
# Weight of the model, in coefficients of images for each sample of the lattice.
_RIDGE = 0.3


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
        ``(1 + k, side, side, side)``: mean and components of the volumes that are made.
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
        self.model, self.components = model, spread.undo(model.volumes) if spread else model.volumes
        self._undone = self.components - model.volumes
        posed = PosedImages.of(images, len(model.noise) - 1, radius)
        self._fit, rows = ComponentFit(posed.grid, float(posed.grid.band)), torch.arange(len(images)).to(images.device)
        self._targets = posed.targets(rows, model.shifts_pixels)
        values, self._volumes = Regressors.of(model.z).values, posed.grid.coarse(model.volumes)
        slice_fn, precision, filters = voxel_slices(self._volumes), posed.precision(model.noise), []
        for some in rows.split(_IMAGES_AT_ONCE):
            slices = posed.slices(slice_fn, model.rotations[some])
            expected = torch.einsum("vq,qvp->vp", values[some], slices)
            filters.append(posed.filters_of(expected, self._targets[some], precision))
        self._filters = torch.cat(filters)
        self._filters /= self._filters.mean(0)
        self._ridge = torch.full((1,), _RIDGE).to(images)

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
            views = model.rotations[near], self._targets[near], self._filters[near], weights[near]
            (volume,) = self._fit.improve(own, *views, Regressors.of(model.z[near, :0]), self._ridge, about=own)
        # what neighbours add stays as blurred as they are
        return grid.fine(volume) + torch.einsum("q,qxyz->xyz", parts, self._undone)


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
