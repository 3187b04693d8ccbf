"""The widget Teach: what is kept between strokes, what is shown and saved, and the widget itself where napari is."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch
from napari_process import run_in_napari
from running import call, read_json

import infer
import teach
from micronet import Volume, read_annotation, read_volume, write_volume
from micronet.app.napari.teacher import Planes, Saving, Seen, Teacher, annotation, mask_planes, places, save
from micronet.app.napari.work import Progress, StoppedError, Work
from micronet.core.errors import FileError, InputError
from micronet.core.volume import upright
from micronet.io import Segment, read_segmentation, write_segmentation
from micronet.networks.kernels.jit import cache_folder
from micronet.training.teach import live
from micronet.training.teach.collection import collection_of
from micronet.training.teach.learners import TreesLearner
from micronet.training.teach.live import LiveImage

SHAPE = (20, 36, 40)


def tubes():
    z, y, x = np.indices(SHAPE)
    return ((y - 10 - z / 3) ** 2 + (x - 12) ** 2 < 30) | ((y - 28 + z / 4) ** 2 + (x - 30) ** 2 < 20)


def painted(*planes):
    """Strokes along X, lumen and background, in some planes."""
    labels = np.zeros(SHAPE, np.uint8)
    for z in planes:
        for y in (3, 12, 24, 33):
            labels[z, y, 2:38] = np.where(tubes()[z, y, 2:38], 1, 2)
    return labels


@pytest.fixture
def volume(rng):
    array = np.clip(tubes() * 60 + rng.normal(100, 20, SHAPE), 0, 255).astype(np.uint8)
    return Volume(array, upright((2, 2, 2)), np.array([5.0, -6.0, 7.0]), "left-posterior-superior", "um")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def done(work):
    work = Work(work)
    work.run()
    if work.error is not None:
        raise work.error
    return work.result, work.told()


@pytest.fixture
def answered(volume):
    """An image with what was learned from strokes in three planes of it."""
    seen = Seen(volume.array, volume)
    answer, _ = done(Teacher().work(seen, painted(4, 10, 16), whole=False))
    return seen, answer


class TestLiveImage:
    def test_answer_is_what_the_weights_say_and_finds_the_lumen(self, volume):
        image = LiveImage(volume)
        answer = image.by_trees(image.lesson(painted(4, 10, 16)))
        by_weights = answer.course.network.predict(image.image, image.spacing_um)
        np.testing.assert_allclose(answer.probability, by_weights, atol=1e-6)
        mask, truth = answer.probability > 0.5, tubes()
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85

    def test_trees_are_those_that_the_learner_of_teach_makes(self, volume):
        image = LiveImage(volume)
        for labels in (painted(4, 10, 16), np.where(np.arange(SHAPE[0])[:, None, None] == 10, 1 + ~tubes(), 0)):
            lesson = image.lesson(labels.astype(np.uint8))
            [ours] = image.by_trees(lesson).course.network.members
            [theirs] = TreesLearner().learn(lesson, np.ones(len(lesson.lumen), bool), 0).members()
            for one, two in zip(ours.network.trees, theirs.network.trees, strict=True):
                np.testing.assert_array_equal(one, two)

    def test_features_of_a_plane_are_computed_once_for_all_strokes(self, volume, monkeypatch):
        planes = []
        compute = live.features

        def counted(image, scales, spacing_um, some, threads):
            planes.extend(range(some.start, some.stop))
            return compute(image, scales, spacing_um, some, threads)

        monkeypatch.setattr(live, "features", counted)
        image = LiveImage(volume)
        for strokes in (painted(4, 10), painted(4, 10, 16), painted(0)):
            image.by_trees(image.lesson(strokes))
        assert sorted(planes) == list(range(SHAPE[0]))

    def test_without_memory_to_keep_features_in_the_answer_is_the_same(self, volume):
        found = [
            image.by_trees(image.lesson(painted(4, 10))).probability
            for image in (LiveImage(volume), LiveImage(volume, most_bytes=0))
        ]
        np.testing.assert_array_equal(*found)

    def test_the_plane_that_is_looked_at_is_answered_first_and_every_plane_once(self, volume):
        image, told = LiveImage(volume), []
        lesson = image.lesson(painted(4, 10))
        image.by_trees(lesson, around=19, on_planes=lambda first, found: told.append((first, len(found))))
        assert [one for one in told if one[1]] == [(16, 4), (8, 8), (0, 8)]

    def test_a_depth_crop_learns_and_answers_above_it_alone(self, volume):
        image = LiveImage(volume, y_crop=20)
        lesson = image.lesson(painted(4, 10))
        assert lesson.labels.shape == (20, 20, 40)
        np.testing.assert_array_equal(image.image, LiveImage(volume).image[:, :20])  # normalised as a whole
        with pytest.raises(InputError, match=r"the depth must lie in 1\.\.36 \(the Y axis\), found 37"):
            LiveImage(volume, y_crop=37)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros(SHAPE), r"paint some lumen \(label 1\) and some background \(label 2\)"),
            (painted(3) % 2, r"^paint some background \(label 2\)$"),
            (painted(3) * 2, "label 4 is unknown: paint lumen with label 1, background with label 2"),
            (np.zeros((3, 4, 5)), r"what is painted has shape \(3, 4, 5\), the image \(20, 36, 40\)"),
            (np.where(tubes(), 1, 2), "every voxel is painted, nothing is left to find"),
        ],
    )
    def test_what_cannot_be_learned_from_is_refused_in_one_line(self, volume, labels, message):
        with pytest.raises(InputError, match=message):
            LiveImage(volume).lesson(labels.astype(np.int32))


class TestTeacher:
    def test_an_image_is_looked_at_once_for_the_same_settings(self, volume):
        teacher, looked = Teacher(), []
        for log in (False, False, True):
            _, told = done(teacher.work(Seen(volume.array, volume, log), painted(4, 10), whole=False))
            looked.append(any(isinstance(one, Progress) and one.what == "looking at the image" for one in told))
        assert looked == [True, False, True]

    def test_strokes_are_those_of_the_moment_that_work_was_asked_for(self, volume):
        labels = painted(4, 10)
        work = Teacher().work(Seen(volume.array, volume), labels, whole=False)
        labels[:] = 0
        answer, _ = done(work)
        np.testing.assert_array_equal(answer.lesson.labels, painted(4, 10))

    @pytest.mark.usefixtures("engine_ready")
    def test_all_learners_are_tried_when_asked_for(self, volume):
        answer, told = done(Teacher().work(Seen(volume.array, volume), painted(4, 10, 16), whole=True))
        assert len(answer.course.choice.scores) > 1
        assert [one.done for one in told if isinstance(one, Progress)][-1] > 3
        assert isinstance(told[-1], Planes)
        assert told[-1].probability.shape == SHAPE

    def test_what_is_compiled_first_is_told_once_on_a_machine(self, volume):
        (cache_folder() / "trees.compiled").unlink(missing_ok=True)
        said = []
        for _ in range(2):
            _, told = done(Teacher().work(Seen(volume.array, volume), painted(4, 10), whole=False))
            said.append([one.done for one in told if isinstance(one, Progress) and one.what.startswith("compiling")])
        assert said[0][0] == 0
        assert said[0][-1] == 100
        assert said[0] == sorted(said[0])
        assert said[1] == []

    def test_stopped_work_ends_at_the_next_thing_told_and_has_no_result(self, volume):
        inner = Teacher().work(Seen(volume.array, volume), painted(4, 10), whole=False)

        def until_told(tell):
            inner(lambda event: (work.stop(), tell(event)))

        work = Work(until_told)
        work.run()
        assert work.ended
        assert (work.result, work.error, work.told()) == (None, None, [])
        with pytest.raises(StoppedError):
            work._tell("more")

    def test_a_recording_is_refused(self, volume):
        with pytest.raises(InputError, match="an image with the axes Z, Y, X; this layer has 4"):
            Seen(volume.array[None], volume)


def test_mask_keeps_what_is_painted_and_is_empty_beyond_the_depth():
    found = np.array([[[0.9, 0.1], [0.9, 0.6]]], np.float32)  # 1 plane, 2 rows; a third row was cropped away
    labels = np.array([[[2, 1], [0, 0], [1, 1]]])
    mask = np.full((2, 3, 2), 7, np.uint8)
    mask_planes(Planes(1, found), np.concatenate([labels, labels]), 0.7, mask)
    assert mask.tolist() == [[[7, 7]] * 3, [[0, 1], [1, 0], [0, 0]]]


def test_what_was_checked_is_annotated_as_the_mask_shows_it_but_for_strokes():
    strokes = np.array([[[0, 0, 1, 2, 0]]], np.int32)
    checked = np.array([[[1, 1, 1, 1, 0]]])
    mask = np.array([[[1, 0, 0, 1, 1]]], np.uint8)
    assert annotation(strokes, checked, mask).tolist() == [[[1, 2, 1, 2, 0]]]
    assert annotation(strokes, 0 * checked).tolist() == strokes.tolist() == [[[0, 0, 1, 2, 0]]]
    with pytest.raises(InputError, match=r"what was checked has shape \(1, 1, 4\), the image \(1, 1, 5\)"):
        annotation(strokes, checked[..., 1:], mask)
    with pytest.raises(InputError, match="there is no mask yet that could have been checked"):
        annotation(strokes, checked)


class TestSave:
    def test_files_are_those_of_teach_and_the_weights_say_the_same(
        self, answered, volume, tmp_path, monkeypatch, capsys
    ):
        seen, answer = answered
        monkeypatch.chdir(tmp_path)
        files = save(answer, seen, Saving(Path("out"), "vol", 0.4))
        assert sorted(path.as_posix() for path in files) == sorted(
            p.as_posix() for p in Path("out").rglob("*") if p.is_file() and p.name != "taught_vol.json"
        )
        mask = read_annotation("out/vol.seg.nrrd").mask
        expected = answer.probability > 0.4
        expected[painted(4, 10, 16) == 1], expected[painted(4, 10, 16) == 2] = True, False
        np.testing.assert_array_equal(mask.array, expected)
        np.testing.assert_allclose(mask.origin, volume.origin)
        record, card = read_json("out/vol.json"), read_json("out/taught_vol.json")
        assert (record["made_by"], record["parameters"]["threshold"]) == ("napari Teach", 0.4)
        assert record["weights"]["sha256"] == card["sha256"]
        write_volume("vol.nrrd", volume)
        code, _, err = call(infer, "vol.nrrd", "--model", "out/taught_vol.pt", "--threads", 1, capsys=capsys)
        assert code == 0, err
        assert Path("predictions/vol_probability.nrrd").read_bytes() == Path("out/vol_probability.nrrd").read_bytes()

    def test_saved_strokes_are_labels_for_teach(self, answered, volume, tmp_path, monkeypatch, capsys):
        seen, answer = answered
        monkeypatch.chdir(tmp_path)
        save(answer, seen, Saving(Path("out"), "vol"))
        names = [segment.name for segment in read_segmentation("out/strokes/vol.seg.nrrd").segments]
        assert names == ["lumen", "background"]
        write_volume("vol.nrrd", volume)
        code, _, err = call(teach, "vol.nrrd", "--labels", "out/strokes/vol.seg.nrrd", "--threads", 1, capsys=capsys)
        assert code == 0, err

    def test_corrections_learn_on_from_what_was_saved_with_its_strokes(self, volume, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        seen = Seen(volume.array, volume, source=Path(write_volume("vol.nrrd", volume)))
        answer, _ = done(Teacher().work(seen, painted(4, 10, 16), whole=False))
        for _ in range(2):  # the same strokes are kept once
            save(answer, seen, Saving(Path("out"), "vol"))
        [kept] = collection_of(Path("out/taught_vol.pt")).known
        np.testing.assert_array_equal(kept.labels_on(volume), painted(4, 10, 16))
        assert kept.entry.image.resolve() == (tmp_path / "vol.nrrd").resolve()
        checked = np.zeros(SHAPE, bool)
        checked[[1, 7, 13]] = True
        mask = np.where(checked, tubes(), read_annotation("out/vol.seg.nrrd").mask.array)
        write_segmentation("out/edited.seg.nrrd", [(Segment("lumen"), mask), (Segment("checked"), checked)], volume)
        command = ("vol.nrrd", "--labels", "out/edited.seg.nrrd", "--checked", "checked", "--name", "more")
        code, out, err = call(teach, *command, "--threads", 1, capsys=capsys)
        assert code == 0, err
        assert "learns on   from 'out/taught_vol.pt', as 'out/vol.json' says, and from its 1 label files too" in out

    def test_labels_of_a_layer_that_is_not_its_file_are_not_kept(self, volume, tmp_path):
        source = write_volume(tmp_path / "vol.nrrd", replace(volume, array=volume.array[:10]))
        seen = Seen(volume.array, volume, source=Path(source))
        answer, _ = done(Teacher().work(seen, painted(4, 10), whole=False))
        save(answer, seen, Saving(tmp_path / "out", "vol"))
        assert not (tmp_path / "out" / "taught_vol_labels").exists()

    def test_what_was_saved_before_is_replaced_unless_a_person_changed_it(self, answered, tmp_path):
        seen, answer = answered
        save(answer, seen, Saving(tmp_path, "vol", 0.3))
        save(answer, seen, Saving(tmp_path, "vol", 0.6))
        edited = tmp_path / "vol.seg.nrrd"
        edited.write_bytes(edited.read_bytes() + b" ")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(FileError, match=r"vol\.seg\.nrrd' is in the way: we did not write it, or it was changed"):
            save(answer, seen, Saving(tmp_path, "vol", 0.5))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_results_of_teach_are_not_replaced(self, answered, volume, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        seen, answer = answered
        write_volume("vol.nrrd", volume)
        write_volume("labels.nrrd", volume.with_array(painted(4, 10)))
        assert call(teach, "vol.nrrd", "--labels", "labels.nrrd", "--threads", 1, capsys=capsys)[0] == 0
        with pytest.raises(FileError, match=r"vol\.json' is in the way: it is the record of something else"):
            save(answer, seen, Saving(Path("taught"), "vol"))
        weights = Path("trained_models/taught_vol.pt").read_bytes()
        with pytest.raises(FileError, match=r"taught_vol\.pt' exists: give another name"):
            save(answer, seen, Saving(Path("trained_models"), "vol"))
        assert Path("trained_models/taught_vol.pt").read_bytes() == weights

    def test_the_image_itself_is_not_replaced(self, answered, volume, tmp_path):
        seen, answer = answered
        source = write_volume(tmp_path / "vol_probability.nrrd", volume)
        here = Seen(seen.array, seen.grid, source=Path(source))
        with pytest.raises(InputError, match=r"would replace '.*vol_probability\.nrrd', which this call reads"):
            save(answer, here, Saving(tmp_path, "vol"))

    def test_a_depth_crop_and_odd_names_are_saved_on_the_whole_grid(self, volume, tmp_path):
        seen = Seen(volume.array, volume, log=True, y_crop=20)
        answer, _ = done(Teacher().work(seen, painted(4, 10), whole=False))
        save(answer, seen, Saving(tmp_path, "a/b.seg"))
        [mask] = [path for path in tmp_path.glob("*.seg.nrrd") if "look" not in path.name]
        found = read_annotation(mask).mask.array
        assert found.shape == SHAPE
        assert not found[:, 20:].any()
        [card] = tmp_path.glob("taught_*.json")
        assert (read_json(card)["log"], read_json(card)["parameters"]["y_crop"]) == (True, 20)
        with pytest.raises(InputError, match="give the files a name"):
            Saving(tmp_path, " ")

    def test_places_to_paint_next_lie_where_nothing_is_painted(self, answered):
        _, answer = answered
        found = places(answer)
        assert found
        assert all(answer.lesson.labels[place.voxel] == 0 for place in found)


WIDGET = """
import sys, time
from pathlib import Path
import numpy as np
from micronet.app.napari.reader import read

