"""Data-set files: what they say, and that every problem is told at once."""

from dataclasses import replace

import numpy as np
import pytest

from micronet.app.terminal import with_options
from micronet.core.errors import FileError
from micronet.core.volume import Volume, upright
from micronet.data.augmentation import FLIPS
from micronet.data.dataset import DataSetError, Sample, hashes, load_split, open_dataset, read_dataset
from micronet.io import Segment, write_segmentation, write_volume
from micronet.networks.normalize import normalize_image

LABORATORY = """
name = "lab"
[defaults]
image = "{name}.nrrd"
annotation = "{name}.seg.nrrd"
[[volume]]
name = "a"
split = "train"
[[volume]]
name = "b"
split = "validation"
y_crop = 34
"""


@pytest.fixture
def lab(tmp_path, rng):
    """Two annotated volumes and the file that describes them."""
    for name in "ab":
        image = rng.integers(0, 255, (32, 40, 33), dtype=np.uint8)
        volume = Volume(image, upright(4.5), units="um", space="left-posterior-superior")
        mask = np.zeros(image.shape, bool)
        mask[5:9, 10:20, 3:8] = True
        write_volume(tmp_path / f"{name}.nrrd", volume)
        write_segmentation(tmp_path / f"{name}.seg.nrrd", [(Segment(name="full seg"), mask)], volume)
    path = tmp_path / "lab.toml"
    path.write_text(LABORATORY, encoding="utf-8")
    return path


def rewrite(path, *changes, more=""):
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text + more, encoding="utf-8")
    return read_dataset(path)


def test_a_laboratory_data_set_loads_normalised_and_cropped(lab):
    samples = load_split(read_dataset(lab))

    (train,), (validation,), test = samples["train"], samples["validation"], samples["test"]
    assert test == []
    assert train.image.shape == (32, 40, 33)
    assert train.image.dtype == np.uint8
    assert validation.image.shape == validation.mask.shape == (32, 34, 33)
    assert np.count_nonzero(train.mask) == 4 * 10 * 5
    assert train.weight is None
    # Normalised over the whole volume, then cropped.
    expected = normalize_image(validation.volume.array)[:, :34]
    assert np.abs(validation.normalized() - expected).max() < 1e-6


def test_linear_intensities_are_logarithmised_before_they_are_normalised(lab):
    dataset = rewrite(lab, ('name = "a"', 'name = "a"\nintensity = "log"'))
    sample = load_split(dataset)["train"][0]

    raw = np.maximum(load_split(read_dataset(lab))["validation"][0].volume.array, 1)
    assert raw.min() == 1
    assert sample.image.dtype == np.float32
    assert sample.image.min() == 0
    assert abs(sample.normalized().mean()) < 1e-5


def sparse_labels(folder):
    labels = np.zeros((32, 40, 33), np.uint8)
    labels[:16] = 2
    labels[5:9, 10:20, 3:8] = 1
    write_volume(folder / "labels.nrrd", Volume(labels, upright(4.5), units="um"))


def test_sparse_labels_give_mask_and_weight(lab):
    sparse_labels(lab.parent)
    dataset = rewrite(lab, ('name = "a"', 'name = "a"\nannotation = "labels.nrrd"\nlabels = "sparse"'))

    sample = load_split(dataset)["train"][0]

    assert np.count_nonzero(sample.mask) == 200
    assert np.array_equal(sample.weight, np.indices(sample.mask.shape)[0] < 16)


def test_a_box_leaves_the_rest_unannotated_and_lets_one_image_serve_two_splits(lab):
    more = """
[[volume]]
name = "a_low"
image = "a.nrrd"
annotation = "a.seg.nrrd"
split = "test"
within = { z = [7, 40] }
"""
    dataset = rewrite(lab, ('split = "train"', 'split = "train"\nwithin = { z = [0, 7], x = [0, 30] }'), more=more)
    samples = load_split(dataset)

    z, _, x = np.indices((32, 40, 33))
    assert np.array_equal(samples["train"][0].weight, (z < 7) & (x < 30))
    assert np.array_equal(samples["test"][0].weight, z >= 7)


