"""What evaluate says of motion: its files, its numbers, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.commands import evaluate as evaluate_command
from scoretomo.commands.evaluate_motion import MotionFiles, find_motion_files, read_columns, read_motion_inputs
from scoretomo.datatypes import InputError, Poses, Volume
from scoretomo.evaluation.comparison import Comparison
from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.geometry.rotations import random_rotations
from scoretomo.io.mrc import write_volume
from scoretomo.io.star import read_poses, write_particles
from scoretomo.io.tables import write_table

COUNT, SIDE = 5, 16


def blobs(travel: float, rotation: torch.Tensor) -> torch.Tensor:
    centres = torch.tensor([[0.0, 0, 0], [-3, 1, 1], [2, -3, 0], [2 + travel, 2, 2]]) @ rotation.T
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    return torch.exp(-(points - centres[:, None, None, None]).square().sum(-1) / 3).sum(0)


def write_set(folder: Path, widest: float) -> None:
    """Truths, poses and parameters, as simulate writes them, and volumes that are the truths with noise."""
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(COUNT, generator=generator)
    opening = torch.linspace(-1, 1, COUNT)[torch.randperm(COUNT, generator=generator)]
    for name in ("sim/truth", "run/volumes", "run/motion", "run/consensus"):
        (folder / name).mkdir(parents=True)
    for index in range(COUNT):
        truth = blobs(widest * float(opening[index]), rotations[index])
        noisy = 3 * truth + 0.02 * torch.randn(truth.shape, generator=generator)
        write_volume(folder / f"sim/truth/volume_{index:04d}.mrc", Volume(truth, 4.0))
        write_volume(folder / f"run/volumes/volume_{index:04d}.mrc", Volume(noisy, 4.0))
    poses = Poses(rotations, torch.zeros(COUNT, 2))
    write_particles(folder / "sim/particles.star", "images.mrcs", poses, pixel_size_angstrom=4.0, side=SIDE)
    rows = enumerate(opening.tolist())
    write_table(folder / "sim/truth.csv", [{"image": index, "opening": value} for index, value in rows])
    rows = enumerate(opening.tolist())
    write_table(
        folder / "run/motion/coordinates.csv",
        [{"index": index, "z_1": -value, "z_2": 0.0, "error_1": 0.1, "error_2": 0.1} for index, value in rows],
    )
    write_volume(folder / "run/consensus/consensus.mrc", Volume(blobs(0.0, rotations[2]), 4.0))
    (folder / "run/config.toml").touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path, 2.0)
    return tmp_path


@pytest.fixture
def unaligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The volumes lie in the frames of their truths already; the search would take seconds."""

    def compare(volumes: torch.Tensor, truths: torch.Tensor, _: float, indices: list[int]) -> list[Comparison]:
        curve = fourier_shell_correlation(volumes, truths)[0]
        return [Comparison(indices[0], float(area_under_curve(curve)), 2.0, 8.0, False, 0.1, curve, volumes[0])]

    monkeypatch.setattr(evaluate_command, "compare", compare)


Run = Callable[..., int]


@pytest.fixture
def evaluate(folder: Path, unaligned: None) -> Run:
    def run(*options: str, volumes: str = "run", reference: str = "sim/truth") -> int:
        given = ["evaluate", str(folder / volumes), "--reference", str(folder / reference), "-o", str(folder / "out")]
        return cli.main([*given, *options])

    return run


def results(folder: Path) -> dict:
    return json.loads((folder / "out/evaluation.json").read_text())


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("evaluate:")]
    assert len(said) == 1
    return said[0]


