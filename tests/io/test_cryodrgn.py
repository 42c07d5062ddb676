"""cryoDRGN's pickles: rotations against its own projections, conventions, and pickles that hold anything else."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scoretomo.datatypes import ImageStack, InputError
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.projection import project
from scoretomo.io.cryodrgn import attach, read_ctf, read_indices, read_latent, read_poses
from scoretomo.io.mrc import read_volume, write_images
from scoretomo.io.particles import read_particles

CTF = np.array([[64, 3.0, 15000, 14000, -30, 300, 2.7, 0.1, 0], [64, 3.0, 16000, 15500, 60, 200, 0.01, 0.07, 90]])


def dump(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.fixture
def rotations(generator: torch.Generator) -> NDArray[np.float32]:
    return random_rotations(2, generator=generator).numpy()


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    write_images(tmp_path / "x.mrcs", ImageStack(torch.rand(2, 32, 32), 6.0))
    return tmp_path / "x.mrcs"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_translations_are_fractions_of_the_box_and_origins(
    tmp_path: Path, rotations: NDArray[np.float32], protocol: int
) -> None:
    path = dump(tmp_path / "p.pkl", (rotations, np.array([[0.125, -0.25], [0, 0.5]])), protocol)
    poses = read_poses(path, 32, 6.0)
    assert torch.equal(poses.rotations, torch.from_numpy(rotations))
    # like RELION's origins: what would move the density back to the centre
    assert poses.shifts_angstrom.tolist() == [[-24, 48], [0, -96]]
    assert torch.equal(read_poses(path, 64, 3.0).shifts_angstrom, poses.shifts_angstrom)  # any sampling of the box
    assert poses.rotations.dtype == poses.shifts_angstrom.dtype == torch.float32


def test_rotations_without_translations(tmp_path: Path, rotations: NDArray[np.float32]) -> None:
    for content in (rotations, (rotations,), [rotations.astype(np.float64)]):
        assert read_poses(dump(tmp_path / "p.pkl", content), 32, 6.0).shifts_angstrom.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_columns_of_the_contrast_transfer(tmp_path: Path, protocol: int) -> None:
    table = read_ctf(dump(tmp_path / "c.pkl", CTF.astype(np.float32), protocol))
    assert (table.side, table.pixel_size_angstrom) == (64, 3)
    params = table.params
    assert params.defocus_u_angstrom.tolist() == [15000, 16000]
    assert params.defocus_v_angstrom.tolist() == [14000, 15500]
    assert params.astigmatism_degrees.tolist() == [-30, 60]
    assert params.voltage_kv.tolist() == [300, 200]
    assert params.spherical_aberration_mm.tolist() == pytest.approx([2.7, 0.01])
    assert params.amplitude_contrast.tolist() == pytest.approx([0.1, 0.07])
    assert params.phase_shift_degrees.tolist() == [0, 90]


def test_arrays_in_the_order_of_columns(tmp_path: Path) -> None:
    table = read_ctf(dump(tmp_path / "c.pkl", np.asfortranarray(CTF)))
    assert table.params.defocus_v_angstrom.tolist() == [14000, 15500]


def test_given_to_images_that_were_sampled_down(tmp_path: Path, stack: Path, rotations: NDArray[np.float32]) -> None:
    """The CTF was made for 64 pixels of 3 A, and the images have 32 of 6."""
    particles = read_particles(stack)
    poses = dump(tmp_path / "p.pkl", (rotations, np.array([[0.125, 0], [0, 0]])))
    ctf = dump(tmp_path / "c.pkl", CTF)
    both = attach(particles, poses=poses, ctf=ctf)
    assert both.poses is not None and both.ctf is not None
    assert both.poses.shifts_angstrom.tolist() == [[-24, 0], [0, 0]]
    assert both.pixel_size_angstrom == 6 and both.ctf.voltage_kv.tolist() == [300, 200]
    assert both.select([1]).ctf.defocus_u_angstrom.tolist() == [16000]  # type: ignore[union-attr]
    assert attach(particles) == particles
    with pytest.raises(InputError, match=r"c\.pkl: is of a box of 192 A \(64 x 3\), and that of x\.mrcs has 96 A"):
        attach(read_particles(stack, pixel_size_angstrom=3.0), ctf=ctf)
    with pytest.raises(InputError, match=r"p\.pkl: is of 2 particles, and x\.mrcs has 1"):
        attach(particles.select([0]), poses=poses)
    with pytest.raises(InputError, match=r"c\.pkl: is of 2 particles, and x\.mrcs has 1"):
        attach(particles.select([0]), ctf=ctf)


IDENTITY = np.eye(3)[None].repeat(3, 0)


def changed(values: NDArray[Any], place: Any, value: Any) -> NDArray[Any]:
    copy = values.copy()
    copy[place] = value
    return copy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IDENTITY, np.zeros((2, 2))), r"translations \(n, 2\), not \(3, 3, 3\) and \(2, 2\)"),
        ((IDENTITY, np.zeros((3, 2)), np.zeros(3)), r"must hold rotations"),
        ((IDENTITY[:0], np.zeros((0, 2))), "an array without values"),
        ((IDENTITY,) * 9, r"not \(3, 3, 3\) and \(3, 3, 3\) and \(3, 3, 3\) and others$"),
        (np.zeros((3, 9)), r"must hold rotations \(n, 3, 3\).*, not \(3, 9\)"),
        ((), "must hold rotations .*, not nothing"),
        (changed(IDENTITY, (1, 0, 0), np.nan), "poses 1 are NaN"),
        ((IDENTITY, changed(np.zeros((3, 2)), (2, 1), np.inf)), "poses 2 are NaN or infinite"),
        (changed(IDENTITY, 1, 1.1 * np.eye(3)), "1 of the 3 matrices are no rotations, first 1"),
        (changed(IDENTITY, 2, np.diag([1, 1, -1])), "1 of the 3 matrices are no rotations, first 2"),  # a mirror
        (np.zeros((3, 3, 3)), "3 of the 3 matrices"),
        ((IDENTITY, np.full((3, 2), 4.0)), "fractions of the box.*pixels"),
        ({"rot": IDENTITY}, "arrays of real numbers and nothing else"),
        ((IDENTITY, "shifts"), "arrays of real numbers and nothing else"),
        (np.array([[None] * 3] * 3), "arrays of real numbers and nothing else"),
        (IDENTITY.astype(complex), "arrays of real numbers and nothing else"),
        (np.array("text"), "arrays of real numbers and nothing else"),
    ],
)
def test_poses_of_no_use(tmp_path: Path, content: Any, message: str) -> None:
    path = dump(tmp_path / "p.pkl", content)
    with pytest.raises(InputError, match=message) as caught:
        read_poses(path, 32, 6.0)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CTF[:, :8], r"must hold an array \(n, 9\) of CTF parameters, not \(2, 8\)"),
        (CTF[:0], "an array without values"),
        ((CTF, CTF), r"not \(2, 9\) and \(2, 9\)"),
        (changed(CTF, (1, 1), 4.0), "pixel sizes from 3 to 4; write one file for each"),
        (changed(CTF, (0, 0), 128), "image sides from 64 to 128"),
        (changed(CTF, (1, 1), np.nan), "pixel sizes must be positive"),
        (changed(CTF, (1, 1), 0), "pixel sizes must be positive"),
        (changed(CTF, (1, 2), np.nan), "defocus_u_angstrom of images 1 .* not nan"),
        (changed(CTF, (0, 5), 300000), "voltage_kv of images 0 .* not 300000"),
        (changed(CTF, (0, 7), 2.7), "amplitude_contrast of images 0"),  # columns in another order
    ],
)
def test_contrast_transfer_of_no_use(tmp_path: Path, content: Any, message: str) -> None:
    path = dump(tmp_path / "c.pkl", content)
    with pytest.raises(InputError, match=message) as caught:
        read_ctf(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_latent_variables_are_the_means_before_the_log_variances(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "z.1.pkl"
    means = np.arange(6, dtype=np.float32).reshape(3, 2)
    alone = pickle.dumps(means, protocol)
    for content in (alone, alone + pickle.dumps(means - 9, protocol), pickle.dumps(means.astype(float), protocol)):
        path.write_bytes(content)
        assert read_latent(path).tolist() == means.tolist()
    bad = {r"\(n, d\) .*, not \(6,\)": means.ravel(), "not nothing": (), "the 3 particles is NaN": means * np.nan}
    bad["of 1 of the 3 particles is NaN or infinite, first 2"] = means.astype(float) * 1e38  # beyond single precision
    for message, values in bad.items():
        with pytest.raises(InputError, match=message):
            read_latent(dump(path, values, protocol))


def test_any_kind_of_nan_is_said(tmp_path: Path, rotations: NDArray[np.float32]) -> None:
    """NumPy warns of those that are called signalling, when it copies them to double precision."""
    rotations.view(np.uint32)[1, 0, 0] = 0x7FA00000
    with pytest.raises(InputError, match="poses 1 are NaN"):
        read_poses(dump(tmp_path / "p.pkl", rotations), 32, 6.0)


def test_a_second_pickle_is_read_over_for_latent_variables_only(tmp_path: Path) -> None:
    """Nothing of cryoDRGN's writes its poses in two pickles: translations there would be lost without a word."""
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(IDENTITY) + pickle.dumps(np.full((3, 2), 0.25)))
    with pytest.raises(InputError, match=r"p\.pkl: .* it goes on for \d+ bytes behind its end"):
        read_poses(path, 32, 6.0)
    path.write_bytes(pickle.dumps(CTF) * 2)
    with pytest.raises(InputError, match="behind its end"):
        read_ctf(path)
    path.write_bytes(pickle.dumps(np.arange(3)) * 2)
    with pytest.raises(InputError, match="behind its end"):
        read_indices(path, 3)


