"""RELION's STAR files: every layout, names and places of stacks, and the angle convention against RELION itself."""

from pathlib import Path

import pytest
import starfile
import torch
from torch import Tensor

from scoretomo.datatypes import ImageStack, InputError, Poses
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.projection import project
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.named_images import known_pixel_size
from scoretomo.io.star import read_images, read_named_images, read_poses, write_particles


@pytest.fixture
def stacks(tmp_path: Path) -> Tensor:
    """Two stacks of three images in ``Class2D/job001`` of a project; image ``i`` has the value ``i`` everywhere."""
    images = torch.arange(6.0)[:, None, None].expand(6, 8, 8)
    (tmp_path / "Class2D" / "job001").mkdir(parents=True)
    write_images(tmp_path / "Class2D/job001/a.mrcs", ImageStack(images[:3], 2.5))
    write_images(tmp_path / "Class2D/job001/b.mrcs", ImageStack(images[3:], 2.5))
    return images


def order_of(path: Path, pixel_size: float | None = None) -> list[float]:
    return read_images(path, pixel_size).stack.images[:, 0, 0].tolist()


def test_rows_keep_their_order_over_stacks(tmp_path: Path, stacks: Tensor) -> None:
    path = tmp_path / "Class2D" / "job001" / "x.star"
    path.write_text("data_\n\nloop_\n_rlnImageName #1\n000003@b.mrcs\n1@a.mrcs\n2@b.mrcs\n2@a.mrcs\n")
    assert order_of(path) == [5, 0, 4, 1]
    loaded = read_images(path)
    assert loaded.stack.pixel_size_angstrom == 2.5 and loaded.notes == ("pixel size from the header of b.mrcs",)


def test_model_classes_with_names_relative_to_the_project(tmp_path: Path, stacks: Tensor) -> None:
    path = tmp_path / "Class2D" / "job001" / "run_it025_model.star"
    path.write_text(
        "# version 30001\n\ndata_model_general\n\n_rlnReferenceDimensionality 2\n_rlnPixelSize 2.540000\n\n\n"
        "# version 30001\n\ndata_model_classes\n\nloop_\n_rlnReferenceImage #1\n_rlnClassDistribution #2\n"
        "000002@Class2D/job001/a.mrcs 0.4\n000003@Class2D/job001/b.mrcs 0.6\n"
    )
    assert order_of(path) == [1, 5]
    assert read_images(path).stack.pixel_size_angstrom == 2.54


def test_class_numbers_of_class_averages(tmp_path: Path, stacks: Tensor) -> None:
    path = tmp_path / "Class2D" / "job001" / "x.star"

    def classes(table: str) -> tuple[int, ...] | None:
        path.write_text(f"data_\n\nloop_\n{table}\n")
        return read_images(path).class_numbers

    assert classes("_rlnReferenceImage #1\n000003@a.mrcs\n000001@a.mrcs") == (3, 1)
    # Subset selection recentres the averages into a stack of its own, and says which they were
    assert classes("_rlnReferenceImage #1\n_rlnClassNumber #2\n1@a.mrcs 17\n2@a.mrcs 4") == (17, 4)
    # of two stacks, or one image twice, nobody knows
    assert classes("_rlnReferenceImage #1\n1@a.mrcs\n2@b.mrcs") is None
    assert classes("_rlnReferenceImage #1\n_rlnClassNumber #2\n1@a.mrcs 3\n2@b.mrcs 3") is None
    # rows that are particles are not the averages of the classes they belong to
    assert classes("_rlnImageName #1\n_rlnClassNumber #2\n1@a.mrcs 17\n2@a.mrcs 4") == (1, 2)


