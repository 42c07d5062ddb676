import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scoretomo.datatypes import InputError
from scoretomo.report.headline import facts, headline, sentences
from scoretomo.report.summary import RunSummary, read_summary


@pytest.fixture
def folder(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A run folder of which a test may break parts."""
    return Path(shutil.copytree(make_run(), tmp_path / "box"))


def test_tables_are_joined_by_the_number_of_the_class_average(folder: Path) -> None:
    run = read_summary(folder)
    assert [volume.index for volume in run.volumes] == list(range(14))
    third, sixth = run.volumes[3], run.volumes[6]
    assert third.verdict == "doubtful" and third.reasons[0].startswith("repeats agree on the core")
    assert third.hand_certain is False and third.mirrored and not third.trusted
    assert sixth.verdict == "wrong" and sixth.cluster is None
    assert run.volumes[0].parts["seed_agreement"] == pytest.approx(0.95)
    assert set(run.volumes[0].coordinates) == {"map_1", "map_2", "component_1", "component_2", "phase", "z_1", "path"}
    assert run.volumes[0].aligned == folder / "ensemble" / "volumes" / "volume_0000.mrc"
    assert [(image.index, image.reasons) for image in run.left_out] == [(14, ("nothing in the middle", "blurred"))]
    assert [path.name for path in run.series("component_*.mrc")] == ["component_1.mrc", "component_2.mrc"]


def test_the_kept_repeat_is_the_one_that_is_shown(folder: Path) -> None:
    table = folder / "ensemble" / "reliability.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace("0,0,", "0,2,", 1)
    table.write_text("\n".join(lines), encoding="utf-8")
    assert read_summary(folder).volumes[0].path.name == "volume_0000_seed2.mrc"


def test_a_series_is_in_the_order_of_its_numbers(folder: Path) -> None:
    (folder / "ensemble" / "component_10.mrc").touch()
    names = [path.name for path in read_summary(folder).series("component_*.mrc")]
    assert names == ["component_1.mrc", "component_2.mrc", "component_10.mrc"]


def test_the_headline_grows_with_the_run(folder: Path) -> None:
    assert headline(read_summary(folder)) == "10 of 14 volumes are reliable; they show 2 states and D2 symmetry."
    said = " ".join(sentences(read_summary(folder)))
    assert "2 volumes are doubtful and 2 wrong" in said
    assert "D2 symmetry (correlation 0.96)" in said and "for 10 of 10 the hand is certain" in said
    assert "11.3 Å" in said and "1 class average was left out" in said
    shutil.rmtree(folder / "consensus")
    (folder / "ensemble" / "landscape.json").unlink()
    (folder / "ensemble" / "symmetry.json").unlink()
    run = read_summary(folder)
    assert headline(run) == "10 of 14 volumes are reliable."
    assert [fact["label"] for fact in facts(run)] == ["volumes reliable", "frame and hand", "pixel size"]
    shutil.rmtree(folder / "ensemble")
    assert "nobody has judged" in headline(read_summary(folder))
    shutil.rmtree(folder / "volumes")
    assert headline(read_summary(folder)) == "15 class averages; no volumes have been reconstructed yet."


@pytest.fixture
def rigid(make_run: Callable[..., Path], stage: Callable[..., object], tmp_path: Path) -> Path:
    """A run of a rigid molecule: one map, and no volumes."""
    made = make_run(14, 24, stage(volumes=False, ensemble=False))
    folder = Path(shutil.copytree(made, tmp_path / "rigid"))
    config = folder / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("rigid = false", "rigid = true"), encoding="utf-8")
    return folder


def _consensus(folder: Path, **values: object) -> RunSummary:
    path = folder / "consensus" / "consensus.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
    return read_summary(folder)


def test_of_a_rigid_molecule_the_headline_is_of_one_map(rigid: Path) -> None:
    run = read_summary(rigid)
    one_map = "One map with D2 symmetry of 10 class averages, taken as rigid; its resolution is "
    assert headline(run) == one_map + "11.3 Å (FSC 0.143 between independent halves)."
    assert not any("consensus" in sentence or "volume" in sentence for sentence in sentences(run))
    assert not any(fact["label"] in ("volumes", "volumes reliable") for fact in facts(run))
    assert headline(_consensus(rigid, resolution_angstrom=None)) == one_map + "not known."
    asymmetric = headline(_consensus(rigid, symmetry="C1", images_used=8))
    assert asymmetric == "One map of 8 class averages, taken as rigid; its resolution is not known."


def test_what_speaks_for_the_initial_model_is_said(folder: Path) -> None:
    assert read_summary(folder).initial is None
    assert not any("initial model" in sentence for sentence in sentences(read_summary(folder)))
    (folder / "initial").mkdir()
    table = {"answer": "perhaps", "reason": "Views leave a gap of 40 degrees."}
    (folder / "initial" / "initial.json").write_text(json.dumps(table), encoding="utf-8")
    run = read_summary(folder)
    assert run.initial == table
    assert "The initial model: perhaps. Views leave a gap of 40 degrees." in sentences(run)


def test_what_was_found_of_a_motion_is_said(folder: Path) -> None:
    (folder / "motion").mkdir(exist_ok=True)
    table = {"moves": True, "reason": "Two components explain more.", "copies": {"reason": "Copies were chosen."}}
    (folder / "motion" / "motion.json").write_text(json.dumps(table), encoding="utf-8")
    said = sentences(read_summary(folder))
    assert "Two components explain more." in said and "Copies were chosen." in said
    (folder / "motion" / "motion.json").write_text(json.dumps(table | {"copies": None}), encoding="utf-8")
    assert "Copies were chosen." not in sentences(read_summary(folder))


def test_a_blur_that_was_undone_is_said(rigid: Path) -> None:
    assert not any("spread" in sentence for sentence in sentences(_consensus(rigid, angular_spread_degrees=0.0)))
    said = sentences(_consensus(rigid, angular_spread_degrees=4.83))
    assert any(sentence.startswith("Views within classes spread by about 4.8°") for sentence in said)


def test_a_motion_that_may_be_noise_is_not_announced(folder: Path) -> None:
    def said(run: RunSummary) -> str:
        return " ".join(sentences(run))

    assert "One motion explains 62%" in said(read_summary(folder))
    path = folder / "ensemble" / "landscape.json"
    path.write_text(path.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    assert "No motion stands out" in said(read_summary(folder))
    config = folder / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("rigid = false", "rigid = true"))
    assert "taken as rigid" in said(read_summary(folder)) and "motion stands out" not in said(read_summary(folder))


def test_why_volumes_were_chosen_is_said(folder: Path) -> None:
    assert read_summary(folder).choice is None
    (folder / "reconstruction.toml").write_text(
        'denoiser_sha256 = "a"\ngrowth = {}\n[volumes]\nchosen = "mean"\nreason = "Taken is the mean."\n'
    )
    assert "Taken is the mean." in sentences(read_summary(folder))


def test_volumes_have_their_coordinates_in_the_motion_model(folder: Path) -> None:
    first = read_summary(folder).volumes[0]
    assert first.coordinates["z_1"] == pytest.approx(first.coordinates["component_1"], abs=1e-5)


@pytest.mark.parametrize("name", ["config.toml", "preprocessing.json"])
def test_a_folder_that_is_no_run_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{folder.name}.*{name}"):
        read_summary(folder)


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "ensemble" / "landscape.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"landscape\.json"):
        read_summary(folder)
