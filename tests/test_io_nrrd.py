"""NRRD against pynrrd and SimpleITK, and everything a header can get wrong."""

import bz2
import gzip
import os
import zlib

import nrrd as pynrrd
import numpy as np
import pytest
import SimpleITK as sitk

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume
from micronet.io import read_volume, write_volume
from micronet.io.nrrd_header import escape, parse_header, unescape

LPS = "left-posterior-superior"
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]

# A rotation with no short decimals, axes flipped and of different length: nothing survives it by luck.
OBLIQUE = np.array([[0.1, -0.2, 1.7], [0.3, -2.1, -1 / 3], [-4.5, 0.6, 0.7]]) * 1.0000000000000002
ORIGIN = np.array([-12.345678901234567, 1e-7, 98765.4321])


def _array(rng, dtype="uint8", shape=(3, 4, 5)):
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def _file(path, lines, content=b""):
    path.write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + content)
    return path


BASE = ["type: uint8", "dimension: 3", "sizes: 5 4 3", "encoding: raw"]


def _base(**changes):
    fields = dict(line.split(": ", 1) for line in BASE) | {k.replace("_", " "): v for k, v in changes.items()}
    return [f"{name}: {value}" for name, value in fields.items() if value is not None]


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize("dtype", [*TYPES, ">u2", ">f4", "bool"])
def test_round_trip_keeps_voxels_and_geometry_to_the_bit(tmp_path, rng, dtype, suffix):
    array = rng.random((3, 4, 5)) > 0.5 if dtype == "bool" else _array(rng, dtype.strip(">")).astype(dtype)
    volume = Volume(array, OBLIQUE, ORIGIN, LPS, "mm")
    path = write_volume(tmp_path / f"a{suffix}", volume)
    back = read_volume(path)
    assert back.array.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
    assert back.array.flags.c_contiguous
    assert back.array.dtype.isnative
    assert np.array_equal(back.array, array)
    assert back.directions.tobytes() == volume.directions.tobytes()
    assert back.origin.tobytes() == volume.origin.tobytes()
    assert (back.space, back.units, back.notes) == (LPS, "mm", ())


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize("dtype", TYPES)
def test_pynrrd_reads_what_we_write(tmp_path, rng, dtype, suffix):
    volume = Volume(_array(rng, dtype), OBLIQUE, ORIGIN, LPS, "um")
    data, header = pynrrd.read(str(write_volume(tmp_path / f"a{suffix}", volume)), index_order="C")
    assert data.dtype == np.dtype(dtype)
    assert np.array_equal(data, volume.array)
    assert np.array_equal(header["space directions"][::-1], OBLIQUE)
    assert np.array_equal(header["space origin"], ORIGIN)
    assert header["space units"] == ["um"] * 3
    assert header["kinds"] == ["domain"] * 3


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", ">i8", "<f4", ">f4", ">f8"])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_we_read_what_pynrrd_writes(tmp_path, rng, encoding, dtype, suffix):
    array = _array(rng, dtype.strip("<>")).astype(dtype)
    path = tmp_path / f"a{suffix}"
    header = {
        "encoding": encoding,
        "space": LPS,
        "space directions": OBLIQUE[::-1].copy(),
        "space origin": ORIGIN,
        "space units": ["mm", "mm", "mm"],
    }
    pynrrd.write(str(path), array, header, index_order="C")
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype.isnative
    assert volume.directions.tobytes() == OBLIQUE.tobytes()
    assert volume.origin.tobytes() == ORIGIN.tobytes()
    # And what was read is written in the encoding it came in.
    again = write_volume(tmp_path / f"b{suffix}", volume)
    assert pynrrd.read_header(str(again))["encoding"] == encoding
    assert np.array_equal(pynrrd.read(str(again), index_order="C")[0], array)


def test_hand_written_header_gives_the_numbers_it_states(tmp_path):
    path = _file(
        tmp_path / "a.nrrd",
        [
            "# a comment",
            *_base(sizes="2 3 4"),
            "space: LPS",
            "space directions: (2, 0, 0) (0,0,-3) (0,4,0)",
            "space origin: (1,2,3)",
            'space units: "µm" "µm" "µm"',
        ],
        bytes(range(24)),
    )
    volume = read_volume(path)
    # x is fastest in the file: the voxel at (z, y, x) is number x + 2 y + 6 z.
    assert volume.array[3, 2, 1] == 1 + 2 * 2 + 6 * 3
    assert volume.shape == (4, 3, 2)
    assert volume.directions.tolist() == [[0, 4, 0], [0, 0, -3], [2, 0, 0]]
    assert volume.spacing_um == (4, 3, 2)
    assert (volume.space, volume.notes) == (LPS, ())


