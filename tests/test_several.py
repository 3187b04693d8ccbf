"""Several segments in one file: each as if it were alone, or told apart by one network; nonsense is refused."""

import csv
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import slicerio
import tifffile
import torch
from forking import fork
from running import call, call_for_last_line, read_json
from sklearn.metrics import jaccard_score

import evaluate
import infer
import train_network
from micronet import MicroNet, MicroRNet, Volume, load_model, predict, read_annotation, read_volume, write_volume
from micronet.core.classes import colour, rgb
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.data.dataset import open_dataset
from micronet.io import Segment, read_segmentation, write_segmentation
from micronet.io.classes import read_classes
from micronet.networks.kernels import jit
from micronet.networks.library import LIBRARY, Build
from micronet.networks.weights import save_state
from micronet.segment import several
from micronet.segment.refine import Refinement, predict_classes

pytestmark = pytest.mark.usefixtures("engine_ready")
CLASSES = ("lumen", "wall", "nerve")
NAMED = ("--model", "lumen=ur-net_a.pt", "--model", "wall=u-net_b.pt")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A volume with a tube in it, its lumen and wall beside it, two binary networks and one of three classes."""
    folder = tmp_path_factory.mktemp("several")
    torch.manual_seed(11)
    save_state(folder / "ur-net_a.pt", MicroRNet().state_dict())
    save_state(folder / "u-net_b.pt", MicroNet().state_dict())
    network = LIBRARY["unet"](Build(depth=2, start_channels=4, classes=CLASSES)).eval()
    save_state(folder / "unet_c.pt", network.state_dict())
    z, y, x = np.ogrid[:33, :34, :36]
    radius = (y - 18) ** 2 + (x - 20) ** 2 + 0 * z
    tube, wall = radius < 36, (radius >= 36) & (radius < 80)
    array = 80 + 60 * tube + np.random.default_rng(3).normal(0, 8, tube.shape)
    volume = Volume(
        array.clip(0, 255).astype(np.uint8), upright((4.5, 4.5, 4.5)), np.array([10.0, -20.0, 30.0]), units="um"
    )
    write_volume(folder / "embryo.nrrd", volume)
    write_segmentation(folder / "true.seg.nrrd", [(Segment(name="Lumen"), tube), (Segment(name="wall"), wall)], volume)
    write_segmentation(folder / "other.seg.nrrd", [(Segment(name="bone"), wall)], volume)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer_embryo(*options, capsys, code=0):
    found, out, err = call(infer, "embryo.nrrd", "--iterations", 2, *options, capsys=capsys)
    assert found == code, err
    return out


def refused(*options, capsys):
    """Return the one line of a call that fails, and that nothing was written."""
    code, _, line = call_for_last_line(infer, "embryo.nrrd", *options, "-o", "nothing", capsys=capsys)
    assert code == 2
    assert not Path("nothing").exists() or not list(Path("nothing").iterdir())
    return line


def masks_of(path):
    segmentation = read_segmentation(path)
    return {segment.name: segmentation.mask(segment).array for segment in segmentation.segments}


def test_each_segment_is_bit_for_bit_what_its_network_finds_alone(here, capsys):
    wishes = ("--threshold", "0.4", "--mesh", "stl", "--measures", "--until-stable", "--clean", "2000")
    out = infer_embryo(*NAMED, *wishes, "-o", "both", capsys=capsys, code=3)
    assert "overlap     lumen and wall" in out
    both = masks_of("both/embryo.seg.nrrd")
    record = read_json("both/embryo.json")
    for number, (name, weights) in enumerate({"lumen": "ur-net_a.pt", "wall": "u-net_b.pt"}.items()):
        infer_embryo("--model", weights, *wishes, "-o", name, capsys=capsys, code=3 if name == "lumen" else 0)
        for end, alone in (("probability.nrrd", "probability.nrrd"), (".stl", "lumen.stl")):
            one = Path(f"both/embryo_{name}{end}" if end[0] == "." else f"both/embryo_{name}_{end}")
            assert one.read_bytes() == Path(f"{name}/embryo_{alone}").read_bytes()
        assert np.array_equal(both[name], read_annotation(f"{name}/embryo.seg.nrrd").mask.array)
        told, alone = record["segments"][number], read_json(f"{name}/embryo.json")
        assert told["result"] == alone["result"]
        assert told["weights"] == alone["weights"]
        assert told.get("settled") == alone.get("settled")
        assert [one["flipped"] for one in told["iterations"]] == [one["flipped"] for one in alone["iterations"]]
        rows = [
            [line for line in Path(file).read_text("utf-8").splitlines() if not line.startswith("#")]
            for file in (f"both/embryo_{name}_vessels.csv", f"{name}/embryo_vessels.csv")
        ]
        assert rows[0] == rows[1]
    shared = int(np.count_nonzero(both["lumen"] & both["wall"]))
    assert record["overlaps"] == [{"segments": ["lumen", "wall"], "voxels": shared}]
    assert shared > 0


def test_overlapping_segments_are_read_by_slicer_simpleitk_and_us(here, capsys):
    infer_embryo(*NAMED, "--threshold", "0.4", "-o", "out", capsys=capsys)
    ours = masks_of("out/embryo.seg.nrrd")
    assert (ours["lumen"] & ours["wall"]).any()
    theirs = slicerio.read_segmentation("out/embryo.seg.nrrd")
    layers = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("out/embryo.seg.nrrd"))
    for number, segment in enumerate(theirs["segments"], 1):
        assert segment["color"] == pytest.approx(rgb(colour(number)), abs=1e-6)
        name, layer, value = segment["name"], segment["layer"], segment["labelValue"]
        assert np.array_equal(theirs["voxels"][layer].transpose() == value, ours[name])
        assert np.array_equal(layers[..., layer] == value, ours[name])
    assert [segment["name"] for segment in theirs["segments"]] == ["lumen", "wall"]


def test_one_network_tells_classes_apart_and_a_voxel_is_of_the_most_probable(here, capsys):
    infer_embryo("--model", "unet_c.pt", "--label-tiff", "--mesh", "ply", "-o", "out", capsys=capsys)
    volume, model = read_volume("embryo.nrrd"), load_model("unet_c.pt")
    probability, _ = predict_classes(volume, model, Refinement())
    background = 1 - probability.sum(0)
    wanted = np.concatenate([background[None], probability]).argmax(0)
    masks = masks_of("out/embryo.seg.nrrd")
    assert tuple(masks) == CLASSES
    for number, name in enumerate(CLASSES, 1):
        assert np.array_equal(masks[name], wanted == number)
        stored = read_volume(f"out/embryo_{name}_probability.nrrd").array
        assert np.array_equal(stored, np.rint(probability[number - 1] * 255).astype(np.uint8))
        assert Path(f"out/embryo_{name}.ply").is_file()
    with tifffile.TiffFile("out/embryo_labels.tif") as tiff:
        assert np.array_equal(tiff.asarray(), wanted)
    record = read_json("out/embryo.json")
    assert [one["number"] for one in record["segments"]] == [1, 2, 3]
    um3 = [one["result"]["um3"] for one in record["segments"]]
    assert um3 == pytest.approx([4.5**3 * np.count_nonzero(wanted == number) for number in (1, 2, 3)])


def test_classes_end_at_the_crop_and_come_back_from_the_network_s_voxels(here, capsys):
    infer_embryo("--model", "unet_c.pt", "--y-crop", 20, "--resample", 6, "-o", "out", capsys=capsys)
    masks = masks_of("out/embryo.seg.nrrd")
    assert sum(mask.sum() for mask in masks.values()) > 0
    assert not any(mask[:, 20:].any() for mask in masks.values())


def test_labels_of_segments_that_overlap_are_a_file_each(here, capsys):
    out = infer_embryo(*NAMED, "--threshold", "0.4", "--label-tiff", "-o", "out", capsys=capsys)
    assert "a file a segment, as some overlap" in out
    assert not Path("out/embryo_labels.tif").exists()
    for name, mask in masks_of("out/embryo.seg.nrrd").items():
        assert np.array_equal(tifffile.imread(f"out/embryo_{name}_labels.tif"), mask)
    assert "1 skipped" in infer_embryo(*NAMED, "--threshold", "0.4", "--label-tiff", "-o", "out", capsys=capsys)


def test_segments_are_scored_by_the_annotation_s_segments_of_their_names(here, capsys):
    options = ("--model", "lumen=ur-net_a.pt", "--model", "nerve=u-net_b.pt", "-o", "out")
    out = infer_embryo(*options, "--annotation", "true.seg.nrrd", "--threshold", "0.4", capsys=capsys)
    assert "note: 'true.seg.nrrd' has no segment 'nerve', which is not scored" in out
    lumen, nerve = read_json("out/embryo.json")["segments"]
    mask, truth = masks_of("out/embryo.seg.nrrd")["lumen"], masks_of("true.seg.nrrd")["Lumen"]
    assert lumen["scores"]["true_positives"] == np.count_nonzero(mask & truth)
    assert nerve["scores"] is None
    line = refused(*options[:4], "--annotation", "other.seg.nrrd", capsys=capsys)
    assert "has segments bone, expected a .seg.nrrd with lumen, nerve (--annotation)" in line


def test_a_batch_has_a_row_for_each_segment_and_parts_go_on(here, capsys):
    shutil.copy("embryo.nrrd", "second.nrrd")
    inputs = ("embryo.nrrd", "second.nrrd", *NAMED, "--iterations", 1, "-o", "out")
    assert call(infer, *inputs, "--part", "2/2", capsys=capsys)[0] == 0
    assert not Path("out/embryo.json").exists()
    code, out, _ = call(infer, *inputs, capsys=capsys)
    assert (code, "1 done, 1 skipped" in out) == (0, True)
    assert [line.split()[1:3] for line in out.splitlines()[-6:-2]] == [
        [f"{volume}.nrrd:", name] for volume in ("embryo", "second") for name in ("lumen", "wall")
    ]
    with open("out/segments.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    assert [(row["volume"], row["segment"], row["status"]) for row in rows] == [
        ("embryo.nrrd", "lumen", "done"),
        ("embryo.nrrd", "wall", "done"),
        ("second.nrrd", "lumen", "skipped"),
        ("second.nrrd", "wall", "skipped"),
    ]
    results = [one["result"] for one in read_json("out/second.json")["segments"]]
    assert [float(row["um3"]) for row in rows[2:]] == pytest.approx([one["um3"] for one in results], rel=1e-5)
    assert Path("out/segments_part_2_of_2.csv").is_file()


def assert_same_files(one, other):
    assert sorted(file.name for file in Path(one).iterdir()) == sorted(file.name for file in Path(other).iterdir())


def test_what_is_lacking_is_made_with_all_that_is_there(here, capsys):
    wishes = ("--annotation", "true.seg.nrrd", "--mesh", "stl", "--label-tiff", "--report")
    infer_embryo(*NAMED, "--clean", "2000", *wishes, "-o", "once", capsys=capsys)
    infer_embryo(*NAMED, "--clean", "2000", "-o", "bit", capsys=capsys)
    for wish, lacks in (
        (wishes[:2], "scores"),
        (wishes[:4], "mesh of lumen, mesh of wall"),
        (wishes, "report, labels"),
    ):
        out = infer_embryo(*NAMED, "--clean", "2000", *wish, "-o", "bit", capsys=capsys)
        assert f"from        what is there: {lacks}\n" in out
        assert "changes" not in out  # no network looks again
    for file in Path("once").iterdir():
        if file.suffix == ".json":
            one, other = read_json(file), read_json(Path("bit", file.name))
            for entry in (*one["segments"], *other["segments"]):
                del entry["memory"]
                for iteration in entry["iterations"]:
                    del iteration["seconds"]
            for key in ("segments", "overlaps", "volume", "files", "masks", "parameters", "device"):
                assert one[key] == other[key]
        elif file.suffix != ".html":  # which has what it took
            assert file.read_bytes() == Path("bit", file.name).read_bytes(), file.name
    for wish in (wishes, wishes[:4], ("--mesh", "stl"), ()):
        assert "1 skipped" in infer_embryo(*NAMED, "--clean", "2000", *wish, "-o", "bit", capsys=capsys)
    Path("bit/embryo_wall_probability.nrrd").unlink()
    assert "anew        for" in infer_embryo(*NAMED, "--clean", "2000", *wishes, "-o", "bit", capsys=capsys)
    assert_same_files("once", "bit")


def test_results_of_other_segments_are_named_and_not_replaced_without_force(here, capsys):
    infer_embryo(*NAMED, "-o", "out", capsys=capsys)
    for options, words in (
        (("--model", "lumen=ur-net_a.pt"), "segments lumen, wall there, lumen asked"),
        (("--model", "lumen=u-net_b.pt", *NAMED[2:]), "lumen: weights ur-net_a.pt there, u-net_b.pt asked"),
        ((*NAMED, "--threshold", "0.4"), "threshold 0.5 there, 0.4 asked"),
        (("--model", "ur-net_a.pt"), "several segments there, one mask asked"),
    ):
        options = ("embryo.nrrd", *options, "--iterations", 2, "-o", "out")
        code, _, line = call_for_last_line(infer, *options, capsys=capsys)
        assert (code, words in line) == (2, True), line
    infer_embryo(*NAMED, "--threshold", "0.4", "--force", "-o", "out", capsys=capsys)
    assert read_json("out/embryo.json")["parameters"]["threshold"] == 0.4

    infer_embryo("--model", "ur-net_a.pt", "--mesh", "obj", "-o", "single", capsys=capsys)
    single = ("embryo.nrrd", *NAMED, "--iterations", 2, "-o", "single")
    assert "one mask there, several segments asked" in call_for_last_line(infer, *single, capsys=capsys)[2]
    infer_embryo(*NAMED, "--force", "-o", "single", capsys=capsys)
    assert not Path("single/embryo_probability.nrrd").exists()  # it was ours, and is of no segment
    assert not Path("single/embryo_lumen.obj").exists()


@pytest.mark.parametrize("name", ["embryo.seg.nrrd", "embryo_wall_probability.nrrd", "embryo_lumen.stl"])
def test_a_file_of_a_person_is_never_replaced(here, capsys, name):
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    options = ("embryo.nrrd", *NAMED, "--mesh", "stl", "-o", "out", "--force")
    code, _, line = call_for_last_line(infer, *options, capsys=capsys)
    assert code == 2
    assert f"'out/{name}' is in the way: no record beside it says that we wrote it" in line
    assert [path.read_text() for path in Path("out").iterdir()] == ["mine"]


def test_a_network_may_not_lie_where_a_result_would(here, capsys):
    shutil.copy("u-net_b.pt", "embryo_wall.stl")
    options = ("embryo.nrrd", "--model", "wall=embryo_wall.stl", "--mesh", "stl", "-o", ".")
    code, _, line = call_for_last_line(infer, *options, capsys=capsys)
    assert (code, "would replace 'embryo_wall.stl', which this call reads" in line) == (2, True)


def test_a_path_that_is_there_is_no_named_segment(here, capsys):
    shutil.copy("u-net_b.pt", "lumen=u-net_b.pt")
    infer_embryo("--model", "lumen=u-net_b.pt", "-o", "out", capsys=capsys)
    assert "segments" not in read_json("out/embryo.json")
    assert masks_of("out/embryo.seg.nrrd").keys() == {"lumen"}


def test_named_networks_say_that_they_compile_and_no_more_once_it_is_done(here, capsys, monkeypatch):
    """Before, whoever asked for several segments waited half a minute without a word."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(here / "cold"))
    jit.cache_folder.cache_clear()
    try:
        for said in (True, False):
            words = ("embryo.nrrd", "--model", "lumen=u-net_b.pt", "--force", "-o", "out")
            code, _, err = call(infer, *words, capsys=capsys)
            assert (code, "compiling the engine for this machine, once" in err) == (0, said)
    finally:
        jit.cache_folder.cache_clear()


