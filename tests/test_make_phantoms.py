"""make_phantoms.py: phantoms under the published names, and a data set that training takes as it is."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial

import h5py
import numpy as np
import pytest
import running
import SimpleITK as sitk
import slicerio
from running import exit_code

import make_phantoms
from micronet import Volume, read_annotation, read_volume
from micronet.core.errors import InputError
from micronet.data.dataset import load_split, read_dataset
from micronet.data.phantom import lumen_mask, mask_of_seed
from micronet.data.phantom_set import over_annotations, procedural
from micronet.io import Segment, write_segmentation

SMALL = ("--shape", "64,64,66")
# Oblique, cubic voxels of 5 µm, one axis flipped.
DIRECTIONS = 5 * np.array([[0.0, 0.6, 0.8], [0.0, -0.8, 0.6], [1.0, 0.0, 0.0]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


call = partial(running.call, make_phantoms)


def annotated(path, shape=(40, 50, 60), directions=DIRECTIONS, units="um", segment="full seg"):
    """Write a .seg.nrrd with a tube, and return its grid."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    tube = ((y - 20) ** 2 + (x - 30) ** 2 < 64) & (z >= 0)
    space = "left-posterior-superior"
    grid = Volume(tube, directions, np.array([1.0, -2.0, 3.0]), space, units)
    write_segmentation(path, [(Segment(name=segment), tube)], grid)
    return grid


def test_phantoms_lie_under_the_published_names_and_their_data_set_loads(folder, capsys):
    code, out, err = call(3, *SMALL, "--seed", 5, capsys=capsys)
    assert code == 0, err
    assert "3 made. Train on them: python train_micronet.py --dataset phantoms" in out
    dataset = read_dataset("phantoms/phantoms.toml")
    samples = load_split(dataset)
    assert [sample.entry.name for split in samples.values() for sample in split] == [
        "phantom_0005",
        "phantom_0006",
        "phantom_0007",
    ]
    assert [len(samples[split]) for split in ("train", "validation", "test")] == [1, 1, 1]
    first = samples["train"][0]
    np.testing.assert_array_equal(first.mask, lumen_mask((64, 64, 66), np.random.default_rng(5)))
    assert first.volume.spacing_um == (4.5, 4.5, 4.5)
    assert first.volume.space == "left-posterior-superior"
    # Independent readers: image and segment share a grid and are what they should be.
    image = sitk.ReadImage("phantoms/struct_iso/E5D_phantom_0005.nrrd")
    assert image.GetSize() == (66, 64, 64)
    segment = slicerio.read_segmentation("phantoms/annotations/annotation_phantom_0005_iso_full.seg.nrrd")
    assert segment["segments"][0]["name"] == "full seg"
    # Inside a lumen it is brighter than in the medium above.
    assert np.median(first.image[first.mask]) > np.median(first.image[:, :4]) + 15
    record = json.loads((folder / "phantoms/struct_iso/E5D_phantom_0005.json").read_text(encoding="utf-8"))
    assert record["domain"] == "log"
    assert record["parameters"]["seed"] == 5


def test_a_crop_keeps_lumens_above_it_and_goes_into_the_data_set(folder, capsys):
    code, _, err = call(1, "--shape", "64,90,64", "--y-crop", 64, capsys=capsys)
    assert code == 0, err
    (sample,) = load_split(read_dataset("phantoms/phantoms.toml"))["train"]
    assert sample.image.shape == (64, 64, 64)
    assert sample.volume.shape == (64, 90, 64)
    whole = read_annotation("phantoms/annotations/annotation_phantom_0001_iso_full.seg.nrrd").mask.array
    assert not whole[:, 64:].any()
    np.testing.assert_array_equal(whole[:, :64], lumen_mask((64, 64, 64), np.random.default_rng(1)))


