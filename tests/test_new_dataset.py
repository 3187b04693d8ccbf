"""new_dataset.py: the data-set file of a folder, by what lies there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import call
from tiny_training import write_dataset

import new_dataset
from micronet.core.volume import Volume, upright
from micronet.data.dataset import load_split, open_dataset, read_dataset
from micronet.data.layouts import LAYOUTS, AnnotatedVolume
from micronet.data.new_dataset import embryo_of, split_by_embryo
from micronet.io import Segment, read_annotation, read_volume, write_segmentation, write_volume


@pytest.fixture
def lab(tmp_path):
    """Four images with their annotations beside them, two of them of one embryo."""
    folder = tmp_path / "lab"
    write_dataset(folder, train=4, validation=0, test=0)
    (folder / "tiny.toml").unlink()
    for number, name in enumerate(("e1_T04", "e1_T12", "e2_T07", "e10_T01")):
        for suffix in (".nrrd", ".seg.nrrd"):
            (folder / f"train_{number}{suffix}").rename(folder / f"{name}{suffix}")
    return folder


def splits(path):
    return {entry.name: entry.split for entry in read_dataset(path).entries}


def run(folder, capsys):
    return call(new_dataset, folder, capsys=capsys)


SPLIT = {"e1_T04": "train", "e1_T12": "train", "e2_T07": "validation", "e10_T01": "test"}


def test_images_beside_their_segmentations_are_split_by_embryo_and_told(lab, capsys):
    code, out, err = run(lab, capsys)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "images with a .seg.nrrd beside them: 4 volumes with annotation",
        "train: 2 volumes of 1 embryo (e1_T04, e1_T12)",
        "validation: 1 volume of 1 embryo (e2_T07)",
        "test: 1 volume of 1 embryo (e10_T01)",
        "names that differ by a time point are one embryo, and stay together",
        f"wrote {lab / 'dataset.toml'}",
        "every annotation lies on its image; intensities are taken as stored, which should be logarithms:",
        f'where yours are linear, set intensity = "log" in {lab / "dataset.toml"}',
        f"train: python train_micronet.py --dataset {lab / 'dataset.toml'}",
    ]
    dataset, samples = open_dataset(lab / "dataset.toml")
    assert splits(dataset.path) == SPLIT
    assert {split: len(found) for split, found in samples.items()} == {"train": 2, "validation": 1, "test": 1}


def test_the_published_layout_is_found(lab, capsys):
    named = {"annotations": ("*.seg.nrrd", "annotation_{}_iso_full.seg.nrrd"), "struct_iso": ("*.nrrd", "E5D_{}.nrrd")}
    for sub, (pattern, name) in named.items():
        (lab / sub).mkdir()
        for path in list(lab.glob(pattern)):
            path.rename(lab / sub / name.format(path.name.split(".")[0]))
    code, out, _ = run(lab, capsys)
    assert code == 0
    assert out.startswith("struct_iso/ and annotations/: 4 volumes with annotation\n")
    assert splits(lab / "dataset.toml") == SPLIT


@pytest.mark.parametrize("suffix", [".nii.gz", ".tif", ".nrrd"])
def test_the_layout_of_the_decathlon_is_found_with_its_own_test_volumes(lab, capsys, suffix):
    for end, names in (("Tr", ("e1_T04", "e1_T12", "e2_T07")), ("Ts", ("e10_T01",))):
        for name in names:
            for sub, channel, volume in (
                ("images", "_0000", read_volume(lab / f"{name}.nrrd")),
                ("labels", "", read_annotation(lab / f"{name}.seg.nrrd").mask),
            ):
                (lab / f"{sub}{end}").mkdir(exist_ok=True)
                array = volume.array.astype(np.uint8)
                plain = volume.with_array(array)
                write_volume(lab / f"{sub}{end}" / f"{name}{channel}{suffix}", plain)
            for old in (".nrrd", ".seg.nrrd"):
                (lab / f"{name}{old}").unlink()
    code, out, _ = run(lab, capsys)
    assert code == 0, out
    assert out.startswith("imagesTr/ and labelsTr/: 4 volumes with annotation\n")
    assert splits(lab / "dataset.toml") == SPLIT


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_folders_of_training_and_validation_images_are_found_in_their_own_split(tmp_path, capsys, kind):
    for split in ("train", "val"):
        image, mask = np.arange(64, dtype=np.uint8).reshape(8, 8), np.eye(8, dtype=np.uint8)
        if kind == "npy":
            (tmp_path / split).mkdir()
            np.save(tmp_path / split / "data_1.npy", image)
            np.save(tmp_path / split / "mask_1.npy", mask)
            continue
        for name, array in (("images", image), ("masks", 255 * mask)):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(array).save(tmp_path / split / name / "one.png")
    code, out, _ = run(tmp_path, capsys)
    assert code == 0, out
    assert out.startswith("train/ and val/: 2 volumes with annotation\n")
    assert "train: python train_network.py --network unet --dimensions 2 --dataset" in out
    samples = load_split(read_dataset(tmp_path / "dataset.toml"))
    assert {split: len(found) for split, found in samples.items()} == {"train": 1, "validation": 1, "test": 0}
    assert "folder = " in (tmp_path / "dataset.toml").read_text(encoding="utf-8")


def test_images_and_masks_of_the_same_names_are_found(tmp_path, capsys):
    for number in range(3):
        for name, array in (("images", np.arange(64, dtype=np.uint8)), ("masks", 255 * np.eye(8, dtype=np.uint8))):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(array.reshape(8, 8)).save(tmp_path / name / f"larva_{number}.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "alone.png")
    code, out, _ = run(tmp_path, capsys)
    assert code == 0, out
    assert out.startswith("images/ and masks/: 3 volumes with annotation\nnote: images without annotation: alone\n")
    assert set(splits(tmp_path / "dataset.toml").values()) == {"train", "validation", "test"}


def test_what_has_no_partner_and_what_is_not_taken_is_told(lab, capsys):
    shutil.copy(lab / "e2_T07.nrrd", lab / "alone.nrrd")
    shutil.copy(lab / "e2_T07.seg.nrrd", lab / "lost.seg.nrrd")
    shutil.copy(lab / "e2_T07.nrrd", lab / "e2_T07_probability.nrrd")  # a result of ours is no image
    deep = lab / "more" / "e3"
    deep.mkdir(parents=True)
    for suffix in (".nrrd", ".seg.nrrd"):
        shutil.copy(lab / f"e2_T07{suffix}", deep / f"e2_T07{suffix}")
    code, out, _ = run(lab, capsys)
    assert code == 0
    assert "note: images without annotation: alone\n" in out
    assert "note: annotations without image: lost\n" in out
    assert set(splits(lab / "dataset.toml")) == {"e1_T04", "e1_T12", "e10_T01", "e2_T07", "more_e3_e2_T07"}


def test_what_is_to_be_mended_is_told_with_the_exit_code(lab, capsys):
    write_volume(lab / "e2_T07.nrrd", Volume(np.zeros((5, 6, 7), np.uint8), upright(4.5), units="um"))
    code, out, _ = run(lab, capsys)
    assert code == 2
    assert f"data set '{lab / 'dataset.toml'}' has one problem:\n  volume e2_T07: " in out
    assert (lab / "dataset.toml").is_file()


def test_a_file_of_a_person_is_never_replaced_and_ours_is(lab, capsys):
    assert run(lab, capsys)[0] == 0
    for suffix in (".nrrd", ".seg.nrrd"):
        shutil.copy(lab / f"e2_T07{suffix}", lab / f"e4_T07{suffix}")
    assert run(lab, capsys)[0] == 0
    assert "e4_T07" in splits(lab / "dataset.toml")
    path = lab / "dataset.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('# segment = "full seg"', 'segment = "full seg"'))
    mine = path.read_bytes()
    code, _, err = run(lab, capsys)
    assert code == 2
    assert err.endswith("or it was changed since; it is not replaced, rename it to keep it\n")
    (lab / "dataset.json").unlink()
    code, _, err = run(lab, capsys)
    assert code == 2
    assert "no record beside it says that we wrote it" in err
    assert path.read_bytes() == mine


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is no folder"), ((), "holds no images with annotations; known are struct_iso/ with annotations/"),
     (("a.nrrd", "b.seg.nrrd"), "holds no images with annotations")],
)  # fmt: skip
def test_a_folder_without_pairs_is_told_in_one_line_and_left_alone(tmp_path, capsys, content, message):
    folder = tmp_path / "lab"
    if content is not None:
        folder.mkdir()
        for name in content:
            (folder / name).write_bytes(b"")
    code, _, err = run(folder, capsys)
    assert code == 2
    assert err.startswith(f"error: '{folder}' {message}")
    assert err.count("\n") == 1
    assert not (folder / "dataset.toml").exists()


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (("082616_07_T15", "082616_07_T40"), True),
        (("emb-3_t001", "emb-3_t002"), True),
        (("tp1_left", "tp20_left"), True),
        (("mouse time_3", "mouse time_4"), True),
        (("embryo_1", "embryo_2"), False),
        (("082616_07_T15", "082616_08_T15"), False),
        (("cat1", "cat2"), False),  # a t in a word is no time point
    ],
)
def test_names_that_differ_by_a_time_point_are_one_embryo(names, one):
    assert (embryo_of(names[0]) == embryo_of(names[1])) == one


def of(*names):
    return [AnnotatedVolume(name, Path(name), Path(name)) for name in names]


def test_one_embryo_of_eight_is_held_out_and_the_most_of_all_train():
    assert split_by_embryo(of("a")) == ["train"]
    assert split_by_embryo(of("a_T1", "a_T2")) == ["train", "train"]
    assert split_by_embryo(of("a", "b")) == ["train", "validation"]
    assert split_by_embryo(of("a", "b", "c_T1", "c_T2")) == ["validation", "test", "train", "train"]
    found = split_by_embryo(of(*(f"e{number}" for number in range(16))))
    assert [found.count(split) for split in ("train", "validation", "test")] == [12, 2, 2]


def test_a_layout_is_a_function_that_finds_nothing_in_an_empty_folder(tmp_path):
    assert [find(tmp_path) for find in LAYOUTS] == [None] * len(LAYOUTS)


def test_segments_that_all_annotations_have_are_offered_as_classes(lab, capsys):
    for path in lab.glob("*.seg.nrrd"):
        mask = read_annotation(path).mask
        segments = [(Segment(name=name), mask.array) for name in ("lumen", path.name[:2], "wall")]
        path.unlink()
        write_segmentation(path, segments, mask)
    code, out, _ = run(lab, capsys)
    assert code == 2  # which of them is the lumen nobody has said
    assert "name one (key: segment)" in out
    assert '\n# classes = ["lumen", "wall"]   # all of them' in (lab / "dataset.toml").read_text(encoding="utf-8")
