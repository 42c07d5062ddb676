"""Growing volumes from the ones that have locked."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.ensemble.growth import PARENTS, GrowthStep, grow, grow_progressive, volume_generator
from scoretomo.ensemble.stages import VOLUMES, GrowthConfig
from scoretomo.ensemble.store import MemoryStore
from scoretomo.imaging.masks import soft_ball
from scoretomo.methods.pose_search import PoseSearchConfig
from scoretomo.methods.score_tomography import ReconstructionConfig, reconstruct

MATCHING = PoseSearchConfig(base_order=0, refinements=0, kept=1, low_radius=5.0, high_radius=7.0)
SHORT = GrowthConfig(
    parents=2,
    rounds=2,
    grow=ReconstructionConfig(steps=2, anchors=1),
    polish=ReconstructionConfig(steps=4, average=0.5),
    specialisations=2,
    specialise=ReconstructionConfig(steps=2, anchors=1),
    kin=0.4,
    matching=MATCHING,
)
# Updates of all stages, and those of three members of which one, two or three advance at a time.
_UPDATES = 2 + 2 + 4 + 2 + 2
_STEPS = {1: 3 * _UPDATES, 2: 2 * _UPDATES, 3: _UPDATES}
# Where volumes start: anything that is not round.
_INITIAL = torch.nn.functional.avg_pool3d(
    torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(5)) * soft_ball(16, 3, 5.0, 2.0), 3, 1, 1
)[0]

Phantom = Callable[[], Tensor]
ImagesOf = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Correlation = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def images(phantom: Phantom, images_of: ImagesOf) -> Tensor:
    return images_of(phantom(), 3)[0]


def steps_of(images: Tensor, config: GrowthConfig = SHORT, **options: object) -> Iterator[GrowthStep]:
    named = {"seed": 0, "initial": _INITIAL, **options}
    return grow_progressive(IdealDenoiser(images), images, config, **named)  # type: ignore[arg-type]


def volumes_of(store: MemoryStore) -> Tensor:
    return torch.stack([store.get(VOLUMES, index)["volume"] for index in sorted(store.results[VOLUMES])])


def from_disk(store: MemoryStore) -> MemoryStore:
    """What comes back from a file that holds tensors and plain values only."""
    file = io.BytesIO()
    torch.save(vars(store), file)
    file.seek(0)
    return MemoryStore(**torch.load(file, weights_only=True))


def test_growing_beats_as_many_steps_from_nothing(
    phantom: Phantom, images_of: ImagesOf, correlation: Correlation
) -> None:
    """An initial model is worth more than steps: growth with few steps beats cold starts with the same number."""
    truth = phantom()
    images, frames = images_of(truth, 12)
    denoiser = IdealDenoiser(images_of(truth, 500)[0])
    settings = ReconstructionConfig(steps=40, sigma=0.5, final_sigma=0.5)
    matching = dataclasses.replace(MATCHING, base_order=2)
    config = dataclasses.replace(SHORT, rounds=0, polish=settings, specialisations=0, matching=matching)
    store = MemoryStore()
    for step in grow_progressive(denoiser, images, config, seed=1, initial=truth, store=store):
        assert step.stage.name == "polish"
    assert torch.equal(store.get(PARENTS, 0)["volumes"], truth[None])
    cold = reconstruct(denoiser, images, settings, generators=[volume_generator(1, 0, k) for k in range(12)])
    assert correlation(volumes_of(store), frames).mean() > correlation(cold, frames).mean() + 0.1


def test_counts_every_volume_step(phantom: Phantom, images_of: ImagesOf) -> None:
    images, _ = images_of(phantom(), 5)
    steps = list(steps_of(images, chunk=3))
    expected = 5 * _UPDATES
    assert {step.total for step in steps} == {expected}
    assert [step.done for step in steps[:6]] == [3, 6, 8, 10, 13, 16]
    assert steps[-1].done == expected
    tail = ["polish"] * 8 + ["specialise 1 of 2"] * 4 + ["specialise 2 of 2"] * 4
    assert [step.stage.name for step in steps] == ["grow 1 of 2"] * 4 + ["grow 2 of 2"] * 4 + tail
    assert {step.stage.name: step.stage.number for step in steps} == {
        "grow 1 of 2": 0,
        "grow 2 of 2": 1,
        "polish": 2,
        "specialise 1 of 2": 3,
        "specialise 2 of 2": 4,
    }


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_decide_nothing(chunk: int, images: Tensor) -> None:
    denoiser = IdealDenoiser(images)
    whole = grow(denoiser, images, SHORT, seed=0, initial=_INITIAL)
    assert torch.allclose(grow(denoiser, images, SHORT, seed=0, initial=_INITIAL, chunk=chunk), whole, atol=1e-5)
    assert not torch.allclose(grow(denoiser, images, SHORT, seed=1, initial=_INITIAL), whole, atol=1e-2)


def test_draws_of_a_volume_follow_from_seed_stage_and_image() -> None:
    def first(*numbers: int) -> float:
        return torch.rand(1, generator=volume_generator(*numbers)).item()

    assert first(1, 2, 3) == first(1, 2, 3)
    others = [(2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1), (12, 3, 0), (1, 23, 0)]
    assert len({first(*numbers) for numbers in others} - {first(1, 2, 3)}) == len(others)
    # written down, so that volumes of one seed stay the same from version to version
    assert volume_generator(0, 0, 0).initial_seed() == 0x6BC5B0BB356026A2


@pytest.mark.parametrize("interrupted_after", range(1, _STEPS[2]))
def test_resumed_equals_uninterrupted(interrupted_after: int, images: Tensor) -> None:
    """Stopped after any update, in the middle of a chunk or between stages, it goes on to the same volumes."""
    whole, parts = MemoryStore(), MemoryStore()
    done = [step.done for step in steps_of(images, chunk=2, store=whole)]
    assert len(done) == _STEPS[2]
    *_, last = islice(steps_of(images, chunk=2, store=parts), interrupted_after)
    if not last.complete:
        last.advancing.keep(parts)  # type: ignore[union-attr]
    before = dict(parts.results.get(VOLUMES, {}))
    parts = from_disk(parts)
    assert [step.done for step in steps_of(images, chunk=2, store=parts)] == done[interrupted_after:]
    assert torch.equal(volumes_of(parts), volumes_of(whole))
    assert all(torch.equal(volume["volume"], parts.get(VOLUMES, k)["volume"]) for k, volume in before.items())


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2)])
def test_a_chunk_in_progress_is_taken_up_in_any_other(before: int, after: int, images: Tensor) -> None:
    """Volumes that were not equally far do not advance together, and no step is made twice."""
    whole, parts = MemoryStore(), MemoryStore()
    expected = [step.done for step in steps_of(images, store=whole)][-1]
    for count in (4, 2, 1):  # in the second stage, in the third, in the middle of another chunk of it
        for step in islice(steps_of(images, chunk=before, store=parts), _STEPS[before] // 2 if count == 4 else count):
            if not step.complete:
                step.advancing.keep(parts)  # type: ignore[union-attr]
        parts = from_disk(parts)
    done = [step.done for step in steps_of(images, chunk=after, store=parts)]
    assert done[-1] == expected
    assert torch.allclose(volumes_of(parts), volumes_of(whole), atol=1e-5)


def test_volumes_that_are_equally_far_advance_together_and_those_ahead_first(images: Tensor) -> None:
    store = MemoryStore()
    for step in steps_of(images, store=store, wanted=[1]):
        if step.stage.name == "polish" and not step.complete:
            step.advancing.keep(store)  # type: ignore[union-attr]
            break
    orders = [step.advancing.members for step in steps_of(images, store=store)]  # type: ignore[union-attr]
    assert orders == [[1]] * 3 + [[0, 2]] * 4 + [[0, 1, 2]] * 4


def test_states_of_other_generators_are_left(images: Tensor) -> None:
    """A GPU's generator cannot be set to the state of a processor's: the volume is begun again."""
    whole, parts = MemoryStore(), MemoryStore()
    steps = len(list(steps_of(images, store=whole)))
    (step,) = islice(steps_of(images, store=parts), 1)
    step.advancing.keep(parts)  # type: ignore[union-attr]
    for state in parts.states["stage0"].values():
        state["generator"] = torch.zeros(16, dtype=torch.uint8)
    assert len(list(steps_of(images, store=parts))) == steps
    assert torch.equal(volumes_of(parts), volumes_of(whole))


@dataclasses.dataclass
class Small:
    """A denoiser for which the memory is too small for more than so many images, from some call on."""

    denoiser: IdealDenoiser
    most: int
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")  # noqa: RUF009
    calls_before: int = 0
    denoised: int = 0

    def __call__(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if len(noisy) > self.most and self.calls_before <= 0:
            raise self.error
        self.calls_before -= 1
        self.denoised += len(noisy)
        return self.denoiser(noisy, sigma)


@pytest.mark.parametrize("calls_before", [0, 1, 4, 6])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't"), MemoryError()]
)
def test_too_small_a_memory_halves_the_chunk(calls_before: int, error: Exception, images: Tensor) -> None:
    """What was done is not done again; the chunk stays small; the volumes are the same."""
    whole = grow(IdealDenoiser(images), images, SHORT, seed=0, initial=_INITIAL)
    denoiser, store = Small(IdealDenoiser(images), 1, error, calls_before), MemoryStore()
    steps = list(grow_progressive(denoiser, images, SHORT, seed=0, initial=_INITIAL, store=store, chunk=3))
    assert torch.allclose(volumes_of(store), whole, atol=1e-5)
    assert denoiser.denoised == steps[-1].done == steps[-1].total
    chunks = [step.chunk for step in steps]
    assert chunks == sorted(chunks, reverse=True) and chunks[-1] == 1
    assert all(later.done >= sooner.done for sooner, later in pairwise(steps))
    (released, *_) = [step for step in steps if step.advancing is None]
    assert released.complete


def test_a_volume_that_does_not_fit_alone_and_other_errors_are_raised(images: Tensor) -> None:
    for denoiser, error in (
        (Small(IdealDenoiser(images), 0), "memory"),
        (Small(IdealDenoiser(images), 1, RuntimeError("broken")), "broken"),
    ):
        with pytest.raises(type(denoiser.error), match=error):
            list(grow_progressive(denoiser, images, SHORT, seed=0, initial=_INITIAL))


def test_parents_are_the_sharpest_volumes_of_the_stage_before(phantom: Phantom, images: Tensor) -> None:
    """Those that the stage was started from only if it has too few of its own."""
    config = dataclasses.replace(SHORT, parents=4)
    sharp, blunt = phantom(), phantom()
    earlier = {"volumes": torch.stack([sharp, blunt]), "sharpness": torch.tensor([9.0, -1.0])}
    store = MemoryStore({"parents": {1: earlier}})
    for step in steps_of(images, config, store=store):
        if step.stage.number == 2:
            break
    chosen = store.get("parents", 2)
    assert torch.equal(chosen["volumes"][0], sharp)
    assert chosen["sharpness"].tolist() == sorted(chosen["sharpness"].tolist(), reverse=True)
    assert len(chosen["volumes"]) == 4 and not any(torch.equal(volume, blunt) for volume in chosen["volumes"])


def test_what_a_stage_has_made_is_dropped_once_its_parents_are_chosen(images: Tensor) -> None:
    """All but what a volume of the last stage can be made again from."""
    store = MemoryStore()
    deepest = max(len([task for task in store.results if "stage" in task]) for _ in steps_of(images, store=store))
    assert deepest <= 4  # the volumes of a stage and of that before, what they explain, where the parents were seen
    assert set(store.results) == {"parents", "stage2_matches", "usual", VOLUMES}
    before = volumes_of(store)
    del store.results[VOLUMES][1]
    again = list(steps_of(images, store=store))
    assert {step.stage.name for step in again} == {"polish", "specialise 1 of 2", "specialise 2 of 2"}
    assert all(step.advancing is not None and step.advancing.members == [1] for step in again)
    assert torch.allclose(volumes_of(store), before, atol=1e-5)


def test_of_volumes_that_are_there_nothing_is_made_again(images: Tensor) -> None:
    """Not even what led to them, if somebody has removed it."""
    volume = {"volume": torch.zeros(1), "sharpness": torch.zeros(1)}
    store = MemoryStore({VOLUMES: dict.fromkeys(range(3), volume)})
    assert list(steps_of(images, store=store)) == []
    assert set(store.results) == {VOLUMES}


def test_only_wanted_volumes_are_made_and_all_images_help(phantom: Phantom, images_of: ImagesOf) -> None:
    images, _ = images_of(phantom(), 6)
    store = MemoryStore()
    steps = list(steps_of(images, wanted=[4, 1], store=store))
    assert sorted(store.results[VOLUMES]) == [1, 4]
    assert steps[-1].total == 2 * _UPDATES
    grown = grow(IdealDenoiser(images), images, SHORT, seed=0, initial=_INITIAL, wanted=[4, 1])
    assert torch.equal(grown, volumes_of(store)[[1, 0]])
    others = torch.where(torch.tensor([0, 1, 0, 0, 1, 0]).bool()[:, None, None], images, images.flip(0, 1))
    helped = grow(IdealDenoiser(images), others, SHORT, seed=0, initial=_INITIAL, wanted=[4, 1])
    assert not torch.allclose(helped, grown, atol=1e-3)


def test_anchors_act_in_the_stages_that_ask_for_them(images: Tensor) -> None:
    def grown(anchors: int) -> Tensor:
        config = dataclasses.replace(SHORT, grow=dataclasses.replace(SHORT.grow, anchors=anchors))
        *_, last = islice(steps_of(images, config), 2)
        assert last.stage.name == "grow 1 of 2" and last.complete
        return last.advancing.step.volumes  # type: ignore[union-attr]

    assert not torch.allclose(grown(0), grown(1), atol=1e-3)


def test_a_volume_specialises_from_its_own_with_its_kin_alone(images: Tensor) -> None:
    """What the images are that are not kin makes no difference."""
    config = dataclasses.replace(SHORT, specialisations=1, specialise=ReconstructionConfig(steps=1, anchors=2), kin=0.4)
    store = MemoryStore()
    for step in steps_of(images, config, store=store, wanted=[1]):
        if step.stage.name == "polish" and step.complete:
            break
    before = store.get("stage2", 1)["volume"]
    denoiser = IdealDenoiser(images)
    (last,) = grow_progressive(denoiser, images, config, seed=0, initial=_INITIAL, wanted=[1], store=from_disk(store))
    after = last.advancing.step.volumes[0]  # type: ignore[union-attr]
    assert 0 < (after - before).norm() < before.norm()


def test_without_an_initial_model_it_is_algorithm_1(images: Tensor) -> None:
    config = dataclasses.replace(SHORT, initial=False)
    generators = [volume_generator(0, 0, k) for k in range(3)]
    alone = reconstruct(IdealDenoiser(images), images, SHORT.polish, generators=generators)
    store = MemoryStore()
    steps = list(steps_of(images, config, initial=None, store=store))
    assert {step.stage.name for step in steps} == {"reconstruct"} and set(store.results) == {VOLUMES}
    assert torch.equal(volumes_of(store), alone)
    assert torch.equal(grow(IdealDenoiser(images), images, config, seed=0), alone)


def test_the_initial_model_is_kept_and_is_the_parent_of_the_first_stage(images: Tensor) -> None:
    store = MemoryStore()
    (first,) = islice(steps_of(images, store=store), 1)
    assert first.stage.number == 0 and list(store.results[PARENTS]) == [0]
    assert torch.equal(store.get(PARENTS, 0)["volumes"], _INITIAL[None])
    (other,) = islice(steps_of(images, initial=_INITIAL.flip(0) + 0.1 * _INITIAL), 1)
    volumes = [step.advancing.step.volumes for step in (first, other)]  # type: ignore[union-attr]
    assert not torch.allclose(*volumes, atol=1e-3)


@pytest.mark.parametrize(("wanted", "given"), [(True, None), (False, _INITIAL)])
def test_an_initial_model_is_given_where_the_settings_want_one_and_nowhere_else(
    wanted: bool, given: Tensor | None, images: Tensor
) -> None:
    config = dataclasses.replace(SHORT, initial=wanted)
    with pytest.raises(InputError, match="initial model"):
        list(steps_of(images, config, initial=given))


def test_stages_are_numbered_from_0() -> None:
    assert [name for name, _ in GrowthConfig(specialisations=1).stages] == [
        "grow 1 of 1",
        "polish",
        "specialise 1 of 1",
    ]
    assert GrowthConfig().polish_number == 1 and GrowthConfig(rounds=0).polish_number == 0
    nothing = GrowthConfig(initial=False, rounds=4)
    assert nothing.stages == (("reconstruct", nothing.polish),) and nothing.polish_number == 0


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"parents": 0}, {"specialisations": -1}, {"kin": 0.0}, {"kin": 1.5}])
def test_settings_of_growth_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="growth needs"):
        dataclasses.replace(SHORT, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="anchors must be 0"):
        dataclasses.replace(SHORT, initial=False, polish=ReconstructionConfig(anchors=1))
