from pathlib import Path

import torch
from matplotlib.image import imread

from scoretomo.evaluation.comparison import compare
from scoretomo.imaging.masks import ball
from scoretomo.report.figures import fsc_curves, overview, training_curves
from scoretomo.report.isosurface import UPRIGHT, surface, surface_level, tilted

IDENTITY = torch.eye(3)


def test_surface_of_a_ball_is_a_disc_lit_from_above_left() -> None:
    picture = surface(ball(32, 3, 8.0), IDENTITY, pixels=64)
    shown = picture[..., 3] > 0
    assert abs(shown.sum().item() / (torch.pi * 16**2) - 1) < 0.15
    shade = picture[..., :3].mean(-1)
    assert shade[32 + 8, 32 - 8] > 1.3 * shade[32 - 8, 32 + 8]  # rows go up along y


def test_surface_shows_x_to_the_right_and_y_up_and_the_front_at_large_z() -> None:
    volume = torch.zeros(32, 32, 32)
    volume[14:18, 22:26, 6:10] = 1  # y up, x left
    rows, columns = (surface(volume, IDENTITY, pixels=64)[..., 3] > 0).nonzero().float().mean(0).tolist()
    assert abs(rows - 47) < 1.5 and abs(columns - 15) < 1.5

    # a plate in front of a ball hides it, behind the ball it does not
    front, behind = ball(32, 3, 6.0), ball(32, 3, 6.0)
    front[26, 8:24, 8:24] = behind[4, 8:24, 8:24] = 1
    flat, round_ = (surface(each, IDENTITY, pixels=64)[24:40, 24:40, :3].mean(-1) for each in (front, behind))
    assert flat.std() < 0.3 * round_.std()


def test_upright_turns_z_of_the_object_up_and_tilting_shows_its_top() -> None:
    x, y, z = IDENTITY
    assert torch.allclose(UPRIGHT @ z, y)
    assert torch.allclose(torch.linalg.det(UPRIGHT), torch.tensor(1.0))
    assert (tilted(35.0, 0.0) @ UPRIGHT @ z)[2] > 0.5  # towards the viewer
    assert torch.allclose(tilted(0.0, 90.0) @ z, x, atol=1e-6)


def test_surface_level_lies_between_background_and_object_at_any_scale() -> None:
    volume = 1e-3 * ball(32, 3, 8.0)
    assert 0.2e-3 < surface_level(volume) < 0.8e-3


def test_an_empty_volume_is_drawn_as_nothing() -> None:
    assert surface(torch.zeros(16, 16, 16), IDENTITY, level=0.5, pixels=32)[..., 3].sum() == 0


def test_pictures_are_written(tmp_path: Path, generator: torch.Generator) -> None:
    volumes = torch.stack([ball(16, 3, radius) for radius in (4.0, 5.0)])
    images = volumes.sum(1)
    overview(tmp_path / "run.png", images, volumes, ["0", "1"])
    overview(tmp_path / "demo.png", images, volumes, ["0", "1"], truth=volumes, views=torch.eye(3).expand(2, 3, 3))
    noisy = volumes + 0.1 * torch.randn(volumes.shape, generator=generator)
    fsc_curves(tmp_path / "fsc.png", compare(noisy, volumes, 4.0, [0, 1]))
    lines = [
        {"phase": "train", "step": step, "loss": 1 / step, "held_out_error_sigma_0.4": 1 / step} for step in (1, 2, 3)
    ]
    training_curves(tmp_path / "training.png", lines)
    training_curves(tmp_path / "none_held_out.png", [{"phase": "train", "step": s, "loss": 1 / s} for s in (1, 2)])
    for name in ("run", "demo", "fsc", "training", "none_held_out"):
        picture = imread(tmp_path / f"{name}.png")
        assert picture[..., :3].std() > 0.01, name
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png"] * 5
