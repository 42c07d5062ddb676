import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.commands.simulated_objects import build_object
from scoretomo.datatypes import InputError, Volume
from scoretomo.io.mrc import write_volume
from scoretomo.simulation.motions import assemble
from scoretomo.simulation.single_particles import ParticleConfig

CONFIG = ParticleConfig(count=6, side=32, widest_angle_degrees=80.0)


def model(path: Path) -> Path:
    """Two chains of atoms in an L: A along x, B along y."""
    line = "ATOM  {:5d}  CA  ALA {}{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C\n"
    long = [line.format(i, "A", i, 4.0 * i, 0.0, 3.0 * (i % 2)) for i in range(1, 11)]
    short = [line.format(i, "B", i, 0.0, 4.0 * (i - 10), 3.0 * (i % 2)) for i in range(11, 19)]
    path.write_text("".join(long + short))
    return path


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_named_part_of_a_model_moves_and_the_rest_stays(tmp_path: Path) -> None:
    path = model(tmp_path / "two.pdb")
    parts, _ = build_object(str(path), CONFIG, moving=["B"])
    rest, part = parts
    assert rest.hinge is None and part.hinge is not None
    assert rest.density.voxels.sum().item() == pytest.approx(60, rel=0.01)  # 10 carbon atoms
    assert part.density.voxels.sum().item() == pytest.approx(48, rel=0.01)
    # B lies along y from the corner: its middle is left of and above that of A
    assert part.centre_angstrom[0] < rest.centre_angstrom[0] and part.centre_angstrom[1] > rest.centre_angstrom[1]
    assert part.hinge.axis[2].abs() > 0.95
    closed, open_ = (volume.voxels for volume in assemble(parts, [0.0, math.radians(80)]))
    far_end = slice(None), slice(None), slice(24, 32)  # of A
    assert (closed - open_)[far_end].abs().max() < 0.05 * closed.max()
    assert correlation(closed, open_) < 0.9
    whole, _ = build_object(str(path), replace(CONFIG, widest_angle_degrees=0.0))
    assert len(whole) == 1 and whole[0].density.voxels.sum().item() == pytest.approx(108, rel=0.01)


def test_model_moves_along_its_long_axis_where_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "two.pdb").write_text(model(tmp_path / "one.pdb").read_text())
    parts, _ = build_object(str(tmp_path / "two.pdb"), CONFIG)
    assert len(parts) == 2
    assert sum(part.density.voxels.sum().item() for part in parts) == pytest.approx(108, rel=0.01)


def test_what_would_leave_the_images_is_cut_off_a_map(tmp_path: Path) -> None:
    write_volume(tmp_path / "map.mrc", Volume(torch.ones(32, 32, 32), 2.0))
    (part,), _ = build_object(str(tmp_path / "map.mrc"), replace(CONFIG, widest_angle_degrees=0.0))
    assert part.density.pixel_size_angstrom == 2.0
    assert part.density.voxels[16, 16, 16] == 1 and part.density.voxels[0, 0, 0] == 0


@pytest.mark.parametrize(
    "source, changes, moving, message",
    [
        ("hand", {"widest_angle_degrees": 120.0}, None, "90 degrees at most"),
        ("hand", {}, "A", "only an atomic model"),
        ("map.mrc", {}, None, "no part that could move"),
        ("two.pdb", {"widest_angle_degrees": 0.0}, "A", "--widest-angle-degrees"),
        ("two.pdb", {"pixel_size_angstrom": 1.0}, "B", "more or larger pixels"),
        ("two.pdb", {}, "C", "its chains are A, B"),
        ("nowhere.mrc", {"widest_angle_degrees": 0.0}, None, "nowhere.mrc"),
    ],
)
def test_impossible_objects_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    changes: dict[str, float],
    moving: str | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "two.pdb")
    write_volume(tmp_path / "map.mrc", Volume(torch.ones(16, 16, 16), 2.0))
    with pytest.raises(InputError, match=message):
        build_object(source, replace(CONFIG, **changes), moving=() if moving is None else [moving])


