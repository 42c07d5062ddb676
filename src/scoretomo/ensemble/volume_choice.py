"""Volumes of the motion model, of the score model, or their mean: which predict class averages that were left out.

The score model knows what projections look like, and adds what few linear components cannot tell; of noisy class
averages it learns the noise too. Which of the two counts more is tried: some class averages have no part in motion
model and volumes, and each is compared with the projection of the volume that is nearest to it in the motion. The
denoiser was trained on them as on all others: if that makes a difference, it favours the score model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.edm import Denoiser
from ..imaging.slices import voxel_slices
from ..methods.motion_model import MotionModel, motion_model
from ..methods.neighbour_volumes import EXACT, NeighbourVolumes, nearest
from ..methods.posed_images import PosedImages
from .growth import Beginning, GrowthConfig, grow_progressive
from .left_out import prediction_errors
from .store import MemoryStore

Kind = Literal["motion", "score", "mean"]

MOST_LEFT_OUT = 40
"""Class averages that are left out at most."""
_EVERY = 5  # of fewer, every fifth
FEWEST_TO_CHOOSE = 20
"""Class averages below which too few are left out for a choice: the volumes of the motion model are taken."""
# Standard errors by which volumes that take longer must be better.
_ERRORS = 2.0


@dataclass(frozen=True)
class VolumeChoice:
    """Which volumes are taken, and why.

    Attributes
    ----------
    chosen
        ``motion``, ``score`` or ``mean``.
    gains, errors
        Of ``score`` and of ``mean``: mean gain of the logarithm of the likelihood of a class average that was left out,
        over ``motion``, and its standard error. Empty where nothing was compared.
    reason
        A sentence.
    """

    chosen: Kind
    gains: tuple[float, ...]
    errors: tuple[float, ...]
    reason: str


def too_few_to_choose(count: int) -> VolumeChoice:
    """Take the volumes of the motion model, where no class average can be spared."""
    return VolumeChoice("motion", (), (), f"{count} class averages are too few to leave some out and compare volumes.")


@torch.no_grad()
def choose_volumes_progressive(
    denoiser: Denoiser,
    images: Float[Tensor, "n side side"],
    model: MotionModel,
    config: GrowthConfig,
    *,
    radius: float,
    seed: int,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Iterator[float | VolumeChoice]:
    """Compare volumes of both models and their mean; yields the part that is done, 0 to 1, and at last the choice.

    Parameters
    ----------
    denoiser
        ``(noisy (k, n, n), sigma (k,)) -> clean (k, n, n)``.
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0.
    model
        The motion model of all of them.
    config
        Settings of the score model's volumes.
    radius
        Of the sphere that holds the molecule, in pixels.
    seed
        As :func:`.growth.grow_progressive` takes it.
    chunk, mask_radius
        As there.
    """
    left = torch.arange(0, len(images), max(_EVERY, math.ceil(len(images) / MOST_LEFT_OUT)))
    kept = torch.tensor([row for row in range(len(images)) if row not in set(left.tolist())])
    part = _without(images, model, kept, radius, seed)
    posed = PosedImages.of(images, len(part.noise) - 1, radius)
    near = _nearest_of(posed, model, part, left)
    volumes = NeighbourVolumes(images[kept], part, radius=radius)
    neighbours = nearest(part.z, config.neighbours)
    store, wanted = MemoryStore(), sorted(set(near.tolist()))
    for step in grow_progressive(
        denoiser,
        images[kept],
        config.distil,
        seed=seed,
        beginning=Beginning(volumes, part.rotations, part.shifts_pixels, neighbours),
        wanted=wanted,
        store=store,
        chunk=chunk,
        mask_radius=mask_radius,
    ):
        yield step.done / step.total
    of_motion = {row: volumes(row).cpu() for row in wanted}
    errors = []
    for weight in (0.0, 1.0, 0.5):
        made = [torch.lerp(of_motion[row], store.volumes[row], weight) for row in near.tolist()]
        errors.append(_errors(posed, model, part, left, near, made))
    yield _choose(errors[0] - errors[1], errors[0] - errors[2])


def _without(
    images: Float[Tensor, "n side side"], model: MotionModel, kept: Int[Tensor, " k"], radius: float, seed: int
) -> MotionModel:
    """Fit the motion model again, to a part of the images."""
    band, components = len(model.noise) - 1, model.z.shape[1]
    poses = model.rotations[kept], model.shifts_pixels[kept]
    return motion_model(
        images[kept], *poses, components, radius=radius, band=band, seed=seed, coordinates=model.z[kept]
    )


def _nearest_of(
    posed: PosedImages, model: MotionModel, part: MotionModel, left: Int[Tensor, " v"]
) -> Int[Tensor, " v"]:
    """Find, for each image that was left out, the one of those that were kept that is nearest in the motion."""
    volumes, precision = posed.grid.coarse(part.volumes), posed.precision(part.noise)
    rotations, targets = model.rotations[left], posed.targets(left, model.shifts_pixels[left])
    (mean,) = posed.slices(voxel_slices(volumes[0]), rotations)
    filters = posed.filters_of(mean, targets, precision)
    z = posed.expect(volumes, rotations, targets, filters, precision).z
    found: Tensor = torch.cdist(z, part.z, compute_mode=EXACT).argmin(1)
    return found


def _errors(
    posed: PosedImages,
    model: MotionModel,
    part: MotionModel,
    left: Int[Tensor, " v"],
    near: Int[Tensor, " v"],
    volumes: list[Float[Tensor, "side side side"]],
) -> Float[Tensor, " v"]:
    """Compare each image that was left out with the volume near it, which lies in the frame of its own image."""
    found = []
    # from the frame of the volume's image to that of the image that was left out, and what its shift becomes there
    turns = model.rotations[left] @ part.rotations[near].mT
    shift = torch.nn.functional.pad(part.shifts_pixels[near], (0, 1))
    carried = (turns @ shift[..., None])[:, :2, 0]
    targets = posed.targets(left, model.shifts_pixels[left] - carried)
    for row, volume in enumerate(volumes):
        one, slice_fn = slice(row, row + 1), voxel_slices(posed.grid.coarse(volume.to(targets)))
        slices = posed.slices(slice_fn, turns[one])[0]

        def turned(rotations: Tensor, slice_fn: object = slice_fn) -> Tensor:
            return posed.slices(slice_fn, rotations)[0]  # type: ignore[arg-type]

        found.append(prediction_errors(posed, targets[one], slices, turned, turns[one], part.noise))
    return torch.cat(found)


def _choose(of_score: Float[Tensor, " v"], of_mean: Float[Tensor, " v"]) -> VolumeChoice:
    gains = float(of_score.mean()), float(of_mean.mean())
    errors = tuple(float(gain.std()) / math.sqrt(len(gain)) for gain in (of_score, of_mean))
    kinds: tuple[Kind, Kind] = ("score", "mean")
    clear = [k for k in (0, 1) if gains[k] > _ERRORS * errors[k]]
    best = max(clear, key=gains.__getitem__, default=None)
    said = (
        f"the score model's predict them with a gain of {gains[0]:.1f} +- {errors[0]:.1f} in the logarithm of the "
        f"likelihood of each, the mean of both with {gains[1]:.1f} +- {errors[1]:.1f}"
    )
    taken = {None: "the volumes of the motion model", 0: "those of the score model", 1: "the mean of both models"}
    reason = (
        f"Compared with the volumes of the motion model on {len(of_score)} class averages that were left out, {said}."
    )
    return VolumeChoice("motion" if best is None else kinds[best], gains, errors, f"{reason} Taken are {taken[best]}.")
