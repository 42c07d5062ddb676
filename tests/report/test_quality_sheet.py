from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from scoretomo.imaging.quality import Verdict
from scoretomo.report.quality_sheet import quality_sheet

_SIDE = 16


def _image(row: int) -> torch.Tensor:
    """One bright row, counted from the bottom as all images are."""
    image = torch.zeros(_SIDE, _SIDE)
    image[row] = 1.0
    return image


def _drawn(folder: Path, images: torch.Tensor, verdicts: Sequence[Verdict], **options: object) -> np.ndarray:
    quality_sheet(folder / "sheet.png", images, verdicts, **options)  # type: ignore[arg-type]
    return imread(folder / "sheet.png")[..., :3]


def _places(picture: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a colour."""
    rows, columns = np.nonzero((np.abs(picture - to_rgb(colour)) < 0.15).all(-1))
    return rows, columns


def test_images_stand_in_the_order_of_their_verdicts(tmp_path: Path) -> None:
    verdicts: list[Verdict] = ["junk", "good", "doubtful"]
    picture = _drawn(tmp_path, torch.stack([_image(8)] * 3), verdicts)
    middles = [_places(picture, colour)[1].mean() for colour in ("tab:green", "tab:orange", "tab:red")]
    assert middles == pytest.approx([picture.shape[1] * part for part in (1 / 6, 1 / 2, 5 / 6)], rel=0.1)


@pytest.mark.parametrize("row", [2, 13])
def test_images_stand_upright(tmp_path: Path, row: int) -> None:
    picture = _drawn(tmp_path, _image(row)[None], ["good"])
    rows, columns = _places(picture, "tab:green")
    frame = rows[columns == columns.min()]  # its left edge
    bright = frame.min() + np.nonzero(picture[frame.min() : frame.max(), columns.min() + 20].sum(-1) > 2.9)[0]
    height = (frame.max() - bright.mean()) / (frame.max() - frame.min())
    assert height == pytest.approx((row + 0.5) / _SIDE, abs=0.03)


def test_images_that_are_left_out_are_struck_out(tmp_path: Path) -> None:
    images, verdicts = torch.stack([_image(8)] * 2), ["junk", "junk"]
    both, one = (_drawn(tmp_path, images, verdicts, used=used) for used in ({0, 1}, {0}))  # type: ignore[arg-type]
    half = both.shape[1] // 2
    red = [[len(_places(part, "tab:red")[0]) for part in (each[:, :half], each[:, half:])] for each in (both, one)]
    assert red[1][0] == red[0][0]
    assert red[1][1] > red[0][1]
