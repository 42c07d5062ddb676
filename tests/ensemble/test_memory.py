"""As many volumes as fit."""

import numpy as np
import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.ensemble.memory import is_out_of_memory, largest_that_fits, volumes_at_once
from scoretomo.methods.score_tomography import ReconstructionConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize("budget", [10, 250, 1_000, 2_000, 4_000, 100_000])
@pytest.mark.parametrize("most", [1, 5, 64, 1000])
@pytest.mark.parametrize("denoised_at_once", [1, 20, 10_000])
def test_what_is_chosen_fits_and_no_measurement_goes_beyond(budget: int, most: int, denoised_at_once: int) -> None:
    """Memory of a fixed part, of each volume, and of a denoiser that takes so many of their views at once."""
    measured = []

    def measure(count: int) -> int:
        measured.append(count)
        return 100 + 10 * count + 40 * min(count, denoised_at_once)

    count, taken = largest_that_fits(measure, budget, most)
    assert 1 <= count <= most and len(measured) < 8
    assert all(measure(each) <= budget or each == 1 for each in [*measured, count])
    assert taken >= measure(count) or count == 1
    if most > count:  # no more than the slope of the last two measurements is given away
        assert budget - measure(count) < 60 + 50 * min(count, denoised_at_once)


def test_more_memory_never_means_fewer_volumes() -> None:
    counts = [largest_that_fits(lambda n: 100 + 10 * n, budget, 500)[0] for budget in range(50, 6000, 10)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 500)


def test_a_processor_advances_few_large_volumes_and_many_small_ones() -> None:
    def chosen(side: int, **limits: int) -> int:
        limits = {"budget": 2**34, "most": 1000, **limits}
        return volumes_at_once(lambda noisy, sigma: noisy, side, ReconstructionConfig(), CPU, **limits)[0]

    assert chosen(16) > 2 * chosen(32) > 4 * chosen(128) >= 4
    assert chosen(512) == 1
    assert chosen(32, most=3) == 3
    assert 1 <= chosen(32, budget=2**24) < chosen(32)


def test_all_views_of_an_update_count() -> None:
    def taken(config: ReconstructionConfig) -> int:
        return volumes_at_once(lambda noisy, sigma: noisy, 64, config, CPU, budget=2**40, most=1)[1]

    few = taken(ReconstructionConfig())
    assert taken(ReconstructionConfig(final_views=10)) > 2 * few
    assert taken(ReconstructionConfig(views=10)) == taken(ReconstructionConfig(anchors=8)) > 2 * few


def test_errors_about_memory_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(2**50)
    with pytest.raises(MemoryError) as numpy_error:
        np.empty(2**50)
    assert is_out_of_memory(torch_error.value) and is_out_of_memory(numpy_error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit")) and not is_out_of_memory(InputError("no"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_what_is_chosen_for_a_gpu_fits_there() -> None:
    device, budget = torch.device("cuda"), 2**28
    config = ReconstructionConfig(views=3, final_views=5)

    def denoiser(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return noisy[:, None].expand(-1, 50, -1, -1).contiguous().mean(1)

    count, taken = volumes_at_once(denoiser, 32, [config], device, budget=budget, most=10_000)
    again = volumes_at_once(denoiser, 32, [config], device, budget=10 * budget, most=count)[1]
    assert again <= taken <= budget
    assert count > budget / (4 * 32**3 * 20)
