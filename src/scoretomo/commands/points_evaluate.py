"""``scoretomo points evaluate``: point clouds against the truth."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..evaluation.point_error import chamfer_distance, earth_movers_distance, rmsd_to_atoms, rmsd_to_points
from ..evaluation.superposition import Superposition, apply_superposition, superpose
from ..geometry.point_clouds import mixture_means
from ..io.files import write_json
from ..io.point_files import is_point_file, read_point_clouds, read_points
from ..io.tables import write_table
from ..run_lock import written_to
from .progress import progress, say

_MEASURES = ("chamfer_distance", "earth_movers_distance", "rmsd_to_atoms", "rmsd_to_points")


@dataclass(frozen=True)
class PointComparison:
    """One point cloud against its reference, in the unit of the reference; None where a measure is not defined.

    Attributes
    ----------
    name
        Of the cloud.
    points
        How many it has.
    chamfer_distance
        To the reference's points, or to the mixture means of an atomic one; not squared, both directions summed.
    earth_movers_distance
        Between as many points: mean distance under the best assignment.
    rmsd_to_atoms
        From every atom to the nearest point; for atomic references.
    rmsd_to_points
        Under the best assignment to the reference's points or mixture means, for as many points.
    scale, mirrored, hand_margin, correlation
        Of the superposition (:class:`scoretomo.evaluation.superposition.Superposition`), if there was one.
    """

    name: str
    points: int
    chamfer_distance: float
    earth_movers_distance: float | None
    rmsd_to_atoms: float | None
    rmsd_to_points: float | None
    scale: float | None
    mirrored: bool | None
    hand_margin: float | None
    correlation: float | None


@dataclass(frozen=True)
class Reference:
    """What clouds are compared with: points, or atoms with their mixture means for clouds of any size."""

    points: Float[Tensor, "m 3"]
    atomic: bool
    _means: dict[int, Float[Tensor, "n 3"]] = field(default_factory=dict)

    def for_size(self, count: int) -> Float[Tensor, "n 3"]:
        """Points to compare a cloud of ``count`` points with: as many mixture means if there are more atoms."""
        if not self.atomic or len(self.points) <= count:
            return self.points
        if count not in self._means:
            self._means[count] = mixture_means(self.points, count, generator=torch.Generator().manual_seed(0))
        return self._means[count]


def evaluate(
    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODELS")],
    reference: Annotated[Path, tyro.conf.arg(metavar="TRUTH")],
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="OUT.json")] = None,
    superpose: bool = True,
    mirror: bool = False,
) -> None:
    """Compare point clouds with a reference: points or an atomic model.

    Clouds are first scaled to the reference's radius of gyration and superposed on it. An atomic model is reduced to
    the means of a Gaussian mixture with as many components as the cloud has points. Writes a .json and a .csv file, and
    prints a table: Chamfer distance (CD, not squared, sum of both directions), earth mover's distance (EMD), root mean
    square deviation (RMSD) of the atoms from the nearest points, and of points from the means assigned to them.

    Parameters
    ----------
    models
        What to evaluate: files (.pdb, .cif, .npy, .npz, .xyz, .csv), or folders of such files other than .csv.
    reference
        One cloud of one such file, FILE:NAME if it has several; all atoms if it is an atomic model. Models that lie
        apart are one cloud; FILE:all makes one of any.
    output
        The results. None: evaluation.json in the folder of the models.
    superpose
        Scale and superpose first; otherwise clouds are compared as they are.
    mirror
        Try the mirror image as well, where the data did not fix the hand.
    """
    processes.refuse_company("points evaluate")
    if mirror and not superpose:
        raise InputError("--mirror tries both hands when clouds are superposed; leave out --no-superpose")
    paths = _find(models)
    path = output or (models[0] if models[0].is_dir() else models[0].parent) / "evaluation.json"
    if path.suffix != ".json":
        raise InputError(f"-o {path}: the results are a .json file, and a .csv file beside it")
    loaded = read_points(reference)
    truth = Reference(loaded.points, loaded.atomic)
    if len(truth.points.unique(dim=0)) < 2:
        raise InputError(f"{reference}: is a single point; a reference has an extent")
    found = [read_point_clouds(each) for each in paths]
    named = [(reference, loaded.notes), *((path, each.notes) for path, each in zip(paths, found, strict=True))]
    for file, notes in named:
        for note in notes:
            say(f"note: {file.name}: {note}")
    clouds = [cloud for each in found for cloud in each.clouds.items()]
    comparisons = []
    with written_to(path.parent), progress("points evaluate") as report:
        for done, (name, cloud) in enumerate(clouds):
            comparisons.append(compare_cloud(name, cloud, truth, moved=superpose, mirror=mirror))
            report((done + 1) / len(clouds), name)
        write_comparisons(path, reference, truth, comparisons)
    print(table(comparisons, truth))
    print(f"results: {path}, {path.with_suffix('.csv')}")


def compare_cloud(
    name: str, cloud: Float[Tensor, "n 3"], reference: Reference, *, moved: bool = True, mirror: bool = False
) -> PointComparison:
    """Compare one cloud with a reference, scaled and superposed or as it is.

    Raises
    ------
    InputError
        A cloud that cannot be superposed.
    """
    target = reference.for_size(len(cloud))
    found: Superposition | None = None
    if moved:
        try:
            found = superpose(cloud, target, mirror=mirror)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        cloud = apply_superposition(cloud, found)
    batch, matching = cloud[None], len(cloud) == len(target)
    return PointComparison(
        name=name,
        points=len(cloud),
        chamfer_distance=chamfer_distance(batch, target[None]).item(),
        earth_movers_distance=earth_movers_distance(batch, target[None]).item() if matching else None,
        rmsd_to_atoms=rmsd_to_atoms(batch, reference.points).item() if reference.atomic else None,
        rmsd_to_points=rmsd_to_points(batch, target).item() if matching else None,
        scale=found.scale if found else None,
        mirrored=found.mirrored if found else None,
        hand_margin=found.hand_margin if found else None,
        correlation=found.correlation if found else None,
    )


def write_comparisons(path: Path, file: Path, reference: Reference, comparisons: Sequence[PointComparison]) -> None:
    """Write the results as ``.json``, with mean and standard deviation of every measure, and as ``.csv`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "reference": str(file),
        "reference_points": len(reference.points),
        "reference_is_atomic": reference.atomic,
        "unit": "Angstrom" if reference.atomic else "that of the reference",
    }
    for measure in _MEASURES:
        mean, deviation = _mean_and_deviation(comparisons, measure)
        results[f"mean_{measure}"], results[f"deviation_{measure}"] = mean, deviation
    rows = [asdict(comparison) for comparison in comparisons]
    write_json(path, {**results, "models": rows})
    write_table(path.with_suffix(".csv"), rows)


def table(comparisons: Sequence[PointComparison], reference: Reference) -> str:
    """Say a line for each cloud and their mean and standard deviation, for people."""
    width = max(len("standard deviation"), *(len(each.name) for each in comparisons))
    lines = [f"{'model':{width}}  points        CD       EMD  RMSD atoms  RMSD points  hand"]
    for each in comparisons:
        hand = "" if each.hand_margin is None else "mirrored" if each.mirrored else "same"
        margin = "" if each.hand_margin is None else f" (margin {each.hand_margin:.3f})"
        lines.append(f"{each.name:{width}}  {each.points:6d}  {_numbers(each)}  {hand}{margin}".rstrip())
    if len(comparisons) > 1:
        pairs = [_mean_and_deviation(comparisons, measure) for measure in _MEASURES]
        for title, column in (("mean", 0), ("standard deviation", 1)):
            lines.append(f"{title:{width}}  {'':6}  {_columns([pair[column] for pair in pairs])}".rstrip())
    sizes = sorted({each.points for each in comparisons if each.earth_movers_distance is None})
    if sizes:
        have = f"{len(reference.points)} {'atoms' if reference.atomic else 'points'}"
        counts = ", ".join(str(size) for size in sizes)
        lines.append(
            f"no EMD and no RMSD of assigned points: the reference has {have}, the models have {counts} points"
        )
    return "\n".join(lines)


def _numbers(comparison: PointComparison) -> str:
    return _columns([getattr(comparison, measure) for measure in _MEASURES])


def _columns(values: Sequence[float | None]) -> str:
    widths = (8, 8, 10, 11)
    return "  ".join(
        f"{'-':>{width}}" if value is None else f"{value:{width}.4g}"
        for value, width in zip(values, widths, strict=True)
    )


def _mean_and_deviation(comparisons: Sequence[PointComparison], measure: str) -> tuple[float | None, float | None]:
    """Over the clouds for which the measure is defined; a deviation needs two of them."""
    values = [value for each in comparisons if (value := getattr(each, measure)) is not None]
    mean = statistics.mean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def _find(given: Sequence[Path]) -> list[Path]:
    """Files of clouds: those given, and those of folders; .csv only where given, since results are .csv as well."""
    if not given:
        raise InputError("points evaluate: give files of points or folders of them")
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [each for each in sorted(path.iterdir()) if is_point_file(each) and each.suffix.lower() != ".csv"]
        inside = [each for each in inside if not each.name.startswith(".")]
        if (path / "reconstruction.json").exists():  # of its models one is there twice, and some may be without prior
            inside = [path / "models.pdb"]
        if not inside:
            raise InputError(f"{path}: holds no point clouds (.pdb, .cif, .npy, .npz, .xyz)")
        found += inside
    return found
