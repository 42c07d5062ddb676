"""Folders of jobs: the file that is meant is found and said."""

from pathlib import Path

import pytest
import torch

from scoretomo import cli
from scoretomo.datatypes import ImageStack, InputError
from scoretomo.io.job_folders import file_in_job
from scoretomo.io.mrc import write_images
from scoretomo.io.particle_rows import read_particle_rows
from scoretomo.io.particles import read_particles


def made(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_the_last_iteration_of_a_classification(tmp_path: Path) -> None:
    names = ("run_it024_model.star", "run_it025_model.star", "run_it025_data.star", "run_it025_classes.mrcs")
    job = made(tmp_path / "job012", *names, "run_ct25_it030_model.star", "run_ct25_it030_data.star")
    path, notes = file_in_job(job, "class averages")
    assert path.name == "run_ct25_it030_model.star" and notes == (
        f"{job} is a folder; run_ct25_it030_model.star in it is taken for its class averages",
    )
    assert file_in_job(job, "particles")[0].name == "run_ct25_it030_data.star"


def test_a_selection_and_a_job_of_cryosparc(tmp_path: Path) -> None:
    job = made(tmp_path / "job013", "class_averages.star", "particles.star", "backup_selection.star")
    assert file_in_job(job, "class averages")[0].name == "class_averages.star"
    assert file_in_job(job, "particles")[0].name == "particles.star"
    job = made(tmp_path / "J12", "J12_000_class_averages.cs", "J12_020_class_averages.cs", "J12_020_particles.cs")
    assert file_in_job(job, "class averages")[0].name == "J12_020_class_averages.cs"
    assert file_in_job(job, "particles")[0].name == "J12_020_particles.cs"


def test_a_file_is_itself_and_an_empty_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.touch()
    assert file_in_job(path, "particles") == (path, ())
    assert file_in_job(tmp_path / "none.star", "particles") == (tmp_path / "none.star", ())
    with pytest.raises(
        InputError, match=r"job: is a folder in which there is no file of class averages .*give the file"
    ):
        file_in_job(made(tmp_path / "job"), "class averages")


def test_readers_of_particles_name_the_file(tmp_path: Path) -> None:
    """A run keeps the name of its particles, so that the file itself has to be given."""
    job = made(tmp_path / "job012", "run_it025_data.star")
    for read in (read_particles, read_particle_rows):
        with pytest.raises(InputError, match=r"job012: is the folder of a job; give .*run_it025_data\.star, the part"):
            read(job)


def test_info_says_which_file_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = made(tmp_path / "job012")
    write_images(job / "run_it025_classes.mrcs", ImageStack(torch.rand(3, 8, 8), 4.0))
    rows = "".join(f"{i}@run_it025_classes.mrcs\n" for i in (1, 2, 3))
    (job / "run_it025_model.star").write_text(f"data_model_classes\n\nloop_\n_rlnReferenceImage #1\n{rows}")
    assert cli.main(["info", str(job)]) == 0
    out = capsys.readouterr().out
    assert "run_it025_model.star in it is taken for its class averages" in out and "3 of 8 x 8 pixels" in out
