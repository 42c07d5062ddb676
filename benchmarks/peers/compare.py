"""Volumes of the peers and of scoretomo against the beta-galactosidase reference: a table, and a picture.

Runs in scoretomo's environment. All volumes are judged on the grid of the reference, 100 voxels of 3.54 A, whatever
the size they were made at. The area is taken under the FSC to 14.16 A, the limit of 50 pixels of 7.08 A: averages hold
little beyond it, and so the areas can be set beside those of runs at 50 pixels.
"""

import argparse
from pathlib import Path

import torch
from betagal_images import MASK_EDGE_PIXELS, MASK_RADIUS_ANGSTROM, REFERENCE
from picture import draw

from scoretomo.datatypes import Volume
from scoretomo.evaluation.comparison import Comparison, compare
from scoretomo.evaluation.fsc import area_under_curve
from scoretomo.imaging.fourier import recentre_crop, resize
from scoretomo.imaging.masks import soft_ball
from scoretomo.io.mrc import read_volume

AREA_SHELLS = 25  # of the reference's box: 354 A / 25 = 14.16 A


def to_grid(volume: Volume, reference: Volume) -> torch.Tensor:
    """Pad a map to the reference's box and resample it to the reference's voxels."""
    box = reference.side * reference.pixel_size_angstrom
    padded = round(box / volume.pixel_size_angstrom)
    if abs(padded * volume.pixel_size_angstrom / box - 1) > 1e-3:
        raise SystemExit(f"{volume.pixel_size_angstrom:.4f} A does not divide the box of {box:.1f} A")
    return resize(recentre_crop(volume.voxels, padded, 3), reference.side, 3)


def figures(comparison: Comparison) -> str:
    """Three columns of the table: resolution, area under the FSC, hand margin."""
    area = area_under_curve(comparison.fsc[: AREA_SHELLS + 1]).item()
    return f"{comparison.resolution_angstrom:.1f} | {area:.3f} | {comparison.hand_margin:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("volumes", type=Path, nargs="+", help="maps to judge, .mrc")
    parser.add_argument("--reference", type=Path, default=REFERENCE)
    parser.add_argument("--picture", type=Path, help="central slices and projections, aligned, to this .png")
    arguments = parser.parse_args()
    reference = read_volume(arguments.reference).volume
    pixel_size = reference.pixel_size_angstrom
    volumes = torch.stack([to_grid(read_volume(path).volume, reference) for path in arguments.volumes])
    mask = soft_ball(reference.side, 3, MASK_RADIUS_ANGSTROM / pixel_size, MASK_EDGE_PIXELS)

    numbers = range(len(volumes))
    whole = compare(volumes, reference.voxels[None], pixel_size, numbers)
    masked = compare(volumes * mask, reference.voxels[None], pixel_size, numbers)
    print("| volume | masked: FSC 0.5 (A) | FSC-AUC | hand margin | whole box: FSC 0.5 (A) | FSC-AUC | hand margin |")
    print("|---|---|---|---|---|---|---|")
    for path, each, under_mask in zip(arguments.volumes, whole, masked, strict=True):
        print(f"| {path.stem} | {figures(under_mask)} | {figures(each)} |")
    if arguments.picture:
        titles = ["reference", *(path.stem for path in arguments.volumes)]
        draw(arguments.picture, titles, [reference.voxels, *(each.aligned for each in masked)])


if __name__ == "__main__":
    main()
