"""``scoretomo points sample``: clouds drawn from a prior alone, and how like the real ones they are."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError, PointClouds
from ..diffusion.edm import Denoiser
from ..evaluation.generation import GenerationScores, generation_scores
from ..geometry.point_clouds import normalise, random_orthogonal_matrices, random_subsets
from ..io.files import write_json
from ..io.point_sets import read_point_set, write_point_set
from ..limits import SEEDS, check_limits
from ..methods.point_posterior import PriorSamplingConfig, sample_progressive
from ..report.point_pictures import draw_clouds
from .points_folder import Prior, load_prior
from .progress import interruptible, progress
from .train import Device, choose_device

# Noise must swamp the clouds at first: 80 times the cube (002, Figs. 3 to 5). Fewer steps than 100 show.
_SAMPLING = PriorSamplingConfig(steps=100, largest=80.0, noise_at_most=1.0)
# Clouds that go through the network together on a CPU.
_AT_ONCE = 32
# Clouds in a row of the picture.
_SHOWN = 8


@dataclass(frozen=True)
class SampleRequest:
    """What to draw and where to.

    Attributes
    ----------
    prior
        Folder of a trained prior.
    output
        Folder for the samples: samples.npz, a picture, and the comparison.
    count
        Clouds to draw.
    compare
        A set of clouds to compare with; those that it holds out are compared, and with them as many of the others,
        which shows what a perfect prior would reach. None: nothing is compared.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    seed
        The same seed gives the same samples, on the same kind of machine.
    """

    prior: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PRIOR")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    count: int = 32
    compare: Annotated[Path | None, tyro.conf.arg(metavar="SET")] = None
    device: Device = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_limits(self, count=(1, 10**6), seed=SEEDS)


def sample(
    request: Annotated[SampleRequest, tyro.conf.arg(name="")], sampling: PriorSamplingConfig = _SAMPLING
) -> None:
    """Draw clouds from a prior, without observations.

    With --compare, 1-nearest-neighbour accuracy, coverage and minimum matching distance by the Chamfer distance tell
    how like the held-out clouds they are (002, Table 3): 50 % is the best accuracy, 100 % the best coverage.
    """
    processes.refuse_company("points sample")
    if request.count < 1:
        raise InputError(f"--count {request.count}: draw 1 cloud or more")
    if request.output.exists() and not request.output.is_dir():
        raise InputError(f"{request.output}: is a file; give the name of a folder")
    device = choose_device(request.device)
    prior, denoiser = load_prior(request.prior, device)
    real = None
    if request.compare is not None:  # what cannot be compared is said before anything is drawn
        real = real_clouds(request.compare, prior, request.count, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator(device).manual_seed(request.seed)
    drawn = draw(denoiser, request.count, prior.points, sampling, generator=generator).cpu()
    clouds = normalise(drawn)[0]
    request.output.mkdir(parents=True, exist_ok=True)
    names = tuple(f"sample_{index:04d}" for index in range(len(clouds)))
    nothing = torch.zeros(len(clouds), dtype=torch.bool)
    path = request.output / "samples.npz"
    write_point_set(path, PointClouds(clouds, torch.ones(len(clouds)), names, nothing, prior.handed))
    (request.output / "samples.json").unlink(missing_ok=True)  # of earlier samples
    rows = {"samples": clouds[:_SHOWN], "": clouds[_SHOWN : 2 * _SHOWN]}
    if real is not None:
        held_out, known = real
        scores = {"samples": generation_scores(clouds[: len(held_out)], held_out)}
        if known is not None:
            scores["training set"] = generation_scores(known, held_out)
        write_json(request.output / "samples.json", {name: asdict(found) for name, found in scores.items()})
        _print(scores, len(held_out))
        rows["held out"] = held_out[:_SHOWN]
    draw_clouds(request.output / "samples.png", {name: row for name, row in rows.items() if len(row)})
    print(f"samples: {path}")


def draw(
    denoiser: Denoiser, count: int, points: int, sampling: PriorSamplingConfig, *, generator: torch.Generator
) -> Float[Tensor, "count points 3"]:
    """Draw clouds from a prior, some at a time."""
    parts = [min(_AT_ONCE, count - start) for start in range(0, count, _AT_ONCE)]
    found = []
    with interruptible() as check, progress("sample") as report:
        for number, part in enumerate(parts):
            steps = sample_progressive(denoiser, None, part, points, sampling, generator=generator)
            clouds = torch.empty(0)
            for step, clouds in enumerate(steps, 1):  # noqa: B007
                report((number + step / sampling.steps) / len(parts), f"{count} clouds")
                check()
            found.append(clouds)
    return torch.cat(found)


def real_clouds(
    path: Path, prior: Prior, most: int, *, generator: torch.Generator
) -> tuple[Float[Tensor, "k points 3"], Float[Tensor, "k points 3"] | None]:
    """Take ``most`` held-out clouds of a set and as many that were trained on, turned at random as samples are.

    The second is None where there are too few, or where the prior was trained on another set.

    Raises
    ------
    InputError
        Fewer than 2 clouds to compare, or they have too few points.
    """
    real, points = read_point_set(path), prior.points
    if min(most, int(real.held_out.sum())) < 2:
        raise InputError(
            f"{path}: comparing takes 2 held-out clouds and 2 samples or more; see --count and points prepare"
        )
    if real.points.shape[1] < points:
        raise InputError(f"{path}: has clouds of {real.points.shape[1]} points, the prior of {points}")

    def some(mask: Tensor, count: int) -> Float[Tensor, "k points 3"]:
        chosen = mask.nonzero().flatten()
        chosen = chosen[torch.randperm(len(chosen), generator=generator)[:count]]
        turns = random_orthogonal_matrices(len(chosen), handed=real.handed, generator=generator)
        return normalise(random_subsets(real.points[chosen], points, generator=generator) @ turns.mT)[0]

    held_out = some(real.held_out, most)
    known = some(~real.held_out, len(held_out))
    trained_on = hashlib.sha256(path.read_bytes()).hexdigest() == prior.source["sha256"]
    return held_out, known if trained_on and len(known) == len(held_out) else None


def _print(scores: Mapping[str, GenerationScores], count: int) -> None:
    print(f"against {count} held-out clouds, by Chamfer distance (not squared), in units of the cube:")
    print(f"{'':14s} {'1-NNA':>7s} {'COV':>7s} {'MMD':>7s}")
    for name, found in scores.items():
        accuracy, covered = found.nearest_neighbour_accuracy, found.coverage
        print(f"{name:14s} {accuracy:7.1%} {covered:7.1%} {found.minimum_matching_distance:7.4f}")
