"""cryoDRGN's hierarchical pose search on a stack of images against a volume: poses as .pkl, time as .json.

Runs in cryoDRGN's own environment (see README.md here) and imports nothing of scoretomo: cryoDRGN is GPL, the two
programs exchange files only. The volume is asked for as cryoDRGN asks its decoder: either the Hartley transform of the
map, interpolated trilinearly, or cryoDRGN's own coordinate network, fitted to that transform first.
"""

import argparse
import json
import pickle
import time
from pathlib import Path

import mrcfile
import numpy as np
import torch
from cryodrgn.dataset import ImageDataset
from cryodrgn.lattice import Lattice
from cryodrgn.models import get_decoder
from cryodrgn.pose_search import PoseSearch

_POINTS_OF_A_STEP = 4096
_PADDING = 2


class VoxelSlices(torch.nn.Module):
    """The Hartley transform of a map as a function of frequency, xyz in cycles per pixel."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with mrcfile.open(path) as mrc:
            volume = np.array(mrc.data, np.float64)
        side = len(volume)
        # trilinear interpolation dims the box towards its edge
        envelope = np.sinc((np.arange(side) - side // 2) / (_PADDING * side)) ** 2
        volume /= envelope[:, None, None] * envelope[:, None] * envelope
        before = _PADDING * side // 2 - side // 2
        volume = np.pad(volume, (before, _PADDING * side - side - before))
        spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
        hartley = torch.from_numpy(spectrum.real - spectrum.imag).float()
        size = _PADDING * side
        self.register_parameter("values", torch.nn.Parameter(hartley[None, None], requires_grad=False))
        self.centre, self.scale = 2 * (size // 2) / (size - 1) - 1, 2 * size / (size - 1)

    def forward(self, frequencies: torch.Tensor) -> torch.Tensor:
        points = (frequencies * self.scale + self.centre).reshape(1, 1, 1, -1, 3)
        values = torch.nn.functional.grid_sample(self.values, points, align_corners=True)
        return values.view(frequencies.shape[:-1])


def fitted_network(target: VoxelSlices, side: int, steps: int, weights: Path, scale: float) -> torch.nn.Module:
    """cryoDRGN's decoder with the settings of ``abinit_homo``, fitted to a map; weights are kept for another run."""
    torch.manual_seed(0)
    network = get_decoder(
        3, side + 1, layers=3, dim=256, domain="hartley", enc_type="gaussian", activation=torch.nn.ReLU, feat_sigma=0.5
    )
    if weights.exists():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    for _ in range(steps):
        points = points_in_ball(_POINTS_OF_A_STEP)
        loss = torch.nn.functional.mse_loss(network(points[None])[0].squeeze(), target(points) / scale)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    torch.save(network.state_dict(), weights)
    return network


def points_in_ball(count: int) -> torch.Tensor:
    """Frequencies even in radius, so that low ones, which a search begins with, are fitted best."""
    directions = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    return directions * torch.rand(count, 1) * 0.5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("images", type=Path, help="stack, .mrcs; protein bright, not windowed")
    parser.add_argument("volume", type=Path, help="map of the same side and pixel size, .mrc")
    parser.add_argument("output", type=Path, help="poses, .pkl; figures go beside it, .json")
    parser.add_argument("--decoder", choices=["voxels", "network"], default="voxels")
    parser.add_argument("--fit-steps", type=int, default=3000, help="steps that fit the network to the map")
    parser.add_argument("--weights", type=Path, help="where the fitted network is kept")
    parser.add_argument("--count", type=int, default=32, help="images that are searched, the first of the stack")
    parser.add_argument("--batch", type=int, default=8, help="images of a call; 8 is abinit_homo's default")
    parser.add_argument("--base-order", type=int, default=2, help="2 is 4608 rotations")
    parser.add_argument("--refinements", type=int, default=4)
    parser.add_argument("--kept", type=int, default=8)
    parser.add_argument("--radii", type=int, nargs=2, default=[12, 32], help="first and last disc, Fourier pixels")
    parser.add_argument("--shift-extent", type=float, default=10.0, help="pixels")
    parser.add_argument("--shift-count", type=int, default=14)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)  # the unit below is the same in every run
    images = ImageDataset(str(arguments.images), lazy=False, norm=(0.0, 1.0), window=False)
    side, lattice = images.D - 1, Lattice(images.D, extent=0.5)
    model: torch.nn.Module = VoxelSlices(arguments.volume)
    unit, fit = 1.0, None
    if arguments.decoder == "network":
        # of the map, not of the images, so that kept weights serve clean and noisy images alike
        unit = float(model(points_in_ball(20_000)).std())
        weights = arguments.weights or arguments.output.with_suffix(".weights")
        slices, model = model, fitted_network(model, side, arguments.fit_steps, weights, unit)
        fit = fit_correlation(model, slices)
    search = PoseSearch(
        model.eval(),
        lattice,
        *arguments.radii,
        base_healpy=arguments.base_order,
        t_extent=arguments.shift_extent,
        t_ngrid=arguments.shift_count,
        niter=arguments.refinements,
        nkeptposes=arguments.kept,
    )
    rows = torch.arange(arguments.count)
    found = []
    with torch.no_grad():
        search.opt_theta_trans(images[rows[:1]][0] / unit)  # its tables of neighbours are filled as they are needed
        start, began = time.perf_counter(), time.process_time()
        for part in rows.split(arguments.batch):
            rotations, shifts, _ = search.opt_theta_trans(images[part][0] / unit)
            found.append((rotations.numpy(), shifts.numpy()))
        seconds, cpu = time.perf_counter() - start, time.process_time() - began
    rotations, shifts = (np.concatenate(part) for part in zip(*found, strict=True))
    with arguments.output.open("wb") as file:
        pickle.dump((rotations, shifts / side), file)
    record = {"images": arguments.count, "seconds": seconds, "cpu_seconds": cpu, "fit": fit}
    arguments.output.with_suffix(".json").write_text(json.dumps(record))
    print(json.dumps(record))


@torch.no_grad()
def fit_correlation(network: torch.nn.Module, slices: VoxelSlices) -> float:
    """Correlation of the network with the map over the band."""
    points = points_in_ball(20_000)
    both = torch.stack([network(points[None])[0].squeeze(), slices(points)])
    return float(torch.corrcoef(both)[0, 1])


if __name__ == "__main__":
    main()
