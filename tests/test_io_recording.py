"""Recordings: each time point of a file equals what an independent writer put there."""

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from micronet.core.errors import FileError, InputError
from micronet.io import open_recording, read_volume

SHAPE = (3, 4, 5, 6)  # T, Z, Y, X


@pytest.fixture
def movie(rng):
    return rng.integers(0, 60000, SHAPE).astype(np.uint16)


def assert_same(path, movie, **options):
    with open_recording(path, **options) as recording:
        assert recording.count == len(movie)
        assert recording.grid.shape == movie.shape[1:]
        for number in (*range(len(movie)), 0):  # and back to the first
            volume = recording.read(number)
            np.testing.assert_array_equal(volume.array, movie[number])
            assert volume.array.flags.c_contiguous
            assert volume.array.dtype.isnative
        return volume, recording.interval_s


def write_imagej(path, movie):
    metadata = {"axes": "TZYX", "spacing": 5.0, "unit": "um", "finterval": 0.25}
    tifffile.imwrite(path, movie, imagej=True, resolution=(0.5, 0.25), metadata=metadata)


def write_ome(path, movie, order="TZYX", **more):
    metadata = {f"PhysicalSize{letter}": length for letter, length in zip("XYZ", (2.0, 4.0, 5.0), strict=True)}
    metadata |= {"axes": order, "TimeIncrement": 250.0, "TimeIncrementUnit": "ms"}
    data = np.ascontiguousarray(movie.transpose(["TZYX".index(letter) for letter in order]))
    tifffile.imwrite(path, data, ome=True, metadata=metadata, photometric="minisblack", **more)


@pytest.mark.parametrize(
    "write",
    [
        write_imagej,
        write_ome,
        lambda path, movie: write_ome(path, movie, "ZTYX"),
        lambda path, movie: write_ome(path, movie, compression="zlib"),
        lambda path, movie: write_ome(path, movie, "ZTYX", compression="zlib"),
    ],
    ids=["imagej", "ome", "ome-ztyx", "ome-packed", "ome-ztyx-packed"],
)
def test_tiff_hyperstacks_keep_voxels_spacing_and_interval(tmp_path, movie, write):
    path = tmp_path / ("movie.tif" if write is write_imagej else "movie.ome.tif")
    write(path, movie)
    volume, interval = assert_same(path, movie)
    assert volume.spacing_um == (5.0, 4.0, 2.0)
    assert interval == 0.25


def test_plain_tiff_needs_its_axes_named(tmp_path, movie):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, movie, photometric="minisblack")
    assert_same(path, movie, axes="TZYX")
    with pytest.raises(
        InputError, match=r"what its axes \(3, 4, 5, 6\) are: name them, such as TZYX \(setting: axes\)"
    ):
        open_recording(path)
    with pytest.raises(InputError, match=r"'ZYX' \(setting: axes\) names 3 axes, the file has 4"):
        open_recording(path, axes="ZYX")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("time", [0, 2, 3])
def test_nrrd_takes_time_from_any_place(tmp_path, movie, encoding, time):
    path = tmp_path / "movie.nrrd"
    rows = [[0, 0, 5.0], [0, 4.0, 0], [2.0, 0, 0]]  # Z, Y, X
    kinds = ["domain"] * 3
    rows.insert(time, [np.nan] * 3)
    kinds.insert(time, "list" if time else "time")
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array(rows, float)[::-1],
        "space origin": [7.0, 8.0, 9.0],
        "space units": ["um"] * 3,
        "kinds": kinds[::-1],
        "encoding": encoding,
    }
    nrrd.write(str(path), np.moveaxis(movie, 0, time), header, index_order="C")
    volume, _ = assert_same(path, movie)
    assert volume.spacing_um == (5.0, 4.0, 2.0)
    assert list(volume.origin) == [7.0, 8.0, 9.0]
    assert any("of kind 'list', is taken as time" in note for note in volume.notes) == (time != 0)


