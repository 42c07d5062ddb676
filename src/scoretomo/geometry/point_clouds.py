"""Point clouds: into the cube from -1 to 1, to fewer points, parts of them, and the matrices that turn them."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import InputError
from .rotations import random_rotations

# A component of a mixture with one covariance gives a point next to nothing unless it is among those nearest to it.
_NEAREST_COMPONENTS = 16
# As scikit-learn's GaussianMixture: added to the variances, and the gain per point (nats) that ends the iterations.
_LEAST_VARIANCE, _LEAST_GAIN = 1e-6, 1e-3
_KMEANS_ITERATIONS, _MIXTURE_ITERATIONS = 20, 50


def normalise(
    points: Float[Tensor, "*batch n 3"],
) -> tuple[Float[Tensor, "*batch n 3"], Float[Tensor, "*batch 3"], Float[Tensor, "*batch"]]:
    """Centre each cloud at its mean and scale it into the cube from -1 to 1.

    Returns
    -------
    normalised
        ``(..., n, 3)``: mean 0, largest absolute coordinate 1.
    centre
        ``(..., 3)``: the mean.
    unit
        ``(...)``: the length that 1 stands for. ``normalised * unit + centre`` are the points.

    Raises
    ------
    InputError
        Points that are not finite, or that all lie in one place.
    """
    if not torch.isfinite(points).all():
        raise InputError("a point cloud holds NaN or infinite coordinates")
    centre = points.mean(-2)
    centred = points - centre[..., None, :]
    unit = centred.abs().amax((-2, -1))
    if not (unit > 0).all():
        raise InputError("all points of a cloud are in one place, so that it has no size")
    return centred / unit[..., None, None], centre, unit


def mixture_means(
    points: Float[Tensor, "n 3"],
    count: int,
    *,
    weights: Float[Tensor, " n"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "count 3"]:
    """Reduce a cloud to the means of a Gaussian mixture with one covariance for all components (002, section 4.1).

    It is what scikit-learn's ``GaussianMixture(covariance_type="tied")`` fits, several times faster: k-means begins
    from few iterations, and each point is shared by the components that are nearest in the metric of the covariance.

    Parameters
    ----------
    points
        ``(n, 3)``, in any unit; as many as ``count`` or more.
    count
        Number of components.
    weights
        ``(n,)``, not negative: how much each point counts, such as the mass of an atom; None: all the same.

    Raises
    ------
    InputError
        Fewer different points than ``count``, or what :func:`normalise` refuses.
    """
    scaled, centre, unit = normalise(points.double())
    positions = scaled.cpu().numpy()
    shares = np.ones(len(points)) if weights is None else weights.double().cpu().numpy()
    centres, _ = _kmeans(positions, shares, count, generator)
    means = _tied_mixture(positions, shares / shares.sum(), centres)
    return (torch.from_numpy(means).to(scaled) * unit + centre).to(points.dtype)


def _kmeans(
    positions: np.ndarray, weights: np.ndarray, count: int, generator: torch.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and the cluster of each point, after k-means++ and a few iterations."""
    from sklearn.cluster import KMeans, kmeans_plusplus

    different = len(np.unique(positions[weights > 0], axis=0))
    if not 1 <= count <= different:
        raise InputError(f"{different} different points cannot be reduced to {count}; ask for 1 to {different}")
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    start, _ = kmeans_plusplus(positions, count, sample_weight=weights, random_state=seed)
    fit = KMeans(count, init=start, n_init=1, max_iter=_KMEANS_ITERATIONS).fit(positions, sample_weight=weights)
    return fit.cluster_centers_, fit.labels_


def _tied_mixture(positions: np.ndarray, shares: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Means after expectation maximisation, where ``shares`` sum to 1 and ``means`` are those to begin from."""
    from scipy.spatial import cKDTree

    nearest = cKDTree(means).query(positions)[1]
    priors = np.bincount(nearest, shares, len(means))
    covariance = _covariance(positions - means[nearest], shares)
    total = positions.T * shares @ positions
    before = -np.inf
    for _ in range(_MIXTURE_ITERATIONS):
        whiten = np.linalg.cholesky(np.linalg.inv(covariance))
        tree = cKDTree(means @ whiten)
        distances, near = tree.query(positions @ whiten, k=min(_NEAREST_COMPONENTS, len(means)))
        distances, near = distances.reshape(len(positions), -1), near.reshape(len(positions), -1)
        # a component that has lost all its points keeps its place
        density = np.maximum(priors, 1e-12)[near] * np.exp(-0.5 * (distances**2 - distances[:, :1] ** 2))
        evidence = density.sum(1)
        gained = shares @ (np.log(evidence) - 0.5 * distances[:, 0] ** 2) + np.log(np.linalg.det(whiten))
        belongs = density * (shares / evidence)[:, None]
        priors = np.bincount(near.ravel(), belongs.ravel(), len(means))
        sums = [np.bincount(near.ravel(), (belongs * axis[:, None]).ravel(), len(means)) for axis in positions.T]
        means = np.where(priors[:, None] > 1e-12, np.stack(sums, 1) / np.maximum(priors, 1e-12)[:, None], means)
        covariance = total - means.T * priors @ means + _LEAST_VARIANCE * np.eye(3)
        if gained - before < _LEAST_GAIN:
            break
        before = gained
    return means


def _covariance(deviations: np.ndarray, shares: np.ndarray) -> np.ndarray:
    covariance: np.ndarray = deviations.T * shares @ deviations + _LEAST_VARIANCE * np.eye(3)
    return covariance


def subunit(
    points: Float[Tensor, "n 3"], clusters: int, *, generator: torch.Generator | None = None
) -> Bool[Tensor, " n"]:
    """Mark a part of a cloud: one cluster of k-means, chosen at random (002, section 4.2).

    Parameters
    ----------
    points
        ``(n, 3)``.
    clusters
        Number of clusters; 4 makes parts of about a quarter of the points.

    Raises
    ------
    InputError
        Fewer different points than clusters, or what :func:`normalise` refuses.
    """
    positions = normalise(points.double())[0].cpu().numpy()
    _, labels = _kmeans(positions, np.ones(len(points)), clusters, generator)
    chosen = int(torch.randint(clusters, (), generator=generator))
    return torch.from_numpy(labels == chosen).to(points.device)


def random_subsets(
    points: Float[Tensor, "*batch n 3"], count: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*batch count 3"]:
    """Draw ``count`` points of each cloud, none twice, in random order.

    Raises
    ------
    InputError
        More points are asked for than there are.
    """
    if not 1 <= count <= points.shape[-2]:
        raise InputError(f"cannot draw {count} of {points.shape[-2]} points; ask for 1 to {points.shape[-2]}")
    source = generator.device if generator is not None else points.device
    keys = torch.rand(points.shape[:-1], generator=generator, device=source).to(points.device)
    chosen = keys.argsort(-1)[..., :count, None]
    return points.gather(-2, chosen.expand(*chosen.shape[:-1], 3))


def random_orthogonal_matrices(
    *shape: int,
    handed: bool,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "*shape 3 3"]:
    """Draw orthogonal matrices uniformly: of SO(3) where mirror images differ (``handed``), of O(3) otherwise."""
    rotations = random_rotations(*shape, generator=generator, device=device)
    if handed:
        return rotations
    source = generator.device if generator is not None else device
    # minus the identity is the one improper matrix that needs no axis
    mirrored = torch.rand(shape, generator=generator, device=source).to(device) < 0.5
    return torch.where(mirrored[..., None, None], -rotations, rotations)
