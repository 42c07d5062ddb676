"""From states back to particles: who comes from which class, what is left out and why; and all are accounted for."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from scoretomo import cli
from scoretomo.datatypes import ImageStack, Volume
from scoretomo.imaging.fourier import centred_fft, radius_grid
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.cryosparc import cs_bytes, read_cs
from scoretomo.io.mrc import read_volume, write_images, write_volume

# index, reliable, cluster: image 3 is not reliable, though a cluster would hold it, and image 4 has no volume
LANDSCAPE = "index,reliable,cluster,map_1\n0,True,0,0.1\n1,True,1,0.2\n2,True,0,0.3\n3,False,1,0.4\n5,True,2,0.5\n"
OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n_rlnImageSize #3\n1 3.0 40\n\n"
HEAD = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnClassNumber #2\n"


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run of six images; ``classes`` are the class numbers that it knows them by."""

    def make(source: str = "averages.star", classes: Sequence[int] | None = None) -> Path:
        run = tmp_path / "run"
        (run / "ensemble" / "clusters").mkdir(parents=True)
        table = {"path": source, "sha256": "0", "images": 6, "side": 40, "pixel_size_angstrom": 3.0}
        table |= {"classes": list(classes)} if classes else {}
        made = {"scoretomo": "0.1.0", "command": "scoretomo run", "input": table, "settings": {"budget": 1}}
        (run / "config.toml").write_text(tomli_w.dumps(made))
        (run / "ensemble" / "landscape.csv").write_text(LANDSCAPE)
        (run / "ensemble" / "reliability.csv").write_text(
            "index,verdict,reasons\n0,reliable,\n3,wrong,seeds disagree; blurred\n"
        )
        for state in range(3):
            ball = soft_ball(24, 3, 4.0 + state, 2.0)
            write_volume(run / "ensemble" / "clusters" / f"cluster_{state}.mrc", Volume(ball, 4.0))
        return run

    return make


def star(path: Path, classes: Sequence[int], head: str = OPTICS + HEAD) -> Path:
    path.write_text(head + "".join(f"{i + 1:06d}@stack.mrcs   {number}\n" for i, number in enumerate(classes)))
    return path


def row_numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"^(\d{6})@", path.read_text(), re.MULTILINE)]


def detail(volume: Volume) -> float:
    """Largest amplitude beyond 1/23 A, as a part of the largest of all."""
    amplitudes = centred_fft(volume.voxels, 3).abs()
    frequency = radius_grid(volume.side, 3) / (volume.side * volume.pixel_size_angstrom)
    return (amplitudes[frequency > 1 / 23].max() / amplitudes.max()).item()


