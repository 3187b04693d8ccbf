"""Time how long a script takes to answer: --help of every script, and infer.py on the demo.

python benchmarks/startup.py                                 # this checkout alone
python benchmarks/startup.py --against ../before --json startup.json

Each line is a script in a process of its own, as a person starts it. In every round both checkouts take their turn, and
the shortest time of each counts. Round 0, which reads files into memory and compiles, does not. What the cores worked
for it (user and system time) tells more than the clock where other programs run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from micronet.core.provenance import versions, write_json  # noqa: E402

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
    arguments = p.parse_args()
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


def line(checkouts: list[Path], words: list[str], rounds: int) -> list[list[tuple[float, float]]]:
    """Time one command in each checkout, print its line of the table, and return every time but the first."""
    times = [[seconds(checkout, words) for checkout in checkouts] for _ in range(rounds + 1)][1:]
    columns = [list(column) for column in zip(*times, strict=True)]
    best = [tuple(map(min, zip(*column, strict=True))) for column in columns]
    cells = [f"{took:.2f} | {worked:.2f}" for took, worked in best]
    cells += [f"{best[0][0] / took:.2f}, {best[0][1] / worked:.2f}" for took, worked in best[1:]]
    print(f"| `{' '.join(words)}` | {' | '.join(cells)} |", flush=True)
    return columns


if __name__ == "__main__":
    main()
