"""The choice of a format, bare arrays (.npy, .raw), plain masks, and writing whole files or none."""

import os
import subprocess
import sys

import numpy as np
import pytest

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import (
    VOLUME_SUFFIXES,
    atomic_path,
    is_volume_path,
    read_annotation,
    read_volume,
    volume_stem,
    write_volume,
)
from micronet.io.checks import reading

TYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


class TestChoice:
    def test_suffixes_that_infer_lists(self, tmp_path):
        assert VOLUME_SUFFIXES == (".nrrd", ".nhdr", ".nii", ".nii.gz", ".tif", ".tiff", ".npy", ".raw", ".zarr")
        for suffix in (*VOLUME_SUFFIXES, ".NRRD", ".Nii.GZ", ".ome.tif"):
            assert is_volume_path(tmp_path / f"scan{suffix}")
        for name in (
            "a.seg.nrrd",
            "a.SEG.nhdr",
            ".hidden.nrrd",
            "._a.tif",
            "a.png",
            "a.json",
            "a.gz",
            "nrrd",
            "a.raw.gz",
        ):
            assert not is_volume_path(tmp_path / name), name

    def test_voxels_of_a_detached_header_are_no_volume_of_their_own(self, tmp_path):
        assert is_volume_path(tmp_path / "a.raw")
        (tmp_path / "a.nhdr").touch()
        assert not is_volume_path(tmp_path / "a.raw")

    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("x/a.nrrd", "a"),
            ("a.b.nii.gz", "a.b"),
            ("a.seg.nrrd", "a"),
            ("a.ome.tiff", "a"),
            ("A.TIF", "A"),
            ("a.txt", "a"),
        ],
    )
    def test_stem(self, name, stem):
        assert volume_stem(name) == stem

    def test_unknown_suffixes_name_the_known_ones(self, tmp_path):
        (tmp_path / "a.png").touch()
        known = r"known: .nrrd, .nhdr, .nii, .nii.gz, .tif, .tiff, .npy, .raw"
        with pytest.raises(FileError, match=f"a.png': no volume format has this suffix; {known}"):
            read_volume(tmp_path / "a.png")
        with pytest.raises(FileError, match=f"b.png': no volume format has this suffix; {known}"):
            write_volume(tmp_path / "b.png", Volume(np.zeros((2, 2, 2))))
        with pytest.raises(FileError, match=r"a.png': no volume format"):
            read_annotation(tmp_path / "a.png")

    def test_a_volume_is_not_written_under_the_name_of_a_segmentation(self, tmp_path):
        with pytest.raises(FileError, match=r"a.seg.nrrd': that is the name of a segmentation; write_segmentation"):
            write_volume(tmp_path / "a.seg.nrrd", Volume(np.zeros((2, 2, 2), np.uint8)))

    def test_what_cannot_be_opened(self, tmp_path):
        for reader in (read_volume, read_annotation):
            with pytest.raises(FileError, match=r"no.nrrd' does not exist"):
                reader(tmp_path / "no.nrrd")
            with pytest.raises(FileError, match="is a folder, expected a volume file"):
                reader(tmp_path)
        os.mkfifo(tmp_path / "pipe.nrrd")
        with pytest.raises(FileError, match=r"pipe.nrrd' is not a regular file"):
            read_volume(tmp_path / "pipe.nrrd")

    def test_paths_may_be_text(self, tmp_path):
        path = str(tmp_path / "a.nrrd")
        assert write_volume(path, Volume(np.zeros((2, 2, 2), np.uint8))) == tmp_path / "a.nrrd"
        assert read_volume(path).shape == (2, 2, 2)

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may open everything")
    def test_permission_denied(self, tmp_path):
        path = write_volume(tmp_path / "a.nrrd", Volume(np.zeros((2, 2, 2), np.uint8)))
        path.chmod(0)
        with pytest.raises(FileError, match=r"a.nrrd' cannot be opened: permission denied"):
            read_volume(path)

    def test_more_than_there_is_memory_for(self, tmp_path):
        path = tmp_path / "a.raw"
        with path.open("wb") as stream:
            stream.truncate(8 << 30)  # sparse: takes no room on the disk
        code = (
            "import resource, sys, micronet.io as io; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
            "try: io.read_volume(sys.argv[1], shape=(2048, 2048, 2048), dtype='uint8')\n"
            "except OSError as error: sys.exit(str(error))"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert done.stderr == f"'{path}' needs more memory than there is (8,589,934,592 bytes on disk)\n"

    def test_what_the_machine_refuses_is_told_in_one_line(self, tmp_path):
        with (
            pytest.raises(FileError, match=r"a.nrrd' cannot be read \(\[Errno 5\] Input/output error\)"),
            reading(tmp_path / "a.nrrd"),
        ):
            raise OSError(5, "Input/output error")

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".tif", ".npy"])
    def test_bad_spacing_is_refused(self, tmp_path, suffix):
        path = write_volume(tmp_path / f"a{suffix}", Volume(np.zeros((2, 2, 2), np.uint8)))
        with pytest.raises(InputError, match="spacing must be three positive lengths Z,Y,X in µm"):
            read_volume(path, spacing_um=(1, 0, 1))


