"""ChimeraX command files."""

import shlex
from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError, Volume
from scoretomo.io.chimerax import MapSeries, enclosed_volume_angstrom3, write_chimerax_script


def commands(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("# ")]


def test_states_and_motions_are_opened_at_one_enclosed_volume(tmp_path: Path) -> None:
    states = [(f"state {k}", tmp_path / "clusters" / f"cluster_{k}.mrc") for k in (1, 2)]
    motion = MapSeries("path", tuple(tmp_path / "path" / f"path_{k:02d}.mrc" for k in range(3)))
    write_chimerax_script(tmp_path / "view.cxc", states, [motion], enclosed_volume_angstrom3=12345.6)
    found = commands(tmp_path / "view.cxc")
    opened = [line for line in found if line[0] == "open"]
    assert opened[0] == ["open", "clusters/cluster_1.mrc", "id", "1.1", "name", "state 1"]
    assert opened[2][1:4] == [f"path/path_{k:02d}.mrc" for k in range(3)]
    assert opened[2][4:] == ["vseries", "true", "id", "2", "name", "path"]
    surfaces = [line for line in found if line[0] == "volume"]
    assert [line[1] for line in surfaces] == ["#1.1", "#1.2", "#2"]
    assert {line[line.index("encloseVolume") + 1] for line in surfaces} == {"12345.6"}
    colours = [line[line.index("color") + 1] for line in surfaces]
    assert len(set(colours)) == 3 and all(colour.startswith("#") and len(colour) == 7 for colour in colours)
    assert ["tile", "#1.1", "#1.2"] in found
    assert ["hide", "#2", "models"] in found  # it would stand inside the first state


def test_a_motion_alone_plays(tmp_path: Path) -> None:
    motion = MapSeries("path", (tmp_path / "a.mrc", tmp_path / "b.mrc"))
    write_chimerax_script(tmp_path / "view.cxc", [], [motion, motion], enclosed_volume_angstrom3=1.0)
    found = commands(tmp_path / "view.cxc")
    plays = [line for line in found if line[:2] == ["vseries", "play"]]
    assert plays[0][2:5] == ["#2", "loop", "true"] and plays[1][2:5] == ["#3", "jumpTo", "0"]
    assert ["hide", "#2", "models"] not in found and ["hide", "#3", "models"] in found


def test_maps_are_named_from_the_folder_of_the_script(tmp_path: Path) -> None:
    """Spaces survive, and the run folder may be moved as a whole."""
    script = tmp_path / "run" / "ensemble" / "view.cxc"
    script.parent.mkdir(parents=True)
    write_chimerax_script(script, [("a", tmp_path / "run" / "my maps" / "a.mrc")], enclosed_volume_angstrom3=1.0)
    text = script.read_text(encoding="utf-8")
    assert 'open "../my maps/a.mrc" id 1.1' in text
    assert str(tmp_path) not in text and "tile" not in text


def test_enclosed_volume_counts_voxels_in_cubic_angstrom() -> None:
    voxels = torch.zeros(4, 4, 4)
    voxels[0, 0, :3] = torch.tensor([0.4, 0.5, 2.0])
    assert enclosed_volume_angstrom3(Volume(voxels, 2.0), 0.5) == 2 * 8


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "view.cxc"
    with pytest.raises(InputError, match="no map"):
        write_chimerax_script(path, [], enclosed_volume_angstrom3=1.0)
    with pytest.raises(InputError, match="positive"):
        write_chimerax_script(path, [("a", path)], enclosed_volume_angstrom3=0.0)
    with pytest.raises(InputError, match="quotes"):
        write_chimerax_script(path, [('a"; exit', path)], enclosed_volume_angstrom3=1.0)
    with pytest.raises(InputError, match="at least two"):
        MapSeries("path", (path,))
    assert not path.exists()
