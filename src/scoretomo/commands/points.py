"""``scoretomo points``: the verbs of diffusion priors on point clouds."""

from collections.abc import Callable
from functools import partial

from ..presets import POINT_PRESETS
from .points_evaluate import evaluate
from .points_prepare import prepare
from .points_reconstruct import reconstruct
from .points_sample import sample
from .points_train import PRIOR_PRESETS, train


def verbs(preset: str | None = None) -> dict[str, Callable[..., None]]:
    """Give what can be done; training and reconstruction begin with the settings of a preset of their own."""
    config = next((each for name, each in PRIOR_PRESETS.items() if name == preset), PRIOR_PRESETS["small"])
    sampling = next((each for name, each in POINT_PRESETS.items() if name == preset), POINT_PRESETS["default"])
    return {
        "prepare": prepare,
        "train": partial(train, config=config),
        "sample": sample,
        "reconstruct": partial(reconstruct, sampling=sampling),
        "evaluate": evaluate,
    }
