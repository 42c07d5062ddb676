import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.commands.average_sets import build_moving_object, write_averages
from scoretomo.datatypes import InputError, Volume
from scoretomo.io.image_table import read_image_table
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import read_images, read_volume, write_volume
from scoretomo.io.particle_rows import read_particle_rows
from scoretomo.io.star import read_class_figures, read_poses, table_ctf, table_halves, table_poses
from scoretomo.simulation.averages import AverageConfig, simulate_averages

CONFIG = AverageConfig(count=5, side=24, particles_per_class=6, snr=2.0)
LINE = "ATOM  {:5d}  CA  ALA {}{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C\n"


def model(path: Path) -> Path:
    """Three chains in a row, A in the middle."""
    chains = {"A": (1, 0.0, 0.0), "B": (11, 22.0, 1.0), "C": (21, -22.0, -1.0)}
    lines = [
        LINE.format(start + i, chain, start + i, x + 2 * i, 3.0 * (i % 3), z * i)
        for chain, (start, x, z) in chains.items()
        for i in range(10)
    ]
    path.write_text("".join(lines))
    return path


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five averages of the capsid and three of junk."""
    made = tmp_path_factory.mktemp("averages") / "set"
    command = f"simulate averages capsid -o {made} --count 5 --side 24 --particles-per-class 6 --junk 3 --snr 2"
    assert cli.main(command.split()) == 0
    return made


def test_files_of_a_set_belong_together(folder: Path) -> None:
    stacks = [read_images(folder / f"images{half}.mrcs").stack for half in ("", "_even", "_odd")]
    assert stacks[0].images.shape == (8, 24, 24)
    assert stacks[0].pixel_size_angstrom == pytest.approx(352 / 24)
    torch.testing.assert_close(stacks[0].images, (stacks[1].images + stacks[2].images) / 2)
    assert not torch.allclose(stacks[1].images, stacks[2].images)
    found, _ = build_moving_object("capsid", CONFIG)
    made = simulate_averages(found, CONFIG)
    torch.testing.assert_close(stacks[0].images[:5], made.images)
    poses = read_poses(folder / "particles.star")
    torch.testing.assert_close(poses.rotations, made.truth.poses.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(poses.shifts_angstrom, made.truth.poses.shifts_angstrom, atol=1e-4, rtol=0)
    assert len(list((folder / "truth").iterdir())) == 5
    for index, volume in enumerate(made.volumes):
        torch.testing.assert_close(read_volume(folder / "truth" / f"volume_{index:04d}.mrc").volume.voxels, volume)
    assert cli.main(f"simulate averages capsid -o {folder}".split()) == 2  # the folder is taken


def test_table_of_the_truth_marks_junk_where_it_was_asked_for(folder: Path, tmp_path: Path) -> None:
    rows = table(folder / "truth.csv")
    assert [row["junk"] for row in rows] == ["0"] * 5 + ["1"] * 3
    assert [row["image"] for row in rows] == [str(number) for number in range(8)]
    assert all(0 <= float(row["opening"]) <= 1 for row in rows[:5]) and {row["opening"] for row in rows[5:]} == {""}
    found, _ = build_moving_object("capsid", CONFIG)
    write_averages(tmp_path / "clean", found, simulate_averages(found, CONFIG), CONFIG)
    assert list(table(tmp_path / "clean" / "truth.csv")[0]) == ["image", "opening"]


def test_class_model_is_read_back_as_averages_with_shares_and_resolutions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = read_image_stack(folder / "model.star")
    assert torch.equal(loaded.stack.images, read_images(folder / "images.mrcs").stack.images)
    assert loaded.stack.pixel_size_angstrom == pytest.approx(352 / 24) and loaded.class_numbers == tuple(range(1, 9))
    figures = read_class_figures(folder / "model.star")
    assert figures["populations"].tolist() == pytest.approx([1 / 8] * 8)
    resolutions = figures["resolutions_angstrom"]
    assert ((resolutions >= 2 * 352 / 24 - 0.01) & (resolutions <= 999)).all()
    assert resolutions[:5].max() < 60 < resolutions[5]  # the first junk is noise
    capsys.readouterr()
    assert cli.main(["info", str(folder / "model.star")]) == 0
    assert "8 of 24 x 24 pixels" in capsys.readouterr().out


def test_particles_have_class_pose_contrast_transfer_and_half(folder: Path) -> None:
    numbers = read_particle_rows(folder / "data.star").class_numbers
    assert numbers.tolist() == [number for number in range(1, 9) for _ in range(6)]
    rows = read_image_table(folder / "data.star")
    halves = table_halves(rows)
    assert halves is not None and halves.tolist() == [1, 2] * 24
    found, _ = build_moving_object("capsid", CONFIG)
    truth = simulate_averages(found, CONFIG).truth
    poses, ctf = table_poses(rows, 352 / 24), table_ctf(rows)
    assert poses is not None and ctf is not None and truth.ctf is not None
    torch.testing.assert_close(poses.rotations[:30], truth.particle_poses.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(poses.shifts_angstrom[:30], truth.particle_poses.shifts_angstrom, atol=1e-4, rtol=0)
    torch.testing.assert_close(ctf.defocus_u_angstrom[:30], truth.ctf.defocus_u_angstrom, atol=0.01, rtol=0)


def test_no_contrast_transfer_no_columns(tmp_path: Path) -> None:
    config = replace(CONFIG, defocus_micrometers=None, junk=1)
    found, _ = build_moving_object("box", replace(config, widest_angle_degrees=0.0))
    write_averages(tmp_path / "set", found, simulate_averages(found, config), config)
    assert table_ctf(read_image_table(tmp_path / "set" / "data.star")) is None


def test_two_named_chains_move_by_angles_of_their_own(tmp_path: Path) -> None:
    command = f"simulate averages {model(tmp_path / 'three.pdb')} -o {tmp_path / 'set'} --count 6 --side 24"
    assert cli.main([*command.split(), "--particles-per-class", "2", "--moving", "B", "--moving", "C"]) == 0
    rows = table(tmp_path / "set" / "truth.csv")
    angles = torch.tensor([[float(row[f"angle_{i}_degrees"]) for row in rows] for i in (1, 2)])
    assert angles.min() >= 0 and 20 < angles.max() <= 50
    assert (angles[0] - angles[1]).abs().min() > 0.1 and abs(torch.corrcoef(angles)[0, 1]) < 0.95


def test_what_moves_and_how_far_where_nothing_is_said(tmp_path: Path) -> None:
    path = str(model(tmp_path / "three.pdb"))
    assert build_moving_object(path, CONFIG)[0].names == ()
    assert build_moving_object(path, CONFIG, motions=1)[0].widest.tolist() == [50.0]
    two, _ = build_moving_object(path, replace(CONFIG, widest_angle_degrees=20.0), motions=2)
    assert two.names == ("angle_1_degrees", "angle_2_degrees") and two.widest.tolist() == [20.0, 20.0]
    alone, _ = build_moving_object(path, replace(CONFIG, widest_angle_degrees=30.0))
    assert alone.names == ("angle_degrees",) and alone.widest.tolist() == [30.0]
    assert build_moving_object("hand", replace(CONFIG, widest_angle_degrees=60.0))[0].names == ("angle_degrees",)
    write_volume(tmp_path / "map.mrc", Volume(torch.ones(32, 32, 32), 2.0))
    assert build_moving_object(str(tmp_path / "map.mrc"), CONFIG)[0].names == ()


@pytest.mark.parametrize(
    "words, message",
    [
        ("box --moving A", "only an atomic model has a part"),
        ("capsid --motions 1", "only an atomic model has motions"),
        ("capsid --widest-angle-degrees 20", "capsid: its arms go from closed to open"),
        ("three.pdb --motions 3", "one or two parts can move, not 3"),
        ("three.pdb --moving B --motions 2", "not 2, with 1 parts named"),
        ("three.pdb --moving B --moving B", "share residues"),
        ("three.pdb --moving B --moving A,C", "whole model"),
        ("three.pdb --moving B --widest-angle-degrees 0", "to which angle is B"),
        ("three.pdb --moving X", "has no chain X"),
        ("nowhere.pdb", "there is no such file"),
        ("nowhere.npz:4", "nowhere.npz"),
        ("box --particles-per-class 5", "even number"),
        ("box --count 0", "count must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "three.pdb")
    assert cli.main(["simulate", "averages", *words.split(), "-o", "set"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_object_that_is_nothing_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "zero.mrc", Volume(torch.zeros(32, 32, 32), 2.0))
    found, _ = build_moving_object(str(tmp_path / "zero.mrc"), CONFIG)
    with pytest.raises(InputError, match="show nothing"):
        simulate_averages(found, CONFIG)