window, image = sys.argv[1] == "window", Path(sys.argv[2])
truth, painted = np.load("truth.npy"), np.load("painted.npy")
if window:
    import napari
    from npe2 import PluginManager, PluginManifest
    PluginManager.instance().register(PluginManifest.from_file(sys.argv[3]))
    viewer = napari.Viewer()
    viewer.window._qt_window.resize(1300, 850)
    _, teach = viewer.window.add_plugin_dock_widget("micronet", "Teach")
    viewer.window.add_plugin_dock_widget("micronet", "Segment with µr-Net")
    viewer.open(str(image), plugin="micronet")
else:
    from napari.components import ViewerModel
    from micronet.app.napari.widget_teach import TeachWidget
    viewer = ViewerModel()
    teach = TeachWidget(viewer)
    [(array, attributes, _)] = read(str(image))
    viewer.add_image(array, **attributes)
from napari._qt.qt_event_loop import get_qapp
app, said = get_qapp(), []
say = teach.say
teach.say = lambda line: (said.append(line), say(line))
layer = teach.image.value

def wait(over, seconds=120):
    until = time.monotonic() + seconds
    while not over() and time.monotonic() < until:
        app.processEvents()
        time.sleep(0.01)
    assert over(), said

def pause(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        app.processEvents()
        time.sleep(0.01)

pause(0.2)
buttons = (teach.lumen, teach.background, teach.erase, teach.check, teach.next, teach.save)
cut = [button.text for button in buttons if window and button.native.width() < button.native.sizeHint().width()]
assert not cut, cut  # all that is written on them is seen
assert "Paint some lumen" in teach.status.value
teach.begin.native.click()
assert teach.status.value.startswith("paint some lumen and some background first"), said
teach.lumen.native.click()
strokes = teach.strokes.value
assert strokes.name == f"{layer.name} strokes" and strokes.mode == "paint" and strokes.selected_label == 1
assert (strokes.scale == layer.scale).all() and viewer.layers.selection.active is strokes
def stroke(z, label):
    with strokes.block_history():
        for at in np.argwhere(painted[z] == label):
            strokes.paint((z, *at), label)
strokes.brush_size = 1
viewer.dims.set_point(range(3), layer.data_to_world((10, 0, 0)))
stroke(10, 1)
wait(lambda: any("paint some background (label 2)" in line for line in said))
assert len(viewer.layers) == 2
teach.background.native.click()
assert strokes.selected_label == 2
stroke(10, 2)
wait(lambda: teach._answer is not None)
mask = viewer.layers[f"{layer.name} lumen (taught)"]
assert viewer.layers.selection.active is strokes and not mask.editable
first, data = mask.data.copy(), mask.data
assert first.any() and "by pixel trees alone; Teach tries all learners" in said[-1], said
assert (first[painted * (np.arange(20) == 10)[:, None, None] == 1] == 1).all()

def by_hand(z, y, columns):
    # Presses, drags and releases the mouse on the canvas, as a hand does.
    viewer.dims.set_point(range(3), layer.data_to_world((z, y, columns[0])))
    pause(0.3)
    canvas, camera = viewer.window._qt_viewer.canvas.native, viewer.scene.camera
    corner = np.array([canvas.height(), canvas.width()]) / 2
    seen = [corner + (np.array(layer.data_to_world((z, y, x)))[1:] - camera.center[1:]) * camera.zoom for x in columns]
    places = [QPointF(float(place[1]), float(place[0])) for place in seen]
    kinds = [QEvent.MouseMove, QEvent.MouseButtonPress, *[QEvent.MouseMove] * len(places), QEvent.MouseButtonRelease]
    for kind, at in zip(kinds, [places[0], places[0], *places, places[-1]], strict=True):
        button = Qt.NoButton if kind == QEvent.MouseMove else Qt.LeftButton
        down = Qt.NoButton if kind == QEvent.MouseButtonRelease else Qt.LeftButton
        there = QPointF(canvas.mapToGlobal(at.toPoint()))
        app.sendEvent(canvas, QMouseEvent(kind, at, there, button, down, Qt.NoModifier))
        pause(0.03)

if window:
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtTest import QTest
    teach.background.native.click()
    before, answer = strokes.data.copy(), teach._answer
    by_hand(13, 4, range(3, 12))
    drawn = np.argwhere(strokes.data != before)
    assert set(drawn[:, 0]) == {13} and len(drawn) >= 9 and (strokes.data[13, 4, 3:12] == 2).all(), drawn
    wait(lambda: teach._answer is not answer)
    assert mask.data is data and (mask.data[13, 4, 3:12] == 0).all()
    answer = teach._answer
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key_Z, Qt.ControlModifier)
    assert np.array_equal(strokes.data, before)
    wait(lambda: teach._answer is not answer)
    assert np.array_equal(mask.data, first)

