import math

import pytest
import torch

from scoretomo.simulation.surfaces import Part, surface_points


def test_a_box_is_covered_by_area(generator: torch.Generator) -> None:
    """Width 2, depth 4, height 6: each pair of faces has its share of the points, all on the surface."""
    points = surface_points([Part((0.0, 0.0, 0.0), (0.0, 0.0, 6.0), 1.0, 2.0)], 20000, generator)
    from_middle = (points - torch.tensor([0.0, 0, 3])).abs() / torch.tensor([1.0, 2, 3])
    on_face = (from_middle - 1).abs() < 1e-5
    assert (from_middle < 1 + 1e-5).all()
    assert on_face.any(1).all()
    shares = on_face.float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([24.0, 12, 8]) / 44, atol=0.015, rtol=0)
    # every face is covered evenly: as many points in each eighth of the box, on each of its three faces
    for axis in range(3):
        eighth = (points[on_face[:, axis]] > torch.tensor([0.0, 0, 3])).long() @ torch.tensor([1, 2, 4])
        torch.testing.assert_close(eighth.bincount() / len(eighth), torch.full((8,), 1 / 8), atol=0.02, rtol=0)


def test_a_cone_is_covered_by_area_and_ends_where_it_should(generator: torch.Generator) -> None:
    """Radius 1 to 0.5 over a length of 3, along a slanted axis."""
    end = torch.tensor([1.0, 2.0, 2.0])
    part = Part((0.0, 0.0, 0.0), (1.0, 2.0, 2.0), 1.0, 1.0, round=True, taper=0.5)
    points = surface_points([part], 20000, generator)
    along = points @ end / 3
    radius = (points - along[:, None] * end / 3).norm(dim=1)
    at_start, at_end = along.abs() < 1e-5, (along - 3).abs() < 1e-5
    around = ~at_start & ~at_end
    torch.testing.assert_close(radius[around], 1 - along[around] / 6, atol=1e-5, rtol=0)
    areas = torch.tensor([math.pi, 0.25 * math.pi, 2 * math.pi * 0.75 * 3])
    shares = torch.stack([at_start, at_end, around]).float().mean(1)
    torch.testing.assert_close(shares, areas / areas.sum(), atol=0.015, rtol=0)
    # the area of a frustum lies nearer to its wide end: integral of t (1 - t / 2) over that of 1 - t / 2
    assert along[around].mean().item() == pytest.approx(3 * (1 / 3) / 0.75, abs=0.03)
    assert radius[at_start].square().mean().item() == pytest.approx(0.5, abs=0.02)


def test_parts_have_points_in_proportion_to_their_areas(generator: torch.Generator) -> None:
    small, large = Part((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), 1.0, 1.0), Part((10.0, 0.0, 0.0), (10.0, 0.0, 6.0), 3.0, 3.0)
    points = surface_points([small, large], 20000, generator)
    assert (points[:, 0] < 5).float().mean().item() == pytest.approx(0.1, abs=0.01)
