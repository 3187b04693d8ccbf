"""evaluate.py as a person runs it, on files."""

import csv
import html
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import call_for_last_line
from shapes import ball, moved, torus

import evaluate
from micronet.core.volume import Volume, upright
from micronet.io import Segment, write_segmentation, write_volume
from micronet.io.volume_names import volume_name

SPACE = "left-posterior-superior"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


call = partial(call_for_last_line, evaluate)


def read_table(path):
    """Return the comments and the rows of a table."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    return comments, list(csv.DictReader(lines[len(comments) :]))


def write_mask(path, mask, um=4.5, **geometry):
    volume = Volume(mask, directions=upright((um, um, um)), space=SPACE, units="um", **geometry)
    path = Path(path)
    path.parent.mkdir(exist_ok=True)
    if path.name.endswith(".seg.nrrd"):
        write_segmentation(path, [(Segment(name="lumen"), mask)], volume)
    else:
        write_volume(path, volume)
    return volume


def test_one_pair_of_files_whatever_they_are_called(folder, capsys):
    write_mask("mine.seg.nrrd", moved(ball(6), 1, 0, 0))
    write_mask("truth.nrrd", ball(6))
    code, out, _ = call("mine.seg.nrrd", "--annotation", "truth.nrrd", capsys=capsys)
    assert code == 0
    comments, [row] = read_table("scores/scores.csv")
    assert row["volume"] == "mine"
    assert (row["prediction"], row["annotation"]) == ("mine.seg.nrrd", "truth.nrrd")
    assert row["spacing_um_zyx"] == "4.5 4.5 4.5"
    assert (float(row["nsd"]), float(row["hd95_um"]), float(row["cl_dice"])) == (1, 4.5, 1)
    assert float(row["predicted_um3"]) == pytest.approx(ball(6).sum() * 4.5**3, rel=1e-5)
    dice = 2 * (ball(6) & moved(ball(6), 1, 0, 0)).sum() / (2 * ball(6).sum())
    assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
    told = dict(
        re.split(r" {2,}|(?<=\)) ", line, maxsplit=1) for line in out.splitlines() if re.match(r"Dice|volume,", line)
    )
    assert told["Dice (F1)"] == f"{dice:.4f}"
    assert told["volume, predicted (µm³)"] == "84,291"
    header = "\n".join(comments)
    for told in ("micronet 0.1.0", "scikit-image", "# cl_dice: harmonic mean", "innermost voxel", "both empty: 1"):
        assert told in header
    assert not Path("scores/summary.csv").exists()


def test_folders_are_paired_by_volume_and_summarised(folder, capsys):
    for number, step in enumerate((0, 1, 2)):
        write_mask(f"predictions/E5D_0{number}_T1.seg.nrrd", moved(torus(9, 3), 0, step, 0))
        write_mask(f"annotations/annotation_0{number}_T1_iso_full.seg.nrrd", torus(9, 3))
    write_mask("predictions/other.seg.nrrd", ball(3))
    write_volume("predictions/E5D_00_T1_probability.nrrd", Volume(np.zeros((4, 4, 4), np.uint8)))
    code, out, _ = call("predictions", "--annotation", "annotations", capsys=capsys)
    assert code == 0
    assert "note: 1 predictions without annotation: other" in out
    assert "median of 3 volumes" in out
    assert "surface Dice (NSD)  " in out
    _, rows = read_table("scores/scores.csv")
    assert [row["volume"] for row in rows] == ["00_T1", "01_T1", "02_T1"]
    assert [float(row["hd95_um"]) for row in rows] == [0, 4.5, 9]
    comments, summary = read_table("scores/summary.csv")
    assert any("bootstrap" in line for line in comments)
    hd95 = next(row for row in summary if row["score"] == "hd95_um")
    assert [float(hd95[key]) for key in ("volumes", "median", "low", "high")] == [3, 4.5, 0, 9]
    assert "in µm" in hd95["definition"]


def test_the_same_scores_give_the_same_interval_twice(folder, capsys):
    for number in range(4):
        write_mask(f"p/{number}.seg.nrrd", moved(ball(6), number, 0, 0))
        write_mask(f"a/{number}.seg.nrrd", ball(6))
    tables = []
    for output in ("one", "two"):
        assert call("p", "--annotation", "a", "-o", output, capsys=capsys)[0] == 0
        tables.append(read_table(f"{output}/summary.csv")[1])
    assert tables[0] == tables[1]


def test_a_probability_is_swept(folder, capsys):
    truth = ball(6)
    write_mask("a_iso_full.seg.nrrd", truth)
    grid = Volume(np.zeros(truth.shape, np.uint8), directions=upright((4.5,) * 3), space=SPACE, units="um")
    write_volume("a_probability.nrrd", grid.with_array((200 * truth + 50 * moved(truth, 1, 0, 0)).astype(np.uint8)))
    arguments = ("a_probability.nrrd", "--annotation", "a_iso_full.seg.nrrd")
    assert call(*arguments, "--sweep", "--threshold", "0.1", capsys=capsys)[0] == 0
    comments, rows = read_table("scores/a_sweep.csv")
    assert "# setting threshold: 0.1" in comments
    assert len(rows) == 255
    at = {float(row["threshold"]): row for row in rows}
    assert float(at[0.501961]["dice"]) == float(at[0.501961]["precision"]) == 1
    assert float(at[0.0]["recall"]) == 1
    assert float(at[0.901961]["precision"]) == 1  # both masks
    _, [scores] = read_table("scores/scores.csv")
    assert float(scores["dice"]) == pytest.approx(float(at[0.101961]["dice"]))
    with Image.open("scores/a_sweep.png") as picture:
        assert min(picture.size) > 700
    code, _, err = call(*arguments, "-o", "b", capsys=capsys)
    assert code == 2
    assert "'a_probability.nrrd' is no mask" in err
    assert not Path("b").exists()


def test_folders_of_results_are_swept(folder, capsys):
    write_mask("predictions/E5D_a.seg.nrrd", ball(6))
    write_volume("predictions/E5D_a_probability.nrrd", Volume((255 * ball(6)).astype(np.uint8)))
    write_mask("annotations/annotation_a_iso_full.seg.nrrd", ball(6))
    assert call("predictions", "--annotation", "annotations", "--sweep", capsys=capsys)[0] == 0
    _, [row] = read_table("scores/scores.csv")
    assert row["prediction"].endswith("_probability.nrrd")
    assert row["dice"] == "1"


def test_a_bad_pair_never_stops_the_others(folder, capsys):
    write_mask("p/a.seg.nrrd", ball(6))
    write_mask("p/b.seg.nrrd", ball(5))
    write_mask("a/a.seg.nrrd", ball(6))
    write_mask("a/b.seg.nrrd", ball(6))
    code, out, _ = call("p", "--annotation", "a", capsys=capsys)
    assert code == 2
    assert "failed  b.seg.nrrd  'p/b.seg.nrrd': shape (Z, Y, X) (17, 17, 17) differs from 'a/b.seg.nrrd'" in out
    assert "1 done, 1 failed" in out
    assert [row["volume"] for row in read_table("scores/scores.csv")[1]] == ["a"]


def test_only_the_first_voxels_in_depth_count(folder, capsys):
    truth = np.zeros((6, 12, 6), bool)
    truth[2:4, 2:10, 2:4] = True
    found = truth.copy()
    found[:, 6:] = False
    write_mask("p.seg.nrrd", found)
    write_mask("t.seg.nrrd", truth)
    assert call("p.seg.nrrd", "--annotation", "t.seg.nrrd", "--y-crop", "6", capsys=capsys)[0] == 0
    comments, [row] = read_table("scores/scores.csv")
    assert row["dice"] == "1"
    assert "# setting y_crop: 6" in comments


def test_a_file_without_spacing_gives_no_lengths_and_says_so(folder, capsys):
    np.save("p.npy", ball(6))
    np.save("t.npy", ball(6))
    code, out, _ = call("p.npy", "--annotation", "t.npy", capsys=capsys)
    assert code == 0
    assert "note: no spacing stated, so nothing in µm; give --spacing" in out
    _, [row] = read_table("scores/scores.csv")
    assert row["hd95_um"] == row["predicted_um3"] == row["spacing_um_zyx"] == ""
    assert row["nsd"] == "1"
    arguments = ("p.npy", "--annotation", "t.npy", "--spacing", "5,2,2", "--force")
    assert call(*arguments, capsys=capsys)[0] == 0
    assert read_table("scores/scores.csv")[1][0]["hd95_um"] == "0"


def test_measures_of_both_masks_are_written(folder, capsys):
    np.save("found.npy", torus(12, 3))  # states no spacing: the annotation's word counts
    write_mask("true.seg.nrrd", torus(12, 3))
    code, _, err = call("found.npy", "--annotation", "true.seg.nrrd", "--measures", capsys=capsys)
    assert code == 0, err
    for role in ("predicted", "annotated"):
        _, [row] = read_table(f"scores/found_{role}_vessels.csv")
        assert float(row["centreline_um"]) == pytest.approx(2 * np.pi * 12 * 4.5, rel=0.02)
        assert len(read_table(f"scores/found_{role}_centrelines.csv")[1]) > 50
    code, _, err = call("found.npy", "--annotation", "found.npy", "--measures", "-o", "b", capsys=capsys)
    assert code == 2
    assert "the voxel size is not known: give it (--spacing Z,Y,X)" in err


def test_scores_are_not_replaced_unasked(folder, capsys):
    write_mask("p.seg.nrrd", ball(6))
    arguments = ("p.seg.nrrd", "--annotation", "p.seg.nrrd")
    assert call(*arguments, capsys=capsys)[0] == 0
    code, _, err = call(*arguments, capsys=capsys)
    assert (code, err) == (2, "error: 'scores/scores.csv' exists; --force replaces it, -o DIR writes elsewhere")
    assert call(*arguments, "--force", capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["p", "--annotation", "empty"], "'empty' is a folder without masks (.seg.nrrd, .nrrd"),
        (["empty", "--annotation", "p", "--sweep"], "'empty' is a folder without probabilities (.nrrd"),
        (["p", "--annotation", "q"], "no prediction and annotation share a name: a, b against c, d"),
        (["p", "p/a.seg.nrrd", "--annotation", "p"], "are both of volume 'a'; name one of them"),
        (["nowhere.nrrd", "--annotation", "p/a.seg.nrrd"], "nowhere.nrrd"),
        (
            ["p/a.seg.nrrd", "--annotation", "p/a.seg.nrrd", "--beta", "-1"],
            "--beta: '-1': expected a number from 0.001 to 1000",
        ),
        (
            ["p/a.seg.nrrd", "--annotation", "p/a.seg.nrrd", "--y-crop", "0"],
            "--y-crop: '0': expected a whole number from 1",
        ),
        (
            ["p/a.seg.nrrd", "--annotation", "p/a.seg.nrrd", "--threshold", "2"],
            "--threshold: '2': expected a number from 0 to below 1",
        ),
        (["p/a.seg.nrrd", "--annotation", "skewed.nrrd"], "'skewed.nrrd': its axes are not at right angles"),
    ],
)
def test_bad_input_is_told_in_one_line(folder, capsys, arguments, expected):
    for name in ("p/a", "p/b", "q/c", "q/d"):
        write_mask(f"{name}.seg.nrrd", ball(2))
    Path("empty").mkdir()
    skewed = upright((4.5,) * 3)
    skewed[0, 0] = 2.0
    write_volume("skewed.nrrd", Volume(ball(2), directions=skewed, space="", units="um"))
    if "skewed.nrrd" in arguments:
        arguments = ["skewed.nrrd", *arguments[1:]]
    code, _, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert err.startswith("error: ")
    assert expected in err


def test_a_report_shows_both_masks_the_scores_and_the_curve(folder, capsys):
    truth = ball(6)
    grid = write_mask("truth.seg.nrrd", truth)
    write_volume("found.nrrd", grid.with_array((200 * moved(truth, 1, 0, 0)).astype(np.uint8)))
    write_volume("image.nrrd", grid.with_array((50 * truth).astype(np.uint8)))
    options = ("--annotation", "truth.seg.nrrd", "--sweep", "--report", "--image", "image.nrrd")
    code, out, err = call("found.nrrd", *options, capsys=capsys)
    assert code == 0, err
    assert "scores_report.html" in out
    page = Path("scores/scores_report.html").read_text(encoding="utf-8")
    _, [row] = read_table("scores/scores.csv")
    for told in (
        f'<td class="number">{float(row["dice"]):.4f}</td>',
        "clDice sensitivity",
        "harmonic mean of the two",
        "4.5, 4.5, 4.5",
    ):
        assert told in page
    for heading in ("Scores", "Precision and recall", "Histograms", "How it was made"):
        assert f"<h2>{heading}</h2>" in page
    record = json.loads(html.unescape(page[page.index("<pre") :].split(">", 1)[1].split("</pre>")[0]))
    assert [len(record["pairs"][0][role]["sha256"]) for role in ("prediction", "annotation", "image")] == [64] * 3
    assert record["pairs"][0]["scores"]["hd95_um"] == 4.5
    assert record["settings"] == {"threshold": 0.5}

    assert call("found.nrrd", *options[:3], "--force", capsys=capsys)[0] == 0
    assert not Path("scores/scores_report.html").exists()  # of scores that are no longer there


def test_a_report_of_many_volumes_shows_slices_of_the_worst_the_best_and_some_between(folder, capsys):
    for number in range(14):
        found = moved(ball(9), number % 3, 0, 0) if number != 7 else ball(9) & False
        write_mask(f"p/v{number:02d}.seg.nrrd", found)
        truth = write_mask(f"a/v{number:02d}.seg.nrrd", ball(9))
        write_volume(f"E5D_v{number:02d}.nrrd", truth.with_array(ball(9).astype(np.uint8)))
    code, _, err = call("p", "--annotation", "a", "--report", "--image", ".", capsys=capsys)
    assert code == 0, err
    page = Path("scores/scores_report.html").read_text(encoding="utf-8")
    assert "<h2>Each volume</h2>" in page
    assert "slices of 12 volumes, from the lowest to the highest Dice" in page
    names = re.findall(r'"name": "(v\d\d): Dice ([\d.]+)"', page)
    assert len(names) == 12
    assert {"0", "1"} <= {dice for _, dice in names}
    assert [name for name, _ in names] == sorted(name for name, _ in names)
    assert page.count("data:image/jpeg") == 12 * 4
    assert "∞" in page  # HD95 of an empty prediction
    for number in range(14):
        assert f'<th scope="row">v{number:02d}</th>' in page


def test_a_figure_shows_both_masks_and_is_in_the_record(folder, capsys):
    write_mask("found.seg.nrrd", moved(ball(6), 1, 0, 0))
    write_mask("truth.seg.nrrd", ball(6))
    options = ("--annotation", "truth.seg.nrrd", "--figure", "scores/f.svg", "--slice", "y=9", "--panel", "y")
    code, out, err = call("found.seg.nrrd", *options, capsys=capsys)
    assert code == 0, err
    assert "f.svg" in out
    drawn = Path("scores/f.svg").read_text(encoding="utf-8")
    assert all(
        word in drawn for word in (f"y 9 of {ball(6).shape[1]}", "prediction", "annotation", "#e69f00", "#56b4e9")
    )
    assert {mark["name"] for mark in json.loads(Path("scores/scores.json").read_bytes())["outputs"]} == {
        "scores.csv",
        "f.svg",
    }


def test_an_annotation_of_some_planes_only_is_told_beside_its_scores(folder, capsys):
    """Before, a mask that went on beyond what was annotated had half its Dice, without a word."""
    part = ball(8)
    middle = len(part) // 2
    part[middle + 2 :] = part[: middle - 2] = False
    write_mask("found.seg.nrrd", ball(8))
    write_mask("part.seg.nrrd", part)
    write_mask("whole.seg.nrrd", ball(8))
    told = f"the annotation seems to be drawn in z {middle - 2} to {middle + 1} only: what is found elsewhere counts"
    code, out, err = call("found.seg.nrrd", "--annotation", "part.seg.nrrd", "--report", capsys=capsys)
    assert code == 0, err
    assert f"note: {told}" in out
    assert f"found: {told}" in Path("scores/scores_report.html").read_text(encoding="utf-8")
    assert "seems" not in call("found.seg.nrrd", "--annotation", "whole.seg.nrrd", "-o", "all", capsys=capsys)[1]


def test_of_several_pairs_each_has_a_figure_named_after_its_volume(folder, capsys):
    """Before, a figure was of one pair, and more were refused."""
    for number, name in enumerate("ab"):
        write_mask(f"p/{name}.seg.nrrd", moved(ball(6), number, 0, 0))
        write_mask(f"q/{name}.seg.nrrd", ball(6))
    options = ("p", "--annotation", "q", "--figure", "f.png", "--panel", "z")
    code, out, err = call(*options, capsys=capsys)
    assert code == 0, err
    assert "a_f.png, b_f.png" in out
    assert Path("scores/a_f.png").read_bytes() != Path("scores/b_f.png").read_bytes()
    record = json.loads(Path("scores/scores.json").read_bytes())
    assert {mark["name"] for mark in record["outputs"]} == {"scores.csv", "summary.csv", "a_f.png", "b_f.png"}
    Path("mine").mkdir()
    Path("mine/b_f.png").write_bytes(b"a person's own")
    code, _, err = call(*options, "-o", "mine", capsys=capsys)
    assert code == 2
    assert "b_f.png" in err
    assert [file.name for file in Path("mine").iterdir()] == ["b_f.png"]


def test_a_plane_that_a_volume_lacks_is_told_before_scoring_and_of_several_leaves_out_its_figure(folder, capsys):
    """Before, a pair was scored, then failed without its scores, and a folder of nothing stayed."""
    for name, size in (("a", 6), ("b", 4)):
        write_mask(f"p/{name}.seg.nrrd", ball(size))
        write_mask(f"q/{name}.seg.nrrd", ball(size))
    depth = len(ball(4))
    missing = f"has no plane z={depth} to show: z runs from 0 to {depth - 1} (--slice, --crop)"
    how = ("--figure", "f.png", "--panel", "z", "--slice", f"z={depth}")
    code, out, err = call("p/b.seg.nrrd", "--annotation", "q/b.seg.nrrd", *how, capsys=capsys)
    assert code == 2
    assert f"'b' {missing}" in err
    assert not Path("scores").exists()

    code, out, err = call("p", "--annotation", "q", *how, capsys=capsys)
    assert code == 0, out + err
    assert f"note: no figure: 'b' {missing}" in out
    assert [row["volume"] for row in read_table("scores/scores.csv")[1]] == ["a", "b"]
    assert out.splitlines()[-1].startswith("wrote scores/: scores.csv, summary.csv, a_f.png")
    assert sorted(file.name for file in Path("scores").iterdir()) == [
        "a_f.png", "scores.csv", "scores.json", "summary.csv"
    ]  # fmt: skip


def test_folders_of_png_masks_are_paired_by_name_like_volumes(folder, capsys):
    """Before, a folder of PNG was one without masks, and so was what infer.py found set against them."""
    disc = ball(6).max(0)
    for name, moved_by in (("cell1", 0), ("cell2", 2)):
        for place, mask in (("p", np.roll(disc, moved_by, 1)), ("q", disc)):
            Path(place).mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(f"{place}/{name}.png")
    Path("i").mkdir()
    Image.fromarray(disc.astype(np.uint8) * 90 + 40).save("i/cell2.png")
    code, out, err = call("p", "--annotation", "q", "--report", "--image", "i", capsys=capsys)
    assert code == 0, out + err
    rows = read_table("scores/scores.csv")[1]
    assert [row["volume"] for row in rows] == ["cell1", "cell2"]
    apart = np.roll(disc, 2, 1)
    assert float(rows[0]["dice"]) == 1
    assert float(rows[1]["dice"]) == pytest.approx(2 * np.count_nonzero(disc & apart) / (2 * disc.sum()), abs=1e-4)

    Path("found").mkdir()  # what infer.py writes of an image: the PNG beside it is no mask
    plane = Volume(np.roll(disc, 2, 1)[None])
    write_segmentation("found/cell2.seg.nrrd", [(Segment(name="lumen"), plane.array)], plane)
    Image.new("RGB", (9, 9)).save("found/cell2_preview.png")
    code, out, err = call("found", "--annotation", "q", "-o", "again", capsys=capsys)
    assert code == 0, out + err
    assert read_table("again/scores.csv")[1][0]["dice"] == rows[1]["dice"]
    assert "1 annotations without prediction: cell1" in out

    Image.fromarray(disc.astype(np.uint8) * 100).save("q/cell2.png")
    code, out, _ = call("p", "--annotation", "q", "-o", "other", capsys=capsys)
    assert code == 2
    assert "failed  cell2.png  'q/cell2.png' is no mask: it holds 2 different values (0, 100)" in out


def test_a_report_needs_no_image_and_images_that_do_not_fit_are_told(folder, capsys):
    write_mask("p/a.seg.nrrd", ball(6))
    write_mask("p/b.seg.nrrd", ball(6) & False)
    write_mask("q/a.nrrd", ball(5).astype(np.uint8))
    write_mask("q/other.nrrd", ball(6).astype(np.uint8))
    options = ("--annotation", "p", "--report")
    assert call("p", *options, "-o", "plain", capsys=capsys)[0] == 0
    assert "data:image/jpeg" not in Path("plain/scores_report.html").read_text(encoding="utf-8")

    code, out, _ = call("p", *options, "--image", "q", "-o", "wrong", capsys=capsys)
    assert code == 2
    assert "failed  a.seg.nrrd  'q/a.nrrd': shape (Z, Y, X) (17, 17, 17) differs from 'p/a.seg.nrrd'" in out
    for images, message in (
        (("q/other.nrrd",), "no image is of a volume that is scored: other; name them after it"),
        (("q/a.nrrd", "q"), "are both of volume 'a'; name one of them"),
    ):
        code, _, err = call("p", *options, "--image", *images, "-o", "none", capsys=capsys)
        assert code == 2
        assert message in err
    code, _, err = call("p", "--annotation", "p", "--image", "q", "-o", "none", capsys=capsys)
    assert (code, err) == (2, "error: --image is for --report and --figure: add one, or leave the images out")
    assert not Path("none").exists()


def test_names_are_freed_of_what_files_put_around_them():
    names = ["annotation_082616_07_T15_iso_full.seg.nrrd", "E5D_082616_07_T15.seg.nrrd", "E5D_082616_07_T15.nrrd"]
    assert {volume_name(Path(name)) for name in names} == {"082616_07_T15"}
    assert volume_name(Path("_probability.nrrd")) == "_probability"
