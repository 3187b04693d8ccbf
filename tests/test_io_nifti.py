"""NIfTI against nibabel and SimpleITK."""

import gzip
import re
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import open_recording, read_volume, write_volume

TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
RAS = "right-anterior-superior"

# A turned, flipped, anisotropic affine (x, y, z columns), rounded to float32 as the file does.
_TURN = np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, -1.0, 0.4], [0.5, 0.3, 1.0]]))[0]
AFFINE = np.eye(4)
AFFINE[:3, :3] = _TURN * [0.7, 1.3, 4.5]
AFFINE[:3, 3] = [-12.3, 1e-4, 9876.5]
AFFINE = AFFINE.astype(np.float32).astype(np.float64)


def _array(rng, dtype="int16", shape=(3, 4, 5)):
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def _nibabel_file(path, array, *, kind=nib.Nifti1Image, sform=1, qform=0, units="mm", affine=AFFINE, edit=None):
    image = kind(array.T, affine, dtype=array.dtype)
    image.header.set_xyzt_units(units)
    image.set_sform(affine if sform else None, sform)
    image.set_qform(affine if qform else None, qform)
    if edit:
        edit(image.header)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", TYPES)
def test_nibabel_to_us_and_back_to_nibabel(tmp_path, rng, dtype, kind, suffix):
    array = _array(rng, dtype)
    volume = read_volume(_nibabel_file(tmp_path / f"a{suffix}", array, kind=kind))
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype == np.dtype(dtype)
    assert volume.array.flags.c_contiguous
    assert volume.directions.tobytes() == np.ascontiguousarray(AFFINE[:3, 2::-1].T).tobytes()
    assert (volume.space, volume.units, volume.notes) == (RAS, "mm", ())
    again = nib.load(write_volume(tmp_path / f"b{suffix}", volume))
    assert isinstance(again, kind)
    assert np.array_equal(np.asarray(again.dataobj).T, array)
    assert again.get_data_dtype() == np.dtype(dtype)
    assert again.affine.tobytes() == nib.load(tmp_path / f"a{suffix}").affine.tobytes()


