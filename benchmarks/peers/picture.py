"""Volumes side by side: central slices and projections, or slices alone."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch


def draw(path: Path, titles: Sequence[str], volumes: Sequence[torch.Tensor]) -> None:
    """Three central slices and three projections of each volume, along z, y and x: a row each."""
    figure, axes = plt.subplots(len(volumes), 6, figsize=(12, 2.1 * len(volumes)), squeeze=False)
    for row, title, volume in zip(axes, titles, volumes, strict=True):
        margin, centre = volume.shape[0] // 5, volume.shape[0] // 2
        voxels = np.asarray(volume)
        slices = [voxels[centre], voxels[:, centre], voxels[:, :, centre]]
        for axis, picture in zip(row, [*slices, *(voxels.sum(i) for i in range(3))], strict=True):
            axis.imshow(picture[margin:-margin, margin:-margin], cmap="gray")
            axis.set_axis_off()
        row[0].set_title(title, fontsize=8, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def draw_beside(path: Path, rows: Sequence[Sequence[tuple[str, torch.Tensor]]]) -> None:
    """Central slices along z and y of each titled volume: volumes that belong together in a row."""
    columns = max(map(len, rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=(2.8 * columns, 1.7 * len(rows)), squeeze=False)
    for panels, volumes in zip(axes, rows, strict=True):
        for axis in panels:
            axis.set_axis_off()
        for axis, (title, volume) in zip(panels, volumes, strict=False):
            margin = volume.shape[0] // 8
            voxels = np.asarray(volume[margin:-margin, margin:-margin, margin:-margin])
            centre = volume.shape[0] // 2 - margin
            axis.imshow(np.hstack([voxels[centre], voxels[:, centre]]), cmap="gray")
            axis.set_title(title, fontsize=7, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
