"""What meshes, tables of vessels, scores and pages take is known before they are made, and refused by name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, read_json

import evaluate
import infer
from micronet import MicroNet, MicroRNet, Volume, lumen_surface, write_volume
from micronet.core.ram import SCORING
from micronet.core.volume import upright
from micronet.io import Segment, write_segmentation
from micronet.measure.footprint import mesh_vertices, scores_bytes, surface_voxels, vessels_bytes
from micronet.networks.weights import save_state
from micronet.segment.memory import Need, plan_memory


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_the_vertices_of_a_mesh_are_counted_before_it_is_made(rng, part):
    mask = rng.random((9, 12, 7)) < part
    assert mesh_vertices(mask) == len(lumen_surface(Volume(mask)).vertices)


@pytest.mark.parametrize("shape", [(1, 6, 5), (7, 2, 5), (6, 7, 8)])
def test_surface_voxels_are_those_with_a_face_to_the_outside(rng, shape):
    mask = rng.random(shape) < 0.9
    padded = np.pad(mask, 1)
    inside = padded.copy()
    for axis in range(3):
        inside &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    assert surface_voxels(mask) == np.count_nonzero(padded) - np.count_nonzero(inside)


PEAKS = """
import ctypes, json, re, sys, numpy as np
from pathlib import Path
from micronet import Volume
from micronet.measure import footprint
from micronet.measure.cleaning import Cleaning
from micronet.measure.lumen_files import write_surface, write_vessels
from micronet.measure.pieces import clean_mask
from micronet.measure.scores import score_masks
from micronet.core.volume import upright
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def on_grid(mask, steps=(2, 2, 2)):
    return Volume(mask, upright(steps), units="um")
folder, shape = Path(sys.argv[1]), (40, 80, 80)
jobs = {
    "mesh": (lambda mask: write_surface(folder / "a.stl", on_grid(mask)), footprint.mesh_bytes),
    "scores": (lambda mask: score_masks(mask, mask[::-1], (2.0, 2.0, 2.0)),
               lambda mask: footprint.scores_bytes(mask, mask[::-1])),
    "measures": (lambda mask: write_vessels(folder, "a", on_grid(mask)), footprint.vessels_bytes),
    "measures, planes apart": (lambda mask: write_vessels(folder, "a", on_grid(mask[::4], (8, 2, 2))),
                               lambda mask: footprint.vessels_bytes(mask[::4], (8, 2, 2))),
    "clean": (lambda mask: clean_mask(mask, Cleaning.of("holes")),
              lambda mask: footprint.least_bytes(mask.size)["clean"]),
}
ball = np.linalg.norm(np.indices((12, 12, 12)) - 5.5, axis=0) < 5
found = []
for name, (job, estimate) in jobs.items():
    job(ball)  # imports
    for kind, part in (("empty", 0), ("full", 1), ("noise", 0.5)):
        if name.startswith("measures") and kind == "noise":
            continue  # minutes: benchmarks/memory.py has it
        mask = np.random.default_rng(0).random(shape, np.float32) < part
        ctypes.CDLL(None).malloc_trim(0)  # nothing that the last one left is taken again
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        job(mask)
        found.append((name, kind, 1024 * (kilobytes("VmHWM") - before), estimate(mask)))
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc to measure memory")
def test_what_is_told_is_what_is_taken(tmp_path):
    ran = subprocess.run([sys.executable, "-c", PEAKS, tmp_path], capture_output=True, text=True, check=True)
    for name, kind, taken, told in json.loads(ran.stdout):
        # beside what the allocator keeps for itself, which in volumes of a useful size is nothing
        assert taken <= 1.1 * told + 3_000_000, (name, kind, taken, told)
        if kind == "noise":  # not refused for nothing either
            assert taken > 0.5 * told, (name, kind, taken, told)


