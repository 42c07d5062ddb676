"""Images that tables name: where stacks lie, and what tables and stacks say of the same images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.datatypes import ImageStack, InputError, Volume
from scoretomo.io.cryosparc import cs_bytes
from scoretomo.io.images import describe, read_image_stack
from scoretomo.io.mrc import write_images, write_volume
from scoretomo.io.particles import read_particles


def stack(path: Path, count: int = 4, pixel_size: float = 4.0, first: float = 0.0) -> Path:
    """Image ``i`` has the value ``first + i``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = first + torch.arange(float(count))[:, None, None].expand(count, 8, 8)
    write_images(path, ImageStack(images, pixel_size))
    return path


def star(path: Path, names: list[str], pixel_size: float | None = None, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n_rlnImageSize #3\n"
    optics = "" if pixel_size is None else f"{optics}1 {pixel_size} {side}\n\n"
    rows = "".join(f"{name} 1\n" for name in names)
    path.write_text(f"{optics}data_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n{rows}")
    return path


def cs(path: Path, name: str, pixel_size: float = 4.0, side: int = 8, indices: tuple[int, ...] = (0, 1)) -> Path:
    rows = np.zeros(
        len(indices),
        [
            ("uid", "<u8"),
            ("blob/path", "S80"),
            ("blob/idx", "<i4"),
            ("blob/shape", "<u4", (2,)),
            ("blob/psize_A", "<f4"),
        ],
    )
    rows["uid"], rows["blob/path"], rows["blob/idx"] = np.arange(len(indices)) + 1, name.encode(), indices
    rows["blob/shape"], rows["blob/psize_A"] = side, pixel_size
    path.write_bytes(cs_bytes(rows))
    return path


@pytest.fixture(params=["star", "cs"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[float, int], Path]:
    """Make a table of two images of ``a.mrcs`` with this pixel size and side."""
    if request.param == "star":
        return lambda size, side: star(tmp_path / "a.star", ["1@a.mrcs", "2@a.mrcs"], size, side)
    return lambda size, side: cs(tmp_path / "a.cs", "a.mrcs", size, side)


def test_a_table_of_larger_images_is_refused(tmp_path: Path, table: Callable[[float, int], Path]) -> None:
    """Stacks were made smaller, and the table still has side and pixel size of the large images."""
    stack(tmp_path / "a.mrcs", pixel_size=4.0)
    path = table(1.25, 32)
    for read in (read_image_stack, read_particles):
        with pytest.raises(InputError, match=r"1\.25 A .* 32 pixels.* a\.mrcs .* 8 and 4 A .*--pixel-size"):
            read(path)
    assert read_image_stack(path, 4.0).stack.pixel_size_angstrom == 4
    assert any("1.25 A" in line and "--pixel-size" in line for line in describe(path))


def test_stacks_made_smaller_whose_headers_know_it(tmp_path: Path, table: Callable[[float, int], Path]) -> None:
    """The box is as wide as the table says, so that both are right: the table of the images as they were."""
    stack(tmp_path / "a.mrcs", pixel_size=4.0)
    loaded = read_image_stack(table(1.0, 32))
    assert loaded.stack.pixel_size_angstrom == 4
    assert any("32 pixels of 1 A" in note and "8 of 4 A" in note for note in loaded.notes)
    assert read_particles(table(1.0, 32)).pixel_size_angstrom == 4


def test_headers_that_contradict_the_table_are_refused(tmp_path: Path, table: Callable[[float, int], Path]) -> None:
    stack(tmp_path / "a.mrcs", pixel_size=4.0)
    with pytest.raises(InputError, match=r"says 1 A .* headers of the stacks say 4 A .*--pixel-size"):
        read_image_stack(table(1.0, 8))
    assert read_image_stack(table(1.0, 8), 1.0).stack.pixel_size_angstrom == 1


def test_a_size_calibrated_anew_is_taken_and_said(tmp_path: Path, table: Callable[[float, int], Path]) -> None:
    stack(tmp_path / "a.mrcs", pixel_size=4.0)
    loaded = read_image_stack(table(4.1, 8))
    assert loaded.stack.pixel_size_angstrom == pytest.approx(4.1)
    assert any("4 A" in note and "4.1 A" in note for note in loaded.notes)
    assert len(read_image_stack(table(4.0, 8)).notes) == 1


def test_headers_that_say_nothing_contradict_nothing(tmp_path: Path, table: Callable[[float, int], Path]) -> None:
    stack(tmp_path / "a.mrcs", pixel_size=1.0)  # a placeholder
    assert read_image_stack(table(4.0, 8)).stack.pixel_size_angstrom == 4


def test_stacks_of_several_pixel_sizes(tmp_path: Path) -> None:
    stack(tmp_path / "a.mrcs", pixel_size=4.0)
    stack(tmp_path / "b.mrcs", pixel_size=3.0)
    path = star(tmp_path / "x.star", ["1@a.mrcs", "1@b.mrcs"])
    with pytest.raises(InputError, match="pixel sizes from 3 to 4 A"):
        read_image_stack(path)
    assert len(read_image_stack(path, 4.0).stack) == 2


def test_a_stack_named_without_a_number(tmp_path: Path) -> None:
    """RELION 5 names stacks of many images so; the first of each is not what is meant."""
    stack(tmp_path / "a.mrcs", count=4)
    stack(tmp_path / "single.mrcs", count=1, first=7)
    with pytest.raises(InputError, match=r"row 1 names a\.mrcs without saying which of its 4 sections"):
        read_image_stack(star(tmp_path / "x.star", ["a.mrcs"]))
    assert read_image_stack(star(tmp_path / "x.star", ["single.mrcs"])).stack.images[0, 0, 0] == 7


def test_volumes_are_no_class_averages(tmp_path: Path) -> None:
    write_volume(tmp_path / "c1.mrc", Volume(torch.rand(8, 8, 8), 4.0))
    path = tmp_path / "run_it025_model.star"
    classes = "data_model_classes\n\nloop_\n_rlnReferenceImage #1\n_rlnClassDistribution #2\nc1.mrc 1.0\n"
    path.write_text(classes)
    with pytest.raises(InputError, match=r"c1\.mrc without saying .*a volume is no class average"):
        read_image_stack(path)
    path.write_text(f"data_model_general\n\n_rlnReferenceDimensionality 3\n\n{classes}")
    with pytest.raises(InputError, match="is of a 3D classification, whose references are volumes"):
        read_image_stack(path)


def test_places_beyond_any_stack(tmp_path: Path) -> None:
    stack(tmp_path / "a.mrcs")
    with pytest.raises(InputError, match=r"a\.cs: blob/idx of row 2 is -1, and images count from 0"):
        read_image_stack(cs(tmp_path / "a.cs", "a.mrcs", indices=(0, -1)))
    for number in (5, 10**12):
        with pytest.raises(InputError, match=rf"row 1 asks for image {number} of a\.mrcs, which has 4"):
            read_image_stack(star(tmp_path / "x.star", [f"{number}@a.mrcs"]))
    with pytest.raises(InputError, match="N@stack"):
        read_image_stack(star(tmp_path / "x.star", [f"{10**30}@a.mrcs"]))


def test_stacks_are_found_where_they_were_moved_to(tmp_path: Path) -> None:
    """By the end of their names: beside the table, or in the folder that is given."""
    path = star(tmp_path / "here" / "x.star", ["2@/gone/Class2D/job012/run_classes.mrcs"])
    stack(tmp_path / "here" / "run_classes.mrcs", first=10)
    loaded = read_image_stack(path)
    assert loaded.stack.images[0, 0, 0] == 11
    assert any("/gone/Class2D/job012/run_classes.mrcs is taken from" in note for note in loaded.notes)
    stack(tmp_path / "data" / "job012" / "run_classes.mrcs", first=20)
    assert read_image_stack(path, datadir=tmp_path / "data").stack.images[0, 0, 0] == 21
    assert read_particles(path, datadir=tmp_path / "data").images.read([0])[0, 0, 0] == 21
    (tmp_path / "here" / "run_classes.mrcs").unlink()
    with pytest.raises(InputError, match=r"1 of 1 image stacks are missing.*/gone/.*--datadir FOLDER"):
        read_image_stack(path)


def test_two_stacks_of_one_name_are_not_taken_for_one(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    path = star(tmp_path / "x.star", ["1@/gone/a/stack.mrcs", "1@/gone/b/stack.mrcs"])
    with pytest.raises(
        InputError, match=r"names /gone/\w/stack\.mrcs and /gone/\w/stack\.mrcs, for which there is one"
    ):
        read_image_stack(path)
    stack(tmp_path / "data" / "a" / "stack.mrcs", first=10)
    stack(tmp_path / "data" / "b" / "stack.mrcs", first=20)
    assert read_image_stack(path, datadir=tmp_path / "data").stack.images[:, 0, 0].tolist() == [10, 20]


def test_tables_behind_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Job folders that are links out of the project, and a table that is a link beside its stacks."""
    stack(tmp_path / "project" / "Class2D" / "job012" / "a.mrcs", first=10)
    star(tmp_path / "disk" / "Select" / "job013" / "averages.star", ["1@Class2D/job012/a.mrcs"])
    (tmp_path / "project" / "Select").symlink_to(tmp_path / "disk" / "Select")
    assert len(read_image_stack(tmp_path / "project" / "Select" / "job013" / "averages.star").stack) == 1
    monkeypatch.chdir(tmp_path / "project")
    assert len(read_image_stack(tmp_path / "disk" / "Select" / "job013" / "averages.star").stack) == 1
    stack(tmp_path / "export" / "images" / "b.mrcs")
    cs(tmp_path / "disk" / "x.cs", ">images/b.mrcs")
    (tmp_path / "export" / "x.cs").symlink_to(tmp_path / "disk" / "x.cs")
    assert len(read_image_stack(tmp_path / "export" / "x.cs").stack) == 2


def test_an_image_that_is_excluded_may_hold_nan(tmp_path: Path, table: Callable[[float, int], Path]) -> None:
    path = stack(tmp_path / "a.mrcs")
    content = path.read_bytes()
    path.write_bytes(content[: 1024 + 4 * 70] + np.float32("nan").tobytes() + content[1024 + 4 * 71 :])
    for file in (path, table(4.0, 8)):
        with pytest.raises(InputError, match="images 1 hold NaN or infinite values; repair or --exclude them"):
            read_image_stack(file)
        assert read_image_stack(file, exclude=[1]).stack.images.isfinite().all()
    assert read_image_stack(path, exclude=[1]).stack.images[2:, 0, 0].tolist() == [2, 3]
