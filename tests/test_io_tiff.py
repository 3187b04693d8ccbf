"""TIFF as Fiji, OME and tifffile write it."""

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import read_annotation, read_volume, write_volume


@pytest.fixture
def array(rng):
    return rng.integers(0, 65535, (3, 4, 5), np.uint16)


def _imagej(path, array, description, resolution=None, **options):
    """Write a TIFF whose ImageJ description is given to the letter."""
    if resolution:
        options |= {"resolution": resolution, "resolutionunit": "NONE"}
    tifffile.imwrite(
        path, array, description="ImageJ=1.53c\n" + description, metadata=None, photometric="minisblack", **options
    )
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool", ">u2"])
def test_imagej_round_trip(tmp_path, rng, dtype):
    array = (rng.random((3, 4, 5)) * 200).astype(dtype)
    volume = Volume(array, upright((4.5, 1 / 3, 0.325)), units="um")
    back = read_volume(write_volume(tmp_path / "a.tif", volume))
    assert back.array.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
    assert np.array_equal(back.array, array * np.uint8(255) if dtype == "bool" else array)
    assert back.array.flags.c_contiguous
    assert back.array.flags.writeable
    assert back.directions.tobytes() == volume.directions.tobytes()
    assert (back.units, back.notes) == ("um", ())
    if dtype == "bool":
        assert np.array_equal(read_annotation(tmp_path / "a.tif").mask.array, array)


def test_spacing_reads_back_to_the_same_float64(tmp_path, rng):
    """As long as it has few decimals; the ratio of two 32-bit numbers comes within 1e-12 of any other."""
    for units in ("nm", "um", "mm", "cm", "m"):
        for exponent in range(-4, 5):
            spacing = rng.uniform(1, 10, 3) * 10.0**exponent
            decimal = [float(f"{length:.5g}") for length in spacing]
            for lengths, exact in ((decimal, True), (spacing, False)):
                volume = Volume(np.zeros((2, 2, 2), np.uint8), upright(lengths), units=units)
                back = read_volume(write_volume(tmp_path / "a.tif", volume))
                assert back.units == units
                assert np.allclose(back.directions, volume.directions, rtol=1e-12, atol=0)
                assert not exact or back.directions.tobytes() == volume.directions.tobytes(), lengths


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_ome_round_trip(tmp_path, rng, dtype):
    array = (rng.random((3, 4, 5)) * 100).astype(dtype)
    volume = Volume(array, upright((4.5, 1 / 3, 0.325)), units="um")
    path = write_volume(tmp_path / "a.ome.tif", volume)
    back = read_volume(path)
    assert np.array_equal(back.array, array)
    assert back.array.dtype == array.dtype
    assert back.directions.tobytes() == volume.directions.tobytes()
    assert (back.units, back.notes) == ("um", ())
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        assert tif.series[0].axes == "ZYX"


def test_fiji_sees_what_we_write(tmp_path, array):
    path = write_volume(tmp_path / "a.tif", Volume(array, upright((4.5, 0.5, 0.25)), units="um"))
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej
        assert tif.imagej_metadata["slices"] == 3
        assert (tif.imagej_metadata["unit"], tif.imagej_metadata["spacing"]) == ("micron", 4.5)
        assert tif.pages.first.tags["XResolution"].value == (4, 1)
        assert tif.pages.first.tags["YResolution"].value == (2, 1)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), array)


@pytest.mark.parametrize(
    ("unit", "units", "um"),
    [
        ("micron", "um", 1),
        ("um", "um", 1),
        ("\\u00B5m", "um", 1),
        ("microns", "um", 1),
        ("nm", "nm", 1e-3),
        ("mm", "mm", 1e3),
        ("cm", "cm", 1e4),
        ("inch", "um", 25400),
    ],
)
def test_units_of_imagej(tmp_path, array, unit, units, um):
    path = _imagej(tmp_path / "a.tif", array, f"images=3\nslices=3\nunit={unit}\nspacing=4.0\n", ((2, 1), (4, 1)))
    volume = read_volume(path)
    assert volume.units == units
    assert volume.spacing_um == pytest.approx((4 * um, 0.25 * um, 0.5 * um), rel=1e-15)
    assert volume.notes == ()


