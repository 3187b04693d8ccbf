"""Packed TIFFs and depths that are no whole bytes, against what tifffile, Pillow and SimpleITK read."""

import lzma
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from micronet.core.errors import FileError
from micronet.io import open_stack, read_annotation, read_volume

SHAPE = (5, 37, 43)  # rows of bits that end within a byte


@pytest.fixture
def smooth(rng):
    """A stack that packs well and has all values of 8 bits."""
    z, y, x = np.indices(SHAPE)
    return ((z * 40 + y * 3 + x * 2 + rng.integers(0, 9, SHAPE)) % 256).astype(np.uint8)


@pytest.fixture
def bits(smooth):
    return smooth > 120


def same_both_ways(path, expected):
    volume = read_volume(path)
    assert volume.array.dtype == expected.dtype
    assert np.array_equal(volume.array, expected)
    with open_stack(path) as stack:
        assert np.array_equal(stack.read(1, 4), expected[1:4])


def pillow(path, array, compression=None, **more):
    first, *rest = [Image.fromarray(plane) for plane in array]
    first.save(path, save_all=True, append_images=rest, compression=compression, **more)
    return path


def frames(path):
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.array(image))
    return np.stack(found)


def packed_bits(plane, depth):
    """Return the rows of an image as TIFF packs them: highest bit first, each row from a whole byte on."""
    bits = (plane[..., None].astype(np.int64) >> np.arange(depth)[::-1]) & 1
    return np.packbits(bits.reshape(len(plane), -1).astype(np.uint8), axis=1).tobytes()


class TestCodecs:
    @pytest.mark.parametrize("compression", ["lzw", "deflate", "adobe_deflate", "zstd", "packbits", "lzma"])
    @pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32"])
    @pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 32)}], ids=["whole", "strips", "tiles"])
    def test_lossless_packing_keeps_every_voxel(self, tmp_path, smooth, compression, dtype, layout):
        array = smooth.astype(dtype)
        path = tmp_path / "a.tif"
        options = {"byteorder": ">"} if dtype == ">u2" else {}
        tifffile.imwrite(path, array, photometric="minisblack", compression=compression, **layout, **options)
        same_both_ways(path, array.astype(array.dtype.newbyteorder("=")))

    @pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
    @pytest.mark.parametrize(("dtype", "predictor"), [("uint8", 2), ("uint16", 2), ("float32", 3)])
    @pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}], ids=["strips", "tiles"])
    def test_predictors(self, tmp_path, smooth, compression, dtype, predictor, layout):
        array = smooth.astype(dtype) * 7
        path = tmp_path / "a.tif"
        options = {"compression": compression, "predictor": predictor, "photometric": "minisblack"}
        tifffile.imwrite(path, array, **options, **layout)
        same_both_ways(path, array)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate", None])
    def test_as_pillow_packs(self, tmp_path, smooth, compression):
        path = pillow(tmp_path / "a.tif", smooth, compression)
        assert np.array_equal(frames(path), smooth)
        same_both_ways(path, smooth)

    @pytest.mark.parametrize("compressor", ["PackBits", "LZW", "Deflate"])
    def test_as_itk_packs(self, tmp_path, smooth, compressor):
        path = tmp_path / "a.tif"
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(path))
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(smooth))
        same_both_ways(path, smooth)

    @pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}, {"rowsperstrip": 16}], ids=["whole", "tiles", "strips"])
    @pytest.mark.parametrize("depth", [8, 12])
    def test_jpeg_is_what_the_others_unpack(self, tmp_path, smooth, layout, depth):
        array = smooth if depth == 8 else smooth.astype(np.uint16) * 16
        path = tmp_path / "a.tif"
        options = {"compression": "jpeg", "compressionargs": {"level": 95}, "photometric": "minisblack", **layout}
        tifffile.imwrite(path, array, bitspersample=depth, **options)
        expected = tifffile.imread(path)
        same_both_ways(path, expected)
        assert np.abs(expected.astype(int) - array).max() < (60 if depth == 8 else 60 * 16)

    def test_jpeg_as_pillow_packs(self, tmp_path, smooth):
        path = pillow(tmp_path / "a.tif", smooth, "jpeg", quality=90)
        found = read_volume(path).array
        assert np.abs(found.astype(int) - frames(path)).max() <= 1  # two builds of libjpeg may round apart
        same_both_ways(path, found)


