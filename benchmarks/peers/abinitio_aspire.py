"""ASPIRE's ab initio reconstruction of simulated particles: a volume (.mrc) and rotations (.pkl).

Runs in ASPIRE's own environment (see README.md here) and imports nothing of scoretomo. Common lines, synchronisation,
least-squares volume, as in ``aspire_betagal.py``; CTF is none.
"""

import argparse
import pickle
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np
from aspire.abinitio import CLSync3N, CLSyncVoting
from aspire.reconstruction import MeanEstimator
from aspire.source import ArrayImageSource, OrientedSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("images", type=Path, help="stack, .mrcs; protein bright")
    parser.add_argument("output", type=Path, help="volume, .mrc; rotations go beside it, .pkl")
    parser.add_argument("--estimator", choices=["voting", "sync3n"], default="sync3n")
    parser.add_argument("--count", type=int, help="the first images only; time grows with its cube")
    parser.add_argument("--n-theta", type=int, default=360, help="directions of the polar Fourier transform")
    parser.add_argument("--max-shift", type=float, default=0.15, help="largest shift, part of the box")
    parser.add_argument("--maxiter", type=int, default=50, help="conjugate gradient steps of the volume")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = time.perf_counter()
    np.random.seed(arguments.seed)  # noqa: NPY002 - the state ASPIRE draws from
    with mrcfile.open(arguments.images) as mrc:
        images, pixel_size = np.array(mrc.data[: arguments.count], np.float32), float(mrc.voxel_size.x)
    source = ArrayImageSource(images, pixel_size=pixel_size).cache()
    shared = {"n_theta": arguments.n_theta, "max_shift": arguments.max_shift}
    if arguments.estimator == "voting":
        estimator = CLSyncVoting(source, **shared)
    else:
        estimator = CLSync3N(source, seed=arguments.seed, **shared)
    oriented = OrientedSource(source, estimator)
    rotations = oriented.rotations
    oriented_after = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "volume")
        volume = MeanEstimator(oriented, maxiter=arguments.maxiter, checkpoint_prefix=prefix).estimate()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(arguments.output, overwrite=True) as mrc:
        mrc.set_data(volume.asnumpy()[0].astype(np.float32))
        mrc.voxel_size = pixel_size
    with arguments.output.with_suffix(".pkl").open("wb") as file:
        # ASPIRE's take the image's axes to the object's; those of scoretomo and cryoDRGN go the other way
        pickle.dump((np.asarray(rotations, np.float32).transpose(0, 2, 1),), file)
    wall = time.perf_counter() - start
    print(f"wall time {wall:.1f} s, orientations {oriented_after:.1f} s, CPU time {time.process_time():.1f} s")


if __name__ == "__main__":
    main()