def test_units_that_differ_by_axis_and_a_negative_depth(tmp_path, array):
    description = "images=3\nslices=3\nunit=mm\nyunit=\\u00B5m\nzunit=nm\nspacing=-500\n"
    volume = read_volume(_imagej(tmp_path / "a.tif", array, description, ((1000, 1), (1, 2))))
    assert volume.units == "um"
    assert volume.spacing_um == (0.5, 2, 1)


def test_spacing_that_imagej_leaves_out_is_one_unit(tmp_path, array):
    volume = read_volume(_imagej(tmp_path / "a.tif", array, "images=3\nslices=3\nunit=micron\n", ((2, 1), (2, 1))))
    assert volume.spacing_um == (1, 0.5, 0.5)
    assert volume.notes == (
        "the TIFF states no spacing along Z: 1 micron is taken, as ImageJ does, "
        "unless said otherwise (setting: spacing_um)",
    )


@pytest.mark.parametrize("description", ["", "unit=pixel\nspacing=2\n", "spacing=2.0\n", "unit=micron\n"])
def test_unknown_spacing(tmp_path, array, description):
    path = tmp_path / "a.tif"
    _imagej(path, array, f"images=3\nslices=3\n{description}", ((0, 1), (0, 1)) if "micron" in description else None)
    volume = read_volume(path)
    assert (volume.units, volume.spacing_um) == ("voxel", None)
    assert volume.notes == (
        "the TIFF states no spacing: lengths are unknown until it is given in µm (setting: spacing_um)",
    )
    given = read_volume(path, spacing_um=(3, 2, 1))
    assert (given.spacing_um, given.notes) == ((3, 2, 1), ())


def test_an_unknown_unit_needs_the_spacing(tmp_path, array):
    path = _imagej(tmp_path / "a.tif", array, "images=3\nslices=3\nunit=furlong\nspacing=2\n", ((1, 1), (1, 1)))
    with pytest.raises(
        FileError, match=r"a.tif': unknown length unit 'furlong'; give the spacing in µm \(setting: spacing_um\)"
    ):
        read_volume(path)
    assert read_volume(path, spacing_um=(3, 2, 1)).spacing_um == (3, 2, 1)


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_plain_pages_are_slices_with_a_note(tmp_path, array, compression, byteorder, bigtiff):
    path = tmp_path / "a.tif"
    options = {
        "photometric": "minisblack",
        "metadata": None,
        "compression": compression,
        "byteorder": byteorder,
        "bigtiff": bigtiff,
    }
    tifffile.imwrite(path, array, **options)
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype.isnative
    assert "slices along Z are taken, unless said otherwise (setting: axes)" in volume.notes[0]
    other = read_volume(path, axes="XZY")
    assert np.array_equal(other.array, array.transpose(1, 2, 0))
    assert len(other.notes) == 1


def test_axes_that_tifffile_states(tmp_path, array):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "XYZ"})
    assert np.array_equal(read_volume(path).array, array.T)
    assert read_volume(path, axes="XYZ").shape == (5, 4, 3)
    with pytest.raises(
        InputError, match=r"a.tif' states its axes itself \(XYZ\); 'ZYX' \(setting: axes\) contradicts that"
    ):
        read_volume(path, axes="ZYX")


@pytest.mark.parametrize("axes", ["TZYX", "ZCYX", "TZCYX"])
def test_imagej_hyperstacks_of_one_channel_and_time(tmp_path, array, axes):
    path = tmp_path / "a.tif"
    shape = [{"Z": 3, "Y": 4, "X": 5}.get(axis, 1) for axis in axes]
    tifffile.imwrite(path, array.reshape(shape), imagej=True, metadata={"axes": axes})
    assert np.array_equal(read_volume(path).array, array)


@pytest.mark.parametrize(
    ("axes", "named"),
    [("TZYX", "T 2, Z 3, Y 4, X 5"), ("ZCYX", "Z 2, C 3, Y 4, X 5"), ("TZCYX", "T 2, Z 3, C 4, Y 5, X 6")],
)
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_more_than_a_volume_is_refused_by_its_axes(tmp_path, rng, axes, named, suffix):
    path = tmp_path / f"a{suffix}"
    array = rng.integers(0, 255, range(2, 2 + len(axes)), np.uint8)
    tifffile.imwrite(path, array, imagej=suffix == ".tif", photometric="minisblack", metadata={"axes": axes})
    with pytest.raises(FileError, match=rf"has more than the axes Z, Y, X \({named}\); save one channel"):
        read_volume(path)


