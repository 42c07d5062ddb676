"""The point transformer: its symmetry, its noise token, its size."""

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.networks import point_transformer
from scoretomo.networks.point_transformer import PointTransformer, PointTransformerConfig
from scoretomo.networks.unet import parameter_count

_SMALL = PointTransformerConfig(width=32, layers=2, heads=2)


@pytest.fixture
def network() -> PointTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = PointTransformer(_SMALL).eval()
        torch.nn.init.normal_(network.leave.weight)  # otherwise it gives 0 before any training
    return network


def test_permuted_points_permute_the_output_and_nothing_else(network: PointTransformer) -> None:
    points, label = torch.randn(3, 17, 3), torch.randn(3)
    order = torch.randperm(17)
    assert torch.allclose(network(points, label)[:, order], network(points[:, order], label), atol=1e-5)


def test_every_point_hears_of_every_other(network: PointTransformer) -> None:
    points = torch.randn(1, 9, 3)
    moved = points.clone()
    moved[0, 0] += 1
    change = (network(moved, torch.zeros(1)) - network(points, torch.zeros(1))).norm(dim=2)
    assert (change > 1e-4).all()


def test_clouds_of_a_batch_do_not_hear_of_each_other(network: PointTransformer) -> None:
    points, label = torch.randn(2, 9, 3), torch.zeros(2)
    assert torch.allclose(network(points, label)[:1], network(points[:1], label[:1]), atol=1e-5)


def test_the_noise_level_matters_also_where_levels_are_near(network: PointTransformer) -> None:
    points = torch.randn(1, 9, 3)
    label = torch.tensor([0.05]).log() / 4
    near = torch.tensor([0.055]).log() / 4
    assert (network(points, label) - network(points, near)).abs().max() > 1e-3


def test_an_untrained_network_says_zero() -> None:
    assert not PointTransformer(_SMALL)(torch.randn(2, 5, 3), torch.zeros(2)).any()


def test_the_paper_s_network_is_as_large_as_point_e_s() -> None:
    """Of Nichol et al. 2022: 24 layers of width 512 are some 12 * 24 * 512**2 weights, 76 million with all biases."""
    with torch.device("meta"):
        count = parameter_count(PointTransformer(PointTransformerConfig(width=512, layers=24, heads=8)))
    assert count == pytest.approx(76e6, rel=0.02)


def test_large_batches_keep_less_and_have_the_same_gradient(
    network: PointTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, label = torch.randn(3, 17, 3), torch.randn(3)

    def measured() -> tuple[int, torch.Tensor]:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x
        ):
            out = network(points, label)
        network.zero_grad()
        out.square().sum().backward()
        return sum(kept), network.enter.weight.grad.clone()

    kept, gradient = measured()
    monkeypatch.setattr(point_transformer, "_MOST_KEPT", 0)
    less, same = measured()
    assert less < kept / 4
    assert torch.equal(same, gradient)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="multiple of twice its heads"):
        PointTransformerConfig(width=100, heads=8)