def test_a_hand_made_file(tmp_path):
    """348 bytes by the specification: 2 x 3 x 4 voxels of 1, 2, 3 mm, x to the left."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 2, 3, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[123] = 2
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, -1, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, 30)
    header[344:348] = b"n+1\0"
    (tmp_path / "a.nii").write_bytes(header + bytes(range(24)))
    volume = read_volume(tmp_path / "a.nii")
    assert volume.shape == (4, 3, 2)
    assert volume.array[3, 2, 1] == 1 + 2 * 2 + 6 * 3
    assert volume.directions.tolist() == [[0, 0, 3], [0, 2, 0], [-1, 0, 0]]
    assert volume.origin.tolist() == [10, 20, 30]
    assert volume.spacing_um == (3000, 2000, 1000)


def test_both_forms_and_the_rest_of_the_header_come_back_to_the_bit(tmp_path, rng):
    def edit(header):
        header["descrip"] = b"embryo 7"
        header["toffset"] = 2.5
        header["quatern_b"] = 0.123
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"by Ana"))

    volume = read_volume(_nibabel_file(tmp_path / "a.nii.gz", _array(rng), sform=2, qform=1, edit=edit))
    write_volume(tmp_path / "b.nii.gz", volume.with_array(volume.array * 0))
    one, two = (nib.load(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    for field in set(one.header) - {"scl_slope", "scl_inter"}:
        assert one.header[field].tobytes() == two.header[field].tobytes(), field
    assert two.header.extensions[0].get_content() == b"by Ana"


def test_qform_where_there_is_no_sform(tmp_path, rng):
    volume = read_volume(_nibabel_file(tmp_path / "a.nii", _array(rng), sform=0, qform=1))
    expected = nib.load(tmp_path / "a.nii").affine
    assert np.array_equal(volume.directions[::-1].T, expected[:3, :3])
    assert np.allclose(expected, AFFINE, rtol=1e-5, atol=1e-5)
    again = nib.load(write_volume(tmp_path / "b.nii", volume))
    assert again.affine.tobytes() == expected.tobytes()
    assert (int(again.header["sform_code"]), int(again.header["qform_code"])) == (0, 1)


def test_no_form_gives_voxel_sizes_and_a_note(tmp_path, rng):
    volume = read_volume(_nibabel_file(tmp_path / "a.nii", _array(rng), sform=0, affine=np.diag([1, 2, 3, 1])))
    assert np.array_equal(volume.directions, upright((3, 2, 1)))
    assert volume.space == ""
    assert "states no orientation" in volume.notes[0]
    again = read_volume(write_volume(tmp_path / "b.nii", volume))
    assert np.array_equal(again.directions, volume.directions)
    assert again.space == ""


def test_neither_form_nor_voxel_size_leaves_lengths_unknown(tmp_path, rng):
    def edit(header):
        header["pixdim"][1:4] = 0

    path = _nibabel_file(tmp_path / "a.nii", _array(rng), sform=0, affine=np.eye(4))
    content = bytearray(path.read_bytes())
    content[80:92] = bytes(12)
    path.write_bytes(content)
    volume = read_volume(path)
    assert volume.spacing_um is None
    assert "(setting: spacing_um)" in volume.notes[-1]
    assert read_volume(path, spacing_um=(1, 2, 3)).spacing_um == (1, 2, 3)


@pytest.mark.parametrize(
    ("units", "found", "um"), [("micron", "mm", 1), ("mm", "mm", 1e3), ("meter", "mm", 1e6), ("unknown", "mm", 1e3)]
)
def test_units(tmp_path, rng, units, found, um):
    path = _nibabel_file(tmp_path / "a.nii", _array(rng), units=units, affine=np.diag([1, 2, 4, 1]))
    volume = read_volume(path)
    assert (volume.units, volume.spacing_um) == (found, (4 * um, 2 * um, um))
    assert bool(volume.notes) == (units == "unknown")
    assert not volume.notes or "mm is taken unless said otherwise (setting: spacing_um)" in volume.notes[0]
    assert read_volume(path, spacing_um=(3, 3, 3)).notes == ()
    assert nib.load(write_volume(tmp_path / "b.nii", volume)).header.get_xyzt_units()[0] == units


@pytest.mark.parametrize(
    ("units", "written", "factor"),
    [
        ("um", "micron", 1),
        ("mm", "mm", 1),
        ("m", "meter", 1),
        ("cm", "mm", 10),
        ("nm", "micron", 1e-3),
        ("voxel", "unknown", 1),
    ],
)
def test_a_volume_from_elsewhere(tmp_path, rng, units, written, factor):
    volume = Volume(_array(rng), upright((4, 2, 1)), [8, 16, 32], "left-posterior-superior", units)
    image = nib.load(write_volume(tmp_path / "a.nii.gz", volume))
    assert image.header.get_xyzt_units()[0] == written
    expected = np.diag([-1, -2, 4, 1 / factor]) * factor
    expected[:3, 3] = np.array([-8, -16, 32]) * factor
    assert np.allclose(image.affine, expected, rtol=1e-7)
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)


def test_a_sheared_volume_has_its_axes_in_the_sform_alone(tmp_path, rng):
    sheared = np.array([[0, 0, 2], [0, 2, 1], [1, 0, 0.0]])
    image = nib.load(write_volume(tmp_path / "a.nii", Volume(_array(rng), sheared, space=RAS, units="mm")))
    assert np.array_equal(image.affine[:3, :3], sheared[::-1].T)
    assert int(image.header["qform_code"]) == 0
    assert np.allclose(image.header.get_zooms(), [1, 5**0.5, 2])


def test_changed_geometry_replaces_the_forms_of_the_source(tmp_path, rng):
    volume = read_volume(_nibabel_file(tmp_path / "a.nii", _array(rng), sform=2, qform=1)).with_spacing((8, 4, 2))
    image = nib.load(write_volume(tmp_path / "b.nii", volume))
    assert np.allclose(image.header.get_zooms(), (0.002, 0.004, 0.008))
    assert image.header.get_xyzt_units()[0] == "mm"  # as before: 3D Slicer goes on seeing it where it was
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-5)


def test_scaling_is_applied_and_not_written_again(tmp_path, rng):
    array = _array(rng, "int16")
    path = _nibabel_file(tmp_path / "a.nii", array)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, 0.5, -3)
    path.write_bytes(content)
    volume = read_volume(path)
    assert np.array_equal(volume.array, array * 0.5 - 3)
    assert np.array_equal(nib.load(path).get_fdata().T, volume.array)
    again = nib.load(write_volume(tmp_path / "b.nii", volume))
    assert np.array_equal(again.get_fdata().T, volume.array)


def test_big_endian(tmp_path, rng):
    array = _array(rng, "int16")
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(array.T, AFFINE, header)
    assert image.header.endianness == ">"
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.dtype.isnative
    assert np.array_equal(volume.array, array)
    again = nib.load(write_volume(tmp_path / "b.nii", volume.with_array(array.astype(np.float32))))
    assert np.array_equal(np.asarray(again.dataobj).T, array)
    assert np.array_equal(again.affine, image.affine)


def test_bool_becomes_zero_and_one_and_a_long_axis_takes_nifti_2(tmp_path, rng):
    mask = rng.random((2, 2, 40000)) > 0.5
    image = nib.load(write_volume(tmp_path / "a.nii.gz", Volume(mask)))
    assert isinstance(image, nib.Nifti2Image)
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj).T, mask)


def test_axes_of_length_one_are_dropped(tmp_path, rng):
    array = _array(rng, shape=(1, 1, 3, 4, 5))
    assert np.array_equal(read_volume(_nibabel_file(tmp_path / "a.nii", array)).array, array[0, 0])


def test_writing_twice_gives_the_same_bytes(tmp_path, rng):
    volume = Volume(_array(rng))
    one, two = (write_volume(tmp_path / name, volume).read_bytes() for name in ("a.nii.gz", "b.nii.gz"))
    assert one == two


class TestRefused:
    def _patched(self, tmp_path, rng, offset, form, *values, suffix=".nii"):
        path = _nibabel_file(tmp_path / "a.nii", _array(rng))
        content = bytearray(path.read_bytes())
        struct.pack_into(form, content, offset, *values)
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        return path

    @pytest.mark.parametrize(
        ("offset", "form", "values", "message"),
        [
            (344, "4s", (b"ni1\0",), "is not a NIfTI file that can be read"),
            (0, "<i", (999,), "is not a NIfTI file that can be read"),
            (40, "<8h", (2, 5, 12, 1, 1, 1, 1, 1), "is a 2-D image of"),
            (40, "<8h", (4, 5, 4, 1, 3, 1, 1, 1), r"has 4 axes \(x 5, y 4, z 1, t 3\)"),
            (40, "<8h", (0, 5, 4, 3, 1, 1, 1, 1), "claims the shape .* with 0 axes"),
            (40, "<8h", (9, 5, 4, 3, 1, 1, 1, 1), "is not a NIfTI|with 9 axes"),
            (40, "<8h", (3, 5, -4, 3, 1, 1, 1, 1), "claims the shape"),
            (40, "<8h", (3, 32000, 32000, 32000, 1, 1, 1, 1), "claims 65,536,000,000,000 bytes .* file holds 120"),
            (40, "<8h", (3, 5, 4, 2, 1, 1, 1, 1), "claims 80 bytes .* holds 120"),
            (70, "<h", (32,), "holds complex numbers"),
            (70, "<h", (128,), "holds records"),
            (70, "<h", (1536,), "holds (voxels of type float128|an unknown type|records)|unknown type"),
            (70, "<h", (7777,), "voxels of an unknown type"),
            (108, "<f", (1e30,), "the voxels start at byte 1e\\+30"),
            (108, "<f", (float("nan"),), "the voxels start at byte nan"),
            (112, "<2f", (2, float("inf")), "scales the voxels by 2 and adds inf"),
            (280, "<4f", (0, 0, 0, 0), "a.nii(.gz)?': the three axis directions must be independent"),
            (280, "<4f", (float("nan"), 0, 0, 0), "must be finite"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_bad_headers(self, tmp_path, rng, offset, form, values, message, suffix):
        path = self._patched(tmp_path, rng, offset, form, *values, suffix=suffix)
        with pytest.raises(FileError, match=message) as caught:
            read_volume(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_quaternion_that_is_none(self, tmp_path, rng):
        path = _nibabel_file(tmp_path / "a.nii", _array(rng), sform=0, qform=1)
        content = bytearray(path.read_bytes())
        struct.pack_into("<3f", content, 256, 3, 4, 5)
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a.nii': the orientation in its NIfTI header cannot be read"):
            read_volume(path)

    @pytest.mark.parametrize("kept", [0, 100, 400, 5000])
    def test_truncated_gzip(self, tmp_path, rng, kept):
        path = _nibabel_file(tmp_path / "a.nii.gz", _array(rng, shape=(20, 20, 20)))
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(FileError, match=r"a.nii.gz' is (cut short: its gzip data ends|not a NIfTI file)"):
            read_volume(path)

    def test_not_gzip_at_all_and_cut_short(self, tmp_path, rng):
        path = _nibabel_file(tmp_path / "a.nii", _array(rng))
        content = path.read_bytes()
        (tmp_path / "b.nii.gz").write_bytes(content)
        with pytest.raises(FileError, match=r"b.nii.gz' is damaged: its gzip data cannot be read"):
            read_volume(tmp_path / "b.nii.gz")
        path.write_bytes(content[:-1])
        with pytest.raises(FileError, match="header claims 120 bytes of voxels, the file holds 119"):
            read_volume(path)
        path.write_bytes(content[:200])
        with pytest.raises(FileError, match="is not a NIfTI file"):
            read_volume(path)

    def test_axes_are_part_of_the_format(self, tmp_path, rng):
        path = _nibabel_file(tmp_path / "a.nii", _array(rng))
        with pytest.raises(InputError, match=r"states its axes itself \(ZYX\); 'XYZ' \(setting: axes\) contradicts"):
            read_volume(path, axes="XYZ")

    def test_types_and_spaces_that_nifti_has_not(self, tmp_path):
        with pytest.raises(FileError, match=r"cannot write '.*a.nii': NIfTI has no voxels of type float16; convert to"):
            write_volume(tmp_path / "a.nii", Volume(np.zeros((2, 2, 2), np.float16)))
        with pytest.raises(FileError, match=r"cannot write '.*a.nii': space 'scanner-xyz' cannot be converted"):
            write_volume(tmp_path / "a.nii", Volume(np.zeros((2, 2, 2)), space="scanner-xyz"))
        assert list(tmp_path.iterdir()) == []


def test_the_real_ct_volume(shared, tmp_path):
    path = shared / "data/ct/abdomen_small.nii.gz"
    volume, image = read_volume(path), nib.load(path)
    assert volume.shape == (30, 101, 122)
    assert np.array_equal(volume.array, np.asarray(image.dataobj).T)
    assert volume.spacing_um == (3000, 3000, 3000)
    again = nib.load(write_volume(tmp_path / "a.nii.gz", volume))
    assert again.affine.tobytes() == image.affine.tobytes()


OTHER = AFFINE * [-1, 1, 1, 1]
OTHER[:3, 3] = [5, 6, 7]
SHEARED = np.array([[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
SINGULAR = np.diag([0.0, 1.3, 4.5, 1.0])


class TestRepairs:
    """What headers often have wrong; SimpleITK, whose reader is the standard's own, is the judge."""

    def _file(self, path, rng, sform=None, qform=None, sform_code=1, **pixdim):
        """Write a file whose forms are as given, and then numbers of pixdim, by their place."""
        array = _array(rng, "uint8")
        image = nib.Nifti1Image(array.T, np.eye(4))
        image.header.set_xyzt_units("mm")
        image.set_sform(sform, sform_code if sform is not None else 0)
        image.set_qform(qform, int(qform is not None))
        if qform is None and sform is not None:
            image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0) if sform[0, 0] else [0.7, 1.3, 4.5]
        nib.save(image, path)
        content = bytearray(path.read_bytes())
        for place, number in pixdim.items():
            struct.pack_into("<f", content, 76 + 4 * int(place[1:]), number)
        path.write_bytes(content)
        return path

    def _assert_as_itk(self, path, **options):
        volume, image = read_volume(path, **options), sitk.ReadImage(str(path))
        lps = volume.in_space("left-posterior-superior")
        assert np.allclose(np.linalg.norm(lps.directions, axis=1)[::-1], image.GetSpacing(), rtol=1e-5)
        assert np.allclose(lps.origin, image.GetOrigin(), rtol=1e-5, atol=1e-5)
        turn = lps.directions[::-1].T / image.GetSpacing()
        assert np.allclose(turn.ravel(), image.GetDirection(), atol=1e-5)
        return volume

    @pytest.mark.parametrize("first", [0.0, 2.0, -0.5, float("nan")])
    def test_a_pixdim_0_that_is_not_1_or_minus_1_tells_its_sign(self, tmp_path, rng, first):
        volume = self._assert_as_itk(self._file(tmp_path / "a.nii", rng, qform=AFFINE, p0=first))
        assert volume.notes == ()
        # Written again, it is as it was.
        assert read_volume(write_volume(tmp_path / "b.nii", volume)).directions.tobytes() == volume.directions.tobytes()

    @pytest.mark.parametrize(
        ("sform", "code", "taken"),
        [(AFFINE, 1, "sform"), (AFFINE, 2, "qform"), (AFFINE, 4, "qform"), (SHEARED, 1, "qform")],
    )
    def test_forms_that_differ_are_told_and_the_one_of_itk_is_taken(self, tmp_path, rng, sform, code, taken):
        path = self._file(tmp_path / "a.nii", rng, sform, OTHER, code)
        volume = self._assert_as_itk(path)
        assert len(volume.notes) == 1
        assert re.match(
            rf"sform and qform of the NIfTI header differ by up to [\d.e+]+ voxels: the {taken} is taken",
            volume.notes[0],
        )

    def test_forms_that_differ_by_less_than_a_tenth_of_a_voxel_do_not_differ(self, tmp_path, rng):
        close = AFFINE.copy()
        close[:3, 3] += 0.03
        assert read_volume(self._file(tmp_path / "a.nii", rng, AFFINE, close)).notes == ()

    @pytest.mark.parametrize("sform", [SINGULAR, np.diag([0, 0, 0, 1.0]), np.full((4, 4), np.nan)])
    def test_an_sform_that_is_none_yields_to_the_qform_and_is_told(self, tmp_path, rng, sform):
        path = self._file(tmp_path / "a.nii", rng, np.eye(4), AFFINE)
        content = bytearray(path.read_bytes())
        struct.pack_into("<12f", content, 280, *sform[:3].ravel())
        path.write_bytes(content)
        if np.isfinite(sform).all():
            volume = self._assert_as_itk(path)
        volume = read_volume(path)
        assert len(volume.notes) == 1
        assert "the sform of the NIfTI header cannot be used" in volume.notes[0]
        assert volume.notes[0].endswith("the qform is taken")

    def test_an_sform_that_is_none_without_a_qform_needs_the_spacing(self, tmp_path, rng):
        path = self._file(tmp_path / "a.nii", rng, SINGULAR)
        with pytest.raises(
            FileError, match=r"independent and longer than zero, which .* sform .* \(setting: spacing_um\)"
        ):
            read_volume(path)
        volume = read_volume(path, spacing_um=(3, 2, 1))
        assert (volume.spacing_um, volume.space) == (pytest.approx((3, 2, 1)), "")
        assert "X, Y, Z are taken to run along the world's axes" in volume.notes[0]

    @pytest.mark.parametrize("qform", [AFFINE, None])
    def test_a_voxel_size_of_0_is_1_as_in_itk_and_named(self, tmp_path, rng, qform):
        path = self._file(tmp_path / "a.nii", rng, qform=qform, p1=0.7, p2=1.3, p3=0)
        volume = self._assert_as_itk(path)
        assert volume.spacing_um == pytest.approx((1000, 1300, 700))
        assert "the NIfTI header states no spacing along Z: 1 mm is taken, as ITK does" in volume.notes[-1]
        given = read_volume(path, spacing_um=(4.5, 1.3, 0.7))
        assert given.spacing_um == pytest.approx((4.5, 1.3, 0.7))
        assert not any("spacing" in note for note in given.notes)

    def test_no_voxel_size_but_a_qform_leaves_lengths_unknown(self, tmp_path, rng):
        path = self._file(tmp_path / "a.nii", rng, qform=AFFINE, p1=0, p2=0, p3=0)
        assert read_volume(path).spacing_um is None
        given = read_volume(path, spacing_um=(4500, 1300, 700))
        whole = read_volume(self._file(tmp_path / "b.nii", rng, qform=AFFINE))
        assert np.allclose(given.directions, whole.directions, rtol=1e-5)
        assert given.origin.tolist() == whole.origin.tolist()

    @pytest.mark.parametrize("qform", [AFFINE, None])
    def test_a_negative_voxel_size_needs_the_spacing_and_is_mirrored_as_in_itk(self, tmp_path, rng, qform):
        path = self._file(tmp_path / "a.nii", rng, qform=qform, p1=-0.7, p2=1.3, p3=4.5)
        with pytest.raises(
            FileError, match=r"a.nii': the voxel size \(pixdim\) along X .* is negative, .* \(setting: spacing_um\)"
        ):
            read_volume(path)
        volume = self._assert_as_itk(path, spacing_um=(4500, 1300, 700))
        assert "along X is negative: the axis is mirrored" in " ".join(volume.notes)

    def test_voxel_sizes_that_contradict_the_sform_are_told(self, tmp_path, rng):
        volume = read_volume(self._file(tmp_path / "a.nii", rng, np.diag([1, 2, 3, 1.0]), p3=5))
        assert volume.spacing_um == (3000, 2000, 1000)
        assert volume.notes == (
            "the NIfTI header has the spacing (Z, Y, X) 3 x 2 x 1 in its sform, which is taken, and 5 x 2 x 1 in its "
            "pixdim, which 3D Slicer takes; say otherwise (setting: spacing_um)",
        )


@pytest.mark.parametrize(("units", "interval"), [("sec", 0.5), ("msec", 0.0005), ("usec", 5e-7), ("unknown", None)])
def test_step_between_time_points_is_the_interval_or_its_missing_unit_is_named(tmp_path, rng, units, interval):
    image = nib.Nifti1Image(_array(rng, "uint8", (2, 3, 4, 5)).T, np.eye(4))
    image.header.set_xyzt_units("mm", units)
    image.header["pixdim"][4] = 0.5
    nib.save(image, tmp_path / "a.nii")
    with open_recording(tmp_path / "a.nii") as recording:
        assert recording.interval_s == (None if interval is None else pytest.approx(interval))
        assert (recording.grid.notes != ()) == (interval is None)
        assert interval is not None or "the step of 0.5 between time points is not used" in recording.grid.notes[0]
