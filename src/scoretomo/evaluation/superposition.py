"""Superposition of unlabelled point clouds: scaled by the radius of gyration, then moved rigidly.

Nothing says which point belongs to which, so the kernel correlation is maximised (Tsin and Kanade 2004): every point
of one cloud counts every point of the other by a Gaussian of their distance. For rigid moves this is the overlap of two
densities with a Gaussian at every point. A wide kernel makes the search over SO(3) sure to find the right hill; damped
Newton steps climb it while the kernel narrows. Inside, lengths are in radii of gyration.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datatypes import InputError
from ..geometry.grids import so3_grid
from ..geometry.rotations import from_rotation_vectors, mirror_matrix

# Points that are turned at once in the search, three floats each: about 6 MB, which stays near the cache.
_POINTS_AT_ONCE = 2**19
# Distance from the centre beyond which points do not count in the search; only strays are farther away.
_REACH = 4.0


@dataclass(frozen=True)
class SuperpositionConfig:
    """How far the search goes.

    Attributes
    ----------
    grid_order
        Order of the grid of rotations, :func:`scoretomo.geometry.grids.so3_grid`: 2 is a spacing of 15 degrees.
    widths
        Standard deviations of the kernels, in radii of gyration: that of the search and of the first refinement, then
        narrower ones. The last is near the distance between neighbours in clouds of 256 to 1024 points; a narrower one
        follows the noise of single points.
    kept
        Starts that enter the refinement with each kernel.
    iterations
        Newton steps with each kernel.
    most_points, coarse_points
        Larger clouds are thinned, evenly in their order, to this many points with the last kernel, and to fewer with
        the wider ones, which need no more.
    """

    grid_order: int = 2
    widths: tuple[float, ...] = (0.35, 0.2, 0.15)
    kept: tuple[int, ...] = (24, 12, 4)
    iterations: int = 8
    most_points: int = 2048
    coarse_points: int = 512


@dataclass(frozen=True)
class Superposition:
    """What takes a cloud onto its reference: mirror z if told so, rotate about the origin, scale, then translate.

    Attributes
    ----------
    scale
        Ratio of the radii of gyration.
    rotation
        ``(3, 3)``, active, on xyz column vectors.
    translation
        ``(3,)``, in the unit of the reference.
    mirrored
        Whether z is mirrored (z to -z) before the rotation.
    correlation
        Kernel correlation with the last kernel, 1 for equal clouds.
    hand_margin
        The correlation less that of the best superposition with the other hand; None if that was not tried. Near 0
        the hand is not determined.
    """

    scale: float
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]
    mirrored: bool
    correlation: float
    hand_margin: float | None


@dataclass(frozen=True)
class _Fits:
    """Rigid moves ``x -> R x + t``, best first."""

    rotations: Float[Tensor, "c 3 3"]
    translations: Float[Tensor, "c 3"]
    values: Float[Tensor, " c"]


def radius_of_gyration(points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b"]:
    """Root mean square distance of the points from their mean."""
    centred = points - points.mean(-2, keepdim=True)
    radius: Tensor = centred.square().sum(-1).mean(-1).sqrt()
    return radius


def superpose(
    points: Float[Tensor, "n 3"],
    reference: Float[Tensor, "m 3"],
    *,
    mirror: bool = False,
    config: SuperpositionConfig = SuperpositionConfig(),
) -> Superposition:
    """Find the scale and the rigid move that take a cloud onto a reference (Moebius and Habeck 2025, Sec. 4.3).

    Parameters
    ----------
    points
        ``(n, 3)``, xyz, in any unit, place and order.
    reference
        ``(m, 3)``, xyz.
    mirror
        Try the mirror image as well: for clouds whose hand the data did not fix.
    config
        Extent of the search.

    Raises
    ------
    InputError
        A cloud that is not finite, or whose points are all in one place.
    """
    radii = [_checked_radius(cloud) for cloud in (points, reference)]
    centres = [cloud.double().mean(0) for cloud in (points, reference)]
    own, target = (
        _thinned(((cloud.double() - centre) / radius).float(), config.most_points)
        for cloud, centre, radius in zip((points, reference), centres, radii, strict=True)
    )
    hands = [torch.eye(3).to(own), mirror_matrix(own)]
    fits = [_fit(own @ hand, target, config) for hand in hands[: 1 + mirror]]
    chosen = max(range(len(fits)), key=lambda hand: fits[hand].values[0].item())
    best = fits[chosen]
    scale = radii[1] / radii[0]
    moved_centre = scale * (best.rotations[0] @ hands[chosen]).double() @ centres[0]
    correlations = [fit.values[0].item() / _self_overlap(own, target, config.widths[-1]) for fit in fits]
    return Superposition(
        scale=scale,
        rotation=best.rotations[0],
        translation=(centres[1] + radii[1] * best.translations[0] - moved_centre).float(),
        mirrored=chosen == 1,
        correlation=correlations[chosen],
        hand_margin=correlations[chosen] - correlations[1 - chosen] if mirror else None,
    )


def apply_superposition(points: Float[Tensor, "*b n 3"], superposition: Superposition) -> Float[Tensor, "*b n 3"]:
    """Move points into the frame, hand and unit of the reference."""
    handed = torch.cat([points[..., :2], -points[..., 2:]], dim=-1) if superposition.mirrored else points
    turned: Tensor = superposition.scale * handed @ superposition.rotation.to(points).mT
    return turned + superposition.translation.to(points)


def _checked_radius(points: Float[Tensor, "n 3"]) -> float:
    if not torch.isfinite(points).all():
        raise InputError("a point cloud with NaN or infinite coordinates cannot be superposed")
    radius = radius_of_gyration(points.double()).item() if len(points) else 0.0
    if not radius > 0:
        raise InputError(f"a cloud of {len(points)} points in one place cannot be scaled and superposed")
    return radius


def _thinned(points: Float[Tensor, "n 3"], most: int) -> Float[Tensor, "m 3"]:
    count = len(points)
    return points if count <= most else points[torch.linspace(0, count - 1, most).round().long()]


def _fit(points: Float[Tensor, "n 3"], reference: Float[Tensor, "m 3"], config: SuperpositionConfig) -> _Fits:
    """Search and refine; the value is the mean of the last kernel over all pairs of points."""
    rotations = _search(points, reference, config)
    fits = _Fits(rotations, rotations.new_zeros(len(rotations), 3), rotations.new_zeros(len(rotations)))
    for width, kept in zip(config.widths, config.kept, strict=True):
        most = config.most_points if width == config.widths[-1] else config.coarse_points
        starts = _Fits(fits.rotations[:kept], fits.translations[:kept], fits.values[:kept])
        fits = _climb(_thinned(points, most), _thinned(reference, most), starts, width, config.iterations)
    return fits


def _search(
    points: Float[Tensor, "n 3"], reference: Float[Tensor, "m 3"], config: SuperpositionConfig
) -> Float[Tensor, "c 3 3"]:
    """Best rotations of the grid with the widest kernel, means upon each other, no two of them neighbours."""
    width = config.widths[0]
    nodes = torch.linspace(-_REACH, _REACH, round(4 * _REACH / width) + 1).to(reference)
    profiles = (nodes[:, None, None] - reference).square().div(-2 * width**2).exp()  # (g, m, xyz)
    x, y, z = profiles.unbind(-1)
    # a Gaussian is the product of its profiles: the blurred density on a lattice is one matrix product
    planes = (z[:, None] * y[None]).flatten(0, 1)
    field = (planes @ x.T).view(1, 1, len(nodes), len(nodes), len(nodes))
    grid = so3_grid(config.grid_order).to(points)
    scores = torch.cat(
        [
            torch.nn.functional.grid_sample(
                field, (points @ turns.mT / _REACH)[None, :, :, None], align_corners=True, padding_mode="zeros"
            ).sum((0, 1, 3, 4))
            for turns in grid.split(max(1, _POINTS_AT_ONCE // len(points)))
        ]
    )
    return grid[_distinct_best(scores, grid, config)]


def _distinct_best(
    scores: Float[Tensor, " g"], grid: Float[Tensor, "g 3 3"], config: SuperpositionConfig
) -> Int[Tensor, " c"]:
    """Best rotations, no two of them nearer than one and a half grid spacings."""
    nearest = 1 + 2 * torch.tensor(1.5 * 60 / 2**config.grid_order).deg2rad().cos()  # trace of the relative rotation
    chosen = []
    for _ in range(config.kept[0]):
        chosen.append(scores.argmax())
        scores = torch.where(grid.flatten(1) @ grid[chosen[-1]].flatten() > nearest, -torch.inf, scores)
    return torch.stack(chosen)


def _climb(
    points: Float[Tensor, "n 3"], reference: Float[Tensor, "m 3"], starts: _Fits, width: float, iterations: int
) -> _Fits:
    """Damped Newton steps on rotation vector and translation; a step that does not raise the value is not taken."""
    rotations, translations = starts.rotations, starts.translations
    damping = torch.full_like(starts.values, 0.1)
    value, gradient, hessian = _expand(points, reference, rotations, translations, width)
    for _ in range(iterations):
        curvatures, axes = torch.linalg.eigh(hessian)
        # uphill along every axis, also where the value is convex (Dauphin et al. 2014)
        stiffness = curvatures.abs() + (damping * curvatures.abs().amax(-1))[:, None] + 1e-12
        step = (axes @ ((axes.mT @ gradient[..., None])[..., 0] / stiffness)[..., None])[..., 0]
        trial_rotations = from_rotation_vectors(step[:, :3]) @ rotations
        trial_translations = translations + step[:, 3:]
        trial = _expand(points, reference, trial_rotations, trial_translations, width)
        better = trial[0] > value
        rotations = torch.where(better[:, None, None], trial_rotations, rotations)
        translations = torch.where(better[:, None], trial_translations, translations)
        value = torch.where(better, trial[0], value)
        gradient = torch.where(better[:, None], trial[1], gradient)
        hessian = torch.where(better[:, None, None], trial[2], hessian)
        damping = torch.where(better, damping / 5, damping * 5)
    order = value.argsort(descending=True)
    return _Fits(rotations[order], translations[order], value[order])


def _expand(
    points: Float[Tensor, "n 3"],
    reference: Float[Tensor, "m 3"],
    rotations: Float[Tensor, "c 3 3"],
    translations: Float[Tensor, "c 3"],
    width: float,
) -> tuple[Float[Tensor, " c"], Float[Tensor, "c 6"], Float[Tensor, "c 6 6"]]:
    """Mean kernel over all pairs with its gradient and Hessian in (rotation vector, translation).

    A small move takes a turned point x to x + w x x + w x (w x x) / 2 + u. The kernel's derivatives at a point need the
    sum of the weights over the reference, and those of the weighted points and of their outer products.
    """
    turned = points @ rotations.mT
    moved = turned + translations[:, None]
    weights = _kernels(moved, reference, width)
    outer = (reference[:, :, None] * reference[:, None]).flatten(1)
    moments = weights @ torch.cat([torch.ones_like(reference[:, :1]), reference, outer], dim=1)
    total, mean, second = moments[..., :1], moments[..., 1:4], moments[..., 4:].unflatten(-1, (3, 3))
    identity = torch.eye(3).to(points)
    force = (mean - total * moved) / width**2
    across = mean[..., :, None] * moved[..., None, :]
    spread = second - across - across.mT + total[..., None] * moved[..., :, None] * moved[..., None, :]
    curvature = spread / width**4 - total[..., None] / width**2 * identity

    jacobian = torch.cat([-_cross_matrix(turned), identity.expand(*turned.shape, 3)], dim=-1)
    pairs = len(points) * len(reference)
    gradient = (jacobian.mT @ force[..., None]).sum(1)[..., 0] / pairs
    hessian = (jacobian.mT @ curvature @ jacobian).sum(1)
    torques = (force[..., :, None] * turned[..., None, :]).sum(1)
    bend = (torques + torques.mT) / 2 - torques.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * identity
    hessian = hessian + torch.nn.functional.pad(bend, (0, 3, 0, 3))
    return total.sum((1, 2)) / pairs, gradient, hessian / pairs


def _kernels(points: Float[Tensor, "*c n 3"], reference: Float[Tensor, "m 3"], width: float) -> Float[Tensor, "*c n m"]:
    """Gaussian of the distance of each pair of points; in place, since the large arrays are what takes time."""
    squared = points @ reference.T
    squared.mul_(2).sub_(points.square().sum(-1)[..., None]).sub_(reference.square().sum(-1))
    return squared.div_(2 * width**2).clamp_(max=0).exp_()


def _self_overlap(points: Float[Tensor, "n 3"], reference: Float[Tensor, "m 3"], width: float) -> float:
    """Geometric mean of the mean kernels of both clouds with themselves, which theirs with each other cannot exceed."""
    own, other = (_kernels(cloud, cloud, width).mean() for cloud in (points, reference))
    return (own * other).sqrt().item()


def _cross_matrix(vectors: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Make matrices C with C y = v x y."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