class TestNpy:
    @pytest.mark.parametrize("dtype", [*TYPES, ">u2", ">f8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_read_what_numpy_wrote(self, tmp_path, rng, dtype, order):
        array = (rng.random((3, 4, 5)) * 100).astype(dtype, order=order)
        np.save(tmp_path / "a.npy", array)
        volume = read_volume(tmp_path / "a.npy")
        assert np.array_equal(volume.array, array)
        assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
        assert volume.array.flags.c_contiguous
        assert np.array_equal(volume.directions, upright())
        assert [note.split(":")[0] for note in volume.notes] == [
            "the file does not say what its axes mean",
            ".npy states no spacing",
        ]
        again = np.load(write_volume(tmp_path / "b.npy", volume))
        assert again.dtype == volume.array.dtype
        assert np.array_equal(again, array)

    @pytest.mark.parametrize(
        ("axes", "shape"), [("ZYX", (3, 4, 5)), ("xyz", (5, 4, 3)), ("YXZ", (5, 3, 4)), ("XZY", (4, 5, 3))]
    )
    def test_axes_are_put_in_order(self, tmp_path, axes, shape):
        array = np.arange(60).reshape(3, 4, 5)
        np.save(tmp_path / "a.npy", array)
        volume = read_volume(tmp_path / "a.npy", axes=axes, spacing_um=(3, 2, 1))
        assert volume.shape == shape
        position = dict(zip(axes.upper(), (1, 2, 3), strict=True))
        assert volume.array[position["Z"], position["Y"], position["X"]] == array[1, 2, 3]
        assert volume.spacing_um == (3, 2, 1)
        assert volume.notes == ()

    def test_a_fourth_axis_of_length_one_needs_a_name(self, tmp_path):
        array = np.arange(60).reshape(3, 1, 4, 5)
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_volume(tmp_path / "a.npy", axes="ZCYX").array, array[:, 0])
        with pytest.raises(
            FileError,
            match=r"has the shape \(3, 1, 4, 5\): more than a 3-D volume; name its axes, .*\(setting: axes\)",
        ):
            read_volume(tmp_path / "a.npy")
        with pytest.raises(FileError, match=r"more than the axes Z, Y, X \(T 3, Z 1, Y 4, X 5\)"):
            read_volume(tmp_path / "a.npy", axes="TZYX")

    @pytest.mark.parametrize("axes", ["", "ZY", "ZZYX", "ZYXQ", "ZYXS", "ABC", "Z Y X"])
    def test_axes_that_are_none(self, tmp_path, axes):
        np.save(tmp_path / "a.npy", np.zeros((3, 4, 5)))
        with pytest.raises(InputError, match=rf"axes '{axes}' \(setting: axes\): expected Z, Y and X once each"):
            read_volume(tmp_path / "a.npy", axes=axes)

    def test_axes_of_another_number(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((3, 4, 5)))
        with pytest.raises(
            InputError, match=r"a.npy': 'TZYX' \(setting: axes\) names 4 axes, the file has 3: \(3, 4, 5\)"
        ):
            read_volume(tmp_path / "a.npy", axes="TZYX")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 4)), r"has the shape \(3, 4\): no 3-D volume"),
            (np.float64(3), r"has the shape \(\): no 3-D volume"),
            (np.zeros((3, 0, 4)), r"has no voxels: its shape is \(3, 0, 4\)"),
            (np.zeros((2, 2, 2), complex), r"holds complex numbers \(complex128\), expected real numbers or bool"),
            (np.full((2, 2, 2), "text"), r"holds text \(<U4\)"),
            (np.full((2, 2, 2), b"text"), r"holds text \(\|S4\)"),
            (np.zeros((2, 2, 2), [("a", "u1")]), "holds records"),
            (np.zeros((2, 2, 2), [("µ", "u1")]), "holds records"),
            (np.zeros((2, 2, 2), "M8[s]"), "holds dates"),
            (np.zeros((2, 2, 2), "m8[s]"), "holds durations"),
            (np.zeros((2, 2, 2), np.longdouble), "holds voxels of type float"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Stored array in format")
    def test_what_is_no_volume(self, tmp_path, array, message):
        if array.dtype == np.float64 and array.dtype.name == np.dtype(np.longdouble).name:
            pytest.skip("long double is float64 here")
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(FileError, match=f"a.npy' {message}"):
            read_volume(tmp_path / "a.npy")

    def test_a_pickle_is_not_opened(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        bomb = np.full((2, 2, 2), None)
        bomb[0, 0, 0] = Bomb()
        np.save(tmp_path / "a.npy", bomb, allow_pickle=True)
        with pytest.raises(FileError, match=r"a.npy' holds Python objects \(object\)"):
            read_volume(tmp_path / "a.npy")
        assert not (tmp_path / "ran").exists()

    def test_a_header_and_a_file_that_disagree(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((4, 4, 4), np.uint16))
        content = (tmp_path / "a.npy").read_bytes()
        for changed, found in ((content[:-1], 127), (content + b"x", 129)):
            (tmp_path / "a.npy").write_bytes(changed)
            with pytest.raises(FileError, match=f"header claims 128 bytes of voxels, the file holds {found}"):
                read_volume(tmp_path / "a.npy")
        (tmp_path / "a.npy").write_bytes(content.replace(b"(4, 4, 4)", b"(4000000000000, 4, 4)"))
        with pytest.raises(FileError, match=r"a.npy'"):
            read_volume(tmp_path / "a.npy")
        (tmp_path / "a.npy").write_bytes(content.replace(b"(4, 4, 4)", b"(4,-4,-4)"))
        with pytest.raises(FileError, match=r"a.npy': its .npy header claims the shape \(4, -4, -4\)"):
            read_volume(tmp_path / "a.npy")

    @pytest.mark.parametrize("content", [b"", b"\x93NUM", b"PK\x03\x04 an .npz", b"\x93NUMPY\x01\x00\xff\xffx"])
    def test_no_npy_at_all(self, tmp_path, content):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(FileError, match=r"a.npy'(: its .npy header cannot be read| is not a .npy file)"):
            read_volume(tmp_path / "a.npy")


class TestRaw:
    @pytest.mark.parametrize("dtype", TYPES)
    def test_round_trip(self, tmp_path, rng, dtype):
        array = (rng.random((3, 4, 5)) * 100).astype(dtype)
        path = write_volume(tmp_path / "a.raw", Volume(array.astype(array.dtype.newbyteorder(">"))))
        volume = read_volume(path, shape=(3, 4, 5), dtype=dtype)
        assert np.array_equal(volume.array, array)
        assert volume.array.dtype == np.dtype(dtype)

    @pytest.mark.parametrize(
        ("dtype", "byteorder", "value"),
        [
            ("uint16", None, 0x0201),
            ("uint16", "little", 0x0201),
            ("uint16", "big", 0x0102),
            (">u2", None, 0x0102),
            ("<u2", "big", 0x0102),
        ],
    )
    def test_byte_order(self, tmp_path, dtype, byteorder, value):
        (tmp_path / "a.raw").write_bytes(b"\1\2" * 8)
        volume = read_volume(tmp_path / "a.raw", shape=(2, 2, 2), dtype=dtype, byteorder=byteorder)
        assert (volume.array == value).all()
        assert volume.array.dtype.isnative

    def test_shape_is_in_the_order_of_the_axes(self, tmp_path):
        (tmp_path / "a.raw").write_bytes(bytes(range(24)))
        volume = read_volume(tmp_path / "a.raw", shape=(2, 3, 4), dtype="uint8", axes="XYZ", spacing_um=(3, 2, 1))
        assert volume.shape == (4, 3, 2)
        assert volume.array[3, 2, 1] == 23
        assert volume.array[1, 0, 0] == 1
        assert volume.notes == ()

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({}, InputError, r"a.raw' has no header: give its shape, .* and voxel type \(settings: shape, dtype\)"),
            ({"shape": (2, 3, 4)}, InputError, "has no header"),
            ({"dtype": "uint8"}, InputError, "has no header"),
            (
                {"shape": (2, 3, 5), "dtype": "uint8"},
                FileError,
                r"a.raw' holds 24 bytes, but the shape \(2, 3, 5\) of uint8 takes 30",
            ),
            ({"shape": (2, 3, 4), "dtype": "uint16"}, FileError, "uint16 takes 48"),
            (
                {"shape": (10**9, 10**9, 10**9), "dtype": "uint8"},
                FileError,
                "takes 1,000,000,000,000,000,000,000,000,000",
            ),
            ({"shape": (4, 6), "dtype": "uint8"}, FileError, r"has the shape \(4, 6\): no 3-D volume"),
            (
                {"shape": (2, 3, 0), "dtype": "uint8"},
                InputError,
                r"shape .* \(setting: shape\): expected positive whole numbers",
            ),
            (
                {"shape": ("a",), "dtype": "uint8"},
                InputError,
                r"shape .* \(setting: shape\): expected positive whole numbers",
            ),
            (
                {"shape": (2, 3, 4), "dtype": "uint7"},
                InputError,
                r"voxel type 'uint7' \(setting: dtype\): expected a voxel type such as",
            ),
            ({"shape": (2, 3, 4), "dtype": "complex64"}, FileError, "complex numbers"),
            ({"shape": (2, 3, 4), "dtype": "object"}, FileError, "Python objects"),
            ({"shape": (2, 3, 4), "dtype": "uint8", "byteorder": "middle"}, InputError, "byteorder 'middle'"),
        ],
    )
    def test_options_that_do_not_fit(self, tmp_path, options, error, message):
        (tmp_path / "a.raw").write_bytes(bytes(24))
        with pytest.raises(error, match=message):
            read_volume(tmp_path / "a.raw", **options)


