"""A data set small enough to train on within a test, and the training scripts as a person starts them."""

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from forking import fork

from micronet import Volume, write_volume
from micronet.core.volume import upright
from micronet.io import Segment, write_segmentation

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (32, 36, 33)
Y_CROP = 33


def write_dataset(folder, train=2, validation=1, test=1, caution=""):
    """Write volumes with a bright tube each, their annotations and tiny.toml; return the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(8)
    lines = [f'name = "tiny"\ncaution = "{caution}"', f'[defaults]\ny_crop = {Y_CROP}\nsegment = "full seg"']
    names = [
        (split, n)
        for split, count in (("train", train), ("validation", validation), ("test", test))
        for n in range(count)
    ]
    for split, number in names:
        name = f"{split}_{number}"
        _, y, x = np.indices(SHAPE)
        tube = (y - rng.integers(12, 20)) ** 2 + (x - rng.integers(12, 20)) ** 2 < 40
        array = (60 + 70 * tube + rng.normal(0, 10, SHAPE)).clip(0, 255).astype(np.uint8)
        volume = Volume(array, upright((4.5, 4.5, 4.5)), units="um", space="left-posterior-superior")
        write_volume(folder / f"{name}.nrrd", volume)
        write_segmentation(folder / f"{name}.seg.nrrd", [(Segment(name="full seg"), tube)], volume)
        lines.append(
            f'[[volume]]\nname = "{name}"\nsplit = "{split}"\nimage = "{name}.nrrd"\nannotation = "{name}.seg.nrrd"'
        )
    path = folder / "tiny.toml"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def start(script, *arguments, cwd):
    """Start a training script in a process of its own, with one thread; return the Popen."""
    return fork(
        [ROOT / script, "--threads", "1", *arguments],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, typed="", timeout=240):
    """Give a process its standard input; return (exit code, standard output, standard error)."""
    out, err = process.communicate(typed, timeout)
    return process.returncode, out, err


def wait_for(process, condition, seconds=240):
    """Wait until a condition holds while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kill(process):
    """SIGKILL, and wait for the end."""
    process.send_signal(signal.SIGKILL)
    if process.stdout is not None and not process.stdout.closed:
        process.communicate()


def unfinished(folder):
    """Return what nobody works on any more: temporary files, journals of outputs, locks."""
    return [path for path in folder.rglob("*") if ".tmp" in path.name or path.suffix in (".writing", ".lock")]


@contextmanager
def ctrl_c_when(condition):
    """Send this process a real SIGINT, once, as soon as a condition holds while the block runs."""
    over = threading.Event()

    def send():
        while not over.wait(0.02):
            if condition():
                os.kill(os.getpid(), signal.SIGINT)
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
