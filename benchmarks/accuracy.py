"""Time to the same FSC-AUC: volumes of a simulated box, ours against the paper's listing, with one trained denoiser.

Ours grows all volumes together with the default settings. The listing makes one after another from nothing, in
float32; so that its curve is known however long it runs, all of them do some steps before any does more. Only their own
work is timed, not the alignment with the truth and the FSC.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.diffusion.edm import EDMDenoiser
from scoretomo.ensemble.growth import Beginning, grow_progressive
from scoretomo.ensemble.store import MemoryStore
from scoretomo.evaluation.comparison import compare, summary
from scoretomo.evaluation.motion_measures import MotionScores, rigid_copies, score_motion
from scoretomo.evaluation.moving_truths import MovingTruths, moving_truths
from scoretomo.imaging.preprocess import restore_volume
from scoretomo.io.mrc import read_volume
from scoretomo.io.star import read_poses
from scoretomo.methods.initial_model import initial_model
from scoretomo.methods.motion_model import motion_model
from scoretomo.methods.neighbour_volumes import NeighbourVolumes, nearest
from scoretomo.networks.unet import supports_fast_bfloat16
from scoretomo.presets import PRESETS
from scoretomo.runs import Run, load_denoiser, open_run

from .commands import scoretomo
from .paper_listing import reconstruct_one_progressive
from .record import Row
from .timing import Stopwatch, three_digits

# Components of the motion model: the box has two lids.
_COMPONENTS = 3


@dataclass(frozen=True)
class Settings:
    """How much to measure. The defaults take an hour on two cores; the record is written as it goes."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    folder: Path = Path("demo")
    """What `scoretomo demo -o FOLDER` has made: images, truth and trained denoiser. Made here if it is not there."""
    side: int = 32
    """Side of the simulated images, if they are made here."""
    minutes: float = 2.5
    """Minutes of training, if it is done here."""
    volumes: int = 24
    """Volumes of the first images of the stack."""
    runs: int = 2
    """Runs of ours, with a seed each: the first before the listing, the others after it."""
    every: int = 100
    """Steps of ours after which the volumes are compared with the truth."""
    steps: tuple[int, ...] = (250, 500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000, 10_000)
    """Steps of the listing after which the volumes are compared with the truth."""
    listing_sigma: float = 0.5
    """Noise level of the listing. The paper's box has 0.2; volumes that start from nothing lock sooner at 0.5."""
    listing_views: int = 2
    """Views of a step of the listing (the paper's M)."""
    times: float = 21.0
    """The listing runs so many times as long as ours, if it has steps left."""


@dataclass(frozen=True)
class Subject:
    """What both sides work on, and what the mean of the truths, one rigid map, scores."""

    run: Run
    indices: list[int]
    truths: MovingTruths
    rigid: MotionScores
    device: str

    @property
    def images(self) -> Float[Tensor, "k n n"]:
        """All class averages."""
        return self.run.images.to(self.device)

    def denoiser(self, *, bfloat16: bool) -> EDMDenoiser:
        """The trained denoiser of the run."""
        network = EDMDenoiser(load_denoiser(self.run), bfloat16=bfloat16).to(self.device)
        return network.eval().requires_grad_(False)

    def accuracy(self, volumes: Float[Tensor, "b n n n"]) -> Row:
        """FSC with the truth, after alignment, and whether the volumes move as it does."""
        record = self.run.preprocessing
        restored = torch.stack([restore_volume(volume, record).voxels for volume in volumes.cpu()])
        truths = self.truths.truths
        compared = compare(restored.to(self.device), truths, record.input_pixel_size_angstrom, self.indices)
        results, motion = summary(compared), score_motion((each.aligned for each in compared), self.truths)
        areas = [volume["fsc_auc"] for volume in results["volumes"]]
        resolution = results["median_resolution_pixels"]
        return {
            "median_fsc_auc": three_digits(results["median_fsc_auc"]),
            "lowest": three_digits(min(areas)),
            "highest": three_digits(max(areas)),
            "median_resolution_pixels": resolution and three_digits(resolution),
            "gain_over_rigid": three_digits(float((motion.fsc_auc - self.rigid.fsc_auc).median())),
            "own_difference": three_digits(float(motion.own_difference.median())),
        }


def measure(settings: Settings) -> Iterator[Row]:
    """Accuracy against time of ours, of the listing, and of ours again with other seeds."""
    subject = _subject(settings)
    ours = []
    for row in _ours(subject, settings, seed=0):
        ours.append(row)
        yield row
    for row in _listing(subject, settings, limit=settings.times * ours[-1]["seconds"]):
        yield {**row, "times_ours": _times_ours(row, ours)}
    for seed in range(1, settings.runs):
        yield from _ours(subject, settings, seed)


