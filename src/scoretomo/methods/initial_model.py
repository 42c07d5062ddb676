"""An initial model from class averages: many cheap starts of projection matching, the best of which go on.

Each start assigns images at random, averages them into a volume, and by turns compares the images with its slices and
builds the volume anew from the best candidates: an expectation maximisation over poses at falling temperature, in a
band of frequencies that grows, with a random part of the images in every turn. Nothing is learned and nothing is fine:
bands are counted in cycles per diameter of the molecule, so that small and large boxes are alike. All starts advance in
one batch; each has random numbers of its own, so that a start does not depend on its company.

What this rests on. Soft assignment: with one pose for each image no start ends right. Volumes that are not negative.
Rings of frequencies that count alike, however strong they are. Coarse planes first: 24 directions, turns of
7.5 degrees.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from ..imaging.extent import molecule_radius
from ..imaging.fourier import recentre_crop, resize, translate
from ..imaging.polar import PolarPlanes, polar_planes
from ..imaging.projection import project
from .initial_schedule import InitialModelConfig, Stage, move_to_shifts, ring_weights_of, stages_of
from .polar_matching import (
    RingImages,
    RingPoses,
    gather_slices,
    match,
    rebuild,
    ring_images,
    rings_of,
    spread,
    volumes_of,
)
from .pose_search import TransferFn

# Weight that is added where slices lie thin, in units of the mean.
_REGULARISATION = 0.3
# Images whose score is this many robust deviations below the median count nothing; those 2.5 below count in full.
_UNEXPLAINED, _EXPLAINED = 4.0, 2.5
# Where images come in parts, sums over earlier parts count by this.
_MEMORY = 0.6
# Times that poses and shifts are found by turns where images are found in a volume.
_SHIFT_ROUNDS = 3
_IMAGES_FOR_THE_AMPLITUDE = 64


@dataclass(frozen=True)
class Start:
    """Where a start has ended.

    Attributes
    ----------
    number
        Which start.
    stage
        The last stage that it went through, counted from 0.
    score, first_score
        Mean correlation of the images with its volume at their best poses, in the band of that stage; and in that of
        the first stage, at its end, which all starts have gone through.
    rotations
        ``(n, 3, 3)``, best pose of each image in the frame of its volume.
    volume
        ``(m, m, m)``, on the grid of that stage; the box is that of all other starts.
    """

    number: int
    stage: int
    score: float
    first_score: float
    rotations: Float[Tensor, "n 3 3"]
    volume: Float[Tensor, "m m m"]


@dataclass(frozen=True)
class InitialModel:
    """The best of all starts.

    Attributes
    ----------
    volume
        ``(side, side, side)``, axes ``[z, y, x]``: what the images are projections of, without detail beyond the band.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, ``[x, y]``: pose of each image.
    scores
        ``(n,)``, correlation of image and slice over the band.
    weights
        ``(n,)``, 0 to 1, how much each image counted in the end: 0 is an image that the volume does not explain.
    starts
        All starts, the winner first and then by stage and score.
    radius
        Of the sphere that was taken to hold the molecule, in pixels.
    box
        Edge of the volumes of the starts, in pixels of the images.
    band
        Highest frequency, in cycles per box of the images.
    """

    volume: Float[Tensor, "side side side"]
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    scores: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    starts: list[Start]
    radius: float
    box: int
    band: float


@dataclass(frozen=True)
class FoundInModel:
    """Where images are seen in a volume.

    Attributes
    ----------
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, ``[x, y]``: best pose of each image.
    scores
        ``(n,)``, correlation of image and slice over the band.
    """

    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    scores: Float[Tensor, " n"]


@dataclass(frozen=True)
class InitialModelStep:
    """Where the search stands.

    Attributes
    ----------
    done
        Part of all iterations, 0 to 1.
    scores
        ``(s,)``, mean correlation of the starts that are left.
    band
        Highest frequency that counts, in cycles per box of the images.
    result
        The initial model, of the last step.
    """

    done: float
    scores: Float[Tensor, " s"]
    band: float
    result: InitialModel | None = None


def initial_model(
    images: Float[Tensor, "n side side"],
    config: InitialModelConfig | None = None,
    *,
    seed: int,
    radius: float | None = None,
    transfer: TransferFn | None = None,
) -> InitialModel:
    """Search an initial model to the end; see :func:`initial_model_progressive`."""
    *_, last = initial_model_progressive(images, config, seed=seed, radius=radius, transfer=transfer)
    assert last.result is not None
    return last.result


@torch.no_grad()
def initial_model_progressive(
    images: Float[Tensor, "n side side"],
    config: InitialModelConfig | None = None,
    *,
    seed: int,
    radius: float | None = None,
    transfer: TransferFn | None = None,
) -> Iterator[InitialModelStep]:
    """Search an initial model, yielding after each iteration; the last step has the result.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, protein bright, background 0, the molecule near the origin.
    config
        How much is tried; ``InitialModelConfig()`` if not given.
    seed
        Of the random numbers; each start has its own, which its number decides.
    radius
        Of the sphere that holds the molecule, in pixels; :func:`.molecule_radius` if not given.
    transfer
        Contrast transfer of the images, by their rows and frequencies in cycles per pixel.

    Raises
    ------
    InputError
        Fewer than two images, or images with nothing in them.
    """
    if len(images) < 2 or not bool(images.any()) or not bool(images.isfinite().all()):
        raise InputError(f"an initial model needs two images or more, finite and not empty, not {len(images)}")
    config = (config or InitialModelConfig()).for_images(len(images))
    radius = molecule_radius(images) if radius is None else radius
    stages = stages_of(config)
    total = sum(stage.iterations for stage in stages)
    search = _Search(images, radius, config, transfer, seed)
    done = 0
    for number, stage in enumerate(stages):
        for scores, rings in search.iterate(stage):
            done += 1
            yield InitialModelStep(done / (total + 1), scores, rings * images.shape[-1] / search.on_rings.box)
        search.select(number, stage, last=stage is stages[-1])
    yield InitialModelStep(1.0, search.scores(), search.band, search.result())


@torch.no_grad()
def find_in_model(
    images: Float[Tensor, "n side side"],
    volume: Float[Tensor, "side side side"],
    radius: float,
    config: InitialModelConfig,
    *,
    transfer: TransferFn | None = None,
) -> FoundInModel:
    """Find images in a volume that may know nothing of them, as the last stage does.

    Parameters
    ----------
    images
        ``(n, side, side)``, as for :func:`initial_model_progressive`.
    volume
        ``(side, side, side)``, of the same box.
    radius
        Of the sphere that holds the molecule, in pixels.
    config
        Its finest band and its shifts count.
    transfer
        Contrast transfer of the images.
    """
    stage = stages_of(config)[-1]
    on_rings = ring_images(images, radius, rings_of(config.fine_cycles, radius, images.shape[-1]), transfer)
    planes = polar_planes(stage.order, on_rings.rings, on_rings.angles, on_rings.side, images.device)
    volumes = resize(recentre_crop(volume, on_rings.box, 3)[None], on_rings.side, 3)
    rows = torch.arange(len(images), device=images.device)[None]
    shifts = images.new_zeros(1, len(images), 2)
    for turn in range(_SHIFT_ROUNDS if stage.shifts else 1):
        found = match(
            on_rings,
            planes,
            volumes,
            rows,
            ring_weights_of(on_rings, on_rings.rings),
            temperature=stage.cold,
            candidates=1,
            shifts=shifts,
        )
        if stage.shifts:
            progress = turn / (_SHIFT_ROUNDS - 1)
            found = move_to_shifts(on_rings, planes, volumes, found, config, radius, on_rings.rings, progress)
            shifts = found.shifts
    rotations = planes.rotations(found.plane[0, :, 0], found.facing[0, :, 0], found.in_plane[0, :, 0])
    return FoundInModel(rotations, shifts[0] * on_rings.box, found.scores[0])


class _Search:
    """All starts that are left, and what they have come to."""

    def __init__(
        self,
        images: Float[Tensor, "n side side"],
        radius: float,
        config: InitialModelConfig,
        transfer: TransferFn | None,
        seed: int,
    ) -> None:
        self.images, self.radius, self.config, self.transfer = images, radius, config, transfer
        self.numbers = list(range(config.starts))
        self.generators = [torch.Generator().manual_seed(1_000_003 * seed + number) for number in self.numbers]
        self.ended: list[Start] = []
        self.first_scores: dict[int, float] = {}
        self.on_rings = self._sample(config.coarse_cycles)
        self.volumes: Tensor | None = None
        self.shifts = images.new_zeros(config.starts, len(images), 2)
        self.poses: RingPoses
        self.weights: Tensor

    @property
    def band(self) -> float:
        """Highest frequency of the last iteration, in cycles per box of the images."""
        return self.rings * self.images.shape[-1] / self.on_rings.box

    def scores(self) -> Float[Tensor, " s"]:
        """Mean correlation of the images of each start, by their weights."""
        means: Tensor = (self.poses.scores * self.weights).sum(1) / self.weights.sum(1)
        return means

    def iterate(self, stage: Stage) -> Iterator[tuple[Float[Tensor, " s"], int]]:
        """Go through a stage; yields scores and the number of rings after each iteration."""
        self._prepare(stage)
        sums = None
        for iteration in range(stage.iterations):
            progress = iteration / max(1, stage.iterations - 1)
            self.rings = stage.rings(progress, self.on_rings, self.radius)
            if self.volumes is None or iteration > 0:
                sums = self._gather(sums)
                self.volumes = volumes_of(self.on_rings, self.planes, *sums, _REGULARISATION)
            rows = self._draw(stage.part + (1 - stage.part) * progress, last=iteration == stage.iterations - 1)
            self._match(stage, rows, progress)
            yield self.scores(), self.rings

    def select(self, number: int, stage: Stage, *, last: bool) -> None:
        """Keep the best starts of a stage; those that end here are noted."""
        scores = self.scores()
        if number == 0:
            self.first_scores = dict(zip(self.numbers, scores.tolist(), strict=True))
        order = scores.argsort(descending=True)
        rotations = self._rotations()
        volumes = rebuild(self.on_rings, self.planes, self.poses, self.rings, self.weights, _REGULARISATION)
        kept, left = order[: stage.kept], order[stage.kept :]
        if last:
            left = order
        for i in reversed(left.tolist()):
            own = self.numbers[i]
            self.ended.append(Start(own, number, float(scores[i]), self.first_scores[own], rotations[i], volumes[i]))
        self.numbers, self.generators = ([each[i] for i in kept.tolist()] for each in (self.numbers, self.generators))
        self.poses, self.weights, self.shifts = self.poses.of(kept), self.weights[kept], self.shifts[kept]
        self.volumes = volumes[kept]

    def result(self) -> InitialModel:
        """Put the winner on the grid of the images."""
        assert self.volumes is not None
        box, side = self.on_rings.box, self.images.shape[-1]
        volume = recentre_crop(resize(self.volumes[0], box, 3), side, 3)
        rotations, shifts = self._rotations()[0], self.shifts[0] * box
        return InitialModel(
            volume=volume * _amplitude(volume, self.images, rotations, shifts),
            rotations=rotations,
            shifts_pixels=shifts,
            scores=self.poses.scores[0],
            weights=self.weights[0],
            starts=self.ended[::-1],
            radius=self.radius,
            box=box,
            band=self.band,
        )

    def _sample(self, cycles: float) -> RingImages:
        rings = rings_of(cycles, self.radius, self.images.shape[-1])
        return ring_images(self.images, self.radius, rings, self.transfer)

    def _prepare(self, stage: Stage) -> None:
        """Sample images, planes and volumes as finely as a stage needs."""
        if stage.last_cycles > self.config.coarse_cycles:
            self.on_rings = self._sample(stage.last_cycles)
        if self.volumes is not None:
            ratio = self.volumes.shape[-1] / self.on_rings.side
            self.volumes = resize(self.volumes, self.on_rings.side, 3) * ratio
        self.planes: PolarPlanes = polar_planes(
            stage.order, self.on_rings.rings, self.on_rings.angles, self.on_rings.side, self.images.device
        )
        if self.volumes is None:
            self._assign_at_random(stage)

    def _assign_at_random(self, stage: Stage) -> None:
        rows = self._draw(stage.part, last=False)
        device, count = self.images.device, rows.shape[1]
        drawn = torch.stack([torch.rand(count, 1, 3, generator=each) for each in self.generators]).to(device)
        self.poses = RingPoses(
            rows=rows,
            plane=(drawn[..., 0] * len(self.planes)).long(),
            facing=drawn[..., 1] < 0.5,
            in_plane=drawn[..., 2] * 2 * math.pi,
            weights=torch.ones_like(drawn[..., 0]),
            scores=torch.zeros_like(drawn[..., 0, 0]),
            shifts=torch.zeros_like(drawn[..., 0, :2]),
        )
        self.weights = torch.ones_like(self.poses.scores)

    def _draw(self, part: float, *, last: bool) -> Tensor:
        """Rows of the images of an iteration, for each start its own; all, in order, in the last."""
        every, device = len(self.images), self.images.device
        count = every if last else max(1, round(min(every, self.config.images_at_once) * part))
        if count == every:
            return torch.arange(every, device=device).expand(len(self.generators), every)
        return torch.stack([torch.randperm(every, generator=each)[:count] for each in self.generators]).to(device)

    def _gather(self, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Sum up in the slices the images of this iteration, and those before it where images come in parts."""
        own = gather_slices(self.on_rings, self.planes, self.poses, self.rings, self.weights)
        if before is None or len(self.images) <= self.config.images_at_once:
            return own
        return own[0] + _MEMORY * before[0], own[1] + _MEMORY * before[1]

    def _match(self, stage: Stage, rows: Tensor, progress: float) -> None:
        assert self.volumes is not None
        found = match(
            self.on_rings,
            self.planes,
            self.volumes,
            rows,
            ring_weights_of(self.on_rings, self.rings),
            temperature=stage.temperature(progress),
            candidates=stage.candidates,
            shifts=self.shifts.gather(1, rows[..., None].expand(-1, -1, 2)),
        )
        if stage.shifts:
            found = move_to_shifts(
                self.on_rings, self.planes, self.volumes, found, self.config, self.radius, self.rings, progress
            )
            self.shifts = self.shifts.scatter(1, rows[..., None].expand(-1, -1, 2), found.shifts)
        if stage.even:
            found = spread(found, len(self.planes))
        self.poses, self.weights = found, _explained(found.scores)

    def _rotations(self) -> Float[Tensor, "s n 3 3"]:
        """Best rotations, in the order of the images."""
        poses = self.poses
        found = self.planes.rotations(poses.plane[..., 0], poses.facing[..., 0], poses.in_plane[..., 0])
        return found[torch.arange(len(found))[:, None], poses.rows.argsort(1)]


def _amplitude(
    volume: Float[Tensor, "side side side"],
    images: Float[Tensor, "n side side"],
    rotations: Float[Tensor, "n 3 3"],
    shifts: Float[Tensor, "n 2"],
) -> float:
    """Find what a volume, which the regularisation has made weak, is to be multiplied by to project to the images."""
    some = torch.linspace(0, len(images) - 1, min(len(images), _IMAGES_FOR_THE_AMPLITUDE)).long()
    projections = translate(project(volume[None], rotations[None, some])[0], shifts[some])
    return float((projections * images[some]).sum() / projections.square().sum().clamp(min=torch.finfo().tiny))


def _explained(scores: Float[Tensor, "s b"]) -> Float[Tensor, "s b"]:
    """Weights of images: 0 where the score is far below what is usual among them, 1 for most."""
    median = scores.median(1, keepdim=True).values
    deviation = 1.4826 * (scores - median).abs().median(1, keepdim=True).values
    below = (median - scores) / deviation.clamp(min=torch.finfo(scores.dtype).eps)
    return ((_UNEXPLAINED - below) / (_UNEXPLAINED - _EXPLAINED)).clamp(0, 1)
