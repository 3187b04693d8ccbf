"""Kill trainings at random moments, resume them, and look at every file that is left.

python tests/faults/kill_training.py --kills 200             # about 3 minutes of computing
python tests/faults/kill_training.py --kills 200 --seed 5    # other moments

A training of a small data set that saves after every other step is started, killed (SIGKILL) after computing for a
random time, resumed, killed again, until it ends by itself; then the next one begins, µ-Net and µr-Net in turn. After
each kill every weight file, session, log, manifest and plot must be whole, and what is resumed must end with the bits
of a training that was never killed. Sessions are forked from a process that has loaded PyTorch already, which saves
their start.
"""

import argparse
import contextlib
import csv
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
import torch
from PIL import Image
from tiny_training import write_dataset

import train_micronet
import train_micrornet
from micronet.app.terminal import run
from micronet.networks import engine
from micronet.networks.weights import load_model, load_state
from micronet.training.curves import Curve, write_curves
from micronet.training.run_files import Places, Run

SCRIPTS = {"u-net": (train_micronet, "10; finish"), "ur-net": (train_micrornet, "4 2; val; finish")}
OPTIONS = ("--threads", "1", "--validate-every", "2", "--keep-every", "6", "--iterations", "2")
SESSION_SECONDS = 600


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kills", type=int, default=200, metavar="N")
    p.add_argument("--seed", type=int, default=1, metavar="S")
    arguments = p.parse_args()
    torch.set_num_threads(1)
    engine.make_ready("training")
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        return campaign(Path(place), arguments.kills, rng)


def campaign(place, kills, rng):
    """Kill until it has been done often enough; print what was lost. Return the exit code."""
    dataset = write_dataset(place / "data", train=2, validation=1, test=0)
    write_curves(place / "plot.png", {"a": Curve([0, 1], [0.5, 0.6], [0.5, 0.4])}, Curve(), title="")
    for network in SCRIPTS:
        trial = place / f"trial {network}"
        wait(begin(network, trial, "--dataset", dataset))
        # Whatever a session loads is loaded here, once, and its children's collectors do not touch what is alive now.
        for module in (trial / "modules").read_text().split():
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    gc.collect()
    gc.freeze()
    whole, seconds = {}, {}
    for network in SCRIPTS:
        whole[network] = place / f"whole {network}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = wait(begin(network, whole[network], "--dataset", dataset))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds[network] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if code != 0:
            print(f"{network} does not train: {(whole[network] / 'output').read_text()}")
            return 1
        print(f"{network} computes for {seconds[network]:.2f} s", flush=True)
    done, ended, before_first_save, lost = 0, 0, 0, []
    began = time.monotonic()
    while done < kills:
        network = list(SCRIPTS)[ended % len(SCRIPTS)]
        folder = place / f"run {ended}"
        options = ["--dataset", dataset]
        while True:
            process = begin(network, folder, *options)
            wait_until_computed(process, rng.uniform(0, 0.6 * seconds[network]))
            os.kill(process, signal.SIGKILL)
            code = wait(process)
            if code != -signal.SIGKILL:
                break
            done += 1
            if done % 20 == 0:
                print(f"{done} kills", flush=True)
            saved, trained = look_at(folder, network)
            if saved is None:
                before_first_save += 1
                shutil.rmtree(folder, ignore_errors=True)
            else:
                lost.append(trained - saved)
                options = ["--resume"]
        if code != 0:
            print(f"after {done} kills {network} ended with {code}: {(folder / 'output').read_text()}")
            return 1
        compare(whole[network], folder)
        shutil.rmtree(folder)
        ended += 1
    print(
        f"{done} kills, {before_first_save} of them before the first save; {ended} trainings ended with the bits of "
        f"one that was never killed; no file was damaged; steps done again at most {max(lost, default=0)}; "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0


def begin(network, folder, *options):
    """Fork a session that trains, or goes on; return its process number."""
    folder.mkdir(exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        script, commands = SCRIPTS[network]
        os.chdir(folder)
        for number, (name, mode) in enumerate((("/dev/null", "r"), ("output", "w"), ("output", "a"))):
            with open(name, mode) as stream:
                os.dup2(stream.fileno(), number)
        # The command in hand is finished by --resume itself.
        rest = commands.partition("; ")[2] if "--resume" in options else commands
        run(script.build_parser(), script.main, [*OPTIONS, *map(str, options), "--run", rest])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        Path("modules").write_text(" ".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_until_computed(process, seconds):
    """Wait until a session has computed for so long, or has ended; on a busy machine that is the fairer clock."""
    while True:
        try:
            computed = int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if computed > seconds * 1e9 or state == "Z":
            return
        time.sleep(0.001)


def wait(process):
    """Return the exit code, or minus the number of the signal that ended it."""
    end = time.monotonic() + SESSION_SECONDS
    while time.monotonic() < end:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise SystemExit(f"a session did not end within {SESSION_SECONDS} s")


def look_at(folder, network):
    """Read every file that a killed session left; return the step that was saved, None before a first, and the last."""
    checkpoints, logs = folder / "checkpoints", folder / "logs"
    for path in visible(checkpoints):
        if path.suffix == ".pt":
            load_model(path)
    trained = 0
    for path in visible(logs):
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".csv":
            text = path.read_text(encoding="utf-8")
            rows = list(csv.reader(text.splitlines()))
            if not text.endswith("\n") or {len(row) for row in rows} != {11}:
                raise SystemExit(f"{path} has a torn line: {text[-200:]!r}")
            trained = sum(row[1] == "step" for row in rows)
    for path in visible(folder / "predictions"):
        if path.stat().st_size == 0:
            raise SystemExit(f"{path} is empty")
    session = checkpoints / f"{network}.session"
    if not session.is_file():
        return None, trained
    _, state = Run.reopen(session, Places(checkpoints, logs))
    return state["trainer"]["step"], trained


def visible(folder):
    return [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def compare(whole, folder):
    """Stop unless a resumed training left the same files with the same weights and log as an uninterrupted one."""
    for place in ("checkpoints", "logs"):
        one, other = ({path.name: path for path in visible(root / place)} for root in (whole, folder))
        if one.keys() != other.keys():
            raise SystemExit(f"{place}: {sorted(one)} became {sorted(other)}")
        hidden = [path.name for path in (folder / place).iterdir() if ".tmp." in path.name]
        if hidden:
            raise SystemExit(f"{place}: half-written files were left: {hidden}")
        for name, path in one.items():
            if name.endswith(".pt"):
                expected, found = load_state(path), load_state(other[name])
                if not all(torch.equal(expected[key], found[key]) for key in expected):
                    raise SystemExit(f"{name} holds other weights than without a kill")
            elif name.endswith(".csv"):
                expected, found = (untimed(root) for root in (path, other[name]))
                if expected != found:
                    raise SystemExit(f"{name} differs from the log without a kill")


def untimed(log):
    return [line.rsplit(",", 1)[0] for line in log.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
