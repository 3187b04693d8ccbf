"""teach.py with several classes: a network each, one file, a voxel in one class at most."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from running import call, call_for_last_line, exit_code, read_json

import infer
import teach
from micronet import Volume, read_annotation, read_volume, write_volume
from micronet.core.classes import colour, rgb
from micronet.core.volume import upright
from micronet.io import Segment, read_segmentation, write_segmentation
from micronet.training.teach.material import find_start

SHAPE = (20, 36, 40)
TEACH = ("vol.nrrd", "--labels", "paint.nrrd", "--classes", "lumen,wall", "--threads", 1)


def classes():
    """Return lumen and wall of two tubes."""
    z, y, x = np.indices(SHAPE)
    radius = np.minimum(np.hypot(y - 11 - z / 4, x - 11), np.hypot(y - 26 + z / 4, x - 29))
    return radius < 4, (radius >= 4) & (radius < 7)


def painted(folder):
    lumen, wall = classes()
    image = 110 + 60 * lumen - 70 * wall + np.random.default_rng(1).normal(0, 15, SHAPE)
    volume = Volume(
        image.clip(0, 255).astype(np.uint8), upright((2, 2, 2)), units="um", space="left-posterior-superior"
    )
    write_volume(folder / "vol.nrrd", volume)
    labels = np.zeros(SHAPE, np.uint8)
    labels[10] = np.where(lumen, 1, np.where(wall, 2, 3))[10]
    odd = labels[10].reshape(-1)[::29]
    odd[...] = odd % 3 + 1  # slips of the brush
    write_volume(folder / "paint.nrrd", volume.with_array(labels))
    segments = {name: labels == value for value, name in enumerate(("lumen", "wall", "background"), 1)}
    ordered = ("background", "lumen", "wall")
    write_segmentation(folder / "paint.seg.nrrd", [(Segment(name=name), segments[name]) for name in ordered], volume)
    return volume, segments


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder in which two classes were taught."""
    folder = tmp_path_factory.mktemp("once")
    painted(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert exit_code(teach, *TEACH) == 0
    return folder


@pytest.fixture
def taught(once, tmp_path, monkeypatch):
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return painted(tmp_path)


def masks_of(path):
    segmentation = read_segmentation(path)
    return {segment.name: segmentation.mask(segment).array for segment in segmentation.segments}


def test_each_class_gets_a_segment_a_probability_and_weights(taught):
    assert sorted(path.name for path in Path("taught").iterdir()) == [
        "vol.json", "vol.seg.nrrd", "vol_look.csv", "vol_look.seg.nrrd", "vol_lumen_probability.nrrd",
        "vol_preview.png", "vol_wall_probability.nrrd",
    ]  # fmt: skip
    segmentation, masks = read_segmentation("taught/vol.seg.nrrd"), masks_of("taught/vol.seg.nrrd")
    assert [segment.name for segment in segmentation.segments] == ["lumen", "wall"]
    assert [segment.color for segment in segmentation.segments] == [
        pytest.approx(rgb(colour(number)), abs=1e-6) for number in (1, 2)
    ]
    unseen = np.ones(SHAPE, bool)
    unseen[10] = False
    for name, truth in zip(("lumen", "wall"), classes(), strict=True):
        both = 2 * (masks[name] & truth)[unseen].sum() / (masks[name][unseen].sum() + truth[unseen].sum())
        assert both > 0.9
    assert not (masks["lumen"] & masks["wall"]).any()
    record = read_json("taught/vol.json")
    lumen, wall = record["segments"]
    card = read_json("trained_models/taught_vol_wall.json")
    assert (wall["weights"]["sha256"], wall["colour"]) == (card["sha256"], colour(2))
    labels = read_volume("paint.nrrd").array
    assert lumen["labelled"] == {"class": (labels == 1).sum(), "others": (labels > 1).sum()}
    assert wall["result"]["um3"] == pytest.approx(8 * masks["wall"].sum())
    assert record["parameters"]["classes"] == ["lumen", "wall"]


def test_a_voxel_is_of_the_most_probable_class_and_keeps_what_was_painted(taught, capsys):
    labels = read_volume("paint.nrrd").array
    levels = np.stack([read_volume(f"taught/vol_{name}_probability.nrrd").array for name in ("lumen", "wall")])
    masks = masks_of("taught/vol.seg.nrrd")
    numbers = masks["lumen"] + 2 * masks["wall"]
    free, sure = labels == 0, np.abs(levels[0].astype(int) - levels[1]) > 1  # levels are rounded
    sure &= np.abs(levels.max(0) - 127.5) > 1
    wanted = np.where(levels.max(0) > 127, levels.argmax(0) + 1, 0)
    assert np.array_equal(numbers[free & sure], wanted[free & sure])
    assert np.array_equal(numbers[~free], np.where(labels == 3, 0, labels)[~free])
    assert exit_code(teach, *TEACH, "--free-labels", "--name", "free", "-o", "free") == 0
    masks = masks_of("free/vol.seg.nrrd")
    numbers = masks["lumen"] + 2 * masks["wall"]
    assert np.array_equal(numbers[sure], wanted[sure])
    assert not np.array_equal(numbers[~free], np.where(labels == 3, 0, labels)[~free])


def test_the_weights_go_into_one_file_by_infer_and_each_is_a_network_like_any_other(taught, capsys):
    models = ("--model", "lumen=taught_vol_lumen", "--model", "wall=taught_vol_wall")
    assert call(infer, "vol.nrrd", *models, "-o", "both", capsys=capsys)[0] == 0
    assert masks_of("both/vol.seg.nrrd").keys() == {"lumen", "wall"}
    for name in ("lumen", "wall"):
        stored = Path(f"taught/vol_{name}_probability.nrrd").read_bytes()
        assert Path(f"both/vol_{name}_probability.nrrd").read_bytes() == stored
    assert call(infer, "vol.nrrd", "--model", "taught_vol_wall", "-o", "alone", capsys=capsys)[0] == 0
    assert np.array_equal(read_annotation("alone/vol.seg.nrrd").mask.array, masks_of("both/vol.seg.nrrd")["wall"])


def test_segments_by_name_teach_what_numbers_teach(taught, capsys):
    options = ("vol.nrrd", "--labels", "paint.seg.nrrd", "--classes", "lumen,wall", "--threads", 1)
    code, out, err = call(teach, *options, "--name", "named", "-o", "named", capsys=capsys)
    assert code == 0, err
    lumen, wall, rest = (np.count_nonzero(read_volume("paint.nrrd").array == value) for value in (1, 2, 3))
    assert f"{lumen:,} lumen (1), {wall:,} wall (2), {rest:,} background (3)" in out
    for name in ("vol_lumen_probability.nrrd", "vol_wall_probability.nrrd"):
        assert Path("named", name).read_bytes() == Path("taught", name).read_bytes()


def test_corrections_of_one_class_learn_on_from_its_own_weights(taught):
    image, edited, none = Path("vol.nrrd"), Path("taught/edited.seg.nrrd"), Path("none.pt")
    found = find_start(image, edited, none, none, "", "wall")
    assert found == (Path("trained_models/taught_vol_wall.pt"), "as 'taught/vol.json' says")
    assert find_start(image, edited, none, none, "", "another") is None


def test_the_labels_of_one_class_are_kept_to_learn_on_from(taught, capsys):
    kept = read_volume("trained_models/taught_vol_wall_labels/vol.seg.nrrd").array
    labels = read_volume("paint.nrrd").array
    assert np.array_equal(kept, np.select([labels == 2, labels > 0], [1, 2]))
    options = ("vol.nrrd", "--labels", "paint.nrrd", "--from", "taught_vol_wall", "--name", "on", "-o", "on")
    line = call_for_last_line(teach, *options, capsys=capsys)[2]
    assert "holds the value 3" in line  # which is no label of one class
    write_volume("more.nrrd", read_volume("vol.nrrd").with_array(np.roll(kept, 2, 0)))
    options = ("vol.nrrd", "--labels", "more.nrrd", *options[3:])
    code, out, err = call(teach, *options, "--threads", 1, capsys=capsys)
    assert (code, "and from its 1 label files too" in out) == (0, True), err


def test_the_same_again_is_skipped_and_what_is_a_persons_stays(taught, capsys):
    code, out, _ = call(teach, *TEACH, capsys=capsys)
    assert (code, "skipped  vol.nrrd  done before" in out) == (0, True)
    line = call_for_last_line(teach, *TEACH, "-o", "elsewhere", capsys=capsys)[2]
    assert "'trained_models/taught_vol_lumen.pt' exists: replace it (--force), or give another name (--name)" in line
    line = call_for_last_line(teach, *TEACH[:4], "wall,lumen", capsys=capsys)[2]
    assert "holds a result of other labels, settings or input" in line
    Path("taught/vol_wall_probability.nrrd").write_text("mine")
    code, _, line = call_for_last_line(teach, *TEACH, "--force", capsys=capsys)
    assert (code, "'taught/vol_wall_probability.nrrd' is in the way" in line) == (2, True)
    assert Path("taught/vol_wall_probability.nrrd").read_text() == "mine"


def test_labels_that_are_our_own_result_are_refused_with_the_whole_command(taught, capsys):
    options = ("vol.nrrd", "--labels", "taught/vol.seg.nrrd", "--classes", "lumen,vessel wall", "--force")
    line = call_for_last_line(teach, *options, capsys=capsys)[2]
    assert "would replace 'taught/vol.seg.nrrd', which this call reads" in line
    assert line.endswith("--classes 'lumen,vessel wall' --force -o taught_2")


def two_at_once(volume, segments):
    both = segments["wall"] | segments["lumen"]
    return [(Segment(name=name), mask) for name, mask in (segments | {"wall": both}).items()]


def few(volume, segments):
    some = np.zeros(SHAPE, bool)
    some[10, 11:13, 11] = segments["lumen"][10, 13:15, 11]
    return [(Segment(name=name), mask) for name, mask in (segments | {"lumen": some}).items()]


def no_background(volume, segments):
    return [(Segment(name=name), segments[name]) for name in ("lumen", "wall")]


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (two_at_once, (), "voxels are lumen and wall at once; erase them in one of the two segments"),
        (few, (), "only 2 voxels are annotated as lumen, at least 10 are needed; paint strokes on some of it"),
        (no_background, (), "no voxel is annotated as background; paint strokes where none of the others is"),
        (no_background, ("--background", "wall"), "one segment cannot be two classes (--classes, --background)"),
        (None, ("--classes", "lumen,nerve"), "holds 3 segments; none is 'nerve'"),
        (None, ("--lumen", "wall"), "what was asked for is of one (--lumen)"),
        (None, ("--checked", "wall"), "what was asked for is of one (--checked)"),
        (None, ("--from", "absent"), "no weights 'absent'"),
        (None, ("--classes", "lumen,lumen"), "two classes have the same name"),
        (None, ("--labels", "five.nrrd"), "holds the value 5 (1 voxels), which is no label: 0 not annotated, 1 lumen,"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(here, capsys, make, options, told):
    volume, segments = here
    if make is not None:
        write_segmentation("paint.seg.nrrd", make(volume, segments), volume)
    five = np.zeros(SHAPE, np.uint8)
    five[0, 0, 0] = 5
    write_volume("five.nrrd", volume.with_array(five))
    before = sorted(path.name for path in Path().iterdir())
    call_line = ("vol.nrrd", "--labels", "paint.seg.nrrd", "--classes", "lumen,wall", *options)
    code, _, line = call_for_last_line(teach, *call_line, capsys=capsys)
    assert (code, told in line) == (2, True), line
    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_third_segment_without_a_name_says_how_all_are_found(here, capsys):
    line = call_for_last_line(teach, "vol.nrrd", "--labels", "paint.seg.nrrd", capsys=capsys)[2]
    assert "what is segment 'wall', lumen or background?" in line
    assert line.endswith("or name all to be found (--classes)")
