"""A volume for each image: that of the motion model at its coordinates, and what its neighbours see beyond the model.

Few components are no exact description of a motion. Images near one another in the coordinates show nearly the same
conformation from different sides; each volume is brought nearer to them (kernel regression), with the model as the
prior, so that where they say nothing it stays.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.resampling import turn_into_view
from ..imaging.slices import voxel_slices
from .component_fit import ComponentFit, Regressors
from .motion_model import MotionModel
from .posed_images import PosedImages

# Width of the kernel: distance of the image within which this part of all images lies.
_WITHIN = 0.1
_FEWEST_WITHIN = 2
# Images of less weight do not count.
_LEAST_WEIGHT = 0.01
# Weight of the model, in coefficients of images for each sample of the lattice.
_RIDGE = 0.3


@torch.no_grad()
def neighbour_volumes(
    images: Float[Tensor, "n side side"], model: MotionModel, *, radius: float
) -> Iterator[Float[Tensor, "side side side"]]:
    """Make the volume of each image, in the frame of the image, one after the other.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0: those that the model was made of.
    model
        Mean, components, coordinates and poses.
    radius
        Of the sphere that holds the molecule, in pixels.
    """
    posed = PosedImages.of(images, len(model.noise) - 1, radius)
    grid = posed.grid
    fit, rows = ComponentFit(grid, float(grid.band)), torch.arange(len(images), device=images.device)
    targets = posed.targets(rows, model.shifts_pixels)
    values, volumes = Regressors.of(model.z).values, grid.coarse(model.volumes)
    expected = torch.einsum("vq,qvp->vp", values, posed.slices(voxel_slices(volumes), model.rotations))
    filters = posed.filters_of(expected, targets, posed.precision(model.noise))
    filters = filters / filters.mean(0)
    ridge = torch.full((1,), _RIDGE).to(images)
    for i in range(len(images)):
        weights = _weights(model.z, i)
        near = weights > _LEAST_WEIGHT
        own = torch.einsum("q,qxyz->xyz", values[i], volumes)[None]
        alone = Regressors.of(model.z[near, :0])
        poses = model.rotations[near], targets[near], filters[near], weights[near]
        (volume,) = fit.improve(own, *poses, alone, ridge, about=own)
        yield turn_into_view(grid.fine(volume), model.rotations[i], model.shifts_pixels[i]).clamp(min=0)


def _weights(z: Float[Tensor, "n k"], image: int) -> Float[Tensor, " n"]:
    """Gaussian weights of all images about one."""
    squares = (z - z[image]).square().sum(1)
    place = min(len(z) - 1, max(_FEWEST_WITHIN, round(_WITHIN * len(z))))
    width = squares.sort().values[place].clamp(min=torch.finfo(squares.dtype).tiny)
    weights: Tensor = torch.exp(-squares / (2 * width))
    return weights