stroke(16, 2)
stroke(16, 1)
answer = teach._answer
wait(lambda: teach._answer is not answer)
assert mask.data is data and not np.array_equal(mask.data, first)  # it changes in place
for _ in range(2):
    strokes.undo()  # as Ctrl-Z does
answer = teach._answer
wait(lambda: teach._answer is not answer)
assert np.array_equal(mask.data, first)  # the mask follows
viewer.dims.set_point(range(3), layer.data_to_world((3, 0, 0)))
answer = teach._answer
pause(1)
assert teach._answer is answer and not teach.busy  # looking at another plane is no stroke

strokes.redo(); strokes.redo()
teach.begin.native.click()  # all learners ..
assert teach.busy and teach.stop.enabled
stroke(4, 1)                # .. and a further stroke before they are done
wait(lambda: not teach.busy and teach._answer is not answer)
pause(0.7)
wait(lambda: not teach.busy)
assert "by pixel trees alone" in said[-1] and (teach._answer[0].lesson.labels[4] == 1).any(), said
teach.auto.value = False
teach.begin.native.click()
teach.stop.native.click()
wait(lambda: not teach.busy)
assert said[-1] == "stopped", said
low = teach._mask.voxels()
teach.threshold.value = 0.9
assert teach._mask.voxels() < low
teach.threshold.value = 0.5
assert teach._mask.voxels() == low
teach.begin.native.click()
wait(lambda: not teach.busy)
assert "Dice on held-out" in said[-1], said
both = 2 * (mask.data & truth).sum() / (mask.data.sum() + truth.sum())
assert both > 0.8, both
teach.next.native.click()
wait(lambda: not teach.busy)
assert "Paint what it is" in said[-1], said
if window:
    pause(0.3)
    viewer.window.screenshot("shot.png", canvas_only=False, flash=False)