def _ours(subject: Subject, settings: Settings, seed: int) -> Iterator[Row]:
    """Grow the volumes as the package does, all of them in one chunk."""
    denoiser = subject.denoiser(bfloat16=supports_fast_bfloat16(torch.device(subject.device)))
    images = subject.images
    watch, store = Stopwatch(subject.device), MemoryStore()
    growing = grow_progressive(
        denoiser,
        images,
        PRESETS["demo"].growth.distil,
        seed=seed,
        beginning=_beginning(images, seed),
        wanted=subject.indices,
        store=store,
        chunk=len(subject.indices),
        mask_radius=subject.run.mask_radius,
    )
    for step in watch.timed(growing):
        now = step.advancing
        if now is not None and now.members == subject.indices and now.step.step % settings.every == 0:
            yield _row("ours", seed, "distil", now.step.step, watch.read(), subject.accuracy(now.step.result))
    volumes = torch.stack([store.volumes[index] for index in subject.indices])
    yield _row("ours", seed, "result", None, watch.read(), subject.accuracy(volumes))


def _beginning(images: Float[Tensor, "n side side"], seed: int) -> Beginning:
    """Initial model, motion model, and the volumes of the motion."""
    initial = initial_model(images, seed=seed)
    band = (images.shape[-1] - 1) // 2
    poses = initial.rotations, initial.shifts_pixels
    model = motion_model(images, *poses, _COMPONENTS, radius=initial.radius, band=band, seed=seed)
    volumes = NeighbourVolumes(images, model, radius=initial.radius)
    neighbours = nearest(model.z, PRESETS["demo"].growth.neighbours)
    return Beginning(volumes, model.rotations, model.shifts_pixels, neighbours)


def _listing(subject: Subject, settings: Settings, limit: float) -> Iterator[Row]:
    """All volumes up to some number of steps, then up to more, until the time is up."""
    denoiser = subject.denoiser(bfloat16=False)
    progress = [
        reconstruct_one_progressive(
            denoiser,
            image,
            sigma=settings.listing_sigma,
            views=settings.listing_views,
            generator=torch.Generator(subject.device).manual_seed(index),
        )
        for index, image in zip(subject.indices, subject.images[subject.indices], strict=True)
    ]
    watch, done = Stopwatch(subject.device), 0
    for goal in settings.steps:
        fitting = goal if done == 0 else int(done * limit / watch.read())  # at the pace so far
        goal = min(goal, fitting)
        if goal <= done:
            return
        volumes = []
        for one in progress:
            *_, volume = watch.timed(islice(one, goal - done))
            volumes.append(volume)
        done = goal
        yield _row("listing", 0, "", done, watch.read(), subject.accuracy(torch.stack(volumes)))


def _row(method: str, seed: int, stage: str, steps: int | None, seconds: float, accuracy: Row) -> Row:
    start = {"method": method, "seed": seed, "stage": stage, "steps": steps, "seconds": three_digits(seconds)}
    return {**start, **accuracy, "times_ours": None}


def _times_ours(row: Row, ours: Sequence[Row]) -> float | None:
    """How many times as long as ours the listing took to this accuracy; None where ours has not reached it."""
    reached = [own["seconds"] for own in ours if own["median_fsc_auc"] >= row["median_fsc_auc"]]
    return three_digits(row["seconds"] / min(reached)) if reached else None


def _subject(settings: Settings) -> Subject:
    """Simulate and train what is missing, by the package's own commands, and read it."""
    simulation, run = settings.folder / "simulation", settings.folder / "run"
    if not (simulation / "images.mrcs").exists():
        scoretomo("simulate", "box", "-o", str(simulation), "--count", "300", "--side", str(settings.side))
    if not (run / "denoiser").exists():
        budget = ["--preset", "demo", "--minutes", str(settings.minutes), "--device", settings.device]
        scoretomo("train", str(simulation / "images.mrcs"), "-o", str(run), *budget)
    indices = list(range(settings.volumes))
    truth = [read_volume(simulation / "truth" / f"volume_{index:04d}.mrc").volume.voxels for index in indices]
    rotations = read_poses(simulation / "particles.star").rotations[indices]
    truths = moving_truths(torch.stack(truth).to(settings.device), rotations.to(settings.device))
    rigid = score_motion(rigid_copies(truths), truths)
    return Subject(open_run(run), indices, truths, rigid, settings.device)