def test_two_named_parts_have_hinges_of_their_own_towards_what_stays(tmp_path: Path) -> None:
    path = model(tmp_path / "two.pdb")
    rest, long_end, short = build_object(str(path), CONFIG, moving=["A:8-10", "B"])[0]
    assert rest.hinge is None and long_end.hinge is not None and short.hinge is not None
    # A lies along x from the corner, where B begins
    assert long_end.hinge.point_angstrom[0] > short.hinge.point_angstrom[0] + 20
    assert sum(part.density.voxels.sum().item() for part in (rest, long_end, short)) == pytest.approx(108, rel=0.01)


def test_hinges_do_not_see_the_other_moving_part(tmp_path: Path) -> None:
    """Residues 8 to 10 hang on 5 to 7, which move too: their hinge is halfway to residue 4."""
    parts, _ = build_object(str(model(tmp_path / "two.pdb")), CONFIG, moving=["A:5-7", "A:8-10"])
    near, far = (part.hinge.point_angstrom[0].item() for part in parts if part.hinge is not None)
    assert far - near == pytest.approx(24 - 18, abs=0.5)


def test_outer_thirds_move_where_two_motions_are_asked_for(tmp_path: Path) -> None:
    parts, _ = build_object(str(model(tmp_path / "two.pdb")), CONFIG, motions=2)
    assert [part.hinge is not None for part in parts] == [False, True, True]
    assert all(part.density.voxels.sum().item() == pytest.approx(36, rel=0.01) for part in parts)


def test_trace_of_a_collection_is_an_atomic_model_of_one_weight(tmp_path: Path) -> None:
    xyz = torch.randn(70, 3, generator=torch.Generator().manual_seed(2)).numpy() * 10
    np.savez(tmp_path / "traces.npz", ids=np.array(["ONE", "TWO"]), offsets=np.array([0, 30, 70]), xyz=xyz)
    for name in ("1", "TWO"):
        parts, _ = build_object(f"{tmp_path / 'traces.npz'}:{name}", CONFIG, motions=1)
        assert len(parts) == 2
        assert sum(part.density.voxels.sum().item() for part in parts) == pytest.approx(40, rel=0.01)
    with pytest.raises(InputError, match="has no chains to name"):
        build_object(f"{tmp_path / 'traces.npz'}:1", CONFIG, moving=["A"])
    with pytest.raises(InputError, match=r"name one, as in traces\.npz:1"):
        build_object(str(tmp_path / "traces.npz"), CONFIG)


def test_a_recentred_object_needs_the_room_that_its_centre_leaves_it(tmp_path: Path) -> None:
    path = str(model(tmp_path / "two.pdb"))
    apart = [build_object(path, CONFIG, moving=["B"], recentred=recentred)[0][0] for recentred in (False, True)]
    sizes = [part.density.pixel_size_angstrom for part in apart]
    assert 0.7 < sizes[1] / sizes[0] < 1.1 and sizes[0] != sizes[1]


def test_a_single_point_has_no_parts_and_no_size(tmp_path: Path) -> None:
    path = tmp_path / "point.pdb"
    path.write_text(model(tmp_path / "two.pdb").read_text().splitlines()[0])
    with pytest.raises(InputError, match="its 1 atoms are no parts"):
        build_object(str(path), CONFIG)
    rigid = replace(CONFIG, widest_angle_degrees=0.0)
    with pytest.raises(InputError, match=r"single point.*--pixel-size-angstrom"):
        build_object(str(path), rigid)
    (part,), _ = build_object(str(path), replace(rigid, pixel_size_angstrom=2.0))
    assert part.density.voxels.sum().item() == pytest.approx(6, rel=0.01)


def test_notes_of_an_atomic_file_are_handed_on_and_an_option_decides(tmp_path: Path) -> None:
    body = model(tmp_path / "two.pdb").read_text()
    (tmp_path / "twice.pdb").write_text(f"MODEL        1\n{body}ENDMDL\nMODEL        2\n{body}ENDMDL\n")
    parts, notes = build_object(str(tmp_path / "twice.pdb"), CONFIG)
    assert sum(part.density.voxels.sum().item() for part in parts) == pytest.approx(108, rel=0.01)
    assert "its 2 models lie on one another" in notes[0]
    parts, notes = build_object(str(tmp_path / "twice.pdb"), CONFIG, models="all")
    assert sum(part.density.voxels.sum().item() for part in parts) == pytest.approx(216, rel=0.01)
    assert not notes
    with pytest.raises(InputError, match="leave --models out"):
        build_object("hand", CONFIG, models="all")
