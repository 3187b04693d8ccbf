"""The napari plugin: manifest, reader, writer, the computing part of the widget Segment, and it where napari is."""

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
import torch
from napari_process import run_in_napari

from micronet import MicroNet, MicroRNet, Volume, load_model, predict, read_annotation, read_volume, write_volume
from micronet.app.napari import segmenter
from micronet.app.napari.layers import STROKES, grid_of, layer_attributes
from micronet.app.napari.reader import get_reader, read
from micronet.app.napari.segmenter import Segmenting, Step, default_weights, segment, warning
from micronet.app.napari.work import Work
from micronet.app.napari.writer import write_labels_tiff, write_seg_nrrd
from micronet.core.errors import FileError, InputError, MicronetError
from micronet.io import Segment, open_recording, read_segmentation, write_label_tiff, write_segmentation
from micronet.io.labels import read_labels
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.networks.weights import save_state

SHAPE = (33, 34, 36)
# Oblique, anisotropic, one axis flipped: 6.0 x 4.5 x 3.0 µm.
DIRECTIONS = np.array([[0.0, 3.6, 4.8], [0.0, -3.6, 2.7], [3.0, 0.0, 0.0]])


@pytest.fixture
def volume(rng):
    array = rng.integers(0, 255, SHAPE).astype(np.uint8)
    return Volume(array, DIRECTIONS, np.array([10.0, -20.0, 30.0]), "left-posterior-superior", "um")


@pytest.fixture
def mask():
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((y - 17) ** 2 + (x - 18) ** 2 < 36) & (z >= 0)


