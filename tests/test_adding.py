"""What joins a result that is there: the same bits as if it had been asked for at once, and nothing segmented anew."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, read_json

import infer
from micronet import MicroRNet, Volume, write_volume
from micronet.core.ownership import RECORD_KEYS
from micronet.core.volume import upright
from micronet.io import Segment, read_annotation, write_segmentation
from micronet.networks.weights import save_state

pytestmark = pytest.mark.usefixtures("engine_ready")
# Of a record: what tells when, and how fast.
TIMES = ("created", "seconds", "memory")


@pytest.fixture
def arguments(tmp_path, monkeypatch, rng):
    """A volume with a tube in it, its mask beside it, and how they are segmented."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(11)
    save_state(tmp_path / "ur-net_test.pt", MicroRNet().state_dict())
    z, y, x = np.ogrid[:33, :34, :36]
    tube = ((y - 18) ** 2 + (x - 20) ** 2 < 36) & (z >= 0)
    array = (80 + 60 * tube + rng.normal(0, 8, tube.shape)).clip(0, 255).astype(np.uint8)
    volume = Volume(array, upright((4.5, 4.5, 4.5)), np.array([10.0, -20.0, 30.0]), units="um")
    write_volume("embryo.nrrd", volume)
    for name, mask in (("true", tube), ("other", np.roll(tube, 3, 2))):
        write_segmentation(f"{name}.seg.nrrd", [(Segment(name="lumen"), mask)], volume)
    return ("embryo.nrrd", "--model", "ur-net_test.pt", "--iterations", 2, "--threshold", "0.4")


def infer_into(folder, *arguments, capsys, code=0):
    found, out, err = call(infer, *arguments, "-o", folder, capsys=capsys)
    assert found == code, err
    return out + err


def assert_same(one, other):
    """Hold two folders of results against each other: every file but the records, and these but for the times."""
    one, other = Path(one), Path(other)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for path in one.iterdir():
        if path.suffix == ".json":
            here, there = read_json(path), read_json(other / path.name)
            assert list(here) == list(there)
            for record in (here, there):
                marks = [mark for mark in record["outputs"] if not mark["name"].endswith(".csv")]  # which tell the time
                record["outputs"] = sorted(marks, key=lambda mark: mark["name"])
                record.pop("seal")
                for iteration in record["iterations"]:
                    iteration.pop("seconds")
            assert {key: here[key] for key in here if key not in TIMES} == {
                key: there[key] for key in there if key not in TIMES
            }
        elif path.suffix == ".csv":
            lines = (file.read_text("utf-8").splitlines() for file in (path, other / path.name))
            assert [line for line in next(lines) if "made" not in line] == [
                line for line in next(lines) if "made" not in line
            ]
        else:
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_what_is_added_is_what_is_made_at_once(arguments, capsys):
    wishes = ("--annotation", "true.seg.nrrd", "--mesh", "stl", "--measures", "--label-tiff")
    infer_into("once", *arguments, *wishes, capsys=capsys)
    infer_into("bit", *arguments, capsys=capsys)
    made = Path("bit/embryo_probability.nrrd").stat().st_mtime_ns
    for wish in (wishes[:2], wishes[2:4], wishes[4:5], wishes[5:]):
        out = infer_into("bit", *arguments, *wish, capsys=capsys)
        assert "from        embryo.seg.nrrd, which is there" in out
        assert "changes" not in out
    assert_same("bit", "once")
    assert Path("bit/embryo_probability.nrrd").stat().st_mtime_ns == made
    assert set(RECORD_KEYS) <= set(read_json("bit/embryo.json"))

    for wish in (wishes, (), wishes[2:4]):  # what is there is not made again, nor taken away
        assert "done before" in infer_into("bit", *arguments, *wish, capsys=capsys)
    assert_same("bit", "once")


def test_another_annotation_and_a_figure_of_it_join_what_is_there(arguments, capsys):
    drawn = ("--annotation", "other.seg.nrrd", "--figure", "fig.png", "--panel", "z")
    infer_into("once", *arguments, *drawn, capsys=capsys)
    infer_into("bit", *arguments, "--annotation", "true.seg.nrrd", capsys=capsys)
    assert "which is there: scores, figure" in infer_into("bit", *arguments, *drawn, capsys=capsys)
    assert_same("bit", "once")
    assert "which is there: figure" in infer_into("bit", *arguments, *drawn, capsys=capsys)  # with its annotation
    assert_same("bit", "once")


def test_an_annotation_of_some_planes_only_is_told_beside_its_scores(arguments, capsys):
    mask = read_annotation("true.seg.nrrd").mask
    part = mask.array.copy()
    part[20:] = False
    write_segmentation("part.seg.nrrd", [(Segment(name="lumen"), part)], mask)
    told = "note        the annotation seems to be drawn in z 0 to 19 only"
    out = infer_into("part", *arguments, "--annotation", "part.seg.nrrd", "--report", capsys=capsys)
    assert told in out
    assert "seems to be drawn in z 0 to 19 only" in Path("part/embryo_report.html").read_text(encoding="utf-8")
    assert told not in infer_into("whole", *arguments, "--annotation", "true.seg.nrrd", capsys=capsys)