def test_one_image_in_two_splits_is_refused(lab):
    more = '\n[[volume]]\nname = "again"\nimage = "a.nrrd"\nannotation = "a.seg.nrrd"\nsplit = "test"\n'
    with pytest.raises(DataSetError, match=r"volume again: 'a.nrrd' is in train and in test; separate them"):
        rewrite(lab, more=more)


def test_every_problem_of_the_file_is_told_at_once(lab):
    more = (
        '\n[[volume]]\nname = "c"\nsplit = "exam"\n[[volume]]\nsplit = "test"\n[[volume]]\nname = "a"\nsplit="train"\n'
    )
    with pytest.raises(DataSetError) as error:
        rewrite(lab, ("y_crop = 34", "y_crop = 0\n"), ('name = "lab"', 'colour = "blue"'), more=more)

    assert error.value.problems == (
        "unknown key 'colour'; known: name, caution, folder, colours, classes, [augmentation], [defaults], [[volume]]",
        "volume b: y_crop = 0 must be at least 1",
        'volume c: split = "exam" must be one of: "train", "validation", "test"',
        "volume 4: 'name' is missing",
        "volume a: listed twice in split 'train'",
    )


def test_wrong_classes_are_told_once_and_not_as_segments_of_every_volume(lab):
    """Before, each .seg.nrrd was read as if it were of one class: "holds 2 segments; name one (key: segment)"."""
    image = np.zeros((32, 40, 33), np.uint8)
    mask = np.indices(image.shape)[0] < 9
    write_segmentation(lab.parent / "a.seg.nrrd", [(Segment("lumen"), mask), (Segment("wall"), ~mask)], Volume(image))
    lab.write_text('classes = ["lumen", "a/b"]' + LABORATORY, encoding="utf-8")
    with pytest.raises(DataSetError) as error:
        open_dataset(lab)
    assert error.value.problems == ("classes: the name of a class does not hold '/', found 'a/b'",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("segments = 3", r"unknown key 'segments'; did you mean segment\? known: name, split"),
        ("y_crop = true", "y_crop = true must be an integer"),
        ("y_crop = 40.0", "y_crop = 40.0 must be an integer"),
        ('labels = "dense"', 'labels = "dense" must be one of: "mask", "sparse"'),
        ("within = { z = [5, 5] }", r"within.z = \[5, 5\] must be \[first, end\]"),
        ("within = { t = [0, 5] }", "within has keys t; known: z, y, x"),
        ("spacing_um = [1, 2]", r"spacing_um = \[1, 2\] must be one positive length, or three"),
        ("spacing_um = -4.5", "must be one positive length"),
        (f"axes = {'[' * 50}{']' * 50}", r"axes = \[\[\[\[..\]\]\]\] must be a string"),
        ("axes = { a = true, b = 1979-05-27 }", "axes = { a = true, b = 1979-05-27 } must be a string"),
    ],
)
def test_bad_values_name_the_key_and_what_is_allowed(lab, line, message):
    with pytest.raises(DataSetError, match=message):
        rewrite(lab, ('split = "train"', f'split = "train"\n{line}'))


def test_a_data_set_may_say_how_training_changes_its_volumes(lab):
    assert read_dataset(lab).augmentation is None
    dataset = rewrite(lab, more='[augmentation]\nflips = "zyx"\nsmallest_crop = 0.6\n')
    assert dataset.augmentation == replace(FLIPS, flips="zyx", smallest_crop=0.6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('flips = "zw"', "flips = 'zw' must name axes among z, y, x"),
        ("flips = 3", "flips = 3 must be a string"),
        ("smallest_crop = 0", r"smallest_crop = 0 must lie in \(0, 1\]"),
        ("speckle = true", "speckle = true must be a number"),
        ("shortest_axis = 16", "shortest_axis = 16 must be at least 32"),
        ("contrast = 1.5", r"contrast = 1.5 must lie in \[0, 1\)"),
        ("blur = 1", "unknown key 'blur'; known: flips, smallest_crop"),
    ],
)
def test_bad_augmentation_is_told_with_everything_else(lab, line, message):
    with pytest.raises(DataSetError, match=message) as caught:
        rewrite(lab, ('split = "train"', 'split = "training"'), more=f"[augmentation]\n{line}\n")
    assert len(caught.value.problems) == 2


