"""Files made to do harm: what tests/fuzz/fuzz.py found, and what it would hardly find by chance."""

import bz2
import gzip
import json
import lzma
import os
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

import infer
import prepare
import train_micronet
from micronet.app.terminal import run
from micronet.core.errors import FileError, InputError
from micronet.core.provenance import write_json
from micronet.core.volume import Volume, upright
from micronet.data.dataset import DataSetError, load_split, read_dataset
from micronet.data.map_back import BackMapping, map_back, scan_of
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan
from micronet.io import Segment, files_of, open_stack, read_annotation, read_volume, write_segmentation, write_volume

HEADER = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 4 3\n"


def nrrd(path, fields, content=bytes(60)):
    path.write_bytes((HEADER + fields + "\n\n").encode() + content)
    return path


def most_memory(work):
    """Return the most bytes that Python and numpy held during some work beyond what they held before."""
    tracemalloc.start()
    try:
        work()
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most


class TestMessages:
    def test_a_file_cannot_steer_the_terminal(self, tmp_path):
        with pytest.raises(FileError, match=r"space '\\x1b\[2Jup' is not known"):
            read_volume(nrrd(tmp_path / "a.nrrd", "encoding: raw\nspace: \x1b[2Jup"))

    def test_a_long_value_is_cut_and_the_advice_stays(self, tmp_path):
        path = tmp_path / "a.nrrd"
        path.write_bytes(HEADER.replace("uint8", "A" * 70_000).encode() + b"encoding: raw\n\n")
        with pytest.raises(FileError, match="expected integers, float or double") as caught:
            read_volume(path)
        assert len(str(caught.value)) < 1010

    def test_a_line_break_stays_within_the_line(self):
        assert str(InputError("a\nb")) == r"a\nb"

    def test_a_name_that_no_file_can_have(self, tmp_path):
        for name in ("A" * 5000, "a\0b"):
            for read in (read_volume, read_annotation, files_of):
                with pytest.raises(FileError, match=r"is not there|cannot be found|does not exist"):
                    read(tmp_path / f"{name}.nrrd")
        with pytest.raises(FileError, match="cannot be found"):
            read_volume(nrrd(tmp_path / "a.nhdr", f"encoding: raw\ndata file: {'9' * 5000}"))

    def test_a_name_that_is_no_text_can_be_recorded(self, tmp_path):
        write_json(tmp_path / "a.json", {"path": os.fsdecode(b"scan\xff.nrrd")})
        assert rb'"scan%FF.nrrd"' in (tmp_path / "a.json").read_bytes()


class TestNrrd:
    @pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
    def test_what_is_to_be_skipped_is_not_kept_and_not_unpacked_for_ever(self, tmp_path, encoding, pack):
        path = nrrd(tmp_path / "a.nrrd", f"encoding: {encoding}\nbyte skip: {48 << 20}", pack(bytes((48 << 20) + 60)))
        assert most_memory(lambda: read_volume(path)) < 20 << 20
        path = nrrd(tmp_path / "a.nrrd", f"encoding: {encoding}\nbyte skip: {10**12}")
        for read in (read_volume, open_stack):
            with pytest.raises(FileError, match="byte skip 1,000,000,000,000 are more than is followed"):
                read(path)

    def test_a_line_without_end_is_not_kept_whole(self, tmp_path):
        path = nrrd(tmp_path / "a.nrrd", "encoding: raw\nline skip: 1", bytes(64 << 20))

        def read():
            with pytest.raises(FileError, match="line skip 1 goes past the end"):
                read_volume(path)

        assert most_memory(read) < 20 << 20
        path = nrrd(tmp_path / "a.nrrd", "encoding: raw\nline skip: 1000000", bytes(60))
        with pytest.raises(FileError, match="line skip 1,000,000, byte skip 0 are more than is followed"):
            read_volume(path)

    def test_more_voxels_than_an_array_can_have(self, tmp_path):
        path = tmp_path / "a.nrrd"
        path.write_bytes(HEADER.replace("5 4 3", "4294967295 4294967295 65536").encode() + b"encoding: gzip\n\n")
        for read in (read_volume, open_stack):
            with pytest.raises(FileError, match=r"a.nrrd': its header claims"):
                read(path)

    @pytest.mark.parametrize("field", ["line skip:", "byte skip:", "line skip: 1 2"])
    def test_a_skip_that_is_no_number(self, tmp_path, field):
        with pytest.raises(FileError, match=r"a.nrrd': '(line|byte) skip: .*' should be one whole number"):
            read_volume(nrrd(tmp_path / "a.nrrd", f"encoding: raw\n{field}"))


