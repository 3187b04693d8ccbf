"""Segmentations of 3D Slicer: what is read, which segment is meant, and what slicerio and SimpleITK make of ours."""

import nrrd as pynrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import Segment, read_annotation, read_segmentation, read_volume, write_segmentation, write_volume

LPS = "left-posterior-superior"
SHAPE = (4, 5, 6)


@pytest.fixture
def grid():
    directions = np.array([[0.1, -0.2, 1.7], [0.3, -2.1, -1 / 3], [-4.5, 0.6, 0.7]])
    return Volume(np.zeros(SHAPE, np.uint8), directions, [-12.3, 1e-7, 98765.4321], LPS, "um")


def _boxes():
    """Two boxes that touch but do not overlap, and one across both."""
    one, two, across = (np.zeros(SHAPE, bool) for _ in range(3))
    one[0:2, 1:3, 2:5] = True
    two[2:4, 1:3, 2:5] = True
    across[1:3, 0:2, 0:3] = True
    return one, two, across


def _slicer_file(path, segments, data, *, header=None):
    """Write a file as 3D Slicer does, through pynrrd; `segments` gives the texts of the keys of each."""
    fields = {"space": LPS, "space origin": np.zeros(3), "encoding": "gzip"}
    directions = np.eye(3) * 4.5
    if data.ndim == 4:
        fields |= {"kinds": ["list"] + ["domain"] * 3, "space directions": np.vstack([[np.nan] * 3, directions])}
    else:
        fields |= {"kinds": ["domain"] * 3, "space directions": directions}
    for index, texts in segments.items():
        fields |= {f"Segment{index}_{key}": text for key, text in texts.items()}
    pynrrd.write(str(path), data, fields | (header or {}), index_order="F")
    return path


def _layers(count=3):
    """Layer i (x, y, z) holds i + 1 voxels."""
    data = np.zeros((count, 3, 4, 5), np.uint8)
    for layer in range(count):
        data[layer].reshape(-1)[: layer + 1] = 1
    return data


def _named(*names, **more):
    return {
        i: {"ID": f"Segment_{i + 1}", "Name": name, "LabelValue": "1", "Layer": str(i)} | more
        for i, name in enumerate(names)
    }


class TestReal:
    """The ten published annotations: the lumen is the second layer of each, under three names."""

    def test_the_full_segmentation_is_chosen_in_every_file(self, shared):
        files = sorted((shared / "data/yolk_sac/annotations").glob("*.seg.nrrd"))
        assert len(files) == 10
        for file in files:
            annotation = read_annotation(file)
            data, header = pynrrd.read(str(file), index_order="C")
            assert annotation.segment.index == 1
            assert annotation.segment.name == header["Segment1_Name"]
            assert np.array_equal(annotation.mask.array, data[..., 1] == 1)
            assert annotation.mask.spacing_um == (4.5, 4.5, 4.5)
            assert annotation.segment.voxels == np.count_nonzero(annotation.mask.array)
            assert f"number 2 of {data.shape[3]}" in annotation.description

    def test_rewritten_file_holds_the_same_segments(self, shared, tmp_path):
        file = shared / "data/yolk_sac/annotations/annotation_082616_00_T46_iso_full.seg.nrrd"
        before = read_segmentation(file)
        masks = [(segment, before.mask(segment).array) for segment in before.segments]
        after = read_segmentation(write_segmentation(tmp_path / "a.seg.nrrd", masks, before.grid))
        for old, new in zip(before.segments, after.segments, strict=True):
            assert (new.name, new.id, new.color, new.tags) == (old.name, old.id, old.color, old.tags)
            assert (new.layer, new.extent, new.voxels) == (old.layer, old.extent, old.voxels)
            assert np.array_equal(after.mask(new).array, before.mask(old).array)


