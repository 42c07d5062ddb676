"""Growing a set of volumes from the few that have locked: nucleate, select, grow.

Cold starts of Algorithm 1 lock one after another and many never do. A volume that has locked shows most of what
another image needs: found in that image (pose search), turned into its frame and adapted to it by Algorithm 1, it
replaces thousands of steps. Projections fix no hand, so one hand of each parent is enough; what grows from a parent
has its hand. While growing, a volume is also shown other class averages in the poses in which they match (anchors);
what all conformations share comes out sharp, and what moves is left to the last stage.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..diffusion.edm import Denoiser
from ..imaging.fourier import centred_fft, radius_grid, translate
from ..imaging.resampling import rotate_volumes
from ..imaging.slices import voxel_slices
from ..methods.pose_search import PoseSearchConfig, find_poses
from ..methods.score_tomography import Anchors, ReconstructionConfig, ReconstructionStep, reconstruct_progressive


@dataclass(frozen=True)
class GrowthConfig:
    """How many volumes start from nothing, and how the others grow from them."""

    nuclei: int = 8
    """Images whose volumes start from nothing, spread over the stack. 0 starts every volume from nothing and runs only
    the polish: the paper's way."""
    parents: int = 3
    """Sharpest volumes of each round that all others are started from."""
    rounds: int = 3
    """Times that the whole set is grown anew from its sharpest members."""
    nucleate: ReconstructionConfig = field(default_factory=lambda: ReconstructionConfig(steps=500, average=0.2))
    """Algorithm 1 from nothing."""
    grow: ReconstructionConfig = field(
        default_factory=lambda: ReconstructionConfig(steps=200, sigma=0.3, final_sigma=0.3, anchors=1, average=0.3)
    )
    """Algorithm 1 from a matched parent, in every round. Anchors make the rigid core sharp."""
    polish: ReconstructionConfig = field(
        default_factory=lambda: ReconstructionConfig(steps=500, sigma=0.4, final_sigma=0.3, average=0.3)
    )
    """Algorithm 1 at the end, from a matched parent of the last round. Without anchors each volume finds the
    conformation of its own class average again."""
    matching: PoseSearchConfig = field(
        default_factory=lambda: PoseSearchConfig(refinements=3, kept=1, low_radius=8.0, high_radius=16.0)
    )
    """How parents are found in the images."""

    def __post_init__(self) -> None:
        if self.nuclei < 0 or self.rounds < 0 or self.parents < 1:
            raise InputError(
                f"growth needs 0 or more nuclei and rounds and 1 or more parents, not {self.nuclei}, {self.rounds} "
                f"and {self.parents}"
            )
        if self.stages[0][1].anchors:
            raise InputError("volumes that start from nothing match no image yet: their anchors must be 0")

    @property
    def stages(self) -> tuple[tuple[str, ReconstructionConfig], ...]:
        """Name and settings of each stage, in order."""
        if self.nuclei == 0:
            return (("reconstruct", self.polish),)
        rounds = [(f"grow {k + 1} of {self.rounds}", self.grow) for k in range(self.rounds)]
        return (("nucleate", self.nucleate), *rounds, ("polish", self.polish))