def test_a_mesh_made_slab_by_slab_is_that_of_the_whole(rng, monkeypatch):
    mask = Volume(rng.random((20, 12, 9)) < 0.4)
    whole = lumen_surface(mask)
    for voxels in (1, 300, 1000):
        monkeypatch.setattr("micronet.measure.surface._SLAB_VOXELS", voxels)
        slabs = lumen_surface(mask)
        assert np.array_equal(slabs.triangles, whole.triangles)
        assert np.array_equal(slabs.vertices, whole.vertices)


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    """Weights, an image whose mask is noise, and a program that is said to take little, so that small volumes count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("micronet.core.ram.PROGRAM", 1_000_000)
    torch.manual_seed(0)
    save_state(tmp_path / "checkpoints" / "u-net_test.pt", MicroNet().state_dict())
    write_volume(tmp_path / "a.nrrd", Volume(rng.integers(0, 255, (48, 64, 64), np.uint8), upright(2), units="um"))
    return tmp_path


@pytest.mark.usefixtures("engine_ready")
class TestInfer:
    @pytest.mark.parametrize(("option", "missing"), [(("--mesh", "stl"), "mesh"), (("--measures",), "vessels")])
    def test_what_the_mask_makes_too_large_is_refused_and_all_else_is_whole(self, folder, capsys, option, missing):
        options = ("--model", "u-net_test", "--label-tiff", "--max-ram", "16MB", *option)
        code, out, err = call(infer, "a.nrrd", "-o", "out", *options, capsys=capsys)
        assert code == 2
        assert re.search(
            rf"'a\.nrrd': what was asked for \({option[0]}\) does not fit: about \d+ MB of memory needed, "
            r"16 MB allowed \(--max-ram\); leave it out, free memory or allow more \(--max-ram\) "
            r"\(all else is written\)",
            err,
        )
        assert "volume" in out
        record = read_json("out/a.json")
        assert missing not in record["files"]
        assert "does not fit" in record["result"]["warnings"][-1]
        assert set(record["files"]) == {"probability", "segmentation", "preview", "labels"}
        assert all((folder / "out" / name).exists() for name in record["files"].values())
        assert record["memory"]["estimated_bytes"] <= 16_000_000
        if missing == "mesh":
            code, _, err = call(infer, "a.nrrd", "-o", "out", *options, "--max-ram", "1GB", capsys=capsys)
            assert code == 0, err
            assert "mesh" in read_json("out/a.json")["files"]

    def test_what_fits_for_no_mask_is_refused_before_anything_is_read(self, folder, capsys):
        write_volume(folder / "b.nrrd", Volume(np.zeros((200, 64, 64), np.uint8)))
        options = ("--model", "u-net_test", "--report", "--max-ram", "24MB")
        code, out, err = call(infer, "b.nrrd", "-o", "out", *options, capsys=capsys)
        assert code == 2
        assert re.search(
            r"'b\.nrrd': what was asked for \(--report\) does not fit: about \d+ MB of memory needed, 24 MB allowed",
            err,
        )
        assert "volume" not in out
        assert not (folder / "out").exists()


class TestPlan:
    SMALL = Need((64, 64, 64), 64, np.dtype(np.uint8))

    def test_an_option_that_does_not_fit_beside_the_whole_means_slabs(self, tmp_path, monkeypatch):
        monkeypatch.setattr("micronet.core.ram.PROGRAM", 1_000_000)
        wishes = Need((64, 64, 64), 64, np.dtype(np.uint8), wishes={"measures": 20_000_000})
        enough = self.SMALL.bytes(MicroRNet())
        assert plan_memory(self.SMALL, MicroRNet(), enough, tmp_path).slab_planes is None
        plan = plan_memory(wishes, MicroRNet(), wishes.bytes(MicroRNet()) - 1, tmp_path)
        assert plan.slab_planes is not None

    def test_what_a_recording_holds_is_counted(self):
        beside = Need((64, 64, 64), 64, np.dtype(np.uint8), beside=10**9)
        assert beside.bytes(MicroRNet()) - self.SMALL.bytes(MicroRNet()) == pytest.approx(1.08e9, rel=1e-3)

    def test_a_probability_to_start_from_is_four_times_a_mask(self):
        masks = (64**3,)
        hard = Need((64, 64, 64), 64, np.dtype(np.uint8), masks=masks)
        soft = Need((64, 64, 64), 64, np.dtype(np.uint8), masks=masks, soft_start=True)
        assert soft.bytes(MicroRNet()) - hard.bytes(MicroRNet()) == pytest.approx(1.08 * 3 * 64**3, abs=2)

    def test_a_thin_stack_takes_what_its_padded_size_takes(self):
        thin, full = (Need((n, 256, 256), 256, np.dtype(np.uint8)) for n in (12, 32))
        assert thin.bytes(MicroRNet()) >= full.bytes(MicroRNet()) - 20 * 256 * 256 * 2
        assert thin.bytes(MicroRNet(), 4) < thin.bytes(MicroRNet())


class TestEvaluate:
    @pytest.fixture
    def masks(self, tmp_path, monkeypatch, rng):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("micronet.core.ram.SCORING", 1_000_000)
        mask = rng.random((32, 64, 64)) < 0.5
        for name in ("a", "true"):
            write_segmentation(
                tmp_path / f"{name}.seg.nrrd", [(Segment("x"), mask)], Volume(mask, upright(2), units="um")
            )
        return mask

    def test_scores_that_do_not_fit_are_refused_before_they_are_made(self, masks, capsys):
        code, _, err = call(evaluate, "a.seg.nrrd", "--annotation", "true.seg.nrrd", "--max-ram", "5MB", capsys=capsys)
        assert code == 2
        assert re.search(r"'a\.seg\.nrrd': scoring does not fit: about \d+ MB of memory needed, 5 MB allowed", err)
        assert not Path("scores").exists()

    def test_measures_that_do_not_fit_are_named(self, masks, capsys):
        size = f"{(1_000_000 + 1.09 * (2 * masks.size + scores_bytes(masks, masks))) / 1e6:.0f}MB"
        assert vessels_bytes(masks) > 1.2 * scores_bytes(masks, masks)
        common = ("a.seg.nrrd", "--annotation", "true.seg.nrrd", "--max-ram", size)
        code, _, err = call(evaluate, *common, "--measures", capsys=capsys)
        assert code == 2
        assert "'a.seg.nrrd': the table of vessels (--measures) does not fit: about" in err
        code, _, err = call(evaluate, *common, capsys=capsys)
        assert code == 0, err

    def test_masks_too_large_to_read_are_refused_by_their_headers(self, masks, capsys):
        claims = Path("a.seg.nrrd").read_bytes().replace(b"sizes: 64 64 32", b"sizes: 64000 64000 32000")
        Path("a.seg.nrrd").write_bytes(claims)
        code, _, err = call(evaluate, "a.seg.nrrd", "--annotation", "true.seg.nrrd", "--max-ram", "2GB", capsys=capsys)
        assert code == 2
        assert re.search(r"'a\.seg\.nrrd' does not fit: about \d+\.\d\d GB of memory needed, 2\.00 GB allowed", err)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_scoring_is_told_what_its_program_takes(tmp_path, rng, root):
    """Before, it was told the 500 MB of a network, and refused where that was more than was free."""
    mask = Volume(rng.random((32, 32, 32)) < 0.5, upright(2), units="um")
    true = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment("x"), mask.array)], mask)
    words = [true, "--annotation", true, "-o", tmp_path / "out", "--max-ram", "220MB", "--figure", "a.pdf"]
    command = [sys.executable, "-c", SCORING_PEAK, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert ran.returncode == 0, ran.stderr
    assert 0.5 * SCORING < 1024 * int(ran.stdout.splitlines()[-1]) < SCORING


SCORING_PEAK = """
import re, sys, evaluate
code = evaluate.main(evaluate.build_parser().parse_args())
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""
