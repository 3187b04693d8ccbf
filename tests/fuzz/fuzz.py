"""Throw spoilt files at every reader: each must be read, or be refused in one line, in little time and memory.

python tests/fuzz/fuzz.py --inputs 20000                     # about 20 minutes on one core
python tests/fuzz/fuzz.py --inputs 20000 --seed 7            # other inputs
python tests/fuzz/fuzz.py --only 1234 --keep found           # one input again, and the file that it is

Inputs are sound files (ours, other libraries', and real ones where ../shared lies beside the repository) with one to
four changes each. Input N of a seed is the same every time. A child process works them off, so that a crash or a hang
is one find and not the end.

What is a find: a crash; more than 5 seconds of computing, or 60 of waiting; any exception but MicronetError; a message
of more than one line or with control characters; a warning; more memory than twice what the file honestly holds, plus
16 MiB; a file that appears outside the folder of the input.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

SECONDS = 5
WAITING = 60
SLACK = 16 << 20
# More than any honest input here needs: what asks for more is refused by the system, and the message tells.
CEILING = 1 << 30


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--inputs", type=int, default=20000, metavar="N")
    p.add_argument("--seed", type=int, default=1, metavar="S")
    p.add_argument("--only", type=int, metavar="NUMBER", help="try this input alone and tell what came of it")
    p.add_argument("--kind", nargs="+", help="only inputs of these kinds, such as volume, mask or weights")
    p.add_argument("--keep", type=Path, metavar="DIR", help="keep the files that were finds here")
    p.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    arguments = p.parse_args()
    if arguments.worker:
        work(arguments)
        return 0
    if arguments.only is not None:
        arguments.start, arguments.inputs = arguments.only, arguments.only + 1
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        return supervise(arguments, Path(folder))


def supervise(arguments, folder):
    """Start children until all inputs are done; print what was found. Return the exit code."""
    began, following, finds = time.monotonic(), arguments.start, []
    progress, found = folder / "progress", folder / "finds"
    while following < arguments.inputs:
        command = [sys.executable, __file__, "--worker", folder, "--start", following, "--inputs", arguments.inputs]
        command += ["--seed", arguments.seed]
        command += ["--kind", *arguments.kind] if arguments.kind else []
        command += ["--keep", arguments.keep.resolve()] if arguments.keep else []
        ended = subprocess.run(
            [str(part) for part in command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if not progress.exists():
            print(f"the child does not start: {ended.stderr.decode()[-2000:]}")
            return 1
        reached = json.loads(progress.read_text())
        if reached["number"] < following:
            print(f"the child does not go on at {following}: {ended.stderr.decode()[-2000:]}")
            return 1
        if ended.returncode == 0:
            following = arguments.inputs
        else:
            what = {signal.SIGPROF: f"more than {SECONDS} s of computing", signal.SIGALRM: f"hung for {WAITING} s"}
            why = what.get(-ended.returncode, f"crash, exit {ended.returncode}: {ended.stderr.decode()[-800:]}")
            finds.append(reached | {"what": why})
            following = reached["number"] + 1
    finds += [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    for find in sorted(finds, key=lambda find: find["number"]):
        print(f"find: {json.dumps(find, ensure_ascii=False)}")
    tally = json.loads(progress.read_text()).get("tally", {})
    count = arguments.inputs - arguments.start
    print(f"{count:,} inputs in {time.monotonic() - began:.0f} s, seed {arguments.seed}: {len(finds)} finds")
    print(f"of the last child's inputs: {json.dumps(tally)}")
    return 1 if finds else 0


def work(arguments):
    """Try inputs one after the other; whatever they do is written down at once."""
    import numpy as np
    from readers import READERS, options_for
    from seeds import make_seeds, spoil

    from micronet.core.errors import MicronetError

    warnings.simplefilter("error")
    place = arguments.worker / "seeds"
    shutil.rmtree(place, ignore_errors=True)  # of a child that crashed
    place.mkdir()
    shared = ROOT.parent / "shared"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = make_seeds(place, shared if (shared / "data").is_dir() else None)
    if arguments.kind:
        seeds = [seed for seed in seeds if seed.kind in arguments.kind]
    # Every reader once with a sound file: what it needs for good is loaded before memory is measured.
    for seed in seeds:
        folder = lay_out(arguments.worker, seed, seed.content)
        with contextlib.suppress(MicronetError):
            READERS[seed.kind](folder / seed.name, options_for(seed, np.random.default_rng(0)))
    resource.setrlimit(resource.RLIMIT_DATA, (int(status("VmData")) * 1024 + CEILING,) * 2)
    tally = {}
    for number in range(arguments.start, arguments.inputs):
        rng = np.random.default_rng([arguments.seed, number])
        seed = seeds[number % len(seeds)]
        content = spoil(seed, rng)
        options = options_for(seed, rng)
        folder = lay_out(arguments.worker, seed, content)
        note = {"number": number, "kind": seed.kind, "name": seed.name}
        (arguments.worker / "progress").write_text(json.dumps(note | {"tally": tally}))
        given = READERS[seed.kind], folder / seed.name, options, max(seed.unpacked, len(content))
        problem, outcome = attempt(*given)
        if problem.startswith("took "):
            # Pages of programs that the system had put aside count too when they come back: what a file takes, it takes
            # twice.
            lay_out(arguments.worker, seed, content)
            problem, outcome = attempt(*given)
        tally[outcome] = tally.get(outcome, 0) + 1
        if set(os.listdir(arguments.worker)) - {"seeds", "input", "progress", "finds"}:
            problem = problem or f"wrote {os.listdir(arguments.worker)}"
        if problem:
            with (arguments.worker / "finds").open("a") as stream:
                stream.write(json.dumps(note | {"what": problem}) + "\n")
            if arguments.keep:
                shutil.copytree(folder, arguments.keep / str(number), dirs_exist_ok=True)
    (arguments.worker / "progress").write_text(json.dumps({"number": arguments.inputs, "tally": tally}))


def lay_out(place, seed, content):
    """Write an input and what belongs to it into an empty folder."""
    folder = place / "input"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in {**seed.beside, seed.name: content}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def attempt(read, path, options, honest):
    """Return what is wrong with how a file was taken, or an empty string; and whether it was read or refused.

    `honest` is how many bytes the file holds, unpacked.
    """
    from micronet.core.errors import MicronetError

    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the high-water mark starts anew
    before = status("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    spoken = io.StringIO()
    problem, outcome = "", "read"
    try:
        with contextlib.redirect_stdout(spoken), contextlib.redirect_stderr(spoken):
            honest = max(honest, read(path, options) or 0)
    except MicronetError as error:
        outcome = "refused"
        problem = fault_of_message(error)
    except Exception as error:
        outcome = "find"
        problem = f"{error!r:.300} at {''.join(traceback.format_tb(error.__traceback__))[-900:]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (status("VmHWM") - before) * 1024
    if grown > 2 * honest + SLACK:
        problem = problem or f"took {grown:,} bytes for a file that honestly holds {honest:,}"
    if spoken.getvalue():
        problem = problem or f"printed {spoken.getvalue()[:300]!r}"
    return problem, outcome


def fault_of_message(error):
    """Return what is wrong with the message of a refusal; a data set may list its problems, one a line."""
    from micronet.data.dataset import DataSetError

    text = str(error)
    lines = text.split("\n  ") if isinstance(error, DataSetError) else [text]
    if not text or any(not line.isprintable() for line in lines):
        return f"message that is not one printable line: {text[:300]!r}"
    if max(map(len, lines)) > 1010:
        return f"message of {len(text):,} characters: {text[:200]!r}"
    if "more memory than there is" in text:
        return f"asked for more than {CEILING:,} bytes: {text}"
    return ""


def status(name):
    """Return a number of kB from what Linux says of this process."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())
