"""``scoretomo points reconstruct``: 3D models from a few projections with poses, and a prior on point clouds."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..diffusion.edm import Denoiser
from ..io.checkpoints import load_checkpoint, save_checkpoint
from ..io.point_files import LARGEST_COORDINATE, LEAST_COORDINATE
from ..io.point_results import read_finished
from ..io.settings import to_table
from ..limits import SEEDS, check_limits
from ..methods.point_energies import Energy, coarse_energy, projection_energy, subunit_energy, weighted_energy
from ..methods.point_posterior import SamplingConfig, most_likely_progressive, sample_progressive
from ..presets import POINT_PRESETS, PointPresetName
from ..run_lock import locked
from .points_folder import Prior, load_prior
from .points_observations import ObservationConfig, Observed, observe
from .points_results import Reconstruction, refuse_other_files, summary_words, write_reconstruction
from .progress import interruptible, progress, say
from .train import Device, choose_device

# Values that the network holds for its gradient, a sample: a chunk of samples takes about 4 GB.
_VALUES_AT_ONCE = 2**30
_VALUES_PER_WIDTH = 16
# Models are no larger than this many times the object.
_MARGIN = 1.5
# On a CPU larger batches are no faster, and what a chunk has made is safe.
_AT_ONCE_ON_CPU = 5
_OBSERVATIONS = ObservationConfig()


@dataclass(frozen=True)
class ReconstructionRequest:
    """What to reconstruct with, and where to."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="INPUT")]
    """A run folder with volumes; point projections, an .npz file with xy (k, m, 2) in Angstrom and, if known,
    rotations (k, 3, 3), x_projection = R @ x_object; or images with poses, a .star or .cs file or a folder with one."""
    prior: Annotated[Path, tyro.conf.arg(metavar="PRIOR")]
    """Folder of a trained prior."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="OUT")] = None
    """Folder for the results. None: RUN/points, which the report of the run shows."""
    preset: PointPresetName = "default"
    """Settings of the sampling to begin with: what works best (default), or those of 002, Table 4, for what its names
    say was observed. Options given beside it change single settings."""
    samples: int = 10
    """Models to draw: how far they differ is how uncertain they are."""
    weight_projections: float = 1.0
    """Weight of each projection (002, Eq. 14); all weights are divided by their sum."""
    weight_coarse: float = 1.0
    """Weight of the coarse model."""
    weight_subunit: float = 1.0
    """Weight of the subunit."""
    baseline: bool = False
    """Also fit models without the prior, to compare with: baseline.pdb."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU (cuda) if there is one."""
    seed: int = 0
    """The same seed gives the same models, on the same kind of machine."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"--samples {self.samples}: draw 1 model or more")
        weights = (self.weight_projections, self.weight_coarse, self.weight_subunit)
        if not all(0 <= weight < float("inf") for weight in weights):
            raise InputError(f"weights must be 0 or more and finite, not {weights}")
        check_limits(self, samples=(1, 10**5), seed=SEEDS)


def reconstruct(
    request: Annotated[ReconstructionRequest, tyro.conf.arg(name="")],
    observations: Annotated[ObservationConfig, tyro.conf.arg(name="")] = _OBSERVATIONS,
    sampling: SamplingConfig = POINT_PRESETS["default"],
) -> None:
    """Make 3D models of a complex from three to ten projections, with a diffusion prior on point clouds.

    Class averages of a run, or point projections, get their poses by matching them against a volume; images are reduced
    to points. A coarse model and a known subunit may be added. The results are models.pdb with all models, model.pdb
    with the one in their middle (B factors are their spread in Angstrom), density.mrc, spread.mrc and pictures, all in
    the frame and the hand of the volume: projections do not tell the hand. The same command again goes on where an
    earlier one was interrupted.
    """
    processes.refuse_company("points reconstruct")
    output = request.output or request.source / "points"
    if request.output is None and not (request.source / "config.toml").exists():
        raise InputError(f"{request.source}: is no run folder, so that results need a place; give -o OUT")
    device = choose_device(request.device)
    prior, denoiser = load_prior(request.prior, device)
    points = observations.points or prior.points
    generator = torch.Generator().manual_seed(request.seed)
    observed = observe(request.source, observations, points, generator=generator, device=device)
    task = _Task(request, observed, prior, points, sampling)
    task.energy(torch.Generator().manual_seed(0))  # what cannot be used is said before anything is written
    task.check_reach()
    refuse_other_files(output)
    with locked(output):
        finished = read_finished(output)
        if finished is not None and finished["made_of"] != task.made_of:
            raise InputError(f"{output}: holds models of other observations or settings; give another folder with -o")
        if finished is None:
            write_reconstruction(output, task.carry_out(output, denoiser, device), _record(task, observations))
            (output / "checkpoint.pt").unlink(missing_ok=True)
            finished = read_finished(output)
        else:
            say("the models have been made already")
    assert finished is not None
    print(f"{summary_words(finished)}\nmodels: {output / 'models.pdb'}")
    if request.output is None:
        say(f"`scoretomo report {request.source}` shows them in the report of the run")


class _Part(TypedDict):
    """Models that were drawn together."""

    clouds: Float[Tensor, "s n 3"]
    energies: Float[Tensor, "s k"]


class _Saved(TypedDict):
    """Of the checkpoint: what was drawn, and how many are drawn together each time."""

    made_of: str
    models: list[_Part]
    baseline: list[_Part]
    parts: NotRequired[list[int]]


@dataclass(frozen=True)
class _Task:
    """Models to draw from the posterior of observations, in the cube of the prior."""

    request: ReconstructionRequest
    observed: Observed
    prior: Prior
    points: int
    sampling: SamplingConfig

    @property
    def made_of(self) -> str:
        """Fingerprint of all that decides what comes out."""
        numbers = asdict(self.request)
        chosen = {
            name: numbers[name] for name in numbers if name not in ("source", "prior", "output", "device", "preset")
        }
        settings = {**chosen, "observed": self.observed.fingerprint, "points": self.points, **to_table(self.sampling)}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(self.prior.weights.read_bytes())
        return digest.hexdigest()

    @property
    def names(self) -> list[str]:
        """Of the observations."""
        observed = self.observed
        names = [f"projection {view.index}" for view in observed.views]
        names += ["coarse model"] if observed.coarse is not None else []
        return names + (["subunit"] if observed.subunit is not None else [])

    def energies(self, generator: torch.Generator) -> list[Energy]:
        """Energy of each observation, in the order of :attr:`names`."""
        observed = self.observed
        found = [
            projection_energy(view.points / observed.unit, view.rotation, self.points, generator)
            for view in observed.views
        ]
        if observed.coarse is not None:
            coarse = (observed.coarse - observed.centre) / observed.unit
            found.append(coarse_energy(coarse, self.points, generator))
        if observed.subunit is not None:
            found.append(subunit_energy((observed.subunit - observed.centre) / observed.unit, self.points))
        return found

    def energy(self, generator: torch.Generator) -> tuple[Energy, list[Energy]]:
        """Weighted sum of the energies (002, Eq. 14), and each of them."""
        request, observed, found = self.request, self.observed, self.energies(generator)
        for kind, points in (("coarse", observed.coarse), ("subunit", observed.subunit)):
            if points is None and getattr(request, f"weight_{kind}") != 1:
                raise InputError(f"--weight-{kind}: does nothing here, since no {kind} is given; leave it out")
        weights = [request.weight_projections] * len(observed.views)
        weights += [request.weight_coarse] if observed.coarse is not None else []
        weights += [request.weight_subunit] if observed.subunit is not None else []
        if not sum(weights) > 0:
            raise InputError("all observations have a weight of 0")
        return weighted_energy(found, [weight / sum(weights) for weight in weights]), found

    def check_reach(self) -> None:
        """Refuse, before hours of work, what a PDB file could not hold.

        Raises
        ------
        InputError
            Models will reach beyond its coordinates.
        """
        observed = self.observed
        middle, reach = observed.centre + observed.middle, _MARGIN * observed.unit
        low, high = float(middle.min()) - reach, float(middle.max()) + reach
        if low < LEAST_COORDINATE or high > LARGEST_COORDINATE:
            raise InputError(
                f"{self.request.source}: models will reach from {low:.0f} to {high:.0f} A, and a PDB file holds "
                f"{LEAST_COORDINATE:.0f} to {LARGEST_COORDINATE:.0f}; are lengths and pixel sizes in Angstrom?"
            )

    def carry_out(self, folder: Path, denoiser: Denoiser, device: torch.device) -> Reconstruction:
        """Draw all models, some at a time, each of which is safe once it is made."""

        def posterior(energy: Energy, count: int, generator: torch.Generator) -> Iterator[Tensor]:
            return sample_progressive(denoiser, energy, count, self.points, self.sampling, generator=generator)

        def likelihood(energy: Energy, count: int, generator: torch.Generator) -> Iterator[Tensor]:
            return most_likely_progressive(energy, count, self.points, generator=generator)

        kinds = {"models": posterior, "baseline": likelihood} if self.request.baseline else {"models": posterior}
        saved = load_checkpoint(folder / "checkpoint.pt", _Saved, made_of=self.made_of)
        if saved is None:
            saved = {"made_of": self.made_of, "models": [], "baseline": []}
        parts = saved.setdefault("parts", self._parts(device))  # of an earlier command perhaps, on another device
        drawn = {"models": saved["models"], "baseline": saved["baseline"]}
        plan = [(kind, number, count) for kind in kinds for number, count in enumerate(parts)]
        with interruptible() as check, progress("points reconstruct") as report:
            for done, (kind, number, count) in enumerate(plan):
                if number < len(drawn[kind]):
                    continue
                generator = torch.Generator(device).manual_seed(self.request.seed + 7919 * number)
                energy, each = self.energy(generator)
                clouds, total = torch.empty(0), self.sampling.steps if kind == "models" else 100
                try:
                    for step, clouds in enumerate(kinds[kind](energy, count, generator), 1):  # noqa: B007
                        report((done + min(step / total, 1.0)) / len(plan), f"{self.request.samples} {kind}")
                        check()
                except InputError as error:  # of the energies, which saw no input but what the sampling made of it
                    raise InputError(f"the models fall apart ({error}); give a lower --sampling.guidance") from error
                found = torch.stack([single(clouds) for single in each], 1)
                drawn[kind].append({"clouds": clouds.cpu(), "energies": found.detach().cpu()})
                save_checkpoint(folder / "checkpoint.pt", saved)
        clouds, energies = self._joined(saved["models"])
        base, base_energies = self._joined(saved["baseline"]) if self.request.baseline else (None, None)
        return Reconstruction(
            self.observed, self.names, clouds, energies, base, base_energies, volume_energies=self._of_volume()
        )

    def _of_volume(self) -> Float[Tensor, "1 k"] | None:
        """Energies of the points of the volume itself, which say how well views and poses fit it."""
        observed = self.observed
        if observed.volume_points is None:
            return None
        cloud = ((observed.volume_points - observed.centre) / observed.unit)[None]
        each = self.energies(torch.Generator().manual_seed(self.request.seed))
        return torch.stack([single(cloud) for single in each], 1)

    def _parts(self, device: torch.device) -> list[int]:
        """How many models are drawn together each time."""
        network = self.prior.config.network
        held = _VALUES_PER_WIDTH * self.points * network.width * network.layers
        most = max(1, _VALUES_AT_ONCE // held)
        most = min(most, _AT_ONCE_ON_CPU) if device.type == "cpu" else most
        return [min(most, self.request.samples - start) for start in range(0, self.request.samples, most)]

    def _joined(self, parts: Sequence[_Part]) -> tuple[Float[Tensor, "s n 3"], Float[Tensor, "s k"]]:
        """Clouds in Angstrom, and their energies."""
        clouds = torch.cat([part["clouds"] for part in parts])
        return clouds * self.observed.unit + self.observed.centre, torch.cat([part["energies"] for part in parts])


def _record(task: _Task, observations: ObservationConfig) -> dict[str, Any]:
    """Everything that was asked for, as plain values."""
    asked = {**asdict(task.request), **asdict(observations)}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()}
    # JSON has no word for infinity
    sampling = {name: None if value == math.inf else value for name, value in to_table(task.sampling).items()}
    return {"made_of": task.made_of, "settings": {**settings, "sampling": sampling}}
