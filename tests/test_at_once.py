"""Independent jobs on several threads: order, settings of torch, failures."""

import threading
from collections.abc import Iterator

import pytest
import torch

from scoretomo.at_once import at_once

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_jobs_run_beside_each_other_and_results_keep_the_order() -> None:
    met = threading.Barrier(2, timeout=30)

    def job(item: int) -> int:
        met.wait()  # never passed by one thread alone
        return item * item

    assert at_once(job, range(4), CPU) == [0, 1, 4, 9]


@pytest.mark.usefixtures("two_threads")
def test_each_job_has_one_thread_and_the_gradients_of_the_caller() -> None:
    def job(_: int) -> tuple[int, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert at_once(job, range(3), CPU) == [(1, False)] * 3
    assert at_once(job, range(3), CPU) == [(1, True)] * 3
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_failure_is_raised_and_threads_are_given_back() -> None:
    def job(item: int) -> None:
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        at_once(job, range(2), CPU)
    assert torch.get_num_threads() == 2


def test_few_jobs_share_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        assert at_once(lambda _: torch.get_num_threads(), range(2), CPU) == [2, 2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_on_a_gpu_jobs_run_in_turn() -> None:
    caller = threading.current_thread()
    assert at_once(lambda _: threading.current_thread() is caller, range(3), torch.device("cuda")) == [True] * 3
