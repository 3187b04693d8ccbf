"""Many volumes in one run, killed and taken up again; several runs and threads at once.

tests/faults/many_files.py does the first with 500 files.
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from forking import fork
from running import call, read_json

import infer
from micronet import MicroNet, MicroRNet, Volume, predict, read_volume, write_volume
from micronet.app import segmenting
from tests.faults.many_files import (
    OPTIONS,
    damaged,
    expected_levels,
    modified,
    watch,
    write_scans,
    write_weights,
)

pytestmark = pytest.mark.usefixtures("engine_ready")


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "ur-net_test.pt"
    return path, write_weights(path, seed=12)


def start(said, *arguments):
    """Start infer.py; what it says goes into a file."""
    with open(said, "wb") as stream:
        return fork([infer.__file__, *arguments, *OPTIONS], stdout=stream, stderr=stream)


def _open_files():
    """Return what is open, but for the fonts that matplotlib keeps open."""
    folder = Path("/proc/self/fd")
    names = [os.readlink(path) for path in folder.iterdir() if path.is_symlink()] if folder.exists() else []
    return sorted(name for name in names if not name.endswith(".ttf"))


def test_all_good_ones_of_many_files_are_done_after_a_kill_and_no_handle_is_leaked(tmp_path, rng, weights, capsys):
    good = write_scans(tmp_path / "scans", 10, rng, bad_every=3)
    output = tmp_path / "out"
    run = (tmp_path / "scans", "--model", weights[0], "-o", output)
    process = start(tmp_path / "said", *run)
    watch(process, output, 2)
    process.kill()
    process.wait()
    before = modified(output)
    assert 2 <= len(before) < len(good) == 7, (tmp_path / "said").read_text()
    assert not damaged(output)

    handles = _open_files()
    code, out, err = call(infer, *run, *OPTIONS, capsys=capsys)
    assert code == 2, err
    assert set(out.splitlines()[-1].split(", ")) == {
        f"{len(before)} skipped",
        f"{len(good) - len(before)} done",
        "3 failed",
    }
    assert _open_files() == handles
    assert not damaged(output)
    after = modified(output)
    assert set(after) == {f"{path.stem}.json" for path in good}
    assert {name: after[name] for name in before} == before
    for path in good:
        levels = read_volume(output / f"{path.stem}_probability.nrrd").array
        assert np.array_equal(levels, expected_levels(path, weights[1]))


def test_a_fault_of_ours_on_one_file_does_not_cost_the_others(tmp_path, rng, weights, capsys, monkeypatch):
    for name in "abc":
        write_volume(tmp_path / f"{name}.nrrd", Volume(rng.integers(0, 255, (32, 32, 32), np.uint8)))
    segment = segmenting.segment_file

    def faulty(path, *arguments, **options):
        if path.stem == "b":
            raise ZeroDivisionError("division by zero")
        return segment(path, *arguments, **options)

    monkeypatch.setattr(segmenting, "segment_file", faulty)
    files = [tmp_path / f"{name}.nrrd" for name in "abc"]
    run = (*files, "--model", weights[0], "-o", tmp_path / "out", *OPTIONS)
    code, out, _ = call(infer, *run, capsys=capsys)
    assert code == 2
    assert re.search(
        r"failed  b.nrrd .*  internal error \(ZeroDivisionError: division by zero\) in micronet/app/segmenting.py:\d+; "
        r"--debug",
        out,
    )
    assert "2 done, 1 failed" in out
    assert [path.name for path in (tmp_path / "out").glob("?.json")] in (["a.json", "c.json"], ["c.json", "a.json"])


def test_two_runs_at_once_in_one_folder_give_the_right_numbers(tmp_path, rng, weights, capsys):
    names = [f"v{number}" for number in range(4)]
    for name in names:
        write_volume(tmp_path / f"{name}.nrrd", Volume(rng.integers(0, 255, (32, 40, 36), np.uint8)))
    output = tmp_path / "out"
    options = ("--model", weights[0], "-o", output, "--force")
    other = start(tmp_path / "said", *(tmp_path / f"{name}.nrrd" for name in names), *options)
    while other.poll() is None and not (output / "v0.json").exists():  # it has begun; from here both work
        time.sleep(0.01)
    code, _, err = call(infer, *(tmp_path / f"{name}.nrrd" for name in names[:2]), *options, *OPTIONS, capsys=capsys)
    assert code == 0, err
    assert other.wait() == 0, (tmp_path / "said").read_text()
    for name in names:
        levels = read_volume(output / f"{name}_probability.nrrd").array
        assert np.array_equal(levels, expected_levels(tmp_path / f"{name}.nrrd", weights[1]))
        assert read_json(output / f"{name}.json")["result"]["voxels"] > 0
    assert not damaged(output)
    assert len(list(output.iterdir())) == len(names) * 4 + 2  # the table over them and its record


def test_four_threads_that_predict_get_the_numbers_of_one(rng):
    torch.manual_seed(13)
    models = [MicroNet(), MicroRNet()]
    jobs = [
        (rng.integers(0, 255, (32 + 5 * number, 40, 33 + number), np.uint8), models[number % 2]) for number in range(8)
    ]
    expected = [predict(image, model, 3) for image, model in jobs]
    with ThreadPoolExecutor(4) as team:
        found = list(team.map(lambda job: predict(*job, 3), jobs * 3))
    for one, other in zip(found, expected * 3, strict=True):
        assert np.array_equal(one, other)
