"""Compare the engine with PyTorch and OpenVINO, side by side; `python benchmarks/engine.py --help`.

Times are minima over rounds in which every method takes its turn, so that whatever else the machine does falls on
all of them. Memory is the peak above the loaded program with its inputs, each method in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet import distort, size_map  # noqa: E402
from micronet.networks import engine  # noqa: E402
from micronet.networks.models import MicroNet, MicroRNet  # noqa: E402
from micronet.networks.normalize import MASK_OFFSET, MASK_SCALE  # noqa: E402
from micronet.training.distortion.distort import EditSettings  # noqa: E402
from micronet.training.losses import fbeta_loss  # noqa: E402

SHAPE = (217, 150, 218)
REFINEMENTS = 10


def example(shape, channels):
    """Return noise with a bright tube in it, (1, channels, Z, Y, X), and the tube."""
    rng = np.random.default_rng(1)
    z, y, x = np.indices(shape, sparse=True)
    tube = (y - shape[1] / 2) ** 2 + (x - shape[2] / 2 + 9 * np.sin(z / 20)) ** 2 < (min(shape) / 8) ** 2
    image = rng.standard_normal(shape, dtype=np.float32) + tube
    volume = np.zeros((1, channels, *shape), np.float32)
    volume[0, 0] = image
    return torch.from_numpy(volume), torch.from_numpy(tube)[None, None]


def model_of(network, layout):
    """Return the network with its weights in memory as `layout` says."""
    torch.manual_seed(0)
    model = network()
    return model.to(memory_format=torch.channels_last_3d) if layout == "channels_last_3d" else model


def prepare(method, task, shape):
    """Return a function that does `task` once by `method`."""
    network = MicroRNet if task == "ten refinements" else MicroNet
    x, target = example(shape, 2 if network is MicroRNet else 1)
    if method == "openvino":
        return prepare_openvino(network, x, task)
    model = model_of(network, method)
    x = x.to(memory_format=torch.channels_last_3d) if method == "channels_last_3d" else x
    choice = "numba" if method == "ours" else "torch"
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def forward():
        with torch.inference_mode():
            model(x)

    def training_step():
        optimiser.zero_grad()
        fbeta_loss(model(x), target, 1.0).backward()
        optimiser.step()

    def refine():
        with torch.inference_mode():
            x[0, 1] = -MASK_OFFSET
            for _ in range(REFINEMENTS):
                x[0, 1] = model(x)[0, 0] * MASK_SCALE - MASK_OFFSET

    def refine_ours():
        from micronet.networks.kernels.network import Refiner

        parameters = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
        refiner = Refiner(parameters, x[0, 0].numpy(), torch.get_num_threads())
        mask = np.zeros(shape, np.float32)
        for _ in range(REFINEMENTS):
            mask = refiner(mask, (MASK_SCALE, MASK_OFFSET))

    jobs = {"forward": forward, "training step": training_step, "ten refinements": refine}
    if method == "ours":
        jobs["ten refinements"] = refine_ours

    def job():
        engine.choose(choice)
        jobs[task]()

    return job


def prepare_openvino(network, x, task):
    """Return a function that runs the network converted to OpenVINO, float32."""
    import openvino

    engine.choose("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(model_of(network, "").eval(), example_input=x, input=[tuple(x.shape)])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    array = x.numpy()

    def job():
        if task == "forward":
            compiled(array)
            return
        array[0, 1] = -MASK_OFFSET
        for _ in range(REFINEMENTS):
            array[0, 1] = compiled(array)[0][0, 0] * MASK_SCALE - MASK_OFFSET

    return job


def resident(key):
    """Return a size from /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit("memory is read from /proc, which this system lacks; use --no-memory")


def peak_memory(method, task, threads, queue):
    """Put the peak memory of one run, above what the prepared process holds, into `queue`."""
    torch.set_num_threads(threads)
    prepare(method, task, (32, 32, 32))()  # compile, start threads
    job = prepare(method, task, SHAPE)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    job()
    queue.put(resident("VmHWM") - before)


