"""Volumes larger than memory, and clusters: speed, memory, bits, and what is killed.

python benchmarks/scale.py                                    # all rows; an hour on two cores
python benchmarks/scale.py --rows bits kills --shapes 4 --kills 3
python benchmarks/scale.py --rows store cluster peaks --shape 64,128,160 --part 64,128,160 --max-ram 700MB
python benchmarks/scale.py --rows boxes windows --shape 96,384,384 --max-ram 650MB

store    infer.py on an OME-Zarr with --max-ram, against infer.py on a part of it that fits into memory: voxels a second
cluster  two processes of one thread, against one process of two threads
peaks    the highest memory of every process of such a cluster, against what is allowed
boxes    the same of a taught network, with a µ-Net on a grid of its own
windows  the same of a larger network (U-Net)
bits     tiles and cluster against `predict`, both networks, three refinements: voxels that differ
kills    SIGKILL of a worker in encode, of one in decode, of the driver, in turn: voxels that differ

Speed is of the step "predict" of the records (statistics, encoding, refinements); contestants take turns, and the least
of `--repeats` counts. Copying the store and writing the result are told beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed
os.environ["PYTHONPATH"] = str(ROOT)  # for the workers

from micronet import load_model, predict  # noqa: E402
from micronet.app.option_types import bytes_option  # noqa: E402
from micronet.core.ram import Allowance  # noqa: E402
from micronet.core.volume import Volume, upright  # noqa: E402
from micronet.io import write_volume  # noqa: E402
from micronet.io.pieces import PieceArray  # noqa: E402
from micronet.networks.kernels.scale_space import default_scales, feature_count  # noqa: E402
from micronet.networks.library import UNet  # noqa: E402
from micronet.networks.models import MicroNet  # noqa: E402
from micronet.networks.padding import Padding  # noqa: E402
from micronet.networks.pixel_trees import train_pixel_trees  # noqa: E402
from micronet.networks.registry import network_of  # noqa: E402
from micronet.networks.taught import Member, Taught  # noqa: E402
from micronet.networks.weights import save_state  # noqa: E402
from micronet.segment import store_plan  # noqa: E402
from micronet.segment.job import Job, Weights, segment_file  # noqa: E402
from micronet.segment.refine import Refinement  # noqa: E402
from micronet.segment.tile_plan import TilePlan, plan_tiles  # noqa: E402
from micronet.segment.tiles import predict_in_tiles  # noqa: E402

#: Every remainder of 4 and of 16, thin axes, more than one tile along each.
SHAPES = [
    (33, 66, 53), (20, 70, 61), (41, 57, 64), (50, 51, 52), (37, 41, 113), (61, 40, 34), (83, 32, 47), (9, 97, 70),
    (64, 64, 64), (63, 65, 66), (32, 129, 38), (101, 35, 36), (34, 32, 130), (70, 69, 37), (45, 81, 43), (71, 39, 72),
    (128, 33, 32), (47, 59, 61), (36, 47, 48), (49, 63, 79),
]  # fmt: skip
NETWORKS = ("u-net_phantom", "ur-net_phantom")


def made(shape: tuple[int, ...], seed: int = 0) -> Volume:
    """Return blurred noise, uint8; a volume that is large is one block again and again."""
    block = tuple(min(length, 128) for length in shape)
    noise = gaussian_filter(np.random.default_rng(seed).random(block, np.float32), 2)
    noise = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    tiled = np.tile(noise, [-(-length // side) for length, side in zip(shape, block, strict=True)])
    return Volume(tiled[tuple(map(slice, shape))], upright((4.5, 4.5, 4.5)), units="um")


class Run:
    """infer.py in a process of its own: its record, and the peak of it and of each process that it starts."""

    def __init__(self, path: Path, output: Path, *words: object) -> None:
        command = [sys.executable, str(ROOT / "infer.py"), str(path), "-o", str(output), "--force", *map(str, words)]
        process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.driver, self.workers = 0, dict[int, int]()
        while process.poll() is None:
            self.driver = max(self.driver, _peak(process.pid))
            for child in process.children(recursive=True):
                self.workers[child.pid] = max(self.workers.get(child.pid, 0), _peak(child.pid))
            time.sleep(0.1)
        said = process.stdout.read()
        if process.returncode:
            raise SystemExit(said)
        stem = path.name.partition(".")[0]
        self.record = json.loads((output / f"{stem}.json").read_text(encoding="utf-8"))
        self.seconds: dict[str, float] = self.record["seconds"]

    @property
    def words(self) -> str:
        """What the steps took."""
        return ", ".join(f"{step} {lasted:.1f} s" for step, lasted in self.seconds.items())


def _peak(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def stores(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield the rows of one process against memory, and of two processes against one."""
    threads = ("--iterations", arguments.iterations, "--threads", 2)
    contestants: dict[str, tuple[Any, ...]] = {}
    if "store" in arguments.rows:
        contestants["memory"] = (folder / "part.nrrd", *threads)
    contestants["store"] = (folder / "a.ome.zarr", *threads, "--max-ram", arguments.max_ram)
    if {"cluster", "peaks"} & set(arguments.rows):
        two = ("--iterations", arguments.iterations, "--cluster", 2, "--max-ram", arguments.max_ram)
        contestants["cluster"] = (folder / "a.ome.zarr", *two)
    best: dict[str, Run] = {}
    for number in range(arguments.repeats):
        for name, (path, *words) in contestants.items():
            run = Run(path, folder / f"{name}{number}", *words)
            if name not in best or run.seconds["predict"] < best[name].seconds["predict"]:
                best[name] = run
    sizes = {name: math.prod(arguments.part if name == "memory" else arguments.shape) for name in best}
    rates = {name: sizes[name] * arguments.iterations / run.seconds["predict"] / 1e6 for name, run in best.items()}
    for name, run in best.items():
        yield f"| {name} | {rates[name]:.1f} million voxels a second and refinement | {run.words} |"
    for one, other in (("store", "memory"), ("cluster", "store")):
        if one in rates and other in rates:
            yield f"| {one} / {other} | **{rates[one] / rates[other]:.2f}** | 0.8 wanted |"
    if "peaks" in arguments.rows:
        yield peaks("peaks", best["cluster"], arguments.max_ram)


