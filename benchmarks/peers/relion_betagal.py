"""RELION's ab initio model on the real beta-galactosidase class averages: one volume, written as .mrc.

Writes the averages and a STAR file beside the output, calls ``relion_refine`` and copies its last map. Needs RELION
3.1 on the PATH, and numpy and mrcfile; imports nothing of scoretomo.
"""

import argparse
import resource
import shutil
import subprocess
import time
from pathlib import Path

import mrcfile
from betagal_images import IMAGES, read_averages

# Microscope values that relion_refine demands in the optics table; without --ctf it does not use them.
OPTICS = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
averages 1 300.0 2.7 0.1 {pixel_size:.4f} {side} 2

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnOpticsGroup #3
"""


def write_particles(images: Path, background: str, folder: Path) -> Path:
    """Copy the stack into the folder and list it in a STAR file; RELION reads paths relative to where it runs."""
    averages, pixel_size = read_averages(images, background)
    with mrcfile.new(folder / "averages.mrcs", overwrite=True) as mrc:
        mrc.set_data(averages)
        mrc.set_image_stack()
        mrc.voxel_size = pixel_size
    rows = "".join(f"{i + 1:06d}@averages.mrcs averages.mrc 1\n" for i in range(len(averages)))
    star = folder / "averages.star"
    star.write_text(OPTICS.format(pixel_size=pixel_size, side=averages.shape[-1]) + rows)
    return star


def command(arguments: argparse.Namespace, star: Path) -> list[str]:
    """The call of relion_refine."""
    options = f"""--sgd --denovo_3dref --K 1 --sym {arguments.symmetry} --zero_mask --flatten_solvent --dont_check_norm
        --pad 1 --j {arguments.threads} --particle_diameter {arguments.diameter}
        --sgd_ini_iter {arguments.iterations[0]} --sgd_inbetween_iter {arguments.iterations[1]}
        --sgd_fin_iter {arguments.iterations[2]} --sgd_ini_resol {arguments.resolutions[0]}
        --sgd_fin_resol {arguments.resolutions[1]} --sgd_ini_subset {arguments.subset}
        --sgd_fin_subset {arguments.subset} --sgd_write_iter {sum(arguments.iterations)}
        --healpix_order {arguments.healpix_order} --oversampling 1 --offset_range {arguments.offset_range}
        --offset_step 2 --random_seed {arguments.seed}"""
    extra = ["--stochastic_em"] if arguments.stochastic_em else []
    return ["relion_refine", "--i", star.name, "--o", "./run", *options.split(), *extra]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output", type=Path, help="volume to write, .mrc; RELION's files go into a folder of that name")
    parser.add_argument("--images", type=Path, default=IMAGES, help="class averages, .mrcs")
    parser.add_argument("--background", choices=["kept", "zero"], default="zero", help="level of the solvent")
    parser.add_argument("--symmetry", default="C1", help="point group, e.g. C1 or D2")
    parser.add_argument("--diameter", type=float, default=200.0, help="mask diameter in Angstrom")
    parser.add_argument("--iterations", type=int, nargs=3, default=[50, 40, 15], help="initial, between, final")
    parser.add_argument("--resolutions", type=float, nargs=2, default=[35.0, 15.0], help="first and last cut-off in A")
    parser.add_argument("--subset", type=int, default=8, help="images of a step")
    parser.add_argument("--healpix-order", type=int, default=1, help="1 is 30 degrees before oversampling, 2 is 15")
    parser.add_argument("--offset-range", type=float, default=2.0, help="shift search in pixels")
    parser.add_argument("--stochastic-em", action="store_true", help="stochastic EM in place of SGD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="0 would switch RELION's own shuffling off")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    call = command(arguments, write_particles(arguments.images, arguments.background, folder))
    print(" ".join(call))
    start = time.perf_counter()
    with (folder / "relion.log").open("w") as log:
        subprocess.run(call, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)
    wall = time.perf_counter() - start
    last = sorted(folder.glob("run_it*_class001.mrc"))[-1]
    shutil.copyfile(last, arguments.output)
    print(f"{last.name}: {arguments.output}")
    print(f"wall time {wall:.1f} s, CPU time {resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.1f} s")


if __name__ == "__main__":
    main()
