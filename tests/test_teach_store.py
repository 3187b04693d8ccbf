"""teach.py on an OME-Zarr that does not fit into memory: a box of it is learned from, and all of it is segmented."""

import csv
import json
import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from taught_networks import CUBES, THICK

from micronet import Volume, predict, read_annotation, read_volume, write_volume
from micronet.core.errors import FileError, InputError
from micronet.core.ram import PROGRAM
from micronet.core.volume import upright
from micronet.io import Segment, Sources, read_labels, read_segmentation, write_segmentation
from micronet.io.checks import ReadOptions
from micronet.io.labels_part import read_labels_part, reading_bytes
from micronet.io.zarr_write import LabelColour, Writer, write_labels
from micronet.networks.evening import EvenedPart, evened
from micronet.networks.kernels.scale_space import default_scales, reach
from micronet.networks.normalize import image_statistics, normalize_image
from micronet.networks.weights import load_model
from micronet.segment.plan import Beside
from micronet.training.teach import course
from micronet.training.teach.in_store import teach_in_store
from micronet.training.teach.job import TeachJob, teach_file
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.plan import plan_teaching

pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")

SHAPE = (48, 120, 130)
#: Less than all of it takes, more than the box and what it takes to segment it.
MAX_RAM = 531_000_000


def tubes(shape):
    z, y, x = np.indices(shape)
    return ((y - 30 - z / 3) ** 2 + (x - 40) ** 2 < 60) | ((y - 80 + z / 4) ** 2 + (x - 90) ** 2 < 50)


def painted(rng, shape=SHAPE, spacing=CUBES):
    """Return a volume whose planes differ in brightness, and strokes in one corner of it."""
    mask = tubes(shape)
    z = np.arange(shape[0])[:, None, None]
    image = np.clip(mask * 60 + rng.normal(100, 15, shape) + z, 0, 255).astype(np.uint8)
    labels = np.zeros(shape, np.uint8)
    for plane, rows in ((6, slice(20, 45)), (12, slice(28, 40))):
        labels[plane, rows, 28:56] = np.where(mask[plane, rows, 28:56], 1, 2)
    labels[9, 10:12, 20:50] = 2
    return Volume(image, upright(spacing), units="um"), labels


def stored(folder, volume, labels):
    return write_volume(folder / "a.ome.zarr", volume), write_volume(folder / "labels.nrrd", volume.with_array(labels))


def box_of(labels, spacing):
    around = reach(default_scales(spacing), spacing)
    places = np.argwhere(labels)
    bounds = zip(places.min(0), places.max(0), around, labels.shape, strict=True)
    return tuple(slice(max(low - far, 0), min(high + 1 + far, length)) for low, high, far, length in bounds)


def lesson_in_memory(volume, labels, spacing, box=(slice(None),) * 3):
    """Return what is to be learned from a box, all of it computed in memory of the whole volume."""
    image = normalize_image(volume.array)
    around = float(np.float32(course.AROUND * min(spacing)))
    lights = evened(image, spacing, around)
    known = {around: EvenedPart(np.ascontiguousarray(lights[box]), image_statistics(lights))}
    return Lesson(np.ascontiguousarray(image[box]), labels[box].copy(), spacing, evened=known)