class TestReading:
    def test_overlapping_layers(self, tmp_path):
        data = _layers()
        segmentation = read_segmentation(_slicer_file(tmp_path / "a.seg.nrrd", _named("a", "b", "c"), data))
        assert [segment.voxels for segment in segmentation.segments] == [1, 2, 3]
        for layer, segment in enumerate(segmentation.segments):
            mask = segmentation.mask(segment)
            assert mask.array.dtype == bool
            assert mask.shape == (5, 4, 3)
            assert np.array_equal(mask.array, data[layer].T == 1)

    def test_shared_label_map_honours_label_values(self, tmp_path):
        data = np.zeros((3, 4, 5), np.uint8)
        data[0], data[1, 0] = 7, 2
        texts = {0: {"ID": "a", "Name": "seven", "LabelValue": "7"}, 1: {"ID": "b", "Name": "two", "LabelValue": "2"}}
        segmentation = read_segmentation(_slicer_file(tmp_path / "a.seg.nrrd", texts, data))
        assert [segment.voxels for segment in segmentation.segments] == [20, 5]
        assert np.array_equal(segmentation.mask(segmentation.segments[1]).array, data.T == 2)

    def test_two_segments_in_one_of_two_layers(self, tmp_path):
        data = np.zeros((2, 3, 4, 5), np.uint16)
        data[0, 0], data[0, 1], data[1] = 1, 300, 1
        texts = {
            0: {"ID": "a", "Name": "a", "LabelValue": "1", "Layer": "0"},
            1: {"ID": "b", "Name": "b", "LabelValue": "300", "Layer": "0"},
            2: {"ID": "c", "Name": "c", "LabelValue": "1", "Layer": "1"},
        }
        segmentation = read_segmentation(_slicer_file(tmp_path / "a.seg.nrrd", texts, data))
        assert [segment.voxels for segment in segmentation.segments] == [20, 20, 60]
        assert np.array_equal(segmentation.mask(segmentation.segments[1]).array, data[0].T == 300)

    def test_label_value_and_layer_may_be_absent(self, tmp_path):
        """As 3D Slicer has it: the value is 1, the layer is that of the index (4-D) or the only one (3-D)."""
        texts = {i: {"ID": f"S{i}", "Name": name} for i, name in enumerate("abc")}
        segmentation = read_segmentation(_slicer_file(tmp_path / "a.seg.nrrd", texts, _layers()))
        assert [(s.label_value, s.layer, s.voxels) for s in segmentation.segments] == [(1, 0, 1), (1, 1, 2), (1, 2, 3)]
        flat = {i: {"ID": f"S{i}", "Name": name, "LabelValue": str(i + 1)} for i, name in enumerate("ab")}
        data = np.full((3, 4, 5), 2, np.uint8)
        segmentation = read_segmentation(_slicer_file(tmp_path / "b.seg.nrrd", flat, data))
        assert [(s.label_value, s.layer, s.voxels) for s in segmentation.segments] == [(1, 0, 0), (2, 0, 60)]

    def test_one_layer_and_a_missing_name(self, tmp_path):
        path = _slicer_file(tmp_path / "a.seg.nrrd", {0: {"ID": "Segment_x"}}, _layers(1))
        annotation = read_annotation(path)
        assert annotation.segment.name == "Segment_x"
        assert annotation.description == "segment 'Segment_x' (index 0, number 1 of 1, 1 voxels) of 'a.seg.nrrd'"

    def test_index_is_that_of_the_keys_even_with_gaps(self, tmp_path):
        texts = _named("a", "b", "c")
        del texts[1]
        segmentation = read_segmentation(_slicer_file(tmp_path / "a.seg.nrrd", texts, _layers()))
        assert [segment.index for segment in segmentation.segments] == [0, 2]
        assert segmentation.choose("2").name == "c"

    def test_ten_segments_come_in_the_order_of_their_numbers(self, tmp_path):
        names = [f"n{i}" for i in range(12)]
        segmentation = read_segmentation(_slicer_file(tmp_path / "a.seg.nrrd", _named(*names), _layers(12)))
        assert [segment.name for segment in segmentation.segments] == names

    def test_names_beyond_ascii_and_escapes(self, tmp_path, grid):
        name = "Gefäß µ \\ two\nlines"
        path = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment(name), _boxes()[0])], grid)
        assert read_segmentation(path).segments[0].name == name
        assert sitk.ReadImage(str(path)).GetMetaData("Segment0_Name") == name

    def test_spacing_given_stands_above_the_file(self, tmp_path):
        path = _slicer_file(tmp_path / "a.seg.nrrd", _named("a"), _layers(1))
        assert read_annotation(path).mask.spacing_um == (4.5, 4.5, 4.5)
        assert len(read_annotation(path).mask.notes) == 1
        mask = read_annotation(path, spacing_um=(1, 2, 3)).mask
        assert (mask.spacing_um, mask.notes) == ((1, 2, 3), ())

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ({"Layer": "3"}, r"Segment0 lies in layer 3, the file has 3 \(0 to 2\)"),
            ({"Layer": "-1"}, "Segment0 lies in layer -1"),
            ({"Layer": "x"}, "a key of Segment0 is not the number it should be"),
            ({"LabelValue": "0"}, "Segment0 has the label value 0, expected 1 or more"),
            ({"LabelValue": "one"}, "not the number"),
            ({"Color": "1 2"}, "a Color of 3 and an Extent of 6 numbers"),
            ({"Extent": "1 2 3"}, "a Color of 3 and an Extent of 6 numbers"),
        ],
    )
    def test_bad_keys(self, tmp_path, texts, message):
        path = _slicer_file(tmp_path / "a.seg.nrrd", _named("a", **texts), _layers())
        with pytest.raises(FileError, match=f"a.seg.nrrd': .*{message}"):
            read_segmentation(path)

    def test_no_segments_and_float_labels(self, tmp_path):
        path = _slicer_file(tmp_path / "a.seg.nrrd", {}, _layers(1)[0])
        with pytest.raises(FileError, match=r"a.seg.nrrd' holds no segments"):
            read_segmentation(path)
        # A plain mask is a mask, whatever its file is called.
        assert read_annotation(path).description == "mask (1 voxels) of 'a.seg.nrrd'"
        path = _slicer_file(tmp_path / "b.seg.nrrd", _named("a"), _layers(1).astype(np.float32))
        with pytest.raises(FileError, match="labels of a segmentation are integers, found float32"):
            read_segmentation(path)

    def test_two_axes_of_layers(self, tmp_path):
        data = _layers(4).reshape(2, 2, 3, 4, 5)
        header = {
            "kinds": ["list", "list"] + ["domain"] * 3,
            "space directions": np.vstack([np.full((2, 3), np.nan), np.eye(3)]),
        }
        path = _slicer_file(tmp_path / "a.seg.nrrd", _named("a"), data, header=header)
        with pytest.raises(FileError, match="has 5 axes, expected x, y, z and at most one of layers"):
            read_segmentation(path)

    def test_as_an_image_a_layered_file_is_refused(self, tmp_path):
        path = _slicer_file(tmp_path / "a.seg.nrrd", _named("a", "b", "c"), _layers())
        with pytest.raises(
            FileError, match=r"has 4 axes \(list 3, domain 3, domain 4, domain 5\).*\(setting: segment\)"
        ):
            read_volume(path)


