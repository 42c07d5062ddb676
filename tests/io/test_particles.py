"""Particle sets of RELION and cryoSPARC: what is said of each particle, images read lazily, and files of no use."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
import torch
from numpy.typing import NDArray

from scoretomo.datatypes import ImageStack, InputError, Poses
from scoretomo.geometry.rotations import about_z, from_relion_euler, random_rotations
from scoretomo.io import mrc
from scoretomo.io.cryosparc import cs_bytes, read_cs
from scoretomo.io.mrc import write_images
from scoretomo.io.particle_rows import select_posed_rows, select_rows
from scoretomo.io.particles import Particles, read_particles, refuse_poses_in_a_plane
from scoretomo.io.star import read_poses, write_particles

OPTICS = """# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
7 first 300.0 2.7 0.1 2.5
2 second 200.0 0.01 0.07 2.5

"""
COLUMNS = [
    "rlnImageName",
    "rlnOpticsGroup",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnAngleRot",
    "rlnAngleTilt",
    "rlnAnglePsi",
    "rlnOriginXAngst",
    "rlnOriginYAngst",
]
ROWS = """3@b.mrcs 2 15000 14000 -30 90 10 20 30 1.5 -2
1@a.mrcs 7 25000 24000 60 0 40 50 60 0 0
2@b.mrcs 7 25100 24100 61 0 0 0 90 -1 3
2@b.mrcs 2 15100 14100 -31 90 0 0 0 0 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two stacks of three images of 8 pixels; image ``i`` has the value ``i`` everywhere."""
    images = torch.arange(6.0)[:, None, None].expand(6, 8, 8)
    write_images(tmp_path / "a.mrcs", ImageStack(images[:3], 2.5))
    write_images(tmp_path / "b.mrcs", ImageStack(images[3:], 2.5))
    return tmp_path


def star(folder: Path, columns: list[str] = COLUMNS, rows: str = ROWS, optics: str = OPTICS) -> Path:
    head = "".join(f"_{name} #{number}\n" for number, name in enumerate(columns, 1))
    path = folder / "particles.star"
    path.write_text(f"{optics}data_particles\n\nloop_\n{head}{rows}\n")
    return path


def values(particles: Particles, indices: list[int]) -> list[float]:
    return particles.images.read(indices)[:, 0, 0].tolist()


def test_every_column_of_relion_31_reaches_its_particle(folder: Path) -> None:
    particles = read_particles(star(folder))
    assert (len(particles), particles.side, particles.pixel_size_angstrom) == (4, 8, 2.5)  # not the header's 2
    assert particles.rows.tolist() == [0, 1, 2, 3] and particles.files == (folder / "particles.star",)
    assert values(particles, [0, 1, 2, 3]) == [5, 0, 4, 4]
    ctf = particles.ctf
    assert ctf is not None and particles.poses is not None
    assert ctf.defocus_u_angstrom.tolist() == [15000, 25000, 25100, 15100]
    assert ctf.defocus_v_angstrom.tolist() == [14000, 24000, 24100, 14100]
    assert ctf.astigmatism_degrees.tolist() == [-30, 60, 61, -31]
    assert ctf.phase_shift_degrees.tolist() == [90, 0, 0, 90]
    assert ctf.voltage_kv.tolist() == [200, 300, 300, 200]
    assert ctf.spherical_aberration_mm.tolist() == pytest.approx([0.01, 2.7, 2.7, 0.01])
    assert ctf.amplitude_contrast.tolist() == pytest.approx([0.07, 0.1, 0.1, 0.07])
    assert particles.poses.shifts_angstrom.tolist() == [[-1.5, 2], [0, 0], [1, -3], [0, 0]]
    torch.testing.assert_close(particles.poses.rotations[2], about_z(torch.tensor(-torch.pi / 2)), rtol=0, atol=1e-6)
    assert ctf.voltage_kv.dtype == particles.poses.rotations.dtype == torch.float32


def test_columns_of_the_particles_win_over_their_optics(folder: Path) -> None:
    particles = read_particles(star(folder, [*COLUMNS, "rlnVoltage"], ROWS.replace("\n", " 120\n")))
    assert particles.ctf is not None and particles.ctf.voltage_kv.tolist() == [120] * 4


def test_relion_30_has_one_table_and_origins_in_pixels(folder: Path) -> None:
    columns = [
        *("rlnImageName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration"),
        *("rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize"),
        *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginX", "rlnOriginY"),
    ]
    path = star(folder, columns, "2@a.mrcs 15000 14000 5 300 2.7 0.1 28000 7 10 20 30 2 -1\n", optics="")
    particles = read_particles(path)
    assert particles.pixel_size_angstrom == pytest.approx(2.5)  # 7 micrometers / 28 000
    assert particles.poses is not None and particles.ctf is not None
    assert particles.poses.shifts_angstrom[0].tolist() == pytest.approx([-5, 2.5])
    assert particles.ctf.phase_shift_degrees.tolist() == [0]
    given = read_particles(path, pixel_size_angstrom=3.0)
    assert given.pixel_size_angstrom == 3 and "overruled" in given.notes[0]
    assert given.poses is not None and given.poses.shifts_angstrom[0].tolist() == pytest.approx([-6, 3])


def test_files_that_say_less(folder: Path) -> None:
    particles = read_particles(star(folder, ["rlnImageName", "rlnAnglePsi"], "2@a.mrcs 5\n", optics=""))
    assert particles.poses is None and particles.ctf is None
    assert particles.pixel_size_angstrom == 2.5 and particles.notes == ("pixel size from the header of a.mrcs",)
    # what simulate writes without CTF: microscopes in the optics, but no defocus
    poses = Poses(torch.eye(3).expand(3, 3, 3), torch.zeros(3, 2))
    write_particles(folder / "simulated.star", "a.mrcs", poses, pixel_size_angstrom=2.5, side=8)
    simulated = read_particles(folder / "simulated.star")
    assert simulated.ctf is None and simulated.poses is not None


def test_a_plain_stack(folder: Path) -> None:
    particles = read_particles(folder / "b.mrcs")
    assert particles.poses is None and particles.ctf is None and particles.pixel_size_angstrom == 2.5
    assert values(particles, [2, 0]) == [5, 3]
    with pytest.raises(InputError, match=r"\.hdf.*give \.star, \.cs or \.mrcs"):
        read_particles(folder / "b.hdf")
    with pytest.raises(InputError, match=r"passthrough files belong to \.cs"):
        read_particles(folder / "b.mrcs", [folder / "p.cs"])


def test_any_images_in_any_order(folder: Path) -> None:
    images = read_particles(star(folder)).images
    assert images.read([3, 0, 0, 1])[:, 0, 0].tolist() == [4, 5, 5, 0]
    assert images.read(torch.tensor([1, 3]))[:, 0, 0].tolist() == [0, 4]
    assert images.read(np.array([2]))[:, 0, 0].tolist() == [4]
    assert images.read([]).shape == (0, 8, 8)
    assert images.read([0]).dtype == torch.float32
    with pytest.raises(IndexError):
        images.read([4])


@pytest.mark.parametrize("stored", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_every_stored_type_and_byte_order(tmp_path: Path, stored: type) -> None:
    import mrcfile

    for order in "<>":
        with mrcfile.new(tmp_path / "x.mrcs", overwrite=True) as file:
            file.set_data(np.arange(3 * 16, dtype=stored).reshape(3, 4, 4).astype(np.dtype(stored).newbyteorder(order)))
        found = read_particles(tmp_path / "x.mrcs", pixel_size_angstrom=2.0).images.read([2, 1])
        expected = torch.arange(48.0).view(3, 4, 4)[[2, 1]]
        assert torch.equal(found, expected)


def test_extended_headers_and_axes_in_another_order(tmp_path: Path) -> None:
    import mrcfile

    with mrcfile.new(tmp_path / "x.mrcs") as file:
        file.set_data(np.random.default_rng(0).random((3, 3, 3), np.float32))
        file.set_extended_header(np.ones(100, np.float32))
        file.set_volume()
        file.header.mapc, file.header.maps = 3, 1
        stored = file.data.copy()
    found = read_particles(tmp_path / "x.mrcs", pixel_size_angstrom=2.0).images.read([2, 0])
    assert torch.equal(found, torch.from_numpy(stored.T[[2, 0]]))


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 000 particles of 128 pixels in a sparse file of 3.3 GB: only what is asked for may cost memory."""
    count, side = 50_000, 128
    write_images(tmp_path / "x.mrcs", ImageStack(torch.full((1, side, side), 2.0), 2.0))
    with open(tmp_path / "x.mrcs", "r+b") as file:
        header = bytearray(file.read(1024))
        header[8:12] = header[36:40] = count.to_bytes(4, "little")
        file.seek(0)
        file.write(header)
        file.truncate(1024 + 4 * side * side * count)
    particles = read_particles(tmp_path / "x.mrcs", pixel_size_angstrom=2.0)
    peak = _resident()
    chosen = particles.images.read([49_999, 0, 25_000])
    assert len(particles) == count and chosen[:, 64, 64].tolist() == [0, 2, 0]
    assert _resident() - peak < 20e6
    assert len(pickle.dumps(particles)) < 2e6  # so that workers can be handed it