class TestMasks:
    """A plain mask is bool, {0, 1} or {0, 255}, in any format."""

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".tif", ".npy"])
    @pytest.mark.parametrize("foreground", [1, 255])
    def test_every_format(self, tmp_path, rng, suffix, foreground):
        mask = rng.random((3, 4, 5)) > 0.5
        path = write_volume(tmp_path / f"a{suffix}", Volume(mask * np.uint8(foreground)))
        annotation = read_annotation(path, segment="not looked at")
        assert annotation.mask.array.dtype == bool
        assert np.array_equal(annotation.mask.array, mask)
        assert annotation.segment is None
        assert annotation.description == f"mask ({mask.sum()} voxels) of 'a{suffix}'"

    @pytest.mark.parametrize("array", [np.zeros(8), np.ones(8), np.full(8, 255), np.arange(8) % 2, np.arange(8) > 3])
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", "int64"])
    def test_kinds_of_masks(self, tmp_path, array, dtype):
        array = array.astype(dtype).reshape(2, 2, 2)
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_annotation(tmp_path / "a.npy").mask.array, array != 0)

    @pytest.mark.parametrize(
        ("values", "listed"),
        [
            ([0, 1, 2], r"3 different values \(0, 1, 2\), expected 0 and 1, or 0 and 255"),
            ([0, 1, 255], r"3 different values \(0, 1, 255\)"),
            ([0, 2], r"2 different values \(0, 2\)"),
            ([0, 0.5], r"2 different values \(0, 0.5\)"),
            ([-1, 0, 1], r"3 different values \(-1, 0, 1\)"),
            ([0, 1, np.nan], r"3 different values \(0, 1, nan\)"),
            (range(8), r"8 different values \(0, 1, 2, 3, 4, 5, \.\.\)"),
        ],
    )
    def test_anything_else_lists_the_values(self, tmp_path, values, listed):
        np.save(tmp_path / "a.npy", np.resize(np.array(values, np.float32), (2, 2, 6)))
        with pytest.raises(InputError, match=f"a.npy' is no mask: it holds {listed}"):
            read_annotation(tmp_path / "a.npy")

    def test_options_of_the_image_hold_where_the_mask_does_not_say(self, tmp_path):
        """As infer.py passes them on: a mask that states its axes goes by these."""
        mask = np.arange(24).reshape(2, 3, 4) % 2
        (tmp_path / "a.raw").write_bytes(mask.astype(np.uint8).tobytes())
        annotation = read_annotation(tmp_path / "a.raw", axes="XYZ", shape=(2, 3, 4), spacing_um=(3, 2, 1))
        assert np.array_equal(annotation.mask.array, mask.T != 0)
        assert annotation.mask.spacing_um == (3, 2, 1)
        plain = Volume(annotation.mask.array)
        for suffix in (".nrrd", ".nii", ".tif"):
            path = write_volume(tmp_path / f"b{suffix}", plain)
            assert np.array_equal(read_annotation(path, axes="XYZ", shape=(2, 3, 4)).mask.array, plain.array)


