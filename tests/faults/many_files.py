"""Segment many files in one run of infer.py that is killed and taken up again; look at its memory and open files.

python tests/faults/many_files.py --files 500                # some 5 minutes of computing

Volumes of 32 x 33 x 34 voxels are written, every eighth of them bad: empty, cut off, not a volume, all NaN, constant or
too small. infer.py is started on their folder, killed (SIGKILL) when a tenth is done and again at three tenths, and
left alone the third time. Then every good one must have its files with the numbers of `predict`, done once and not
again after a kill; every bad one must be told; and the last third of the last run must not have more files open than
the second, nor more than 3% more memory: give 200 files or more, as pictures wait for the garbage collector for some
thirty files.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np
import torch
from PIL import Image

from micronet import MicroRNet, Volume, predict, read_volume, write_volume
from micronet.core.errors import MicronetError
from micronet.networks.weights import save_state

KILLED_AT = (0.1, 0.3)
OPTIONS = ("--iterations", "2", "--threads", "1")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--files", type=int, default=500, metavar="N")
    p.add_argument("--seed", type=int, default=1, metavar="S")
    arguments = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        return campaign(Path(place), arguments.files, np.random.default_rng(arguments.seed))


def campaign(place, count, rng):
    """Do it; print what was found. Return the exit code."""
    model = write_weights(place / "ur-net_test.pt", seed=1)
    good = write_scans(place / "scans", count, rng)
    output = place / "out"
    made, finds, began = {}, [], time.monotonic()
    for share in (*KILLED_AT, None):
        process = start(place / "said", place / "scans", "--model", place / "ur-net_test.pt", "-o", output)
        seen = watch(process, output, count + 1 if share is None else share * count)
        if share is not None:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        if share is not None and code != -signal.SIGKILL:
            finds.append(f"ended with {code} before it was killed")
        now = modified(output)
        finds += [f"{name} was done again after a kill" for name, when in made.items() if when != now.get(name)]
        finds += damaged(output)
        made = now
        print(f"{len(made)} of {len(good)} good files done", flush=True)
    seconds = time.monotonic() - began

    said = (place / "said").read_text(encoding="utf-8")
    told = {f"{len(good) - seen[0][0]} done", f"{seen[0][0]} skipped", f"{count - len(good)} failed"}
    if code != 2 or set(said.splitlines()[-1].split(", ")) != told:
        finds.append(f"the last run ended with {code}, not with {told}: {said[-2000:]}")
    hidden = [path.name for path in output.iterdir() if ".tmp." in path.name]
    if len(hidden) > len(KILLED_AT):
        finds.append(f"more than one half-written file was left by a kill: {hidden}")
    for path in good:
        if not (output / f"{path.stem}.json").exists():
            finds.append(f"{path.name} was not done")
            continue
        levels = read_volume(output / f"{path.stem}_probability.nrrd").array
        if not np.array_equal(levels, expected_levels(path, model)):
            finds.append(f"{path.name} has other numbers than predict gives")
    thirds = [seen[1 + len(seen) * part // 3 : 1 + len(seen) * (part + 1) // 3] for part in range(3)]
    handles, resident = ([max(entry[what] for entry in part) for part in thirds] for what in (1, 2))
    if handles[2] > handles[1] or resident[2] > 1.03 * resident[1]:
        finds.append("open files or memory grow")
    print(
        f"{count} files, {count - len(good)} of them bad, {len(KILLED_AT)} kills, {seconds:.0f} s. In the three thirds "
        f"of the last run at most {handles} open files and {[round(size) for size in resident]} MB"
    )
    print(f"Half-written files (.….tmp.…) left by the kills: {len(hidden)}")
    print("\n".join(finds) or "nothing lost, nothing damaged, nothing done twice")
    return 1 if finds else 0


def write_weights(path, seed):
    """Write the weights of an untrained µr-Net; return it."""
    torch.manual_seed(seed)
    model = MicroRNet()
    save_state(path, model.state_dict())
    return model


def write_scans(folder, count, rng, bad_every=8):
    """Write volumes, some of them bad in one of six ways; return the paths of the good ones."""
    folder.mkdir()
    good = []
    for number in range(count):
        path = folder / f"v{number:03}.nrrd"
        array = rng.integers(0, 255, (32, 33, 34), np.uint8)
        if number % bad_every != bad_every - 1:
            good.append(path)
        else:
            kind = number // bad_every % 6
            if kind < 3:
                write_volume(path, Volume(array))
                whole = path.read_bytes()
                path.write_bytes((b"", whole[: len(whole) // 2], b"no volume at all")[kind])
                continue
            array = (np.full(array.shape, np.nan, np.float32), np.full_like(array, 7), array[:20])[kind - 3]
        write_volume(path, Volume(array))
    return good


def start(said, *arguments):
    """Start infer.py; what it says goes into a file."""
    command = [sys.executable, str(ROOT / "infer.py"), *map(str, arguments), *OPTIONS]
    with open(said, "wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | {"PYTHONIOENCODING": "utf-8"})


def watch(process, output, until):
    """Wait until so many files are done, or it ends; return (files done, open files, MB) after each of them."""
    seen = []
    while process.poll() is None:
        done = len(list(output.glob("*.json")))
        try:
            handles = len(os.listdir(f"/proc/{process.pid}/fd"))
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000
        except (OSError, TypeError):  # it has ended meanwhile
            break
        if not seen or done > seen[-1][0]:
            seen.append((done, handles, resident))
        if done >= until:
            break
        time.sleep(0.05)
    return seen


def _records(output):
    """Return the records of volumes: that of the table over all of them is another."""
    return [path for path in output.glob("*.json") if not path.name.endswith(".csv.json")]


def modified(output):
    """Return when the record of each file that is done was written."""
    return {path.name: path.stat().st_mtime_ns for path in _records(output)}


def damaged(output):
    """Return what is wrong with the files that the records name: a record is written when all others are whole."""
    finds = []
    for path in _records(output):
        for file in json.loads(path.read_text(encoding="utf-8"))["files"].values():
            try:
                if file.endswith(".nrrd"):
                    read_volume(output / file)
                else:
                    with Image.open(output / file) as picture:
                        picture.load()
            except (MicronetError, OSError) as error:
                finds.append(str(error))
    return finds


def expected_levels(path, model):
    return np.rint(predict(read_volume(path), model, 2) * 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
