"""``scoretomo points``: the verbs of diffusion priors on point clouds."""

from collections.abc import Callable

from .points_sample import sample
from .points_train import train

VERBS: dict[str, Callable[..., None]] = {
    "train": train,
    "sample": sample,
}
"""What can be done."""