def test_no_unit_is_read_as_micrometres_and_not_written_either(tmp_path):
    fields = ["space: right-anterior-superior", "space directions: (4.5,0,0) (0,4.5,0) (0,0,4.5)"]
    volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60)))
    assert volume.spacing_um == (4.5, 4.5, 4.5)
    assert volume.space == "right-anterior-superior"
    assert len(volume.notes) == 1
    assert "no length unit is stated" in volume.notes[0]
    assert "4.5 x 4.5 x 4.5 is read as µm, unless said otherwise (setting: spacing_um)" in volume.notes[0]
    again = read_volume(write_volume(tmp_path / "b.nrrd", volume))
    assert again.notes == volume.notes
    stated = read_volume(tmp_path / "a.nrrd", spacing_um=(1, 2, 3))
    assert (stated.spacing_um, stated.notes) == ((1, 2, 3), ())
    assert read_volume(write_volume(tmp_path / "c.nrrd", stated)).notes == ()


def test_spacing_that_can_only_be_millimetres_is_called_out(tmp_path):
    fields = ["space: LPS", "space directions: (0.0045,0,0) (0,0.0045,0) (0,0,0.0045)"]
    volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60)))
    assert volume.notes[0].endswith(", such as 4.5,4.5,4.5 if they are mm (setting: spacing_um)")


@pytest.mark.parametrize(
    ("fields", "spacing", "units"),
    [
        (["spacings: 1 2 3", 'units: "mm" "mm" "mm"'], (3000, 2000, 1000), "mm"),
        (["spacings: 1 2 3", 'units: "micrometers" "microns" "um"'], (3, 2, 1), "um"),
        (["spacings: 1 2 3"], (3, 2, 1), "um"),
        (["spacings: nan nan nan"], None, "voxel"),
        (["space dimension: 3", "space directions: none none none"], None, "voxel"),
        (["space dimension: 3", "spacedirections: (1,0,0) (0,2,0) (0,0,3)"], (3, 2, 1), "um"),
        (
            ["space: LPS", "space directions: (1,0,0) (0,2,0) (0,0,3)", "space units: mm mm mm"],
            (3000, 2000, 1000),
            "mm",
        ),
        (["space: LPS", "space directions: (1,0,0) (0,2,0) (0,0,3)", 'space units: "" "" ""'], (3, 2, 1), "um"),
        (
            ["space: LPS", "space directions: (1,0,0) (0,2,0) (0,0,3)", 'space units: "voxel" "voxel" "voxel"'],
            None,
            "voxel",
        ),
        ([], None, "voxel"),
    ],
)
def test_spacing_and_units(tmp_path, fields, spacing, units):
    volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60)))
    assert volume.spacing_um == spacing
    assert volume.units == units
    again = read_volume(write_volume(tmp_path / "b.nrrd", volume))
    assert np.array_equal(again.directions, volume.directions)
    assert (again.units, again.space) == (volume.units, volume.space)


def test_without_any_spacing_the_note_names_the_flag(tmp_path):
    volume = read_volume(_file(tmp_path / "a.nrrd", BASE, bytes(60)))
    assert volume.notes == (
        "the NRRD header states no spacing: lengths are unknown until it is given in µm (setting: spacing_um)",
    )
    assert read_volume(tmp_path / "a.nrrd", spacing_um=(4, 5, 6)).spacing_um == (4, 5, 6)


@pytest.mark.parametrize(
    "fields",
    [
        _base(dimension="4", sizes="1 5 4 3", space="LPS", space_directions="none (1,0,0) (0,1,0) (0,0,1)"),
        _base(dimension="4", sizes="5 4 3 1", space="LPS", space_directions="(1,0,0) (0,1,0) (0,0,1) none"),
        _base(dimension="4", sizes="5 1 4 3", kinds="domain list domain domain", spacings="1 nan 1 1"),
        _base(dimension="4", sizes="5 4 3 1"),
    ],
)
def test_a_fourth_axis_of_length_one_is_dropped(tmp_path, fields):
    content = bytes(range(60))
    volume = read_volume(_file(tmp_path / "a.nrrd", fields, content))
    assert volume.array.tobytes() == content
    assert volume.shape == (3, 4, 5)
    again = read_volume(write_volume(tmp_path / "b.nrrd", volume))
    assert np.array_equal(again.directions, volume.directions)


