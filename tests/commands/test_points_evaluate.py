"""``points evaluate``: clouds against points and atoms, from files to tables."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scoretomo.commands.points_evaluate import evaluate
from scoretomo.datatypes import InputError
from scoretomo.geometry.point_clouds import mixture_means
from scoretomo.geometry.rotations import random_rotations
from scoretomo.io.atoms import read_atoms
from scoretomo.io.point_files import write_pseudo_atoms
from scoretomo.io.tables import read_table


@pytest.fixture
def truth(generator: torch.Generator) -> torch.Tensor:
    """A cloud without symmetry, in Angstrom."""
    return torch.randn(64, 3, generator=generator) * torch.tensor([40.0, 25.0, 15.0]) + torch.tensor([50.0, 0.0, 0.0])


def save(path: Path, points: torch.Tensor) -> Path:
    np.save(path, points.numpy())
    return path


def results(path: Path) -> dict:
    return json.loads(path.read_text())


def test_models_in_any_frame_and_unit_are_compared_after_superposition(
    truth: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: torch.Generator
) -> None:
    turn = random_rotations(generator=generator)
    exact = (truth @ turn.mT)[torch.randperm(64, generator=generator)] / 100
    noisy = exact + 0.03 * torch.randn(64, 3, generator=generator)
    models = tmp_path / "models"
    models.mkdir()
    save(models / "exact.npy", exact)
    save(models / "noisy.npy", noisy)
    (models / "notes.txt").write_text("no cloud")
    evaluate((models,), save(tmp_path / "truth.npy", truth))
    found = results(models / "evaluation.json")
    assert [each["name"] for each in found["models"]] == ["exact.npy", "noisy.npy"]
    first, second = found["models"]
    assert first["scale"] == pytest.approx(100, rel=1e-4)
    for measure in ("chamfer_distance", "earth_movers_distance", "rmsd_to_points"):
        assert first[measure] < 0.05 < 1 < second[measure] < 12
        assert found[f"mean_{measure}"] == pytest.approx((first[measure] + second[measure]) / 2)
        assert found[f"deviation_{measure}"] == pytest.approx((second[measure] - first[measure]) / 2**0.5)
    assert first["rmsd_to_atoms"] is None and found["mean_rmsd_to_atoms"] is None
    assert [row["name"] for row in read_table(models / "evaluation.csv")] == ["exact.npy", "noisy.npy"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == "model points CD EMD RMSD atoms RMSD points hand".split()
    assert [line.split()[0] for line in said[1:5]] == ["exact.npy", "noisy.npy", "mean", "standard"]
    evaluate((models,), tmp_path / "truth.npy")  # its own results are no models
    assert len(results(models / "evaluation.json")["models"]) == 2


def test_without_superposition_clouds_are_compared_as_they_are(truth: torch.Tensor, tmp_path: Path) -> None:
    moved = save(tmp_path / "moved.npy", truth + torch.tensor([0.0, 3.0, 4.0]))
    out = tmp_path / "new" / "out.json"
    evaluate((moved,), save(tmp_path / "truth.npy", truth), out, superpose=False)
    (model,) = results(out)["models"]
    assert model["earth_movers_distance"] == pytest.approx(5, rel=1e-4)
    assert model["rmsd_to_points"] == pytest.approx(5, rel=1e-4)
    assert model["scale"] is None and model["mirrored"] is None
    assert (tmp_path / "new" / "out.csv").exists()


def test_mirrored_models_are_recognised_when_asked(
    truth: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, reference = save(tmp_path / "model.npy", -truth), save(tmp_path / "truth.npy", truth)
    evaluate((model,), reference, tmp_path / "both.json", mirror=True)
    assert "mirrored (margin 0." in capsys.readouterr().out
    evaluate((model,), reference, tmp_path / "one.json")
    (both,), (one,) = results(tmp_path / "both.json")["models"], results(tmp_path / "one.json")["models"]
    assert both["mirrored"] and both["hand_margin"] > 0.05
    assert both["earth_movers_distance"] < 0.05 < 1 < one["earth_movers_distance"]
    assert one["hand_margin"] is None


def test_clouds_of_another_size_have_no_assigned_measures(
    truth: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(tmp_path / "model.npy", truth[:50])
    evaluate((model,), save(tmp_path / "truth.npy", truth), tmp_path / "out.json")
    (found,) = results(tmp_path / "out.json")["models"]
    assert found["earth_movers_distance"] is None and found["rmsd_to_points"] is None
    assert found["chamfer_distance"] > 0
    assert "the reference has 64 points, the models have 50 points" in capsys.readouterr().out


def test_atomic_references_are_reduced_to_the_size_of_the_model(
    truth: torch.Tensor, tmp_path: Path, generator: torch.Generator
) -> None:
    atoms = (truth[:, None] + 2 * torch.randn(64, 8, 3, generator=generator)).flatten(0, 1)
    reference = tmp_path / "atoms.pdb"
    write_pseudo_atoms(reference, atoms)
    within = read_atoms(reference)[0]
    means = mixture_means(within, 64, generator=torch.Generator().manual_seed(0))
    write_pseudo_atoms(tmp_path / "model.pdb", torch.stack([means, means + 1]))
    evaluate((tmp_path / "model.pdb",), reference, tmp_path / "out.json", superpose=False)
    found = results(tmp_path / "out.json")
    assert found["unit"] == "Angstrom" and found["reference_points"] == 512
    as_is, shifted = found["models"]
    assert [as_is["name"], shifted["name"]] == ["model.pdb:0", "model.pdb:1"]
    nearest = torch.cdist(within, means).amin(1).square().mean().sqrt().item()
    assert as_is["rmsd_to_atoms"] == pytest.approx(nearest, rel=1e-3)
    assert as_is["rmsd_to_points"] < 1e-3  # the same mixture every time
    assert shifted["rmsd_to_points"] == pytest.approx(3**0.5, rel=1e-3)
    assert shifted["rmsd_to_atoms"] > as_is["rmsd_to_atoms"]


def test_a_reference_that_is_an_assembly_of_models_is_one_and_said(
    truth: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = 10 * truth.abs().max() * torch.tensor([1.0, 0, 0])
    write_pseudo_atoms(tmp_path / "truth.pdb1", torch.stack([truth, truth + far]))
    write_pseudo_atoms(tmp_path / "model.pdb", torch.cat([truth, truth + far]))
    evaluate((tmp_path / "model.pdb",), tmp_path / "truth.pdb1", tmp_path / "out.json", superpose=False)
    assert results(tmp_path / "out.json")["models"][0]["chamfer_distance"] < 1e-3
    assert "note: truth.pdb1: its 2 models lie apart" in capsys.readouterr().err


def test_bad_input_is_one_line(truth: torch.Tensor, tmp_path: Path) -> None:
    reference = save(tmp_path / "truth.npy", truth)
    with pytest.raises(InputError, match="give files"):
        evaluate((), reference)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no point clouds"):
        evaluate((tmp_path / "empty",), reference)
    with pytest.raises(InputError, match="no such file"):
        evaluate((tmp_path / "missing.npy",), reference)
    with pytest.raises(InputError, match="--no-superpose"):
        evaluate((reference,), reference, mirror=True, superpose=False)
    with pytest.raises(InputError, match=r"\.json"):
        evaluate((reference,), reference, tmp_path / "out.txt")
    flat = save(tmp_path / "flat.npy", torch.zeros(5, 3))
    with pytest.raises(InputError, match=r"flat\.npy: a cloud of 5 points in one place"):
        evaluate((flat,), reference)
