"""The real beta-galactosidase class averages as the peer programs get them; numpy and mrcfile only."""

import os
from pathlib import Path

import mrcfile
import numpy as np

DATA = Path(os.environ.get("SCORETOMO_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
IMAGES = DATA / "class_averages" / "betagal_16x100px_3.54A.mrcs"
REFERENCE = DATA / "volumes" / "betagal_100px_3.54A.mrc"

# The averages lie under a raised-cosine mask of 200 A diameter with an edge of 5 pixels, as RELION's Class2D left them.
MASK_RADIUS_ANGSTROM = 100.0
MASK_EDGE_PIXELS = 5


def read_averages(path: Path, background: str) -> tuple[np.ndarray, float]:
    """Images ``(n, y, x)``, float32, standard deviation 1 over the stack, and the pixel size in Angstrom.

    ``background`` is ``"zero"``: the solvent under the mask is lifted to 0; or ``"kept"``: only the mean over the
    stack is taken off, as in the listing of the paper.
    """
    with mrcfile.open(path, permissive=True) as mrc:
        images, pixel_size = np.array(mrc.data, dtype=np.float32), float(mrc.voxel_size.x)
    images = zero_background(images, pixel_size) if background == "zero" else images - images.mean()
    return images / images.std(), pixel_size


def zero_background(images: np.ndarray, pixel_size: float) -> np.ndarray:
    """Lift the negative solvent under the mask to 0, image by image.

    The solvent level is the mean over the outermost flat part of the mask; it is subtracted weighted by the mask,
    because outside of it the images are 0 already.
    """
    axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
    radius = np.hypot(axis[:, None], axis)
    flat = MASK_RADIUS_ANGSTROM / pixel_size
    mask = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - flat) / MASK_EDGE_PIXELS, 0, 1))
    ring = (radius > flat - 3) & (radius <= flat)
    level = images[:, ring].mean(axis=1)
    return (images - level[:, None, None] * mask).astype(np.float32)
