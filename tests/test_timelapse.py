"""Time-lapse as a person runs it: starts, drift, table, plot, resuming."""

import csv
import json
import re

import nibabel
import numpy as np
import pytest
import running
import tifffile
import torch
from PIL import Image
from scipy import ndimage

import infer
from micronet import MicroNet, MicroRNet, Volume, load_model, predict, read_annotation, read_volume, write_volume
from micronet.core.volume import upright
from micronet.networks.weights import save_state
from micronet.segment.job import Job, Weights
from micronet.segment.time_lapse import TimeLapseRun, open_time_lapse

pytestmark = pytest.mark.usefixtures("engine_ready")

SPACING = (6.0, 4.5, 3.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with weights."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(11)
    save_state(tmp_path / "checkpoints" / "ur-net_test.pt", MicroRNet().state_dict())
    return tmp_path


@pytest.fixture
def movie(rng):
    """A textured block with a tube, moved by one voxel along Z and two back along X at each time point."""
    z, y, x = np.mgrid[:40, :36, :48]
    texture = ndimage.gaussian_filter(rng.normal(0, 300, z.shape), 1.5)
    still = 80 + 60 * ((y - 18) ** 2 + (x - 24) ** 2 < 36) + texture
    frames = [np.roll(still, (t, 0, -2 * t), (0, 1, 2))[:34] + rng.normal(0, 5, (34, 36, 48)) for t in range(3)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def call(*arguments, capsys):
    return running.call(infer, *arguments, "--model", "ur-net_test", capsys=capsys)


def table(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def write_tiff(path, movie):
    z, y, x = SPACING
    metadata = {"axes": "TZYX", "spacing": z, "unit": "micron", "finterval": 0.5}
    tifffile.imwrite(path, movie, imagej=True, resolution=(1 / x, 1 / y), metadata=metadata)


def test_every_time_point_of_a_file_starts_from_the_last(folder, movie, capsys):
    write_tiff("beat.tif", movie)
    code, out, err = call("beat.tif", "--time-lapse", "--iterations", 2, "--label-tiff", capsys=capsys)
    assert (code, err) == (0, "")
    assert "3 time points, 'beat.tif' to 'beat.tif'" in out

    model = load_model("checkpoints/ur-net_test.pt")
    start = None
    masks = []
    for t in range(3):
        expected = predict(movie[t], model, 10 if start is None else 2, start)
        written = read_volume(f"predictions/beat_t00{t}_probability.nrrd")
        np.testing.assert_array_equal(written.array, np.rint(expected * 255).astype(np.uint8))
        assert written.spacing_um == SPACING
        masks.append(read_annotation(f"predictions/beat_t00{t}.seg.nrrd").mask.array)
        np.testing.assert_array_equal(masks[-1], expected > 0.5)
        start = written.array.astype(np.float32) / 255

    rows = table("predictions/beat_timelapse.csv")
    assert [row["start"] for row in rows] == ["blank", "beat_t000_probability.nrrd", "beat_t001_probability.nrrd"]
    assert [row["iterations"] for row in rows] == ["10", "2", "2"]
    assert out.count("note: from a blank mask it takes 10 iterations; the next time points 2") == 1
    assert [float(row["time_s"]) for row in rows] == [0.0, 0.5, 1.0]
    assert [int(row["lumen_voxels"]) for row in rows] == [int(mask.sum()) for mask in masks]
    assert float(rows[2]["lumen_um3"]) == pytest.approx(masks[2].sum() * np.prod(SPACING))
    assert rows[0]["mask_overlap_dice"] == rows[0]["compared_with"] == ""
    both = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert float(rows[1]["mask_overlap_dice"]) == pytest.approx(both, abs=1e-4)
    for row in rows[1:]:
        moved = [float(row[f"image_drift_{axis}_um"]) for axis in "zyx"]
        np.testing.assert_allclose(moved, np.array((1, 0, -2)) * SPACING, atol=1.5)
    shift = np.mean(np.argwhere(masks[1]), 0) - np.mean(np.argwhere(masks[0]), 0)
    found = [float(rows[1][f"mask_shift_{axis}_um"]) for axis in "zyx"]
    np.testing.assert_allclose(found, shift * SPACING, atol=1e-3)
    assert "drift (Z, Y, X) of the picture +" in out

    with Image.open("predictions/beat_timelapse.png") as plot:
        assert min(plot.size) > 800
    with tifffile.TiffFile("predictions/beat_timelapse_labels.tif") as tif:
        assert tif.series[0].axes == "TZYX"
        assert tif.imagej_metadata["finterval"] == 0.5
        np.testing.assert_array_equal(tif.asarray(), np.stack(masks))
    record = json.loads((folder / "predictions" / "beat_t001.json").read_text(encoding="utf-8"))
    assert record["input"]["time_point"] == 1
    assert record["masks"]["initial_mask"]["path"].endswith("beat_t000_probability.nrrd")


def test_what_a_time_point_has_found_is_handed_over_and_not_read_back(folder, movie):
    """What it wrote is blanked as soon as it is there: the next time point must not see that."""
    write_tiff("beat.tif", movie)
    weights, job = Weights.load(folder / "checkpoints" / "ur-net_test.pt"), Job(output=folder / "out", iterations=2)

    def say(line):
        if line.startswith("  wrote"):
            probability = job.output / f"beat_t{len(levels):03d}_probability.nrrd"
            levels.append(read_volume(probability).array)
            write_volume(probability, Volume(np.zeros_like(levels[-1])))
            (job.output / probability.name.replace("_probability.nrrd", ".seg.nrrd")).unlink()

    levels = []
    with open_time_lapse([folder / "beat.tif"], job) as lapse:
        run = TimeLapseRun(lapse, weights, job, say=say)
        assert run.segment(0).status == run.segment(1).status == "done"
    start = predict(movie[0], weights.model, 10)
    expected = predict(movie[1], weights.model, 2, np.rint(start * 255).astype(np.float32) / 255)
    np.testing.assert_array_equal(levels[1], np.rint(expected * 255).astype(np.uint8))
    assert int(table(job.output / "beat_timelapse.csv")[1]["lumen_voxels"]) == np.count_nonzero(expected > 0.5)


def test_blank_start_gives_what_each_volume_alone_gives(folder, movie, capsys):
    for t in range(2):
        write_volume(f"scan_{t * 4}.nrrd", Volume(movie[t], upright(SPACING), units="um"))
    code, _, _ = call("scan_4.nrrd", "-o", "alone", "--iterations", 1, capsys=capsys)
    assert code == 0
    files = ["scan_0.nrrd", "scan_4.nrrd"]
    code, _, _ = call(*files, "--time-lapse", "--initial-mask", "blank", "--iterations", 1, capsys=capsys)
    assert code == 0
    rows = table("predictions/scan_timelapse.csv")
    assert [row["start"] for row in rows] == ["blank"] * 2
    assert [row["iterations"] for row in rows] == ["1"] * 2
    assert [row["time_s"] for row in rows] == [""] * 2
    for name in ("scan_4_probability.nrrd", "scan_4.seg.nrrd"):
        assert (folder / "alone" / name).read_bytes() == (folder / "predictions" / name).read_bytes()


def test_folder_is_taken_in_the_order_of_its_numbers(folder, movie, capsys):
    (folder / "scans").mkdir()
    for t, number in enumerate((2, 9, 10)):
        np.save(folder / "scans" / f"t{number}.npy", movie[t])
    code, _, err = call("scans", "--time-lapse", "--interval", 2, "--iterations", 1, capsys=capsys)
    assert (code, err) == (0, "")
    rows = table("predictions/t2_timelapse.csv")
    assert [row["name"] for row in rows] == ["t2", "t9", "t10"]
    assert [float(row["time_s"]) for row in rows] == [0, 2, 4]
    assert rows[1]["lumen_um3"] == ""
    assert float(rows[1]["image_drift_x_voxels"]) == pytest.approx(-2, abs=0.5)


def test_run_that_stopped_goes_on_and_finds_the_same(folder, movie, capsys):
    write_tiff("beat.tif", movie[:2])
    call("beat.tif", "--time-lapse", "--iterations", 1, capsys=capsys)
    whole = {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}
    for path in (folder / "predictions").glob("beat_t001*"):
        path.unlink()
    code, out, _ = call("beat.tif", "--time-lapse", "--iterations", 1, capsys=capsys)
    assert code == 0
    assert re.search(r"skipped +beat_t000 .*\n *done +beat_t001", out)
    for name, content in whole.items():
        if not name.endswith((".json", ".csv")):
            assert (folder / "predictions" / name).read_bytes() == content


def test_bad_time_point_is_left_out_and_the_next_compared_with_the_last_good_one(folder, movie, capsys):
    for t in range(3):
        np.save(f"t{t}.npy", movie[t])
    (folder / "t1.npy").write_bytes(b"\x93NUMPY nonsense")
    code, out, _ = call("t0.npy", "t1.npy", "t2.npy", "--time-lapse", "--iterations", 1, capsys=capsys)
    assert code == 2
    assert re.search(r"failed +t1 +'t1.npy': its .npy header cannot be read", out)
    rows = table("predictions/t0_timelapse.csv")
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert rows[1]["lumen_voxels"] == ""
    assert (rows[2]["compared_with"], rows[2]["start"]) == ("0", "t0_probability.nrrd")


def test_first_time_point_starts_from_a_given_mask(folder, movie, capsys):
    write_tiff("beat.tif", movie[:2])
    mask = np.zeros(movie.shape[1:], np.uint8)
    mask[:, 12:24, 18:30] = 255
    np.save("rough.npy", mask)
    code, _, _ = call("beat.tif", "--time-lapse", "--initial-mask", "rough.npy", "--iterations", 1, capsys=capsys)
    assert code == 0
    rows = table("predictions/beat_timelapse.csv")
    assert [row["start"] for row in rows] == ["mask of a file", "beat_t000_probability.nrrd"]
    assert [row["iterations"] for row in rows] == ["1"] * 2


def test_micronet_looks_once_and_starts_from_nothing(folder, movie, capsys):
    save_state(folder / "checkpoints" / "ur-net_test.pt", MicroNet().state_dict())
    np.save("movie.npy", movie[:2])
    code, _, _ = call("movie.npy", "--axes", "TZYX", "--time-lapse", capsys=capsys)
    assert code == 0
    rows = table("predictions/movie_timelapse.csv")
    assert [(row["start"], row["iterations"]) for row in rows] == [("", "")] * 2


def test_volumes_of_other_shapes_are_no_time_points_of_one_recording(folder, movie, capsys):
    np.save("a0.npy", movie[0])
    np.save("a1.npy", movie[1][:, :, :-4])
    code, out, _ = call("a0.npy", "a1.npy", "--time-lapse", "--iterations", 1, capsys=capsys)
    assert code == 2
    assert "'a1': shape (Z, Y, X) (34, 36, 44) differs from 'a0': (34, 36, 48)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time-lapse"], "--time-lapse needs an INPUT"),
        (["one.npy", "--time-lapse", "--axes", "ZYX"], "holds one time point"),
        (["one.npy", "--initial-mask", "previous"], "--initial-mask previous goes with --time-lapse"),
        (["one.npy", "--interval", "2"], "--interval goes with --time-lapse"),
        (["one.npy", "one.npy", "--time-lapse"], "would both write one"),
        (["a.nii", "--time-lapse", "--annotation", "a.nii"], "an annotation is one mask (--annotation)"),
        (["a.nii", "--time-lapse", "--interval", "0"], "--interval: '0': expected a number from 1e-06 to 1e+09"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(folder, movie, capsys, arguments, message):
    np.save("one.npy", movie[0])
    nibabel.save(nibabel.Nifti1Image(movie.T, np.eye(4)), "a.nii")
    code, _, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_label_tiff_of_one_volume_opens_with_its_spacing(folder, movie, capsys):
    write_volume("one.nrrd", Volume(movie[0], upright(SPACING), np.array([5.0, 6.0, 7.0]), units="um"))
    call("one.nrrd", "--iterations", 1, capsys=capsys)
    code, out, _ = call("one.nrrd", "--iterations", 1, "--label-tiff", capsys=capsys)
    assert code == 0
    assert "from        one.seg.nrrd, which is there: labels" in out
    labels = read_annotation("predictions/one_labels.tif").mask
    assert labels.spacing_um == SPACING
    np.testing.assert_array_equal(labels.array, read_annotation("predictions/one.seg.nrrd").mask.array)
