"""Folders of arrays and of images train through a data-set file of two lines."""

import numpy as np
import pytest
from PIL import Image
from running import call, call_for_last_line

import train_network
from micronet.core.errors import FileError, InputError
from micronet.data.dataset import DataSetError, load_split, open_dataset, read_dataset
from micronet.io import read_volume
from micronet.io.images import parse_colour, read_colours

RED, BLACK, BLUE = (255, 0, 0), (0, 0, 0), (0, 0, 255)


def disk(seed, shape=(24, 28)):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    mask = (y - rng.integers(8, 16)) ** 2 + (x - rng.integers(8, 20)) ** 2 < 30
    return (60 + 80 * mask + rng.normal(0, 8, shape)).clip(0, 255).astype(np.uint8), mask


def write_png(path, mask, colours=(BLACK, RED)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(colours, np.uint8)[mask.astype(int)]).save(path)


def write_images(folder, masks=write_png):
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            image, mask = disk(10 * len(split) + number)
            (folder / split / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / split / "images" / f"cell{number}.png")
            masks(folder / split / "masks" / f"cell{number}.png", mask)
    (folder / "set.toml").write_text('folder = "."\ncolours = { lumen = "#ff0000" }\n')
    return folder / "set.toml"


def write_arrays(folder, shape=(16, 24, 28)):
    for split, count in (("train", 2), ("val", 1)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            image, mask = disk(10 * len(split) + number, shape[1:])
            image, mask = (np.broadcast_to(one, shape).copy() for one in (image, mask))
            np.save(folder / split / f"data_{number}.npy", image)
            np.save(folder / split / f"mask_{number}.npy", mask.astype(np.uint8))
    (folder / "set.toml").write_text('name = "arrays"\nfolder = "."\n')
    return folder / "set.toml"


def test_a_folder_of_arrays_is_listed_by_two_lines(tmp_path):
    dataset, samples = open_dataset(write_arrays(tmp_path))
    assert [(entry.name, entry.split) for entry in dataset.entries] == [
        ("0", "train"),
        ("1", "train"),
        ("0", "validation"),
    ]
    assert samples["train"][0].image.shape == (16, 24, 28)
    assert samples["train"][0].mask.any()


def test_a_folder_of_images_and_colour_coded_masks_is_volumes_of_one_plane(tmp_path):
    _, samples = open_dataset(write_images(tmp_path))
    image, mask = disk(50)
    np.testing.assert_array_equal(samples["train"][0].image, image[None])
    np.testing.assert_array_equal(samples["train"][0].mask, mask[None])
    assert [len(samples[split]) for split in ("train", "validation", "test")] == [2, 1, 0]


def test_2d_tiffs_and_arrays_and_black_and_white_masks_are_images_too(tmp_path):
    import tifffile

    for split in ("train", "val"):
        image, mask = disk(3)
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        tifffile.imwrite(tmp_path / split / "images" / "a.tif", image)
        tifffile.imwrite(tmp_path / split / "masks" / "a.tif", mask.astype(np.uint8) * 255)
        np.save(tmp_path / split / "images" / "b.npy", image)
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / split / "masks" / "b.png")
    (tmp_path / "set.toml").write_text('folder = "."')
    _, samples = open_dataset(tmp_path / "set.toml")
    for sample in samples["train"]:
        np.testing.assert_array_equal(sample.image, image[None])
        np.testing.assert_array_equal(sample.mask, mask[None])


def test_images_without_lumen_are_taken_from_a_folder(tmp_path):
    path = write_images(tmp_path)
    write_png(tmp_path / "train" / "masks" / "cell0.png", np.zeros((24, 28), bool))
    _, samples = open_dataset(path)
    assert [sample.mask.any() for sample in samples["train"]] == [False, True]


