"""The benchmark of point clouds observes held-out shapes, solves each problem once, and adds up what it finds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError, PointClouds
from scoretomo.methods.point_posterior import SamplingConfig

_ROOT = Path(__file__).parents[2]
_POINTS = 24


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_ROOT))


def shrink(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Best denoiser of normally distributed points."""
    return noisy / (1 + (sigma[:, None, None] / 0.4) ** 2)


@pytest.fixture
def family() -> Any:
    from benchmarks.points_problems import Family

    points = 0.4 * torch.randn(9, 2 * _POINTS, 3, generator=torch.Generator().manual_seed(1)).clamp(-2.4, 2.4)
    held_out = torch.arange(9) % 2 == 0
    clouds = PointClouds(points, torch.ones(9), tuple("abcdefghi"), held_out, handed=False)
    return Family(shrink, _POINTS, clouds, "toy", "cpu")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, family: Any) -> Any:
    """The four scenarios at the size of the toy family, which `measure` then finds."""
    from benchmarks import points, points_problems

    sampling = SamplingConfig(steps=4)
    scenarios = [replace(each, projection_points=12, sampling=sampling) for each in family.scenarios(())]
    scenarios = [replace(each, coarse=6 if each.coarse else 0) for each in scenarios]
    monkeypatch.setattr(points_problems, "SCENARIOS", {"furniture": tuple(scenarios)})
    monkeypatch.setattr(points, "families", lambda *_: iter([family]))
    return scenarios


