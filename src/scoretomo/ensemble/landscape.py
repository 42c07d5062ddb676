"""Motion of a set of volumes in one frame: mean and variance maps, principal components, and which are more than noise.

Each reconstruction has an error of its own, spread over far more voxels than the motion. Volumes are therefore compared
after :class:`Metric` has weighted shells and voxels by how much of their variance is signal, as seeds of one image (or,
without seeds, nearest neighbours in the set) agree there. Components are fitted to the reliable volumes only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import InputError
from ..limits import check_limits
from .metric import Metric, Seeds, fit_metric
from .noise_floor import noise_floor


@dataclass(frozen=True)
class LandscapeConfig:
    """What is computed.

    Attributes
    ----------
    components
        Principal components that are kept, if there are as many.
    finest_shell
        Highest Fourier shell at which volumes are compared; lower where they do not agree that far.
    surrogates
        Sets of noise of the same spectrum that the parallel analysis draws.
    quantile
        Of the surrogates' largest eigenvalue, which an eigenvalue must exceed to be more than noise.
    least_seed_correlation
        Coordinates of the same image from different seeds must correlate as much in a component that counts: at 0.5
        half of its variance is reproduced.
    core_level
        Density of the core's surface, as a part of what the brightest thousandth of the mean reaches.
    core_deviation
        Greatest standard deviation in the core, as a part of the mean there.
    """

    components: int = 10
    finest_shell: int = 24
    surrogates: int = 20
    quantile: float = 0.95
    least_seed_correlation: float = 0.5
    core_level: float = 0.35
    core_deviation: float = 0.25

    def __post_init__(self) -> None:
        check_limits(
            self,
            components=(1, 10**3),
            finest_shell=(1, 10**5),
            surrogates=(1, 10**5),
            quantile=(0.0, 1.0),
            least_seed_correlation=(-1.0, 1.0),
            core_level=(0.0, 1.0),
            core_deviation=(0.0, 1e3),
        )


@dataclass(frozen=True)
class Landscape:
    """A set of volumes as a mean and coordinates along principal components.

    Volume ``i`` is about ``mean + sum over j of coordinates[i, j] * components[j]``.

    Attributes
    ----------
    mean, variance
        ``(s, s, s)``, over the reliable volumes.
    core
        ``(s, s, s)``, density that hardly varies: the rigid core.
    components
        ``(c, s, s, s)``, change of density for one standard deviation of the coordinate.
    coordinates
        ``(n, c)`` of all volumes in standard deviations of the reliable ones; the others are projected, not fitted.
    explained_variance
        ``(c,)``, in the metric's units.
    explained_share
        ``(c,)``, of the whole variance under the metric.
    noise_floor
        ``(c,)``, variance that noise without a common direction would reach as the next component.
    seed_correlation
        ``(c,)``, correlation of the coordinates of the same images between seeds; None without enough seeds.
    significant
        ``(c,)``, whether the component is more than noise.
    seed_coordinates
        ``(k, n, c)`` of the further seeds' volumes; NaN where they are not reliable; None without seeds.
    metric
        How volumes were compared.
    """

    mean: Float[Tensor, "s s s"]
    variance: Float[Tensor, "s s s"]
    core: Bool[Tensor, "s s s"]
    components: Float[Tensor, "c s s s"]
    coordinates: Float[Tensor, "n c"]
    explained_variance: Float[Tensor, " c"]
    explained_share: Float[Tensor, " c"]
    noise_floor: Float[Tensor, " c"]
    seed_correlation: Float[Tensor, " c"] | None
    significant: Bool[Tensor, " c"]
    seed_coordinates: Float[Tensor, "k n c"] | None
    metric: Metric

    @property
    def positions(self) -> Float[Tensor, "n d"]:
        """Places of all volumes in the space of the significant components, where distances are those of the metric.

        Where no component is significant these are the places along the first.
        """
        return self._place(self.coordinates)

    @property
    def seed_positions(self) -> Float[Tensor, "k n d"] | None:
        """Places of the further seeds' volumes, as :attr:`positions`; None without seeds."""
        return None if self.seed_coordinates is None else self._place(self.seed_coordinates)

    @property
    def spread(self) -> Float[Tensor, " n"] | None:
        """Uncertainty of each volume's place: standard deviation over the reliable seeds of its image.

        As a part of that of the whole set; NaN where an image has one reliable seed, None without seeds.
        """
        seeds = self.seed_positions
        if seeds is None:
            return None
        places = torch.cat([self.positions[None], seeds])
        count = (~places[..., 0].isnan()).sum(0)
        squares = (places - places.nanmean(0)).square().nansum((0, 2)) / (count - 1)
        whole = self.explained_variance[self._chosen].sum()
        return torch.where(count > 1, (squares / whole).sqrt(), torch.nan)

    @property
    def _chosen(self) -> Bool[Tensor, " c"]:
        if self.significant.any():
            return self.significant
        return torch.arange(len(self.significant), device=self.significant.device) == 0

    def _place(self, coordinates: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch d"]:
        return (coordinates * self.explained_variance.sqrt())[..., self._chosen]


def analyse_landscape(
    volumes: Float[Tensor, "n s s s"],
    reliable: Bool[Tensor, " n"],
    config: LandscapeConfig = LandscapeConfig(),
    *,
    seeds: Seeds | None = None,
    generator: torch.Generator | None = None,
) -> Landscape:
    """Find how a set of volumes varies: principal component analysis of the reliable ones.

    Parameters
    ----------
    volumes
        ``(n, s, s, s)``, axes ``[z, y, x]``, in one frame, of one hand and on one intensity scale.
    reliable
        ``(n,)``, which volumes everything is fitted to.
    config
        What is computed.
    seeds
        Further reconstructions of the same images in the same frame: they say how much of the variance is error.
    generator
        Of the surrogates of the parallel analysis.

    Raises
    ------
    InputError
        Fewer than four reliable volumes, or none that differ.
    """
    if reliable.sum() < 4:
        raise InputError(
            f"a landscape needs at least 4 reliable volumes, not {int(reliable.sum())}; reconstruct more images"
        )
    chosen = volumes[reliable]
    mean, variance = chosen.mean(0), chosen.var(0)
    metric = fit_metric(volumes, reliable, seeds, config.finest_shell)
    fitted = metric(chosen)
    values, axes = _principal_axes(fitted, config.components)
    total = fitted.square().sum() / len(fitted)
    coordinates = metric(volumes) @ axes.T / values.sqrt()
    floor = noise_floor(fitted, values, surrogates=config.surrogates, quantile=config.quantile, generator=generator)
    significant = values > floor
    seed_coordinates, seed_correlation = None, None
    if seeds is not None:
        projected = torch.stack([metric(others) @ axes.T / values.sqrt() for others in seeds.volumes])
        seed_coordinates = torch.where(seeds.reliable[..., None], projected, torch.nan)
    if seed_coordinates is not None and metric.from_seeds:
        seed_correlation = _pooled_correlation(coordinates[reliable], seed_coordinates[:, reliable])
        significant &= seed_correlation >= config.least_seed_correlation
    # the regression of density on the coordinates, which sum to 0: components have what the metric leaves out
    components = torch.einsum("nc,nzyx->czyx", coordinates[reliable] / len(chosen), chosen)
    return Landscape(
        mean=mean,
        variance=variance,
        core=_rigid_core(mean, variance, config),
        components=components,
        coordinates=coordinates,
        explained_variance=values,
        explained_share=values / total,
        noise_floor=floor,
        seed_correlation=seed_correlation,
        significant=significant,
        seed_coordinates=seed_coordinates,
        metric=metric,
    )


def volumes_along_component(
    volumes: Float[Tensor, "n s s s"],
    reliable: Bool[Tensor, " n"],
    coordinates: Float[Tensor, " n"],
    places: Float[Tensor, " m"],
) -> Float[Tensor, "m s s s"]:
    """Average real volumes along one coordinate, with Gaussian weights as wide as the places are apart.

    Unlike ``mean + place * component``, which moves density along straight lines, the averages follow a motion on an
    arc, and where there is no volume there is nothing to see: ``places`` beyond the volumes repeat the last ones.

    Parameters
    ----------
    volumes, reliable
        As for :func:`analyse_landscape`.
    coordinates
        ``(n,)``, a column of :attr:`Landscape.coordinates`.
    places
        ``(m,)``, at least two, in standard deviations.
    """
    width = (places[-1] - places[0]).abs() / (len(places) - 1) / 2
    exponent = -0.5 * ((coordinates[reliable] - places[:, None]) / width) ** 2
    return torch.einsum("mn,nzyx->mzyx", exponent.softmax(1), volumes[reliable])


def _principal_axes(fitted: Float[Tensor, "n p"], most: int) -> tuple[Float[Tensor, " c"], Float[Tensor, "c p"]]:
    """Variances and unit axes of the principal components, by the Gram matrix of the few volumes."""
    gram = fitted.double() @ fitted.double().T / len(fitted)
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    kept = (values > 1e-9 * gram.trace())[: len(fitted) - 1]
    if not kept.any():
        raise InputError("the reliable volumes are all the same; there is no motion to find")
    values, vectors = values[: len(kept)][kept], vectors[:, : len(kept)][:, kept]
    # an eigenvector has no sign: the volume farthest along a component is on its positive side
    farthest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    axes = ((vectors * farthest.sign()).T @ fitted.double()) / (values * len(fitted)).sqrt()[:, None]
    return values.to(fitted), axes.to(fitted)


def _pooled_correlation(own: Float[Tensor, "n c"], others: Float[Tensor, "k n c"]) -> Float[Tensor, " c"]:
    """Correlate the coordinates of images with those of their other seeds, all pairs together."""
    pairs = ~others[..., 0].isnan()
    first, second = own.expand_as(others)[pairs], others[pairs]
    first, second = first - first.mean(0), second - second.mean(0)
    return torch.nn.functional.cosine_similarity(first, second, dim=0)


def _rigid_core(
    mean: Float[Tensor, "s s s"], variance: Float[Tensor, "s s s"], config: LandscapeConfig
) -> Bool[Tensor, "s s s"]:
    brightest = mean.flatten().topk(max(1, mean.numel() // 1000)).values.min()
    core: Tensor = (mean >= config.core_level * brightest) & (variance.sqrt() <= config.core_deviation * mean)
    return core