def test_nrrd_that_tells_nothing_of_its_axes_needs_them_named(tmp_path, movie):
    path = tmp_path / "movie.nrrd"
    nrrd.write(str(path), movie, index_order="C")
    assert_same(path, movie, axes="TZYX")
    with pytest.raises(FileError, match="is 4-D, expected a 3-D volume"):
        open_recording(path)


def test_colour_nrrd_is_no_recording(tmp_path, movie):
    path = tmp_path / "movie.nrrd"
    nrrd.write(str(path), movie, {"kinds": ["domain", "domain", "domain", "RGB-color"]}, index_order="C")
    with pytest.raises(FileError, match="its axis of 3 is of kind 'rgb-color', not of time; save one channel"):
        open_recording(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_with_four_axes(tmp_path, movie, suffix):
    path = tmp_path / f"movie{suffix}"
    image = nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.diag([0.002, 0.004, 0.005, 1.0]))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 250.0
    nibabel.save(image, path)
    volume, interval = assert_same(path, movie)
    assert volume.spacing_um == pytest.approx((5.0, 4.0, 2.0))
    assert interval == 0.25


def test_nifti_scaling_is_applied_to_every_time_point(tmp_path, movie):
    path = tmp_path / "movie.nii"
    image = nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.eye(4))
    image.header.set_slope_inter(0.5, 3.0)
    nibabel.save(image, path)
    stored = nibabel.load(path)
    assert stored.dataobj.slope == 0.5
    with open_recording(path) as recording:
        np.testing.assert_allclose(recording.read(1).array, np.asarray(stored.dataobj)[..., 1].T)


def test_simpleitk_reads_the_same_time_points(tmp_path, movie):
    path = tmp_path / "movie.nii.gz"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in movie]), str(path))
    assert_same(path, movie)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_and_raw_with_named_axes(tmp_path, movie, order):
    np.save(tmp_path / "movie.npy", np.asarray(movie, order=order))
    assert_same(tmp_path / "movie.npy", movie, axes="TZYX")
    turned = np.ascontiguousarray(movie.transpose(3, 0, 2, 1))  # X, T, Y, Z
    np.save(tmp_path / "turned.npy", np.asarray(turned, order=order))
    assert_same(tmp_path / "turned.npy", movie, axes="XTYZ")
    turned.tofile(tmp_path / "movie.raw")
    volume, _ = assert_same(
        tmp_path / "movie.raw", movie, axes="XTYZ", shape=turned.shape, dtype="<u2", spacing_um=(3, 2, 1)
    )
    assert volume.spacing_um == (3.0, 2.0, 1.0)
    with pytest.raises(InputError, match=r"name them, such as TZYX \(setting: axes\)"):
        open_recording(tmp_path / "movie.npy")


def test_a_single_volume_is_no_recording(tmp_path, movie):
    np.save(tmp_path / "one.npy", movie[0])
    with pytest.raises(FileError, match=r"holds one time point \(Z 4, Y 5, X 6\); name several files"):
        open_recording(tmp_path / "one.npy", axes="ZYX")
    nibabel.save(nibabel.Nifti1Image(movie[0].T, np.eye(4)), tmp_path / "one.nii")
    with pytest.raises(FileError, match="holds one time point"):
        open_recording(tmp_path / "one.nii")
    tifffile.imwrite(tmp_path / "one.tif", movie[0], imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(FileError, match="holds one time point"):
        open_recording(tmp_path / "one.tif")


def test_a_time_point_that_is_not_there_is_refused(tmp_path, movie):
    np.save(tmp_path / "movie.npy", movie)
    with (
        open_recording(tmp_path / "movie.npy", axes="TZYX") as recording,
        pytest.raises(InputError, match="has the time points 0 to 2, not 3"),
    ):
        recording.read(3)


def test_cut_short_file_is_told_when_its_voxels_are_missing(tmp_path, movie):
    path = tmp_path / "movie.nii"
    nibabel.save(nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileError, match="its header claims"):
        open_recording(path)
    packed = tmp_path / "movie.nii.gz"
    nibabel.save(nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.eye(4)), packed)
    packed.write_bytes(packed.read_bytes()[:-200])
    with open_recording(packed) as recording, pytest.raises(FileError, match="damaged or cut short"):
        recording.read(2)


