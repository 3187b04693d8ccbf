"""Every option of every script, and every command of the prompt, with absurd values: one line, exit code 2, at once."""

import argparse
import importlib
import time

import numpy as np
import pytest
import running
from shapes import ball
from tiny_training import write_dataset

from micronet import Volume, write_volume
from micronet.app import option_types
from micronet.app.option_types import Real, Sizes, Whole, bytes_option, device_option, dtype_option
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.training.commands import parse_command

SCRIPTS = (
    "infer",
    "evaluate",
    "prepare",
    "make_phantoms",
    "train_micronet",
    "train_micrornet",
    "train_network",
    "bootstrap_micrornet",
    "teach",
    "search",
    "tools.make_bundled",
)
NOT_NUMBERS = ("", " ", "nan", "inf", "-inf", "1e300", "-1e300", "9" * 320, "9" * 5000, "word", "0x10", "1_0", "\u0663")
NUMBERS = ("0", "-1", "0.5", "1e-300", "1e200", "3000000000", "-3000000000", "1e9")
PATHS = (option_types.path_option, option_types.input_option, option_types.mask_option)
TEXTS = (*PATHS, option_types.text_option)


def script(name):
    return importlib.import_module(name)


def options():
    """Every option that takes a value, read from the parsers: a new one cannot be forgotten."""
    for name in SCRIPTS:
        for action in script(name).build_parser()._actions:
            if action.nargs != 0:
                yield pytest.param(name, action, id=f"{name} {(action.option_strings or [action.metavar])[-1]}")


def call(name, *arguments, capsys):
    began = time.monotonic()
    code, out, err = running.call(script(name), *arguments, capsys=capsys)
    assert time.monotonic() - began < 20  # a bound on hanging, not on speed
    return code, out, err


def refused(name, *arguments, capsys):
    code, out, err = call(name, *arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 1200
    assert "internal error" not in err
    return err


def accepts(kind, value):
    try:
        kind(value)
    except argparse.ArgumentTypeError:
        return False
    return True


@pytest.mark.parametrize(("name", "action"), list(options()))
def test_an_option_states_what_it_may_be_and_refuses_all_else(name, action, capsys):
    stated = (
        action.choices is not None
        or isinstance(action.type, Whole | Real | Sizes)
        or action.type in vars(option_types).values()
    )
    assert stated, f"{action.dest} of {name} takes anything: give it a type of micronet.app.option_types"
    if action.type in TEXTS:
        values = ("", "  ", *(("x" * 256, "a/" * 3000) if action.type in PATHS else ()))
    elif action.type is option_types.commands_option:  # an empty one is none; others are tried below
        values = ()
    elif action.choices is not None:
        values = (*NOT_NUMBERS, *NUMBERS)
    else:
        values = (*NOT_NUMBERS, *(value for value in NUMBERS if not accepts(action.type, value)))
    for value in values:
        given = f"{action.option_strings[-1]}={value}" if action.option_strings else value
        if not given.startswith("-") or action.option_strings:
            err = refused(name, given, capsys=capsys)
            assert "argument" in err


class TestBounds:
    def test_a_number_lies_within_them(self):
        assert [Whole(1, 9)(text) for text in ("1", "9", " +5 ")] == [1, 9, 5]
        assert [accepts(Whole(1, 9), text) for text in ("0", "10", "2.0", "")] == [False] * 4
        assert [Real(0, 1, below=True)(text) for text in ("0", "0.99", "1e-3")] == [0, 0.99, 0.001]
        assert [accepts(Real(0, 1, below=True), text) for text in ("1", "-1e-9", "nan", "1,5")] == [False] * 4
        assert Real(0, 1)("1") == 1

    def test_sizes(self):
        assert Sizes((3,))("200x260x218") == (200, 260, 218)
        assert Sizes((3, 4))("4, 5,6,7") == (4, 5, 6, 7)
        for text in (
            "64,64",
            "64,64,64,5",
            "0,1,1",
            "-1,1,1",
            "99999,99999,99999",
            "1,1,1000001",
            "1,1,1.5",
            "\u0663,1,1",
        ):
            assert not accepts(Sizes((3,)), text), text

    def test_bytes_devices_and_types_of_voxels(self):
        assert (bytes_option("1kB"), bytes_option("2.5TiB")) == (1000, int(2.5 * 1024**4))
        for text in ("0GB", "1", "GB", "-1GB", "nanGB", "infGB", "9" * 320 + "GB", "999999999999999TB", "1e9GB"):
            assert not accepts(bytes_option, text), text
        assert device_option("cpu") == "cpu"
        for text in ("cuda:-1", "cuda:99999999999999999999", "cpu:0:0", "meta", "cuda:999"):
            assert not accepts(device_option, text), text
        assert [dtype_option(text) for text in (">u2", "float32", "bool")] == [">u2", "float32", "bool"]
        for text in ("O", "S999999999", "V8", "(9999,9999)u1", "u1,u1", "complex64", "float128", "datetime64", "M8"):
            assert not accepts(dtype_option, text), text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = Volume(ball(14), directions=upright((4.5,) * 3), units="um")
    write_volume("mask.nrrd", grid)
    write_volume("scan.nrrd", grid.with_array(np.arange(1, grid.array.size + 1, dtype=np.uint16).reshape(grid.shape)))
    np.zeros(100, np.uint8).tofile("a.raw")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("infer scan.nrrd --threads 3000000000", "--threads: '3000000000': expected a whole number from 1 to 1024"),
        (f"infer scan.nrrd --max-ram {'7' * 320}GB", "--max-ram: '777"),
        ("infer scan.nrrd --max-ram 1kB", "of memory needed even in slabs, 0 MB allowed"),
        ("infer scan.nrrd --y-crop 1000000", "y-crop must lie in 1.."),
        ("infer a.raw --dtype u1 --shape 99999,99999,9", "'a.raw' holds 100 bytes, but the shape"),
        ("infer a.raw --dtype u1 --shape 99999,99999,99999", "fewer than 1e+12 voxels"),
        (
            "evaluate mask.nrrd --annotation mask.nrrd --beta 1e200",
            "--beta: '1e200': expected a number from 0.001 to 1000",
        ),
        ("prepare scan.nrrd --domain log --iso 1e300", "--iso: '1e300': expected a number from 0.001 to 1e+06"),
        ("prepare scan.nrrd --domain log --iso 1e-9", "--iso: '1e-9': expected a number"),
        ("prepare scan.nrrd --domain log --iso 0.01 --spacing 1000000", "voxels are more than can be made"),
        ("prepare scan.nrrd --domain log --iso 0.01 --spacing 2", "GB there, "),
        ("make_phantoms 1 --shape 64,64,64,5", "expected two or three sizes"),
        ("make_phantoms 1 --shape 99999,99999,99999", "expected two or three sizes such as 200,260,218"),
        ("make_phantoms 1 --shape 9999,9999,9999", "GB of memory needed, "),
        ("train_micronet --run nan", "unknown command 'nan'"),
        ("train_micrornet --run 1;1e300", "give N K, whole numbers"),
        ("make_phantoms 999999999", "argument N: '999999999': expected a whole number from 1 to 10000"),
        ("make_phantoms 5000 --time-points 5000", "25,000,000 phantoms: a set has 10,000 at most"),
    ],
)
def test_what_no_computer_could_do_is_told_before_any_of_it(folder, line, message, capsys):
    name, *arguments = line.split()
    before = sorted(folder.iterdir())
    began = time.monotonic()
    code, _, err = call(name, *arguments, capsys=capsys)
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(folder.iterdir()) == before
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "line",
    [
        "evaluate mask.nrrd --annotation mask.nrrd --beta 1000 --tolerance 1000000 --spacing 1000000",
        "evaluate mask.nrrd --annotation mask.nrrd --beta 0.001 --tolerance 0 --spacing 0.0001 --measures",
        "prepare scan.nrrd --domain log --iso 1000000",
        "prepare scan.nrrd --domain log --noise-floor -1e30",
        "prepare scan.nrrd --domain intensity --noise-floor 1e30",
        "prepare scan.nrrd --domain db --refractive-index 4.999 --spacing 0.0001",
    ],
)
def test_at_its_bounds_an_option_does_its_work_or_says_why_not(folder, line, capsys):
    name, *arguments = line.split()
    code, _, err = call(name, *arguments, capsys=capsys)
    assert code == 0 or (code == 2 and err.startswith("error: ") and err.count("\n") == 1), err


