"""Pose search of scoretomo and of cryoDRGN on the same images and map: images per second and errors of the poses.

Runs in scoretomo's environment and calls ``cryodrgn_pose_search.py`` in cryoDRGN's; the two take turns. The images are
a folder of ``scoretomo simulate particles``, whose poses and map are known. cryoDRGN's speed does not depend on how
many images there are, beyond its batch, and it gets few; scoretomo works out a network's values once for as many
images as it searches together (1024 in a training), so that it gets more, and the errors are of those both have.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from scoretomo.geometry.rotations import angle_between
from scoretomo.imaging.slices import SliceFn, lattice_slices, voxel_slices
from scoretomo.io.cryodrgn import read_poses
from scoretomo.io.mrc import read_volume
from scoretomo.io.particles import Particles, read_particles
from scoretomo.methods.abinitio import AbInitioConfig, find_volume_poses
from scoretomo.methods.pose_search import PoseSearchConfig
from scoretomo.networks.coordinate_mlp import CoordinateMLP, CoordinateMLPConfig

_PEER = Path(__file__).with_name("cryodrgn_pose_search.py")
_POINTS_OF_A_STEP = 4096

# Rotations, shifts in pixels, seconds, seconds of the processor, images
Found = tuple[torch.Tensor, torch.Tensor, float, float, int]


def search(images: torch.Tensor, slices: Callable[[], SliceFn], grid: PoseSearchConfig) -> Found:
    """scoretomo's search, with all that a training does for it from the map or network on."""
    start, began = time.perf_counter(), time.process_time()
    volume = slices()
    print(f"scoretomo's values of the volume, once for {len(images)} images: {time.perf_counter() - start:.1f} s")
    found = find_volume_poses(images, volume, grid, "search")
    seconds, cpu = time.perf_counter() - start, time.process_time() - began
    return found.rotations[:, 0], found.shifts_pixels[:, 0], seconds, cpu, len(images)


def peer_search(arguments: argparse.Namespace, folder: Path, decoder: str, grid: PoseSearchConfig) -> Found:
    """cryoDRGN's search of the first images, in an environment of its own."""
    output = arguments.output / f"{folder.name}_{decoder}.pkl"
    radii = [str(round(grid.low_radius)), str(round(grid.high_radius))]
    command = [arguments.peer_python, _PEER, folder / "images.mrcs", folder / "truth" / "volume_0000.mrc", output]
    command += ["--decoder", decoder, "--weights", arguments.output / f"{folder.name}_cryodrgn.weights"]
    command += ["--fit-steps", arguments.fit_steps, "--count", arguments.peer_images, "--batch", arguments.peer_batch]
    command += ["--base-order", grid.base_order, "--refinements", grid.refinements, "--kept", grid.kept]
    command += ["--radii", *radii, "--shift-extent", grid.shift_extent_pixels, "--shift-count", grid.shift_count]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    record = json.loads(output.with_suffix(".json").read_text())
    if record["fit"] is not None:
        print(f"cryoDRGN's network and the map: correlation {record['fit']:.4f}", flush=True)
    side = read_particles(folder / "particles.star").side
    poses = read_poses(output, side, 1.0)
    return poses.rotations, poses.shifts_angstrom, record["seconds"], record["cpu_seconds"], record["images"]


def fitted_network(target: SliceFn, side: int, steps: int, weights: Path, scale: float) -> CoordinateMLP:
    """scoretomo's coordinate network, 3 layers of 256, fitted to a map as cryoDRGN's is."""
    torch.manual_seed(0)
    network = CoordinateMLP(CoordinateMLPConfig(), side)
    if weights.exists():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    for _ in range(steps):
        points = _points_in_ball(_POINTS_OF_A_STEP)
        loss = torch.nn.functional.mse_loss(network(points), target(points) / scale)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    torch.save(network.state_dict(), weights)
    return network


def _points_in_ball(count: int) -> torch.Tensor:
    """Even in radius, so that low frequencies, which a search begins with, are fitted best."""
    directions = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    return directions * torch.rand(count, 1) * 0.5