@pytest.mark.parametrize(("axis", "what"), [("T", "time points"), ("C", "channels")])
def test_pages_that_are_stated_to_be_no_slices(tmp_path, array, axis, what):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": f"{axis}YX"})
    with pytest.raises(FileError, match=f"states that its 3 pages are {what}, not slices along Z; .*Fiji"):
        read_volume(path)


def test_two_dimensions_colour_and_complex_are_refused(tmp_path, rng):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rng.integers(0, 255, (4, 5), np.uint8))
    with pytest.raises(FileError, match=r"a.tif' is a 2-D image of \(4, 5\) voxels"):
        read_volume(path)
    for options in ({}, {"imagej": True}):
        tifffile.imwrite(path, rng.integers(0, 255, (3, 4, 5, 3), np.uint8), photometric="rgb", **options)
        with pytest.raises(FileError, match=r"a.tif' is a colour image \(RGB\)"):
            read_volume(path)
    tifffile.imwrite(path, np.zeros((3, 4, 5), np.complex64), photometric="minisblack")
    with pytest.raises(FileError, match=r"a.tif' holds complex numbers"):
        read_volume(path)


def test_images_of_several_shapes_are_noted(tmp_path, array):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(array, photometric="minisblack", metadata={"axes": "ZYX"})
        writer.write(array[0, :2], photometric="minisblack")
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert any(
        note.endswith("(thumbnails or levels of a pyramid) are not read: (2, 5) (YX) of 16 bits")
        for note in volume.notes
    )


