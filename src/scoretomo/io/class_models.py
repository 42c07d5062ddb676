"""RELION's model.star of a 2D classification: the class averages and what is known of each class."""

from pathlib import Path

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from .files import write_text
from .star import star_text

# What RELION writes where a class has no resolution.
_NO_RESOLUTION = 999.0


def write_class_model(
    path: Path,
    image_file_name: str,
    *,
    pixel_size_angstrom: float,
    side: int,
    shares: Float[Tensor, " n"],
    resolutions_angstrom: Float[Tensor, " n"],
    angle_error_degrees: float,
    shift_error_angstrom: float,
) -> None:
    """Write the tables of a ``run_itNNN_model.star`` that say what the classes are, complete or not at all.

    Tables of how a classification went, such as noise spectra, are left out.

    Parameters
    ----------
    path
        The STAR file.
    image_file_name
        Name of the stack of averages relative to it, one section for each class in their order.
    pixel_size_angstrom, side
        Of the averages.
    shares
        Part of all particles that each class has.
    resolutions_angstrom
        Of each average; infinite where there is none.
    angle_error_degrees, shift_error_angstrom
        How well particles are aligned, in all classes.
    """
    finite = resolutions_angstrom.isfinite()
    resolutions = resolutions_angstrom.where(finite, _NO_RESOLUTION).tolist()
    count = len(resolutions)
    general = {
        "rlnReferenceDimensionality": 2,
        "rlnDataDimensionality": 2,
        "rlnOriginalImageSize": side,
        "rlnCurrentResolution": min(resolutions),
        "rlnCurrentImageSize": side,
        "rlnIsHelix": 0,
        "rlnPixelSize": pixel_size_angstrom,
        "rlnNrClasses": count,
        "rlnNrGroups": 1,
    }
    classes = {
        "rlnReferenceImage": [f"{number + 1:06d}@{image_file_name}" for number in range(count)],
        "rlnClassDistribution": shares.tolist(),
        "rlnAccuracyRotations": [angle_error_degrees] * count,
        "rlnAccuracyTranslationsAngst": [shift_error_angstrom] * count,
        "rlnEstimatedResolution": resolutions,
        "rlnOverallFourierCompleteness": [1.0] * count,
        "rlnClassPriorOffsetX": [0.0] * count,
        "rlnClassPriorOffsetY": [0.0] * count,
    }
    write_text(path, star_text({"model_general": general, "model_classes": pd.DataFrame(classes)}))
