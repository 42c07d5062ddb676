"""Random in-plane motions of images: what leaves the distribution of projections unchanged."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def augment(
    images: Float[Tensor, "b side side"], *, largest_shift: float = 0.01, generator: torch.Generator
) -> Float[Tensor, "b side side"]:
    """Rotate, flip and shift each image at random in one bilinear resampling (001, section 3).

    Parameters
    ----------
    images
        Zero outside the inscribed circle, so that no content leaves the frame.
    largest_shift
        Shifts are uniform within this fraction of the side, both ways, in x and in y.
    """
    count, side = len(images), images.shape[-1]
    draws = torch.rand(4, count, generator=generator, device=generator.device).to(images.device)
    angle = 2 * math.pi * draws[0]
    flip = torch.where(draws[1] < 0.5, -1.0, 1.0)
    shift = (2 * draws[2:] - 1) * largest_shift * side  # pixels, x and y
    cosine, sine = angle.cos(), angle.sin()
    # grid_sample counts from -1 to 1 over side - 1 pixels, and its zero is (side - 1) / 2; ours is side // 2
    centre, unit = side // 2 - (side - 1) / 2, 2 / (side - 1)
    rows = torch.stack([torch.stack([flip * cosine, flip * sine], -1), torch.stack([-sine, cosine], -1)], -2)
    offset = centre - (rows @ (shift.T[..., None] + centre))[..., 0]
    theta = torch.cat([rows, unit * offset[..., None]], dim=-1)
    grid = torch.nn.functional.affine_grid(theta, [count, 1, side, side], align_corners=True)
    return torch.nn.functional.grid_sample(images[:, None], grid, mode="bilinear", align_corners=True)[:, 0]