@pytest.mark.parametrize("network", ["u-net", "ur-net"])
@pytest.mark.parametrize(
    "line",
    [
        *("lr 1e300", "lr nan", "lr inf", "lr -1", "lr 1_0", "rp nan", "rp 1e300", "rp -inf", "rp 0", "threshold inf"),
        *("threshold nan", "threshold -1", "123456789012345678901234567890", "1e9", "-5", "0", "9" * 5000, "nan"),
        *("save ../x", f"save {'x' * 300}", "save a/b", "save \u202e", "1 2 3", "1 999999999999", "word " * 1000),
    ],
)
def test_absurd_commands_cost_a_line(network, line):
    with pytest.raises(InputError, match=r"give |unknown command|stands alone") as caught:
        parse_command(line, network)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_names_that_no_file_can_have_cost_a_line_at_the_prompt(folder, capsys):
    path = write_dataset(folder / "data", train=1, validation=0, test=0)
    refused("infer", "scan.nrrd", "--model", "x" * 5000, capsys=capsys)
    for command in (
        f"load {'x' * 5000}.pt",
        f"load {'x' * 5000}",
        "load a\0b.pt",
        f"resume {'x' * 5000}",
        "resume ../../x",
    ):
        code, out, err = call("train_micronet", "--dataset", path, "--threads", 1, "--run", command, capsys=capsys)
        assert code == 2
        assert "internal error" not in out + err
        assert out.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("infer no.nrrd", "'no.nrrd' does not exist (INPUT)"),
        ("infer scan.nrrd --annotation no.nrrd", "'no.nrrd' does not exist (--annotation)"),
        ("infer scan.nrrd --initial-mask no.nrrd", "'no.nrrd' does not exist (--initial-mask)"),
        (
            "infer scan.nrrd --keep Mask.nrrd",
            "'Mask.nrrd' does not exist; there is 'mask.nrrd', which differs in case (--keep)",
        ),
        ("evaluate no.nrrd --annotation mask.nrrd", "'no.nrrd' does not exist (PREDICTION)"),
        ("evaluate mask.nrrd --annotation mask.nrrd no.nrrd", "'no.nrrd' does not exist (--annotation)"),
        ("prepare no.nrrd --domain log", "'no.nrrd' does not exist (INPUT)"),
        ("prepare mask.nrrd --back-to no.nrrd", "'no.nrrd' does not exist (--back-to)"),
        ("train_micronet --data no", "'no' does not exist (--data)"),
        ("make_phantoms 1 --from-annotation no.seg.nrrd", "'no.seg.nrrd' does not exist (--from-annotation)"),
    ],
)
def test_a_file_that_is_not_there_is_told_with_what_it_is_for(folder, line, message, capsys):
    name, *arguments = line.split()
    code, _, err = call(name, *arguments, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert err == f"error: {message}\n"
