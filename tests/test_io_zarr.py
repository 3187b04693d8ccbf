"""OME-Zarr as the library zarr writes and reads it; other readers where they are installed."""

import json
from importlib import metadata

import numpy as np
import pytest

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import files_of, open_recording, open_stack, read_annotation, read_volume, volume_stem, write_volume
from micronet.io.sidecar import scan_name
from micronet.io.zarr_write import LabelColour, Writer, write_from_planes, write_labels

zarr = pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")

SHAPE = (9, 20, 14)


def axes_of(letters, unit="micrometer"):
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": letter, "type": kinds.get(letter, "space")} | ({"unit": unit} if letter in "zyx" and unit else {})
        for letter in letters
    ]


def make(
    path, levels, *, version="0.5", letters="zyx", scale=(2.0, 1.0, 0.5), translation=None, unit="micrometer", **more
):
    """Write a store by hand, as zarr's own library has it."""
    form = 3 if version == "0.5" else 2
    datasets = []
    for number, array in enumerate(levels):
        separator = {"name": "default" if form == 3 else "v2", "separator": "/"}
        options = {"chunks": (4,) * array.ndim} | more
        made = zarr.create_array(
            path / str(number),
            shape=array.shape,
            dtype=array.dtype,
            zarr_format=form,
            chunk_key_encoding=separator,
            **options,
        )
        made[...] = array
        transforms = [{"type": "scale", "scale": [step * 2**number for step in scale]}]
        if translation:
            transforms.append({"type": "translation", "translation": list(translation)})
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
    image = {"axes": axes_of(letters, unit), "datasets": datasets}
    describe(path, image, version)
    return path


def describe(path, image, version="0.5"):
    if version == "0.4":
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": [image | {"version": "0.4"}]}))
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
        text = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (path / "zarr.json").write_text(json.dumps(text))


@pytest.fixture
def array(rng):
    return rng.integers(1, 60000, SHAPE, np.uint16)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_voxels_and_geometry_of_each_level_are_read(version, array, tmp_path):
    levels = [array, array[::2, ::2, ::2].copy()]
    path = make(tmp_path / "a.ome.zarr", levels, version=version, translation=(7, 8, 9))
    for number, expected in enumerate(levels):
        volume = read_volume(path, level=number)
        np.testing.assert_array_equal(volume.array, expected)
        assert volume.spacing_um == (2.0 * 2**number, 1.0 * 2**number, 0.5 * 2**number)
        assert volume.origin.tolist() == [9, 8, 7]
        assert volume.notes == ()
    assert volume_stem(path) == scan_name(path) == "a"
    with open_stack(path) as stack:
        np.testing.assert_array_equal(stack.read(3, 7), array[3:7])
        assert stack.axes == "ZYX"
        assert stack.sha256() == stack.sha256()
    assert all(file.is_file() for file in files_of(path))


def test_shards_and_big_endian_voxels_are_read(array, tmp_path):
    path = make(tmp_path / "a.zarr", [array], chunks=(4, 4, 4), shards=(8, 8, 8))
    np.testing.assert_array_equal(read_volume(path).array, array)
    old = make(tmp_path / "b.zarr", [array.astype(">u2")], version="0.4")
    assert read_volume(old).array.dtype == np.uint16
    np.testing.assert_array_equal(read_volume(old).array, array)


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [("nanometer", (2000, 1000, 500), (2, 1, 0.5)), ("millimeter", (0.002, 0.001, 0.0005), (2, 1, 0.5))],
)
def test_units_are_those_of_the_axes(unit, scale, expected, array, tmp_path):
    volume = read_volume(make(tmp_path / "a.zarr", [array], unit=unit, scale=scale))
    np.testing.assert_allclose(volume.spacing_um, expected)


def test_a_missing_unit_is_noted(array, tmp_path):
    volume = read_volume(make(tmp_path / "a.zarr", [array], unit=""))
    assert volume.units_assumed
    assert any("no length unit is stated" in note for note in volume.notes)
    assert read_volume(tmp_path / "a.zarr", spacing_um=(1, 2, 3)).spacing_um == (1, 2, 3)


def test_one_channel_is_a_volume_and_two_are_refused(array, tmp_path):
    one = make(tmp_path / "a.zarr", [array[None, None]], letters="tczyx", scale=(1, 1, 2, 1, 0.5))
    np.testing.assert_array_equal(read_volume(one).array, array)
    two = make(tmp_path / "b.zarr", [np.stack([array, array])], letters="czyx", scale=(1, 2, 1, 0.5))
    with pytest.raises(FileError, match=r"more than the axes Z, Y, X \(C 2"):
        read_volume(two)


