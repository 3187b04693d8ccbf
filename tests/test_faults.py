"""What goes wrong around a script that writes results: full and read-only disks, signals, inputs that change."""

import gzip
import io
import os
import signal
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from disks import fill
from running import exit_code

import evaluate
import infer
import make_phantoms
import prepare
from micronet import MicroRNet, Volume, read_volume, write_volume
from micronet.core.errors import FileError
from micronet.core.volume import upright
from micronet.io import Segment, open_recording, open_stack, read_segmentation, write_segmentation
from micronet.networks.weights import save_state

pytestmark = pytest.mark.usefixtures("engine_ready")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a volume, its mask and weights."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    mask = np.zeros((40, 44, 48), bool)
    mask[8:20, 8:20, :] = True
    array = (80 + 60 * mask + rng.normal(0, 8, mask.shape)).astype(np.uint8)
    volume = Volume(array, upright((4.5, 4.5, 4.5)), units="um", space="left-posterior-superior")
    write_volume(tmp_path / "a.nrrd", volume)
    write_segmentation(tmp_path / "a_true.seg.nrrd", [(Segment(name="full seg"), mask)], volume)
    torch.manual_seed(11)
    save_state(tmp_path / "ur-net.pt", MicroRNet().state_dict())
    return tmp_path


COMMANDS = {
    "infer": (infer, "a.nrrd --model ur-net.pt --iterations 1 --threads 1 -o out"),
    "prepare": (prepare, "a.nrrd --domain log --iso 9 -o out"),
    "evaluate": (evaluate, "a_true.seg.nrrd --annotation a_true.seg.nrrd -o out"),
    "make_phantoms": (make_phantoms, "1 --shape 64,64,64 -o out"),
}


def call(name, *more):
    """Run a script in this process; return its exit code."""
    script, arguments = COMMANDS[name]
    return exit_code(script, *arguments.split(), *more)


def all_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("left", [0, 30_000])
def test_a_full_disk_is_told_in_one_line_and_the_next_run_does_the_rest(folder, name, left, small_disk, capsys):
    out = small_disk(folder / "out", "4m")
    ballast = fill(out, left)
    code = call(name)
    err = capsys.readouterr().err
    if name == "evaluate" and left:  # its tables are that small
        assert code == 0
        return
    assert code == 2
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert not [path for path in all_files(out) if ".tmp." in path.name]
    ballast.unlink()
    assert call(name) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_told_in_one_line(folder, name, read_only, capsys):
    read_only(folder / "out")
    assert call(name) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Read-only file system" in err
    assert all_files(folder / "out") == []


@pytest.mark.parametrize(("name", "more"), [("infer", "--iterations 3000 --force"), ("prepare", "--iso 1 --force")])
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_work_leaves_no_half_written_file_and_keeps_what_was_there(
    folder, name, more, number, expected, capsys
):
    assert call(name) == 0
    before = {path: path.read_bytes() for path in all_files(folder)}
    main, over = threading.get_ident(), threading.Event()

    def send():
        while signal.getsignal(number) == signal.SIG_DFL:
            time.sleep(0.005)
        while main_is_not_in("predict_whole", "_write_structural"):
            if over.wait(0.005):
                return
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as a terminal that closes

    def main_is_not_in(*names):
        frame, found = sys._current_frames()[main], set()
        while frame is not None:
            found.add(frame.f_code.co_name)
            frame = frame.f_back
        return not found & set(names)

    sender = threading.Thread(target=send)
    sender.start()
    code = call(name, *more.split())
    over.set()
    sender.join()
    assert code == expected
    assert {path: path.read_bytes() for path in all_files(folder)} == before
    assert signal.getsignal(number) == signal.SIG_DFL


def write_inputs(folder):
    """One file of every format; return the names with what reads them."""
    array = np.random.default_rng(2).integers(0, 255, (24, 40, 41), np.uint8)
    volume = Volume(array, upright((4.5, 4.5, 4.5)), units="um", space="left-posterior-superior")
    readers = {}
    for name in ("a.nrrd", "a.nii", "a.nii.gz", "a.tif", "a.npy", "a.ome.tif"):
        write_volume(folder / name, volume)
        readers[name] = read_volume
    text = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 41 40 24\nencoding: %s\n\n"
    (folder / "flat.nrrd").write_bytes(text % b"raw" + array.tobytes())
    (folder / "packed.nrrd").write_bytes(text % b"gzip" + gzip.compress(array.tobytes()))
    tifffile.imwrite(folder / "zlib.tif", array, compression="zlib", metadata=None, photometric="minisblack")
    (folder / "a.raw").write_bytes(array.tobytes())
    readers |= {"flat.nrrd": read_volume, "packed.nrrd": read_volume, "zlib.tif": read_volume}
    readers["a.raw"] = partial(read_volume, shape=array.shape, dtype="uint8")
    write_segmentation(folder / "a.seg.nrrd", [(Segment(name="full seg"), array > 99)], volume)
    readers["a.seg.nrrd"] = read_segmentation
    for name in ("a.nrrd", "a.nii", "a.tif", "a.npy", "flat.nrrd", "packed.nrrd", "zlib.tif"):
        readers[f"planes of {name}"] = planes
    tifffile.imwrite(folder / "time.tif", array.reshape(4, 6, 40, 41), imagej=True, metadata={"axes": "TZYX"})
    readers["time.tif"] = points
    return array, readers


def planes(path):
    with open_stack(path) as stack:
        return [stack.read(first, first + 4).copy() for first in range(0, stack.shape[0], 4)]


def points(path):
    with open_recording(path) as recording:
        return [recording.read(number) for number in range(recording.count)]


class CutAtCall:
    """Cut a file to a part of its length at the n-th call into the system or a library that follows."""

    NAMES = frozenset({"read", "readinto", "fromfile", "seek", "open", "stat", "tell"})

    def __init__(self, path, number, part):
        self._path, self._number, self._part = path, number, part
        self.calls = 0

    def __call__(self, frame, event, function):
        if event == "c_call" and getattr(function, "__name__", "") in self.NAMES:
            if self.calls == self._number:
                os.truncate(self._path, int(self._part * self._path.stat().st_size))
            self.calls += 1

    def watch(self, read):
        sys.setprofile(self)
        try:
            return read()
        finally:
            sys.setprofile(None)


def test_an_input_that_is_cut_short_while_it_is_read_is_refused_or_was_read_before(tmp_path):
    _, readers = write_inputs(tmp_path)
    refused = 0
    for name, read in readers.items():
        path = tmp_path / name.removeprefix("planes of ")
        whole = path.read_bytes()
        counted = CutAtCall(path, -1, 1)
        expected = voxels(counted.watch(partial(read, path)))
        for number in np.unique(np.linspace(0, counted.calls - 1, 8).astype(int)):
            for part in (0, 0.5):
                path.write_bytes(whole)
                try:
                    found = CutAtCall(path, number, part).watch(partial(read, path))
                except FileError as error:
                    refused += 1
                    assert str(error).isprintable()  # noqa: PT017 - either is right
                    assert path.name in str(error)  # noqa: PT017
                else:
                    assert voxels(found) == expected, f"{name} cut at call {number} to {part}"
        path.write_bytes(whole)
    assert refused > 100


def voxels(found):
    """Return the bytes of whatever a reader returned."""
    if isinstance(found, list):
        return b"".join(voxels(part) for part in found)
    array = getattr(found, "array", getattr(found, "labels", found))
    with io.BytesIO() as stream:
        np.save(stream, np.asarray(array))
        return stream.getvalue()
