"""Where poses of particles begin that no file tells: those of an initial model and a march from it, or at random."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry.rotations import random_rotations
from ..imaging.extent import molecule_radius
from ..methods.abinitio import ParticleImages
from ..methods.abinitio_schedule import PoseMethod, SearchGridConfig
from ..methods.initial_model import find_in_model, initial_model_progressive
from ..methods.initial_schedule import InitialModelConfig
from ..methods.pose_search import transfer_of
from ..methods.posed_march import march_progressive
from .progress import interruptible, progress

# Images that the initial model is made of, at most.
_SAMPLE = 2000
_FOUND_TOGETHER = 500


def unknown_poses(count: int, seed: int) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
    """Draw rotations, and take no shifts."""
    generator = torch.Generator().manual_seed(seed)
    return random_rotations(count, generator=generator), torch.zeros(count, 2)


def found_poses(
    particles: ParticleImages, seed: int, search: SearchGridConfig, method: PoseMethod, device: torch.device
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
    """Find the poses of all images by an initial model of a random part of them and a march; shifts in pixels."""
    count = len(particles.images)
    sample = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:_SAMPLE].sort().values
    images, config = particles.images[sample].to(device), InitialModelConfig()
    transfer = transfer_of(particles.transfer, sample.to(device))
    radius = molecule_radius(images)
    with interruptible() as check, progress("initial model") as report:
        for step in initial_model_progressive(images, config, seed=seed, radius=radius, transfer=transfer):
            check()
            report(0.5 * step.done, f"{len(step.scores)} starts, best {step.scores.max():.3f}")
        assert step.result is not None
        rotations, shifts = [], []
        for rows in torch.arange(count).split(_FOUND_TOGETHER):
            check()
            own = particles.images[rows].to(device)
            transfer = transfer_of(particles.transfer, rows.to(device))
            found = find_in_model(own, step.result.volume, radius, config, transfer=transfer)
            rotations.append(found.rotations.cpu())
            shifts.append(found.shifts_pixels.cpu())
            report(0.5 + 0.5 * int(rows[-1] + 1) / count, f"poses of {int(rows[-1]) + 1} images")
    start = torch.cat(rotations).to(device), torch.cat(shifts).to(device)
    with interruptible() as check, progress("poses") as report:
        for march in march_progressive(particles, *start, radius, search, method):
            check()
            report(march.done, f"on a disc of {march.disc:.0f} Fourier pixels")
    return march.rotations.cpu(), march.shifts_pixels.cpu()
