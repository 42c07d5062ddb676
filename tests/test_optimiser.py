"""Steps of AdamW and Muon: what each moves and by how much, bad gradients, resume."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from scoretomo.optimiser import Muon, Optimiser, OptimiserConfig

_CONFIG = OptimiserConfig(learning_rate=1e-3, muon_rate=0.01, weight_decay=0.0)
_GOOD, _BAD = torch.zeros(()), torch.ones(())


def _network() -> nn.Sequential:
    """A thin first layer, a kernel, a norm, a matrix, a thin last layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.GroupNorm(4, 32),
        nn.Conv2d(32, 24, 3),
        nn.Flatten(1),
        nn.Linear(24, 20),
        nn.Linear(20, 2),
    )


def _set_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weights in network.parameters():
        weights.grad = torch.randn(weights.shape, generator=generator)


def _weights(network: nn.Module) -> list[Tensor]:
    return [weights.detach().clone() for weights in network.parameters()]


def test_muon_moves_kernels_along_all_directions_alike() -> None:
    """Singular values of the step are near the learning rate, whatever those of the gradient; the rest is AdamW's."""
    network = _network()
    optimiser, before = Optimiser(network, _CONFIG), _weights(network)
    _set_gradients(network, 1)
    kernel = network[2].weight
    kernel.grad[:, :4] *= 1000  # a gradient with a few strong directions
    optimiser.step(0.5, _GOOD)
    moved = [new - old for new, old in zip(_weights(network), before, strict=True)]
    steps = {tuple(change.shape): change for change in moved}
    for shape in ((24, 32, 3, 3), (20, 24)):
        singular = torch.linalg.svdvals(steps[shape].flatten(1))
        assert singular.max() < 1.4 * 0.005
        assert singular.median() > 0.5 * 0.005
    for shape in ((32, 1, 3, 3), (32,), (24,), (2, 20)):  # the first step of AdamW has the learning rate everywhere
        torch.testing.assert_close(steps[shape].abs(), torch.full(shape, 0.5e-3), rtol=1e-2, atol=0)


def test_muon_goes_against_the_gradient() -> None:
    network = _network()
    optimiser, before = Optimiser(network, _CONFIG), network[2].weight.detach().clone()
    _set_gradients(network, 1)
    optimiser.step(1.0, _GOOD)
    assert ((network[2].weight - before) * network[2].weight.grad).sum() < 0


def test_steps_are_those_of_torch_but_for_its_precision() -> None:
    """PyTorch's iterates in bfloat16, which has 8 bits: directions agree to 1 % of a step in the mean."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((40, 20), (20, 64), (24, 24))]
    its, start = copy.deepcopy(ours), copy.deepcopy(ours)
    muon = Muon(ours, 0.02, 0.1)
    reference = torch.optim.Muon(its, lr=0.02, weight_decay=0.1, ns_steps=3)
    for _ in range(4):
        for mine, other in zip(ours, its, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        muon.step(_GOOD)
        reference.step()
    for mine, other, before in zip(ours, its, start, strict=True):
        assert (mine - other).norm() < 0.01 * (other - before).norm()


def test_without_a_rate_for_muon_all_is_adamw() -> None:
    config = OptimiserConfig(learning_rate=1e-3, muon_rate=0.0, weight_decay=0.1)
    ours, plain = _network(), _network()
    optimiser = Optimiser(ours, config)
    adam = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.1)
    for seed in range(3):
        _set_gradients(ours, seed)
        _set_gradients(plain, seed)
        optimiser.step(1.0, _GOOD)
        adam.step()
    for found, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("good_steps", [0, 2])
@pytest.mark.parametrize("fault", [math.nan, math.inf])
def test_a_bad_gradient_leaves_no_trace(fault: float, good_steps: int) -> None:
    """Nothing moves, also where there is momentum; the next good step is the one that would have come without it."""
    network, undisturbed = _network(), _network()
    optimiser, other = Optimiser(network, _CONFIG), Optimiser(undisturbed, _CONFIG)
    for seed in range(good_steps):
        for each, its in ((network, optimiser), (undisturbed, other)):
            _set_gradients(each, seed)
            its.step(1.0, _GOOD)
    before = _weights(network)
    _set_gradients(network, 0)
    for weights in network.parameters():
        assert weights.grad is not None
        weights.grad.view(-1)[0] = fault
    optimiser.step(1.0, _BAD)
    assert all(torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True))
    for each, its in ((network, optimiser), (undisturbed, other)):
        _set_gradients(each, 7)
        its.step(1.0, _GOOD)
    for found, expected in zip(network.parameters(), undisturbed.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_resumed_steps_are_the_same() -> None:
    network = _network()
    optimiser = Optimiser(network, _CONFIG)
    _set_gradients(network, 0)
    optimiser.step(1.0, _GOOD)
    weights, state = copy.deepcopy(network.state_dict()), copy.deepcopy(optimiser.state_dict())

    resumed = _network()
    again = Optimiser(resumed, _CONFIG)
    resumed.load_state_dict(weights)
    again.load_state_dict(state)
    for each, its in ((network, optimiser), (resumed, again)):
        _set_gradients(each, 1)
        its.step(0.7, _GOOD)
        its.zero_grad()
        assert all(parameter.grad is None for parameter in each.parameters())
    for found, expected in zip(resumed.parameters(), network.parameters(), strict=True):
        assert torch.equal(found, expected)