def test_what_a_header_says_of_grid_and_person_is_carried_on(tmp_path):
    fields = [
        *BASE,
        "space: LPS",
        "space directions: (1,0,0) (0,1,0) (0,0,1)",
        "content: embryo 7",
        "centerings: cell cell cell",
        "measurement frame: (1,0,0) (0,1,0) (0,0,1)",
        "sample units: HU",
        "old min: 3",
        "who:=Ana: the ü, a \\\\ and a \\n",
        "Segment0_Name:=not of this volume",
        "Segmentation_MasterRepresentation:=Binary labelmap",
    ]
    volume = read_volume(_file(tmp_path / "a.nrrd", fields, bytes(60)))
    text = write_volume(tmp_path / "b.nrrd", volume.with_array(np.zeros(volume.shape))).read_bytes()
    header = text.split(b"\n\n")[0].decode()
    for line in [fields[i] for i in (6, 7, 8, 11)]:
        assert f"\n{line}" in header
    assert "sample units" not in header
    assert "old min" not in header
    assert "Segment" not in header
    # The caller's volume is not edited by writing.
    assert read_volume(tmp_path / "a.nrrd").header["nrrd"].fields == volume.header["nrrd"].fields


def test_line_and_byte_skip(tmp_path):
    content = bytes(range(60))
    _file(tmp_path / "a.nrrd", [*BASE, "line skip: 2", "byteskip: 3"], b"one\ntwo\nabc" + content)
    assert read_volume(tmp_path / "a.nrrd").array.tobytes() == content
    _file(tmp_path / "b.nrrd", [*BASE, "byte skip: -1"], b"whatever" + content)
    assert read_volume(tmp_path / "b.nrrd").array.tobytes() == content
    _file(tmp_path / "c.nrrd", _base(encoding="gz", byte_skip="3"), gzip.compress(b"abc" + content))
    assert read_volume(tmp_path / "c.nrrd").array.tobytes() == content


def test_gzip_in_several_members_and_line_ends_of_windows(tmp_path):
    content = bytes(range(60))
    lines = "\r\n".join(["NRRD0001", *_base(encoding="gzip"), "", ""]).encode()
    (tmp_path / "a.nrrd").write_bytes(lines + gzip.compress(content[:7]) + gzip.compress(content[7:]))
    assert read_volume(tmp_path / "a.nrrd").array.tobytes() == content


def test_detached_data_below_the_folder_and_skip_in_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(b"head" + bytes(range(60)))
    _file(tmp_path / "a.nhdr", [*BASE, "byte skip: 4", "data file: ./data/a.bin"])
    assert read_volume(tmp_path / "a.nhdr").array[2, 3, 4] == 59


