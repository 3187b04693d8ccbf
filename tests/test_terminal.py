"""What reaches the terminal of any script: nothing that steers it; and what happens when there is no terminal."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from running import exit_code as call
from tiny_training import write_dataset

import bootstrap_micrornet
import evaluate
import infer
import make_phantoms
import prepare
import train_micronet
from micronet import MicroNet, MicroRNet, Volume, write_volume
from micronet.app.terminal import run
from micronet.core.volume import upright
from micronet.io import Segment, write_segmentation
from micronet.networks.weights import load_model, save_state

pytestmark = pytest.mark.usefixtures("engine_ready")

# Clears the screen, rings, colours (also in the 8-bit form), writes backwards.
HOSTILE = "\x1b[2J\x07\x1b]0;title\x07\x9b31m\u202e\r"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a volume, its mask and weights, all under names that would steer a terminal."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    mask = np.zeros((32, 33, 34), bool)
    mask[8:20, 8:20, :] = True
    array = (80 + 60 * mask + rng.normal(0, 8, mask.shape)).astype(np.uint8)
    volume = Volume(array, upright((4.5, 4.5, 4.5)), units="um", space="left-posterior-superior")
    for name in (HOSTILE, "plain"):
        write_volume(tmp_path / f"{name}.nrrd", volume)
        write_segmentation(tmp_path / f"{name}_true.seg.nrrd", [(Segment(name=f"seg {name.rstrip()}"), mask)], volume)
    torch.manual_seed(11)
    for network in (MicroNet, MicroRNet):
        # Half precision under longer names: reading them says what was converted, and of which file.
        state = {f"{HOSTILE}.{key}": tensor.half() for key, tensor in network().state_dict().items()}
        torch.save(state, tmp_path / f"{network.name}{HOSTILE}.pt")
        save_state(tmp_path / f"{network.name}.pt", network().state_dict())
    return tmp_path


def data_set(folder):
    """A data set whose name, caution and volumes' names would steer a terminal; written so that TOML takes it."""
    path = write_dataset(folder / "data", train=1, validation=1, test=0)
    hostile = HOSTILE.encode("unicode_escape").decode().replace("\\x", "\\u00")
    text = path.read_text(encoding="utf-8").replace('caution = "', f'caution = "{hostile}')
    text = text.replace("{name}", "").replace('name = "', f'name = "{hostile}')
    path.write_text(text, encoding="utf-8")
    return path


MASK = f"{HOSTILE}_true.seg.nrrd"
VOLUME = f"{HOSTILE}.nrrd"
COMMANDS = [
    (infer, [VOLUME, "--model", f"ur-net{HOSTILE}.pt", "--iterations", "1", "--annotation", MASK, "-o", HOSTILE], 0),
    (infer, [VOLUME, "--model", "ur-net.pt", "--annotation", MASK, "--segment", "none", "-o", HOSTILE], 2),
    (infer, ["gone\x1b[2J.nrrd", f"too{VOLUME}", "--model", "ur-net.pt", "-o", "out"], 2),
    (infer, [VOLUME, f"--{HOSTILE}"], 2),
    (evaluate, [MASK, "--annotation", MASK, "-o", HOSTILE], 0),
    (prepare, [VOLUME, "--domain", "log", "--iso", "9", "-o", HOSTILE], 0),
    (prepare, [MASK, "--back-to", VOLUME, "-o", HOSTILE], 0),
    (make_phantoms, ["--from-annotation", MASK, "-o", HOSTILE], 0),
    (bootstrap_micrornet, [f"u-net{HOSTILE}.pt", f"{HOSTILE}.pt"], 0),
]


@pytest.mark.parametrize(("script", "arguments", "expected"), COMMANDS)
def test_names_of_files_and_segments_cannot_steer_the_terminal(folder, script, arguments, expected, capsys):
    code = call(script, *arguments)
    out, err = capsys.readouterr()
    assert code == expected, err
    assert [c for c in out + err if not c.isprintable() and c != "\n"] == []
    assert r"\x1b[2J" in out + err


def test_neither_can_a_data_set(folder, capsys):
    code = call(train_micronet, "--dataset", data_set(folder), "--threads", 1, "--run", "1; val; load x\x1b[2Jy")
    out, err = capsys.readouterr()
    assert code == 2
    assert [c for c in out + err if not c.isprintable() and c != "\n"] == []
    assert out.count(r"\x1b[2J") > 2


def test_an_internal_error_cannot_either(capsys):
    def fail(_):
        raise RuntimeError(HOSTILE)

    with pytest.raises(SystemExit, match="1"):
        run(infer.build_parser(), fail, [])
    assert r"internal error (RuntimeError: \x1b[2J" in capsys.readouterr().err


