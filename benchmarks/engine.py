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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from micronet import engine
from micronet.losses import fbeta_loss
from micronet.models import MicroNet, MicroRNet

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
            x[0, 1] = -0.05
            for _ in range(REFINEMENTS):
                x[0, 1] = model(x)[0, 0] * 4.588314677 - 0.05

    def refine_ours():
        from micronet.kernels.network import Refiner

        parameters = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
        refiner = Refiner(parameters, x[0, 0].numpy(), torch.get_num_threads())
        mask = np.full(shape, -0.05, np.float32)
        for _ in range(REFINEMENTS):
            probability = refiner(mask)
            np.multiply(probability, np.float32(4.588314677), out=mask)
            mask -= np.float32(0.05)

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
        array[0, 1] = -0.05
        for _ in range(REFINEMENTS):
            array[0, 1] = compiled(array)[0][0, 0] * 4.588314677 - 0.05

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
from micronet.models import MicroRNet
from micronet.losses import fbeta_loss
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
                    cwd=Path(__file__).resolve().parents[1],
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
    if not arguments.no_scaling:
        result["scaling"] = scaling(arguments.rounds, arguments.threads)
    if not arguments.no_compile:
        result["first use"] = compile_times()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
