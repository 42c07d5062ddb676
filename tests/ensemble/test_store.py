"""A store in memory, and how items are shared out."""

import pytest
import torch

from scoretomo.ensemble.store import MemoryStore, split_evenly


@pytest.mark.parametrize(("items", "parts"), [(10, 3), (3, 5), (0, 2), (8, 4), (7, 1)])
def test_every_item_falls_to_one_part_and_no_part_gets_two_more_than_another(items: int, parts: int) -> None:
    runs = split_evenly(range(items), parts)
    assert [item for run in runs for item in run] == list(range(items))
    sizes = [len(run) for run in runs]
    assert max(sizes) - min(sizes) <= 1 and sizes[0] == max(sizes) and len(sizes) == parts


def test_what_is_kept_is_forgotten_when_the_item_is_complete() -> None:
    store, tensors = MemoryStore(), {"a": torch.ones(2)}
    assert store.kept(3) is None
    store.keep(3, tensors)
    tensors["a"].zero_()
    kept = store.kept(3)
    assert kept is not None and kept["a"].tolist() == [1, 1]  # a copy: what advances changes in place
    assert store.share([2, 3]).missing == [2, 3]
    store.put(3, tensors["a"])
    assert store.kept(3) is None and store.volumes[3] is tensors["a"]
    share = store.share([2, 3])
    assert share.missing == share.mine == [2]
