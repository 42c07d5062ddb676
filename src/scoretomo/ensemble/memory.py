"""How many volumes advance together: as many as the memory holds, measured on a GPU, worked out on a processor."""

from collections.abc import Callable
from dataclasses import replace

import torch

from ..diffusion.edm import Denoiser
from ..methods.score_tomography import PIXELS_AT_ONCE_ON_CPU, ReconstructionConfig, reconstruct_progressive

# Pixels of the images whose volumes a processor advances together; more do not make it faster.
_PIXELS_ON_CPU = 2**16
# Arrays of the size of a volume that are alive at once: the last volumes and the next, and the averages of both.
_VOLUME_ARRAYS = 4
# Values that are alive for each pixel of a view, in its projection, noise and residuals, and in the denoiser while the
# pixel is in it.
_VALUES_OF_A_PIXEL, _VALUES_IN_DENOISER = 10, 700


def volumes_at_once(
    denoiser: Denoiser,
    side: int,
    config: ReconstructionConfig,
    device: torch.device,
    *,
    budget: int,
    most: int,
) -> tuple[int, int]:
    """Choose how many volumes to advance together.

    Parameters
    ----------
    denoiser
        As Algorithm 1 takes it; runs on ``device``.
    side
        Of the volumes, in voxels.
    config
        Settings of Algorithm 1.
    device
        On a GPU a few steps are made and measured.
    budget
        Bytes that may be used.
    most
        Volumes that there are.

    Returns
    -------
    int, int
        Volumes, one at least; bytes that they take, those of the denoiser included.
    """
    views = max(config.views, config.final_views) + config.anchors
    if device.type == "cuda":
        return largest_that_fits(lambda count: _bytes_on_gpu(denoiser, side, views, count, device), budget, most)
    most = min(most, max(1, _PIXELS_ON_CPU // side**2))
    return largest_that_fits(lambda count: _bytes_on_cpu(side, views, count), budget, most)


def largest_that_fits(measure: Callable[[int], int], budget: int, most: int) -> tuple[int, int]:
    """Find the largest number up to ``most`` whose measure is within a budget, and its measure.

    Measures 1, 4, 16 and so on, while four times the last measure is within the budget, then follows the line through
    the last two. The measure must not grow faster than in proportion, nor ever faster than before: what is measured
    then fits, and what lies on the line is not less than what would be measured.
    """
    count, measured = 1, measure(1)
    each = measured
    while count < most and 4 * measured <= budget:
        more = min(4 * count, most)
        larger = measure(more)
        each = max(1, (larger - measured) // (more - count))
        count, measured = more, larger
    fitting = max(1, min(most, count + (budget - measured) // each))
    return fitting, measured + (fitting - count) * each


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is not enough memory; PyTorch has a type for it on GPUs only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(said in str(error) for said in ("DefaultCPUAllocator", "_STATUS_ALLOC_FAILED"))


def _bytes_on_gpu(denoiser: Denoiser, side: int, views: int, count: int, device: torch.device) -> int:
    """Peak of two steps beyond the memory that is in use before."""
    config = replace(ReconstructionConfig(), steps=2, views=views, final_views=views, average=1.0)
    generator = torch.Generator(device).manual_seed(0)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    images = torch.zeros(count, side, side, device=device)
    # a step is held while the next is made, as it is by whoever shows and saves it
    for _ in reconstruct_progressive(denoiser, images, config, generators=[generator] * count):
        pass
    return torch.cuda.max_memory_allocated(device) - before


def _bytes_on_cpu(side: int, views: int, count: int) -> int:
    pixels = count * views * side**2
    denoised = min(pixels, max(PIXELS_AT_ONCE_ON_CPU, side**2))
    return 4 * (_VOLUME_ARRAYS * count * side**3 + _VALUES_OF_A_PIXEL * pixels + _VALUES_IN_DENOISER * denoised)