class TestChoosing:
    def _choose(self, tmp_path, names, wanted=None):
        path = _slicer_file(tmp_path / "a.seg.nrrd", _named(*names), _layers(len(names)))
        return read_annotation(path, segment=wanted).segment.index

    def test_the_only_one(self, tmp_path):
        assert self._choose(tmp_path, ["whatever"]) == 0

    @pytest.mark.parametrize(
        "name", ["full seg", "Full Mask", "full segmentation", "Full seg(mentation)", " FULL  SEG ", "full mask"]
    )
    def test_the_one_that_says_so(self, tmp_path, name):
        assert self._choose(tmp_path, ["auto", name, f"{name} + OFT veins"]) == 1

    def test_one_is_no_plural(self, tmp_path):
        with pytest.raises(InputError, match="holds 1 segment; none is 'b'"):
            self._choose(tmp_path, ["a"], wanted="b")

    @pytest.mark.parametrize(
        "names", [["auto", "artery"], ["full seg", "Full Mask"], ["full seg + veins", "a full seg"]]
    )
    def test_otherwise_they_are_listed(self, tmp_path, names):
        expected = rf"a.seg.nrrd' holds 2 segments; name one \(setting: segment\): 0 '{names[0]}' \(1 voxels\), 1 '"
        with pytest.raises(InputError, match=expected.replace("+", r"\+")) as caught:
            self._choose(tmp_path, names)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("wanted", "index"), [("artery", 2), ("ARTERY", 2), (" Artery ", 2), ("0", 0), (1, 1), ("2", 2)]
    )
    def test_by_name_or_index(self, tmp_path, wanted, index):
        assert self._choose(tmp_path, ["auto", "full seg", "Artery"], wanted) == index

    def test_a_name_stands_above_an_index_and_the_exact_name_above_its_case(self, tmp_path):
        assert self._choose(tmp_path, ["1", "zero"], 1) == 0
        assert self._choose(tmp_path, ["Vein", "vein"], "vein") == 1

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ("vessel", "none is 'vessel'"),
            (3, "none is '3'"),
            ("-1", "none is '-1'"),
            ("VEIN", "more than one is 'VEIN'"),
        ],
    )
    def test_what_is_not_there_or_not_one(self, tmp_path, wanted, message):
        with pytest.raises(
            InputError, match=rf"holds 3 segments; {message}, a name or an index \(setting: segment\): 0 'Vein' \(1 vox"
        ):
            self._choose(tmp_path, ["Vein", "vein", "auto"], wanted)


