"""How gradients become steps: AdamW, or AdamW beside Muon for the matrices and convolution kernels of a network."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .datatypes import InputError

# Matrices narrower than this have too few directions for Muon to balance; they are left to AdamW.
_LEAST_WIDTH = 16
# Iterations in which Muon makes singular values equal, nearly. Its usual 5 learn nothing faster and take longer.
_NEWTON_SCHULZ_STEPS = 3


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


class Optimiser:
    """AdamW, and Muon for matrices and kernels if it has a learning rate.

    Muon (Jordan et al. 2024) makes all singular values of a step's matrix equal; a kernel ``(out, in, y, x)`` counts as
    the matrix ``(out, in * y * x)``. ``torch.optim.Muon`` takes matrices only, so it is given kernels in that shape,
    in the memory of the kernels.
    """

    def __init__(self, model: nn.Module, config: OptimiserConfig) -> None:
        def is_matrix(weights: Tensor) -> bool:
            return config.muon_rate > 0 and weights.ndim > 1 and min(weights.flatten(1).shape) >= _LEAST_WIDTH

        self.weights = [each for each in model.parameters() if is_matrix(each)]
        others = [each for each in model.parameters() if not is_matrix(each)]
        decay = config.weight_decay
        self.adam = torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=decay, fused=True)
        self.matrices = [nn.Parameter(each.detach().flatten(1)) for each in self.weights]
        self.muon = (
            torch.optim.Muon(self.matrices, lr=config.muon_rate, weight_decay=decay, ns_steps=_NEWTON_SCHULZ_STEPS)
            if self.matrices
            else None
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adam.zero_grad()
        for weights in self.weights:
            weights.grad = None

    def step(self, part: float, bad: Float[Tensor, ""]) -> None:
        """Move the weights.

        Parameters
        ----------
        part
            Part of the peak learning rates to move by.
        bad
            1 where the gradients are not finite, 0 otherwise; then nothing moves. It is not read, which would wait for
            a GPU: AdamW knows of it, what Muon has done is undone.
        """
        _set_rate(self.adam, part)
        self.adam.found_inf = bad  # type: ignore[attr-defined]  # read by the fused step
        self.adam.step()
        if self.muon is None:
            return
        _set_rate(self.muon, part)
        for matrix, weights in zip(self.matrices, self.weights, strict=True):
            matrix.grad = None if weights.grad is None else weights.grad.nan_to_num(0, 0, 0).mul_(1 - bad).flatten(1)
        before = [each.clone() for each in self._state_of_muon()]
        self.muon.step()
        for now, then in zip(self._state_of_muon(), before, strict=False):  # the first step makes the momenta
            now.lerp_(then, bad)

    def _state_of_muon(self) -> list[Tensor]:
        """Matrices, and their momenta once there are any."""
        assert self.muon is not None
        momenta = [self.muon.state[each].get("momentum_buffer") for each in self.matrices if each in self.muon.state]
        return [*(each.data for each in self.matrices), *(each for each in momenta if each is not None)]

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
