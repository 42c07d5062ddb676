"""Whether a molecule moves: one map against motion models, on class averages that were left out.

Of two halves of the class averages each makes a map, and motion models of one, two and more components, as long as more
are better; the other half is explained by them. Part of the Fourier coefficients of an image (every other sector) tells
its coordinates, the rest how well they predict. Whatever else makes class averages differ is allowed to the one map as
well: errors of pose and shift, and a smooth radial filter for each image. So a motion counts if it is the same in
images that know nothing of one another; what noise, blur or wrong poses make is not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..at_once import at_once
from ..imaging.slices import voxel_slices
from ..methods.motion_model import MotionConfig, MotionModel, motion_model
from ..methods.posed_images import PosedImages
from .initial_evidence import halves_of
from .left_out import prediction_errors

# Most components that are tried; docs/validation.md has what they are worth.
_MOST = 5
# Standard errors by which a motion model must be better.
_ERRORS = 3.0
_POSES = MotionConfig(iterations=6, refinements=5)
# Starts in all of the band: from a low one, halves of a molecule at rest have found something alike that is no motion.
_FIT = MotionConfig(starts=6, first_iterations=8, first_part=1.0, iterations=6, refinements=3)


@dataclass(frozen=True)
class MotionEvidence:
    """What class averages that were left out say.

    Attributes
    ----------
    gains, errors
        By 1, 2, ... components: mean gain of the logarithm of the likelihood over one map, for each class average, and
        its standard error. Empty where there are too few class averages for halves.
    shares
        The gain as a part of what one map leaves unexplained.
    components
        With which most is gained; 0 where nothing is, by three standard errors.
    reason
        A sentence.
    """

    gains: tuple[float, ...]
    errors: tuple[float, ...]
    shares: tuple[float, ...]
    components: int
    reason: str

    @property
    def moves(self) -> bool:
        """Whether a motion model is better than one map."""
        return self.components > 0


def too_few(count: int) -> MotionEvidence:
    """Make the evidence of class averages that make no halves: none."""
    return MotionEvidence((), (), (), 0, f"{count} class averages are too few to tell a motion.")


def weigh_motion(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    *,
    radius: float,
    band: int,
    seed: int,
) -> MotionEvidence:
    """Compare one map with motion models to the end; see :func:`weigh_motion_progressive`."""
    *_, last = weigh_motion_progressive(images, rotations, shifts_pixels, radius=radius, band=band, seed=seed)
    assert isinstance(last, MotionEvidence)
    return last


@torch.no_grad()
def weigh_motion_progressive(
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_pixels: Float[Tensor, "n 2"],
    *,
    radius: float,
    band: int,
    seed: int,
    enough: bool = False,
) -> Iterator[float | MotionEvidence]:
    """Compare one map with motion models; yields the part that is done, 0 to 1, and at last the evidence.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, background 0.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, ``[x, y]``: their poses in one refined map.
    radius
        Of the sphere that holds the molecule, in pixels.
    band
        Highest frequency that is compared, in Fourier pixels.
    seed
        Of the coordinates that models begin with.
    enough
        Stop at the fewest components that are better than one map: whether there is a motion is all that is asked.
    """
    halves = [half.to(images.device) for half in halves_of(len(images))]
    if not halves:
        yield too_few(len(images))
        return
    base = motion_model(images, rotations, shifts_pixels, 0, _POSES, radius=radius, band=band, seed=seed)
    left_out = _LeftOut(images, base, halves, radius, band, seed)
    one_map, gains = left_out.unexplained(0), []
    for components in range(1, _MOST + 1):
        yield components / (_MOST + 1)
        gains.append(one_map - left_out.unexplained(components))
        if enough and _is_clear(gains[-1]):
            break
        if components > 1 and gains[-1].mean() < gains[-2].mean():
            break
    means, errors = [float(gain.mean()) for gain in gains], [_error(gain) for gain in gains]
    shares = [mean / float(one_map.mean()) for mean in means]
    clear = [k for k, gain in enumerate(gains) if _is_clear(gain)]
    best = max(clear, key=means.__getitem__, default=None)
    yield MotionEvidence(
        gains=tuple(means),
        errors=tuple(errors),
        shares=tuple(shares),
        components=0 if best is None else best + 1,
        reason=_reason(means, errors, shares, best),
    )


def _error(gain: Float[Tensor, " n"]) -> float:
    return float(gain.std()) / math.sqrt(len(gain))


def _is_clear(gain: Float[Tensor, " n"]) -> bool:
    """Whether a gain is above nothing by several standard errors of its mean."""
    return float(gain.mean()) > _ERRORS * _error(gain)


def _reason(means: list[float], errors: list[float], shares: list[float], best: int | None) -> str:
    if best is None:
        k = max(range(len(means)), key=lambda k: means[k] / errors[k])
        return (
            "One map explains class averages that were left out as well as a motion does "
            f"(gain of {means[k]:.1f} +- {errors[k]:.1f} in the logarithm of the likelihood of each)."
        )
    components = "a motion of one component" if best == 0 else f"a motion of {best + 1} components"
    return (
        f"Class averages that were left out are explained better by {components} than by one map "
        f"(gain of {means[best]:.1f} +- {errors[best]:.1f} in the logarithm of the likelihood of each, "
        f"{shares[best]:.0%} of what one map leaves unexplained)."
    )


class _LeftOut:
    """Models of halves, and the images of the other half."""

    def __init__(
        self,
        images: Float[Tensor, "n side side"],
        base: MotionModel,
        halves: list[Tensor],
        radius: float,
        band: int,
        seed: int,
    ) -> None:
        self.images, self.base, self.halves = images, base, halves
        self.radius, self.band, self.seed = radius, band, seed
        self.posed = PosedImages.of(images, len(base.noise) - 1, radius)
        self.one_maps = self._fits(0)

    def unexplained(self, components: int) -> Float[Tensor, " n"]:
        """Half the squared error over the noise, of each image under the model of the half without it."""
        found = torch.zeros_like(self.images[:, 0, 0])
        for k, model in enumerate(self._fits(components) if components else self.one_maps):
            # of one noise for all models, that of the map: what is better with less noise is better with more
            found[self.halves[1 - k]] = self._predict(model, self.halves[1 - k], self.one_maps[k].noise)
        return found

    def _fits(self, components: int) -> list[MotionModel]:
        return at_once(lambda half: self._fit(half, components), self.halves, self.images.device)

    def _fit(self, rows: Tensor, components: int) -> MotionModel:
        poses = self.base.rotations[rows], self.base.shifts_pixels[rows]
        return motion_model(
            self.images[rows], *poses, components, _FIT, radius=self.radius, band=self.band, seed=self.seed
        )

    def _predict(self, model: MotionModel, rows: Tensor, noise: Float[Tensor, " k"]) -> Float[Tensor, " v"]:
        """Error in each half of the coefficients, of what the other half tells of an image."""
        posed, rotations = self.posed, self.base.rotations[rows]
        volumes = posed.grid.coarse(model.volumes)
        slice_fn, one = voxel_slices(volumes), voxel_slices(volumes[0])
        slices = posed.slices(slice_fn, rotations)
        targets = posed.targets(rows, self.base.shifts_pixels[rows])
        return prediction_errors(
            posed,
            targets,
            slices[0],
            lambda turned: posed.slices(one, turned)[0],
            rotations,
            noise,
            components=slices[1:],
        )
