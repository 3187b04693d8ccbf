"""infer.py and bootstrap_micrornet.py as a person runs them."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
import tifffile
import torch
from running import call, read_json

import bootstrap_micrornet
import infer
from micronet import MicroNet, MicroRNet, Volume, load_model, predict, read_volume, write_volume
from micronet.io import Segment, write_segmentation
from micronet.networks.weights import save_state

pytestmark = pytest.mark.usefixtures("engine_ready")

SPACE = "left-posterior-superior"
# Oblique, anisotropic, one axis flipped.
DIRECTIONS = np.array([[0.5, 0.25, 6.0], [0.0, -4.5, 0.5], [3.0, 0.0, -0.25]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(folder):
    torch.manual_seed(11)
    path = folder / "checkpoints" / "ur-net_test.pt"
    save_state(path, MicroRNet().state_dict())
    return path


@pytest.fixture
def embryo(folder, rng):
    """A small volume with a tube in it, and the tube's mask beside it."""
    z, y, x = np.ogrid[:33, :36, :40]
    tube = ((y - 18) ** 2 + (x - 20) ** 2 < 36) & (z >= 0)
    array = (80 + 60 * tube + rng.normal(0, 8, tube.shape)).clip(0, 255).astype(np.uint8)
    volume = Volume(array, DIRECTIONS, np.array([10.0, -20.0, 30.0]), SPACE, "um")
    write_volume(folder / "embryo.nrrd", volume)
    write_segmentation(folder / "embryo_true.seg.nrrd", [(Segment(name="full seg"), tube)], volume)
    return folder / "embryo.nrrd"


def test_one_volume_gives_probability_segmentation_preview_and_record(embryo, weights, capsys):
    code, out, err = call(
        infer,
        embryo,
        "--model",
        "ur-net_test",
        "--iterations",
        3,
        "--annotation",
        "embryo_true.seg.nrrd",
        capsys=capsys,
    )
    assert code == 0, err
    assert "33 x 36 x 40 (Z, Y, X), uint8, spacing 6.026 x 4.528 x 3.01 µm, left-posterior-superior" in out
    assert "full seg" in out

    expected = predict(read_volume(embryo), load_model(weights), 3)
    probability = read_volume("predictions/embryo_probability.nrrd")
    assert np.array_equal(probability.array, np.rint(expected * 255).astype(np.uint8))
    assert np.array_equal(probability.directions, DIRECTIONS)
    assert probability.origin.tolist() == [10, -20, 30]
    with open("predictions/embryo_preview.png", "rb") as stream:
        assert stream.read(8) == b"\x89PNG\r\n\x1a\n"

    record = read_json("predictions/embryo.json")
    mask = expected > 0.5
    assert record["result"]["voxels"] == np.count_nonzero(mask)
    assert record["result"]["um3"] == pytest.approx(np.count_nonzero(mask) * abs(np.linalg.det(DIRECTIONS)))
    assert record["parameters"]["iterations"] == 3
    assert len(record["iterations"]) == 3
    assert set(record["scores"]) >= {"precision", "recall", "f1"}
    assert len(record["input"]["sha256"]) == len(record["weights"]["sha256"]) == 64
    assert record["versions"]["torch"] == torch.__version__
    assert sorted(os.listdir("predictions")) == [
        "embryo.json",
        "embryo.seg.nrrd",
        "embryo_preview.png",
        "embryo_probability.nrrd",
    ]


def test_simpleitk_and_slicerio_find_the_mask_on_the_input_grid(embryo, weights, capsys):
    call(infer, embryo, "--model", weights, "--iterations", 1, "--threshold", 0.4, capsys=capsys)

    source, mask = sitk.ReadImage(str(embryo)), sitk.ReadImage("predictions/embryo.seg.nrrd")
    for point in ((0, 0, 0), (39, 35, 32), (7, 30, 2)):
        assert mask.TransformIndexToPhysicalPoint(point) == source.TransformIndexToPhysicalPoint(point)
    expected = predict(read_volume(embryo), load_model(weights), 1) > 0.4
    assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, expected)
    segmentation = slicerio.read_segmentation("predictions/embryo.seg.nrrd")
    assert [segment["name"] for segment in segmentation["segments"]] == ["lumen"]
    assert np.array_equal(segmentation["voxels"].transpose(2, 1, 0) > 0, expected)


