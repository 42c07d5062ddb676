"""One frame and one hand for a whole set of volumes of a molecule that moves.

Where the poses of their class averages are known, volumes have a frame and a hand already. Of others pairs are aligned
in both hands, and hands and frames follow from all pairs together (pair_graph.py). The mean of the set then shows what
the volumes share: its rigid core, the voxels that vary little, and the core's symmetry, up to which pairs say nothing.
Where there are no poses, every volume is registered to the core of the others, and where that is symmetric the moving
parts of all volumes decide together between what it leaves equal (cosets.py).

What is compared are the lower shells in a small box, so that sets of hundreds of volumes take minutes.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import InputError
from ..evaluation.alignment import (
    Alignment,
    AlignmentConfig,
    apply_alignment,
    find_candidates,
    refine_candidates,
)
from ..evaluation.fsc import fourier_shell_correlation
from ..evaluation.spectra import background, centre_of_mass
from ..evaluation.symmetry import Symmetry, SymmetryConfig, find_symmetry
from ..geometry.symmetry import symmetry_group
from ..imaging.fourier import resize
from ..limits import SEEDS, check_limits
from .cosets import choose_cosets
from .frames import Consensus, Frames, as_candidates, fits, join_frames, make_consensus, part_of, robust_weights
from .hands import Hands, HandSearch, decide_hands
from .pair_graph import Pairs, align_pairs, join, random_pairs, synchronise_hands, synchronise_matrices

_TOGETHER = 16  # volumes that are registered between two reports


@dataclass(frozen=True)
class SynchronisationConfig:
    """How much is compared.

    Attributes
    ----------
    side
        Side of the box, in voxels, that volumes are cut to in Fourier space.
    neighbours
        Pairs that each volume is in; all pairs if there are not more.
    pairs
        Search of each pair.
    search
        Search of each volume against the mean.
    rounds
        Times that the mean and its core are made anew and all volumes are registered to them.
    symmetry
        What counts as a symmetry of the core.
    least_margin
        Hand margin from which on a hand may count as known.
    least_evidence
        How many times its standard error, which the scatter over shells gives, the margin must be.
    seed
        Of the choice of pairs.
    """

    side: int = 32
    neighbours: int = 8
    pairs: AlignmentConfig = field(default_factory=lambda: AlignmentConfig(shells=(6, 9), kept=(6, 2), iterations=6))
    search: AlignmentConfig = field(default_factory=lambda: AlignmentConfig(shells=(6, 12), kept=(6, 2), iterations=6))
    rounds: int = 3
    symmetry: SymmetryConfig = field(default_factory=SymmetryConfig)
    least_margin: float = 0.03
    least_evidence: float = 2.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_limits(
            self,
            side=(8, 2**12),
            neighbours=(1, 10**6),
            rounds=(0, 1000),
            least_margin=(0.0, 1.0),
            least_evidence=(0.0, 1e6),
            seed=SEEDS,
        )


@dataclass(frozen=True)
class Synchronisation:
    """How each volume goes into the common frame and hand.

    Attributes
    ----------
    alignment
        To the common frame, in pixels of the input: ``apply_alignment(volumes, alignment)`` resamples. Its correlation
        is that with the core of the other volumes; its hand margin is by how much the volume correlates better with
        the mean of the others than in the other hand.
    hand_certain
        ``(n,)``, whether the hand is known: the volume fits the others, and its margin is large and clear, shell by
        shell. An object that equals its mirror image has no hand to know.
    weights
        ``(n,)``, 0 to 1, how much each volume counted: 0 for those that do not fit or are not reliable.
    core
        ``(s, s, s)``, 0 to 1: where the set is rigid, in the common frame.
    symmetry
        Of the core, in the common frame; its axes stand as in the group's standard orientation.
    """

    alignment: Alignment
    hand_certain: Bool[Tensor, " n"]
    weights: Float[Tensor, " n"]
    core: Float[Tensor, "s s s"]
    symmetry: Symmetry


@dataclass(frozen=True)
class VolumePoses:
    """Where volumes lie that were made at poses of their class averages: in the frames of those.

    Attributes
    ----------
    rotations
        ``(n, 3, 3)``, from the common frame to that of each volume.
    shifts_pixels
        ``(n, 2)``, ``[x, y]``, in pixels of the volumes, of each volume in its own frame.
    """

    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]


@dataclass(frozen=True)
class SynchronisationStep:
    """Progress: what is being done, how much of it is done, and at the end the result."""

    stage: str
    done: int
    total: int
    result: Synchronisation | None = None


def synchronise(
    volumes: Float[Tensor, "n s s s"],
    config: SynchronisationConfig = SynchronisationConfig(),
    *,
    reliable: Bool[Tensor, " n"] | None = None,
    poses: VolumePoses | None = None,
) -> Synchronisation:
    """Bring volumes of one molecule into a common frame and hand; see :func:`synchronise_progressive`."""
    *_, last = synchronise_progressive(volumes, config, reliable=reliable, poses=poses)
    assert last.result is not None
    return last.result


def synchronise_progressive(
    volumes: Float[Tensor, "n s s s"],
    config: SynchronisationConfig = SynchronisationConfig(),
    *,
    reliable: Bool[Tensor, " n"] | None = None,
    poses: VolumePoses | None = None,
) -> Iterator[SynchronisationStep]:
    """Bring volumes of one molecule into a common frame and hand.

    Which of the two hands is the molecule's own, no projection tells: the common one is that of most volumes, or of the
    poses where these are known. Then frames are those of the poses, up to one rotation of all, which puts the axes of
    the core's symmetry where its group has them.

    Parameters
    ----------
    volumes
        ``(n, s, s, s)``, axes ``[z, y, x]``, each in a frame and hand of its own, about centred.
    config
        How much is compared.
    reliable
        ``(n,)``, volumes that decide for others; all are aligned. Every one, if it is not given.
    poses
        At which the volumes were made; None where they were made without.

    Yields
    ------
    SynchronisationStep
        The last has the result.

    Raises
    ------
    InputError
        Fewer than two volumes, or fewer than two reliable ones.
    """
    finite = volumes.flatten(1).isfinite().all(1)
    usable = finite if reliable is None else finite & reliable
    if int(usable.sum()) < 2:
        raise InputError(f"synchronisation needs two reliable volumes or more, not {int(usable.sum())}")
    small = _small(torch.where(finite[:, None, None, None], volumes, 0.0), config.side)
    if poses is None:
        frames, symmetry = yield from _by_pairs(small, usable, config)
    else:
        frames, symmetry = _by_poses(small, poses, small.shape[-1] / volumes.shape[-1], usable, config)
    search = HandSearch(config.search, config.least_margin, config.least_evidence, known=poses is not None)
    deciding = decide_hands(small, _in_hand_of_most(frames, usable), symmetry, usable, search)
    hands = yield from _reported(deciding, "hands", len(small))
    result = _result(volumes, small, hands, symmetry, usable, config)
    yield SynchronisationStep("hands", len(small), len(small), result)


def _by_poses(
    small: Float[Tensor, "n w w w"],
    poses: VolumePoses,
    scale: float,
    usable: Bool[Tensor, " n"],
    config: SynchronisationConfig,
) -> tuple[Frames, Symmetry]:
    """Take frames from poses; lengths are multiplied by ``scale``."""
    back, shifts = poses.rotations.mT, torch.nn.functional.pad(scale * poses.shifts_pixels, (0, 1))
    frames = Frames(back, -(back @ shifts[..., None])[..., 0], torch.ones_like(shifts[:, 0]))
    frames, symmetry, _ = _to_standard_orientation(small, frames, usable, config)
    return frames, symmetry


def _by_pairs(
    small: Float[Tensor, "n w w w"], usable: Bool[Tensor, " n"], config: SynchronisationConfig
) -> Generator[SynchronisationStep, None, tuple[Frames, Symmetry]]:
    """Find frames from alignments of pairs, and register all volumes to the core until they agree."""
    indices = random_pairs(len(small), config.neighbours, torch.Generator().manual_seed(config.seed))
    parts = []
    for part in align_pairs(small, indices, config.pairs):
        parts.append(part)
        yield SynchronisationStep("pairs", sum(len(one.indices) for one in parts), len(indices))
    pairs = join(parts)
    frames = yield from _star(small, pairs, usable, config)
    frames, symmetry, group = _to_standard_orientation(small, frames, usable, config)
    matrices = synchronise_matrices(pairs, frames.matrices, group, usable)
    candidates = [frames, _about_centre_of_mass(small, matrices)]
    for turn in range(config.rounds):
        consensus = make_consensus(small, frames, usable)
        if not _has_mirrorings(group):
            mirrored = symmetry.mirror[None], torch.zeros_like(frames.shifts)
            candidates = [*candidates, *(each.then(*mirrored) for each in candidates)]
        frames = yield from _register(small, consensus, candidates, config, f"core, round {turn + 1}")
        if len(group) > 1:
            aligned = apply_alignment(small, frames.alignment())
            chosen = group[choose_cosets(aligned, group, robust_weights(frames.correlation, usable))]
            frames = frames.then(chosen, torch.zeros_like(frames.shifts))
        candidates = [frames]
    return frames, symmetry


def _reported(
    deciding: Generator[int, None, Hands], stage: str, total: int
) -> Generator[SynchronisationStep, None, Hands]:
    """Report what is done of the hands, but for the last, with which the result comes."""
    while True:
        try:
            done = next(deciding)
        except StopIteration as end:
            hands: Hands = end.value
            return hands
        yield SynchronisationStep(stage, done - 1, total)


def _small(volumes: Float[Tensor, "n s s s"], side: int) -> Float[Tensor, "n w w w"]:
    """Volumes in a small box, on a scale of their own: background 0, standard deviation 1."""
    parts = []
    for volume in volumes.split(_TOGETHER):
        part = resize(volume - background(volume), min(side, volume.shape[-1]), 3)
        parts.append(part / part.std((1, 2, 3), keepdim=True).clamp(min=torch.finfo(part.dtype).tiny))
    return torch.cat(parts)


def _star(
    small: Float[Tensor, "n w w w"], pairs: Pairs, usable: Bool[Tensor, " n"], config: SynchronisationConfig
) -> Generator[SynchronisationStep, None, Frames]:
    """Align all volumes to the one that agrees best with others, in the hands that pairs give; then to their mean."""
    count = len(small)
    hands = synchronise_hands(pairs, count)
    best = pairs.correlation.amax(1).repeat_interleave(2)
    total = best.new_zeros(count).index_add(0, pairs.indices.flatten(), best)
    degree = best.new_zeros(count).index_add(0, pairs.indices.flatten(), torch.ones_like(best))
    centre = int(torch.where(usable, total / degree, -torch.inf).argmax())
    hand = (hands != hands[centre]).long()
    reference = small[centre]
    for stage in ("centre", "mean"):
        parts = []
        for start in range(0, count, _TOGETHER):
            part = slice(start, start + _TOGETHER)
            found = find_candidates(small[part], reference[None], config.search)
            rows = torch.arange(len(found.matrices))
            own = rows, hand[part], torch.zeros_like(rows)
            parts.append(Frames(found.matrices[own], found.shifts_pixels[own], found.correlation[own]))
            yield SynchronisationStep(stage, min(start + _TOGETHER, count), count)
        frames = join_frames(parts)
        consensus = make_consensus(small, frames, usable)
        reference = consensus.mean * consensus.core
    return frames


def _to_standard_orientation(
    small: Float[Tensor, "n w w w"], frames: Frames, usable: Bool[Tensor, " n"], config: SynchronisationConfig
) -> tuple[Frames, Symmetry, Float[Tensor, "g 3 3"]]:
    """Find the symmetry of the core and put its axes where its group has them.

    Beside the frames there is the symmetry in the new frame, and its group, with mirrorings if the core has no hand.
    """
    consensus = make_consensus(small, frames, usable)
    symmetry = _core_symmetry(consensus, config)
    back = symmetry.frame.mT
    frames = frames.then(back[None], -(back @ symmetry.centre_pixels)[None])
    symmetry = replace(
        symmetry,
        frame=torch.eye(3).to(back),
        centre_pixels=torch.zeros(3).to(back),
        mirror=back @ symmetry.mirror @ back.mT,
    )
    group = symmetry_group(symmetry.group).to(back)
    if symmetry.mirror_correlation >= config.symmetry.least:
        group = torch.cat([group, group @ symmetry.mirror])
    return frames, symmetry, group


def _core_symmetry(consensus: Consensus, config: SynchronisationConfig) -> Symmetry:
    """Point group of the core; what two halves of the set have in common says how well it is known."""
    halves = []
    place = torch.arange(len(consensus.weights), device=consensus.weights.device)
    for remainder in (0, 1):
        own = consensus.weights * (place % 2 == remainder)
        halves.append(torch.einsum("n,nzyx->zyx", own, consensus.aligned) / own.sum().clamp(min=1e-6) * consensus.core)
    fsc = fourier_shell_correlation(halves[0], halves[1]).clamp(min=0)
    return find_symmetry(consensus.mean * consensus.core, config.symmetry, quality=2 * fsc / (1 + fsc))


def _has_mirrorings(group: Float[Tensor, "g 3 3"]) -> bool:
    return bool((torch.linalg.det(group) < 0).any())


def _about_centre_of_mass(small: Float[Tensor, "n w w w"], matrices: Float[Tensor, "n 3 3"]) -> Frames:
    """Frames of given matrices that put the centre of mass into the origin."""
    centres = centre_of_mass(small)
    return Frames(matrices, -(matrices @ centres[..., None])[..., 0], torch.zeros_like(centres[:, 0]))


def _register(
    small: Float[Tensor, "n w w w"],
    consensus: Consensus,
    candidates: list[Frames],
    config: SynchronisationConfig,
    stage: str,
) -> Generator[SynchronisationStep, None, Frames]:
    """Refine candidates of each volume against the core of the others and take the best."""
    parts = []
    refinement = replace(config.search, kept=(len(candidates), 1))
    for start in range(0, len(small), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        entering = as_candidates([part_of(each, part) for each in candidates])
        found = refine_candidates(small[part], consensus.of_others(part, core=True), entering, refinement)
        parts.append(Frames(found.matrices[:, 0, 0], found.shifts_pixels[:, 0, 0], found.correlation[:, 0, 0]))
        yield SynchronisationStep(stage, min(start + _TOGETHER, len(small)), len(small))
    return join_frames(parts)


def _in_hand_of_most(frames: Frames, usable: Bool[Tensor, " n"]) -> Frames:
    """Invert everything through the centre, which leaves all axes where they are, if most volumes are mirrored."""
    hands = torch.linalg.det(frames.matrices) * robust_weights(frames.correlation, usable)
    if hands.sum() >= 0:
        return frames
    return frames.then(-torch.eye(3).to(frames.matrices)[None], torch.zeros_like(frames.shifts))


def _result(
    volumes: Float[Tensor, "n s s s"],
    small: Float[Tensor, "n w w w"],
    hands: Hands,
    symmetry: Symmetry,
    usable: Bool[Tensor, " n"],
    config: SynchronisationConfig,
) -> Synchronisation:
    frames, consensus = hands.frames, make_consensus(small, hands.frames, usable)
    still = replace(config.search, shells=config.search.shells[-1:], kept=(1,), iterations=0)
    scored = refine_candidates(small, consensus.of_others(slice(None), core=True), as_candidates([frames]), still)
    frames = replace(frames, correlation=scored.correlation[:, 0, 0])
    core = resize(consensus.core[None], volumes.shape[-1], 3)[0].clamp(0, 1)
    alignment = frames.alignment(volumes.shape[-1] / small.shape[-1], hands.margin)
    return Synchronisation(
        alignment,
        hands.clear & (fits(frames.correlation, usable) > 0),
        robust_weights(frames.correlation, usable),
        core,
        symmetry,
    )