class TestBits:
    def test_the_public_report(self, shared):
        folder = shared / "faults" / "05-tiff-one-bit"
        mask = read_annotation(folder / "mask_1bit.tif").mask.array
        assert mask.shape == (36, 48, 40)
        assert np.array_equal(mask, read_annotation(folder / "mask_8bit.tif").mask.array)

    @pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
    def test_one_bit_of_tifffile(self, tmp_path, bits, compression):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, bits, photometric="minisblack", compression=compression)
        same_both_ways(path, bits)
        assert np.array_equal(read_annotation(path).mask.array, bits)

    @pytest.mark.parametrize("compression", [None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
    def test_one_bit_of_pillow(self, tmp_path, bits, compression):
        path = pillow(tmp_path / "a.tif", bits, compression)
        assert np.array_equal(frames(path), bits)
        same_both_ways(path, bits)

    def test_what_is_shown_inverted_is_read_as_stored_and_told(self, tmp_path, bits):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, bits, photometric="miniswhite")
        volume = read_volume(path)
        assert np.array_equal(volume.array, tifffile.imread(path))
        assert any("MinIsWhite" in note for note in volume.notes)

    @pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 20, 24, 31])
    def test_depths_that_are_no_whole_bytes(self, tmp_path, rng, depth):
        dtype = np.uint8 if depth < 9 else np.uint16 if depth < 17 else np.uint32
        array = rng.integers(0, 1 << depth, SHAPE).astype(dtype)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array, photometric="minisblack", bitspersample=depth)
        content = path.read_bytes()
        assert all(packed_bits(plane, depth) in content for plane in array)
        assert np.array_equal(tifffile.imread(path), array)
        same_both_ways(path, array)

    def test_four_voxels_of_twelve_bits_by_hand(self, tmp_path):
        strip = bytes.fromhex("123456789abc")
        for packing, content in ((1, strip), (8, zlib.compress(strip)), (5, imagecodecs.lzw_encode(strip))):
            path = hostile(tmp_path / "a.tif", content, packing, bits=12, width=2, height=2)
            assert read_volume(path).array[0].tolist() == [[0x123, 0x456], [0x789, 0xABC]]

    def test_the_order_of_bytes_does_not_change_packed_bits(self, tmp_path, rng):
        array = rng.integers(0, 4096, SHAPE, np.uint16)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array, photometric="minisblack", bitspersample=12, byteorder=">")
        with tifffile.TiffFile(path) as tif:
            starts = [page.dataoffsets[0] for page in tif.pages]
        content = bytearray(path.read_bytes())
        for start, plane in zip(starts, array, strict=True):  # tifffile swaps bytes here, which no reader undoes
            strip = packed_bits(plane, 12)
            content[start : start + len(strip)] = strip
        path.write_bytes(content)
        same_both_ways(path, array)

    @pytest.mark.parametrize("layout", [{"rowsperstrip": 5}, {"tile": (16, 16)}])
    def test_twelve_bits_in_strips_and_tiles(self, tmp_path, rng, layout):
        array = rng.integers(0, 4096, SHAPE, np.uint16)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array, photometric="minisblack", bitspersample=12, **layout)
        same_both_ways(path, array)


def page(count, compression, bits=8, width=16, height=16, more=()):
    """The tags of a page whose only strip begins at byte 8."""
    values = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 273: 8, 277: 1, 278: height, 279: count}
    return [(code, 4, 1, value) for code, value in sorted({**values, **dict(more)}.items())]


def hostile(path, strip, compression, **tags):
    """Write two pages of which the second has no strip of its own, and so is zero where strips are unpacked."""
    pages = [page(len(strip), compression, **tags), page(0, compression, **tags)]
    content = bytearray(b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip)
    for number, entries in enumerate(pages):
        after = 0 if number else len(content) + 2 + 12 * len(entries) + 4
        content += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        content += struct.pack("<I", after)
    path.write_bytes(content)
    return path


