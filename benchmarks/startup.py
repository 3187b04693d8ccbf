"""Time how long a person waits: --help of every script, infer.py on the demo, and strokes in napari's widget Teach.

python benchmarks/startup.py                                 # this checkout alone
python benchmarks/startup.py --against ../before --json startup.json
python benchmarks/startup.py --strokes                       # the widget alone, of this checkout

Each line is a script in a process of its own, as a person starts it. In every round both checkouts take their turn, and
the shortest time of each counts. Round 0, which reads files into memory and compiles, does not. What the cores worked
for it (user and system time) tells more than the clock where other programs run.

A stroke is answered by the code of the widget without its windows, on 100 x 100 x 100 voxels of the demo with 60
strokes of 3 x 20 voxels, to which one is added each time. The pause of half a second after a stroke is told apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.app.napari.teacher import Planes, Seen, Teacher, mask_planes  # noqa: E402
from micronet.core.provenance import versions, write_json  # noqa: E402
from micronet.core.volume import Volume  # noqa: E402
from micronet.io import read_annotation, read_volume  # noqa: E402

SCRIPTS = (
    "infer",
    "evaluate",
    "prepare",
    "make_phantoms",
    "bootstrap_micrornet",
    "train_micronet",
    "train_micrornet",
    "teach",
)
#: What --help of any script may take, in seconds.
WANTED = 0.5
#: What the answer to a further stroke may take, in seconds, the pause before it included.
STROKE_WANTED, PAUSE = 3.0, 0.5


def seconds(checkout: Path, words: list[str]) -> tuple[float, float]:
    """Run a script of a checkout in an empty folder; return how long it took, and how long the cores worked for it."""
    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, str(checkout / words[0]), *words[1:]],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        took, after = time.perf_counter() - began, os.times()
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(words)}: {done.stderr}")
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return took, worked


def main() -> None:
    """Take the times and print the table."""
    p = argparse.ArgumentParser(description="Time --help of every script, and infer.py on the demo.")
    p.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, such as of the commit before")
    p.add_argument("--rounds", type=int, default=5, metavar="N")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every time too")
    p.add_argument("--strokes", action="store_true", help="time the widget's strokes alone")
    arguments = p.parse_args()
    if arguments.strokes:
        tell_strokes(arguments.rounds, arguments.json)
        return
    checkouts = [ROOT, *([arguments.against.resolve()] if arguments.against else [])]
    table = {}
    print("| command | seconds | of the cores |" + (" before | of the cores | ratios |" if arguments.against else ""))
    print("|---|---|---|" + ("---|---|---|" if arguments.against else ""))
    for words in (*([f"{script}.py", "--help"] for script in SCRIPTS), ["infer.py"]):
        table[" ".join(words)] = line(checkouts, words, arguments.rounds)
    slow = [command for command, (ours, *_) in table.items() if "--help" in command and min(ours)[0] > WANTED]
    print(f"above {WANTED} s: {', '.join(slow) or 'none'}")
    if arguments.json:
        write_json(arguments.json, {"versions": versions(), "seconds": table})
    tell_strokes(arguments.rounds, None)


def line(checkouts: list[Path], words: list[str], rounds: int) -> list[list[tuple[float, float]]]:
    """Time one command in each checkout, print its line of the table, and return every time but the first."""
    times = [[seconds(checkout, words) for checkout in checkouts] for _ in range(rounds + 1)][1:]
    columns = [list(column) for column in zip(*times, strict=True)]
    best = [tuple(map(min, zip(*column, strict=True))) for column in columns]
    cells = [f"{took:.2f} | {worked:.2f}" for took, worked in best]
    cells += [f"{best[0][0] / took:.2f}, {best[0][1] / worked:.2f}" for took, worked in best[1:]]
    print(f"| `{' '.join(words)}` | {' | '.join(cells)} |", flush=True)
    return columns


def tell_strokes(rounds: int, path: Path | None) -> None:
    """Print what the first stroke on an image takes, and what further ones do; the shortest and the longest."""
    array, labels, more = painted()
    volume = Volume(array).with_spacing((4.5, 4.5, 4.5))
    seen, mask = Seen(array, volume), np.zeros(array.shape, np.uint8)
    answer(Teacher(), seen, labels, mask)  # compiles
    teacher = Teacher()
    times = [answer(teacher, seen, labels, mask)]
    for stroke in more[:rounds]:
        labels = np.where(stroke > 0, stroke, labels)
        times.append(answer(teacher, seen, labels, mask))
    print("\n| Teach, 100 x 100 x 100 | seconds, shortest and longest | plane that is shown | of the cores |")
    print("|---|---|---|---|")
    for what, some in (("first stroke", times[:1]), ("a further stroke", times[1:])):
        cells = [f"{min(column):.2f} to {max(column):.2f}" for column in zip(*some, strict=True)]
        print(f"| {what} | {' | '.join(cells)} |")
    longest = max(took for took, _, _ in times[1:]) + PAUSE
    print(f"with the pause at most {longest:.2f} s, wanted {STROKE_WANTED:g}")
    if path:
        write_json(path, {"versions": versions(), "strokes": times})


def painted() -> tuple[NDArray[Any], NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Return a part of the demo, the strokes on it (1 lumen, 2 background), and further ones to add one by one."""
    box = np.s_[:100, :100, :100]
    array = np.ascontiguousarray(read_volume(ROOT / "struct_iso" / "E5D_phantom_demo.nrrd").array[box])
    truth = read_annotation(ROOT / "annotations" / "annotation_phantom_demo_iso_full.seg.nrrd").mask.array[box] > 0
    rng, strokes = np.random.default_rng(0), []
    for number in range(60 + 20):
        places = np.argwhere(truth == (number % 2 == 0))
        z, y, x = places[rng.integers(len(places))]
        stroke = np.zeros(array.shape, np.uint8)
        brush = np.s_[z, max(y - 1, 0) : y + 2, max(x - 10, 0) : x + 10]
        stroke[brush] = np.where(truth[brush], 1, 2)
        strokes.append(stroke)
    return array, np.maximum.reduce(strokes[:60]), strokes[60:]


def answer(
    teacher: Teacher, seen: Seen, labels: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> tuple[float, float, float]:
    """Let the widget's code answer; return seconds to the whole mask, to the plane that is shown, and of the cores."""
    began, cpu, shown = time.perf_counter(), time.process_time(), []

    def show(told: object) -> None:
        if isinstance(told, Planes):
            mask_planes(told, labels, 0.5, mask)
            shown.append(time.perf_counter() - began)

    teacher.work(seen, labels, whole=False, around=len(mask) // 2)(show)
    return time.perf_counter() - began, shown[0], time.process_time() - cpu


if __name__ == "__main__":
    main()
