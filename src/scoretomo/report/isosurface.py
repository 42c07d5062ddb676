"""Pictures of a volume's surface: rays along z, the first crossing of a level, shaded by the gradient there."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import centred_fft, centred_inverse_fft, radius_grid, resize
from ..imaging.resampling import rotate_volumes

# Unit vectors xyz of the image's frame, x to the right, y up, z to the viewer.
_LIGHT = (-0.45, 0.55, 0.70)
UPRIGHT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Rotation that makes z of the object the vertical of the picture; otherwise z points to the viewer."""
_COLOUR = (0.45, 0.68, 0.97)


def surface(
    volume: Float[Tensor, "n n n"],
    rotation: Float[Tensor, "3 3"],
    *,
    level: float | None = None,
    pixels: int = 128,
    colour: tuple[float, float, float] = _COLOUR,
) -> Float[Tensor, "pixels pixels 4"]:
    """Draw the surface on which a volume has some level, seen from large z.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``.
    rotation
        ``(3, 3)``, how the volume is turned before it is looked at; identity is the view of a projection.
    level
        Density of the surface; None takes :func:`surface_level`.
    pixels
        Side of the picture.
    colour
        Red, green and blue of the surface, 0 to 1.

    Returns
    -------
    Tensor
        ``(pixels, pixels, 4)`` red, green, blue, alpha; rows along y, so that y points up with the first row below.
    """
    level = surface_level(smooth(volume)) if level is None else level
    fine = rotate_volumes(resize(smooth(volume), pixels, 3)[None], rotation[None])[0].flip(0)  # viewer at index 0
    fine[0] = fine[-1] = level - 1  # no ray begins inside
    inside = fine >= level
    hit = inside.any(0)
    first = inside.int().argmax(0).clamp(min=1)
    behind, before = (fine.gather(0, (first - step)[None])[0] for step in (0, 1))
    along = ((behind - level) / (behind - before).clamp(min=1e-12)).clamp(0, 1)  # from the voxel behind back to before
    normal = torch.stack([torch.lerp(_gather(g, first), _gather(g, first - 1), along) for g in _gradient(fine)])
    normal = normal / normal.norm(dim=0).clamp(min=1e-12)
    light = torch.tensor(_LIGHT).to(volume)
    light = light / light.norm()
    diffuse = torch.einsum("cyx,c->yx", normal, light).clamp(min=0)
    halfway = light + torch.tensor([0.0, 0.0, 1.0]).to(light)
    shine = torch.einsum("cyx,c->yx", normal, halfway / halfway.norm()).clamp(min=0) ** 40
    depth = (first - along) / pixels
    nearest, farthest = (depth[hit].min(), depth[hit].max()) if hit.any() else (depth.min(), depth.max())
    fade = 1 - 0.45 * (depth - nearest) / (farthest - nearest).clamp(min=0.2)  # what is deeper is darker
    shade = (0.4 + 0.6 * diffuse) * fade
    rgb = shade[..., None] * torch.tensor(colour).to(volume) + 0.25 * (shine * fade)[..., None]
    return torch.cat([rgb.clamp(0, 1), hit[..., None].to(volume)], dim=-1)


def surface_level(volume: Float[Tensor, "n n n"]) -> float:
    """Density that separates object from background: 35 % of what the brightest thousandth reaches."""
    return 0.35 * volume.flatten().quantile(0.999).item()


def tilted(about_x_degrees: float, about_y_degrees: float) -> Float[Tensor, "3 3"]:
    """Rotation that turns a volume about the vertical axis y, then tips it towards the viewer about x."""
    x, y = math.radians(about_x_degrees), math.radians(about_y_degrees)
    about_x = torch.tensor([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = torch.tensor([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    return about_x @ about_y


def smooth(volume: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """Blur by a Gaussian of 0.6 voxels, below what any resolution claims: surfaces show noise more than slices do."""
    side = volume.shape[-1]
    blur = torch.exp(-2 * (math.pi * 0.6 * radius_grid(side, 3, volume.device) / side) ** 2)
    return centred_inverse_fft(centred_fft(volume, 3) * blur, 3)


def _gradient(fine: Float[Tensor, "z y x"]) -> list[Float[Tensor, "z y x"]]:
    """Direction out of the density along x, y and z; z is stored from the viewer away."""
    z, y, x = torch.gradient(fine)
    return [-x, -y, z]


def _gather(values: Float[Tensor, "z y x"], index: Tensor) -> Float[Tensor, "y x"]:
    return values.gather(0, index[None])[0]