def test_linear_intensities_are_logarithmised_when_asked(embryo, weights, capsys):
    linear = read_volume(embryo)
    grown = np.exp(linear.array.astype(np.float32) / 32)
    write_volume(embryo.with_name("linear.nrrd"), linear.with_array(grown))
    write_volume(embryo.with_name("logs.nrrd"), linear.with_array(np.log(grown)))
    for name, options in (("linear", ("--intensity", "log")), ("logs", ())):
        code, out, _ = call(infer, embryo.with_name(f"{name}.nrrd"), "--model", weights, *options, capsys=capsys)
        assert code == 0
        assert ("the logarithm of what is stored" in out) == (name == "linear")
    masks = [read_volume(f"predictions/{name}_probability.nrrd").array for name in ("linear", "logs")]
    assert masks[0].any()
    np.testing.assert_allclose(masks[0].astype(int), masks[1].astype(int), atol=1)


def test_initial_mask_and_until_stable(embryo, weights, capsys):
    code, out, err = call(
        infer,
        *(embryo, "--model", weights, "--initial-mask", "embryo_true.seg.nrrd"),
        *("--until-stable", "--iterations", 6),
        capsys=capsys,
    )
    record = read_json("predictions/embryo.json")
    assert code == (0 if record["settled"] else 3), err
    assert record["parameters"]["until_stable"]
    assert "settled after " in out
    assert record["settled"] == ("NOT settled" not in out)
    start = nrrd.read("embryo_true.seg.nrrd", index_order="C")[0] > 0
    first = predict(read_volume(embryo), load_model(weights), 1, start)
    assert record["iterations"][0]["foreground"] == np.count_nonzero(first > 0.5)


def test_a_second_run_skips_what_is_done_and_force_repeats_it(embryo, weights, capsys):
    arguments = (embryo, "--model", weights, "--iterations", 1)
    call(infer, *arguments, capsys=capsys)
    made = os.stat("predictions/embryo.json").st_mtime_ns

    code, out, _ = call(infer, *arguments, capsys=capsys)
    assert (code, os.stat("predictions/embryo.json").st_mtime_ns) == (0, made)
    assert "1 skipped" in out

    code, out, _ = call(infer, *arguments, "--force", capsys=capsys)
    assert code == 0
    assert os.stat("predictions/embryo.json").st_mtime_ns > made


def test_a_report_is_written_when_asked_and_never_outlives_its_result(embryo, weights, capsys):
    arguments = (embryo, "--model", weights, "--iterations", 2)
    call(infer, *arguments, capsys=capsys)
    report = Path("predictions/embryo_report.html")
    assert not report.exists()

    code, out, _ = call(infer, *arguments, "--report", capsys=capsys)
    assert code == 0
    assert "report added" in out
    assert "embryo_report.html" in out
    assert read_json("predictions/embryo.json")["files"]["report"] == report.name
    page = report.read_text(encoding="utf-8")
    assert "after iteration 2: " not in page
    assert "<h2>Scores</h2>" not in page

    _, out, _ = call(infer, *arguments, "--report", capsys=capsys)
    assert "1 skipped" in out

    assert call(infer, *arguments, "--report", "--force", capsys=capsys)[0] == 0
    assert "after iteration 2: " in report.read_text(encoding="utf-8")

    code, _, _ = call(infer, embryo, "--model", weights, "--iterations", 1, "--force", capsys=capsys)
    assert code == 0
    assert not report.exists()


