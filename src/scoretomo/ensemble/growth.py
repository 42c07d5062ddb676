"""A volume for each class average by Algorithm 1, begun where the motion model, or one rigid map, puts it.

Cold starts of Algorithm 1 lock one after another and many never do. What all class averages together tell, a volume at
each one's place in the motion, replaces thousands of steps, and all volumes have its frame and hand. On the way a
volume is also shown other class averages, in the poses in which they match (anchors): those that are near in the
motion, or all of a rigid molecule. What they share comes out sharp, and the denoiser adds what is between them.

What is made goes into a store (store.py). From there an interrupted growth is taken up, and through it processes share
the work; they have no other exchange.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ..datatypes import InputError
from ..diffusion.edm import Denoiser
from ..imaging.fourier import translate
from ..methods.score_tomography import Anchors, ReconstructionConfig, ReconstructionStep, reconstruct_progressive
from .memory import is_out_of_memory
from .store import MemoryStore, Store, split_evenly

# Views of other class averages in every update of a rigid molecule; by experiment, docs/validation.md.
_RIGID_ANCHORS = 4


@dataclass(frozen=True)
class GrowthConfig:
    """What volumes begin from, and how Algorithm 1 goes on."""

    initial: bool = True
    """Begin with the volumes of the motion, or with the one map of a rigid molecule. No (--growth.no-initial) starts
    every volume from nothing: the paper's way."""
    distil: ReconstructionConfig = field(
        default_factory=lambda: ReconstructionConfig(steps=80, sigma=0.3, final_sigma=0.3, anchors=2, average=0.5)
    )
    """Algorithm 1."""
    neighbours: float = 0.1
    """Part of the class averages, the nearest in the motion, that serve a volume as anchors; of a rigid molecule all,
    and four anchors, where this and the anchors of distil are not set."""
    volumes: Literal["auto", "motion", "score", "mean"] = "auto"
    """Volumes of a molecule that moves: those of the motion model, of the score model, or their mean; auto takes those
    that predict class averages best that were left out. Those of a rigid molecule are of the score model."""

    def __post_init__(self) -> None:
        if not 0 < self.neighbours <= 1:
            raise InputError(f"neighbours must be above 0 and up to 1, not {self.neighbours}")
        if not self.initial and self.volumes not in ("auto", "score"):
            raise InputError(f"volumes that start from nothing are those of the score model, and not of {self.volumes}")

    def settled(self, *, rigid: bool) -> "GrowthConfig":
        """Make it fit what is known: all class averages are anchors of a rigid molecule, none of one from nothing."""
        if not self.initial:
            return replace(self, distil=replace(self.distil, anchors=0))
        usual = GrowthConfig()
        if rigid and (self.neighbours, self.distil.anchors) == (usual.neighbours, usual.distil.anchors):
            return replace(self, neighbours=1.0, distil=replace(self.distil, anchors=_RIGID_ANCHORS))
        return self


@dataclass(frozen=True)
class Beginning:
    """What volumes begin with.

    Attributes
    ----------
    volume
        Makes the volume of an image, ``(n, n, n)``, in the frame of the image.
    rotations, shifts_pixels
        ``(k, 3, 3)`` and ``(k, 2)``, ``[x, y]``: pose of each image, in a frame that all volumes share.
    neighbours
        ``(k, m)``, images that serve each image as anchors.
    """

    volume: Callable[[int], Float[Tensor, "n n n"]]
    rotations: Float[Tensor, "k 3 3"]
    shifts_pixels: Float[Tensor, "k 2"]
    neighbours: Int[Tensor, "k m"]


@dataclass(frozen=True)
class Advancing:
    """Volumes that advance together, and how far they are: all that is needed to take them up again."""

    members: list[int]
    step: ReconstructionStep
    generators: UInt8[Tensor, "b bytes"]
    """States of their random generators."""

    def keep(self, store: Store) -> None:
        """Put aside how far each of them is, to be taken up by whatever process and in whatever company."""
        fields = {name: value for name, value in vars(self.step).items() if isinstance(value, Tensor)}
        for row, member in enumerate(self.members):
            state = {name: value[row] for name, value in fields.items()}
            state |= {"step": torch.tensor(self.step.step), "generator": self.generators[row]}
            store.keep(member, state)


