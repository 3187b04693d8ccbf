"""Peak memory against what was estimated, and against --max-ram.

python benchmarks/memory.py                        # about ten minutes
python benchmarks/memory.py --shape 64,96,96 --masks noise --networks u-net

Every line is infer.py or evaluate.py in a process of its own. `taken` is its peak above that of the same command with a
volume of 32³ voxels, which is the program and its imports; `told` is the estimate without what it counts for these.
Peaks of the whole process are compared with what it may take: --max-ram, or the whole estimate.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet import MicroNet, MicroRNet, Volume, write_volume  # noqa: E402
from micronet.core import ram  # noqa: E402
from micronet.core.volume import upright  # noqa: E402
from micronet.io import Segment, write_segmentation  # noqa: E402
from micronet.measure.pairs import Pair, Reading, check_reading, check_scoring, read_pair  # noqa: E402
from micronet.networks.weights import save_state  # noqa: E402

#: infer.py's threshold that makes the mask of an untrained network empty, full or noisy.
MASKS = {"empty": 0.999999, "full": 0.0, "noise": 0.5}
OPTIONS = {
    "none": (),
    "--report": ("--report",),
    "--label-tiff": ("--label-tiff",),
    "--mesh stl": ("--mesh", "stl"),
    "--mesh ply": ("--mesh", "ply"),
    "--measures": ("--measures",),
}
UNLIMITED = "1000GB"


def run(script: str, *arguments: object) -> tuple[int, int, str]:
    """Run a script of the repository; return its exit code, its peak in bytes, and what it said on standard error."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        return process.returncode, usage.ru_maxrss * 1024, errors.read()


def infer(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table for each run of infer.py."""
    for network in arguments.networks:
        weights = folder / f"{network}.pt"
        torch.manual_seed(0)
        save_state(weights, {"u-net": MicroNet, "ur-net": MicroRNet}[network]().state_dict())
        common = ("--model", weights, "--iterations", 2, "--threads", 1, "--force")
        for option in arguments.options:
            words = OPTIONS[option]
            _, base, _ = run("infer.py", folder / "tiny.nrrd", "-o", folder / "tiny", *common, *words)
            for mask in arguments.masks:
                told_whole = 0
                for way in ("whole", "slabs"):
                    limit = UNLIMITED if way == "whole" else f"{ram.PROGRAM // 10**6 + int(0.8 * told_whole / 1e6)}MB"
                    where = Path(tempfile.mkdtemp(dir=folder))  # nothing of an earlier run is in the way
                    code, peak, said = run(
                        "infer.py", folder / "a.nrrd", "-o", where, *common, *words,
                        "--threshold", MASKS[mask], "--max-ram", limit,
                    )  # fmt: skip
                    record = where / "a.json"
                    if code not in (0, 2) or not record.exists():
                        yield ("infer", network, mask, option, way, "", "", "", said.strip()[-60:])
                        continue
                    memory = json.loads(record.read_text(encoding="utf-8"))["memory"]
                    record.unlink()
                    told = memory["estimated_bytes"] - ram.PROGRAM
                    told_whole = told_whole or told
                    how = "slabs" if memory["slab_planes"] else "whole"
                    note = "refused" if "does not fit" in said else ""
                    yield row(("infer", network, mask, option, how), peak, base, told, limit, note)


def evaluate(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table for each run of evaluate.py."""
    rng = np.random.default_rng(1)
    for name, shape in (("tiny", (32, 32, 32)), ("a", arguments.shape)):
        for mask in MASKS:
            write_segmentation(
                folder / f"{name}_{mask}.seg.nrrd",
                [(Segment("x"), drawn(mask, shape, rng))],
                grid(np.empty(shape, bool)),
            )
    for option in [option for option in arguments.options if option in ("none", "--report", "--measures")]:
        words = () if option == "none" else (option,)
        where = ("-o", tempfile.mkdtemp(dir=folder), "--force")
        tiny = folder / "tiny_noise.seg.nrrd"
        _, base, _ = run("evaluate.py", tiny, "--annotation", tiny, *where, *words)
        for mask in arguments.masks:
            pair = Pair("a", folder / f"a_{mask}.seg.nrrd", folder / f"a_{mask}.seg.nrrd")
            free = ram.Allowance.of(10**15)
            needed = check_reading(pair, Reading(), free)
            masks = read_pair(pair)
            needed = max(
                needed, check_scoring(pair, masks, free, measures="--measures" in words, report="--report" in words)
            )
            del masks
            _, peak, _ = run("evaluate.py", pair.prediction, "--annotation", pair.annotation, *where, *words)
            yield row(("evaluate", "", mask, option, ""), peak, base, needed - ram.PROGRAM, UNLIMITED, "")


def row(what: tuple[str, ...], peak: int, base: int, told: int, limit: str, note: str) -> tuple[str, ...]:
    """Return a line: taken, told, their ratio, and the whole peak where it is above what it may be."""
    taken = peak - base
    allowed = told + ram.PROGRAM if limit == UNLIMITED else int(re.sub(r"\D", "", limit)) * 10**6
    if peak > allowed:
        note = f"{note} ABOVE: {peak / 1e6:.0f} of {allowed / 1e6:.0f} MB".strip()
    return (*what, f"{taken / 1e6:.0f}", f"{told / 1e6:.0f}", f"{taken / max(told, 1):.2f}", note)


def drawn(mask: str, shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return an empty, full or noisy mask."""
    return np.asarray(rng.random(shape, np.float32) > {"empty": 2.0, "full": -1.0, "noise": 0.5}[mask])


def grid(array: NDArray[np.generic]) -> Volume:
    """Return a volume of 2 µm voxels."""
    return Volume(array, upright((2, 2, 2)), space="left-posterior-superior", units="um")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    header = ("script", "network", "mask", "option", "way", "taken MB", "told MB", "taken / told", "note")
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, shape in (("tiny", (32, 32, 32)), ("a", arguments.shape)):
            write_volume(folder / f"{stem}.nrrd", grid(rng.integers(0, 255, shape, np.uint8)))
        for kind in arguments.scripts:
            for line in {"infer": infer, "evaluate": evaluate}[kind](arguments, folder):
                print("| " + " | ".join(line) + " |", flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=(96, 128, 128))
    p.add_argument("--networks", nargs="+", default=["u-net", "ur-net"])
    p.add_argument("--masks", nargs="+", default=list(MASKS), choices=MASKS)
    p.add_argument("--options", nargs="+", default=list(OPTIONS), choices=OPTIONS, metavar="OPTION")
    p.add_argument("--scripts", nargs="+", default=["infer", "evaluate"], choices=("infer", "evaluate"))
    return p


if __name__ == "__main__":
    main(build_parser().parse_args())