def test_a_mesh_and_measures_are_written_when_asked_and_never_outlive_their_result(embryo, weights, capsys):
    arguments = (embryo, "--model", weights, "--iterations", 1, "--threshold", "0.01")
    call(infer, *arguments, capsys=capsys)
    asked = {"mesh": "embryo_lumen.stl", "vessels": "embryo_vessels.csv", "centrelines": "embryo_centrelines.csv"}
    files = [Path("predictions") / name for name in asked.values()]
    assert not any(file.exists() for file in files)

    code, out, _ = call(infer, *arguments, "--mesh", "stl", "--measures", capsys=capsys)
    assert code == 0
    assert "from        embryo.seg.nrrd, which is there: mesh, vessels, centrelines" in out
    record = read_json("predictions/embryo.json")
    assert asked.items() <= record["files"].items()
    assert all(file.exists() for file in files)
    rows = [line for line in files[1].read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert sum(int(row.split(",")[1]) for row in rows[1:]) == record["result"]["voxels"]

    _, out, _ = call(infer, *arguments, "--mesh", "stl", "--measures", capsys=capsys)
    assert "1 skipped" in out

    code, _, _ = call(infer, *arguments, "--mesh", "ply", "--force", capsys=capsys)
    assert code == 0
    assert not any(file.exists() for file in files)
    assert Path("predictions/embryo_lumen.ply").exists()


def test_measures_need_a_voxel_size(folder, weights, capsys):
    np.save("a.npy", np.zeros((33, 34, 35), np.uint8))
    code, _, err = call(infer, "a.npy", "--model", weights, "--measures", capsys=capsys)
    assert code == 2
    assert "'a.npy' does not state its voxel size (--spacing Z,Y,X), which the measures need (--measures)" in err


def test_a_report_shows_the_start_the_crop_and_what_looks_wrong(embryo, weights, folder, capsys):
    start = ("--initial-mask", "embryo_true.seg.nrrd", "--annotation", "embryo_true.seg.nrrd", "--y-crop", 34)
    code, _, err = call(infer, embryo, "--model", weights, "--iterations", 1, *start, "--report", capsys=capsys)
    assert code == 0, err
    page = Path("predictions/embryo_report.html").read_text(encoding="utf-8")
    assert '"frames": ["the mask it started from", "after iteration 1: ' in page
    assert "<h2>Scores</h2>" in page
    assert "y crop 34" in page

    state = MicroNet().state_dict()
    state["up0.4.weight"].zero_()
    state["up0.4.bias"][:] = -30.0
    save_state(folder / "flat.pt", state)
    code, _, _ = call(infer, embryo, "--model", "flat.pt", "--report", "-o", "flat", capsys=capsys)
    assert code == 0
    page = Path("flat/embryo_report.html").read_text(encoding="utf-8")
    assert '<p class="warning">Warning: nothing was found above 0.5' in page


def test_a_result_of_other_settings_is_not_replaced_without_force(embryo, weights, capsys):
    call(infer, embryo, "--model", weights, "--iterations", 1, capsys=capsys)

    code, _, err = call(infer, embryo, "--model", weights, "--iterations", 2, capsys=capsys)

    assert code == 2
    assert (
        "embryo.json' holds a result of other settings for 'embryo.nrrd': iterations 1 there, 2 asked; "
        "replace it (--force) or write elsewhere (-o DIR)" in err
    )


def test_a_bad_file_never_stops_the_others(embryo, weights, capsys):
    scans = embryo.parent / "scans"
    scans.mkdir()
    shutil.copy(embryo, scans / "a_good.nrrd")
    (scans / "b_broken.nrrd").write_bytes(embryo.read_bytes()[:-2000])
    shutil.copy(embryo, scans / "c_good.nrrd")

    code, out, _ = call(infer, scans, "--model", weights, "--iterations", 1, capsys=capsys)

    assert code == 2
    assert "2 done, 1 failed" in out
    assert os.path.exists("predictions/a_good.seg.nrrd")
    assert os.path.exists("predictions/c_good.seg.nrrd")
    assert not any(name.startswith("b_broken") for name in os.listdir("predictions"))


def test_a_folder_is_read_without_segmentations_and_our_own_output(embryo, weights, capsys):
    call(infer, embryo, "--model", weights, "--iterations", 1, "-o", ".", capsys=capsys)

    code, _out, _ = call(infer, ".", "--model", weights, "--iterations", 1, "-o", "again", capsys=capsys)

    assert code == 0
    assert sorted(os.listdir("again"))[0] == "embryo.json"
    assert len(os.listdir("again")) == 4


def _cases(folder, embryo):
    good = embryo.read_bytes()
    array = read_volume(embryo).array
    header = good[: good.index(b"\n\n") + 2]
    (folder / "truncated.nrrd").write_bytes(good[:-3000])
    (folder / "magic.nrrd").write_bytes(b"NRRB0004" + good[8:])
    (folder / "larger.nrrd").write_bytes(
        header.replace(b"encoding: gzip", b"encoding: raw").replace(b"sizes: 40 36 33", b"sizes: 400 360 330")
        + bytes(9)
    )
    nrrd.write(str(folder / "flat.nrrd"), array[0])
    nrrd.write(str(folder / "four.nrrd"), np.stack([array, array]))
    np.save(folder / "complex.npy", array.astype(complex))
    np.save(folder / "strings.npy", np.full((32, 32, 32), "lumen"))
    np.save(folder / "objects.npy", np.full((2, 2, 2), None), allow_pickle=True)
    holes = array.astype(np.float32)
    holes[3, 4, 5] = np.nan
    np.save(folder / "nan.npy", holes)
    np.save(folder / "constant.npy", np.full((32, 32, 32), 7))
    (folder / "notes.txt").write_text("no volume")
    (folder / "empty").mkdir()
    return {
        "absent.nrrd": r"absent.nrrd",
        "truncated.nrrd": r"truncated.nrrd",
        "magic.nrrd": r"magic.nrrd",
        "larger.nrrd": r"larger.nrrd.*47,520,000",
        "flat.nrrd": r"flat.nrrd",
        "four.nrrd": r"four.nrrd",
        "complex.npy": r"complex.npy.*complex128",
        "strings.npy": r"strings.npy",
        "objects.npy": r"objects.npy",
        "nan.npy": r"nan.npy': the image holds 1 voxels that are not finite",
        "constant.npy": r"constant.npy': the image is constant: every voxel is 7",
        "notes.txt": r"notes.txt.*known: .nrrd",
        "empty": r"empty' is a folder without volumes",
    }


def test_bad_input_gives_one_clear_line_and_exit_code_2(folder, embryo, weights, capsys):
    for name, message in _cases(folder, embryo).items():
        code, out, err = call(infer, folder / name, "--model", weights, capsys=capsys)

        assert code == 2, name
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (name, err)
        assert "Traceback" not in out + err
        assert re.search(message, lines[0]), (name, lines[0])
        assert not (folder / "predictions").exists(), name


def test_a_model_that_is_a_pickle_with_code_does_not_run(folder, embryo, capsys):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(folder / "owned"),)

    (folder / "evil.pt").write_bytes(pickle.dumps(Code()))
    torch.save({"down0.0.weight": Code()}, folder / "evil_zip.pt")
    for name in ("evil.pt", "evil_zip.pt"):
        code, _, err = call(infer, embryo, "--model", folder / name, capsys=capsys)
        assert code == 2
        assert name in err
        assert not (folder / "owned").exists()