teach.check.native.click()
checked = teach.checked.value
assert checked.name == f"{layer.name} checked" and checked.mode == "paint" and mask.editable
mended, looked_at = truth[7] ^ (np.indices(truth[7].shape)[0] == 20), checked.data.copy()
mask.data[7], looked_at[7] = mended, 1
answer, checked.data = teach._answer, looked_at
teach.auto.value = True
wait(lambda: teach._answer is not answer)
assert (teach._answer[0].lesson.labels[7] == np.where(mended, 1, 2)).all() and (mask.data[7] == mended).all()
assert (teach._answer[0].lesson.labels[9] == 0).all()  # nothing was checked there
answer = teach._answer
mask.paint((7, 21, 3), 1)  # further mended where it was checked
wait(lambda: teach._answer is not answer)
assert teach._answer[0].lesson.labels[7, 21, 3] == 1
teach.auto.value = False
teach.checked.value = strokes
teach.begin.native.click()
assert said[-1].endswith("on a layer of its own, and that is the strokes; Check makes one"), said
teach.checked.value = checked
teach.strokes.value = mask
teach.begin.native.click()
assert said[-1].startswith("that is the mask; choose the layer with the strokes"), said
teach.strokes.value = strokes
teach.folder.value, teach.name.value = "saved", "vol"
teach.save.native.click()
wait(lambda: not teach.busy)
assert said[-1].startswith("saved vol.seg.nrrd, taught_vol.pt and more in "), said
np.save("shown.npy", mask.data)
teach.depth.value = 500
teach.begin.native.click()
wait(lambda: not teach.busy)
assert said[-1] == "the depth must lie in 1..36 (the Y axis), found 500", said
if window:
    viewer.layers.remove(mask)
    teach.depth.value = 0
    teach.begin.native.click()
    viewer.window.remove_dock_widget("all")
    viewer.close()
    pause(0.5)
