"""Whether an initial model is to be trusted: what its starts, and models of half of the images each, agree on.

A start that is right is found again: by other starts, and from other images. Three things are looked at. Do two models
that were made of different images, from starts of their own, see an image from the same direction? Do the views go
around the molecule, so that there is a third dimension at all? And how many starts came to the same? What agrees with
itself may still be wrong: a mixture of two molecules, of which one is in the majority, comes to a map of that one.

Frames and hands follow from the poses themselves; those that a near-symmetry of the map makes alike count as the same.
Of a map with many copies of itself, a ball in the end, any two poses are near: angles are weighed against chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..evaluation.alignment import AlignmentConfig, Candidates, find_candidates, refine_candidates
from ..evaluation.near_symmetry import copies_of, turned
from ..geometry.grids import healpix_angles
from ..geometry.rotations import angle_between, mirror_matrix, random_rotations
from ..imaging.fourier import recentre_crop, resize
from ..methods.initial_model import InitialModel, find_in_model
from ..methods.initial_schedule import InitialModelConfig

Answer = Literal["right", "perhaps", "unknown"]

# Poses that differ by less in the median are the same; between models of half of the images each, what is too far.
_SAME_DEGREES, _FAR_DEGREES = 13.0, 18.0
# A start agrees with the winner when its poses do, within what its coarser grid tells.
_START_DEGREES = 20.0
# No more of the angle between poses by chance than this is the same, and no more is near.
_SAME_OF_CHANCE, _FAR_OF_CHANCE = 0.5, 0.75
# Widest angle from any direction to the nearest slice: views all around leave less, those about one direction more.
_NARROW_GAP, _WIDE_GAP = 23.0, 28.0
# Images whose poses are tried as those that relate two frames.
_TRIED = 64
# Random poses of all images that make the angle of chance.
_DRAWS = 3

FEWEST_FOR_HALVES = 8
"""Images below which halves are no measure of anything."""


@dataclass(frozen=True)
class InitialEvidence:
    """What speaks for an initial model and against it.

    Attributes
    ----------
    starts, agreeing
        Starts, and those of them that see the images from the same directions as the winner, which is one of them.
    winner_score, rival_score
        Mean correlation after the first stage: of the winner, and of the best start that does not agree; None where all
        agree.
    half_degrees
        Median angle between the poses in which two models see an image, one of them made without it: in that of the
        halves which sees the images of the other better; None where there were too few images for halves.
    chance_degrees
        That angle between the poses of the model and random ones.
    half_correlation
        Mean Fourier shell correlation of the two models over the band.
    own_correlation, left_out_correlation
        Mean correlation of images with the model that they made, and with that of the others.
    widest_gap_degrees
        Widest angle from any direction in Fourier space to the nearest slice.
    unexplained
        Images that the model does not explain, which count less than half, by their places.
    answer
        ``right``, ``perhaps`` or ``unknown``: whether the model is the molecule in three dimensions.
    reason
        Why, and what would help, in one or two sentences.
    """

    starts: int
    agreeing: int
    winner_score: float
    rival_score: float | None
    half_degrees: float | None
    chance_degrees: float
    half_correlation: float | None
    own_correlation: float | None
    left_out_correlation: float | None
    widest_gap_degrees: float
    unexplained: tuple[int, ...]
    answer: Answer
    reason: str


def halves_of(count: int) -> list[Tensor]:
    """Rows of every other image; nothing where there are too few for that."""
    return [torch.arange(half, count, 2) for half in (0, 1)] if count >= FEWEST_FOR_HALVES else []


@torch.no_grad()
def weigh_initial_model(
    images: Float[Tensor, "n side side"],
    whole: InitialModel,
    halves: Sequence[InitialModel],
    config: InitialModelConfig,
) -> InitialEvidence:
    """Look at what starts and halves agree on.

    Parameters
    ----------
    images
        ``(n, side, side)``, what ``whole`` was made of.
    whole
        The model that is judged.
    halves
        Models of the images of :func:`halves_of`, with starts of their own and the radius of ``whole``; or nothing.
    config
        Of all three.
    """
    copies = copies_of(whole.starts[0].volume, mirrored=True)[0]
    winner, others = whole.starts[0], whole.starts[1:]
    chance = chance_degrees(winner.rotations, copies)
    angles = [float(views_apart(other.rotations, winner.rotations, copies).median()) for other in others]
    apart = min(_START_DEGREES, _FAR_OF_CHANCE * chance)
    rivals = [other.first_score for other, angle in zip(others, angles, strict=True) if angle >= apart]
    degrees, correlation, own, left_out = (
        _between_halves(images, whole, halves, config, copies) if halves else (None,) * 4
    )
    gap = widest_gap(whole.rotations, copies)
    answer, reason = _answer(degrees, chance, gap, len(angles) - len(rivals) + 1, len(whole.starts))
    return InitialEvidence(
        starts=len(whole.starts),
        agreeing=len(angles) - len(rivals) + 1,
        winner_score=winner.first_score,
        rival_score=max(rivals, default=None),
        half_degrees=degrees,
        chance_degrees=chance,
        half_correlation=correlation,
        own_correlation=own,
        left_out_correlation=left_out,
        widest_gap_degrees=gap,
        unexplained=tuple((whole.weights < 0.5).nonzero().flatten().tolist()),
        answer=answer,
        reason=reason,
    )


def widest_gap(rotations: Float[Tensor, "n 3 3"], copies: Float[Tensor, "k 3 3"]) -> float:
    """Widest angle in degrees from any direction in Fourier space to the nearest central slice.

    Parameters
    ----------
    rotations
        Poses; the slice of each is perpendicular to its viewing direction.
    copies
        Rotations and mirrorings under which the molecule does not change: each pose stands for as many.
    """
    polar, longitude = healpix_angles(3).to(rotations).unbind(-1)
    directions = torch.stack([polar.sin() * longitude.cos(), polar.sin() * longitude.sin(), polar.cos()], -1)
    views = (rotations[:, None] @ copies)[..., 2, :].flatten(0, 1)
    nearest = torch.stack([(part @ views.T).abs().amin(1).max() for part in directions.split(64)])
    return math.degrees(math.asin(min(1.0, float(nearest.max()))))


def views_apart(
    rotations: Float[Tensor, "n 3 3"], like: Float[Tensor, "n 3 3"], copies: Float[Tensor, "k 3 3"]
) -> Float[Tensor, " n"]:
    """Angle in degrees between the poses of each image in two maps, in the frame and hand of the second.

    Parameters
    ----------
    rotations, like
        ``(n, 3, 3)``, poses of the same images in both.
    copies
        ``(k, 3, 3)``, rotations, and mirrorings, that take the second map nearly onto itself: poses that differ by one
        are the same.
    """
    return _degrees(_moved(rotations, _move(rotations, like, copies)), like, copies)


def chance_degrees(rotations: Float[Tensor, "n 3 3"], copies: Float[Tensor, "k 3 3"]) -> float:
    """Median of :func:`views_apart` from poses to random ones: what two maps that have nothing in common show.

    Parameters
    ----------
    rotations
        ``(n, 3, 3)``, poses.
    copies
        ``(k, 3, 3)``, rotations and mirrorings that make poses alike.
    """
    generator = torch.Generator().manual_seed(0)
    draws = [random_rotations(len(rotations), generator=generator).to(rotations) for _ in range(_DRAWS)]
    return sum(float(views_apart(draw, rotations, copies).median()) for draw in draws) / _DRAWS


def _between_halves(
    images: Float[Tensor, "n side side"],
    whole: InitialModel,
    halves: Sequence[InitialModel],
    config: InitialModelConfig,
    copies: Float[Tensor, "k 3 3"],
) -> tuple[float, float, float, float]:
    """Angle of the poses of an image in both models, agreement of their maps, and correlations with own and other."""
    side = whole.starts[0].volume.shape[-1]
    small = [resize(recentre_crop(half.volume, whole.box, 3), side, 3) for half in halves]
    rows = [each.to(images.device) for each in halves_of(len(images))]
    moves = [_move(halves[k].rotations, whole.rotations[rows[k]], copies) for k in (0, 1)]  # to the frame of the whole
    degrees, left_out = [], []
    for k in (0, 1):
        found = find_in_model(images[rows[k]], halves[1 - k].volume, whole.radius, config)
        own = _moved(halves[k].rotations, moves[k])
        degrees.append(_degrees(_moved(found.rotations, moves[1 - k]), own, copies))
        left_out.append(found.scores)
    return (
        min(float(each.median()) for each in degrees),
        _correlation(small[0], small[1], moves[1].mT @ moves[0]),
        float(torch.cat([half.scores for half in halves]).mean()),
        float(torch.cat(left_out).mean()),
    )


def _answer(degrees: float | None, chance: float, gap: float, agreeing: int, starts: int) -> tuple[Answer, str]:
    """Say whether to believe it, and why."""
    if gap >= _WIDE_GAP:
        return "unknown", (
            f"The views lie about one direction: no slice comes nearer than {gap:.0f} degrees to some directions, "
            "along which nothing is known. More views would help."
        )
    if degrees is None:
        return "perhaps", "There are too few class averages to make two independent models. More would help."
    if degrees >= min(_FAR_DEGREES, _FAR_OF_CHANCE * chance):
        return "unknown", (
            f"Two models of half of the class averages each see the same averages {degrees:.0f} degrees apart "
            f"({chance:.0f} by chance): there is no one molecule that these averages agree on. More averages, or fewer "
            "of junk and of other molecules, would help."
        )
    if degrees >= min(_SAME_DEGREES, _SAME_OF_CHANCE * chance):
        return "perhaps", (
            f"Two models of half of the class averages each see the same averages {degrees:.0f} degrees apart "
            f"({chance:.0f} by chance), which is more than in sets that are known to be right. More class averages "
            "would help."
        )
    if gap >= _NARROW_GAP:
        return "perhaps", (
            f"Views leave a gap of {gap:.0f} degrees, so that the map is drawn out along some directions. More views "
            "would help."
        )
    return "right", (
        f"Two models of half of the class averages each, from starts of their own, see the same averages within "
        f"{degrees:.0f} degrees, and {agreeing} of {starts} starts from random poses came to this map."
    )


def _correlation(volume: Float[Tensor, "m m m"], onto: Float[Tensor, "m m m"], move: Float[Tensor, "3 3"]) -> float:
    """Mean Fourier shell correlation of two maps, aligned by a search or from a matrix that nearly does it."""
    shell = (onto.shape[-1] - 1) // 2
    config = AlignmentConfig(coarse_shell=min(5, shell), shells=(min(6, shell), shell), kept=(6, 1))
    start = Candidates(move[None, None, None], move.new_zeros(1, 1, 1, 3), move.new_zeros(1, 1, 1))
    found = find_candidates(volume[None], onto[None], config)
    refined = refine_candidates(volume[None], onto[None], start, config)
    return float(torch.maximum(found.correlation.max(), refined.correlation.max()))


def _move(
    rotations: Float[Tensor, "n 3 3"], like: Float[Tensor, "n 3 3"], copies: Float[Tensor, "k 3 3"]
) -> Float[Tensor, "3 3"]:
    """Orthogonal matrix that takes one map to the frame and hand of another, from the poses of the same images in both.

    That of each image, of up to 64, is tried, in both hands; that under which most images agree is taken.
    """
    tried = torch.linspace(0, len(rotations) - 1, min(len(rotations), _TRIED)).round().long()
    own, other = rotations[tried], like[tried]
    moves = torch.cat([other.mT @ own, other.mT @ (mirror_matrix(own) @ own)])
    medians = torch.stack([_degrees(_moved(rotations, move), like, copies).median() for move in moves])
    return moves[int(medians.argmin())]


def _moved(rotations: Float[Tensor, "n 3 3"], move: Float[Tensor, "3 3"]) -> Float[Tensor, "n 3 3"]:
    """Poses in the frame and hand that a matrix takes their volume to: a mirrored one is seen from behind."""
    return turned(rotations, move.to(rotations).mT[None])[:, 0]


def _degrees(
    first: Float[Tensor, "n 3 3"], second: Float[Tensor, "n 3 3"], copies: Float[Tensor, "k 3 3"]
) -> Float[Tensor, " n"]:
    """Angle between two poses of each image, modulo the copies."""
    return angle_between(turned(first, copies.to(first)), second[:, None]).amin(1)
