"""The report in a real browser without a display: what a user clicks, drags and slides does what it says."""

import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from scoretomo.commands.report import write_report
from scoretomo.runs import open_run

pytestmark = pytest.mark.browser

# The part of a page's picture, in a canvas, that a surface covers.
COVERED = """canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 3; i < data.length; i += 4) if (data[i] > 0) count++;
  return count / (data.length / 4);
}"""


@pytest.fixture(scope="module")
def report(make_run: Callable[..., Path]) -> Path:
    return write_report(open_run(make_run()), torch.device("cpu"))


@pytest.fixture
def page(opened: Callable[..., Any], report: Path) -> Any:
    return opened(report)


def slide(page: Any, selector: str, value: float) -> None:
    """Move a slider as a hand does: it says so with events."""
    page.eval_on_selector(
        selector, "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )
    page.wait_for_timeout(150)


def wait_until(page: Any, expression: str) -> None:
    """Wait until JavaScript is true; Playwright's own way is forbidden by the page's content policy."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(40)


def scenes(page: Any) -> list[Any]:
    page.locator("#scenes").scroll_into_view_if_needed()
    wait_until(page, "[...document.querySelectorAll('#scenes canvas')].every(canvas => canvas.dataset.triangles > 0)")
    return page.locator("#scenes canvas").all()


def drag(page: Any, canvas: Any, across: int, down: int) -> None:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + across, y + down, steps=4)
    page.mouse.up()
    page.wait_for_timeout(150)


def test_the_page_begins_with_what_was_found(page: Any) -> None:
    assert page.inner_text("h1") == "10 of 14 volumes are reliable; they show 2 states and D2 symmetry."
    facts = page.inner_text("#facts")
    assert "10 / 14" in facts and "D2" in facts and "11.3 Å" in facts
    assert "mirror image" in page.inner_text("#findings")
    assert page.locator("#contents a").all_inner_texts() == [
        "Volumes",
        "3D",
        "States",
        "Motion",
        "Consensus",
        "Agreement",
        "Denoiser",
        "Settings",
    ]
    assert "scoretomo run box.mrcs -o box" in page.inner_text("#provenance")


def test_cards_are_filtered_and_sorted(page: Any) -> None:
    def numbers() -> list[int]:
        return [int(card.get_attribute("data-index")) for card in page.locator("#cards .card").all()]

    assert numbers() == list(range(14))
    page.click("#verdicts button[data-value=wrong]")
    assert numbers() == [6, 13] and page.inner_text("#shown") == "2 of 14 volumes"
    assert "repeats disagree" in page.inner_text("#cards .card[data-index='6']")
    page.click("#verdicts button[data-value=all]")
    page.select_option("#sort", "worst")
    assert numbers()[:4] == [13, 6, 10, 3]
    page.select_option("#of-state", label="state 2")
    page.select_option("#sort", "index")
    assert numbers() == [7, 8, 9, 11, 12]
    page.select_option("#of-state", "all")
    with page.expect_download() as download:
        page.click("#save-table")
    rows = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("index,seed,verdict") and len(rows) == 15
    assert page.locator("#left-out figure").all_inner_texts() == ["14: nothing in the middle; blurred"]


def test_a_surface_covers_what_its_projection_shows(page: Any) -> None:
    """In the common frame, turned back to its class average: any slip of axes, turns or mirrors shows here."""
    overlaps = page.evaluate("""async () => {
      const overlaps = [];
      for (const card of [...document.querySelectorAll('.card')].slice(0, 6)) {
        card.scrollIntoView();
        const [, projection, thumb] = card.querySelectorAll('canvas');
        while (projection.dataset.drawn !== 'yes' || !thumb.dataset.triangles) await new Promise(requestAnimationFrame);
        const side = 48;
        const scratch = new OffscreenCanvas(side, side).getContext('2d', {willReadFrequently: true});
        // the page shows its volumes in a smaller box than the images
        const view = JSON.parse(document.getElementById('page-data').textContent);
        const {side: voxels, voxel} = view.densities[`volume-${card.dataset.index}`];
        const part = 0.98 * 24 * 4 / (voxels * voxel);
        scratch.drawImage(thumb, side * (1 - 1 / part) / 2, side * (1 - 1 / part) / 2, side / part, side / part);
        const solid = scratch.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 === 3).map(a => a > 127);
        scratch.clearRect(0, 0, side, side);
        scratch.drawImage(projection, 0, 0, side, side);
        const shown = scratch.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 === 0).map(v => v > 60);
        let both = 0, either = 0;
        solid.forEach((s, i) => { both += s && shown[i]; either += s || shown[i]; });
        overlaps.push(both / either);
      }
      return overlaps;
    }""")
    assert min(overlaps) > 0.8, overlaps


def test_a_card_opens_its_volume(page: Any) -> None:
    page.click(".card[data-index='3']")
    dialog = page.locator("#detail")
    assert dialog.is_visible()
    assert "Volume 3" in dialog.inner_text() and "doubtful" in dialog.inner_text()
    assert dialog.locator("li").all_inner_texts() == [
        "repeats agree on the core only (0.71)",
        "directions near the poles are not seen",
    ]
    wait_until(page, "document.querySelector('#detail canvas.scene').dataset.triangles > 100")
    assert dialog.locator("figure canvas[data-drawn=yes]").count() == 2
    assert "ensemble/volumes/volume_0003.mrc" in dialog.inner_text()
    assert dialog.locator(".hemisphere circle[fill]").count() == 12
    before = dialog.locator("canvas.scene").get_attribute("data-turn")
    dialog.get_by_text("tilted").click()
    page.wait_for_timeout(150)
    assert dialog.locator("canvas.scene").get_attribute("data-turn") != before
    dialog.get_by_label("next").click()
    assert "Volume 4" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_scenes_turn_together_until_they_are_parted(page: Any) -> None:
    canvases = scenes(page)
    assert len(canvases) == 4

    def turns() -> list[str]:
        return [canvas.get_attribute("data-turn") for canvas in canvases]

    begin, covered = turns(), canvases[0].evaluate(COVERED)
    assert len(set(begin)) == 1 and 0.03 < covered < 0.9
    drag(page, canvases[1], 90, 20)
    together = turns()
    assert len(set(together)) == 1 and together != begin
    page.click("#linked")
    drag(page, canvases[2], -70, 40)
    parted = turns()
    assert parted[0] == parted[1] == parted[3] == together[0] and parted[2] != together[2]
    canvases[2].focus()
    page.keyboard.press("+")
    page.wait_for_timeout(150)
    assert float(canvases[2].get_attribute("data-zoom")) > 1
    canvases[2].dblclick()
    page.wait_for_timeout(150)
    assert canvases[2].get_attribute("data-turn") == begin[0]
    page.click("#views button[data-value=top]")
    page.wait_for_timeout(150)
    assert turns() == ["1.000 0.000 0.000 0.000 1.000 0.000 0.000 0.000 1.000"] * 4


def test_spinning_goes_on_until_it_is_stopped(page: Any) -> None:
    canvas = scenes(page)[0]
    page.check("#spin")
    first = canvas.get_attribute("data-turn")
    wait_until(page, f"document.querySelector('#scenes canvas').dataset.turn !== '{first}'")
    page.uncheck("#spin")
    page.wait_for_timeout(200)
    still = canvas.get_attribute("data-turn")
    page.wait_for_timeout(200)
    assert canvas.get_attribute("data-turn") == still


def test_the_level_changes_all_surfaces_at_once(page: Any) -> None:
    canvases = scenes(page)
    sizes = []
    for level in (0.2, 0.5, 0.9):
        slide(page, "#level", level)
        # surfaces are made anew one after the other, which takes a while where the machine is busy
        all_there = f"every(canvas => canvas.dataset.level === '{level:.3f}')"
        wait_until(page, f"[...document.querySelectorAll('#scenes canvas')].{all_there}")
        assert len(canvases) == 4
        sizes.append([canvas.evaluate(COVERED) for canvas in canvases])
    assert all(low > middle > high for low, middle, high in zip(*sizes, strict=True))
    assert page.inner_text("#level-value") == "90% of peak"


def test_another_volume_can_be_put_into_a_view(page: Any) -> None:
    canvas = scenes(page)[3]
    page.select_option("#scenes .scene-card:nth-child(4) select", "mean")
    wait_until(page, "document.querySelectorAll('#scenes canvas')[3].dataset.density === 'mean'")
    assert "kDa" in page.inner_text("#scenes .scene-card:nth-child(4)")
    assert canvas.evaluate(COVERED) > 0.03


def test_a_point_of_the_map_shows_its_volume(page: Any) -> None:
    page.locator("#map").scroll_into_view_if_needed()
    assert page.locator("#map circle.point").count() == 10
    assert page.locator("#map path.untrusted").count() == 4
    assert "4 volumes that are not reliable" in page.inner_text("#map-note")
    page.click("#map .point[data-index='8']")
    assert "Volume 8" in page.inner_text("#chosen") and "reliable" in page.inner_text("#chosen")
    wait_until(page, "document.querySelector('#chosen canvas.scene').dataset.triangles > 100")
    assert page.locator("#chosen figure canvas[data-drawn=yes]").count() == 2
    assert page.locator("#map .point.chosen").get_attribute("data-index") == "8"
    assert "chosen" in page.locator(".card[data-index='8']").get_attribute("class")
    page.click("#map .point[data-index='6']")
    assert "wrong" in page.inner_text("#chosen")
    page.select_option("#axes", "component_1 component_2")
    page.select_option("#colouring", "probability")
    assert page.locator("#map .point").count() == 14
    page.hover("#map .point[data-index='2']")
    assert page.inner_text("#tip").startswith("volume 2: reliable")


def test_the_motion_follows_its_slider_and_plays(page: Any) -> None:
    page.locator("#motion").scroll_into_view_if_needed()
    canvas = page.locator("#motion-scene")
    wait_until(page, "document.getElementById('motion-scene').dataset.triangles > 100")
    slide(page, "#along", 0.5)
    assert page.inner_text("#along-value") == "50%" and canvas.get_attribute("data-place") == "0.50"
    assert page.locator("#motion-points .point").count() == 10
    page.click("#motions button[data-value=component_1]")
    page.wait_for_timeout(300)
    pictures = {}
    for place in (-1.2, 0.0, 1.2):
        slide(page, "#along", place)
        assert canvas.get_attribute("data-place") == f"{place:.2f}"
        pictures[place] = canvas.evaluate("canvas => canvas.toDataURL()")
    assert len(set(pictures.values())) == 3
    page.uncheck("#variable")
    page.wait_for_timeout(150)
    assert canvas.evaluate("canvas => canvas.toDataURL()") != pictures[1.2]
    page.click("#play")
    wait_until(page, "document.getElementById('motion-scene').dataset.place !== '1.20'")
    page.click("#play")
    page.click("#motions button[data-value=component_2]")
    page.wait_for_timeout(300)
    assert "no more than noise" in page.inner_text("#motion-note")
    page.click("#motions button[data-value=z_1]")
    page.wait_for_timeout(300)
    ends = {}
    for place in (-1.0, 1.0):
        slide(page, "#along", place)
        assert page.inner_text("#along-value").endswith("1.0 sd")
        ends[place] = canvas.evaluate("canvas => canvas.toDataURL()")
    assert ends[-1.0] != ends[1.0] and "all class averages at once" in page.inner_text("#motion-note")
    assert page.locator("#motion-points .point").count() == 10
    page.click("#motions button[data-value=path]")
    page.wait_for_timeout(300)
    for place in (0.0, 1.0):
        slide(page, "#along", place)
        ends[place] = canvas.evaluate("canvas => canvas.toDataURL()")
    assert ends[0.0] != ends[1.0] and "places of the motion model" in page.inner_text("#motion-note")


def test_curves_are_read_at_the_pointer(page: Any) -> None:
    chart = page.locator("#consensus-fsc svg")
    chart.scroll_into_view_if_needed()
    assert chart.locator("path").count() == 4
    chart.hover(position={"x": 200, "y": 100})
    reading = page.inner_text("#tip").splitlines()
    assert "Å" in reading[0] and reading[1].startswith("corrected for the mask: 0.")
    assert "repeats agree to" in page.inner_text("#seed-resolutions")
    assert page.locator("#held-out path").count() == 3


def test_dark_and_narrow_pages_show_everything_too(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report, color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.set_viewport_size({"width": 480, "height": 900})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 480


def test_a_run_that_has_only_begun_says_what_comes_next(
    opened: Callable[..., Any], make_run: Callable[..., Path], stage: type
) -> None:
    begun = make_run(6, 24, stage(volumes=False, ensemble=False, consensus=False))
    page = opened(write_report(open_run(begun), torch.device("cpu")))
    assert page.inner_text("h1") == "7 class averages; no volumes have been reconstructed yet."
    assert "scoretomo reconstruct" in page.inner_text("#missing")
    unjudged = make_run(6, 24, stage(ensemble=False, consensus=False))
    page = opened(write_report(open_run(unjudged), torch.device("cpu")))
    assert page.locator("section#states").is_hidden() and page.locator("section#motion").is_hidden()
    assert page.locator(".verdict.unjudged").count() == 6
    assert "scoretomo ensemble" in page.inner_text("#missing")
    assert len(scenes(page)) == 4


def test_the_surface_of_a_ball_is_closed_round_and_faces_outwards(browser: Any) -> None:
    script = (files("scoretomo.report") / "page_files" / "surface.js").read_text(encoding="utf-8")
    page = browser.new_page()
    found = page.evaluate(
        "() => {"
        + script
        + """
      const side = 25, half = 12, radius = 8;
      const values = new Float32Array(side ** 3);
      for (let z = 0, i = 0; z < side; z++) for (let y = 0; y < side; y++) for (let x = 0; x < side; x++, i++) {
        values[i] = radius - Math.hypot(x - half, y - half, z - half);
      }
      const {vertices, triangles} = surfaceOf({side, values}, 0.001);
      const at = i => [...vertices.slice(8 * i, 8 * i + 6)];
      let farthest = 0, facing = 1;
      for (let i = 0; i < vertices.length / 8; i++) {
        const [x, y, z, nx, ny, nz] = at(i), r = Math.hypot(x, y, z);
        farthest = Math.max(farthest, Math.abs(r - radius));
        facing = Math.min(facing, (x * nx + y * ny + z * nz) / r);
      }
      const edges = new Map();
      let volume = 0;
      for (let i = 0; i < triangles.length; i += 3) {
        const corners = [...triangles.slice(i, i + 3)];
        corners.forEach((a, k) => {
          const b = corners[(k + 1) % 3];
          edges.set(`${a} ${b}`, (edges.get(`${a} ${b}`) ?? 0) + 1);
        });
        const [a, b, c] = corners.map(at);
        volume += (a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
          + a[2] * (b[0] * c[1] - b[1] * c[0])) / 6;
      }
      const paired = [...edges].every(([key, n]) => n === 1 && edges.get(key.split(' ').reverse().join(' ')) === 1);
      return {farthest, facing, paired, volume, exact: 4 / 3 * Math.PI * radius ** 3};
    }"""
    )
    page.close()
    assert found["farthest"] < 0.25 and found["facing"] > 0.97
    assert found["paired"]  # every edge lies between two triangles that go round the same way
    assert abs(found["volume"] / found["exact"] - 1) < 0.03
