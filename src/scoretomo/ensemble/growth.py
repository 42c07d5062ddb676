"""Growing a set of volumes from an initial model: grow, select, polish, specialise.

Cold starts of Algorithm 1 lock one after another and many never do. An initial model shows most of what every image
needs: found in an image (pose search), turned into its frame and adapted to it by Algorithm 1, it replaces thousands of
steps, and all volumes have its hand. While growing, a volume is also shown other class averages in the poses in which
they match (anchors); what all conformations share comes out sharp. The polish, without them, lets each volume find its
own conformation; then it specialises, with those class averages as anchors that show this conformation (kin.py).

What is made goes into a store (store.py). From there an interrupted growth is taken up, and through it processes share
the work; they have no other exchange.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..datatypes import InputError
from ..diffusion.edm import Denoiser
from ..imaging.slices import image_coefficients
from ..methods.pose_search import band, normalise
from ..methods.score_tomography import Anchors, ReconstructionStep, reconstruct_progressive
from .kin import Usual, choose_kin, explained, usually_explained
from .memory import is_out_of_memory
from .parents import Matches, anchor_to_matches, match_parents, sharpest, sharpness, start_from_parents
from .stages import VOLUMES, GrowthConfig, Stage, growth_stages
from .store import MemoryStore, Store, Tensors, split_evenly

PARENTS = "parents"
"""What a store calls the volumes that a stage starts from, by the number of the stage."""
_USUAL = "usual"  # what a store calls how well each image is explained by the volumes that a stage goes on with
# Images that are matched at a time: what processes share, and what is not done again after an interruption. Each time,
# all slices of a parent are made.
_MATCHED_TOGETHER = 128


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
    wanted: list[int]
    """Images whose volumes were not there when the job began."""


@dataclass(frozen=True)
class _Parents:
    """What a stage starts from: volumes that were found in all images."""

    volumes: Float[Tensor, "p n n n"]
    matches: Matches


@dataclass(frozen=True)
class _Kin:
    """What a stage goes on with: how the frames of all images are related, and how well each is usually explained."""

    matches: Matches
    usual: Usual


_Beginning = _Parents | _Kin | None


def grow_progressive(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: GrowthConfig,
    *,
    seed: int,
    initial: Float[Tensor, "n n n"] | None = None,
    wanted: Sequence[int] | None = None,
    store: Store | None = None,
    chunk: int = 64,
    mask_radius: float | None = None,
) -> Iterator[GrowthStep]:
    """Reconstruct one volume per image, all from an initial model or each from nothing; they come into the store.

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
    initial
        ``(n, n, n)``, where all volumes start; None where the settings say that they start from nothing.
    wanted
        Indices of the images whose volumes to make; all if not given. The others serve as anchors. The kin
        of a volume are found by comparing it with those that are made in the same call.
    store
        Where volumes come, ``store.get(VOLUMES, index)["volume"]``, and where there may be some already, or the
        beginnings of some, from an earlier call; the memory if not given.
    chunk
        Volumes that advance together; halved when the memory does not hold so many.
    mask_radius
        Radius in pixels beyond which the images are 0; half the side if not given.

    Raises
    ------
    InputError
        An initial model is wanted and not given, or the other way round.
    """
    if config.initial != (initial is not None):
        raise InputError("growth starts from an initial model, or from nothing: give the one that the settings want")
    store = MemoryStore() if store is None else store
    stages = growth_stages(config, len(images), wanted)
    missing = store.share(VOLUMES, stages[-1].members).missing
    if not missing:
        return
    job = _Job(denoiser, images, config, seed, store, mask_radius, stages, missing)
    if initial is not None:
        _shared(store, PARENTS, [0], lambda _: {"volumes": initial[None], "sharpness": sharpness(initial[None])})
    for stage in stages[_first_stage(job) :]:
        chunk = yield from _grow_stage(job, stage, _begin(job, stage), chunk)
        store.wait()
        if stage is not stages[-1] and not stages[stage.number + 1].goes_on:
            _shared(store, PARENTS, [stage.number + 1], partial(_choose_parents, job))
            store.drop(stage.task)
            store.drop(_matches_of(stage))
        if stage.goes_on:
            store.drop(stages[stage.number - 1].task)
            store.drop(_scores_of(stage))


def grow(
    denoiser: Denoiser,
    images: Float[Tensor, "k n n"],
    config: GrowthConfig,
    *,
    seed: int,
    initial: Float[Tensor, "n n n"] | None = None,
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
        initial=initial,
        wanted=wanted,
        store=store,
        chunk=chunk,
        mask_radius=mask_radius,
    )
    deque(steps, maxlen=0)
    indices = range(len(images)) if wanted is None else wanted
    return torch.stack([store.get(VOLUMES, index)["volume"] for index in indices])


def volume_generator(seed: int, stage: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of all draws for the volume of image ``index`` in a stage.

    Its seed is the 8-byte BLAKE2b hash of the three numbers as text, ``"SEED STAGE INDEX"``, read as a big-endian
    integer, so that neither the number of processes nor the chunks decide what a volume meets.
    """
    digest = hashlib.blake2b(f"{seed} {stage} {index}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest))


def _first_stage(job: _Job) -> int:
    """Find the stage to begin or to go on with: the last one that has what it needs."""
    stages, store = job.stages, job.store
    for stage in reversed(stages):
        if stage.goes_on and not store.share(stages[stage.number - 1].task, job.wanted).missing:
            return stage.number
    unknown = store.share(PARENTS, range(1, job.config.polish_number + 1)).missing
    return max((k for k in range(1, job.config.polish_number + 1) if k not in unknown), default=0)


def _begin(job: _Job, stage: Stage) -> _Beginning:
    """Find what the volumes of a stage need besides themselves; processes share the work."""
    if stage.goes_on:
        return _find_kin(job, stage)
    return _find_parents(job, stage) if job.config.initial else None


def _grow_stage(job: _Job, stage: Stage, beginning: _Beginning, chunk: int) -> Generator[GrowthStep, None, int]:
    """Make this process's share of the volumes of a stage; returns the chunk that the memory holds."""
    # earlier stages make the volumes from which parents are chosen, later ones only what leads to a missing volume
    needed = stage.members if stage.number < job.config.polish_number else job.wanted
    share, steps = job.store.share(stage.task, needed), stage.settings.steps
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
            for advancing in _advance(job, stage, members, beginning):
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


def _advance(job: _Job, stage: Stage, members: list[int], beginning: _Beginning) -> Iterator[Advancing]:
    """Advance volumes together to the end of the stage, where they come into the store."""
    device = job.images.device
    generators = [volume_generator(job.seed, stage.number, member, device) for member in members]
    begun = _steps_made(job, stage, members[0]) > 0
    # volumes to begin with are nowhere held but in the call, which lets go of them
    for step in reconstruct_progressive(
        job.denoiser,
        job.images[torch.tensor(members, device=device)],
        stage.settings,
        generators=generators,
        start=None if begun else _start(job, stage, members, beginning),
        resume=_resume(job, stage, members, generators) if begun else None,
        anchors=_anchor(job, stage, members, beginning) if stage.settings.anchors else None,
        mask_radius=job.mask_radius,
    ):
        if step.step == stage.settings.steps:
            for member, volume, sharp in zip(members, step.result, sharpness(step.result), strict=True):
                job.store.put(stage.task, member, {"volume": volume, "sharpness": sharp})
        yield Advancing(stage, members, step, torch.stack([generator.get_state() for generator in generators]))


def _start(job: _Job, stage: Stage, members: list[int], beginning: _Beginning) -> Float[Tensor, "b n n n"] | None:
    """Give the volumes that a stage begins with; None for nothing."""
    if isinstance(beginning, _Parents):
        return start_from_parents(beginning.volumes, beginning.matches, torch.tensor(members, device=job.images.device))
    if beginning is None:
        return None
    before = job.stages[stage.number - 1].task
    return torch.stack([job.store.get(before, member)["volume"].to(job.images.device) for member in members])


def _anchor(job: _Job, stage: Stage, members: list[int], beginning: _Beginning) -> Anchors | None:
    """Find the images that volumes are fitted to besides their own: all, or their kin."""
    if beginning is None:
        return None
    device = job.images.device
    chosen = torch.tensor(members, device=device)
    anchors = anchor_to_matches(job.images, beginning.matches, chosen)
    if isinstance(beginning, _Parents):
        return anchors
    scores = torch.stack([job.store.get(_scores_of(stage), member)["scores"].to(device) for member in members])
    return anchors.only(choose_kin(scores, beginning.usual, chosen, job.config.kin))


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


def _find_kin(job: _Job, stage: Stage) -> _Kin:
    """See how well the volumes that a stage goes on with explain all images; processes share out the volumes."""
    device, store, before = job.images.device, job.store, job.stages[stage.number - 1]
    matches = _find_parents(job, job.stages[job.config.polish_number]).matches
    frequencies = band(job.images, job.config.matching.high_radius)
    targets = normalise(image_coefficients(job.images, frequencies))

    def score(member: int) -> Tensors:
        volume = store.get(before.task, member)["volume"].to(device)
        (rotations,) = anchor_to_matches(job.images, matches, torch.tensor([member], device=device)).rotations
        return {"scores": explained(volume, rotations, targets, frequencies)}

    scores = _shared(store, _scores_of(stage), job.wanted, score)

    def summarise(_: int) -> Tensors:
        return vars(usually_explained(torch.stack([one["scores"] for one in scores])))

    (usual,) = _shared(store, _USUAL, [stage.number], summarise)
    return _Kin(matches, Usual(**{name: value.to(device) for name, value in usual.items()}))


def _matches_of(stage: Stage) -> str:
    return f"stage{stage.number}_matches"


def _scores_of(stage: Stage) -> str:
    return f"stage{stage.number}_scores"


def _choose_parents(job: _Job, number: int) -> Tensors:
    """Take the parents of a stage from the volumes of the one before."""
    store, stage = job.store, job.stages[number - 1]
    own = torch.tensor([float(store.get(stage.task, member)["sharpness"]) for member in stage.members])
    earlier = store.get(PARENTS, stage.number)
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
