"""The report of particles in a real browser: points lead to clusters, clusters to volumes, sliders to motion."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scoretomo.report.particle_page import ParticleAnalysis, ParticleMap, build_particle_page
from scoretomo.simulation.phantoms import box

pytestmark = pytest.mark.browser

_COUNT = 300
_SIDE = 16
_COLOURS = ("#3b4cc0", "#2fa37c", "#b40426")


def _metrics(searched: bool) -> list[dict[str, Any]]:
    """Six epochs, with a search in every second one."""
    lines: list[dict[str, Any]] = []
    for epoch in range(1, 7):
        line: dict[str, Any] = {"phase": "drgn", "step": epoch * _COUNT, "loss": 0.5 + 1 / epoch}
        if searched and epoch % 2:
            names = ("median_turned_degrees", "mean_turned_degrees", "median_moved_pixels", "mean_score")
            line |= dict(zip(names, (30.0 / epoch, 50.0 / epoch, 1.0 / epoch, 0.5), strict=True))
        lines.append(line)
    return lines


def _analysis() -> ParticleAnalysis:
    """Boxes that open along the first component; particles of three clusters, a third of them in each but the last."""
    opening = torch.linspace(0.2, 2.4, 5)
    boxes = box(opening[:, None].expand(-1, 2), _SIDE, oversampling=1)
    along = torch.linspace(-1, 1, _COUNT)
    labels = (along > -0.4).long() + (along > 0.6).long()
    across = torch.randn(_COUNT, generator=torch.Generator().manual_seed(0)) / 10
    columns = {"row": 2 * torch.arange(_COUNT), "pc_1": along, "pc_2": across, "umap_1": along.cos(), "umap_2": along}
    names = {"pc_1": "component 1 (90%)", "pc_2": "component 2 (10%)", "umap_1": "UMAP 1", "umap_2": "UMAP 2"}
    path = torch.arange(0, _COUNT, 30)
    found = ParticleMap(
        {**columns, "cluster": labels},
        names,
        torch.tensor([0.9, 0.1]),
        torch.tensor([40, 150, 270]),
        _COLOURS,
        path,
        along + 1,
    )
    volumes = {"clusters": list(boxes[[0, 2, 4]]), "component_1": list(boxes), "path": list(boxes[:4])}
    provenance = [("command", "scoretomo drgn train particles.star -o run", True)]
    return ParticleAnalysis("run", ".star", _COUNT, 2, 4.0, volumes, found, _metrics(True), provenance, "seed = 0")


@pytest.fixture
def page(opened: Callable[..., Any], tmp_path: Path) -> Any:
    (tmp_path / "report.html").write_text(build_particle_page(_analysis()), encoding="utf-8")
    return opened(tmp_path / "report.html")


def _wait_until(page: Any, expression: str) -> None:
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(40)


def _slide(page: Any, selector: str, value: float) -> None:
    page.eval_on_selector(
        selector, "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )
    page.wait_for_timeout(150)


def test_points_and_bars_lead_to_the_volume_of_their_cluster(page: Any) -> None:
    assert (
        page.inner_text("h1") == "300 particles; 90% of what differs between them lies along the first of 2 components."
    )
    contents = page.locator("#contents a").all_inner_texts()
    assert contents == ["Particles", "3D", "Motion", "Training", "Settings"]
    page.locator("#map").scroll_into_view_if_needed()
    assert "to see the volume of its cluster" in page.inner_text("#landscape .lead")
    assert page.locator("#map canvas").get_attribute("data-points") == "300"
    assert "Cluster 1" in page.inner_text("#chosen")  # the largest
    _wait_until(page, "document.querySelector('#chosen canvas').dataset.triangles > 100")
    page.click("#map .central[data-index='2']")
    text = page.inner_text("#chosen")
    assert "Cluster 2" in text and "60 particles (20%)" in text and "row 540" in text
    assert "scoretomo drgn select run --clusters 2 -o cluster_2.star" in text
    page.click("#populations .bar-of[data-index='0']")
    assert "Cluster 0" in page.inner_text("#chosen")
    assert page.locator("#map .central.chosen").get_attribute("data-index") == "0"
    _wait_until(page, "document.querySelector('#chosen canvas').dataset.triangles > 100")
    page.get_by_label("previous").click()
    assert "Cluster 2" in page.inner_text("#chosen")


def test_without_volumes_none_is_promised(opened: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(build_particle_page(replace(_analysis(), volumes={})), encoding="utf-8")
    page = opened(tmp_path / "report.html")
    assert "Click a point to see its cluster." in page.inner_text("#landscape .lead")


def test_every_particle_can_be_pointed_at(page: Any) -> None:
    """On the axes of the components, the particle in row 598 is the last to the right."""
    page.select_option("#axes", "pc_1 pc_2")
    page.select_option("#colouring", "pc_2")
    place = page.evaluate(
        """() => {
      const {columns} = page_data().landscape, canvas = document.querySelector('#map canvas').getBoundingClientRect();
      const [x, y] = [columns.pc_1, columns.pc_2];
      const part = (values, i, air = 0.08) => {
        const low = Math.min(...values), high = Math.max(...values), margin = air * (high - low);
        return (values[i] - low + margin) / (high - low + 2 * margin);
      };
      const i = x.length - 1;
      return [54 + part(x, i) * (canvas.width - 68), 496 - part(y, i) * 484];
    }""".replace("page_data()", "JSON.parse(document.getElementById('page-data').textContent)")
    )
    page.locator("#map svg").click(position={"x": place[0], "y": place[1]})
    assert page.inner_text("#tip") == "particle in row 598\ncluster 2: 60 particles (20%)"
    assert "Cluster 2" in page.inner_text("#chosen")
    assert page.locator("#map-legend .ramp").count() == 1


def test_the_motion_goes_along_the_path_and_the_components(page: Any) -> None:
    page.locator("#motion").scroll_into_view_if_needed()
    _wait_until(page, "document.getElementById('motion-scene').dataset.triangles > 100")
    assert page.locator("#motions button").all_inner_texts() == ["path", "component 1 (90%)"]
    counts = []
    page.click("#motions button[data-value=component_1]")
    page.wait_for_timeout(300)
    for place, words in ((-0.9, "0%"), (0.0, "50%"), (0.9, "100%")):
        _slide(page, "#along", place)
        assert page.inner_text("#along-value") == words
        counts.append(page.locator("#motion-scene").evaluate("canvas => canvas.toDataURL()"))
    assert len(set(counts)) == 3
    assert page.locator("#motion-points rect").count() == 40
    assert page.locator("#scenes canvas").count() == 3


def test_the_course_of_the_training_has_the_poses_where_they_were_searched(
    opened: Callable[..., Any], page: Any, tmp_path: Path
) -> None:
    assert page.locator("#loss path").count() == 1 and page.locator("#poses path").count() == 2
    assert "half of the particles turned by less than 6 degrees" in page.inner_text("#findings")
    given = replace(_analysis(), map=None, latent_dimensions=0, metrics=_metrics(False))
    given = replace(given, volumes={"volume": given.volumes["path"][:1]})
    (tmp_path / "one.html").write_text(build_particle_page(given), encoding="utf-8")
    other = opened(tmp_path / "one.html")
    assert other.inner_text("h1") == "300 particles, one volume."
    assert other.locator("section#landscape").is_hidden() and other.locator("section#motion").is_hidden()
    assert other.locator("#poses-panel").is_hidden()
    other.locator("#scenes").scroll_into_view_if_needed()
    _wait_until(other, "document.querySelector('#scenes canvas').dataset.triangles > 100")


def test_tables_alone_make_a_page_too(opened: Callable[..., Any], tmp_path: Path) -> None:
    """One coordinate, and no volumes."""
    whole = _analysis()
    assert whole.map is not None
    columns = {name: whole.map.columns[name] for name in ("row", "pc_1", "cluster")}
    found = replace(whole.map, columns=columns, names={"pc_1": "component 1"}, shares=torch.ones(1))
    path = tmp_path / "tables.html"
    path.write_text(build_particle_page(replace(whole, map=found, volumes={}, metrics=[])), encoding="utf-8")
    page = opened(path)
    assert page.locator("section#motion").is_hidden() and page.locator("section#compare").is_hidden()
    page.click("#map .central[data-index='2']")
    assert "Cluster 2" in page.inner_text("#chosen") and page.locator("#chosen canvas").count() == 0