def peaks(name: str, run: Run, max_ram: str) -> str:
    """Return the row of the highest memory of each process of a cluster of two."""
    workers = sorted(run.workers.values(), reverse=True)[:2]
    told, allowed = run.record["memory"]["estimated_bytes"] / 1e6, bytes_option(max_ram) / 1e6
    words = f"driver {run.driver / 1e6:.0f} MB, workers {workers[0] / 1e6:.0f} and {workers[1] / 1e6:.0f} MB"
    return f"| {name} | {words} | told {told:.0f} MB, allowed {allowed:.0f} MB |"


def taught() -> nn.Module:
    """Return a taught network of every kind of step: trees, evened ones, and a µ-Net on the evened image."""
    rng, spacing = np.random.default_rng(0), (4.5, 4.5, 4.5)
    scales = default_scales(spacing)
    rows = rng.normal(size=(2000, feature_count(len(scales)))).astype(np.float32)
    trees = [train_pixel_trees(rows, rows[:, 1] > 0, scales, around_um=around) for around in (0.0, 180.0)]
    unet = Member("unet", MicroNet().eval(), 0.5, step_um=6.75, around_um=180.0)
    return Taught([*(Member("trees", one) for one in trees), unet], spacing).eval()


def of_others(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield the peaks of a cluster of two with networks that go through a store in boxes, or in windows."""
    for name, make in (("boxes", taught), ("windows", UNet)):
        if name in arguments.rows:
            save_state(folder / f"{name}.pt", make().state_dict())
            two = ("--model", folder / f"{name}.pt", "--cluster", 2, "--max-ram", arguments.max_ram)
            run = Run(folder / "a.ome.zarr", folder / name, *two)
            how = run.record["memory"]
            cut = how["boxes_zyx"] if name == "boxes" else how["windows"]["sides_zyx"]
            yield peaks(f"{name} of {' x '.join(map(str, cut))}", run, arguments.max_ram)


def small_tiles(shape: tuple[int, int, int], **_: object) -> TilePlan:
    """Return a plan of many small tiles, the coarse levels in tiles on the disk."""
    return TilePlan(shape, tuple(length if length == 32 else 36 for length in shape), (8, 8, 8), True, 0, 0)


@contextmanager
def cluster_of_two() -> Iterator[Any]:
    """Give a client of two workers; small volumes are cut into many tiles."""
    import distributed

    store_plan.plan_tiles = small_tiles  # type: ignore[assignment]
    try:
        with (
            distributed.LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
    finally:
        store_plan.plan_tiles = plan_tiles


class Watched:
    """A job of a cluster: its last probability as it lies on the disk, and something to do at a tile."""

    def __init__(self, client: Any, weights: Weights, output: Path) -> None:
        self._address, self._weights, self._output = client.scheduler.address, weights, output
        self.probability: NDArray[np.float32] = np.zeros(0, np.float32)
        self.lost = 0

    def __call__(self, path: Path, iterations: int, at: Any = lambda done: None) -> None:
        """Segment; `at` is called with the number of tiles that are done."""

        def on_tile(done: int, total: int) -> None:
            at(done)
            if done == total:
                arrays = self._output.glob(".*.tiles/probability.*")
                self.probability = PieceArray(max(arrays, key=lambda name: int(name.suffix[1:])))[:]

        job = Job(self._output, iterations=iterations, cluster=self._address)
        said: list[str] = []
        segment_file(path, self._weights, job, say=said.append, on_tile=on_tile, force=True)
        self.lost = sum("is lost" in line for line in said)


def bits(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield a row for each network."""
    with cluster_of_two() as client:
        for network in NETWORKS:
            weights = Weights.load(ROOT / "trained_models" / f"{network}.pt")
            wrong, count = [0, 0], 0
            for number, shape in enumerate(SHAPES[: arguments.shapes]):
                volume = made(shape, number)
                path = write_volume(folder / f"{network}_{number}.ome.zarr", volume)
                expected = predict(volume, weights.model, 3)
                plan = small_tiles(Padding(shape).shape)
                with predict_in_tiles(volume.array, volume, weights.model, folder, plan, Refinement(3)) as found:
                    wrong[0] += int(np.count_nonzero(found[:] != expected))
                segment = Watched(client, weights, folder / f"{network}_{number}")
                segment(path, 3)
                wrong[1] += int(np.count_nonzero(segment.probability != expected))
                count += expected.size
            passes = network_of(weights.model).passes(3)
            what = f"bits, {network}, {arguments.shapes} shapes, {passes} refinements"
            found_wrong = f"tiles **{wrong[0]}**, cluster **{wrong[1]}**"
            yield f"| {what} | differing of {count:,}: {found_wrong} | 0 wanted |"


def kills(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Yield a row for each kind of process that is killed."""
    weights = Weights.load(ROOT / "trained_models" / "ur-net_phantom.pt")
    volume = made((61, 70, 83))
    path, expected = write_volume(folder / "k.ome.zarr", volume), predict(volume, weights.model, 6)
    done = {"worker in encode": [0, 0, 0], "worker in decode": [0, 0, 0], "driver": [0, 0, 0]}
    for number in range(arguments.kills):
        kind = list(done)[number % 3]
        with cluster_of_two() as client:  # a new one: Dask need not bring back whom we killed
            segment = Watched(client, weights, folder / f"k{number}")
            if kind == "driver":
                _kill_driver(client, path, folder / f"k{number}", number)
                segment(path, 6)
            else:
                moment = 3 if kind == "worker in encode" else 14 + number

                def kill(tile: int, moment: int = moment, client: Any = client) -> None:
                    if tile == moment:
                        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

                segment(path, 6, kill)
        row = done[kind]
        row[0] += 1
        row[1] += int(np.count_nonzero(segment.probability != expected))
        row[2] += segment.lost
    for kind, (times, wrong, lost) in done.items():
        told = "" if kind == "driver" else f", {lost} told"
        yield f"| SIGKILL of the {kind}, {times} times{told} | voxels that differ: **{wrong}** | 0 wanted |"


def _kill_driver(client: Any, path: Path, output: Path, number: int) -> None:
    """Start infer.py, and kill it after some refinements."""
    words = [path, "-o", output, "--iterations", 6, "--cluster", client.scheduler.address, "--threads", 1]
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "infer.py"), *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    progress, until = output / f".{path.name.partition('.')[0]}.tiles" / "progress.json", time.monotonic() + 300
    wanted = number // 3 % 5
    while time.monotonic() < until and driver.poll() is None:
        if progress.exists() and progress.read_text(encoding="utf-8").count("flipped") >= wanted:
            break
        time.sleep(0.005)
    driver.kill()
    if driver.wait() == 0:
        raise SystemExit("the driver was done before it was killed")


def main(arguments: argparse.Namespace) -> None:
    """Print the rows."""
    load_model(ROOT / "trained_models" / "ur-net_phantom.pt")
    threads = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {Allowance.of(None).words}"
    print(f"{threads}\n\n| | measured | |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if {"store", "cluster", "peaks", "boxes", "windows"} & set(arguments.rows):
            write_volume(folder / "a.ome.zarr", made(arguments.shape))
        for row in of_others(arguments, folder):
            print(row, flush=True)
        if {"store", "cluster", "peaks"} & set(arguments.rows):
            write_volume(folder / "part.nrrd", made(arguments.part))
            for row in stores(arguments, folder):
                print(row, flush=True)
        for kind, rows in (("bits", bits), ("kills", kills)):
            if kind in arguments.rows:
                for row in rows(arguments, folder):
                    print(row, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""

    def sizes(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(",")))

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ("store", "cluster", "peaks", "boxes", "windows", "bits", "kills")
    p.add_argument("--rows", nargs="+", choices=every, default=list(every))
    p.add_argument("--shape", type=sizes, default=(256, 1024, 1024), help="of the store (256,1024,1024)")
    p.add_argument("--part", type=sizes, default=(256, 256, 512), help="of what is segmented in memory (256,256,512)")
    p.add_argument("--max-ram", default="2GB")
    p.add_argument("--iterations", type=int, default=10)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--shapes", type=int, default=20, help="of the bits (20)")
    p.add_argument("--kills", type=int, default=20)
    p.add_argument(
        "--folder", type=Path, help="a disk with room for ten bytes a voxel (default: that of temporary files)"
    )
    return p


if __name__ == "__main__":
    main(build_parser().parse_args())
