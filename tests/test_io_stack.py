"""Volumes read plane by plane hold what `read_volume` reads, and what is wrong with them is found."""

import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import Segment, open_stack, read_segmentation, read_volume, write_mask_planes, write_volume
from micronet.io.nrrd_geometry import geometry_fields
from micronet.io.nrrd_write import write_array
from micronet.io.scratch import Scratch

SPACE = "left-posterior-superior"
DIRECTIONS = np.array([[0.5, 0.25, 6.0], [0.0, -4.5, 0.5], [3.0, 0.0, -0.25]])


@pytest.fixture
def array(rng):
    return rng.integers(0, 65535, (7, 4, 5), np.uint16)


def _nrrd(path, array, encoding):
    volume = Volume(array, DIRECTIONS, [1, 2, 3], SPACE, "um")
    write_array(path, array, geometry_fields(volume), {}, encoding)


def _files(folder, array):
    """Write the same voxels in every way that a stack may lie on disk; yield path and options."""
    for encoding in ("raw", "gzip", "bzip2"):
        for suffix in (".nrrd", ".nhdr"):
            _nrrd(folder / f"{encoding}{suffix}", array, encoding)
            yield folder / f"{encoding}{suffix}", {}
    write_volume(folder / "imagej.tif", Volume(array, upright((4, 2, 1)), units="um"))
    yield folder / "imagej.tif", {}
    write_volume(folder / "ome.ome.tif", Volume(array, upright((4, 2, 1)), units="um"))
    yield folder / "ome.ome.tif", {}
    tifffile.imwrite(folder / "one_page.tif", array, imagej=True, truncate=True, metadata={"axes": "ZYX"})
    yield folder / "one_page.tif", {}
    tifffile.imwrite(folder / "big.tif", array, bigtiff=True, byteorder=">", photometric="minisblack")
    yield folder / "big.tif", {}
    tifffile.imwrite(folder / "packed.tif", array, compression="zlib", photometric="minisblack")
    yield folder / "packed.tif", {}
    yield folder / "packed.tif", {"axes": "XZY"}
    array.astype("<u2").tofile(folder / "a.raw")
    for axes in ("ZYX", "YZX", "XYZ"):
        yield folder / "a.raw", {"axes": axes, "shape": array.shape, "dtype": "uint16", "spacing_um": (3, 2, 1)}
    yield folder / "a.raw", {"shape": array.shape, "dtype": "uint16", "byteorder": "big"}
    np.save(folder / "c.npy", array)
    np.save(folder / "f.npy", np.asfortranarray(array.astype(">f4")))
    for axes in (None, "YXZ"):
        yield folder / "c.npy", {"axes": axes}
        yield folder / "f.npy", {"axes": axes}
    np.save(folder / "t.npy", array[:, None])
    yield folder / "t.npy", {"axes": "ZTYX"}
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1, 2, 3, 1])), folder / "a.nii.gz")
    yield folder / "a.nii.gz", {}


def test_every_format_gives_the_voxels_and_the_geometry_of_read_volume(tmp_path, array):
    for path, options in _files(tmp_path, array):
        whole = read_volume(path, **options)
        with open_stack(path, **options) as stack:
            assert stack.grid.shape == whole.shape
            assert stack.grid.array.dtype == whole.array.dtype
            assert not any(stack.grid.array.strides) or path.name == "a.nii.gz"  # takes no memory
            for name in ("directions", "origin", "space", "units"):
                assert np.array_equal(getattr(stack.grid, name), getattr(whole, name)), (path, name)
            assert set(stack.grid.notes) == set(whole.notes)
            order = [stack.axes.index(letter) for letter in "ZYX"]
            planes = np.concatenate([stack.read(n, min(n + 2, stack.shape[0])) for n in range(0, stack.shape[0], 2)])
            assert planes.shape == stack.shape
            assert np.array_equal(planes.transpose(order), whole.array), (path, options)
            # A plane that was passed, then one far ahead, then the last.
            for number in (1, 0, stack.shape[0] - 1):
                assert np.array_equal(stack.read(number, number + 1)[0], planes[number]), (path, options)


def test_what_a_header_claims_is_checked_before_memory_is_taken(tmp_path, array):
    _nrrd(tmp_path / "a.nrrd", array, "raw")
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content[:-1])
    with pytest.raises(FileError, match="claims 280 bytes of voxels, the file holds 279"):
        open_stack(tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"sizes: 5 4 7", b"sizes: 50000 40000 7"))
    with pytest.raises(FileError, match="claims 28,000,000,000 bytes"):
        open_stack(tmp_path / "a.nrrd")
    array.tofile(tmp_path / "a.raw")
    with pytest.raises(FileError, match="holds 280 bytes, but the shape"):
        open_stack(tmp_path / "a.raw", shape=(7, 4, 6), dtype="uint16")
    with pytest.raises(InputError, match=r"\(settings: shape, dtype\)"):
        open_stack(tmp_path / "a.raw")
    with pytest.raises(FileError, match=r"is not a \.npy file"):
        open_stack(shutil.copy(tmp_path / "a.raw", tmp_path / "a.npy"))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-40])
    with pytest.raises(FileError, match=r"a\.tif' is cut short"):
        open_stack(tmp_path / "a.tif")
    with pytest.raises(FileError, match="does not exist"):
        open_stack(tmp_path / "b.tif")


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_packed_voxels_that_are_too_few_too_many_or_damaged_are_found_when_read(tmp_path, array, encoding):
    path = tmp_path / "a.nrrd"
    _nrrd(path, array, encoding)
    content = path.read_bytes()
    for changed, message in (
        (content.replace(b"sizes: 5 4 7", b"sizes: 5 4 8"), "fewer voxels than its header claims"),
        (content.replace(b"sizes: 5 4 7", b"sizes: 5 4 6"), "more voxels than its header claims"),
        (content.replace(b"sizes: 5 4 7", b"sizes: 50000 40000 7"), "fewer voxels than its header claims"),
        (content[:-30], "damaged or cut short"),
    ):
        path.write_bytes(changed)
        with open_stack(path) as stack, pytest.raises(FileError, match=message):
            stack.read(0, stack.shape[0])


