"""Fixtures shared by all tests."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoretomo.geometry.rotations import random_rotations

# Shells and nohup let a job in the background ignore these, and its processes inherit that; here they are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in ("SIGTERM", "SIGHUP"):
    if hasattr(signal, _name):
        signal.signal(getattr(signal, _name), signal.SIG_DFL)


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


@dataclass(frozen=True)
class Blobs:
    """Gaussian blobs without symmetry, some of which move along a line, and clean projections of them.

    ``images`` are ``(n, 24, 24)``; ``coordinates`` ``(n,)`` say how far the moving blobs are from the middle.
    """

    images: Tensor
    rotations: Tensor
    coordinates: Tensor
    centres: Tensor

    SIDE = 24
    RADIUS = 9.0
    WIDTH = 1.2

    def volume(self, image: int) -> Tensor:
        """Volume of an image in the frame that poses start from."""
        axis = torch.arange(self.SIDE, dtype=torch.float32) - self.SIDE // 2
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
        away = (points - self.centres[image][:, None, None, None]).square().sum(-1)
        return torch.exp(-away / (2 * self.WIDTH**2)).sum(0)


@pytest.fixture(scope="session")
def make_blobs() -> Callable[..., Blobs]:
    def make(count: int, travel: float, seed: int = 0) -> Blobs:
        draw = torch.Generator().manual_seed(seed)
        centres = 2.6 * torch.randn(12, 3, generator=torch.Generator().manual_seed(4)).clamp(-1.6, 1.6)
        rotations, coordinates = random_rotations(count, generator=draw), 2 * torch.rand(count, generator=draw) - 1
        moved = centres.repeat(count, 1, 1)
        moved[:, :4] += travel * coordinates[:, None, None] * torch.tensor([0.6, 0.8, 0.0])
        seen = (moved @ rotations.mT)[..., :2]  # projection sums over z of the turned object
        axis = torch.arange(Blobs.SIDE, dtype=torch.float32) - Blobs.SIDE // 2
        pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1)
        away = (pixels - seen[:, :, None, None]).square().sum(-1)
        images = math.sqrt(2 * math.pi) * Blobs.WIDTH * torch.exp(-away / (2 * Blobs.WIDTH**2)).sum(1)
        return Blobs(images, rotations, coordinates, moved)

    return make