def test_what_is_there_is_not_made_again_a_lost_one_is_and_a_changed_one_is_not_replaced(folder, capsys):
    assert call(2, *SMALL, capsys=capsys)[0] == 0
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    times = {path: path.stat().st_mtime_ns for path in files}
    image = folder / "phantoms/struct_iso/E5D_phantom_0002.nrrd"
    image.write_bytes(b"changed")
    code, _, err = call(2, *SMALL, "--force", capsys=capsys)
    assert (code, image.read_bytes()) == (2, b"changed")
    assert "E5D_phantom_0002.nrrd' is in the way: we did not write it, or it was changed since" in err
    image.unlink()
    code, out, _ = call(2, *SMALL, capsys=capsys)
    assert code == 0
    assert "1 made, 1 there already" in out
    assert {path: path.read_bytes() for path in files} == before
    untouched = folder / "phantoms/struct_iso/E5D_phantom_0001.nrrd"
    assert untouched.stat().st_mtime_ns == times[untouched]


def test_other_phantoms_of_the_same_names_are_refused_without_force(folder, capsys):
    assert call(1, *SMALL, capsys=capsys)[0] == 0
    code, _, err = call(1, "--shape", "64,64,64", capsys=capsys)
    assert code == 2
    assert "E5D_phantom_0001.json' tells of another phantom" in err
    code, _, err = call(2, *SMALL, capsys=capsys)
    assert code == 2
    assert "phantoms.toml' describes other phantoms; replace it (--force), or write elsewhere (-o DIR)" in err
    code, _, err = call(1, "--shape", "64,64,64", "--force", capsys=capsys)
    assert code == 0, err
    assert read_volume("phantoms/struct_iso/E5D_phantom_0001.nrrd").shape == (64, 64, 64)


def test_a_foreign_image_of_that_name_is_never_replaced(folder, capsys):
    (folder / "phantoms" / "struct_iso").mkdir(parents=True)
    image = folder / "phantoms" / "struct_iso" / "E5D_phantom_0001.nrrd"
    image.write_bytes(b"mine")
    code, _, err = call(1, *SMALL, capsys=capsys)
    assert code == 2
    assert "E5D_phantom_0001.nrrd' is in the way: no record" in err
    assert image.read_bytes() == b"mine"


def test_an_interrupted_set_goes_on_where_it_was(root, tmp_path):
    command = [sys.executable, root / "make_phantoms.py", "40", *SMALL, "-o", tmp_path / "set"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b"lumen" not in process.stdout.readline():  # one is made
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not (tmp_path / "set" / "phantoms.toml").exists()
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if ".tmp." in name]
    command[2] = "2"
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert "there already" in ran.stdout
    assert len(load_split(read_dataset(tmp_path / "set" / "phantoms.toml"))["train"]) == 1


def test_image_over_an_annotation_keeps_its_oblique_grid_and_lumens(folder, capsys):
    grid = annotated(folder / "annotation_082616_99_T1_iso_full.seg.nrrd", segment="Full Mask")
    code, out, err = call("--from-annotation", "annotation_082616_99_T1_iso_full.seg.nrrd", capsys=capsys)
    assert code == 0, err
    assert "'Full Mask'" in out
    (sample,) = load_split(read_dataset("phantoms/phantoms.toml"))["train"]
    assert sample.entry.name == "082616_99_T1"
    np.testing.assert_array_equal(sample.mask, grid.array)
    image = sitk.ReadImage("phantoms/struct_iso/E5D_082616_99_T1.nrrd")
    source = sitk.ReadImage("annotation_082616_99_T1_iso_full.seg.nrrd")
    for point in ((0, 0, 0), (59, 49, 39)):
        there = source.TransformIndexToPhysicalPoint(point)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(point), there, atol=1e-9)
    record = json.loads((folder / "phantoms/struct_iso/E5D_082616_99_T1.json").read_text(encoding="utf-8"))
    assert record["parameters"]["annotation"]["file"] == "annotation_082616_99_T1_iso_full.seg.nrrd"