class TestOme:
    def _write(self, path, array, replaced=(), **metadata):
        tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata={"axes": "ZYX"} | metadata)
        if replaced:
            with tifffile.TiffFile(path) as tif:
                text = tif.pages.first.description
            for old, new in replaced:
                assert old in text
                text = text.replace(old, new)
            tifffile.imwrite(path, array, description=text, metadata=None, photometric="minisblack")
        return path

    @pytest.mark.parametrize(
        ("unit", "units", "factor"), [("µm", "um", 1), (None, "um", 1), ("nm", "nm", 1e-3), ("inch", "um", 25400)]
    )
    def test_units(self, tmp_path, array, unit, units, factor):
        sizes = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", (0.5, 0.25, 4), strict=True)}
        if unit:
            sizes |= {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
        volume = read_volume(self._write(tmp_path / "a.ome.tif", array, **sizes))
        assert volume.units == units
        assert volume.spacing_um == pytest.approx((4 * factor, 0.25 * factor, 0.5 * factor))

    @pytest.mark.parametrize("depth", [None, 0, -0.0, float("nan"), float("inf")])
    def test_a_size_that_is_missing_or_0_is_named_and_the_others_are_kept(self, tmp_path, array, depth):
        sizes = {"PhysicalSizeX": 2, "PhysicalSizeY": 3} | ({} if depth is None else {"PhysicalSizeZ": depth})
        path = self._write(tmp_path / "a.ome.tif", array, **sizes)
        volume = read_volume(path)
        assert volume.spacing_um == (1, 3, 2)
        assert volume.notes == (
            "the TIFF states no spacing along Z: 1 µm is taken, as ImageJ does, "
            "unless said otherwise (setting: spacing_um)",
        )
        given = read_volume(path, spacing_um=(5, 3, 2))
        assert (given.spacing_um, given.notes) == ((5, 3, 2), ())

    def test_the_unit_of_a_missing_size_is_that_of_its_own_axis(self, tmp_path, array):
        path = self._write(tmp_path / "a.ome.tif", array, PhysicalSizeZ=4, PhysicalSizeZUnit="nm", PhysicalSizeY=3)
        volume = read_volume(path)
        assert volume.spacing_um == pytest.approx((0.004, 3, 1))
        assert "along X: 1 µm is taken" in volume.notes[0]

    def test_without_any_size_the_spacing_is_unknown(self, tmp_path, array):
        volume = read_volume(self._write(tmp_path / "a.ome.tif", array, PhysicalSizeZ=0))
        assert volume.spacing_um is None
        assert "states no spacing" in volume.notes[0]

    @pytest.mark.parametrize(
        ("replaced", "message"),
        [
            ([("<OME", "<!DOCTYPE x [<!ENTITY a 'b'>]><OME")], "defines entities, which is refused"),
            ([("</Pixels>", "")], "its OME-XML cannot be read"),
            ([('SizeZ="3"', 'SizeZ="3000000000"')], "its OME-XML claims Z 3000000000, Y 4, X 5, its pages hold"),
            ([('SizeZ="3"', 'SizeZ="three"')], "does not state the size of the image"),
            ([('SizeZ="3"', "")], "does not state the size of the image"),
            ([('DimensionOrder="XYCZT"', 'DimensionOrder="XYZZT"')], "states the dimension order 'XYZZT'"),
            ([("<Pixels", "<Other"), ("</Pixels", "</Other")], "is an OME-TIFF of 0 images"),
            ([('<TiffData IFD="0"', '<TiffData FirstZ="1" IFD="0"')], "not in the order of C, Z, T"),
            (
                [
                    (
                        "</Pixels>",
                        '<TiffData><UUID FileName="../b.tif">b</UUID></TiffData>'
                        '<TiffData><UUID FileName="c.tif">c</UUID></TiffData></Pixels>',
                    )
                ],
                "is one of 2 files of an OME-TIFF",
            ),
        ],
    )
    def test_hostile_descriptions(self, tmp_path, array, replaced, message):
        path = self._write(tmp_path / "a.ome.tif", array, replaced)
        with pytest.raises(FileError, match=f"a.ome.tif'.* {message}"):
            read_volume(path)

    def test_planes_one_by_one_as_bioformats_lists_them(self, tmp_path, array):
        planes = "".join(f'<TiffData FirstC="0" FirstT="0" FirstZ="{z}" IFD="{z}" PlaneCount="1"/>' for z in range(3))
        path = self._write(tmp_path / "a.ome.tif", array, [("</Pixels>", f"{planes}</Pixels>")])
        assert np.array_equal(read_volume(path).array, array)


class TestDamaged:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is no TIFF that can be read: it starts with b''"),
            (b"II", "is no TIFF that can be read"),
            (b"II*\0", "is no TIFF that can be read"),
            (b"not a tiff at all", "is no TIFF that can be read: it starts with b'not '"),
            (b"II+\0\x08\0\0\0", "is no TIFF that can be read"),
            (b"II*\0\0\0\0\0", "is a TIFF without an image"),
            (b"II*\0\xff\xff\xff\x7f", r"page 1 lies beyond its end \(8 bytes\)"),
            (b"MM\0*\0\0\0\x08\xff\xff", r"page 1 lies beyond its end \(10 bytes\)"),
            (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "its pages run in a circle after 1"),
        ],
    )
    def test_no_tiff_at_all(self, tmp_path, content, message):
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(FileError, match=f"a.tif' .*{message}"):
            read_volume(tmp_path / "a.tif")

    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("imagej", [True, False])
    def test_cut_short(self, tmp_path, rng, compression, imagej, caplog):
        path = tmp_path / "a.tif"
        array = rng.integers(0, 65535, (20, 30, 40), np.uint16)
        tifffile.imwrite(path, array, imagej=imagej, compression=compression, photometric="minisblack")
        content = path.read_bytes()
        for kept in (len(content) * 4 // 5, len(content) // 2, 600):
            path.write_bytes(content[:kept])
            with pytest.raises(FileError, match=r"a.tif'"):
                read_volume(path)
        assert caplog.text == ""

    def test_a_chain_of_pages_that_breaks_off(self, tmp_path, rng):
        """Not one page less is returned in silence."""
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as writer:
            for _ in range(20):
                page = rng.integers(0, 255, (30, 40), np.uint8)
                writer.write(page, contiguous=False, metadata=None, photometric="minisblack")
        content = path.read_bytes()
        assert read_volume(path).shape == (20, 30, 40)
        with tifffile.TiffFile(path) as tif:
            ends = [page.dataoffsets[0] + page.databytecounts[0] for page in tif.pages]
        for kept in (ends[9], ends[9] + 4, ends[9] - 4):
            path.write_bytes(content[:kept])
            with pytest.raises(FileError, match=r"a.tif' is (cut short|damaged or no TIFF)"):
                read_volume(path)

    def test_a_packing_that_is_not_read(self, tmp_path, array):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array, metadata=None, photometric="minisblack")
        with tifffile.TiffFile(path, mode="r+b") as tif:
            for page in tif.pages:
                page.tags["Compression"].overwrite(50002)
        with pytest.raises(
            FileError, match=r"a.tif' is packed in a way that is not read \(JPEGXL\): save it uncompressed"
        ):
            read_volume(path)

    def test_header_that_claims_too_much(self, tmp_path, array):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array[0], metadata=None)
        for tag in (256, 257, 278):
            with tifffile.TiffFile(path, mode="r+b") as tif:
                tif.pages.first.tags[tag].overwrite(2_000_000_000, dtype=4)
        with pytest.raises(FileError, match=r"a.tif': its header claims [\d,]+ bytes of voxels, the file holds"):
            read_volume(path)

    def test_imagej_that_claims_too_many_slices(self, tmp_path, array):
        path = _imagej(tmp_path / "a.tif", array, "images=3000000\nslices=3000000\n")
        with pytest.raises(FileError, match=r"a.tif'"):
            read_volume(path)