def distance(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist").amin(-1).max()


def test_observations_are_of_the_turned_shape(family: Any, toy: Any) -> None:
    cloud = family.clouds.points[4]
    everything = next(each for each in toy if each.name == "all")
    problem = family.problem(everything, 4, 0)
    assert problem.truth.shape == (_POINTS, 3) and problem.projections.shape == (2, 12, 2)
    assert distance(problem.truth @ problem.turn, cloud) < 1e-5
    full = cloud @ problem.turn.T
    assert not torch.allclose(problem.turn, torch.eye(3), atol=0.1)
    for observed, orientation in zip(problem.projections, problem.orientations, strict=True):
        assert distance(observed, (full @ orientation.T)[:, :2]) < 1e-5
    assert problem.coarse.shape == (6, 3) and distance(problem.part, problem.truth) == 0
    assert 0 < len(problem.part) < _POINTS / 2


def test_energy_is_zero_at_the_truth_where_everything_is_seen_and_repeats(family: Any, toy: Any) -> None:
    projections = replace(toy[0], projection_points=2 * _POINTS)
    seen = replace(family, points=2 * _POINTS).problem(projections, 0, 0)
    assert seen.energy()(seen.truth[None]).item() == pytest.approx(0, abs=1e-9)
    problem = family.problem(toy[3], 0, 0)
    other = torch.rand(3, _POINTS, 3)
    assert torch.equal(problem.energy()(other), problem.energy()(other))
    assert (problem.energy()(other) > problem.energy()(problem.truth[None])).all()


def test_molecules_are_not_mirrored(toy: Any) -> None:
    from benchmarks.points_problems import observe

    cloud = torch.rand(_POINTS, 3)
    for handed, signs in ((True, {1}), (False, {-1, 1})):
        problems = [observe(cloud, _POINTS, toy[0], handed=handed, seed=seed) for seed in range(8)]
        assert {round(float(torch.det(each.turn))) for each in problems} == signs


def test_a_problem_is_solved_once(family: Any, toy: Any, tmp_path: Path) -> None:
    from benchmarks.points_problems import solve

    def broken(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("sampled again")

    how = {"samples": 2, "seed": 0, "folder": tmp_path}
    found = solve(family, toy[0], 2, toy[0].sampling, **how)
    again = solve(replace(family, denoiser=broken), toy[0], 2, toy[0].sampling, **how)
    assert found.clouds.shape == (2, _POINTS, 3) and found.chamfer.shape == (2,)
    assert np.array_equal(found.clouds, again.clouds) and found.seconds == again.seconds
    for changed in (replace(toy[0].sampling, guidance=2.5), replace(toy[0].sampling, steps=5)):
        with pytest.raises(RuntimeError, match="sampled again"):
            solve(replace(family, denoiser=broken), toy[0], 2, changed, **how)
    with pytest.raises(RuntimeError, match="sampled again"):  # another prior
        solve(replace(family, denoiser=broken, fingerprint="x"), toy[0], 2, toy[0].sampling, **how)


def test_tables_and_pictures(family: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import points

    monkeypatch.setattr(points, "_STEPS", (2, 4))
    monkeypatch.setattr(points, "_PICTURED", 1)
    settings = points.Settings(
        (), (), tmp_path / "made", tmp_path, shapes=2, table2_shapes=2, figure6_shapes=1, samples=2
    )
    rows = list(points.measure(settings))
    assert [row["part"] for row in rows] == ["Table 1"] * 8 + ["Table 2"] * 3 + ["Figure 6"] * 4
    assert [row["method"] for row in rows[8:11]] == ["Euler", "+ noise", "+ correction"]
    assert {row["evaluations"] for row in rows[8:11]} == {7}
    assert [row["samples"] for row in rows[:2]] == [4, 4] and rows[-1]["samples"] == 2
    assert all(0 < row["emd_x100"] < 100 and row["e_x1000"] > 0 for row in rows[:11])
    assert {name.name for name in tmp_path.glob("*.png")} == {"points_furniture.png", "points_steps.png"}
    held_out = {f"{shape:05d}" for shape in family.shapes[0][:2]}
    assert {path.stem.split("_")[2] for path in (tmp_path / "made").iterdir()} == held_out
    assert list(points.table1(family, settings)) == rows[:8]  # their times, too


def test_a_row_adds_up_all_samples_and_compares_shape_by_shape(family: Any, toy: Any) -> None:
    from benchmarks.points import row
    from benchmarks.points_problems import Solution

    def solution(chamfer: list[float], earth_movers: float) -> Any:
        values = np.array(chamfer)
        return Solution(np.zeros((2, 5, 3), np.float32), values, 0 * values + earth_movers, values / 100, 3.0)

    drawn = [solution([0.1, 0.2], 0.1), solution([0.3, 0.4], 0.1)]
    fitted = [solution([0.2, 0.2], 0.2), solution([0.1, 0.1], 0.2)]
    line = row("Table 1", family, toy[0], toy[0].sampling, drawn, fitted)
    assert (line["cd_x100"], line["cd_std"], line["e_x1000"]) == (25, 11.2, 2.5)
    assert (line["emd_x100"], line["emd_std"], line["samples"]) == (10, 0, 4)
    assert (line["shapes_won"], line["seconds_a_sample"]) == (0.5, 1.5)


def test_strengths_are_tried_on_other_shapes(
    family: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import points_tune

    monkeypatch.setattr(points_tune, "families", lambda *_: iter([family]))
    settings = points_tune.Settings((), (), tmp_path, shapes=2, samples=2, guidance=(1.0, 4.0), rows=("coarse",))
    rows = list(points_tune.measure(settings))
    assert [row["guidance"] for row in rows] == [None, 1.0, 4.0]
    shapes = {int(path.stem.split("_")[2]) for path in tmp_path.iterdir()}
    assert len(shapes) == 2 and not family.clouds.held_out[list(shapes)].any()


def test_scipy_in_the_loop_gives_the_same_samples(family: Any, toy: Any) -> None:
    from benchmarks.points_problems import draw
    from benchmarks.points_time import plain_energy

    problem = family.problem(toy[0], 0, 0)
    sides = [
        draw(family, energy, toy[0].sampling, samples=3, seed=0) for energy in (problem.energy(), plain_energy(problem))
    ]
    torch.testing.assert_close(*sides, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="projections only"):
        plain_energy(family.problem(toy[1], 0, 0))


def test_times_of_network_and_assignment(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import points_time

    monkeypatch.setattr(points_time, "families", lambda *_: [family])
    monkeypatch.setattr(points_time, "_SAMPLING", SamplingConfig(steps=3))
    sizes = {"points": (_POINTS, 4 * _POINTS), "views": (), "batches": (), "compared": ((_POINTS, 10),)}
    rows = list(points_time.measure(points_time.Settings(Path(), Path(), repeats=1, **sizes)))
    assert [(row["solver"], row["points"]) for row in rows] == [("ours", 24), ("ours", 24), ("scipy", 24)]
    for row in rows:
        assert row["network"] + row["assignment"] == pytest.approx(row["seconds_a_sample"], rel=0.01)
        assert min(row["network"], row["assignment"]) > 0
    assert rows[1]["times_scipy"] > 0
    assert rows[1]["cd_x100"] == pytest.approx(rows[2]["cd_x100"], rel=1e-3)


@pytest.mark.parametrize(("names", "words"), [(["legs"], "--rows legs: the rows are projections, coarse")])
def test_unknown_rows_are_named(family: Any, names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        family.scenarios(names)


def test_priors_and_sets_come_in_pairs() -> None:
    from benchmarks.points_problems import families

    with pytest.raises(InputError, match="1 priors and 0 sets"):
        list(families([Path("prior")], [], "cpu"))


def test_records_hold_no_folders_of_this_machine() -> None:
    from benchmarks.__main__ import _without_folder

    words = ["--clouds", "/home/me/set.npz", "sets/other.npz"]
    assert [_without_folder(word) for word in words] == ["--clouds", "set.npz", "sets/other.npz"]