def test_a_run_folder_is_measured_with_what_lies_in_it(
    evaluate: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate() == 0
    found = results(folder)
    motion, volumes = found["motion"], found["volumes"]
    assert list(found)[:3] == ["median_fsc_auc", "mean_fsc_auc", "median_resolution_pixels"]
    assert motion["rigid_map"] == "consensus.mrc"
    assert motion["frame"] == "true poses"
    assert motion["median_own_difference"] > 0.6 > motion["median_rigid_own_difference"]
    assert motion["nearest_share"] == 1
    assert motion["median_rank_of_own_truth"] == 0
    assert motion["same_hand_share"] == 1
    assert len(motion["similarity"]) == len(motion["similarity"][0]) == COUNT
    ranks = motion["rank_correlation"]
    assert ranks["parameters"] == ["opening"]
    assert ranks["coordinates"] == ["z_1", "z_2"]  # and no errors
    assert ranks["matrix"] == [[1.0, 0.0]]
    assert ranks["first_coordinate"] == ranks["each_parameter"]["opening"] == pytest.approx(1)
    keys = ["index", "fsc_auc", "resolution_pixels", "resolution_angstrom", "mirrored", "hand_margin"]
    assert list(volumes[0])[:6] == keys
    for volume in volumes:
        assert volume["gain_over_rigid"] == pytest.approx(volume["fsc_auc"] - volume["rigid_fsc_auc"], abs=1e-5)
    assert motion["median_gain_over_rigid"] == pytest.approx(sorted(v["gain_over_rigid"] for v in volumes)[2])
    with (folder / "out/evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["own_difference"]) for row in rows] == [volume["own_difference"] for volume in volumes]
    said = capsys.readouterr().out
    for words in ("gain over the rigid map: ", "own difference: ", "nearer to its own truth", "first coordinate 1.000"):
        assert words in said
    assert "hand:" not in said


def test_a_plain_folder_is_measured_against_the_mean_of_the_truths(evaluate: Run, folder: Path) -> None:
    (folder / "run").rename(folder / "elsewhere")
    (folder / "elsewhere/config.toml").unlink()
    assert evaluate(volumes="elsewhere/volumes") == 0
    motion = results(folder)["motion"]
    assert motion["rigid_map"] == "mean of the truths"
    assert "rank_correlation" not in motion
    mean = motion["median_rigid_fsc_auc"]
    first = str(folder / "sim/truth/volume_0000.mrc")
    coordinates = str(folder / "elsewhere/motion/coordinates.csv")
    assert evaluate("--rigid", first, "--coordinates", coordinates, volumes="elsewhere/volumes") == 0
    motion = results(folder)["motion"]
    assert motion["rigid_map"] == "volume_0000.mrc"
    assert motion["median_rigid_fsc_auc"] < mean
    assert motion["rank_correlation"]["first_coordinate"] == pytest.approx(1)


def test_without_true_poses_the_truths_are_aligned(evaluate: Run, folder: Path) -> None:
    (folder / "sim/particles.star").unlink()
    (folder / "run/consensus/consensus.mrc").unlink()
    assert evaluate() == 0
    motion = results(folder)["motion"]
    assert motion["frame"] == "truths aligned to the first"
    assert motion["nearest_share"] > 0.5


def test_truths_that_do_not_move_have_no_motion(
    unaligned: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path, 0.0)
    truth = str(tmp_path / "sim/truth")
    assert cli.main(["evaluate", str(tmp_path / "run"), "--reference", truth, "-o", str(tmp_path / "out")]) == 0
    assert "the truths do not move" in one_line(capsys)
    assert "motion" not in results(tmp_path)
    assert list(results(tmp_path)["volumes"][0])[-1] == "hand_margin"


def test_one_reference_or_two_truths_have_no_motion(
    evaluate: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder / "sim/truth/volume_0000.mrc"
    assert evaluate(reference="sim/truth/volume_0000.mrc") == 0
    assert "motion" not in results(folder)
    assert evaluate("--rigid", str(first), reference="sim/truth/volume_0000.mrc") == 2
    assert "one reference" in one_line(capsys)
    for index in range(2, COUNT):
        (folder / f"run/volumes/volume_{index:04d}.mrc").unlink()
    assert evaluate() == 0
    assert "3 truths, not 2" in one_line(capsys)
    assert "motion" not in results(folder)


def test_files_are_found_in_the_run_and_beside_truths_that_they_fit(folder: Path) -> None:
    truth, run = folder / "sim/truth", folder / "run"
    expected = MotionFiles(
        run / "consensus/consensus.mrc",
        run / "motion/coordinates.csv",
        folder / "sim/truth.csv",
        folder / "sim/particles.star",
    )
    for place in (run, run / "volumes", run / "motion/volumes"):
        assert find_motion_files(place, truth, MotionFiles()) == expected
    own = folder / "own.mrc"
    assert find_motion_files(run, truth, MotionFiles(rigid=own)).rigid == own
    assert find_motion_files(folder, truth, MotionFiles()).rigid is None
    (truth / "volumes.csv").touch()  # truths of angles, as those of particles are
    assert find_motion_files(run, truth, MotionFiles()).poses is None
    (truth / "volumes.csv").unlink()
    (truth / "volume_0004.mrc").rename(truth / "volume_0005.mrc")
    assert find_motion_files(run, truth, MotionFiles()).poses is None
    (truth / "volume_0005.mrc").unlink()
    assert find_motion_files(run, truth, MotionFiles()).parameters is None


def test_rows_are_those_of_the_volumes(folder: Path) -> None:
    inputs = read_motion_inputs(find_motion_files(folder / "run", folder / "sim/truth", MotionFiles()), [3, 1], None)
    assert inputs.parameters is not None and inputs.coordinates is not None and inputs.rotations is not None
    whole = read_columns(folder / "sim/truth.csv", "image", "", range(COUNT))
    torch.testing.assert_close(inputs.parameters.values, whole.values[[3, 1]])
    torch.testing.assert_close(inputs.rotations, read_poses(folder / "sim/particles.star").rotations[[3, 1]])
    torch.testing.assert_close(inputs.coordinates.values[:, 0], -whole.values[[3, 1], 0])


def test_a_rigid_set_has_no_parameters_to_compare(folder: Path) -> None:
    write_table(folder / "sim/truth.csv", [{"image": index} for index in range(COUNT)])
    inputs = read_motion_inputs(find_motion_files(folder / "run", folder / "sim/truth", MotionFiles()), [0, 1], None)
    assert inputs.parameters is None and inputs.coordinates is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("number,z_1\n0,1\n", "has no column index"),
        ("index,error_1\n0,1\n", "has no column z_1"),
        ("index,z_1\n0,much\n", "no number"),
        ("index,z_1\n0,nan\n1,0\n2,0\n", "not finite"),
        ("index,z_1\n0,1\n1,2\n", "has no row for volume 2"),
        ("", "has no column index"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "coordinates.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"coordinates.csv.*{words}"):
        read_columns(path, "index", "z_", range(3))


def test_a_table_that_does_not_fit_is_refused_before_the_alignment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate_command, "compare_files", None)
    wrong = folder / "wrong.csv"
    wrong.write_text("index,z_1\n0,1\n")
    command = ["evaluate", str(folder / "run"), "--reference", str(folder / "sim/truth")]
    assert cli.main([*command, "--coordinates", str(wrong)]) == 2
    assert "wrong.csv: has no row for volume 1" in one_line(capsys)
    (folder / "sim/truth.csv").unlink()
    assert cli.main([*command, "--coordinates", str(folder / "run/motion/coordinates.csv")]) == 2
    assert "give --true-parameters" in one_line(capsys)
    (folder / "run/motion/coordinates.csv").unlink()
    assert cli.main([*command, "--true-parameters", str(wrong)]) == 2
    assert "give --coordinates" in one_line(capsys)