@dataclass(frozen=True)
class GrowthStep:
    """Where the growth stands after one update of the volumes that advance together."""

    steps: int
    """Updates of each volume."""
    done: int
    """Volume-steps done so far by all processes, if the others are as fast as this one."""
    total: int
    """Volume-steps of the whole job."""
    chunk: int
    """Volumes that advance together at most; fewer than before when the memory has turned out too small."""
    advancing: Advancing | None
    """Those volumes; None where they are begun again in a smaller chunk, so that nobody holds on to their memory."""

    @property
    def complete(self) -> bool:
        """Whether these volumes are complete and in the store, so that there is nothing left to keep."""
        return self.advancing is None or self.advancing.step.step == self.steps


@dataclass(frozen=True)
class _Job:
    """What all volumes have in common; images lie about the origin."""

    denoiser: Denoiser
    images: Float[Tensor, "k n n"]
    config: ReconstructionConfig
    seed: int
    beginning: Beginning | None
    store: Store
    mask_radius: float | None

    @property
    def device(self) -> torch.device:
        return self.images.device


def grow_progressive(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: ReconstructionConfig,
    *,
    seed: int,
    beginning: Beginning | None = None,
    wanted: Sequence[int] | None = None,
    store: Store | None = None,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Iterator[GrowthStep]:
    """Reconstruct one volume per image; they come into the store.

    Processes with a store in common share the work. A volume depends neither on their number, nor on the chunk, nor on
    which others are wanted, up to rounding: what it meets is drawn from the seed and its image alone.

    Parameters
    ----------
    denoiser
        ``(noisy (k, n, n), sigma (k,)) -> clean (k, n, n)``.
    images
        ``(k, n, n)``, background 0: all class averages.
    config
        Settings of Algorithm 1.
    seed
        Decides, with the index of an image, the rotations and noise that the volume of the image meets.
    beginning
        What volumes begin with; nothing if not given.
    wanted
        Indices of the images whose volumes to make; all if not given. The others serve as anchors.
    store
        Where volumes come, and where there may be some already, or the beginnings of some, from an earlier call; the
        memory if not given.
    chunk
        Volumes that advance together; halved when the memory does not hold so many.
    mask_radius
        Radius in pixels beyond which the images are 0; half the side if not given.
    """
    store = MemoryStore() if store is None else store
    members = list(range(len(images))) if wanted is None else list(wanted)
    if beginning is not None:
        images = translate(images, -beginning.shifts_pixels)
    job, share = _Job(denoiser, images, config, seed, beginning, store, mask_radius), store.share(members)
    total, made = len(members) * config.steps, {member: _steps_made(job, member) for member in share.mine}

    def report(advancing: Advancing | None) -> GrowthStep:
        there = (len(members) - len(share.missing)) * config.steps
        now = sum(made.values()) * len(share.missing) // len(made)
        return GrowthStep(config.steps, there + now, total, chunk, advancing)

    # volumes that have begun come first; those that are equally far advance together
    order = sorted(made, key=lambda member: -made[member])
    queue = deque(list(group) for _, group in groupby(order, key=made.__getitem__))
    while queue:
        together = queue.popleft()
        if len(together) > chunk:
            queue.extendleft(reversed(split_evenly(together, -(-len(together) // chunk))))
            continue
        advancing = None
        try:
            for advancing in _advance(job, together):
                made.update(dict.fromkeys(together, advancing.step.step))
                yield report(advancing)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(together) == 1:
                raise
            if advancing is not None:
                advancing.keep(store)
        advancing, chunk = None, (len(together) + 1) // 2
        queue.appendleft(together)
        yield report(None)
    store.wait()


def grow(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: ReconstructionConfig,
    *,
    seed: int,
    beginning: Beginning | None = None,
    wanted: Sequence[int] | None = None,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Float[Tensor, "b n n n"]:
    """Run :func:`grow_progressive` to its end, in one process, and give the volumes of the wanted images in order."""
    store = MemoryStore()
    steps = grow_progressive(
        denoiser,
        images,
        config,
        seed=seed,
        beginning=beginning,
        wanted=wanted,
        store=store,
        chunk=chunk,
        mask_radius=mask_radius,
    )
    deque(steps, maxlen=0)
    indices = range(len(images)) if wanted is None else wanted
    return torch.stack([store.volumes[index] for index in indices]).to(images.device)


def volume_generator(seed: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of all draws for the volume of image ``index``.

    Its seed is the 8-byte BLAKE2b hash of the two numbers as text, ``"SEED INDEX"``, read as a big-endian integer, so
    that neither the number of processes nor the chunks decide what a volume meets.
    """
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest))


def _advance(job: _Job, members: list[int]) -> Iterator[Advancing]:
    """Advance volumes together to the end, where they come into the store."""
    generators = [volume_generator(job.seed, member, job.device) for member in members]
    begun = _steps_made(job, members[0]) > 0
    # volumes to begin with are nowhere held but in the call, which lets go of them
    for step in reconstruct_progressive(
        job.denoiser,
        job.images[torch.tensor(members, device=job.device)],
        job.config,
        generators=generators,
        start=None if begun else _start(job, members),
        resume=_resume(job, members, generators) if begun else None,
        anchors=_anchor(job, members) if job.config.anchors else None,
        mask_radius=job.mask_radius,
    ):
        if step.step == job.config.steps:
            for member, volume in zip(members, step.result, strict=True):
                job.store.put(member, _move(job, volume, member, 1))
        yield Advancing(members, step, torch.stack([generator.get_state() for generator in generators]))


def _move(job: _Job, volume: Float[Tensor, "n n n"], member: int, sign: int) -> Float[Tensor, "n n n"]:
    """Move a volume from the origin to where its image has it, or back."""
    if job.beginning is None:
        return volume
    shift = sign * job.beginning.shifts_pixels[member]
    return translate(volume[None], torch.nn.functional.pad(shift, (0, 1))[None])[0]


def _start(job: _Job, members: list[int]) -> Float[Tensor, "b n n n"] | None:
    """Give the volumes to begin with; None for nothing."""
    if job.beginning is None:
        return None
    return torch.stack([_move(job, job.beginning.volume(member), member, -1) for member in members])


def _anchor(job: _Job, members: list[int]) -> Anchors | None:
    """Find the images that volumes are fitted to besides their own."""
    if job.beginning is None:
        return None
    rotations, chosen = job.beginning.rotations, job.beginning.neighbours[members]
    return Anchors(job.images, rotations[chosen] @ rotations[members, None].mT, chosen)


def _steps_made(job: _Job, member: int) -> int:
    """Count the steps of a volume that were made before an interruption, with generators of the kind of this device."""
    kept = job.store.kept(member)
    if kept is None or len(kept["generator"]) != len(torch.Generator(job.device).get_state()):
        return 0
    return int(kept["step"])


def _resume(job: _Job, members: list[int], generators: list[torch.Generator]) -> ReconstructionStep:
    """Take up volumes that are equally far."""
    kept = [job.store.kept(member) or {} for member in members]
    fields = {name: torch.stack([state[name] for state in kept]) for name in kept[0]}
    for generator, state in zip(generators, fields.pop("generator"), strict=True):
        generator.set_state(state.clone())  # PyTorch 2.13 misreads, or crashes on, a part of a tensor
    step, average = int(fields.pop("step")[0]), fields.pop("average", None)
    on_device = {name: value.to(job.device) for name, value in fields.items()}
    average = None if average is None else average.to(job.device)
    return ReconstructionStep(step=step, average=average, **on_device)
