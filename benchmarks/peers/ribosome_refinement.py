"""Refinement of a low-passed map of another species against 50 averages of an asymmetric ribosome: FSC by iteration.

A test of refinement alone, not of ab initio reconstruction: it starts from the reference. What it starts from ends at
``--start-resolution``, so that all detail beyond comes from the images. These are 1000 points each, drawn as blobs, of
P. falciparum; the reference is yeast. Runs in scoretomo's environment.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from betagal_images import DATA
from matplotlib import pyplot as plt

from scoretomo.datatypes import Volume
from scoretomo.evaluation.comparison import Comparison, compare
from scoretomo.evaluation.fsc import area_under_curve
from scoretomo.imaging.fourier import translate
from scoretomo.imaging.preprocess import PreprocessConfig, preprocess
from scoretomo.imaging.projection import project
from scoretomo.imaging.starting_model import low_pass, resample
from scoretomo.io.images import read_image_stack
from scoretomo.io.mrc import read_volume, write_volume
from scoretomo.methods.projection_matching import MatchingStep, refine_progressive

IMAGES = DATA / "class_averages" / "ribosome80S_50x88px_5.36A.mrcs"
REFERENCE = DATA / "volumes" / "4v7r_5A.mrc"


def draw(path: Path, step: MatchingStep, images: torch.Tensor, found: Comparison, reference: torch.Tensor) -> None:
    """Averages over their projections; slices of the reference over those of the volume."""
    predicted = translate(project(step.volume[None], step.rotations[None])[0], step.shifts_pixels)
    figure, axes = plt.subplots(4, 8, figsize=(12, 6))
    middle = reference.shape[0] // 2
    cuts = [(axis, middle + offset) for axis in (0, 1) for offset in (-6, -2, 2, 6)]
    for column, (axis, place) in enumerate(cuts):
        slices = [np.asarray(each.select(axis, place)) for each in (reference, found.aligned)]
        for panel, picture in zip(axes[:, column], [images[column], predicted[column], *slices], strict=True):
            panel.imshow(picture, cmap="gray")
            panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output", type=Path, help="volume to write, .mrc")
    parser.add_argument("--start-resolution", type=float, default=60.0, help="cut-off of the start, Angstrom")
    parser.add_argument("--side", type=int, default=48, help="pixels of the working images")
    parser.add_argument("--picture", type=Path, help="images beside projections, slices beside the reference's, .png")
    arguments = parser.parse_args()
    images, record = preprocess(read_image_stack(IMAGES).stack, PreprocessConfig(side=arguments.side), multiple=2)
    pixel, side = record.working_pixel_size_angstrom, images.shape[-1]
    reference = resample(read_volume(REFERENCE).volume, pixel, side).voxels

    def judged(volume: torch.Tensor) -> Comparison:
        return compare(volume[None], reference[None], pixel, [0])[0]

    def row(name: str, found: Comparison) -> str:
        area = area_under_curve(found.fsc).item()
        return f"| {name} | {found.resolution_angstrom:.1f} | {area:.3f} | {found.hand_margin:.3f} |"

    start = low_pass(reference, pixel, arguments.start_resolution)
    print("| volume | FSC 0.5 (A) | FSC-AUC | hand margin |")
    print("|---|---|---|---|")
    print(row(f"start, {arguments.start_resolution:.0f} A", judged(start)))
    for step in refine_progressive(start, images, side / 2.0 * record.mask_radius):
        print(
            row(f"iteration {step.iteration}, band to {side * pixel / step.band:.1f} A", judged(step.volume)),
            flush=True,
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_volume(arguments.output, Volume(step.volume, pixel))
    if arguments.picture:
        draw(arguments.picture, step, images, judged(step.volume), reference)


if __name__ == "__main__":
    main()
