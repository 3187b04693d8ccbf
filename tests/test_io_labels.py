"""Labels that a person has painted: 3D Slicer's segments, napari's and Fiji's values, and everything that is wrong."""

import nrrd as pynrrd
import numpy as np
import pytest

from micronet import Volume, read_annotation, write_volume
from micronet.core.errors import InputError
from micronet.core.volume import upright
from micronet.io import Segment, read_labels, write_segmentation
from micronet.io.labels import read_class_labels
from micronet.io.seg_nrrd import POINTER, is_pointer_file
from micronet.io.seg_nrrd_write import write_label_planes

SHAPE = (6, 20, 24)


@pytest.fixture
def image() -> Volume:
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return Volume(array, upright((3, 1, 2)), np.array([10.0, 20, 30]), "left-posterior-superior", "um")


def box(*where):
    mask = np.zeros(SHAPE, bool)
    mask[where] = True
    return mask


LUMEN, BACKGROUND = box(2, slice(2, 8), slice(3, 9)), box(2, slice(10, 18), slice(3, 9))


def segments(path, image, *named):
    write_segmentation(path, [(Segment(name), mask) for name, mask in named], image)
    return path


def test_segments_called_lumen_and_background_are_found_whatever_their_order_and_case(tmp_path, image):
    path = segments(tmp_path / "a.seg.nrrd", image, ("Background", BACKGROUND), ("Vessels", LUMEN))
    _, labels = read_labels(path, image, "image")
    np.testing.assert_array_equal(labels.volume.array, LUMEN + 2 * BACKGROUND)
    assert labels.description == (
        "36 voxels lumen, 48 background of 'a.seg.nrrd', lumen 'Vessels', background 'Background'"
    )


def test_named_segments_are_taken_and_others_left_out_with_a_note(tmp_path, image):
    path = segments(tmp_path / "a.seg.nrrd", image, ("A", LUMEN), ("B", BACKGROUND), ("C", box(4)))
    _, labels = read_labels(path, image, "image", lumen="A", background="1")
    np.testing.assert_array_equal(labels.volume.array, LUMEN + 2 * BACKGROUND)
    assert labels.notes == ("segment 'C' is left out",)


def test_an_empty_third_segment_is_nothing_to_ask_about(tmp_path, image):
    path = segments(
        tmp_path / "a.seg.nrrd", image, ("lumen", LUMEN), ("background", BACKGROUND), ("Segment_3", box(slice(0)))
    )
    assert read_labels(path, image, "image")[1].notes == ()


