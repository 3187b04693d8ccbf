"""Chunks that unpack to more than they may hold are refused before there is room made for them."""

import json
from importlib.metadata import version

import numpy as np
import pytest

from micronet.core.errors import FileError
from micronet.io import read_annotation, read_volume

zarr = pytest.importorskip("zarr", reason="needs zarr")
numcodecs = pytest.importorskip("numcodecs", reason="needs zarr")
pytestmark = pytest.mark.skipif(int(version("zarr").split(".")[0]) < 3, reason="needs zarr 3")

AXES = [{"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"]
SCALE = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
IMAGE = {"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": [SCALE]}]}
BOMB = np.zeros(8 << 20, np.uint8)
PACKERS = {
    "blosc": numcodecs.Blosc(),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
}
CODECS = {"blosc": zarr.codecs.BloscCodec, "zstd": zarr.codecs.ZstdCodec, "gzip": zarr.codecs.GzipCodec}


def store(path, array, zarr_format, **packing):
    """Write an array as the one level of an image."""
    zarr.create_array(path / "0", data=array, zarr_format=zarr_format, **packing)
    if zarr_format == 2:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": [IMAGE | {"version": "0.4"}]}))
    else:
        told = {"ome": {"version": "0.5", "multiscales": [IMAGE]}}
        (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": told}))
    return path


@pytest.fixture
def array(rng):
    return rng.integers(0, 9, (8, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize("name", PACKERS)
def test_a_chunk_of_zarr_2_that_unpacks_to_too_much_is_refused(name, array, tmp_path):
    path = store(tmp_path / "a.zarr", array, 2, chunks=(8, 8, 8), compressors=PACKERS[name])
    assert np.array_equal(read_volume(path).array, array)
    next(file for file in (path / "0").rglob("0*") if file.is_file()).write_bytes(PACKERS[name].encode(BOMB))
    with pytest.raises(FileError, match=r"a.zarr' is damaged: a chunk of 512 bytes claims to hold [\d,]+$"):
        read_volume(path)


@pytest.mark.parametrize("shards", [None, (8, 8, 8)])
@pytest.mark.parametrize("name", CODECS)
def test_a_chunk_of_zarr_3_that_unpacks_to_too_much_is_refused(name, shards, array, tmp_path):
    codec = CODECS[name]()
    path = store(tmp_path / "a.zarr", array, 3, chunks=(4, 8, 8), shards=shards, compressors=codec)
    assert np.array_equal(read_volume(path).array, array)
    file = path / "0" / "c" / "0" / "0" / "0"
    bomb = bytes(PACKERS[name].encode(BOMB))
    if shards:  # the first chunk lies at the beginning, the index, with its checksum, at the end
        index = np.array([0, len(bomb), 2**64 - 1, 2**64 - 1], "<u8").tobytes()
        bomb += index + bytes(numcodecs.CRC32C().encode(index))[:4]
    file.write_bytes(bomb)
    with pytest.raises(FileError, match=r"a.zarr' is damaged: a chunk of 256 bytes claims to hold [\d,]+$"):
        read_volume(path)


def test_the_second_stream_of_a_chunk_counts_too(array, tmp_path):
    packer = PACKERS["gzip"]
    path = store(tmp_path / "a.zarr", array, 2, chunks=(8, 8, 8), compressors=packer)
    (path / "0" / "0.0.0").write_bytes(packer.encode(array) + packer.encode(BOMB))
    with pytest.raises(FileError, match="claims to hold"):
        read_volume(path)


def test_what_is_packed_twice_and_shards_in_shards_are_refused(array, tmp_path):
    path = store(tmp_path / "a.zarr", array, 3, compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()])
    with pytest.raises(FileError, match=r"a.zarr' is packed twice, with zstd and gzip, which cannot be read"):
        read_volume(path)
    path = store(tmp_path / "b.zarr", array, 3, chunks=(4, 4, 4), shards=(8, 8, 8))
    told = json.loads((path / "0" / "zarr.json").read_text())
    inner = told["codecs"][0]["configuration"]
    inner["codecs"] = [{"name": "sharding_indexed", "configuration": {**inner, "chunk_shape": [2, 2, 2]}}]
    (path / "0" / "zarr.json").write_text(json.dumps(told))
    with pytest.raises(FileError, match="has shards in shards, which cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("claimed", [[2**53, 8, 8], [8, 8, 2**53], [8, 8, 10**6]])
def test_a_shape_that_chunks_do_not_fill_is_refused(claimed, array, tmp_path):
    path = store(tmp_path / "a.zarr", array, 3, chunks=(8, 8, 8))
    told = json.loads((path / "0" / "zarr.json").read_text())
    (path / "0" / "zarr.json").write_text(json.dumps(told | {"shape": claimed}))
    with pytest.raises(FileError, match=r"its metadata claim the shape \(.*\), of [\d,]+ chunks it has 1$"):
        read_volume(path)
    image = store(tmp_path / "b.zarr", array, 3)
    (image / "labels").mkdir()
    (image / "labels" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"labels": ["lumen"]}}})
    )
    path.rename(image / "labels" / "lumen")
    with pytest.raises(FileError, match=r"its metadata claim the shape \(.*\), of [\d,]+ chunks it has 1$"):
        read_annotation(image)
