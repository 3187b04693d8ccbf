"""Data sets of a yes or no per image, crop or block: from tables, HDF5, masks and labels of blocks."""

import os

import h5py
import numpy as np
import pytest
from PIL import Image
from running import call_for_last_line

import train_network
from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.data.dataset import DataSetError, open_dataset
from micronet.data.image_samples import (
    Cut,
    ImageSample,
    Part,
    block_labels,
    boxes_of,
    mask_labels,
    never_or_always,
    whole_box,
)
from micronet.data.weak.images import open_images
from micronet.io import write_volume
from micronet.io.class_table import read_class_table


def grey(seed, shape=(24, 32)):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_table_set(folder, table="name,split,line,ring\na,train,1,0\nb,train,0,1\nc,validation,1,\n", keys=""):
    for number, name in enumerate("abc"):
        png(folder / "images" / f"{name}.png", grey(number))
    (folder / "labels.csv").write_text(table, encoding="utf-8")
    (folder / "set.toml").write_text(
        f'labels = "image"\ntable = "labels.csv"\n{keys}\n[defaults]\nimage = "images/{{name}}.png"\n', encoding="utf-8"
    )
    return folder / "set.toml"


def labels_of(samples):
    return {sample.entry.name: [part.labels.tolist() for part in sample.parts] for sample in samples}


def problems(path):
    with pytest.raises(DataSetError, match="data set") as caught:
        open_images(path)
    return caught.value.problems


# --- tables ---


def test_a_table_gives_each_image_its_classes_by_its_name(tmp_path):
    # Neither the order of the lines nor that of the columns says anything.
    table = "# made by someone\nring,name,split,line\n1,b,train,0\n0,a,train,1\n,c,validation,1\n"
    images = open_images(write_table_set(tmp_path, table, 'classes = ["line", "ring"]'))
    assert images.classes == ("line", "ring")
    assert labels_of(images.samples["train"]) == {"b": [[0, 1]], "a": [[1, 0]]}
    assert labels_of(images.samples["validation"]) == {"c": [[1, -1]]}  # nobody said whether c has a ring
    first = next(one for one in images.samples["train"] if one.entry.name == "a")
    assert first.shape == (1, 24, 32)
    assert np.array_equal(first.read(first.parts[0].box)[0], grey(0))


def test_a_table_for_each_split_needs_no_column(tmp_path):
    path = write_table_set(tmp_path, "name,line\na,1\nb,0\n")
    (tmp_path / "val.csv").write_text("name,line\nc,1\n")
    text = path.read_text().replace('"labels.csv"', '{ train = "labels.csv", validation = "val.csv" }')
    path.write_text(text)
    images = open_images(path)
    assert [len(images.samples[split]) for split in ("train", "validation", "test")] == [2, 1, 0]


def test_names_in_a_table_are_as_write_name_has_them_and_compared_by_name_key(tmp_path):
    (tmp_path / "a.csv").write_text('name,x\n"a%23b, c",1\nu\u0308,0\n', encoding="utf-8-sig")
    table = read_class_table(tmp_path / "a.csv")
    assert [row.name for row in table.rows] == ["a#b, c", "u\u0308"]
    (tmp_path / "b.csv").write_text("name,x\nu\u0308,1\n\u00fc,0\n", encoding="utf-8")
    assert read_class_table(tmp_path / "b.csv").problems == ("'b.csv', line 3: image \u00fc is in line 2 already",)


