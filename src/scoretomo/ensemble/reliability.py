"""Evidence, without a truth, that volumes are right: what each says of itself, of its image, and of the others.

A volume that was made for one class average always explains that image; what tells right from wrong is what the image
did not fix. It is asked whether independent repeats come to the same volume, whether the volumes of other images that
show the same view agree, whether its projections look like class averages to the denoiser, whether class averages from
other directions match it, how well it explains its own image, and whether it is sharp, dense and large as others are.
Each answer is weak; verdict.py weighs them up.

Volumes are compared with one another and with images on a grid of 32 voxels at most: what is right or wrong shows at
low resolution, and the cost hardly depends on the box.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import InputError
from ..diffusion.edm import Denoiser
from ..evaluation.fsc import area_under_curve
from ..imaging.fourier import centred_fft, radius_grid, resize, shell_index, shell_sum
from ..imaging.projection import project
from ..imaging.resampling import rotate_volumes
from ..limits import check_limits
from ..methods.pose_search import PoseSearchConfig
from .agreement import agreement_in_frame
from .matches import Matches, match, sharpness
from .score_consistency import ScoreConsistency, hemisphere_views

# Side of the grid on which volumes are compared and matched.
_COMPARED_SIDE = 32
# A class average counts as matched where the match is among this part of the best of all volumes.
_BEST_PART = 0.1
# Another volume explains an image as well if its correlation is less by no more than this.
_AS_WELL = 0.02
# A direction is covered by matched class averages that see the volume from within this angle.
_COVERED_DEGREES = 20.0


@dataclass(frozen=True)
class ReliabilityConfig:
    """How much evidence is gathered.

    Attributes
    ----------
    views
        Projections of each volume that the denoiser judges, evenly over the hemisphere: the denoiser does not
        tell the other half, whose projections are mirror images.
    sigmas
        Noise levels at which it does.
    class_averages
        Class averages, evenly over the stack, that it judges too, for comparison.
    neighbours
        Volumes of other images, those that match an image best, that its own are compared with.
    matching
        How volumes are found in class averages.

    Raises
    ------
    InputError
        Nothing to judge by.
    """

    views: int = 32
    sigmas: tuple[float, ...] = (0.2, 0.4)
    class_averages: int = 128
    neighbours: int = 36
    matching: PoseSearchConfig = field(
        default_factory=lambda: PoseSearchConfig(refinements=2, kept=1, low_radius=8.0, high_radius=14.0)
    )

    def __post_init__(self) -> None:
        if min(self.views, self.class_averages, self.neighbours) < 1 or not self.sigmas or min(self.sigmas) <= 0:
            raise InputError(
                "reliability needs 1 or more views, class averages and neighbours, and noise levels above 0"
            )
        check_limits(self, views=(1, 10**4), sigmas=(1e-6, 1e3), class_averages=(1, 10**6), neighbours=(1, 10**6))


@dataclass(frozen=True)
class Parts:
    """What speaks for or against each volume, ``(k, n)``: k seeds, n images. NaN where there is no such evidence.

    Attributes
    ----------
    seed_agreement
        Mean area under the FSC with the volumes of the same image from other seeds.
    neighbour_agreement
        The same with the volumes of other images that match its image best, in the poses in which they match; upper
        quartile.
    score_excess
        By how much the denoiser changes its projections more than class averages, in standard deviations of these.
    worst_view
        The same for the tenth of the views that it changes most.
    base_correlation
        Area under the Fourier ring correlation of its own image and the projection that should be it.
    base_support
        Share of the volumes of other images that explain its image as well, within a correlation of 0.02.
    match
        Correlation r with class averages in the best pose, upper decile over all others than its own, as
        ``-log(1 - r)``: 3 is a correlation of 0.95, 4.6 of 0.99.
    coverage
        Share of those class averages that it matches better than nine tenths of all volumes do.
    sphere_coverage
        Share of viewing directions from within 20 degrees of which one of these sees it.
    sharpness
        Logarithm of the share of its power at high frequency.
    contrast
        Logarithm of the kurtosis of its density: high where solid parts stand in empty space, low for a blob.
    density
        Logarithm of its standard deviation, in units of its mean.
    radius
        Radius of gyration as a part of the side.
    """

    seed_agreement: Float[Tensor, "k n"]
    neighbour_agreement: Float[Tensor, "k n"]
    score_excess: Float[Tensor, "k n"]
    worst_view: Float[Tensor, "k n"]
    base_correlation: Float[Tensor, "k n"]
    base_support: Float[Tensor, "k n"]
    match: Float[Tensor, "k n"]
    coverage: Float[Tensor, "k n"]
    sphere_coverage: Float[Tensor, "k n"]
    sharpness: Float[Tensor, "k n"]
    contrast: Float[Tensor, "k n"]
    density: Float[Tensor, "k n"]
    radius: Float[Tensor, "k n"]

    @classmethod
    def names(cls) -> list[str]:
        """Names of the parts, in order."""
        return [each.name for each in fields(cls)]


@dataclass(frozen=True)
class Evidence:
    """All that was found out about a set of volumes.

    Attributes
    ----------
    parts
        One number for each volume and question.
    directions
        ``(m, 3)``, xyz in the frame of each volume, from which its projections were judged.
    view_excess
        ``(k, n, m)``, by how much the denoiser changes each of them more than class averages, in standard deviations.
    seed_fsc
        ``(k, k, n, bins)``, FSC between the volumes of an image from each two seeds; 1 with itself.
    """

    parts: Parts
    directions: Float[Tensor, "m 3"]
    view_excess: Float[Tensor, "k n m"]
    seed_fsc: Float[Tensor, "k k n bins"]


@dataclass(frozen=True)
class EvidenceStep:
    """How far the gathering is; the evidence comes with the last step."""

    done: int
    total: int
    evidence: Evidence | None = None


def gather_evidence(
    volumes: Float[Tensor, "k n s s s"],
    images: Float[Tensor, "m t t"],
    indices: Sequence[int],
    denoiser: Denoiser,
    config: ReliabilityConfig | None = None,
    *,
    generator: torch.Generator,
    mask_radius: float | None = None,
) -> Evidence:
    """Judge volumes without a truth.

    Parameters
    ----------
    volumes
        ``(k, n, s, s, s)``: of k seeds and n images, each in the frame of its image, on the grid of the images. One
        seed is enough; then there is no agreement of seeds.
    images
        ``(m, s, s)``, all class averages.
    indices
        Which images the volumes were made for.
    denoiser
        ``(noisy (b, s, s), sigma (b,)) -> clean (b, s, s)``.
    config
        Defaults to ``ReliabilityConfig()``.
    generator
        Makes the noise that is removed again, the same for all volumes.
    mask_radius
        Radius in pixels beyond which the images are 0; half the side if not given.
    """
    *_, last = gather_evidence_progressive(
        volumes, images, indices, denoiser, config, generator=generator, mask_radius=mask_radius
    )
    assert last.evidence is not None
    return last.evidence


def gather_evidence_progressive(
    volumes: Float[Tensor, "k n s s s"],
    images: Float[Tensor, "m t t"],
    indices: Sequence[int],
    denoiser: Denoiser,
    config: ReliabilityConfig | None = None,
    *,
    generator: torch.Generator,
    mask_radius: float | None = None,
) -> Iterator[EvidenceStep]:
    """Do the work of :func:`gather_evidence` volume by volume; its last step has the evidence.

    Raises
    ------
    InputError
        Not one index for each volume of a seed, an image twice, or one that is not there; other grids.
    """
    _refuse_misfits(volumes, images, indices)
    config = config or ReliabilityConfig()
    seeds, count = volumes.shape[:2]
    total = seeds * count * 2 + count
    rotations = hemisphere_views(config.views).to(images)
    residuals = []
    averages = images[torch.linspace(0, len(images) - 1, min(len(images), config.class_averages)).long()]
    judge = ScoreConsistency(averages, denoiser, views=config.views, sigmas=config.sigmas, generator=generator)
    for done, volume in enumerate(volumes.flatten(0, 1)):
        projections = project(volume[None], rotations[None], None if mask_radius is None else mask_radius + 2)[0]
        residuals.append(judge.excess(projections))
        yield EvidenceStep(done + 1, total)
    # one spectrum at a time: a set of volumes may fill the memory
    small = torch.stack([resize(volume, min(len(volume), _COMPARED_SIDE), 3) for volume in volumes.flatten(0, 1)])
    small_images = resize(images, small.shape[-1], 2)
    found = []
    for done, volume in enumerate(small, start=seeds * count):
        found.append(match(volume[None], small_images, config.matching))
        yield EvidenceStep(done + 1, total)
    matches = Matches(*(torch.cat([getattr(each, name.name) for each in found]) for name in fields(Matches)))
    neighbours = []
    for done, image in enumerate(range(count), start=2 * seeds * count):
        neighbours.append(neighbour_agreement(small, matches, indices, image, seeds, config.neighbours))
        yield EvidenceStep(done + 1, total)
    view_excess = torch.stack(residuals).view(seeds, count, config.views)
    seed_fsc = agreement_of_seeds(volumes)
    parts = Parts(
        seed_agreement=_mean_over_others(area_under_curve(seed_fsc)),
        neighbour_agreement=torch.stack(neighbours, dim=1),
        score_excess=view_excess.mean(-1),
        worst_view=view_excess.quantile(0.9, dim=-1),
        **match_parts(matches, indices, seeds),
        **own_parts(volumes, images[list(indices)]),
    )
    yield EvidenceStep(total, total, Evidence(parts, rotations[:, 2], view_excess, seed_fsc))


def agreement_of_seeds(volumes: Float[Tensor, "k n s s s"]) -> Float[Tensor, "k k n bins"]:
    """FSC between the volumes of an image from each two seeds, up to the hand and a shift along the view."""
    seeds, count, side = volumes.shape[:3]
    fsc = volumes.new_ones(seeds, seeds, count, side // 2 + 1)
    for image in range(count):
        for seed in range(seeds - 1):
            found = agreement_in_frame(volumes[seed, image][None], volumes[seed + 1 :, image]).fsc[0]
            fsc[seed, seed + 1 :, image] = fsc[seed + 1 :, seed, image] = found
    return fsc


def neighbour_agreement(
    volumes: Float[Tensor, "v s s s"],
    matches: Matches,
    indices: Sequence[int],
    image: int,
    seeds: int,
    most: int,
) -> Float[Tensor, " seeds"]:
    """Compare the volumes of an image with those of other images that match it best.

    These show the same view, but other images decided what they look like from the sides. Taken are ``most``, or a
    fifth of all if that is less. A view may be shared by conformations that differ, so that not all of them need to
    agree: the upper quartile counts.

    Parameters
    ----------
    volumes
        ``(seeds * n, s, s, s)``, seed by seed.
    matches
        Of all volumes in all class averages.
    image
        Which of the ``indices``.

    Returns
    -------
    Tensor
        ``(seeds,)``, upper quartile of the area under the FSC; NaN where there is no other image.
    """
    count = len(indices)
    own = torch.arange(seeds, device=volumes.device) * count + image
    scores = matches.scores[:, indices[image]].clone()
    scores[own] = -torch.inf
    taken = min(most, math.ceil(len(volumes) / 5), len(volumes) - seeds)
    if taken < 1:
        return volumes.new_full((seeds,), torch.nan)
    nearest = scores.topk(taken).indices
    turned = rotate_volumes(volumes[nearest], matches.rotations[nearest, indices[image]])
    return agreement_in_frame(volumes[own], turned).area.quantile(0.75, dim=1)


def match_parts(matches: Matches, indices: Sequence[int], seeds: int) -> dict[str, Float[Tensor, "k n"]]:
    """Count how far class averages support each volume, and the volumes of other images its own."""
    count, chosen = len(indices), torch.as_tensor(indices, device=matches.scores.device)
    scores = matches.scores
    rows = torch.arange(len(scores), device=scores.device)
    own_image = chosen.repeat(seeds)
    own = scores[rows, own_image]
    others = scores.clone()
    others[rows, own_image] = torch.nan  # a volume was made to match its own image
    level = others.nanquantile(1 - _BEST_PART, dim=0)
    matched = others > level
    compared = (~others.isnan()).sum(1).clamp(min=1)
    by_others = others[:, own_image].T  # (volume, other volume)
    as_well = (by_others > own[:, None] - _AS_WELL).sum(1) / (~by_others.isnan()).sum(1).clamp(min=1)
    found = {
        "base_support": as_well,
        "match": -(1 - others.nanquantile(1 - _BEST_PART, dim=1)).clamp(min=1e-6).log(),
        "coverage": matched.sum(1) / compared,
        "sphere_coverage": _covered(matches.rotations[..., 2, :], matched),
    }
    return {name: values.view(seeds, count) for name, values in found.items()}


def own_parts(volumes: Float[Tensor, "k n s s s"], base_images: Float[Tensor, "n s s"]) -> dict[str, Tensor]:
    """Measure what a volume shows by itself, and beside its own image."""
    side = volumes.shape[-1]
    radius = radius_grid(side, 3, volumes.device)
    inside = radius <= side / 2
    squared = radius[inside] ** 2
    rows = []
    for volume in volumes.flatten(0, 1):
        density = volume[inside]
        centred = density - density.mean()
        variance = centred.square().mean().clamp(min=1e-20)
        mass = density.clamp(min=0)
        total = mass.sum().clamp(min=1e-20)
        contrast = (centred.pow(4).mean() / variance**2).clamp(min=1e-20).log()
        rows.append(
            torch.stack([contrast, (variance.sqrt() * len(density) / total).log(), (mass @ squared / total).sqrt()])
        )
    contrast, density, gyration = torch.stack(rows).T.unflatten(1, volumes.shape[:2])
    return {
        "base_correlation": ring_correlation_area(volumes.sum(2), base_images.expand(len(volumes), -1, -1, -1)),
        "sharpness": sharpness(volumes.flatten(0, 1)).clamp(min=1e-6).log().view(volumes.shape[:2]),
        "contrast": contrast,
        "density": density,
        "radius": gyration / side,
    }


def ring_correlation_area(
    first: Float[Tensor, "*batch s s"], second: Float[Tensor, "*batch s s"]
) -> Float[Tensor, "*batch"]:
    """Area under the Fourier ring correlation of images, 1 is perfect."""
    side = first.shape[-1]
    rings = shell_index(side, 2, first.device).flatten()
    spectra = [centred_fft(images, 2).flatten(-2) for images in (first, second)]
    cross = shell_sum((spectra[0] * spectra[1].conj()).real, rings, side // 2 + 1)
    power = [shell_sum(each.abs().square(), rings, side // 2 + 1).sqrt() for each in spectra]
    norm = power[0] * power[1]
    return area_under_curve(torch.where(norm > 0, cross / norm.clamp(min=torch.finfo(norm.dtype).tiny), 0.0))


def _mean_over_others(areas: Float[Tensor, "k k n"]) -> Float[Tensor, "k n"]:
    """Mean agreement with the other seeds; NaN if there is one seed only."""
    seeds = len(areas)
    if seeds == 1:
        return torch.full_like(areas[0], torch.nan)
    return (areas.sum(1) - areas.diagonal().T) / (seeds - 1)


def _covered(directions: Float[Tensor, "v m 3"], matched: Bool[Tensor, "v m"]) -> Float[Tensor, " v"]:
    """Share of the hemisphere within some degrees of a direction that matched; a view and its opposite are one."""
    sphere = hemisphere_views(96)[:, 2].to(directions)
    least = math.cos(math.radians(_COVERED_DEGREES))
    near = torch.einsum("vmi,di->vmd", directions, sphere).abs() >= least
    return (near & matched[..., None]).any(1).float().mean(1)


def _refuse_misfits(volumes: Tensor, images: Tensor, indices: Sequence[int]) -> None:
    if volumes.shape[-1] != images.shape[-1]:
        raise InputError(
            f"volumes have a side of {volumes.shape[-1]}, images one of {images.shape[-1]}; bring the volumes to the "
            "grid of the images first"
        )
    if len(indices) != volumes.shape[1] or len(set(indices)) != len(indices):
        raise InputError(f"{volumes.shape[1]} volumes of a seed need as many different images, not {list(indices)}")
    wrong = [index for index in indices if not 0 <= index < len(images)]
    if wrong:
        raise InputError(f"there is no image {wrong[0]} among {len(images)}")
