"""Settings by name: the paper's tables, and what works best here."""

from dataclasses import replace
from typing import Literal

from .ensemble.growth import GrowthConfig
from .imaging.preprocess import PreprocessConfig
from .methods.point_posterior import SamplingConfig
from .methods.score_tomography import NoiseConfig, ReconstructionConfig
from .networks.unet import UNetConfig
from .optimiser import OptimiserConfig
from .runs import RunConfig
from .simulation.particles import SimulationConfig

PresetName = Literal["default", "demo", "box", "capsid", "ribosome", "betagal"]


def _paper(
    *, steps: int, batch: int, learning_rate: float, channels: tuple[int, ...], reconstruction: ReconstructionConfig
) -> RunConfig:
    """Turn a column of 001's Table 2 into settings: EDM's noise levels, constant rates, cold starts."""
    return RunConfig(
        budget=steps * batch,
        held_out=0.0,
        unet=UNetConfig(channels=channels, layers_per_block=2, patch=1),
        noise=NoiseConfig(median=0.30, log_std=1.2),
        optimiser=OptimiserConfig(learning_rate=learning_rate, muon_rate=0.0, batch_size=batch, decay=False),
        growth=GrowthConfig(initial=False, distil=reconstruction),
    )


_DEFAULT = RunConfig(
    minutes=20.0,
    unet=UNetConfig(channels=(64, 96, 128), layers_per_block=1, patch=2),
    noise=NoiseConfig(median=0.4, log_std=0.6),
    optimiser=OptimiserConfig(batch_size=32),
)

DEMO_SIMULATION = SimulationConfig(count=300, side=32)
"""The images of ``scoretomo demo``."""

DEMO_VOLUMES = 24
"""How many volumes ``scoretomo demo`` reconstructs."""

PRESETS: dict[PresetName, RunConfig] = {
    "default": _DEFAULT,
    # what comes first: without bfloat16 so many images take three times as long. Volumes begin from the motion model,
    # and images that were left out say whether the denoiser has learned enough to improve them
    "demo": RunConfig(
        budget=12_000,
        minutes=2.0,
        preprocess=PreprocessConfig(contrast="bright"),
        rigid=False,
        unet=_DEFAULT.unet,
        noise=_DEFAULT.noise,
        optimiser=_DEFAULT.optimiser,
    ),
    "box": _paper(
        steps=80_000,
        batch=512,
        learning_rate=8e-4,
        channels=(32, 64, 128),
        reconstruction=ReconstructionConfig(steps=10_000, sigma=0.2, final_sigma=0.2, views=2, final_views=2, rate=1.0),
    ),
    "capsid": _paper(
        steps=75_000,
        batch=512,
        learning_rate=7e-4,
        channels=(32, 64, 128),
        reconstruction=ReconstructionConfig(steps=10_000, sigma=0.5, final_sigma=0.5, views=2, final_views=2, rate=1.0),
    ),
    "ribosome": _paper(
        steps=500_000,
        batch=128,
        learning_rate=2e-4,
        channels=(32, 64, 96, 128),
        reconstruction=ReconstructionConfig(steps=5_000, sigma=0.3, final_sigma=0.3, views=2, final_views=50, rate=1.0),
    ),
    "betagal": _paper(
        steps=300_000,
        batch=128,
        learning_rate=2e-4,
        channels=(32, 64, 128),
        reconstruction=ReconstructionConfig(steps=5_000, sigma=0.3, final_sigma=0.3, views=2, final_views=50, rate=0.5),
    ),
}
"""Settings of each name; box to betagal are the columns of 001's Table 2."""

PointPresetName = Literal[
    "default",
    "coarse-model",
    "paper-projections",
    "paper-dense",
    "paper-few",
    "paper-coarse",
    "paper-subunit",
    "paper-molecules",
    "paper-molecules-4",
    "paper-molecules-5",
]

_GUIDED_AS_IN_002 = SamplingConfig(guidance_power=0.0, through_network=True)

POINT_PRESETS: dict[PointPresetName, SamplingConfig] = {
    "default": SamplingConfig(),
    # a coarse model is a crude observation, every point of which stands for many: following it closely clumps the cloud
    "coarse-model": SamplingConfig(guidance=15.0, guidance_power=0.0),
    "paper-projections": replace(_GUIDED_AS_IN_002, guidance=10.0, noise_above=0.15),
    "paper-dense": replace(_GUIDED_AS_IN_002, guidance=10.0),
    "paper-few": replace(_GUIDED_AS_IN_002, guidance=5.0),
    "paper-coarse": replace(_GUIDED_AS_IN_002, guidance=4.0),
    "paper-subunit": replace(_GUIDED_AS_IN_002, guidance=4.0, noise_above=0.15),
    "paper-molecules": replace(_GUIDED_AS_IN_002, guidance=40.0),
    "paper-molecules-4": replace(_GUIDED_AS_IN_002, guidance=60.0),
    "paper-molecules-5": replace(_GUIDED_AS_IN_002, guidance=80.0),
}
"""What works best here, and the paper's settings (002, Table 4): alpha over the 1024 points of its clouds, and where
beta is cut off.

In the order of the table: shapes from 5 or 6 projections, and from 5 of 400 points; mixed shapes from 4; projections
and a coarse model; two projections and a subunit; molecules from 3 projections or 4 of 800 points, and from 4 and 5 of
1024.
"""