def states_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """Trees enough to find the tubes, and no more, for time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "TreesLearner", partial(TreesLearner, trees=40))
        yield


@pytest.fixture(scope="module")
def once(tmp_path_factory, few_trees):
    """A volume with its labels, a call that taught on it and segmented it, its outcome and what it said."""
    folder, said = tmp_path_factory.mktemp("once"), []
    volume, labels = painted(np.random.default_rng(0))
    labels[9, 10, 20] = 1  # what no learner would say of a single voxel
    path, file = stored(folder, volume, labels)
    job = TeachJob(file, folder / "out", folder / "weights", max_ram=MAX_RAM)
    outcome = teach_file(path, job, say=said.append)
    return volume, labels, path, job, outcome, "\n".join(said)


def test_a_store_too_large_for_memory_is_taught_on_the_box_of_its_labels_and_segmented(once):
    volume, labels, path, job, outcome, said = once
    folder = job.output.parent
    assert "too large for memory: learns from z 0:38, y 0:70, x 0:81; all of it is segmented part by part then" in said
    box = box_of(labels, CUBES)
    assert box == (slice(0, 38), slice(0, 70), slice(0, 81))
    weights = folder / "weights" / "taught_a.pt"
    network = load_model(weights)
    states_equal(network.state_dict(), course.teach(lesson_in_memory(volume, labels, CUBES, box)).network.state_dict())
    whole = course.teach(lesson_in_memory(volume, labels, CUBES)).network
    for one, other in zip(network.members, whole.members, strict=True):  # but for how common lumen is
        for found, expected in zip(one.network.trees[:3], other.network.trees[:3], strict=True):
            np.testing.assert_array_equal(found, expected)
        assert abs(one.network.trees.start - other.network.trees.start) < 1
    probability = predict(volume, network)
    result = folder / "out" / "a_probability.ome.zarr"
    np.testing.assert_array_equal(read_volume(result).array, np.rint(probability * 255).astype(np.uint8))
    mask = np.where(labels > 0, labels == 1, probability > 0.5)
    assert mask[9, 10, 20]
    assert np.count_nonzero(mask & tubes(SHAPE)) > 10_000  # they were found
    np.testing.assert_array_equal(read_annotation(result).mask.array, mask)
    assert outcome.result["voxels"] == np.count_nonzero(mask)
    assert sorted(one.name for one in (folder / "out").iterdir()) == [
        "a.json", "a_look.csv", "a_look.seg.nrrd", "a_preview.png", "a_probability.ome.zarr",
    ]  # fmt: skip
    record, card = (json.loads(one.read_text()) for one in (folder / "out" / "a.json", weights.with_suffix(".json")))
    assert record["learned"]["box_zyx"] == card["learned"]["box_zyx"] == [[0, 38], [0, 70], [0, 81]]
    assert record["labelled"] == {"lumen": np.count_nonzero(labels == 1), "background": np.count_nonzero(labels == 2)}
    assert sorted(one["name"] for one in record["outputs"]) == [
        "a_look.csv", "a_look.seg.nrrd", "a_preview.png", "a_probability.ome.zarr",
    ]  # fmt: skip
    assert record["volume"]["shape_zyx"] == card["volume"]["shape_zyx"] == list(SHAPE)
    kept = read_volume(folder / "weights" / "taught_a_labels" / "a.seg.nrrd")
    np.testing.assert_array_equal(kept.array, labels[box])
    assert (
        teach_file(path, replace(job, max_ram=None), say=print).status == "skipped"
    )  # how much memory there is changes nothing asked for


def test_thick_planes_are_taught_with_a_micro_net_on_the_box_as_bright_as_the_volume(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(course, "_STEPS", 2)
    monkeypatch.setattr(course, "_MOST_VOXELS", 40_000)
    shape = (16, 60, 56)
    volume, labels = painted(rng, shape, THICK)
    labels[:] = 0
    labels[[3, 5]] = np.where(tubes(shape)[[3, 5]], 1, 2)
    path, file = stored(tmp_path, volume, labels)
    job = TeachJob(file, tmp_path / "out", tmp_path / "weights", free_labels=True)
    with Sources() as sources:
        teach_in_store(plan_teaching(path, job, sources), sources, print)
    network = load_model(tmp_path / "weights" / "taught_a.pt")
    assert [member.kind for member in network.members] == ["trees"] * 5 + ["unet"]
    box = box_of(labels, THICK)
    assert box[0] == slice(0, 12)
    lesson = lesson_in_memory(volume, labels, THICK, box)
    states_equal(network.state_dict(), course.teach(lesson).network.state_dict())
    result = tmp_path / "out" / "a_probability.ome.zarr"
    probability = predict(volume, network)
    np.testing.assert_array_equal(read_volume(result).array, np.rint(probability * 255).astype(np.uint8))
    np.testing.assert_array_equal(read_annotation(result).mask.array, probability > 0.5)


def test_a_box_takes_no_more_memory_than_is_told_and_places_in_it_are_told_as_voxels_of_the_volume(rng, tmp_path):
    volume, labels = painted(rng)
    volume = replace(volume, array=np.roll(volume.array, (0, 40, 40), (0, 1, 2)))
    path, file = stored(tmp_path, volume, np.roll(labels, (0, 40, 40), (0, 1, 2)))
    job = TeachJob(file, tmp_path / "out", tmp_path / "weights", max_ram=MAX_RAM)
    tracemalloc.start()
    teach_file(path, job, say=print)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_RAM - PROGRAM
    box = box_of(np.roll(labels, (0, 40, 40), (0, 1, 2)), CUBES)
    with (tmp_path / "out" / "a_look.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(line for line in table if not line.startswith("#")))
    places = [tuple(int(row[axis]) for axis in "zyx") for row in rows if row["what"] == "place"]
    assert places
    assert all(part.start <= at < part.stop for place in places for at, part in zip(place, box, strict=True))
    marked = read_segmentation(tmp_path / "out" / "a_look.seg.nrrd")
    assert marked.segments[0].name == "1: z {} y {} x {}".format(*places[0])
    inside = [at - part.start for at, part in zip(places[0], box, strict=True)]
    assert marked.labels[(*inside, 0)] > 0
    np.testing.assert_allclose(marked.grid.origin, [2.0 * part.start for part in box[::-1]])


@pytest.mark.parametrize("kind", ["nrrd", "npy", "store", "group", "segments", "cropped"])
def test_labels_of_every_kind_are_those_that_are_read_whole(kind, rng, tmp_path):
    volume, labels = painted(rng, (20, 70, 60))
    whole = volume.with_array(labels)
    if kind == "nrrd":
        path = write_volume(tmp_path / "l.nrrd", whole)
    elif kind == "npy":
        path = tmp_path / "l.npy"
        np.save(path, labels.transpose(2, 0, 1))
    elif kind == "store":
        path = write_volume(tmp_path / "l.ome.zarr", whole)
    elif kind == "group":
        path = write_volume(tmp_path / "l.ome.zarr", volume)
        write_labels(path, volume, LabelColour("strokes"), "0.5")
        Writer(path / "labels" / "strokes", label=True)[slice(0, 20), slice(0, 70), slice(0, 60)] = labels
    else:
        part = (slice(5, 16), slice(8, 70), slice(10, 60)) if kind == "cropped" else (slice(None),) * 3
        origin = np.array([2.0 * (one.start or 0) for one in part[::-1]])
        grid = replace(volume, array=volume.array[part], origin=origin)
        segments = [(Segment("lumen"), labels[part] == 1), (Segment("background"), labels[part] == 2)]
        path = tmp_path / "l.seg.nrrd"
        write_segmentation(path, segments, grid)
    axes = "XZY" if kind == "npy" else None
    expected = read_labels(path, volume, "a", axes=axes)[1]
    with Sources() as sources:
        options, told = ReadOptions(axes, yield_to_file=True), []
        found = read_labels_part(sources.of(path), volume, "a", (2, 3, 4), told.append, options=options)
        assert reading_bytes(sources.of(path), options) > 0
    assert told == [found.box]
    assert found.box == (slice(4, 15), slice(7, 48), slice(16, 60))
    np.testing.assert_array_equal(found.labels.volume.array, expected.volume.array[found.box])
    np.testing.assert_array_equal(found.labels.volume.array, labels[found.box])
    assert found.labels.description == expected.description
    np.testing.assert_allclose(found.labels.volume.origin, [32.0, 14.0, 8.0])


@pytest.mark.parametrize(
    ("wish", "value"), [("checked", "checked"), ("start", "taught_b"), ("classes", ("lumen", "wall"))]
)
def test_what_needs_the_volume_whole_is_refused(wish, value, rng, tmp_path):
    volume, labels = painted(rng)
    path, file = stored(tmp_path, volume, labels)
    if wish == "start":
        value = tmp_path / "taught_b.pt"
        value.write_bytes(b"weights")
    job = TeachJob(file, tmp_path / "out", tmp_path / "weights", max_ram=MAX_RAM, **{wish: value})
    with pytest.raises(InputError, match=rf"needs it whole \(setting: {wish}\): .* copied to NRRD or TIFF"):
        teach_file(path, job, say=print)
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_one_line_and_nothing_is_written(rng, tmp_path):
    volume, labels = painted(rng)
    path, file = stored(tmp_path, volume, labels)
    job = TeachJob(file, tmp_path / "out", tmp_path / "weights", max_ram=MAX_RAM)
    with pytest.raises(
        InputError, match=r"lies around its labels \(z 0:38, y 0:70, x 0:81\): it takes about .* closer"
    ):
        teach_file(path, replace(job, max_ram=PROGRAM + 8_000_000), say=print)
    write_volume(file, volume.with_array(labels * 2))
    with pytest.raises(InputError, match=r"labels.nrrd' holds the value 4, which is no label: 0 not annotated"):
        teach_file(path, job, say=print)
    write_volume(file, volume.with_array(np.where(labels == 1, 0, labels)))
    with pytest.raises(InputError, match="no voxel is annotated as lumen; paint strokes inside some lumens"):
        teach_file(path, job, say=print)
    write_volume(file, replace(volume, array=labels[1:]))
    with pytest.raises(InputError, match=r"labels.nrrd': shape .* differs"):
        teach_file(path, job, say=print)
    write_volume(file, volume.with_array(labels))
    flat = write_volume(tmp_path / "b.ome.zarr", volume.with_array(np.full(SHAPE, 7, np.uint8)))
    with pytest.raises(InputError, match=r"b.ome.zarr': the image is constant: every voxel is 7"):
        teach_file(flat, job, say=print)
    assert not (tmp_path / "weights").exists()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("stage", ["looking at the whole volume", "pixel trees, evened", "segmenting"])
def test_an_interrupted_call_leaves_nothing_half_written(stage, tmp_path, once):
    _, _, path, job, *_ = once
    job = replace(job, output=tmp_path / "out", weights_folder=tmp_path / "weights")
    said = []
    with pytest.raises(KeyboardInterrupt):
        teach_file(path, job, say=said.append, on_progress=interrupted_at(stage))
    assert not list((tmp_path / "out").iterdir())
    weights = tmp_path / "weights" / "taught_a.pt"
    assert weights.exists() == weights.with_suffix(".json").exists() == (stage == "segmenting")
    assert any(f"kept        {weights}" in line for line in said) == (stage == "segmenting")


def interrupted_at(stage):
    def interrupt(done, whole, what):
        if what == stage and done > 0:
            raise KeyboardInterrupt

    return interrupt


def test_the_same_call_goes_on_with_what_it_had_taught_when_it_was_interrupted(tmp_path, once):
    _, _, path, whole, *_ = once
    job = replace(whole, output=tmp_path / "out", weights_folder=tmp_path / "weights")
    with pytest.raises(KeyboardInterrupt):
        teach_file(path, job, say=print, on_progress=interrupted_at("segmenting"))
    weights, said, steps = tmp_path / "weights" / "taught_a.pt", [], set()
    before = weights.stat()
    for other in (replace(job, seed=1), replace(job, threshold=0.4)):
        with pytest.raises(FileError, match=r"taught_a.pt' exists: replace it \(setting: force\)"):
            teach_file(path, other, say=print)
    job = replace(job, max_ram=2 * MAX_RAM)  # all of it in memory would be other weights
    outcome = teach_file(path, job, say=said.append, on_progress=lambda _, __, what: steps.add(what))
    assert outcome.status == "done"
    assert weights.stat() == before
    assert any(f"goes on     with '{weights}', which the same call taught" in line for line in said)
    assert steps == {"looking at the whole volume", "segmenting"}
    record, expected = (json.loads((one.output / "a.json").read_text()) for one in (job, whole))
    assert record.keys() == expected.keys()
    for key in ("learned", "labelled", "volume", "result"):
        assert record[key] == expected[key]
    assert record["weights"]["sha256"] == expected["weights"]["sha256"]
    dated = [{one["name"]: one["sha256"] for one in told["outputs"]} for told in (record, expected)]
    tables = [(one.output / "a_look.csv").read_text().splitlines()[2:] for one in (job, whole)]
    assert [one.pop("a_look.csv") for one in dated]
    assert dated[0] == dated[1]
    assert tables[0] == tables[1]


def test_what_was_taught_on_a_store_is_learned_on_from_on_another_volume(rng, tmp_path):
    shape = (14, 60, 56)
    for name in "ab":
        volume, labels = painted(rng, shape)
        write_volume(tmp_path / f"{name}.ome.zarr", volume)
        write_volume(tmp_path / f"{name}_labels.nrrd", volume.with_array(labels))
    first = TeachJob(tmp_path / "a_labels.nrrd", tmp_path / "out", tmp_path / "weights")
    with Sources() as sources:
        teach_in_store(plan_teaching(tmp_path / "a.ome.zarr", first, sources), sources, print)
    said = []
    second = replace(first, labels=tmp_path / "b_labels.nrrd", start=tmp_path / "weights" / "taught_a.pt")
    teach_file(tmp_path / "b.ome.zarr", second, say=said.append)
    assert any("learns on   from" in line and "from its 1 label files too" in line for line in said)


def test_the_preview_shows_the_labels_of_the_voxels_that_it_shows():
    labels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    whole = np.zeros((9, 10, 11), np.uint8)
    place = (slice(2, 5), slice(3, 7), slice(6, 11))
    whole[place] = labels
    seen = whole[::2, ::2, ::2]
    np.testing.assert_array_equal(Beside(labels, place, dict).sampled(2, seen.shape), seen)