def test_time_points_are_read_one_by_one(array, tmp_path):
    path = make(tmp_path / "a.zarr", [np.stack([array, array + 1, array + 2])], letters="tzyx", scale=(1, 2, 1, 0.5))
    with open_recording(path) as recording:
        assert recording.count == 3
        np.testing.assert_array_equal(recording.read(2).array, array + 2)


def test_chunks_that_are_not_stored_are_told(array, tmp_path):
    path = make(tmp_path / "a.zarr", [array])
    (path / "0" / "c" / "1" / "2" / "0").unlink()
    volume = read_volume(path)
    assert (volume.array[4:8, 8:12, 0:4] == 0).all()
    assert any("1 of 60 chunks are not stored: they are read as 0" in note for note in volume.notes)


def test_a_chunk_that_is_cut_short_is_one_line(array, tmp_path):
    for number, more in enumerate([{}, {"compressors": None}, {"shards": (8, 8, 8)}]):
        path = make(tmp_path / f"{number}.zarr", [array], **more)
        chunk = path / "0" / "c" / "0" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes()[:-9])
        with pytest.raises(FileError, match=rf"{number}.zarr' is damaged or cut short: a chunk cannot be read"):
            read_volume(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{", "zattrs' cannot be read"),
        (lambda text: "[]", "holds no JSON object"),
        (lambda text: text.replace("multiscales", "plate"), "names no multiscales"),
        (lambda text: text.replace('"0.4"', '"0.1"'), r"is OME-Zarr 0.1; 0.4 and 0.5 can be read"),
        (lambda text: text.replace('"path": "0"', '"path": "../x"'), "level 0 lies nowhere in it"),
        (lambda text: text.replace('"path": "0"', '"path": "9"'), "has no array '9'"),
        (
            lambda text: text.replace('"path": "0"', f'"path": "{"A" * 5000}"'),
            "has no array 'AAA",
        ),  # no file is called so
        (lambda text: text.replace('"path": "0"', '"path": "a\\u0000b"'), r"has no array 'a\\x00b'"),
        (lambda text: text.replace("[2.0, 1.0, 0.5]", "[2.0, 1.0]"), "a scale of .*expected 3 numbers"),
        (lambda text: text.replace("[2.0, 1.0, 0.5]", "[2.0, 0, 0.5]"), "expected positive numbers"),
        (lambda text: text.replace('"scale",', '"affine",'), "a transformation of type 'affine'"),
        (lambda text: text.replace("micrometer", "furlong"), "units of its axes are"),
        (lambda text: text.replace('"name": "z"', '"name": "q"'), "its axes are Q, Y, X"),
    ],
)
def test_wrong_metadata_is_one_line(change, message, array, tmp_path):
    path = make(tmp_path / "a.zarr", [array], version="0.4")
    text = (path / ".zattrs").read_text()
    (path / ".zattrs").write_text(change(text))
    assert (path / ".zattrs").read_text() != text
    with pytest.raises(FileError, match=message) as error:
        read_volume(path)
    assert "a.zarr" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("strange", ["x", 1.5, [], [[]]])
def test_codecs_that_are_not_described_are_refused(strange, array, tmp_path):
    path = make(tmp_path / "a.zarr", [array])
    found = json.loads((path / "0" / "zarr.json").read_text())
    for codecs in ([{"name": "bytes", "configuration": strange}], strange):
        (path / "0" / "zarr.json").write_text(json.dumps(found | {"codecs": codecs}))
        with pytest.raises(FileError, match=r"a.zarr'"):
            read_volume(path)


def test_a_codec_that_unpickles_is_refused(array, tmp_path):
    path = make(tmp_path / "a.zarr", [array], version="0.4")
    found = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(found | {"filters": [{"id": "pickle"}]}))
    with pytest.raises(FileError, match="packed with 'pickle'"):
        read_volume(path)
    (path / "0" / ".zarray").write_text(json.dumps(found | {"chunks": [100000, 100000, 100000]}))
    with pytest.raises(FileError, match="none that can be read"):
        read_volume(path)


def test_a_level_that_is_not_there_and_a_folder_that_is_no_store_are_told(array, tmp_path):
    path = make(tmp_path / "a.zarr", [array])
    with pytest.raises(InputError, match=r"has level 0 only, not 3 \(setting: level\)"):
        read_volume(path, level=3)
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(FileError, match=r"b.zarr' is no OME-Zarr"):
        read_volume(tmp_path / "b.zarr")


