"""Point clouds from sparse observations: how strongly observations guide, on shapes that are not held out.

The settings of `points_problems.py` were chosen by it. Columns are those of `points`; both can share --output.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .points import row
from .points_problems import families, solve
from .record import Row


@dataclass(frozen=True)
class Settings:
    """What is tried."""

    priors: tuple[Path, ...]
    """Folders of trained priors: one of furniture, one of traces of molecules, or both."""
    clouds: tuple[Path, ...]
    """The set of each prior (.npz)."""
    output: Path = Path("points")
    """Folder for what is drawn; it is not drawn again."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    shapes: int = 4
    """Shapes that the prior was trained on."""
    samples: int = 5
    """Clouds for each."""
    guidance: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0)
    """Strengths of the observations."""
    noise_above: tuple[float, ...] = ()
    """Noise levels below which there is no fresh noise. None: that of the row."""
    rows: tuple[str, ...] = ()
    """Scenarios: projections, coarse, subunit, all. None: every one."""
    seed: int = 0
    """Of the observations and of the samples."""


def measure(settings: Settings) -> Iterator[Row]:
    """Try every strength on every scenario, after maximum likelihood."""
    for family in families(settings.priors, settings.clouds, settings.device):
        _, trained_on = family.shapes
        for scenario in family.scenarios(settings.rows):
            cuts = settings.noise_above or (scenario.sampling.noise_above,)
            tried = [
                replace(scenario.sampling, guidance=guidance, noise_above=cut)
                for cut in cuts
                for guidance in settings.guidance
            ]
            fitted = None
            for sampling in (None, *tried):
                found = [
                    solve(
                        family, scenario, shape, sampling,
                        samples=settings.samples, seed=settings.seed, folder=settings.output,
                    )
                    for shape in trained_on[: settings.shapes]
                ]  # fmt: skip
                fitted = fitted or found
                line = row("tune", family, scenario, sampling, found, fitted if sampling else ())
                yield line | {"noise_above": sampling and sampling.noise_above}
