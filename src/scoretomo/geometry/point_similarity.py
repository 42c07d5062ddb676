"""Which point clouds are copies of each other, wherever they are and however they are turned."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Shells of the descriptor, in radii of gyration, and the highest degree of its spherical harmonics.
_SHELLS, _NEAREST, _FARTHEST, _WIDTH, _DEGREES = 6, 0.2, 1.8, 0.25, 8


def rotation_invariants(points: Float[Tensor, "n 3"]) -> Float[Tensor, "degree shell shell"]:
    """Describe a shape by numbers that do not change when it is moved, turned, mirrored, scaled or permuted.

    The power spectrum of the density on soft shells around the centre (Kazhdan et al. 2003; with the products of
    different shells, Bartok et al. 2013), radii in radii of gyration. The sum over the orders of spherical harmonics is
    taken by their addition theorem: a Legendre polynomial of the angle between two points.

    Returns
    -------
    Tensor
        ``(8, 6, 6)`` for degrees 1 to 8 and pairs of shells, float64.
    """
    centred = points.double() - points.double().mean(0)
    radius = centred.norm(dim=1)
    shells = torch.linspace(_NEAREST, _FARTHEST, _SHELLS).to(centred)
    on_shell = (-0.5 * ((radius / radius.square().mean().sqrt())[:, None] - shells).div(_WIDTH).square()).exp()
    direction = centred / radius.clamp(min=1e-12 * float(radius.max()))[:, None]
    cosine = direction @ direction.T
    before, legendre = torch.ones_like(cosine), cosine
    spectrum = []
    for degree in range(1, _DEGREES + 1):
        spectrum.append((2 * degree + 1) / len(points) ** 2 * on_shell.T @ legendre @ on_shell)
        following = ((2 * degree + 1) * cosine * legendre - degree * before) / (degree + 1)
        before, legendre = legendre, following
    return torch.stack(spectrum)


def similar_groups(
    clouds: Float[Tensor, "k n 3"],
    units: Float[Tensor, " k"],
    *,
    most_different: float = 0.15,
    most_ratio: float = 1.03,
) -> Int[Tensor, " k"]:
    """Put clouds into groups, such that those of different groups are not alike.

    Meant for sets of molecules, where one protein often has several entries. On 256 points, entries of one protein
    differ by 0.03 to 0.15, two reductions of one trace by 0.06 to 0.18, and 1 in 500 pairs of proteins of the same size
    by less than 0.15: a few strangers are put together, few copies are kept apart.

    Parameters
    ----------
    clouds, units
        As in :class:`scoretomo.datatypes.PointClouds`.
    most_different
        Largest difference of the :func:`rotation_invariants` of two clouds that are alike: 0 for equal ones, below 1.
    most_ratio
        Largest ratio of their radii of gyration.

    Returns
    -------
    Tensor
        ``(k,)``: the number of the group of each cloud, from 0.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    described = torch.stack([rotation_invariants(cloud) for cloud in clouds]).flatten(2)
    lengths = described.norm(dim=2).sum(1)
    sizes = (clouds - clouds.mean(1, keepdim=True)).square().sum(2).mean(1).sqrt() * units
    order = sizes.argsort()
    pairs = []
    for place, index in enumerate(order.tolist()):
        # only clouds of about this size are compared, each pair once
        beyond = int(torch.searchsorted(sizes[order], most_ratio * sizes[index], right=True))
        others = order[place + 1 : beyond]
        difference = (described[others] - described[index]).norm(dim=2).sum(1) / (lengths[others] + lengths[index])
        pairs += [(index, other) for other in others[difference < most_different].tolist()]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_matrix(([1] * len(pairs), (rows, columns)), shape=(len(clouds), len(clouds)))
    _, labels = connected_components(graph, directed=False)
    return torch.from_numpy(labels).long()