def test_all_that_is_wrong_with_a_table_and_its_images_is_told_at_once(tmp_path):
    table = "name,split,line,ring\na,train,yes,0\nb,train,1\nb,trian,1,0\nlost,train,1,0\n../../x,train,1,1\n"
    found = problems(write_table_set(tmp_path, table, "colour = 1\narea = 0\ncrop = [4]"))
    for message in (
        "'labels.csv', line 2: line of image a is 'yes', expected 1, 0, or nothing where unknown",
        "'labels.csv', line 3: 3 cells, expected 4",
        'volume b: split = "trian" must be one of: "train", "validation", "test"',
        "volume lost: ",
        "lies outside the data set's folder",
        "unknown key 'colour'",
        "area = 0 must be at least 1",
        "crop = [4] must be [Y, X] or [Z, Y, X], or one length for Y and X",
    ):
        assert any(message in problem for problem in found), (message, found)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "its first line must be name"),
        ("name\na\n", "a column for each class"),
        ("name,a,a\n", "a column for each class, each once"),
        ("name;split;a\nx;train;1\n", "its cells are apart by semicolons, expected commas"),
        ("name\tsplit\ta\nx\ttrain\t1\n", "its cells are apart by tabs, expected commas"),
        ('name,x\n"a\n', "line 2: it is no CSV"),
        ("name,x\n\udcff,1\n", "is no text in UTF-8"),
    ],
)
def test_a_file_that_is_no_table_costs_a_line(tmp_path, table, message):
    (tmp_path / "a.csv").write_bytes(table.encode(errors="surrogateescape"))
    with pytest.raises(FileError, match=message):
        read_class_table(tmp_path / "a.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_table_that_is_no_file_is_told_and_not_waited_for(tmp_path):
    """Before, a named pipe was read until somebody wrote into it."""
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(FileError, match="is no file"):
        read_class_table(tmp_path / "a.csv")


def test_of_a_table_that_cannot_be_read_one_problem_is_told(tmp_path):
    """Before, it was added that no volume trains."""
    (problem,) = problems(write_table_set(tmp_path, "name;split;line\na;train;1\n"))
    assert "apart by semicolons" in problem
    path = write_table_set(tmp_path, "name,split,line\na,validation,1\n")
    assert problems(path) == ('no volume with split = "train"',)


def test_a_table_without_a_named_class_or_without_splits_is_told(tmp_path):
    assert any("has no column dot" in one for one in problems(write_table_set(tmp_path, keys='classes = ["dot"]')))
    assert any("has no column split" in one for one in problems(write_table_set(tmp_path, "name,x\na,1\n")))


def test_crops_of_images_with_a_table_are_refused_as_nobody_said_which_holds_the_class(tmp_path):
    found = problems(write_table_set(tmp_path, keys="crop = 8"))
    assert sum("not which of its crops or blocks does" in one for one in found) == 3


# --- masks ---


def test_crops_hold_the_classes_that_cover_an_area_of_them(tmp_path):
    mask = np.zeros((16, 24), np.uint8)
    mask[2:4, 2:4] = 1  # 4 pixels in the first crop
    mask[10, 20:23] = 2  # 3 pixels in the last
    for name in ("a", "b"):
        png(tmp_path / "images" / f"{name}.png", grey(1, (16, 24)))
        png(tmp_path / "masks" / f"{name}.png", mask)
    (tmp_path / "set.toml").write_text(
        'labels = "image"\nclasses = ["dot", "line"]\ncrop = 8\nstep = [8, 8]\narea = 4\n'
        '[defaults]\nimage = "images/{name}.png"\nannotation = "masks/{name}.png"\n'
        '[[volume]]\nname = "a"\nsplit = "train"\n[[volume]]\nname = "b"\nsplit = "validation"\n'
    )
    (sample,) = open_images(tmp_path / "set.toml").samples["train"]
    boxes = [part.box[1:] for part in sample.parts]
    assert boxes == [((y, y + 8), (x, x + 8)) for y in (0, 8) for x in (0, 8, 16)]
    assert [part.labels.tolist() for part in sample.parts] == [[1, 0], *[[0, 0]] * 5]  # 3 pixels of a line are too few


def test_crops_with_too_little_foreground_are_left_out(tmp_path):
    foreground = np.zeros((8, 16), np.uint8)
    foreground[:, 12:] = 255  # half of the second crop, none of the first
    png(tmp_path / "a.png", grey(1, (8, 16)))
    png(tmp_path / "mask.png", np.eye(8, 16, dtype=np.uint8))
    png(tmp_path / "cell_a.png", foreground)
    text = (
        'labels = "image"\ncrop = 8\nforeground = "cell_{name}.png"\nshare = SHARE\n'
        '[[volume]]\nname = "a"\nsplit = "train"\nimage = "a.png"\nannotation = "mask.png"\n'
    )
    kept = {}
    for share in (0, 0.5, 0.6):
        (tmp_path / "set.toml").write_text(text.replace("SHARE", str(share)))
        (sample,) = open_images(tmp_path / "set.toml").samples["train"]
        kept[share] = [part.box[2] for part in sample.parts]
    assert kept == {0: [(0, 8), (8, 16)], 0.5: [(8, 16)], 0.6: []}
    assert sample.notes == ("volume a: no crop of it has enough foreground",)


def test_what_is_not_annotated_may_hold_a_class():
    mask = np.zeros((1, 4, 8), bool)
    mask[0, 0, 0] = True
    weight = np.ones((1, 4, 8), bool)
    weight[0, 0, 5] = False
    halves = [mask_labels(mask[:, :, x : x + 4], weight[:, :, x : x + 4], 1, Cut()).tolist() for x in (0, 4)]
    assert halves == [[1], [-1]]


def test_crops_reach_the_end_and_those_of_blocks_begin_between_blocks():
    assert [box[1] for box in boxes_of((1, 10, 4), Cut((1, 4, 4), (1, 3, 4)))] == [(0, 4), (3, 7), (6, 10)]
    assert [box[1] for box in boxes_of((8, 21, 8), Cut((8, 16, 8), (8, 8, 8), block=8))] == [(0, 16), (8, 21)]
    assert list(boxes_of((1, 3, 3), Cut())) == [whole_box((1, 3, 3))]


# --- blocks ---


def write_block_set(folder, labels, shape=(10, 16, 17), keys=""):
    volume = Volume(grey(3, shape), upright((1, 1, 1)), units="um")
    write_volume(folder / "v.nrrd", volume)
    grid = Volume(np.asarray(labels, np.uint8), upright((8, 8, 8)), units="um")
    write_volume(folder / "blocks.nrrd", grid)
    (folder / "set.toml").write_text(
        f'labels = "image"\nblock = 8\n{keys}\n[[volume]]\nname = "v"\nsplit = "train"\nimage = "v.nrrd"\n'
        'annotation = "blocks.nrrd"\n'
    )
    return folder / "set.toml"


def test_blocks_have_the_labels_of_their_file_and_the_last_may_be_shorter(tmp_path):
    grid = np.array([[[1, 2, 0], [2, 2, 1]], [[2, 0, 0], [1, 1, 1]]])
    (sample,) = open_images(write_block_set(tmp_path, grid)).samples["train"]
    assert sample.block == 8
    (part,) = sample.parts
    assert part.box == ((0, 10), (0, 16), (0, 17))
    assert np.array_equal(part.labels, np.choose(grid, (-1, 1, 0))[None])
    crops = open_images(write_block_set(tmp_path, grid, keys="crop = [8, 8, 8]")).samples["train"][0].parts
    assert len(crops) == 12
    assert {part.box: part.labels.item() for part in crops}[(8, 10), (8, 16), (16, 17)] == 1


def test_a_mask_says_which_blocks_hold_an_area_of_it():
    mask = np.zeros((10, 8, 8), bool)
    mask[9, :2, :2] = True
    assert mask_labels(mask, None, 1, Cut(block=8, area=4)).ravel().tolist() == [0, 1]
    assert mask_labels(mask, None, 1, Cut(block=8, area=5)).ravel().tolist() == [0, 0]


def test_labels_of_blocks_that_do_not_fit_are_told(tmp_path):
    found = problems(write_block_set(tmp_path, np.ones((2, 2, 2))))
    assert any("2 x 2 x 2 elements, expected 10 x 16 x 17, one a voxel, or 2 x 2 x 3, one a block" in x for x in found)
    assert any(
        "found 0, 7" in x for x in problems(write_block_set(tmp_path, np.full((2, 2, 3), 7) * np.eye(2, 3, dtype=int)))
    )
    assert any(
        "multiple of block = 8" in x
        for x in problems(write_block_set(tmp_path, np.ones((2, 2, 3)), keys="crop = [8, 9, 8]"))
    )
    with pytest.raises(InputError, match="tells of one class, the data set has 2"):
        block_labels(np.ones((1, 1, 1)), 2)


# --- HDF5 ---


def write_hdf5(path, label, split="train", shape=(8, 16), **more):
    with h5py.File(path, "w") as file:
        for name in ("b", "a"):
            group = file.create_group(name)
            group.attrs["split"] = split if name == "a" else "validation" if isinstance(split, str) else split
            group["data"] = grey(ord(name), shape)
            group["label"] = label
            for key, value in more.items():
                group[key] = value


def hdf5_set(folder, keys='classes = ["dot", "line"]'):
    (folder / "set.toml").write_text(f'labels = "image"\nhdf5 = "all.h5"\n{keys}\n')
    return folder / "set.toml"


def test_an_hdf5_has_a_group_for_each_image_which_is_read_on_use(tmp_path):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]))
    images = open_images(hdf5_set(tmp_path))
    assert labels_of(images.samples["train"]) == {"a": [[0, 1]]}
    assert labels_of(images.samples["validation"]) == {"b": [[0, 1]]}
    (sample,) = images.samples["train"]
    assert np.array_equal(sample.read(((0, 1), (2, 4), (3, 9))), grey(ord("a"), (8, 16))[None, 2:4, 3:9])
    assert sample.mean == pytest.approx(grey(ord("a"), (8, 16)).mean())


