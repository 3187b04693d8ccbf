"""Sound files of every kind that micronet reads, to be spoilt."""

import bz2
import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import tifffile
import torch
from more_seeds import pictures, spoil_tensors, stores, taught
from mutate import mutate, mutate_json
from PIL import Image
from seed import Seed, seed_of

from micronet import MicroNet, MicroRNet, Volume, write_volume
from micronet.core.volume import upright
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan
from micronet.io import Segment, write_segmentation
from micronet.networks.card import Expected, Look, planned_weights, write_card
from micronet.networks.weights import save_session, save_state

SHAPE = (32, 33, 34)


def make_seeds(folder: Path, shared: Path | None) -> list[Seed]:
    """Write every kind of file with our writers and with those of other libraries, and take real ones from `shared`."""
    rng = np.random.default_rng(3)
    array = rng.integers(0, 255, SHAPE, np.uint8)
    array[8:20, 9:21, 7:25] //= 4
    volume = Volume(array, upright((4.5, 2.0, 1.5)), np.array([1.0, 2, 3]), "left-posterior-superior", "um")
    mask = array < 60
    seeds = [
        *_nrrd(folder, volume),
        *_segmentations(folder, volume, mask),
        *_nifti(folder, volume),
        *_tiff(folder, volume),
        *_numpy(folder, array),
        *_recordings(folder, array[:12, :20, :21].reshape(3, 4, 20, 21)),
        *_weights(folder),
        *_datasets(folder, volume, mask),
        *_pictures(folder, array),
        *pictures(folder, array),
        *stores(folder, array),
        *taught(folder),
        *_records(folder),
        Seed(
            "json",
            "scan.json",
            json.dumps({"made_by": "prepare.py", "domain": "log", "output": {"file": "a"}}).encode(),
            90,
        ),
    ]
    return [*seeds, *(_real(shared) if shared else [])]


def _header_length(path):
    return path.read_bytes().find(b"\n\n") + 2


def _nrrd(folder, volume):
    for dtype in ("uint8", "int16", "float32"):
        path = write_volume(folder / f"{dtype}.nrrd", volume.with_array(volume.array.astype(dtype)))
        yield seed_of("volume", path, text=_header_length(path), unpacked=volume.array.size * np.dtype(dtype).itemsize)
    header = (folder / "uint8.nrrd").read_bytes()[: _header_length(folder / "uint8.nrrd")]
    small = volume.array[:4, :5, :6].tobytes()
    for encoding, pack in (("raw", bytes), ("gzip", gzip.compress), ("bzip2", bz2.compress)):
        text = header.replace(b"sizes: 34 33 32", b"sizes: 6 5 4").replace(b"gzip", encoding.encode())
        text = text.replace(b"\n\n", b'\nbyte skip: 0\nline skip: 0\nspacings: 1 1 1\nunits: "um" "um" "um"\n\n', 1)
        yield Seed("volume", f"{encoding}.nrrd", text + pack(small), len(text))
        apart = text.replace(b"\n\n", b"\ndata file: voxels.bin\n", 1)
        yield Seed("volume", f"{encoding}.nhdr", apart, len(apart), beside={"voxels.bin": pack(small)})


def _segmentations(folder, volume, mask):
    segments = [
        (Segment("full seg"), mask),
        (Segment("heart"), volume.array > 200),
        (Segment("big"), volume.array > 20),
    ]
    for name, chosen in (("one", segments[:1]), ("shared", segments[:2]), ("layers", segments)):
        path = write_segmentation(folder / f"{name}.seg.nrrd", chosen, volume)
        yield seed_of("mask", path, text=_header_length(path), unpacked=mask.size * 2)


def _nifti(folder, volume):
    for name in ("a.nii", "a.nii.gz"):
        path = write_volume(folder / name, volume)
        yield seed_of("volume", path, unpacked=volume.array.size, packing="gzip" if name.endswith(".gz") else "")
    image = nibabel.Nifti2Image(volume.array.astype("int16"), np.diag([2.0, 2, 5, 1]))
    nibabel.save(image, folder / "two.nii")
    yield seed_of("volume", folder / "two.nii")
    image = nibabel.Nifti1Image(volume.array[:6, :5, :4].astype(">f4"), np.diag([2.0, 2, 5, 1]))
    image.header.set_slope_inter(2, 3)
    nibabel.save(image, folder / "scaled.nii")
    yield seed_of("volume", folder / "scaled.nii")