def test_pixel_size_of_magnification_and_detector(tmp_path: Path, stacks: Tensor) -> None:
    path = tmp_path / "Class2D" / "job001" / "x.star"
    columns = "_rlnImageName #1\n_rlnMagnification #2\n_rlnDetectorPixelSize #3\n"
    path.write_text(f"data_\n\nloop_\n{columns}1@a.mrcs 27000 7\n2@a.mrcs 27000 7\n")
    assert read_images(path).stack.pixel_size_angstrom == pytest.approx(7e4 / 27000)  # 7 micrometers / 27 000
    path.write_text(f"data_\n\nloop_\n{columns}1@a.mrcs 50000 7\n2@a.mrcs 40000 7\n")
    with pytest.raises(InputError, match=r"pixel sizes from 1\.4 to 1\.75"):
        read_images(path)
    loaded = read_images(path, 1.5)
    assert loaded.stack.pixel_size_angstrom == 1.5 and "overruled" in loaded.notes[0]


def test_missing_stacks_are_named(tmp_path: Path, stacks: Tensor) -> None:
    path = tmp_path / "Class2D" / "job001" / "x.star"
    rows = "\n".join(f"1@gone/{i}.mrcs" for i in range(7))
    path.write_text(f"data_\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n{rows}\n")
    with pytest.raises(InputError, match=r"7 of 8 .* missing.*gone/0\.mrcs, .*gone/4\.mrcs and 2 more"):
        read_images(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_\n\nloop_\n_rlnImageName #1\n4@a.mrcs\n", r"row 1 asks for image 4 of a\.mrcs, which has 3"),
        ("data_\n\nloop_\n_rlnImageName #1\n0@a.mrcs\n", "N from 1"),
        ("data_\n\nloop_\n_rlnImageName #1\nx@a.mrcs\n", "N@stack"),
        ("data_\n\nloop_\n_rlnMicrographName #1\nm.mrc\n", "names no images"),
        ("data_\n\nloop_\n_rlnImageName #1\n\n", "names no images"),
        (
            "data_\n\nloop_\n_rlnImageName #1\n_rlnA #2\n1@a.mrcs 1\n2@a.mrcs 2 3 4\n",
            "line 7 has 4 values for the 2 columns of data_",
        ),
        ("some text\n", "line 1 stands before any data_ block"),
        ("", "no data_ block"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path: Path, stacks: Tensor, text: str, message: str) -> None:
    path = tmp_path / "Class2D" / "job001" / "bad.star"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_images(path)
    assert str(caught.value).startswith(str(path))


def test_binary_file_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(InputError, match=r"a\.star"):
        read_images(tmp_path / "a.star")
    with pytest.raises(InputError, match="no such file"):
        read_images(tmp_path / "b.star")


def test_images_of_two_sizes(tmp_path: Path, stacks: Tensor) -> None:
    folder = tmp_path / "Class2D" / "job001"
    write_images(folder / "c.mrcs", ImageStack(torch.randn(2, 10, 10), 2.5))
    (folder / "x.star").write_text("data_\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n1@c.mrcs\n")
    with pytest.raises(InputError, match="10 x 10, 8 x 8"):
        read_images(folder / "x.star")


def test_poses_come_back(tmp_path: Path, generator: torch.Generator) -> None:
    rotations = random_rotations(20, generator=generator)
    rotations[0] = torch.eye(3)
    poses = Poses(rotations, 5 * torch.randn(20, 2, generator=generator))
    write_images(tmp_path / "images.mrcs", ImageStack(torch.randn(20, 8, 8), 1.0))
    write_particles(
        tmp_path / "particles.star",
        "images.mrcs",
        poses,
        pixel_size_angstrom=3.54,
        side=8,
        extra={"rlnRandomSubset": [1, 2] * 10},
    )
    found = read_poses(tmp_path / "particles.star")
    torch.testing.assert_close(found.rotations, poses.rotations, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.shifts_angstrom, poses.shifts_angstrom, atol=2e-6, rtol=0)
    assert read_images(tmp_path / "particles.star").stack.pixel_size_angstrom == 3.54  # not the header's 1.0
    blocks = starfile.read(tmp_path / "particles.star")
    assert list(blocks) == ["optics", "particles"]
    assert blocks["particles"]["rlnRandomSubset"].tolist() == [1, 2] * 10
    assert (tmp_path / "particles.star").read_text().count("# version 30001\n\ndata_") == 2


def test_rows_name_the_sections_of_the_stack_that_they_are(tmp_path: Path, generator: torch.Generator) -> None:
    images = torch.arange(5.0)[:, None, None].expand(5, 8, 8)
    write_images(tmp_path / "images.mrcs", ImageStack(images, 2.0))
    poses = Poses(random_rotations(3, generator=generator), torch.zeros(3, 2))
    path = tmp_path / "some.star"
    write_particles(path, "images.mrcs", poses, pixel_size_angstrom=2.0, side=8, sections=[4, 0, 2])
    assert order_of(path) == [4, 0, 2]
    assert starfile.read(path)["particles"]["rlnImageName"].tolist() == [f"00000{i}@images.mrcs" for i in (5, 1, 3)]
    torch.testing.assert_close(read_poses(path).rotations, poses.rotations, atol=2e-6, rtol=0)
    write_particles(path, "images.mrcs", poses, pixel_size_angstrom=2.0, side=8)
    assert order_of(path) == [0, 1, 2]


def test_origins_are_minus_the_shifts(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    head = "data_\n\nloop_\n_rlnAngleRot #1\n_rlnAngleTilt #2\n_rlnAnglePsi #3\n"
    path.write_text(head + "_rlnOriginXAngst #4\n_rlnOriginYAngst #5\n10 20 30 1.5 -2\n")
    assert read_poses(path).shifts_angstrom.tolist() == [[-1.5, 2]]
    path.write_text(head + "_rlnOriginX #4\n_rlnOriginY #5\n10 20 30 1.5 -2\n")
    with pytest.raises(InputError, match="pixel size"):
        read_poses(path)
    assert read_poses(path, 2.0).shifts_angstrom.tolist() == [[-3, 4]]
    path.write_text(head + "10 20 30\n")
    assert read_poses(path).shifts_angstrom.tolist() == [[0, 0]]
    path.write_text(head + "10 20 none\n")
    with pytest.raises(InputError, match="must be numbers"):
        read_poses(path)
    path.write_text("data_\n\nloop_\n_rlnAngleRot #1\n10\n")
    with pytest.raises(InputError, match="rlnAngleTilt"):
        read_poses(path)


@pytest.mark.parametrize(
    ("name", "count", "pixel_size"),
    [("sample_particles_relion31", 17, 1.4), ("relion31", 5, 2.806), ("empiar_10076_7", 7, 5e4 / 38168)],
)
def test_real_particle_files(data: Path, name: str, count: int, pixel_size: float) -> None:
    path = data / "formats" / f"{name}.star"
    named = read_named_images(path)
    assert len(named.values) == count
    assert known_pixel_size(path, named.opened, named.stated, None)[0] == pytest.approx(pixel_size)
    with pytest.raises(InputError, match=r"names particles \(with rln\w+\), not class averages; give "):
        read_images(path)


def test_relion_angles_reproduce_its_projections(data: Path) -> None:
    """The decisive test of ``from_relion_euler``: five clean projections that RELION made of a known map.

    RELION projected the map after it had been sampled down from 65 to 64 voxels in Fourier space with the origin
    at the corner, so that the centre, voxel 32, came to 31.51. The same is done here before projecting.
    """
    path = data / "formats" / "rln_proj_64.star"
    images = read_images(path, 5.0).stack.images
    voxels = read_volume(data / "volumes" / "ribosome70S_65px.mrc", 5.0).volume.voxels
    spectrum = torch.fft.fftshift(torch.fft.fftn(voxels))[:64, :64, :64]  # frequencies -32 to 31
    voxels = torch.fft.ifftn(torch.fft.ifftshift(spectrum)).real
    rotations = read_poses(path).rotations

    def correlations(candidates: Tensor) -> Tensor:
        projections = project(voxels[None], candidates[None])[0]
        centred = [(stack - stack.mean((1, 2), keepdim=True)).flatten(1) for stack in (projections, images)]
        first, second = (stack / stack.norm(dim=1, keepdim=True) for stack in centred)
        return (first * second).sum(1)

    assert correlations(rotations).min() > 0.99
    assert correlations(rotations.mT).max() < 0.9  # the inverse convention would show