class TestHostileDetached:
    def _read(self, tmp_path, name):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        return read_volume(_file(folder / "a.nhdr", [*BASE, f"data file: {name}"]))

    def test_outside_the_folder(self, tmp_path):
        secret = tmp_path / "secret.raw"
        secret.write_bytes(bytes(60))
        for name in (str(secret), "../secret.raw", "x/../../secret.raw"):
            with pytest.raises(FileError, match=r"a.nhdr': its data file .* lies outside the header's folder"):
                self._read(tmp_path, name)
        (tmp_path / "in" / "link.raw").symlink_to(secret)
        with pytest.raises(FileError, match=r"'link.raw' lies outside the header's folder"):
            self._read(tmp_path, "link.raw")

    def test_missing_folder_several_and_too_small(self, tmp_path):
        with pytest.raises(FileError, match=r"no.raw' does not exist"):
            self._read(tmp_path, "no.raw")
        with pytest.raises(FileError, match="is a folder"):
            self._read(tmp_path, ".")
        for name in ("LIST", "slice%03d.raw 1 3 1"):
            with pytest.raises(FileError, match="spreads its voxels over several files"):
                self._read(tmp_path, name)
        with pytest.raises(FileError, match=r"cannot be found|does not exist"):
            self._read(tmp_path, "a\0b")
        (tmp_path / "in" / "a.raw").write_bytes(bytes(59))
        with pytest.raises(FileError, match=r"a.raw': its header claims 60 bytes of voxels, the file holds 59"):
            self._read(tmp_path, "a.raw")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (_base(type=None), "has no 'type'"),
        (_base(sizes=None), "has no 'sizes'"),
        (_base(dimension=None), "has no 'dimension'"),
        (_base(encoding=None), "has no 'encoding'"),
        (_base(type="uint16"), "has no 'endian'"),
        (_base(type="uint16", endian="middle"), "'endian: middle' should be little or big"),
        (_base(type="block"), "voxels of type 'block', expected integers, float or double"),
        (_base(type="complex"), "voxels of type 'complex'"),
        (_base(encoding="hex"), "encoding 'hex' cannot be read; save it as raw, gzip or bzip2"),
        (_base(encoding="ascii"), "encoding 'ascii' cannot be read"),
        (_base(dimension="4"), "has 3 sizes, dimension 4"),
        (_base(sizes="5 4 -3"), "'sizes: 5 4 -3' should be 1 to 16 positive numbers"),
        (_base(sizes="5 4 0"), "'sizes: 5 4 0' should be"),
        (_base(sizes="5 4 x"), "'sizes: 5 4 x' .* should be whole numbers"),
        (_base(sizes="5 4 3.5"), "should be whole numbers"),
        (_base(sizes=f"5 4 {'9' * 5000}"), "should be whole numbers"),
        (_base(dimension="2", sizes="5 12"), "is a 2-D image, expected a 3-D volume: its axes are 5 x 12"),
        (_base(kinds="list domain domain"), "is a 2-D image.* list 5, domain 4, domain 3"),
        (_base(space="LPS", space_directions="none (1,0,0) (0,1,0)"), "is a 2-D image"),
        (_base(dimension="4", sizes="5 2 2 3"), "is 4-D, expected a 3-D volume: its axes are 5 x 2 x 2 x 3"),
        (
            _base(dimension="4", sizes="5 2 2 3", kinds="domain domain domain time"),
            r"has 4 axes \(domain 5, domain 2, domain 2, time 3\)",
        ),
        (_base(kinds="domain domain"), "2 'kinds' for 3 axes"),
        (_base(space="LPS", space_directions="(1,0,0) (0,1,0)"), "2 'space directions' for 3 axes"),
        (_base(space="LPS", space_directions="(1,0) (0,1) (1,1)"), "three vectors of three numbers"),
        (_base(space="LPS", space_directions="(1,0,x) (0,1,0) (0,0,1)"), "should be vectors such as"),
        (_base(space="LPS", space_directions="1 0 0"), "should be vectors such as"),
        (
            _base(space="LPS", space_directions="(1,0,0) (0,1,0) (0,1,0)"),
            "a.nrrd': the three axis directions must be independent",
        ),
        (
            _base(space="LPS", space_directions="(1,0,0) (0,1,0) (0,0,inf)"),
            "a.nrrd': directions and origin must be finite",
        ),
        (_base(space="LPS", space_origin="(1,2)"), "a.nrrd': 'space origin' must be one vector of 3 numbers"),
        (_base(space="up-up-and-away"), "space 'up-up-and-away' is not known; known: right-anterior-superior"),
        (_base(space="left-posterior-superior-date"), "space 'left-posterior-superior-date' is not known"),
        (
            _base(space="LPST", space_directions="(1,0,0) (0,1,0) (0,0,1)"),
            "'space directions' must be four vectors of four numbers each",
        ),
        (_base(space_dimension="2"), "space dimension 2, expected 3"),
        (_base(spacings="1 2"), "2 'spacings' for 3 axes"),
        (_base(spacings="1 2 x"), "should be numbers"),
        (_base(spacings="1 0 1"), "independent and longer than zero"),
        (
            _base(spacings="1 1 1", units='"mm" "mm" "um"'),
            r"units mm, um: expected one known length unit.*\(setting: spacing_um\)",
        ),
        (_base(spacings="1 1 1", units='"s" "s" "s"'), "units s: expected one known length unit"),
        (_base(line_skip="-1"), "line skip -1, byte skip 0 cannot be followed"),
        (_base(line_skip="9"), "line skip 9 goes past the end"),
        (_base(byte_skip="-2"), "byte skip -2 cannot be followed"),
        (_base(encoding="gzip", byte_skip="-1"), "byte skip -1 cannot be followed"),
        (_base(byte_skip="1"), "claims 60 bytes of voxels, the file holds 59"),
        ([*BASE, "type: int8"], "'type' stands twice"),
        ([*BASE, "key:=1", "key:=2"], "'key' stands twice"),
        ([*BASE, "no colon here"], "cannot make sense of the NRRD header line 'no colon here'"),
    ],
)
def test_bad_headers_are_refused_with_the_file_and_the_reason(tmp_path, fields, message):
    path = _file(tmp_path / "a.nrrd", fields, bytes(60))
    with pytest.raises(FileError, match=message) as caught:
        read_volume(path)
    assert "a.nrrd" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_unit_does_not_matter_when_the_spacing_is_given(tmp_path):
    fields = _base(spacings="1 1 1", units='"s" "s" "s"')
    volume = read_volume(_file(tmp_path / "a.nrrd", fields, bytes(60)), spacing_um=(2, 2, 2))
    assert volume.spacing_um == (2, 2, 2)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"NRRD0006\n", b"NRRD000x\n", b"\x89PNG\r\n\x1a\n", b"NRRD0004" + b"x" * 10**6]
)
def test_wrong_magic(tmp_path, content):
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(FileError, match=r"a.nrrd' is not a NRRD file that can be read"):
        read_volume(tmp_path / "a.nrrd")