def test_reading_one_volume_of_a_recording_points_to_time_lapse(tmp_path, movie):
    write_imagej(tmp_path / "movie.tif", movie)
    nibabel.save(nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.eye(4)), tmp_path / "movie.nii")
    for name in ("movie.tif", "movie.nii"):
        with pytest.raises(FileError, match=r"\(setting: time_lapse\)"):
            read_volume(tmp_path / name)


class TestNrrdOfFourWorldAxes:
    """As SimpleITK and teem write it: ``space dimension: 4``, or a space whose fourth axis is time."""

    SPACES = (
        ("space dimension: 4", ""),
        ("space: left-posterior-superior-time", "left-posterior-superior"),
        ("space: LPST", "left-posterior-superior"),
        ("space: right-anterior-superior-time", "right-anterior-superior"),
        ("space: RAST", "right-anterior-superior"),
        ("space: LAST", "left-anterior-superior"),
        ("space: scanner-xyz-time", "scanner-xyz"),
        ("space: 3D-right-handed-time", "3D-right-handed"),
    )

    def _write(self, path, movie, *lines):
        head = [
            "NRRD0005",
            f"type: {movie.dtype.name}",
            f"dimension: {movie.ndim}",
            "sizes: " + " ".join(str(n) for n in reversed(movie.shape)),
            "encoding: raw",
            "endian: little",
            *lines,
            "",
            "",
        ]
        path.write_bytes("\n".join(head).encode() + movie.tobytes())
        return path

    def test_as_simpleitk_joins_volumes(self, tmp_path, movie):
        images = [sitk.GetImageFromArray(volume) for volume in movie]
        turn = np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, -1.0, 0.4], [0.5, 0.3, 1.0]]))[0]
        for image in images:
            image.SetSpacing((4.5, 4.5, 4.5))
            image.SetOrigin((10, -20, 30))
            image.SetDirection(turn.ravel())
        sitk.WriteImage(sitk.JoinSeries(images), tmp_path / "beat.nrrd", useCompression=True)
        for options in ({}, {"axes": "TZYX"}):
            volume, interval = assert_same(tmp_path / "beat.nrrd", movie, **options)
            assert volume.spacing_um == pytest.approx((4.5, 4.5, 4.5))
            assert volume.origin.tolist() == [10, -20, 30]
            assert np.allclose(volume.directions[::-1].T / 4.5, turn)
            assert interval is None
        assert "axis 4 of 3, of kind 'domain', is taken as time" in volume.notes

    @pytest.mark.parametrize(("space", "found"), SPACES)
    def test_space_and_time_are_told_apart(self, tmp_path, movie, space, found):
        rows = "space directions: (4.5,0,0,0) (0,3,0,0) (0,0,2,0) (0,0,0,0.25)"
        units = 'space units: "um" "um" "um" "s"'
        path = self._write(tmp_path / "a.nrrd", movie, space, rows, units, "space origin: (10,-20,30,7)")
        volume, interval = assert_same(path, movie)
        assert (volume.space, volume.spacing_um, interval) == (found, (2.0, 3.0, 4.5), 0.25)
        assert volume.origin.tolist() == [10, -20, 30]
        told = "axis 4 of 3, of kind 'none', is taken as time"
        assert volume.notes == ((told,) if space == "space dimension: 4" else ())

    def test_time_may_be_any_axis_of_the_file(self, tmp_path, movie):
        rows = "space directions: (0,0,0,250) (4.5,0,0,0) (0,3,0,0) (0,0,2,0)"
        units = 'space units: "um" "um" "um" "ms"'
        path = self._write(tmp_path / "a.nrrd", np.moveaxis(movie, 0, -1).copy(), "space: LPST", rows, units)
        volume, interval = assert_same(path, movie)
        assert (volume.spacing_um, interval) == ((2.0, 3.0, 4.5), 0.25)

    def test_one_time_point_is_a_volume(self, tmp_path, movie):
        rows = "space directions: (4.5,0,0,0) (0,3,0,0) (0,0,2,0) (0,0,0,0.25)"
        path = self._write(tmp_path / "a.nrrd", movie[:1], "space: LPST", rows)
        assert np.array_equal(read_volume(path).array, movie[0])
        path = self._write(tmp_path / "b.nrrd", movie[0], "space: LPST", rows.rsplit(" ", 1)[0])
        assert read_volume(path).spacing_um == (2.0, 3.0, 4.5)

    @pytest.mark.parametrize(
        ("lines", "interval", "notes"),
        [
            (("spacings: nan nan nan 0.5", 'units: "" "" "" "s"'), 0.5, ()),
            (
                ("spacings: nan nan nan 0.5",),
                None,
                (
                    "no unit of time is stated: the step of 0.5 between time points is not used; "
                    "give it in seconds (setting: interval_s)",
                ),
            ),
            (("spacings: nan nan nan 1",), None, ()),
            ((), None, ()),
        ],
    )
    def test_step_of_an_axis_without_direction(self, tmp_path, movie, lines, interval, notes):
        space = ("space: LPS", "space directions: (4.5,0,0) (0,3,0) (0,0,2) none", 'space units: "um" "um" "um"')
        path = self._write(tmp_path / "a.nrrd", movie, *space, "kinds: domain domain domain time", *lines)
        volume, found = assert_same(path, movie)
        assert (found, volume.notes) == (interval, notes)

    def test_a_volume_that_moves_from_one_time_point_to_the_next_is_told(self, tmp_path, movie):
        rows = "space directions: (4.5,0,0,0) (0,3,0,0) (0,0,2,0) (0.1,0,0,0.25)"
        units = 'space units: "um" "um" "um" "s"'
        volume, interval = assert_same(self._write(tmp_path / "a.nrrd", movie, "space: LPST", rows, units), movie)
        assert interval == 0.25
        assert volume.notes == ("from one time point to the next the volume moves by (0.1, 0, 0): that is not used",)

    def test_an_axis_through_space_and_time_is_refused(self, tmp_path, movie):
        rows = "space directions: (4.5,0,0,0.1) (0,3,0,0) (0,0,2,0) (0,0,0,0.25)"
        with pytest.raises(FileError, match="an axis of its 'space directions' runs through space and time at once"):
            open_recording(self._write(tmp_path / "a.nrrd", movie, "space: LPST", rows))

    def test_kinds_that_do_not_tell_time_leave_it_to_the_person(self, tmp_path, movie):
        path = self._write(tmp_path / "a.nrrd", movie, "kinds: domain domain domain domain", "spacings: 4.5 3 2 1")
        volume, _ = assert_same(path, movie, axes="TZYX")
        assert volume.spacing_um == (2.0, 3.0, 4.5)
        with pytest.raises(
            FileError, match=r"is 4-D, .*infer.py takes it, .* such as TZYX \(settings: time_lapse, axes\)"
        ):
            open_recording(path)


def test_the_files_that_people_reported(shared):
    path = shared / "faults" / "06-nrrd-4d-simpleitk" / "beat.nrrd"
    if not path.exists():
        pytest.skip("needs ../shared/faults")
    with open_recording(path) as recording:
        assert (recording.count, recording.grid.shape) == (3, (36, 48, 40)[: len(recording.grid.shape)])
        assert recording.grid.spacing_um == pytest.approx((4.5,) * 3)
