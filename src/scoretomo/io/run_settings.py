"""``config.toml`` of a run folder."""

from typing import NotRequired

from .settings_file import SettingsFile, Source


class RunSource(Source):
    """What a run was made of.

    ``left_out``, indices of images that are not used, is there only if there are any; ``classes``, the number of the
    class that each image is the average of, counted from 1, only if the file of the images says it.
    """

    images: int
    side: int
    pixel_size_angstrom: float
    classes: NotRequired[list[int]]
    left_out: NotRequired[list[int]]


SETTINGS = SettingsFile(
    "config.toml",
    folder_kind="run folder",
    maker="scoretomo train",
    own_files=frozenset({"images.mrcs", "preprocessing.json", "quality.csv", ".lock"}),
    source=RunSource,
)
"""Of the images and the settings of a run."""
