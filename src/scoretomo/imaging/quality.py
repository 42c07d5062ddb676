"""Which class averages to leave out: blurred ones, those with company, and the odd one out.

Every average is measured on its central object, the piece of density that is nearest to the middle, and compared with
the set. Projections of one molecule have much in common whatever the direction: the same sum of density, about the same
size and detail, and other projections that look nearly like them after a rotation in the plane.

A good average that is left out is a loss that nobody sees, one bad average more does little harm: limits are set so
that averages of one molecule, clean or real, all pass, and the set is believed more than any limit.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .fourier import centred_fft, centred_inverse_fft, radius_grid, resize, shell_index, shell_sum, translate

Verdict = Literal["good", "doubtful", "junk"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

# Larger images are made smaller: at 160 pixels, blurred averages still differ from sharp ones.
_LARGEST_SIDE = 160
# Images are compared at this side: what a molecule is shows in its outline.
_COMPARED_SIDE = 40
_ANGLES = 64
# An average is the odd one out if fewer than this many others look like it: some molecules come in twos and threes.
_LIKE = 3
# Fewer images are measured but not compared, since all of them may be views of their own.
_FEWEST = 16
# Smoothing before objects are told apart, in cycles per pixel, and the part of the brightest density that is an object.
_SMOOTHING = 0.06
_OBJECT = 0.3
# Of the power of an object, the part beyond the frequency that counts as its finest detail.
_BEYOND = 0.001
# Parts of half the side: where an object is cut off, and where background ends.
_RIM = 0.82
_BACKGROUND = 0.95
# Distances to like images below this are as good as none: those of clean views of one molecule.
_SMALLEST_DISTANCE = 0.02
_MOST_JUNK = 0.5
# The reason of an image without any density.
EMPTY = "empty"
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Quality:
    """What a set of class averages is worth, one by one.

    Attributes
    ----------
    parts
        What was measured, ``(n,)`` each; NaN where it is not known:

        - ``resolution_angstrom``: finest detail, as given or by the power spectrum of the central object after that of
          the background was subtracted; ``resolution_with_noise_angstrom``: before;
        - ``detail``: frequency of the finest detail as a part of that of the sharper averages, the upper quartile;
          with or without noise, whichever is more, since both a clean image among noisy ones and a noisy one among
          clean ones would else look blurred;
        - ``density``: sum over the central object, as a part of the median;
        - ``radius_angstrom``: radius of gyration of the central object; ``offset_angstrom``: of its centre of mass;
        - ``neighbours``: density of other objects as a part of that of the central one;
        - ``cut_off``: part of the central object that lies at the rim;
        - ``background``: density between objects, root mean square, as a part of the mean within the central object;
        - ``similarity``: correlation with the third most similar other average; ``oddness``: distance (1 minus this)
          over the median distance; ``nearest``: index of the most similar;
        - ``population``: as given.
    verdicts
        ``junk`` is better left out of training, ``doubtful`` better looked at.
    reasons
        Why not good, in words; empty for good ones.
    """

    parts: dict[str, Float[Tensor, " n"]]
    verdicts: tuple[Verdict, ...]
    reasons: tuple[tuple[str, ...], ...]

    def which(self, verdict: Verdict) -> list[int]:
        """Return the indices of the images with a verdict."""
        return [index for index, found in enumerate(self.verdicts) if found == verdict]


@dataclass(frozen=True)
class _Limit:
    """From where on a part is a reason to doubt, and from where on it is enough for junk; falling limits mean below."""

    part: str
    doubtful: float
    junk: float
    words: str

    def points(self, values: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """0, 1 (a reason to doubt) or 2 (enough for junk); what is not known is no reason."""
        if self.junk < self.doubtful:
            return (values < self.doubtful).int() + (values < self.junk).int()
        return (values > self.doubtful).int() + (values > self.junk).int()


# Two reasons to doubt are enough for junk, but only from different rows: within one they come from the same thing.
_LIMITS = (
    (
        _Limit(
            "detail", 0.6, 0.5, "blurred: {detail:.0%} of the detail of the sharper ones ({resolution_angstrom:.0f} A)"
        ),
    ),
    (
        _Limit("neighbours", 0.1, math.inf, "has neighbours, with {neighbours:.0%} of its density"),
        _Limit("background", 0.2, math.inf, "background of {background:.0%} of its density"),
    ),
    (_Limit("oddness", 4.0, 7.0, "odd one out: no other is like it (correlation {similarity:.2f})"),),
    (
        _Limit("density", 0.5, -math.inf, "another molecule? has {density:.2f} of the usual density"),
        _Limit("density", 2.0, math.inf, "another molecule? has {density:.1f} times the usual density"),
    ),
    (
        _Limit("relative_offset", 0.2, math.inf, "off centre by {offset_angstrom:.0f} A"),
        _Limit("cut_off", 0.1, math.inf, "{cut_off:.0%} of it lies at the rim"),
    ),
    (_Limit("relative_population", 0.2, -math.inf, "few particles: {relative_population:.0%} of the usual number"),),
)
_COMPARED = ("detail", "oddness", "density")


def assess(
    images: Float[Tensor, "n side side"],
    pixel_size_angstrom: float,
    *,
    resolutions_angstrom: Float[Tensor, " n"] | None = None,
    populations: Float[Tensor, " n"] | None = None,
) -> Quality:
    """Measure class averages and say which of them are junk.

    Parameters
    ----------
    images
        ``(n, side, side)`` with the protein bright, background 0, and 0 beyond half the side, as
        :func:`scoretomo.imaging.preprocess.preprocess` makes them. Images without any density are junk.
    pixel_size_angstrom
        Of the images.
    resolutions_angstrom, populations
        ``(n,)`` of the classes where the classification has said so (``rlnEstimatedResolution``,
        ``rlnClassDistribution``); NaN where it has not.

    Returns
    -------
    Quality
        If more than half of the images look like junk, they are called doubtful instead: then the set is not what
        the limits were made for.
    """
    filled = images.flatten(1).amax(1) > 0
    unknown = torch.full((len(images),), math.nan)
    measured = _measure(images[filled], pixel_size_angstrom)
    parts = {name: unknown.masked_scatter(filled, values.float()) for name, values in measured.items()}
    if resolutions_angstrom is not None:
        known = filled & resolutions_angstrom.isfinite() & (resolutions_angstrom > 0)
        parts["resolution_angstrom"] = torch.where(known, resolutions_angstrom, parts["resolution_angstrom"])
    details = {
        name: (1 / parts[name]) / (1 / parts[name][filled]).quantile(0.75)
        for name in ("resolution_angstrom", "resolution_with_noise_angstrom")
    }
    given = resolutions_angstrom is not None
    parts["detail"] = details["resolution_angstrom"] if given else torch.stack([*details.values()]).amax(0)
    parts["population"] = unknown if populations is None else populations.float()
    return _judge(parts, filled, images.shape[-1] * pixel_size_angstrom)


def _judge(parts: dict[str, Float[Tensor, " n"]], filled: Bool[Tensor, " n"], width: float) -> Quality:
    """Turn parts into verdicts; ``width`` is that of an image in Angstrom."""
    judged = {
        **parts,
        "relative_offset": parts["offset_angstrom"] / width,
        "relative_population": parts["population"] / parts["population"].nanmedian(),
    }
    if int(filled.sum()) < _FEWEST:
        judged |= {name: torch.full_like(parts[name], math.nan) for name in _COMPARED}
    points = torch.where(filled, 0, 2)
    reasons: list[list[str]] = [[] if there else [EMPTY] for there in filled.tolist()]
    for row in _LIMITS:
        found = torch.stack([limit.points(judged[limit.part]) for limit in row])
        points = points + found.amax(0)
        for number, index in found.nonzero().tolist():
            reasons[index].append(row[number].words.format_map({name: p[index].item() for name, p in judged.items()}))
    junk = points >= 2
    if junk[filled].float().mean() > _MOST_JUNK:
        junk = ~filled
    verdicts = tuple(VERDICTS[2 if bad else min(int(sum), 1)] for bad, sum in zip(junk.tolist(), points, strict=True))
    return Quality(parts, verdicts, tuple(map(tuple, reasons)))


def _measure(images: Float[Tensor, "n side side"], pixel_size_angstrom: float) -> dict[str, Tensor]:
    """Parts that follow from the images alone."""
    side = min(images.shape[-1], _LARGEST_SIDE)
    pixel_size_angstrom *= images.shape[-1] / side
    images = resize(images, side, 2)
    smooth = _smoothed(images)
    found = _find_objects(smooth)
    density = (images * found.central).sum((1, 2))
    beyond_rim = radius_grid(side, 2, images.device) > _RIM * side / 2
    background = _weighted_mean(smooth**2, found.free).sqrt()
    alone = images * found.window
    total = alone.sum((1, 2))
    offsets, gyration = _moments(alone)
    centred = translate(alone, -offsets)
    power = _power(centred)
    noise = _power((images - _weighted_mean(images, found.free)[:, None, None]) * found.free)
    areas = (found.window**2).sum((1, 2)) / (found.free**2).sum((1, 2)).clamp_min(1)
    oddness, nearest, similarity = _oddness(centred)
    return {
        "resolution_angstrom": pixel_size_angstrom / _finest_frequency(power - noise * areas[:, None], side),
        "resolution_with_noise_angstrom": pixel_size_angstrom / _finest_frequency(power, side),
        "density": total / total.median(),
        "radius_angstrom": gyration * pixel_size_angstrom,
        "offset_angstrom": offsets.norm(dim=1) * pixel_size_angstrom,
        "neighbours": (images * found.others).sum((1, 2)).clamp_min(0) / density,
        "cut_off": (images * found.central * beyond_rim).sum((1, 2)).clamp_min(0) / density,
        "background": background * found.central.sum((1, 2)) / density,
        "similarity": similarity,
        "oddness": oddness,
        "nearest": nearest,
    }


@dataclass(frozen=True)
class _Objects:
    """Where things are in ``(n, side, side)`` images: masks, and windows with soft edges."""

    central: Bool[Tensor, "n side side"]
    others: Bool[Tensor, "n side side"]
    window: Float[Tensor, "n side side"]  # the central object and a margin, without the others
    free: Float[Tensor, "n side side"]  # what is neither object nor rim


def _find_objects(smooth: Float[Tensor, "n side side"]) -> _Objects:
    side = smooth.shape[-1]
    radius = radius_grid(side, 2, smooth.device)
    brightest = smooth.flatten(1).quantile(0.98, dim=1)
    objects = (smooth > _OBJECT * brightest[:, None, None]) & (radius < side / 2)
    central = _central_object(smooth, objects)
    others = objects & ~central
    margin, edge = side // 16, side // 32
    window = _soft(_grown(central, margin), edge) * (1 - _soft(_grown(others, 1), 1))
    free = (1 - _soft(_grown(objects, margin), edge)) * (radius < _BACKGROUND * side / 2)
    return _Objects(central, others, window, free)


def _weighted_mean(images: Float[Tensor, "n side side"], weights: Float[Tensor, "n side side"]) -> Float[Tensor, " n"]:
    return (images * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1)


def _smoothed(images: Float[Tensor, "n side side"]) -> Float[Tensor, "n side side"]:
    frequency = radius_grid(images.shape[-1], 2, images.device) / images.shape[-1]
    return centred_inverse_fft(centred_fft(images, 2) * torch.exp(-((frequency / _SMOOTHING) ** 2) / 2), 2)


def _central_object(
    smooth: Float[Tensor, "n side side"], objects: Bool[Tensor, "n side side"]
) -> Bool[Tensor, "n side side"]:
    """Flood the object that holds the brightest density, counting less the farther it is from the middle."""
    side = smooth.shape[-1]
    weight = (1 - radius_grid(side, 2, smooth.device) / (side / 2)).clamp_min(0)
    seed = (smooth * weight * objects).flatten(1).argmax(1)
    flooded = torch.zeros_like(smooth).flatten(1).scatter(1, seed[:, None], 1.0).view_as(smooth) * objects
    while True:
        grown = _grown(flooded, 1) * objects
        if torch.equal(grown, flooded):
            return flooded > 0
        flooded = grown


def _grown(masks: Tensor, pixels: int) -> Float[Tensor, "n side side"]:
    return torch.nn.functional.max_pool2d(masks.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0]


def _soft(masks: Float[Tensor, "n side side"], pixels: int) -> Float[Tensor, "n side side"]:
    return torch.nn.functional.avg_pool2d(masks[:, None], 2 * pixels + 1, 1, pixels)[:, 0]


def _moments(images: Float[Tensor, "n side side"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Centre of mass ``[x, y]`` from the origin, and radius of gyration about it, of what is positive; in pixels."""
    side = images.shape[-1]
    weights = images.clamp_min(0)
    weights = weights / weights.sum((1, 2), keepdim=True).clamp_min(_TINY)
    axis = torch.arange(side, device=images.device, dtype=images.dtype) - side // 2
    x, y = (weights.sum(1) * axis).sum(1), (weights.sum(2) * axis).sum(1)
    square = (weights * radius_grid(side, 2, images.device) ** 2).sum((1, 2)) - x**2 - y**2
    return torch.stack([x, y], dim=1), square.clamp_min(0).sqrt()