def test_a_nifti_whose_orientation_is_no_number_is_told_without_a_warning(tmp_path, rng):
    volume = Volume(rng.integers(0, 255, (3, 4, 5), np.uint8), space="right-anterior-superior", units="um")
    path = write_volume(tmp_path / "a.nii", volume)
    content = bytearray(path.read_bytes())
    content[280:284] = b"\x01\x00\x80\x7f"  # srow_x: a NaN that signals
    path.write_bytes(content)
    assert (
        "cannot be used (directions and origin must be finite numbers): the qform is taken"
        in read_volume(path).notes[0]
    )
    content[252:254] = bytes(2)  # no qform either
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"a.nii': directions and origin must be finite"):
        read_volume(path)


class TestNpy:
    @pytest.mark.parametrize("nested", ["[" * 3000, "(" * 3000, "-" * 30_000 + "1"])
    def test_brackets_that_are_too_deep_for_the_parser(self, tmp_path, nested):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {nested}}}".encode()
        for version, length in ((b"\1\0", struct.pack("<H", len(text))), (b"\3\0", struct.pack("<I", len(text)))):
            (tmp_path / "a.npy").write_bytes(b"\x93NUMPY" + version + length + text)
            with pytest.raises(FileError, match=r"a.npy': its .npy header cannot be read"):
                read_volume(tmp_path / "a.npy")

    def test_a_header_that_claims_gigabytes_is_not_read(self, tmp_path):
        with (tmp_path / "a.npy").open("wb") as stream:
            stream.write(b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 30))
            stream.truncate(2 << 30)  # sparse
        with pytest.raises(FileError, match=r"header cannot be read \(it claims 1,073,741,824 bytes\)"):
            read_volume(tmp_path / "a.npy")

    def test_a_huge_axis_beside_an_empty_one(self, tmp_path):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**62}, 0, 4)}}".encode()
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text)
        for read in (read_volume, open_stack):
            with pytest.raises(FileError, match=r"a.npy'"):
                read(tmp_path / "a.npy")


def tags(offset, count, compression=1, width=16, height=16):
    """The least that a page of a TIFF says."""
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: offset, 277: 1, 278: height, 279: count}
    return [(code, 4, 1, value) for code, value in values.items()]


def tiff(path, pages, body):
    """Write a classic TIFF: voxels, then pages one after the other."""
    content = bytearray(b"II*\0" + struct.pack("<I", 8 + len(body)) + body)
    for number, page in enumerate(pages, 1):
        following = len(content) + 2 + 12 * len(page) + 4 if number < len(pages) else 0
        content += struct.pack("<H", len(page)) + b"".join(struct.pack("<HHII", *tag) for tag in page)
        content += struct.pack("<I", following)
    path.write_bytes(content)
    return path


def read_two_planes(path):
    with open_stack(path) as stack:
        stack.read(0, 2)


def both_ways(path):
    """Read a TIFF whole, then plane by plane; return the errors."""
    errors = []
    for read in (read_volume, read_two_planes):
        with pytest.raises(FileError, match=path.name) as caught:
            read(path)
        errors.append(str(caught.value))
    return errors


