"""Algorithm 1: its gradient, its limits, and a reconstruction with the closed-form denoiser."""

import dataclasses
import weakref
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scoretomo.datatypes import InputError
from scoretomo.diffusion.ideal_denoiser import IdealDenoiser
from scoretomo.evaluation.fsc import area_under_curve, fourier_shell_correlation
from scoretomo.geometry.grids import so3_grid
from scoretomo.geometry.rotations import low_discrepancy_rotations, random_rotations
from scoretomo.imaging.fourier import radius_grid
from scoretomo.imaging.projection import project
from scoretomo.imaging.resampling import mirror_z
from scoretomo.methods.score_tomography import (
    Anchors,
    NoiseConfig,
    ReconstructionConfig,
    ReconstructionStep,
    reconstruct,
    reconstruct_progressive,
    training_loss,
)

SIDE = 12


def blobs(generator: torch.Generator, side: int = SIDE) -> Tensor:
    """An asymmetric smooth volume well inside its box."""
    axis = torch.arange(side) - side // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).float()
    centres = (torch.rand(6, 3, generator=generator) - 0.5) * side * 0.5
    return sum(torch.exp(-(points - centre).square().sum(-1) / (2 * 1.2**2)) for centre in centres)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def shrink(noisy: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that is known in closed form and is not trivial."""
    return 0.7 * noisy / (1 + sigma.view(-1, 1, 1))


def test_gradient_equals_autograd(generator: torch.Generator) -> None:
    """One step of rate 1 moves by the gradient of half the squared residuals over N M (001, Eq. 5 and Algorithm 1)."""
    start = blobs(generator)[None]
    base = torch.rand(1, SIDE, SIDE, generator=generator)
    config = ReconstructionConfig(steps=1, views=4, final_views=4, sigma=0.3, final_sigma=0.3, support=2.0)
    moved = reconstruct(shrink, base, config, generators=seeded(5), start=start)

    begin = torch.rand(1, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    volume = start.clone().requires_grad_()
    views = project(volume, low_discrepancy_rotations(begin, 0, 3))
    noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    noisy = (views + 0.3 * noise).detach()
    clean = shrink(noisy[0], torch.full((3,), 0.3))
    loss = 0.5 * ((views[0] - clean).square().sum() + (volume.sum(1) - base).square().sum())
    (gradient,) = torch.autograd.grad(loss, volume)
    expected = (start - gradient / (SIDE * 4)).clamp_min(0)
    assert torch.allclose(moved, expected, atol=1e-5)
    assert not torch.allclose(moved, start, atol=1e-2)


def test_ideal_denoiser_reconstructs_a_phantom(generator: torch.Generator) -> None:
    """The projections of one volume are all there is to know: cold starts find the volume, up to its hand."""
    truth = blobs(generator)
    frames = random_rotations(12, generator=generator)
    base = project(truth.expand(12, -1, -1, -1), frames[:, None])[:, 0]
    everything = project(truth[None], so3_grid(1)[None])[0]
    scale = everything.std()
    config = ReconstructionConfig(steps=400, sigma=1.0, final_sigma=0.3, average=0.2)
    volumes = reconstruct(IdealDenoiser(everything / scale), base / scale, config, generators=seeded(*range(12)))
    rotated = torch.stack([_rotate(truth, frame) for frame in frames])
    scores = [area_under_curve(fourier_shell_correlation(guess, rotated)) for guess in (volumes, mirror_z(volumes))]
    assert torch.maximum(*scores).max() > 0.75
    smear = base[:, None].expand_as(volumes)  # all that the base image alone can say
    assert torch.maximum(*scores).mean() > area_under_curve(fourier_shell_correlation(smear, rotated)).mean() + 0.15


def _rotate(volume: Tensor, rotation: Tensor) -> Tensor:
    from scoretomo.imaging.resampling import rotate_volumes

    return rotate_volumes(volume[None], rotation[None])[0]


def test_base_image_is_fitted_where_nothing_else_speaks(generator: torch.Generator) -> None:
    """With a denoiser that agrees with every view, the volume is the base image smeared along z within the support."""
    truth = blobs(generator)
    base = truth.sum(0)[None]
    config = ReconstructionConfig(steps=200, sigma=1e-6, final_sigma=1e-6, support=2.0)
    volume = reconstruct(lambda noisy, sigma: noisy, base, config, generators=seeded(0))
    assert torch.allclose(volume.sum(1), base, atol=1e-2)
    assert torch.allclose(volume[0], (base[0] / SIDE).expand(SIDE, -1, -1), atol=1e-2)


def test_anchors_alone_are_tomography(generator: torch.Generator) -> None:
    """With many images in known poses and a denoiser that says nothing, the volume is that of the images."""
    truth = blobs(generator)
    rotations = random_rotations(1, 60, generator=generator)
    anchors = Anchors(project(truth[None], rotations)[0], rotations, torch.arange(rotations.shape[1])[None])
    config = ReconstructionConfig(steps=150, anchors=6, support=2.0)
    volume = reconstruct(
        lambda noisy, sigma: noisy, truth.sum(0)[None], config, generators=seeded(0), start=None, anchors=anchors
    )
    mute = ReconstructionConfig(steps=150, support=2.0)
    alone = reconstruct(lambda noisy, sigma: noisy, truth.sum(0)[None], mute, generators=seeded(0))
    error = (volume[0] - truth).square().mean() / truth.square().mean()
    assert error < 0.1 < (alone[0] - truth).square().mean() / truth.square().mean()


def test_support_and_floor_hold(generator: torch.Generator) -> None:
    base = torch.randn(2, SIDE, SIDE, generator=generator)
    config = ReconstructionConfig(steps=5, support=0.7)
    volumes = reconstruct(shrink, base, config, generators=seeded(0, 1))
    assert (volumes[:, radius_grid(SIDE, 3) > 0.7 * (SIDE // 2)] == 0).all()
    assert (volumes.amin((1, 2, 3)) >= base.amin((1, 2)) / SIDE - 1e-6).all() and volumes.min() < 0
    positive = reconstruct(shrink, base, dataclasses.replace(config, floor=0.0), generators=seeded(0, 1))
    assert positive.min() == 0 and positive.max() > 0
    assert volumes.abs().max() > 0


def test_schedules_reach_both_ends() -> None:
    """Noise level and number of views go from their first to their last value."""
    seen: list[tuple[int, float]] = []

    def spy(noisy: Tensor, sigma: Tensor) -> Tensor:
        seen.append((len(noisy), sigma[0].item()))
        return noisy

    config = ReconstructionConfig(steps=9, sigma=0.8, final_sigma=0.2, views=2, final_views=10)
    reconstruct(spy, torch.zeros(1, SIDE, SIDE), config, generators=seeded(0))
    assert seen[0] == (1, pytest.approx(0.8)) and seen[-1] == (9, pytest.approx(0.2))
    assert seen[4] == (5, pytest.approx(0.4))  # geometric in sigma, linear in views


def test_average_is_the_mean_of_the_last_volumes(generator: torch.Generator) -> None:
    base = torch.rand(1, SIDE, SIDE, generator=generator)
    plain = ReconstructionConfig(steps=10)
    trajectory = [step.volumes for step in reconstruct_progressive(shrink, base, plain, generators=seeded(1))]
    averaged = reconstruct(shrink, base, dataclasses.replace(plain, average=0.3), generators=seeded(1))
    assert torch.allclose(averaged, torch.stack(trajectory[-3:]).mean(0), atol=1e-6)


def test_yielded_volumes_do_not_change_afterwards(generator: torch.Generator) -> None:
    """They are what a checkpoint holds; nor do those change that a call goes on from."""
    config = ReconstructionConfig(steps=6, average=0.9)
    base = torch.rand(1, SIDE, SIDE, generator=generator)
    steps, copies = [], []

    def remember(generators: list[torch.Generator], resume: ReconstructionStep | None, most: int) -> None:
        for step in reconstruct_progressive(shrink, base, config, generators=generators, resume=resume):
            steps.extend([step.volumes, step.result])
            copies.extend([step.volumes.clone(), step.result.clone()])
            if step.step == most:
                break

    generators = seeded(0)
    remember(generators, None, most=3)
    remember(generators, ReconstructionStep(3, steps[-2], steps[-1], torch.zeros(1), torch.zeros(1)), most=6)
    assert len(steps) == 12
    assert all(torch.equal(step, copy) for step, copy in zip(steps, copies, strict=True))


@pytest.mark.parametrize("begin", ["start", "resume"])
def test_nothing_holds_on_to_the_volumes_that_it_began_with(begin: str) -> None:
    """A chunk is chosen to fill the memory."""
    volumes = torch.zeros(1, SIDE, SIDE, SIDE)
    held = weakref.ref(volumes)
    given = volumes if begin == "start" else ReconstructionStep(1, volumes, None, torch.zeros(1), torch.zeros(1))
    steps = reconstruct_progressive(
        shrink, torch.ones(1, SIDE, SIDE), ReconstructionConfig(steps=4), generators=seeded(0), **{begin: given}
    )
    next(steps)
    del volumes, given
    next(steps)
    assert held() is None


def test_nothing_is_kept_for_gradients(generator: torch.Generator) -> None:
    weight = torch.nn.Parameter(torch.tensor(0.5))
    steps = list(
        reconstruct_progressive(
            lambda noisy, sigma: weight * noisy,
            torch.rand(1, SIDE, SIDE, generator=generator),
            ReconstructionConfig(steps=2, average=1.0),
            generators=seeded(0),
        )
    )
    assert not any(tensor.requires_grad for step in steps for tensor in (step.volumes, step.result, step.score_error))


@pytest.mark.parametrize("together", [[0, 1, 2], [2, 0], [1]])
def test_a_volume_does_not_depend_on_those_it_advances_with(together: list[int], generator: torch.Generator) -> None:
    base = torch.rand(3, SIDE, SIDE, generator=generator)
    chosen = torch.stack([torch.randperm(7, generator=generator)[:5] for _ in range(3)])
    anchors = Anchors(
        torch.rand(7, SIDE, SIDE, generator=generator), random_rotations(3, 5, generator=generator), chosen
    )
    config = ReconstructionConfig(steps=5, views=3, final_views=4, anchors=2)
    whole = reconstruct(shrink, base, config, generators=seeded(7, 8, 9), anchors=anchors)
    part = reconstruct(
        shrink,
        base[together],
        config,
        generators=seeded(*(7 + k for k in together)),
        anchors=Anchors(anchors.images, anchors.rotations[together], chosen[together]),
    )
    assert torch.allclose(part, whole[together], atol=1e-6)
    others = reconstruct(shrink, base, config, generators=seeded(17, 18, 19), anchors=anchors)
    assert not torch.allclose(others, whole, atol=1e-3)


def test_an_interrupted_reconstruction_goes_on_as_if_it_had_not_been(generator: torch.Generator) -> None:
    base = torch.rand(2, SIDE, SIDE, generator=generator)
    config = ReconstructionConfig(steps=6, views=2, final_views=6, average=0.5)
    whole = reconstruct(shrink, base, config, generators=seeded(1, 2))
    generators = seeded(1, 2)
    half = next(islice(reconstruct_progressive(shrink, base, config, generators=generators), 3, None))
    others = seeded(1, 2)
    for other, interrupted in zip(others, generators, strict=True):
        other.set_state(interrupted.get_state())
    *_, last = reconstruct_progressive(shrink, base, config, generators=others, resume=half)
    assert torch.equal(last.result, whole)


def test_no_step_waits_for_the_device(generator: torch.Generator) -> None:
    """On a GPU, reading a number on the host would stop the work that is queued."""

    class Reads(TorchDispatchMode):
        seen: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            self.seen.append(function.name())
            return function(*arguments, **(named or {}))

    base = torch.rand(2, SIDE, SIDE, generator=generator)
    anchors = Anchors(base, random_rotations(2, 2, generator=generator), torch.tensor([[0, 1], [1, 0]]))
    config = ReconstructionConfig(steps=4, views=3, final_views=5, anchors=1, average=0.5)
    with Reads() as mode:
        reconstruct(shrink, base, config, generators=seeded(0, 1), anchors=anchors)
    assert "aten::mul_.Tensor" in mode.seen
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"} & set(mode.seen)


def test_many_views_are_denoised_in_parts(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.rand(2, SIDE, SIDE, generator=generator)
    config = ReconstructionConfig(steps=2, views=6, final_views=6)
    whole = reconstruct(shrink, base, config, generators=seeded(1, 2))
    monkeypatch.setattr("scoretomo.methods.score_tomography.PIXELS_AT_ONCE_ON_CPU", 3 * SIDE**2)
    sizes = []

    def spy(noisy: Tensor, sigma: Tensor) -> Tensor:
        sizes.append(len(noisy))
        return shrink(noisy, sigma)

    parts = reconstruct(spy, base, config, generators=seeded(1, 2))
    assert sizes == [3, 3, 3, 1] * 2
    assert torch.allclose(parts, whole)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"sigma": 0.0}, {"final_sigma": -1.0}, {"views": 1}, {"rate": 0.0}, {"average": 1.5}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="not"):
        ReconstructionConfig(**wrong)  # type: ignore[arg-type]


def test_anchored_views_without_anchors_are_refused() -> None:
    config = ReconstructionConfig(steps=1, anchors=1)
    with pytest.raises(ValueError, match="no anchors"):
        reconstruct(shrink, torch.zeros(1, SIDE, SIDE), config, generators=seeded(0))


def test_every_volume_needs_its_own_generator() -> None:
    with pytest.raises(ValueError, match="2 base images, but 1 generators"):
        reconstruct(shrink, torch.zeros(2, SIDE, SIDE), ReconstructionConfig(steps=1), generators=seeded(0))


def test_start_is_left_alone(generator: torch.Generator) -> None:
    start = torch.rand(1, SIDE, SIDE, SIDE, generator=generator)
    before = start.clone()
    reconstruct(shrink, torch.zeros(1, SIDE, SIDE), ReconstructionConfig(steps=2), generators=seeded(0), start=start)
    assert torch.equal(start, before)


def test_training_loss_is_least_for_the_true_denoiser(generator: torch.Generator) -> None:
    """Of all shrinkages of white images of variance 1, the Wiener factor has the least denoising loss."""

    class Shrinkage(nn.Module):
        def __init__(self, exponent: float) -> None:
            super().__init__()
            self.exponent = exponent

        def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
            return noisy / (1 + sigma.view(-1, 1, 1) ** 2) ** self.exponent

    # constant over the disc, so that moving the images changes nothing inside
    images = torch.randn(64, 1, 1, generator=generator) * (radius_grid(16, 2) < 7)
    losses = [
        training_loss(images, NoiseConfig(1.0, 0.5), Shrinkage(exponent), 512, torch.Generator().manual_seed(0))
        for exponent in (0.0, 1.0, 4.0)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_training_losses_of_the_parts_of_a_batch_add_up_to_that_of_the_whole(generator: torch.Generator) -> None:
    images = torch.randn(6, 16, 16, generator=generator)

    class Half(nn.Module):
        def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
            return noisy / 2

    def loss(part: slice) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        value = training_loss(images, NoiseConfig(), Half(), 7, generator, part=part)
        return value, torch.rand((), generator=generator)  # the next draw is to be the same too

    whole, *parts = (loss(part) for part in (slice(None), slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)))
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0])
    assert all(part[1] == whole[1] for part in parts)
