from pathlib import Path

import torch

from scoretomo.commands.truth_files import write_truth
from scoretomo.datatypes import Poses
from scoretomo.geometry.rotations import random_rotations
from scoretomo.io.image_table import read_image_table
from scoretomo.io.mrc import read_volume
from scoretomo.io.star import read_poses


def test_volumes_poses_and_states_are_those_of_the_images(tmp_path: Path, generator: torch.Generator) -> None:
    volumes = torch.randn(2, 8, 8, 8, generator=generator)
    poses = Poses(random_rotations(2, generator=generator), torch.tensor([[1.0, 2.0], [0.0, -3.0]]))
    states = torch.tensor([[0.5], [0.25]])
    write_truth(tmp_path / "new", volumes, poses, states, ("opening",), pixel_size_angstrom=3.0, junk=1)
    folder = tmp_path / "new"
    assert (folder / "truth.csv").read_text() == "image,opening,junk\n0,0.5,0\n1,0.25,0\n2,,1\n"
    written = read_volume(folder / "truth" / "volume_0001.mrc").volume
    assert torch.equal(written.voxels, volumes[1]) and written.pixel_size_angstrom == 3.0
    table = read_image_table(folder / "particles.star")
    assert list(table.files) == ["images.mrcs"] * 2 and list(table.sections) == [0, 1]
    torch.testing.assert_close(read_poses(folder / "particles.star").shifts_angstrom, poses.shifts_angstrom)


def test_a_rigid_object_has_a_table_of_images_only(tmp_path: Path) -> None:
    poses = Poses(torch.eye(3)[None], torch.zeros(1, 2))
    write_truth(tmp_path, torch.zeros(1, 8, 8, 8), poses, torch.zeros(1, 0), (), pixel_size_angstrom=3.0)
    assert (tmp_path / "truth.csv").read_text() == "image\n0\n"