def memory_of(method, task, threads):
    """Return `peak_memory` of a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_memory, args=(method, task, threads, queue))
    process.start()
    process.join()
    return queue.get(timeout=1) if process.exitcode == 0 else float("nan")


def minima(jobs, rounds):
    """Run every job once per round; return the shortest time of each."""
    best = dict.fromkeys(jobs, float("inf"))
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def compare(tasks, methods, rounds, threads, memory):
    """Time every method on every task; return and print the rows."""
    rows = []
    for task in tasks:
        able = [m for m in methods if not (m == "openvino" and task == "training step")]
        times = minima({m: prepare(m, task, SHAPE) for m in able}, rounds)
        for m in able:
            row = {"task": task, "method": m, "seconds": times[m]}
            row["times slower than ours"] = times[m] / times["ours"]
            row["memory MB"] = memory_of(m, task, threads) if memory else None
            rows.append(row)
            print(f"{task:16} {m:17} {times[m]:8.3f} s {row['times slower than ours']:6.1f}x", end="")
            print(f" {row['memory MB']:6.0f} MB" if memory else "", flush=True)
    return rows


def published_distortion(mask, sizes, ratio, bandwidth, random):
    """Distort literally as published: whole spectra, whole inverse FFTs."""
    places = []
    for axis, n in enumerate(mask.shape):
        spectrum = random.normal(0, 0.34, mask.shape)
        for other, m in enumerate(mask.shape):
            t = np.linspace(-1 / bandwidth, 1 / bandwidth, m)
            spectrum *= np.exp(-(t**2) / 2).reshape([-1 if other == a else 1 for a in range(3)])
        field = np.fft.ifftn(np.fft.fftshift(spectrum)).real
        field *= 0.34 * ratio / field.std()
        places.append(field * sizes + np.arange(n).reshape([-1 if axis == a else 1 for a in range(3)]))
    return ndimage.map_coordinates(mask.astype(np.float32), np.stack(places), order=1, mode="nearest")


def mask_tasks(rounds, threads):
    """Time size map and distortion beside scipy and the published formula."""
    mask = example(SHAPE, 1)[1][0, 0].numpy()
    rows = []

    def report(task, method, seconds, ours):
        rows.append({"task": task, "method": method, "seconds": seconds, "times slower than ours": seconds / ours})
        print(f"{task:24} {method:34} {seconds:8.3f} s {seconds / ours:7.1f}x", flush=True)

    ours = minima({0: lambda: size_map(mask, threads=threads)}, rounds)[0]
    start = time.perf_counter()
    distance = ndimage.distance_transform_cdt(mask, metric="chessboard")
    square = np.arange(-15, 16) ** 2
    ball = square[:, None, None] + square[:, None] + square <= 225
    expected = np.minimum(15, ndimage.maximum_filter(distance, footprint=ball))
    seconds = time.perf_counter() - start  # minutes: once is enough
    if not np.array_equal(expected, size_map(mask)):
        raise SystemExit("the size map differs from scipy's")
    report("size map", "ours", ours, ours)
    report("size map", "scipy's maximum filter, once", seconds, ours)

    sizes = size_map(mask)
    legacy, modern = np.random.RandomState(1), np.random.default_rng(1)
    only_walls = EditSettings(blank=0, lose=0, gain=0)
    with_regions = EditSettings(blank=0, lose=1, gain=1)
    jobs = {
        "published formula": lambda: published_distortion(mask, sizes, 1.2, 0.03, legacy),
        "ours, published, RandomState": lambda: distort(mask, sizes, 1.2, 0.03, legacy, "published", threads=threads),
        "ours, published, Generator": lambda: distort(mask, sizes, 1.2, 0.03, modern, "published", threads=threads),
        "ours, default, walls": lambda: distort(mask, sizes, rng=modern, edits=only_walls, threads=threads),
        "ours, default, walls and regions": lambda: distort(
            mask, sizes, rng=modern, edits=with_regions, threads=threads
        ),
    }
    times = minima(jobs, rounds)
    for name, seconds in times.items():
        rows.append({"task": "distortion", "method": name, "seconds": seconds})
        ratio = times["published formula"] / seconds
        print(f"{'distortion':24} {name:34} {seconds:8.3f} s, {ratio:5.1f} times as fast as published", flush=True)
    return rows


def accuracy():
    """Compare the probability with float64's at full size, with the bundled weights; return and print the errors."""
    rows = []
    for network, file in ((MicroNet, "u-net_phantom.pt"), (MicroRNet, "ur-net_phantom.pt")):
        model = network()
        model.load_state_dict(torch.load(ROOT / "trained_models" / file, weights_only=True))
        x, _ = example(SHAPE, 1 + model.mask_channels)
        found = {}
        with torch.no_grad():
            for choice in ("numba", "torch"):
                engine.choose(choice)
                found[choice] = model(x)
            expected = model.double()(x.double())
        row = {"weights": file}
        for choice, name in (("numba", "ours"), ("torch", "eager")):
            error = (found[choice].double() - expected).abs()
            row[f"{name}, largest error"], row[f"{name}, rms error"] = (
                error.max().item(),
                error.square().mean().sqrt().item(),
            )
        rows.append(row)
        print(", ".join(f"{key} {value:.2e}" if key != "weights" else value for key, value in row.items()), flush=True)
    return rows