def errors(found: Found, particles: Particles, count: int) -> str:
    """Columns of the table: errors of the first poses; the frame is that of the map, nothing is aligned."""
    assert particles.poses is not None
    truth = particles.poses.select(torch.arange(count))
    rotations, shifts = found[0][:count], found[1][:count]
    squared = (rotations - truth.rotations).square().sum((1, 2))
    degrees = angle_between(rotations, truth.rotations)
    away = (shifts - truth.shifts_angstrom / particles.pixel_size_angstrom).norm(dim=-1)
    each = [f"{squared.mean():.4f}", f"{squared.median():.5f}", f"{degrees.mean():.2f}", f"{degrees.median():.2f}"]
    return " | ".join([*each, f"{away.mean():.3f}", f"{away.median():.3f}"])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of `scoretomo simulate particles`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for poses and networks")
    parser.add_argument("--peer-python", required=True, help="python of cryoDRGN's environment")
    parser.add_argument("--decoders", nargs="+", choices=["voxels", "network"], default=["voxels", "network"])
    parser.add_argument("--images", type=int, default=1024, help="that scoretomo searches together")
    parser.add_argument("--peer-images", type=int, default=32)
    parser.add_argument("--peer-batch", type=int, default=8, help="8 is abinit_homo's default")
    parser.add_argument("--fit-steps", type=int, default=3000, help="steps that fit each network to the map")
    parser.add_argument("--base-order", type=int, default=2)
    parser.add_argument("--refinements", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def slices_of(arguments: argparse.Namespace, folder: Path, decoder: str, radius: float) -> Callable[[], SliceFn]:
    """What scoretomo makes of the map, or of a network that is fitted to it, whenever it searches."""
    volume = read_volume(folder / "truth" / "volume_0000.mrc").volume
    if decoder == "voxels":
        return lambda: voxel_slices(volume.voxels)
    slices = voxel_slices(volume.voxels)
    weights = arguments.output / f"{folder.name}_scoretomo.weights"
    scale = float(slices(_points_in_ball(20_000)).std())
    network = fitted_network(slices, volume.side, arguments.fit_steps, weights, scale)
    with torch.no_grad():
        points = _points_in_ball(20_000)
        fit = torch.corrcoef(torch.stack([network(points), slices(points)]))[0, 1]
    print(f"scoretomo's network and the map: correlation {fit:.4f}", flush=True)
    return lambda: lattice_slices(network, volume.side, radius)


def main() -> None:
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in arguments.folders:
        particles = read_particles(folder / "particles.star")
        if len(particles) < max(arguments.images, arguments.peer_images):
            raise SystemExit(f"{folder} has {len(particles)} images, and --images is {arguments.images}")
        images = particles.images.read(torch.arange(arguments.images))
        config = AbInitioConfig(base_order=arguments.base_order, refinements=arguments.refinements)
        grid = config.grid(particles.side)
        for decoder in arguments.decoders:
            slices = slices_of(arguments, folder, decoder, grid.high_radius)
            theirs: list[Found] = []
            # more poses kept at first and fewer at last, as the package does, and as many at every level, as cryoDRGN
            grids = {"scoretomo": grid, f"scoretomo, {grid.kept} kept at every level": replace(grid, tapered=False)}
            ours: dict[str, list[Found]] = {name: [] for name in grids}
            for _ in range(arguments.repeats):
                theirs.append(peer_search(arguments, folder, decoder, grid))
                for name, each in grids.items():
                    ours[name].append(search(images, slices, each))
            for name, runs in (("cryoDRGN 3.4.4", theirs), *ours.items()):
                rates = [each[4] / each[2] for each in runs]
                ratio = statistics.median(o[4] / o[2] / (t[4] / t[2]) for o, t in zip(runs, theirs, strict=True))
                by_cpu = statistics.median(o[4] / o[3] / (t[4] / t[3]) for o, t in zip(runs, theirs, strict=True))
                speed = (
                    f"{statistics.median(rates):.3g} | {min(rates):.3g}-{max(rates):.3g} | {ratio:.3g} | {by_cpu:.3g}"
                )
                text = errors(runs[0], particles, arguments.peer_images)
                rows.append(f"| {folder.name} | {decoder} | {name} | {runs[0][4]} | {speed} | {text} |")
    print(
        "| set | volume | program | images | images/s | range | ratio | ratio by CPU time | squared Frobenius: mean |"
        " median | degrees: mean | median | shift, pixels: mean | median |"
    )
    print("|" + "---|" * 14)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