def test_endless_header(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n" + b"#" * (3 << 20))
    with pytest.raises(FileError, match=r"a.nrrd': its NRRD header is longer than 2 MiB"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("sizes", ["5 4 3000000000000", "4000000000 4000000000 4000000000"])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path, sizes, encoding):
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
    path = _file(tmp_path / "a.nrrd", _base(sizes=sizes, encoding=encoding), pack(bytes(60)))
    with pytest.raises(FileError, match=r"header claims [\d,]+ bytes of voxels, the file holds 60"):
        read_volume(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_more_than_the_header_claims_is_an_error_that_names_both(tmp_path, encoding):
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
    path = _file(tmp_path / "a.nrrd", _base(encoding=encoding), pack(bytes(61)))
    with pytest.raises(FileError, match=r"a.nrrd': its header claims 60 bytes of voxels, the file holds 61"):
        read_volume(path)


def test_a_decompression_bomb_behind_a_small_header_is_not_unpacked(tmp_path):
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(160)) + packer.flush()
    path = _file(tmp_path / "a.nrrd", _base(encoding="gzip"), bomb)
    with pytest.raises(FileError, match="header claims 60 bytes of voxels, the file holds") as caught:
        read_volume(path)
    # Counting stops soon after 64 MiB; it neither keeps nor looks at the rest.
    assert int(str(caught.value).rsplit(" ", 1)[1].replace(",", "")) < 80 << 20


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_truncated_and_damaged(tmp_path, rng, encoding, pack):
    content = pack(rng.integers(0, 255, 60, np.uint8).tobytes())
    fields = _base(encoding=encoding)
    with pytest.raises(FileError, match=f"a.nrrd' is cut short: its {encoding} data ends before"):
        read_volume(_file(tmp_path / "a.nrrd", fields, content[:-9]))
    damaged = bytearray(content)
    damaged[12] ^= 0xFF
    with pytest.raises(FileError, match=f"b.nrrd' is damaged: its {encoding} data cannot be read"):
        read_volume(_file(tmp_path / "b.nrrd", fields, bytes(damaged)))
    with pytest.raises(FileError, match=f"c.nrrd' is damaged: its {encoding} data cannot be read"):
        read_volume(_file(tmp_path / "c.nrrd", fields, b"not packed at all"))


def test_axes_are_part_of_the_format(tmp_path):
    path = _file(tmp_path / "a.nrrd", BASE, bytes(60))
    assert read_volume(path, axes="zyx").shape == (3, 4, 5)
    with pytest.raises(
        InputError, match=r"a.nrrd' states its axes itself \(ZYX\); 'XYZ' \(setting: axes\) contradicts that"
    ):
        read_volume(path, axes="XYZ")


@pytest.mark.parametrize("dtype", ["float16", "longdouble"])
def test_types_that_nrrd_has_not(tmp_path, dtype):
    with pytest.raises(
        FileError, match=r"cannot write .*a.nrrd': NRRD has no voxels of type float(16|128|64); convert"
    ):
        write_volume(tmp_path / "a.nrrd", Volume(np.zeros((2, 2, 2), dtype)))
    assert os.listdir(tmp_path) == []


def test_a_key_that_would_break_the_header_is_refused(tmp_path):
    volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, "key:=1"], bytes(60)))
    volume.header["nrrd"].pairs["bad"] = "two\nlines"
    with pytest.raises(FileError, match=r"cannot write .*b.nrrd': a header entry holds a line break"):
        write_volume(tmp_path / "b.nrrd", volume)


