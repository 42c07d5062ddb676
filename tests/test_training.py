"""The optimisation loop: it fits, resumes exactly, survives a bad batch and gives up when all are bad."""

import dataclasses
import io
import math
from collections.abc import Container

import pytest
import torch
from torch import Tensor, nn

from scoretomo import training
from scoretomo.optimiser import OptimiserConfig
from scoretomo.training import TrainingDiverged, TrainingState, TrainingStep, new_state, optimise_progressive

_BATCH = 16
_CONFIG = OptimiserConfig(learning_rate=0.05, batch_size=_BATCH, warmup_images=10 * _BATCH, clip_norm=10.0)
_WEIGHT = torch.tensor([[1.0, -2.0, 0.5]])


def _state(config: OptimiserConfig = _CONFIG) -> TrainingState:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(1.0)
    return new_state(model, config, torch.Generator().manual_seed(7))


def _regression(model: nn.Module, batch_size: int, generator: torch.Generator) -> Tensor:
    inputs = torch.randn(batch_size, 3, generator=generator)
    return (model(inputs) - inputs @ _WEIGHT.T).square().mean()


class _Faulty:
    """The regression, but the loss of some steps is not a number."""

    def __init__(self, bad: Container[int]) -> None:
        self.bad, self.step = bad, 0

    def __call__(self, model: nn.Module, batch_size: int, generator: torch.Generator) -> Tensor:
        self.step += 1
        return _regression(model, batch_size, generator) * (math.nan if self.step in self.bad else 1)


def _run(
    state: TrainingState, steps: int, *, config: OptimiserConfig = _CONFIG, loss: object = _regression
) -> list[TrainingStep]:
    """Go on to the end of a budget of ``steps`` steps."""
    return list(optimise_progressive(state, loss, config, lambda seen: seen / (steps * _BATCH)))  # type: ignore[arg-type]


def test_converges_on_a_regression() -> None:
    state = _state()
    steps = _run(state, 500)
    assert steps[0].loss > 3
    assert steps[-1].loss < 1e-3
    assert isinstance(state.averaged, nn.Linear)
    torch.testing.assert_close(state.model.weight, _WEIGHT, rtol=0, atol=0.01)
    torch.testing.assert_close(state.averaged.weight, _WEIGHT, rtol=0, atol=0.01)


def test_reports_every_step_and_ends_with_the_budget() -> None:
    state = _state()
    steps = _run(state, 12)
    assert [step.images_seen for step in steps] == [_BATCH * (k + 1) for k in range(12)]
    assert state.images_seen == 12 * _BATCH
    assert _run(state, 12) == []


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [step.learning_rate for step in _run(_state(), 100)]
    assert rates[0] == pytest.approx(0.005)  # a tenth of the warm-up
    expected = [0.05 * min(1, (k + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * k / 100)) for k in range(100)]
    assert rates == pytest.approx(expected)
    constant = dataclasses.replace(_CONFIG, decay=False)
    rates = [step.learning_rate for step in _run(_state(constant), 100, config=constant)]
    assert rates[9:] == [0.05] * 91


def test_the_reported_rate_is_the_one_that_moves_the_weights() -> None:
    """The first step of Adam moves every weight by the learning rate."""
    state = _state()
    before = [p.clone() for p in state.model.parameters()]
    step = next(optimise_progressive(state, _regression, _CONFIG, lambda seen: 0.0))
    for old, new in zip(before, state.model.parameters(), strict=True):
        torch.testing.assert_close((new - old).abs(), torch.full_like(old, step.learning_rate), rtol=0.02, atol=0)


def test_gradients_are_clipped_together_and_reported_as_they_were() -> None:
    config = dataclasses.replace(_CONFIG, clip_norm=0.5)
    state = _state(config)
    step = next(optimise_progressive(state, _regression, config, lambda seen: 0.0))
    gradients = torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])
    assert step.gradient_norm > 1
    assert gradients.norm() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("stop", [1, 17, 39])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(stop: int) -> None:
    """Through the bytes of a checkpoint that is read without unpickling code."""
    whole = _state()
    expected = _run(whole, 40, loss=_Faulty(range(5, 7)))

    begun, faulty = _state(), _Faulty(range(5, 7))
    steps = optimise_progressive(begun, faulty, _CONFIG, lambda seen: seen / (40 * _BATCH))
    first = [next(steps) for _ in range(stop)]
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    list(steps)  # what happens after the checkpoint must not leak into it
    file.seek(0)
    resumed = _state()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    faulty.step = stop
    rest = _run(resumed, 40, loss=faulty)

    assert list(map(repr, first + rest)) == list(map(repr, expected))  # NaN is not equal to itself, its repr is
    assert resumed.skipped_steps == whole.skipped_steps == 2
    for name in ("model", "averaged"):
        for found, wanted in zip(getattr(resumed, name).parameters(), getattr(whole, name).parameters(), strict=True):
            assert torch.equal(found, wanted)
    assert torch.equal(resumed.generator.get_state(), whole.generator.get_state())