def test_files_are_told_by_the_names_that_they_have(here, capsys):
    """Before, a name with a space was told as no file's: wall%2520one."""
    out = infer_embryo("--model", "wall one=u-net_b.pt", "-o", "out", capsys=capsys)
    told = next(line for line in out.splitlines() if line.startswith("  wrote"))
    assert "embryo_wall%20one_probability.nrrd" in told
    assert sorted(told.split("out/: ")[1].split(", ")) == sorted(path.name for path in Path("out").iterdir())


def test_one_named_network_gives_a_segment_of_that_name(here, capsys):
    infer_embryo("--model", "wall=u-net_b.pt", "-o", "out", capsys=capsys)
    assert masks_of("out/embryo.seg.nrrd").keys() == {"wall"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model", "lumen=ur-net_a.pt", "--model", "u-net_b.pt"), "names a segment, and 'u-net_b.pt' none"),
        (
            ("--model", "wall=ur-net_a.pt", "--model", "Wall=u-net_b.pt"),
            "the same name: 'wall' and 'Wall' (--model wall=..)",
        ),
        (
            (
                "--model",
                "=ur-net_a.pt",
            ),
            "the name of a class is a word without space around it",
        ),
        (("--model", "background=ur-net_a.pt"), "is not 'background'"),
        (("--model", "wall=absent"), "no weights 'absent'"),
        (("--model", "lumen=unet_c.pt"), "'unet_c.pt' tells lumen, wall, nerve apart by itself"),
        ((*NAMED, "--time-lapse"), "--time-lapse goes with one network"),
        (("--model", "unet_c.pt", "--time-lapse"), "--time-lapse goes with one network"),
        (
            (*NAMED, "--initial-mask", "true.seg.nrrd"),
            "is of one mask, and there are several segments (--initial-mask)",
        ),
        ((*NAMED, "--keep", "true.seg.nrrd"), "is of one mask, and there are several segments (--keep)"),
        ((*NAMED, "--annotation", "true.seg.nrrd", "--segment", "wall"), "there are several segments (--segment)"),
        (("--model", "unet_c.pt", "--threshold", "0.3"), "no threshold applies (--threshold)"),
        (("--model", "unet_c.pt", "--clean", "holes"), "no holes can be filled"),
        ((*NAMED, "--annotation", "embryo.nrrd"), "has no segments with names"),
    ],
)
def test_what_makes_no_sense_of_several_segments_is_one_line(here, capsys, options, told):
    assert told in refused(*options, capsys=capsys)


