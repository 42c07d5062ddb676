import math
from pathlib import Path

import pytest
import starfile
import torch

from scoretomo.datatypes import ImageStack
from scoretomo.io.class_models import write_class_model
from scoretomo.io.mrc import write_images
from scoretomo.io.star import read_class_figures, read_images


def test_model_names_the_averages_and_what_is_known_of_them(tmp_path: Path) -> None:
    images = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    write_images(tmp_path / "averages.mrcs", ImageStack(images, 2.5))
    write_class_model(
        tmp_path / "model.star",
        "averages.mrcs",
        pixel_size_angstrom=2.5,
        side=8,
        shares=torch.tensor([0.5, 0.3, 0.2]),
        resolutions_angstrom=torch.tensor([8.0, 12.0, math.inf]),
        angle_error_degrees=5.0,
        shift_error_angstrom=1.25,
    )
    loaded = read_images(tmp_path / "model.star")
    assert torch.equal(loaded.stack.images, images) and loaded.stack.pixel_size_angstrom == 2.5
    assert loaded.class_numbers == (1, 2, 3)
    figures = read_class_figures(tmp_path / "model.star")
    assert figures["populations"].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert figures["resolutions_angstrom"].tolist() == [8.0, 12.0, 999.0]  # as RELION writes where there is none
    tables = starfile.read(tmp_path / "model.star")
    assert list(tables) == ["model_general", "model_classes"]
    assert tables["model_general"]["rlnCurrentResolution"] == 8.0
    assert tables["model_general"]["rlnNrClasses"] == 3
    assert tables["model_classes"]["rlnAccuracyTranslationsAngst"].tolist() == [1.25] * 3
    assert "# version 30001" in (tmp_path / "model.star").read_text()
