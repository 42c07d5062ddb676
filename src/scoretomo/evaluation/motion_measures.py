"""Measures that see motion: what volumes gain over one rigid map, and whether each moves as its own truth does.

The Fourier shell correlation of whole volumes hides motion, since most of a molecule stands still: one map of all
images scores nearly as well as volumes that move. So every measure is also made of one rigid map against all truths.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..imaging.fourier import resize
from ..imaging.resampling import mirror_z
from .alignment import AlignmentConfig, Candidates, apply_alignment, refine_candidates
from .comparison import align_among_copies
from .fsc import area_under_curve, fourier_shell_correlation
from .moving_truths import MovingTruths, back, turn

# Side at which every volume is compared with every truth: n volumes and n truths are held at once.
_SIDE_OF_ALL_PAIRS = 48
# Correlations that differ by less are equal: truths of two seeds of a volume are one truth.
_EQUAL = 1e-6


@dataclass(frozen=True)
class MotionScores:
    """Volumes, or a rigid map turned into the frames of the truths, against moving truths.

    Attributes
    ----------
    fsc_auc
        ``(n,)``, area under the FSC of each with its own truth; 1 is perfect.
    own_difference
        ``(n,)``, correlation of what each is beyond the mean of the truths with what its own truth is beyond it: 1 is
        perfect, 0 is none, negative moves the wrong way.
    moving_fsc_auc, moving_correlation
        ``(n,)``, area under the FSC and correlation with the own truth, where the truths differ.
    similarity
        ``(n, n)``, correlation of each (row) with each truth (column), where the truths differ.
    """

    fsc_auc: Float[Tensor, " n"]
    own_difference: Float[Tensor, " n"]
    moving_fsc_auc: Float[Tensor, " n"]
    moving_correlation: Float[Tensor, " n"]
    similarity: Float[Tensor, "n n"]

    @property
    def rank(self) -> Float[Tensor, " n"]:
        """``(n,)``: part of the other truths that are nearer than the own one; 0 is best, 0.5 is chance."""
        own = self.similarity.diagonal()[:, None]
        return (self.similarity > own + _EQUAL).sum(1) / (len(self.similarity) - 1)

    @property
    def nearest(self) -> Bool[Tensor, " n"]:
        """``(n,)``: whether no other truth is nearer than the own one."""
        return self.rank == 0


@dataclass(frozen=True)
class MotionMeasures:
    """Volumes and one rigid map against the same truths.

    Attributes
    ----------
    volumes, rigid
        Scores of the volumes, and of the rigid map in the place of each.
    """

    volumes: MotionScores
    rigid: MotionScores

    @property
    def gain_over_rigid(self) -> Float[Tensor, " n"]:
        """``(n,)``: FSC-AUC of each volume less that of the rigid map with the same truth."""
        return self.volumes.fsc_auc - self.rigid.fsc_auc


def motion_measures(
    aligned: Iterable[Float[Tensor, "s s s"]], truths: MovingTruths, rigid: Float[Tensor, "s s s"] | None = None
) -> MotionMeasures:
    """Measure volumes and one rigid map against truths that move.

    Parameters
    ----------
    aligned
        ``n`` volumes of ``(s, s, s)``, axes ``[z, y, x]``, each aligned to its own truth, as
        :func:`scoretomo.evaluation.comparison.compare` does.
    truths
        Of the volumes, as :func:`.moving_truths.moving_truths` makes them.
    rigid
        ``(s, s, s)``, in any frame and hand. None: the mean of the truths.

    Examples
    --------
    >>> measures = motion_measures(aligned, moving_truths(truths, rotations))  # doctest: +SKIP
    >>> measures.gain_over_rigid.median(), measures.volumes.own_difference.median()  # doctest: +SKIP
    """
    return MotionMeasures(score_motion(aligned, truths), score_motion(rigid_copies(truths, rigid), truths))


def score_motion(aligned: Iterable[Float[Tensor, "s s s"]], truths: MovingTruths) -> MotionScores:
    """Score volumes, each in the frame of its own truth.

    All but the FSC of whole volumes is measured in the common frame, where volume and truth have been turned alike.
    There the nearest truth is the one that correlates best where the truths differ: elsewhere there is nothing to tell
    them apart by, and noise.
    """
    areas, own, moving_areas, correlations, vectors = [], [], [], [], []
    for i, volume in enumerate(aligned):
        areas.append(_area(volume, truths.truths[i]))
        turned, truth = truths.into_common(volume, i), truths.common[i]
        own.append(_own_difference(turned, truth, truths))
        cut, true_cut = truths.masked(turned), truths.masked(truth)
        moving_areas.append(_masked_area(cut, true_cut))
        correlations.append(_cosine(cut.flatten(), true_cut.flatten()))
        vectors.append(_direction(cut))
    others = torch.stack([_direction(truths.masked(truth)) for truth in truths.common])
    return MotionScores(
        torch.stack(areas),
        torch.stack(own),
        torch.stack(moving_areas),
        torch.stack(correlations),
        torch.stack(vectors) @ others.T,
    )


def rigid_copies(truths: MovingTruths, rigid: Float[Tensor, "s s s"] | None = None) -> Iterator[Float[Tensor, "s s s"]]:
    """Yield one map in the frame of every truth.

    The map is aligned to the mean of the truths over rotations, shifts and both hands, among copies by near-symmetry;
    from there to each truth its place is known, and refined.

    Parameters
    ----------
    truths
        ``n`` truths.
    rigid
        ``(s, s, s)``, in any frame and hand. None: the mean of the truths.
    """
    mean = truths.mean
    rotation, shift = torch.eye(3).to(mean), mean.new_zeros(3)
    if rigid is None:
        rigid = mean
    else:
        found = align_among_copies(rigid[None], mean[None])
        rotation, shift = found.rotations[0], found.shifts_pixels[0]
        rigid = mirror_z(rigid) if found.mirrored[0] else rigid
    search = AlignmentConfig()
    local = AlignmentConfig(shells=search.shells[-1:], kept=(1,), iterations=search.iterations)
    for i, truth in enumerate(truths.truths):
        turned, moved = back(truths.frames, i)
        place = Candidates(
            (turned @ rotation)[None, None, None], (turned @ shift + moved)[None, None, None], mean.new_zeros(1, 1, 1)
        )
        refined = refine_candidates(rigid[None], truth[None], place, local)
        yield apply_alignment(rigid[None], turn(refined.matrices[:, 0, 0], refined.shifts_pixels[:, 0, 0]))[0]


def rank_correlations(parameters: Float[Tensor, "n p"], coordinates: Float[Tensor, "n k"]) -> Float[Tensor, "p k"]:
    """Spearman's rank correlation of each parameter with each coordinate, without its sign; 0 where one is constant.

    A coordinate's sign and scale mean nothing, and neither does any bend of it that keeps the order.
    """
    from scipy.stats import rankdata  # takes most of a second to import

    ranks = [torch.from_numpy(rankdata(values.double().cpu().numpy(), axis=0)) for values in (parameters, coordinates)]
    centred = [values - values.mean(0) for values in ranks]
    first, second = (values / values.norm(dim=0).clamp(min=1) for values in centred)
    found: Tensor = first.T @ second
    return found.abs().float()


def _own_difference(
    volume: Float[Tensor, "s s s"], truth: Float[Tensor, "s s s"], truths: MovingTruths
) -> Float[Tensor, ""]:
    """Correlation of the deviations of volume and truth.

    Both lose what fits the mean of the truths, with one factor by least squares: the volume's unit of density is its
    own. A factor that fits the volume to its truth would leave some of the mean where the volume has no motion, and
    factors by shell would hide what is blurred.
    """
    return _cosine(truths.deviation(volume), truths.deviation(truth)).to(volume)


def _masked_area(first: Float[Tensor, "s s s"], second: Float[Tensor, "s s s"]) -> Float[Tensor, ""]:
    """Area under the FSC of masked volumes; their means are off, so that the sign of shell 0 is that of rounding."""
    curve = fourier_shell_correlation(first, second)
    return area_under_curve(torch.cat([curve[1:2], curve[1:]]))


def _area(first: Float[Tensor, "s s s"], second: Float[Tensor, "s s s"]) -> Float[Tensor, ""]:
    return area_under_curve(fourier_shell_correlation(first, second))


def _direction(volume: Float[Tensor, "s s s"]) -> Float[Tensor, " k"]:
    """Vector of length 1 of a volume, sampled coarsely enough for all pairs."""
    flat = resize(volume, min(_SIDE_OF_ALL_PAIRS, volume.shape[-1]), 3).flatten()
    length: Tensor = flat.norm().clamp(min=torch.finfo(flat.dtype).tiny)
    return flat / length


def _cosine(first: Float[Tensor, " k"], second: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    norms: Tensor = (first.norm() * second.norm()).clamp(min=torch.finfo(first.dtype).tiny)
    return first @ second / norms
