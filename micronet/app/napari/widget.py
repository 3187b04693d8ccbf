"""The widget "Segment with µr-Net": an image layer in, a labels layer out, live after every refinement."""

from pathlib import Path
from typing import Any

import napari
import numpy as np
from magicgui.widgets import CheckBox, FileEdit, SpinBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_info, show_warning

from micronet.app.napari.layers import GRID
from micronet.app.napari.segmenter import Segmenting, Step, default_weights, segment, warning
from micronet.app.napari.widget_panel import Panel, layer_choice, settled_grid
from micronet.core.volume import Volume
from micronet.networks.padding import Padding

__all__ = ["SegmentWidget"]


class SegmentWidget(Panel):
    """Segment the lumens of an image layer into a labels layer, in the background."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__(viewer, "Segment", "compute the mask; settings are those of infer.py")
        self.weights = FileEdit(
            label="Weights",
            value=default_weights(),
            filter="weights (*.pt)",
            tooltip="of a µr-Net; or of a µ-Net or of what was taught, which look once",
        )
        self.iterations = SpinBox(label="Refinements", value=10, min=1, max=100, tooltip="of a µr-Net")
        self.from_labels = layer_choice(
            self.viewer,
            Labels,
            optional=True,
            label="Start from",
            tooltip="labels that the first refinement of a µr-Net starts from; none: a blank mask",
        )
        self.live = CheckBox(text="Show every refinement", value=True)
        rows = [self.image, self.weights, self.iterations, self.threshold, self.from_labels]
        self.lay_out([*rows, self.log, self.depth, self.live])
        self.begin.changed.connect(lambda: self.tried(self.segment))

    def segment(self) -> None:
        """Begin; `busy` says whether it is under way."""
        image, start = self.chosen_image(), self.from_labels.value
        array, grid = np.asarray(image.data), settled_grid(image, start)
        how = Segmenting(
            Path(self.weights.value),
            self.iterations.value,
            self.threshold.value,
            None if start is None else np.array(start.data),
            self.log.value,
            self.y_crop,
        )
        if (told := warning(grid, array, how.weights, log=how.log)) is not None:
            show_warning(told)
        if array.ndim in (3, 4) and (mirrored := Padding(array.shape[-3:]).note) is not None:
            show_info(mirrored)
        shown = _Shown(self.viewer, image, grid)
        live, done = self.live.value, 0

        def show(step: Step) -> None:
            nonlocal done
            shown.take(step, refresh=live)
            done += 1
            points = array.shape[0] if array.ndim == 4 else 1
            self.bar.max, self.bar.value = points * step.of, step.time_point * step.of + step.iteration
            point = f"time point {step.time_point + 1} of {points}, " if points > 1 else ""
            self.say(f"{point}refinement {step.iteration} of {step.of}: {step.voxels:,} voxels")

        def end(_: object) -> None:
            shown.refresh()
            self.say(f"{shown.name}: {np.count_nonzero(shown.labels):,} voxels")

        self.say("reading the weights …")
        self.start(lambda tell: segment(array, grid, how, tell), show, end)


class _Shown:
    """The labels layer that a mask goes into; it is made with the first one."""

    def __init__(self, viewer: napari.Viewer, image: Image, grid: Volume) -> None:
        self._viewer, self._image, self._grid = viewer, image, grid
        self.name = f"{image.name} lumen"
        self.labels = np.zeros(image.data.shape, np.uint8)
        self._layer: Any = None

    def take(self, step: Step, *, refresh: bool) -> None:
        """Take in a mask."""
        part = self.labels if self.labels.ndim == 3 else self.labels[step.time_point]
        part[...] = step.mask
        if refresh:
            self.refresh()

    def refresh(self) -> None:
        """Show what there is."""
        if self._layer is None:
            place = {key: getattr(self._image, key) for key in ("scale", "translate", "units", "axis_labels")}
            self._layer = self._viewer.add_labels(
                self.labels, name=self.name, opacity=0.5, metadata={GRID: self._grid}, **place
            )
        self._layer.refresh()