class TestWriting:
    def test_without_overlap_one_label_map(self, tmp_path, grid):
        one, two, _ = _boxes()
        segments = [(Segment("one", color=(1, 0, 0)), one), (Segment("two", id="my id", color=(0.1, 0.2, 0.3)), two)]
        path = write_segmentation(tmp_path / "a.seg.nrrd", segments, grid)
        data, header = pynrrd.read(str(path), index_order="C")
        assert np.array_equal(data, one * 1 + two * 2)
        assert header["kinds"] == ["domain"] * 3
        segmentation = read_segmentation(path)
        assert [(s.id, s.label_value, s.layer) for s in segmentation.segments] == [("Segment_1", 1, 0), ("my id", 2, 0)]
        # 3D Slicer cuts every segment of a layer to the extent of the first.
        assert [s.extent for s in segmentation.segments] == [(2, 4, 1, 2, 0, 3)] * 2

    def test_with_overlap_as_few_layers_as_need_be(self, tmp_path, grid):
        masks = _boxes()
        segments = [(Segment(name), mask) for name, mask in zip("abc", masks, strict=True)]
        path = write_segmentation(tmp_path / "a.seg.nrrd", segments, grid)
        segmentation = read_segmentation(path)
        assert segmentation.labels.shape == (*SHAPE, 2)
        assert [(s.layer, s.label_value) for s in segmentation.segments] == [(0, 1), (0, 2), (1, 1)]
        for segment, mask in zip(segmentation.segments, masks, strict=True):
            assert np.array_equal(segmentation.mask(segment).array, mask)

    @pytest.mark.parametrize("count", [2, 3])
    def test_slicerio_reads_back_what_was_written(self, tmp_path, grid, count):
        masks = _boxes()[:count]
        tags = {"Segmentation.Status": "completed", "Who": "Ana: 1"}
        segments = [
            (Segment(f"name {i}", color=(0.25, 0.5, i / 3), tags=tags | Segment("x").tags), mask)
            for i, mask in enumerate(masks)
        ]
        read = slicerio.read_segmentation(str(write_segmentation(tmp_path / "a.seg.nrrd", segments, grid)))
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = grid.directions[::-1].T, grid.origin
        assert np.array_equal(read["ijkToLPS"], affine)
        assert read["containedRepresentationNames"] == ["Binary labelmap"]
        assert read["masterRepresentation"] == "Binary labelmap"
        assert read["referenceImageExtentOffset"] == [0, 0, 0]
        ours = read_segmentation(tmp_path / "a.seg.nrrd")
        for found, (segment, mask), stated in zip(read["segments"], segments, ours.segments, strict=True):
            assert found["name"] == segment.name
            assert found["color"] == pytest.approx(segment.color, abs=1e-9)
            assert found["status"] == "inprogress"
            assert found["tags"] == {"Who": "Ana: 1"}
            assert found["terminology"]["type"] == ["SCT", "85756007", "Tissue"]
            assert (found["id"], found["layer"], found["extent"]) == (stated.id, stated.layer, list(stated.extent))
            voxels = read["voxels"] if read["voxels"].ndim == 3 else read["voxels"][found["layer"]]
            assert np.array_equal(voxels.T == found["labelValue"], mask)

    @pytest.mark.parametrize("count", [1, 3])
    def test_simpleitk_reads_the_voxels_where_they_are(self, tmp_path, grid, count):
        masks = _boxes()[:count]
        path = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment(f"{i}"), m) for i, m in enumerate(masks)], grid)
        image = sitk.ReadImage(str(path))
        data = sitk.GetArrayFromImage(image)
        assert np.array_equal(data if data.ndim == 3 else data[..., -1], masks[-1].astype(np.uint8))
        assert image.GetNumberOfComponentsPerPixel() == (1 if count == 1 else 2)
        assert image.GetMetaData("Segment0_LabelValue") == "1"
        # ITK makes the directions orthogonal; the origin and the lengths it keeps.
        assert image.GetOrigin() == pytest.approx(grid.origin, rel=1e-12)
        assert image.GetSpacing()[::-1] == pytest.approx(grid.spacing_um, rel=1e-12)

    def test_unstated_space_is_written_as_itk_reads_it(self, tmp_path):
        plain = Volume(np.zeros(SHAPE, np.uint8), upright((3, 2, 1)), [10, 20, 30], units="um")
        image = write_volume(tmp_path / "a.nrrd", plain)
        labels = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment("a"), _boxes()[0])], plain)
        assert pynrrd.read_header(str(labels))["space"] == LPS
        one, two = (sitk.ReadImage(str(path)) for path in (image, labels))
        for index in [(0, 0, 0), (5, 4, 3)]:
            assert one.TransformIndexToPhysicalPoint(index) == two.TransformIndexToPhysicalPoint(index)

    def test_unknown_spacing_stays_unknown(self, tmp_path):
        path = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment("a"), _boxes()[0])], Volume(np.zeros(SHAPE)))
        mask = read_annotation(path).mask
        assert (mask.units, mask.spacing_um) == ("voxel", None)
        assert np.array_equal(mask.directions, upright())
        assert slicerio.read_segmentation(str(path))["segments"][0]["name"] == "a"

    def test_empty_segments_and_a_volume_without_any_voxel_of_them(self, tmp_path, grid):
        nothing = np.zeros(SHAPE, bool)
        path = write_segmentation(tmp_path / "a.seg.nrrd", [(Segment("a"), nothing), (Segment("b"), nothing)], grid)
        assert [(s.voxels, s.extent) for s in read_segmentation(path).segments] == [(0, (0, -1) * 3)] * 2

    def test_more_segments_than_a_byte_can_number(self, tmp_path):
        grid = Volume(np.zeros((1, 1, 300), np.uint8), units="um")
        segments = [(Segment(f"s{i}"), np.arange(300).reshape(1, 1, 300) == i) for i in range(300)]
        segmentation = read_segmentation(write_segmentation(tmp_path / "a.seg.nrrd", segments, grid))
        assert segmentation.labels.dtype == np.uint16
        assert [segment.voxels for segment in segmentation.segments] == [1] * 300

    def test_detached(self, tmp_path, grid):
        path = write_segmentation(tmp_path / "a.seg.nhdr", [(Segment("a"), _boxes()[0])], grid)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.seg.nhdr", "a.seg.raw.gz"]
        assert np.array_equal(read_annotation(path).mask.array, _boxes()[0])

    def test_identifiers_do_not_clash(self, tmp_path, grid):
        one, two, _ = _boxes()
        path = write_segmentation(
            tmp_path / "a.seg.nrrd", [(Segment("a"), one), (Segment("b", id="Segment_1"), two)], grid
        )
        assert [segment.id for segment in read_segmentation(path).segments] == ["Segment_2", "Segment_1"]

    @pytest.mark.parametrize(
        ("segment", "mask", "message"),
        [
            (Segment("a"), np.zeros(SHAPE, np.uint8), "segment 'a' needs a mask of bool, found uint8"),
            (Segment("a"), np.zeros((4, 5, 7), bool), r"mask of shape \(4, 5, 7\), its grid is \(4, 5, 6\)"),
            (Segment("  "), np.zeros(SHAPE, bool), "segment '  ' has no name"),
            (Segment("a", color=(1, 2, 0)), np.zeros(SHAPE, bool), r"the colour \(1, 2, 0\), expected red"),
            (Segment("a", tags={"a|b": "c"}), np.zeros(SHAPE, bool), "has a tag with '|'"),
            (Segment("a", tags={"a": "b|c"}), np.zeros(SHAPE, bool), "has a tag with '|'"),
            (Segment("a", tags={"a:b": "c"}), np.zeros(SHAPE, bool), "a tag name with ':'"),
        ],
    )
    def test_what_cannot_be_written(self, tmp_path, grid, segment, mask, message):
        with pytest.raises(InputError, match=f"cannot write '.*a.seg.nrrd': .*{message}"):
            write_segmentation(tmp_path / "a.seg.nrrd", [(segment, mask)], grid)
        assert list(tmp_path.iterdir()) == []

    def test_no_segment_same_id_and_another_suffix(self, tmp_path, grid):
        one, two, _ = _boxes()
        with pytest.raises(InputError, match="there is no segment"):
            write_segmentation(tmp_path / "a.seg.nrrd", [], grid)
        with pytest.raises(InputError, match="two segments have the same id"):
            write_segmentation(
                tmp_path / "a.seg.nrrd", [(Segment("a", id="x"), one), (Segment("b", id="x"), two)], grid
            )
        with pytest.raises(FileError, match=r"a.nrrd': the name of a segmentation ends with .seg.nrrd"):
            write_segmentation(tmp_path / "a.nrrd", [(Segment("a"), one)], grid)
