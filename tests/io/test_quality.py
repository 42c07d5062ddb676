from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.preprocess import PreprocessConfig
from scoretomo.imaging.quality import Quality
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import write_images
from scoretomo.io.quality import add_column, check_images, choose_left_out, read_quality, write_quality
from scoretomo.io.tables import read_table

QUALITY = Quality(
    {"density": torch.tensor([1.0, 0.25, torch.nan, 1.0]), "nearest": torch.tensor([3.0, 0.0, torch.nan, 0.0])},
    ("good", "junk", "junk", "doubtful"),
    ((), ("blurred", "few particles"), ("empty",), ("off centre",)),
)
FILE = Path("averages.mrcs")


def test_the_table_is_read_back_and_takes_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "quality.csv"
    write_quality(path, QUALITY, {0, 3})
    assert [(row.verdict, row.used) for row in read_quality(path)] == [
        ("good", True),
        ("junk", False),
        ("junk", False),
        ("doubtful", True),
    ]
    assert read_quality(path)[1].reasons == "blurred; few particles"
    assert [row["density"] for row in read_table(path)] == ["1", "0.25", "", "1"]
    for values in ([1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 8.0]):
        add_column(path, "denoiser_outlier", values)
    assert [row["denoiser_outlier"] for row in read_table(path)] == ["0.5", "0.5", "0.5", "8"]
    assert len(read_quality(path)) == 4


def test_a_table_of_something_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "quality.csv"
    path.write_text("index,verdict,used,reasons\n0,splendid,1,\n")
    with pytest.raises(InputError, match="splendid"):
        read_quality(path)


def test_the_user_overrules_the_check() -> None:
    assert choose_left_out(FILE, QUALITY) == [1, 2]
    assert choose_left_out(FILE, QUALITY, keep=[1]) == [2]
    assert choose_left_out(FILE, QUALITY, keep=[1], exclude=[3]) == [2, 3]
    assert choose_left_out(FILE, QUALITY, check=False, exclude=[2]) == [2]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"keep": [4]}, "0 to 3"),
        ({"exclude": [-1]}, "0 to 3"),
        ({"exclude": [0]}, "views from several directions"),
        ({"check": False}, "constant"),
        ({"keep": [2]}, "constant"),
    ],
)
def test_choices_that_cannot_be_used_are_refused(choice: dict[str, list[int] | bool], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_left_out(FILE, QUALITY, **choice)  # type: ignore[arg-type]


def test_populations_and_resolutions_come_from_the_star_file(tmp_path: Path, generator: torch.Generator) -> None:
    """RELION writes inf, and may write nan, for a class that has lost its particles; the order is that of the rows."""
    structure = 1 + 0.1 * torch.randn(20, 24, 24, generator=generator)
    write_images(tmp_path / "classes.mrcs", ImageStack(structure * soft_ball(24, 2, 6.0, 2.0), 3.0))
    resolutions = ["9.0"] * 18 + ["25.0", "inf"]
    rows = [f"{20 - i:06d}@classes.mrcs {(i + 1) / 210:.4f} {resolutions[i]}" for i in range(20)]
    star = tmp_path / "class_averages.star"
    columns = "_rlnReferenceImage #1\n_rlnClassDistribution #2\n_rlnEstimatedResolution #3\n"
    star.write_text("data_\n\nloop_\n" + columns + "\n".join(rows) + "\n")
    quality, images = check_images(star, read_image_stack(star).stack, PreprocessConfig(side=12))
    assert images.shape == (20, 24, 24)
    assert quality.parts["population"][:3].tolist() == pytest.approx([1 / 210, 2 / 210, 3 / 210], rel=1e-2)
    assert quality.parts["resolution_angstrom"][[0, 18]].tolist() == [9.0, 25.0]
    assert quality.which("junk") == [18]
    assert quality.which("doubtful") == [0, 1]  # under a fifth of the median population