def test_selected_particles(tmp_path: Path) -> None:
    assert read_indices(dump(tmp_path / "i.pkl", np.array([7, 0, 3], np.int32)), 8).tolist() == [7, 0, 3]
    bad = {"from 0 to 7, and there are 7": [7, 0], "from -1 to 3": [-1, 3], "particle 3 2 times": [3, 1, 3]}
    for message, values in bad.items():
        with pytest.raises(InputError, match=message):
            read_indices(dump(tmp_path / "i.pkl", np.array(values)), 7)
    with pytest.raises(InputError, match="from 3 to 18446744073709551615"):
        read_indices(dump(tmp_path / "i.pkl", np.array([3, 2**64 - 1], np.uint64)), 7)
    for content in (np.array([0.5]), np.array([True, False]), np.zeros((2, 2), int), [1, 2]):
        with pytest.raises(InputError, match=r"integers|arrays of real numbers"):
            read_indices(dump(tmp_path / "i.pkl", content), 7)


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, protocol: int) -> None:
    gone = tmp_path / "gone"
    array = np.empty(2, object)
    array[:] = Evil(os.mkdir, str(gone))
    for content in (Evil(os.mkdir, str(gone)), (IDENTITY, Evil(os.mkdir, str(gone))), array):
        with pytest.raises(InputError, match=r"p\.pkl: cannot be read as a pickle of NumPy arrays: it asks for \w+"):
            read_poses(dump(tmp_path / "p.pkl", content, protocol), 32, 6.0)
        with pytest.raises(InputError, match="it asks for"):
            read_latent(tmp_path / "p.pkl")
    for call, argument in ((eval, "1"), (np.load, "x.npy"), (getattr, "x"), (np.fromfile, "x")):
        with pytest.raises(InputError, match="it asks for"):
            read_poses(dump(tmp_path / "p.pkl", Evil(call, argument), protocol), 32, 6.0)
    assert not gone.exists()