def test_several_images_of_a_mask_differ_by_seed_and_share_a_split(folder, capsys):
    for name in ("one", "two"):
        annotated(folder / f"{name}.seg.nrrd")
    code, _, err = call(2, "--seed", 7, "--from-annotation", "one.seg.nrrd", "two.seg.nrrd", capsys=capsys)
    assert code == 0, err
    samples = load_split(read_dataset("phantoms/phantoms.toml"))
    names = {split: [sample.entry.name for sample in found] for split, found in samples.items()}
    assert names == {"train": ["one_S7", "one_S8"], "validation": ["two_S7", "two_S8"], "test": []}
    first, second = samples["train"]
    assert (first.image != second.image).mean() > 0.5
    np.testing.assert_array_equal(first.mask, second.mask)


def test_mask_of_unknown_or_uncubic_voxels_is_refused(folder, capsys):
    np.save("plain.npy", np.ones((40, 40, 40), bool))
    code, _, err = call("--from-annotation", "plain.npy", capsys=capsys)
    assert code == 2
    assert "voxel size is not known; say it in µm (--spacing Z,Y,X)" in err
    code, _, err = call("--from-annotation", "plain.npy", "--spacing", "5,2,2", capsys=capsys)
    assert code == 2
    assert "voxels of 5 x 2 x 2 µm (Z, Y, X); the simulator needs cubic ones" in err
    code, _, err = call("--from-annotation", "plain.npy", "--spacing", "5", capsys=capsys)
    assert code == 0, err


def test_varied_phantoms_have_the_same_lumens_and_other_optics(folder, capsys):
    records = {}
    for name, flags in (("plain", ()), ("varied", ("--vary",))):
        assert call(1, *SMALL, *flags, "-o", name, capsys=capsys)[0] == 0
        path = folder / name / "struct_iso" / "E5D_phantom_0001.json"
        records[name] = json.loads(path.read_text(encoding="utf-8"))["parameters"]["optics"]
    plain, varied = (
        load_split(read_dataset(folder / name / "phantoms.toml"))["train"][0] for name in ("plain", "varied")
    )
    np.testing.assert_array_equal(plain.mask, varied.mask)
    assert (plain.image != varied.image).mean() > 0.5
    assert sum(records["plain"][key] != records["varied"][key] for key in records["plain"]) > 10
    code, _, err = call(1, *SMALL, "-o", "plain", "--vary", capsys=capsys)
    assert code == 2
    assert "tells of another phantom" in err


def test_a_beating_heart_is_one_volume_a_time_point_in_one_split(folder, capsys):
    code, _, err = call(2, *SMALL, "--time-points", 3, capsys=capsys)
    assert code == 0, err
    samples = load_split(read_dataset("phantoms/phantoms.toml"))
    names = [f"phantom_0001_T{time:02d}" for time in (1, 2, 3)]
    assert [sample.entry.name for sample in samples["train"]] == names
    assert all(sample.entry.name.startswith("phantom_0002") for sample in samples["validation"])
    rest, contracted, _ = samples["train"]
    np.testing.assert_array_equal(rest.mask, mask_of_seed((64, 64, 66), 1))
    np.testing.assert_array_equal(contracted.mask, mask_of_seed((64, 64, 66), 1, phase=1 / 3))
    assert contracted.mask.sum() < rest.mask.sum()
    assert (rest.image[:, :4] != contracted.image[:, :4]).mean() > 0.5  # each has its own speckle


def test_hdf5_has_images_and_masks_in_two_groups(folder, capsys):
    code, out, err = call(2, *SMALL, "--hdf5", capsys=capsys)
    assert code == 0, err
    assert "phantoms.h5" in out
    with h5py.File("phantoms/phantoms.h5") as file:
        assert set(file) == {"data", "label"}
        image, label = file["data/phantom_0002"], file["label/phantom_0002"]
        np.testing.assert_array_equal(image[...], read_volume("phantoms/struct_iso/E5D_phantom_0002.nrrd").array)
        np.testing.assert_array_equal(label[...], mask_of_seed((64, 64, 66), 2))
        assert (image.dtype, label.dtype) == (np.uint8, np.uint8)
        assert image.attrs["axes"] == "ZYX"
        assert image.attrs["split"] == "validation"
        np.testing.assert_array_equal(image.attrs["spacing_um"], [4.5] * 3)


