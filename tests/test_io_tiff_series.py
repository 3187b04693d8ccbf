"""TIFFs that hold a stack in pieces, as tifffile, imageio and Pillow write them slice by slice."""

import imageio.v2 as imageio
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from micronet.core.errors import FileError
from micronet.io import open_stack, read_volume

SIDE = (8, 10)


@pytest.fixture
def array(rng):
    return rng.integers(0, 65535, (9, *SIDE), np.uint16)


def written(path, *pieces, **options):
    """Write each piece by a call of its own; a piece is an array, or an array with further options."""
    with tifffile.TiffWriter(path) as writer:
        for piece in pieces:
            data, more = piece if isinstance(piece, tuple) else (piece, {})
            writer.write(data, photometric="minisblack", **options, **more)
    return path


def _slices(path, array):
    return written(path, *array)


def _no_metadata(path, array):
    return written(path, *array, metadata=None)


def _chunks(path, array):
    return written(path, array[:4], array[4:])


def _chunks_and_a_slice(path, array):
    return written(path, array[:4], array[4:8], array[8])


def _stated_chunks(path, array):
    return written(path, array[:4], array[4:], metadata={"axes": "ZYX"})


def _packed_chunks(path, array):
    return written(path, array[:4], (array[4:], {"compression": "zlib"}))


def _packed_first(path, array):
    return written(path, (array[:4], {"compression": "zlib"}), array[4:])


def _every_other_packed(path, array):
    return written(
        path, *((one, {"compression": "zlib" if n % 2 else None}) for n, one in enumerate(array)), metadata=None
    )


def _appended(path, array):
    for part in (array[:4], array[4:]):
        tifffile.imwrite(path, part, append=True, photometric="minisblack")
    return path


def _appended_by_imageio(path, array):
    with imageio.get_writer(path, format="TIFF") as writer:
        for one in array:
            writer.append_data(one)
    return path


WRITERS = [
    _slices,
    _no_metadata,
    _chunks,
    _chunks_and_a_slice,
    _stated_chunks,
    _packed_chunks,
    _packed_first,
    _every_other_packed,
    _appended,
    _appended_by_imageio,
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_stack_in_pieces_is_read_whole_and_plane_by_plane(tmp_path, array, write):
    path = write(tmp_path / "a.tif", array)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), array)  # as another program reads it
    volume = read_volume(path)
    assert volume.array.dtype == np.uint16
    assert np.array_equal(volume.array, array)
    with open_stack(path) as stack:
        assert (stack.shape, stack.axes) == ((9, *SIDE), "ZYX")
        assert np.array_equal(stack.read(3, 7), array[3:7])
        assert np.array_equal(stack.read(0, 9), array)


def test_pieces_are_told(tmp_path, array):
    notes = read_volume(_chunks(tmp_path / "a.tif", array)).notes
    told = "the stack lies in 2 pieces in the file, read one after the other: (4, 8, 10) (QYX) of 16 bits, (5, 8, 10)"
    assert any(note.startswith(told) for note in notes)
    assert any("slices along Z are taken, unless said otherwise (setting: axes)" in note for note in notes)
    assert len(read_volume(_slices(tmp_path / "b.tif", array)).notes) == 2  # slices, and no spacing


def test_other_axes_can_be_named_for_pieces(tmp_path, array):
    path = _chunks(tmp_path / "a.tif", array)
    assert np.array_equal(read_volume(path, axes="YXZ").array, array.transpose(2, 0, 1))


def test_many_pages_of_which_some_are_packed_otherwise(tmp_path, rng):
    """tifffile looks at the second, eighth and last page and takes the others to be like the first."""
    array = rng.integers(0, 255, (20, *SIDE), np.uint8)
    pieces = [(one, {"compression": "zlib" if n in (4, 5) else None}) for n, one in enumerate(array)]
    assert np.array_equal(read_volume(written(tmp_path / "a.tif", *pieces, metadata=None)).array, array)


@pytest.mark.parametrize(("axis", "what"), [("T", "time points"), ("C", "channels")])
def test_pieces_that_are_stated_to_be_no_slices(tmp_path, array, axis, what):
    path = written(tmp_path / "a.tif", array[:4], array[4:], metadata={"axes": f"{axis}YX"})
    with pytest.raises(FileError, match=f"states that its 9 pages are {what}, not slices along Z"):
        read_volume(path)


@pytest.mark.parametrize("read", [read_volume, open_stack])
def test_several_images_are_refused_by_what_they_are(tmp_path, array, read):
    two = np.stack([array, array])
    wrong = {
        "hyper.tif": ([two, two], "holds 2 series of pages, and nothing says how they belong together: 2 x"),
        "types.tif": ([array, array.astype(np.uint8)], r"different images: \(9, 8, 10\) \(QYX\) of 16 bits, .* 8 bits"),
        "turned.tif": ([array, array.transpose(0, 2, 1)], r"different images: .* \(9, 10, 8\)"),
        "larger.tif": ([array[:, :5], array], r"different images: \(9, 5, 10\) .*, \(9, 8, 10\)"),
        "mixed.tif": (
            [(array[:4], {"metadata": {"axes": "ZYX"}}), (array[4:], {"metadata": {"axes": "TYX"}})],
            "nothing says how they belong together",
        ),
    }
    for name, (pieces, message) in wrong.items():
        with pytest.raises(FileError, match=rf"{name}' .*{message}.*; save "):
            read(written(tmp_path / name, *pieces))


def test_thumbnails_and_levels_of_a_pyramid_are_told(tmp_path, array):
    level = (array[:, ::2, ::2], {"subfiletype": 1})
    axes = {"metadata": {"axes": "ZYX"}}
    files = [
        written(tmp_path / "below.tif", (array, {"subifds": 1, **axes}), level),
        written(tmp_path / "after.tif", (array, axes), level),
        written(tmp_path / "before.tif", level, (array, axes)),
        written(tmp_path / "plain.tif", (array, axes), array[:, ::2, ::2]),
    ]
    for path in files:
        volume = read_volume(path)
        assert np.array_equal(volume.array, array), path
        [note] = [note for note in volume.notes if "thumbnails or levels of a pyramid" in note]
        assert "are not read: (9, 4, 5)" in note


def test_more_pages_than_imagej_names_are_no_part_read_in_silence(tmp_path, array):
    text = "ImageJ=1.53c\nimages=4\nslices=4\n"
    path = written(tmp_path / "a.tif", array, description=text, metadata=None)
    with pytest.raises(FileError, match=r"a.tif': its ImageJ description names 4 pages, the file holds 9"):
        read_volume(path)


def test_pages_of_imagej_that_are_packed_in_different_ways(tmp_path, array):
    text = "ImageJ=1.53c\nimages=9\nslices=9\n"
    pieces = [(one, {"compression": "zlib" if n == 4 else None}) for n, one in enumerate(array)]
    path = written(tmp_path / "a.tif", *pieces, description=text, metadata=None)
    with pytest.raises(FileError, match=r"a.tif': its pages are stored in different ways, .* save it again in Fiji"):
        read_volume(path)


def test_slices_that_imagej_describes_one_by_one(tmp_path, array):
    text = "ImageJ=1.53c\nimages=1\n"
    path = written(tmp_path / "a.tif", *array, description=text, metadata=None)
    assert np.array_equal(read_volume(path).array, array)


def test_the_public_reports(shared):
    faults = shared / "faults"
    for name, count in (("page_by_page", 40), ("two_chunks", 74)):
        path = faults / "04-tiff-many-series" / f"{name}.tif"
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert expected.shape == (count, 36, 40)
        assert np.array_equal(read_volume(path).array, expected)
