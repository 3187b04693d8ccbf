"""An OME-Zarr is segmented tile by tile: the very numbers of the whole volume, in an OME-Zarr."""

import json
from pathlib import Path

import numpy as np
import pytest

from micronet import predict
from micronet.app.inputs import inputs_from
from micronet.app.napari.reader import get_reader
from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan
from micronet.io import Sources, open_stack, read_annotation, read_volume, write_segmentation, write_volume
from micronet.io.pieces import ScratchPieces
from micronet.io.seg_nrrd import Segment
from micronet.io.volume_names import result_record
from micronet.io.zarr_write import write_from_planes
from micronet.measure.cleaning import Cleaning
from micronet.measure.pairs import Reading, find_pairs, read_pair
from micronet.report.wish import FigureWish
from micronet.segment.job import Job, Weights, check_results, segment_file
from micronet.segment.tile_plan import TilePlan

zarr = pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")


@pytest.fixture
def volume(rng):
    array = rng.integers(1, 255, (40, 150, 36), np.uint8)
    return Volume(array, upright((4.5, 4.5, 4.5)), np.array([1.0, 2.0, 3.0]), units="um")


@pytest.fixture
def weights(root):
    return Weights.load(root / "trained_models" / "ur-net_phantom.pt")


def segment(path, weights, tmp_path, *, force=False, **settings):
    lines = []
    job = Job(tmp_path / "out", iterations=2, **settings)
    check_results([path], weights.path, job)
    outcome = segment_file(path, weights, job, say=lines.append, force=force)
    return outcome, "\n".join(lines)


def levels(probability):
    return np.rint(probability * 255).astype(np.uint8)


def test_result_is_that_of_the_whole_volume_on_the_same_grid(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    outcome, said = segment(path, weights, tmp_path)
    probability = predict(volume.array, weights.model, 2)
    stored = tmp_path / "out" / "a_probability.ome.zarr"
    found = read_volume(stored)
    np.testing.assert_array_equal(found.array, levels(probability))
    assert (found.spacing_um, found.origin.tolist(), found.notes) == ((4.5,) * 3, [1, 2, 3], ())
    np.testing.assert_array_equal(read_annotation(stored).mask.array, probability > 0.5)
    assert read_volume(stored, level=1).shape == (20, 75, 18)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a.json",
        "a_preview.png",
        "a_probability.ome.zarr",
    ]
    assert "1 tiles of 40 x 150 x 36 voxels, the coarse levels whole" in said
    assert outcome.status == "done"
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["result"]["voxels"] == np.count_nonzero(probability > 0.5)
    assert segment(path, weights, tmp_path)[0].status == "skipped"
    assert segment(path, weights, tmp_path, force=True)[0].status == "done"
    np.testing.assert_array_equal(read_volume(stored).array, levels(probability))


def test_many_tiles_with_the_coarse_levels_on_disk_give_the_same(volume, weights, tmp_path, monkeypatch):
    def plan(shape, **_):
        return TilePlan(shape, (16, 64, 36), (4, 16, 8), True, 0, 0)

    monkeypatch.setattr("micronet.segment.store_plan.plan_tiles", plan)
    write_from_planes(tmp_path / "a.zarr", volume, iter(volume.array), "0.4")
    segment(tmp_path / "a.zarr", weights, tmp_path, y_crop=97, intensity="log")
    logarithm = np.log(volume.array.astype(np.float32))
    stored = tmp_path / "out" / "a_probability.ome.zarr"
    expected = predict(logarithm, weights.model, 2, y_crop=97)
    np.testing.assert_array_equal(read_volume(stored).array, levels(expected))
    assert (stored / ".zattrs").is_file()  # of the input's version


def test_masks_are_started_from_and_scored_against(volume, weights, rng, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    mask = rng.random(volume.shape) > 0.6
    write_segmentation(tmp_path / "m.seg.nrrd", [(Segment(name="lumen"), mask)], volume)
    _, said = segment(
        path, weights, tmp_path, initial_mask=tmp_path / "m.seg.nrrd", annotation=tmp_path / "m.seg.nrrd", y_crop=101
    )
    expected = predict(volume.array, weights.model, 2, initial_mask=mask, y_crop=101)
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "a_probability.ome.zarr").array, levels(expected))
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    inside = (expected > 0.5)[:, :101]
    assert record["scores"]["true_positives"] == np.count_nonzero(inside & mask[:, :101])
    assert record["scores"]["annotated_outside_y_crop"] == np.count_nonzero(mask[:, 101:])
    assert "scores      F " in said