@pytest.mark.parametrize("several", [False, True])
def test_masks_in_an_hdf5_give_labels_of_crops(tmp_path, several):
    numbers = np.zeros((8, 16), np.uint8)
    numbers[1, 1], numbers[1, 9] = 1, 2
    label = np.stack([numbers == 1, numbers == 2]) if several else numbers
    cell = np.zeros((8, 16), np.uint8)
    cell[:, 4:] = 1
    write_hdf5(tmp_path / "all.h5", label, cell=cell)
    keys = 'classes = ["dot", "line"]\ncrop = 8\n'
    (sample,) = open_images(hdf5_set(tmp_path, keys)).samples["train"]
    assert [part.labels.tolist() for part in sample.parts] == [[1, 0], [0, 1]]
    (sample,) = open_images(hdf5_set(tmp_path, keys + 'foreground = "cell"\nshare = 0.9')).samples["train"]
    assert [part.labels.tolist() for part in sample.parts] == [[0, 1]]


def test_what_an_hdf5_lacks_or_leads_elsewhere_with_is_told_at_once(tmp_path):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]))
    with h5py.File(tmp_path / "all.h5", "r+") as file:
        file["linked"] = h5py.ExternalLink("/etc/hostname", "/")
        file["soft"] = h5py.SoftLink("/a")
        file.create_group("empty")
        group = file.create_group("wrong")
        group["data"], group["label"] = grey(1), np.array([1, 2, 3])
        group.attrs["split"] = "train"
        lonely = file.create_group("lonely")
        lonely["data"], lonely["label"] = grey(1), np.array([0, 1])
        text = file.create_group("text")
        text["data"], text["label"] = "a", np.array([0, 1])
        layout = h5py.VirtualLayout((4, 4), "u1")
        layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4, 4))
        virtual = file.create_group("virtual")
        virtual.create_virtual_dataset("data", layout)
        virtual["label"] = np.array([0, 1])
    found = problems(hdf5_set(tmp_path))
    for message in (
        "group linked: linked is a link, which is not followed",
        "group soft: soft is a link, which is not followed",
        "group empty: data is missing",
        "group lonely: its split is not stated",
        "group text: data is no array of numbers",
        "group virtual: data lies in another file",
        "volume wrong: label has the shape 3, expected 2 (a number each class)",
    ):
        assert any(message in problem for problem in found), (message, found)