def refusal(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["particles", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_particles_go_to_the_state_of_their_class(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(classes=[11, 3, 7, 9, 5, 1])
    particles = star(tmp_path / "run_it025_data.star", [3, 7, 11, 9, 9, 9, 5, 20, 7, 0])
    assert cli.main(["particles", str(run), str(particles)]) == 0
    folder = run / "particles"
    assert row_numbers(folder / "state_0.star") == [2, 3, 9]  # classes 7 and 11
    assert row_numbers(folder / "state_1.star") == [1]  # class 3; class 9 is not reliable
    assert not (folder / "state_2.star").exists() and not (folder / "state_2.mrc").exists()  # class 1 has no particles
    assert (folder / "state_0.star").read_text().startswith(OPTICS + HEAD)
    said = capsys.readouterr().out
    for line in (
        r"10 particles of 7 classes in run_it025_data\.star",
        r"  0 +3 +2  images 0, 2; classes 7, 11; state_0\.star state_0\.mrc",
        r"  1 +1 +1  images 1; classes 3; state_1\.star state_1\.mrc",
        r"  2 +0 +1  images 5; classes 1; no particles, no files",
        r"none +3 +1  images 3; classes 9; volume is not reliable",
        r"none +1 +1  images 4; classes 5; volume is not in the landscape",
        r"none +2 +2  classes 0, 20; class is not in the run",
        r"  all +10",
    ):
        assert re.search(line, said), line
    with (folder / "classes.csv").open() as file:
        rows = {int(row["class"]): row for row in csv.DictReader(file)}
    assert sum(int(row["particles"]) for row in rows.values()) == 10
    assert rows[9]["why_none"] == "volume is not reliable" and rows[9]["reasons"] == "seeds disagree; blurred"
    assert (rows[7]["index"], rows[7]["state"], rows[20]["index"], rows[20]["state"]) == ("2", "0", "", "")


def test_starting_models_are_coarse_and_on_the_grid_of_the_particles(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run(classes=[1, 2, 3, 4, 5, 6])
    particles = star(tmp_path / "a.star", [1, 2])
    assert cli.main(["particles", str(run), str(particles)]) == 0
    model = read_volume(run / "particles" / "state_1.mrc").volume
    assert (model.side, model.pixel_size_angstrom) == (40, 3.0)
    cluster = read_volume(run / "ensemble" / "clusters" / "cluster_1.mrc").volume
    assert detail(model) < 1e-2
    assert model.voxels.sum().item() * 3**3 == pytest.approx(cluster.voxels.sum().item() * 4**3, rel=0.02)
    assert cli.main(["particles", str(run), str(star(tmp_path / "a.star", [1, 2], HEAD)), "--resolution", "10"]) == 0
    model = read_volume(run / "particles" / "state_1.mrc").volume
    assert (model.side, model.pixel_size_angstrom) == (24, 4.0)  # nothing known of the particles
    assert detail(model) == pytest.approx(detail(cluster), rel=0.01)


def test_cryosparc_counts_classes_from_0(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("templates_selected.cs", classes=[11, 3, 7, 9, 5, 1])
    table = np.zeros(4, dtype=[("uid", "<u8"), ("alignments2D/class", "<u4")])
    table["uid"], table["alignments2D/class"] = [40, 10, 30, 20], [6, 2, 10, 19]
    own, more = table[["uid"]], tmp_path / "J12_020_particles.cs"
    (tmp_path / "J12_passthrough_particles.cs").write_bytes(cs_bytes(np.array(own.tolist(), dtype=[("uid", "<u8")])))
    more.write_bytes(cs_bytes(table))
    arguments = ["particles", str(run), str(more), "--passthrough", str(tmp_path / "J12_passthrough_particles.cs")]
    assert cli.main(arguments) == 0
    assert read_cs(run / "particles" / "state_0.cs").rows.tobytes() == table[[0, 2]].tobytes()
    assert read_cs(run / "particles" / "state_0_passthrough.cs").rows["uid"].tolist() == [40, 30]
    said = capsys.readouterr().out
    assert "classes 6, 10; state_0.cs state_0_passthrough.cs state_0.mrc" in said
    assert re.search(r"none +1 +1  classes 19; class is not in the run", said)
    with (run / "particles" / "classes.csv").open() as file:
        assert {row["class"]: row["particles"] for row in csv.DictReader(file)}["10"] == "1"
    # given numbers are counted in the same way
    assert cli.main([*arguments, "--classes", "2", "6", "10", "8", "4", "0"]) == 0
    assert read_cs(run / "particles" / "state_1.cs").rows["uid"].tolist() == [40]


def test_files_of_an_earlier_call_do_not_stay(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(classes=[1, 2, 3, 4, 5, 6])
    assert cli.main(["particles", str(run), str(star(tmp_path / "a.star", [1, 2, 6]))]) == 0
    assert (run / "particles" / "state_2.star").exists()
    assert cli.main(["particles", str(run), str(star(tmp_path / "a.star", [1, 2]))]) == 0
    names = sorted(path.name for path in (run / "particles").iterdir())
    assert names == ["classes.csv", "state_0.mrc", "state_0.star", "state_1.mrc", "state_1.star"]


def test_images_of_a_plain_stack_are_classes_by_their_places(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run_it025_classes.mrcs")
    assert cli.main(["particles", str(run), str(star(tmp_path / "a.star", [2, 1, 3, 6]))]) == 0
    assert row_numbers(run / "particles" / "state_0.star") == [2, 3]
    assert "classes.mrcs" not in capsys.readouterr().out
    # more classes than images: the stack is a selection, and places say nothing
    line = refusal([str(run), str(star(tmp_path / "b.star", [2, 7]))], capsys)
    assert "plain stack of 6 images, and there are particles of class 7" in line and "--classes" in line
    assert row_numbers(run / "particles" / "state_0.star") == [2, 3]


def test_class_numbers_can_be_given(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("averages.star")  # made before class numbers were kept, or of several stacks
    particles = star(tmp_path / "a.star", [12, 10, 10])
    assert "give the numbers with --classes" in refusal([str(run), str(particles)], capsys)
    numbers = ["12", "10", "8", "6", "4", "2"]
    assert cli.main(["particles", str(run), str(particles), "--classes", *numbers]) == 0
    assert row_numbers(run / "particles" / "state_1.star") == [2, 3]
    table = tmp_path / "classes.csv"
    table.write_text("index,class\n" + "".join(f"{5 - i},{number}\n" for i, number in enumerate(reversed(numbers))))
    assert cli.main(["particles", str(run), str(particles), "--classes", str(table)]) == 0
    assert row_numbers(run / "particles" / "state_1.star") == [2, 3]
    capsys.readouterr()
    for given, message in (
        (["1", "2"], "2 numbers for the 6 images"),
        (["1", "2", "3", "4", "5", "5"], "class 5 is given to more than one image"),
        (["1", "2", "3", "4", "5", "x"], "whole numbers"),
        ([str(tmp_path / "none.csv")], "none.csv: No such file"),
    ):
        assert message in refusal([str(run), str(particles), "--classes", *given], capsys)
    table.write_text("index,class\n0,1\n")
    assert "no column or image 1" in refusal([str(run), str(particles), "--classes", str(table)], capsys)


def test_what_cannot_be_done_is_said_and_leaves_no_files(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(classes=[11, 3, 7, 9, 5, 1])
    good = star(tmp_path / "a.star", [3, 7])
    assert "no rlnClassNumber" in refusal(
        [str(run), str(star(tmp_path / "b.star", [1], HEAD.replace("ClassNumber", "Other")))], capsys
    )
    assert "none of its classes is in the run (20, 21 there" in refusal(
        [str(run), str(star(tmp_path / "b.star", [20, 21]))], capsys
    )
    assert "is no run folder" in refusal([str(tmp_path), str(good)], capsys)
    assert "no such file" in refusal([str(run), str(tmp_path / "none.star")], capsys)
    assert "positive" in refusal([str(run), str(good), "--resolution", "0"], capsys)
    (run / "ensemble" / "clusters" / "cluster_1.mrc").unlink()
    assert "cluster_1.mrc" in refusal([str(run), str(good)], capsys)
    (run / "ensemble" / "landscape.csv").write_text("index,reliable\n0,True\n")
    assert "has no column cluster; run `scoretomo ensemble` again" in refusal([str(run), str(good)], capsys)
    (run / "ensemble" / "landscape.csv").unlink()
    assert "run `scoretomo ensemble` again" in refusal([str(run), str(good)], capsys)
    assert not (run / "particles").exists()


def test_the_class_numbers_of_a_star_file_reach_the_run(
    make_run: Callable[..., Path], tmp_path: Path, generator: torch.Generator
) -> None:
    """The whole way: train on a selection that RELION has renumbered, then ask for particles."""
    structure = 1 + 0.3 * torch.randn(6, 16, 16, generator=generator)
    write_images(tmp_path / "class_averages.mrcs", ImageStack(structure * soft_ball(16, 2, 4.0, 2.0), 3.5))
    numbers = [11, 3, 7, 9, 5, 1]
    head = "data_\n\nloop_\n_rlnReferenceImage #1\n_rlnClassNumber #2\n"
    rows = "".join(f"{i + 1}@class_averages.mrcs {number}\n" for i, number in enumerate(numbers))
    (tmp_path / "class_averages.star").write_text(head + rows)
    tiny = "--unet.channels 32 32 --unet.patch 2 --unet.layers-per-block 1 --optimiser.batch-size 8 --budget 8".split()
    run = tmp_path / "new"
    assert cli.main(["train", str(tmp_path / "class_averages.star"), "-o", str(run), *tiny]) == 0
    (make_run() / "ensemble").rename(run / "ensemble")
    assert cli.main(["particles", str(run), str(star(tmp_path / "a.star", [3, 7, 11]))]) == 0
    assert row_numbers(run / "particles" / "state_0.star") == [2, 3]
