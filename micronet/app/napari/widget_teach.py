"""The widget "Teach": strokes on an image become a mask that changes in place, and files where asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from magicgui.widgets import CheckBox, ComboBox, FileEdit, LineEdit, PushButton
from napari.layers import Image, Labels
from numpy.typing import NDArray

from micronet.app.napari.layers import GRID, STROKE_COLOURS, STROKES
from micronet.app.napari.teacher import Planes, Saving, Seen, Teacher, annotation, mask_planes, places, save
from micronet.app.napari.widget_panel import Panel, after, layer_choice, path_of, row, settled_grid
from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.training.teach.live import Answer
from micronet.training.teach.look import Place

__all__ = ["TeachWidget"]

#: Milliseconds from the end of a stroke to learning from it.
_PAUSE = 500
_BRUSH = 5
#: Pixels, so that four buttons in a row show all that is written on them.
_WIDTH = 440
_CLEAR = "transparent"
_MASK = {None: _CLEAR, 0: _CLEAR, 1: "#35e07c"}
_CHECKED = {None: _CLEAR, 0: _CLEAR, 1: "#d64ddb"}
_WELCOME = "Paint some lumen and some background; the mask follows half a second after each stroke."


class TeachWidget(Panel):
    """Paint on an image layer; what is learned from the strokes segments all of it."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__(
            viewer, "Teach", "choose between all learners by strokes held out, and teach those: some seconds to minutes"
        )
        self.strokes = layer_choice(
            self.viewer,
            Labels,
            optional=True,
            label="Strokes",
            tooltip="labels layer: 1 lumen, 2 background, 0 not painted; the buttons below make one",
        )
        self.checked = layer_choice(
            self.viewer,
            Labels,
            optional=True,
            label="Checked",
            tooltip="labels layer: what it marks was looked at, and counts as annotated as the mask shows it; the mask "
            "can be mended then",
        )
        self.lumen = PushButton(text="Paint lumen", tooltip="brush with label 1")
        self.background = PushButton(text="Paint background", tooltip="brush with label 2")
        self.erase = PushButton(text="Erase", tooltip="take painted voxels back; Ctrl-Z undoes a stroke")
        self.check = PushButton(
            text="Check", tooltip="brush that marks what you have looked at, mended or right as it is"
        )
        self.auto = CheckBox(
            text="Learn after every stroke",
            value=True,
            tooltip="by itself, 0.5 s after a stroke: pixel trees alone, about a second; Teach tries all learners",
        )
        self.next = PushButton(text="Go to where a stroke helps most", enabled=False)
        self.folder = FileEdit(label="Save to", mode="d", tooltip="folder for all files", value="")
        self.name = LineEdit(label="Name", tooltip="of the files; the weights are taught_NAME.pt")
        self.save = PushButton(
            text="Save mask and weights",
            enabled=False,
            tooltip=".seg.nrrd for 3D Slicer, probability, preview, strokes, and weights for infer.py and Segment",
        )
        tools = row(self.lumen, self.background, self.erase, self.check)
        choices = [self.image, self.strokes, self.checked, tools, self.auto, self.threshold, self.log, self.depth]
        self.lay_out(choices, _WIDTH)
        self.extend([row(self.next), self.folder, self.name, row(self.save)])
        self._teacher, self._mask = Teacher(), _Mask(self.viewer, self._on_change)
        self._answer: tuple[Answer, Seen] | None = None
        self._learned: NDArray[Any] | None = None  # strokes, as they were when last learned from
        self._watched: list[Labels] = []
        self._stored: Any = None  # the image as the layer has it, perhaps on disk, and in memory
        self._array: NDArray[Any] = np.empty(0)
        self._places: list[Place] | None = None
        self._pause = after(_PAUSE, self._learn_by_itself)
        self._connect()
        self._on_image()
        self._on_strokes()
        self.say(_WELCOME)

    def _connect(self) -> None:
        self.begin.changed.connect(lambda: self.tried(lambda: self.learn(whole=True)))
        for button, label in ((self.lumen, LUMEN), (self.background, BACKGROUND), (self.erase, 0)):
            button.changed.connect(lambda _, label=label: self.tried(lambda: self.paint(label)))
        self.check.changed.connect(lambda: self.tried(self.mark_checked))
        self.image.changed.connect(self._on_image)
        for layer in (self.strokes, self.checked):
            layer.changed.connect(self._on_strokes)
        for setting in (self.auto, self.log, self.depth):
            setting.changed.connect(self._on_setting)
        self.threshold.changed.connect(self._redraw)
        self.next.changed.connect(self._go_on)
        self.save.changed.connect(lambda: self.tried(self.write))

    def paint(self, label: int) -> None:
        """Let the brush paint a label, on a new layer where there is none that fits the image."""
        strokes = self._layer_for(self.strokes, "strokes", STROKE_COLOURS)
        strokes.metadata[STROKES] = True
        self.viewer.layers.selection.active = strokes
        strokes.selected_label = label or strokes.selected_label
        strokes.mode = "paint" if label else "erase"

    def mark_checked(self) -> None:
        """Let the brush mark what was looked at, on a new layer where there is none that fits the image."""
        checked = self._layer_for(self.checked, "checked", _CHECKED)
        self.viewer.layers.selection.active = checked
        checked.selected_label, checked.mode = 1, "paint"

    def _layer_for(self, choice: ComboBox, what: str, colours: dict[Any, str]) -> Labels:
        """Return the labels layer that is chosen, or a new one where there is none that fits the image."""
        image, layer = self.chosen_image(), choice.value
        if layer is None or layer.data.shape != image.data.shape:
            empty = np.zeros(image.data.shape, np.uint8)
            layer = self.viewer.add_labels(empty, name=f"{image.name} {what}", **_place(image), colormap=colours)
            layer.metadata[GRID] = settled_grid(image, None)
            layer.brush_size = _BRUSH
            choice.value = layer
        return layer

    def learn(self, *, whole: bool) -> None:
        """Begin to learn from the strokes as they are now: all learners, or pixel trees alone."""
        image, strokes = self.chosen_image(), self.strokes.value
        self._learned = labels = self._labels_of(image)
        grid, path = settled_grid(image, strokes), path_of(image)
        if image.data is not self._stored:
            self._stored, self._array = image.data, np.asarray(image.data)
        seen = Seen(self._array, grid, self.log.value, self.y_crop, None if path is None else Path(path))
        around = int(np.clip(image.world_to_data(self.viewer.dims.point)[0], 0, len(image.data) - 1))
        self.start(
            self._teacher.work(seen, labels, whole=whole, around=around),
            lambda planes: self._mask.show(image, grid, planes, labels, self.threshold.value),
            lambda answer: self._on_answer(answer, seen, whole),
        )

    def _labels_of(self, image: Image) -> NDArray[Any]:
        """Return what is annotated; InputError where there is nothing, or layers are chosen for what they are not."""
        strokes, checked = self.strokes.value, self.checked.value
        if strokes is None:
            raise InputError("paint some lumen and some background first: the buttons above make a layer for it")
        if self._mask.is_in(strokes):
            raise InputError("that is the mask; choose the layer with the strokes, or paint: the buttons make one")
        if checked is None:
            return annotation(strokes.data)
        if checked is strokes or self._mask.is_in(checked):
            what = "the strokes" if checked is strokes else "the mask"
            raise InputError(f"what was checked is marked on a layer of its own, and that is {what}; Check makes one")
        return annotation(strokes.data, checked.data, self._mask.of(image))

    def write(self) -> None:
        """Save what is shown."""
        if self._answer is None or self.busy:
            raise InputError("there is nothing to save yet: paint, and wait for the mask")
        if not str(self.folder.value).strip("."):
            raise InputError("choose a folder to save to")
        answer, seen = self._answer
        saving = Saving(Path(self.folder.value).expanduser(), self.name.value, self.threshold.value)
        self.say("saving …")
        self.start(lambda tell: save(answer, seen, saving), lambda told: None, self._on_saved)

    def refresh(self) -> None:
        """Show the mask as it is by now."""
        self._mask.refresh()

    def on_stop(self) -> None:
        """Show the last whole answer again."""
        self._redraw()

    def _on_answer(self, answer: Answer, seen: Seen, whole: bool) -> None:
        self._answer, self._places = (answer, seen), None
        self._mask.refresh()
        self.next.enabled = self.save.enabled = True
        told = answer.course.choice.told() if whole else "by pixel trees alone; Teach tries all learners"
        size = "" if seen.grid.spacing_um is not None else "; voxel size not known, taken for cubes of 1 µm"
        self.say(f"{self._mask.voxels():,} voxels of lumen, {told}{size}")

    def _on_saved(self, files: list[Path]) -> None:
        names = [file.name for file in files if file.name.endswith((".seg.nrrd", ".pt")) and "_look" not in file.name]
        self.say(f"saved {', '.join(dict.fromkeys(names))} and more in {files[0].parent}")

    def _on_image(self) -> None:
        image = self.image.value
        if image is None:
            return
        path = path_of(image)
        self.folder.value = (Path(path).resolve().parent if path else Path.home()) / "taught_in_napari"
        self.name.value = image.name
        self._forget()

    def _forget(self) -> None:
        """Take no answer on one image for one on another."""
        self._answer = self._learned = self._places = None
        self.next.enabled = self.save.enabled = False

    def _on_strokes(self) -> None:
        for layer in self._watched:
            for event in _changes(layer):
                event.disconnect(self._on_change)
        self._mask.editable(self.checked.value is not None)
        self._watched = [layer for layer in (self.strokes.value, self.checked.value) if layer is not None]
        for layer in self._watched:
            for event in _changes(layer):
                event.connect(self._on_change)
        if self._watched:
            self._on_change()

    def _on_change(self, event: Any = None) -> None:
        if self.auto.value:
            self._pause.start()

    def _on_setting(self) -> None:
        self._learned = None
        self._on_change()

    def _learn_by_itself(self) -> None:
        strokes = self.strokes.value
        if not self.auto.value or strokes is None or self.image.value is None or not np.any(strokes.data):
            return
        labels = self.tried(lambda: self._labels_of(self.image.value))
        if labels is not None and (self._learned is None or not np.array_equal(labels, self._learned)):
            self.tried(lambda: self.learn(whole=False))

    def _redraw(self) -> None:
        if self._answer is not None and not self.busy:
            answer, _ = self._answer
            planes = Planes(0, answer.probability)
            self._mask.redraw(planes, answer.lesson.labels, self.threshold.value)
            self._mask.refresh()

    def _go_on(self) -> None:
        """Go to the next of the places where a stroke would help most."""
        if self._answer is None or self.busy:
            return
        if self._places:
            self._go()
            return
        answer, _ = self._answer

        def found(some: list[Place]) -> None:
            self._places = some
            self._go()

        self.say("looking for it …")
        self.start(lambda tell: places(answer), lambda told: None, found)

    def _go(self) -> None:
        if not self._places or self.image.value is None:
            self.say("nothing is in doubt")
            return
        place = self._places.pop(0)
        self._places.append(place)  # after the last comes the first again
        world = self.image.value.data_to_world(place.voxel)
        self.viewer.dims.set_point(range(3), world)
        self.viewer.camera.center = tuple(world)
        z, y, x = place.voxel
        self.say(f"z {z}, y {y}, x {x}: {place.why}. Paint what it is.")