@pytest.mark.parametrize("text", [np.bytes_("train"), np.array(["train"], dtype=h5py.string_dtype())])
def test_a_split_may_be_text_of_any_of_hdf5s_kinds(tmp_path, text):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]), split=text)
    assert labels_of(open_images(hdf5_set(tmp_path)).samples["train"]) == {"a": [[0, 1]], "b": [[0, 1]]}


def test_a_split_that_is_no_text_is_told_and_not_replaced_by_the_usual_one(tmp_path):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]), split=3)
    keys = 'classes = ["dot", "line"]\n[defaults]\nsplit = "train"\n'
    assert any("group a: its attribute split is no text" in one for one in problems(hdf5_set(tmp_path, keys)))


def test_an_array_larger_than_memory_is_refused_by_its_header(tmp_path):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]))
    with h5py.File(tmp_path / "all.h5", "r+") as file:
        del file["a/data"]
        file.create_dataset("a/data", (1 << 17, 1 << 17), "f8", chunks=(64, 64))  # no chunk is written
    assert any("volume a: of its data, 131072 x 131072, 1 x 131072" in one for one in problems(hdf5_set(tmp_path)))


def test_of_a_volume_in_an_hdf5_the_statistics_are_those_of_its_voxels(tmp_path):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]), shape=(3, 8, 16))
    (sample,) = open_images(hdf5_set(tmp_path)).samples["train"]
    whole = grey(ord("a"), (3, 8, 16))
    assert (sample.mean, sample.sd) == pytest.approx((whole.mean(), whole.std(ddof=1)))