class TestAtomic:
    def test_the_file_appears_whole(self, tmp_path):
        target = tmp_path / "a.nii.gz"
        with atomic_path(target) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            assert temporary.name.endswith(".a.nii.gz")
            assert not is_volume_path(temporary)
            temporary.write_text("new")
            assert not target.exists()
        assert target.read_text() == "new"
        assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]

    def test_a_failure_leaves_what_was_there(self, tmp_path):
        target = tmp_path / "a.txt"
        target.write_text("old")

        def fail():
            with atomic_path(target) as temporary:
                temporary.write_text("half")
                raise KeyboardInterrupt("stop")

        with pytest.raises(KeyboardInterrupt, match=r"^stop$"):
            fail()
        assert target.read_text() == "old"
        assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]

    def test_a_block_that_writes_nothing(self, tmp_path):
        with pytest.raises(FileError, match=r"cannot write '.*a.txt': No such file"), atomic_path(tmp_path / "a.txt"):
            pass

    def test_folders_that_are_missing_or_in_the_way(self, tmp_path):
        for suffix in VOLUME_SUFFIXES:
            volume = Volume(np.zeros((2, 2, 2), np.uint8))
            with pytest.raises(FileError, match=r"cannot write '.*': the folder '.*no' does not exist"):
                write_volume(tmp_path / "no" / f"a{suffix}", volume)
            (tmp_path / f"a{suffix}").mkdir()
            with pytest.raises(FileError, match=r"cannot write '.*': it is (a folder|there already)"):
                write_volume(tmp_path / f"a{suffix}", volume)

    def test_a_full_disk_is_told_in_one_line(self, tmp_path):
        def fail():
            with atomic_path(tmp_path / "a.txt") as temporary:
                temporary.touch()
                raise OSError(28, "No space left on device")

        with pytest.raises(FileError, match=r"cannot write '.*a.txt': No space left on device"):
            fail()
        assert list(tmp_path.iterdir()) == []

    def test_refusals_go_through_unchanged(self, tmp_path):
        with pytest.raises(FileError, match=r"^mine$"), atomic_path(tmp_path / "a.txt"):
            raise FileError("mine")
