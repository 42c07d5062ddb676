"""Ab initio volumes and poses of several programs against the truth of simulated particles: a table.

Runs in scoretomo's environment. Volumes are aligned over rotations, shifts and both hands. Rotations are aligned by one
rotation and a hand, as 003 does; those of RELION and scoretomo come as .star, of ASPIRE and cryoDRGN as .pkl.
"""

import argparse
from pathlib import Path

import torch
from picture import draw

from scoretomo.evaluation.comparison import Comparison, compare
from scoretomo.evaluation.pose_error import pose_errors
from scoretomo.io.cryodrgn import read_poses
from scoretomo.io.mrc import read_volume
from scoretomo.io.particles import Particles, read_particles


def rotations_of(path: Path, side: int) -> torch.Tensor:
    """Estimated rotations, of the first images or of all."""
    if path.suffix == ".pkl":
        return read_poses(path, side, 1.0).rotations
    poses = read_particles(path).poses
    if poses is None:
        raise SystemExit(f"{path}: has no poses")
    return poses.rotations


def row(name: str, found: Comparison, poses: Path | None, particles: Particles) -> str:
    """A line of the table."""
    text = f"| {name} | {found.resolution_pixels:.2f} | {found.fsc_auc:.3f} | {found.hand_margin:.3f} |"
    if poses is None:
        return text + " - |" * 5
    assert particles.poses is not None
    rotations = rotations_of(poses, particles.side)
    errors = pose_errors(rotations, particles.poses.rotations[: len(rotations)])
    squared, degrees = errors.frobenius_squared, errors.degrees
    text += f" {len(rotations)} | {squared.mean():.4f} | {squared.median():.5f} |"
    return text + f" {degrees.mean():.2f} | {degrees.median():.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="of `scoretomo simulate particles`")
    parser.add_argument("results", nargs="+", help="NAME=VOLUME.mrc or NAME=VOLUME.mrc,POSES.pkl or .star")
    parser.add_argument("--picture", type=Path, help="central slices and projections, aligned, to this .png")
    arguments = parser.parse_args()
    particles = read_particles(arguments.folder / "particles.star")
    reference = read_volume(arguments.folder / "truth" / "volume_0000.mrc").volume.voxels
    print("| program | FSC 0.5 (pixels) | FSC-AUC | hand margin | images | squared Frobenius: mean | median |", end="")
    print(" degrees: mean | median |\n" + "|" + "---|" * 9)
    pictured = {"truth": reference}
    for result in arguments.results:
        name, files = result.split("=", 1)
        volume, _, poses = files.partition(",")
        found = compare(read_volume(Path(volume), 1.0).volume.voxels[None], reference[None], 1.0, [0])[0]
        print(row(name, found, Path(poses) if poses else None, particles), flush=True)
        pictured[name] = found.aligned
    if arguments.picture:
        draw(arguments.picture, list(pictured), list(pictured.values()))


if __name__ == "__main__":
    main()
