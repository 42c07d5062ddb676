"""The report: one HTML file with everything in it, made of a run's summary, its images and its volumes."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import resize
from .density import PageDensity, PageGrid, encode_pictures

_LARGEST_PICTURE = 96


@dataclass(frozen=True)
class Layout:
    """Which parts a page is made of.

    Attributes
    ----------
    sections
        Files of ``page_files/sections``, in the order of the page.
    scripts
        Files of ``page_files``: what a script needs at once stands before it, and what fills the page comes last.
    words
        What stands in sections that several pages have.
    """

    sections: tuple[str, ...]
    scripts: tuple[str, ...]
    words: Mapping[str, str]


_BASE = ("page", "data", "surface", "scene", "chart")
_SHARED = ("compare", "motion", "curves", "opening")

CLASS_AVERAGES = Layout(
    ("top", "volumes", "compare", "states", "motion", "consensus", "points", "agreement", "denoiser", "settings"),
    (*_BASE, "inspect", "volumes", "states", *_SHARED, "points", "main"),
    {
        "motion_lead": "The reliable volumes from one end of their main motion to the other. Red: what differs most "
        "between them.",
    },
)
PARTICLES = Layout(
    ("top", "landscape", "compare", "motion", "training", "settings"),
    (*_BASE, *_SHARED, "landscape", "training", "particles"),
    {
        "motion_lead": "What the network makes of particles from one end to the other. Red: what differs most between "
        "the clusters.",
    },
)

Report = Callable[[float, str], None]
"""``(part done from 0 to 1, what is being done) -> None``."""


@dataclass(frozen=True)
class Blocks:
    """Volumes and pictures of a page while it is put together.

    Attributes
    ----------
    densities, pictures
        By name, what the page must know to read a block: range and grid of a volume, side of pictures.
    packed
        By name, the bytes as text.
    """

    densities: dict[str, dict[str, Any]]
    pictures: dict[str, dict[str, int]]
    packed: dict[str, str]

    def add_density(self, name: str, density: PageDensity, grid: PageGrid) -> str:
        """Take in a volume; returns its name."""
        values = asdict(density)
        self.packed[name] = values.pop("text")
        self.densities[name] = {**values, "side": grid.side, "voxel": grid.voxel_angstrom}
        return name

    def add_pictures(self, name: str, pictures: Float[Tensor, "n k side side"]) -> str:
        """Take in grey pictures, ``k`` of one range each; large ones are made smaller. Returns their name."""
        side = min(pictures.shape[-1], _LARGEST_PICTURE)
        self.packed[name], self.pictures[name] = encode_pictures(resize(pictures, side, 2)), {"side": side}
        return name


def render(
    title: str, headline: str, content: Mapping[str, Any], blocks: Blocks, layout: Layout = CLASS_AVERAGES
) -> str:
    """Put the page together.

    Parameters
    ----------
    title, headline
        Of the window, and the first sentence.
    content
        What the scripts fill the sections with; NaN is refused, since it is not JSON.
    blocks
        The volumes and pictures that ``content`` names.
    layout
        What the page is made of.

    Returns
    -------
    str
        HTML that needs no other file and no network.
    """
    everything = {**content, "densities": blocks.densities, "pictures": blocks.pictures}
    packed = "\n".join(
        f'<script type="text/plain" id="data-{name}">{text}</script>' for name, text in blocks.packed.items()
    )
    parts = {
        "title": html.escape(title),
        "headline": html.escape(headline),
        "style": _file("style.css"),
        # in a script element only "</" and "<!--" have a meaning
        "data": json.dumps(everything, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c"),
        "blobs": packed,
        "script": "\n".join(_file(f"{name}.js") for name in layout.scripts),
        **layout.words,
    }
    sections = "\n".join(_file(f"sections/{name}.html") for name in layout.sections)
    page = _file("page.html").replace("{{sections}}", sections)
    pieces = page.split("{{")
    filled: Sequence[str] = [
        pieces[0],
        *(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:])),
    ]
    return "".join(filled)


def _file(name: str) -> str:
    return (files("scoretomo.report") / "page_files" / name).read_text(encoding="utf-8")
