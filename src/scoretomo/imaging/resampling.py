"""Rotated and mirrored copies of volumes, about the origin ``side // 2``."""

import torch
from jaxtyping import Float
from torch import Tensor

# Samples whose coordinates are held at once: the working memory beside the result, about 50 MB.
_SAMPLES_AT_ONCE = 2**22


def mirror_z(volumes: Float[Tensor, "*batch n n n"]) -> Float[Tensor, "*batch n n n"]:
    """Reflect volumes in the plane z = 0: the other hand, ``V'(x, y, z) = V(x, y, -z)``.

    The plane goes through index ``n // 2``. Where ``n`` is even the first plane, z = -n/2, has no partner and stays.
    """
    flipped = volumes.flip(-3)
    return flipped if volumes.shape[-1] % 2 else flipped.roll(1, -3)


def rotate_volumes(volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b n n n"]:
    """Turn each volume by its rotation: ``V'(x) = V(R^T x)``, trilinear, zero outside the box.

    The sum over z of the result is :func:`scoretomo.imaging.projection.project` of the volume under the same rotation.

    Parameters
    ----------
    volumes
        ``(b, n, n, n)``, axes ``[z, y, x]``.
    rotations
        ``(b, 3, 3)``, active, on xyz column vectors.
    """
    side = volumes.shape[-1]
    # grid_sample counts from -1 to 1 over the box: the origin, index side // 2, lies at `centre` on every axis
    centre = 2 * (side // 2) / (side - 1) - 1
    inverse = rotations.mT
    offset = centre * (1 - inverse.sum(-1, keepdim=True))
    rotated = torch.empty_like(volumes)
    chunk = max(1, _SAMPLES_AT_ONCE // side**3)
    for start in range(0, len(volumes), chunk):
        part = slice(start, start + chunk)
        affine = torch.cat([inverse[part], offset[part]], dim=-1)  # (k, 3, 4)
        points = torch.nn.functional.affine_grid(affine, [len(affine), 1, side, side, side], align_corners=True)
        rotated[part] = torch.nn.functional.grid_sample(
            volumes[part][:, None], points, mode="bilinear", padding_mode="zeros", align_corners=True
        )[:, 0]
    return rotated