def test_a_library_that_is_too_old_or_missing_is_told(array, tmp_path, monkeypatch):
    path = make(tmp_path / "a.zarr", [array])
    monkeypatch.setattr("micronet.io.zarr.version", lambda _: "2.18.3")
    with pytest.raises(InputError, match=r"needs zarr 3 or later, 2.18.3 is installed: pip install"):
        read_volume(path)

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("micronet.io.zarr.version", missing)
    with pytest.raises(InputError, match=r"needs the package zarr: pip install 'zarr>=3.1'"):
        read_volume(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_what_is_written_is_read_again(dtype, rng, tmp_path):
    array = (rng.random((5, 300, 70)) * 200).astype(np.uint8) if dtype == np.uint8 else rng.random((5, 300, 70)) > 0.5
    volume = Volume(array.astype(dtype), upright((3, 2, 1)), np.array([1.0, 2.0, 3.0]), units="um")
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, volume.array)
    assert (found.spacing_um, found.origin.tolist(), found.notes) == ((3, 2, 1), [1, 2, 3], ())
    assert [file.name for file in tmp_path.iterdir()] == ["a.ome.zarr"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_pyramid_halves_all_axes_and_keeps_places(version, rng, tmp_path):
    array = rng.integers(0, 255, (4, 300, 131), np.uint8)
    grid = Volume(array, upright((4, 2, 1)), np.array([10.0, 20.0, 30.0]), units="um")
    write_from_planes(tmp_path / "a.zarr", grid, iter(array), version)
    one = read_volume(tmp_path / "a.zarr", level=1)
    assert one.shape == (2, 150, 66)
    assert one.spacing_um == (8, 4, 2)
    assert one.origin.tolist() == [10.5, 21, 32]
    mean = array[:, :, :130].reshape(2, 2, 150, 2, 65, 2).mean((1, 3, 5))
    np.testing.assert_array_equal(one.array[:, :, :65], np.rint(mean))
    two = read_volume(tmp_path / "a.zarr", level=2)
    assert two.shape == (1, 75, 33)
    opened = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert sorted(opened.array_keys()) == ["0", "1", "2"]
    assert opened["0"].chunks == (4, 128, 128)


def test_labels_are_a_mask_with_a_colour(rng, tmp_path):
    mask = rng.random((6, 20, 30)) > 0.5
    grid = Volume(mask, upright((2, 2, 2)), units="um")
    image = Writer.of(tmp_path / "a.zarr", grid, np.dtype(np.uint8))
    image[slice(0, 6), slice(0, 20), slice(0, 30)] = mask * np.uint8(200)
    labels = write_labels(tmp_path / "a.zarr", grid, LabelColour("lumen", (1, 0, 0)), "0.5")
    labels[slice(0, 6), slice(0, 20), slice(0, 30)] = mask
    found = read_annotation(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found.mask.array, mask)
    assert "labels 'lumen'" in found.description
    told = zarr.open_group(tmp_path / "a.zarr" / "labels" / "lumen", mode="r").attrs["ome"]["image-label"]
    assert told["colors"] == [{"label-value": 1, "rgba": [255, 0, 0, 255]}]
    with pytest.raises(InputError, match="has no labels 'nerve', only lumen"):
        read_annotation(tmp_path / "a.zarr", segment="nerve")


def test_nothing_is_replaced_and_turned_axes_are_refused(array, tmp_path):
    path = write_volume(tmp_path / "a.zarr", Volume(array))
    with pytest.raises(FileError, match="it is there already"):
        write_volume(path, Volume(array))
    turned = Volume(array, np.array([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]]), units="um")
    with pytest.raises(FileError, match="no turned or mirrored axes"):
        write_volume(tmp_path / "b.zarr", turned)
    (tmp_path / "none").write_text("a file")
    with pytest.raises(FileError, match="cannot write"):
        write_volume(tmp_path / "none" / "c.zarr", Volume(array))


