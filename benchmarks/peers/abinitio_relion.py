"""RELION's initial model and 3D refinement of simulated particles or class averages: a volume (.mrc) and poses.star.

Calls ``relion_refine`` (3.1, on the PATH): stochastic gradient descent from nothing, then iterations of expectation
maximisation of one class from that map, global and then local. Needs numpy and mrcfile; imports nothing of scoretomo.
The images have no CTF; protein bright, as RELION wants it. The folder keeps the map of the gradient descent too, as
sgd.mrc, and the CPU time of both in seconds.json.
"""

import argparse
import json
import resource
import shutil
import subprocess
import time
from pathlib import Path

import mrcfile
from relion_betagal import OPTICS


def write_particles(images: Path, folder: Path) -> tuple[Path, float]:
    """List the stack, without poses, and link it there: RELION reads paths relative to where it runs."""
    with mrcfile.open(images, header_only=True) as mrc:
        count, side, pixel_size = int(mrc.header.nz), int(mrc.header.nx), float(mrc.voxel_size.x)
    link = folder / "images.mrcs"
    link.unlink(missing_ok=True)
    link.symlink_to(images.resolve())
    rows = "".join(f"{i + 1:06d}@images.mrcs images.mrc 1\n" for i in range(count))
    star = folder / "images.star"
    star.write_text(OPTICS.format(pixel_size=pixel_size, side=side) + rows)
    return star, side * pixel_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("images", type=Path, help="stack, .mrcs")
    parser.add_argument(
        "output", type=Path, help="volume, .mrc; RELION's files and poses.star go into a folder of that name"
    )
    parser.add_argument("--diameter", type=float, help="mask diameter in Angstrom; 0.9 of the box if not given")
    parser.add_argument("--iterations", type=int, nargs=3, default=[50, 100, 50], help="initial, between, final")
    parser.add_argument("--subset", type=int, nargs=2, default=[50, 100], help="images of a step, first and last")
    parser.add_argument("--refine", type=int, nargs=2, default=[8, 6], help="iterations, global and local")
    parser.add_argument("--healpix", type=int, nargs=2, default=[2, 4], help="orders of the grid, global and local")
    parser.add_argument("--offset-range", type=float, default=6.0, help="shift search in pixels")
    parser.add_argument("--symmetry", default="C1", help="point group, e.g. C1 or D2")
    parser.add_argument("--refine-pad", type=int, default=1, choices=[1, 2], help="padding in Fourier space, refining")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    star, box = write_particles(arguments.images, folder)
    diameter, finest = arguments.diameter or 0.9 * box, 2.2 * box / _side(arguments.images)

    ini, between, fin = arguments.iterations
    common = f"--particle_diameter {diameter:.1f} --zero_mask --flatten_solvent --dont_check_norm --j 1"
    common += f" --K 1 --sym {arguments.symmetry} --oversampling 1 --offset_step 2 --random_seed {arguments.seed}"
    sgd = f"--i {star.name} --o ./sgd --sgd --denovo_3dref {common} --pad 1 --healpix_order 1"
    sgd += f" --offset_range {arguments.offset_range:g}"
    sgd += f" --sgd_ini_iter {ini} --sgd_inbetween_iter {between} --sgd_fin_iter {fin}"
    sgd += f" --sgd_ini_resol {box / 6:.1f} --sgd_fin_resol {box / 16:.1f}"
    sgd += f" --sgd_ini_subset {arguments.subset[0]} --sgd_fin_subset {arguments.subset[1]}"
    sgd += f" --sgd_write_iter {ini + between + fin}"
    start = time.perf_counter()
    run(sgd, folder)
    shutil.copyfile(folder / last(folder, "sgd"), folder / "sgd.mrc")
    descent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    tau = f"{common} --pad {arguments.refine_pad} --tau2_fudge 4 --norm --scale"
    tau += f" --offset_range {arguments.offset_range:g}"
    first = f"--i {star.name} --o ./global --ref {last(folder, 'sgd')} --ini_high {box / 12:.1f} {tau}"
    run(f"{first} --iter {arguments.refine[0]} --healpix_order {arguments.healpix[0]}", folder)
    # local: priors are the angles found so far, within some steps of the finer grid
    data, spacing = last(folder, "global", "_data.star"), 60 / 2 ** arguments.healpix[1]
    second = f"--i {data} --o ./local --ref {last(folder, 'global')} --ini_high {finest:.1f} {tau}"
    run(
        f"{second} --iter {arguments.refine[1]} --healpix_order {arguments.healpix[1]} --sigma_ang {spacing:.2f}",
        folder,
    )
    shutil.copyfile(folder / last(folder, "local"), arguments.output)
    shutil.copyfile(folder / last(folder, "local", "_data.star"), folder / "poses.star")
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    (folder / "seconds.json").write_text(json.dumps({"sgd": descent, "all": cpu}))
    print(f"wall time {time.perf_counter() - start:.1f} s, CPU time {cpu:.1f} s")


def run(options: str, folder: Path) -> None:
    """Call relion_refine; what it says goes to a file."""
    print(f"relion_refine {options}", flush=True)
    with (folder / "relion.log").open("a") as log:
        command = ["relion_refine", *options.split()]
        subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)


def last(folder: Path, prefix: str, suffix: str = "_class001.mrc") -> str:
    """Name of a file of the last iteration."""
    return sorted(folder.glob(f"{prefix}_it*{suffix}"))[-1].name


def _side(images: Path) -> int:
    with mrcfile.open(images, header_only=True) as mrc:
        return int(mrc.header.nx)


if __name__ == "__main__":
    main()
