"""``scoretomo points``: the verbs of diffusion priors on point clouds."""

from collections.abc import Callable
from functools import partial

from .points_evaluate import evaluate
from .points_prepare import prepare
from .points_reconstruct import reconstruct
from .points_sample import sample
from .points_train import PRIOR_PRESETS, train


def verbs(preset: str | None = None) -> dict[str, Callable[..., None]]:
    """Give what can be done; a training begins with the settings of a preset, if that is one of its own."""
    config = next((each for name, each in PRIOR_PRESETS.items() if name == preset), PRIOR_PRESETS["small"])
    return {
        "prepare": prepare,
        "train": partial(train, config=config),
        "sample": sample,
        "reconstruct": reconstruct,
        "evaluate": evaluate,
    }
