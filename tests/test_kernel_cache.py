"""Compiled kernels are kept where there is room; where there is none, the engine works without."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from disks import fill
from tqdm import tqdm

from micronet import Volume, write_volume
from micronet.app.computing import set_engine
from micronet.networks.kernels.jit import LANES, cache_folder

COMPILE = """
import resource, signal, sys
from numba import types
if "small" in sys.argv:  # files may have a hundred bytes: what a full disk does, without a disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from micronet.networks.kernels import jit
from one_kernel import add, store
assert add(1.0, 2.0) == 3.0
assert jit.compile_c(types.void(types.int64), store)
print(jit.unkept())
"""
KERNEL = """
from micronet.networks.kernels.jit import jit
@jit
def add(a, b):
    return a + b
def store(a):
    pass
"""


def compile_two(folder, *arguments):
    (folder / "one_kernel.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, "-B", "-c", COMPILE, *arguments],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(folder / "cache"),
            "PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = [path for path in (folder / "cache").rglob("*") if path.suffix in (".nbi", ".nbc")]
    return done.stdout.strip(), kept


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_kernels_are_compiled_where_nothing_can_be_kept_and_the_reason_is_told(tmp_path):
    reason, kept = compile_two(tmp_path, "small")
    assert reason.endswith("': File too large")
    assert str(tmp_path) in reason
    assert kept == []
    reason, kept = compile_two(tmp_path)
    assert reason == ""
    assert len(kept) == 4
    for path in kept:  # as a disk leaves it that fails
        path.write_bytes(path.read_bytes()[:10])
    assert compile_two(tmp_path)[0].endswith("': a damaged file")


SET_ENGINE = """
from micronet.app.computing import set_engine
print(set_engine("auto", ["forward"]))
"""


def test_a_full_disk_costs_the_cache_and_not_the_work(tmp_path, small_disk, engine_ready):
    """All kernels but one are there already, so that this test need not compile them all."""
    ready = cache_folder()
    size = sum(path.stat().st_size + 8192 for path in ready.rglob("*"))
    disk = small_disk(tmp_path / "disk", size)
    there = disk / ready.name
    shutil.copytree(ready, there)
    for path in [*there.glob("*.compiled"), *there.rglob("coarse.pool_stack-*")]:
        path.unlink()
    fill(disk)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(disk), "MICRONET_LANES": str(LANES)}

    def start():
        done = subprocess.run(
            [sys.executable, "-B", "-c", SET_ENGINE], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "numba engine\n"
        return done.stderr

    said = start()
    assert f"the compiled engine is not kept ('{there}': No space left on device): the next start" in said
    assert "Traceback" not in said
    (disk / "ballast").unlink()
    assert start() == "compiling the engine for this machine, once; this takes about half a minute\n"


def test_what_is_told_of_compiling_stands_above_the_bar_of_what_waits_for_it(tmp_path, monkeypatch):
    """Before, it stood behind the bar, in the same line."""

    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    cache_folder.cache_clear()
    try:
        with tqdm(total=10, file=screen, disable=None):
            set_engine("auto", ["perceptrons"])
    finally:
        cache_folder.cache_clear()
    before, _, _ = screen.getvalue().partition("compiling the engine")
    assert "0/10" in before
    assert before.endswith("\r")


SKIP = """
import sys, infer
code = infer.main(infer.build_parser().parse_args(sys.argv[1:]))
print("numba" in sys.modules, "micronet.networks.kernels" in sys.modules)
sys.exit(code)
"""


def test_a_batch_that_only_skips_neither_compiles_nor_loads_the_engine(tmp_path, engine_ready, rng, root):
    """Before, the whole engine was compiled where there was none yet, and then nothing computed."""
    for name in "ab":
        write_volume(tmp_path / f"{name}.nrrd", Volume(rng.integers(0, 255, (32, 32, 32), np.uint8)))
    words = [tmp_path / "a.nrrd", tmp_path / "b.nrrd", "--model", "u-net_phantom", "-o", tmp_path / "out"]
    command = [sys.executable, "-B", "-c", SKIP, *map(str, words)]
    first = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert "2 done\nTrue True\n" in first.stdout
    cold = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "nothing")}
    second = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=cold)
    assert "2 skipped\nFalse False\n" in second.stdout
    assert second.stderr == ""
    assert not (tmp_path / "nothing").exists()


COMPILED = """
import gc, sys
from numba.core.dispatcher import Dispatcher
from micronet.networks import engine
{before}
def compiled():
    ours = (each for each in gc.get_objects() if isinstance(each, Dispatcher) and "micronet" in each.__module__)
    return {{(each.__qualname__, signature) for each in ours for signature in each.signatures}}
ready = compiled()
{then}
print(sorted(compiled() - ready))
"""
LESSON = """
import numpy as np
from micronet.training.teach.course import teach
from micronet.training.teach.lesson import Lesson
rng = np.random.default_rng(0)
labels = np.zeros((8, 16, 16), np.uint8)
labels[4] = 2
labels[4, 4:12, 4:12] = 1
image = (labels == 1) + rng.normal(size=labels.shape).astype(np.float32)
course = teach(Lesson(image.astype(np.float32), labels, (1.0, 1.0, 1.0)))
course.network.predict(image.astype(np.float32), (1.0, 1.0, 1.0))
"""
VALIDATION = """
import torch
from micronet.networks.models import MicroNet
model = MicroNet()
model(torch.zeros(1, 1, 32, 32, 32)).sum().backward()
with torch.no_grad():
    model(torch.zeros(1, 1, 32, 32, 32))
"""


@pytest.mark.parametrize(("work", "then"), [("trees", LESSON), ("training", VALIDATION)])
def test_once_ready_nothing_is_compiled_behind_the_back_of_a_person(work, then):
    script = COMPILED.format(before=f"engine.make_ready({work!r})", then=then)
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