def test_an_array_of_a_type_that_numpy_has_not_is_told_with_its_group(tmp_path):
    """Before, it was an internal error."""
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]))
    with h5py.File(tmp_path / "all.h5", "r+") as file:
        del file["a/data"]
        h5py.h5d.create(file["a"].id, b"data", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4, 4)))
    assert any("group a: it cannot be read (" in one for one in problems(hdf5_set(tmp_path)))


@pytest.mark.parametrize("damaged", ["data", "label"])
def test_a_damaged_array_is_told_with_its_file_and_group(tmp_path, damaged):
    """Before, it was an internal error."""
    path = tmp_path / "all.h5"
    write_hdf5(path, np.zeros((8, 16), np.uint8))
    with h5py.File(path, "r+") as file:
        del file[f"a/{damaged}"]
        file.create_dataset(f"a/{damaged}", data=grey(1, (8, 16)) % 2, chunks=(8, 16), fletcher32=True)
        place = file[f"a/{damaged}"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(bytes(content))
    (problem,) = problems(hdf5_set(tmp_path))
    assert f"all.h5', a/{damaged} cannot be read: " in problem


def test_an_array_that_goes_while_it_is_trained_on_is_told(tmp_path):
    write_hdf5(tmp_path / "all.h5", np.array([0, 1]))
    (sample,) = open_images(hdf5_set(tmp_path)).samples["train"]
    sample.read.__self__.stored.file.close()  # as where a disk is taken away
    with pytest.raises(FileError, match=r"all\.h5', a/data cannot be read: "):
        sample.read(sample.parts[0].box)


def test_a_file_that_is_no_hdf5_costs_a_line(tmp_path):
    (tmp_path / "all.h5").write_bytes(b"no")
    assert any("is no HDF5 file that can be read" in one for one in problems(hdf5_set(tmp_path)))


# --- which data set is for which network ---


def test_a_data_set_of_images_is_refused_where_voxels_are_learned_and_the_other_way_round(tmp_path):
    path = write_table_set(tmp_path)
    with pytest.raises(InputError, match="says what each image holds"):
        open_dataset(path)
    path.write_text(path.read_text().replace('labels = "image"\n', "").replace('table = "labels.csv"\n', ""))
    with pytest.raises(InputError, match="does not say labels = "):
        open_images(path)


def test_classes_that_are_never_or_always_there_are_named_with_how_many_images():
    image = np.arange(4.0).reshape(1, 2, 2)
    samples = [
        ImageSample.of(str(n), image, [Part(whole_box(image.shape), np.array(labels, np.int8))])
        for n, labels in enumerate([(1, 0, 1, -1), (1, 0, 0, 0)])
    ]
    assert never_or_always(["a", "b", "c", "d"], samples) == {
        "a": "always in 2 images that are labelled",
        "b": "never in 2 images that are labelled",
        "d": "never in 1 images that are labelled",
    }


def test_a_wrong_data_set_is_told_in_its_words_by_the_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_table_set(tmp_path, keys="step = 8")
    code, _, err = call_for_last_line(
        train_network, "--network", "micranet", "--dataset", path, "--run", "1", capsys=capsys
    )
    assert code == 2
    assert "step is of crops, and there is no key crop" in err