print("whole")
"""

_NAPARI = pytest.mark.skipif(find_spec("napari") is None, reason="napari is not installed (pip install '.[napari]')")
_SCREEN = pytest.mark.skipif("DISPLAY" not in os.environ and which("xvfb-run") is None, reason="no screen nor xvfb-run")


@_NAPARI
@pytest.mark.usefixtures("engine_ready")
@pytest.mark.parametrize("kind", ["model", pytest.param("window", marks=_SCREEN)])
def test_widget_learns_after_strokes_in_place_undoes_stops_and_saves(tmp_path, root, volume, kind):
    image = write_volume(tmp_path / "embryo.nrrd", volume)
    np.save(tmp_path / "truth.npy", tubes().astype(np.uint8))
    np.save(tmp_path / "painted.npy", painted(4, 10, 16))
    manifest = root / "micronet" / "napari.yaml"
    found = run_in_napari(WIDGET, kind, image, manifest, folder=tmp_path, root=root, screen=kind == "window")
    assert "whole" in found.stdout, found.stdout + found.stderr
    saved = read_annotation(tmp_path / "saved" / "vol.seg.nrrd").mask
    np.testing.assert_array_equal(saved.array, np.load(tmp_path / "shown.npy") > 0)
    np.testing.assert_allclose(saved.origin, read_volume(image).origin)
    if kind == "window":
        assert (tmp_path / "shot.png").stat().st_size > 10_000
