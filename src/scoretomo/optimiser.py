"""How gradients become steps: AdamW, or AdamW beside Muon for the matrices and convolution kernels of a network."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .datatypes import InputError
from .limits import MANY, check_limits

# Matrices narrower than this have too few directions for Muon to balance; they are left to AdamW.
_LEAST_WIDTH = 16
# Iterations in which Muon makes singular values equal, nearly. Its usual 5 learn nothing faster and take longer.
_NEWTON_SCHULZ_STEPS = 3
# Factors of x, x^3 and x^5 in each, steepest at 0 (Jordan et al. 2024).
_NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
# A matrix of a smaller norm counts as nothing.
_LEAST_NORM = 1e-7
_MOMENTUM = 0.95


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights are fitted."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_rate: float = 0.02
    """Peak learning rate of Muon, which trains matrices and convolution kernels with fewer images than AdamW needs.
    0 leaves them to AdamW, as the paper does."""
    batch_size: int = 128
    """Images of one step."""
    warmup_images: int = 5_000
    """Images over which the learning rate rises from zero."""
    decay: bool = True
    """Let the learning rate fall to zero as a half cosine over the budget; the paper keeps it constant."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all weights together."""
    average_fraction: float = 0.05
    """Half-life of the weights' moving average as a fraction of the images seen, so that it never holds the first
    weights for long (the ramp of Karras et al. 2022)."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.warmup_images < 0:
            raise InputError(f"a batch needs 1 image or more and the warm-up 0 or more, not {self}")
        if not (self.learning_rate >= 0 and self.muon_rate >= 0 and self.clip_norm > 0 and self.average_fraction >= 0):
            raise InputError(f"learning rates must not be negative and the largest gradient norm above 0, not {self}")
        check_limits(
            self,
            learning_rate=(1e-12, 100.0),
            muon_rate=(0.0, 100.0),
            batch_size=(1, 2**20),
            warmup_images=(0, MANY),
            clip_norm=(1e-12, 1e12),
            average_fraction=(0.0, 1.0),
            weight_decay=(0.0, 1.0),
        )


class Muon(torch.optim.Optimizer):
    """Steps whose matrices have singular values that are nearly equal (Jordan et al. 2024); as ``torch.optim.Muon``.

    That one iterates in bfloat16 wherever it is, which a CPU without instructions for it does twenty times slower than
    float32: longer than all the rest of a step. This one computes in the precision of the weights.

    Parameters
    ----------
    weights
        Matrices, and kernels ``(out, in, y, x)``, which count as matrices ``(out, in * y * x)``.
    rate, weight_decay
        Learning rate and decoupled decay.
    """

    def __init__(self, weights: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, bad: Float[Tensor, ""]) -> None:  # type: ignore[override]  # there is no closure
        """Move the weights, unless ``bad`` is 1, which is not read: that would wait for a GPU."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, group["lr"], group["weight_decay"], 1 - bad)

    def _move(self, weights: nn.Parameter, rate: float, decay: float, part: Float[Tensor, ""]) -> None:
        assert weights.grad is not None
        gradient = weights.grad.flatten(1).nan_to_num(0, 0, 0)
        state = self.state[weights]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, (1 - _MOMENTUM) * part)
        direction = _with_equal_singular_values(torch.lerp(gradient, momentum, _MOMENTUM))
        tall = max(1.0, len(gradient) / gradient.shape[1]) ** 0.5
        weights.mul_(1 - rate * decay * part).sub_(direction.view_as(weights) * (rate * tall * part))


def _with_equal_singular_values(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Bring all singular values near 1, by iterations of Newton and Schulz."""
    if len(matrix) > matrix.shape[1]:
        return _with_equal_singular_values(matrix.T).T.contiguous()
    found: Tensor = matrix / matrix.norm().clamp(min=_LEAST_NORM)
    linear, cubic, quintic = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), found, beta=linear)
    return found


class Optimiser:
    """AdamW, and Muon for matrices and kernels if it has a learning rate."""

    def __init__(self, model: nn.Module, config: OptimiserConfig) -> None:
        def is_matrix(weights: Tensor) -> bool:
            return config.muon_rate > 0 and weights.ndim > 1 and min(weights.flatten(1).shape) >= _LEAST_WIDTH

        matrices = [each for each in model.parameters() if is_matrix(each)]
        others = [each for each in model.parameters() if not is_matrix(each)]
        decay = config.weight_decay
        self.adam = torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=decay, fused=True)
        self.muon = Muon(matrices, config.muon_rate, decay) if matrices else None

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adam.zero_grad()
        if self.muon is not None:
            self.muon.zero_grad()

    def step(self, part: float, bad: Float[Tensor, ""]) -> None:
        """Move the weights.

        Parameters
        ----------
        part
            Part of the peak learning rates to move by.
        bad
            1 where the gradients are not finite, 0 otherwise; then nothing moves. It is not read, which would wait for
            a GPU.
        """
        _set_rate(self.adam, part)
        self.adam.found_inf = bad  # type: ignore[attr-defined]  # read by the fused step
        self.adam.step()
        if self.muon is not None:
            _set_rate(self.muon, part)
            self.muon.step(bad)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"adam": self.adam.state_dict(), "muon": self.muon and self.muon.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` has given."""
        self.adam.load_state_dict(saved["adam"])
        if self.muon is not None:
            self.muon.load_state_dict(saved["muon"])


def _set_rate(optimiser: torch.optim.Optimizer, part: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = part * optimiser.defaults["lr"]