def test_hdf5_without_h5py_is_told_before_any_work(folder, capsys, monkeypatch):
    monkeypatch.setattr("micronet.io.hdf5.find_spec", lambda name: None)
    code, _, err = call(1, *SMALL, "--hdf5", capsys=capsys)
    assert code == 2
    assert "an HDF5 file (--hdf5) needs the package h5py: pip install h5py" in err
    assert not (folder / "phantoms").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, "--validation", 1, "--test", 1), "of 2 anatomies, 1 for validation and 1 for test leave none to train"),
        ((0,), "argument N: '0': expected a whole number from 1 to 10000"),
        ((1, "--seed", -1), "--seed: '-1': expected a whole number from 0"),
        ((3, "--shape", "64,64,64", "--y-crop", 70), "--y-crop: '70'; a phantom of 64 voxels in depth takes 64 to 64"),
        ((3, "--y-crop", 40), "--y-crop: '40'; a phantom of 260 voxels in depth takes 64 to 260"),
        ((3, "--shape", "64,40,64"), "--shape: '64,40,64'; oct needs at least 64 along each axis"),
        ((3, "--kind", "shapes", "--shape", "64,16"), "--shape: '64,16'; shapes needs at least 32 along each axis"),
        ((3, "--kind", "optic-lobe", "--shape", "64,16,64"), "optic-lobe needs at least 32 along each axis"),
        ((1, "--spacing", "5"), "--segment and --spacing are for --from-annotation"),
        (("--from-annotation", __file__, "--shape", "64,64,64"), "are for procedural phantoms"),
        (("--from-annotation", "a.seg.nrrd"), "a.seg.nrrd"),
    ],
)
def test_bad_input_is_told_in_one_line(folder, capsys, arguments, message):
    code, _, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_splits_are_the_last_anatomies_and_names_must_differ(tmp_path):
    splits = [subject.split for subject in procedural(5, 1, validation=2, test=1)]
    assert splits == ["train", "train", "validation", "validation", "test"]
    assert [subject.split for subject in procedural(3, 1, validation=0, test=0)] == ["train"] * 3
    masks = [tmp_path / "a" / "embryo.nrrd", tmp_path / "b" / "embryo.nii.gz"]
    with pytest.raises(InputError, match="two annotations would both be called 'embryo'"):
        over_annotations(masks, 1, 1)


def test_a_name_with_quotes_survives_the_data_set_file(folder, capsys):
    annotated(folder / 'an "odd" \\name ü.seg.nrrd')
    code, _, err = call("--from-annotation", 'an "odd" \\name ü.seg.nrrd', capsys=capsys)
    assert code == 0, err
    assert load_split(read_dataset("phantoms/phantoms.toml"))["train"][0].entry.name == 'an "odd" \\name ü'


@pytest.mark.slow
def test_the_chain_of_the_document_runs_as_written_but_smaller(root, folder, engine_ready, capsys):
    document = (root / "docs" / "phantoms.md").read_text(encoding="utf-8")
    chain = re.search(r"with its true mask:\n\n```sh\n(.*?)```", document, re.DOTALL)[1]
    for full, small in (
        ("12 --vary", "3 --vary --shape 64,64,64"),
        ('"20;', '"1;'),
        (" 5 4;", " 1 5;"),
        ("phantom_0012", "phantom_0003"),
        ("--y-crop 160", "--y-crop 64"),
    ):
        assert full in chain
        chain = chain.replace(full, small)
    for line in chain.splitlines():
        python, script, *arguments = shlex.split(line)
        assert python == "python"
        code = exit_code(importlib.import_module(script.removesuffix(".py")), *arguments)
        assert code == 0, capsys.readouterr().err
    assert (folder / "predictions" / "E5D_phantom_0003.seg.nrrd").exists()
