"""Fixtures shared by all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture
def data() -> Path:
    """The folder of real data, which is not part of the repository."""
    folder = Path(os.environ.get("SCORETOMO_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set SCORETOMO_DATA")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260101)


@pytest.fixture
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in two processes on the CPU, as ``accelerate launch`` starts them."""
    # with --cpu in the place of --multi_gpu it would start one process only
    options = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 --mixed_precision no"

    def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--dynamo_backend", "no"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [*command, script, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment
        ) as it:
            try:
                said, noted = it.communicate(timeout=240)
            except subprocess.TimeoutExpired:  # processes that wait for each other would do so for days
                it.terminate()  # it ends them
                said, noted = it.communicate()
        return subprocess.CompletedProcess(it.args, it.returncode, said, noted)

    return run
