"""RUN/denoiser: the trained network as a model folder of Diffusers."""

import shutil
from pathlib import Path

from torch import nn

from ..datatypes import InputError
from ..networks.unet import PatchUNet


def save_denoiser(folder: Path, network: nn.Module) -> None:
    """Write the network, replacing an earlier one as a whole.

    Raises
    ------
    InputError
        It cannot be written; an earlier one is still there.
    """
    assert isinstance(network, PatchUNet)  # nn.Module does not know the types of its parts
    partial, previous = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "previous"))
    try:
        network.save(partial)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        partial.rename(folder)
    except Exception as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"cannot write {folder}: {error}".splitlines()[0]) from error
    shutil.rmtree(previous, ignore_errors=True)