def test_a_data_set_that_trains_nothing_is_refused(lab):
    with pytest.raises(DataSetError, match='no volume with split = "train"'):
        rewrite(lab, ('split = "train"', 'split = "test"'))


def test_files_that_are_no_toml_are_refused(tmp_path):
    (tmp_path / "bad.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(FileError, match=r"bad.toml' is not valid TOML"):
        read_dataset(tmp_path / "bad.toml")
    with pytest.raises(FileError, match=r"cannot read data set '.*absent.toml'"):
        read_dataset(tmp_path / "absent.toml")


def test_every_problem_of_the_volumes_is_told_at_once(lab):
    folder = lab.parent
    wide = Volume(np.zeros((32, 40, 33), bool), upright(9), units="um", space="left-posterior-superior")
    write_segmentation(folder / "wide.seg.nrrd", [(Segment(name="x"), wide.array)], wide)
    empty = Volume(np.zeros((32, 40, 33), bool), upright(4.5), units="um", space="left-posterior-superior")
    write_segmentation(folder / "empty.seg.nrrd", [(Segment(name="x"), empty.array)], empty)
    more = "".join(
        f'\n[[volume]]\nname = "{name}"\nsplit = "train"\nimage = "{image}"\nannotation = "{annotation}"\n'
        for name, image, annotation in [
            ("gone", "gone.nrrd", "a.seg.nrrd"),
            ("wide", "a.nrrd", "wide.seg.nrrd"),
            ("empty", "a.nrrd", "empty.seg.nrrd"),
        ]
    )
    with pytest.raises(DataSetError, match="has 3 problems") as error:
        load_split(rewrite(lab, more=more))

    gone, wide_line, empty_line = error.value.problems
    assert "gone.nrrd" in gone
    assert "lies on another grid" in wide_line
    assert "no lumen voxel is annotated" in empty_line


def test_what_is_wrong_with_the_file_and_with_its_volumes_is_told_at_once_in_its_own_words(lab, rng):
    folder = lab.parent
    np.save(folder / "four.npy", rng.integers(0, 255, (4, 32, 32, 33), dtype=np.uint8))
    grid = Volume(np.zeros((32, 40, 33), bool), upright(4.5), units="um", space="left-posterior-superior")
    two = [(Segment(name=name), grid.array) for name in ("left", "right")]
    write_segmentation(folder / "two.seg.nrrd", two, grid)
    text = lab.read_text(encoding="utf-8").replace("y_crop = 34", "y_crop = 0\nlables = 3")
    for name, image, annotation in (("c", "gone.nrrd", "away.nrrd"), ("d", "four.npy", "two.seg.nrrd")):
        text += f'[[volume]]\nname = "{name}"\nsplit = "exam"\nimage = "{image}"\nannotation = "{annotation}"\n'
    lab.write_text(text, encoding="utf-8")
    with pytest.raises(DataSetError) as error:
        open_dataset(lab)

    told = error.value.problems
    assert told[:4] == (
        "volume b: y_crop = 0 must be at least 1",
        "volume b: unknown key 'lables'; did you mean labels? known: name, split, image, annotation, segment, labels, "
        "intensity, y_crop, within, axes, spacing_um",
        'volume c: split = "exam" must be one of: "train", "validation", "test"',
        'volume d: split = "exam" must be one of: "train", "validation", "test"',
    )
    assert told[4] == f'volume c: image = "{folder / "gone.nrrd"}" is not there'
    assert told[5] == f'volume c: annotation = "{folder / "away.nrrd"}" is not there'
    assert "four.npy" in told[6]
    assert "(key: axes)" in told[6]
    assert "name one (key: segment)" in told[7]
    assert len(told) == 8
    assert "--" not in with_options(str(error.value))


def test_of_a_volume_that_lacks_a_key_it_is_told_at_once_that_the_other_file_is_not_there(lab):
    folder = lab.parent
    lab.write_text(
        '[[volume]]\nname = "c"\nsplit = "train"\nimage = "gone.nrrd"\n'
        '[[volume]]\nname = "d"\nsplit = "train"\nimage = "../a.nrrd"\nannotation = "away.nrrd"\n',
        encoding="utf-8",
    )
    with pytest.raises(DataSetError, match="has 4 problems") as error:
        open_dataset(lab)
    told = error.value.problems
    assert told[0] == "volume c: 'annotation' is missing"
    assert told[1] == f'volume c: image = "{folder / "gone.nrrd"}" is not there'
    assert "volume d: image = " in told[2]
    assert "lies outside the data set's folder" in told[2]
    assert told[3] == f'volume d: annotation = "{folder / "away.nrrd"}" is not there'


def test_what_is_wrong_with_the_defaults_is_told_once(lab):
    changed = ("[defaults]", "[defaults]\nlables = 3\naxes = 5")
    with pytest.raises(DataSetError, match="has 2 problems") as error:
        rewrite(lab, changed)
    assert [problem[:40] for problem in error.value.problems] == [
        "[defaults]: unknown key 'lables'; did yo",
        "[defaults]: axes = 5 must be a string",
    ]


def test_a_folder_that_may_be_allowed_is_still_told_by_its_option(lab):
    with pytest.raises(DataSetError) as error:
        rewrite(lab, ('image = "{name}.nrrd"', 'image = "../{name}.nrrd"'))
    assert "allow a further folder (--data DIR)" in with_options(str(error.value))


def test_the_published_table_is_a_data_set_file(root):
    dataset = read_dataset(root / "datasets" / "yolk_sac.toml")

    assert [len(dataset.split(split)) for split in ("train", "validation", "test")] == [13, 1, 1]
    crops = {entry.name.removeprefix("082616_"): entry.y_crop for entry in dataset.entries}
    assert crops["00_T46"] == 160
    assert crops["13_T14"] == 190
    assert dataset.split("validation")[0].name == "082616_03_T17"
    assert dataset.split("test")[0].image == root / "datasets" / ".." / "struct_iso" / "E5D_082616_07_T40.nrrd"
    assert "0.777" in dataset.caution


def test_the_strict_split_has_no_training_volume_of_the_test_embryo(root):
    published = read_dataset(root / "datasets" / "yolk_sac.toml")
    strict = read_dataset(root / "datasets" / "yolk_sac_strict.toml")

    assert [entry for entry in published.entries if entry.name != "082616_07_T15"] == list(strict.entries)
    assert len(strict.split("train")) == 12


def test_hashes_name_every_file(lab):
    found = hashes(read_dataset(lab))

    assert list(found) == ["train/a", "validation/b"]
    assert all(len(value) == 64 for pair in found.values() for value in pair.values())
    assert found["train/a"]["image"] != found["validation/b"]["image"]


def test_sample_in_memory_is_cropped_in_depth_and_normalised_whole(rng):
    array = rng.integers(0, 255, (32, 60, 33), dtype=np.uint8)
    mask, weight = array > 200, array > 20
    sample = Sample.of("mine", Volume(array), mask, weight, y_crop=40)
    np.testing.assert_array_equal(sample.image, array[:, :40])
    np.testing.assert_array_equal(sample.mask, mask[:, :40])
    np.testing.assert_array_equal(sample.weight, weight[:, :40])
    assert (sample.mean, sample.sd) == pytest.approx((array.mean(), array.std(ddof=1)))
    whole = Sample.of("mine", Volume(array), mask)
    assert whole.image.shape == array.shape
    assert whole.weight is None