def _resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        pytest.skip("no /proc")
    return int(pages) * 4096


def test_stacks_are_not_held_open(folder: Path, tmp_path: Path) -> None:
    """Projects have more stacks than a process may open files."""
    import resource

    names = []
    for i in range(40):
        (tmp_path / f"s{i}.mrcs").write_bytes((folder / "a.mrcs").read_bytes())
        names.append(f"{i % 3 + 1}@s{i}.mrcs\n")
    path = star(folder, ["rlnImageName"], "".join(names), optics="")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, hard))
    try:
        particles = read_particles(path)
        assert values(particles, list(range(40))) == [i % 3 for i in range(40)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_rows_survive_selection(folder: Path) -> None:
    particles = read_particles(star(folder))
    some = particles.select([3, 0, 2])
    assert some.rows.tolist() == [3, 0, 2] and values(some, [0, 1, 2]) == [4, 5, 4]
    again = some.select(torch.tensor([False, True, True]))
    assert again.rows.tolist() == [0, 2] and values(again, [1, 0]) == [4, 5]
    assert again.ctf is not None and again.ctf.defocus_u_angstrom.tolist() == [15000, 25100]
    assert again.poses is not None and again.poses.shifts_angstrom.tolist() == [[-1.5, 2], [1, -3]]
    assert len(particles) == 4
    assert len(particles.select([])) == 0


def test_a_selection_goes_back_to_star_untouched(folder: Path) -> None:
    path = star(folder)
    chosen = read_particles(path).select([3, 1])
    (content,) = select_rows(chosen.files, chosen.rows)
    lines = path.read_bytes().splitlines(keepends=True)
    gone = [lines.index(line.encode() + b"\n") for line in ROWS.splitlines()[0:3:2]]
    assert content == b"".join(line for number, line in enumerate(lines) if number not in gone)
    (folder / "kept.star").write_bytes(content)
    kept = read_particles(folder / "kept.star")
    assert kept.ctf is not None and kept.ctf.defocus_u_angstrom.tolist() == [25000, 15100]
    assert values(kept, [0, 1]) == [0, 4]


def test_an_unused_optics_group_may_have_another_pixel_size(folder: Path) -> None:
    mixed = OPTICS.replace("0.07 2.5", "0.07 1.25")
    with pytest.raises(InputError, match=r"particles\.star: pixel sizes from 1\.25 to 2\.5 A; write one file for each"):
        read_particles(star(folder, optics=mixed))
    path = star(folder, rows="".join(ROWS.splitlines(keepends=True)[1:3]), optics=mixed)
    assert read_particles(path).pixel_size_angstrom == 2.5


def without(*names: str) -> tuple[list[str], str]:
    kept = [i for i, name in enumerate(COLUMNS) if name not in names]
    rows = "".join(" ".join(row.split()[i] for i in kept) + "\n" for row in ROWS.splitlines())
    return [COLUMNS[i] for i in kept], rows


@pytest.mark.parametrize(
    ("columns", "rows", "optics", "message"),
    [
        (*without("rlnDefocusV"), OPTICS, "some columns of the CTF, but no rlnDefocusV; add them"),
        (*without("rlnDefocusU", "rlnDefocusAngle"), OPTICS, "but no rlnDefocusU, rlnDefocusAngle;"),
        (COLUMNS, ROWS, "", "but no rlnVoltage, rlnSphericalAberration, rlnAmplitudeContrast;"),
        (COLUMNS, ROWS.replace("25000", "nan"), OPTICS, "rlnDefocusU.* not finite"),
        (COLUMNS, ROWS.replace("25000", "none"), OPTICS, "rlnDefocusU.* must be numbers"),
        (COLUMNS, ROWS.replace("50", "nan"), OPTICS, "rlnAngleTilt.* not finite"),
        (COLUMNS, ROWS.replace("-2\n", "inf\n"), OPTICS, "rlnOriginYAngst.* not finite"),
        (COLUMNS, ROWS.replace("@a.mrcs 7", "@a.mrcs 3"), OPTICS, "data_optics has no optics group 3"),
        (COLUMNS, ROWS, OPTICS.replace("2 second", "7 second"), "has an optics group twice|no optics group 2"),
        (COLUMNS, ROWS, OPTICS.replace("300.0", "300000"), "voltage_kv of images 1, 2 must be 10 to 3000 kV"),
        (COLUMNS, ROWS.replace("3@b", "4@b"), OPTICS, r"row 1 asks for image 4 of b\.mrcs, which has 3"),
        (COLUMNS, ROWS.replace("1@a", "1@c"), OPTICS, r"1 of 2 image stacks are missing.*c\.mrcs"),
        (
            [*COLUMNS, "rlnCtfDataArePhaseFlipped"],
            ROWS.replace("\n", " 1\n"),
            OPTICS,
            r"phase-flipped already \(rlnCtfDataArePhaseFlipped\)",
        ),
    ],
)
def test_bad_star_files_give_one_clear_line(
    folder: Path, columns: list[str], rows: str, optics: str, message: str
) -> None:
    path = star(folder, columns, rows, optics)
    with pytest.raises(InputError, match=message) as caught:
        read_particles(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_bad_images_are_told_when_they_are_read(folder: Path) -> None:
    with open(folder / "a.mrcs", "r+b") as file:
        file.seek(1024 + 4 * 64)  # the second image
        file.write(np.float32(np.nan).tobytes())
    particles = read_particles(star(folder, ["rlnImageName"], "1@a.mrcs\n2@a.mrcs\n", optics=""))
    assert values(particles, [0]) == [0]
    with pytest.raises(InputError, match=r"particles\.star: image 2 of a\.mrcs holds NaN"):
        particles.images.read([0, 1])
    (folder / "a.mrcs").write_bytes(b"short")
    with pytest.raises(InputError, match=r"a\.mrcs: has changed"):
        particles.images.read([0])
    (folder / "a.mrcs").unlink()
    with pytest.raises(InputError, match=r"a\.mrcs: has changed"):
        particles.images.read([0])


def test_images_that_are_not_square(tmp_path: Path) -> None:
    import mrcfile

    with mrcfile.new(tmp_path / "x.mrcs") as file:
        file.set_data(np.zeros((2, 6, 8), np.float32))
    with pytest.raises(InputError, match=r"x\.mrcs: images must be square, not 8 x 6"):
        read_particles(tmp_path / "x.mrcs", pixel_size_angstrom=2.0)


# cryoSPARC

UID = np.array([9, 3, 7], "<u8")
BLOB = {
    "blob/path": np.array([b">b.mrcs", b"a.mrcs", b"b.mrcs"]),
    "blob/idx": np.array([2, 0, 1], "<u4"),
    "blob/psize_A": np.full(3, 2.5, "<f4"),
}
CTF = {
    "ctf/accel_kv": np.full(3, 300, "<f4"),
    "ctf/cs_mm": np.full(3, 2.7, "<f4"),
    "ctf/amp_contrast": np.full(3, 0.1, "<f4"),
    "ctf/df1_A": np.array([15000, 16000, 17000], "<f4"),
    "ctf/df2_A": np.array([14000, 15000, 16000], "<f4"),
    "ctf/df_angle_rad": np.array([0, np.pi / 2, -np.pi / 6], "<f4"),
    "ctf/phase_shift_rad": np.array([0, 0, np.pi / 2], "<f4"),
}
ALIGNMENTS = {
    "alignments3D/pose": np.array([[0, 0, np.pi / 2], [0, 0, 0], [0.1, -0.2, 0.3]], "<f4"),
    "alignments3D/shift": np.array([[2, -1], [0, 0], [1, 0]], "<f4"),
}


def table(order: slice | list[int] = slice(None), **columns: NDArray[Any]) -> bytes:
    count = len(next(iter(columns.values())))
    made = np.zeros(count, dtype=[(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        made[name] = column
    return cs_bytes(made[order])


def cs(folder: Path, name: str = "particles.cs", order: slice | list[int] = slice(None), **columns: Any) -> Path:
    (folder / name).write_bytes(table(order, **columns))
    return folder / name


def check(particles: Particles) -> None:
    assert particles.pixel_size_angstrom == 2.5 and values(particles, [0, 1, 2]) == [5, 0, 4]
    assert particles.ctf is not None and particles.poses is not None
    assert particles.ctf.defocus_u_angstrom.tolist() == [15000, 16000, 17000]
    assert particles.ctf.defocus_v_angstrom.tolist() == [14000, 15000, 16000]
    assert particles.ctf.astigmatism_degrees.tolist() == pytest.approx([0, 90, -30])
    assert particles.ctf.phase_shift_degrees.tolist() == pytest.approx([0, 0, 90])
    assert particles.ctf.voltage_kv.tolist() == [300] * 3
    assert particles.poses.shifts_angstrom.tolist() == [[-5, 2.5], [0, 0], [-2.5, 0]]
    # the rotation vector turns the microscope frame; RELION's psi of 90 degrees does the same to the axes
    torch.testing.assert_close(
        particles.poses.rotations[0], from_relion_euler(torch.tensor([0.0, 0, 90])), rtol=0, atol=1e-6
    )


def test_a_cs_file_with_everything(folder: Path) -> None:
    check(read_particles(cs(folder, uid=UID, **BLOB, **CTF, **ALIGNMENTS)))


def test_passthrough_files_in_any_order(folder: Path) -> None:
    path = cs(folder, uid=UID, **BLOB)
    first = cs(folder, "p1.cs", [2, 0, 1], uid=UID, **CTF)
    second = cs(folder, "p2.cs", [1, 2, 0], uid=UID, **ALIGNMENTS)
    particles = read_particles(path, [first, second])
    check(particles)
    assert particles.files == (path, first, second)
    alone = read_particles(path)
    assert alone.ctf is None and alone.poses is None
    some = particles.select([2, 1])
    own, one, two = select_rows(some.files, some.rows)
    for content, name in ((own, "own.cs"), (one, "one.cs"), (two, "two.cs")):
        (folder / name).write_bytes(content)
    before = {row["uid"]: row.tobytes() for row in read_cs(second).rows}
    assert [row.tobytes() for row in read_cs(folder / "two.cs").rows] == [before[3], before[7]]
    kept = read_particles(folder / "own.cs", [folder / "one.cs", folder / "two.cs"])
    assert values(kept, [0, 1]) == [0, 4]
    assert kept.ctf is not None and kept.ctf.defocus_u_angstrom.tolist() == [16000, 17000]


@pytest.mark.parametrize("aligned", [{}, {"alignments3D/psize_A": np.full(3, 5, "<f4")}])
def test_new_poses_go_into_the_file_that_has_the_old_ones(
    folder: Path, generator: torch.Generator, aligned: dict[str, NDArray[Any]]
) -> None:
    """A passthrough file in another order, with shifts in pixels of its own; all other fields stay."""
    files = (cs(folder, uid=UID, **BLOB), cs(folder, "p.cs", [2, 0, 1], uid=UID, **CTF, **ALIGNMENTS, **aligned))
    poses = Poses(random_rotations(2, generator=generator), torch.randn(2, 2, generator=generator))
    own, passed = select_posed_rows(files, np.array([2, 0]), poses, 2.5)
    assert own == select_rows(files, np.array([0, 2]))[0]
    (folder / "own.cs").write_bytes(own)
    (folder / "passed.cs").write_bytes(passed)
    found = read_particles(folder / "own.cs", [folder / "passed.cs"])
    assert found.poses is not None and found.ctf is not None
    torch.testing.assert_close(found.poses.rotations, poses.rotations[[1, 0]], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.poses.shifts_angstrom, poses.shifts_angstrom[[1, 0]], rtol=0, atol=1e-5)
    assert found.ctf.defocus_u_angstrom.tolist() == [15000, 17000]


def test_new_poses_of_particles_without_any_are_added(folder: Path, generator: torch.Generator) -> None:
    path = cs(folder, uid=UID, **BLOB, **CTF)
    poses = Poses(random_rotations(3, generator=generator), torch.randn(3, 2, generator=generator))
    (folder / "posed.cs").write_bytes(select_posed_rows((path,), np.arange(3), poses, 2.5)[0])
    before, after = read_cs(path).rows, read_cs(folder / "posed.cs").rows
    assert all((after[name] == before[name]).all() for name in before.dtype.names)
    assert after["alignments3D/psize_A"].tolist() == [2.5] * 3
    found = read_particles(folder / "posed.cs").poses
    assert found is not None
    torch.testing.assert_close(found.rotations, poses.rotations, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.shifts_angstrom, poses.shifts_angstrom, rtol=0, atol=1e-5)


def test_halves_of_one_kind_are_none(folder: Path) -> None:
    """Before a refinement all particles are in split 0."""
    for split, halves in (([0, 0, 0], None), ([1, 0, 1], [2, 1, 2])):
        path = cs(folder, uid=UID, **BLOB, **{"alignments3D/split": np.array(split, "<u4")})
        found = read_particles(path)
        assert (None if found.halves is None else found.halves.tolist()) == halves
        assert found.half_sets.tolist() == (halves or [1, 2, 1])


def test_shifts_are_in_pixels_of_the_alignment(folder: Path) -> None:
    """Alignment at half the sampling, then extraction at another: the shifts keep the pixels they were found in."""
    size = {"alignments3D/psize_A": np.full(3, 5, "<f4")}
    path = cs(folder, uid=UID, **BLOB, **ALIGNMENTS, **size)
    for given, expected in ((None, [-10, 5]), (1.25, [-5, 2.5])):
        poses = read_particles(path, pixel_size_angstrom=given).poses
        assert poses is not None and poses.shifts_angstrom[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({**BLOB, "ctf/df1_A": CTF["ctf/df1_A"]}, "some fields of the CTF, but no ctf/df2_A, .*--passthrough"),
        (
            {**BLOB, **CTF, "ctf/df1_A": np.array([1e4, np.nan, 1e4], "<f4")},
            "defocus_u_angstrom of images 1 .* not nan",
        ),
        (
            {**BLOB, **ALIGNMENTS, "alignments3D/pose": np.array([[0, 0, 0], [0, 0, 0], [0, np.nan, 0]], "<f4")},
            "alignments3D: poses 2 are NaN",
        ),
        (
            {**BLOB, **ALIGNMENTS, "alignments3D/shift": np.array([[0, 0], [np.inf, 0], [0, 0]], "<f4")},
            "alignments3D: poses 1 are NaN or infinite",
        ),
        ({**BLOB, "blob/psize_A": np.array([2.5, 1.25, 2.5], "<f4")}, "pixel sizes from 1.25 to 2.5 A"),
        ({**BLOB, "blob/idx": np.array([2, 3, 1], "<u4")}, r"row 2 asks for image 4 of a\.mrcs, which has 3"),
        ({**ALIGNMENTS}, "names no images: no blob/path and no blob/idx"),
    ],
)
def test_bad_cs_files_give_one_clear_line(folder: Path, columns: dict[str, Any], message: str) -> None:
    path = cs(folder, uid=UID, **columns)
    with pytest.raises(InputError, match=message) as caught:
        read_particles(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_rows_that_the_file_does_not_have(folder: Path) -> None:
    path = star(folder)
    with pytest.raises(InputError, match="has rows 0 to 3, not 0 to 4; has it changed"):
        select_rows((path,), np.array([0, 4]))
    (content,) = select_rows((path,), np.array([], dtype=np.intp))
    assert not set(ROWS.encode().splitlines()) & set(content.splitlines())
    with pytest.raises(InputError, match=r"give \.star or \.cs"):
        select_rows((folder / "a.mrcs",), np.array([0]))


# real files


def test_real_files_of_relion_31(data: Path) -> None:
    for name, side, pixel_size in (("relion31", 256, 2.806), ("sample_particles_relion31", 200, 1.4)):
        path = data / "formats" / f"{name}.star"
        particles = read_particles(path)
        blocks = starfile.read(path)
        rows, optics = blocks["particles"], blocks["optics"]
        assert (len(particles), particles.side, particles.pixel_size_angstrom) == (len(rows), side, pixel_size)
        ctf, poses = particles.ctf, particles.poses
        assert ctf is not None and poses is not None
        np.testing.assert_allclose(ctf.defocus_u_angstrom, rows["rlnDefocusU"], rtol=1e-6)
        np.testing.assert_allclose(ctf.defocus_v_angstrom, rows["rlnDefocusV"], rtol=1e-6)
        np.testing.assert_allclose(ctf.astigmatism_degrees, rows["rlnDefocusAngle"], rtol=1e-6)
        voltages = dict(zip(optics["rlnOpticsGroup"], optics["rlnVoltage"], strict=True))
        assert ctf.voltage_kv.tolist() == [voltages[group] for group in rows["rlnOpticsGroup"]]
        np.testing.assert_allclose(ctf.spherical_aberration_mm, optics["rlnSphericalAberration"][0], rtol=1e-6)
        np.testing.assert_allclose(poses.shifts_angstrom, -rows[["rlnOriginXAngst", "rlnOriginYAngst"]], rtol=1e-6)
        # the third row of RELION's matrix is the direction of view, of which rot and tilt are the polar angles
        rot, tilt = np.deg2rad(rows["rlnAngleRot"]), np.deg2rad(rows["rlnAngleTilt"])
        view = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], 1)
        np.testing.assert_allclose(poses.rotations[:, 2], view, atol=1e-6)
        torch.testing.assert_close(poses.rotations, read_poses(path).rotations)


def test_one_optics_group_in_two(data: Path) -> None:
    """The sample names two groups, of 300 and 200 kV, and its particles are of the first or second."""
    path = data / "formats" / "sample_particles_relion31.star"
    groups = starfile.read(path)["particles"]["rlnOpticsGroup"].tolist()
    ctf = read_particles(path).ctf
    assert ctf is not None
    assert ctf.voltage_kv.tolist() == [{1: 300.0, 2: 200.0}[group] for group in groups]


def test_cryosparc_and_relion_say_the_same_of_the_same_particles(data: Path) -> None:
    twins = [read_particles(data / "formats" / f"empiar_10076_7{suffix}") for suffix in (".star", ".cs")]
    for twin in twins:
        assert (len(twin), twin.side) == (7, 320)
        assert twin.pixel_size_angstrom == pytest.approx(5e4 / 38168, rel=1e-5)
        assert twin.ctf is not None and twin.poses is None
        assert twin.ctf.defocus_u_angstrom[:2].tolist() == pytest.approx([15301.1, 15303.0])
        assert twin.ctf.astigmatism_degrees.tolist() == pytest.approx([5.28] * 7, abs=1e-5)
        assert twin.ctf.amplitude_contrast.tolist() == pytest.approx([0.07] * 7)
    assert torch.equal(*(twin.images.read([6, 0, 3]) for twin in twins))
    for first, second in zip(*(vars(twin.ctf).values() for twin in twins), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", ["relion31.star", "sample_particles_relion31.star", "empiar_10076_7.star"])
def test_selections_of_real_star_files(data: Path, tmp_path: Path, name: str) -> None:
    path = data / "formats" / name
    particles = read_particles(path)
    chosen = particles.select(torch.arange(len(particles)) % 3 == 1)
    (content,) = select_rows(chosen.files, chosen.rows)
    whole, kept = path.read_bytes().splitlines(), content.splitlines()
    named = [line for line in whole if b"@" in line]
    assert [line for line in kept if b"@" in line] == [named[row] for row in chosen.rows]
    assert [line for line in kept if b"@" not in line] == [line for line in whole if b"@" not in line]
    assert select_rows(particles.files, particles.rows) == (path.read_bytes(),)


def test_a_selection_of_a_real_cs_file(data: Path, tmp_path: Path) -> None:
    path = data / "formats" / "empiar_10076_7.cs"
    chosen = read_particles(path).select([5, 2])
    (tmp_path / "kept.cs").write_bytes(select_rows(chosen.files, chosen.rows)[0])
    before, after = read_cs(path).rows, read_cs(tmp_path / "kept.cs").rows
    assert after.dtype == before.dtype and after.tobytes() == before[[2, 5]].tobytes()


def test_lazy_reading_is_reading(data: Path, generator: torch.Generator) -> None:
    path = data / "class_averages" / "orf2p_69x76px.mrcs"
    particles = read_particles(path, pixel_size_angstrom=4.0)
    whole = mrc.read_images(path, 4.0).stack.images
    order = torch.randperm(len(whole), generator=generator)
    assert torch.equal(particles.images.read(order), whole[order])


def test_particles_need_as_many_poses_as_images(folder: Path) -> None:
    particles = read_particles(star(folder))
    poses = Poses(random_rotations(3), torch.zeros(3, 2))
    with pytest.raises(InputError, match="4 particles have poses of 3"):
        Particles(particles.images, 2.5, poses, None, particles.rows, particles.files)
    with pytest.raises(InputError, match="pixel size must be a positive"):
        Particles(particles.images, 0.0, None, None, particles.rows, particles.files)


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_poses_in_a_plane_are_those_of_a_2d_classification(tmp_path: Path, kind: str) -> None:
    """All seen from one direction: nothing can be reconstructed of them, but in silence everything would run."""
    write_images(tmp_path / "a.mrcs", ImageStack(torch.rand(6, 8, 8), 2.5))
    rows = "".join(f"{i + 1}@a.mrcs 20 0 {40 * i}\n" for i in range(6))
    columns = ["rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    if kind == "star":
        path = star(tmp_path, columns, rows, optics="")
    else:
        numbers = np.arange(6)
        blob = {"blob/path": np.array([b"a.mrcs"] * 6), "blob/idx": numbers.astype("<u4")}
        path = cs(tmp_path, uid=numbers.astype("<u8"), **blob, **{"alignments3D/pose": np.zeros((6, 3), "<f4")})
    with pytest.raises(InputError, match=r"all 6 poses have the same viewing direction, as those of a 2D"):
        refuse_poses_in_a_plane(read_particles(path))
    refuse_poses_in_a_plane(read_particles(path, with_poses=False))  # who searches for poses has no use for them
    tilted = rows.replace("3@a.mrcs 20 0", "3@a.mrcs 20 15")
    refuse_poses_in_a_plane(read_particles(star(tmp_path, columns, tilted, optics="")))
