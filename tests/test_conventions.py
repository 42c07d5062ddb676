"""One test for each line of docs/conventions.md, of the same name."""

import inspect
import math
import re
from pathlib import Path

import gemmi
import mrcfile
import pytest
import torch
from torch import Tensor

from scoretomo.commands.points_observations import Observed
from scoretomo.commands.points_results import Reconstruction, write_reconstruction
from scoretomo.commands.points_views import PosedView
from scoretomo.datatypes import CTFParams, ImageStack, InputError, Poses, Volume
from scoretomo.diffusion.edm import denoising_error
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.evaluation.alignment import align, apply_alignment
from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation, resolution_pixels
from scoretomo.evaluation.point_error import chamfer_distance, earth_movers_distance
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.geometry.point_clouds import normalise
from scoretomo.geometry.rotations import about_y, about_z, from_relion_euler, from_rotation_vectors, random_rotations
from scoretomo.imaging.augmentation import augment
from scoretomo.imaging.ctf import contrast_transfer
from scoretomo.imaging.fourier import centred_fft, hartley, radius_grid, recentre_crop, resize
from scoretomo.imaging.masks import ball, soft_ball
from scoretomo.imaging.preprocess import PreprocessConfig, preprocess, restore_volume
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z, rotate_volumes
from scoretomo.imaging.slices import disc_frequencies, image_coefficients, translate_coefficients, voxel_slices
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import read_volume, write_images, write_volume
from scoretomo.io.star import read_poses, write_particles
from scoretomo.methods.abinitio import ParticleImages
from scoretomo.methods.score_tomography import NoiseConfig, ReconstructionConfig, reconstruct

_PAGE = (Path(__file__).parents[1] / "docs" / "conventions.md").read_text(encoding="utf-8")


def _blobs(side: int, *places: tuple[float, float, float], width: float = 2.0) -> Tensor:
    """Gaussians at xyz places from the origin, each a little weaker than the one before."""
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.zeros(side, side, side)
    for i, (cx, cy, cz) in enumerate(places):
        volume += 0.8**i * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * width**2))
    return volume


def _chiral(side: int) -> Tensor:
    return _blobs(side, (6, 0, 0), (0, 5, 0), (0, 0, 4), (-3, -3, -2))


def _stack(volume: Tensor, generator: torch.Generator, count: int = 20) -> Tensor:
    return project(volume[None], random_rotations(1, count, generator=generator))[0]


def test_every_line_has_its_test_and_every_test_its_line() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|.*\| `(test_\w+)` \|$", _PAGE, re.MULTILINE)
    assert len(rows) == _PAGE.split("## Layers")[0].count("\n|") - 2  # but for the head
    for thing, test in rows:
        assert test == "test_" + thing.lower().replace(" ", "_")
        assert test in globals()
    others = {"test_every_line_has_its_test_and_every_test_its_line"}
    assert {name for name in globals() if name.startswith("test_")} - others == {test for _, test in rows}


def test_arrays(tmp_path: Path, generator: torch.Generator) -> None:
    """x is the last axis in memory and the fastest on disk, z (or the index) leads; float32 in and out."""
    volume = _blobs(12, (3, 0, 0))
    assert volume[6, 6, 9] == volume.max()
    write_volume(tmp_path / "v.mrc", Volume(volume, 2.0))
    samples = torch.frombuffer(bytearray((tmp_path / "v.mrc").read_bytes()[1024:]), dtype=torch.float32)
    assert samples.argmax() == 9 + 12 * (6 + 12 * 6)
    assert torch.equal(read_volume(tmp_path / "v.mrc").volume.voxels, volume)
    images = torch.rand(3, 8, 8, generator=generator)
    write_images(tmp_path / "i.mrcs", ImageStack(images, 2.0))
    back = read_image_stack(tmp_path / "i.mrcs").stack.images
    assert torch.equal(back, images) and back.dtype == torch.float32
    assert project(volume[None], torch.eye(3).expand(1, 5, 3, 3)).shape == (1, 5, 12, 12)


