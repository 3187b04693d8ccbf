"""One bad input never costs the others: each script goes on, tells faults of ours by their line, and keeps its rows."""

import csv
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import running
import torch
from shapes import ball

import evaluate
import infer
import make_phantoms
import prepare
from micronet import MicroRNet, Volume, write_volume
from micronet.app import evaluating, preparing
from micronet.app.batch import run_batch
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.volume import upright
from micronet.io import Segment, write_segmentation
from micronet.networks.weights import save_state


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(script, *arguments, capsys):
    return running.call(script, *arguments, capsys=capsys)


def rows(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def write_pairs(folder, names):
    for name in names:
        for side in ("p", "a"):
            (folder / side).mkdir(exist_ok=True)
            grid = Volume(ball(6), directions=upright((4.5,) * 3), units="um")
            write_segmentation(folder / side / f"{name}.seg.nrrd", [(Segment(name="lumen"), grid.array)], grid)


def fault(function, name_of, bad, error):
    """Return a function that raises for one of its inputs, and else does what the other does."""

    def faulty(*arguments, **options):
        if name_of(*arguments) == bad:
            raise error
        return function(*arguments, **options)

    return faulty


class TestTheLoop:
    def job(self, error):
        def job(number):
            if number == 2:
                raise error
            return Outcome(Path(f"n{number}"), "done", "fine")

        return job

    def run(self, error, inputs=(1, 2, 3), **options):
        return run_batch(inputs, self.job(error), lambda number: Path(f"n{number}"), **options)

    def test_what_fails_is_told_and_the_others_are_done(self, capsys):
        assert self.run(InputError("n2 is bad")) == 2
        out = capsys.readouterr().out
        assert out.endswith("done    n1  fine\nfailed  n2  n2 is bad\ndone    n3  fine\n2 done, 1 failed\n")
        assert "[2/3] n2\n  FAILED      n2 is bad\n" in out

    def test_all_done_is_0(self, capsys):
        assert self.run(InputError(""), inputs=(1, 3)) == 0

    def test_a_fault_of_ours_is_told_with_its_line(self, capsys):
        def job(number):
            return Volume(np.zeros((2, 2, 2))).with_array(None if number == 2 else np.ones((2, 2, 2))) and Outcome(
                Path(f"n{number}"), "done", ""
            )

        assert run_batch((1, 2), job, lambda number: Path(f"n{number}")) == 2
        out = capsys.readouterr().out
        assert re.search(
            r"failed  n2  internal error \(AttributeError: .*\) in micronet/core/volume.py:\d+; --debug", out
        )

    @pytest.mark.parametrize("error", [KeyboardInterrupt("end"), SystemExit("end"), BrokenPipeError("end")])
    def test_what_ends_the_run_ends_it(self, error, capsys):
        with pytest.raises(type(error), match="end"):
            self.run(error)
        assert "n3" not in capsys.readouterr().out

    def test_debug_and_a_single_input_let_the_error_through(self, capsys):
        with pytest.raises(ZeroDivisionError, match="here"):
            self.run(ZeroDivisionError("here"), debug=True)
        with pytest.raises(InputError, match="alone"):
            self.run(InputError("alone"), inputs=(2,))


class TestEvaluate:
    def test_a_fault_of_ours_costs_one_row_and_is_told_with_its_line(self, folder, monkeypatch, capsys):
        write_pairs(folder, "abc")
        wrong = fault(evaluating.evaluate_pair, lambda _, pair, *__: pair.name, "b", ZeroDivisionError("by zero"))
        monkeypatch.setattr(evaluating, "evaluate_pair", wrong)
        code, out, err = call(evaluate, "p", "--annotation", "a", capsys=capsys)
        assert (code, err) == (2, "")
        assert re.search(
            r"failed  b.seg.nrrd  internal error \(ZeroDivisionError: by zero\) in micronet/app/evaluating.py:\d+", out
        )
        assert "2 done, 1 failed" in out
        assert [row["volume"] for row in rows("scores/scores.csv")] == ["a", "c"]
        assert Path("scores/summary.csv").exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_leaves_a_whole_table_of_the_rows_so_far(self, folder, monkeypatch, capsys, number):
        write_pairs(folder, "abc")
        score = evaluating.evaluate_pair

        def slow(masks, pair, scoring):
            if pair.name == "c":
                os.kill(os.getpid(), number)
            return score(masks, pair, scoring)

        monkeypatch.setattr(evaluating, "evaluate_pair", slow)
        code, _, _ = call(evaluate, "p", "--annotation", "a", capsys=capsys)
        assert code == 128 + number
        assert [row["volume"] for row in rows("scores/scores.csv")] == ["a", "b"]
        assert sorted(os.listdir("scores")) == [".scores.json.writing", "scores.csv"]  # the journal says it is ours

    def test_a_fault_in_the_end_leaves_the_rows(self, folder, monkeypatch, capsys):
        write_pairs(folder, "ab")
        monkeypatch.setattr(evaluating.EvaluationReport, "write", lambda *_: 1 / 0)
        code, _, err = call(evaluate, "p", "--annotation", "a", "--report", capsys=capsys)
        assert code == 1
        assert "internal error (ZeroDivisionError" in err
        assert [row["dice"] for row in rows("scores/scores.csv")] == ["1", "1"]

    def test_a_first_row_takes_earlier_summaries_and_pages_away(self, folder, monkeypatch, capsys):
        write_pairs(folder, "ab")
        assert call(evaluate, "p", "--annotation", "a", "--report", capsys=capsys)[0] == 0
        Path("p/b.seg.nrrd").write_bytes(b"NRRD0004\n")
        assert call(evaluate, "p", "--annotation", "a", "--force", capsys=capsys)[0] == 2
        assert sorted(os.listdir("scores")) == ["scores.csv", "scores.json"]


def test_a_fault_of_ours_on_one_scan_does_not_cost_the_others(folder, monkeypatch, capsys, rng):
    for name in "abc":
        scan = Volume(rng.integers(1, 255, (8, 12, 10), np.uint16), directions=upright((4.5,) * 3), units="um")
        write_volume(f"{name}.nrrd", scan)
    monkeypatch.setattr(
        preparing, "prepare_file", fault(preparing.prepare_file, lambda path, *_: path.stem, "b", KeyError(7))
    )
    code, out, err = call(prepare, "a.nrrd", "b.nrrd", "c.nrrd", "--domain", "intensity", capsys=capsys)
    assert (code, err) == (2, "")
    assert re.search(r"failed  b.nrrd  internal error \(KeyError: 7\) in micronet/app/preparing.py:\d+; --debug", out)
    assert sorted(path.name for path in Path("struct_iso").glob("*.json")) == ["a.json", "c.json"]


def test_a_bad_mask_does_not_cost_the_phantoms_over_the_others_and_the_same_command_goes_on(folder, capsys):
    cube = np.zeros((64, 64, 64), bool)
    cube[20:40, 20:40, 20:40] = True
    grid = Volume(cube, directions=upright((4.5,) * 3), units="um")
    for name in "abc":
        write_segmentation(f"{name}.seg.nrrd", [(Segment(name="lumen"), cube)], grid)
    good = Path("b.seg.nrrd").read_bytes()
    Path("b.seg.nrrd").write_bytes(good[:-100])
    arguments = ("--from-annotation", "a.seg.nrrd", "b.seg.nrrd", "c.seg.nrrd")
    code, out, err = call(make_phantoms, *arguments, capsys=capsys)
    assert (code, err) == (2, "")
    assert "2 done, 1 failed" in out
    assert sorted(path.name for path in Path("phantoms/struct_iso").glob("*.json")) == ["E5D_a.json", "E5D_c.json"]
    assert not Path("phantoms/phantoms.toml").exists()
    Path("b.seg.nrrd").write_bytes(good)
    code, out, err = call(make_phantoms, *arguments, capsys=capsys)
    assert (code, err) == (0, "")
    assert "1 made, 2 there already" in out
    assert Path("phantoms/phantoms.toml").exists()


class TestTimeLapse:
    @pytest.fixture
    def arguments(self, folder, rng, engine_ready):
        for number in range(3):
            write_volume(f"t{number}.nrrd", Volume(rng.integers(0, 255, (32, 32, 32), np.uint8)))
        torch.manual_seed(3)
        save_state(folder / "ur-net.pt", MicroRNet().state_dict())
        files = [f"t{number}.nrrd" for number in range(3)]
        return (
            *files,
            "--time-lapse",
            "--initial-mask",
            "blank",
            "--iterations",
            1,
            "--model",
            "ur-net.pt",
            "--threads",
            1,
        )

    def test_a_fault_of_ours_costs_one_time_point(self, arguments, monkeypatch, capsys):
        import micronet.segment.time_lapse as module

        wrong = fault(module.segment_file, lambda path, *_: path.stem, "t1", ZeroDivisionError("by zero"))
        monkeypatch.setattr(module, "segment_file", wrong)
        code, out, _ = call(infer, *arguments, capsys=capsys)
        assert code == 2
        assert re.search(
            r"failed  t1  internal error \(ZeroDivisionError: by zero\) in micronet/segment/time_lapse.py:\d+", out
        )
        assert [row["status"] for row in rows("predictions/t0_timelapse.csv")] == ["done", "failed", "done"]

    def test_an_interrupt_leaves_a_whole_table_of_the_rows_so_far(self, arguments, monkeypatch, capsys):
        import micronet.segment.time_lapse as module

        wrong = fault(module.segment_file, lambda path, *_: path.stem, "t2", KeyboardInterrupt())
        monkeypatch.setattr(module, "segment_file", wrong)
        assert call(infer, *arguments, capsys=capsys)[0] == 130
        assert [row["name"] for row in rows("predictions/t0_timelapse.csv")] == ["t0", "t1"]
