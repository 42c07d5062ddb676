"""A run folder as the other verbs leave it, made of boxes with moving lids in a second or two; a browser for pages."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from scoretomo.datatypes import ImageStack, Volume
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.preprocess import PreprocessConfig, preprocess
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z
from scoretomo.io.files import write_json, write_text
from scoretomo.io.mrc import write_images, write_volume
from scoretomo.io.settings import to_table
from scoretomo.io.tables import write_table
from scoretomo.presets import PRESETS
from scoretomo.simulation.phantoms import box

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# The graphics card is computed, since machines that test have none.
OPTIONS = ("--no-sandbox", "--enable-unsafe-swiftshader")
PIXEL_SIZE = 4.0
VERDICTS = ("reliable", "reliable", "reliable", "doubtful", "reliable", "reliable", "wrong")
REASONS = {
    "reliable": "three repeats agree (0.93); 41 class averages are explained by it",
    "doubtful": "repeats agree on the core only (0.71); directions near the poles are not seen",
    "wrong": "repeats disagree (0.38); its projections look unlike any class average",
}


@dataclass(frozen=True)
class Stage:
    """How far the run of a fixture has got: each includes those before."""

    volumes: bool = True
    ensemble: bool = True
    consensus: bool = True


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a run folder of so many boxes, as far as its stage says."""

    def make(count: int = 14, side: int = 24, stage: Stage = Stage()) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "box"
        return write_run(folder, count, side, stage)

    return make


