"""Batches: one table over all volumes, parts of a job array, and volumes that never settle."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from forking import fork
from running import call, read_json

import infer
from micronet import MicroRNet, Volume, write_volume
from micronet.core.volume import upright
from micronet.networks.weights import save_state

pytestmark = pytest.mark.usefixtures("engine_ready")
NUMBERS = ("lumen_um3", "centreline_um", "radius_median_um")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three volumes, one that cannot be read among them, and weights that find much of noise."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(11)
    save_state(tmp_path / "ur-net_test.pt", MicroRNet().state_dict())
    Path("scans").mkdir()
    for name in "ac":
        array = np.random.default_rng(ord(name)).integers(0, 255, (32, 33, 34), np.uint8)
        write_volume(f"scans/{name}.nrrd", Volume(array, upright((4.5, 4.5, 4.5)), units="um"))
    Path("scans/b.nrrd").write_bytes(b"NRRD0004\n")
    return tmp_path


def infer_scans(*options, capsys):
    arguments = ("scans", "--model", "ur-net_test.pt", "--iterations", 1, "-o", "out")
    return call(infer, *arguments, *options, capsys=capsys)


def rows(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def test_a_batch_ends_with_one_table_that_is_a_file_too(folder, capsys):
    code, out, _ = infer_scans("--measures", capsys=capsys)
    assert code == 2
    assert [row["volume"] for row in rows("out/lumens.csv")] == [f"scans/{name}.nrrd" for name in "abc"]
    assert [row["status"] for row in rows("out/lumens.csv")] == ["done", "failed", "done"]
    a, b, _ = rows("out/lumens.csv")
    result = read_json("out/a.json")["result"]
    assert float(a["lumen_um3"]) == pytest.approx(result["um3"], rel=1e-5)
    tables = rows("out/a_vessels.csv"), rows("out/a_centrelines.csv")
    assert float(a["centreline_um"]) == pytest.approx(sum(float(row["centreline_um"]) for row in tables[0]), rel=1e-4)
    radii = [float(row["radius_um"]) for row in tables[1] if row["radius_um"]]
    assert float(a["radius_median_um"]) == pytest.approx(np.median(radii), rel=1e-4)
    assert [b[name] for name in NUMBERS] == ["", "", ""]
    assert "scans/b.nrrd" in b["warnings"]
    *_, header, first, second, _, place, counts = out.splitlines()
    assert header.split() == ["status", "volume", "µm³", "length", "µm", "radius", "µm", "warnings"]
    assert first.split()[:3] == ["done", "a.nrrd", f"{result['um3']:,.0f}"]
    assert second.startswith("failed  b.nrrd")
    assert (place, counts) == ("this table: out/lumens.csv", "2 done, 1 failed")

    before = rows("out/lumens.csv")  # what was done before is in the table as it was
    assert infer_scans("--measures", capsys=capsys)[0] == 2
    assert [row["status"] for row in rows("out/lumens.csv")] == ["skipped", "failed", "skipped"]
    assert [row[name] for row in rows("out/lumens.csv") for name in NUMBERS] == [
        row[name] for row in before for name in NUMBERS
    ]


def test_one_volume_has_no_table(folder, capsys):
    assert call(infer, "scans/a.nrrd", "--model", "ur-net_test.pt", "--iterations", 1, capsys=capsys)[0] == 0
    assert not list(Path("predictions").glob("lumens*"))


def test_a_table_that_a_person_has_changed_is_not_replaced(folder, capsys):
    infer_scans(capsys=capsys)
    Path("out/lumens.csv").write_text("mine")
    code, _, err = infer_scans(capsys=capsys)
    assert code == 2
    assert "'out/lumens.csv' is in the way: " in err
    assert err.endswith("it is not replaced, rename it to keep it, or write elsewhere (-o DIR)\n")
    assert Path("out/lumens.csv").read_text() == "mine"


def test_parts_that_run_at_the_same_time_do_every_volume_once(folder, capsys):
    Path("scans/b.nrrd").unlink()
    script = Path(infer.__file__)
    command = [script, "scans", "--model", "ur-net_test.pt", "--iterations", "1", "-o", "out"]
    other = fork([*command, "--part", "1/2"], stdout=subprocess.PIPE)
    code, out, _ = infer_scans("--part", "2/2", capsys=capsys)
    assert (code, "part 2 of 2: 1 of 2 volumes" in out) == (0, True)
    assert other.communicate()[0].endswith("1 done\n")
    assert other.returncode == 0
    found = [row["volume"] for number in (1, 2) for row in rows(f"out/lumens_part_{number}_of_2.csv")]
    assert sorted(found) == [f"scans/{name}.nrrd" for name in "ac"]
    assert sorted(path.stem for path in Path("out").glob("?.json")) == list("ac")

    code, out, _ = infer_scans("--part", "1/2", capsys=capsys)  # it goes on where it was
    assert (code, "1 skipped" in out) == (0, True)
    code, out, _ = infer_scans(capsys=capsys)
    assert (code, "2 skipped" in out) == (0, True)


def test_a_part_without_volumes_has_nothing_to_do(folder, capsys):
    code, out, _ = infer_scans("--part", "7/9", capsys=capsys)
    assert (code, "nothing to do" in out) == (0, True)
    assert not Path("out").exists()


def test_parts_of_names_that_are_one_are_refused(folder, capsys):
    write_volume("scans/a.npy", Volume(np.zeros((32, 33, 34), np.uint8)))
    code, _, err = infer_scans("--part", "1/2", capsys=capsys)
    assert code == 2
    assert "a.npy" in err


def test_a_time_lapse_has_no_parts(folder, capsys):
    code, _, err = infer_scans("--part", "1/2", "--time-lapse", capsys=capsys)
    assert (code, "--part does not go with --time-lapse" in err) == (2, True)


def test_what_does_not_settle_is_written_and_told_by_its_own_exit_code(folder, capsys):
    arguments = ("scans/a.nrrd", "--model", "ur-net_test.pt", "--until-stable", "--iterations", 4)
    code, out, _ = call(infer, *arguments, capsys=capsys)
    assert code == 3
    record = read_json("predictions/a.json")
    assert (record["settled"], len(record["iterations"])) == (False, 4)
    assert "  changes     NOT settled after 4 iterations: " in out
    assert out.splitlines()[-1] == "1 not settled"
    assert Path("predictions/a.seg.nrrd").exists()
    code, out, _ = call(infer, *arguments, capsys=capsys)  # done before, and no better
    assert (code, "done before" in out) == (3, True)
    code, out, _ = call(infer, "scans/b.nrrd", *arguments, capsys=capsys)
    assert code == 2