def test_a_mask_on_another_grid_is_refused(folder, embryo, weights, capsys):
    volume = read_volume(embryo)
    moved = Volume(volume.array > 100, volume.directions, volume.origin + 50, volume.space, volume.units)
    write_segmentation(folder / "moved.seg.nrrd", [(Segment(name="a"), moved.array)], moved)

    for option in ("--annotation", "--initial-mask"):
        code, _, err = call(infer, embryo, "--model", weights, option, "moved.seg.nrrd", capsys=capsys)
        assert code == 2
        assert "'moved.seg.nrrd' lies on another grid than" in err
        assert not os.path.exists("predictions")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1.5"], "--threshold: '1.5': expected a number from 0 to below 1"),
        (["--iterations", "0"], "--iterations: '0': expected a whole number from 1 to 1000"),
        (["--y-crop", "99"], r"y-crop must lie in 1..36"),
        (["--threads", "0"], "--threads: '0': expected a whole number from 1 to 1024"),
        (["--model", "nothing"], "no weights 'nothing'"),
        (["--spacing", "a,b"], "expected lengths Z,Y,X in µm"),
        (["--device", "cuda:99"], "CUDA devices"),
        (["--initial-mask", "embryo.nrrd"], "embryo.nrrd"),
        (["--figure", "a.gif"], "'a.gif': a figure is one of .svg, .pdf, .png, told by its suffix (--figure)"),
        (["--figure", "paper/a.svg"], "'paper/a.svg': a figure lies beside the other results, in 'predictions'"),
        (["--figure", "a.svg", "--slice", "z=33"], "embryo.nrrd': the volume has no plane z=33 to show: z runs from"),
        (["--figure", "a.svg", "--slice", "33"], "expected an axis and a plane, counted from 0, such as z=108"),
        (["--figure", "a.svg", "--crop", "x=9:9"], "expected an axis and from which voxel up to which"),
        (["--panel", "z"], "--panel is for --figure FILE: add it"),
        (["--time-lapse", "--figure", "a.svg"], "--figure is of one volume"),
    ],
)
def test_bad_options_are_told_in_one_line(embryo, weights, arguments, message, capsys):
    chosen = [] if "--model" in arguments else ["--model", weights]
    code, _, err = call(infer, embryo, *chosen, *arguments, capsys=capsys)

    assert code == 2
    assert message in err.splitlines()[-1]


