"""``scoretomo ensemble`` judges the volumes of a run, puts them in one frame, and says how they got there."""

import shutil
from pathlib import Path

import pytest
import tomli_w
import torch
from torch import Tensor

from scoretomo import cli
from scoretomo.commands import ensemble as command
from scoretomo.commands.motion import motion_fingerprint
from scoretomo.datatypes import ImageStack, Volume
from scoretomo.evaluation.alignment import Alignment, apply_alignment
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.resampling import mirror_z
from scoretomo.io.checkpoints import save_checkpoint
from scoretomo.io.mrc import read_volume, write_images, write_volume
from scoretomo.io.tables import read_table
from scoretomo.methods.motion_model import MotionModel
from scoretomo.runs import Run
from scoretomo.simulation.phantoms import box

_COUNT, _SIDE, _PIXEL = 8, 16, 6.0
_TRAINING = (
    "--budget 2 --optimiser.batch-size 2 --held-out 0 --contrast bright --check False "
    "--unet.channels 32 32 --unet.layers-per-block 1 --unet.patch 2"
).split()
_QUICK = (
    "--reliability.views 4 --reliability.class-averages 4 --synchronisation.side 16 --synchronisation.rounds 1 "
    "--synchronisation.neighbours 2 --landscape.surrogates 4"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of boxes, each in the frame of its image and every third one mirrored; two seeds that hardly differ."""
    folder = tmp_path_factory.mktemp("ensemble")
    generator = torch.Generator().manual_seed(3)
    lids = torch.linspace(0.3, 2.5, _COUNT)[:, None].expand(-1, 2)
    turned = box(lids, _SIDE, random_rotations(_COUNT, generator=generator), oversampling=1)
    write_images(folder / "images.mrcs", ImageStack(turned.sum(1), _PIXEL))
    train = ["train", str(folder / "images.mrcs"), "-o", str(folder / "run"), *_TRAINING]
    assert cli.main(train) == 0
    (folder / "run" / "volumes").mkdir()
    for seed in (0, 1):
        for index, voxels in enumerate(turned):
            own = mirror_z(voxels[None])[0] if index % 3 == 0 else voxels
            own = own + 0.03 * torch.randn(own.shape, generator=generator)
            name = f"volume_{index:04d}.mrc" if seed == 0 else f"volume_{index:04d}_seed{seed}.mrc"
            write_volume(folder / "run" / "volumes" / name, Volume(own, _PIXEL))
    assert cli.main(["ensemble", str(folder / "run"), *_QUICK]) == 0
    return folder / "run"


def test_tables_have_a_row_for_each_volume(run: Path) -> None:
    for name in ("reliability.csv", "transforms.csv"):
        rows = read_table(run / "ensemble" / name, ["index", "seed"])
        assert [int(row["index"]) for row in rows] == list(range(_COUNT))
    for row in read_table(run / "ensemble" / "reliability.csv"):
        assert row["verdict"] in ("reliable", "doubtful", "wrong")
        assert 0 <= float(row["probability"]) <= 1 and float(row["seed_agreement"]) > 0.8


def test_transforms_take_the_original_volumes_to_the_aligned_ones(run: Path) -> None:
    for row in read_table(run / "ensemble" / "transforms.csv"):
        seed, index = int(row["seed"]), int(row["index"])
        original = voxels(run / "volumes" / (f"volume_{index:04d}" + (f"_seed{seed}.mrc" if seed else ".mrc")))
        matrix = torch.tensor([float(row[f"rotation_{a}{b}"]) for a in "xyz" for b in "xyz"]).view(1, 3, 3)
        shift = torch.tensor([[float(row[f"shift_{a}_angstrom"]) / _PIXEL for a in "xyz"]])
        unknown = torch.zeros(1)
        alignment = Alignment(matrix, shift, torch.tensor([row["mirrored"] == "True"]), unknown, unknown)
        expected = apply_alignment(original[None], alignment)[0]
        aligned = voxels(run / "ensemble" / "volumes" / f"volume_{index:04d}.mrc")
        torch.testing.assert_close(aligned, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_volumes_of_one_molecule_agree_in_the_common_frame(run: Path) -> None:
    aligned = torch.stack([voxels(path) for path in sorted((run / "ensemble" / "volumes").glob("*.mrc"))])
    assert len(aligned) == _COUNT
    original = torch.stack([voxels(run / "volumes" / f"volume_{index:04d}.mrc") for index in range(_COUNT)])
    assert correlations(aligned).median() > 0.8 > 0.7 > correlations(original).median()


def test_volumes_that_began_with_a_motion_model_have_the_frame_of_its_poses(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    rotations = random_rotations(_COUNT, generator=torch.Generator().manual_seed(3))
    for path in (tmp_path / "run" / "volumes").glob("*.mrc"):  # no longer mirrored: they lie where their images do
        if int(path.name[7:11]) % 3 == 0:
            write_volume(path, Volume(mirror_z(voxels(path)[None])[0], _PIXEL))
    one, z = torch.zeros(_COUNT), torch.zeros(_COUNT, 1)
    components = torch.zeros(2, _SIDE, _SIDE, _SIDE)
    model = MotionModel(components, z, z[:, None], rotations, z.expand(-1, 2), one, one)
    save_checkpoint(tmp_path / "run" / "checkpoint" / "motion_model.pt", {"made_of": {}, "model": vars(model)})
    record = tmp_path / "run" / "reconstruction.toml"
    made_with = {"denoiser_sha256": "0", "growth": {"initial": True}, "motion_sha256": motion_fingerprint(model)}
    record.write_text(tomli_w.dumps(made_with))
    assert cli.main(["ensemble", str(tmp_path / "run"), *_QUICK]) == 0
    rows = read_table(tmp_path / "run" / "ensemble" / "transforms.csv")
    found = torch.tensor([[float(row[f"rotation_{a}{b}"]) for a in "xyz" for b in "xyz"] for row in rows])
    common = found.view(-1, 3, 3) @ rotations
    torch.testing.assert_close(common, common[:1].expand_as(common), rtol=0, atol=1e-3)
    assert all(row["mirrored"] == "False" for row in rows)
    record.write_text(tomli_w.dumps({**made_with, "motion_sha256": "of another"}))
    capsys.readouterr()
    assert cli.main(["ensemble", str(tmp_path / "run"), *_QUICK]) == 0
    assert "no longer there" in capsys.readouterr().err


def test_what_was_found_does_not_depend_on_being_found_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "ensemble" / "reliability.csv").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("evidence was gathered again")

    monkeypatch.setattr(command, "gather_evidence_progressive", never)
    assert cli.main(["ensemble", str(run), *_QUICK]) == 0
    assert (run / "ensemble" / "reliability.csv").read_text() == before


def test_an_interrupted_analysis_leaves_the_last_one_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "analyse_landscape", interrupted)
    monkeypatch.setattr(command, "synchronise_progressive", interrupted)
    there = sorted(path.name for path in (run / "ensemble").iterdir())
    assert cli.main(["ensemble", str(run), *_QUICK]) == 130
    assert sorted(path.name for path in (run / "ensemble").iterdir()) == there
    assert not list(run.glob(".ensemble*"))


def test_a_run_without_volumes_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "volumes", property(lambda self: self.folder / "nowhere"))
    assert cli.main(["ensemble", str(run)]) == 2
    assert "scoretomo reconstruct" in capsys.readouterr().err


def voxels(path: Path) -> Tensor:
    return read_volume(path).volume.voxels


def correlations(volumes: Tensor) -> Tensor:
    """Of all pairs."""
    matrix = torch.corrcoef(volumes.flatten(1))
    return matrix[*torch.triu_indices(len(volumes), len(volumes), offset=1)]