def test_a_page_joins_what_is_there_with_the_last_mask_alone(arguments, capsys):
    """Before, everything was segmented anew for it."""
    infer_into("bit", *arguments, "--mesh", "ply", "--measures", "--annotation", "true.seg.nrrd", capsys=capsys)
    before = {path.name: path.read_bytes() for path in Path("bit").iterdir()}
    out = infer_into("bit", *arguments, "--report", capsys=capsys)  # its annotation is not needed again
    assert "which is there: report" in out
    assert "changes" not in out
    after = {path.name: path.read_bytes() for path in Path("bit").iterdir()}
    assert after.keys() - before.keys() == {"embryo_report.html"}
    assert {name for name in before if before[name] != after[name]} == {"embryo.json"}
    page = after["embryo_report.html"].decode()
    assert "above is the last mask, those of the iterations before are not kept" in page
    assert "<h2>Scores</h2>" in page
    assert "<h2>Refinement</h2>" in page  # whose numbers are in the record
    assert "done before" in infer_into("bit", *arguments, "--report", capsys=capsys)

    infer_into("once", *arguments, "--report", capsys=capsys)
    whole = Path("once/embryo_report.html").read_text("utf-8")
    assert "after iteration 2" in whole
    assert "after iteration 2" not in page


def test_a_page_has_the_scores_of_a_new_annotation(arguments, capsys):
    infer_into("bit", *arguments, "--annotation", "true.seg.nrrd", "--report", capsys=capsys)
    first = Path("bit/embryo_report.html").read_text("utf-8")
    out = infer_into("bit", *arguments, "--annotation", "other.seg.nrrd", capsys=capsys)
    assert "added       bit/: embryo_preview.png, embryo_report.html, embryo.json" in out
    second = Path("bit/embryo_report.html").read_text("utf-8")
    dice = f"{read_json('bit/embryo.json')['scores']['f1']:.4f}"
    assert dice in second
    assert dice not in first


def test_a_probability_that_is_gone_is_made_anew_for_a_page(arguments, capsys):
    infer_into("out", *arguments, "--annotation", "true.seg.nrrd", capsys=capsys)
    Path("out/embryo_probability.nrrd").unlink()
    out = infer_into("out", *arguments, "--report", capsys=capsys, code=2)
    assert "is of a result that is scored: give its annotation (--annotation), or replace it (--force)" in out
    out = infer_into("out", *arguments, "--report", "--annotation", "true.seg.nrrd", capsys=capsys)
    assert "anew        for report: the probability of 'embryo' is no longer there" in out
    assert "after iteration 2" in Path("out/embryo_report.html").read_text("utf-8")


def test_a_segmentation_that_is_gone_is_made_anew(arguments, capsys):
    infer_into("out", *arguments, capsys=capsys)
    Path("out/embryo.seg.nrrd").unlink()
    out = infer_into("out", *arguments, "--label-tiff", capsys=capsys)
    assert "anew        for labels: the segmentation of 'embryo' is no longer there" in out
    assert Path("out/embryo.seg.nrrd").exists()


def test_a_corrected_segmentation_is_a_persons_and_nothing_is_added_to_it(arguments, capsys):
    infer_into("out", *arguments, capsys=capsys)
    shutil.copy("true.seg.nrrd", "out/embryo.seg.nrrd")
    out = infer_into("out", *arguments, "--label-tiff", capsys=capsys, code=2)
    assert "'out/embryo.seg.nrrd' is in the way: we did not write it, or it was changed since" in out
    assert not Path("out/embryo_labels.tif").exists()


def test_the_message_names_what_differs(arguments, capsys):
    infer_into("out", *arguments, capsys=capsys)
    for options, told in (
        (("--threshold", "0.5"), "threshold 0.4 there, 0.5 asked"),
        (("--y-crop", 33), "y crop none there, 33 asked"),
        (("--until-stable",), "until stable off there, on asked"),
        (("--intensity", "log"), "intensity as stored there, log asked"),
        (("--spacing", "9,4.5,4.5"), "spacing none there, 9,4.5,4.5 asked"),
        (("--initial-mask", "true.seg.nrrd"), "initial mask none there, true.seg.nrrd asked"),
        (("--model", "u-net_phantom"), "weights ur-net_test.pt there, u-net_phantom.pt asked"),
        (("--iterations", 3, "--threshold", "0.3"), "iterations 2 there, 3 asked; threshold 0.4 there, 0.3 asked"),
    ):
        common = (arguments[0], *arguments[3:]) if "--model" in options else arguments  # given twice they are two
        out = infer_into("out", *common, *options, capsys=capsys, code=2)
        assert (
            f"'out/embryo.json' holds a result of other settings for 'embryo.nrrd': {told}; replace it (--force)" in out
        )


def test_an_annotation_that_settles_the_length_unit_is_segmented_anew(arguments, capsys):
    array = np.random.default_rng(1).integers(0, 255, (33, 34, 36), np.uint8)
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 36 34 33\nencoding: raw\nspace dimension: 3\n"
    header += "space directions: (0.0045,0,0) (0,0.0045,0) (0,0,0.0045)\n"
    Path("mute.nrrd").write_bytes(f"{header}\n".encode() + array.tobytes())
    grid = Volume(array > 200, upright((0.0045,) * 3), units="mm")
    write_segmentation("mute_true.seg.nrrd", [(Segment(name="lumen"), grid.array)], grid)
    infer_into("out", "mute.nrrd", *arguments[1:], capsys=capsys)
    out = infer_into("out", "mute.nrrd", *arguments[1:], "--annotation", "mute_true.seg.nrrd", capsys=capsys)
    assert "anew        for scores: its grid would be another" in out
    assert read_json("out/mute.json")["volume"]["units"] == "mm"
