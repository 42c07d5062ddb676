"""Processes that work together on one job: how many there are, which this one is, and what they tell each other.

`accelerate launch` and `torchrun` start them, on one machine or many. A process that was started alone is the main
one of one: then every function here returns at once, and nothing distributed is loaded.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .datatypes import InputError

T = TypeVar("T")

# Names under which launchers (torch's and accelerate's own; MPICH, Open MPI, MVAPICH) give the number of processes.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_COUNTS_HERE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
# One may write, or make its share of the volumes, for this long while the others wait.
_PATIENCE = timedelta(days=30)
# Values summed in one message: 64 MiB of float32.
_VALUES_AT_ONCE = 2**24


class ProcessLost(RuntimeError):
    """Another process of the same job has ended while this one was waiting for it."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that a launcher has started together, and leave them at the end, whatever happens.

    Raises
    ------
    InputError
        They cannot find each other.
    """
    if _number(_COUNTS) == 1:
        yield
        return
    from accelerate import PartialState  # slow to load

    on_cpu = told_to_use_cpu() or torch.cuda.device_count() < _number(_COUNTS_HERE)
    try:
        # gloo beside NCCL: a small number is agreed on without waiting for the GPU
        state = PartialState(cpu=on_cpu, backend="gloo" if on_cpu else "cuda:nccl,cpu:gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes cannot find each other ({str(error).splitlines()[0]}); start them with "
            "`accelerate launch` or `torchrun`"
        ) from error
    try:
        yield
    finally:
        state.destroy_process_group()


def count() -> int:
    """Count the processes that work together."""
    return dist.get_world_size() if _together() else 1


def count_here() -> int:
    """Count those of them that share this machine."""
    return _number(_COUNTS_HERE) if _together() else 1


def index() -> int:
    """Say which of them this one is, from 0."""
    return dist.get_rank() if _together() else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints for all."""
    return index() == 0


def own_gpu() -> torch.device:
    """Give the GPU on which this process computes; the others of its machine have others.

    Raises
    ------
    InputError
        More processes than GPUs on this machine.
    """
    if not _together():
        return torch.device("cuda")
    from accelerate import PartialState

    here, gpus = count_here(), torch.cuda.device_count()
    if here > gpus:
        raise InputError(f"{here} processes share a machine with {gpus} GPUs; start one for each GPU")
    gpu = torch.device("cuda", PartialState().local_process_index)
    torch.cuda.set_device(gpu)
    return gpu


def told_to_use_cpu() -> bool:
    """Whether `accelerate launch --cpu` has started this process."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")


def left_alone() -> bool:
    """Whether several processes were asked for and `accelerate launch --cpu` has started this one only, as it does."""
    return told_to_use_cpu() and "MASTER_ADDR" in os.environ and count() == 1


def refuse_company(verb: str) -> None:
    """Say that a verb is the work of one process.

    Raises
    ------
    InputError
        Several were started for it.
    """
    if count() > 1:
        raise InputError(f"{verb} works in one process; start it without a launcher")


def wait_for_all() -> None:
    """Go on when every process has come here; for days if need be."""
    total(0.0)


def from_main(value: T) -> T:
    """Give every process the value that the main one has; anything small that can be pickled."""
    if not _together():
        return value
    values = [value]
    with _in_company():
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def by_main(work: Callable[[], T]) -> T:
    """Have the main process do something while the others wait; its result for every process, or its error.

    Raises
    ------
    InputError
        In every process, when ``work`` has raised it in the main one.
    """
    outcome: tuple[T | None, str | None] = (None, None)
    if is_main():
        try:
            outcome = (work(), None)
        except InputError as error:
            from_main((None, str(error)))
            raise
    value, failure = from_main(outcome)
    if failure is not None:
        raise InputError(failure)
    return value  # type: ignore[return-value]


def total(*numbers: float) -> tuple[float, ...]:
    """Sum of each number over all processes, in each of them; cheap, and without waiting for a GPU."""
    if not _together():
        return numbers
    values = torch.tensor(numbers, dtype=torch.float64)
    with _in_company():
        dist.all_reduce(values)
    return tuple(values.tolist())


def any_of_us(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return total(float(flag))[0] > 0


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes; all of one dtype and device, the same shapes everywhere."""
    if not _together():
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().flatten() for tensor in bucket])
        with _in_company():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        with torch.no_grad():
            torch._foreach_copy_(bucket, [part.view_as(old) for part, old in zip(parts, bucket, strict=True)])


def first_to_fail() -> bool:
    """Whether no other process has asked this before: the one that says why the job has ended."""
    if not _together():
        return True
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return _get_default_store().add("failed", 1) == 1
    except RuntimeError:  # the store is gone, and with it the main process, which has said why
        return is_main()


@contextmanager
def only_main_speaks() -> Iterator[None]:
    """Lose what the other processes print, so that everything is said once."""
    with ExitStack() as stack:
        if not is_main():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _number(names: Sequence[str]) -> int:
    """First of some environment variables that holds a number; 1 if none does."""
    for name in names:
        with suppress(KeyError, ValueError):
            return int(os.environ[name])
    return 1


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in groups that are summed together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > _VALUES_AT_ONCE:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _in_company() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this job has ended or cannot be reached; give the same command again to go on"
        ) from error