@pytest.mark.parametrize("suffix", [".nrrd", ".tif", ".npy", ".nii"])
def test_values_of_napari_and_fiji_are_taken_in_every_format(tmp_path, image, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":  # which holds no origin
        image = Volume(image.array, image.directions, units="um")
    write_volume(path, image.with_array((LUMEN + 2 * BACKGROUND).astype(np.uint8)))
    _, labels = read_labels(path, image, "image", axes="ZYX")
    np.testing.assert_array_equal(labels.volume.array, LUMEN + 2 * BACKGROUND)


def test_segments_that_slicer_has_cropped_are_put_into_their_place(tmp_path, image):
    whole = segments(tmp_path / "whole.seg.nrrd", image, ("lumen", LUMEN), ("background", BACKGROUND))
    array, header = pynrrd.read(str(whole))  # (X, Y, Z)
    cut = (slice(2, 11), slice(1, 19), slice(2, 3))
    offset = np.array([part.start for part in cut])
    header["space origin"] = header["space origin"] + offset @ np.asarray(header["space directions"])
    header["Segmentation_ReferenceImageExtentOffset"] = " ".join(map(str, offset))
    pynrrd.write(str(tmp_path / "cut.seg.nrrd"), array[cut], {k: v for k, v in header.items() if k != "sizes"})
    _, labels = read_labels(tmp_path / "cut.seg.nrrd", image, "image")
    np.testing.assert_array_equal(labels.volume.array, LUMEN + 2 * BACKGROUND)


@pytest.mark.parametrize(
    ("named", "how", "why"),
    [
        ([("lumen", LUMEN)], {}, "no voxel is annotated as background; paint .* in a segment called 'background'"),
        ([("background", BACKGROUND)], {}, "no voxel is annotated as lumen; paint .* in a segment called 'lumen'"),
        (
            [("lumen", LUMEN), ("background", BACKGROUND), ("Segment_3", box(4))],
            {},
            "what is segment 'Segment_3', lumen or background.*name both to leave others out",
        ),
        ([("lumen", LUMEN), ("background", LUMEN)], {}, "36 voxels are lumen and background at once"),
        (
            [("vessel", LUMEN), ("vessels", box(4)), ("background", BACKGROUND)],
            {},
            "several segments could be the lumen",
        ),
        (
            [("a", LUMEN), ("background", BACKGROUND)],
            {"lumen": "b"},
            r"none is 'b', a name or an index \(setting: lumen",
        ),
        ([("lumen", box(2, 3, 3)), ("background", BACKGROUND)], {}, "only 1 voxel is annotated as lumen, at least 10"),
        ([("lumen", LUMEN), ("background", ~LUMEN)], {}, "every voxel is annotated, nothing is left to find"),
    ],
)
def test_segments_that_teach_nothing_are_refused_with_what_to_paint(tmp_path, image, named, how, why):
    path = segments(tmp_path / "a.seg.nrrd", image, *named)
    with pytest.raises(InputError, match=why):
        read_labels(path, image, "image", **how)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (LUMEN * 1 + BACKGROUND * 3, r"holds the value 3 \(48 voxels\), which is no label: 0 not annotated, 1 lumen"),
        (LUMEN * 1.0 + BACKGROUND * 1.5, r"holds the value 1.5 \(48 voxels\)"),
        (LUMEN * 1, "no voxel is annotated as background; paint .* with the value 2"),
        (LUMEN * 0, "no voxel is annotated as lumen; paint .* with the value 1"),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path, image, array, why):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=why):
        read_labels(tmp_path / "a.npy", image, "image", axes="ZYX")


def test_labels_on_another_grid_are_refused(tmp_path, image):
    write_volume(tmp_path / "a.nrrd", Volume(np.ones((5, 20, 24), np.uint8), image.directions, units="um"))
    with pytest.raises(InputError, match=r"a.nrrd': shape \(Z, Y, X\) \(5, 20, 24\) differs from 'image'"):
        read_labels(tmp_path / "a.nrrd", image, "image")


def test_a_file_of_places_to_look_at_is_no_mask_and_no_labels(tmp_path, image):
    path = tmp_path / "renamed.seg.nrrd"
    write_label_planes(path, [Segment("lumen", tags=dict(POINTER))], iter(LUMEN.astype(np.uint8)), image)
    assert is_pointer_file(path)
    for read in (read_annotation, lambda path: read_labels(path, image, "image")):
        with pytest.raises(InputError, match=r"renamed.seg.nrrd' is no mask: its segments mark places"):
            read(path)
    plain = segments(tmp_path / "plain.seg.nrrd", image, ("lumen", LUMEN))
    assert not is_pointer_file(plain)
    assert not is_pointer_file(tmp_path / "gone.seg.nrrd")


def test_a_class_that_is_called_as_background_may_be_is_a_class(tmp_path, image):
    """Before, one segment was said to be two classes."""
    painted = (("lumen", LUMEN), ("Tissue", BACKGROUND), ("outside", box(4, slice(0, 4), slice(0, 4))))
    told = (image, "image", ("lumen", "tissue"))
    _, labels = read_class_labels(segments(tmp_path / "a.seg.nrrd", image, *painted), *told)
    np.testing.assert_array_equal(labels.volume.array, LUMEN + 2 * BACKGROUND + 3 * painted[2][1])
    with pytest.raises(InputError, match="no voxel is annotated as background; paint strokes"):
        read_class_labels(segments(tmp_path / "b.seg.nrrd", image, *painted[:2]), *told)