def test_a_figure_is_drawn_of_the_result_that_is_there_and_is_ours(embryo, weights, capsys):
    def draw(*options):
        code, out, err = call(infer, embryo, "--model", weights, "--iterations", 1, *options, capsys=capsys)
        assert code == 0, err
        return out

    draw()
    result = {name: Path("predictions", name).stat().st_mtime_ns for name in os.listdir("predictions")}
    assert "which is there: figure" in draw("--figure", "f.svg", "--slice", "z=3", "--panel", "z")
    assert "z 3 of 33" in Path("predictions/f.svg").read_text(encoding="utf-8")
    draw("--figure", "f.svg", "--slice", "z=4", "--panel", "z")  # ours, so it is replaced
    assert "z 4 of 33" in Path("predictions/f.svg").read_text(encoding="utf-8")
    assert (
        result.items() - {("embryo.json", result["embryo.json"])}
        <= {name: Path("predictions", name).stat().st_mtime_ns for name in os.listdir("predictions")}.items()
    )  # nothing was segmented again
    record = read_json("predictions/embryo.json")
    assert record["files"]["figure"] == "f.svg"
    assert len(record["outputs"]) == 4

    Path("predictions/f.svg").write_text("a person's", encoding="utf-8")
    code, _, err = call(infer, embryo, "--model", weights, "--iterations", 1, "--figure", "f.svg", capsys=capsys)
    assert code == 2
    assert "is in the way: we did not write it, or it was changed since" in err
    assert "skipped" in draw()  # the result is whole without it


def test_an_empty_and_a_full_mask_are_called_out(embryo, weights, folder, capsys):
    state = MicroNet().state_dict()
    for bias, words in (
        (-30.0, "nothing was found above 0.5"),
        (30.0, "100 % of the volume was called lumen"),
    ):
        state["up0.4.weight"].zero_()
        state["up0.4.bias"][:] = bias
        save_state(folder / "flat.pt", state)
        code, out, _ = call(infer, embryo, "--model", folder / "flat.pt", "--force", capsys=capsys)
        assert code == 0
        assert words in out
        assert words in read_json("predictions/embryo.json")["result"]["warnings"][0]


