"""Places in the motion are as far from each other as the volumes there."""

import torch

from scoretomo.commands.motion_folder import _to_distances


def test_distances_of_places_are_those_of_volumes_also_where_components_overlap() -> None:
    draw = torch.Generator().manual_seed(0)
    components = torch.randn(3, 6, 6, 6, generator=draw)
    components[1] += 2 * components[0]
    z = torch.randn(5, 3, generator=draw)
    volumes = torch.einsum("nk,kxyz->nxyz", z, components).flatten(1)
    torch.testing.assert_close(
        torch.cdist(z @ _to_distances(components), z @ _to_distances(components)),
        torch.cdist(volumes, volumes),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_component_that_is_nothing_has_its_place_too() -> None:
    """Curves among places go back to coordinates, so the matrix must not be singular."""
    components = torch.randn(2, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    components[1] = 0
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    matrix = _to_distances(components)
    back = torch.linalg.solve(matrix.T, (z @ matrix).T).T
    torch.testing.assert_close(back, z, rtol=1e-2, atol=1e-2)
    assert float((z[:, 1:] @ matrix[1:]).norm()) < 0.01 * float((z[:, :1] @ matrix[:1]).norm())