BOMBS = {
    5: lambda size: imagecodecs.lzw_encode(bytes(size)),
    8: lambda size: zlib.compress(bytes(size)),
    32773: lambda size: b"\x81\0" * (size // 128),
    34925: lambda size: lzma.compress(bytes(size)),
    50000: lambda size: imagecodecs.zstd_encode(bytes(size)),
}


class TestHostile:
    @pytest.mark.parametrize("compression", list(BOMBS))
    @pytest.mark.parametrize("depth", [1, 8, 12])
    def test_a_strip_that_unpacks_to_far_more_than_the_image(self, tmp_path, compression, depth):
        path = hostile(tmp_path / "a.tif", BOMBS[compression](1 << 20), compression, bits=depth)
        with pytest.raises(
            FileError, match=r"a.tif' is damaged: .* packed bytes of it (unpack to more than|do not unpack)"
        ):
            read_volume(path)
        with open_stack(path) as stack, pytest.raises(FileError, match="packed bytes of it"):
            stack.read(0, 1)

    def test_bits_that_go_on_far_beyond_their_image(self, tmp_path):
        path = hostile(tmp_path / "a.tif", bytes(1 << 20), 1, bits=1)
        with pytest.raises(FileError, match="is damaged: a strip of 1,048,576 bytes, expected 32"):
            read_volume(path)

    @pytest.mark.parametrize("compression", [1, 2, 3, 4, 5, 7, 8, 32773, 34925, 50000])
    def test_a_header_that_claims_more_than_the_packing_can_hold(self, tmp_path, compression):
        depth = 1 if compression < 5 else 8
        path = hostile(tmp_path / "a.tif", bytes(1000), compression, bits=depth, width=1 << 20, height=1 << 14)
        with pytest.raises(FileError, match=r"its header claims [\d,]+ bytes of voxels, the file holds"):
            read_volume(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda jpeg: jpeg.replace(b"\0\x10\0\x10", b"\xff\xff\xff\xff", 1),
                "a JPEG of 65535 x 65535 x 1 voxels in a",
            ),
            (lambda jpeg: jpeg.replace(b"\0\x10\0\x10", b"\0\0\0\x10", 1), "a JPEG of 0 x 16 x 1 voxels in a strip"),
            (
                lambda jpeg: jpeg.replace(b"\x08\0\x10\0\x10\x01", b"\x08\0\x10\0\x10\x03", 1),
                "a JPEG of 16 x 16 x 3 voxels",
            ),
            (lambda jpeg: jpeg.replace(b"\x08\0\x10\0\x10", b"\x0c\0\x10\0\x10", 1), "a JPEG of 12 bits, where"),
            (lambda jpeg: jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1), "lossless or of a kind that is not read"),
            (lambda jpeg: jpeg[2:], "it does not begin like one"),
            (lambda jpeg: jpeg[:20], "damaged, lossless or of a kind"),
            (lambda jpeg: jpeg[:2] + b"\xff\xd9", "a JPEG of it holds no image"),
            (lambda jpeg: jpeg[:-2] + b"\xff\xda" * 30 + jpeg[-2:], "takes 31 scans, at most 20 are read"),
        ],
    )
    def test_a_jpeg_that_is_not_what_the_header_claims(self, tmp_path, smooth, change, message):
        jpeg = imagecodecs.jpeg_encode(smooth[0, :16, :16])
        assert np.array_equal(read_volume(hostile(tmp_path / "b.tif", jpeg, 7)).array[0], imagecodecs.jpeg_decode(jpeg))
        path = hostile(tmp_path / "a.tif", change(jpeg), 7)
        with pytest.raises(FileError, match=f"a.tif'.*{message}"):
            read_volume(path)

    @pytest.mark.parametrize("packing", [6, 33007, 34712, 34887, 34892, 34933, 34934, 48124, 50001, 50002, 65000, 9999])
    def test_packings_that_are_not_read_are_named(self, tmp_path, packing):
        with pytest.raises(
            FileError, match=r"a.tif' is packed in a way that is not read \(\w+\): save it uncompressed"
        ):
            read_volume(hostile(tmp_path / "a.tif", bytes(256), packing))

    def test_depths_that_are_not_read_are_named(self, tmp_path):
        path = hostile(tmp_path / "a.tif", bytes(384), 1, bits=12, more={339: 2}.items())
        with pytest.raises(FileError, match="holds voxels of 12 bits in sample format 2, which are not read"):
            read_volume(path)
        for compression, depth, more in ((4, 8, {}), (5, 12, {317: 2})):
            path = hostile(tmp_path / "a.tif", bytes(384), compression, bits=depth, more=more.items())
            with pytest.raises(FileError, match=f"packing {compression} with predictor .* holds no {depth} bits"):
                read_volume(path)
