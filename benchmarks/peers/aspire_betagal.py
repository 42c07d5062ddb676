"""ASPIRE's common lines on the real beta-galactosidase class averages: one volume, written as .mrc.

Runs in ASPIRE's own environment (see README.md here) and imports nothing of scoretomo: ASPIRE is GPL, the two
programs exchange files only. The sequence is the one of ASPIRE's own ab initio pipeline: class averages, estimated
orientations and shifts, least-squares volume.
"""

import argparse
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np
from aspire.abinitio import CLSymmetryD2, CLSync3N, CLSyncVoting
from aspire.reconstruction import MeanEstimator
from aspire.source import ArrayImageSource, OrientedSource
from betagal_images import IMAGES, read_averages


def make_estimator(arguments: argparse.Namespace, source: ArrayImageSource) -> CLSyncVoting | CLSync3N | CLSymmetryD2:
    """ASPIRE's orientation estimator of the name asked for."""
    shared = {"n_theta": arguments.n_theta, "max_shift": arguments.max_shift}
    if arguments.estimator == "voting":
        return CLSyncVoting(source, **shared)
    if arguments.estimator == "sync3n":
        return CLSync3N(source, seed=arguments.seed, **shared)
    grid = {"grid_res": arguments.grid_res, "inplane_res": arguments.inplane_res}
    return CLSymmetryD2(source, seed=arguments.seed, **grid, **shared)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output", type=Path, help="volume to write, .mrc")
    parser.add_argument("--images", type=Path, default=IMAGES, help="class averages, .mrcs")
    parser.add_argument("--estimator", choices=["voting", "sync3n", "d2"], default="voting", help="d2 assumes D2")
    parser.add_argument(
        "--size", type=int, default=64, help="side in pixels to which the images are cropped in Fourier"
    )
    parser.add_argument("--crop", type=int, default=100, help="side in pixels of the window cut out first")
    parser.add_argument("--background", choices=["kept", "zero"], default="zero", help="level of the solvent")
    parser.add_argument("--n-theta", type=int, default=360, help="directions of the polar Fourier transform")
    parser.add_argument("--max-shift", type=float, default=0.15, help="largest shift, part of the box")
    parser.add_argument("--grid-res", type=int, default=400, help="d2: directions on the sphere (ASPIRE: 1200)")
    parser.add_argument("--inplane-res", type=int, default=10, help="d2: in-plane spacing, degrees (ASPIRE: 5)")
    parser.add_argument("--maxiter", type=int, default=200, help="conjugate gradient steps of the volume")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    np.random.seed(arguments.seed)  # noqa: NPY002 - the state ASPIRE draws from
    images, pixel_size = read_averages(arguments.images, arguments.background)
    margin = (images.shape[-1] - arguments.crop) // 2
    images = images[:, margin : margin + arguments.crop, margin : margin + arguments.crop]
    symmetry = "D2" if arguments.estimator == "d2" else None
    source = ArrayImageSource(images, pixel_size=pixel_size, symmetry_group=symmetry)
    if arguments.size < arguments.crop:
        source = source.downsample(arguments.size)
    source = source.cache()
    oriented = OrientedSource(source, make_estimator(arguments, source))
    rotations = oriented.rotations
    oriented_after = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:  # ASPIRE leaves its last state behind where it does not converge
        prefix = str(Path(folder) / "volume")
        volume = MeanEstimator(oriented, maxiter=arguments.maxiter, checkpoint_prefix=prefix).estimate()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(arguments.output, overwrite=True) as mrc:  # Volume.save would write a stack of one volume
        mrc.set_data(volume.asnumpy()[0].astype(np.float32))
        mrc.voxel_size = source.pixel_size
    print(f"{len(rotations)} images, {source.L} px, {source.pixel_size:.3f} A: {arguments.output}")
    wall = time.perf_counter() - start
    print(f"wall time {wall:.1f} s, orientations {oriented_after:.1f} s, CPU time {time.process_time():.1f} s")


if __name__ == "__main__":
    main()