@pytest.mark.skipif(find_spec("npe2") is None, reason="npe2 is not installed (requirements-dev.txt)")
def test_npe2_finds_the_manifest_valid(root):
    found = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(root / "micronet" / "napari.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "valid" in found.stdout + found.stderr


def test_manifest_names_what_is_there_and_setup_ships_it(root):
    manifest = (root / "micronet" / "napari.yaml").read_text(encoding="utf-8")
    names = [line.split("python_name:")[1].strip() for line in manifest.splitlines() if "python_name:" in line]
    assert len(names) == 5
    for name in names:
        module, function = name.split(":")
        if ".widget" in module:  # needs napari
            assert f"class {function}(" in (root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        else:
            assert callable(getattr(import_module(module), function))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["entry-points"]["napari.manifest"] == {"micronet": "micronet:napari.yaml"}
    packages = {".".join(path.relative_to(root).parent.parts) for path in (root / "micronet").rglob("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == packages | {"micronet.trained_models"}


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_reader_gives_the_scale_in_um_and_keeps_the_grid(tmp_path, volume, suffix):
    path = str(write_volume(tmp_path / f"embryo{suffix}", volume))
    [(array, attributes, kind)] = get_reader(path)(path)
    assert kind == "image"
    np.testing.assert_array_equal(array, volume.array)
    assert attributes["name"] == "embryo"
    assert attributes["scale"] == pytest.approx((6.0, 4.5, 3.0))
    assert attributes["units"] == ("um", "um", "um")
    assert attributes["axis_labels"] == ("z", "y", "x")
    grid = grid_of(array.shape, attributes)
    np.testing.assert_allclose(grid.in_space(volume.space).in_units("um").origin, volume.origin)


def test_reader_takes_every_format_and_leaves_other_files_alone(tmp_path, volume):
    plain = Volume(volume.array).with_spacing((6.0, 4.5, 3.0))
    for name in ("a.nrrd", "a.nhdr", "a.nii", "a.tif", "a.ome.tif"):
        path = str(write_volume(tmp_path / name, plain))
        [(array, attributes, _)] = get_reader([path])([path])
        np.testing.assert_array_equal(array, volume.array)
        assert attributes["scale"] == pytest.approx((6.0, 4.5, 3.0))
    path = str(write_volume(tmp_path / "a.npy", plain))
    [(_, attributes, _)] = get_reader(path)(path)
    assert "scale" not in attributes
    for other in ("a.png", "a.raw", "folder", ["a.tif", "b.tif"]):
        assert get_reader(other) is None


def test_reader_gives_a_labels_layer_for_each_segment(tmp_path, volume, mask):
    path = tmp_path / "embryo.seg.nrrd"
    write_segmentation(
        path, [(Segment(name="heart", color=(1.0, 0.5, 0.0)), mask), (Segment(name="rest"), ~mask)], volume
    )
    heart, rest = get_reader(str(path))(str(path))
    assert [layer[1]["name"] for layer in (heart, rest)] == ["heart", "rest"]
    assert (heart[2], heart[1]["colormap"][1]) == ("labels", (1.0, 0.5, 0.0))
    np.testing.assert_array_equal(heart[0], mask)
    assert heart[1]["scale"] == pytest.approx((6.0, 4.5, 3.0))


def test_reader_gives_a_recording_as_one_layer_with_time_first(tmp_path, volume):
    movie = np.stack([volume.array, volume.array[::-1]])
    metadata = {"axes": "TZYX", "spacing": 6.0, "unit": "micron"}
    tifffile.imwrite(tmp_path / "beat.tif", movie, imagej=True, resolution=(1 / 3, 1 / 4.5), metadata=metadata)
    [(array, attributes, kind)] = read(str(tmp_path / "beat.tif"))
    assert kind == "image"
    np.testing.assert_array_equal(array, movie)
    assert attributes["scale"] == pytest.approx((1.0, 6.0, 4.5, 3.0))
    assert attributes["units"] == ("pixel", "um", "um", "um")
    assert attributes["axis_labels"] == ("t", "z", "y", "x")


def test_reader_opens_our_label_tiff_as_labels(tmp_path, volume, mask):
    path = str(write_label_tiff(tmp_path / "embryo_labels.tif", [mask], volume))
    [(array, attributes, kind)] = read(path)
    assert (kind, attributes["name"]) == ("labels", "embryo_labels")
    np.testing.assert_array_equal(array, mask)


def test_reader_tells_what_is_wrong_in_one_line(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"nonsense")
    with pytest.raises(MicronetError, match=r"a\.nrrd'"):
        read(str(tmp_path / "a.nrrd"))


def test_saved_segmentation_lies_on_the_grid_of_the_image(tmp_path, volume, mask):
    image = str(write_volume(tmp_path / "embryo.nrrd", volume))
    [(_, attributes, _)] = read(image)
    path = str(tmp_path / "out.seg.nrrd")
    assert write_seg_nrrd(path, mask.astype(np.int64), attributes | {"name": "lumen"}) == [path]
    found = read_annotation(path)
    assert found.segment.name == "lumen"
    np.testing.assert_array_equal(found.mask.array, mask)
    np.testing.assert_array_equal(found.mask.directions, volume.directions)
    np.testing.assert_array_equal(found.mask.origin, volume.origin)


def test_strokes_are_saved_as_what_teach_reads_and_opened_as_one_layer(tmp_path, volume, mask):
    labels = np.zeros(SHAPE, np.uint8)
    labels[5] = np.where(mask[5], 1, 2)
    path = str(tmp_path / "embryo.seg.nrrd")
    attributes = layer_attributes(volume, "embryo strokes")
    attributes["metadata"][STROKES] = True
    write_seg_nrrd(path, labels, attributes)
    assert [segment.name for segment in read_segmentation(path).segments] == ["lumen", "background"]
    _, read_back = read_labels(path, volume, "embryo")
    np.testing.assert_array_equal(read_back.volume.array, labels)
    [(array, attributes, kind)] = read(path)
    assert (kind, attributes["name"], attributes["metadata"][STROKES]) == ("labels", "embryo strokes", True)
    np.testing.assert_array_equal(array, labels)
    both = [(Segment(name="lumen"), mask), (Segment(name="background"), mask)]  # as nobody paints for teaching
    write_segmentation(path, both, volume)
    assert len(read(path)) == 2


def test_every_label_becomes_a_segment(tmp_path, mask):
    labels = np.where(mask, 2, 0).astype(np.int32)
    labels[0] = 7
    path = str(tmp_path / "out.seg.nrrd")
    write_seg_nrrd(path, labels, {"name": "parts", "scale": (6.0, 4.5, 3.0)})
    found = read_segmentation(path)
    assert [segment.name for segment in found.segments] == ["parts 2", "parts 7"]
    np.testing.assert_array_equal(found.mask(found.segments[1]).array, labels == 7)
    assert found.grid.spacing_um == pytest.approx((6.0, 4.5, 3.0))


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({"scale": (6.0, 4.5, 3.0)}, (6.0, 4.5, 3.0)),
        ({"scale": (0.006, 0.0045, 0.003), "units": ("millimeter",) * 3}, (6.0, 4.5, 3.0)),
        ({"scale": (2.0, 0.006, 0.0045, 0.003), "units": ("s", *("mm",) * 3)}, (6.0, 4.5, 3.0)),
        ({"scale": (1.0, 1.0, 1.0), "units": ("pixel",) * 3}, None),
        ({}, None),
    ],
)
def test_scale_of_a_layer_becomes_the_spacing(attributes, spacing):
    found = grid_of(SHAPE, attributes).spacing_um
    assert found == (None if spacing is None else pytest.approx(spacing))


def test_grid_of_a_layer_that_was_rescaled_keeps_its_directions(tmp_path, volume):
    [(array, attributes, _)] = read(str(write_volume(tmp_path / "embryo.nrrd", volume)))
    grid = grid_of(array.shape, attributes | {"scale": (12.0, 9.0, 6.0)})
    np.testing.assert_allclose(grid.directions, 2 * volume.directions)
    assert grid_of((3, 4, 5), attributes | {"scale": (1, 1, 1)}).spacing_um is None  # cropped: another grid


def test_saved_label_tiffs_open_with_their_spacing(tmp_path, mask):
    attributes = {"scale": (6.0, 4.5, 3.0), "name": "lumen"}
    [path] = write_labels_tiff(str(tmp_path / "a.tif"), mask.astype(np.int64) * 300, attributes)
    found = read_volume(path)
    assert found.spacing_um == (6.0, 4.5, 3.0)
    np.testing.assert_array_equal(found.array, mask * 300)
    movie = np.stack([mask, ~mask])
    [path] = write_labels_tiff(str(tmp_path / "b.tif"), movie.astype(np.uint8), {"scale": (1.0, 6.0, 4.5, 3.0)})
    with open_recording(path) as recording:
        np.testing.assert_array_equal(recording.read(1).array, movie[1])


@pytest.mark.parametrize(
    ("write", "data", "message"),
    [
        (write_seg_nrrd, np.zeros((2, 3, 4, 5), np.uint8), "has the axes Z, Y, X, this layer has 4; save it as .tif"),
        (write_seg_nrrd, np.zeros((3, 4, 5), np.uint8), "holds 1 to 255 labels, this layer has 0"),
        (write_seg_nrrd, np.zeros((3, 4, 5)), "labels are whole numbers from 0 on, this layer holds float64"),
        (write_labels_tiff, np.zeros((4, 5), np.uint8), "and T before them, this layer has 2 axes"),
        (write_labels_tiff, np.full((3, 4, 5), 70000), "labels up to 65535, not 70000"),
        (write_labels_tiff, np.full((3, 4, 5), -1), "labels are whole numbers from 0 on"),
    ],
)
def test_labels_that_a_format_cannot_hold_are_refused(tmp_path, write, data, message):
    with pytest.raises(InputError, match=message):
        write(str(tmp_path / "a.seg.nrrd"), data, {})
    assert not list(tmp_path.iterdir())


def steps(array, weights, grid=None, **settings):
    """Return what is told of a layer on its way."""
    found = []
    segment(array, Volume(array[0] if array.ndim == 4 else array) if grid is None else grid,
            Segmenting(weights, **settings), found.append)  # fmt: skip
    return [step for step in found if isinstance(step, Step)]


@pytest.mark.usefixtures("engine_ready")
class TestSegment:
    @pytest.fixture
    def weights(self, tmp_path):
        torch.manual_seed(11)
        path = tmp_path / "ur-net_test.pt"
        save_state(path, MicroRNet().state_dict())
        return path

    def test_masks_are_those_of_predict_after_every_refinement(self, weights, volume):
        model = load_model(weights)
        found = steps(volume.array, weights, iterations=3, threshold=0.4)
        assert [(step.iteration, step.of) for step in found] == [(1, 3), (2, 3), (3, 3)]
        for number, step in enumerate(found, 1):
            expected = predict(volume.array, model, number) > 0.4
            np.testing.assert_array_equal(step.mask, expected)
            assert step.voxels == expected.sum()

    def test_time_points_start_from_the_last(self, weights, volume):
        model = load_model(weights)
        movie = np.stack([volume.array, volume.array[::-1]])
        found = steps(movie, weights, iterations=1)
        first = predict(movie[0], model, 10)
        np.testing.assert_array_equal(found[-1].mask, predict(movie[1], model, 1, first) > 0.5)
        assert [(step.time_point, step.of) for step in found] == [(0, 10)] * 10 + [(1, 1)]

    def test_labels_are_a_start(self, weights, volume, mask):
        model = load_model(weights)
        [step] = steps(volume.array, weights, iterations=1, start=mask.astype(np.int32) * 5)
        np.testing.assert_array_equal(step.mask, predict(volume.array, model, 1, mask) > 0.5)

    def test_logarithm_and_depth_crop_are_those_of_infer(self, weights, volume):
        [step] = steps(volume.array, weights, iterations=1, log=True, y_crop=33)
        expected = predict(log_intensity(volume.array), load_model(weights), 1, y_crop=33) > 0.5
        np.testing.assert_array_equal(step.mask, expected)
        assert not step.mask[:, 33:].any()

    def test_an_image_is_normalised_once_however_often_it_is_refined(self, weights, volume, monkeypatch):
        seen = []
        monkeypatch.setattr(segmenter, "normalize_image", lambda array: seen.append(1) or normalize_image(array))
        steps(volume.array, weights, iterations=4)
        assert len(seen) == 1

    def test_who_raises_on_a_step_stops_the_refinement(self, weights, volume):
        work = Work(lambda tell: segment(volume.array, volume, Segmenting(weights), tell))
        work.stop()
        work.run()
        assert work.ended
        assert (work.told(), work.result, work.error) == ([], None, None)

    def test_micronet_looks_once_and_takes_no_start(self, tmp_path, volume, mask):
        path = tmp_path / "u-net_test.pt"
        save_state(path, MicroNet().state_dict())
        assert len(steps(volume.array, path, iterations=7)) == 1
        with pytest.raises(InputError, match="µ-Net looks once and starts from nothing"):
            steps(volume.array, path, start=mask)

    def test_what_cannot_be_segmented_is_refused(self, weights, tmp_path):
        with pytest.raises(InputError, match="must have the axes Z, Y, X, and T before them, this one has 2"):
            steps(np.zeros((40, 40)), weights, grid=Volume(np.zeros(SHAPE)))
        with pytest.raises(InputError, match=r"threshold must lie in \[0, 1\), found 1.5"):
            steps(np.zeros(SHAPE), weights, threshold=1.5)
        with pytest.raises(InputError, match=r"the labels to start from have shape \(2, 3, 4\), the image"):
            steps(np.zeros(SHAPE), weights, start=np.zeros((2, 3, 4)))
        with pytest.raises(InputError, match=r"y-crop must lie in 1\.\.34"):
            steps(np.ones(SHAPE), weights, y_crop=35)
        with pytest.raises(FileError, match=r"missing\.pt"):
            steps(np.zeros(SHAPE), tmp_path / "missing.pt")


def test_bundled_weights_are_found_and_an_odd_image_is_told(volume):
    weights = default_weights()
    assert weights.name == "ur-net_phantom.pt"
    assert weights.is_file()
    told = warning(volume, volume.array, weights)
    assert told is None or "outside of what" in told
    assert warning(volume, volume.array[0], weights) is None


# In a process of its own: Qt stays out of the other tests. A viewer without a window needs neither screen nor OpenGL.
WIDGET = """
import sys, time
from pathlib import Path
from napari._qt.qt_event_loop import get_qapp
from napari.components import ViewerModel
from micronet.app.napari.reader import read
from micronet.app.napari.widget import SegmentWidget
from micronet.app.napari.writer import write_seg_nrrd

image, weights = map(Path, sys.argv[1:])
app = get_qapp()
viewer = ViewerModel()
widget = SegmentWidget(viewer)
[(array, attributes, _)] = read(str(image))
layer = viewer.add_image(array, **attributes)
assert widget.weights.value.name == "ur-net_phantom.pt" and widget.live.value and widget.iterations.value == 10
assert widget.image.value is layer and not widget.stop.enabled
said = []
say = widget.say
widget.say = lambda line: (said.append(line), say(line))

def wait(over):
    until = time.monotonic() + 40
    while not over() and time.monotonic() < until:
        app.processEvents()
        time.sleep(0.01)
    assert over(), said

widget.weights.value = "missing.pt"
widget.begin.native.click()
wait(lambda: not widget.busy)
assert said[-1].startswith("no weight file '") and "missing.pt" in said[-1] and len(viewer.layers) == 1, said
widget.weights.value, widget.iterations.value = weights, 100
widget.begin.native.click()
wait(lambda: len(viewer.layers) == 2)
assert widget.stop.enabled and widget.bar.max == 100 and widget.bar.value >= 1
widget.stop.native.click()
wait(lambda: not widget.busy)
assert said[-1] == "stopped" and not widget.stop.enabled, said
viewer.layers.pop()
widget.iterations.value = 2
widget.begin.native.click()
wait(lambda: not widget.busy)
labels = viewer.layers[-1]
assert said[-1] == f"{layer.name} lumen: {int(labels.data.sum()):,} voxels", said
assert any(line.startswith("refinement 1 of 2: ") for line in said), said
assert labels.name == f"{layer.name} lumen" and (labels.scale == layer.scale).all() and labels.units == layer.units
write_seg_nrrd("found.seg.nrrd", *labels.as_layer_data_tuple()[:2])
widget.from_labels.value, widget.live.value, widget.iterations.value = labels, False, 1
widget.begin.native.click()
wait(lambda: not widget.busy)
assert len(viewer.layers) == 3
print("whole")
"""


@pytest.mark.skipif(find_spec("napari") is None, reason="napari is not installed (pip install '.[napari]')")
@pytest.mark.usefixtures("engine_ready")
def test_widget_shows_every_refinement_stops_and_its_labels_can_be_saved(tmp_path, root, volume):
    image = write_volume(tmp_path / "embryo.nrrd", volume)
    torch.manual_seed(11)
    weights = tmp_path / "ur-net_test.pt"
    save_state(weights, MicroRNet().state_dict())
    found = run_in_napari(WIDGET, image, weights, folder=tmp_path, root=root)
    assert "whole" in found.stdout, found.stdout + found.stderr
    saved = read_annotation(tmp_path / "found.seg.nrrd").mask
    np.testing.assert_array_equal(saved.array, predict(volume.array, load_model(weights), 2) > 0.5)
    np.testing.assert_array_equal(saved.origin, volume.origin)