def test_without_input_the_demo_is_segmented_and_scored(root, folder):
    ran = subprocess.run(
        [sys.executable, str(root / "infer.py")],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stderr
    record = read_json(folder / "predictions" / "E5D_phantom_demo.json")
    assert record["scores"]["f1"] > 0.8
    card = read_json(root / "trained_models" / "ur-net_phantom.json")
    if "format" in card:  # else the weights were made before there were cards
        assert record["scores"]["f1"] == pytest.approx(card["scores"]["demo_f"], abs=0.002)
    assert str(folder / "predictions") in ran.stdout


def test_real_light_sheet_and_ct_volumes_with_published_weights(shared, folder, capsys):
    weights = shared / "data" / "yolk_sac" / "trained_models" / "ur-net_b0.5_1200.pt"
    source = shared / "data" / "lightsheet" / "brain_vessels.tif"
    code, _out, err = call(infer, source, "--model", weights, "--iterations", 1, "--spacing", "5,2,2", capsys=capsys)
    assert code == 0, err
    mask = sitk.ReadImage("predictions/brain_vessels.seg.nrrd")
    assert mask.GetSize() == (100, 100, 100)
    assert mask.GetSpacing() == (2, 2, 5)
    assert tifffile.imread(source).shape == (100, 100, 100)

    scan = shared / "data" / "ct" / "abdomen_small.nii.gz"  # of 30 planes
    code, out, err = call(infer, scan, "--model", weights, "--iterations", 1, capsys=capsys)
    assert code == 0, err
    assert "axis Z has 30 planes: padded to 32 by mirroring" in out
    mask, image = sitk.ReadImage("predictions/abdomen_small.seg.nrrd"), sitk.ReadImage(str(scan))
    assert mask.GetSize() == image.GetSize()
    assert mask.GetSpacing() == pytest.approx(image.GetSpacing())


def test_simulated_image_over_a_real_annotation_with_published_weights(shared, folder, capsys):
    from micronet.data.phantom import render_oct
    from micronet.io import read_annotation

    data = shared / "data" / "yolk_sac"
    name = "annotation_082616_00_T46_iso_full.seg.nrrd"
    truth = read_annotation(data / "annotations" / name).mask
    image = render_oct(truth.array, np.random.default_rng(1))
    write_volume(folder / "E5D_082616_00_T46.nrrd", truth.with_array(image))

    code, out, err = call(
        infer,
        "E5D_082616_00_T46.nrrd",
        *("--model", data / "trained_models" / "u-net_1600.pt"),
        *("--annotation", data / "annotations" / name),
        *("--y-crop", 160),
        capsys=capsys,
    )
    assert code == 0, err
    assert "'full seg'" in out
    record = read_json(folder / "predictions" / "E5D_082616_00_T46.json")
    assert record["scores"]["f1"] > 0.2  # lumen is 3 % of the voxels; how real phantoms look is measured elsewhere
    written = sitk.ReadImage("predictions/E5D_082616_00_T46.seg.nrrd")
    assert written.GetSpacing() == (4.5, 4.5, 4.5)
    assert written.GetSize() == (218, 260, 166)
    segment = slicerio.read_segmentation("predictions/E5D_082616_00_T46.seg.nrrd")["segments"][0]
    assert segment["name"] == "lumen"


def test_a_nifti_input_is_answered_on_its_own_grid(folder, embryo, weights, capsys):
    array = read_volume(embryo).array
    cos, sin = 0.8, 0.6  # turned about the second axis, which is flipped
    affine = np.array([[2 * cos, 0, 5 * sin, 3], [0, -2.5, 0, -4], [-2 * sin, 0, 5 * cos, 6], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), folder / "scan.nii.gz")

    code, _, err = call(infer, "scan.nii.gz", "--model", weights, "--iterations", 1, capsys=capsys)

    assert code == 0, err
    source, mask = sitk.ReadImage("scan.nii.gz"), sitk.ReadImage("predictions/scan.seg.nrrd")
    scale = 1.0 if np.allclose(mask.GetSpacing(), source.GetSpacing(), rtol=1e-3) else 1000.0
    for point in ((0, 0, 0), (39, 35, 32)):
        there = np.array(source.TransformIndexToPhysicalPoint(point)) * scale
        assert np.allclose(mask.TransformIndexToPhysicalPoint(point), there, rtol=1e-6, atol=1e-6)


def test_bootstrap_says_what_it_read_and_wrote_and_never_overwrites(folder, capsys):
    save_state(folder / "u.pt", MicroNet().state_dict())

    code, out, _ = call(bootstrap_micrornet, "u.pt", "r.pt", capsys=capsys)
    assert code == 0
    assert "u.pt" in out
    assert "6,618 parameters" in out
    assert isinstance(load_model("r.pt"), MicroRNet)

    before = (folder / "r.pt").read_bytes()
    code, _, err = call(bootstrap_micrornet, "u.pt", "r.pt", capsys=capsys)
    assert (code, (folder / "r.pt").read_bytes()) == (2, before)
    assert "'r.pt' exists; --force replaces it" in err

    assert call(bootstrap_micrornet, "u.pt", "r.pt", "--force", capsys=capsys)[0] == 0

    code, _, err = call(bootstrap_micrornet, "r.pt", "x.pt", capsys=capsys)
    assert code == 2
    assert "'r.pt': these weights are a µr-Net already" in err


def test_bootstrap_defaults_to_the_bundled_network(folder, capsys):
    code, out, err = call(bootstrap_micrornet, capsys=capsys)

    assert code == 0, err
    source = bootstrap_micrornet.PUBLISHED if bootstrap_micrornet.PUBLISHED.is_file() else bootstrap_micrornet.BUNDLED
    assert str(source) in out
    assert isinstance(load_model("checkpoints/ur-net_bootstrap.pt"), MicroRNet)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(embryo, weights, capsys):
    (embryo.parent / "taken").write_text("a file", encoding="utf-8")

    code, _, err = call(infer, embryo, "--model", weights, "--iterations", 1, "-o", "taken", capsys=capsys)

    assert code == 2
    assert err == "error: cannot write into 'taken': Not a directory\n"


def test_a_changed_annotation_is_scored_against_anew(embryo, weights, capsys):
    arguments = (embryo, "--model", weights, "--iterations", 1, "--annotation", "embryo_true.seg.nrrd")
    call(infer, *arguments, capsys=capsys)
    volume = read_volume(embryo)
    write_segmentation("embryo_true.seg.nrrd", [(Segment(name="full seg"), volume.array > 140)], volume)

    before = read_json("predictions/embryo.json")
    code, out, _ = call(infer, *arguments, capsys=capsys)

    assert code == 0
    assert "which is there: scores" in out
    record = read_json("predictions/embryo.json")
    assert record["scores"]["false_negatives"] != before["scores"]["false_negatives"]
    assert record["masks"] != before["masks"]


def test_changed_voxels_of_a_detached_header_are_not_taken_for_what_was_done(embryo, weights, capsys):
    volume = read_volume(embryo)
    write_volume("apart.nhdr", volume)
    arguments = ("apart.nhdr", "--model", weights, "--iterations", 1)
    assert call(infer, *arguments, capsys=capsys)[0] == 0
    header = Path("apart.nhdr").read_bytes()
    write_volume("apart.nhdr", volume.with_array(255 - volume.array))
    assert Path("apart.nhdr").read_bytes() == header

    code, _, err = call(infer, *arguments, capsys=capsys)

    assert code == 2
    assert "holds a result of other settings for 'apart.nhdr': the input has changed since; replace it (--force)" in err


def test_the_logarithm_of_a_prepared_volume_is_not_taken_again(embryo, weights, capsys):
    embryo.with_suffix(".json").write_text('{"domain": "log"}', encoding="utf-8")
    code, _, err = call(infer, embryo, "--model", weights, "--intensity", "log", capsys=capsys)
    assert code == 2
    assert "'embryo.json' beside it says that it holds logarithms already (domain log)" in err
    code, _, _ = call(infer, embryo, "--model", weights, capsys=capsys)
    assert code == 0