def test_writing_twice_gives_the_same_bytes(tmp_path, rng):
    volume = Volume(_array(rng, "uint16"), OBLIQUE, ORIGIN, LPS, "um")
    one, two = (write_volume(tmp_path / name, volume).read_bytes() for name in ("a.nrrd", "b.nrrd"))
    assert one == two


def test_a_detached_pair_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "a.raw.gz").mkdir()
    with pytest.raises(FileError, match=r"a.raw.gz': it is a folder"):
        write_volume(tmp_path / "a.nhdr", Volume(np.zeros((2, 2, 2), np.uint8)))
    assert os.listdir(tmp_path) == ["a.raw.gz"]


def test_header_lines_need_no_file():
    header = parse_header(["NRRD0005\n", "Sizes: 1 2\n", "k:=v: w\n", "\n", "after: the end"])
    assert header.fields == {"sizes": "1 2"}
    assert header.pairs == {"k": "v: w"}


def test_values_are_what_pynrrd_reads_and_blanks_and_spellings_do_not_matter():
    lines = ["NRRD0005", "SpaceDirections: none( 2, 0,-0.0 )(0,1e-9,0)  (0 ,0, 4.5e-6)", "space origin: ( 1, 2, 3 )"]
    lines += ['SPACE UNITS: "µm (micro)" "a\\"b" mm', "spacings: nan 1e-9", "byteskip: -1", "sizes: 5  4 3"]
    header = parse_header(lines)
    none, *rows = header.vectors("space directions")
    assert none is None
    assert np.array_equal(rows, [[2, 0, 0], [0, 1e-9, 0], [0, 0, 4.5e-6]])
    assert np.signbit(rows[0][2])
    assert [row.tolist() for row in header.vectors("space origin")] == [[1, 2, 3]]
    assert header.strings("space units") == ["µm (micro)", 'a"b', "mm"]
    assert np.array_equal(header.floats("spacings"), [np.nan, 1e-9], equal_nan=True)
    assert (header.integers("byte skip"), header.integers("sizes")) == ([-1], [5, 4, 3])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sizes: 5 4 3.0", "whole numbers of at most 15 digits"),  # pynrrd would cut it
        ("sizes: 5 4 9999999999999999", "whole numbers of at most 15 digits"),  # and round this
        ("sizes: 5 4 inf", "whole numbers"),
        ("dimension: 3 3", "one whole number"),
        ("dimension:", "one whole number"),
        ("space directions: (1,0,0) (0,1)", "vectors such as"),  # NRRDError
        ("space directions: (1 2,0,0)", "vectors such as"),  # 12 is not what stands there
        ("space directions: (1,0,0", "vectors such as"),
        ("space directions:", "vectors such as"),
        ("space origin:", "vectors such as"),  # IndexError
        ("space origin: (1,2,3) (4,5,6)", "vectors such as"),
        ('space units: "mm" "mm', "quoted strings"),
        ("spacings: 1 2 x", "numbers"),
        ("spacings: " + "1 " * 6000, "numbers"),
    ],
)
def test_what_pynrrd_cannot_read_is_told_by_the_name_of_the_field_and_only_when_asked_for(line, expected):
    header = parse_header(["NRRD0005", "type: uint8", line], "a.nrrd")
    assert header.text("type") == "uint8"
    name = line.split(":")[0]
    read = {"whole": header.integers, "one": header.integers, "vectors": header.vectors, "quoted": header.strings}
    with pytest.raises(FileError, match=rf"^'a.nrrd': '{name}: .*' in the NRRD header should be {expected}") as caught:
        read.get(expected.split()[0], header.floats)(name)
    assert len(str(caught.value)) < 250


def test_a_field_and_a_key_of_one_name_are_two_things_and_a_key_keeps_its_blanks():
    header = parse_header(["NRRD0005", "type: uint8", "type:=  a : b", "key:=type: x", "mine: 1 (2, 3)"])
    assert header.fields == {"type": "uint8", "mine": "1 (2, 3)"}
    assert header.pairs == {"type": "  a : b", "key": "type: x"}


