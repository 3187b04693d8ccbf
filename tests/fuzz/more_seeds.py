"""Sound stores, networks that were taught and coloured pictures, to be spoilt."""

import io
import json

import numpy as np
import torch
import zarr
from PIL import Image
from seed import Seed, seed_of

from micronet import MicroNet, MicroRNet, Volume
from micronet.core.volume import upright
from micronet.io.zarr_write import LabelColour, write_from_planes, write_labels
from micronet.networks.kernels.boosting import Trees
from micronet.networks.pixel import PixelNetwork
from micronet.networks.pixel_trees import PixelTrees
from micronet.networks.taught import Member, Taught
from micronet.networks.weights import save_state


def stores(folder, array):
    """Write stores of both versions, with labels, time, channels, and every way to pack; each file of one is a seed."""
    small = array[:6, :7, :8]
    for version in ("0.4", "0.5"):
        path = folder / f"v{version[-1]}.ome.zarr"
        grid = Volume(small, upright((4.5, 2.0, 1.5)), np.array([1.0, 2, 3]), "left-posterior-superior", "um")
        write_from_planes(path, grid, iter(small), version)
        writer = write_labels(path, grid, LabelColour(), version)
        writer[tuple(slice(0, n) for n in small.shape)] = (small > 99).astype(np.uint8)
        writer.finish()
        yield from _files_of(path)
    turned = zarr.codecs.TransposeCodec(order=(3, 2, 1, 0))
    for name, letters, options in (
        ("sharded", "zyx", {"chunks": (2, 4, 4), "shards": (4, 8, 8)}),
        ("gzip", "tzyx", {"compressors": zarr.codecs.GzipCodec()}),
        ("blosc", "czyx", {"compressors": zarr.codecs.BloscCodec(), "filters": [turned]}),
    ):
        path = folder / f"{name}.zarr"
        data = small if len(letters) == 3 else np.stack([small] * (2 if letters[0] == "t" else 1))
        options = {"chunks": (1,) * (data.ndim - 3) + (3, 4, 4)} | options
        zarr.create_array(path / "0", data=data, zarr_format=3, **options)
        axes = [{"name": letter, "type": "space", "unit": "micrometer"} for letter in letters]
        scale = {"type": "scale", "scale": [1.0] * (data.ndim - 3) + [4.5, 2.0, 1.5]}
        image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
        attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
        told = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (path / "zarr.json").write_text(json.dumps(told))
        yield from _files_of(path)


def _files_of(path):
    """Return a seed for each kind of file in a store: of chunks one."""
    content = {
        str(file.relative_to(path.parent)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }
    chunks = [name for name in content if not name.endswith(("zarr.json", ".zarray", ".zattrs", ".zgroup"))]
    for name in (name for name in content if name not in chunks[1:]):
        beside = {other: data for other, data in content.items() if other != name}
        # Of a store all is read at once, whatever a file of it says: planes, the labels, a time point.
        yield Seed("store", name, content[name], len(content[name]) if name not in chunks else 0, beside=beside)


def taught(folder):
    """Write what was taught: trees and a pixel network, and all four members."""
    torch.manual_seed(5)
    split, at = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32)
    trees = PixelTrees((1.0,), Trees(split, at, np.array([[-2, 2]], np.float32), 0.0))
    pixel = PixelNetwork((1.0, 2.0), 2, 4, torch.Generator().manual_seed(3))
    few = [Member("trees", trees, 0.5), Member("pixel", pixel, 1.0)]
    nets = [
        Member("unet", MicroNet().eval(), 1.0, step_um=1.5),
        Member("urnet", MicroRNet().eval(), 0.25, step_um=2.0, passes=2, around_um=40.0),
    ]
    for name, members in (("pixels", few), ("all", [*few, *nets])):
        network = Taught(members, (4.0, 1.0, 1.0), logarithm=True)
        path = folder / f"taught_{name}.pt"
        save_state(path, network.state_dict())
        yield seed_of("taught", path)
        yield seed_of("taught", path, packing="zip")
        yield seed_of("tensors", path)


def pictures(folder, array):
    """Write a PNG of each mode."""
    plane = array[0]
    made = {
        "bits": Image.fromarray(plane > 99),
        "grey": Image.fromarray(plane),
        "grey_alpha": Image.fromarray(plane).convert("LA"),
        "palette": Image.fromarray(plane).convert("P"),
        "colour": Image.fromarray(np.stack([255 * (plane > 99), 0 * plane, 0 * plane], 2).astype(np.uint8)),
        "opaque": Image.fromarray(plane).convert("RGBA"),
        "deep": Image.fromarray(plane.astype(np.uint16) * 200),
    }
    for name, picture in made.items():
        picture.save(folder / f"{name}.png")
        yield seed_of("plane", folder / f"{name}.png", unpacked=4 * plane.size)


# What a number in a tensor of weights may have become: nothing that is not finite, which is refused at once.
_NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e-6, 3.0, 99.0, 255.0, 256.0, 1e4, 1e6, 1e9, 3e38, -3e38)


def spoil_tensors(content: bytes, rng: np.random.Generator) -> bytes:
    """Return weights of which one to four tensors have other numbers, shapes or names, or are missing."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(int(rng.integers(1, 5))):
        key = list(state)[int(rng.integers(len(state)))]
        tensor, what = state[key], int(rng.integers(8))
        if what < 4 and tensor.numel():
            flat = tensor.flatten().clone()
            flat[int(rng.integers(len(flat)))] = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
            state[key] = flat.reshape(tensor.shape)
        elif what == 4:
            state[key] = torch.full_like(tensor, _NUMBERS[int(rng.integers(len(_NUMBERS)))])
        elif what == 5:
            state[key] = [tensor.flatten(), tensor[None], tensor[:0], torch.cat([tensor, tensor])][int(rng.integers(4))]
        elif what == 6:
            other = list(state)[int(rng.integers(len(state)))]
            state[key], state[other] = state[other], state[key]
        else:
            kinds = [("trees", "pixel"), (".0.", ".1."), (".0.", ".99999999999."), ("unet", "urnet")]
            state[key.replace(*kinds[int(rng.integers(4))]) if rng.random() < 0.6 else key[1:]] = state.pop(key)
        if not state:
            break
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