def _power(images: Float[Tensor, "n side side"]) -> Float[Tensor, "n shells"]:
    """Power of every shell up to half the side, the sum over its samples."""
    side = images.shape[-1]
    spectra = centred_fft(images, 2).abs().square().flatten(1)
    return shell_sum(spectra, shell_index(side, 2, images.device).flatten(), side // 2 + 1)


def _finest_frequency(power: Float[Tensor, "n shells"], side: int) -> Float[Tensor, " n"]:
    """Cycles per pixel beyond which only the part ``_BEYOND`` of the power lies."""
    beyond = power.flip(1).cumsum(1).flip(1) / power.clamp_min(0).sum(1, keepdim=True).clamp_min(_TINY)
    shells = torch.arange(power.shape[1], device=power.device)
    last = ((beyond > _BEYOND) * shells).amax(1).clamp(max=power.shape[1] - 2)
    # between two shells by a straight line in the logarithm; a shell begins half a sample before its radius
    here, there = (beyond.gather(1, (last + k)[:, None])[:, 0].clamp_min(1e-6).log() for k in (0, 1))
    crossing = last - 0.5 + ((here - math.log(_BEYOND)) / (here - there).clamp_min(1e-6)).clamp(0, 1)
    return crossing.clamp_min(0.5) / side


def _oddness(
    images: Float[Tensor, "n side side"],
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Distance to the third most similar other image in units of the median; the most similar; and the correlation."""
    count = len(images)
    if count < 2:
        nothing = torch.full((count,), math.nan)
        return nothing, torch.zeros(count, dtype=torch.long), nothing
    found = similarities(images).fill_diagonal_(-math.inf).topk(min(_LIKE, count - 1), dim=1)
    similarity = found.values[:, -1]
    distance = 1 - similarity
    return distance / distance.median().clamp_min(_SMALLEST_DISTANCE), found.indices[:, 0], similarity


def similarities(images: Float[Tensor, "n side side"]) -> Float[Tensor, "n n"]:
    """Highest correlation of centred images over rotations in the plane and flips, at low resolution.

    Polar samples, weighted by the square root of the radius, turn rotations into shifts, which all come out of one
    Fourier transform; a flip is the complex conjugate.
    """
    small = resize(images, min(images.shape[-1], _COMPARED_SIDE), 2)
    side = small.shape[-1]
    radii = torch.arange(0.5, side // 2, device=images.device)
    angles = torch.arange(_ANGLES, device=images.device) * (2 * math.pi / _ANGLES)
    places = radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], dim=-1)
    grid = ((places + side // 2) * (2 / (side - 1)) - 1).expand(len(images), -1, -1, -1)
    samples = torch.nn.functional.grid_sample(small[:, None], grid, align_corners=True)[:, 0] * radii[:, None].sqrt()
    spectra = torch.fft.rfft(samples / samples.flatten(1).norm(dim=1).clamp_min(_TINY).view(-1, 1, 1))
    rows = []
    for spectrum in spectra:  # one row at a time bounds the memory
        products = torch.stack([torch.einsum("ra,jra->ja", spectrum, other) for other in (spectra.conj(), spectra)])
        rows.append(torch.fft.irfft(products, n=_ANGLES).amax((0, 2)))
    return torch.stack(rows)
