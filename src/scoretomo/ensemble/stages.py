"""The stages of growing a set of volumes, and their settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..datatypes import InputError
from ..methods.pose_search import PoseSearchConfig
from ..methods.score_tomography import ReconstructionConfig

# Views of other class averages in every update of a rigid molecule, to the end; by experiment, docs/validation.md.
_RIGID_ANCHORS = 4

VOLUMES = "volumes"
"""What a store calls the volumes that are asked for: those of the last stage."""


@dataclass(frozen=True)
class GrowthConfig:
    """What volumes start from, and how they grow."""

    initial: bool = True
    """Start all volumes from the initial model. No (--growth.no-initial) starts every volume from nothing and runs
    only the polish: the paper's way."""
    parents: int = 3
    """Sharpest volumes of each round that those of the next stage are started from."""
    rounds: int = 1
    """Times that the whole set is grown with anchors: first from the initial model, then anew from its sharpest
    members."""
    grow: ReconstructionConfig = field(
        default_factory=lambda: ReconstructionConfig(steps=200, sigma=0.3, final_sigma=0.3, anchors=1, average=0.3)
    )
    """Algorithm 1 from a matched parent, in every round. Anchors make the rigid core sharp."""
    polish: ReconstructionConfig = field(
        default_factory=lambda: ReconstructionConfig(steps=120, sigma=0.4, final_sigma=0.3, average=0.5)
    )
    """Algorithm 1 from a matched parent of the last round. Without anchors each volume finds the conformation of its
    own class average again; in many steps it would lose what the anchors have made sharp."""
    specialisations: int = 3
    """Times that every volume goes on with its kin, the class averages of its own conformation, found anew each."""
    specialise: ReconstructionConfig = field(
        default_factory=lambda: ReconstructionConfig(steps=120, sigma=0.4, final_sigma=0.3, anchors=2, average=0.5)
    )
    """Algorithm 1 with the kin as anchors: the moving parts become sharp too."""
    kin: float = 0.1
    """Part of the class averages that are taken as kin."""
    matching: PoseSearchConfig = field(
        default_factory=lambda: PoseSearchConfig(refinements=3, kept=1, low_radius=8.0, high_radius=16.0)
    )
    """How parents are found in the images."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.parents < 1:
            raise InputError(
                f"growth needs 0 or more rounds and 1 or more parents, not {self.rounds} and {self.parents}"
            )
        if self.specialisations < 0 or self.specialise.anchors < 1 or not 0 < self.kin <= 1:
            raise InputError(
                "growth needs 0 or more specialisations, with 1 or more anchors, and kin above 0 and up to 1, not "
                f"{self.specialisations}, {self.specialise.anchors} and {self.kin}"
            )
        if not self.initial and self.polish.anchors:
            raise InputError("volumes that start from nothing match no image yet: their anchors must be 0")

    @property
    def stages(self) -> tuple[tuple[str, ReconstructionConfig], ...]:
        """Name and settings of each stage, in order."""
        if not self.initial:
            return (("reconstruct", self.polish),)
        rounds = [(f"grow {k + 1} of {self.rounds}", self.grow) for k in range(self.rounds)]
        count = self.specialisations
        special = [(f"specialise {k + 1} of {count}", self.specialise) for k in range(count)]
        return (*rounds, ("polish", self.polish), *special)

    def for_rigid(self, *, longer: bool) -> "GrowthConfig":
        """Take all class averages as kin to the end, as of a molecule that keeps its shape.

        There is no specialising then; its steps go to the polish if that is to be longer.
        """
        if self.polish.anchors or not self.initial:
            return self
        steps = self.polish.steps + (self.specialisations * self.specialise.steps if longer else 0)
        polish = replace(self.polish, anchors=_RIGID_ANCHORS, steps=steps)
        return replace(self, polish=polish, specialisations=0)

    @property
    def polish_number(self) -> int:
        """Number of the last stage that starts from parents; what comes before it serves to find them."""
        return self.rounds if self.initial else 0


@dataclass(frozen=True)
class Stage:
    """Algorithm 1 for some of the images, with the same settings and from the same parents."""

    number: int
    name: str
    settings: ReconstructionConfig
    members: list[int]
    """Images whose volumes the stage makes."""
    before: int
    """Volume-steps of the stages before it."""
    task: str
    """What its volumes are called in the store."""
    goes_on: bool
    """Whether each volume goes on from its own of the stage before, with its kin; else it is started from a parent."""

    @property
    def after(self) -> int:
        """Volume-steps of the stages up to its end."""
        return self.before + len(self.members) * self.settings.steps


def growth_stages(config: GrowthConfig, count: int, wanted: Sequence[int] | None = None) -> list[Stage]:
    """List the stages of growing from ``count`` images: whose volumes each makes, all or those that are wanted."""
    members = list(range(count)) if wanted is None else list(wanted)
    stages: list[Stage] = []
    for number, (name, settings) in enumerate(config.stages):
        task = VOLUMES if number == len(config.stages) - 1 else f"stage{number}"
        before, goes_on = stages[-1].after if stages else 0, number > config.polish_number
        stages.append(Stage(number, name, settings, members, before, task, goes_on))
    return stages