class TestNobodyReads:
    """The output goes to a pipe whose reader has gone, to a full disk, or nowhere."""

    ARGUMENTS = ("plain.nrrd", "--model", "ur-net.pt", "--iterations", "1", "--threads", "1", "-o", "out")
    WRITTEN = ("plain.json", "plain.seg.nrrd", "plain_preview.png", "plain_probability.nrrd")

    @pytest.fixture
    def pipe_without_reader(self):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", encoding="utf-8") as stream:
            yield stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what was not written goes there

    def test_a_reader_that_has_gone_ends_it_quietly_and_no_file_is_torn(
        self, folder, monkeypatch, capsys, pipe_without_reader
    ):
        pipe_without_reader.reconfigure(line_buffering=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", pipe_without_reader)
            assert call(infer, *self.ARGUMENTS) == 1
        assert not (folder / "out").exists()
        assert call(infer, *self.ARGUMENTS) == 0
        assert sorted(os.listdir(folder / "out")) == sorted(self.WRITTEN)
        assert capsys.readouterr().err == ""

    def test_a_training_does_not_need_a_reader(self, folder, monkeypatch, pipe_without_reader):
        dataset = write_dataset(folder / "data", train=1, validation=1, test=0)
        pipe_without_reader.reconfigure(line_buffering=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", pipe_without_reader)
            call(train_micronet, "--dataset", dataset, "--threads", 1, "--run", "2; finish")
        load_model(folder / "checkpoints" / "u-net_dice_2.pt")

    def test_a_full_disk_is_told(self, folder, monkeypatch, capsys):
        with open("/dev/full", "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert call(bootstrap_micrornet, "u-net.pt", "ur.pt") == 1
        assert capsys.readouterr().err == "error: cannot write to standard output: No space left on device\n"
        load_model(folder / "ur.pt")

    def test_with_no_streams_at_all_files_are_not_taken_for_them(self, folder):
        # What a process opens first then has the numbers 0, 1 and 2, into which libraries write what they have to say.
        command = f"'{sys.executable}' '{bootstrap_micrornet.__file__}' u-net.pt ur.pt <&- >&- 2>&-"
        assert subprocess.run(["bash", "-c", command], cwd=folder, check=False).returncode == 0
        load_model(folder / "ur.pt")

    def test_a_prompt_without_input_ends(self, folder, monkeypatch):
        dataset = write_dataset(folder / "data", train=1, validation=0, test=0)
        names = ("stdin", "stdout", "stderr")
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(sys, name, None)
            code = call(train_micronet, "--dataset", dataset, "--threads", 1)
            for name in names:
                getattr(sys, name).close()
        assert code == 0


INTERRUPTED = """
import argparse, signal, sys, time
from llvmlite import binding
from micronet.app.terminal import run
binding.initialize_native_target()
binding.initialize_native_asmprinter()
machine = binding.Target.from_default_triple().create_target_machine()
compiler = binding.create_mcjit_compiler(binding.parse_assembly("define void @f() { ret void }"), machine)
compiler.set_object_cache(lambda *_: signal.raise_signal(int(sys.argv[1])), lambda _: None)

def main(_):
    compiler.finalize_object()
    time.sleep(20)
    return 0

parser = argparse.ArgumentParser()
parser.add_argument("--debug", action="store_true")
run(parser, main, [])
"""


@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")])
def test_a_signal_while_the_compiler_calls_back_is_not_lost(root, number, told):
    """Before, a Ctrl-C in the first compiling of the engine was forgotten, or ended it with an internal error."""
    command = [sys.executable, "-c", INTERRUPTED, str(int(number))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, told)


def test_output_that_is_no_terminal_has_no_bars_in_it(folder, capsys):
    assert call(infer, *TestNobodyReads.ARGUMENTS) == 0
    assert "\r" not in "".join(capsys.readouterr())


class TestStart:
    """What computes is loaded when it computes: whoever asks for help, or needs no network, does not wait for it."""

    HEAVY = ("torch", "numba", "scipy", "skimage", "matplotlib")
    # Runs scripts as `python SCRIPT .. && python SCRIPT ..` does; the last line is what they have loaded.
    RUN = """
import itertools, runpy, sys
code = 0
for last, words in itertools.groupby(sys.argv[1:], lambda word: word == "&&"):
    if not last and not code:
        sys.argv = list(words)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
print("\\n", *sys.modules)
sys.exit(code)
"""

    def loaded(self, root, folder, *commands):
        """Run scripts in one process; return the first exit code but 0 and the heavy modules that they have loaded."""
        words = []
        for command in commands:
            script, *arguments = command.split()
            words += ["&&", str(root / f"{script}.py"), *arguments]
        done = subprocess.run(
            [sys.executable, "-c", self.RUN, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, set(done.stdout.splitlines()[-1].split()) & set(self.HEAVY)

    @pytest.mark.parametrize(
        "script",
        [
            "infer",
            "evaluate",
            "prepare",
            "make_phantoms",
            "bootstrap_micrornet",
            "train_micronet",
            "train_micrornet",
        ],
    )
    def test_help_loads_nothing_that_computes(self, root, tmp_path, script):
        assert self.loaded(root, tmp_path, f"{script} --help") == (0, set())

    def test_what_needs_no_network_runs_without_pytorch(self, root, tmp_path):
        image = "phantoms/struct_iso/E5D_phantom_0001.nrrd"
        mask = "phantoms/annotations/annotation_phantom_0001_iso_full.seg.nrrd"
        code, found = self.loaded(
            root,
            tmp_path,
            "make_phantoms 1 --shape 64,64,64 --vary",
            f"prepare {image} --domain log --iso 9",
            f"prepare {mask} --back-to {image}",
            f"evaluate {mask} --annotation {mask} --report --image {image} --measures",
        )
        assert (code, found & {"torch"}) == (0, set())
        assert {"scipy", "matplotlib"} <= found  # all of them have run