class TestBscans:
    def _write(self, folder, array, suffix=".tif", names="b{}"):
        folder.mkdir()
        for number, plane in enumerate(array):
            path = folder / (names.format(number + 8) + suffix)
            if suffix == ".png":
                Image.fromarray(plane).save(path)
            else:
                tifffile.imwrite(path, plane, photometric="minisblack")
        return folder

    @pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".png"])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_files_are_slices_in_the_order_of_their_numbers(self, tmp_path, array, suffix, dtype):
        array = array.astype(dtype)
        folder = self._write(tmp_path / "scan", array, suffix)
        (folder / "notes.txt").write_text("no image")
        (folder / ".b9.tif").write_text("hidden")
        with open_stack(folder, spacing_um=(3, 2, 1)) as stack:
            assert [file.name for file in stack.files] == [f"b{n}{suffix}" for n in range(8, 15)]
            assert np.array_equal(stack.read(0, 7), array)
            assert np.array_equal(stack.read(5, 6)[0], array[5])
            assert stack.grid.spacing_um == (3, 2, 1)
            assert stack.grid.array.dtype == dtype
            assert stack.grid.notes[0].startswith(f"7 B-scans, 'b8{suffix}' to 'b14{suffix}'")
        with open_stack(folder, axes="YZX") as stack:
            assert (stack.axes, stack.grid.shape) == ("YZX", (4, 7, 5))

    def test_a_gap_in_the_numbers_is_told(self, tmp_path, array):
        folder = self._write(tmp_path / "scan", array)
        (folder / "b11.tif").unlink()
        with open_stack(folder) as stack:
            assert any("jumps from 'b10.tif' to 'b12.tif'" in note for note in stack.grid.notes)

    def test_numbers_that_go_up_by_ten_are_no_gap(self, tmp_path, array):
        folder = self._write(tmp_path / "scan", array, names="b{}0")
        with open_stack(folder) as stack:
            assert not any("jumps" in note for note in stack.grid.notes)

    def test_what_is_no_folder_of_alike_images_is_refused(self, tmp_path, array):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileError, match="is a folder without B-scans"):
            open_stack(tmp_path / "empty")
        folder = self._write(tmp_path / "scan", array)
        Image.fromarray(array[0]).save(folder / "b99.png")
        with pytest.raises(FileError, match=r"several formats \(\.png, \.tif\)"):
            open_stack(folder)
        (folder / "b99.png").unlink()
        for wrong, message in (
            (array[0][:3], r"b10.tif' holds 3 x 5 pixels of uint16, 'b8.tif' 4 x 5 of uint16"),
            (array[0].astype(np.uint8), r"b10.tif' holds 4 x 5 pixels of uint8"),
            (array[:2], r"b10.tif' is no single grey image"),
        ):
            tifffile.imwrite(folder / "b10.tif", wrong, photometric="minisblack")
            with open_stack(folder) as stack, pytest.raises(FileError, match=message):
                stack.read(0, 7)
        colour = self._write(tmp_path / "colour", array.astype(np.uint8), ".png")
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(colour / "b10.png")
        with open_stack(colour) as stack, pytest.raises(FileError, match=r"b10.png' is a colour image \(RGB\)"):
            stack.read(0, 7)
        (colour / "b10.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
        with open_stack(colour) as stack, pytest.raises(FileError, match=r"b10.png' is damaged or no PNG"):
            stack.read(0, 7)


def test_a_mask_written_plane_by_plane_opens_as_a_segmentation(tmp_path, rng):
    mask = rng.random((7, 4, 5)) < 0.3
    grid = Volume(np.broadcast_to(np.uint8(0), mask.shape), DIRECTIONS, [1, 2, 3], SPACE, "um")
    path = write_mask_planes(tmp_path / "a.seg.nrrd", Segment("lumen"), iter(mask), grid)
    found = read_segmentation(path)
    volume = found.mask(found.choose())
    assert np.array_equal(volume.array, mask)
    assert np.array_equal(volume.directions, DIRECTIONS)
    assert found.segments[0].extent == (0, 4, 0, 3, 0, 6)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), mask)
    with pytest.raises(FileError, match=r"ends with \.seg\.nrrd"):
        write_mask_planes(tmp_path / "a.nrrd", Segment("lumen"), iter(mask), grid)


@pytest.mark.parametrize("axes", ["ZYX", "YZX", "XYZ", "YXZ"])
def test_scratch_gives_back_slices_along_z_and_leaves_no_file(tmp_path, rng, monkeypatch, axes):
    monkeypatch.setattr("micronet.io.scratch._BLOCK_BYTES", 100)  # several blocks
    array = rng.random((4, 5, 6)).astype(np.float32)
    with Scratch(tmp_path, array.shape, axes) as scratch:
        for plane in array:
            scratch.append(plane)
        assert np.array_equal(np.concatenate(list(scratch.blocks())), array)
        found = np.stack(list(scratch.slices()))
    assert np.array_equal(found, array.transpose([axes.index(letter) for letter in "ZYX"]))
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError, match="cannot write an intermediate volume into"):
        Scratch(tmp_path / "absent", (1, 1, 1), "ZYX")