class TestTiff:
    def test_this_way_of_writing_one_is_sound(self, tmp_path):
        path = tiff(tmp_path / "a.tif", [tags(8, 256), tags(264, 256)], bytes(range(256)) * 2)
        assert read_volume(path).array.shape == (2, 16, 16)

    @pytest.mark.parametrize("compression", [8, 34925])
    def test_a_strip_that_unpacks_to_far_more_than_the_image(self, tmp_path, compression):
        bomb = (zlib if compression == 8 else lzma).compress(bytes(40 << 20))
        path = tiff(tmp_path / "a.tif", [tags(8, len(bomb), compression), tags(8, 0, compression)], bomb)
        errors = []
        assert most_memory(lambda: errors.extend(both_ways(path))) < 20 << 20
        assert all("packed bytes of it unpack to more than 256" in error for error in errors)

    def test_strips_that_lie_over_each_other(self, tmp_path):
        packed = zlib.compress(bytes(256))
        assert read_volume(tiff(tmp_path / "b.tif", [tags(8, len(packed), 8)] * 2, packed)).shape == (2, 16, 16)
        large = zlib.compress(np.random.default_rng(1).bytes(4096))
        path = tiff(tmp_path / "a.tif", [tags(8, len(large), 8, 64, 64)] * 500, large)
        assert all("its strips take" in error for error in both_ways(path))

    def test_tiles_far_larger_than_the_image(self, tmp_path):
        path = tmp_path / "a.tif"
        options = {"tile": (16, 16), "compression": "zlib", "metadata": None, "photometric": "minisblack"}
        tifffile.imwrite(path, np.zeros((3, 20, 21), np.uint8), **options)
        with tifffile.TiffFile(path, mode="r+b") as tif:
            for page in tif.pages:
                page.tags["TileWidth"].overwrite(1 << 16)
                page.tags["TileLength"].overwrite(1 << 16)
        for error in both_ways(path):
            assert "a.tif'" in error

    def test_pages_that_lie_over_each_other(self, tmp_path):
        body = bytearray(b"II*\0" + struct.pack("<I", 8))
        for _ in range(4000):  # each page begins 12 bytes after the last and claims 200 tags
            body += struct.pack("<H", 200) + bytes(10)
        content = body + bytes(4096)
        for number in range(3999):
            at = 8 + 12 * number + 2 + 200 * 12
            content[at : at + 4] = struct.pack("<I", 8 + 12 * (number + 1))
        (tmp_path / "a.tif").write_bytes(content)
        assert all("is damaged" in error or "beyond its end" in error for error in both_ways(tmp_path / "a.tif"))

    def test_more_pages_than_are_read(self, tmp_path):
        page = struct.pack("<H", 1) + struct.pack("<HHII", 254, 4, 1, 0)
        content = b"II*\0" + struct.pack("<I", 8)
        content += b"".join(page + struct.pack("<I", 8 + 18 * number) for number in range(1, 100_003))
        (tmp_path / "a.tif").write_bytes(content)
        assert all("100,001 of its pages are more than are read" in error for error in both_ways(tmp_path / "a.tif"))

    def test_a_tag_of_millions_of_numbers(self, tmp_path):
        first = [*tags(8, 256), (40000, 3, 8_000_000, 8)]
        path = tiff(tmp_path / "a.tif", [first, tags(8, 256)], bytes(16 << 20))
        assert all("tag 40000 of page 1 holds 8,000,000 numbers" in error for error in both_ways(path))

    def test_no_file_stays_open_when_a_description_is_wrong(self, tmp_path):
        path = tiff(tmp_path / "a.tif", [[*tags(8, 256)[:-1], (279, 4, 4, 8)]] * 2, bytes(512))
        both_ways(path)
        assert not [found for found in psutil.Process().open_files() if found.path.endswith("a.tif")]

    @pytest.mark.parametrize(("kind", "packed"), [(12, struct.pack("<d", 6.8e-208)), (9, struct.pack("<i", -8))])
    @pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
    def test_voxels_that_begin_at_no_byte_there_is(self, tmp_path, kind, packed, tag):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.zeros((6, 20, 21), np.uint8), imagej=True)
        with tifffile.TiffFile(path) as tif:
            at = tif.pages.first.tags[tag].offset
        content = bytearray(path.read_bytes())
        value = packed if len(packed) == 4 else struct.pack("<I", len(content))
        content[at + 2 : at + 12] = struct.pack("<HI", kind, 1) + value
        path.write_bytes(content + packed)
        for error in both_ways(path):
            assert "no voxels can begin at byte" in error

    def test_damaged_lzma(self, tmp_path):
        path = tiff(tmp_path / "a.tif", [tags(8, 64, 34925)] * 2, b"\xfd7zXZ\0" + bytes(200))
        both_ways(path)