@dataclass(frozen=True)
class GrowthState:
    """All that is needed to go on: saved now and then, it makes an interrupted run go on where it was."""

    stage: int
    """The stage to go on with."""
    parents: Float[Tensor, "p n n n"]
    """Volumes that the stage starts from."""
    grown: Float[Tensor, "k n n n"]
    """Volumes that the stage has completed, of its first k members."""
    running: ReconstructionStep | None
    """The chunk of members that follows, if it has begun."""
    generators: Tensor | None = None
    """``(b, bytes)``, states of the random generators of that chunk."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "running": None if self.running is None else vars(self.running)}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Any], device: torch.device | str = "cpu") -> "GrowthState":
        """Inverse of :meth:`state_dict`; volumes are brought to ``device``."""
        running = saved["running"]
        if running is not None:
            moved: dict[str, Any] = {
                name: value.to(device) if isinstance(value, Tensor) else value for name, value in running.items()
            }
            running = ReconstructionStep(**moved)
        volumes = {name: saved[name].to(device) for name in ("parents", "grown")}
        return cls(**{**saved, **volumes, "running": running})

    def at_stage_start(self) -> "GrowthState":
        """Forget what the stage has done: for other images than those it was done with."""
        return dataclasses.replace(self, grown=self.grown[:0], running=None, generators=None)


@dataclass(frozen=True)
class GrowthStep:
    """Where the growth stands after one update of one chunk of volumes."""

    stage: int
    stages: int
    name: str
    done: int
    """Volume-steps done so far."""
    total: int
    """Volume-steps of the whole job."""
    base_error: float
    score_error: float
    state: GrowthState
    """Takes the run up from here."""
    finished: list[tuple[int, Tensor]] = field(default_factory=list)
    """Indices and volumes of the images whose volumes are complete with this step."""


def grow_progressive(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: GrowthConfig,
    *,
    seed: int,
    wanted: Int[Tensor, " b"] | None = None,
    state: GrowthState | None = None,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Iterator[GrowthStep]:
    """Reconstruct one volume per image, all from the few that lock first.

    Parameters
    ----------
    denoiser
        ``(noisy (k, n, n), sigma (k,)) -> clean (k, n, n)``.
    images
        ``(k, n, n)``, background 0: all class averages.
    config
        Stages and their settings.
    seed
        With the stage and the index of an image it decides the rotations and noise that the volume of the image meets.
    wanted
        Indices of the images whose volumes to make; all if not given. The others serve as nuclei and anchors.
    state
        Where to go on.
    chunk
        Volumes that advance together; what the memory holds.
    mask_radius
        Radius in pixels beyond which the images are 0; half the side if not given.
    """
    stages = config.stages
    everything = torch.arange(len(images), device=images.device)
    members = [everything if wanted is None else wanted.to(images.device)] * len(stages)
    if config.nuclei:
        members[0] = everything[torch.linspace(0, len(images) - 1, min(config.nuclei, len(images))).round().long()]
    work = [len(some) * settings.steps for some, (_, settings) in zip(members, stages, strict=True)]
    if state is None:
        nothing = images.new_zeros(0, *images.shape[1:], images.shape[-1])
        state = GrowthState(0, nothing, nothing, None)

    matches: Matches | None = None
    while state.stage < len(stages):
        stage, (name, settings) = state.stage, stages[state.stage]
        first = len(state.grown)
        chosen = members[stage][first : first + chunk]
        if len(state.parents) and (matches is None or first == 0):
            matches = match_parents(state.parents, images, config.matching)
        start = None if matches is None else start_from_parents(state.parents, matches, chosen)
        anchors = None if matches is None else anchor_to_matches(images, matches, chosen)
        generators = [volume_generator(seed, stage, index, images.device) for index in chosen.tolist()]
        if state.generators is not None:
            for generator, saved in zip(generators, state.generators.cpu(), strict=True):
                generator.set_state(saved.clone())  # PyTorch 2.13 misreads, or crashes on, a part of a tensor
        for step in reconstruct_progressive(
            denoiser,
            images[chosen],
            settings,
            generators=generators,
            start=start,
            resume=state.running,
            anchors=anchors,
            mask_radius=mask_radius,
        ):
            state = _after(step, state, config, len(members[stage]), generators)
            done = sum(work[:stage]) + first * settings.steps + len(chosen) * step.step
            errors = float(step.base_error.mean()), float(step.score_error.mean())
            ended = step.step == settings.steps and stage == len(stages) - 1
            finished = list(zip(chosen.tolist(), step.result, strict=True)) if ended else []
            yield GrowthStep(stage, len(stages), name, done, sum(work), *errors, state, finished)


def volume_generator(seed: int, stage: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of all draws for the volume of image ``index`` in a stage.

    Its seed is the 8-byte BLAKE2b hash of the three numbers as text, ``"SEED STAGE INDEX"``, read as a big-endian
    integer, so that neither the number of processes nor the chunks decide what a volume meets.
    """
    digest = hashlib.blake2b(f"{seed} {stage} {index}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest))


def _after(
    step: ReconstructionStep, state: GrowthState, config: GrowthConfig, count: int, generators: list[torch.Generator]
) -> GrowthState:
    """State after an update of the running chunk of the stage."""
    states = torch.stack([generator.get_state() for generator in generators])
    state = dataclasses.replace(state, running=step, generators=states)
    if step.step < config.stages[state.stage][1].steps:
        return state
    state = dataclasses.replace(state, running=None, generators=None, grown=torch.cat([state.grown, step.result]))
    if len(state.grown) < count:
        return state
    last = state.stage == len(config.stages) - 1
    parents = state.parents if last else select_parents(state, config.parents)
    return dataclasses.replace(state, stage=state.stage + 1, parents=parents, grown=state.grown[:0])


def select_parents(state: GrowthState, count: int) -> Float[Tensor, "p n n n"]:
    """Take the sharpest volumes of a completed stage; those it started from only if it has too few of its own.

    Parents of parents stay out, so that the set is not started from one volume in several frames.
    """
    pool = state.grown if len(state.grown) >= count else torch.cat([state.grown, state.parents])
    return pool[sharpness(pool).topk(min(count, len(pool))).indices]


@dataclass(frozen=True)
class Matches:
    """Where parents are seen in images.

    Attributes
    ----------
    best
        ``(n,)``, the parent that matches each image best.
    rotations
        ``(p, n, 3, 3)``, pose of each parent in each image.
    shifts_pixels
        ``(p, n, 2)``, ``[x, y]``.
    """

    best: Int[Tensor, " n"]
    rotations: Float[Tensor, "p n 3 3"]
    shifts_pixels: Float[Tensor, "p n 2"]


def match_parents(
    parents: Float[Tensor, "p n n n"], images: Float[Tensor, "k n n"], matching: PoseSearchConfig
) -> Matches:
    """Find every parent in every image."""
    found = [find_poses(images, voxel_slices(parent), matching) for parent in parents]
    return Matches(
        torch.stack([poses.scores[:, 0] for poses in found]).argmax(0),
        torch.stack([poses.rotations[:, 0] for poses in found]),
        torch.stack([poses.shifts_pixels[:, 0] for poses in found]),
    )


def start_from_parents(
    parents: Float[Tensor, "p n n n"], matches: Matches, members: Int[Tensor, " b"]
) -> Float[Tensor, "b n n n"]:
    """Turn, for each of the images ``members``, the parent that matches it best into the frame of the image."""
    best = matches.best[members]
    rotated = rotate_volumes(parents[best], matches.rotations[best, members])
    shifts = matches.shifts_pixels[best, members]
    return translate(rotated, torch.nn.functional.pad(shifts, [0, 1])) if shifts.any() else rotated


def anchor_to_matches(images: Float[Tensor, "k n n"], matches: Matches, members: Int[Tensor, " b"]) -> Anchors:
    """Relate the frames of the images ``members`` to all images through the parent that each is started from."""
    best = matches.best[members]
    own = matches.rotations[best, members]
    return Anchors(images, matches.rotations[best] @ own.mT[:, None])


def sharpness(volumes: Float[Tensor, "b n n n"], cutoff: float = 0.1) -> Float[Tensor, " b"]:
    """Share of the power, the mean left out, above ``cutoff`` cycles per pixel.

    Tells volumes that have locked from blobs without a truth: both have the low frequencies of the images, only a
    consistent volume adds up at high ones. On simulated boxes its rank correlation with the true FSC is about 0.7.
    A volume that is not finite has -1, less than any other.
    """
    side = volumes.shape[-1]
    radius = radius_grid(side, 3, volumes.device)
    high, all_but_mean = radius > cutoff * side, radius > 0
    share = volumes.new_empty(len(volumes))
    for i, volume in enumerate(volumes):  # one spectrum at a time: a set of volumes may fill the memory
        power = centred_fft(volume, 3).abs() ** 2
        share[i] = power[high].sum() / power[all_but_mean].sum().clamp(min=torch.finfo(power.dtype).tiny)
    return torch.where(share.isfinite(), share, -1.0)