def _tiff(folder, volume):
    array = volume.array[:6, :20, :21]
    plain = Volume(array, upright((4.5, 2.0, 1.5)), units="um")
    for name in ("imagej.tif", "bio.ome.tif"):
        yield seed_of("volume", write_volume(folder / name, plain))
    kinds = {
        "plain": {},
        "zlib": {"compression": "zlib"},
        "predictor": {"compression": "zlib", "predictor": True},
        "big": {"bigtiff": True},
        "motorola": {"byteorder": ">"},
        "tiles": {"tile": (16, 16), "compression": "zlib"},
        "strips": {"rowsperstrip": 4},
        "described": {"metadata": {"axes": "ZYX"}},
    }
    for name, options in kinds.items():
        path = folder / f"{name}.tif"
        options.setdefault("metadata", None)
        tifffile.imwrite(path, array.astype(np.uint16), photometric="minisblack", contiguous=False, **options)
        yield seed_of("volume", path, unpacked=2 * array.size)
    yield from _packed_tiff(folder, array)
    yield from _tiff_in_pieces(folder, array)


def _packed_tiff(folder, array):
    """Pack a stack in every way that is read, by tifffile and by Pillow, whose CCITT it cannot write."""
    for compression in ("lzw", "zstd", "packbits", "jpeg", "lzma"):
        for name, options in (("", {}), ("_tiles", {"tile": (16, 16)}), ("_strips", {"rowsperstrip": 4})):
            path = folder / f"{compression}{name}.tif"
            tifffile.imwrite(path, array, photometric="minisblack", compression=compression, metadata=None, **options)
            yield seed_of("volume", path, unpacked=array.size)
    path = folder / "float_predictor.tif"
    tifffile.imwrite(path, array.astype(np.float32), compression="lzw", predictor=3, photometric="minisblack")
    yield seed_of("volume", path, unpacked=4 * array.size)
    for depth in (1, 4, 12, 24):
        path = folder / f"bits_{depth}.tif"
        deep = array > 99 if depth == 1 else array.astype({4: np.uint8, 12: np.uint16, 24: np.uint32}[depth]) >> 4
        tifffile.imwrite(path, deep, photometric="minisblack", bitspersample=depth, metadata=None)
        yield seed_of("volume", path, unpacked=deep.nbytes)
    bits = [Image.fromarray(plane > 99) for plane in array]
    for compression in ("group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"):
        path = folder / f"bits_{compression}.tif"
        bits[0].save(path, save_all=True, append_images=bits[1:], compression=compression)
        yield seed_of("volume", path, unpacked=array.size)


def _tiff_in_pieces(folder, array):
    """Write a stack slice by slice, in chunks packed in different ways, and beside smaller copies of it."""
    pieces = {
        "slices": [(plane, {}) for plane in array],
        "chunks": [(array[:4], {}), (array[4:], {"compression": "lzw"})],
        "pyramid": [(array, {"subifds": 1}), (array[:, ::2, ::2], {"subfiletype": 1})],
        "thumbnail": [(array, {}), (array[0, ::4, ::4], {})],
    }
    for name, parts in pieces.items():
        with tifffile.TiffWriter(folder / f"{name}.tif") as writer:
            for data, options in parts:
                writer.write(data, photometric="minisblack", **options)
        yield seed_of("volume", folder / f"{name}.tif", unpacked=array.size)


def _numpy(folder, array):
    small = array[:6, :7, :8]
    for version in ((1, 0), (2, 0), (3, 0)):
        path = folder / f"v{version[0]}.npy"
        with path.open("wb") as stream:
            np.lib.format.write_array(stream, np.asfortranarray(small) if version[0] == 2 else small, version)
        yield seed_of("volume", path, text=128)
    yield Seed("raw", "a.raw", small.tobytes())


def _recordings(folder, array):
    tifffile.imwrite(folder / "time.tif", array, imagej=True, metadata={"axes": "TZYX"})
    tifffile.imwrite(folder / "packed.tif", array, photometric="minisblack", metadata=None, compression="zlib")
    np.save(folder / "time.npy", array)
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), folder / "time.nii.gz")
    for name in ("time.tif", "packed.tif", "time.npy", "time.nii.gz"):
        packing = "gzip" if name.endswith(".gz") else ""
        yield seed_of("recording", folder / name, packing=packing, unpacked=array.size)
    fields = {"kinds": "domain domain domain time", "encoding": "gzip"}
    header = "".join(f"{key}: {text}\n" for key, text in fields.items())
    text = f"NRRD0004\ntype: uint8\ndimension: 4\nsizes: 21 20 4 3\n{header}\n".encode()
    yield Seed("recording", "time.nrrd", text + gzip.compress(array.tobytes()), len(text), unpacked=array.size)


