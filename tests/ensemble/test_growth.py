"""Volumes that go on from a beginning, whatever happens on the way."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from scoretomo.datatypes import InputError
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.ensemble.growth import (
    Beginning,
    GrowthConfig,
    GrowthStep,
    grow,
    grow_progressive,
    volume_generator,
)
from scoretomo.ensemble.store import MemoryStore
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.masks import soft_ball
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import rotate_volumes
from scoretomo.methods.score_tomography import ReconstructionConfig, reconstruct

SHORT = ReconstructionConfig(steps=4, anchors=1, average=0.5)
_STEPS = {1: 3 * 4, 2: 2 * 4, 3: 4}  # updates of three members of which one, two or three advance at a time

Phantom = Callable[[], Tensor]
ImagesOf = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Correlation = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def images(phantom: Phantom, images_of: ImagesOf) -> Tensor:
    return images_of(phantom(), 3)[0]


def beginning_of(count: int, side: int = 16, shift: float = 0.0) -> Beginning:
    """Anything that is not round, in poses of any kind."""
    generator = torch.Generator().manual_seed(5)
    blobs = torch.rand(count, side, side, side, generator=generator) * soft_ball(side, 3, 5.0, 2.0)
    volumes = torch.nn.functional.avg_pool3d(blobs[:, None], 3, 1, 1)[:, 0]
    neighbours = (torch.arange(count)[:, None] + torch.arange(1, 3)) % count
    rotations = random_rotations(count, generator=generator)
    return Beginning(volumes.__getitem__, rotations, torch.full((count, 2), shift), neighbours)


def steps_of(images: Tensor, config: ReconstructionConfig = SHORT, **options: object) -> Iterator[GrowthStep]:
    named = {"seed": 0, "beginning": beginning_of(len(images)), **options}
    return grow_progressive(IdealDenoiser(images), images, config, **named)  # type: ignore[arg-type]


def grown(images: Tensor, config: ReconstructionConfig = SHORT, **options: object) -> Tensor:
    named = {"seed": 0, "beginning": beginning_of(len(images)), **options}
    return grow(IdealDenoiser(images), images, config, **named)  # type: ignore[arg-type]


def volumes_of(store: MemoryStore) -> Tensor:
    return torch.stack([store.volumes[index] for index in sorted(store.volumes)])


def from_disk(store: MemoryStore) -> MemoryStore:
    """What comes back from a file that holds tensors and plain values only."""
    file = io.BytesIO()
    torch.save(vars(store), file)
    file.seek(0)
    return MemoryStore(**torch.load(file, weights_only=True))


def test_a_good_beginning_beats_as_many_steps_from_nothing(
    phantom: Phantom, images_of: ImagesOf, correlation: Correlation
) -> None:
    truth = phantom()
    images, frames = images_of(truth, 12)
    denoiser = IdealDenoiser(images_of(truth, 500)[0])
    settings = ReconstructionConfig(steps=40, sigma=0.5, final_sigma=0.5)
    blurred = torch.nn.functional.avg_pool3d(frames[:, None], 3, 1, 1)[:, 0]
    still = torch.eye(3).expand(12, 3, 3), torch.zeros(12, 2), torch.zeros(12, 1, dtype=torch.long)
    begun = grow(denoiser, images, settings, seed=1, beginning=Beginning(blurred.__getitem__, *still))
    cold = grow(denoiser, images, settings, seed=1)
    assert correlation(begun, frames).mean() > correlation(cold, frames).mean() + 0.1


def test_counts_every_volume_step(phantom: Phantom, images_of: ImagesOf) -> None:
    images, _ = images_of(phantom(), 5)
    steps = list(steps_of(images, chunk=3))
    assert {step.total for step in steps} == {5 * 4} and {step.steps for step in steps} == {4}
    assert [step.done for step in steps] == [3, 6, 9, 12, 14, 16, 18, 20]


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_decide_nothing(chunk: int, images: Tensor) -> None:
    whole = grown(images)
    assert torch.allclose(grown(images, chunk=chunk), whole, atol=1e-5)
    assert not torch.allclose(grown(images, seed=1), whole, atol=1e-2)


def test_draws_of_a_volume_follow_from_seed_and_image() -> None:
    def first(*numbers: int) -> float:
        return torch.rand(1, generator=volume_generator(*numbers)).item()

    assert first(1, 2) == first(1, 2)
    others = [(2, 2), (1, 3), (2, 1), (12, 3), (1, 23)]
    assert len({first(*numbers) for numbers in others} - {first(1, 2)}) == len(others)
    # written down, so that volumes of one seed stay the same from version to version
    assert volume_generator(0, 0).initial_seed() == 0xA3DBE6B386261F66


@pytest.mark.parametrize("interrupted_after", range(1, _STEPS[2]))
def test_resumed_equals_uninterrupted(interrupted_after: int, images: Tensor) -> None:
    """Stopped after any update, in the middle of a chunk or between chunks, it goes on to the same volumes."""
    whole, parts = MemoryStore(), MemoryStore()
    done = [step.done for step in steps_of(images, chunk=2, store=whole)]
    assert len(done) == _STEPS[2]
    *_, last = islice(steps_of(images, chunk=2, store=parts), interrupted_after)
    if not last.complete:
        last.advancing.keep(parts)  # type: ignore[union-attr]
    before = dict(parts.volumes)
    parts = from_disk(parts)
    assert [step.done for step in steps_of(images, chunk=2, store=parts)] == done[interrupted_after:]
    assert torch.equal(volumes_of(parts), volumes_of(whole))
    assert all(torch.equal(volume, parts.volumes[k]) for k, volume in before.items())


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2)])
def test_a_chunk_in_progress_is_taken_up_in_any_other(before: int, after: int, images: Tensor) -> None:
    """Volumes that were not equally far do not advance together, and no step is made twice."""
    whole, parts = MemoryStore(), MemoryStore()
    expected = [step.done for step in steps_of(images, store=whole)][-1]
    for count in (2, 1):
        for step in islice(steps_of(images, chunk=before, store=parts), count):
            if not step.complete:
                step.advancing.keep(parts)  # type: ignore[union-attr]
        parts = from_disk(parts)
    done = [step.done for step in steps_of(images, chunk=after, store=parts)]
    assert done[-1] == expected
    assert torch.allclose(volumes_of(parts), volumes_of(whole), atol=1e-5)


def test_volumes_that_are_equally_far_advance_together_and_those_ahead_first(images: Tensor) -> None:
    store = MemoryStore()
    for step in steps_of(images, store=store, wanted=[1]):
        step.advancing.keep(store)  # type: ignore[union-attr]
        break
    orders = [step.advancing.members for step in steps_of(images, store=store)]  # type: ignore[union-attr]
    assert orders == [[1]] * 3 + [[0, 2]] * 4


def test_states_of_other_generators_are_left(images: Tensor) -> None:
    """A GPU's generator cannot be set to the state of a processor's: the volume is begun again."""
    whole, parts = MemoryStore(), MemoryStore()
    steps = len(list(steps_of(images, store=whole)))
    (step,) = islice(steps_of(images, store=parts), 1)
    step.advancing.keep(parts)  # type: ignore[union-attr]
    for state in parts.states.values():
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


@pytest.mark.parametrize("calls_before", [0, 1, 2])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't"), MemoryError()]
)
def test_too_small_a_memory_halves_the_chunk(calls_before: int, error: Exception, images: Tensor) -> None:
    """What was done is not done again; the chunk stays small; the volumes are the same."""
    whole, beginning = grown(images), beginning_of(3)
    denoiser, store = Small(IdealDenoiser(images), 1, error, calls_before), MemoryStore()
    steps = list(grow_progressive(denoiser, images, SHORT, seed=0, beginning=beginning, store=store, chunk=3))
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
            list(grow_progressive(denoiser, images, SHORT, seed=0, beginning=beginning_of(3)))


def test_of_volumes_that_are_there_nothing_is_made_again(images: Tensor) -> None:
    store = MemoryStore(dict.fromkeys(range(3), torch.zeros(1)))
    assert list(steps_of(images, store=store)) == []


def test_a_volume_does_not_depend_on_those_that_are_wanted_beside_it(phantom: Phantom, images_of: ImagesOf) -> None:
    images, _ = images_of(phantom(), 6)
    store = MemoryStore()
    steps = list(steps_of(images, wanted=[4, 1], store=store))
    assert sorted(store.volumes) == [1, 4]
    assert steps[-1].total == 2 * 4
    assert torch.allclose(grown(images)[[4, 1]], volumes_of(store)[[1, 0]], atol=1e-5)


def test_neighbours_are_anchors_and_no_others(images: Tensor) -> None:
    """With an image that is no neighbour nothing changes; with a neighbour, and without anchors, it does."""
    beginning = beginning_of(3)
    one = dataclasses.replace(beginning, neighbours=torch.tensor([[1], [1], [1]]))
    denoiser = IdealDenoiser(images)

    def first(images: Tensor, config: ReconstructionConfig = SHORT) -> Tensor:
        return grow(denoiser, images, config, seed=0, beginning=one, wanted=[0])

    with_other, with_neighbour = images.clone(), images.clone()
    with_other[2], with_neighbour[1] = images[2].flip(0), images[1].flip(0)
    assert torch.equal(first(with_other), first(images))
    assert not torch.allclose(first(with_neighbour), first(images), atol=1e-3)
    assert not torch.allclose(first(images, dataclasses.replace(SHORT, anchors=0)), first(images), atol=1e-3)


def test_an_anchor_is_shown_from_where_it_sees_the_volume(
    phantom: Phantom, images_of: ImagesOf, correlation: Correlation
) -> None:
    """Anchors in true poses bring a volume to the truth; it knows nothing else."""
    truth = phantom()
    rotations = random_rotations(40, generator=torch.Generator().manual_seed(2))
    images = project(truth[None], rotations[None])[0]
    frames = rotate_volumes(truth[None].expand(40, -1, -1, -1), rotations)
    everyone = torch.arange(40).expand(40, -1)
    empty = torch.zeros_like(truth)
    config = ReconstructionConfig(steps=60, anchors=8)

    def grown_at(rotations: Tensor) -> Tensor:
        beginning = Beginning(lambda _: empty, rotations, torch.zeros(40, 2), everyone)
        return grow(lambda noisy, sigma: noisy, images, config, seed=0, beginning=beginning, wanted=[3, 7])

    right, wrong = (correlation(grown_at(poses), frames[[3, 7]]) for poses in (rotations, rotations.mT))
    assert right.min() > max(0.9, float(wrong.max()) + 0.05)


def test_images_that_lie_off_centre_come_out_as_the_same_volumes_there(images: Tensor) -> None:
    moved = translate(images, torch.full((3, 2), 1.0))
    beginning, still = beginning_of(3, shift=1.0), beginning_of(3)
    there = lambda image: translate(still.volume(image)[None], torch.tensor([[1.0, 1.0, 0.0]]))[0]  # noqa: E731
    denoiser = IdealDenoiser(images)
    begun = dataclasses.replace(beginning, volume=there)
    found = grow(denoiser, moved, SHORT, seed=0, beginning=begun)
    expected = grow(denoiser, images, SHORT, seed=0, beginning=still)
    back = translate(found, torch.tensor([[-1.0, -1.0, 0.0]]).expand(3, 3))
    assert torch.allclose(back, expected, atol=1e-3 * float(expected.abs().max()))


def test_without_a_beginning_it_is_algorithm_1(images: Tensor) -> None:
    config = dataclasses.replace(SHORT, anchors=0)
    generators = [volume_generator(0, k) for k in range(3)]
    alone = reconstruct(IdealDenoiser(images), images, config, generators=generators)
    assert torch.equal(grown(images, config, beginning=None), alone)


def test_settings_of_growth() -> None:
    with pytest.raises(InputError, match="neighbours must be above 0"):
        GrowthConfig(neighbours=0.0)
    usual = GrowthConfig()
    assert usual.settled(rigid=False) == usual
    rigid = usual.settled(rigid=True)
    assert rigid.neighbours == 1 and rigid.distil.anchors > usual.distil.anchors
    assert GrowthConfig(initial=False).settled(rigid=False).distil.anchors == 0
