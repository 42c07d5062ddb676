"""One frame and one hand for a whole set of volumes of a molecule that moves.

Pairs of volumes are aligned in both hands, and hands and frames follow from all pairs together (pair_graph.py). The
mean of the set then shows what the volumes share: its rigid core, the voxels that vary little, and the core's symmetry,
up to which pairs say nothing. Every volume is registered to the core of the others; where the core is symmetric, the
moving parts of all volumes decide together between what it leaves equal (cosets.py).

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
    Candidates,
    apply_alignment,
    find_candidates,
    refine_candidates,
)
from ..evaluation.fsc import fourier_shell_correlation
from ..evaluation.spectra import background, centre_of_mass
from ..evaluation.symmetry import Symmetry, SymmetryConfig, find_symmetry
from ..geometry.symmetry import symmetry_group
from ..imaging.fourier import resize
from .cosets import choose_cosets
from .frames import Consensus, Frames, as_candidates, choose, fits, join_frames, make_consensus, part_of, robust_weights
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
) -> Synchronisation:
    """Bring volumes of one molecule into a common frame and hand; see :func:`synchronise_progressive`."""
    *_, last = synchronise_progressive(volumes, config, reliable=reliable)
    assert last.result is not None
    return last.result


def synchronise_progressive(
    volumes: Float[Tensor, "n s s s"],
    config: SynchronisationConfig = SynchronisationConfig(),
    *,
    reliable: Bool[Tensor, " n"] | None = None,
) -> Iterator[SynchronisationStep]:
    """Bring volumes of one molecule into a common frame and hand.

    Which of the two hands is the molecule's own, no projection tells: the common one is that of most volumes.

    Parameters
    ----------
    volumes
        ``(n, s, s, s)``, axes ``[z, y, x]``, each in a frame and hand of its own, about centred.
    config
        How much is compared.
    reliable
        ``(n,)``, volumes that decide for others; all are aligned. Every one, if it is not given.

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
    frames, margin, clear = yield from _decide_hands(small, _in_hand_of_most(frames, usable), symmetry, usable, config)
    result = _result(volumes, small, frames, margin, clear, symmetry, usable, config)
    yield SynchronisationStep("hands", len(small), len(small), result)


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


def _decide_hands(
    small: Float[Tensor, "n w w w"],
    frames: Frames,
    symmetry: Symmetry,
    usable: Bool[Tensor, " n"],
    config: SynchronisationConfig,
) -> Generator[SynchronisationStep, None, tuple[Frames, Float[Tensor, " n"], Bool[Tensor, " n"]]]:
    """Register each volume to the mean of the others in both hands; beside the better, margins and which are clear.

    Where neither hand is clearly better, a volume is not mirrored.
    """
    consensus = make_consensus(small, frames, usable)
    parts, margins, clarity = [], [], []
    for start in range(0, len(small), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        own, others = part_of(frames, part), consensus.of_others(part, core=False)
        found = find_candidates(small[part], consensus.mean[None], config.search)
        own_score, own = _best(small[part], others, [own], config)
        rival_score, rival = _best(small[part], others, _rivals(own, found, symmetry), config)
        margin = own_score - rival_score
        clear = (margin.abs() >= config.least_margin) & (
            _evidence(small[part], others, own, rival, config) >= config.least_evidence
        )
        take = torch.where(clear, margin < 0, torch.linalg.det(own.matrices) < 0)
        parts.append(choose(take, rival, own))
        margins.append(torch.where(take, -margin, margin))
        clarity.append(clear)
        yield SynchronisationStep("hands", min(start + _TOGETHER, len(small)) - 1, len(small))
    return join_frames(parts), torch.cat(margins), torch.cat(clarity)


def _rivals(own: Frames, found: Candidates, symmetry: Symmetry) -> list[Frames]:
    """Frames in the other hand: what a search has found, and the volume's own after the core's best mirroring."""
    rows, other = torch.arange(len(own.matrices)), (torch.linalg.det(own.matrices) > 0).long()
    searched = [
        Frames(found.matrices[rows, other, k], found.shifts_pixels[rows, other, k], own.correlation)
        for k in range(found.correlation.shape[2])
    ]
    return [*searched, own.then(symmetry.mirror[None], torch.zeros_like(own.shifts))]


def _evidence(
    small: Float[Tensor, "b w w w"],
    references: Float[Tensor, "b w w w"],
    own: Frames,
    rival: Frames,
    config: SynchronisationConfig,
) -> Float[Tensor, " b"]:
    """Size of the difference of two mean shell correlations in units of its standard error."""
    highest = min(max(config.search.shells), (small.shape[-1] - 1) // 2)
    curves = [
        fourier_shell_correlation(apply_alignment(small, each.alignment()), references)[:, 1 : highest + 1]
        for each in (own, rival)
    ]
    difference = curves[0] - curves[1]
    error = difference.std(1) / highest**0.5
    times: Tensor = difference.mean(1).abs() / error.clamp(min=torch.finfo(error.dtype).eps)
    return times


def _result(
    volumes: Float[Tensor, "n s s s"],
    small: Float[Tensor, "n w w w"],
    frames: Frames,
    margin: Float[Tensor, " n"],
    clear: Bool[Tensor, " n"],
    symmetry: Symmetry,
    usable: Bool[Tensor, " n"],
    config: SynchronisationConfig,
) -> Synchronisation:
    consensus = make_consensus(small, frames, usable)
    still = replace(config.search, shells=config.search.shells[-1:], kept=(1,), iterations=0)
    scored = refine_candidates(small, consensus.of_others(slice(None), core=True), as_candidates([frames]), still)
    frames = replace(frames, correlation=scored.correlation[:, 0, 0])
    core = resize(consensus.core[None], volumes.shape[-1], 3)[0].clamp(0, 1)
    alignment = frames.alignment(volumes.shape[-1] / small.shape[-1], margin)
    return Synchronisation(
        alignment,
        clear & (fits(frames.correlation, usable) > 0),
        robust_weights(frames.correlation, usable),
        core,
        symmetry,
    )


def _best(
    small: Float[Tensor, "b w w w"],
    references: Float[Tensor, "b w w w"],
    candidates: list[Frames],
    config: SynchronisationConfig,
) -> tuple[Float[Tensor, " b"], Frames]:
    refinement = replace(config.search, kept=(len(candidates), 1))
    found = refine_candidates(small, references, as_candidates(candidates), refinement)
    score = found.correlation[:, 0, 0]
    return score, Frames(found.matrices[:, 0, 0], found.shifts_pixels[:, 0, 0], score)