def write_run(folder: Path, count: int, side: int, stage: Stage) -> Path:
    """Write a run folder, with every file of the contract that its stage has."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    opening = torch.linspace(0.2, 2.4, count)
    rotations = random_rotations(count, generator=generator)
    boxes = box(opening[:, None].expand(-1, 2), side, oversampling=1)
    turned = box(opening[:, None].expand(-1, 2), side, rotations, oversampling=1)
    images = project(boxes, rotations[:, None])[:, 0]
    images = torch.cat([images, torch.full_like(images[:1], images.mean())])  # the last is of nothing
    images = images + 0.3 * torch.randn(images.shape, generator=generator)
    _write_beginning(folder, images)
    if stage.volumes:
        (folder / "volumes").mkdir()
        noise = 0.05 * torch.randn(turned.shape, generator=generator)
        for index, voxels in enumerate(turned + noise):
            # every second one came out as its mirror image, which explains its class average as well
            own = mirror_z(voxels) if index % 2 else voxels
            _write(folder / "volumes" / f"volume_{index:04d}.mrc", own)
    if stage.ensemble:
        _write_ensemble(folder, boxes, rotations, opening)
    if stage.consensus:
        _write_consensus(folder, boxes.mean(0))
    return folder


def _write_beginning(folder: Path, images: torch.Tensor) -> None:
    config = PRESETS["demo"]
    stack = ImageStack(images, PIXEL_SIZE)
    working, record = preprocess(stack, PreprocessConfig(contrast="bright"), multiple=config.unet.side_multiple)
    write_images(folder / "images.mrcs", ImageStack(working, record.working_pixel_size_angstrom))
    write_json(folder / "preprocessing.json", asdict(record))
    source = {"path": "/data/box.mrcs", "sha256": "5" * 64, "images": len(images), "side": images.shape[-1]}
    table = {
        "scoretomo": "0.1.0",
        "command": "scoretomo run box.mrcs -o box",
        "preset": "demo",
        "device": "cpu",
        "input": {**source, "pixel_size_angstrom": PIXEL_SIZE, "left_out": [len(images) - 1]},
        "settings": to_table(config),
    }
    write_text(folder / "config.toml", tomli_w.dumps(table))
    junk = {"index": len(images) - 1, "verdict": "junk", "used": False, "reasons": "nothing in the middle; blurred"}
    good = [{"index": index, "verdict": "good", "used": True, "reasons": ""} for index in range(len(images) - 1)]
    write_table(folder / "quality.csv", [*good, junk])
    lines = [
        {
            "phase": "train",
            "step": 2000 * step,
            "loss": 0.05 + 0.8 / step,
            "seconds": 10.0 * step,
            **{f"held_out_error_sigma_{sigma:g}": 0.1 * sigma / step**0.5 for sigma in (0.1, 0.4, 1.6)},
        }
        for step in range(1, 13)
    ]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _write_ensemble(folder: Path, boxes: torch.Tensor, rotations: torch.Tensor, opening: torch.Tensor) -> None:
    count, side = len(boxes), boxes.shape[-1]
    ensemble = folder / "ensemble"
    for name in ("volumes", "clusters", "path"):
        (ensemble / name).mkdir(parents=True)
    verdicts = [VERDICTS[index % len(VERDICTS)] for index in range(count)]
    chance = {"reliable": 0.95, "doubtful": 0.55, "wrong": 0.08}
    write_table(
        ensemble / "reliability.csv",
        [
            {
                "index": index,
                "seed": 0,
                "probability": chance[verdict] - 0.003 * index,
                "verdict": verdict,
                "reasons": REASONS[verdict],
                "seed_agreement": chance[verdict],
                "score_excess": 1 - chance[verdict],
                "base_correlation": 0.9,
                "coverage": 0.8 * chance[verdict],
            }
            for index, verdict in enumerate(verdicts)
        ],
    )
    frequency = [k / (side * PIXEL_SIZE) for k in range(side // 2 + 1)]
    falls = {"reliable": 9.0, "doubtful": 5.0, "wrong": 2.0}
    curves = {
        str(index): [1 / (1 + math.exp(k - falls[verdict] - 0.1 * index)) for k in range(side // 2 + 1)]
        for index, verdict in enumerate(verdicts)
    }
    directions = torch.nn.functional.normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(1)))
    directions = directions * directions[:, 2:].sign()  # the hemisphere towards the viewer
    write_json(
        ensemble / "reliability.json",
        {
            "seeds": [0, 1, 2],
            "volumes": [
                {"index": index, "seed": seed, "view_excess": (4 * (1 - chance[verdict]) * directions[:, 0]).tolist()}
                for index, verdict in enumerate(verdicts)
                for seed in (0, 1, 2)
            ],
            "view_directions": directions.tolist(),
            "seed_fsc": {"frequency_per_angstrom": frequency, "curves": curves},
        },
    )
    names = [f"rotation_{a}{b}" for a in "xyz" for b in "xyz"]
    write_table(
        ensemble / "transforms.csv",
        [
            {
                "index": index,
                "seed": 0,
                "mirrored": index % 2 == 1,
                **dict(zip(names, rotations[index].mT.flatten().tolist(), strict=True)),
                "shift_x_angstrom": 0.0,
                "shift_y_angstrom": 0.0,
                "shift_z_angstrom": 0.0,
                "correlation": 0.9,
                "hand_margin": 0.1,
                "hand_certain": index != 3,
            }
            for index in range(count)
        ],
    )
    write_json(ensemble / "symmetry.json", {"group": "D2", "correlation": 0.96, "runner_up": 0.81, "axes": []})
    places = (opening - opening.mean()) / opening.std()
    labels = (opening > opening.mean()).long()
    write_table(
        ensemble / "landscape.csv",
        [
            {
                "index": index,
                "reliable": verdicts[index] == "reliable",
                "cluster": int(labels[index]) + 1 if verdicts[index] == "reliable" else None,
                "phase": index / (count - 1),
                "map_1": math.cos(1.2 * places[index]),
                "map_2": math.sin(1.2 * places[index]),
                "component_1": places[index].item(),
                "component_2": places[index].item() ** 2 - 1,
                "spread": 0.12,
            }
            for index in range(count)
        ],
    )
    clusters = [
        {"number": k + 1, "population": int((labels == k).sum()), "representative": int((labels == k).nonzero()[0])}
        for k in (0, 1)
    ]
    write_json(
        ensemble / "landscape.json",
        {
            "explained_share": [0.62, 0.17, 0.06, 0.02],
            "significant": [True, False, False, False],
            "clusters": clusters,
            "main_path": {"share": 0.91},
        },
    )
    for index, voxels in enumerate(boxes):
        _write(ensemble / "volumes" / f"volume_{index:04d}.mrc", voxels)
    _write(ensemble / "mean.mrc", boxes.mean(0))
    _write(ensemble / "variance.mrc", boxes.var(0))
    for number, power in ((1, 1), (2, 2)):
        component = torch.einsum("n,nzyx->zyx", places**power - places.pow(power).mean(), boxes) / count
        _write(ensemble / f"component_{number}.mrc", component)
    model = folder / "motion"
    (model / "path").mkdir(parents=True)
    _write(model / "mean.mrc", boxes.mean(0))
    _write(model / "component_1.mrc", torch.einsum("n,nzyx->zyx", places, boxes) / count)
    rows = [
        {"index": index, "z_1": places[index].item(), "error_1": 0.1, "path": index / (count - 1)}
        for index in range(count)
    ]
    write_table(model / "coordinates.csv", rows)
    for number in (0, 1, 2):
        _write(model / "path" / f"path_{number:02d}.mrc", boxes[number * (count - 1) // 2])
    for k in (0, 1):
        _write(ensemble / "clusters" / f"cluster_{k + 1}.mrc", boxes[labels == k].mean(0))
    for number, index in enumerate(range(0, count, max(1, count // 5))):
        _write(ensemble / "path" / f"path_{number:02d}.mrc", boxes[index])


def _write_consensus(folder: Path, mean: torch.Tensor) -> None:
    (folder / "consensus").mkdir()
    _write(folder / "consensus" / "consensus.mrc", mean)
    count = mean.shape[-1] // 2 + 1
    rows = []
    for k in range(count):
        masked = 1 / (1 + math.exp(k - 8))
        frequency = k / (mean.shape[-1] * PIXEL_SIZE)
        randomised = 0.0 if k < 6 else 0.05
        rows.append(
            {
                "frequency_per_angstrom": frequency,
                "unmasked": 0.9 * masked,
                "masked": masked,
                "phase_randomised": randomised,
                "corrected": (masked - randomised) / (1 - randomised),
            }
        )
    write_table(folder / "consensus" / "fsc.csv", rows)
    write_json(
        folder / "consensus" / "consensus.json", {"resolution_angstrom": 11.3, "symmetry": "D2", "images_used": 10}
    )


def _write(path: Path, voxels: torch.Tensor) -> None:
    write_volume(path, Volume(voxels, PIXEL_SIZE))


@pytest.fixture(scope="session")
def stage() -> type[Stage]:
    """The class of the stages, which test files cannot import from here."""
    return Stage


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a page; whatever it complains of or asks the network for fails the test."""
    pages, complaints, requests = [], [], []

    def open_page(path: Path, **options: Any) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True, **options)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    assert all(url.startswith(("file:", "blob:")) for url in requests)
