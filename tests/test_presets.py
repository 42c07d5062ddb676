import tomllib
from typing import get_args

import pytest
import tomli_w

from scoretomo.io.settings import from_table, to_table
from scoretomo.networks.unet import build_unet, parameter_count
from scoretomo.presets import PRESETS, PresetName
from scoretomo.runs import RunConfig


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [("box", 88, 3_939_393), ("capsid", 88, 3_939_393), ("ribosome", 136, 5_344_737), ("betagal", 64, 3_939_393)],
)
def test_networks_have_the_papers_number_of_weights_at_the_papers_sides(
    name: PresetName, side: int, count: int
) -> None:
    assert parameter_count(build_unet(PRESETS[name].unet, side)) == count


def test_paper_presets_are_table_2() -> None:
    assert PRESETS["box"].budget == 80_000 * 512
    assert PRESETS["betagal"].optimiser.learning_rate == 2e-4
    for name in ("box", "capsid", "ribosome", "betagal"):
        preset = PRESETS[name]
        assert not preset.growth.initial  # cold starts only
        assert preset.minutes is None
        assert not preset.optimiser.decay
        assert preset.growth.distil.sigma == preset.growth.distil.final_sigma
        assert preset.growth.distil.average == 0
    assert [PRESETS[name].growth.distil.final_views for name in ("box", "ribosome")] == [2, 50]


def test_every_preset_has_a_name_and_survives_toml() -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    for preset in PRESETS.values():
        assert from_table(RunConfig, tomllib.loads(tomli_w.dumps(to_table(preset)))) == preset