def test_files_that_are_no_pickles(tmp_path: Path, rotations: NDArray[np.float32]) -> None:
    path = tmp_path / "p.pkl"
    good = pickle.dumps(rotations)
    for content in (b"", b"text\n", bytes(range(256)), good[:-20], good[:40]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"p\.pkl: cannot be read as a pickle"):
            read_poses(path, 32, 6.0)
    with pytest.raises(InputError, match=r"none\.pkl: No such file"):
        read_ctf(tmp_path / "none.pkl")


# real files


def test_rotations_are_those_of_its_own_projections(data: Path) -> None:
    """The decisive test: cryoDRGN's clean projections of its toy volume, from the rotations that it wrote beside them.

    The translations beside them are not those of these images, which are centred.
    """
    formats = data / "formats"
    particles = attach(
        read_particles(formats / "toy_projections.mrcs", pixel_size_angstrom=2.0), poses=formats / "toy_rot_trans.pkl"
    )
    assert particles.poses is not None and len(particles) == 1000
    some = particles.select(range(0, 1000, 25))
    voxels = read_volume(formats / "toymodel_small_nocenter.mrc", 2.0).volume.voxels
    images = some.images.read(range(40)).flatten(1)

    def correlations(rotations: torch.Tensor) -> torch.Tensor:
        found = project(voxels[None], rotations[None])[0].flatten(1)
        pairs = torch.stack([found, images])
        pairs = pairs - pairs.mean(2, keepdim=True)
        return torch.nn.functional.cosine_similarity(*pairs)

    assert some.poses is not None
    assert correlations(some.poses.rotations).min() > 0.999
    assert correlations(some.poses.rotations.mT.contiguous()).median() < 0.9  # the inverse convention would show
    translations = pickle.loads((formats / "toy_rot_trans.pkl").read_bytes())[1]
    np.testing.assert_allclose(particles.poses.shifts_angstrom, -60 * translations, rtol=1e-5, atol=1e-5)


def test_hands_of_cryodrgn(data: Path) -> None:
    formats = data / "formats"
    poses = read_poses(formats / "hand_rot.pkl", 64, 2.0)
    assert len(poses) == 100 and not poses.shifts_angstrom.any()
    assert torch.equal(poses.rotations, torch.from_numpy(pickle.loads((formats / "hand_rot.pkl").read_bytes())))
    moved = read_poses(formats / "hand_rot_trans.pkl", 64, 2.0)
    assert len(moved) == 100 and moved.shifts_angstrom.any(1).sum() > 90