def test_a_coarser_level_is_another_input(volume, weights, tmp_path):
    volume = volume.with_array(volume.array)
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    _, said = segment(path, weights, tmp_path, level=1)
    found = read_volume(tmp_path / "out" / "a_probability.ome.zarr")
    assert found.shape == (20, 75, 18)
    np.testing.assert_array_equal(found.array, levels(predict(read_volume(path, level=1).array, weights.model, 2)))
    assert "level 1 of 2" in said
    assert "padded to 32" in said
    with pytest.raises(FileError, match="holds a result of other settings"):
        segment(path, weights, tmp_path)


def test_what_a_person_changed_in_a_result_is_not_replaced(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    segment(path, weights, tmp_path)
    (tmp_path / "out" / "a_probability.ome.zarr" / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match=r"a_probability.ome.zarr' is in the way"):
        segment(path, weights, tmp_path, force=True)
    assert (tmp_path / "out" / "a_probability.ome.zarr" / "notes.txt").read_text() == "mine"


def test_a_result_belongs_to_its_record_until_it_is_changed(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    segment(path, weights, tmp_path)
    stored = tmp_path / "out" / "a_probability.ome.zarr"
    assert result_record(stored)["made_by"] == "infer.py"
    (stored / "notes.txt").write_text("mine")
    assert result_record(stored) is None


def test_a_damaged_chunk_leaves_nothing_behind(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    chunk = path / "0" / "c" / "0" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(FileError, match=r"a.ome.zarr' is damaged or cut short"):
        segment(path, weights, tmp_path)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("wish", "value"),
    [
        ("measures", True),
        ("mesh", "stl"),
        ("report", True),
        ("label_tiff", True),
        ("clean", Cleaning(largest=True)),
        ("figure", FigureWish("a_figure.pdf")),
        ("keep", Path("edited.seg.nrrd")),
        ("resample_um", 9.0),
    ],
)
def test_what_needs_the_volume_whole_is_refused(wish, value, volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    with pytest.raises(InputError, match=rf"needs it whole \(setting: {wish}\)"):
        segment_file(path, weights, Job(tmp_path / "out", **{wish: value}), say=print)
    assert not (tmp_path / "out").exists()


def test_scores_are_not_added_to_a_result_that_is_an_ome_zarr(volume, weights, rng, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    segment(path, weights, tmp_path)
    write_segmentation(tmp_path / "m.seg.nrrd", [(Segment(name="lumen"), rng.random(volume.shape) > 0.5)], volume)
    with pytest.raises(FileError, match=r"a.json' is of a result in an OME-Zarr, which scores cannot be added to"):
        segment(path, weights, tmp_path, annotation=tmp_path / "m.seg.nrrd")


def test_axes_that_contradict_those_of_the_store_are_refused(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    with pytest.raises(InputError, match=r"a.ome.zarr' states its axes itself \(ZYX\); 'YZX' \(setting: axes\)"):
        segment(path, weights, tmp_path, axes="YZX")


def test_refinement_of_a_store_that_has_not_settled_is_told(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    outcome, said = segment(path, weights, tmp_path, until_stable=True)
    assert outcome.status == "not settled"
    assert "NOT settled after 2 iterations" in said
    assert json.loads((tmp_path / "out" / "a.json").read_text())["settled"] is False
    assert outcome.result["voxels"] > 0


def test_too_little_memory_is_refused(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    with pytest.raises(InputError, match=r"a.ome.zarr': about .* needed even in tiles"):
        segment(path, weights, tmp_path, max_ram=1000)


def test_a_store_is_one_input_and_its_result_is_none(volume, tmp_path):
    paths = [write_volume(tmp_path / name, volume) for name in ("a.ome.zarr", "b.zarr", "c_probability.ome.zarr")]
    write_volume(tmp_path / "d.nrrd", volume)
    assert inputs_from([tmp_path], raw=False) == [paths[0], paths[1], tmp_path / "d.nrrd"]
    assert inputs_from([paths[0]], raw=False) == [paths[0]]


def test_writing_over_the_input_is_refused(volume, weights, tmp_path):
    path = write_volume(tmp_path / "out_probability.ome.zarr", volume)
    job = Job(tmp_path, iterations=2)
    other = write_volume(tmp_path / "out.zarr", volume)
    with pytest.raises(InputError, match=r"would replace .*which this call reads"):
        check_results([path, other], weights.path, job)


def test_a_scan_is_prepared_from_and_into_an_ome_zarr(rng, tmp_path):
    array = rng.integers(1, 60000, (30, 40, 50), np.uint16)
    scan = Volume(array, upright((2.0, 2.0, 2.0)), units="um")
    write_volume(tmp_path / "scan.ome.zarr", scan)
    write_volume(tmp_path / "scan.nrrd", scan)
    made = []
    for name, form in (("scan.nrrd", "nrrd"), ("scan.ome.zarr", "ome.zarr")):
        job = Preparation(RawScan(), "intensity", output=tmp_path / form, output_format=form)
        assert prepare_file(tmp_path / name, job, say=lambda _: None)[0] == "done"
        made.append(read_volume(tmp_path / form / f"scan.{form}"))
        assert prepare_file(tmp_path / name, job, say=lambda _: None)[0] == "skipped"
    np.testing.assert_array_equal(made[1].array, made[0].array)
    assert made[1].spacing_um == made[0].spacing_um == (4.5, 4.5, 4.5)
    np.testing.assert_allclose(made[1].origin, made[0].origin)


def test_planes_of_a_store_come_out_of_chunks_that_are_unpacked_once(rng, tmp_path):
    array = rng.integers(0, 255, (300, 20, 12), np.uint8)
    path = write_volume(tmp_path / "a.zarr", Volume(array))
    with open_stack(path) as stack:
        for first, stop in ((0, 3), (120, 140), (5, 6), (290, 300), (100, 300)):
            np.testing.assert_array_equal(stack.read(first, stop), array[first:stop])


def test_napari_gets_the_scales_of_a_store_and_its_labels(volume, weights, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    segment(path, weights, tmp_path)
    stored = tmp_path / "out" / "a_probability.ome.zarr"
    read = get_reader(str(stored))
    (scales, attributes, kind), (labels, _, label_kind) = read(str(stored))
    assert (kind, label_kind) == ("image", "labels")
    assert attributes["scale"] == (4.5, 4.5, 4.5)
    assert [scale.shape for scale in scales] == [(40, 150, 36), (20, 75, 18)]
    whole = read_volume(stored).array
    np.testing.assert_array_equal(np.asarray(scales[0]), whole)
    np.testing.assert_array_equal(scales[0][3, 10:20:2], whole[3, 10:20:2])
    np.testing.assert_array_equal(np.asarray(labels[0]), read_annotation(stored).mask.array)


def test_a_result_is_scored_as_masks_of_other_formats_are(volume, weights, rng, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", volume)
    segment(path, weights, tmp_path)
    truth = rng.random(volume.shape) > 0.5
    write_segmentation(tmp_path / "a.seg.nrrd", [(Segment(name="lumen"), truth)], volume)
    pairs, _ = find_pairs([tmp_path / "out"], [tmp_path / "a.seg.nrrd"], probability=True)
    with Sources() as sources:
        mask = read_pair(pairs[0], Reading(), sources)
        above = read_pair(pairs[0], Reading(probability=True, threshold=0.7), sources)
    probability = levels(predict(volume.array, weights.model, 2))
    np.testing.assert_array_equal(mask.predicted.array, probability > 127)
    np.testing.assert_array_equal(above.predicted.array, probability / 255 > 0.7)
    np.testing.assert_array_equal(mask.annotated.array, truth)


def test_a_full_disk_is_one_line_and_leaves_nothing(volume, tmp_path):
    resource = pytest.importorskip("resource", reason="not on Windows")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(FileError, match=r"cannot write '.*a.ome.zarr'.*: File too large"):
            write_volume(tmp_path / "a.ome.zarr", volume)
        with pytest.raises(FileError, match="cannot write an intermediate volume into"):
            ScratchPieces(tmp_path, (100, 100), (10, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