class _Mask:
    """The labels layer with the mask: it is made with the first one, and changes in place."""

    def __init__(self, viewer: napari.Viewer, on_mended: Callable[[Any], None]) -> None:
        self._viewer, self._on_mended = viewer, on_mended
        self._image: Image | None = None
        self._layer: Labels | None = None
        self._editable = False

    def show(self, image: Image, grid: Volume, planes: Planes, labels: NDArray[Any], threshold: float) -> None:
        """Take in the probability of some planes, and show them."""
        if self._layer is None or self._image is not image or self._layer not in self._viewer.layers:
            self._add(image, grid)
        self.redraw(planes, labels, threshold)

    def redraw(self, planes: Planes, labels: NDArray[Any], threshold: float) -> None:
        """Write planes into the layer that is there."""
        if self._layer is not None:
            depth = min(labels.shape[1], planes.probability.shape[1])
            mask_planes(Planes(planes.first, planes.probability[:, :depth]), labels, threshold, self._layer.data)

    def refresh(self) -> None:
        """Show what there is."""
        if self._layer is not None:
            self._layer.refresh()

    def is_in(self, layer: Labels) -> bool:
        """Whether a layer is that of the mask."""
        return self._layer is layer

    def of(self, image: Image) -> NDArray[Any] | None:
        """Return the mask of an image as it is shown, and as a person has mended it; None where there is none."""
        if self._layer is None or self._image is not image or self._layer not in self._viewer.layers:
            return None
        return np.asarray(self._layer.data)

    def editable(self, whether: bool) -> None:
        """Let the mask be painted on, or not: where nothing was checked, the next answer would overwrite it."""
        self._editable = whether
        if self._layer is not None:
            self._layer.editable = whether

    def voxels(self) -> int:
        """Return how many are lumen."""
        return 0 if self._layer is None else int(np.count_nonzero(self._layer.data))

    def _add(self, image: Image, grid: Volume) -> None:
        active = self._viewer.layers.selection.active
        self._image = image
        self._layer = self._viewer.add_labels(
            np.zeros(image.data.shape, np.uint8),
            name=f"{image.name} lumen (taught)",
            colormap=_MASK,
            opacity=0.35,
            metadata={GRID: grid},
            **_place(image),
        )
        self._layer.editable = self._editable
        self._layer.events.paint.connect(self._on_mended)
        self._viewer.layers.move(len(self._viewer.layers) - 1, self._viewer.layers.index(image) + 1)
        self._viewer.layers.selection.active = active


def _place(image: Image) -> dict[str, Any]:
    """Return where a layer lies."""
    return {key: getattr(image, key) for key in ("scale", "translate", "units", "axis_labels")}


def _changes(layer: Labels) -> list[Any]:
    """Return the events that tell of a stroke, of an undo, and of new voxels; others may tell of less."""
    return [layer.events.paint, layer.events.set_data, layer.events.data]