def test_ctrl_c_between_two_networks_leaves_nothing_and_the_same_command_does_all(here, root, capsys):
    models = ("--model", "wall=u-net_b.pt", "--model", "lumen=ur-net_a.pt", "--engine", "torch", "--threads", 1)
    command = [root / "infer.py", "embryo.nrrd", *models, "-o", "out", "--iterations", 100_000]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = fork(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    while "segment     lumen" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not Path("out").exists() or not list(Path("out").iterdir())
    infer_embryo(*models, "-o", "out", capsys=capsys)
    assert [segment.name for segment in read_segmentation("out/embryo.seg.nrrd").segments] == ["wall", "lumen"]


def test_classes_that_were_edited_in_slicer_are_learned_and_scored_as_edited(here, capsys):
    infer_embryo("--model", "unet_c.pt", "-o", "out", capsys=capsys)
    theirs = slicerio.read_segmentation("out/embryo.seg.nrrd")
    number = {segment["name"]: segment["labelValue"] for segment in theirs["segments"]}
    voxels = theirs["voxels"].copy()  # X, Y, Z
    voxels[4:9, 5:9, 6:12] = number["wall"]
    voxels[9:12, 5:9, 6:12] = 0
    voxels[20:24, 5:9, 6:12] = 9
    order = [
        segment for name in ("nerve", "wall", "lumen") for segment in theirs["segments"] if segment["name"] == name
    ]
    notes = {"id": "Segment_9", "name": "to be asked", "color": [0.2, 0.3, 0.4], "labelValue": 9, "layer": 0}
    slicerio.write_segmentation("edited.seg.nrrd", theirs | {"voxels": voxels, "segments": [*order, notes]})
    expected = np.zeros(voxels.shape[::-1], np.uint8)
    for place, name in enumerate(CLASSES, 1):
        expected[voxels.transpose() == number[name]] = place
    Path("set.toml").write_text(
        'classes = ["lumen", "wall", "nerve"]\n'
        '[[volume]]\nname = "embryo"\nsplit = "train"\nimage = "embryo.nrrd"\nannotation = "edited.seg.nrrd"\n'
    )
    (sample,) = open_dataset(Path("set.toml"))[1]["train"]
    assert np.array_equal(sample.classes, expected)
    small = ("--depth", 1, "--crop-size", "8,8,8", "--samples-per-volume", 2, "--threads", 1)
    how = ("--network", "unet", "--dataset", "set.toml", *small, "--run", "1; save edited")
    code, out, err = call(train_network, *how, capsys=capsys)
    assert code == 0, out + err
    assert load_model("checkpoints/unet_edited.pt").classes == CLASSES
    code, out, err = call(evaluate, "out/embryo.seg.nrrd", "--annotation", "edited.seg.nrrd", capsys=capsys)
    assert code == 0, out + err
    before = read_classes("out/embryo.seg.nrrd", CLASSES).volume.array
    assert read_json("scores/scores.json")["together"]["mean_iou"] == pytest.approx(
        jaccard_score(expected.ravel(), before.ravel(), average="macro")
    )


def test_the_page_shows_all_segments_in_their_colours_and_each_by_itself(here, capsys):
    infer_embryo(*NAMED, "--report", "--annotation", "true.seg.nrrd", "-o", "out", capsys=capsys)
    page = Path("out/embryo_report.html").read_text(encoding="utf-8")
    for number, name in ((1, "lumen"), (2, "wall")):
        assert f"Scores of {name}" in page
        assert colour(number) in page
        assert f'"name": "embryo: {name}"' in page
    assert re.search(r'"further": \[{"colour": "#009E73", "known": [^}]*, "name": "wall"}\]', page)
    assert r"\xa0" not in page


def test_memory_that_ends_is_one_line_and_nothing_is_written(here, capsys, monkeypatch):
    def greedy(*_):
        raise MemoryError

    monkeypatch.setattr(several, "predict_classes", greedy)
    assert "memory ran out" in refused("--model", "unet_c.pt", capsys=capsys)


def test_the_probability_of_classes_is_that_of_the_bare_network(here):
    volume, model = read_volume("embryo.nrrd"), load_model("unet_c.pt")
    probability, passes = predict_classes(volume, model, Refinement(y_crop=21))
    image = volume.array.astype(np.float32)
    image = ((image - image.mean()) / image.std())[:, :21]
    with torch.inference_mode():
        wanted = model(torch.from_numpy(image)[None, None])[0].numpy()
    assert probability[:, :, :21] == pytest.approx(wanted, abs=1e-4)
    assert not probability[:, :, 21:].any()
    assert [one.foreground for one in passes] == [np.count_nonzero(one > 0.5) for one in probability]


def test_a_class_without_voxels_is_told_in_words_that_help(here, capsys):
    state = load_model("unet_c.pt").state_dict()
    names = [name for name in state if name.endswith("bias") and state[name].shape == (4,)]
    state[names[-1]][2] = -100.0  # wall never wins
    save_state(Path("never.pt"), state)
    out = infer_embryo("--model", "never.pt", "--mesh", "stl", "-o", "out", capsys=capsys)
    assert "WARNING     no voxel is wall: are these log intensities at the network's scale? another network" in out
    assert not Path("out/embryo_wall.stl").exists()
    assert "1 skipped" in infer_embryo("--model", "never.pt", "--mesh", "stl", "-o", "out", capsys=capsys)


def test_who_asks_a_network_of_several_classes_for_one_mask_is_refused(here):
    with pytest.raises(InputError, match="tells lumen, wall, nerve apart, each with a probability of its own"):
        predict(read_volume("embryo.nrrd"), load_model("unet_c.pt"))


def test_a_binary_network_answers_as_before(here):
    volume = read_volume("embryo.nrrd")
    binary = LIBRARY["unet"](Build(depth=2, start_channels=4)).eval()
    assert np.array_equal(predict_classes(volume, binary, Refinement())[0][0], predict(volume, binary))
