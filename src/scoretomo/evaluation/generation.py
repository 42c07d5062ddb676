"""Quality of a generative model of point clouds, from distances alone (Yang et al. 2019, Sec. 5.2).

Generated clouds are compared with clouds that the model was not trained on, by any distance: pass the matrices, such as
those of :func:`scoretomo.evaluation.point_error.chamfer_distances`. What a model can reach at best is seen by putting
clouds of the training set in the place of the generated ones, against the same held-out clouds: the rows "training set"
of Moebius and Habeck (2025), Table 3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError
from .point_error import chamfer_distances


@dataclass(frozen=True)
class GenerationScores:
    """How much a set of generated clouds resembles a set of reference clouds.

    Attributes
    ----------
    nearest_neighbour_accuracy
        How often the nearest neighbour of a cloud is of its own set (1-NNA), 0 to 1. 0.5 is best: the sets cannot be
        told apart. 1: they have nothing in common; well below 0.5: generated clouds are copies of reference ones.
    coverage
        Part of the reference clouds that are the nearest one of some generated cloud (COV), 0 to 1. Two draws of one
        distribution do not reach 1.
    minimum_matching_distance
        Mean distance from a reference cloud to the nearest generated one (MMD), in the unit of the distances.
    """

    nearest_neighbour_accuracy: float
    coverage: float
    minimum_matching_distance: float


def generation_scores(generated: Float[Tensor, "k n 3"], reference: Float[Tensor, "l m 3"]) -> GenerationScores:
    """Score generated clouds by Chamfer distances that are not squared, as Moebius and Habeck (2025) do in Table 3.

    Raises
    ------
    InputError
        Sets of different sizes, of fewer than two clouds, or clouds that are not finite.
    """
    between = chamfer_distances(generated, reference)
    accuracy = nearest_neighbour_accuracy(chamfer_distances(generated), chamfer_distances(reference), between)
    return GenerationScores(accuracy, coverage(between), minimum_matching_distance(between))


def nearest_neighbour_accuracy(
    within_generated: Float[Tensor, "k k"], within_reference: Float[Tensor, "l l"], between: Float[Tensor, "k l"]
) -> float:
    """Accuracy of the leave-one-out classifier by the nearest neighbour, of both sets together (1-NNA).

    Raises
    ------
    InputError
        Sets of different sizes, where 0.5 would not be the accuracy of equal distributions, or of fewer than two.
    """
    count, other = between.shape
    if count != other or count < 2:
        raise InputError(f"1-NNA needs two sets of equal size, 2 or more clouds each, not {count} and {other}")
    distances = torch.cat(
        [torch.cat([within_generated, between], dim=1), torch.cat([between.mT, within_reference], dim=1)]
    )
    nearest = distances.fill_diagonal_(torch.inf).argmin(1)
    is_generated = torch.arange(2 * count, device=between.device) < count
    return (is_generated[nearest] == is_generated).double().mean().item()


def coverage(between: Float[Tensor, "k l"]) -> float:
    """Part of the reference clouds (columns) that are the nearest one of some generated cloud (rows): COV."""
    return len(_of_some(between).argmin(1).unique()) / between.shape[1]


def minimum_matching_distance(between: Float[Tensor, "k l"]) -> float:
    """Mean distance from a reference cloud (column) to the nearest generated cloud (row): MMD."""
    return _of_some(between).amin(0).double().mean().item()


def _of_some(between: Float[Tensor, "k l"]) -> Float[Tensor, "k l"]:
    if between.numel() == 0:
        count, other = between.shape
        raise InputError(f"generated and reference clouds cannot be compared: there are {count} and {other}")
    return between