class TestPng:
    def test_a_chunk_that_claims_gigabytes_takes_no_room(self, tmp_path):
        path = tmp_path / "a.png"
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (33, 34), np.uint8)).save(path)
        sound, errors = path.read_bytes(), []
        at = sound.index(b"IDAT") - 4

        def read():
            with open_stack(tmp_path) as stack:
                stack.read(0, 1)

        read()
        for claimed in (200_000_000, 2**31 - 1, 2**32 - 1):
            path.write_bytes(sound[:at] + struct.pack(">I", claimed) + sound[at + 4 :])

            def refused():
                try:
                    read()
                except FileError as error:
                    errors.append(str(error))

            assert most_memory(refused) < 8 << 20
        assert all("a.png' is damaged" in error for error in errors)


class TestOutside:
    """No file that somebody sent makes anything open a file that the person did not name."""

    def data_set(self, folder, image):
        path = folder / "a.toml"
        volume = f'name = "a"\nsplit = "train"\nimage = "{image}"\nannotation = "own.nrrd"'
        path.write_text(f"[[volume]]\n{volume}\n", encoding="utf-8")
        return path

    @pytest.mark.parametrize("name", ["{secret}", "../secret.raw", "own/../../secret.raw", "link.raw", "/etc/passwd"])
    @pytest.mark.parametrize("script", [infer, prepare, train_micronet])
    def test_scripts_neither_open_nor_show_it(self, tmp_path, script, name, capsys):
        secret, folder = tmp_path / "secret.raw", tmp_path / "sent"
        secret.write_bytes(b"NRRD0004 of nobody else\n" + bytes(36))
        (folder / "own").mkdir(parents=True)
        (folder / "own.nrrd").touch()
        (folder / "link.raw").symlink_to(secret)
        named = name.format(secret=secret)
        places = ["--checkpoints", tmp_path / "c", "--logs", tmp_path / "l", "--run", "1"]
        arguments = {
            infer: lambda: [nrrd(folder / "a.nhdr", f"encoding: raw\ndata file: {named}"), "-o", tmp_path / "o"],
            prepare: lambda: [nrrd(folder / "a.nhdr", f"encoding: raw\ndata file: {named}"), "--domain", "log"],
            train_micronet: lambda: ["--dataset", self.data_set(folder, named), *places],
        }[script]()
        _OPENED.append("from here on")
        with pytest.raises(SystemExit, match="2"):
            run(script.build_parser(), script.main, [str(argument) for argument in arguments])
        opened = [os.path.realpath(folder / os.fsdecode(file)) for file in _OPENED]
        _OPENED.clear()
        out, err = capsys.readouterr()
        assert "lies outside" in err
        assert "nobody else" not in out + err
        assert "root:" not in out + err
        assert {str(folder / "a.nhdr"), str(folder / "a.toml")} & set(opened)
        assert not {str(secret), os.path.realpath("/etc/passwd")} & set(opened)


_OPENED = []


