"""Checkpoints are whole or not there, hold no code, and are not taken up for something else."""

from pathlib import Path
from typing import TypedDict

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from scoretomo.datatypes import InputError
from scoretomo.io.checkpoints import load_checkpoint, load_weights, save_checkpoint


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


def test_a_checkpoint_of_which_a_byte_has_changed_is_refused(tmp_path: Path) -> None:
    """Also where it is a tensor's, which torch reads without a word."""
    path = tmp_path / "training.pt"
    save_checkpoint(path, {"weights": torch.full((64,), 3.0)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((8,), 3.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    for lazily in (False, True):
        with pytest.raises(InputError, match=r"training\.pt: is not as it was written"):
            load_checkpoint(path, lazily=lazily)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(range(256)) * 8])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"training\.pt: is no checkpoint"):
        load_checkpoint(path)


class Kept(TypedDict):
    poses: Float[Tensor, "n 3 3"]
    seconds: float


@pytest.mark.parametrize(
    "values",
    [{}, {"poses": torch.ones(2, 3, 3)}, {"poses": torch.ones(3, 3), "seconds": 1.0}, {"poses": [1], "seconds": 1.0}],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    path = tmp_path / "training.pt"
    save_checkpoint(path, {"poses": torch.ones(2, 3, 3), "seconds": 1})
    assert load_checkpoint(path, Kept)["seconds"] == 1.0  # type: ignore[index]
    save_checkpoint(path, values)
    with pytest.raises(InputError, match=r"training\.pt: .*delete it"):
        load_checkpoint(path, Kept)
    assert load_checkpoint(path, Kept, made_of="other images") is None


def test_weights_are_all_there_and_finite(tmp_path: Path) -> None:
    path, network = tmp_path / "weights.safetensors", nn.Linear(2, 1)
    good = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    save_file(good, path)
    load_weights(network, path, "train it again")
    assert torch.equal(network.weight, torch.ones(1, 2))
    wrong = [{"weight": good["weight"]}, good | {"bias": torch.ones(3)}, good | {"bias": torch.full((1,), torch.nan)}]
    for weights in wrong:
        save_file(weights, path)
        with pytest.raises(InputError, match=r"weights\.safetensors: .*train it again"):
            load_weights(network, path, "train it again")
    for content in (b"", path.read_bytes()[:20]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read"):
            load_weights(network, path, "train it again")
    with pytest.raises(InputError, match=r"absent\.safetensors: cannot be read"):
        load_weights(network, tmp_path / "absent.safetensors", "train it again")