def test_a_bad_batch_is_skipped_and_counted() -> None:
    state = _state()
    steps = optimise_progressive(state, _Faulty(range(4, 5)), _CONFIG, lambda seen: seen / (100 * _BATCH))
    for _ in range(3):
        next(steps)
    weights = [p.clone() for p in (*state.model.parameters(), *state.averaged.parameters())]
    moments = [value.clone() for value in state.optimiser.adam.state[next(state.model.parameters())].values()]
    bad = next(steps)
    assert math.isnan(bad.loss) and bad.images_seen == 4 * _BATCH and state.skipped_steps == 1
    for old, new in zip(weights, (*state.model.parameters(), *state.averaged.parameters()), strict=True):
        assert torch.equal(old, new)
    for old, new in zip(moments, state.optimiser.adam.state[next(state.model.parameters())].values(), strict=True):
        assert torch.equal(old, new)
    assert math.isfinite(list(steps)[-1].loss) and state.skipped_steps == 1


def test_twenty_bad_batches_in_a_row_end_the_run() -> None:
    state = _state()
    with pytest.raises(TrainingDiverged, match=r"diverged: in 20 steps .* lower --optimiser\.learning-rate"):
        _run(state, 100, loss=_Faulty(range(10, 101)))
    assert state.images_seen == (9 + 20) * _BATCH
    assert all(p.isfinite().all() for p in state.model.parameters())


def test_nineteen_bad_batches_between_good_ones_do_not() -> None:
    state = _state()
    _run(state, 50, loss=_Faulty({*range(2, 21), *range(22, 41)}))
    assert state.skipped_steps == 38


def test_a_short_run_that_ends_in_failure_has_diverged() -> None:
    with pytest.raises(TrainingDiverged, match="7 of 8 steps"):
        _run(_state(), 8, loss=_Faulty(range(2, 9)))
    _run(_state(), 8, loss=_Faulty({4, 8}))  # a bad batch or two are no divergence


def test_a_loss_that_explodes_though_it_is_finite_ends_the_run() -> None:
    rising = iter(10.0**power for power in range(30))

    def loss(model: nn.Module, batch_size: int, generator: torch.Generator) -> Tensor:
        return _regression(model, batch_size, generator) * 0 + model.bias.sum() * 0 + next(rising, 1e30)

    with pytest.raises(TrainingDiverged, match="20 steps in a row"):
        _run(_state(), 100, loss=loss)


def test_the_average_follows_with_a_half_life_that_grows_with_the_images_seen() -> None:
    """Weights jump at the half of a run; the distance of the average halves with each half-life."""
    fraction = 0.1
    config = dataclasses.replace(_CONFIG, average_fraction=fraction, learning_rate=1e-12)
    state, steps = _state(config), 2000
    loop = optimise_progressive(state, _regression, config, lambda seen: seen / (steps * _BATCH))
    for _ in range(steps // 2):
        next(loop)
    assert isinstance(state.model, nn.Linear) and isinstance(state.averaged, nn.Linear)
    with torch.no_grad():
        state.model.bias.add_(1.0)
    list(loop)
    # d ln(distance) / d seen = -ln 2 / (fraction seen), from half of the run to its end
    expected = 0.5 ** (math.log(2) / fraction)
    distance = (state.model.bias - state.averaged.bias).item()
    assert distance == pytest.approx(expected, rel=0.01)


def test_the_average_forgets_the_first_weights_and_needs_no_gradient() -> None:
    state = _state()
    assert not any(p.requires_grad for p in state.averaged.parameters()) and not state.averaged.training
    next(optimise_progressive(state, _regression, _CONFIG, lambda seen: 0.0))
    for average, weight in zip(state.averaged.parameters(), state.model.parameters(), strict=True):
        torch.testing.assert_close(average, weight.detach(), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_no_step_waits_for_the_gpu() -> None:
    model = nn.Linear(3, 1).cuda()
    state = new_state(model, _CONFIG, torch.Generator("cuda").manual_seed(7))
    target = _WEIGHT.cuda()

    def loss(model: nn.Module, batch_size: int, generator: torch.Generator) -> Tensor:
        inputs = torch.randn(batch_size, 3, generator=generator, device="cuda")
        return (model(inputs) - inputs @ target.T).square().mean()

    steps = optimise_progressive(state, loss, _CONFIG, lambda seen: seen / (1000 * _BATCH))
    next(steps)  # makes the state of the optimiser
    torch.cuda.set_sync_debug_mode("error")
    try:
        reports = [next(steps) for _ in range(40)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert reports[-1].loss < reports[0].loss


def test_failures_counted_on_a_gpu_are_found_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when steps have become good again since, and at the end of the budget."""
    monkeypatch.setattr(training, "_waits_for_a_gpu", lambda tensor: True)
    for steps, seen in ((100, 50), (45, 45)):
        state = _state()
        with pytest.raises(TrainingDiverged):
            _run(state, steps, loss=_Faulty(range(10, 31)))
        assert state.images_seen == seen * _BATCH and state.skipped_steps == 21
