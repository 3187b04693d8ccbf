"""Corrections: checked voxels of an edited mask are held by infer.py."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import call, call_for_last_line, exit_code, read_json

from micronet import Volume, read_volume, write_volume
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.io import Segment, Sources, read_segmentation, write_segmentation
from micronet.io.corrections import read_corrections
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.weights import save_state
from micronet.segment.plan import Task, plan_room
from micronet.segment.refine import Refinement, predict_whole
from micronet.segment.settings import Job, Weights
from micronet.segment.slabs import predict_in_slabs

SHAPE = (40, 36, 34)
DIRECTIONS = upright((2.0, 1.0, 1.0))


def volume_of(array) -> Volume:
    return Volume(array, DIRECTIONS, np.zeros(3), "left-posterior-superior", "um")


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 200, SHAPE).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch, image):
    """A folder with a volume, a µr-Net, and an edited mask: a ball is lumen, a slice and a box are checked."""
    monkeypatch.chdir(tmp_path)
    write_volume("embryo.nrrd", volume_of(image))
    torch.manual_seed(4)
    save_state("small.pt", MicroRNet().state_dict())
    write_edited("edited.seg.nrrd")
    return tmp_path


def edited_mask():
    z, y, x = np.ogrid[:40, :36, :34]
    return (z - 20) ** 2 + (y - 18) ** 2 + (x - 16) ** 2 < 100


def checked_voxels():
    checked = np.zeros(SHAPE, bool)
    checked[20], checked[2:6, 30:, 3:9] = True, True
    return checked


def write_edited(path, *more, lumen=None, checked=None, name="checked"):
    segments = [
        (Segment(name="lumen"), edited_mask() if lumen is None else lumen),
        (Segment(name=name), checked_voxels() if checked is None else checked),
        *more,
    ]
    write_segmentation(path, segments, volume_of(np.zeros(SHAPE, np.uint8)))


def kept_labels():
    return np.where(checked_voxels(), np.where(edited_mask(), 1, 2), 0).astype(np.uint8)


def infer(*arguments):
    return exit_code(importlib.import_module("infer"), *arguments)


def test_voxels_inside_checked_are_lumen_or_background_as_edited(folder, image):
    _, labels = read_corrections("edited.seg.nrrd", volume_of(image), "embryo.nrrd")
    assert read_segmentation("edited.seg.nrrd").labels.shape[-1] == 2  # the segments overlap: layers
    np.testing.assert_array_equal(labels.volume.array, kept_labels())
    assert not labels.notes


def test_a_mask_that_was_cropped_comes_back_into_its_place(folder, image):
    part = slice(10, 30), slice(4, 36), slice(2, 32)
    grid = volume_of(np.zeros((20, 32, 30), np.uint8))
    grid = replace(grid, origin=np.array([10.0, 4.0, 2.0]) @ DIRECTIONS)
    segments = [(Segment(name="lumen"), edited_mask()[part]), (Segment(name="checked"), checked_voxels()[part])]
    write_segmentation("part.seg.nrrd", segments, grid)
    _, labels = read_corrections("part.seg.nrrd", volume_of(image), "embryo.nrrd")
    np.testing.assert_array_equal(labels.volume.array[part], kept_labels()[part])
    assert np.count_nonzero(labels.volume.array) == np.count_nonzero(kept_labels()[part])


def test_lumen_that_was_erased_under_the_checked_segment_is_told(folder, image):
    write_edited("edited.seg.nrrd", lumen=edited_mask() & ~checked_voxels())
    _, labels = read_corrections("edited.seg.nrrd", volume_of(image), "embryo.nrrd")
    assert "painting 'checked' erases 'lumen' under it" in labels.notes[0]


@pytest.mark.parametrize("network", [MicroNet, MicroRNet])
@pytest.mark.parametrize("depth", [None, 33])
def test_kept_voxels_are_held_whole_and_in_slabs_alike(image, tmp_path, network, depth):
    torch.manual_seed(4)
    model, keep, seen = network().eval(), kept_labels(), []
    how = Refinement(3, keep=keep, y_crop=depth, on_probability=lambda now: seen.append(np.array(now)))
    whole = predict_whole(image, model, how)
    assert (whole[keep == 1] == 1).all()
    assert (whole[keep == 2] == 0).all()
    with predict_in_slabs(image, model, tmp_path, 8, replace(how, on_probability=None)) as slabs:
        np.testing.assert_array_equal(np.stack(list(slabs)), whole)
    for now in seen:
        held = keep[:, : now.shape[1]]
        assert (now[held == 1] == 1).all()
        assert (now[held == 2] == 0).all()


def test_the_network_sees_kept_voxels_in_every_pass(image):
    torch.manual_seed(4)
    model, keep = MicroRNet().eval(), kept_labels()
    held = np.zeros(SHAPE, np.float32)
    for _ in range(2):
        held[keep == 1], held[keep == 2] = 1, 0
        held = predict_whole(image, model, Refinement(1, initial_mask=held))
    held[keep == 1], held[keep == 2] = 1, 0
    np.testing.assert_array_equal(predict_whole(image, model, Refinement(2, keep=keep)), held)
    free = predict_whole(image, model, Refinement(2))
    assert (free != held)[keep == 0].any()  # around them it makes a difference


def test_what_is_written_holds_them(folder, capsys):
    assert infer("embryo.nrrd", "--model", "small.pt", "--keep", "edited.seg.nrrd", "-o", "kept") == 0
    keep, mask = kept_labels(), read_segmentation("kept/embryo.seg.nrrd").labels[..., 0] > 0
    probability = read_volume("kept/embryo_probability.nrrd").array
    for value, level in ((1, 255), (2, 0)):
        assert (probability[keep == value] == level).all()
        assert (mask[keep == value] == (value == 1)).all()
    record = read_json("kept/embryo.json")
    assert record["parameters"]["keep"] == "edited.seg.nrrd"
    assert record["masks"]["keep"]["sha256"]
    # Others than those are other settings.
    write_edited("edited.seg.nrrd", checked=edited_mask())
    options = ("embryo.nrrd", "--model", "small.pt", "--keep", "edited.seg.nrrd", "-o", "kept")
    code, out, err = call(importlib.import_module("infer"), *options, capsys=capsys)
    assert code == 2
    assert "another keep, edited.seg.nrrd there, edited.seg.nrrd asked" in out + err


@pytest.mark.parametrize("more", [("--resample", "1.5"), ("--clean", "largest"), ("--clean", "holes,100000")])
def test_other_voxels_and_cleaning_leave_what_is_kept(folder, more):
    options = ("--model", "small.pt", "-o", "kept", "--iterations", "2", "--keep", "edited.seg.nrrd", *more)
    assert infer("embryo.nrrd", *options) == 0
    mask, kept = read_segmentation("kept/embryo.seg.nrrd").labels[..., 0] > 0, kept_labels()
    assert mask[kept == 1].all()
    assert not mask[kept == 2].any()
    probability = read_volume("kept/embryo_probability.nrrd").array
    assert (probability[kept == 1] == 255).all()
    assert (probability[kept == 2] == 0).all()


def test_what_is_kept_counts_in_the_memory(folder):
    weights = Weights.load(Path("small.pt"))

    def needed(**settings):
        with Sources() as sources:
            return plan_room(Task(Path("embryo.nrrd"), weights, Job(**settings), sources)).needed

    least, most = np.prod(SHAPE), 4 * np.prod(SHAPE)
    assert least <= needed(keep=Path("edited.seg.nrrd")) - needed() <= most


def test_a_result_without_kept_voxels_has_the_parameters_that_it_always_had(folder):
    assert infer("embryo.nrrd", "--model", "small.pt") == 0
    assert not {"keep", "checked"} & set(read_json("predictions/embryo.json")["parameters"])


def test_of_a_recording_the_time_point_of_that_name_holds_them(folder, image, capsys):
    for number in range(2):
        write_volume(f"beat_t{number}.nrrd", volume_of(image))
    write_edited("beat_t1.seg.nrrd")
    script, inputs = importlib.import_module("infer"), ["beat_t0.nrrd", "beat_t1.nrrd", "--time-lapse"]
    assert infer(*inputs, "--model", "small.pt", "--iterations", 2, "--keep", "beat_t1.seg.nrrd") == 0
    keep = kept_labels()
    first, second = (read_volume(f"predictions/beat_t{number}_probability.nrrd").array for number in range(2))
    assert (second[keep == 1] == 255).all()
    assert (first[keep == 1] != 255).any()
    capsys.readouterr()
    code, _, err = call_for_last_line(
        script, *inputs, "--model", "small.pt", "--keep", "edited.seg.nrrd", "-o", "other", capsys=capsys
    )
    assert code == 2
    assert "there is none 'edited'; they are beat_t0 to beat_t1" in err


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"name": "seen"}, (), "none is 'checked', a name or an index (--checked): 0 'lumen' (4,"),
        (
            {"name": "seen"},
            ("--checked", "seen", "--segment", "seen"),
            "'seen' cannot be the lumen and what was checked",
        ),
        ({"checked": np.zeros(SHAPE, bool)}, (), "no voxel is in segment 'checked'; mark those that you have checked"),
        ({"more": "duct"}, (), "which segment is the edited lumen, 'lumen', 'duct'? name it (--segment)"),
        ({"more": "duct"}, ("--segment", "vein"), "none is 'vein', a name or an index (--segment)"),
        ({"plain": True}, (), "holds no segments, so none says which voxels were checked (--checked)"),
        ({}, ("--checked", "checked", "--keep", ""), "is empty"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(folder, capsys, change, options, said):
    more = [(Segment(name=change["more"]), edited_mask())] if "more" in change else []
    write_edited("edited.seg.nrrd", *more, **{key: change[key] for key in ("name", "checked") if key in change})
    if "plain" in change:
        write_volume("plain.nrrd", volume_of(kept_labels()))
    keep = "plain.nrrd" if "plain" in change else "edited.seg.nrrd"
    code, _, err = call_for_last_line(
        importlib.import_module("infer"),
        *("embryo.nrrd", "--model", "small.pt", "--keep", keep, *options),
        capsys=capsys,
    )
    assert code == 2
    assert said in err
    assert not (folder / "predictions" / "embryo.json").exists()


def test_a_segment_of_nothing_is_refused(folder, capsys):
    code, _, err = call(importlib.import_module("infer"), "embryo.nrrd", "--checked", "seen", capsys=capsys)
    assert code == 2
    assert "a segment was named of no mask to keep (--checked, --keep)" in err


def test_voxels_of_another_shape_are_refused(image):
    with pytest.raises(InputError, match=r"voxels to keep have shape \(1, 2, 3\), the volume \(40, 36, 34\)"):
        predict_whole(image, MicroNet(), Refinement(keep=np.zeros((1, 2, 3), np.uint8)))