def scaling(rounds, threads):
    """Time ours over sizes and threads."""
    rows = []
    sizes = (64, 96, 128, 192, 256, 384)
    times = minima({n: prepare("ours", "forward", (n, n, n)) for n in sizes}, rounds)
    for n, seconds in times.items():
        rows.append({"size": n, "threads": threads, "seconds": seconds, "ns per voxel": seconds / n**3 * 1e9})
        print(f"forward {n}^3, {threads} threads: {seconds:.4f} s, {seconds / n**3 * 1e9:.1f} ns per voxel", flush=True)
    for count in range(1, threads + 1):
        torch.set_num_threads(count)
        for task in ("forward", "training step"):
            seconds = minima({0: prepare("ours", task, SHAPE)}, rounds)[0]
            rows.append({"task": task, "threads": count, "seconds": seconds})
            print(f"{task} {SHAPE}, {count} threads: {seconds:.3f} s", flush=True)
    torch.set_num_threads(threads)
    return rows


FIRST = """
import time, numpy as np, torch
from micronet.networks.models import MicroRNet
from micronet.training.losses import fbeta_loss
model, x = MicroRNet(), torch.zeros(1, 2, 32, 32, 32)
start = time.perf_counter()
{}
print(time.perf_counter() - start)
"""


def compile_times():
    """Time the first use in a fresh process, with an empty and with a filled cache."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, code in (
            ("forward", "with torch.no_grad(): model(x)"),
            ("training step", "fbeta_loss(model(x), x[:, :1] == 0, 1.0).backward()"),
        ):
            for state in ("cold", "warm"):
                done = subprocess.run(
                    [sys.executable, "-c", FIRST.format(code)],
                    env={**os.environ, "NUMBA_CACHE_DIR": f"{folder}/{what}", "MICRONET_ENGINE": "numba"},
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                rows.append({"task": what, "state": state, "seconds": float(done.stdout)})
                print(f"first {what}, {state}: {float(done.stdout):.2f} s", flush=True)
    return rows


def processor():
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["forward", "training step", "ten refinements"])
    parser.add_argument(
        "--methods", nargs="+", default=["ours", "eager", "channels_last_3d", "openvino"], help="'ours' is required"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-masks", action="store_true", help="leave out size map (minutes, of scipy) and distortion")
    parser.add_argument("--no-accuracy", action="store_true")
    parser.add_argument("--no-scaling", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path, help="write everything here, with machine and versions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    packages = ("torch", "numba", "llvmlite", "numpy", "openvino")
    result = {
        "processor": processor(),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "shape": SHAPE,
        "methods": compare(
            arguments.tasks, arguments.methods, arguments.rounds, arguments.threads, not arguments.no_memory
        ),
    }
    if not arguments.no_masks:
        result["masks"] = mask_tasks(arguments.rounds, arguments.threads)
    if not arguments.no_accuracy:
        result["accuracy"] = accuracy()
    if not arguments.no_scaling:
        result["scaling"] = scaling(arguments.rounds, arguments.threads)
    if not arguments.no_compile:
        result["first use"] = compile_times()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