def _note_opened(event, arguments):
    if event == "open" and _OPENED and isinstance(arguments[0], str | bytes | os.PathLike):
        _OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(_note_opened)  # it cannot be removed: it does nothing unless the list has begun


class TestRecords:
    """The JSON that prepare.py wrote beside a scan may come from elsewhere too."""

    @pytest.fixture
    def record(self, tmp_path, rng):
        volume = Volume(rng.integers(0, 255, (32, 33, 34), np.uint8), upright((4.5, 4.5, 4.5)), units="um")
        write_volume(tmp_path / "scan.nrrd", volume)
        write_segmentation(tmp_path / "mask.seg.nrrd", [(Segment("full seg"), volume.array > 99)], volume)
        prepare_file(tmp_path / "scan.nrrd", Preparation(RawScan(), "log", output=tmp_path / "p"), say=lambda _: None)
        return tmp_path / "p" / "scan.json"

    def back(self, record):
        scan, mask = record.parents[1] / "scan.nrrd", record.parents[1] / "mask.seg.nrrd"
        job = BackMapping(scan, scan_of(record, RawScan()), record.parent, record_path=record)
        map_back(mask, job, say=lambda _: None)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("axes", 7),
            ("axes", ["Z"]),
            ("dtype", {}),
            ("depth_axis", ["Y"]),
            ("refractive_index", "x"),
            ("refractive_index", True),
            ("refractive_index", 10**400),
            ("spacing_um", [1, 2]),
            ("spacing_um", 4.5),
            ("spacing_um", [1, None, 2]),
            ("shape", [1.5, 2, 3]),
            ("shape", "32"),
        ],
    )
    def test_what_no_scan_can_have_is_told(self, record, key, value):
        found = json.loads(record.read_text(encoding="utf-8"))
        found["parameters"]["scan"][key] = value
        record.write_text(json.dumps(found), encoding="utf-8")
        with pytest.raises(FileError, match=rf"scan.json': its scan has {key} .*, which nothing can have"):
            self.back(record)

    @pytest.mark.parametrize("value", [10**400, None, [[1, 2], [3]], "x", [1, 2, 3, 4], {}])
    @pytest.mark.parametrize("key", ["shape_zyx", "directions_zyx", "origin"])
    def test_where_no_scan_can_lie_is_told(self, record, key, value):
        found = json.loads(record.read_text(encoding="utf-8"))
        found["raw"][key] = value
        record.write_text(json.dumps(found), encoding="utf-8")
        with pytest.raises(InputError, match=rf"is not the scan that '.*scan.json' tells of: its {key} is"):
            self.back(record)

    def test_it_is_sound_as_it_was_written(self, record):
        self.back(record)