class TestRefusedToWrite:
    def test_types(self, tmp_path):
        for dtype in ("int8", "int16", "int32", "uint32", "int64", "uint64", "float16", "float64"):
            with pytest.raises(FileError, match=f"ImageJ TIFF has no voxels of type {dtype}; convert to uint8, uint16"):
                write_volume(tmp_path / "a.tif", Volume(np.zeros((2, 2, 2), dtype)))
        for dtype in ("int64", "uint64", "float16"):
            with pytest.raises(FileError, match=f"OME-TIFF has no voxels of type {dtype}; convert to int8"):
                write_volume(tmp_path / "a.ome.tif", Volume(np.zeros((2, 2, 2), dtype)))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("directions", "origin"),
        [
            (upright(), [0, 0, 1]),
            ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], [0, 0, 0]),
            (np.eye(3), [0, 0, 0]),
            ([[0, 0.1, 1], [0, 1, 0], [1, 0, 0]], [0, 0, 0]),
        ],
    )
    @pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
    def test_geometry(self, tmp_path, directions, origin, suffix):
        volume = Volume(np.zeros((2, 2, 2), np.uint8), directions, origin, units="um")
        with pytest.raises(FileError, match=r"TIFF cannot hold the origin and axis directions .* write .nrrd"):
            write_volume(tmp_path / f"a{suffix}", volume)
        # What the message advises works.
        write_volume(tmp_path / f"a{suffix}", Volume(volume.array).with_spacing(volume.spacing_um))

    def test_spacing_beyond_32_bits(self, tmp_path):
        volume = Volume(np.zeros((2, 2, 2), np.uint8), upright((1, 1, 1e-12)), units="m")
        with pytest.raises(FileError, match="TIFF cannot hold a spacing of 1e-12; choose another unit"):
            write_volume(tmp_path / "a.tif", volume)


def test_the_real_light_sheet_volume(shared, tmp_path):
    volume = read_volume(shared / "data/lightsheet/brain_vessels.tif")
    assert volume.shape == (100, 100, 100)
    assert volume.array.dtype == np.uint16
    assert volume.spacing_um is None
    with tifffile.TiffFile(shared / "data/lightsheet/brain_vessels.tif") as tif:
        assert np.array_equal(volume.array, tif.asarray())
    back = read_volume(write_volume(tmp_path / "a.tif", volume.with_spacing((2, 1, 1))))
    assert np.array_equal(back.array, volume.array)
    with pytest.raises(InputError, match=r"is no mask: it holds 3 different values \(0, 1, 2\), expected 0 and 1"):
        read_annotation(shared / "data/lightsheet/brain_vessels_sparse.tif")
