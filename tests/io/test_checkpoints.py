"""Checkpoints are whole or not there, hold no code, and are not taken up for something else."""

from pathlib import Path

import pytest
import torch

from scoretomo.datatypes import InputError
from scoretomo.io.checkpoints import load_checkpoint, save_checkpoint


def test_checkpoints_hold_no_code_and_a_broken_one_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint" / "training.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"weights": {"a": torch.ones(3)}, "images": 12})
    assert torch.equal(load_checkpoint(path)["weights"]["a"], torch.ones(3))  # type: ignore[index]
    assert load_checkpoint(path, made_of={"rows": [0, 1]}) is None  # it does not say of what
    save_checkpoint(path, {"made_of": {"rows": [0, 1]}})
    assert load_checkpoint(path, made_of={"rows": [0, 2]}) is None
    assert load_checkpoint(path, made_of={"rows": [0, 1]}) is not None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete it"):
        load_checkpoint(path)