def test_other_readers_open_what_is_written(array, tmp_path):
    reader = pytest.importorskip("ome_zarr.io", reason="requirements-zarr.txt is not installed")
    nodes = pytest.importorskip("ome_zarr.reader")
    path = write_volume(tmp_path / "a.ome.zarr", Volume(array, upright((3, 2, 1)), units="um"))
    (node, *_) = nodes.Reader(reader.parse_url(path))()
    np.testing.assert_array_equal(np.asarray(node.data[0]), array)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_py_opens_an_image_with_its_labels_and_their_colour(version, array, tmp_path):
    reader = pytest.importorskip("ome_zarr.io", reason="requirements-zarr.txt is not installed")
    nodes = pytest.importorskip("ome_zarr.reader")
    path, grid = tmp_path / "a.ome.zarr", Volume(array, upright((3, 2, 1)), units="um")
    path.mkdir()
    box = tuple(slice(0, length) for length in array.shape)
    Writer.of(path, grid, array.dtype, version=version)[box] = array
    write_labels(path, grid, LabelColour(), version)[box] = (array > 0).astype(np.uint8)
    image, _, labels = nodes.Reader(reader.parse_url(path))()
    np.testing.assert_array_equal(np.asarray(image.data[0]), array)
    np.testing.assert_array_equal(np.asarray(labels.data[0]), array > 0)
    assert labels.metadata["name"] == "lumen"
    assert labels.metadata["color"][1] == pytest.approx([*LabelColour().colour, 1], abs=1 / 255)


@pytest.mark.filterwarnings("ignore:Dimension .* is too small:UserWarning")  # it makes a pyramid all the same
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_ngff_zarr_and_ome_zarr_py_write_is_read(version, array, tmp_path):
    ngff = pytest.importorskip("ngff_zarr", reason="requirements-zarr.txt is not installed")
    writer = pytest.importorskip("ome_zarr.writer", reason="requirements-zarr.txt is not installed")
    formats = pytest.importorskip("ome_zarr.format")
    image = ngff.to_ngff_image(
        array,
        dims=["z", "y", "x"],
        scale={"z": 3.0, "y": 2.0, "x": 1.0},
        translation={"z": 30.0, "y": 0.0, "x": 0.0},
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )
    ngff.to_ngff_zarr(str(tmp_path / "n.ome.zarr"), ngff.to_multiscales(image, scale_factors=[]), version=version)
    found = read_volume(tmp_path / "n.ome.zarr")
    np.testing.assert_array_equal(found.array, array)
    assert (found.spacing_um, found.origin.tolist()) == ((3, 2, 1), [0, 0, 30])
    form = formats.FormatV04() if version == "0.4" else formats.FormatV05()
    writer.write_image(array, str(tmp_path / "o.zarr"), axes=list("zyx"), fmt=form)
    np.testing.assert_array_equal(read_volume(tmp_path / "o.zarr").array, array)


def test_ngff_zarr_opens_what_is_written(array, tmp_path):
    ngff = pytest.importorskip("ngff_zarr", reason="requirements-zarr.txt is not installed")
    path = write_volume(tmp_path / "a.ome.zarr", Volume(array, upright((3, 2, 1)), units="um"))
    image = ngff.from_ngff_zarr(str(path)).images[0]
    np.testing.assert_array_equal(np.asarray(image.data), array)
    assert image.scale == {"z": 3, "y": 2, "x": 1}


@pytest.mark.parametrize(("version", "driver"), [("0.4", "zarr"), ("0.5", "zarr3")])
def test_tensorstore_opens_what_is_written(version, driver, array, tmp_path):
    tensorstore = pytest.importorskip("tensorstore", reason="requirements-zarr.txt is not installed")
    write_from_planes(tmp_path / "a.zarr", Volume(array), iter(array), version)
    store = {"driver": "file", "path": str(tmp_path / "a.zarr" / "0")}
    found = tensorstore.open({"driver": driver, "kvstore": store}).result()
    np.testing.assert_array_equal(found.read().result(), array)


def test_boxes_that_are_no_whole_chunks_are_refused_by_the_writer(tmp_path):
    grid = Volume(np.zeros((40, 30, 20), np.uint8))
    image = Writer.of(tmp_path / "a.zarr", grid, np.dtype(np.uint8), chunk=(16, 16, 20))
    box = slice(16, 32), slice(16, 30), slice(0, 20)
    Writer(tmp_path / "a.zarr")[box] = np.ones((16, 14, 20), np.uint8)  # as another process does
    for wrong in (slice(0, 12), slice(8, 16)):
        with pytest.raises(InputError, match=r"of 'a.zarr' are not whole chunks of \(16, 16, 20\) voxels"):
            image[wrong, slice(0, 16), slice(0, 20)] = np.ones((8, 16, 20), np.uint8)
    image.finish()
    assert read_volume(tmp_path / "a.zarr").array.sum() == 16 * 14 * 20