def test_custom_keys_are_written_as_they_came(tmp_path):
    keys = ["mine:=  two  blanks, 'a quote and µ", "empty:=", "path:=C:\\data", "type:=mine too", "x y:=(1, 2)"]
    volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, *keys], bytes(60)))
    header = write_volume(tmp_path / "b.nrrd", volume).read_bytes().split(b"\n\n")[0].decode()
    assert header.splitlines()[-len(keys) :] == keys


@pytest.mark.parametrize("text", ["", "plain", "a\\b", "line\nbreak", "\\n", "\\\\n", "a\\\nb"])
def test_escaping_is_undone(text):
    assert "\n" not in escape(text)
    assert unescape(escape(text)) == text


class TestFieldsThatTellOfAPlace:
    """Each is used as teem and ITK use it, or its loss is told."""

    @pytest.mark.parametrize("centers", [None, "cell cell cell", "node node node", "??? ??? ???"])
    def test_axis_mins_are_the_origin_where_there_is_no_other(self, tmp_path, centers):
        fields = ["spacings: 2 3 4", "axis mins: 10 20 30", *([f"centerings: {centers}"] if centers else [])]
        path = _file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60))
        volume, image = read_volume(path), sitk.ReadImage(str(path))
        assert tuple(volume.origin) == image.GetOrigin()
        assert volume.spacing_um == image.GetSpacing()[::-1]
        assert volume.notes == read_volume(_file(tmp_path / "b.nrrd", [*BASE, fields[0]], bytes(60))).notes
        assert sitk.ReadImage(str(write_volume(tmp_path / "c.nrrd", volume))).GetOrigin() == image.GetOrigin()

    @pytest.mark.parametrize(
        ("fields", "lost"),
        [
            (["axis mins: 10 20 30", "axis maxs: 16 32 50"], "axis mins, axis maxs"),
            (["spacings: 2 3 4", "axis maxs: 16 32 50"], "axis maxs"),
            (["spacings: 2 3 4", "axis mins: 10 nan 30"], "axis mins"),
            (["spacings: 2 3 4", "space: LPS", "space origin: (1,2,3)", "axis mins: 10 20 30"], "axis mins"),
            (["space: LPS", "space directions: (2,0,0) (0,3,0) (0,0,4)", "spacings: 1 1 1"], "spacings"),
            (["thicknesses: 2 3 4"], "thicknesses"),
            (["thicknesses: 2 3 what"], "thicknesses"),
            (["space: LPS", "measurement frame: (0,1,0) (1,0,0) (0,0,1)"], "measurement frame"),
        ],
    )
    def test_what_is_not_used_is_told(self, tmp_path, fields, lost):
        for options in ({}, {"spacing_um": (4, 3, 2)}):
            volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60)), **options)
            assert volume.notes[-1] == f"not used of the NRRD header: {lost}"

    @pytest.mark.parametrize(
        "fields",
        [
            ["thicknesses: nan nan nan", "axis mins: NaN NaN NaN"],
            ["space: LPS", "measurement frame: (1,0,0) (0,1,0) (0,0,1)"],
        ],
    )
    def test_what_says_nothing_needs_no_word(self, tmp_path, fields):
        volume = read_volume(_file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60)), spacing_um=(1, 2, 3))
        assert volume.notes == ()

    def test_a_spacing_that_is_missing_is_named_and_the_others_are_kept(self, tmp_path):
        fields = ["spacings: 2 3 nan", 'units: "um" "um" "um"']
        path = _file(tmp_path / "a.nrrd", [*BASE, *fields], bytes(60))
        volume = read_volume(path)
        assert volume.spacing_um == (1, 3, 2)
        assert "the NRRD header states no spacing along Z: 1 um is taken, as ITK does" in volume.notes[0]
        assert read_volume(path, spacing_um=(4, 3, 2)).notes == ()

    def test_a_spacing_of_0_needs_the_spacing(self, tmp_path):
        path = _file(tmp_path / "a.nrrd", [*BASE, "spacings: 2 3 0"], bytes(60))
        with pytest.raises(FileError, match="independent and longer than zero"):
            read_volume(path)
        assert read_volume(path, spacing_um=(4, 3, 2)).spacing_um == (4, 3, 2)
