"""What micronet does with a file of each kind that a person names: it reads all of it, in every way it can."""

import json

import numpy as np

from micronet import Volume
from micronet.core.errors import MicronetError
from micronet.data.dataset import load_split, read_dataset
from micronet.data.map_back import BackMapping, find_record, map_back, scan_of
from micronet.data.scan import RawScan
from micronet.io import (
    Segment,
    files_of,
    open_recording,
    open_stack,
    read_annotation,
    read_segmentation,
    read_volume,
    write_segmentation,
    write_volume,
)
from micronet.io.images import read_colours
from micronet.io.sidecar import read_record, stated_domain
from micronet.networks.card import card_line, read_card
from micronet.networks.taught import Taught
from micronet.networks.weights import bootstrap, load_model, load_state
from micronet.segment.job import Job, Weights, segment_file
from micronet.training.run_files import Places, Run

_PLANES = 8


def options_for(seed, rng):
    """Return what a person might say about a file of this kind, most often the right thing."""
    if seed.kind == "raw":
        shapes = [(6, 7, 8), (6, 7, 8), (8, 7, 6), (0, 1, 1), (10**9, 10**9, 10**9), (1, 1, 1), (6, 7, -8), (42, 8, 1)]
        types = ["uint8", "uint8", "uint16", ">u2", "float64", "O", "V8", "nonsense", "U4", "complex128"]
        return {"shape": shapes[int(rng.integers(8))], "dtype": types[int(rng.integers(10))]}
    if seed.kind == "recording":
        return {"axes": [None, "TZYX", "TZYX", "ZTYX", "XYZT"][int(rng.integers(5))]}
    return {"axes": [None, None, None, "ZYX", "XYZ"][int(rng.integers(5))]} if seed.kind == "volume" else {}


def read_everything(path, options):
    """Read a volume whole and by planes, as a mask, and write what was read; return the bytes that it took."""
    files_of(path)
    errors = []
    size = 0
    try:
        volume = read_volume(path, **options)
        size = volume.array.nbytes
        if volume.array.size < 10**6:
            write_volume(path.with_name("again.nrrd"), volume)
            write_segmentation(path.with_name("again.seg.nrrd"), [(Segment("lumen"), volume.array > 1)], volume)
    except MicronetError as error:
        errors.append(error)
    try:
        with open_stack(path, **options) as stack:
            size = max(size, stack.grid.array.size * stack.grid.array.itemsize)
            for first in range(0, stack.shape[0], _PLANES):
                stack.read(first, min(first + _PLANES, stack.shape[0]))
    except MicronetError as error:
        errors.append(error)
    if errors:
        raise errors[-1]
    return size


def read_recording(path, options):
    """Read a recording time point by time point; return the bytes of one, in every way that it is held at once."""
    with open_recording(path, **options) as recording:
        for number in range(min(recording.count, 20)):
            recording.read(number)
        return 8 * recording.grid.array.size * recording.grid.array.itemsize


def read_mask(path, options):
    """Read a segmentation segment by segment; return the bytes that it took."""
    read_annotation(path)
    segmentation = read_segmentation(path)
    for segment in segmentation.segments[:4]:
        segmentation.mask(segment)
        segmentation.describe(segment)
    return segmentation.labels.nbytes


def read_weights(path, options):
    """Read weights and compute with them."""
    model = load_model(path)
    if model.name == "u-net":
        bootstrap(load_state(path))


def read_session(path, options):
    """Reopen the run of a session file."""
    Run.reopen(path, Places(path.parent, path.parent, path.parent, ()))


def read_data(path, options):
    """Read a data set and load what it lists; return the bytes that it took."""
    dataset = read_dataset(path)
    samples = load_split(dataset)
    return sum(sample.image.nbytes + 2 * sample.mask.size for split in samples.values() for sample in split)


def read_pictures(path, options):
    """Read the folder of a picture as B-scans."""
    with open_stack(path.parent) as stack:
        return stack.read(0, stack.shape[0]).nbytes


def read_json(path, options):
    """Read a record, a manifest, and the record of what was done."""
    read_record(path)
    stated_domain(path.with_suffix(".tif"))
    np.save(path.with_suffix(".npy"), np.zeros((2, 2, 2), np.uint8))
    weights = Weights(path, "", type("Model", (), {"name": "u-net"})())
    try:
        segment_file(path.with_suffix(".npy"), weights, Job(output=path.parent), say=lambda _: None)
    finally:
        run = Run("scan", 1, Places(path.parent, path.parent, path.parent, ()))
        assert run.manifest_path == path
        json.dumps(run.read_manifest())


def read_model_card(path, options):
    """Read a model card, and hold an image against it."""
    weights = path.with_suffix(".pt")
    image = Volume(np.arange(1000, dtype=np.uint8).reshape(10, 10, 10))
    card_line(weights, "0" * 64, path.with_name("a.nrrd"), image)
    card = read_card(weights)
    if card is not None:
        card_line(weights, card.sha256, path.with_name("a.nrrd"), image.with_spacing((4.5, 4.5, 4.5)))


def read_sidecar(path, options):
    """Map a mask back to a scan by the record of how the scan was prepared."""
    mask, raw = path.with_name("image.seg.nrrd"), path.with_name("image.nrrd")
    find_record(mask, raw, [path.parent])
    job = BackMapping(raw, scan_of(path, RawScan()), path.parent, record_path=path)
    map_back(mask, job, say=lambda _: None)
    return 16 << 20


def read_store(path, options):
    """Read the store that a file lies in: whole, by planes, its labels, by time points; return the bytes it took."""
    store = next(folder for folder in path.parents if folder.suffix == ".zarr")
    errors, size = [], 0

    def whole():
        return read_volume(store).array.nbytes

    def planes():
        with open_stack(store) as stack:
            for first in range(0, stack.shape[0], _PLANES):
                stack.read(first, min(first + _PLANES, stack.shape[0]))
            return stack.grid.array.size * stack.grid.array.itemsize

    def labels():
        return read_annotation(store).mask.array.nbytes

    for read in (whole, planes, labels, lambda: read_recording(store, {"axes": None})):
        try:
            size = max(size, read())
        except MicronetError as error:
            errors.append(error)
    if len(errors) == 4:
        raise errors[0]
    return size


def read_taught(path, options):
    """Read what was taught and look at a small image with it."""
    image = np.random.default_rng(0).normal(0, 1, (5, 12, 14)).astype(np.float32)
    model = load_model(path)
    if isinstance(model, Taught):
        model.predict(image, (4.0, 1.0, 1.0), threads=1)
        model.predict(image, model.spacing_um, threads=1)
        model.pass_bytes(image.shape, None)


def read_plane(path, options):
    """Read a picture as a plane and as labels in colours; return the bytes that it took."""
    errors, size = [], 0
    for read in (
        lambda: read_volume(path, flat=True).array,
        lambda: read_colours(path, {(0, 0, 0): 0, (255, 0, 0): 1}),
    ):
        try:
            size = max(size, read().size)
        except MicronetError as error:
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]
    return 8 * size


READERS = {
    "volume": read_everything,
    "recording": read_recording,
    "mask": read_mask,
    "raw": read_everything,
    "weights": read_weights,
    "session": read_session,
    "dataset": read_data,
    "picture": read_pictures,
    "json": read_json,
    "card": read_model_card,
    "sidecar": read_sidecar,
    "store": read_store,
    "taught": read_taught,
    "tensors": read_taught,
    "plane": read_plane,
}
