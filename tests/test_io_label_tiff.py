"""Label TIFFs: what tifffile reads of ImageJ's metadata, and our own reader."""

import numpy as np
import pytest
import tifffile

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume
from micronet.io import open_recording, read_annotation, read_volume, write_label_tiff

# Oblique, anisotropic: what TIFF cannot hold.
OBLIQUE = np.array([[0.0, 3.0, 4.0], [0.0, -4.5, 0.0], [2.5, 0.0, 0.0]])


@pytest.fixture
def volume():
    return Volume(np.zeros((3, 4, 5), np.uint8), OBLIQUE, np.array([1.0, 2.0, 3.0]), "left-posterior-superior", "um")


def test_labels_carry_spacing_unit_axes_and_what_is_white(tmp_path, volume, rng):
    mask = rng.random(volume.shape) > 0.5
    path = write_label_tiff(tmp_path / "a.tif", [mask], volume)
    with tifffile.TiffFile(path) as tif:
        metadata = tif.imagej_metadata
        assert tif.is_imagej
        assert tif.series[0].axes == "ZYX"
        assert (metadata["spacing"], metadata["unit"], metadata["slices"]) == (5.0, "micron", 3)
        assert (metadata["min"], metadata["max"]) == (0.0, 1.0)  # the lumen is white when it opens
        tags = tif.pages.first.tags
        assert [tags[name].value for name in ("XResolution", "YResolution")] == [(2, 5), (2, 9)]
        np.testing.assert_array_equal(tif.asarray(), mask.astype(np.uint8))
    found = read_volume(path)
    assert found.spacing_um == (5.0, 4.5, 2.5)
    np.testing.assert_array_equal(read_annotation(path).mask.array, mask)


def test_labels_of_several_time_points_are_a_hyperstack(tmp_path, volume, rng):
    masks = rng.random((4, *volume.shape)) > 0.5
    path = write_label_tiff(tmp_path / "a.tif", iter(masks), volume, count=4, interval_s=0.125)
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == "TZYX"
        assert (tif.imagej_metadata["frames"], tif.imagej_metadata["slices"]) == (4, 3)
        assert tif.imagej_metadata["finterval"] == 0.125
    with open_recording(path) as recording:
        assert recording.interval_s == 0.125
        assert recording.grid.spacing_um == (5.0, 4.5, 2.5)
        for number in range(4):
            np.testing.assert_array_equal(recording.read(number).array, masks[number])


def test_unknown_spacing_is_not_stated(tmp_path):
    mask = np.ones((3, 4, 5), bool)
    found = read_volume(write_label_tiff(tmp_path / "a.tif", [mask], Volume(mask)))
    assert found.spacing_um is None


@pytest.mark.parametrize(("given", "message"), [(1, "expected 2 masks, found 1"), (3, "expected 2 masks, found more")])
def test_wrong_number_of_masks_leaves_no_file(tmp_path, volume, given, message):
    with pytest.raises(InputError, match=message):
        write_label_tiff(tmp_path / "a.tif", [np.zeros(volume.shape, bool)] * given, volume, count=2)
    assert not list(tmp_path.iterdir())


def test_mask_of_another_shape_is_refused(tmp_path, volume):
    with pytest.raises(InputError, match=r"labels of shape \(3, 4, 6\), bool, do not fit the grid \(3, 4, 5\)"):
        write_label_tiff(tmp_path / "a.tif", [np.zeros((3, 4, 6), bool)], volume)


def test_many_labels_take_two_bytes_and_none_is_wrapped(tmp_path, volume):
    labels = np.arange(60).reshape(volume.shape) * 1000
    path = write_label_tiff(tmp_path / "a.tif", [labels], volume, largest=59000)
    np.testing.assert_array_equal(read_volume(path).array, labels)
    with pytest.raises(InputError, match="labels from 0 to 59000 are not from 0 to 1"):
        write_label_tiff(tmp_path / "b.tif", [labels], volume)


def test_more_than_imagej_opens_is_refused_before_anything_is_made(tmp_path):
    grid = Volume(np.broadcast_to(np.uint8(0), (2000, 2000, 1100)))
    with pytest.raises(FileError, match="ImageJ opens no TIFF above 4 GB"):
        write_label_tiff(tmp_path / "a.tif", iter(()), grid)