class TestDataSets:
    @pytest.fixture
    def lab(self, tmp_path, rng):
        """A volume with its annotation and a data set, each in a folder of its own."""
        volume = Volume(rng.integers(0, 255, (32, 32, 32), np.uint8)).with_spacing((4.5,) * 3)
        for place in ("lab", "elsewhere"):
            (tmp_path / place).mkdir()
            write_volume(tmp_path / place / "a.nrrd", volume)
            write_segmentation(tmp_path / place / "a.seg.nrrd", [(Segment("full seg"), volume.array > 99)], volume)
        return tmp_path / "lab"

    def write(self, folder, image="a.nrrd", annotation="a.seg.nrrd"):
        path = folder / "lab.toml"
        path.write_text(
            f'[[volume]]\nname = "a"\nsplit = "train"\nimage = "{image}"\nannotation = "{annotation}"\n',
            encoding="utf-8",
        )
        return path

    def test_files_outside_its_folder_are_refused_unless_the_person_names_the_folder(self, lab):
        elsewhere = lab.parent / "elsewhere"
        for image in ("../elsewhere/a.nrrd", str(elsewhere / "a.nrrd"), "../lab/../elsewhere/a.nrrd", "/etc/passwd"):
            with pytest.raises(
                DataSetError, match=r"image = .* lies outside the data set's folder.*\(setting: also_in\)"
            ):
                read_dataset(self.write(lab, image))
        with pytest.raises(DataSetError, match=r"annotation = .* lies outside"):
            read_dataset(self.write(lab, annotation="../elsewhere/a.seg.nrrd"))
        dataset = read_dataset(self.write(lab, "../elsewhere/a.nrrd"), also_in=[elsewhere])
        assert len(load_split(dataset)["train"]) == 1
        assert len(load_split(read_dataset(self.write(lab, "../lab/a.nrrd")))["train"]) == 1

    def test_links_are_followed_before_that_is_decided(self, lab):
        (lab / "link.nrrd").symlink_to(lab.parent / "elsewhere" / "a.nrrd")
        (lab / "folder").symlink_to(lab.parent / "elsewhere")
        (lab / "inside.nrrd").symlink_to(lab / "a.nrrd")
        for image in ("link.nrrd", "folder/a.nrrd"):
            with pytest.raises(DataSetError, match="lies outside"):
                read_dataset(self.write(lab, image))
        read_dataset(self.write(lab, "inside.nrrd"))
        linked = lab.parent / "linked"
        linked.symlink_to(lab)
        read_dataset(self.write(linked))

    def test_a_folder_called_datasets_may_use_what_lies_beside_it_and_no_more(self, lab):
        (lab / "datasets").mkdir()
        read_dataset(self.write(lab / "datasets", "../a.nrrd", "../a.seg.nrrd"))
        with pytest.raises(DataSetError, match="lies outside"):
            read_dataset(self.write(lab / "datasets", "../../elsewhere/a.nrrd", "../a.seg.nrrd"))

    @pytest.mark.parametrize(
        "text",
        [
            "a = " + "[" * 5000,
            "a = " + "{b=" * 5000,
            "a." * 250_000 + "b = 1",
            "a = " + "9" * 5000,
            "a = 0000-99-99",
            "\x00",
            'a = "\\ud800"',
        ],
    )
    def test_text_that_the_parser_does_not_survive(self, tmp_path, text):
        (tmp_path / "a.toml").write_text(text, encoding="utf-8")
        with pytest.raises((FileError, DataSetError), match=r"a.toml'") as caught:
            read_dataset(tmp_path / "a.toml")
        assert isinstance(caught.value, DataSetError) or "\n" not in str(caught.value)

    def test_thousands_of_volumes_take_no_hours(self, tmp_path):
        volume = '[[volume]]\nname="{0}"\nsplit="train"\nimage="{1}"\nannotation="a"\n'
        for images, message in ((range(2000), None), (["one"] * 2000, "'one' is listed 2,000 times, at most 1000")):
            path = tmp_path / "a.toml"
            path.write_text("".join(volume.format(n, image) for n, image in enumerate(images)), encoding="utf-8")
            if message is None:
                assert len(read_dataset(path).entries) == 2000
                continue
            with pytest.raises(DataSetError, match=message):
                read_dataset(path)

    def test_paths_that_no_file_can_have(self, lab):
        for image in ("A" * 5000, "a\\u0000b"):
            with pytest.raises(DataSetError, match=r"is not there|cannot be found|does not exist"):
                load_split(read_dataset(self.write(lab, image)))

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.toml")
        with pytest.raises(FileError, match=r"cannot read data set '.*a.toml': it is no file"):
            read_dataset(tmp_path / "a.toml")

    def test_thousands_of_problems_are_a_screen_of_them(self, tmp_path):
        (tmp_path / "a.toml").write_text("[[volume]]\n" * 5000, encoding="utf-8")
        with pytest.raises(DataSetError, match="has 20000 problems") as caught:
            read_dataset(tmp_path / "a.toml")
        assert str(caught.value).splitlines()[-1] == "  .. and 19,960 more"
