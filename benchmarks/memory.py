"""Peak memory against what was estimated, and against --max-ram.

python benchmarks/memory.py                        # fifteen minutes
python benchmarks/memory.py --shape 64,80,80 --masks noise --only=--measures

Every cell is infer.py or evaluate.py in a process of its own: `taken / told`. Taken is its peak above that of the same
command with a volume of 32³ voxels, which is the program and its imports; told is the estimate without what it counts
for these. `peak` is the highest peak of the row as a part of what the process may take: of --max-ram, or the whole
estimate. Whatever is above that is marked. Measures of noise take minutes, and are left out unless the volume is small.
"""

from __future__ import annotations

import argparse
import json
import math
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
from micronet.io import Segment, Sources, write_segmentation  # noqa: E402
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
#: Parts of what the whole takes that are tried until it is done in slabs.
SHARES = (0.8, 0.9, 0.98)
#: Voxels of which noise is measured.
MEASURED = 500_000


#: A process counts what it had before it became the script too, which is what started it: so something small does.
STARTER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(script: str, *arguments: object) -> tuple[int, str]:
    """Run a script of the repository; return its peak in bytes, and what it said on standard error."""
    command = [sys.executable, "-c", STARTER, sys.executable, str(ROOT / script), *map(str, arguments)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(ran.stdout) * 1024, ran.stderr


class Row:
    """A line of the table: a cell for each mask."""

    def __init__(self, *what: str) -> None:
        self._cells, self._parts = list(what), [0.0]

    def add(self, peak: int, base: int, told: int, allowed: int, note: str = "") -> None:
        """Add what was taken and told."""
        above = f" ABOVE {allowed / 1e6:.0f}: {peak / 1e6:.0f}" if peak > allowed else ""
        self._cells.append(f"{(peak - base) / 1e6:.0f} / {told / 1e6:.0f}{note}{above}")
        self._parts.append(peak / allowed)

    def skip(self, why: str = "") -> None:
        """Add a cell without numbers."""
        self._cells.append(why)

    def __str__(self) -> str:
        return f"| {' | '.join(self._cells)} | {max(self._parts):.2f} |"


def infer(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Yield a line of the table for each option of infer.py, whole and in slabs."""
    for network in arguments.networks:
        weights = folder / f"{network}.pt"
        torch.manual_seed(0)
        save_state(weights, {"u-net": MicroNet, "ur-net": MicroRNet}[network]().state_dict())
        common = ("--model", weights, "--iterations", 2, "--threads", 1, "--force")
        run("infer.py", folder / "tiny.nrrd", "-o", folder / "tiny", *common)  # compiles
        for option in arguments.only or OPTIONS:
            words = (*common, *OPTIONS[option])
            base, _ = run("infer.py", folder / "tiny.nrrd", "-o", folder / "tiny", *words)
            rows = [Row("infer", network, option, way) for way in ("whole", "slabs")]
            for mask in arguments.masks:
                if mask == "noise" and option == "--measures" and math.prod(arguments.shape) > MEASURED:
                    for row in rows:
                        row.skip()
                    continue
                told = add_infer(rows[0], folder, words, mask, base, UNLIMITED)
                for share in SHARES:
                    limit = f"{ram.PROGRAM // 10**6 + int(share * told / 1e6)}MB"
                    if add_infer(rows[1], folder, words, mask, base, limit, slabs=True):
                        break
                else:
                    rows[1].skip("does not fit")
            yield from rows


def add_infer(
    row: Row, folder: Path, words: tuple[object, ...], mask: str, base: int, limit: str, *, slabs: bool = False
) -> int:
    """Run infer.py and add what it took; return what it told, 0 where that was not as it should be."""
    where = Path(tempfile.mkdtemp(dir=folder))  # nothing of an earlier run is in the way
    options = ("-o", where, *words, "--threshold", MASKS[mask], "--max-ram", limit)
    peak, said = run("infer.py", folder / "a.nrrd", *options)
    if not (where / "a.json").exists():
        return 0
    memory = json.loads((where / "a.json").read_text(encoding="utf-8"))["memory"]
    if slabs and not memory["slab_planes"] and "does not fit" not in said:
        return 0
    allowed = memory["estimated_bytes"] if limit == UNLIMITED else int(limit[:-2]) * 10**6
    told: int = memory["estimated_bytes"] - ram.PROGRAM
    row.add(peak, base, told, allowed, " (option refused)" if "does not fit" in said else "")
    return told


def evaluate(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Yield a line of the table for each option of evaluate.py."""
    rng = np.random.default_rng(1)
    for name, shape in (("tiny", (32, 32, 32)), ("a", arguments.shape)):
        for mask in MASKS:
            write_segmentation(
                folder / f"{name}_{mask}.seg.nrrd",
                [(Segment("x"), drawn(mask, shape, rng))],
                grid(np.empty(shape, bool)),
            )
    for option in [option for option in arguments.only or OPTIONS if option in ("none", "--report", "--measures")]:
        words = ("-o", tempfile.mkdtemp(dir=folder), "--force", *OPTIONS[option])
        tiny = folder / "tiny_noise.seg.nrrd"
        base, _ = run("evaluate.py", tiny, "--annotation", tiny, *words)
        row = Row("evaluate", "", option, "")
        for mask in arguments.masks:
            if mask == "noise" and option == "--measures" and math.prod(arguments.shape) > MEASURED:
                row.skip()
                continue
            pair = Pair("a", folder / f"a_{mask}.seg.nrrd", folder / f"a_{mask}.seg.nrrd")
            free = ram.Allowance.of(10**15, ram.SCORING)
            asked = {"measures": option == "--measures", "report": option == "--report"}
            with Sources() as sources:
                needed = check_reading(pair, Reading(), sources, free)
                masks = read_pair(pair, Reading(), sources)
            needed = max(needed, check_scoring(pair, masks, free, **asked))
            del masks
            peak, _ = run("evaluate.py", pair.prediction, "--annotation", pair.annotation, *words)
            row.add(peak, base, needed - ram.SCORING, needed)
        yield row


def drawn(mask: str, shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return an empty, full or noisy mask."""
    return np.asarray(rng.random(shape, np.float32) > {"empty": 2.0, "full": -1.0, "noise": 0.5}[mask])


def grid(array: NDArray[np.generic]) -> Volume:
    """Return a volume of 2 µm voxels."""
    return Volume(array, upright((2, 2, 2)), space="left-posterior-superior", units="um")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    header = ("script", "network", "option", "way", *arguments.masks, "peak")
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, shape in (("tiny", (32, 32, 32)), ("a", arguments.shape)):
            write_volume(folder / f"{stem}.nrrd", grid(rng.integers(0, 255, shape, np.uint8)))
        for kind in arguments.scripts:
            for line in {"infer": infer, "evaluate": evaluate}[kind](arguments, folder):
                print(line, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=(96, 128, 128))
    p.add_argument("--networks", nargs="+", default=["u-net", "ur-net"])
    p.add_argument("--masks", nargs="+", default=list(MASKS), choices=MASKS)
    p.add_argument("--only", action="append", choices=OPTIONS, metavar="OPTION", help="as --only=--measures")
    p.add_argument("--scripts", nargs="+", default=["infer", "evaluate"], choices=("infer", "evaluate"))
    return p


if __name__ == "__main__":
    main(build_parser().parse_args())
