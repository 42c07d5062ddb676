"""Growing a set of volumes from the few that have locked: nucleate, select, grow.

Cold starts of Algorithm 1 lock one after another and many never do. A volume that has locked shows most of what
another image needs: found in that image (pose search), turned into its frame and adapted to it by Algorithm 1, it
replaces thousands of steps. While growing, a volume is also shown other class averages in the poses in which they match
(anchors); what all conformations share comes out sharp, and what moves is left to the last stage.

What is made goes into a store (store.py). From there an interrupted growth is taken up, and through it processes share
the work; they have no other exchange.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..datatypes import InputError
from ..diffusion.edm import Denoiser
from ..methods.pose_search import PoseSearchConfig
from ..methods.score_tomography import ReconstructionConfig, ReconstructionStep, reconstruct_progressive
from .memory import is_out_of_memory
from .parents import Matches, anchor_to_matches, match_parents, sharpest, sharpness, start_from_parents
from .store import MemoryStore, Store, Tensors, split_evenly

VOLUMES = "volumes"
"""What a store calls the volumes that are asked for: those of the last stage."""
PARENTS = "parents"
"""What a store calls the volumes that a stage starts from, by the number of the stage."""
# Images that are matched at a time: what processes share, and what is not done again after an interruption. Each time,
# all slices of a parent are made.
_MATCHED_TOGETHER = 128


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
class Stage:
    """Algorithm 1 for some of the images, with the same settings and from the same parents."""

    number: int
    name: str
    settings: ReconstructionConfig
    members: list[int]
    """Images whose volumes the stage makes."""
    before: int
    """Volume-steps of the stages before it."""
    task: str
    """What its volumes are called in the store."""

    @property
    def after(self) -> int:
        """Volume-steps of the stages up to its end."""
        return self.before + len(self.members) * self.settings.steps


@dataclass(frozen=True)
class Advancing:
    """Volumes that advance together, and how far they are: all that is needed to take them up again."""

    stage: Stage
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
            store.keep(self.stage.task, member, state)


@dataclass(frozen=True)
class GrowthStep:
    """Where the growth stands after one update of the volumes that advance together."""

    stage: Stage
    stages: int
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
        return self.advancing is None or self.advancing.step.step == self.stage.settings.steps


@dataclass(frozen=True)
class _Job:
    """What all stages have in common."""

    denoiser: Denoiser
    images: Float[Tensor, "k n n"]
    config: GrowthConfig
    seed: int
    store: Store
    mask_radius: float | None
    stages: list[Stage]


@dataclass(frozen=True)
class _Parents:
    """What a stage starts from."""

    volumes: Float[Tensor, "p n n n"]
    matches: Matches


def grow_progressive(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: GrowthConfig,
    *,
    seed: int,
    wanted: Sequence[int] | None = None,
    store: Store | None = None,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Iterator[GrowthStep]:
    """Reconstruct one volume per image, all from the few that lock first; the volumes come into the store.

    Processes with a store in common share the work. A volume depends neither on their number nor on the chunk, up to
    rounding: what it meets is drawn from the seed, the stage and its image alone.

    Parameters
    ----------
    denoiser
        ``(noisy (k, n, n), sigma (k,)) -> clean (k, n, n)``.
    images
        ``(k, n, n)``, background 0: all class averages.
    config
        Stages and their settings.
    seed
        Decides, with the stage and the index of an image, the rotations and noise that the volume of the image meets.
    wanted
        Indices of the images whose volumes to make; all if not given. The others serve as nuclei and anchors.
    store
        Where volumes come, ``store.get(VOLUMES, index)["volume"]``, and where there may be some already, or the
        beginnings of some, from an earlier call; the memory if not given.
    chunk
        Volumes that advance together; halved when the memory does not hold so many.
    mask_radius
        Radius in pixels beyond which the images are 0; half the side if not given.
    """
    store = MemoryStore() if store is None else store
    stages = growth_stages(config, len(images), wanted)
    job = _Job(denoiser, images, config, seed, store, mask_radius, stages)
    unknown = store.share(PARENTS, range(1, len(stages))).missing
    first = max((stage.number for stage in stages if stage.number and stage.number not in unknown), default=0)
    for stage in stages[first:]:
        parents = _find_parents(job, stage) if stage.number else None
        chunk = yield from _grow_stage(job, stage, parents, chunk)
        if stage is not stages[-1]:
            store.wait()
            _shared(store, PARENTS, [stage.number + 1], partial(_choose_parents, job))
            store.drop(stage.task)
            store.drop(_matches_of(stage))


def grow(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: GrowthConfig,
    *,
    seed: int,
    wanted: Sequence[int] | None = None,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Float[Tensor, "b n n n"]:
    """Run :func:`grow_progressive` to its end, in one process, and give the volumes of the wanted images in order."""
    store = MemoryStore()
    steps = grow_progressive(
        denoiser, images, config, seed=seed, wanted=wanted, store=store, chunk=chunk, mask_radius=mask_radius
    )
    deque(steps, maxlen=0)
    indices = range(len(images)) if wanted is None else wanted
    return torch.stack([store.get(VOLUMES, index)["volume"] for index in indices])


def growth_stages(config: GrowthConfig, count: int, wanted: Sequence[int] | None = None) -> list[Stage]:
    """List the stages of growing from ``count`` images: whose volumes each makes, all or those that are wanted."""
    members = list(range(count)) if wanted is None else list(wanted)
    nuclei: list[int] = torch.linspace(0, count - 1, min(config.nuclei, count)).round().int().tolist()
    stages: list[Stage] = []
    for number, (name, settings) in enumerate(config.stages):
        own = nuclei if nuclei and number == 0 else members
        task = VOLUMES if number == len(config.stages) - 1 else f"stage{number}"
        stages.append(Stage(number, name, settings, own, stages[-1].after if stages else 0, task))
    return stages


def volume_generator(seed: int, stage: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of all draws for the volume of image ``index`` in a stage.

    Its seed is the 8-byte BLAKE2b hash of the three numbers as text, ``"SEED STAGE INDEX"``, read as a big-endian
    integer, so that neither the number of processes nor the chunks decide what a volume meets.
    """
    digest = hashlib.blake2b(f"{seed} {stage} {index}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest))


def _grow_stage(job: _Job, stage: Stage, parents: _Parents | None, chunk: int) -> Generator[GrowthStep, None, int]:
    """Make this process's share of the volumes of a stage; returns the chunk that the memory holds."""
    share, steps = job.store.share(stage.task, stage.members), stage.settings.steps
    made = {member: _steps_made(job, stage, member) for member in share.mine}

    def report(advancing: Advancing | None) -> GrowthStep:
        there = (len(stage.members) - len(share.missing)) * steps
        now = sum(made.values()) * len(share.missing) // len(made)
        return GrowthStep(stage, len(job.stages), stage.before + there + now, job.stages[-1].after, chunk, advancing)

    # volumes that have begun come first; those that are equally far advance together
    order = sorted(made, key=lambda member: -made[member])
    queue = deque(list(members) for _, members in groupby(order, key=made.__getitem__))
    while queue:
        members = queue.popleft()
        if len(members) > chunk:
            queue.extendleft(reversed(split_evenly(members, -(-len(members) // chunk))))
            continue
        advancing = None
        try:
            for advancing in _advance(job, stage, members, parents):
                made.update(dict.fromkeys(members, advancing.step.step))
                yield report(advancing)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(members) == 1:
                raise
            if advancing is not None:
                advancing.keep(job.store)
        advancing, chunk = None, (len(members) + 1) // 2
        queue.appendleft(members)
        yield report(None)
    return chunk


def _advance(job: _Job, stage: Stage, members: list[int], parents: _Parents | None) -> Iterator[Advancing]:
    """Advance volumes together to the end of the stage, where they come into the store."""
    device = job.images.device
    generators = [volume_generator(job.seed, stage.number, member, device) for member in members]
    begun, chosen = _steps_made(job, stage, members[0]) > 0, torch.tensor(members, device=device)
    anchored = stage.settings.anchors > 0
    # volumes to begin with are nowhere held but in the call, which lets go of them
    for step in reconstruct_progressive(
        job.denoiser,
        job.images[chosen],
        stage.settings,
        generators=generators,
        start=None if begun or parents is None else start_from_parents(parents.volumes, parents.matches, chosen),
        resume=_resume(job, stage, members, generators) if begun else None,
        anchors=None if parents is None or not anchored else anchor_to_matches(job.images, parents.matches, chosen),
        mask_radius=job.mask_radius,
    ):
        if step.step == stage.settings.steps:
            for member, volume, sharp in zip(members, step.result, sharpness(step.result), strict=True):
                job.store.put(stage.task, member, {"volume": volume, "sharpness": sharp})
        yield Advancing(stage, members, step, torch.stack([generator.get_state() for generator in generators]))


def _steps_made(job: _Job, stage: Stage, member: int) -> int:
    """Count the steps of a volume that were made before an interruption, with generators of the kind of this device."""
    kept = job.store.kept(stage.task, member)
    if kept is None or len(kept["generator"]) != len(torch.Generator(job.images.device).get_state()):
        return 0
    return int(kept["step"])


def _resume(job: _Job, stage: Stage, members: list[int], generators: list[torch.Generator]) -> ReconstructionStep:
    """Take up volumes that are equally far."""
    kept = [job.store.kept(stage.task, member) or {} for member in members]
    fields = {name: torch.stack([state[name] for state in kept]) for name in kept[0]}
    for generator, state in zip(generators, fields.pop("generator"), strict=True):
        generator.set_state(state.clone())  # PyTorch 2.13 misreads, or crashes on, a part of a tensor
    step, average = int(fields.pop("step")[0]), fields.pop("average", None)
    on_device = {name: value.to(job.images.device) for name, value in fields.items()}
    average = None if average is None else average.to(job.images.device)
    return ReconstructionStep(step=step, average=average, **on_device)


def _find_parents(job: _Job, stage: Stage) -> _Parents:
    """Find the parents of a stage in all images; processes share out the images."""
    device, store = job.images.device, job.store
    volumes = store.get(PARENTS, stage.number)["volumes"].to(device)

    def match(first: int) -> Tensors:
        part = job.images[first : first + _MATCHED_TOGETHER]
        return vars(match_parents(volumes, part, job.config.matching))

    parts = _shared(store, _matches_of(stage), range(0, len(job.images), _MATCHED_TOGETHER), match)
    matches = {name: torch.cat([part[name] for part in parts], dim=1).to(device) for name in parts[0]}
    return _Parents(volumes, Matches(**matches))


def _matches_of(stage: Stage) -> str:
    return f"stage{stage.number}_matches"


def _choose_parents(job: _Job, number: int) -> Tensors:
    """Take the parents of a stage from the volumes of the one before."""
    store, stage = job.store, job.stages[number - 1]
    own = torch.tensor([float(store.get(stage.task, member)["sharpness"]) for member in stage.members])
    earlier = store.get(PARENTS, stage.number) if stage.number else {"volumes": own[:0], "sharpness": own[:0]}
    chosen = sharpest(own, earlier["sharpness"].cpu(), job.config.parents).tolist()
    volumes = [
        store.get(stage.task, stage.members[k])["volume"] if k < len(own) else earlier["volumes"][k - len(own)]
        for k in chosen
    ]
    return {"volumes": torch.stack(volumes), "sharpness": torch.cat([own, earlier["sharpness"].cpu()])[chosen]}


def _shared(store: Store, task: str, items: Sequence[int], make: Callable[[int], Tensors]) -> list[Tensors]:
    """Make the items of a task, each in one process, and give the results to all."""
    for item in store.share(task, items).mine:
        store.put(task, item, make(item))
    store.wait()
    return [store.get(task, item) for item in items]