def _weights(folder):
    torch.manual_seed(4)
    for name, network in (("u", MicroNet), ("ur", MicroRNet)):
        save_state(folder / f"{name}.pt", network().state_dict())
        yield seed_of("weights", folder / f"{name}.pt")
        yield seed_of("weights", folder / f"{name}.pt", packing="zip")
    torch.save(MicroNet().state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    yield seed_of("weights", folder / "old.pt")
    content = {"format": 1, "network": "u-net", "number": 1, "log": "", "kept": {}, "state": {"a": torch.zeros(3)}}
    save_session(folder / "u-net.session", content)
    yield seed_of("session", folder / "u-net.session", packing="zip")


def _datasets(folder, volume, mask):
    write_volume(folder / "image.nrrd", volume)
    write_segmentation(folder / "image.seg.nrrd", [(Segment("full seg"), mask)], volume)
    beside = {name: (folder / name).read_bytes() for name in ("image.nrrd", "image.seg.nrrd")}
    text = b"""name = "lab"
caution = "the same embryo twice"
[augmentation]
flips = "zx"
smallest_crop = 0.6
shortest_axis = 32
contrast = 0.1
[defaults]
image = "{name}.nrrd"
annotation = "{name}.seg.nrrd"
segment = "full seg"
[[volume]]
name = "image"
split = "train"
within = { z = [0, 16], y = [0, 33] }
spacing_um = [4.5, 2.0, 1.5]
y_crop = 32
[[volume]]
name = "image"
split = "validation"
within = { z = [16, 32], y = [0, 33] }
labels = "mask"
intensity = "as stored"
axes = "ZYX"
spacing_um = 4.5
"""
    yield Seed("dataset", "lab.toml", text, len(text), beside=beside, unpacked=4 * mask.size)


def _records(folder):
    """Write what lies beside weights and beside a scan; of the scan that data sets have."""
    looks = {name: Expected(1.0, 0.5, 1.5) for name in Look.__dataclass_fields__}
    outputs = planned_weights(folder / "card.pt", "")
    with outputs.staged() as staging:
        (staging / "card.pt").write_bytes(b"weights")
    about = {"spacing_um": 4.5, "intensity_domain": "log", "dtype": "uint8"}
    path = write_card(outputs, **about, look=looks, more={"seeds": [1, 2]})
    yield seed_of("card", path, text=path.stat().st_size)
    prepared = folder / "prepared"
    prepare_file(
        folder / "image.nrrd", Preparation(RawScan(depth_axis="Z"), "log", output=prepared), say=lambda _: None
    )
    beside = {name: (folder / name).read_bytes() for name in ("image.nrrd", "image.seg.nrrd")}
    path = prepared / "image.json"
    yield seed_of("sidecar", path, text=path.stat().st_size, beside=beside)


def _pictures(folder, array):
    for name, picture in (("grey.png", array[0]), ("deep.png", array[0].astype(np.uint16) * 200)):
        Image.fromarray(picture).save(folder / name)
        yield seed_of("picture", folder / name, unpacked=2 * array[0].size)
    tifffile.imwrite(folder / "scan_1.tif", array[0])
    yield seed_of("picture", folder / "scan_1.tif")


def _real(shared):
    data = shared / "data"
    for pattern, kind in (("yolk_sac/annotations/*.seg.nrrd", "mask"), ("yolk_sac/size_map_cache/*.nrrd", "volume")):
        for path in sorted(data.glob(pattern))[:2]:
            yield seed_of(kind, path, text=_header_length(path), unpacked=160 << 20)
    yield seed_of("volume", data / "lightsheet" / "brain_vessels_sparse.tif", unpacked=2 << 20)
    yield seed_of("volume", data / "ct" / "abdomen_small.nii.gz", packing="gzip", unpacked=4 << 20)
    for path in sorted((data / "yolk_sac" / "trained_models").glob("*.pt")):
        yield seed_of("weights", path, packing="zip")


def spoil(seed: Seed, rng: np.random.Generator) -> bytes:
    """Return the content of a seed with changes, most often inside its packing where it has one."""
    if seed.kind == "tensors":
        return spoil_tensors(seed.content, rng)
    if seed.name.endswith((".json", ".zattrs", ".zarray", ".zgroup")) and rng.random() < 0.6:
        return mutate_json(seed.content, rng)
    if not seed.packing or rng.random() < 0.3:
        return mutate(seed.content, rng, text=seed.text)
    if seed.packing == "gzip":
        return gzip.compress(mutate(gzip.decompress(seed.content), rng), 1)
    entries = _zip_entries(seed.content)
    return _zip([(name, mutate(data, rng) if name.endswith("data.pkl") else data) for name, data in entries])


def _zip_entries(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def _zip(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            # PyTorch wants its tensors to begin at multiples of 64 bytes: a filler in the extra field sees to it.
            lead = buffer.tell() + 30 + len(name.encode()) + 4
            filler = -lead % 64
            info.extra = struct.pack("<HH", 0x4246, filler) + bytes(filler)
            archive.writestr(info, data)
    return buffer.getvalue()
