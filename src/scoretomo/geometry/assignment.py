"""Exact assignment of points to points under squared distances."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign_points(first: Float[Tensor, "b n d"], second: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"]:
    """Pair the points of clouds one to one so that the sum of squared distances is least.

    Returns
    -------
    Tensor
        ``(b, n)`` int64, the index of the point of ``second`` that each point of ``first`` is paired with.
    """
    one, other = first.detach().double().cpu(), second.detach().double().cpu()
    costs = (one[:, :, None] - other[:, None]).square().sum(-1).numpy()
    columns = np.stack([linear_sum_assignment(cost)[1] for cost in costs])
    return torch.from_numpy(columns).to(first.device)