def test_unknown_colours_are_told_with_their_file_and_their_pixels(tmp_path):
    path = write_images(tmp_path)
    write_png(tmp_path / "val" / "masks" / "cell0.png", disk(1)[1], (BLACK, BLUE))
    count = np.count_nonzero(disk(1)[1])
    with pytest.raises(DataSetError, match=rf"val/masks/cell0.png' .* no class: #0000ff \({count} pixels\)"):
        load_split(read_dataset(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('colours = { lumen = "red" }', "'red' is no colour such as"),
        ('colours = "red"', "colours must be a table of names and colours"),
        ('colours = { lumen = "#ff0000", background = "#ff0000" }', "two classes have the same colour"),
        ('colours = { background = "#ff0000" }', "must name one class beside background"),
        ("folder = 3", "folder = 3 must be a string"),
        ('folder = "elsewhere"', "has no train/; expected train/ and val/"),
        ('folder = ".."', "has no train/"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told_in_its_words(tmp_path, line, message):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = write_images(inner)
    text = line if line.startswith("folder") else f'folder = "."\n{line}'
    path.write_text(text)
    with pytest.raises(DataSetError, match=message):
        read_dataset(path)


def test_a_folder_outside_of_the_data_set_is_refused(tmp_path):
    write_arrays(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "set.toml").write_text('folder = "../other"')
    with pytest.raises(InputError, match="lies outside the data set's folder"):
        read_dataset(tmp_path / "mine" / "set.toml")


def test_an_image_without_a_mask_is_named(tmp_path):
    path = write_images(tmp_path)
    (tmp_path / "train" / "masks" / "cell1.png").unlink()
    with pytest.raises(DataSetError, match=r"train': 'cell1.png' has no mask"):
        read_dataset(path)


def test_colours_are_read_from_palettes_and_not_through_transparency(tmp_path):
    assert parse_colour("#0A0b0c") == (10, 11, 12)
    picture = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)).quantize(2)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_colours(tmp_path / "p.png", {RED: 3, BLACK: 0}), [[[3, 0]]])
    Image.fromarray(np.array([[[255, 0, 0, 90]]], np.uint8)).save(tmp_path / "t.png")
    with pytest.raises(InputError, match=r"t.png' is transparent in places"):
        read_colours(tmp_path / "t.png", {RED: 1})
    (tmp_path / "d.png").write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"d.png' is damaged or no PNG"):
        read_colours(tmp_path / "d.png", {RED: 1})


def test_a_colour_image_is_no_grey_one_and_flat_is_asked_for(tmp_path):
    write_png(tmp_path / "c.png", disk(1)[1])
    with pytest.raises(FileError, match=r"c.png' is a colour image \(RGB\); convert it to grey values"):
        read_volume(tmp_path / "c.png", flat=True)
    with pytest.raises(FileError, match=r"c.png': no volume format has this suffix"):
        read_volume(tmp_path / "c.png")


def test_a_folder_of_images_trains_a_2d_network_that_segments_an_image(tmp_path, monkeypatch, capsys):
    import infer

    monkeypatch.chdir(tmp_path)
    path = write_images(tmp_path)
    network = ("--network", "unet", "--dimensions", "2", "--depth", "2", "--crop-size", "16,16", "--lr", "0.02")
    code, out, err = call(
        train_network, *network, "--dataset", path, "--run", "2; val; save a; finish", "--threads", 1, capsys=capsys
    )
    assert code == 0, out + err
    assert "crops (1 x 16 x 16)" in out
    code, out, err = call(
        infer, "val/images/cell0.png", "--model", "unet_a", "--annotation", "val/masks/cell0.png", capsys=capsys
    )
    assert code == 2  # the mask is colour-coded, and only a data set says by which colours
    assert "colour image" in err
    code, out, err = call(infer, "val/images/cell0.png", "--model", "unet_a", capsys=capsys)
    assert code == 0, out + err
    assert read_volume("predictions/cell0_probability.nrrd").shape == (1, 24, 28)


def test_unknown_colours_cost_the_script_a_line(tmp_path, monkeypatch, capsys):
    """Before, what is wrong stood in a second line, and the first said that something is."""
    monkeypatch.chdir(tmp_path)
    path = write_images(tmp_path)
    write_png(tmp_path / "val" / "masks" / "cell0.png", disk(1)[1], (BLACK, BLUE))
    options = ("--network", "unet", "--dimensions", "2", "--dataset", path, "--run", "finish")
    code, _, err = call(train_network, *options, capsys=capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert "has colours that are of no class: #0000ff (" in err


def test_a_crop_larger_than_an_image_costs_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ("--network", "unet", "--dimensions", "2", "--dataset", write_images(tmp_path), "--run", "finish")
    code, _, err = call_for_last_line(train_network, *options, "--crop-size", "32,16", capsys=capsys)
    assert code == 2
    assert err == "error: volume cell0: it has 1 x 24 x 28 voxels, fewer than a crop of 1 x 32 x 16 (--crop-size)"