@pytest.mark.parametrize("side", [12, 13])
def test_centre(side: int, generator: torch.Generator) -> None:
    """What is at index ``side // 2`` stays there, whatever is done to it."""
    centre = side // 2
    volume, image = torch.zeros(side, side, side), torch.zeros(side, side)
    volume[centre, centre, centre] = image[centre, centre] = 1
    rotation = random_rotations(1, generator=generator)
    for found in (
        rotate_volumes(volume[None], rotation)[0],
        mirror_z(volume),
        project(volume[None], rotation[None])[0, 0],
        augment(image[None], largest_shift=0.0, generator=generator)[0],
    ):
        assert found.argmax() == torch.tensor([centre] * found.ndim).dot(side ** torch.arange(found.ndim))
    for other in (side - 1, side, side + 1, 2 * side):
        assert recentre_crop(image, other, 2)[other // 2, other // 2] == 1
        assert resize(image, other, 2).argmax() == (other // 2) * (other + 1)
    torch.testing.assert_close(centred_fft(volume, 3), torch.ones(side, side, side, dtype=torch.complex64))
    assert centred_fft(torch.ones(side, side), 2).abs().argmax() == centre * (side + 1)
    for about_origin in (radius_grid(side, 2) == 0, ball(side, 2, 0.5), soft_ball(side, 2, 0.0, 0.5)):
        assert torch.equal(about_origin.float(), image)
    frequencies = 0.9 * (torch.rand(20, 3, generator=generator) - 0.5)
    torch.testing.assert_close(voxel_slices(volume)(frequencies), torch.ones(20), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("side", [26, 27])
def test_rotation(side: int, generator: torch.Generator) -> None:
    place = torch.tensor([5.0, -2.0, 3.0])
    volume, axis = _blobs(side, (5, -2, 3)), torch.arange(side, dtype=torch.float32) - side // 2
    rotations = random_rotations(1, 10, generator=generator)
    images = project(volume[None], rotations)[0]
    mass = images.sum((1, 2))
    found = torch.stack([(images.sum(1) @ axis) / mass, (images.sum(2) @ axis) / mass], dim=1)
    torch.testing.assert_close(found, (rotations[0] @ place)[:, :2], rtol=0, atol=0.05)
    turned = rotate_volumes(volume.expand(10, side, side, side), rotations[0])
    torch.testing.assert_close(turned.sum(1), images, rtol=0, atol=1e-4)
    torch.testing.assert_close(about_z(torch.tensor(math.pi / 2)) @ torch.eye(3)[0], torch.eye(3)[1])


def test_euler_angles(tmp_path: Path, generator: torch.Generator) -> None:
    """Known cases of rot, tilt, psi; what is written is read back; no other room takes Euler angles."""
    x, y, z = torch.eye(3)
    torch.testing.assert_close(from_relion_euler(torch.tensor([90.0, 0, 0])) @ y, x)  # the object turns by minus rot
    torch.testing.assert_close(from_relion_euler(torch.tensor([0, 90.0, 0])) @ x, z)  # seen along its x axis
    torch.testing.assert_close(from_relion_euler(torch.tensor([0, 0, 90.0])) @ y, x)
    rotations = random_rotations(30, generator=generator)
    poses = Poses(rotations, torch.zeros(30, 2))
    write_particles(tmp_path / "p.star", "i.mrcs", poses, pixel_size_angstrom=2.0, side=8)
    torch.testing.assert_close(read_poses(tmp_path / "p.star").rotations, rotations, rtol=0, atol=1e-5)
    source = Path(inspect.getfile(Poses)).parent
    users = {file.parent.name for file in source.rglob("*.py") if "relion_euler" in file.read_text(encoding="utf-8")}
    assert users == {"geometry", "io"}


def test_shifts(tmp_path: Path) -> None:
    """A shift of (4, -2) A at 2 A per pixel: two pixels to larger x and one to smaller y."""
    poses = Poses(torch.eye(3)[None], torch.tensor([[4.0, -2.0]]))
    image = torch.zeros(9, 9)
    image[4, 4] = 1
    moved = image.roll((-1, 2), (0, 1))
    frequencies = disc_frequencies(9, 4.0)
    coefficients = translate_coefficients(
        image_coefficients(image, frequencies), frequencies, poses.shifts_angstrom[0] / 2
    )
    torch.testing.assert_close(coefficients, image_coefficients(moved, frequencies), rtol=0, atol=1e-5)
    write_particles(tmp_path / "p.star", "i.mrcs", poses, pixel_size_angstrom=2.0, side=9)
    assert re.search(r"\s-4\.0+\s+2\.0+\s", (tmp_path / "p.star").read_text())
    torch.testing.assert_close(read_poses(tmp_path / "p.star").shifts_angstrom, poses.shifts_angstrom)


def test_frequency(generator: torch.Generator) -> None:
    image = torch.rand(10, 10, generator=generator)
    spectrum = centred_fft(image, 2)
    torch.testing.assert_close(hartley(image, 2), spectrum.real - spectrum.imag)
    assert disc_frequencies(10, 3.0).amax() == pytest.approx(0.3)  # three periods in ten pixels
    # a curve that falls at shell 4 of 16 pixels falls at a period of 4 pixels
    assert resolution_pixels(torch.tensor([1.0, 1, 1, 1, 0.5, 0, 0, 0, 0])) == pytest.approx(4)


def test_noise_level(generator: torch.Generator) -> None:
    """``sigma`` is the standard deviation of the noise that is added, under this name in every signature."""
    clean = torch.zeros(4, 60, 60)
    sigma = torch.tensor([0.1, 0.3, 1.0, 5.0])
    error = denoising_error(lambda noisy, sigma: noisy, clean, sigma, generator=generator)
    torch.testing.assert_close(error.sqrt(), sigma, rtol=0.05, atol=0)
    assert "sigma" in inspect.signature(IdealDenoiser.__call__).parameters
    assert {"sigma", "final_sigma"} <= set(inspect.signature(ReconstructionConfig).parameters)
    seen = []

    def denoiser(noisy: Tensor, sigma: Tensor) -> Tensor:
        seen.append((noisy.std().item(), sigma.unique().tolist()))
        return torch.zeros_like(noisy)

    reconstruct(denoiser, torch.zeros(3, 24, 24), ReconstructionConfig(steps=1, sigma=0.7), generators=[generator] * 3)
    assert seen == [(pytest.approx(0.7, rel=0.05), [pytest.approx(0.7)])]
    assert NoiseConfig(median=0.7).median == 0.7


def test_contrast(generator: torch.Generator) -> None:
    images = _stack(_chiral(32), generator)
    bright, record = preprocess(ImageStack(images, 2.0), PreprocessConfig())
    assert record.sign == 1
    from_dark, record = preprocess(ImageStack(-images, 2.0), PreprocessConfig())
    assert record.sign == -1
    torch.testing.assert_close(from_dark, bright)
    inverted, record = preprocess(ImageStack(images, 2.0), PreprocessConfig(contrast="dark"))
    assert (record.sign, record.contrast_confidence) == (-1, 1)
    assert (inverted * bright).sum() < 0


def test_contrast_transfer(generator: torch.Generator) -> None:
    """Under a low underfocus bright protein stays bright; overfocus turns it over; no transfer is 1 everywhere."""

    def transfer(defocus_angstrom: float, amplitude_contrast: float = 0.1) -> Tensor:
        one = {
            "defocus_u_angstrom": defocus_angstrom,
            "defocus_v_angstrom": defocus_angstrom,
            "astigmatism_degrees": 0.0,
            "phase_shift_degrees": 0.0,
            "voltage_kv": 300.0,
            "spherical_aberration_mm": 2.7,
            "amplitude_contrast": amplitude_contrast,
        }
        params = CTFParams(**{name: torch.tensor([value]) for name, value in one.items()})
        return contrast_transfer(params, torch.tensor([[0.0, 0.0], [1 / 60, 0.0], [0.0, 1 / 60]]))[0]

    assert transfer(10_000.0)[0].item() == pytest.approx(0.1, abs=1e-5)
    assert transfer(10_000.0)[1:].min() > 0.1 and transfer(-10_000.0)[1:].max() < 0
    images = torch.randn(2, 16, 16, generator=generator)
    frequencies = disc_frequencies(16, 8.0)
    coefficients, ctf = ParticleImages(images).at(frequencies)(torch.tensor([1]))
    assert ctf is None
    torch.testing.assert_close(coefficients, image_coefficients(images[1:], frequencies))


def test_intensity(generator: torch.Generator) -> None:
    """Images in any units and on any background become the same working images; volumes get the units back."""
    volume = _chiral(32)
    images = _stack(volume, generator)
    working, _ = preprocess(ImageStack(images, 2.0), PreprocessConfig(mask_radius=1.0))
    odd, record = preprocess(ImageStack(7 * images + 40, 2.0), PreprocessConfig(mask_radius=1.0))
    torch.testing.assert_close(odd, working, rtol=0, atol=1e-3)
    assert working.std(correction=0) == pytest.approx(1, abs=1e-3)
    assert working[:, 0, 0].abs().max() == 0
    assert working.std((1, 2)).std() > 1e-3  # one scale for the stack, not one for each image
    restored = restore_volume(recentre_crop(volume, record.network_side, 3) / record.scale * 7, record)
    torch.testing.assert_close(restored.voxels, 7 * volume, rtol=0, atol=0.02)


def test_pixel_size(tmp_path: Path) -> None:
    for make in (ImageStack, Volume):
        with pytest.raises(TypeError, match="pixel_size_angstrom"):
            make(torch.ones(4, 4, 4))  # type: ignore[call-arg]
    write_images(tmp_path / "i.mrcs", ImageStack(torch.rand(2, 8, 8), 3.54))
    assert read_image_stack(tmp_path / "i.mrcs").stack.pixel_size_angstrom == pytest.approx(3.54)
    header = bytearray((tmp_path / "i.mrcs").read_bytes())
    header[40:52] = bytes(12)  # the size of the cell
    (tmp_path / "i.mrcs").write_bytes(header)
    with pytest.raises(InputError, match="--pixel-size"):
        read_image_stack(tmp_path / "i.mrcs")
    assert read_image_stack(tmp_path / "i.mrcs", 3.54).stack.pixel_size_angstrom == 3.54


def test_hand(generator: torch.Generator) -> None:
    """The other hand has the same projections from behind; evaluation tells them apart only against a reference."""
    volume = _chiral(25)
    behind = about_y(torch.tensor([[math.pi]]))
    image, from_behind = project(volume[None], torch.eye(3)[None, None]), project(mirror_z(volume)[None], behind)
    torch.testing.assert_close(from_behind, image.flip(-1), rtol=0, atol=1e-4)
    turn = random_rotations(2, generator=generator)
    turned = rotate_volumes(torch.stack([volume, mirror_z(volume)]), turn)
    found = align(turned, volume[None])
    assert found.mirrored.tolist() == [False, True]
    assert found.hand_margin.min() > 0.05
    aligned = apply_alignment(turned, found).flatten(1)
    assert torch.nn.functional.cosine_similarity(aligned, volume.flatten()[None]).min() > 0.98


def test_fsc(generator: torch.Generator) -> None:
    volume = torch.randn(16, 16, 16, generator=generator)
    perfect = fourier_shell_correlation(volume, volume)
    torch.testing.assert_close(perfect, torch.ones(9))
    assert area_under_curve(perfect) == pytest.approx(1)
    half = torch.linspace(1, 0, 9)  # over 0 to 0.5 cycles per pixel
    assert area_under_curve(half) == pytest.approx(0.5)
    assert resolution_pixels(half) == pytest.approx(4)  # 0.5 is the default
    assert resolution_pixels(half, threshold=0.143) == pytest.approx(2 / (1 - 0.143))


def test_rotation_error(generator: torch.Generator) -> None:
    truth = random_rotations(40, generator=generator)
    frame, mirror = random_rotations(generator=generator), torch.diag(torch.tensor([1.0, 1, -1]))
    for rotations, mirrored in ((truth @ frame, False), (mirror @ truth @ mirror @ frame, True)):
        errors = pose_errors(rotations, truth)
        assert errors.mirrored is mirrored
        assert errors.frobenius_squared.max() < 1e-6 and errors.degrees.max() < 0.05
    wrong = truth.clone()
    wrong[3] = wrong[3] @ from_rotation_vectors(torch.tensor([0, math.pi, 0]))
    errors = pose_errors(wrong, truth)
    assert errors.frobenius_squared[3] == pytest.approx(8, abs=1e-3)
    assert errors.degrees[3] == pytest.approx(180, abs=0.2)


def test_chamfer_and_emd() -> None:
    """Of two points against one: half a unit and one and a half units away."""
    pair = torch.tensor([[[0.0, 0, 0], [2.0, 0, 0]]])
    single = torch.tensor([[[0.5, 0, 0]]])
    assert chamfer_distance(pair, single).item() == pytest.approx((0.5 + 1.5) / 2 + 0.5)
    moved = pair.flip(1) + torch.tensor([0.0, 3, 0])
    assert earth_movers_distance(pair, moved).item() == pytest.approx(3)


def test_point_clouds(tmp_path: Path, generator: torch.Generator) -> None:
    """A model as it is written lies in the density as it is written, both as a viewer reads them."""
    cloud = 20 * torch.randn(40, 3, generator=generator) + torch.tensor([9.0, -4, 2])
    inside, centre, unit = normalise(cloud)
    assert inside.mean(0).abs().max() < 1e-6 and inside.abs().max() == pytest.approx(1)
    torch.testing.assert_close(inside * unit + centre, cloud, rtol=0, atol=1e-3)
    seen, zero = (cloud - centre)[:, :2], torch.zeros(2)
    view = PosedView(0, torch.eye(3), seen, zero, zero, None, torch.rand(16, 16, generator=generator), 10.0)
    observed = Observed((view,), centre, float(unit), None, None, None, None, "", "")
    found = Reconstruction(observed, ("projection 0",), cloud.expand(2, -1, -1), torch.ones(2, 1))
    write_reconstruction(tmp_path, found, {"made_of": "", "settings": {}})
    atoms = gemmi.read_structure(str(tmp_path / "model.pdb"))[0]
    positions = torch.tensor([site.atom.pos.tolist() for site in atoms.all()])
    with mrcfile.open(tmp_path / "density.mrc") as file:
        density, pixel = torch.from_numpy(file.data.copy()), float(file.voxel_size.x)
        corner = torch.tensor([float(file.header.origin[axis]) for axis in ("x", "y", "z")])
    torch.testing.assert_close(positions.mean(0), cloud.mean(0), rtol=0, atol=0.01)  # no map: the frame of the poses
    x, y, z = ((positions - corner) / pixel).round().long().unbind(1)
    assert density[z, y, x].mean() > 20 * density.mean()
